//! Which headers pass and how heads are written: hop-by-hop ones end here, framing is ours, routes' filters apply, and
//! nothing that was configured or captured can break a line. Must not know connections.

use super::framing::Framing;
use super::head::{Field, Head, Known, Version, is_field_value, is_token};
use super::known::lower_word;
use super::traffic::Settings;
use crate::upstream::balance::Rng;
use snapshot::{Filters, HeaderOps};
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::IpAddr;

/// What `Connection` says.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Headers that end with this connection, by name in any case.
    nominated: Vec<Box<[u8]>>,
}

impl Options {
    pub(super) fn read(head: &Head, buffer: &[u8]) -> Self {
        let mut options = Self::default();
        for value in head.values(buffer, Known::Connection) {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                let is = |known: &[u8]| token.eq_ignore_ascii_case(known);
                if is(b"keep-alive") {
                    options.keep_alive = true;
                } else if is(b"close") {
                    options.close = true;
                } else if is(b"upgrade") {
                    options.upgrade = true;
                } else if !token.is_empty() && !is(b"te") && !is(b"http2-settings") {
                    options.nominated.push(token.into());
                }
            }
        }
        options
    }

    /// Whether the peer keeps the connection open after this message.
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    pub(super) fn ends(&self, name: &[u8]) -> bool {
        self.nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
}

/// Whether a head asks for, or agrees to, `websocket` and nothing else.
pub(super) fn is_websocket(head: &Head, buffer: &[u8], options: &Options) -> bool {
    let mut upgrades = head.values(buffer, Known::Upgrade);
    let one = upgrades.next().is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    options.upgrade && one && upgrades.next().is_none()
}

/// A request as it goes to an endpoint.
pub(super) struct RequestHead<'a> {
    pub(super) head: &'a Head,
    pub(super) buffer: &'a [u8],
    pub(super) options: &'a Options,
    pub(super) authority: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) query: Option<&'a [u8]>,
    pub(super) framing: Framing,
    pub(super) upgrade: bool,
    /// The endpoint speaks HTTP/2, where `te: trailers` is for it.
    pub(super) two: bool,
    pub(super) filters: Option<&'a Filters>,
    pub(super) settings: &'a Settings,
    pub(super) peer: Option<IpAddr>,
}

impl RequestHead<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.method.of(self.buffer));
        out.push(b' ');
        push_visible(out, self.path);
        if let Some(query) = self.query {
            out.push(b'?');
            push_visible(out, query);
        }
        push_line(out, b" HTTP/1.1\r\nhost: ", self.authority);
        let ops = self.filters.map(|filters| &filters.request);
        for field in self.head.fields.iter() {
            if self.passes(field) && !is_replaced(ops, field.name.of(self.buffer)) {
                push_received(out, field, self.buffer);
            }
        }
        if self.settings.edge {
            self.write_forwarding(out, ops);
        }
        push_ops(out, ops);
        match self.framing {
            // A method that usually has a body gets to know that there is none.
            Framing::Empty if matches!(self.head.method.of(self.buffer), b"POST" | b"PUT" | b"PATCH") => {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::Empty => {}
            framing => push_framing(out, framing),
        }
        if self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn passes(&self, field: &Field) -> bool {
        let stays = match field.known {
            Known::Other => true,
            Known::Host | Known::ContentLength | Known::XKumaTags | Known::XForwardedClientCert => false,
            Known::Te => self.two && field.value.of(self.buffer) == b"trailers",
            Known::Expect => self.head.version == Version::Http11,
            Known::Trailer => self.framing == Framing::Chunked,
            Known::XForwardedFor | Known::XForwardedProto | Known::XRequestId | Known::XEnvoy => !self.settings.edge,
            known => !known.is_hop_by_hop(),
        };
        stays && !self.options.ends(field.name.of(self.buffer))
    }

    fn write_forwarding(&self, out: &mut Vec<u8>, ops: Option<&HeaderOps>) {
        if !is_replaced(ops, b"x-forwarded-for") {
            out.extend_from_slice(b"x-forwarded-for: ");
            if !self.options.ends(b"x-forwarded-for") {
                for value in self.head.values(self.buffer, Known::XForwardedFor) {
                    out.extend_from_slice(value);
                    out.push(b',');
                }
            }
            if let Some(peer) = self.peer {
                push_address(out, peer.to_canonical());
            }
            out.extend_from_slice(b"\r\n");
        }
        if !is_replaced(ops, b"x-forwarded-proto") {
            push_line(out, b"x-forwarded-proto: ", scheme(self.settings).as_bytes());
        }
        if !is_replaced(ops, b"x-request-id") {
            push_line(out, b"x-request-id: ", &request_id());
        }
    }
}

pub(super) fn scheme(settings: &Settings) -> &'static str {
    if settings.https { "https" } else { "http" }
}

/// An endpoint's response as it goes to the client.
pub(super) struct ResponseHead<'a> {
    pub(super) head: &'a Head,
    pub(super) buffer: &'a [u8],
    pub(super) options: &'a Options,
    /// How the body goes to the client; UntilClose for clients that don't know chunks.
    pub(super) framing: Framing,
    /// Length of the body that isn't sent (HEAD, 304).
    pub(super) announced: Option<u64>,
    pub(super) connection: Option<&'static str>,
    pub(super) upgrade: bool,
    pub(super) filters: Option<&'a Filters>,
    pub(super) settings: &'a Settings,
}

impl ResponseHead<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, self.head.status.into());
        push_line(out, b" ", self.head.phrase.of(self.buffer));
        let ops = self.filters.map(|filters| &filters.response);
        for field in self.head.fields.iter() {
            let name = field.name.of(self.buffer);
            let passes = match field.known {
                Known::Other => true,
                Known::ContentLength => false,
                Known::Server => self.settings.server.is_none(),
                Known::Trailer => self.framing == Framing::Chunked,
                known => !known.is_hop_by_hop(),
            };
            if passes && !self.options.ends(name) && !is_replaced(ops, name) {
                push_received(out, field, self.buffer);
            }
        }
        push_common(out, ops, self.settings);
        match (self.framing, self.announced) {
            (Framing::Empty, Some(length)) => push_framing(out, Framing::Length(length)),
            (framing, _) => push_framing(out, framing),
        }
        if let Some(option) = self.connection {
            push_line(out, b"connection: ", option.as_bytes());
        }
        if self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Configured headers of a response, an endpoint's or our own.
pub(super) fn push_common(out: &mut Vec<u8>, ops: Option<&HeaderOps>, settings: &Settings) {
    if let Some(server) = settings.server
        && !is_replaced(ops, b"server")
    {
        push_line(out, b"server: ", server.as_bytes());
    }
    push_ops(out, ops);
}

pub(super) fn push_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
}

/// `start` is a name in lower case, with its colon.
fn push_line(out: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    out.extend_from_slice(start);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Names go out in lower case.
pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name);
    lower(out, start, name.len());
    push_line(out, b": ", value);
}

/// A field of a head as it goes on: mostly its line is copied whole, and only its name changes.
fn push_received(out: &mut Vec<u8>, field: &Field, buffer: &[u8]) {
    match field.line(buffer) {
        Some(line) => {
            let start = out.len();
            out.extend_from_slice(line);
            lower(out, start, field.name.len());
        }
        None => push_field(out, field.name.of(buffer), field.value.of(buffer)),
    }
}

/// Makes letters small, eight bytes at a step; the last step may see some of them twice.
fn lower(out: &mut [u8], start: usize, len: usize) {
    let Some(name) = out.get_mut(start..).and_then(|name| name.get_mut(..len)) else { return };
    let (words, _) = name.as_chunks_mut::<8>();
    if words.is_empty() {
        name.iter_mut().for_each(|byte| byte.make_ascii_lowercase());
        return;
    }
    for word in words {
        *word = lower_bytes(*word);
    }
    if let Some(last) = name.last_chunk_mut::<8>() {
        *last = lower_bytes(*last);
    }
}

fn lower_bytes(bytes: [u8; 8]) -> [u8; 8] {
    lower_word(u64::from_le_bytes(bytes)).to_le_bytes()
}

/// A configured header; left out if it could break the head (control planes refuse such ones with a reason).
pub(super) fn push_checked(out: &mut Vec<u8>, name: &str, value: &str) {
    if is_settable(name, value) {
        push_field(out, name.as_bytes(), value.as_bytes());
    }
}

/// Whether configuration may set this header to this value: well-formed, and not ours (framing, connection, routing).
pub(super) fn is_settable(name: &str, value: &str) -> bool {
    let known = Known::of(name.as_bytes());
    let ours = known.is_hop_by_hop() || matches!(known, Known::ContentLength | Known::Host);
    !ours && is_token(name.as_bytes()) && is_field_value(value.as_bytes())
}

fn push_ops(out: &mut Vec<u8>, ops: Option<&HeaderOps>) {
    let Some(ops) = ops else { return };
    for (name, value) in ops.set.iter().chain(&ops.add) {
        push_checked(out, name, value);
    }
}

/// Whether a header that came gives way to the route's filters.
pub(super) fn is_replaced(ops: Option<&HeaderOps>, name: &[u8]) -> bool {
    let same = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
    ops.is_some_and(|ops| ops.remove.iter().any(|n| same(n)) || ops.set.iter().any(|(n, _)| same(n)))
}

/// The authority that a route's filters order: the endpoint's DNS name, a host rewrite, or a `Host` set as a header.
pub(super) fn authority<'a>(filters: Option<&'a Filters>, endpoint: Option<&'a str>) -> Option<&'a str> {
    let filters = filters?;
    let set =
        || filters.request.set.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("host") || name == ":authority");
    let of_endpoint = endpoint.filter(|_| filters.host_of_endpoint);
    let chosen = of_endpoint.or(filters.host.as_deref()).or_else(|| set().map(|(_, value)| value.as_str()))?;
    super::target::split_host(chosen.as_bytes()).map(|_| chosen)
}

/// Writes part of a target or a location; what isn't visible ASCII is escaped.
pub(super) fn push_visible(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'#' {
            out.push(*byte);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Decimal digits, several times faster than formatting them.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a vector can't fail.
        let _ = write!(out, "{address}");
        return;
    };
    let mut digits = [0; 16];
    let mut places = digits.iter_mut();
    let mut put = |byte| places.next().into_iter().for_each(|place| *place = byte);
    for octet in address.octets() {
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
        put(b'.');
    }
    let unused = places.len();
    out.extend_from_slice(digits.get(..digits.len() - unused - 1).unwrap_or_default());
}

/// A random-looking UUID (version 4): unguessable keys over a count, without a system call a request.
pub(super) fn request_id() -> [u8; 36] {
    thread_local! {
        static KEYS: (RandomState, u64, Cell<u64>) = (RandomState::new(), RandomState::new().hash_one(0), Cell::new(0));
    }
    KEYS.with(|(state, key, count)| {
        count.set(count.get().wrapping_add(1));
        // The first half is what can't be guessed; the second is cheaper, and another one for every count.
        uuid(state.hash_one(count.get()), Rng::new(key.wrapping_add(count.get())).next_u64())
    })
}

fn uuid(high: u64, low: u64) -> [u8; 36] {
    let high = (high & !0xf000) | 0x4000;
    let low = (low & (u64::MAX >> 2)) | (1 << 63);
    let mut text = [b'-'; 36];
    let mut put = |at: usize, digits: &[u8]| {
        if let Some(place) = text.get_mut(at..at + digits.len()) {
            place.copy_from_slice(digits);
        }
    };
    let ([second, third], [fourth, fifth]) = (halves(high as u32), halves((low >> 32) as u32));
    put(0, &hex((high >> 32) as u32));
    put(9, &second);
    put(14, &third);
    put(19, &fourth);
    put(24, &fifth);
    put(28, &hex(low as u32));
    text
}

fn halves(number: u32) -> [[u8; 4]; 2] {
    let [a, b, c, d, e, f, g, h] = hex(number);
    [[a, b, c, d], [e, f, g, h]]
}

/// Eight digits at once: each half byte in a byte of its own, then to its character.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut spread = u64::from(number);
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & (ONES * 0x0f);
    let letters = ((spread + ONES * 6) >> 4) & ONES;
    (spread + ONES * u64::from(b'0') + letters * 0x27).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_of_version_4() {
        assert_eq!(&uuid(0, 0), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&uuid(u64::MAX, u64::MAX), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&uuid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef), b"01234567-89ab-4def-8123-456789abcdef");
        assert_ne!(request_id(), request_id());
    }

    #[test]
    fn numbers_and_addresses_are_written_as_formatting_would() {
        for number in [0, 7, 10, 200, 65_536, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
        for address in ["127.0.0.1", "255.10.0.9", "255.255.255.255", "2001:db8::1"] {
            let mut out = Vec::new();
            push_address(&mut out, address.parse().unwrap());
            assert_eq!(out, address.as_bytes());
        }
    }

    #[test]
    fn names_are_written_in_lower_case_whatever_their_length_and_letters() {
        let letters = "AZaz09-_~!`^|'*+.#$%&@[{/:";
        for len in 0..letters.len() {
            for name in [&letters[..len], &letters[letters.len() - len..]] {
                let mut out = b"X-".to_vec();
                push_field(&mut out, name.as_bytes(), b"Value");
                assert_eq!(String::from_utf8(out).unwrap(), format!("X-{}: Value\r\n", name.to_ascii_lowercase()));
            }
        }
    }

    #[test]
    fn a_field_goes_on_the_same_however_its_line_was_spaced() {
        for line in ["Accept: A b", "ACCEPT:A b", "accept:\tA b", "Accept: \t A b \t", "accept:  A b"] {
            let head_bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\nEmpty:\r\nVoid: \r\n\r\n").into_bytes();
            let mut head = Head::default();
            assert!(head.parse(&head_bytes, super::super::head::Kind::Request).unwrap());
            let mut out = Vec::new();
            head.fields.iter().for_each(|field| push_received(&mut out, field, &head_bytes));
            assert_eq!(String::from_utf8(out).unwrap(), "host: a\r\naccept: A b\r\nempty: \r\nvoid: \r\n", "{line:?}");
        }
    }

    fn options(connection: &str) -> Options {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
        let mut head = Head::default();
        assert!(head.parse(request.as_bytes(), super::super::head::Kind::Request).unwrap());
        Options::read(&head, request.as_bytes())
    }

    #[test]
    fn connection_options_are_known_in_any_case() {
        let known = options("Keep-Alive, UPGRADE,TE, http2-Settings,, X-Own");
        assert!(known.keep_alive && known.upgrade && !known.close && known.ends(b"x-own"));
        assert!(!known.ends(b"te") && !known.ends(b"upgrade"));
        assert!(options("Close").close);
    }
}
