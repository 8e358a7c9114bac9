//! What all sidecars of a mesh in a zone have in common: the rows of its named outbounds, made and checked once, and made
//! after the rows before when something changed. It doesn't know which proxies there are.

use super::backends::Backends;
use super::reachable::Reachable;
use super::rows::{Client, Reached, Upstreams, handler_for, patch};
use super::services::From;
use super::sidecar;
use super::stale::Stale;
use super::world::{MeshIndex, Settings, World};
use crate::names::NamedOutbound;
use crate::settings::Aaaa;
use snapshot::{Generation, ListenerRow, NameRow, Role, ServiceRow, Snapshot, Tables, limits};
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// What sidecars differ in before their own resource says anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub zone: String,
    pub has_ipv6: bool,
    /// Every MeshService and its kin is dialled, not those that a Dataplane names.
    pub has_backends: bool,
}

/// The rows of each place that was asked for. No result depends on it.
#[derive(Default)]
pub(super) struct Sidecars(Mutex<BTreeMap<Place, Slot>>);

#[derive(Clone)]
struct Slot {
    shared: Arc<Shared>,
    /// What may be different now; None = nothing.
    stale: Option<Stale>,
}

pub(super) struct Shared {
    /// One an outbound of the mesh, in their order.
    entries: Vec<Arc<Entry>>,
    /// Rows of addresses that lost their names.
    freed: Vec<Arc<ListenerRow>>,
    backends: Backends,
    /// The names that lead to outbounds, where backends have others.
    names: Vec<Arc<NameRow>>,
    /// The rows, checked.
    pub snapshot: Arc<Snapshot>,
}

#[derive(Clone)]
struct Entry {
    outbound: Arc<NamedOutbound>,
    /// Of the outbound's service ([`hash`]).
    of: u64,
    /// None where each proxy has to look for itself: who may reach an external service is decided on the client's side.
    service: Option<Arc<ServiceRow>>,
    listeners: [Option<Arc<ListenerRow>>; 2],
}

impl Sidecars {
    /// For a world in which anything may be different.
    pub(super) fn outdated(&self) -> Self {
        self.map(|_| Some(Stale::Everything))
    }

    /// For a world in which these services and the names may be different; None = nothing is.
    pub(super) fn after(&self, touched: Option<&BTreeSet<Arc<str>>>) -> Self {
        self.map(|stale| match touched {
            None => stale.cloned(),
            Some(touched) => Some(Stale::and(stale, touched)),
        })
    }

    fn map(&self, stale: impl Fn(Option<&Stale>) -> Option<Stale>) -> Self {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let map = |(place, slot): (&Place, &Slot)| {
            (place.clone(), Slot { shared: slot.shared.clone(), stale: stale(slot.stale.as_ref()) })
        };
        Self(Mutex::new(slots.iter().map(map).collect()))
    }

    /// Makes the rows that most sidecars ask for.
    pub(super) fn prepare(&self, world: &World, mesh: &MeshIndex) {
        let Settings { zone, has_ipv6, aaaa, .. } = &world.settings;
        if !mesh.names.outbounds.is_empty() {
            let backends = Reachable::of(None, mesh.spec.mesh_services_mode());
            let has_backends = matches!(backends, Reachable::All);
            let has_ipv6 = *has_ipv6 && *aaaa == Aaaa::Native;
            let place = Place { zone: zone.clone(), has_ipv6, has_backends };
            drop(self.at(world, mesh, place));
        }
    }

    /// The rows for sidecars at `place`. None when they can't be built: then each proxy says why.
    pub(super) fn at(&self, world: &World, mesh: &MeshIndex, place: Place) -> Option<Arc<Shared>> {
        // Held while they are made, so that of many proxies only one makes them.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match slots.get(&place) {
            Some(Slot { shared, stale: None }) => return Some(shared.clone()),
            Some(Slot { shared, stale: Some(stale) }) => Some((shared.clone(), stale.clone())),
            None => None,
        };
        let touched = match &before {
            Some((_, Stale::Services(touched))) => Some(touched.iter().map(|service| hash(service)).collect()),
            Some((_, Stale::Everything)) | None => None,
        };
        let before = before.map(|(shared, _)| shared);
        let shared = Arc::new(Making { world, mesh, place: &place, before: before.as_deref(), touched }.make()?);
        slots.insert(place, Slot { shared: shared.clone(), stale: None });
        Some(shared)
    }
}

impl Shared {
    /// Outbounds that each proxy has to make rows for itself.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &NamedOutbound> {
        self.entries.iter().filter(|e| e.service.is_none()).map(|e| e.outbound.as_ref())
    }
}

/// What became of the entries of before.
struct Walked<'a> {
    entries: Vec<Arc<Entry>>,
    gone: Vec<&'a Arc<Entry>>,
    new: Vec<Arc<Entry>>,
    /// Some outbound of before isn't there any more.
    is_lost: bool,
}

struct Making<'a> {
    world: &'a World,
    mesh: &'a MeshIndex,
    place: &'a Place,
    before: Option<&'a Shared>,
    /// Services whose rows may be others, as [`hash`]es: of two with the same one more is made anew than has to be. None:
    /// all of them.
    touched: Option<HashSet<u64>>,
}

fn hash(service: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    service.hash(&mut hasher);
    hasher.finish()
}

impl Making<'_> {
    fn make(&self) -> Option<Shared> {
        let nothing = Arc::default();
        let before: &Snapshot = self.before.map_or(&nothing, |shared| &shared.snapshot);
        let Walked { entries, gone, new, is_lost } = self.walk();
        let backends = self.backends();
        let freed = self.freed(before.tables(), &entries, &backends);
        let none = Backends::default();
        let (held_freed, held) = self.before.map_or((&[][..], &none), |shared| (&shared.freed, &shared.backends));
        let gone_listeners = gone.iter().flat_map(|e| &e.listeners).flatten().chain(held_freed).chain(&held.listeners);
        let new_listeners = new.iter().flat_map(|e| &e.listeners).flatten().chain(&freed).chain(&backends.listeners);
        let (services, listeners) = (&before.tables().services, &before.tables().listeners);
        // Several outbounds may lead to one service.
        let still: HashSet<*const ServiceRow> = match is_lost {
            false => HashSet::new(),
            true => entries.iter().filter_map(|e| Some(Arc::as_ptr(e.service.as_ref()?))).collect(),
        };
        let gone_services = gone.iter().filter_map(|e| e.service.as_ref()).filter(|s| !still.contains(&Arc::as_ptr(s)));
        let new_services = new.iter().filter_map(|e| e.service.as_ref()).chain(&backends.services);
        let gone_services = gone_services.chain(&held.services);
        let listeners = patch(listeners, gone_listeners, new_listeners, |a, b| a.address.cmp(&b.address));
        let is_there = |row: &Arc<ListenerRow>| {
            let at = listeners.binary_search_by(|held| held.address.cmp(&row.address));
            at.ok().and_then(|at| listeners.get(at)).is_some_and(|held| Arc::ptr_eq(held, row))
        };
        if !backends.listeners.iter().all(is_there) {
            return None;
        }
        let held_names = match self.before {
            Some(shared) if !shared.backends.names.is_empty() => &shared.names,
            _ => &before.tables().names,
        };
        let mut names = self.names(held_names, &entries, !is_lost);
        let all_names = match backends.names.is_empty() {
            true => std::mem::take(&mut names),
            false => merged(&names, &backends.names),
        };
        let tables = Tables {
            names: all_names,
            listeners,
            services: patch(services, gone_services, new_services, |a, b| a.name.cmp(&b.name)),
            ..Tables::default()
        };
        let snapshot = Snapshot::build_after(Some(before), tables, Generation::default()).ok()?;
        Some(Shared { entries, freed, backends, names, snapshot: Arc::new(snapshot) })
    }

    /// From the entries of before to those of now.
    fn walk(&self) -> Walked<'_> {
        let held = self.before.map_or(&[][..], |shared| &shared.entries);
        let client = Client { mesh: self.mesh, zone: &self.place.zone, dataplane: None };
        let mut upstreams = Upstreams::new(self.world, client);
        let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(self.mesh.names.outbounds.len());
        let (mut gone, mut new, mut is_lost) = (Vec::new(), Vec::new(), false);
        let mut old = held.iter().peekable();
        for outbound in &self.mesh.names.outbounds {
            // Most are the same allocation, and looking into thousands of them is what takes the time.
            let is_same = |e: &&Arc<Entry>| Arc::ptr_eq(&e.outbound, outbound);
            let same = old.next_if(is_same).or_else(|| {
                while let Some(earlier) = old.next_if(|e| place_of(&e.outbound) < place_of(outbound)) {
                    gone.push(earlier);
                    is_lost = true;
                }
                old.next_if(|e| place_of(&e.outbound) == place_of(outbound))
            });
            if let Some(same) = same.filter(|e| self.is_current(e, outbound)) {
                entries.push(match Arc::ptr_eq(&same.outbound, outbound) {
                    true => same.clone(),
                    false => Arc::new(Entry { outbound: outbound.clone(), ..Entry::clone(same) }),
                });
                continue;
            }
            let entry = Arc::new(self.entry(&mut upstreams, outbound, same.map(AsRef::as_ref)));
            gone.extend(same);
            new.push(entry.clone());
            entries.push(entry);
        }
        is_lost |= old.peek().is_some();
        gone.extend(old);
        Walked { entries, gone, new, is_lost }
    }

    fn backends(&self) -> Backends {
        if !self.place.has_backends {
            return Backends::default();
        }
        let from = From { world: self.world, mesh: self.mesh, zone: &self.place.zone };
        let nothing = Backends::default();
        Backends::after(self.before.map_or(&nothing, |shared| &shared.backends), from, self.place.has_ipv6)
    }

    /// Whether an entry that was made for an outbound at the same address still holds.
    fn is_current(&self, entry: &Entry, outbound: &Arc<NamedOutbound>) -> bool {
        let is_untouched = self.touched.as_ref().is_some_and(|touched| !touched.contains(&entry.of));
        is_untouched && (Arc::ptr_eq(&entry.outbound, outbound) || entry.outbound == *outbound)
    }

    fn entry(&self, upstreams: &mut Upstreams<'_>, outbound: &Arc<NamedOutbound>, held: Option<&Entry>) -> Entry {
        let outbound = outbound.clone();
        let of = hash(super::sni::service(&outbound.tags));
        let Some(row) = upstreams.common(&outbound.tags) else {
            return Entry { outbound, of, service: None, listeners: [None, None] };
        };
        let to = Reached { name: row.name.clone(), protocol: row.protocol, named: false };
        let handler = handler_for(&to, limits::REQUEST_TIMEOUT_MS);
        let listener = |ip: Option<IpAddr>, held: Option<&Arc<ListenerRow>>| {
            let address = SocketAddr::new(ip?, outbound.port);
            let role = Role::Outbound { vip: true, handler: handler.clone() };
            let row = ListenerRow { address, role, origin: outbound.origin.clone() };
            Some(held.filter(|held| ***held == row).cloned().unwrap_or_else(|| Arc::new(row)))
        };
        let [held4, held6] = held.map_or([None, None], |e| e.listeners.each_ref().map(Option::as_ref));
        let v6 = outbound.v6.filter(|_| self.place.has_ipv6);
        let listeners = [listener(outbound.v4.map(IpAddr::V4), held4), listener(v6.map(IpAddr::V6), held6)];
        Entry { service: Some(self.held(row)), outbound, of, listeners }
    }

    /// The equal row of before, so that there is one of each name.
    fn held(&self, row: Arc<ServiceRow>) -> Arc<ServiceRow> {
        let services = self.before.map_or(&[][..], |shared| &shared.snapshot.tables().services);
        let at = services.binary_search_by(|held| held.name.cmp(&row.name));
        at.ok().and_then(|at| services.get(at)).filter(|held| **held == row).cloned().unwrap_or(row)
    }

    /// Rows of freed addresses that nobody else has; a host that is written as an address may have one.
    fn freed(&self, before: &Tables, entries: &[Arc<Entry>], backends: &Backends) -> Vec<Arc<ListenerRow>> {
        if self.mesh.names.freed.is_empty() {
            return Vec::new();
        }
        let taken: HashSet<SocketAddr> =
            entries.iter().flat_map(|e| &e.listeners).flatten().chain(&backends.listeners).map(|l| l.address).collect();
        let rows = sidecar::freed(&self.mesh.names, self.place.has_ipv6).filter(|row| !taken.contains(&row.address));
        let held = |row: &ListenerRow| {
            let at = before.listeners.binary_search_by(|held| held.address.cmp(&row.address)).ok()?;
            before.listeners.get(at).filter(|held| ***held == *row).cloned()
        };
        rows.map(|row| held(&row).unwrap_or_else(|| Arc::new(row))).collect()
    }

    /// The names that lead to an outbound. `grows`: every outbound of before is still there.
    fn names(&self, before: &[Arc<NameRow>], entries: &[Arc<Entry>], grows: bool) -> Vec<Arc<NameRow>> {
        let served4 = LazyCell::new(|| entries.iter().filter_map(|e| e.outbound.v4).collect::<Vec<_>>());
        let all6 = || entries.iter().filter_map(|e| e.outbound.v6).filter(|_| self.place.has_ipv6);
        let served6 = LazyCell::new(|| all6().collect::<HashSet<_>>());
        let mut held = before.iter().peekable();
        let mut rows = Vec::with_capacity(self.mesh.names.names.len());
        for row in &self.mesh.names.names {
            if grows && let Some(same) = held.next_if(|held| Arc::ptr_eq(held, row)) {
                rows.push(same.clone());
                continue;
            }
            // Outbounds are sorted by their IPv4 address.
            let remains = row.v4.is_some_and(|ip| served4.binary_search(&ip).is_ok())
                || row.v6.is_some_and(|ip| served6.contains(&ip));
            if !remains {
                continue;
            }
            let v6 = row.v6.filter(|_| self.place.has_ipv6);
            while held.next_if(|h| h.name < row.name).is_some() {}
            let is_same = |h: &Arc<NameRow>| (&h.name, h.v4, h.v6, &h.origin) == (&row.name, row.v4, v6, &row.origin);
            rows.push(match held.peek() {
                Some(held) if is_same(held) => Arc::clone(held),
                _ if v6 == row.v6 => row.clone(),
                _ => Arc::new(NameRow { v6, ..NameRow::clone(row) }),
            });
        }
        rows
    }
}

/// What outbounds are sorted by.
fn place_of(outbound: &NamedOutbound) -> (Option<Ipv4Addr>, Option<std::net::Ipv6Addr>, u16) {
    (outbound.v4, outbound.v6, outbound.port)
}

/// Both are sorted; of the same name that of `others`.
fn merged(names: &[Arc<NameRow>], others: &[Arc<NameRow>]) -> Vec<Arc<NameRow>> {
    let mut rows = Vec::with_capacity(names.len() + others.len());
    let mut names = names.iter().peekable();
    for other in others {
        while let Some(name) = names.next_if(|name| name.name < other.name) {
            rows.push(name.clone());
        }
        names.next_if(|name| name.name == other.name);
        rows.push(other.clone());
    }
    rows.extend(names.cloned());
    rows
}
