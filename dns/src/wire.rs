//! DNS messages as bytes: reads the one question of a query and writes answers in place behind it, without allocating.
//! It owns offsets and limits of the wire format (RFC 1035, 6891); it must not know snapshots, sockets or resolvers.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const HEADER_BYTES: usize = 12;
/// Room for the longest answer we build: header, question, two records with compressed names, OPT.
pub(crate) const ANSWER_BYTES_MAX: usize = 512;
/// A name on the wire, with its root label (RFC 1035 §2.3.4).
const WIRE_NAME_BYTES_MAX: usize = 255;
/// What we say we can receive over UDP: it passes every path without fragments (DNS flag day 2020).
const OUR_UDP_BYTES: u16 = 1232;

pub mod qtype {
    //! Types of questions that are treated in their own way.
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const ANY: u16 = 255;
}

pub mod class {
    //! Classes in which the mesh has names.
    pub const IN: u16 = 1;
    pub const ANY: u16 = 255;
}

/// Response codes; those above 15 need an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    BadVers = 16,
}

/// A name in presentation form, lower case, without trailing dot, kept on the stack.
pub(crate) struct Name {
    bytes: [u8; WIRE_NAME_BYTES_MAX],
    len: usize,
    /// A label holds a dot or isn't UTF-8: no text stands for this name.
    textual: bool,
}

impl Name {
    /// `None` when no mesh name can be meant.
    pub(crate) fn text(&self) -> Option<&str> {
        let bytes = self.bytes.get(..self.len).filter(|_| self.textual)?;
        std::str::from_utf8(bytes).ok()
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// One question, and where it ends in its message.
pub(crate) struct Query {
    pub(crate) name: Name,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) end: usize,
    pub(crate) edns: Option<Edns>,
}

/// What a datagram turns out to be.
#[expect(clippy::large_enum_variant, reason = "a box would allocate on every query")]
pub(crate) enum Shape {
    /// No reply may be sent: too short, or itself a reply (two servers would talk forever).
    Silent,
    /// One plain question.
    Plain(Query),
    /// A query with more records than the fast path reads.
    Unusual,
    /// Not a question about names (opcode, no question): an upstream knows better.
    Foreign,
    Malformed,
}

pub(crate) fn parse(message: &[u8]) -> Shape {
    let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Shape::Silent };
    let [_, _, flags, _, qd_high, qd_low, an_high, an_low, ns_high, ns_low, ar_high, ar_low] = *header;
    if flags & 0x80 != 0 {
        return Shape::Silent;
    }
    let questions = u16::from_be_bytes([qd_high, qd_low]);
    if flags & 0x78 != 0 || questions == 0 {
        return Shape::Foreign;
    }
    if questions > 1 {
        return Shape::Malformed; // RFC 9619
    }
    let Some(mut query) = read_question(message) else { return Shape::Malformed };
    let records = [an_high, an_low, ns_high, ns_low, ar_high];
    if records != [0; 5] || ar_low > 1 {
        return Shape::Unusual;
    }
    let rest = message.get(query.end..).unwrap_or_default();
    match (ar_low, rest) {
        (0, []) => Shape::Plain(query),
        (1, [0, 0, 41, _, _, _extended, version, flags, _, length_high, length_low, options @ ..])
            if options.len() == usize::from(u16::from_be_bytes([*length_high, *length_low])) =>
        {
            query.edns = Some(Edns { version: *version, dnssec_ok: flags & 0x80 != 0 });
            Shape::Plain(query)
        }
        _ => Shape::Unusual,
    }
}

/// The first question. Compression there can only point into the header, so it is refused.
fn read_question(message: &[u8]) -> Option<Query> {
    let mut name = Name { bytes: [0; WIRE_NAME_BYTES_MAX], len: 0, textual: true };
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > snapshot::limits::DNS_LABEL_BYTES_MAX || at - HEADER_BYTES + length >= WIRE_NAME_BYTES_MAX {
            return None;
        }
        if name.len > 0 {
            name.push(b'.')?;
        }
        for byte in message.get(at..at + length)? {
            name.textual &= *byte != b'.';
            name.push(byte.to_ascii_lowercase())?;
        }
        at += length;
    }
    let [type_high, type_low, class_high, class_low] = *message.get(at..)?.first_chunk::<4>()?;
    Some(Query {
        name,
        qtype: u16::from_be_bytes([type_high, type_low]),
        qclass: u16::from_be_bytes([class_high, class_low]),
        end: at + 4,
        edns: None,
    })
}

/// The question section's bytes of any message, for comparing an answer with its question.
pub(crate) fn question_bytes(message: &[u8]) -> Option<&[u8]> {
    let end = read_question(message)?.end;
    message.get(HEADER_BYTES..end)
}

pub(crate) fn question_type(message: &[u8]) -> Option<u16> {
    let mut at = HEADER_BYTES;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length if length > snapshot::limits::DNS_LABEL_BYTES_MAX => return None,
            length => at += 1 + length,
        }
    }
    message.get(at + 1..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(crate) fn question_count(message: &[u8]) -> Option<u16> {
    message.get(4..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(crate) fn id(message: &[u8]) -> Option<u16> {
    message.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(bytes) = message.first_chunk_mut::<2>() {
        *bytes = id.to_be_bytes();
    }
}

/// The response code in the header, without what an OPT record adds.
pub(crate) fn rcode(message: &[u8]) -> Option<u8> {
    message.get(3).map(|flags| flags & 0x0f)
}

/// Bytes of an answer under construction. Writing past the end is remembered and makes the answer fail as a whole.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    full: bool,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.full = true,
        }
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Name (as a pointer), type, class IN, TTL, length of the data that follows.
    fn record(&mut self, owner: u16, rtype: u16, ttl_s: u32, data_bytes: u16) {
        self.put_u16(owner);
        self.put_u16(rtype);
        self.put_u16(class::IN);
        self.put_u32(ttl_s);
        self.put_u16(data_bytes);
    }
}

/// What follows the question in an answer of the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// No such record; `zone_at` is where the zone's name begins inside the question's name.
    Soa {
        zone_at: usize,
    },
    Error(Rcode),
}

/// Writes the answer to `query`, which is the question of `message`, into `out`: its length, or `None` if it doesn't fit.
pub(crate) fn answer(message: &[u8], query: &Query, body: Body, ttl_s: u32, out: &mut [u8]) -> Option<usize> {
    let question = message.get(HEADER_BYTES..query.end)?;
    let (rcode, answers, authorities) = match body {
        Body::A(_) | Body::Aaaa(_) => (Rcode::NoError, 1, 0),
        Body::Soa { .. } => (Rcode::NoError, 0, 1),
        Body::Error(rcode) => (rcode, 0, 0),
    };
    let mut writer = Writer { out, len: 0, full: false };
    let authoritative = rcode == Rcode::NoError;
    writer.put(&header(message, rcode, authoritative)?);
    for count in [1, answers, authorities, u16::from(query.edns.is_some())] {
        writer.put_u16(count);
    }
    writer.put(question);
    match body {
        Body::A(address) => {
            writer.record(pointer(0), qtype::A, ttl_s, 4);
            writer.put(&address.octets());
        }
        Body::Aaaa(address) => {
            writer.record(pointer(0), qtype::AAAA, ttl_s, 16);
            writer.put(&address.octets());
        }
        Body::Soa { zone_at } => soa(&mut writer, zone_at, ttl_s),
        Body::Error(_) => {}
    }
    if let Some(edns) = query.edns {
        put_opt(&mut writer, rcode, edns);
    }
    (!writer.full).then_some(writer.len)
}

/// A compression pointer to a place inside the question's name.
fn pointer(at: usize) -> u16 {
    0xc000 | u16::try_from(HEADER_BYTES + at).unwrap_or(0)
}

/// The zone's SOA, so that resolvers may remember that there is nothing (RFC 2308), as long as a positive answer.
fn soa(writer: &mut Writer<'_>, zone_at: usize, ttl_s: u32) {
    const MNAME: &[u8] = b"\x02ns";
    const RNAME: &[u8] = b"\x0ahostmaster";
    let zone = pointer(zone_at);
    let data_bytes = MNAME.len() + 2 + RNAME.len() + 2 + 5 * 4;
    writer.record(zone, qtype::SOA, ttl_s, u16::try_from(data_bytes).unwrap_or(0));
    writer.put(MNAME);
    writer.put_u16(zone);
    writer.put(RNAME);
    writer.put_u16(zone);
    let (serial, refresh_s, retry_s, expire_s) = (1, 3600, 600, 86_400);
    for value in [serial, refresh_s, retry_s, expire_s, ttl_s] {
        writer.put_u32(value);
    }
}

fn put_opt(writer: &mut Writer<'_>, rcode: Rcode, edns: Edns) {
    writer.put(&[0]);
    writer.put_u16(qtype::OPT);
    writer.put_u16(OUR_UDP_BYTES);
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    writer.put(&[rcode as u8 >> 4, 0, dnssec_ok, 0, 0, 0]);
}

/// Id and flags of a reply: opcode, RD and CD are the query's, RA follows RD (what isn't ours is recursed for).
fn header(message: &[u8], rcode: Rcode, authoritative: bool) -> Option<[u8; 4]> {
    let [id_high, id_low, high, low] = *message.first_chunk::<4>()?;
    let recursion = high & 0x01;
    let high = 0x80 | (high & 0x78) | if authoritative { 0x04 } else { 0 } | recursion;
    let low = (recursion << 7) | (low & 0x10) | (rcode as u8 & 0x0f);
    Some([id_high, id_low, high, low])
}

/// An error reply to anything with a header. The question is repeated when it can be read, so that clients that match
/// by it accept the reply; the reply is never longer than the query plus an OPT record.
pub(crate) fn error(message: &[u8], rcode: Rcode, out: &mut [u8]) -> Option<usize> {
    if let (Shape::Plain(query), true) = (parse(message), rcode != Rcode::FormErr) {
        return answer(message, &query, Body::Error(rcode), 0, out);
    }
    let room = out.first_chunk_mut::<HEADER_BYTES>()?;
    *room = [0; HEADER_BYTES];
    room.first_chunk_mut::<4>()?.copy_from_slice(&header(message, rcode, false)?);
    Some(HEADER_BYTES)
}
