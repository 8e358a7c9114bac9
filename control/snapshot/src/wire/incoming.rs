//! What arrives: parts are read as they come, and worked into tables when the last is there.

use super::{FORMAT, PROXY, Part, Row, RowId, Rows, WireError, hosts};
use crate::limits;
use crate::tables::{ListenerRow, NameRow, PermissionRow, ProxyRow, ServiceRow, SniRow, Tables, VirtualHost};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// So many changes are worked into a table one by one; of more it is sorted anew.
const SINGLE_CHANGES_MAX: usize = 256;

/// The parts of one generation.
#[derive(Default)]
pub struct Incoming {
    rows: usize,
    proxy: Option<ProxyRow>,
    names: Change<NameRow>,
    listeners: Change<ListenerRow>,
    hosts: HashMap<SocketAddr, Change<VirtualHost>>,
    services: Change<ServiceRow>,
    permissions: Change<PermissionRow>,
    snis: Change<SniRow>,
}

struct Change<T> {
    upserts: Vec<Arc<T>>,
    removals: HashSet<String>,
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self { upserts: Vec::new(), removals: HashSet::new() }
    }
}

fn wrong(table: &str, key: &str, problem: impl Into<String>) -> WireError {
    WireError { row: RowId { table: table.to_owned(), key: key.to_owned() }, problem: problem.into() }
}

fn no_such_table(table: &str) -> WireError {
    wrong(table, "", "no such table; the control plane is newer than this proxy: install the same release here")
}

impl Incoming {
    /// # Errors
    /// Rows in this format can't be read.
    pub fn new(format: u32) -> Result<Self, String> {
        if format == FORMAT {
            return Ok(Self::default());
        }
        Err(format!(
            "rows are in format {format}, this proxy reads {FORMAT}: install the same release of proxy and control plane"
        ))
    }

    /// What holds for the proxy as a whole, if it changes and came already: it comes first.
    pub fn proxy(&self) -> Option<&ProxyRow> {
        self.proxy.as_ref()
    }

    /// How many rows came.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads one part.
    ///
    /// # Errors
    /// The first row that can't be read.
    pub fn take(&mut self, part: &Part) -> Result<(), WireError> {
        part.upserts.iter().try_for_each(|rows| self.upsert(rows))?;
        part.removals.iter().try_for_each(|id| self.remove(id))?;
        if self.rows > limits::ROWS_MAX {
            return Err(wrong("", "", format!("{} rows, the limit is {}", self.rows, limits::ROWS_MAX)));
        }
        Ok(())
    }

    fn upsert(&mut self, of: &Rows) -> Result<(), WireError> {
        let Self { proxy, names, listeners, hosts, services, permissions, snis, rows } = self;
        *rows = rows.saturating_add(of.count);
        match of.table.as_str() {
            PROXY => read_each(of, |row| *proxy = Some(row)),
            NameRow::TABLE => names.read(of),
            ListenerRow::TABLE => listeners.read(of),
            hosts::TWINS => {
                let mut is_orphan = false;
                read_each(of, |twin| is_orphan |= hosts::add_twin(&mut listeners.upserts, &twin).is_none())?;
                if is_orphan { Err(wrong(hosts::TWINS, "", "the listener it is like isn't there")) } else { Ok(()) }
            }
            hosts::TABLE => read_each(of, |hosts::HostRow { listener, host }| {
                hosts.entry(listener).or_default().upserts.push(host);
            }),
            ServiceRow::TABLE => services.read(of),
            PermissionRow::TABLE => permissions.read(of),
            SniRow::TABLE => snis.read(of),
            other => Err(no_such_table(other)),
        }
    }

    fn remove(&mut self, RowId { table, key }: &RowId) -> Result<(), WireError> {
        let (removals, key) = match table.as_str() {
            NameRow::TABLE => (&mut self.names.removals, key.as_str()),
            ListenerRow::TABLE => (&mut self.listeners.removals, key.as_str()),
            hosts::TABLE => {
                let found = key.split_once(' ').and_then(|(listener, host)| Some((listener.parse().ok()?, host)));
                let (listener, host) = found.ok_or_else(|| wrong(table, key, "isn't `address host`"))?;
                (&mut self.hosts.entry(listener).or_default().removals, host)
            }
            ServiceRow::TABLE => (&mut self.services.removals, key.as_str()),
            PermissionRow::TABLE => (&mut self.permissions.removals, key.as_str()),
            SniRow::TABLE => (&mut self.snis.removals, key.as_str()),
            other => return Err(no_such_table(other)),
        };
        removals.insert(key.to_owned());
        self.rows += 1;
        Ok(())
    }

    /// The tables that follow from `base`; rows that didn't change are shared.
    ///
    /// # Errors
    /// Hosts of a listener that isn't there.
    pub fn apply(self, base: &Tables) -> Result<Tables, WireError> {
        let mut next = base.clone();
        if let Some(proxy) = self.proxy {
            next.proxy = proxy;
        }
        self.names.apply(&mut next.names);
        self.listeners.apply(&mut next.listeners);
        self.services.apply(&mut next.services);
        self.permissions.apply(&mut next.permissions);
        self.snis.apply(&mut next.snis);
        for (address, change) in self.hosts {
            let found = next.listeners.binary_search_by(|row| row.address.cmp(&address)).ok();
            let hosts =
                found.and_then(|at| next.listeners.get_mut(at)).and_then(|row| hosts::of_mut(Arc::make_mut(row)));
            let no_listener = || wrong(hosts::TABLE, &address.to_string(), "there is no such HTTP listener");
            change.apply(hosts.ok_or_else(no_listener)?);
        }
        Ok(next)
    }
}

/// Hands on each row.
fn read_each<T: DeserializeOwned>(rows: &Rows, mut take: impl FnMut(T)) -> Result<(), WireError> {
    let mut from = rmp_serde::Deserializer::from_read_ref(rows.bodies.as_slice());
    for number in 1..=rows.count {
        let row = T::deserialize(&mut from);
        take(row.map_err(|error| wrong(&rows.table, &format!("#{number}"), error.to_string()))?);
    }
    Ok(())
}

impl<T: Row> Change<T> {
    fn read(&mut self, rows: &Rows) -> Result<(), WireError> {
        read_each(rows, |row| self.upserts.push(Arc::new(row)))
    }

    fn apply(self, rows: &mut Vec<Arc<T>>) {
        if self.upserts.len() + self.removals.len() > SINGLE_CHANGES_MAX {
            return self.rebuild(rows);
        }
        for key in self.removals {
            if let Ok(at) = <T::Key as super::KeyText>::find(rows, &key) {
                rows.remove(at);
            }
        }
        for row in self.upserts {
            match rows.binary_search_by(|old| old.order(&row)) {
                Ok(at) => drop(rows.get_mut(at).map(|old| *old = row)),
                Err(at) => rows.insert(at, row),
            }
        }
    }

    fn rebuild(mut self, rows: &mut Vec<Arc<T>>) {
        use super::KeyText as _;
        if !rows.is_empty() {
            let replaced: HashSet<Cow<'_, str>> = self.upserts.iter().map(|row| row.key().text()).collect();
            rows.retain(|row| {
                let key = row.key().text();
                !self.removals.contains(key.as_ref()) && !replaced.contains(&key)
            });
        }
        rows.append(&mut self.upserts);
        rows.sort_by(|a, b| a.order(b));
        // Of a row sent twice the last counts.
        rows.dedup_by(|later, kept| {
            let is_twice = kept.order(later).is_eq();
            if is_twice {
                std::mem::swap(later, kept);
            }
            is_twice
        });
        rows.shrink_to_fit();
    }
}
