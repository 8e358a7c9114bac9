//! One structured line a connection or request: `info` when it failed, `debug` when it went well.
//! Must not know policies of logging, sinks or formats; `tracing`'s subscriber has them.

use crate::error::{ConnError, Reason};
use crate::metrics::Direction;
use std::net::SocketAddr;
use std::time::Duration;

/// Target of the lines, to be filtered by (`RUST_LOG=access=debug`).
pub(crate) const TARGET: &str = "access";

/// What is known when a connection or request ends. What isn't known stays empty.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    pub direction: Direction,
    /// The service's row, or the destination of what is no service.
    pub service: &'a str,
    /// Origin of the route, permission or listener that decided.
    pub origin: &'a str,
    /// Who connected to us: its identities, or its address.
    pub peer: &'a str,
    pub upstream: Option<SocketAddr>,
    pub request: Option<Request<'a>>,
    pub failure: Option<&'a ConnError>,
    pub received: u64,
    pub sent: u64,
    pub duration: Duration,
}

/// The HTTP part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub status: u16,
}

impl<'a> Record<'a> {
    pub(crate) fn new(direction: Direction, service: &'a str, peer: &'a str) -> Self {
        Self {
            direction,
            service,
            origin: "",
            peer,
            upstream: None,
            request: None,
            failure: None,
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
        }
    }

    /// Writes the line.
    pub(crate) fn write(&self) {
        if is_wanted(self.direction, self.service, self.failure) {
            self.emit(is_notable(self.direction, self.service, self.failure));
        }
    }

    fn emit(&self, failed: bool) {
        let upstream = self.upstream.map(|address| address.to_string()).unwrap_or_default();
        let flag = self.failure.map_or("-", |failure| failure.reason.consequence().flag);
        let detail = self.failure.map_or("", |failure| failure.detail.as_str());
        let Request { method, host, path, status } =
            self.request.unwrap_or(Request { method: "", host: "", path: "", status: 0 });
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: TARGET,
                    direction = self.direction.label(),
                    service = self.service,
                    origin = self.origin,
                    peer = self.peer,
                    upstream,
                    method,
                    host,
                    path,
                    status,
                    flag,
                    received = self.received,
                    sent = self.sent,
                    duration_ms = self.duration.as_millis() as u64,
                    detail,
                )
            };
        }
        if failed {
            line!(info);
        } else {
            line!(debug);
        }
    }
}

/// Whether a line about it would be written: what is only for the log needn't be made otherwise.
pub(crate) fn is_wanted(direction: Direction, service: &str, failure: Option<&ConnError>) -> bool {
    match is_notable(direction, service, failure) {
        true => tracing::enabled!(target: TARGET, tracing::Level::INFO),
        false => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
    }
}

fn is_notable(direction: Direction, service: &str, failure: Option<&ConnError>) -> bool {
    let is_scan = |reason| direction == Direction::Zone && service.is_empty() && is_no_client(reason);
    failure.is_some_and(|failure| !is_ordinary(failure.reason) && !is_scan(failure.reason))
}

/// Whoever knocks at a zone's port without a whole ClientHello is no proxy of ours: port scans and health checks are counted, and
/// logged only on request.
fn is_no_client(reason: Reason) -> bool {
    matches!(reason, Reason::DownstreamProtocol | Reason::RequestTimeout)
}

/// Ends that happen in a healthy mesh all the time and would drown the others.
fn is_ordinary(reason: Reason) -> bool {
    matches!(reason, Reason::IdleTimeout | Reason::DownstreamReset | Reason::Draining)
}
