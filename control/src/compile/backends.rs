//! Rows of MeshServices and their kin that all sidecars of a place have in common. All are made anew when something
//! changed; those that come out as they were stay the same allocations. It doesn't know which proxies there are.

use super::rows::{Reached, handler_for};
use super::services::{self, From, Target};
use snapshot::{ListenerRow, NameRow, Role, ServiceRow, limits};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Each list is sorted.
#[derive(Default)]
pub(super) struct Backends {
    pub names: Vec<Arc<NameRow>>,
    pub listeners: Vec<Arc<ListenerRow>>,
    pub services: Vec<Arc<ServiceRow>>,
}

impl Backends {
    pub(super) fn after(held: &Self, from: From<'_>, has_ipv6: bool) -> Self {
        let Some(all) = from.world.services(&from.mesh.name) else { return Self::default() };
        let mut rows: BTreeMap<Target<'_>, Option<Arc<ServiceRow>>> = BTreeMap::new();
        let mut listeners: BTreeMap<SocketAddr, Arc<ListenerRow>> = BTreeMap::new();
        for outbound in &all.outbounds {
            let target = Target { kind: outbound.kind, name: &outbound.name, port: outbound.port };
            let made = || Some(kept(&held.services, services::row(from, target)?, |a, b| a.name.cmp(&b.name)));
            let Some(row) = rows.entry(target).or_insert_with(made) else { continue };
            let to = Reached { name: row.name.clone(), protocol: row.protocol, named: false };
            let handler = handler_for(&to, limits::REQUEST_TIMEOUT_MS);
            let v6 = outbound.v6.filter(|_| has_ipv6).map(IpAddr::V6);
            for ip in outbound.v4.map(IpAddr::V4).into_iter().chain(v6) {
                let address = SocketAddr::new(ip, outbound.port);
                let role = Role::Outbound { vip: true, handler: handler.clone() };
                let row = ListenerRow { address, role, origin: target.origin(&from.mesh.name) };
                listeners
                    .entry(address)
                    .or_insert_with(|| kept(&held.listeners, row, |a, b| a.address.cmp(&b.address)));
            }
        }
        let served: HashSet<IpAddr> = listeners.keys().map(SocketAddr::ip).collect();
        let mut names = BTreeMap::new();
        for row in &all.names {
            let v6 = row.v6.filter(|_| has_ipv6);
            let mut addresses = row.v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
            if addresses.any(|ip| served.contains(&ip)) {
                let row = NameRow { v6, ..row.clone() };
                names.insert(row.name.clone(), kept(&held.names, row, |a, b| a.name.cmp(&b.name)));
            }
        }
        let mut services: Vec<_> = rows.into_values().flatten().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Self { names: names.into_values().collect(), listeners: listeners.into_values().collect(), services }
    }
}

/// The equal row of `held`, else this one.
fn kept<T: PartialEq>(held: &[Arc<T>], row: T, order: impl Fn(&T, &T) -> Ordering) -> Arc<T> {
    let found = held.binary_search_by(|held| order(held, &row)).ok().and_then(|at| held.get(at));
    found.filter(|held| ***held == row).cloned().unwrap_or_else(|| Arc::new(row))
}
