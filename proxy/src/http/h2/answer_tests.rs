//! Answers' heads, whole, in part and of every framing.

use super::*;

fn pushed(head: &str, to_head: bool) -> (Option<Answer>, Vec<u8>) {
    let mut out = b"before".to_vec();
    let answer = push(head.as_bytes(), to_head, &mut out).unwrap();
    (answer, out.split_off(6))
}

#[test]
fn an_answers_head_is_a_header_block_without_what_is_the_connections() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: a:b\r\nconnection: close\r\ntransfer-encoding: chunked\r\nx: \r\n\r\nrest";
    let (answer, block) = pushed(head, false);
    assert_eq!(answer, Some(Answer { status: 200, framing: Framing::Chunked, len: head.len() - 4 }));
    assert_eq!(block, [&[0; 9], b"\x88\x0f\x10\x03a:b".as_slice(), b"\x00\x01x\x00"].concat());
}

#[test]
fn framing_follows_status_method_and_length() {
    let framing = |head: &str, to_head| pushed(head, to_head).0.unwrap().framing;
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", false), Framing::Length(7));
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", true), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 304 x\r\ncontent-length: 7\r\n\r\n", false), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 103 x\r\nlink: a\r\n\r\n", false), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", false), Framing::UntilClose);
}

#[test]
fn half_a_head_leaves_nothing_behind() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    for end in 0..head.len() {
        assert_eq!(pushed(head.get(..end).unwrap(), false), (None, Vec::new()), "{end}");
    }
}
