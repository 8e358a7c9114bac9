//! Heads of HTTP/1 messages as ranges into the buffer they came in: strict, without I/O, without an allocation a
//! header. The same bytes give the same result however they were cut. Must not know what a header is for, beyond
//! recognising those that framing and forwarding treat apart.

use super::fault::Fault;
use memchr::memchr;
use std::ops::Deref;

/// A request's or response's head, line ends included.
pub const HEAD_BYTES_MAX: usize = 60 * 1024;
pub const HEADERS_MAX: usize = 100;
/// A request target; longer is 414.
pub const TARGET_BYTES_MAX: usize = 32 * 1024;
/// A method; the longest registered one has 17.
pub(super) const METHOD_BYTES_MAX: usize = 32;

/// A range of the buffer that the head was parsed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        // Heads are bounded by HEAD_BYTES_MAX, so nothing is cut off.
        Self { start: start as u32, end: end as u32 }
    }

    /// Where `part` lies in `whole`; empty if it doesn't.
    pub(super) fn within(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= whole.len() => Self::new(start, end),
            _ => Self::default(),
        }
    }

    /// Its bytes; empty when `buffer` isn't the one it was parsed from.
    #[inline]
    pub fn of<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// As text; what isn't ASCII or UTF-8 is empty (methods and targets always are ASCII).
    pub fn text<'a>(&self, buffer: &'a [u8]) -> &'a str {
        std::str::from_utf8(self.of(buffer)).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// Header names that framing, routing or forwarding treat apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Expect,
    XForwardedFor,
    XForwardedProto,
    XForwardedClientCert,
    XRequestId,
    XKumaTags,
    /// `x-envoy-*`: steers proxies, so an edge doesn't take it from strangers.
    XEnvoy,
    Server,
}

impl Known {
    pub fn of(name: &[u8]) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            6 if is("server") => Self::Server,
            7 if is("trailer") => Self::Trailer,
            7 if is("upgrade") => Self::Upgrade,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            11 if is("x-kuma-tags") => Self::XKumaTags,
            12 if is("x-request-id") => Self::XRequestId,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Http2Settings,
            15 if is("x-forwarded-for") => Self::XForwardedFor,
            16 if is("proxy-connection") => Self::ProxyConnection,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::XForwardedProto,
            18 if is("proxy-authenticate") => Self::ProxyAuthenticate,
            23 if is("x-forwarded-client-cert") => Self::XForwardedClientCert,
            8.. if name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"x-envoy-")) => Self::XEnvoy,
            _ => Self::Other,
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Meant for one connection only (RFC 9110 §7.6.1), so never forwarded as it came.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Never valid in a trailer section: framing, routing, hop-by-hop (RFC 9110 §6.5.1).
    pub fn is_forbidden_in_trailers(self) -> bool {
        self.is_hop_by_hop() || matches!(self, Self::Host | Self::ContentLength | Self::Expect | Self::XKumaTags)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub known: Known,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// Fields in order, and which of the known names are among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields {
    list: Vec<Field>,
    /// A bit for each known name.
    seen: u32,
}

impl Fields {
    pub(super) fn push(&mut self, field: Field) {
        self.seen |= field.known.bit();
        self.list.push(field);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.seen = 0;
    }

    /// Whether a field of this name is there, without looking at each.
    pub(super) fn has(&self, known: Known) -> bool {
        self.seen & known.bit() != 0
    }
}

impl Deref for Fields {
    type Target = [Field];

    fn deref(&self) -> &[Field] {
        &self.list
    }
}

/// A head, reused from message to message so that its vector is allocated once.
#[derive(Debug, Default)]
pub struct Head {
    pub version: Version,
    /// Requests only.
    pub method: Span,
    /// Requests only.
    pub target: Span,
    /// Responses only.
    pub status: u16,
    /// Responses only.
    pub phrase: Span,
    pub fields: Fields,
    /// Bytes of the buffer that the head takes.
    pub len: usize,
    /// How much of the buffer was searched for the head's end so far.
    scanned: usize,
    /// Where the start line begins: after the empty line that RFC 9112 §2.2 lets a client send first.
    start: usize,
}

/// Which kind of start line is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
}

impl Head {
    /// Forgets the last message.
    pub fn clear(&mut self) {
        self.fields.clear();
        (self.len, self.scanned, self.start) = (0, 0, 0);
    }

    /// Parses the head at the start of `buffer`: true once it is complete, false if more bytes are needed. The buffer
    /// may have grown since the last call but not moved. An error is final.
    pub fn parse(&mut self, buffer: &[u8], kind: Kind) -> Result<bool, Fault> {
        if kind == Kind::Request && self.start == 0 && buffer.starts_with(b"\r\n") {
            (self.start, self.scanned) = (2, 2);
        }
        match self.find_end(buffer) {
            Ok(Some(end)) => self.len = end,
            Ok(None) => return Ok(false),
            Err(Fault::HeadTooLarge) => return Err(oversize(buffer.get(self.start..).unwrap_or_default(), kind)),
            Err(fault) => return Err(fault),
        }
        let head = buffer.get(..self.len).unwrap_or_default();
        let mut cursor = Cursor { head, at: self.start };
        match kind {
            Kind::Request => self.request_line(&mut cursor)?,
            Kind::Response => self.status_line(&mut cursor)?,
        }
        self.fields.clear();
        parse_fields(&mut cursor, &mut self.fields)?;
        Ok(true)
    }

    /// Searches line ends up to the empty line.
    fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, Fault> {
        let limit = buffer.len().min(HEAD_BYTES_MAX);
        let searched = buffer.get(..limit).unwrap_or_default();
        while let Some(at) = find_line_feed(searched, self.scanned) {
            if at == self.start || buffer.get(at - 1) != Some(&b'\r') {
                return Err(Fault::BareLineFeed);
            }
            self.scanned = at + 1;
            if at >= self.start + 3 && buffer.get(at - 3..at) == Some(b"\r\n\r") {
                return Ok(Some(at + 1));
            }
            if at == self.start + 1 {
                return Err(Fault::RequestLine);
            }
        }
        self.scanned = limit;
        if buffer.len() >= HEAD_BYTES_MAX { Err(Fault::HeadTooLarge) } else { Ok(None) }
    }

    fn request_line(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.method = cursor.while_class(TOKEN);
        let method = self.method.of(cursor.head);
        if method.is_empty() || method.len() > METHOD_BYTES_MAX {
            return Err(Fault::Method);
        }
        cursor.expect(b" ", Fault::RequestLine)?;
        self.target = cursor.while_class(TARGET);
        let target = self.target.of(cursor.head);
        if target.len() > TARGET_BYTES_MAX {
            return Err(Fault::TargetTooLong);
        }
        if target.is_empty() {
            return Err(Fault::RequestLine);
        }
        cursor.expect(b" ", Fault::Target)?;
        self.version = cursor.version(Fault::RequestLine)?;
        cursor.expect(b"\r\n", Fault::RequestLine)
    }

    fn status_line(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.version = cursor.version(Fault::StatusLine)?;
        cursor.expect(b" ", Fault::StatusLine)?;
        let digits = cursor.while_class(DIGIT);
        self.status = match digits.of(cursor.head) {
            digits @ [b'1'..=b'5', _, _] => digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')),
            _ => return Err(Fault::StatusLine),
        };
        // Some servers leave the space out with the phrase.
        self.phrase = Span::default();
        if cursor.peek() == Some(b' ') {
            cursor.at += 1;
            self.phrase = cursor.value();
        }
        cursor.expect(b"\r\n", Fault::StatusLine)
    }

    /// All fields of one name, in order.
    pub fn values<'a>(&'a self, buffer: &'a [u8], known: Known) -> impl Iterator<Item = &'a [u8]> {
        let fields: &[Field] = if self.fields.has(known) { &self.fields } else { &[] };
        fields.iter().filter(move |f| f.known == known).map(|f| f.value.of(buffer))
    }
}

/// A head that doesn't end in time: 414 when the target alone is too long, 431 otherwise.
fn oversize(buffer: &[u8], kind: Kind) -> Fault {
    let line = buffer.iter().take(TARGET_BYTES_MAX + METHOD_BYTES_MAX).any(|byte| *byte == b'\n');
    if kind == Kind::Request && !line { Fault::TargetTooLong } else { Fault::HeadTooLarge }
}

/// Parses field lines up to and including the empty line, which must end the cursor's bytes.
pub(super) fn parse_fields(cursor: &mut Cursor<'_>, fields: &mut Fields) -> Result<(), Fault> {
    loop {
        match cursor.peek() {
            Some(b'\r') => return cursor.expect(b"\r\n", Fault::BareCarriageReturn),
            Some(b' ' | b'\t') => return Err(Fault::ObsoleteFold),
            _ => {}
        }
        let name = cursor.while_class(TOKEN);
        if name.is_empty() {
            return Err(Fault::HeaderName);
        }
        cursor.expect(b":", Fault::HeaderName)?;
        while let Some(b' ' | b'\t') = cursor.peek() {
            cursor.at += 1;
        }
        let value = cursor.value();
        let kept = value.of(cursor.head).trim_ascii_end().len();
        let start = value.start as usize;
        match cursor.peek() {
            Some(b'\r') => cursor.expect(b"\r\n", Fault::BareCarriageReturn)?,
            _ => return Err(Fault::HeaderValue),
        }
        if fields.len() == HEADERS_MAX {
            return Err(Fault::TooManyHeaders);
        }
        let known = Known::of(name.of(cursor.head));
        fields.push(Field { name, value: Span::new(start, start + kept), known });
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Whether none of a word's bytes is a control character, tab among them. It may say no to one that is plain.
fn is_plain(word: u64) -> bool {
    let delete = word ^ (ONES * 0x7f);
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    (low | (delete.wrapping_sub(ONES) & !delete)) & HIGH == 0
}

/// Position of the next line feed at or after `from`.
pub(super) fn find_line_feed(buffer: &[u8], from: usize) -> Option<usize> {
    memchr(b'\n', buffer.get(from..)?).map(|at| from + at)
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const VALUE: u8 = 4;
const DIGIT: u8 = 8;
const HOST: u8 = 16;

/// Byte classes: token characters (RFC 9110 §5.6.2), visible ASCII without `#` for targets, field content, digits, what
/// a host's name consists of.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let punctuation = matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        let mut class = 0;
        if b.is_ascii_alphanumeric() || punctuation {
            class |= TOKEN;
        }
        if b.is_ascii_graphic() && b != b'#' {
            class |= TARGET;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            class |= VALUE;
        }
        if b.is_ascii_digit() {
            class |= DIGIT;
        }
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            class |= HOST;
        }
        table[byte] = class;
        byte += 1;
    }
    table
}

/// Whether `name` can be a header's name.
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| in_class(*byte, TOKEN))
}

/// Whether `value` can be a header's value: no CR, LF, NUL or other control character.
pub fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|byte| in_class(*byte, VALUE))
}

/// Whether `name` consists of what a host's name may.
pub(super) fn is_host(name: &[u8]) -> bool {
    name.iter().all(|byte| in_class(*byte, HOST))
}

#[inline]
fn in_class(byte: u8, class: u8) -> bool {
    CLASS.get(usize::from(byte)).is_some_and(|c| c & class != 0)
}

pub(super) struct Cursor<'a> {
    pub(super) head: &'a [u8],
    pub(super) at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.head.get(self.at).copied()
    }

    fn while_class(&mut self, class: u8) -> Span {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|byte| !in_class(*byte, class)).unwrap_or(rest.len());
        let span = Span::new(self.at, self.at + len);
        self.at += len;
        span
    }

    /// Field content, eight bytes at a step as long as all of them are ordinary.
    fn value(&mut self) -> Span {
        let start = self.at;
        let rest = self.head.get(start..).unwrap_or_default();
        let (words, _) = rest.as_chunks::<8>();
        self.at += 8 * words.iter().take_while(|word| is_plain(u64::from_le_bytes(**word))).count();
        self.while_class(VALUE);
        Span::new(start, self.at)
    }

    fn expect(&mut self, bytes: &[u8], fault: Fault) -> Result<(), Fault> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        if !rest.starts_with(bytes) {
            return Err(fault);
        }
        self.at += bytes.len();
        Ok(())
    }

    fn version(&mut self, fault: Fault) -> Result<Version, Fault> {
        self.expect(b"HTTP/", fault)?;
        let version = match self.head.get(self.at..self.at + 3) {
            Some(b"1.1") => Version::Http11,
            Some(b"1.0") => Version::Http10,
            Some([b'0'..=b'9', b'.', b'0'..=b'9']) => return Err(Fault::Version),
            _ => return Err(fault),
        };
        self.at += 3;
        Ok(version)
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
