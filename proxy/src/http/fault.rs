//! How bytes can break HTTP: one closed list, each with the status a client gets and the sentence that says why. On
//! responses any of them is the upstream's fault (502). Knows no transport.

use crate::error::Reason;

/// What is wrong with a message. Whoever meets one answers (if it is a request) and closes: framing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    RequestLine,
    StatusLine,
    Method,
    Version,
    BareLineFeed,
    BareCarriageReturn,
    ObsoleteFold,
    HeaderName,
    HeaderValue,
    Underscore,
    HeadTooLarge,
    TooManyHeaders,
    TargetTooLong,
    Target,
    ConnectMethod,
    Host,
    LengthAndEncoding,
    ContentLength,
    TransferEncoding,
    ChunkSize,
    ChunkEnd,
    Trailer,
    TrailersTooLarge,
    Expectation,
    BodyTooLarge,
    /// The peer closed in the middle of a message.
    Truncated,
    /// 101 to a request that asked for no upgrade, or with another protocol.
    Upgrade,
}

impl Fault {
    /// Status for the client whose request it is.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders | Self::TrailersTooLarge => 431,
            Self::TargetTooLong => 414,
            Self::BodyTooLarge => 413,
            Self::Version => 505,
            Self::ConnectMethod => 405,
            Self::Expectation => 417,
            _ => 400,
        }
    }

    /// Why a request with it ended.
    pub fn reason(self) -> Reason {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => Reason::HeadTooLarge,
            Self::Truncated => Reason::DownstreamReset,
            _ => Reason::DownstreamProtocol,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed request line",
            Self::StatusLine => "malformed status line or a status outside 100-599",
            Self::Method => "malformed method",
            Self::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            Self::BareLineFeed => "line feed without carriage return",
            Self::BareCarriageReturn => "carriage return without line feed",
            Self::ObsoleteFold => "folded header",
            Self::HeaderName => "malformed header name",
            Self::HeaderValue => "control character in a header",
            Self::Underscore => "header name with an underscore",
            Self::HeadTooLarge => "headers larger than 60 KiB",
            Self::TooManyHeaders => "more than 100 headers",
            Self::TargetTooLong => "request target too long",
            Self::Target => "malformed request target",
            Self::ConnectMethod => "CONNECT is not served here",
            Self::Host => "exactly one valid Host is required",
            Self::LengthAndEncoding => "both Content-Length and Transfer-Encoding",
            Self::ContentLength => "malformed or repeated Content-Length",
            Self::TransferEncoding => "Transfer-Encoding other than chunked",
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkEnd => "chunk not ended by CRLF",
            Self::Trailer => "malformed or forbidden trailer",
            Self::TrailersTooLarge => "trailers too large",
            Self::Expectation => "expectation other than 100-continue",
            Self::BodyTooLarge => "body too large",
            Self::Truncated => "connection closed in the middle of a message",
            Self::Upgrade => "switch to a protocol nobody asked for",
        }
    }
}
