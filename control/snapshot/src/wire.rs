//! Rows as the channel carries them: what changed since a base (upserts and removals), and back. Sans I/O; bodies are
//! JSON, so that a frame can be read by a person.

use crate::limits;
use crate::tables::{ListenerRow, NameRow, PermissionRow, ProxyRow, ServiceRow, SniRow, Tables};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// A row's place: the table's name and the key in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub table: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowUpsert {
    pub id: RowId,
    pub body: Vec<u8>,
}

/// What turns one proxy's tables into the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub upserts: Vec<RowUpsert>,
    pub removals: Vec<RowId>,
}

/// A frame that can't be taken, with the row it fails at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    pub row: RowId,
    pub problem: String,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}/{}: {}", self.row.table, self.row.key, self.problem)
    }
}

trait Row: Serialize + DeserializeOwned + PartialEq {
    const TABLE: &'static str;
    fn key(&self) -> String;
    fn sort(rows: &mut [Arc<Self>]) {
        rows.sort_by_cached_key(|r| r.key());
    }
}

impl Row for NameRow {
    const TABLE: &'static str = "name";
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Row for ListenerRow {
    const TABLE: &'static str = "listener";
    fn key(&self) -> String {
        self.address.to_string()
    }
    fn sort(rows: &mut [Arc<Self>]) {
        rows.sort_by_key(|r| r.address);
    }
}

impl Row for ServiceRow {
    const TABLE: &'static str = "service";
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Row for PermissionRow {
    const TABLE: &'static str = "permission";
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Row for SniRow {
    const TABLE: &'static str = "sni";
    fn key(&self) -> String {
        self.sni.clone()
    }
}

const PROXY: &str = "proxy";

/// All rows, as a first frame carries them.
pub fn rows(tables: &Tables) -> Vec<RowUpsert> {
    let nothing = Tables::default();
    let mut delta = diff(&nothing, tables);
    if tables.proxy == nothing.proxy {
        delta.upserts.push(proxy_row(&tables.proxy));
    }
    delta.upserts
}

/// What changed from `base` to `next`.
pub fn diff(base: &Tables, next: &Tables) -> Delta {
    let mut delta = Delta::default();
    if base.proxy != next.proxy {
        delta.upserts.push(proxy_row(&next.proxy));
    }
    diff_table(&base.names, &next.names, &mut delta);
    diff_table(&base.listeners, &next.listeners, &mut delta);
    diff_table(&base.services, &next.services, &mut delta);
    diff_table(&base.permissions, &next.permissions, &mut delta);
    diff_table(&base.snis, &next.snis, &mut delta);
    delta
}

fn proxy_row(row: &ProxyRow) -> RowUpsert {
    RowUpsert { id: RowId { table: PROXY.into(), key: String::new() }, body: encode(row) }
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    // Rows hold strings, numbers and lists only: there is nothing that JSON can't carry.
    serde_json::to_vec(row).unwrap_or_default()
}

fn diff_table<T: Row>(base: &[Arc<T>], next: &[Arc<T>], delta: &mut Delta) {
    let old: HashMap<String, &Arc<T>> = base.iter().map(|r| (r.key(), r)).collect();
    let mut kept = HashSet::with_capacity(next.len());
    for row in next {
        let key = row.key();
        if old.get(&key).is_none_or(|o| !Arc::ptr_eq(o, row) && *o != row) {
            let id = RowId { table: T::TABLE.into(), key: key.clone() };
            delta.upserts.push(RowUpsert { id, body: encode(row.as_ref()) });
        }
        kept.insert(key);
    }
    let mut gone: Vec<String> = old.into_keys().filter(|k| !kept.contains(k)).collect();
    gone.sort();
    delta.removals.extend(gone.into_iter().map(|key| RowId { table: T::TABLE.into(), key }));
}

/// The tables that follow from `base` by `delta`; rows that didn't change are shared.
///
/// # Errors
/// The first row that can't be decoded; `base` is untouched.
pub fn apply(base: &Tables, delta: &Delta) -> Result<Tables, WireError> {
    let mut next = base.clone();
    let mut by_table: HashMap<&str, Change<'_>> = HashMap::new();
    for row in &delta.upserts {
        if row.body.len() > limits::WIRE_ROW_BYTES_MAX {
            let problem = format!("{} bytes, the limit is {}", row.body.len(), limits::WIRE_ROW_BYTES_MAX);
            return Err(WireError { row: row.id.clone(), problem });
        }
        by_table.entry(&row.id.table).or_default().upserts.push(row);
    }
    for id in &delta.removals {
        by_table.entry(&id.table).or_default().removals.insert(&id.key);
    }
    for (table, change) in by_table {
        match table {
            PROXY => {
                for row in change.upserts {
                    next.proxy = decode(row)?;
                }
            }
            NameRow::TABLE => change.apply(&mut next.names)?,
            ListenerRow::TABLE => change.apply(&mut next.listeners)?,
            ServiceRow::TABLE => change.apply(&mut next.services)?,
            PermissionRow::TABLE => change.apply(&mut next.permissions)?,
            SniRow::TABLE => change.apply(&mut next.snis)?,
            other => {
                let row = RowId { table: other.into(), key: String::new() };
                return Err(WireError {
                    row,
                    problem: "no such table; the control plane may be newer than this proxy".into(),
                });
            }
        }
    }
    Ok(next)
}

/// `next` with the rows of `held` where they are equal, so that a set sent in full takes no memory twice.
pub fn share(held: &Tables, mut next: Tables) -> Tables {
    share_table(&held.names, &mut next.names);
    share_table(&held.listeners, &mut next.listeners);
    share_table(&held.services, &mut next.services);
    share_table(&held.permissions, &mut next.permissions);
    share_table(&held.snis, &mut next.snis);
    next
}

fn share_table<T: Row>(held: &[Arc<T>], next: &mut [Arc<T>]) {
    if held.is_empty() {
        return;
    }
    let held: HashMap<String, &Arc<T>> = held.iter().map(|r| (r.key(), r)).collect();
    for row in next {
        if let Some(old) = held.get(&row.key()).filter(|old| !Arc::ptr_eq(old, row) && **old == row) {
            *row = Arc::clone(old);
        }
    }
}

#[derive(Default)]
struct Change<'a> {
    upserts: Vec<&'a RowUpsert>,
    removals: HashSet<&'a str>,
}

impl Change<'_> {
    fn apply<T: Row>(self, rows: &mut Vec<Arc<T>>) -> Result<(), WireError> {
        let mut fresh = HashMap::with_capacity(self.upserts.len());
        for upsert in self.upserts {
            let row: T = decode(upsert)?;
            if row.key() != upsert.id.key {
                return Err(WireError { row: upsert.id.clone(), problem: format!("the body is of row {}", row.key()) });
            }
            fresh.insert(upsert.id.key.as_str(), Arc::new(row));
        }
        rows.retain(|r| {
            let key = r.key();
            !self.removals.contains(key.as_str()) && !fresh.contains_key(key.as_str())
        });
        rows.extend(fresh.into_values());
        T::sort(rows);
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(row: &RowUpsert) -> Result<T, WireError> {
    serde_json::from_slice(&row.body).map_err(|e| WireError { row: row.id.clone(), problem: e.to_string() })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
