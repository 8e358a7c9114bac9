//! The same over real sockets, and what no byte may do.

use super::*;
use crate::stream::Stream;
use proptest::prelude::*;
use std::cell::Cell;
use std::net::SocketAddr;
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};

struct Direct {
    to: SocketAddr,
    /// Of the next request alone.
    timeout_ms: Cell<u64>,
}

impl Traffic for Direct {
    type Target = ();
    type Endpoint = ();
    type Load = ();
    type Io = Stream;

    fn decide(&self, _: &RequestView<'_>) -> Decision<()> {
        let timeouts = match self.timeout_ms.take() {
            0 => Timeouts::default(),
            request_ms => Timeouts { request_ms, stream_idle_ms: 0 },
        };
        Decision { action: Action::Forward(Plan { timeouts, ..plan() }), filters: None }
    }

    fn pick(&self, _: &(), _: Option<&()>) -> Result<Picked<(), ()>, ConnError> {
        Ok(Picked { endpoint: (), host: None, load: () })
    }

    async fn connect(&self, _: &(), _: &()) -> Result<Stream, ConnError> {
        TcpStream::connect(self.to)
            .await
            .map(Stream::Plain)
            .map_err(|e| ConnError::new(Reason::ConnectFailed, e.to_string()))
    }

    fn finished(&self, _: Option<&Plan<()>>, _: &Outcome<'_, ()>) {}
}

/// Answers each request with its own body, closing after every sixth answer.
async fn echo(listener: TcpListener) {
    loop {
        let (mut io, _) = listener.accept().await.unwrap();
        tokio::task::spawn_local(async move {
            for _ in 0..6 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = io.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                io.read_exact(&mut body).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                io.write_all(head.as_bytes()).await.unwrap();
                io.write_all(&body).await.unwrap();
            }
        });
    }
}

/// A client of a proxy in front of `upstream`; the proxy drains when the sender says so.
async fn proxied(upstream: SocketAddr) -> (TcpStream, JoinHandle<End>, watch::Sender<bool>) {
    proxied_by(Direct { to: upstream, timeout_ms: Cell::default() }).await
}

async fn proxied_by(traffic: Direct) -> (TcpStream, JoinHandle<End>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    let context = Context {
        traffic: Rc::new(traffic),
        pools: Rc::new(Pools::new(PATIENCE)),
        settings: Arc::new(Settings::sidecar()),
        peer: None,
    };
    let (drain, drained) = watch::channel(false);
    let serving = tokio::task::spawn_local(serve(Stream::Plain(io), context, drained, Wire::Sniff, |end, _| end));
    (client, serving, drain)
}

#[tokio::test(flavor = "local")]
async fn a_large_body_ends_where_it_says_and_what_follows_is_the_next_request() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, _, _drain) = proxied(upstream.local_addr().unwrap()).await;
    tokio::task::spawn_local(echo(upstream));
    let (mut read, mut write) = client.into_split();
    let bodies: Vec<Vec<u8>> =
        [300_000, 16_384, 65_536, 7, 200_001].map(|n: u32| (0..n).map(|i| (i % 251) as u8).collect()).into();
    let request = |body: &Vec<u8>| {
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    };
    let all: Vec<u8> = bodies.iter().flat_map(request).collect();
    tokio::task::spawn_local(async move {
        write.write_all(&all).await.unwrap();
        std::future::pending::<()>().await;
    });
    for body in &bodies {
        let expected = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut got = vec![0; expected.len() + body.len()];
        patient(read.read_exact(&mut got)).await.unwrap();
        assert!(got == [expected.as_bytes(), body].concat(), "an answer of {} bytes", body.len());
    }
}

#[tokio::test(flavor = "local")]
async fn a_large_answer_that_stops_short_breaks_the_clients_connection() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut client, serving, _drain) = proxied(upstream.local_addr().unwrap()).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut endpoint, _) = patient(upstream.accept()).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n";
    endpoint.write_all(&[&head[..], &[b'x'; 100_000]].concat()).await.unwrap();
    drop(endpoint);
    let mut got = Vec::new();
    let (read, ended) = tokio::join!(patient(client.read_to_end(&mut got)), patient(serving));
    read.unwrap();
    assert_eq!((got.len(), ended.unwrap()), (head.len() + 100_000, End::Broken));
}

#[tokio::test(flavor = "local")]
async fn after_an_endpoint_that_said_nothing_in_time_the_next_ones_answer_is_heard() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traffic = Direct { to: upstream.local_addr().unwrap(), timeout_ms: Cell::new(20) };
    let (client, _, _drain) = proxied_by(traffic).await;
    let mut client = tokio::io::BufReader::new(client);
    for status in ["504", "200"] {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut endpoint, _) = patient(upstream.accept()).await.unwrap();
        let mut request = [0; 27];
        patient(endpoint.read_exact(&mut request)).await.unwrap();
        if status == "200" {
            endpoint.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
        let mut line = String::new();
        patient(client.read_line(&mut line)).await.unwrap();
        assert!(line.contains(status), "{line}");
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            patient(client.read_line(&mut line)).await.unwrap();
            length = line.strip_prefix("content-length: ").map_or(length, |value| value.trim().parse().unwrap());
        }
        patient(client.read_exact(&mut vec![0; length])).await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn what_came_of_a_large_answer_is_passed_on_before_its_rest_is_there() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut client, _, _drain) = proxied(upstream.local_addr().unwrap()).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut endpoint, _) = patient(upstream.accept()).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n";
    // In the first read, up to its end, and beyond it.
    for piece in
        [head.to_vec(), vec![b'a'; 100], vec![b'b'; 4096], vec![b'c'; 90_000], vec![b'd'; 1], vec![b'e'; 105_803]]
    {
        endpoint.write_all(&piece).await.unwrap();
        let mut got = vec![0; piece.len()];
        patient(client.read_exact(&mut got)).await.unwrap();
        assert!(got == piece, "{} bytes", piece.len());
    }
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut next = [0; 32];
    patient(endpoint.read_exact(&mut next)).await.unwrap();
    assert!(String::from_utf8_lossy(&next).starts_with("GET / HTTP/1.1\r\n"), "the connection is used again");
}

#[tokio::test(flavor = "local")]
async fn hundreds_of_requests_survive_an_endpoint_that_closes_when_it_likes() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut client, _, _drain) = proxied(upstream.local_addr().unwrap()).await;
    tokio::task::spawn_local(echo(upstream));
    for n in 0..300usize {
        // No body where the endpoint has just closed: its close may be under way still, and only what has no body is sent anew.
        let body = vec![b'x'; if n % 3 == 1 { n * 500 } else { 0 }];
        let method = if body.is_empty() { "GET" } else { "PUT" };
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        let expected = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut got = vec![0; expected.len() + body.len()];
        patient(client.read_exact(&mut got)).await.unwrap();
        let (got_head, got_body) = got.split_at(expected.len());
        assert_eq!((String::from_utf8_lossy(got_head).as_ref(), got_body == body), (expected.as_str(), true), "{n}");
        // The endpoint's close arrives while its connection waits.
        tokio::task::yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_refused_and_never_forwarded(pieces in proptest::collection::vec(prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()), Just(b"Host: a\r\n".to_vec()), Just(b"\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()), Just(b"Content-Length: 3\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()), Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20)], 0..10)) {
        let runtime = tokio::runtime::LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let decide: Box<Decide> = Box::new(|_| Decision::refuse(Reason::NoRoute, "no"));
            let mut bench = Bench::new(Settings::sidecar(), decide);
            bench.client.write_all(&pieces.concat()).await.unwrap();
            bench.client.shutdown().await.unwrap();
            let mut got = Vec::new();
            let _ = patient(bench.client.read_to_end(&mut got)).await;
            // Answers of HTTP/1 begin with a status line, those of HTTP/2 with a SETTINGS frame.
            assert!(got.is_empty() || got.starts_with(b"HTTP/1.1 4") || got.starts_with(b"HTTP/1.1 505") || got.get(3) == Some(&4));
            assert!(bench.dialled.try_recv().is_err());
            patient(bench.serving).await.unwrap();
        });
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_said_goodbye_gets_its_answer_whole_whatever_it_does_then() {
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\nconnection: close\r\n\r\n{}", "x".repeat(100_000));
    for more in ["", "GET /more HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut client, serving, _drain) = proxied(upstream.local_addr().unwrap()).await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{more}");
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut endpoint, _) = patient(upstream.accept()).await.unwrap();
        endpoint.write_all(answer.replace("connection: close\r\n", "").as_bytes()).await.unwrap();
        let mut got = String::new();
        patient(client.read_to_string(&mut got)).await.unwrap();
        assert!(got == answer, "{} bytes", got.len());
        // It needn't close its side for us to be done, but it may still talk.
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(patient(serving).await.unwrap(), End::Closed);
    }
}
