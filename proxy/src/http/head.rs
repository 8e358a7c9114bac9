//! Heads of HTTP/1 messages as ranges into the buffer they came in: strict, without I/O, without an allocation a
//! header. The same bytes give the same result however they were cut. Must not know what a header is for, beyond
//! recognising those that framing and forwarding treat apart.

use super::fault::Fault;
pub use super::known::Known;
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

    pub(super) fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub known: Known,
}

impl Field {
    /// Its whole line, if that is spaced as we would write it.
    pub(super) fn line<'a>(&self, buffer: &'a [u8]) -> Option<&'a [u8]> {
        let (name, value) = (self.name, self.value);
        let line = buffer.get(name.start as usize..value.end as usize + 2)?;
        let sent =
            line.get(name.len()..name.len() + 2)? == b": " && value.start == name.end + 2 && line.ends_with(b"\r\n");
        sent.then_some(line)
    }
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
        // Mostly all of it is here and sound: then its end is where its lines end. Whatever else it is, the search for the
        // end comes first, so that cuts don't change what is said of it.
        if self.scanned == self.start
            && let Some(whole) = buffer.get(..buffer.len().min(HEAD_BYTES_MAX))
            && let Ok(end) = self.lines(whole, kind)
        {
            self.len = end;
            return Ok(true);
        }
        match self.find_end(buffer) {
            Ok(Some(end)) => self.len = end,
            Ok(None) => return Ok(false),
            Err(Fault::HeadTooLarge) => return Err(oversize(buffer.get(self.start..).unwrap_or_default(), kind)),
            Err(fault) => return Err(fault),
        }
        let end = self.len;
        self.lines(buffer.get(..end).unwrap_or_default(), kind).map(|_| true)
    }

    /// Parses the start line and the fields up to the empty line, and says where that ends.
    fn lines(&mut self, head: &[u8], kind: Kind) -> Result<usize, Fault> {
        let mut cursor = Cursor { head, at: self.start };
        match kind {
            Kind::Request => self.request_line(&mut cursor)?,
            Kind::Response => self.status_line(&mut cursor)?,
        }
        self.fields.clear();
        parse_fields(&mut cursor, &mut self.fields)?;
        Ok(cursor.at)
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
        let line = cursor.head.get(cursor.at..).unwrap_or_default();
        match line.first() {
            Some(b'\r') => return cursor.expect(b"\r\n", Fault::BareCarriageReturn),
            Some(b' ' | b'\t') => return Err(Fault::ObsoleteFold),
            _ => {}
        }
        let name = name_of(line).ok_or(Fault::HeaderName)?;
        let known = Known::of(name);
        if !known.is_exact() && !is_token(name) {
            return Err(Fault::HeaderName);
        }
        let mut start = name.len() + 1;
        while let Some(b' ' | b'\t') = line.get(start) {
            start += 1;
        }
        let end = value_end(line, start);
        match line.get(end) {
            Some(b'\r') if line.get(end + 1) == Some(&b'\n') => {}
            Some(b'\r') => return Err(Fault::BareCarriageReturn),
            _ => return Err(Fault::HeaderValue),
        }
        if fields.len() == HEADERS_MAX {
            return Err(Fault::TooManyHeaders);
        }
        let kept = line.get(start..end).unwrap_or_default().trim_ascii_end().len();
        let at = cursor.at;
        let value = Span::new(at + start, at + start + kept);
        fields.push(Field { name: Span::new(at, at + name.len()), value, known });
        cursor.at += end + 2;
    }
}

/// What is before the first colon.
#[inline]
fn name_of(line: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    while let Some(word) = line.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = zeros(u64::from_le_bytes(*word) ^ (ONES * u64::from(b':')));
        if found != 0 {
            return line.get(..at + lowest(found));
        }
        at += 8;
    }
    let rest = line.get(at..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b':').and_then(|more| line.get(..at + more))
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bits of a word's control characters, tab among them. The lowest one is exact; above it others may be marked too.
fn controls(word: u64) -> u64 {
    let delete = word ^ (ONES * 0x7f);
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    (low | (delete.wrapping_sub(ONES) & !delete)) & HIGH
}

/// The high bits of a word's bytes that are 0. The lowest one is exact; above it others may be marked too.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// Position of the next line feed at or after `from`.
pub(super) fn find_line_feed(buffer: &[u8], from: usize) -> Option<usize> {
    let (words, rest) = buffer.get(from..)?.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = zeros(u64::from_le_bytes(*word) ^ (ONES * u64::from(b'\n')));
        if found != 0 {
            return Some(from + 8 * index + lowest(found));
        }
    }
    rest.iter().position(|byte| *byte == b'\n').map(|at| from + 8 * words.len() + at)
}

/// Which byte the lowest mark is of.
fn lowest(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
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

/// How many bytes at its start may be a host's name.
pub(super) fn host_len(authority: &[u8]) -> usize {
    class_len(authority, HOST)
}

/// How many bytes at the start are of a class.
#[inline]
fn class_len(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|byte| !in_class(*byte, class)).unwrap_or(bytes.len())
}

/// Where field content that begins at `at` ends, eight bytes at a step.
#[inline]
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(word) = rest.first_chunk::<8>() else { return at + class_len(rest, VALUE) };
        let marks = controls(u64::from_le_bytes(*word));
        if marks == 0 {
            at += 8;
            continue;
        }
        at += lowest(marks);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
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
        let len = class_len(self.head.get(self.at..).unwrap_or_default(), class);
        let span = Span::new(self.at, self.at + len);
        self.at += len;
        span
    }

    fn value(&mut self) -> Span {
        let start = self.at;
        self.at = value_end(self.head, start);
        Span::new(start, self.at)
    }

    #[inline]
    fn expect<const N: usize>(&mut self, bytes: &[u8; N], fault: Fault) -> Result<(), Fault> {
        if self.head.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) != Some(bytes) {
            return Err(fault);
        }
        self.at += N;
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
