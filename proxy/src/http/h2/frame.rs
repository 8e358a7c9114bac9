//! Frames of HTTP/2 (RFC 9113 §4, §6): their heads, and those that we write. Without I/O and without state.

/// What a client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEAD_BYTES: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const SET_PUSH: u16 = 2;
pub(super) const SET_STREAMS_MAX: u16 = 3;
pub(super) const SET_INITIAL_WINDOW: u16 = 4;
pub(super) const SET_FRAME_MAX: u16 = 5;
pub(super) const SET_HEADER_LIST_MAX: u16 = 6;

/// Why a stream or connection ends (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    /// None while there are too few bytes.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Self {
            len: u32::from_be_bytes([0, *a, *b, *c]) as usize,
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes(*stream) & 0x7fff_ffff,
        })
    }

    pub(super) fn is(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }
}

pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn push(out: &mut Vec<u8>, (kind, flags, stream): (u8, u8, u32), payload: &[u8]) {
    out.extend_from_slice(&FrameHead { len: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

pub(super) fn push_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    push(out, (RST_STREAM, 0, stream), &(code as u32).to_be_bytes());
}

pub(super) fn push_window(out: &mut Vec<u8>, stream: u32, count: u32) {
    push(out, (WINDOW_UPDATE, 0, stream), &count.to_be_bytes());
}

pub(super) fn push_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = (code as u32).to_be_bytes();
    push(out, (GOAWAY, 0, 0), &[a, b, c, d, e, f, g, h]);
}

pub(super) fn push_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(key, value)| key.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
    push(out, (SETTINGS, 0, 0), &payload);
}

/// Frames a header block that was appended to `out` behind room for a frame's head at `start`.
pub(super) fn seal_headers(out: &mut Vec<u8>, start: usize, (stream, end): (u32, bool), frame_max: usize) {
    let end_stream = if end { END_STREAM } else { 0 };
    let len = out.len().saturating_sub(start + HEAD_BYTES);
    let first = len.min(frame_max);
    let flags = if len > frame_max { end_stream } else { end_stream | END_HEADERS };
    let rest = if len > frame_max { out.split_off(start + HEAD_BYTES + first) } else { Vec::new() };
    let head = FrameHead { len: first, kind: HEADERS, flags, stream };
    if let Some(room) = out.get_mut(start..start + HEAD_BYTES) {
        room.copy_from_slice(&head.bytes());
    }
    let mut parts = rest.chunks(frame_max.max(1)).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        push(out, (CONTINUATION, flags, stream), part);
    }
}

/// What is left of a payload without its padding; None if that is too long. `frame` says whether there is any.
pub(super) fn unpadded(frame: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !frame.is(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}
