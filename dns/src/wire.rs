//! DNS messages as bytes: reads the one question of a query and walks over what follows it, without allocating. It owns
//! offsets and limits of the wire format (RFC 1035, 6891); it must not know snapshots, sockets or resolvers.

pub(crate) const HEADER_BYTES: usize = 12;
/// A name on the wire, with its root label (RFC 1035 §2.3.4).
const WIRE_NAME_BYTES_MAX: usize = 255;
pub mod qtype {
    //! Types of questions that are treated in their own way.
    pub const A: u16 = 1;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const OPT: u16 = 41;
    pub const ANY: u16 = 255;

    /// Not types of records but of transactions (AXFR, TSIG and the like), ANY excepted (RFC 6895 §3.1).
    pub fn is_meta(value: u16) -> bool {
        (128..ANY).contains(&value)
    }
}

pub mod class {
    //! Classes in which the mesh has names.
    pub const IN: u16 = 1;
    pub const ANY: u16 = 255;
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
    Question(Query),
    /// Not a question about names (opcode, no question): an upstream knows better.
    Foreign,
    Malformed,
}

pub(crate) fn parse(message: &[u8]) -> Shape {
    let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Shape::Silent };
    let [_, _, flags, _, qd_high, qd_low, counts @ ..] = *header;
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
    match (counts, message.get(query.end..).unwrap_or_default()) {
        ([0, 0, 0, 0, 0, 0], []) => {}
        ([0, 0, 0, 0, 0, 1], [0, 0, 41, _, _, _, version, flags, _, 0, 0]) => {
            query.edns = Some(Edns { version: *version, dnssec_ok: flags & 0x80 != 0 });
        }
        _ => match read_records(message, query.end, counts) {
            Some(edns) => query.edns = edns,
            None => return Shape::Malformed,
        },
    }
    Shape::Question(query)
}

/// Everything behind the question. Only an OPT record says something to us; the others have to be there as counted, and
/// nothing else. `None`: malformed.
fn read_records(message: &[u8], mut at: usize, counts: [u8; 6]) -> Option<Option<Edns>> {
    let [an_high, an_low, ns_high, ns_low, ar_high, ar_low] = counts;
    let answers = u32::from(u16::from_be_bytes([an_high, an_low]));
    let before = answers + u32::from(u16::from_be_bytes([ns_high, ns_low]));
    let all = before + u32::from(u16::from_be_bytes([ar_high, ar_low]));
    let mut edns = None;
    for n in 0..all {
        let owner = at;
        at = skip_name(message, at)?;
        let [type_high, type_low, _, _, _, version, flags, _, length_high, length_low] =
            *message.get(at..)?.first_chunk::<10>()?;
        at += 10;
        let data = message.get(at..at + usize::from(u16::from_be_bytes([length_high, length_low])))?;
        at += data.len();
        if u16::from_be_bytes([type_high, type_low]) == qtype::OPT {
            // One, of the root, among the additional records (RFC 6891 §6.1.1).
            if n < before || edns.is_some() || message.get(owner) != Some(&0) || !are_options(data) {
                return None;
            }
            edns = Some(Edns { version, dnssec_ok: flags & 0x80 != 0 });
        }
    }
    (at == message.len()).then_some(edns)
}

/// Where the name that begins here ends. Pointers lead back and aren't followed: nobody wants to know the name.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = *message.get(at)?;
        match length >> 6 {
            0 if length == 0 => return Some(at + 1),
            0 if at + usize::from(length) - start < WIRE_NAME_BYTES_MAX => at += 1 + usize::from(length),
            3 => {
                let target = (usize::from(length & 0x3f) << 8) | usize::from(*message.get(at + 1)?);
                return (target < start).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// Whether an OPT record's data is a list of options.
fn are_options(mut data: &[u8]) -> bool {
    while let [_, _, length_high, length_low, rest @ ..] = data {
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes([*length_high, *length_low]))..) else { return false };
        data = rest;
    }
    data.is_empty()
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
