//! A connection from accept to end: find its row by where it was headed, then hand it to the row's role. Decides by one
//! snapshot; what it then does is `inbound`'s, `outbound`'s or `zone`'s.

use crate::accesslog::{self, Record};
use crate::admission::Admission;
use crate::error::{ConnError, Reason};
use crate::listener::Purpose;
use crate::metrics::{ConnectionGuard, Direction, Handle};
use crate::quota::Counted;
use crate::socket::{self, Mode};
use crate::stream::Stream;
use crate::tcp;
use crate::worker::Worker;
use crate::{inbound, outbound, zone};
use bytes::Bytes;
use snapshot::{Handler, InboundTls, Role};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A connection just accepted.
pub(crate) struct Arrival {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// The socket that accepted it.
    pub listener: SocketAddr,
    pub purpose: Purpose,
    /// Where it was headed, where that is known already.
    pub destination: Option<SocketAddr>,
    /// In the counts of the process and the listener.
    pub places: [Counted; 2],
}

/// How a connection ended, for its log line.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub service: String,
    pub origin: String,
    pub upstream: Option<SocketAddr>,
    pub received: u64,
    pub sent: u64,
}

/// What is known while a connection is served.
pub(crate) struct Serving {
    pub worker: Rc<Worker>,
    pub peer: SocketAddr,
    /// Where the client meant to go: the key of its row.
    pub destination: SocketAddr,
    pub begun: Instant,
    /// In the counts of the process and the listener, until it ends; a tunnel's stream is only in the first.
    pub places: [Option<Counted>; 2],
}

pub(crate) async fn serve(worker: Rc<Worker>, arrival: Arrival) {
    let peer = arrival.peer;
    let begun = Instant::now();
    let direction = if arrival.purpose == Purpose::CaptureInbound { Direction::Inbound } else { Direction::Outbound };
    let destination = match arrival.destination.map_or_else(|| destination(&worker, &arrival), Ok) {
        Ok(destination) => destination,
        Err(failure) => {
            socket::reset_on_drop(&arrival.stream);
            return finish(&worker, direction, &Ended::default(), (peer, begun, Some(&failure)));
        }
    };
    let serving = Serving { worker, peer, destination, begun, places: arrival.places.map(Some) };
    dispatch(serving, arrival.stream, arrival.purpose).await;
}

pub(crate) fn destination(worker: &Worker, arrival: &Arrival) -> Result<SocketAddr, ConnError> {
    if arrival.purpose == Purpose::Own {
        return Ok(arrival.listener);
    }
    let mode = worker.shared.mode.unwrap_or(Mode::Bind);
    let destination = unmapped(socket::original_destination(&arrival.stream, mode)?);
    let is_local = || arrival.stream.local_addr().is_ok_and(|local| unmapped(local) == destination);
    if mode != Mode::Tproxy && is_local() || destination.port() == arrival.listener.port() {
        let detail =
            format!("{destination} is the interception port itself; connect to a mesh name or address instead");
        return Err(ConnError::new(Reason::Loop, detail));
    }
    Ok(destination)
}

/// An IPv4 address in IPv6 clothes is the IPv4 address.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn dispatch(serving: Serving, stream: TcpStream, purpose: Purpose) {
    let snapshot = serving.worker.snapshot();
    let Some(listener) = snapshot.listener(serving.destination).cloned() else {
        return match purpose {
            Purpose::CaptureInbound => Box::pin(inbound::passthrough(serving, stream)).await,
            Purpose::CaptureOutbound => {
                drop(snapshot);
                Box::pin(outbound::unmatched(serving, stream)).await;
            }
            // Its row went with the last swap, and this connection was accepted before the socket went too.
            Purpose::Own => socket::reset_on_drop(&stream),
        };
    };
    drop(snapshot);
    match &listener.row.role {
        Role::Outbound { handler: Handler::Http { .. }, .. } => outbound::http(serving, stream),
        Role::Outbound { handler, .. } => {
            let site = outbound::Site::Listener(serving.destination);
            outbound::serve(&serving, Stream::Plain(stream), handler, site, None).await;
        }
        Role::Gateway { handler, tls, .. } => outbound::gateway(serving, stream, handler, tls).await,
        // Boxed, as what is large and has its own TLS is everywhere: a task is as large as the largest of its ways.
        Role::Inbound { tls: InboundTls::Permissive, .. } => {
            Box::pin(inbound::permissive(&serving, stream, &listener.row)).await;
        }
        Role::Inbound { .. } => Box::pin(inbound::serve(&serving, stream, &listener.row)).await,
        Role::Zone => zone::serve(&serving, stream).await,
    }
}

/// Moves bytes until an end, or until the peer isn't admitted any more: then both sides are reset. What `ended` says is received
/// is on its way up already.
pub(crate) async fn copy(
    worker: &Worker,
    (downstream, upstream): (&mut Stream, &mut Stream),
    idle: Duration,
    admission: Option<&Admission>,
    ended: &mut Ended,
) -> Option<ConnError> {
    let progress = tcp::Progress::after(ended.received);
    let copied = match admission {
        None => Ok(tcp::copy_watched(downstream, upstream, idle, &progress).await),
        Some(admission) => tokio::select! {
            copied = tcp::copy_watched(downstream, upstream, idle, &progress) => Ok(copied),
            denied = admission.revoked(worker) => Err(denied),
        },
    };
    let outcome = match copied {
        Ok(copied) => copied.ended.reason().map(|reason| ConnError::new(reason, format!("{:?}", copied.ended))),
        Err(denied) => Some(denied),
    };
    if outcome.as_ref().is_some_and(|failure| failure.reason == Reason::Denied) {
        downstream.reset_on_drop();
        upstream.reset_on_drop();
    }
    (ended.received, ended.sent) = (progress.up_bytes(), progress.down_bytes());
    outcome
}

/// What the client has said while nobody listened: it travels with the connection to the upstream.
pub(crate) fn first_words(stream: &mut Stream) -> Result<Bytes, ConnError> {
    let left = |error| ConnError::new(Reason::DownstreamReset, format!("the client's connection broke: {error}"));
    tcp::take_waiting(stream).map_err(left)
}

/// [`finish`] of a connection to a service: text is made only for a line that is written.
pub(crate) fn finish_counted(
    serving: &Serving,
    (direction, counted): (Direction, &ConnectionGuard),
    service: &str,
    (origin, mut ended): (impl FnOnce() -> String, Ended),
    failure: Option<&ConnError>,
) {
    count(counted.handle(), &ended, failure);
    if accesslog::is_wanted(direction, service, failure) {
        service.clone_into(&mut ended.service);
        ended.origin = origin();
        log(direction, &ended, (serving.peer, serving.begun, failure));
    }
}

/// Counts and logs the end of a connection.
pub(crate) fn finish(
    worker: &Worker,
    direction: Direction,
    ended: &Ended,
    how: (SocketAddr, Instant, Option<&ConnError>),
) {
    count(&worker.shared.metrics.handle(direction, &ended.service, ""), ended, how.2);
    if accesslog::is_wanted(direction, &ended.service, how.2) {
        log(direction, ended, how);
    }
}

fn count(handle: &Handle, ended: &Ended, failure: Option<&ConnError>) {
    handle.bytes(ended.received, ended.sent);
    if let Some(failure) = failure {
        handle.failed(failure.reason);
    }
}

fn log(direction: Direction, ended: &Ended, (peer, begun, failure): (SocketAddr, Instant, Option<&ConnError>)) {
    let peer = peer.to_string();
    let mut record = Record::new(direction, &ended.service, &peer);
    record.origin = &ended.origin;
    record.upstream = ended.upstream;
    record.failure = failure;
    record.received = ended.received;
    record.sent = ended.sent;
    record.duration = begun.elapsed();
    record.write();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<F>(_: fn(Rc<Worker>, Arrival) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_takes_no_more_memory_than_the_copy_of_plain_bytes_needs() {
        assert!(bytes_of(serve) <= 3 << 10, "{} bytes", bytes_of(serve));
    }
}
