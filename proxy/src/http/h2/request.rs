//! A stream's header block as an HTTP/1 head, which the HTTP/1 side then checks and decides like any other: what HTTP/1
//! couldn't say safely is refused here (RFC 9113 §8). Must not know streams.

use super::super::head::{HEAD_BYTES_MAX, HEADERS_MAX, Known, is_field_value, is_token};

/// The request breaks HTTP/2's rules for messages: a stream error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) head: Vec<u8>,
    pub(super) to_head: bool,
    /// Content-Length.
    pub(super) length: Option<u64>,
}

/// Gathers one block's fields; kept from block to block for its memory.
#[derive(Default)]
pub(super) struct Builder {
    method: Vec<u8>,
    path: Vec<u8>,
    authority: Vec<u8>,
    seen: u8,
    fields: Vec<u8>,
    host: Vec<u8>,
    cookie: Vec<u8>,
    count: usize,
    length: Option<u64>,
    malformed: bool,
    oversize: bool,
    trailers: bool,
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const PATH: u8 = 4;
const AUTHORITY: u8 = 8;

impl Builder {
    pub(super) fn start(&mut self, trailers: bool) {
        for part in [&mut self.method, &mut self.path, &mut self.authority, &mut self.fields] {
            part.clear();
        }
        self.host.clear();
        self.cookie.clear();
        (self.seen, self.count, self.length) = (0, 0, None);
        (self.malformed, self.oversize, self.trailers) = (false, false, trailers);
    }

    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        let size = self.fields.len() + self.cookie.len() + self.path.len() + name.len() + value.len();
        if size > HEAD_BYTES_MAX {
            self.oversize = true;
            return;
        }
        if self.put(name, value).is_none() {
            self.malformed = true;
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.count += 1;
        let lower = !name.iter().any(u8::is_ascii_uppercase);
        if !lower || !is_token(name) || !is_field_value(value) || value.trim_ascii().len() != value.len() {
            return None;
        }
        match (Known::of(name), name) {
            (
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade,
                _,
            ) => {
                return None;
            }
            (Known::Te, _) if value != b"trailers" => return None,
            (Known::ContentLength, _) => return self.content_length(value),
            (Known::Host, _) if !self.trailers => {
                if !self.host.is_empty() && self.host != value {
                    return None;
                }
                self.host.clear();
                self.host.extend_from_slice(value);
                return Some(());
            }
            (_, b"cookie") => {
                // HTTP/2 may send it in pieces; HTTP/1 allows one field only (RFC 9113 §8.2.3).
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
                return Some(());
            }
            _ => {}
        }
        push(&mut self.fields, name, value);
        Some(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let (bit, part) = match name {
            b":method" => (METHOD, Some(&mut self.method)),
            b":path" => (PATH, Some(&mut self.path)),
            b":authority" => (AUTHORITY, Some(&mut self.authority)),
            b":scheme" => (SCHEME, None),
            _ => return None,
        };
        // Once each, and before all other fields; trailers have none.
        let visible = value.iter().all(u8::is_ascii_graphic);
        if self.trailers || self.count > 0 || self.seen & bit != 0 || !visible || value.is_empty() {
            return None;
        }
        self.seen |= bit;
        if let Some(part) = part {
            part.extend_from_slice(value);
        }
        Some(())
    }

    fn content_length(&mut self, value: &[u8]) -> Option<()> {
        let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        let length = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok())??;
        if self.trailers || self.length.is_some_and(|other| other != length) {
            return None;
        }
        self.length = Some(length);
        Some(())
    }

    /// `ended`: the stream has no body.
    pub(super) fn request(&mut self, ended: bool) -> Result<Request, Malformed> {
        if self.oversize || self.count > HEADERS_MAX {
            // So many that the answer is 431, whatever they were.
            let head = [b"GET / HTTP/1.1\r\n".as_slice(), &b"x:\r\n".repeat(HEADERS_MAX + 1), b"\r\n"].concat();
            return Ok(Request { head, to_head: false, length: None });
        }
        let connect = self.method == b"CONNECT";
        let due = if connect { METHOD | AUTHORITY } else { METHOD | SCHEME | PATH };
        let sound = self.seen & due == due && (!connect || self.seen == due) && is_token(&self.method);
        let rooted = connect || self.path.first() == Some(&b'/') || (self.path == b"*" && self.method == b"OPTIONS");
        if self.malformed || !sound || !rooted || (ended && self.length.is_some_and(|length| length > 0)) {
            return Err(Malformed);
        }
        let target = if connect { &self.authority } else { &self.path };
        let mut head = Vec::with_capacity(self.fields.len() + target.len() + self.authority.len() + 96);
        for part in [&self.method, b" ".as_slice(), target, b" HTTP/1.1\r\n"] {
            head.extend_from_slice(part);
        }
        if !self.authority.is_empty() {
            push(&mut head, b"host", &self.authority);
        }
        // Two that differ are refused with all other bad hosts.
        if !self.host.is_empty() && !self.host.eq_ignore_ascii_case(&self.authority) {
            push(&mut head, b"host", &self.host);
        }
        head.extend_from_slice(&self.fields);
        if !self.cookie.is_empty() {
            push(&mut head, b"cookie", &self.cookie);
        }
        match self.length {
            Some(length) => push(&mut head, b"content-length", length.to_string().as_bytes()),
            None if !ended => push(&mut head, b"transfer-encoding", b"chunked"),
            None => {}
        }
        head.extend_from_slice(b"\r\n");
        Ok(Request { head, to_head: self.method == b"HEAD", length: self.length })
    }

    /// The fields as a chunked body's trailer section.
    pub(super) fn trailer_section(&mut self) -> Result<&[u8], Malformed> {
        if self.malformed || self.oversize || self.count > HEADERS_MAX {
            return Err(Malformed);
        }
        Ok(&self.fields)
    }
}

fn push(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}
