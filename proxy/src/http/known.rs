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
