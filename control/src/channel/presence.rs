//! Which proxies are connected to this process, each by its newest stream, and the removal of resources that proxies
//! brought and left behind. A stream that is gone can't take the resource of its successor along. It knows no frames.

use crate::compile::ProxyKey;
use crate::core::{Core, Refusal};
use crate::store::Key;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard};

/// A zone proxy whose stream broke has this long to come back, longer than proxies wait before they dial again: then
/// its resource goes, so that nobody is sent there any more.
const GRACE: Duration = Duration::from_secs(5);

/// The number of a stream, unique in this process.
pub(super) type StreamId = u64;

#[derive(Default)]
struct Streams {
    last: StreamId,
    newest: BTreeMap<ProxyKey, Place>,
    /// Dataplanes without a stream that didn't say goodbye, and since when.
    away: BTreeMap<ProxyKey, Away>,
}

struct Away {
    since_ms: u64,
    is_withdrawn: bool,
}

struct Place {
    stream: StreamId,
    is_live: bool,
}

#[derive(Default)]
pub(super) struct Presence {
    streams: Mutex<Streams>,
    /// Read by registrations, written by removals: no removal falls between a proxy's writing and its stream.
    registrations: RwLock<()>,
}

impl Presence {
    /// While this is held no resource is removed.
    pub(super) async fn registering(&self) -> RwLockReadGuard<'_, ()> {
        self.registrations.read().await
    }

    /// A new stream; true if there is a live one of the same proxy.
    pub(super) fn connected(&self, proxy: &ProxyKey) -> (StreamId, bool) {
        let mut streams = self.lock();
        streams.last += 1;
        let stream = streams.last;
        let before = streams.newest.insert(proxy.clone(), Place { stream, is_live: true });
        streams.away.remove(proxy);
        (stream, before.is_some_and(|b| b.is_live))
    }

    /// A stream ended. `returns`: its place is kept, until its grace is over.
    pub(super) fn disconnected(&self, proxy: &ProxyKey, stream: StreamId, returns: bool) {
        let mut streams = self.lock();
        match streams.newest.get_mut(proxy) {
            Some(place) if place.stream == stream && returns => place.is_live = false,
            Some(place) if place.stream == stream => drop(streams.newest.remove(proxy)),
            _ => {}
        }
    }

    pub(super) fn is_anybody_here(&self) -> bool {
        self.lock().newest.values().any(|place| place.is_live)
    }

    pub(super) fn is_newest(&self, proxy: &ProxyKey, stream: StreamId) -> bool {
        self.lock().newest.get(proxy).is_some_and(|place| place.stream == stream)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the resource of a proxy, unless it has a newer stream than this one.
    pub(super) async fn remove(&self, core: &Core, proxy: &ProxyKey, stream: StreamId) {
        let _alone = self.registrations.write().await;
        if !self.is_newest(proxy, stream) {
            return;
        }
        delete(core, proxy).await;
    }

    /// A zone proxy was lost: its resource goes unless it comes back soon.
    pub(super) fn remove_after_grace(self: Arc<Self>, core: Arc<Core>, proxy: ProxyKey, stream: StreamId) {
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            self.remove_lost(&core, &proxy, stream).await;
        });
    }

    /// A dataplane was lost: others stop sending to it unless it comes back within `grace`. Its resource stays.
    pub(super) fn withdraw_after(
        self: Arc<Self>,
        grace: Duration,
        core: Arc<Core>,
        (proxy, stream): (ProxyKey, StreamId),
    ) {
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            self.withdraw_lost(&core, &proxy, stream);
        });
    }

    pub(super) fn withdraw_lost(&self, core: &Core, proxy: &ProxyKey, stream: StreamId) {
        if !self.is_newest(proxy, stream) {
            return;
        }
        self.expect([proxy.clone()], core.clock().now_ms());
        self.withdraw_away(core, proxy);
        self.disconnected(proxy, stream, false);
    }

    /// Dataplanes that aren't here now, though they are to be.
    pub(super) fn expect(&self, proxies: impl IntoIterator<Item = ProxyKey>, now_ms: u64) {
        let mut streams = self.lock();
        for proxy in proxies {
            if !streams.newest.get(&proxy).is_some_and(|place| place.is_live) {
                streams.away.entry(proxy).or_insert(Away { since_ms: now_ms, is_withdrawn: false });
            }
        }
    }

    /// Dataplanes that are away, and since when.
    pub(super) fn away(&self) -> Vec<(ProxyKey, u64)> {
        self.lock().away.iter().map(|(proxy, away)| (proxy.clone(), away.since_ms)).collect()
    }

    /// Others stop sending to a dataplane that is still away. One that comes back is admitted after its stream is known
    /// here, so it can't be withdrawn by what was true before.
    pub(super) fn withdraw_away(&self, core: &Core, proxy: &ProxyKey) {
        let mut streams = self.lock();
        let Some(away) = streams.away.get_mut(proxy) else { return };
        if !std::mem::replace(&mut away.is_withdrawn, true) {
            tracing::warn!(proxy = %proxy.origin(), "didn't come back: nobody is sent to it any more; its resource stays");
            core.withdraw(&key(proxy), true);
        }
    }

    /// Removes the resource of a dataplane that is still away.
    pub(super) async fn remove_away(&self, core: &Core, proxy: &ProxyKey) {
        let _alone = self.registrations.write().await;
        if self.lock().away.remove(proxy).is_some() {
            delete(core, proxy).await;
        }
    }

    pub(super) async fn remove_lost(&self, core: &Core, proxy: &ProxyKey, stream: StreamId) {
        if self.is_newest(proxy, stream) {
            let grace_s = GRACE.as_secs();
            tracing::warn!(proxy = %proxy.origin(), grace_s, "didn't come back: its resource is removed");
            self.remove(core, proxy, stream).await;
            self.disconnected(proxy, stream, false);
        }
    }
}

async fn delete(core: &Core, proxy: &ProxyKey) {
    match core.delete(&key(proxy)).await {
        // Someone else was quicker.
        Ok(_) | Err(Refusal::NotFound { .. }) => {}
        Err(error) => {
            tracing::error!(proxy = %proxy.origin(), %error, "the resource of a proxy that left couldn't be removed");
        }
    }
}

/// The resource of a proxy in the store.
pub(super) fn key(proxy: &ProxyKey) -> Key {
    match proxy {
        ProxyKey::Dataplane { mesh, name } => Key::new("Dataplane", mesh, name),
        ProxyKey::ZoneIngress { name } => Key::new("ZoneIngress", "", name),
        ProxyKey::ZoneEgress { name } => Key::new("ZoneEgress", "", name),
    }
}
