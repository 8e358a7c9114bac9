//! Header blocks of HTTP/2 (RFC 7541): a decoder with the dynamic table, an encoder without (its literals need no state
//! and no second look at a name). Must not know what a header means.

use super::huffman;
use std::collections::VecDeque;

/// The dynamic table, as we announce it by not announcing anything else.
const TABLE_BYTES_MAX: usize = 4096;
/// What an entry costs besides its bytes (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;

/// The block can't be decoded: the connection's state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Undecodable;

#[rustfmt::skip]
static STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""),
    ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""),
    ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

struct Entry {
    /// Name, then value.
    bytes: Box<[u8]>,
    name_len: usize,
}

impl Entry {
    fn pair(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.name_len).unwrap_or_default()
    }
}

pub(super) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        let (name, value) = (Vec::new(), Vec::new());
        Self { entries: VecDeque::new(), size: 0, size_max: TABLE_BYTES_MAX, name, value }
    }

    /// Gives each header of a whole block to `sink`.
    pub(super) fn decode(&mut self, mut block: &[u8], mut sink: impl FnMut(&[u8], &[u8])) -> Result<(), Undecodable> {
        let mut fields = 0;
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.get(index)?;
                    sink(name, value);
                }
                0x20..0x40 => {
                    let size = integer(&mut block, 5)?;
                    if fields > 0 || size > TABLE_BYTES_MAX {
                        return Err(Undecodable);
                    }
                    self.size_max = size;
                    self.evict(0);
                    continue;
                }
                _ => self.literal(&mut block, first, &mut sink)?,
            }
            fields += 1;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        first: u8,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Undecodable> {
        let indexed = first >= 0x40;
        let index = integer(block, if indexed { 6 } else { 4 })?;
        let (mut name, mut value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        name.clear();
        value.clear();
        if index == 0 {
            string(block, &mut name)?;
        } else {
            name.extend_from_slice(self.get(index)?.0);
        }
        string(block, &mut value)?;
        sink(&name, &value);
        if indexed {
            self.insert(&name, &value);
        }
        (self.name, self.value) = (name, value);
        Ok(())
    }

    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), Undecodable> {
        let at = index.checked_sub(1).ok_or(Undecodable)?;
        match STATIC.get(at) {
            Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(at - STATIC.len()).map(Entry::pair).ok_or(Undecodable),
        }
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_BYTES;
        self.evict(size);
        if size <= self.size_max {
            self.size += size;
            self.entries.push_front(Entry { bytes: [name, value].concat().into(), name_len: name.len() });
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.size_max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size = self.size.saturating_sub(oldest.bytes.len() + ENTRY_BYTES);
        }
    }
}

fn integer(block: &mut &[u8], prefix_bits: u8) -> Result<usize, Undecodable> {
    let mask = (1u16 << prefix_bits) as usize - 1;
    let (first, mut rest) = block.split_first().ok_or(Undecodable)?;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, tail) = rest.split_first().ok_or(Undecodable)?;
            rest = tail;
            value += (usize::from(*byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            // No length or index that is any use is larger.
            if shift > 21 {
                return Err(Undecodable);
            }
        }
    }
    *block = rest;
    Ok(value)
}

fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
    let coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    match coded {
        false => out.extend_from_slice(bytes),
        true if !huffman::decode(bytes, out) => return Err(Undecodable),
        true => {}
    }
    Ok(())
}

pub(super) fn push_status(out: &mut Vec<u8>, status: u16) {
    let known = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => 0u8,
    };
    if known > 0 {
        out.push(0x80 | known);
        return;
    }
    let digit = |by: u16| b'0' + (status / by % 10) as u8;
    out.extend_from_slice(&[8, 3, digit(100), digit(10), digit(1)]);
}

pub(super) fn push_request_line(out: &mut Vec<u8>, method: &[u8], scheme: &str, path: &[u8]) {
    match method {
        b"GET" => out.push(0x82),
        b"POST" => out.push(0x83),
        _ => {
            out.push(2);
            push_string(out, method);
        }
    }
    out.push(if scheme == "https" { 0x87 } else { 0x86 });
    match path {
        b"/" => out.push(0x84),
        _ => {
            out.push(4);
            push_string(out, path);
        }
    }
}

pub(super) fn push_authority(out: &mut Vec<u8>, authority: &[u8]) {
    out.push(1);
    push_string(out, authority);
}

/// A literal that isn't indexed. `name` in lower case.
pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let index = static_name(name);
    match index {
        0 => {
            out.push(0);
            push_string(out, name);
        }
        // The longest prefix that a name's index fits in has four bits.
        1..15 => out.push(index),
        _ => out.extend_from_slice(&[15, index - 15]),
    }
    push_string(out, value);
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 127 {
        out.push(bytes.len() as u8);
    } else {
        out.push(127);
        let mut left = bytes.len() - 127;
        while left >= 128 {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
    out.extend_from_slice(bytes);
}

/// Index of a name that messages often have; 0 for others.
fn static_name(name: &[u8]) -> u8 {
    match name {
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expires" => 36,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"range" => 50,
        b"referer" => 51,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
