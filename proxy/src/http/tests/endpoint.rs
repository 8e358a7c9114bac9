//! HTTP/2 endpoints byte by byte: what those that refuse, leave, stall, break rules or attack do to requests.

use super::frames::{field, frame};
use super::*;

const PREFACE: usize = 24;
const REFUSED: [u8; 4] = [0, 0, 0, 7];
const CANCEL: u32 = 8;
/// `:status` 200.
const OK: &[u8] = b"\x88";

fn to_two() -> Box<Decide> {
    Box::new(|_| Decision { action: Action::Forward(Plan { h2: true, ..plan() }), filters: None })
}

/// A request's or a body's frame that an endpoint got; what concerns the connection only is left out.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Request(u32, bool),
    Data(u32, String, bool),
    Reset(u32, u32),
    Window(u32),
    Leaving,
    Closed,
}

struct Endpoint {
    io: DuplexStream,
}

impl Endpoint {
    /// The next connection, greeted with these settings.
    async fn accept(bench: &mut Bench, settings: &[u8]) -> Self {
        let mut io = bench.endpoint().await;
        patient(io.read_exact(&mut [0; PREFACE])).await.unwrap();
        let mut endpoint = Self { io };
        endpoint.send(&frame(4, 0, 0, settings)).await;
        endpoint
    }

    async fn send(&mut self, frames: &[u8]) {
        // The proxy may have closed it already.
        let _ = patient(self.io.write_all(frames)).await;
    }

    async fn got(&mut self) -> Got {
        loop {
            let mut head = [0; 9];
            if patient(self.io.read_exact(&mut head)).await.is_err() {
                return Got::Closed;
            }
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; len];
            patient(self.io.read_exact(&mut payload)).await.unwrap();
            let ended = head[4] & 1 != 0;
            match head[3] {
                0 => return Got::Data(stream, String::from_utf8(payload).unwrap(), ended),
                1 => return Got::Request(stream, ended),
                3 => return Got::Reset(stream, u32::from_be_bytes(payload.try_into().unwrap())),
                7 => return Got::Leaving,
                8 if stream > 0 => return Got::Window(stream),
                _ => {}
            }
        }
    }

    /// An answer with a body.
    async fn answer(&mut self, stream: u32, body: &str) {
        let frames = [frame(1, 4, stream, OK), frame(0, 1, stream, body.as_bytes())].concat();
        self.send(&frames).await;
    }
}

/// On a connection of its own, of the same worker.
fn another_client(bench: &Bench) -> DuplexStream {
    let (client, io) = duplex(64 * 1024);
    let context = Context {
        traffic: Rc::clone(&bench.fake),
        pools: Rc::clone(&bench.pools),
        settings: Arc::new(Settings::sidecar()),
        peer: None,
    };
    tokio::task::spawn_local(serve(io, context, bench.drain.subscribe(), Wire::Sniff, |end, _| end));
    client
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nping";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OKAY: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

#[tokio::test(flavor = "local")]
async fn streams_beyond_what_a_connection_allows_get_another_one() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    let mut endpoints = Vec::new();
    // Three clients at once; the endpoint allows one stream.
    let mut clients = vec![std::mem::replace(&mut bench.client, duplex(1).0)];
    clients.extend((0..2).map(|_| another_client(&bench)));
    for client in &mut clients {
        say(client, GET).await;
    }
    for _ in 0..3 {
        let mut endpoint = Endpoint::accept(&mut bench, &[0, 3, 0, 0, 0, 1]).await;
        assert_eq!(endpoint.got().await, Got::Request(1, true));
        endpoints.push(endpoint);
    }
    for endpoint in &mut endpoints {
        endpoint.answer(1, "ok").await;
    }
    for client in &mut clients {
        expect(client, OKAY).await;
    }
    // The first one is used again.
    say(&mut clients[2], GET).await;
    assert_eq!(endpoints[0].got().await, Got::Request(3, true));
}

#[tokio::test(flavor = "local")]
async fn a_refused_stream_is_sent_once_more_with_its_body() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(POST).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    assert_eq!(endpoint.got().await, Got::Request(1, false));
    assert_eq!(endpoint.got().await, Got::Data(1, "ping".to_owned(), true));
    endpoint.send(&frame(3, 0, 1, &REFUSED)).await;
    assert_eq!(endpoint.got().await, Got::Request(3, false));
    assert_eq!(endpoint.got().await, Got::Data(3, "ping".to_owned(), true));
    endpoint.answer(3, "ok").await;
    expect(&mut bench.client, OKAY).await;
    assert_eq!(bench.outcomes(), [(200, None)]);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_leaves_finishes_what_it_began_and_the_rest_goes_to_another_connection() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nping").await;
    let mut old = Endpoint::accept(&mut bench, b"").await;
    assert_eq!(old.got().await, Got::Request(1, false));
    assert_eq!(old.got().await, Got::Data(1, "ping".to_owned(), false));
    old.send(&frame(7, 0, 0, &[0; 8])).await;
    let mut new = Endpoint::accept(&mut bench, b"").await;
    assert_eq!(old.got().await, Got::Closed);
    assert_eq!(new.got().await, Got::Request(1, false));
    assert_eq!(new.got().await, Got::Data(1, "ping".to_owned(), false));
    bench.send("pong").await;
    assert_eq!(new.got().await, Got::Data(1, "pong".to_owned(), true));
    // This one it has begun.
    new.send(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await;
    new.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
    assert_eq!(new.got().await, Got::Closed);
    bench.send(GET).await;
    let mut third = Endpoint::accept(&mut bench, b"").await;
    third.got().await;
    third.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
    assert_eq!(bench.outcomes(), [(200, None); 2]);
}

#[tokio::test(flavor = "local")]
async fn a_request_that_may_have_been_begun_is_not_repeated() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(POST).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    endpoint.send(&frame(3, 0, 1, &[0, 0, 0, 2])).await;
    assert!(head(&mut bench.client).await.starts_with("HTTP/1.1 503 "));
    assert_eq!(bench.outcomes(), [(503, Some(Reason::UpstreamReset))]);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_may_reset_all_streams_and_keeps_its_connection() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(POST).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    // More than peers may do for nothing.
    for number in 0..3000 {
        let stream = 2 * number + 1;
        assert_eq!(endpoint.got().await, Got::Request(stream, false));
        endpoint.got().await;
        endpoint.send(&frame(3, 0, stream, &[0, 0, 0, 8])).await;
        assert!(head(&mut bench.client).await.starts_with("HTTP/1.1 503 "));
        bench.client = another_client(&bench);
        bench.send(POST).await;
    }
    assert!(bench.dialled.try_recv().is_err());
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_may_answer_each_piece_of_a_body_with_a_ping() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    for _ in 0..3000 {
        bench.send("1\r\nx\r\n").await;
        assert_eq!(endpoint.got().await, Got::Data(1, "x".to_owned(), false));
        endpoint.send(&frame(6, 0, 0, &[1; 8])).await;
    }
    bench.send("0\r\n\r\n").await;
    assert_eq!(endpoint.got().await, Got::Data(1, String::new(), true));
    endpoint.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
}

#[tokio::test(flavor = "local")]
async fn an_idempotent_request_survives_a_connection_that_ends_as_it_is_used() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(GET).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    endpoint.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
    bench.send(GET).await;
    assert_eq!(endpoint.got().await, Got::Request(3, true));
    drop(endpoint);
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    assert_eq!(endpoint.got().await, Got::Request(1, true));
    endpoint.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
    assert_eq!(bench.outcomes(), [(200, None); 2]);
}

#[tokio::test(flavor = "local")]
async fn a_reset_in_the_middle_of_an_answer_breaks_the_clients_connection() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(GET).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    let frames = [frame(1, 4, 1, OK), frame(0, 0, 1, b"half"), frame(3, 0, 1, &[0, 0, 0, 2])].concat();
    endpoint.send(&frames).await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    assert_eq!(rest(&mut bench.client).await, "");
    assert_eq!(bench.outcomes(), [(200, Some(Reason::UpstreamReset))]);
    assert_eq!(bench.end().await, End::Broken);
}

#[tokio::test(flavor = "local")]
async fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nping").await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    let too_large = field(":status", "413");
    endpoint.send(&[frame(1, 5, 1, &too_large), frame(3, 0, 1, &[0; 4])].concat()).await;
    let answer = head(&mut bench.client).await;
    assert_eq!(answer, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    assert_eq!(bench.outcomes(), [(413, None)]);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_goes_away_cancels_its_stream_only() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(GET).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    endpoint.send(&[frame(1, 4, 1, OK), frame(0, 0, 1, b"part")].concat()).await;
    head(&mut bench.client).await;
    bench.client = duplex(1).0;
    // It is noticed when the next piece can't be written.
    endpoint.send(&frame(0, 0, 1, b"more")).await;
    assert_eq!(endpoint.got().await, Got::Reset(1, CANCEL));
    endpoint.send(&frame(0, 0, 1, b"late")).await;
    endpoint.send(&frame(6, 0, 0, &[0; 8])).await;
    assert_eq!(bench.outcomes(), [(200, Some(Reason::DownstreamReset))]);
}

#[tokio::test(flavor = "local")]
async fn a_client_that_does_not_read_stops_the_endpoint() {
    const PIECE: &[u8] = &[b'x'; 16 * 1024];
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    let length = 64 * PIECE.len();
    endpoint.send(&frame(1, 4, 1, &[OK, &field("content-length", &length.to_string())].concat())).await;
    let (mut window, mut sent) = (64 * 1024, 0);
    let mut stalled = false;
    while sent < length {
        while window >= PIECE.len() && sent < length {
            (window, sent) = (window - PIECE.len(), sent + PIECE.len());
            endpoint.send(&frame(0, u8::from(sent == length), 1, PIECE)).await;
        }
        if sent == length {
            break;
        }
        // Until everything rests: there is one thread.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut next = std::pin::pin!(endpoint.got());
        let more = match next.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(got) => got,
            std::task::Poll::Pending => {
                // What the client's 256 KiB, buffers and windows hold, and no more.
                assert!(!std::mem::replace(&mut stalled, true), "it stalls though it is read");
                assert!(sent < 600 * 1024, "{sent} bytes are on their way");
                let mut client = std::mem::replace(&mut bench.client, duplex(1).0);
                tokio::task::spawn_local(async move { rest(&mut client).await });
                next.await
            }
        };
        assert_eq!(more, Got::Window(1));
        window += 32 * 1024;
    }
    assert!(stalled, "all of it was taken though nobody read");
}

#[tokio::test(flavor = "local")]
async fn a_body_waits_for_the_endpoints_window() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(POST).await;
    let mut endpoint = Endpoint::accept(&mut bench, &[0, 4, 0, 0, 0, 1]).await;
    assert_eq!(endpoint.got().await, Got::Request(1, false));
    assert_eq!(endpoint.got().await, Got::Data(1, "p".to_owned(), false));
    endpoint.send(&frame(8, 0, 1, &[0, 0, 0, 2])).await;
    assert_eq!(endpoint.got().await, Got::Data(1, "in".to_owned(), false));
    endpoint.send(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 9])).await;
    assert_eq!(endpoint.got().await, Got::Data(1, "g".to_owned(), true));
    endpoint.answer(1, "ok").await;
    expect(&mut bench.client, OKAY).await;
}

#[tokio::test(flavor = "local")]
async fn informational_answers_pass_and_bodiless_ones_stay_so() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    let hint = [field(":status", "103"), field("link", "x")].concat();
    let announced = [OK, &field("content-length", "7")].concat();
    endpoint.send(&[frame(1, 4, 1, &hint), frame(1, 5, 1, &announced)].concat()).await;
    expect(&mut bench.client, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").await;
    bench.send(GET).await;
    endpoint.got().await;
    endpoint.send(&frame(1, 5, 3, b"\x8b")).await;
    expect(&mut bench.client, "HTTP/1.1 304 Not Modified\r\n\r\n").await;
    assert_eq!(bench.outcomes(), [(200, None), (304, None)]);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_breaks_rules_is_502() {
    let answer = |fields: &[u8]| frame(1, 4, 1, fields);
    let with = |name: &str, value: &str| answer(&[OK, &field(name, value)].concat());
    let many = |one: Vec<u8>, count: usize| one.repeat(count);
    let cases = [
        ("no status", answer(&field("x", "1"))),
        ("a status of two digits", answer(&field(":status", "20"))),
        ("a status of 600", answer(&field(":status", "600"))),
        ("101", answer(&field(":status", "101"))),
        ("two statuses", answer(&[OK, OK].concat())),
        ("a status after a header", answer(&[&field("x", "1"), OK].concat())),
        ("a request's pseudo-header", with(":path", "/")),
        ("a line end in a value", with("x", "1\r\ny: 2")),
        ("a name in upper case", with("X", "1")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("a length that is no number", with("content-length", "+1")),
        ("an informational answer that ends", frame(1, 5, 1, &field(":status", "103"))),
        ("informational answers without end", many(answer(&field(":status", "103")), 40)),
        ("a length and no body", frame(1, 5, 1, &[OK, &field("content-length", "1")].concat())),
        ("a body before its head", frame(0, 1, 1, b"x")),
        ("an answer that nobody asked for", frame(1, 4, 3, OK)),
        ("a stream of its own", frame(1, 4, 2, OK)),
        ("a promise", frame(5, 4, 1, &[0, 0, 0, 2])),
        ("a push setting of 1", frame(4, 0, 0, &[0, 2, 0, 0, 0, 1])),
        ("a head that can't be decoded", answer(b"\xff\xff\xff\xff\xff\xff")),
        ("a head without end", [frame(1, 0, 1, OK), many(frame(9, 0, 1, b""), 20)].concat()),
        ("a head of 70 KiB", answer(&field("x", &"y".repeat(100)).repeat(700))),
        ("settings without end", many(frame(4, 0, 0, b""), 3000)),
        ("pings without end", many(frame(6, 0, 0, &[0; 8]), 3000)),
        ("a window over 2^31-1", frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a stream's window over 2^31-1", frame(8, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
        ("a frame larger than allowed", frame(0, 0, 1, &[0; 16_385])),
    ];
    for (what, frames) in cases {
        let mut bench = Bench::new(Settings::sidecar(), to_two());
        bench.send(GET).await;
        let mut endpoint = Endpoint::accept(&mut bench, b"").await;
        assert_eq!(endpoint.got().await, Got::Request(1, true));
        let playing = tokio::task::spawn_local(async move {
            endpoint.send(&frames).await;
            while endpoint.got().await != Got::Closed {}
        });
        let status = loop {
            let head = head(&mut bench.client).await;
            match head.get(9..12) {
                Some("103") => {}
                status => break status.map(str::to_owned),
            }
        };
        assert_eq!(status.as_deref(), Some("502"), "{what}");
        assert_eq!(bench.outcomes(), [(502, Some(Reason::UpstreamProtocol))], "{what}");
        playing.abort();
    }
}

#[tokio::test(flavor = "local")]
async fn more_than_the_announced_length_never_passes() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(GET).await;
    let mut endpoint = Endpoint::accept(&mut bench, b"").await;
    endpoint.got().await;
    let head_of_2 = [OK, &field("content-length", "2")].concat();
    endpoint.send(&[frame(1, 4, 1, &head_of_2), frame(0, 1, 1, b"okay")].concat()).await;
    expect(&mut bench.client, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(rest(&mut bench.client).await, "");
    assert_eq!(bench.outcomes(), [(200, Some(Reason::UpstreamProtocol))]);
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_speaks_http_1_is_502_and_named() {
    let mut bench = Bench::new(Settings::sidecar(), to_two());
    bench.send(GET).await;
    let mut io = bench.endpoint().await;
    say(&mut io, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    assert!(head(&mut bench.client).await.starts_with("HTTP/1.1 502 "));
    assert_eq!(bench.outcomes(), [(502, Some(Reason::UpstreamProtocol))]);
}
