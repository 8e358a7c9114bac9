//! A stream's header block, a request's or a response's, as an HTTP/1 head, which the HTTP/1 side then checks and decides
//! like any other: what HTTP/1 couldn't say safely is refused here (RFC 9113 §8). Must not know streams.

use super::super::head::{
    Field, HEAD_BYTES_MAX, HEADERS_MAX, Head, Known, METHOD_BYTES_MAX, Span, TARGET_BYTES_MAX, Version, is_field_value,
    is_token,
};
use super::super::headers::push_decimal;

/// The message breaks HTTP/2's rules, and how: a stream error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A message's head as HTTP/1 has it.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Of a request: what parsing `bytes` gives; of length 0 when they are still to be parsed, as that fails.
    pub(super) head: Head,
    /// The request's method is HEAD.
    pub(super) to_head: bool,
    /// Content-Length.
    pub(super) length: Option<u64>,
}

impl Message {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(HEAD_BYTES_KEPT);
        self.head.clear();
    }
}

/// What a header block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Request,
    Response,
    Trailers,
}

/// Gathers one block's fields; kept from block to block for its memory.
#[derive(Default)]
pub(super) struct Builder {
    message: Message,
    method: Vec<u8>,
    path: Vec<u8>,
    authority: Vec<u8>,
    host: Vec<u8>,
    cookie: Vec<u8>,
    seen: u8,
    count: usize,
    malformed: Option<Malformed>,
    oversize: bool,
    kind: Kind,
    /// Of a response.
    status: u16,
}

/// A larger head's memory isn't kept.
const HEAD_BYTES_KEPT: usize = 1024;
const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const PATH: u8 = 4;
const AUTHORITY: u8 = 8;

impl Builder {
    pub(super) fn start(&mut self, kind: Kind) {
        for part in [&mut self.method, &mut self.path, &mut self.authority, &mut self.host, &mut self.cookie] {
            part.clear();
        }
        self.message.clear();
        self.message.length = None;
        (self.seen, self.count) = (0, 0);
        (self.malformed, self.oversize, self.kind, self.status) = (None, false, kind, 0);
    }

    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        let size = self.message.bytes.len() + self.cookie.len() + self.path.len() + name.len() + value.len();
        if size > HEAD_BYTES_MAX {
            self.oversize = true;
            return;
        }
        if let Err(malformed) = self.put(name, value) {
            self.malformed = self.malformed.or(Some(malformed));
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.count += 1;
        if self.count == 1 {
            self.open();
        }
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
            return Err(Malformed("a header name isn't one in lower case"));
        }
        let padded = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if !is_field_value(value) || padded(value.first()) || padded(value.last()) {
            return Err(Malformed("a header value has characters that it must not have"));
        }
        let known = Known::of(name);
        match known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => return Err(Malformed("it has a header of HTTP/1 connections")),
            Known::Te if value != b"trailers" => return Err(Malformed("te other than trailers")),
            Known::ContentLength => return self.content_length(value),
            Known::Host if self.kind == Kind::Request => return self.host(value),
            // HTTP/2 may send it in pieces; HTTP/1 allows one field only (RFC 9113 §8.2.3).
            Known::Other if name == b"cookie" && self.kind == Kind::Request => {
                if !self.cookie.is_empty() && !value.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
            }
            _ => self.message.push(known, name, value),
        }
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if self.kind == Kind::Response {
            return self.status(name, value);
        }
        let (bit, part) = match name {
            b":method" => (METHOD, Some(&mut self.method)),
            b":path" => (PATH, Some(&mut self.path)),
            b":authority" => (AUTHORITY, Some(&mut self.authority)),
            b":scheme" => (SCHEME, None),
            _ => return Err(Malformed("an unknown pseudo-header")),
        };
        // Once each, and before all other fields; trailers have none.
        if self.kind == Kind::Trailers || self.count > 0 || self.seen & bit != 0 {
            return Err(Malformed("a pseudo-header twice or out of place"));
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed("a pseudo-header has characters that it must not have"));
        }
        self.seen |= bit;
        if let Some(part) = part {
            part.extend_from_slice(value);
        }
        Ok(())
    }

    fn status(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let [high @ b'1'..=b'5', middle @ b'0'..=b'9', low @ b'0'..=b'9'] = value else {
            return Err(Malformed("no status from 100 to 599"));
        };
        if name != b":status" || self.count > 0 || self.status > 0 {
            return Err(Malformed("a pseudo-header that a response doesn't have, or twice or out of place"));
        }
        self.status = [high, middle, low].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'));
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if !self.host.is_empty() {
            return if self.host == value { Ok(()) } else { Err(Malformed("two hosts")) };
        }
        self.host.extend_from_slice(value);
        // Two that differ are refused with all other bad hosts.
        if !value.is_empty() && !value.eq_ignore_ascii_case(&self.authority) {
            self.message.push(Known::Host, b"host", value);
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        let length = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
        let length = length.ok_or(Malformed("a content-length that is no number"))?;
        if self.kind == Kind::Trailers || self.message.length.is_some_and(|other| other != length) {
            return Err(Malformed("a content-length in trailers, or two that differ"));
        }
        self.message.length = Some(length);
        Ok(())
    }

    fn is_connect(&self) -> bool {
        self.method == b"CONNECT"
    }

    /// Writes the first line once all pseudo-headers are here.
    fn open(&mut self) {
        match self.kind {
            Kind::Request => {}
            Kind::Response => return self.status_line(),
            Kind::Trailers => return,
        }
        let target = if self.is_connect() { &self.authority } else { &self.path };
        let Message { bytes, head, .. } = &mut self.message;
        bytes.extend_from_slice(&self.method);
        head.method = Span::new(0, bytes.len());
        bytes.push(b' ');
        head.target = Span::new(bytes.len(), bytes.len() + target.len());
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        head.version = Version::Http11;
        if !self.authority.is_empty() {
            self.message.push(Known::Host, b"host", &self.authority);
        }
    }

    fn status_line(&mut self) {
        let bytes = &mut self.message.bytes;
        bytes.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(bytes, self.status.into());
        bytes.push(b' ');
        let phrase = http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        bytes.extend_from_slice(phrase.unwrap_or_default().as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }

    /// Appends the finished response to `head` and says its status and length. `ended`: the stream has no body.
    pub(super) fn response(
        &mut self,
        (ended, to_head): (bool, bool),
        head: &mut Vec<u8>,
    ) -> Result<(u16, Option<u64>), Malformed> {
        if self.count == 0 {
            self.open();
        }
        match self.malformed {
            Some(malformed) => return Err(malformed),
            None if self.status == 0 => return Err(Malformed("a response without status")),
            None if self.status == 101 => return Err(Malformed("HTTP/2 doesn't switch protocols")),
            None if self.status < 200 && ended => return Err(Malformed("an informational response is its last")),
            None if self.oversize || self.count > HEADERS_MAX => return Err(Malformed("its head is too large")),
            None => {}
        }
        let bodiless = to_head || self.status < 200 || matches!(self.status, 204 | 304);
        match self.message.length {
            Some(1..) if ended && !bodiless => return Err(Malformed("it announces a body and has none")),
            Some(length) => self.message.push_length(length),
            None if bodiless => {}
            None if ended => self.message.push_length(0),
            None => self.message.push(Known::TransferEncoding, b"transfer-encoding", b"chunked"),
        }
        head.extend_from_slice(&self.message.bytes);
        head.extend_from_slice(b"\r\n");
        Ok((self.status, if bodiless { Some(0) } else { self.message.length }))
    }

    /// The finished request is put in place of `request`. `ended`: the stream has no body.
    pub(super) fn request(&mut self, ended: bool, request: &mut Message) -> Result<(), Malformed> {
        if self.count == 0 {
            self.open();
        }
        let large = self.oversize || self.count > HEADERS_MAX;
        if large {
            // So many that the answer is 431, whatever they were.
            self.message.clear();
            for part in [b"GET / HTTP/1.1\r\n".as_slice(), &b"x:\r\n".repeat(HEADERS_MAX + 1), b"\r\n"] {
                self.message.bytes.extend_from_slice(part);
            }
            self.message.length = None;
        } else {
            self.check(ended)?;
            self.finish(ended);
        }
        self.message.to_head = !large && self.method == b"HEAD";
        std::mem::swap(&mut self.message, request);
        Ok(())
    }

    fn check(&self, ended: bool) -> Result<(), Malformed> {
        if let Some(malformed) = self.malformed {
            return Err(malformed);
        }
        let due = if self.is_connect() { METHOD | AUTHORITY } else { METHOD | SCHEME | PATH };
        if self.seen & due != due || (self.is_connect() && self.seen != due) {
            return Err(Malformed("a pseudo-header is missing, or too much for CONNECT"));
        }
        if !is_token(&self.method) {
            return Err(Malformed("the method is no token"));
        }
        let rooted = self.path.first() == Some(&b'/') || (self.path == b"*" && self.method == b"OPTIONS");
        if !rooted && !self.is_connect() {
            return Err(Malformed("the path doesn't begin with a slash"));
        }
        match self.message.length {
            Some(1..) if ended => Err(Malformed("it announces a body and has none")),
            _ => Ok(()),
        }
    }

    /// Writes what comes last.
    fn finish(&mut self, ended: bool) {
        let request = &mut self.message;
        if !self.cookie.is_empty() {
            request.push(Known::Other, b"cookie", &self.cookie);
        }
        match request.length {
            Some(length) => request.push_length(length),
            None if !ended => request.push(Known::TransferEncoding, b"transfer-encoding", b"chunked"),
            None => {}
        }
        request.bytes.extend_from_slice(b"\r\n");
        // What HTTP/1 refuses, its parser refuses in its own words.
        let target = if self.method == b"CONNECT" { &self.authority } else { &self.path };
        let plain =
            target.len() <= TARGET_BYTES_MAX && self.method.len() <= METHOD_BYTES_MAX && !target.contains(&b'#');
        if plain && request.head.fields.len() <= HEADERS_MAX && request.bytes.len() < HEAD_BYTES_MAX {
            request.head.len = request.bytes.len();
        }
    }

    /// The fields as a chunked body's trailer section.
    pub(super) fn trailer_section(&mut self) -> Result<&[u8], Malformed> {
        match self.malformed {
            Some(malformed) => Err(malformed),
            None if self.oversize || self.count > HEADERS_MAX => Err(Malformed("its trailers are too large")),
            None => Ok(&self.message.bytes),
        }
    }
}

impl Message {
    fn push_length(&mut self, length: u64) {
        let name_start = self.bytes.len();
        self.bytes.extend_from_slice(b"content-length: ");
        let value_start = self.bytes.len();
        push_decimal(&mut self.bytes, length);
        let (name, value) = (Span::new(name_start, value_start - 2), Span::new(value_start, self.bytes.len()));
        self.head.fields.push(Field { name, value, known: Known::ContentLength });
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn push(&mut self, known: Known, name: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        for part in [name, b": ", value, b"\r\n"] {
            self.bytes.extend_from_slice(part);
        }
        let value_start = start + name.len() + 2;
        let (name, value) = (Span::new(start, start + name.len()), Span::new(value_start, value_start + value.len()));
        self.head.fields.push(Field { name, value, known });
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
