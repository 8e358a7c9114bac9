//! The tunnels a worker has dialled, by whom they lead to. One handshake at a time for a place: others wait for its
//! outcome. Must not dial.

use super::driver::Tunnel;
use super::stream::MuxStream;
use crate::error::Reason;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A tunnel without streams is closed after this long.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// After this long a tunnel takes no new streams, so that places behind one address get their share anew.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// A peer that speaks no mux isn't asked again for so long.
const PLAIN_FOR: Duration = Duration::from_secs(60);
/// Places remembered.
const PLACES_MAX: usize = 4096;

struct Entry {
    tunnel: Rc<Tunnel>,
    born: Instant,
    used: Instant,
}

#[derive(Default)]
struct Place {
    tunnels: Vec<Entry>,
    dialling: Option<watch::Receiver<Outcome>>,
    plain_until: Option<Instant>,
}

/// Why a dial failed, for all that waited for it.
type Failure = (Reason, String);

/// Of a dial that others wait for.
#[derive(Clone, Debug, Default)]
enum Outcome {
    /// Not known yet, or given up.
    #[default]
    Open,
    Failed(Failure),
}

/// See the module's words. `K`: whom and as whom; equal keys mean interchangeable tunnels.
pub(crate) struct Pool<K> {
    places: RefCell<HashMap<K, Place>>,
}

impl<K> Default for Pool<K> {
    fn default() -> Self {
        Self { places: RefCell::default() }
    }
}

impl<K> std::fmt::Debug for Pool<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.places.borrow().len())
    }
}

/// How a caller gets its stream.
pub(crate) enum Begun<'a, K: Eq + Hash + Clone> {
    Stream(MuxStream),
    /// Dial, and tell how it went.
    Dial(Dial<'a, K>),
    /// The peer speaks no mux: a connection of one's own.
    Plain,
    /// Another's dial failed.
    Failed(Failure),
}

/// The right to dial; dropped without a word, the next one dials.
pub(crate) struct Dial<'a, K: Eq + Hash + Clone> {
    pool: &'a Pool<K>,
    key: K,
    outcome: watch::Sender<Outcome>,
}

impl<K: Eq + Hash + Clone> Drop for Dial<'_, K> {
    fn drop(&mut self) {
        if let Some(place) = self.pool.places.borrow_mut().get_mut(&self.key) {
            place.dialling = None;
        }
    }
}

impl<K: Eq + Hash + Clone> Dial<'_, K> {
    /// The peer speaks it: the caller's stream. Its driver is the caller's to run.
    pub(crate) fn tunnel(self, tunnel: &Rc<Tunnel>) -> Option<MuxStream> {
        let now = Instant::now();
        let stream = tunnel.open();
        let mut places = self.pool.places.borrow_mut();
        let place = places.entry(self.key.clone()).or_default();
        place.tunnels.push(Entry { tunnel: Rc::clone(tunnel), born: now, used: now });
        stream
    }

    pub(crate) fn plain(self) {
        let mut places = self.pool.places.borrow_mut();
        places.entry(self.key.clone()).or_default().plain_until = Some(Instant::now() + PLAIN_FOR);
    }

    pub(crate) fn failed(self, why: Failure) {
        self.outcome.send_replace(Outcome::Failed(why));
    }
}

enum Step {
    Stream(MuxStream),
    Dial(watch::Sender<Outcome>),
    Wait(watch::Receiver<Outcome>),
    Plain,
}

impl<K: Eq + Hash + Clone> Pool<K> {
    /// A stream, or what to do for one.
    pub(crate) async fn begin(&self, key: &K) -> Begun<'_, K> {
        loop {
            let mut wait = match self.step(key) {
                Step::Stream(stream) => return Begun::Stream(stream),
                Step::Plain => return Begun::Plain,
                Step::Dial(outcome) => return Begun::Dial(Dial { pool: self, key: key.clone(), outcome }),
                Step::Wait(wait) => wait,
            };
            // The sender is dropped when the dial is over, with or without a word.
            if wait.changed().await.is_ok()
                && let Outcome::Failed(why) = &*wait.borrow()
            {
                return Begun::Failed(why.clone());
            }
        }
    }

    fn step(&self, key: &K) -> Step {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get_mut(key) {
            let now = Instant::now();
            for entry in place.tunnels.iter_mut().filter(|entry| now.duration_since(entry.born) < AGE_MAX) {
                if let Some(stream) = entry.tunnel.open() {
                    entry.used = now;
                    return Step::Stream(stream);
                }
            }
            if place.plain_until.is_some_and(|until| now < until) {
                return Step::Plain;
            }
            if let Some(dialling) = &place.dialling {
                return Step::Wait(dialling.clone());
            }
        } else if places.len() >= PLACES_MAX {
            return Step::Plain;
        }
        let (sender, receiver) = watch::channel(Outcome::Open);
        places.entry(key.clone()).or_default().dialling = Some(receiver);
        Step::Dial(sender)
    }

    /// Closes tunnels that are idle or old, and forgets places without any.
    pub(crate) fn prune(&self) {
        let now = Instant::now();
        self.places.borrow_mut().retain(|_, place| {
            place.tunnels.retain_mut(|entry| {
                let conn = entry.tunnel.conn.borrow();
                let (busy, dead) = (conn.len() > 0, conn.is_dead());
                drop(conn);
                if busy {
                    entry.used = now;
                }
                let keep = now.duration_since(entry.used) < IDLE_MAX && now.duration_since(entry.born) < AGE_MAX;
                if !keep {
                    entry.tunnel.close();
                }
                keep && !dead
            });
            place.plain_until = place.plain_until.filter(|until| now < *until);
            !place.tunnels.is_empty() || place.dialling.is_some() || place.plain_until.is_some()
        });
    }
}

impl<K> Drop for Pool<K> {
    fn drop(&mut self) {
        self.places.borrow().values().flat_map(|place| &place.tunnels).for_each(|entry| entry.tunnel.close());
    }
}
