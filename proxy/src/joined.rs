//! A connection whose bytes go to one service as they are. The usual one, whose backend without TLS is there at once, is joined
//! with it when it is accepted, so that its task has room for the copy alone. Must not know interception, requests or the
//! client's TLS.

use crate::admission::Admission;
use crate::connection::{self, Arrival, Ended, Serving};
use crate::error::ConnError;
use crate::listener::Purpose;
use crate::metrics::{ConnectionGuard, Direction};
use crate::routing;
use crate::stream::Stream;
use crate::upstream::{Connected, Dialled};
use crate::worker::Worker;
use bytes::{Buf, Bytes};
use snapshot::{GatewayTls, Handler, Role, ServiceRow};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What became of a new connection before it has a task.
pub(crate) enum Start {
    Joined(Serving, Joined),
    /// The way to the backend takes its time.
    Chosen(Serving, Chosen),
    /// Not only bytes.
    Other(Arrival),
}

/// A client, and the service that its bytes go to.
pub(crate) struct Chosen {
    stream: Stream,
    service: Arc<ServiceRow>,
    idle: Duration,
    counted: ConnectionGuard,
    /// What the client has said, or that it left.
    first: Result<Bytes, ConnError>,
    /// A connection that was begun already.
    dialled: Option<Dialled>,
}

/// A client and its backend.
pub(crate) struct Joined {
    stream: Stream,
    service: Arc<ServiceRow>,
    idle: Duration,
    counted: ConnectionGuard,
    upstream: Connected,
}

/// Decides for a new connection, and does what needs no waiting.
pub(crate) fn start(worker: &Rc<Worker>, mut arrival: Arrival) -> Start {
    arrival.destination = connection::destination(worker, &arrival).ok();
    let (Some(destination), Some((service, idle))) = (arrival.destination, choose(worker, &arrival)) else {
        return Start::Other(arrival);
    };
    let Arrival { stream, peer, places, .. } = arrival;
    let places = places.map(Some);
    let serving = Serving { worker: worker.clone(), peer, destination, begun: Instant::now(), places };
    let mut chosen = Chosen::new(worker, stream.into(), service, idle);
    let begun = match &chosen.first {
        Ok(first) => worker.upstreams.begin(&chosen.service, first),
        Err(_) => None,
    };
    match begun {
        Some(Ok(upstream)) => {
            let first = chosen.first.as_mut().map(std::mem::take).unwrap_or_default();
            Start::Joined(serving, chosen.join(upstream, first))
        }
        other => {
            chosen.dialled = other.and_then(Result::err);
            Start::Chosen(serving, chosen)
        }
    }
}

/// The backend and the listener's idle time, if this connection's bytes are all that matters.
fn choose(worker: &Worker, arrival: &Arrival) -> Option<(Arc<ServiceRow>, Duration)> {
    if arrival.purpose == Purpose::CaptureInbound {
        return None;
    }
    let snapshot = worker.snapshot();
    let handler = match &snapshot.listener(arrival.destination?)?.row.role {
        Role::Outbound { handler, .. } | Role::Gateway { handler, tls: GatewayTls::None, .. } => handler,
        _ => return None,
    };
    let Handler::Tcp { backends, idle_timeout_ms } = handler else { return None };
    let name = routing::choose(backends, &mut |bound| worker.draw(bound))?;
    Some((snapshot.service(name)?.clone(), Duration::from_millis(*idle_timeout_ms)))
}

impl Chosen {
    /// `idle` is the listener's; 0 leaves it to the service.
    pub(crate) fn new(worker: &Worker, mut stream: Stream, service: Arc<ServiceRow>, idle: Duration) -> Self {
        let counted = worker.shared.metrics.handle(Direction::Outbound, &service.name, "").connection();
        let first = connection::first_words(&mut stream);
        let idle = if idle.is_zero() { Duration::from_millis(service.idle_timeout_ms) } else { idle };
        Self { stream, service, idle, counted, first, dialled: None }
    }

    /// Reaches the service and passes bytes until an end.
    pub(crate) async fn run(mut self, serving: &Serving, admission: Option<&Admission>) {
        let worker = &serving.worker;
        let reached = match std::mem::replace(&mut self.first, Ok(Bytes::new())) {
            Ok(first) => {
                let dialled = self.dialled.take();
                let ids = &worker.shared.identities;
                // Boxed: the copy that follows needs no room for it.
                let connected = Box::pin(worker.upstreams.connect(dialled, &self.service, ids, &first)).await;
                connected.map(|upstream| (upstream, first))
            }
            Err(failure) => Err(failure),
        };
        match reached {
            Ok((upstream, first)) => self.join(upstream, first).run(serving, admission).await,
            Err(failure) => {
                self.stream.reset_on_drop();
                let origin = || self.service.origin.to_string();
                let way = (Direction::Outbound, &self.counted);
                let what = (origin, Ended::default());
                connection::finish_counted(serving, way, &self.service.name, what, Some(&failure));
            }
        }
    }

    fn join(self, upstream: Connected, mut first: Bytes) -> Joined {
        first.advance(upstream.sent);
        let Self { stream, service, idle, counted, .. } = self;
        Joined { stream: stream.preceded_by(first), service, idle, counted, upstream }
    }
}

impl Joined {
    /// Passes bytes until an end.
    pub(crate) async fn run(&mut self, serving: &Serving, admission: Option<&Admission>) {
        let (upstream, received) = (Some(self.upstream.address), self.upstream.sent as u64);
        let mut ended = Ended { upstream, received, ..Ended::default() };
        let pair = (&mut self.stream, &mut self.upstream.stream);
        let failure = connection::copy(&serving.worker, pair, self.idle, admission, &mut ended).await;
        let endpoint = self.upstream.picked.endpoint();
        let origin = || endpoint.map_or(&self.service.origin, |endpoint| &endpoint.origin).to_string();
        let way = (Direction::Outbound, &self.counted);
        connection::finish_counted(serving, way, &self.service.name, (origin, ended), failure.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a, F>(_: fn(&'a mut Joined, &'a Serving, Option<&'a Admission>) -> F) -> usize {
        size_of::<F>()
    }

    fn reach<'a, F>(_: fn(Chosen, &'a Serving, Option<&'a Admission>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_takes_no_more_memory_than_its_copy_needs() {
        let (joined, copy) = (size_of::<Joined>() + size_of::<Serving>(), run(Joined::run));
        assert!(joined + copy <= 2 << 10, "{joined} + {copy} bytes");
        assert!(reach(Chosen::run) <= 3 << 10, "{} bytes", reach(Chosen::run));
    }
}
