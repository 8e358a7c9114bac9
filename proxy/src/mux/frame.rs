//! The wire format of a tunnel, version 1 (ALPN `weir-mux/1`; any change of it takes a new number). Knows bytes only:
//! no streams, no windows, no I/O.
//!
//! ```text
//!  byte 0   4      5       6        8
//!      │ id │ kind │ flags │ length │ payload: `length` bytes
//! ```
//!
//! Integers are big-endian. A frame with its header fits one TLS record. Only the side that dialled opens streams, with
//! rising ids from 1; id 0 is the tunnel itself.
//!
//! | kind | name | payload | meaning |
//! |---|---|---|---|
//! | 1 | OPEN | bytes | a new stream, with its first bytes |
//! | 2 | DATA | bytes | |
//! | 3 | RESET | 1 byte: [`Code`] | ends a stream: at once both ways, or only what the sender reads |
//! | 4 | CREDIT | u32 | the sender takes this many more bytes of the stream |
//! | 5 | PING | 8 bytes | is answered with the same in a PONG |
//! | 6 | PONG | 8 bytes | |
//! | 7 | GOAWAY | – | open no more streams here; those that are open end in their time |
//!
//! The flag 1 (FIN) on OPEN and DATA: the sender's half of the stream ends after these bytes. A stream begins with
//! [`super::conn::WINDOW_BYTES`] of credit each way; OPEN's and DATA's payload counts against it.

/// Bytes before a payload.
pub(crate) const HEADER_BYTES: usize = 8;
/// With its header a frame fits one TLS record of 16 KiB.
pub(crate) const PAYLOAD_BYTES_MAX: usize = (16 << 10) - HEADER_BYTES;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Open { id: u32, bytes: &'a [u8], fin: bool },
    Data { id: u32, bytes: &'a [u8], fin: bool },
    Reset { id: u32, code: Code },
    Credit { id: u32, bytes: u32 },
    Ping([u8; 8]),
    Pong([u8; 8]),
    GoAway,
}

/// Appends the frame. A payload beyond [`PAYLOAD_BYTES_MAX`] is the caller's fault; it is cut there.
pub(crate) fn encode(frame: Frame<'_>, out: &mut Vec<u8>) {
    let mut put = |id: u32, kind: u8, fin: bool, payload: &[u8]| {
        let payload = payload.get(..PAYLOAD_BYTES_MAX).unwrap_or(payload);
        let [a, b, c, d] = id.to_be_bytes();
        let [high, low] = (payload.len() as u16).to_be_bytes();
        let flags = if fin { FLAG_FIN } else { 0 };
        out.extend_from_slice(&[a, b, c, d, kind, flags, high, low]);
        out.extend_from_slice(payload);
    };
    match frame {
        Frame::Open { id, bytes, fin } => put(id, 1, fin, bytes),
        Frame::Data { id, bytes, fin } => put(id, 2, fin, bytes),
        Frame::Reset { id, code } => put(id, 3, false, &[code.byte()]),
        Frame::Credit { id, bytes } => put(id, 4, false, &bytes.to_be_bytes()),
        Frame::Ping(what) => put(0, 5, false, &what),
        Frame::Pong(what) => put(0, 6, false, &what),
        Frame::GoAway => put(0, 7, false, &[]),
    }
}

/// The first frame of these bytes and its length with header; `None` while it isn't complete.
///
/// # Errors
/// The bytes are no frame: what is wrong with them.
pub(crate) fn decode(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let Some((&[a, b, c, d, kind, flags, high, low], rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let id = u32::from_be_bytes([a, b, c, d]);
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > PAYLOAD_BYTES_MAX {
        return Err(format!("a frame of {length} bytes; {PAYLOAD_BYTES_MAX} are the most"));
    }
    if flags & !FLAG_FIN != 0 || (flags != 0 && kind > 2) {
        return Err(format!("unknown flags {flags:#x} on a frame of kind {kind}"));
    }
    if (id == 0) != (kind >= 5) {
        return Err(format!("a frame of kind {kind} on stream {id}"));
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let fin = flags == FLAG_FIN;
    let sized = |what| format!("a {what} of {length} bytes");
    let frame = match kind {
        1 => Frame::Open { id, bytes: payload, fin },
        2 => Frame::Data { id, bytes: payload, fin },
        3 => match payload {
            [byte] => Frame::Reset { id, code: Code::of(*byte) },
            _ => return Err(sized("RESET")),
        },
        4 => Frame::Credit { id, bytes: u32::from_be_bytes(payload.try_into().map_err(|_| sized("CREDIT"))?) },
        5 => Frame::Ping(payload.try_into().map_err(|_| sized("PING"))?),
        6 => Frame::Pong(payload.try_into().map_err(|_| sized("PONG"))?),
        7 if length == 0 => Frame::GoAway,
        7 => return Err(sized("GOAWAY")),
        _ => return Err(format!("a frame of unknown kind {kind}")),
    };
    Ok(Some((frame, HEADER_BYTES + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Rng;

    #[test]
    fn every_frame_reads_as_it_was_written_and_only_when_complete() {
        let long = vec![7; PAYLOAD_BYTES_MAX];
        let frames = [
            Frame::Open { id: 1, bytes: b"", fin: false },
            Frame::Open { id: u32::MAX, bytes: b"first", fin: true },
            Frame::Data { id: 3, bytes: &long, fin: false },
            Frame::Data { id: 3, bytes: b"", fin: true },
            Frame::Reset { id: 9, code: Code::Stopped },
            Frame::Reset { id: 9, code: Code::Broken },
            Frame::Reset { id: 9, code: Code::Refused },
            Frame::Credit { id: 4, bytes: 1 << 20 },
            Frame::Ping(*b"12345678"),
            Frame::Pong(*b"87654321"),
            Frame::GoAway,
        ];
        for frame in frames {
            let mut bytes = Vec::new();
            encode(frame, &mut bytes);
            assert!(bytes.len() <= 16 << 10);
            for short in [0, 7, bytes.len() - 1] {
                assert_eq!(decode(&bytes[..short]), Ok(None));
            }
            bytes.extend_from_slice(b"more");
            assert_eq!(decode(&bytes), Ok(Some((frame, bytes.len() - 4))));
        }
    }

    #[test]
    fn what_is_no_frame_says_why() {
        for (bytes, why) in [
            ([0, 0, 0, 1, 2, 0, 0x40, 0], "16384 bytes"),
            ([0, 0, 0, 1, 2, 2, 0, 0], "flags"),
            ([0, 0, 0, 1, 3, 1, 0, 0], "flags"),
            ([0, 0, 0, 0, 2, 0, 0, 0], "kind 2 on stream 0"),
            ([0, 0, 0, 1, 7, 0, 0, 0], "kind 7 on stream 1"),
            ([0, 0, 0, 1, 3, 0, 0, 0], "RESET of 0"),
            ([0, 0, 0, 0, 8, 0, 0, 0], "unknown kind 8"),
            ([0, 0, 0, 1, 0, 0, 0, 0], "unknown kind 0"),
        ] {
            let said = decode(&bytes).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(7);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(40)).map(|_| rng.below(9) as u8).collect();
            if let Ok(Some((_, length))) = decode(&bytes) {
                assert!(length <= bytes.len());
            }
        }
    }
}
