//! Table tests of heads, and the two properties: no input panics, and cuts don't matter.

use super::*;
use proptest::prelude::*;

fn parse(bytes: &[u8], kind: Kind) -> Result<Option<Head>, Fault> {
    let mut head = Head::default();
    Ok(head.parse(bytes, kind)?.then_some(head))
}

fn request_fault(bytes: &[u8]) -> Fault {
    match parse(bytes, Kind::Request) {
        Err(fault) => fault,
        Ok(head) => panic!("{:?} was accepted: {head:?}", String::from_utf8_lossy(bytes)),
    }
}

fn bytewise(bytes: &[u8], kind: Kind) -> Result<Option<Head>, Fault> {
    let mut head = Head::default();
    for end in 0..=bytes.len() {
        if head.parse(&bytes[..end], kind)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn summary(result: Result<Option<Head>, Fault>) -> String {
    format!("{:?}", result.map(|h| h.map(|h| (h.version, h.method, h.target, h.status, h.fields, h.len))))
}

#[test]
fn request_keeps_ranges_of_what_was_sent() {
    let bytes = b"GET /a?b=c HTTP/1.1\r\nHost: x.example\r\nA-b:  1 2\t \r\nEmpty:\r\n\r\nrest";
    let head = parse(bytes, Kind::Request).unwrap().unwrap();
    assert_eq!(head.method.text(bytes), "GET");
    assert_eq!(head.target.text(bytes), "/a?b=c");
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.len, bytes.len() - 4);
    let fields: Vec<_> = head.fields.iter().map(|f| (f.name.text(bytes), f.value.text(bytes), f.known)).collect();
    assert_eq!(fields, [("Host", "x.example", Known::Host), ("A-b", "1 2", Known::Other), ("Empty", "", Known::Other)]);
}

#[test]
fn response_keeps_status_and_phrase() {
    let bytes = b"HTTP/1.0 404 Not Found\r\n\r\n";
    let head = parse(bytes, Kind::Response).unwrap().unwrap();
    assert_eq!((head.status, head.phrase.text(bytes), head.version), (404, "Not Found", Version::Http10));
    for line in ["HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200\r\n\r\n"] {
        assert_eq!(parse(line.as_bytes(), Kind::Response).unwrap().unwrap().status, 200);
    }
}

#[test]
fn responses_with_other_statuses_or_versions_are_faults() {
    for line in
        ["HTTP/1.1 099 x", "HTTP/1.1 600 x", "HTTP/1.1 20 x", "HTTP/1.1 2000 x", "HTTP/1.1 2x0", "http/1.1 200 x"]
    {
        assert_eq!(
            parse(format!("{line}\r\n\r\n").as_bytes(), Kind::Response).unwrap_err(),
            Fault::StatusLine,
            "{line}"
        );
    }
    assert_eq!(parse(b"HTTP/2.0 200 x\r\n\r\n", Kind::Response).unwrap_err(), Fault::Version);
}

#[test]
fn one_empty_line_before_a_request_is_ignored_but_not_two() {
    assert!(parse(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Kind::Request).unwrap().is_some());
    assert_eq!(request_fault(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Fault::RequestLine);
}

#[test]
fn hostile_heads_are_refused() {
    let cases: &[(&[u8], Fault)] = &[
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Fault::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Fault::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", Fault::BareLineFeed),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BareLineFeed),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Fault::BareCarriageReturn),
        (b"GET / HTTP/1.1\r\n\rA: b\r\n\r\n", Fault::BareCarriageReturn),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Fault::ObsoleteFold),
        (b"GET / HTTP/1.1\r\n A: b\r\n\r\n", Fault::ObsoleteFold),
        (b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n", Fault::ObsoleteFold),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\nA(b: c\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\nA\0: c\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\n\xc3\xa4: c\r\n\r\n", Fault::HeaderName),
        (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", Fault::HeaderValue),
        (b"GET / HTTP/1.1\r\nA: b\x01c\r\n\r\n", Fault::HeaderValue),
        (b"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", Fault::HeaderValue),
        (b"GET  / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (b"GET /  HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (b"GET / HTTP/1.1 \r\n\r\n", Fault::RequestLine),
        (b"GET / http/1.1\r\n\r\n", Fault::RequestLine),
        (b"GET /\r\n\r\n", Fault::Target),
        (b"GET /a b HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", Fault::Target),
        (b"GET /#a HTTP/1.1\r\n\r\n", Fault::Target),
        (b"GET /\0 HTTP/1.1\r\n\r\n", Fault::Target),
        (b"GET\t/ HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (b" GET / HTTP/1.1\r\n\r\n", Fault::Method),
        (b"G{T / HTTP/1.1\r\n\r\n", Fault::RequestLine),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1\r\n\r\n", Fault::Method),
        (b"GET / HTTP/1.2\r\n\r\n", Fault::Version),
        (b"GET / HTTP/0.9\r\n\r\n", Fault::Version),
        (b"PRI * HTTP/2.0\r\n\r\n", Fault::Version),
        (b"GET / HTTP/11\r\n\r\n", Fault::RequestLine),
        (b"\x16\x03\x01\x02\x00\x01\n", Fault::BareLineFeed),
    ];
    for (bytes, fault) in cases {
        assert_eq!(request_fault(bytes), *fault, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn limits_answer_431_and_414() {
    let headers = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert!(parse(headers(HEADERS_MAX).as_bytes(), Kind::Request).unwrap().is_some());
    assert_eq!(request_fault(headers(HEADERS_MAX + 1).as_bytes()), Fault::TooManyHeaders);
    let big = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(request_fault(big.as_bytes()).status(), 431);
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(TARGET_BYTES_MAX));
    assert_eq!(request_fault(line.as_bytes()).status(), 414);
    assert_eq!(request_fault(&[b'x'; HEAD_BYTES_MAX]).status(), 414);
    let exact = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX - 23));
    assert_eq!(exact.len(), HEAD_BYTES_MAX);
    assert!(parse(exact.as_bytes(), Kind::Request).unwrap().is_some());
    assert_eq!(summary(parse(exact.as_bytes(), Kind::Request)), summary(bytewise(exact.as_bytes(), Kind::Request)));
}

fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b": ".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn heads_never_panic_and_cuts_do_not_matter(bytes in soup()) {
        for kind in [Kind::Request, Kind::Response] {
            prop_assert_eq!(summary(parse(&bytes, kind)), summary(bytewise(&bytes, kind)));
        }
    }
}

#[test]
fn a_value_ends_at_the_first_control_character_wherever_it_stands() {
    for at in 0..20 {
        for bad in [0, 1, 0x0a, 0x1f, 0x7f] {
            let mut line = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'v'; 20]].concat();
            line[19 + at] = bad;
            line.extend_from_slice(b"\r\n\r\n");
            assert!(Head::default().parse(&line, Kind::Request).is_err(), "{bad:#x} at {at}");
        }
        for good in [b'\t', b' ', b'~', 0x80, 0xff] {
            let mut line = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'v'; 22], b"\r\n\r\n".to_vec()].concat();
            line[20 + at] = good;
            let mut head = Head::default();
            assert!(head.parse(&line, Kind::Request).unwrap(), "{good:#x} at {at}");
            assert_eq!(head.fields[0].value.of(&line), &line[19..41]);
        }
    }
}
