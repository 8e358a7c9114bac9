//! Rows as the channel carries them: what changed since a base (upserts and removals), and back. Sans I/O; bodies are
//! JSON, so that a frame can be read by a person.

mod hosts;

use crate::changed::changed;
use crate::index::Keyed;
use crate::limits;
use crate::tables::{ListenerRow, NameRow, PermissionRow, ProxyRow, ServiceRow, SniRow, Tables};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
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

/// A row's key as a frame spells it.
trait KeyText: Ord {
    fn text(&self) -> Cow<'_, str>;
    /// Where the row of this key is in a sorted table, or would be.
    fn find<T: Keyed<Key = Self>>(rows: &[Arc<T>], text: &str) -> Result<usize, usize>;
}

impl KeyText for str {
    fn text(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
    fn find<T: Keyed<Key = Self>>(rows: &[Arc<T>], text: &str) -> Result<usize, usize> {
        rows.binary_search_by(|row| row.key().cmp(text))
    }
}

impl KeyText for SocketAddr {
    fn text(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
    fn find<T: Keyed<Key = Self>>(rows: &[Arc<T>], text: &str) -> Result<usize, usize> {
        // What isn't an address is the key of no row.
        let address: Self = text.parse().map_err(|_| rows.len())?;
        rows.binary_search_by(|row| row.key().cmp(&address))
    }
}

/// A row of a sorted table.
trait Row: Keyed<Key: KeyText> + Serialize + DeserializeOwned + PartialEq {
    const TABLE: &'static str;
    fn key_text(&self) -> Cow<'_, str> {
        self.key().text()
    }
    fn order(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
    fn find(rows: &[Arc<Self>], key: &str) -> Result<usize, usize> {
        Self::Key::find(rows, key)
    }
    /// Makes what several of these rows have in common one allocation.
    fn unify(rows: &mut [Self]) {
        let _ = rows;
    }
    /// This row with what it can share of `held`, the row of the same key.
    fn sharing(&self, held: &Self) -> Option<Self> {
        let _ = held;
        None
    }
}

impl Row for NameRow {
    const TABLE: &'static str = "name";
}

impl Row for ListenerRow {
    const TABLE: &'static str = "listener";
    fn unify(rows: &mut [Self]) {
        hosts::unify(rows);
    }
    fn sharing(&self, held: &Self) -> Option<Self> {
        hosts::sharing(self, held)
    }
}

impl Row for ServiceRow {
    const TABLE: &'static str = "service";
}

impl Row for PermissionRow {
    const TABLE: &'static str = "permission";
}

impl Row for SniRow {
    const TABLE: &'static str = "sni";
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
    diff_table(&base.names, &next.names, &mut delta, &upsert);
    diff_table(&base.listeners, &next.listeners, &mut delta, &hosts::upsert);
    diff_table(&base.services, &next.services, &mut delta, &upsert);
    diff_table(&base.permissions, &next.permissions, &mut delta, &upsert);
    diff_table(&base.snis, &next.snis, &mut delta, &upsert);
    delta
}

fn proxy_row(row: &ProxyRow) -> RowUpsert {
    RowUpsert { id: RowId { table: PROXY.into(), key: String::new() }, body: encode(row) }
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    // Rows hold strings, numbers and lists only: there is nothing that JSON can't carry.
    serde_json::to_vec(row).unwrap_or_default()
}

/// Writes what is to be sent of a row that is new or differs from the old one.
type Write<'a, T> = &'a dyn Fn(Option<&T>, &T, &mut Delta);

fn upsert<T: Row>(_old: Option<&T>, row: &T, delta: &mut Delta) {
    let id = RowId { table: T::TABLE.into(), key: row.key_text().into_owned() };
    delta.upserts.push(RowUpsert { id, body: encode(row) });
}

/// Both are sorted; rows that are one allocation aren't looked at.
fn diff_table<T: Row>(base: &[Arc<T>], next: &[Arc<T>], delta: &mut Delta, write: Write<'_, T>) {
    for (old, new) in changed(base, next, T::order) {
        match (old, new) {
            (Some(old), Some(new)) if old == new => {}
            (old, Some(new)) => write(old.map(AsRef::as_ref), new, delta),
            (Some(old), None) => {
                delta.removals.push(RowId { table: T::TABLE.into(), key: old.key_text().into_owned() });
            }
            (None, None) => {}
        }
    }
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
    let hosts = by_table.remove(hosts::TABLE);
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
    if let Some(change) = hosts {
        hosts::apply(&mut next.listeners, change)?;
    }
    Ok(next)
}

/// `next` with the rows of `held` where they are equal, so that a set made or sent in full takes no memory twice, and what
/// changed is known by identity.
pub fn share(held: &Tables, mut next: Tables) -> Tables {
    share_table(&held.names, &mut next.names);
    share_table(&held.listeners, &mut next.listeners);
    share_table(&held.services, &mut next.services);
    share_table(&held.permissions, &mut next.permissions);
    share_table(&held.snis, &mut next.snis);
    next
}

fn share_table<T: Row>(held: &[Arc<T>], next: &mut [Arc<T>]) {
    let mut held = held.iter().peekable();
    for row in next {
        // Rows that are one allocation aren't looked at.
        if held.next_if(|old| Arc::ptr_eq(old, row)).is_some() {
            continue;
        }
        while held.next_if(|old| old.order(row).is_lt()).is_some() {}
        let Some(old) = held.next_if(|old| old.order(row).is_eq()) else { continue };
        if Arc::ptr_eq(old, row) {
            continue;
        }
        if old == row {
            *row = old.clone();
        } else if let Some(shared) = row.sharing(old) {
            *row = Arc::new(shared);
        }
    }
}

/// So many changes are worked into a table one by one; of more it is sorted anew.
const SINGLE_CHANGES_MAX: usize = 256;

#[derive(Default)]
struct Change<'a> {
    upserts: Vec<&'a RowUpsert>,
    removals: HashSet<&'a str>,
}

impl Change<'_> {
    fn apply<T: Row>(self, rows: &mut Vec<Arc<T>>) -> Result<(), WireError> {
        let mut fresh = Vec::with_capacity(self.upserts.len());
        for upsert in self.upserts {
            let row: T = decode(upsert)?;
            if row.key_text() != upsert.id.key {
                return Err(WireError {
                    row: upsert.id.clone(),
                    problem: format!("the body is of row {}", row.key_text()),
                });
            }
            fresh.push(row);
        }
        T::unify(&mut fresh);
        let mut fresh: Vec<Arc<T>> = fresh.into_iter().map(Arc::new).collect();
        if fresh.len() + self.removals.len() > SINGLE_CHANGES_MAX {
            rebuild(rows, &mut fresh, &self.removals);
            return Ok(());
        }
        for key in self.removals {
            if let Ok(at) = T::find(rows, key) {
                rows.remove(at);
            }
        }
        for row in fresh {
            match T::find(rows, &row.key_text()) {
                Ok(at) => drop(rows.get_mut(at).map(|old| *old = row)),
                Err(at) => rows.insert(at, row),
            }
        }
        Ok(())
    }
}

fn rebuild<T: Row>(rows: &mut Vec<Arc<T>>, fresh: &mut Vec<Arc<T>>, removals: &HashSet<&str>) {
    if !rows.is_empty() {
        let replaced: HashSet<Cow<'_, str>> = fresh.iter().map(|row| row.key_text()).collect();
        rows.retain(|row| {
            let key = row.key_text();
            !removals.contains(key.as_ref()) && !replaced.contains(&key)
        });
    }
    rows.append(fresh);
    rows.sort_by(|a, b| a.order(b));
    // Of a row sent twice the last counts.
    rows.dedup_by(|later, kept| {
        let is_twice = kept.order(later).is_eq();
        if is_twice {
            std::mem::swap(later, kept);
        }
        is_twice
    });
}

fn decode<T: DeserializeOwned>(row: &RowUpsert) -> Result<T, WireError> {
    serde_json::from_slice(&row.body).map_err(|e| WireError { row: row.id.clone(), problem: e.to_string() })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
