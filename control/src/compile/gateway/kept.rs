//! What of gateways lives from world to world: the plans of those that were asked for, and the routes and hosts in them.
//! No result depends on it. It doesn't know what a plan says.

use super::hosts::{Host, HostKey};
use super::plan::Plan;
use super::ports;
use super::routes::{Prepared, prepare};
use crate::compile::rows::{Client, Upstreams};
use crate::compile::sni::ZONE;
use crate::compile::stale::Stale;
use crate::compile::world::{MeshIndex, World};
use crate::resource::{Resource, Tags};
use snapshot::Origin;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Worlds after which a plan that nobody asked for is let go.
const AGE_MAX: u32 = 1000;
/// Pieces that may be there before those that nobody holds are looked for.
const PIECES_MIN: usize = 1024;

/// Of one mesh, by the tags of the proxies.
#[derive(Default)]
pub(in crate::compile) struct Gateways {
    slots: Mutex<BTreeMap<Tags, Slot>>,
    known: Arc<Known>,
}

#[derive(Clone)]
struct Slot {
    plan: Arc<Plan>,
    /// What may be different now, beside routes; None = nothing.
    stale: Option<Stale>,
    age: u32,
}

impl Gateways {
    /// For a world in which anything may be different.
    pub(in crate::compile) fn outdated(&self) -> Self {
        self.map(|_| Some(Stale::Everything))
    }

    /// For a world in which gateway routes and these services may be different.
    pub(in crate::compile) fn after(&self, touched: &BTreeSet<Arc<str>>) -> Self {
        self.map(|stale| match touched.is_empty() {
            true => stale.cloned(),
            false => Some(Stale::and(stale, touched)),
        })
    }

    fn map(&self, stale: impl Fn(Option<&Stale>) -> Option<Stale>) -> Self {
        let slots = lock(&self.slots);
        let young = slots.iter().filter(|(_, slot)| slot.age < AGE_MAX);
        let next = young.map(|(tags, slot)| {
            let Slot { plan, stale: before, age } = slot;
            (tags.clone(), Slot { plan: plan.clone(), stale: stale(before.as_ref()), age: age + 1 })
        });
        Self { slots: Mutex::new(next.collect()), known: self.known.clone() }
    }

    /// The plan for proxies with `tags`; None when no MeshGateway selects them.
    pub(super) fn plan(&self, world: &World, mesh: &MeshIndex, tags: &Tags) -> Option<Arc<Plan>> {
        // Held while it is made, so that of many proxies only one makes it.
        let mut slots = lock(&self.slots);
        let client = Client { mesh, zone: tags.get(ZONE).map_or("", String::as_str), dataplane: None };
        let mut upstreams = Upstreams::new(world, client);
        let after = slots.get(tags).and_then(|slot| match &slot.stale {
            Some(Stale::Everything) => None,
            Some(Stale::Services(touched)) => slot.plan.after(&self.known, mesh, (touched, &mut upstreams)),
            None => slot.plan.after(&self.known, mesh, (&BTreeSet::new(), &mut upstreams)),
        });
        let made = after.or_else(|| ports::make(&self.known, (world, mesh), &mut upstreams, tags).map(Arc::new));
        match &made {
            Some(plan) => drop(slots.insert(tags.clone(), Slot { plan: plan.clone(), stale: None, age: 0 })),
            None => drop(slots.remove(tags)),
        }
        made
    }
}

/// Routes and hosts that are in some plan.
#[derive(Default)]
pub(super) struct Known {
    /// By the resource's place in memory, and the port.
    routes: Mutex<Pieces<(usize, u16), Prepared>>,
    hosts: Mutex<Pieces<HostKey, Host>>,
}

impl Known {
    pub(super) fn route(&self, resource: &Arc<Resource>, port: u16) -> Arc<Prepared> {
        let key = (Arc::as_ptr(resource) as usize, port);
        lock(&self.routes).find(key, |_| true, |_| prepare(resource, port))
    }

    /// `gateway`: the origin of the MeshGateway.
    pub(super) fn host(&self, key: HostKey, routes: Vec<Arc<Prepared>>, gateway: &Origin) -> Arc<Host> {
        let is_same = |host: &Host| {
            host.routes.len() == routes.len() && host.routes.iter().zip(&routes).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        lock(&self.hosts).find(key, is_same, |key| Host::new(key, routes.clone(), gateway))
    }
}

/// What somebody holds.
struct Pieces<K, T> {
    by_key: HashMap<K, Weak<T>>,
    sweep_at: usize,
}

impl<K, T> Default for Pieces<K, T> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), sweep_at: PIECES_MIN }
    }
}

impl<K: Eq + Hash, T> Pieces<K, T> {
    fn find(&mut self, key: K, is_right: impl Fn(&T) -> bool, make: impl FnOnce(&K) -> T) -> Arc<T> {
        if let Some(held) = self.by_key.get(&key).and_then(Weak::upgrade).filter(|held| is_right(held)) {
            return held;
        }
        let made = Arc::new(make(&key));
        self.by_key.insert(key, Arc::downgrade(&made));
        if self.by_key.len() > self.sweep_at {
            self.by_key.retain(|_, piece| piece.strong_count() > 0);
            self.sweep_at = PIECES_MIN.max(2 * self.by_key.len());
        }
        made
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
