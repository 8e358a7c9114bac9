//! Header names that are treated apart, and what follows from each. Must not know messages.

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
        let ends = Ends::of(name);
        // Names of more than 16 bytes aren't only their ends.
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if ends == const { Ends::of(b"te") } => Self::Te,
            4 if ends == const { Ends::of(b"host") } => Self::Host,
            6 if ends == const { Ends::of(b"expect") } => Self::Expect,
            6 if ends == const { Ends::of(b"server") } => Self::Server,
            7 if ends == const { Ends::of(b"trailer") } => Self::Trailer,
            7 if ends == const { Ends::of(b"upgrade") } => Self::Upgrade,
            10 if ends == const { Ends::of(b"connection") } => Self::Connection,
            10 if ends == const { Ends::of(b"keep-alive") } => Self::KeepAlive,
            11 if ends == const { Ends::of(b"x-kuma-tags") } => Self::XKumaTags,
            12 if ends == const { Ends::of(b"x-request-id") } => Self::XRequestId,
            14 if ends == const { Ends::of(b"content-length") } => Self::ContentLength,
            14 if ends == const { Ends::of(b"http2-settings") } => Self::Http2Settings,
            15 if ends == const { Ends::of(b"x-forwarded-for") } => Self::XForwardedFor,
            16 if ends == const { Ends::of(b"proxy-connection") } => Self::ProxyConnection,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            17 if is(b"x-forwarded-proto") => Self::XForwardedProto,
            18 if is(b"proxy-authenticate") => Self::ProxyAuthenticate,
            23 if is(b"x-forwarded-client-cert") => Self::XForwardedClientCert,
            8.. if ends.first == const { Ends::of(b"x-envoy-") }.first => Self::XEnvoy,
            _ => Self::Other,
        }
    }

    /// The name is one, letter by letter, and so well-formed.
    pub(super) fn is_exact(self) -> bool {
        !matches!(self, Self::Other | Self::XEnvoy)
    }

    pub(super) fn bit(self) -> u32 {
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

/// A name's first and last eight bytes in lower case; of a shorter one its bytes, then zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    #[inline]
    const fn of(name: &[u8]) -> Self {
        match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            (Some(first), Some(last)) => {
                Self { first: lower_word(u64::from_le_bytes(*first)), last: lower_word(u64::from_le_bytes(*last)) }
            }
            _ => Self { first: lower_word(short(name)), last: 0 },
        }
    }
}

/// Fewer than eight bytes as a word.
#[inline]
const fn short(name: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        // They overlap where they are the same bytes.
        return u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << (8 * (name.len() - 4));
    }
    match name {
        [a, b, c] => *a as u64 | (*b as u64) << 8 | (*c as u64) << 16,
        [a, b] => *a as u64 | (*b as u64) << 8,
        [a] => *a as u64,
        _ => 0,
    }
}

/// Makes the capital letters among eight bytes small.
#[inline]
pub(super) const fn lower_word(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = word & (ONES * 0x7f);
    // The high bit of each byte from `A`, without those beyond `Z`.
    let upper = (low + ONES * 0x3f) & !(low + ONES * 0x25) & !word & (ONES * 0x80);
    word | (upper >> 2)
}

#[cfg(test)]
mod tests {
    use super::Known;

    #[test]
    fn names_are_known_in_any_case_and_no_others() {
        let names = [
            "te",
            "host",
            "expect",
            "server",
            "trailer",
            "upgrade",
            "connection",
            "keep-alive",
            "x-kuma-tags",
            "x-request-id",
            "content-length",
            "http2-settings",
            "x-forwarded-for",
            "proxy-connection",
            "transfer-encoding",
            "x-forwarded-proto",
            "proxy-authenticate",
            "x-forwarded-client-cert",
            "x-envoy-x",
        ];
        let all: std::collections::HashSet<u32> = names.iter().map(|name| Known::of(name.as_bytes()).bit()).collect();
        assert_eq!(all.len(), names.len());
        for name in names {
            let known = Known::of(name.as_bytes());
            assert_ne!(known, Known::Other, "{name}");
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), known, "{name}");
            let prefix = known == Known::XEnvoy;
            for at in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                other[at] ^= 0x40;
                assert!(prefix || Known::of(&other) == Known::Other, "{name} with another byte at {at}");
                other[at] ^= 0x50;
                assert!(prefix || Known::of(&other) == Known::Other, "{name} with another byte at {at}");
            }
            assert!(prefix || Known::of(&[name.as_bytes(), b"s"].concat()) == Known::Other, "{name}s");
        }
        for name in ["", "x", "x-envoy", "y-envoy-x", "accept", "content-type"] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name}");
        }
    }
}
