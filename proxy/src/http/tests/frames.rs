//! HTTP/2 byte by byte: what hostile and broken clients get.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_ERROR: u32 = 0;
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;
/// GET, http, `/`, authority `a`.
const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
/// POST, http, `/`, authority `a`.
const POST: &[u8] = b"\x83\x86\x84\x01\x01a";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let (n, v) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
    [&[0, n], name.as_bytes(), &[v], value.as_bytes()].concat()
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Goaway(u32),
    Reset(u32, u32),
    Headers(u32, Vec<u8>),
    Data(u32, usize, bool),
    Closed,
}

async fn next(io: &mut DuplexStream) -> Seen {
    loop {
        let mut head = [0; 9];
        if patient(io.read_exact(&mut head)).await.is_err() {
            return Seen::Closed;
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; len];
        patient(io.read_exact(&mut payload)).await.unwrap();
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            0 => return Seen::Data(stream, len, head[4] & 1 != 0),
            1 => return Seen::Headers(stream, payload),
            3 => return Seen::Reset(stream, number(0)),
            7 => return Seen::Goaway(number(4)),
            _ => {}
        }
    }
}

async fn start(frames: &[u8]) -> Bench {
    let mut bench = Bench::sidecar();
    let greeting = [PREFACE, &frame(4, 0, 0, b""), frames].concat();
    bench.client.write_all(&greeting).await.unwrap();
    bench
}

async fn assert_goaway(what: &str, frames: &[u8], code: u32) {
    let mut bench = start(frames).await;
    loop {
        match next(&mut bench.client).await {
            Seen::Goaway(seen) => return assert_eq!(seen, code, "{what}"),
            Seen::Closed => panic!("{what}: closed without a reason"),
            _ => {}
        }
    }
}

async fn assert_reset(what: &str, frames: &[u8], code: u32) {
    let mut bench = start(frames).await;
    assert_eq!(next(&mut bench.client).await, Seen::Reset(1, code), "{what}");
}

#[tokio::test(flavor = "local")]
async fn what_breaks_the_connection_is_told_why() {
    let get = frame(1, 5, 1, GET);
    let then = |more: Vec<u8>| [get.clone(), more].concat();
    let cases = [
        ("DATA on stream 0", frame(0, 0, 0, b"x"), PROTOCOL),
        ("DATA on an idle stream", frame(0, 0, 1, b"x"), PROTOCOL),
        ("padding longer than the frame", then(frame(0, 8, 1, b"\x05x")), PROTOCOL),
        ("HEADERS on stream 0", frame(1, 5, 0, GET), PROTOCOL),
        ("HEADERS on an even stream", frame(1, 5, 2, GET), PROTOCOL),
        ("HEADERS that depend on themselves", frame(1, 0x25, 1, &[&[0, 0, 0, 1, 0], GET].concat()), PROTOCOL),
        ("HEADERS whose block can't be decoded", frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION),
        ("another frame within a block", [frame(1, 1, 1, GET), frame(6, 0, 0, &[0; 8])].concat(), PROTOCOL),
        ("CONTINUATION without HEADERS", frame(9, 4, 1, GET), PROTOCOL),
        ("CONTINUATION of another stream", [frame(1, 1, 1, GET), frame(9, 4, 3, b"")].concat(), PROTOCOL),
        ("RST_STREAM on an idle stream", frame(3, 0, 1, &[0; 4]), PROTOCOL),
        ("RST_STREAM of a wrong size", then(frame(3, 0, 1, &[0; 3])), FRAME_SIZE),
        ("SETTINGS on a stream", frame(4, 0, 1, b""), PROTOCOL),
        ("SETTINGS of a wrong size", frame(4, 0, 0, b"12345"), FRAME_SIZE),
        ("SETTINGS ACK with a payload", frame(4, 1, 0, b"123456"), FRAME_SIZE),
        ("a push setting of 2", frame(4, 0, 0, &[0, 2, 0, 0, 0, 2]), PROTOCOL),
        ("an initial window over 2^31-1", frame(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]), FLOW_CONTROL),
        ("a frame size under 16384", frame(4, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]), PROTOCOL),
        ("PUSH_PROMISE", frame(5, 4, 1, &[0; 4]), PROTOCOL),
        ("PING on a stream", frame(6, 0, 1, &[0; 8]), PROTOCOL),
        ("PING of a wrong size", frame(6, 0, 0, &[0; 7]), FRAME_SIZE),
        ("GOAWAY on a stream", frame(7, 0, 1, &[0; 8]), PROTOCOL),
        ("an increment of 0 for the connection", frame(8, 0, 0, &[0; 4]), PROTOCOL),
        ("an increment on an idle stream", frame(8, 0, 1, &[0, 0, 0, 1]), PROTOCOL),
        ("a connection's window over 2^31-1", frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW_CONTROL),
        ("PRIORITY of a wrong size on stream 0", frame(2, 0, 0, &[0; 5]), PROTOCOL),
        ("a frame larger than allowed", frame(0, 0, 1, &[0; 16_385]), FRAME_SIZE),
    ];
    for (what, frames, code) in cases {
        assert_goaway(what, &frames, code).await;
    }
}

#[tokio::test(flavor = "local")]
async fn what_breaks_a_stream_resets_only_that() {
    let headers = |fields: &[u8], flags: u8| frame(1, flags, 1, fields);
    let with = |name: &str, value: &str| headers(&[GET, &field(name, value)].concat(), 5);
    let cases = [
        ("a name in upper case", with("X-A", "1"), PROTOCOL),
        ("a line end in a value", with("x-a", "1\r\nx-b: 2"), PROTOCOL),
        ("NUL in a value", with("x-a", "\0"), PROTOCOL),
        ("a space before a value", with("x-a", " 1"), PROTOCOL),
        ("a colon in a name", with("x:a", "1"), PROTOCOL),
        ("connection", with("connection", "close"), PROTOCOL),
        ("transfer-encoding", with("transfer-encoding", "chunked"), PROTOCOL),
        ("te other than trailers", with("te", "gzip"), PROTOCOL),
        ("an unknown pseudo-header", headers(&[GET, &field(":x", "1")].concat(), 5), PROTOCOL),
        ("a second :method", headers(&[GET, b"\x82"].concat(), 5), PROTOCOL),
        (
            "a pseudo-header after a field",
            headers(&[b"\x82\x86".as_slice(), &field("a", "b"), b"\x84"].concat(), 5),
            PROTOCOL,
        ),
        ("no :path", headers(b"\x82\x86\x01\x01a", 5), PROTOCOL),
        ("no :scheme", headers(b"\x82\x84\x01\x01a", 5), PROTOCOL),
        (
            "a line end in :path",
            headers(&[b"\x82\x86\x04\x09".as_slice(), b"/ \r\nx: y\n", b"\x01\x01a"].concat(), 5),
            PROTOCOL,
        ),
        ("a length without a body", with("content-length", "1"), PROTOCOL),
        (
            "two lengths",
            headers(&[GET, &field("content-length", "0"), &field("content-length", "1")].concat(), 4),
            PROTOCOL,
        ),
    ];
    for (what, frames, code) in cases {
        assert_reset(what, &frames, code).await;
    }
    let post = |length: &str| headers(&[POST, &field("content-length", length)].concat(), 4);
    let cases = [
        ("more than announced", [post("3"), frame(0, 0, 1, b"abcd")].concat(), PROTOCOL),
        ("less than announced", [post("3"), frame(0, 1, 1, b"ab")].concat(), PROTOCOL),
        ("an increment of 0", [headers(POST, 4), frame(8, 0, 1, &[0; 4])].concat(), PROTOCOL),
        ("a window over 2^31-1", [headers(POST, 4), frame(8, 0, 1, &[0x7f, 0xff, 0xff, 0xff])].concat(), FLOW_CONTROL),
        ("DATA after the end", [headers(GET, 5), frame(0, 0, 1, b"x")].concat(), STREAM_CLOSED),
        ("trailers without END_STREAM", [headers(POST, 4), headers(&field("a", "b"), 4)].concat(), PROTOCOL),
        ("a pseudo-header in trailers", [headers(POST, 4), headers(b"\x82", 5)].concat(), PROTOCOL),
    ];
    for (what, frames, code) in cases {
        assert_reset(what, &frames, code).await;
    }
}

#[tokio::test(flavor = "local")]
async fn floods_are_answered_with_enhance_your_calm() {
    let rapid: Vec<u8> = (0..1000u32)
        .flat_map(|n| [frame(1, 5, 2 * n + 1, GET), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
        .collect();
    assert_goaway("rapid reset", &rapid, CALM).await;
    let twin: Vec<u8> =
        (0..1000u32).flat_map(|n| [frame(1, 4, 2 * n + 1, POST), frame(8, 0, 2 * n + 1, &[0; 4])].concat()).collect();
    assert_goaway("resets that we are made to send", &twin, CALM).await;
    let settings: Vec<u8> = (0..5000).flat_map(|_| frame(4, 0, 0, b"")).collect();
    assert_goaway("SETTINGS", &settings, CALM).await;
    let pings: Vec<u8> = (0..5000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect();
    assert_goaway("PING", &pings, CALM).await;
    let blank: Vec<u8> = (0..5000).flat_map(|_| frame(0, 0, 1, b"")).collect();
    assert_goaway("empty DATA", &[frame(1, 4, 1, POST), blank].concat(), CALM).await;
    let endless: Vec<u8> = (0..20).flat_map(|_| frame(9, 0, 1, b"")).collect();
    assert_goaway("CONTINUATION", &[frame(1, 1, 1, GET), endless].concat(), CALM).await;
    let large: Vec<u8> = (0..5).flat_map(|_| frame(9, 0, 1, &[0x82; 16_000])).collect();
    assert_goaway("a block without end", &[frame(1, 1, 1, GET), large].concat(), CALM).await;
}

#[tokio::test(flavor = "local")]
async fn an_hpack_bomb_is_431_and_costs_no_memory() {
    // One entry of 4 KB, named 15,000 times by one byte.
    let value = [b"\x7f\xa1\x1e".as_slice(), &[b'x'; 4000]].concat();
    let block = [GET, b"\x40\x01a", &value, &[0xbe; 12_000]].concat();
    let mut bench = start(&frame(1, 5, 1, &block)).await;
    let Seen::Headers(1, head) = next(&mut bench.client).await else { panic!("no answer") };
    assert_eq!(&head[..5], b"\x08\x03431");
}

#[tokio::test(flavor = "local")]
async fn streams_over_the_limit_are_refused() {
    let streams: Vec<u8> = (0..1001u32).flat_map(|n| frame(1, 4, 2 * n + 1, POST)).collect();
    let mut bench = start(&streams).await;
    assert_eq!(next(&mut bench.client).await, Seen::Reset(2001, REFUSED));
}

#[tokio::test(flavor = "local")]
async fn an_answer_is_sent_as_far_as_the_windows_allow() {
    let mut bench = start(&[frame(4, 0, 0, &[0, 4, 0, 0, 0, 10]), frame(1, 5, 1, GET)].concat()).await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabcdefghijkl").await;
    assert!(matches!(next(&mut bench.client).await, Seen::Headers(1, _)));
    assert_eq!(next(&mut bench.client).await, Seen::Data(1, 10, false));
    bench.client.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 11])).await.unwrap();
    assert_eq!(next(&mut bench.client).await, Seen::Data(1, 1, false));
    bench.client.write_all(&frame(8, 0, 1, &[0, 0, 0, 9])).await.unwrap();
    assert_eq!(next(&mut bench.client).await, Seen::Data(1, 1, true));
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_ends_the_upload_without_blame() {
    let mut bench = start(&frame(1, 4, 1, POST)).await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    say(&mut endpoint, "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(next(&mut bench.client).await, Seen::Headers(1, _)));
    assert_eq!(next(&mut bench.client).await, Seen::Reset(1, NO_ERROR));
    // What was on its way meanwhile isn't held against the client.
    bench.client.write_all(&[frame(0, 1, 1, b"late"), frame(1, 5, 3, GET)].concat()).await.unwrap();
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
}

#[tokio::test(flavor = "local")]
async fn informational_answers_and_trailers_pass_as_headers() {
    let mut bench = start(&frame(1, 5, 1, GET)).await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    let answer = "HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n";
    say(&mut endpoint, answer).await;
    let early = b"\x08\x03103\x0f\x1e\x01a".to_vec();
    assert_eq!(next(&mut bench.client).await, Seen::Headers(1, early));
    assert_eq!(next(&mut bench.client).await, Seen::Headers(1, vec![0x88]));
    assert_eq!(next(&mut bench.client).await, Seen::Data(1, 1, false));
    assert_eq!(next(&mut bench.client).await, Seen::Headers(1, field("x-sum", "1")));
}

#[tokio::test(flavor = "local")]
async fn a_reset_by_the_client_ends_its_exchange() {
    let mut bench = start(&frame(1, 5, 1, GET)).await;
    let mut endpoint = bench.endpoint().await;
    head(&mut endpoint).await;
    bench.client.write_all(&frame(3, 0, 1, &[0, 0, 0, 8])).await.unwrap();
    assert_eq!(rest(&mut endpoint).await, "");
    assert_eq!(bench.outcomes(), [(499, Some(Reason::DownstreamReset))]);
}

#[tokio::test(flavor = "local")]
async fn a_malformed_request_is_reported_like_one_over_http_1() {
    let malformed = frame(1, 5, 1, &[GET, &field("connection", "close")].concat());
    let mut bench = start(&malformed).await;
    assert_eq!(next(&mut bench.client).await, Seen::Reset(1, PROTOCOL));
    assert_eq!(bench.outcomes(), [(0, Some(Reason::DownstreamProtocol))]);
    // The connection goes on, in the place that the request didn't get.
    bench.client.write_all(&frame(1, 5, 3, GET)).await.unwrap();
    let mut endpoint = bench.endpoint().await;
    expect(&mut endpoint, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    bench.client.write_all(&frame(0, 0, 0, b"x")).await.unwrap();
    assert_eq!(next(&mut bench.client).await, Seen::Goaway(PROTOCOL));
    assert_eq!(bench.outcomes()[1], (0, Some(Reason::DownstreamProtocol)));
}

#[tokio::test(flavor = "local")]
async fn nothing_of_a_stream_gets_into_the_next_one_in_its_place() {
    let mut bench = start(b"").await;
    let mut endpoint = None;
    for id in [1, 5, 9] {
        // An upload that nobody reads, as the answer comes first.
        let upload = [frame(1, 4, id, POST), frame(0, 0, id, b"GET /smuggled HTTP/1.1\r\n\r\n")].concat();
        bench.client.write_all(&upload).await.unwrap();
        let mut io = match endpoint.take() {
            Some(io) => io,
            None => bench.endpoint().await,
        };
        head(&mut io).await;
        say(&mut io, "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n").await;
        assert!(matches!(next(&mut bench.client).await, Seen::Headers(..)));
        assert_eq!(next(&mut bench.client).await, Seen::Reset(id, NO_ERROR));
        bench.client.write_all(&[frame(0, 1, id, b"late"), frame(1, 5, id + 2, GET)].concat()).await.unwrap();
        let mut io = bench.endpoint().await;
        expect(&mut io, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        say(&mut io, "HTTP/1.1 204 x\r\n\r\n").await;
        assert!(matches!(next(&mut bench.client).await, Seen::Headers(..)));
        while bench.pools.idle_count() == 0 {
            tokio::task::yield_now().await;
        }
        endpoint = Some(io);
    }
}

#[tokio::test(flavor = "local")]
async fn streams_that_wait_for_room_all_get_their_turn() {
    let mut bench = start(&frame(8, 0, 0, &[0x3f, 0, 0, 0])).await;
    let opened: Vec<u8> = (0..8u32).flat_map(|n| frame(1, 5, 2 * n + 1, GET)).collect();
    bench.client.write_all(&opened).await.unwrap();
    let body = "x".repeat(60_000);
    let mut endpoints = Vec::new();
    for _ in 0..8 {
        let mut io = bench.endpoint().await;
        head(&mut io).await;
        endpoints.push(io);
    }
    for io in &mut endpoints {
        say(io, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    }
    let (mut received, mut ended) = (0, 0);
    while ended < 8 {
        match next(&mut bench.client).await {
            Seen::Data(_, len, end) => (received, ended) = (received + len, ended + usize::from(end)),
            Seen::Headers(..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received, 8 * body.len());
}
