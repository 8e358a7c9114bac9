//! Requests' heads, whole and in part.

use super::*;

fn pushed(head: &str) -> (Option<(Sent, bool)>, Vec<u8>) {
    let mut out = b"before".to_vec();
    let sent = push(head.as_bytes(), "https", &mut out).unwrap();
    (sent, out.split_off(6))
}

#[test]
fn a_requests_head_is_a_header_block_without_what_is_the_connections() {
    let head = "POST /p?q HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: upgrade\r\ntransfer-encoding: chunked\r\n\
                accept: b\r\n\r\nrest";
    let (sent, block) = pushed(head);
    let expected = Sent { is_final: true, framing: Framing::Chunked, len: head.len() - 4 };
    assert_eq!(sent, Some((expected, false)));
    let fields = b"\x83\x87\x04\x04/p?q\x01\x01a\x00\x02te\x08trailers\x0f\x04\x01b";
    assert_eq!(block, [&[0; 9], fields.as_slice()].concat());
}

#[test]
fn methods_and_paths_of_the_table_are_a_byte_each() {
    let block = |head: &str| pushed(head).1.split_off(9);
    assert_eq!(block("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), b"\x82\x87\x84\x01\x01a");
    assert_eq!(block("HEAD * HTTP/1.1\r\nhost: \r\n\r\n"), b"\x02\x04HEAD\x87\x04\x01*");
    assert!(pushed("HEAD / HTTP/1.1\r\n\r\n").0.is_some_and(|(_, to_head)| to_head));
}

#[test]
fn framing_follows_the_length() {
    let framing = |head: &str| pushed(head).0.unwrap().0.framing;
    assert_eq!(framing("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\n\r\n"), Framing::Length(7));
    assert_eq!(framing("PUT / HTTP/1.1\r\nhost: a\r\n\r\n"), Framing::Empty);
}

#[test]
fn half_a_head_leaves_nothing_behind() {
    let head = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 7\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(pushed(head.get(..end).unwrap()), (None, Vec::new()), "{end}");
    }
}
