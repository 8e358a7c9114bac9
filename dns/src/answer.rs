//! Replies of our own as bytes, written in place behind the question they answer, without allocating. It owns the
//! records' encoding and the reasons of refusals; it must not know snapshots, sockets or resolvers.

use crate::wire::{Edns, HEADER_BYTES, Query, Shape, class, parse, qtype};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Room for the longest answer we write (header, question, a record with another name, OPT), and what any client takes
/// over UDP: none of ours is ever truncated.
pub(crate) const ANSWER_BYTES_MAX: usize = 512;
/// What we say we can receive over UDP: it passes every path without fragments (DNS flag day 2020).
const OUR_UDP_BYTES: u16 = 1232;
/// The EDNS option of RFC 8914.
const EXTENDED_ERROR: u16 = 15;

/// Response codes; those above 15 need an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NotImp = 4,
    BadVers = 16,
}

/// Why a question is refused, as clients with EDNS are told (Extended DNS Errors, RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    NotReady,
    /// A name of the mesh without a virtual IP.
    Unplaced,
    /// Nobody can be asked: no usable `nameserver` line.
    NoResolver,
    /// None of those that were asked answered.
    Unanswered,
    Busy,
    /// A query of ours that interception brought back.
    Loop,
}

impl Why {
    /// The code's registered meaning, and the words for people.
    pub(crate) fn info(self) -> (u16, &'static str) {
        match self {
            Self::NotReady => (14, "this proxy has nothing from its control plane yet"),
            Self::Unplaced => (0, "no virtual IP: the range is exhausted, or IPv6 on a machine without"),
            Self::NoResolver => (22, "resolv.conf names no usable resolver"),
            Self::Unanswered => (22, "no resolver answered in time"),
            Self::Busy => (0, "too many queries wait for resolvers"),
            Self::Loop => (0, "the query came back: exempt this process from DNS capture"),
        }
    }
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

    fn label(&mut self, label: &str) {
        match u8::try_from(label.len()) {
            Ok(length @ 1..=63) => {
                self.put(&[length]);
                self.put(label.as_bytes());
            }
            _ => self.full = true,
        }
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

/// What follows the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    Addresses {
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    },
    /// A name in presentation form.
    Ptr(&'a str),
    /// No such record; `zone_at` is where the zone's name begins inside the question's name.
    Soa {
        zone_at: usize,
    },
    /// NOERROR without records, about a name that isn't ours.
    Empty,
    Error(Rcode),
    ServFail(Why),
}

impl Body<'_> {
    /// The code, and how many records stand in the answer and the authority section.
    fn shape(self) -> (Rcode, u16, u16) {
        match self {
            Body::Addresses { v4, v6 } => (Rcode::NoError, u16::from(v4.is_some()) + u16::from(v6.is_some()), 0),
            Body::Ptr(_) => (Rcode::NoError, 1, 0),
            Body::Soa { .. } => (Rcode::NoError, 0, 1),
            Body::Empty => (Rcode::NoError, 0, 0),
            Body::Error(rcode) => (rcode, 0, 0),
            Body::ServFail(_) => (Rcode::ServFail, 0, 0),
        }
    }
}

/// Writes the answer to `query`, which is the question of `message`, into `out`: its length, or `None` if it doesn't fit.
pub(crate) fn answer(message: &[u8], query: &Query, body: Body<'_>, ttl_s: u32, out: &mut [u8]) -> Option<usize> {
    let question = message.get(HEADER_BYTES..query.end)?;
    let (rcode, answers, authorities) = body.shape();
    let mut writer = Writer { out, len: 0, full: false };
    let authoritative = answers + authorities > 0;
    writer.put(&header(message, rcode, authoritative)?);
    for count in [1, answers, authorities, u16::from(query.edns.is_some())] {
        writer.put_u16(count);
    }
    writer.put(question);
    match body {
        Body::Addresses { v4, v6 } => {
            if let Some(address) = v4 {
                writer.record(pointer(0), qtype::A, ttl_s, 4);
                writer.put(&address.octets());
            }
            if let Some(address) = v6 {
                writer.record(pointer(0), qtype::AAAA, ttl_s, 16);
                writer.put(&address.octets());
            }
        }
        Body::Ptr(name) => {
            // Length octets stand where the dots are, one before the name, and the root's behind it.
            writer.record(pointer(0), qtype::PTR, ttl_s, u16::try_from(name.len() + 2).ok()?);
            name.split('.').for_each(|label| writer.label(label));
            writer.put(&[0]);
        }
        Body::Soa { zone_at } => soa(&mut writer, zone_at, ttl_s),
        Body::Empty | Body::Error(_) | Body::ServFail(_) => {}
    }
    if let Some(edns) = query.edns {
        let why = if let Body::ServFail(why) = body { Some(why) } else { None };
        put_opt(&mut writer, rcode, edns, why);
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

fn put_opt(writer: &mut Writer<'_>, rcode: Rcode, edns: Edns, why: Option<Why>) {
    writer.put(&[0]);
    writer.put_u16(qtype::OPT);
    writer.put_u16(OUR_UDP_BYTES);
    let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
    writer.put(&[rcode as u8 >> 4, 0, dnssec_ok, 0]);
    let Some((code, text)) = why.map(Why::info) else { return writer.put_u16(0) };
    let length = u16::try_from(2 + text.len()).unwrap_or(0);
    for value in [length + 4, EXTENDED_ERROR, length, code] {
        writer.put_u16(value);
    }
    writer.put(text.as_bytes());
}

/// Id and flags of a reply: opcode, RD and CD are the query's, RA follows RD (what isn't ours is recursed for).
fn header(message: &[u8], rcode: Rcode, authoritative: bool) -> Option<[u8; 4]> {
    let [id_high, id_low, high, low] = *message.first_chunk::<4>()?;
    let recursion = high & 0x01;
    let high = 0x80 | (high & 0x78) | if authoritative { 0x04 } else { 0 } | recursion;
    let low = (recursion << 7) | (low & 0x10) | (rcode as u8 & 0x0f);
    Some([id_high, id_low, high, low])
}

/// FORMERR to anything with a header, which is all of it that is believed.
pub(crate) fn malformed(message: &[u8], out: &mut [u8]) -> Option<usize> {
    let room = out.first_chunk_mut::<HEADER_BYTES>()?;
    *room = [0; HEADER_BYTES];
    room.first_chunk_mut::<4>()?.copy_from_slice(&header(message, Rcode::FormErr, false)?);
    Some(HEADER_BYTES)
}

/// SERVFAIL. The question is repeated when it can be read, so that clients that match by it accept the reply; the reply
/// is never longer than the query plus an OPT record.
pub(crate) fn failed(message: &[u8], why: Why, out: &mut [u8]) -> Option<usize> {
    if let Shape::Question(query) = parse(message) {
        return answer(message, &query, Body::ServFail(why), 0, out);
    }
    malformed(message, out)?;
    out.first_chunk_mut::<4>()?.copy_from_slice(&header(message, Rcode::ServFail, false)?);
    Some(HEADER_BYTES)
}
