//! Header blocks as HTTP/1 heads, and that they are what HTTP/1 would have parsed.

use super::*;
use crate::http::head::Kind as HeadKind;
use proptest::prelude::*;

fn built(fields: &[(&[u8], &[u8])], ended: bool) -> Result<Message, Malformed> {
    let mut builder = Builder::default();
    // What an earlier block left behind must not show.
    builder.start(Kind::Request);
    for (name, value) in [(b":method".as_slice(), b"PUT".as_slice()), (b"x-old", b"1"), (b"cookie", b"old=1")] {
        builder.field(name, value);
    }
    builder.start(Kind::Request);
    for (name, value) in fields {
        builder.field(name, value);
    }
    let mut request = Message::default();
    builder.request(ended, &mut request).map(|()| request)
}

fn text(request: &Message) -> &str {
    std::str::from_utf8(&request.bytes).unwrap()
}

const GET: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/p?q"), (b":authority", b"a.example")];

fn get(more: &[(&'static str, &'static str)]) -> Vec<(&'static [u8], &'static [u8])> {
    GET.into_iter().chain(more.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))).collect()
}

#[test]
fn a_header_block_reads_as_an_http_1_head() {
    let request =
        built(&get(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", ""), ("cookie", "b=2")]), true).unwrap();
    assert_eq!(text(&request), "GET /p?q HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\ncookie: a=1; b=2\r\n\r\n");
    let request = built(&get(&[("content-length", "007"), ("content-length", "7")]), false).unwrap();
    assert_eq!(text(&request), "GET /p?q HTTP/1.1\r\nhost: a.example\r\ncontent-length: 7\r\n\r\n");
    let request = built(&get(&[]), false).unwrap();
    assert_eq!(text(&request), "GET /p?q HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n");
    let request = built(&get(&[("host", "A.example")]), true).unwrap();
    assert_eq!(text(&request), "GET /p?q HTTP/1.1\r\nhost: a.example\r\n\r\n");
    let connect = [(b":method".as_slice(), b"CONNECT".as_slice()), (b":authority", b"a:1")];
    assert_eq!(text(&built(&connect, true).unwrap()), "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n");
}

#[test]
fn what_http_1_refuses_is_left_to_its_parser() {
    let path = |path: &'static str| {
        built(&[GET[0], GET[1], (b":path", path.as_bytes()), GET[3]], true).map(|request| request.head.len)
    };
    assert_eq!(path("/a#b"), Ok(0));
    assert!(path("/a").unwrap() > 0);
    let many: Vec<_> = GET.into_iter().chain(std::iter::repeat_n((b"a".as_slice(), b"b".as_slice()), 100)).collect();
    assert_eq!(built(&many, true).unwrap().head.len, 0);
    assert!(built(&many[..103], true).unwrap().head.len > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The decision is the same whether the head was built or parsed, as both give the same one.
    #[test]
    fn the_head_that_is_built_is_the_one_that_would_be_parsed(
        method in "[A-Z#]{1,36}",
        path in "[/#?a-z%]{0,20}",
        authority in "[a-z.:0-9\\[\\]]{0,12}",
        fields in prop::collection::vec(("(host|cookie|te|expect|content-length|x-request-id|[a-z-]{1,9})", "[ -~]{0,9}"), 0..12),
        ended: bool,
    ) {
        let path = format!("/{path}");
        let mut block: Vec<(&[u8], &[u8])> =
            vec![(b":method", method.as_bytes()), (b":scheme", b"http"), (b":path", path.as_bytes())];
        if !authority.is_empty() {
            block.push((b":authority", authority.as_bytes()));
        }
        block.extend(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let Ok(request) = built(&block, ended) else { return Ok(()) };
        let mut parsed = Head::default();
        let fault = parsed.parse(&request.bytes, HeadKind::Request);
        if request.head.len == 0 {
            prop_assert!(fault.is_err());
            return Ok(());
        }
        prop_assert_eq!(fault, Ok(true));
        prop_assert_eq!(parsed.len, request.head.len);
        prop_assert_eq!((parsed.version, parsed.method, parsed.target),
            (request.head.version, request.head.method, request.head.target));
        prop_assert_eq!(parsed.fields, request.head.fields);
    }
}
