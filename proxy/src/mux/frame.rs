//! The wire format of a tunnel, version 1 (ALPN `weir-mux/1`; any change of it takes a new number). Knows bytes only:
//! no streams, no windows, no I/O.
//!
//! ```text
//!  byte 0   4      5       6        8
//!      │ id │ kind │ flags │ length │ payload: `length` bytes
//! ```
//!
//! Integers are big-endian. A payload may be spread over TLS records and is taken as it comes. Only the side that dialled opens streams, with
//! rising ids from 1; id 0 is the tunnel itself.
//!
//! | kind | name | payload | meaning |
//! |---|---|---|---|
//! | 1 | OPEN | bytes | a new stream, with its first bytes |
//! | 2 | DATA | bytes | empty only with FIN |
//! | 3 | RESET | 1 byte: [`Code`] | ends a stream: at once both ways, or only what the sender reads |
//! | 4 | CREDIT | u32 | the sender takes this many more bytes of the stream |
//! | 5 | PING | 8 bytes | is answered with the same in a PONG |
//! | 6 | PONG | 8 bytes | |
//! | 7 | GOAWAY | – | open no more streams here; those that are open end in their time |
//!
//! The flag 1 (FIN) on OPEN and DATA: the sender's half of the stream ends after these bytes. A stream begins with
//! [`super::conn::WINDOW_BYTES`] of credit each way; OPEN's and DATA's payload counts against it.

use std::cell::RefCell;
use std::task::Poll;

/// Bytes before a payload.
pub(crate) const HEADER_BYTES: usize = 8;
/// A full frame and what four TLS records add to it fit one segment of a loopback interface (65,483 bytes): a byte more
/// would be a packet of its own.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 65_280;
/// The largest payload of a frame that isn't a stream's bytes.
const CONTROL_BYTES_MAX: usize = 8;

const FLAG_FIN: u8 = 1;

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The sender reads no more; what it sent still counts.
    Stopped,
    /// Both halves broke.
    Broken,
    /// The sender takes no stream now: too many, or it is about to end.
    Refused,
}

impl Code {
    fn byte(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Broken => 1,
            Self::Refused => 2,
        }
    }

    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Stopped,
            2 => Self::Refused,
            _ => Self::Broken,
        }
    }
}

/// A frame to send. We send no PING: a socket's own keepalive finds out whether the peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Open { id: u32, bytes: &'a [u8], fin: bool },
    Data { id: u32, bytes: &'a [u8], fin: bool },
    Reset { id: u32, code: Code },
    Credit { id: u32, bytes: u32 },
    Pong([u8; 8]),
    GoAway,
}

/// Bytes to be written, in memory of a worker's pool while there are any.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// Initialised further than it is filled.
    bytes: Vec<u8>,
    filled: usize,
}

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Buffers a worker keeps for writing, and the size to which they may have grown.
const SPARE_MAX: usize = 8;
const SPARE_BYTES_MAX: usize = 512 << 10;

impl Out {
    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Appends the frame. A payload beyond [`PAYLOAD_BYTES_MAX`] is the caller's fault; it is cut there.
    pub(crate) fn put(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Open { id, bytes, fin } => self.frame(id, 1, fin, bytes),
            Frame::Data { id, bytes, fin } => self.frame(id, 2, fin, bytes),
            Frame::Reset { id, code } => self.frame(id, 3, false, &[code.byte()]),
            Frame::Credit { id, bytes } => self.frame(id, 4, false, &bytes.to_be_bytes()),
            Frame::Pong(what) => self.frame(0, 6, false, &what),
            Frame::GoAway => self.frame(0, 7, false, &[]),
        }
    }

    fn frame(&mut self, id: u32, kind: u8, fin: bool, payload: &[u8]) {
        let payload = payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload);
        if let Some((head, space)) = self.space(payload.len()) {
            *head = header(id, kind, fin, payload.len());
            space.copy_from_slice(payload);
            self.filled += HEADER_BYTES + payload.len();
        }
    }

    /// A DATA frame whose payload `fill` writes itself, `room` bytes at most; none if it writes nothing.
    pub(crate) fn put_filled<E>(
        &mut self,
        id: u32,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Poll<Result<usize, E>>,
    ) -> Poll<Result<usize, E>> {
        let Some((head, space)) = self.space(room.min(PAYLOAD_BYTES_MAX)) else { return Poll::Ready(Ok(0)) };
        let filled = fill(space);
        if let Poll::Ready(Ok(count @ 1..)) = filled {
            *head = header(id, 2, false, count);
            self.filled += HEADER_BYTES + count;
        } else if self.filled == 0 {
            self.clear();
        }
        filled
    }

    /// Room for a header and so much payload behind what is filled; there always is.
    fn space(&mut self, payload: usize) -> Option<(&mut [u8; HEADER_BYTES], &mut [u8])> {
        if self.bytes.is_empty() {
            self.bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let end = self.filled + HEADER_BYTES + payload;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        self.bytes.get_mut(self.filled..end)?.split_first_chunk_mut()
    }

    /// Empty again, and its memory for others.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() || bytes.len() > SPARE_BYTES_MAX {
            return;
        }
        // While the thread ends its pool is gone already; then the memory is simply freed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(bytes);
            }
        });
    }
}

fn header(id: u32, kind: u8, fin: bool, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    let [high, low] = (length as u16).to_be_bytes();
    [a, b, c, d, kind, if fin { FLAG_FIN } else { 0 }, high, low]
}

/// What a tunnel's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    Open {
        id: u32,
    },
    /// Part of a payload; `fin` comes with the last of the stream.
    Data {
        id: u32,
        bytes: &'a [u8],
        fin: bool,
    },
    Reset {
        id: u32,
        code: Code,
    },
    Credit {
        id: u32,
        bytes: u32,
    },
    Ping([u8; 8]),
    Pong,
    GoAway,
}

/// Reads frames as their bytes come; keeps no payload, only what is there of a header or of a control frame.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    part: [u8; HEADER_BYTES + CONTROL_BYTES_MAX],
    filled: usize,
    payload: Option<Payload>,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    id: u32,
    left: usize,
    fin: bool,
}

struct Header {
    id: u32,
    kind: u8,
    fin: bool,
    length: usize,
}

impl Decoder {
    /// The next event at the front of the input, which it takes away; `None` when all of it is taken.
    ///
    /// # Errors
    /// The bytes are no frame: what is wrong with them. There is no going on then.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, String> {
        if self.payload.is_none() {
            if !self.fill(HEADER_BYTES, input) {
                return Ok(None);
            }
            let header = Header::of(&self.part)?;
            if header.kind > 2 {
                if !self.fill(HEADER_BYTES + header.length, input) {
                    return Ok(None);
                }
                self.filled = 0;
                return header.control(self.part.get(HEADER_BYTES..).unwrap_or_default()).map(Some);
            }
            self.filled = 0;
            let Header { id, kind, fin, length } = header;
            self.payload = (length > 0 || fin).then_some(Payload { id, left: length, fin });
            if kind == 1 {
                return Ok(Some(Event::Open { id }));
            }
        }
        Ok(self.take(input))
    }

    fn take<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let Payload { id, left, fin } = self.payload?;
        let (bytes, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        let left = left - bytes.len();
        if left > 0 && bytes.is_empty() {
            return None;
        }
        self.payload = (left > 0).then_some(Payload { id, left, fin });
        Some(Event::Data { id, bytes, fin: fin && left == 0 })
    }

    /// Whether the part is `until` bytes long now.
    fn fill(&mut self, until: usize, input: &mut &[u8]) -> bool {
        let part = self.part.get_mut(self.filled..until).unwrap_or_default();
        let (bytes, rest) = input.split_at(part.len().min(input.len()));
        *input = rest;
        if let Some(part) = part.get_mut(..bytes.len()) {
            part.copy_from_slice(bytes);
        }
        self.filled += bytes.len();
        self.filled >= until
    }
}

impl Header {
    fn of(part: &[u8]) -> Result<Self, String> {
        let Some((&[a, b, c, d, kind, flags, high, low], _)) = part.split_first_chunk::<HEADER_BYTES>() else {
            return Err("a frame without a header".to_owned());
        };
        let (id, length) = (u32::from_be_bytes([a, b, c, d]), usize::from(u16::from_be_bytes([high, low])));
        let fin = flags == FLAG_FIN;
        let (name, expected) = match kind {
            1 | 2 => ("DATA", length),
            3 => ("RESET", 1),
            4 => ("CREDIT", 4),
            5 => ("PING", 8),
            6 => ("PONG", 8),
            7 => ("GOAWAY", 0),
            _ => return Err(format!("a frame of unknown kind {kind}")),
        };
        if flags & !FLAG_FIN != 0 || (fin && kind > 2) {
            return Err(format!("unknown flags {flags:#x} on a frame of kind {kind}"));
        }
        if (id == 0) != (kind >= 5) {
            return Err(format!("a frame of kind {kind} on stream {id}"));
        }
        if length != expected || length > PAYLOAD_BYTES_MAX || (kind == 2 && length == 0 && !fin) {
            return Err(format!("a {name} of {length} bytes"));
        }
        Ok(Self { id, kind, fin, length })
    }

    /// `payload` is long enough.
    fn control(&self, payload: &[u8]) -> Result<Event<'static>, String> {
        let id = self.id;
        Ok(match (self.kind, payload) {
            (3, &[code, ..]) => Event::Reset { id, code: Code::of(code) },
            (4, &[a, b, c, d, ..]) => Event::Credit { id, bytes: u32::from_be_bytes([a, b, c, d]) },
            (5, payload) => Event::Ping(payload.first_chunk().copied().unwrap_or_default()),
            (6, _) => Event::Pong,
            (7, _) => Event::GoAway,
            (kind, _) => return Err(format!("a frame of kind {kind} without its payload")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Rng;

    /// All events of these bytes, given in pieces of this size; payloads are joined again.
    fn events(bytes: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut decoder = Decoder::default();
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        for mut input in bytes.chunks(piece) {
            while let Some(event) = decoder.next(&mut input)? {
                match event {
                    Event::Data { id, bytes, fin } => {
                        let data = format!("data {id}");
                        match all.last_mut() {
                            Some((last, payload)) if *last == data => payload.extend_from_slice(bytes),
                            _ => all.push((data, bytes.to_vec())),
                        }
                        if fin {
                            all.push((format!("fin {id}"), Vec::new()));
                        }
                    }
                    other => all.push((format!("{other:?}"), Vec::new())),
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn every_frame_reads_as_it_was_written_however_its_bytes_come() {
        let long = vec![7; PAYLOAD_BYTES_MAX];
        let mut out = Out::default();
        for frame in [
            Frame::Open { id: 1, bytes: b"", fin: false },
            Frame::Open { id: u32::MAX, bytes: b"first", fin: true },
            Frame::Data { id: 3, bytes: &long, fin: false },
            Frame::Data { id: 3, bytes: b"", fin: true },
            Frame::Reset { id: 9, code: Code::Stopped },
            Frame::Reset { id: 9, code: Code::Broken },
            Frame::Reset { id: 9, code: Code::Refused },
            Frame::Credit { id: 4, bytes: 1 << 20 },
            Frame::Pong(*b"87654321"),
            Frame::GoAway,
        ] {
            out.put(frame);
        }
        out.frame(0, 5, false, b"12345678");
        let event = |event: Event<'_>| (format!("{event:?}"), Vec::new());
        let expected = [
            event(Event::Open { id: 1 }),
            event(Event::Open { id: u32::MAX }),
            (format!("data {}", u32::MAX), b"first".to_vec()),
            (format!("fin {}", u32::MAX), Vec::new()),
            ("data 3".to_owned(), long),
            ("fin 3".to_owned(), Vec::new()),
            event(Event::Reset { id: 9, code: Code::Stopped }),
            event(Event::Reset { id: 9, code: Code::Broken }),
            event(Event::Reset { id: 9, code: Code::Refused }),
            event(Event::Credit { id: 4, bytes: 1 << 20 }),
            event(Event::Pong),
            event(Event::GoAway),
            event(Event::Ping(*b"12345678")),
        ];
        for piece in [1, 3, 7, 8, 13, 1000, out.len()] {
            assert!(events(out.bytes(), piece).unwrap() == expected, "in pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_payload_that_fills_itself_is_a_frame_only_when_something_came() {
        let mut out = Out::default();
        assert_eq!(out.put_filled(5, 100, |_| Poll::<Result<usize, ()>>::Pending), Poll::Pending);
        assert_eq!(out.put_filled(5, 100, |_| Poll::<Result<usize, ()>>::Ready(Ok(0))), Poll::Ready(Ok(0)));
        assert!(out.is_empty() && out.bytes.is_empty(), "it holds memory for nothing");
        let filled = out.put_filled(5, 100, |space| {
            space[..3].copy_from_slice(b"abc");
            Poll::<Result<usize, ()>>::Ready(Ok(3))
        });
        assert_eq!(filled, Poll::Ready(Ok(3)));
        let mut same = Out::default();
        same.put(Frame::Data { id: 5, bytes: b"abc", fin: false });
        assert_eq!(out.bytes(), same.bytes());
    }

    #[test]
    fn what_is_no_frame_says_why() {
        for (bytes, why) in [
            ([0, 0, 0, 1, 2, 0, 0xff, 0xff], "65535 bytes"),
            ([0, 0, 0, 1, 2, 0, 0, 0], "0 bytes"),
            ([0, 0, 0, 1, 2, 2, 0, 0], "flags"),
            ([0, 0, 0, 1, 3, 1, 0, 1], "flags"),
            ([0, 0, 0, 0, 2, 0, 0, 1], "kind 2 on stream 0"),
            ([0, 0, 0, 1, 7, 0, 0, 0], "kind 7 on stream 1"),
            ([0, 0, 0, 1, 3, 0, 0, 0], "RESET of 0"),
            ([0, 0, 0, 1, 4, 0, 0, 5], "CREDIT of 5"),
            ([0, 0, 0, 0, 5, 0, 0xff, 0], "PING of 65280"),
            ([0, 0, 0, 0, 7, 0, 0, 1], "GOAWAY of 1"),
            ([0, 0, 0, 0, 8, 0, 0, 0], "unknown kind 8"),
            ([0, 0, 0, 1, 0, 0, 0, 0], "unknown kind 0"),
        ] {
            let said = events(&bytes, 8).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(60)).map(|_| rng.below(9) as u8).collect();
            let _ = events(&bytes, 1 + rng.below(20) as usize);
        }
    }
}
