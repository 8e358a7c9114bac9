//! Answers of our own: errors that say why, redirects, fixed responses. Must not know where they came from.

use super::fault::Fault;
use super::framing::Framing;
use super::head::Version;
use super::headers::{push_common, push_field, push_framing, push_visible};
use super::traffic::Settings;
use crate::error::{ConnError, Reason};
use snapshot::{Filters, HeaderOps};
use std::borrow::Cow;
use std::io::Write;

/// An answer's content; small, and sent at once.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Cow<'static, str>,
    pub(super) location: Option<String>,
    pub(super) reason: Option<Reason>,
    /// For the log.
    pub(super) detail: String,
}

impl Answer {
    pub(super) fn fault(fault: Fault) -> Self {
        Self {
            status: fault.status(),
            body: fault.text().into(),
            reason: Some(fault.reason()),
            detail: format!("the client's request is refused: {}", fault.text()),
            location: None,
        }
    }

    /// What follows from a failure on the way to the endpoint. Strangers at the edge aren't told addresses.
    pub(super) fn error(error: &ConnError, settings: &Settings) -> Self {
        let fixed = text(error.reason);
        let told = error.reason == Reason::NoEndpoint || !settings.edge;
        let body = match error.reason {
            Reason::Denied => Cow::Borrowed(fixed),
            _ if told && !error.detail.is_empty() => Cow::Owned(format!("{fixed}\n{}", error.detail)),
            _ => Cow::Borrowed(fixed),
        };
        let status = error.reason.consequence().status;
        Self { status, body, reason: Some(error.reason), detail: error.detail.clone(), location: None }
    }
}

/// First line of an error's body; several are what operators know from Envoy.
fn text(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => "no route matches",
        Reason::NoEndpoint => "no healthy upstream",
        Reason::ConnectFailed => "upstream connect error",
        Reason::ConnectTimeout => "upstream connect timeout",
        Reason::UpstreamTls => "upstream TLS error",
        Reason::UpstreamReset => "upstream reset before response",
        Reason::UpstreamProtocol => "upstream protocol error",
        Reason::ResponseTimeout => "upstream request timeout",
        Reason::RequestTimeout => "request timeout",
        Reason::DownstreamProtocol => "bad request",
        Reason::HeadTooLarge => "request headers too large",
        Reason::DownstreamTls => "TLS expected",
        Reason::DownstreamReset => "client closed",
        Reason::Denied => "RBAC: access denied",
        Reason::Overflow => "too many requests in flight",
        Reason::IdleTimeout => "idle timeout",
        Reason::Loop => "the request would come back here",
        Reason::PassthroughOff => "unknown destination and passthrough is off",
        Reason::Draining => "draining",
    }
}

/// To whom an answer goes.
pub(super) struct Recipient {
    pub(super) version: Version,
    pub(super) to_head: bool,
    pub(super) keep: bool,
}

/// Appends the whole answer to `out`.
pub(super) fn write(
    answer: &Answer,
    to: &Recipient,
    filters: Option<&Filters>,
    settings: &Settings,
    out: &mut Vec<u8>,
) {
    let ops: Option<&HeaderOps> = filters.map(|filters| &filters.response);
    let _ = write!(out, "HTTP/1.1 {} {}\r\n", answer.status, phrase(answer.status));
    if let Some(location) = &answer.location {
        out.extend_from_slice(b"location: ");
        push_visible(out, location.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if answer.status == 405 {
        push_field(out, b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");
    }
    if !answer.body.is_empty() {
        push_field(out, b"content-type", b"text/plain");
    }
    push_common(out, ops, settings);
    if !matches!(answer.status, 100..=199 | 204 | 304) {
        push_framing(out, Framing::Length(answer.body.len() as u64));
    }
    if let Some(option) = connection_option(to.keep, to.version) {
        push_field(out, b"connection", option.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if !to.to_head && !matches!(answer.status, 100..=199 | 204 | 304) {
        out.extend_from_slice(answer.body.as_bytes());
    }
}

/// What `Connection` says to a client.
pub(super) fn connection_option(keep: bool, version: Version) -> Option<&'static str> {
    match (keep, version) {
        (false, _) => Some("close"),
        (true, Version::Http10) => Some("keep-alive"),
        (true, Version::Http11) => None,
    }
}

fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}
