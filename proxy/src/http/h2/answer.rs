//! An answer's head on its way from HTTP/1, as we have just written it ourselves, to a header block. Must not know
//! streams.

use super::ask::Sent;
use super::frame::HEAD_BYTES;
use super::hpack;
use crate::http::framing::{self, Framing};
use crate::http::head::{Known, find_line_feed};
use std::io;

/// What the head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Bytes that it took.
    pub(super) len: usize,
}

impl Answer {
    pub(super) fn sent(&self) -> Sent {
        Sent { is_final: self.status >= 200, framing: self.framing, len: self.len }
    }
}

/// Appends the head at the start of `bytes` to `out`, behind room for a frame's head. None while it isn't whole: then
/// nothing is appended. It was checked when it was composed, so it is only taken apart here.
pub(super) fn push(bytes: &[u8], to_head: bool, out: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    let start = out.len();
    let pushed = try_push(bytes, to_head, out);
    if !matches!(pushed, Ok(Some(_))) {
        out.truncate(start);
    }
    pushed
}

fn try_push(bytes: &[u8], to_head: bool, out: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    let Some((line, mut at)) = line(bytes, 0) else { return Ok(None) };
    let status = match line.get(9..12) {
        Some(digits @ [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9']) => {
            digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(unsound("a status line that isn't one")),
    };
    out.extend_from_slice(&[0; HEAD_BYTES]);
    hpack::push_status(out, status);
    let mut framing = Framing::UntilClose;
    loop {
        let Some((line, next)) = self::line(bytes, at) else { return Ok(None) };
        at = next;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| unsound("a line without a colon"))?;
        let (name, value) = line.split_at(colon);
        let value = value.get(2..).unwrap_or_default();
        match Known::of(name) {
            Known::ContentLength => {
                framing = Framing::Length(framing::length(value).ok_or_else(|| unsound("a length that is no number"))?);
            }
            Known::TransferEncoding => {
                framing = Framing::Chunked;
                continue;
            }
            known if known.is_hop_by_hop() => continue,
            _ => {}
        }
        hpack::push_field(out, name, value);
    }
    if to_head || status < 200 || matches!(status, 204 | 304) {
        framing = Framing::Empty;
    }
    Ok(Some(Answer { status, framing, len: at }))
}

/// The line that begins at `at`, and where the next one does.
pub(super) fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = find_line_feed(bytes, at)?;
    Some((bytes.get(at..end.checked_sub(1)?)?, end + 1))
}

pub(super) fn unsound(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("our own message is unsound: {what}"))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
