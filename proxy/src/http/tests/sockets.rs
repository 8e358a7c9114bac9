//! The same over real sockets, and what no byte may do.

use super::*;
use crate::stream::Stream;
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};

struct Direct(std::net::SocketAddr);

impl Traffic for Direct {
    type Target = ();
    type Endpoint = ();
    type Load = ();
    type Io = Stream;

    fn decide(&self, _: &RequestView<'_>) -> Decision<()> {
        Decision { action: Action::Forward(plan()), filters: None }
    }

    fn pick(&self, _: &(), _: Option<&()>) -> Result<Picked<(), ()>, ConnError> {
        Ok(Picked { endpoint: (), host: None, load: () })
    }

    async fn connect(&self, _: &(), _: &()) -> Result<Stream, ConnError> {
        TcpStream::connect(self.0)
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

#[tokio::test(flavor = "local")]
async fn hundreds_of_requests_survive_an_endpoint_that_closes_when_it_likes() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let direct = Rc::new(Direct(upstream.local_addr().unwrap()));
    tokio::task::spawn_local(echo(upstream));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, _) = listener.accept().await.unwrap();
    let context = Context {
        traffic: direct,
        pools: Rc::new(Pools::new(PATIENCE)),
        settings: Arc::new(Settings::sidecar()),
        peer: None,
    };
    let (_drain, drained) = watch::channel(false);
    tokio::task::spawn_local(serve(Stream::Plain(io), context, drained, Wire::Sniff));
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
