//! Table tests of body framing, and the properties of the decoder.

use super::super::head::Kind;
use super::*;
use proptest::prelude::*;

fn request(headers: &str) -> Result<Framing, Fault> {
    framing(&format!("POST / HTTP/1.1\r\n{headers}\r\n"), Kind::Request, false)
}

fn framing(bytes: &str, kind: Kind, to_head: bool) -> Result<Framing, Fault> {
    let mut head = Head::default();
    assert!(head.parse(bytes.as_bytes(), kind)?, "{bytes}");
    match kind {
        Kind::Request => of_request(&head, bytes.as_bytes()),
        Kind::Response => of_response(&head, bytes.as_bytes(), to_head),
    }
}

#[test]
fn request_framing_is_unambiguous_or_refused() {
    assert_eq!(request("").unwrap(), Framing::Empty);
    assert_eq!(request("Content-Length: 0\r\n").unwrap(), Framing::Empty);
    assert_eq!(request("Content-Length: 007\r\n").unwrap(), Framing::Length(7));
    assert_eq!(request("Transfer-Encoding: chunked\r\n").unwrap(), Framing::Chunked);
    assert_eq!(request("Transfer-Encoding: CHUNKED\r\n").unwrap(), Framing::Chunked);
    let refused = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Fault::LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Fault::LengthAndEncoding),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Fault::ContentLength),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Fault::ContentLength),
        ("Content-Length: 5, 5\r\n", Fault::ContentLength),
        ("Content-Length: +5\r\n", Fault::ContentLength),
        ("Content-Length: -5\r\n", Fault::ContentLength),
        ("Content-Length: 0x5\r\n", Fault::ContentLength),
        ("Content-Length: 5 5\r\n", Fault::ContentLength),
        ("Content-Length: 5;\r\n", Fault::ContentLength),
        ("Content-Length:\r\n", Fault::ContentLength),
        ("Content-Length: 18446744073709551616\r\n", Fault::ContentLength),
        ("Content-Length: 99999999999999999999999\r\n", Fault::ContentLength),
        ("Transfer-Encoding: gzip\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked, chunked\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding:\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Fault::TransferEncoding),
    ];
    for (headers, fault) in refused {
        assert_eq!(request(headers).unwrap_err(), fault, "{headers}");
        assert_eq!(fault.status(), 400);
    }
    let old = framing("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Kind::Request, false);
    assert_eq!(old.unwrap_err(), Fault::TransferEncoding);
}

#[test]
fn response_framing_by_rfc_9112() {
    let ok = |text: &str, to_head| framing(&format!("HTTP/1.1 {text}\r\n\r\n"), Kind::Response, to_head).unwrap();
    assert_eq!(ok("200 OK", false), Framing::UntilClose);
    assert_eq!(ok("200 OK\r\nContent-Length: 0", false), Framing::Length(0));
    assert_eq!(ok("200 OK\r\nContent-Length: 9", false), Framing::Length(9));
    assert_eq!(ok("200 OK\r\nContent-Length: 9", true), Framing::Empty);
    assert_eq!(ok("304 x\r\nContent-Length: 9", false), Framing::Empty);
    assert_eq!(ok("204 x", false), Framing::Empty);
    assert_eq!(ok("100 x", false), Framing::Empty);
    assert_eq!(ok("200 OK\r\nTransfer-Encoding: chunked", false), Framing::Chunked);
    for bad in ["Content-Length: 1\r\nTransfer-Encoding: chunked", "Content-Length: 1\r\nContent-Length: 2"] {
        assert!(framing(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n\r\n"), Kind::Response, false).is_err());
    }
}

type Trailers = Vec<(Vec<u8>, Vec<u8>)>;

/// Decodes `input` in pieces of `cut` bytes: body, trailers, and how much of the input was taken.
fn decode(input: &[u8], cut: usize) -> Result<(Vec<u8>, Trailers, usize), Fault> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut body, mut taken, mut have) = (Vec::new(), 0, 0);
    loop {
        let step = decoder.step(&input[taken..have])?;
        body.extend_from_slice(&input[taken + step.skip..taken + step.skip + step.data]);
        taken += step.skip + step.data;
        if step.done {
            let trailers = decoder.trailers().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            return Ok((body, trailers, taken));
        }
        if step.skip + step.data == 0 {
            if have == input.len() {
                decoder.end_of_input()?;
            }
            have = (have + cut).min(input.len());
        }
    }
}

#[test]
fn chunks_are_decoded_however_they_are_cut() {
    let input = b"5\r\nhello\r\n00000001;ext=\"v\"\r\n!\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET";
    for cut in 1..input.len() {
        let (body, trailers, taken) = decode(input, cut).unwrap();
        assert_eq!(body, b"hello!0123456789");
        assert_eq!(trailers, [(b"X-Sum".to_vec(), b"1".to_vec()), (b"Y".to_vec(), b"2".to_vec())]);
        assert_eq!(taken, input.len() - 3);
    }
}

#[test]
fn broken_chunks_are_refused() {
    let cases: &[(&[u8], Fault)] = &[
        (b"\r\n", Fault::ChunkSize),
        (b"x\r\n", Fault::ChunkSize),
        (b"-1\r\n", Fault::ChunkSize),
        (b"+1\r\n", Fault::ChunkSize),
        (b"0x1\r\n", Fault::ChunkSize),
        (b" 1\r\n", Fault::ChunkSize),
        (b"1 \r\na\r\n", Fault::ChunkSize),
        (b"1\na\r\n", Fault::ChunkSize),
        (b"1\r\r\n", Fault::ChunkSize),
        (b"1;a\rb\r\n", Fault::ChunkSize),
        (b"1;\0\r\n", Fault::ChunkSize),
        (b"10000000000000000\r\n", Fault::ChunkSize),
        (b"FFFFFFFFFFFFFFFF\r\n", Fault::ChunkSize),
        (b"1\r\nab\r\n", Fault::ChunkEnd),
        (b"1\r\na\n0\r\n\r\n", Fault::ChunkEnd),
        (b"1\r\na\rb", Fault::ChunkEnd),
        (b"1\r\na0\r\n\r\n", Fault::ChunkEnd),
        (b"0\r\nContent-Length: 1\r\n\r\n", Fault::Trailer),
        (b"0\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::Trailer),
        (b"0\r\nHost: a\r\n\r\n", Fault::Trailer),
        (b"0\r\nConnection: close\r\n\r\n", Fault::Trailer),
        (b"0\r\n a: b\r\n\r\n", Fault::Trailer),
        (b"0\r\na : b\r\n\r\n", Fault::Trailer),
        (b"0\r\na: b\n\r\n", Fault::Trailer),
        (b"0\r\n\n", Fault::Trailer),
        (b"5\r\nhel", Fault::Truncated),
        (b"5", Fault::Truncated),
        (b"0\r\n", Fault::Truncated),
    ];
    for (input, fault) in cases {
        for cut in [1, input.len()] {
            assert_eq!(decode(input, cut).unwrap_err(), *fault, "{:?}", String::from_utf8_lossy(input));
        }
    }
    let long = format!("1;{}\r\na\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX));
    assert_eq!(decode(long.as_bytes(), long.len()).unwrap_err(), Fault::ChunkSize);
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1));
    assert_eq!(decode(many.as_bytes(), many.len()).unwrap_err(), Fault::TrailersTooLarge);
}

#[test]
fn counted_and_open_bodies_end_where_they_should() {
    let mut counted = Decoder::new(Framing::Length(3));
    assert_eq!(counted.step(b"ab").unwrap(), Step { skip: 0, data: 2, done: false });
    assert_eq!(Decoder::new(Framing::Length(3)).end_of_input(), Err(Fault::Truncated));
    assert_eq!(counted.step(b"cd").unwrap(), Step { skip: 0, data: 1, done: true });
    let mut open = Decoder::new(Framing::UntilClose);
    assert_eq!(open.step(b"ab").unwrap(), Step { skip: 0, data: 2, done: false });
    open.end_of_input().unwrap();
    assert!(open.is_done() && Decoder::new(Framing::Empty).is_done());
}

proptest! {
    #[test]
    fn chunk_soup_never_panics_and_cuts_do_not_matter(
        pieces in proptest::collection::vec(prop_oneof![
            Just(b"1\r\na\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"A: b\r\n".to_vec()),
            Just(b"3;x\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..4)], 0..8),
        cut in 1usize..9,
    ) {
        let input = pieces.concat();
        prop_assert_eq!(decode(&input, input.len().max(1)), decode(&input, cut));
    }
}
