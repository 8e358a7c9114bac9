//! Where a message's body ends: the decision from the head, and the decoder of bodies, chunked ones included. Strict,
//! without I/O. Nothing framed by a peer is passed on: what leaves is framed by us.

use super::fault::Fault;
use super::head::{Cursor, Fields, Head, Known, Version, parse_fields};

/// A line with a chunk's size and its extensions, which are dropped.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// A trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// Responses only: the body ends with the connection.
    UntilClose,
}

/// Framing of a request's body.
pub fn of_request(head: &Head, buffer: &[u8]) -> Result<Framing, Fault> {
    Ok(match declared(head, buffer)? {
        Some(Framing::Length(0)) | None => Framing::Empty,
        Some(framing) => framing,
    })
}

/// Framing of a response's body. `to_head`: the request was HEAD.
pub fn of_response(head: &Head, buffer: &[u8], to_head: bool) -> Result<Framing, Fault> {
    let declared = declared(head, buffer)?;
    if to_head || head.status < 200 || matches!(head.status, 204 | 304) {
        return Ok(Framing::Empty);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

fn declared(head: &Head, buffer: &[u8]) -> Result<Option<Framing>, Fault> {
    let mut framing = None;
    if !head.fields.has(Known::ContentLength) && !head.fields.has(Known::TransferEncoding) {
        return Ok(None);
    }
    for field in head.fields.iter() {
        let value = field.value.of(buffer);
        let next = match field.known {
            Known::ContentLength => Framing::Length(length(value).ok_or(Fault::ContentLength)?),
            Known::TransferEncoding if head.version == Version::Http10 => return Err(Fault::TransferEncoding),
            Known::TransferEncoding if value.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            Known::TransferEncoding => return Err(Fault::TransferEncoding),
            _ => continue,
        };
        framing = match (framing, next) {
            (None, next) => Some(next),
            (Some(Framing::Length(_)), Framing::Length(_)) => return Err(Fault::ContentLength),
            (Some(Framing::Chunked), Framing::Chunked) => return Err(Fault::TransferEncoding),
            _ => return Err(Fault::LengthAndEncoding),
        };
    }
    Ok(framing)
}

/// The length that a response to HEAD or a 304 announces without sending it.
pub fn announced_length(head: &Head, buffer: &[u8]) -> Option<u64> {
    head.values(buffer, Known::ContentLength).next().and_then(length)
}

pub(super) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // 19 digits fit.
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Takes a body out of its framing, piece by piece.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// A chunk-size line or trailer section that isn't complete yet.
    partial: Vec<u8>,
    /// Of `partial`, once the trailer section is complete.
    trailers: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size,
    /// Data left in this chunk.
    Chunk(u64),
    /// How much of the CRLF after a chunk was seen.
    ChunkEnd(u8),
    Trailers,
    Done,
}

/// What the next bytes are: `skip` of framing, then `data` of body. Both 0: more input is needed, unless `done`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub skip: usize,
    pub data: usize,
    /// The body ends after `data`.
    pub done: bool,
}

impl State {
    fn first(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size,
            Framing::UntilClose => Self::UntilClose,
        }
    }
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        Self { state: State::first(framing), partial: Vec::new(), trailers: Fields::default() }
    }

    /// Begins another body.
    pub(super) fn restart(&mut self, framing: Framing) {
        self.state = State::first(framing);
        if self.partial.capacity() > 0 {
            self.partial = Vec::new();
            self.trailers = Fields::default();
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes at the start of `input`. The caller drops `skip + data` bytes before it calls again.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Fault> {
        let mut skip = 0;
        while let Some(rest) = input.get(skip..) {
            match self.state {
                State::Done => return Ok(Step { skip, data: 0, done: true }),
                State::UntilClose => return Ok(Step { skip, data: rest.len(), done: false }),
                State::Length(left) => {
                    let (data, left) = take(rest, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step { skip, data, done: left == 0 });
                }
                State::Chunk(left) => {
                    let (data, left) = take(rest, left);
                    self.state = if left == 0 { State::ChunkEnd(0) } else { State::Chunk(left) };
                    return Ok(Step { skip, data, done: false });
                }
                _ if rest.is_empty() => break,
                State::ChunkEnd(seen) => skip += self.chunk_end(rest, seen)?,
                State::Size => skip += self.size_line(rest)?,
                State::Trailers => skip += self.trailer_bytes(rest)?,
            }
        }
        Ok(Step { skip, data: 0, done: self.is_done() })
    }

    /// How much of a body of known length is still to come.
    pub(super) fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Counts bytes of a body of known length that went another way.
    pub(super) fn pass(&mut self, count: u64) {
        if let State::Length(left) = self.state {
            let left = left.saturating_sub(count);
            self.state = if left == 0 { State::Done } else { State::Length(left) };
        }
    }

    /// The peer closed: whether the body may end here.
    pub fn end_of_input(&mut self) -> Result<(), Fault> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Fault::Truncated),
        }
    }

    /// Trailers of a finished chunked body.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.trailers.iter().map(|field| (field.name.of(&self.partial), field.value.of(&self.partial)))
    }

    fn chunk_end(&mut self, rest: &[u8], seen: u8) -> Result<usize, Fault> {
        match (seen, rest.first()) {
            (0, Some(b'\r')) => self.state = State::ChunkEnd(1),
            (1, Some(b'\n')) => self.state = State::Size,
            _ => return Err(Fault::ChunkEnd),
        }
        Ok(1)
    }

    fn size_line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let Some(end) = rest.iter().take(CHUNK_LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            self.keep(rest, CHUNK_LINE_BYTES_MAX, Fault::ChunkSize)?;
            return Ok(rest.len());
        };
        let line = rest.get(..=end).unwrap_or_default();
        let size = if self.partial.is_empty() {
            chunk_size(line)
        } else {
            self.keep(line, CHUNK_LINE_BYTES_MAX, Fault::ChunkSize)?;
            chunk_size(&self.partial)
        };
        self.partial.clear();
        self.state = match size.ok_or(Fault::ChunkSize)? {
            0 => State::Trailers,
            size => State::Chunk(size),
        };
        Ok(line.len())
    }

    fn trailer_bytes(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let mut taken = 0;
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            self.keep(line, TRAILER_BYTES_MAX, Fault::TrailersTooLarge)?;
            taken += line.len();
            let kept = self.partial.as_slice();
            if kept == b"\r\n" || kept.ends_with(b"\r\n\r\n") {
                let mut cursor = Cursor { head: kept, at: 0 };
                parse_fields(&mut cursor, &mut self.trailers).map_err(|_| Fault::Trailer)?;
                if cursor.at != kept.len() || self.trailers.iter().any(|f| f.known.is_forbidden_in_trailers()) {
                    return Err(Fault::Trailer);
                }
                self.state = State::Done;
                break;
            }
            if kept.ends_with(b"\n") && !kept.ends_with(b"\r\n") {
                return Err(Fault::Trailer);
            }
        }
        Ok(taken)
    }

    fn keep(&mut self, bytes: &[u8], max: usize, fault: Fault) -> Result<(), Fault> {
        if self.partial.len() + bytes.len() > max {
            return Err(fault);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

fn take(rest: &[u8], left: u64) -> (usize, u64) {
    let data = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    (data, left - data as u64)
}

/// Size of a complete line `1*16HEXDIG [;extensions] CRLF`.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extensions) = line.split_at_checked(digits)?;
    let sound = extensions.is_empty() || (extensions.starts_with(b";") && super::head::is_field_value(extensions));
    if size.is_empty() || size.len() > 16 || !sound {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
    (size <= u64::MAX / 2).then_some(size)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
