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
        match name.len() {
            2 if is(name, b"te") => Self::Te,
            4 if is(name, b"host") => Self::Host,
            6 if is(name, b"expect") => Self::Expect,
            6 if is(name, b"server") => Self::Server,
            7 if is(name, b"trailer") => Self::Trailer,
            7 if is(name, b"upgrade") => Self::Upgrade,
            10 if is(name, b"connection") => Self::Connection,
            10 if is(name, b"keep-alive") => Self::KeepAlive,
            11 if is(name, b"x-kuma-tags") => Self::XKumaTags,
            12 if is(name, b"x-request-id") => Self::XRequestId,
            14 if is(name, b"content-length") => Self::ContentLength,
            14 if is(name, b"http2-settings") => Self::Http2Settings,
            15 if is(name, b"x-forwarded-for") => Self::XForwardedFor,
            16 if is(name, b"proxy-connection") => Self::ProxyConnection,
            17 if is(name, b"transfer-encoding") => Self::TransferEncoding,
            17 if is(name, b"x-forwarded-proto") => Self::XForwardedProto,
            18 if is(name, b"proxy-authenticate") => Self::ProxyAuthenticate,
            23 if is(name, b"x-forwarded-client-cert") => Self::XForwardedClientCert,
            8.. if is(name, b"x-envoy-") => Self::XEnvoy,
            _ => Self::Other,
        }
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

/// Whether `name` begins so, in any case; of a known length, which takes few steps.
#[inline]
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    name.first_chunk::<N>().is_some_and(|start| start.eq_ignore_ascii_case(known))
}
