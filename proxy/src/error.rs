//! Why a connection or request ended otherwise than it should: one closed list, and one exhaustive map from it to log
//! flag, metric label, HTTP status and retryability. Knows no transport.

use std::fmt;

/// Closed list of causes. The flags are the ones operators know from Envoy's `%RESPONSE_FLAGS%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No listener, host, route or SNI matches.
    NoRoute,
    /// The service has no endpoint (its row's hint says why).
    NoEndpoint,
    ConnectFailed,
    ConnectTimeout,
    /// TLS to the upstream failed: handshake, roots or identity.
    UpstreamTls,
    /// The upstream ended before its answer was complete.
    UpstreamReset,
    /// The upstream's bytes break HTTP.
    UpstreamProtocol,
    /// The upstream didn't answer in time.
    ResponseTimeout,
    /// The client didn't finish its request in time.
    RequestTimeout,
    /// The client's bytes break HTTP (400), or are no TLS where TLS is due.
    DownstreamProtocol,
    HeadTooLarge,
    DownstreamTls,
    DownstreamReset,
    /// A permission doesn't admit the peer.
    Denied,
    /// A limit of connections or requests is reached.
    Overflow,
    IdleTimeout,
    /// A connection aimed at the interception port itself.
    Loop,
    /// Unmatched destination, and the mesh forbids passthrough.
    PassthroughOff,
    Draining,
}

/// What follows from a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// Short flag in access logs.
    pub flag: &'static str,
    /// Metric label.
    pub label: &'static str,
    /// Status for an HTTP client.
    pub status: u16,
    /// Whether trying another endpoint can help, provided that no byte of the request was sent.
    pub retryable: bool,
}

impl Reason {
    pub fn consequence(self) -> Consequence {
        let (flag, label, status, retryable) = match self {
            Self::NoRoute => ("NR", "no_route", 404, false),
            Self::NoEndpoint => ("UH", "no_endpoint", 503, false),
            Self::ConnectFailed => ("UF", "connect_failed", 503, true),
            Self::ConnectTimeout => ("UF", "connect_timeout", 503, true),
            Self::UpstreamTls => ("UF", "upstream_tls", 503, true),
            Self::UpstreamReset => ("UC", "upstream_reset", 503, false),
            Self::UpstreamProtocol => ("UPE", "upstream_protocol", 502, false),
            Self::ResponseTimeout => ("UT", "response_timeout", 504, false),
            Self::RequestTimeout => ("DT", "request_timeout", 408, false),
            Self::DownstreamProtocol => ("DPE", "downstream_protocol", 400, false),
            Self::HeadTooLarge => ("DPE", "head_too_large", 431, false),
            Self::DownstreamTls => ("DTE", "downstream_tls", 400, false),
            Self::DownstreamReset => ("DC", "downstream_reset", 499, false),
            Self::Denied => ("RBAC", "denied", 403, false),
            Self::Overflow => ("UO", "overflow", 503, false),
            Self::IdleTimeout => ("IT", "idle_timeout", 408, false),
            Self::Loop => ("LOOP", "loop", 503, false),
            Self::PassthroughOff => ("PO", "passthrough_off", 503, false),
            Self::Draining => ("DR", "draining", 503, false),
        };
        Consequence { flag, label, status, retryable }
    }
}

/// A connection's or request's failure: the reason, and the detail that an operator needs (who, where, what next).
#[derive(Clone, Debug)]
pub struct ConnError {
    pub reason: Reason,
    pub detail: String,
}

impl ConnError {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for ConnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.consequence().label, self.detail)
    }
}

impl std::error::Error for ConnError {}
