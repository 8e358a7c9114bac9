//! Virtual hosts on the wire: a listener of many hosts travels as its frame and a row for each host, so that a changed route
//! carries its host and not ten thousand others. Hosts of such a listener are sorted. Knows no other row.

use super::Item;
use crate::host::HostPattern;
use crate::index::Keyed;
use crate::tables::{Handler, ListenerRow, Role, VirtualHost};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Keys of removals are `<address> <host>`.
pub(super) const TABLE: &str = "host";

type Hosts = Vec<Arc<VirtualHost>>;

/// A host with the listener it belongs to.
#[derive(Serialize)]
pub(super) struct HostRef<'a> {
    pub listener: SocketAddr,
    pub host: &'a VirtualHost,
}

#[derive(Deserialize)]
pub(super) struct HostRow {
    pub listener: SocketAddr,
    pub host: Arc<VirtualHost>,
}

impl Keyed for VirtualHost {
    type Key = HostPattern;
    fn key(&self) -> &HostPattern {
        &self.host
    }
}

fn of(row: &ListenerRow) -> Option<&Hosts> {
    match &row.role {
        Role::Outbound { handler: Handler::Http { hosts }, .. }
        | Role::Gateway { handler: Handler::Http { hosts }, .. } => Some(hosts),
        _ => None,
    }
}

pub(super) fn of_mut(row: &mut ListenerRow) -> Option<&mut Hosts> {
    match &mut row.role {
        Role::Outbound { handler: Handler::Http { hosts }, .. }
        | Role::Gateway { handler: Handler::Http { hosts }, .. } => Some(hosts),
        _ => None,
    }
}

/// Hosts of a listener that travels in pieces: several, in order, none twice.
fn pieces(row: &ListenerRow) -> Option<&Hosts> {
    let hosts = of(row).filter(|hosts| hosts.len() > 1)?;
    hosts.is_sorted_by(|a, b| a.host < b.host).then_some(hosts)
}

/// The row without its hosts.
fn frame(row: &ListenerRow) -> ListenerRow {
    let handler = || Handler::Http { hosts: Vec::new() };
    let role = match &row.role {
        Role::Outbound { vip, handler: Handler::Http { .. } } => Role::Outbound { vip: *vip, handler: handler() },
        Role::Gateway { handler: Handler::Http { .. }, tls, connections_max } => {
            Role::Gateway { handler: handler(), tls: tls.clone(), connections_max: *connections_max }
        }
        other => other.clone(),
    };
    ListenerRow { address: row.address, role, origin: row.origin.clone() }
}

/// What is to be written of a listener that may have changed.
pub(super) fn items<'a>(
    old: Option<&'a ListenerRow>,
    new: Option<&'a ListenerRow>,
) -> Box<dyn Iterator<Item = Item<'a>> + Send + 'a> {
    let table = <ListenerRow as super::Row>::TABLE;
    let Some(row) = new else {
        return Box::new(old.into_iter().map(move |old| Item::Gone(table, old.address.to_string())));
    };
    if old == Some(row) {
        return Box::new(std::iter::empty());
    }
    let Some(hosts) = pieces(row) else { return Box::new(std::iter::once(Item::Put(table, row))) };
    let frame_now = frame(row);
    match old.filter(|old| frame(old) == frame_now).and_then(pieces) {
        None => {
            let hosts = hosts.iter().map(|host| Item::Host(row.address, host));
            Box::new(std::iter::once(Item::Frame(Box::new(frame_now))).chain(hosts))
        }
        Some(held) => {
            let changed = crate::changed(held, hosts, |a, b| a.host.cmp(&b.host));
            Box::new(changed.filter_map(|(old, new)| match (old, new) {
                (Some(old), Some(new)) if old == new => None,
                (_, Some(new)) => Some(Item::Host(row.address, new)),
                (Some(old), None) => Some(Item::Gone(TABLE, format!("{} {}", row.address, old.host))),
                (None, None) => None,
            }))
        }
    }
}

/// The IPv4 and the IPv6 listener of a name do the same.
#[derive(Default)]
pub(super) struct Twins(HashSet<Arc<VirtualHost>>);

impl Twins {
    /// The row with a host that came before, if it has a single one and that is the same.
    pub(super) fn unify(&mut self, mut row: ListenerRow) -> ListenerRow {
        if let Some([host]) = of_mut(&mut row).map(Vec::as_mut_slice) {
            match self.0.get(&*host) {
                Some(same) => *host = same.clone(),
                None => drop(self.0.insert(host.clone())),
            }
        }
        row
    }
}

/// `row` with the hosts of `held` that are equal.
pub(super) fn sharing(row: &ListenerRow, held: &ListenerRow) -> Option<ListenerRow> {
    let old: HashMap<_, _> = of(held).filter(|h| h.len() > 1)?.iter().map(|h| (&h.host, h)).collect();
    let mut shared = row.clone();
    for host in of_mut(&mut shared)? {
        if let Some(same) = old.get(&host.host).filter(|same| *same == &&*host) {
            *host = Arc::clone(same);
        }
    }
    Some(shared)
}
