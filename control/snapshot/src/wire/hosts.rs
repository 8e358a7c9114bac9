//! Virtual hosts on the wire: a listener of many hosts travels as its frame and a row for each host, so that a changed route
//! carries its host and not ten thousand others. Hosts of such a listener are sorted. Knows no other row.

use super::Item;
use crate::host::HostPattern;
use crate::index::Keyed;
use crate::tables::{Handler, ListenerRow, Role, VirtualHost};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Keys of removals are `<address> <host>`.
pub(super) const TABLE: &str = "host";
pub(super) const TWINS: &str = "twin";

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

/// The IPv4 and the IPv6 listener of a name do the same: the second is written as this.
#[derive(Serialize, Deserialize)]
pub(super) struct Twin {
    pub address: SocketAddr,
    /// Which of the generation's listeners, as they came.
    pub of: usize,
}

/// Listeners of the generation that is being written.
#[derive(Default)]
pub(super) struct Written<'a> {
    listeners: usize,
    /// By the address of their only host in memory: what the compiler made for both families is one allocation.
    by_host: HashMap<usize, (usize, &'a ListenerRow)>,
}

impl<'a> Written<'a> {
    fn item(&mut self, row: &'a ListenerRow) -> Item<'a> {
        let number = self.listeners;
        self.listeners += 1;
        if let Some([host]) = of(row).map(Vec::as_slice) {
            let (of, first) = *self.by_host.entry(Arc::as_ptr(host).addr()).or_insert((number, row));
            if of != number && first.role == row.role && first.origin == row.origin {
                return Item::Twin(Twin { address: row.address, of });
            }
        }
        Item::Put(<ListenerRow as super::Row>::TABLE, row)
    }
}

/// None if the listener it is like isn't there.
pub(super) fn add_twin(listeners: &mut Vec<Arc<ListenerRow>>, twin: &Twin) -> Option<()> {
    let row = ListenerRow { address: twin.address, ..ListenerRow::clone(listeners.get(twin.of)?) };
    listeners.push(Arc::new(row));
    Some(())
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
    written: &mut Written<'a>,
) -> Box<dyn Iterator<Item = Item<'a>> + Send + 'a> {
    let table = <ListenerRow as super::Row>::TABLE;
    let Some(row) = new else {
        return Box::new(old.into_iter().map(move |old| Item::Gone(table, old.address.to_string())));
    };
    if old == Some(row) {
        return Box::new(std::iter::empty());
    }
    let Some(hosts) = pieces(row) else { return Box::new(std::iter::once(written.item(row))) };
    let frame_now = frame(row);
    match old.filter(|old| frame(old) == frame_now).and_then(pieces) {
        None => {
            written.listeners += 1;
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
