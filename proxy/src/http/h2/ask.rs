//! A request's head on its way from HTTP/1, as we have just written it ourselves, to a header block. Must not know
//! streams.

use super::answer::{line, unsound};
use super::frame::HEAD_BYTES;
use super::hpack;
use crate::http::framing::{self, Framing};
use crate::http::head::Known;
use std::io;

/// What a head said that was sent: a request's, or an answer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Not an informational one.
    pub(super) is_final: bool,
    pub(super) framing: Framing,
    /// Bytes that it took.
    pub(super) len: usize,
}

impl Sent {
    /// Nothing follows it.
    pub(super) fn is_end(&self) -> bool {
        self.is_final && matches!(self.framing, Framing::Empty | Framing::Length(0))
    }
}

/// Appends the head at the start of `bytes` to `out`, behind room for a frame's head, and says whether the method is HEAD.
/// None while it isn't whole: then nothing is appended. It was checked when it was composed, so it is only taken apart here.
pub(super) fn push(bytes: &[u8], scheme: &str, out: &mut Vec<u8>) -> io::Result<Option<(Sent, bool)>> {
    let start = out.len();
    let pushed = try_push(bytes, scheme, out);
    if !matches!(pushed, Ok(Some(_))) {
        out.truncate(start);
    }
    pushed
}

fn try_push(bytes: &[u8], scheme: &str, out: &mut Vec<u8>) -> io::Result<Option<(Sent, bool)>> {
    let Some((first, mut at)) = line(bytes, 0) else { return Ok(None) };
    let mut words = first.split(|byte| *byte == b' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(unsound("a request line that isn't one"));
    };
    out.extend_from_slice(&[0; HEAD_BYTES]);
    hpack::push_request_line(out, method, scheme, target);
    let (mut framing, mut fields) = (Framing::Empty, 0);
    loop {
        let Some((line, next)) = line(bytes, at) else { return Ok(None) };
        at = next;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| unsound("a line without a colon"))?;
        let (name, value) = line.split_at(colon);
        let value = value.get(2..).unwrap_or_default();
        match Known::of(name) {
            Known::Host if fields > 0 => return Err(unsound("a host that isn't first")),
            Known::Host if value.is_empty() => continue,
            Known::Host => {
                hpack::push_authority(out, value);
                continue;
            }
            Known::ContentLength => {
                framing = Framing::Length(framing::length(value).ok_or_else(|| unsound("a length that is no number"))?);
            }
            Known::TransferEncoding => {
                framing = Framing::Chunked;
                continue;
            }
            Known::Te if value == b"trailers" => {}
            known if known.is_hop_by_hop() => continue,
            _ => {}
        }
        fields += 1;
        hpack::push_field(out, name, value);
    }
    Ok(Some((Sent { is_final: true, framing, len: at }, method == b"HEAD")))
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
