//! Connections to endpoints that wait for their next request: bounded, of one worker, checked before use. Knows neither
//! snapshots nor who may use what: equal keys mean interchangeable connections.

use super::h2::Endpoint;
use crate::stream::Wired;
use hashbrown::HashMap;
use std::cell::RefCell;
use std::hash::Hash;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;

/// Idle connections to one endpoint.
const IDLE_PER_ENDPOINT_MAX: usize = 256;
/// Idle connections of a worker.
const IDLE_MAX: usize = 4096;

/// Upstream connections of one worker.
pub struct Pools<K, Io> {
    idle: RefCell<Idle<K, Io>>,
    /// HTTP/2 connections, shared by many requests.
    pub(super) shared: RefCell<HashMap<K, Endpoint>>,
    idle_max: Duration,
}

struct Idle<K, Io> {
    by_endpoint: HashMap<K, Vec<(Instant, Io)>>,
    count: usize,
}

impl<K: Eq + Hash, Io> Pools<K, Io> {
    /// A connection that waited longer than `idle_max` isn't used again.
    pub fn new(idle_max: Duration) -> Self {
        let idle = RefCell::new(Idle { by_endpoint: HashMap::new(), count: 0 });
        Self { idle, shared: RefCell::new(HashMap::new()), idle_max }
    }

    /// Closes the idle connections of endpoints that are no more, and those that waited too long.
    pub fn prune(&self, keep: impl Fn(&K) -> bool) {
        let mut idle = self.idle.borrow_mut();
        idle.by_endpoint.retain(|key, entries| {
            entries.retain(|(since, _)| since.elapsed() < self.idle_max);
            keep(key) && !entries.is_empty()
        });
        idle.count = idle.by_endpoint.values().map(Vec::len).sum();
        drop(idle);
        self.shared.borrow_mut().retain(|key, shared| keep(key) && shared.is_open());
    }

    /// How long a connection may wait.
    pub(super) fn idle_max(&self) -> Duration {
        self.idle_max
    }

    pub fn idle_count(&self) -> usize {
        self.idle.borrow().count
    }

    pub(super) fn put(&self, key: K, io: Io, now: Instant) {
        let mut guard = self.idle.borrow_mut();
        let idle = &mut *guard;
        if idle.count >= IDLE_MAX {
            return;
        }
        let entries = idle.by_endpoint.entry(key).or_default();
        if entries.len() >= IDLE_PER_ENDPOINT_MAX {
            // The longest idle one goes: it is the likeliest to be closed by its peer.
            entries.remove(0);
            idle.count -= 1;
        }
        entries.push((now, io));
        idle.count += 1;
    }
}

impl<K: Eq + Hash, Io: Wired> Pools<K, Io> {
    /// The connection that waited least, if its peer hasn't closed it or spoken out of turn meanwhile.
    pub(super) fn take(&self, key: &K, now: Instant) -> Option<Io> {
        let mut guard = self.idle.borrow_mut();
        let idle = &mut *guard;
        let entries = idle.by_endpoint.get_mut(key)?;
        while let Some((since, mut io)) = entries.pop() {
            idle.count -= 1;
            if now.saturating_duration_since(since) < self.idle_max && is_quiet(&mut io) {
                return Some(io);
            }
        }
        idle.by_endpoint.remove(key);
        None
    }
}

/// Neither closed nor sending: a response nobody asked for would answer the next request. A socket is only read where the
/// runtime has heard of it since it was read empty.
pub(super) fn is_quiet<Io: Wired>(io: &mut Io) -> bool {
    let mut byte = [0];
    if let Some(socket) = io.socket() {
        return matches!(socket.try_read(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock);
    }
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)), Poll::Pending)
}
