//! Every bound that both planes share, named with its unit. Nothing here may depend on another module.

/// Rules of one configuration that say which server to ask about a domain.
pub const DNS_UPSTREAMS_MAX: usize = 64;
/// DNS answers live this long unless the control plane says otherwise (`dns.ttl`).
pub const DNS_TTL_S: u32 = 60;
/// A name in presentation form, without the trailing dot (RFC 1035 §2.3.4: 255 octets on the wire).
pub const DNS_NAME_BYTES_MAX: usize = 253;
/// One label of a name (RFC 1035 §2.3.4).
pub const DNS_LABEL_BYTES_MAX: usize = 63;
/// A compiled regular expression of a route (bytes of program).
pub const REGEX_BYTES_MAX: usize = 1 << 20;
/// How long a proxy waits for a TCP connection to an endpoint unless a policy says otherwise.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// How long a request may take in all, on sidecars' outbounds and gateways, unless a policy says otherwise.
pub const REQUEST_TIMEOUT_MS: u64 = 15_000;
/// A connection without a byte in either direction ends after this long.
pub const IDLE_TIMEOUT_MS: u64 = 3_600_000;
/// Rows in one snapshot.
pub const ROWS_MAX: usize = 1 << 20;
