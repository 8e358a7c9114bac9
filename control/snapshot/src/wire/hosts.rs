//! Virtual hosts on the wire: a listener of many hosts travels as its frame and a row for each host, so that a changed route
//! carries its host and not ten thousand others. Hosts of such a listener are sorted by their text. Knows no other row.

use super::{Change, Delta, Row, RowId, RowUpsert, WireError, decode, encode};
use crate::host::HostPattern;
use crate::tables::{Handler, ListenerRow, Role, VirtualHost};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Keys are `<address> <host>`.
pub(super) const TABLE: &str = "host";

type Hosts = Vec<Arc<VirtualHost>>;

fn of(row: &ListenerRow) -> Option<&Hosts> {
    match &row.role {
        Role::Outbound { handler: Handler::Http { hosts }, .. }
        | Role::Gateway { handler: Handler::Http { hosts }, .. } => Some(hosts),
        _ => None,
    }
}

fn of_mut(row: &mut ListenerRow) -> Option<&mut Hosts> {
    match &mut row.role {
        Role::Outbound { handler: Handler::Http { hosts }, .. }
        | Role::Gateway { handler: Handler::Http { hosts }, .. } => Some(hosts),
        _ => None,
    }
}

/// Hosts of a listener that travels in pieces: several, in order, none twice.
fn pieces(row: &ListenerRow) -> Option<&Hosts> {
    let hosts = of(row).filter(|hosts| hosts.len() > 1)?;
    hosts.is_sorted_by(|a, b| text(&a.host).lt(text(&b.host))).then_some(hosts)
}

/// As the key spells it.
fn text(host: &HostPattern) -> impl Iterator<Item = u8> {
    let (star, rest) = match host {
        HostPattern::Exact(name) => ("", name.as_str()),
        HostPattern::Suffix(suffix) => ("*", suffix.as_str()),
        HostPattern::Any => ("*", ""),
    };
    star.bytes().chain(rest.bytes())
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

/// Writes a listener that is new or differs from `old`.
pub(super) fn upsert(old: Option<&ListenerRow>, row: &ListenerRow, delta: &mut Delta) {
    let Some(hosts) = pieces(row) else { return super::upsert(old, row, delta) };
    let frame_now = frame(row);
    let held = old.filter(|old| frame(old) == frame_now).and_then(pieces);
    let id = |host: &VirtualHost| RowId { table: TABLE.into(), key: format!("{} {}", row.address, host.host) };
    let Some(held) = held else {
        super::upsert(None, &frame_now, delta);
        delta.upserts.extend(hosts.iter().map(|h| RowUpsert { id: id(h), body: encode(h.as_ref()) }));
        return;
    };
    let old: HashMap<_, _> = held.iter().map(|h| (&h.host, h)).collect();
    for host in hosts {
        if !old.get(&host.host).is_some_and(|o| Arc::ptr_eq(o, host) || *o == host) {
            delta.upserts.push(RowUpsert { id: id(host), body: encode(host.as_ref()) });
        }
    }
    let kept: HashSet<_> = hosts.iter().map(|h| &h.host).collect();
    delta.removals.extend(held.iter().filter(|h| !kept.contains(&h.host)).map(|h| id(h)));
}

/// The IPv4 and the IPv6 listener of a name do the same.
pub(super) fn unify(rows: &mut [ListenerRow]) {
    let mut seen: HashSet<Arc<VirtualHost>> = HashSet::new();
    for host in rows.iter_mut().filter_map(of_mut).filter(|hosts| hosts.len() == 1).flatten() {
        match seen.get(&*host) {
            Some(same) => *host = same.clone(),
            None => drop(seen.insert(host.clone())),
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

/// Works host rows into listeners that are there already.
pub(super) fn apply(listeners: &mut [Arc<ListenerRow>], change: Change<'_>) -> Result<(), WireError> {
    let mut by_listener: HashMap<&str, HashMap<&str, Option<Arc<VirtualHost>>>> = HashMap::new();
    let wrong = |key: &str, problem: &str| WireError {
        row: RowId { table: TABLE.into(), key: key.to_owned() },
        problem: problem.to_owned(),
    };
    for key in &change.removals {
        let (address, host) = key.split_once(' ').ok_or_else(|| wrong(key, "isn't `address host`"))?;
        by_listener.entry(address).or_default().insert(host, None);
    }
    for upsert in &change.upserts {
        let key = upsert.id.key.as_str();
        let (address, host) = key.split_once(' ').ok_or_else(|| wrong(key, "isn't `address host`"))?;
        let row: VirtualHost = decode(upsert)?;
        if row.host.to_string() != host {
            return Err(wrong(key, "the body is of another host"));
        }
        by_listener.entry(address).or_default().insert(host, Some(Arc::new(row)));
    }
    for (address, mut changed) in by_listener {
        let found = ListenerRow::find(listeners, address).ok().and_then(|at| listeners.get_mut(at));
        let hosts = found.and_then(|row| of_mut(Arc::make_mut(row)));
        let Some(hosts) = hosts else { return Err(wrong(address, "there is no such HTTP listener")) };
        let mut next: Vec<(String, Arc<VirtualHost>)> = Vec::with_capacity(hosts.len() + changed.len());
        for host in hosts.drain(..) {
            let text = host.host.to_string();
            match changed.remove(text.as_str()) {
                None => next.push((text, host)),
                Some(Some(host)) => next.push((text, host)),
                Some(None) => {}
            }
        }
        next.extend(changed.into_iter().filter_map(|(text, host)| Some((text.to_owned(), host?))));
        next.sort_by(|a, b| a.0.cmp(&b.0));
        *hosts = next.into_iter().map(|(_, host)| host).collect();
    }
    Ok(())
}
