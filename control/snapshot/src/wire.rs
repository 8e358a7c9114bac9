//! Rows as the channel carries them: what changed since a base (upserts and removals), and back. Sans I/O. Bodies are
//! MessagePack with field names, so that control planes and proxies of different releases understand each other: fields that
//! are unknown are passed over, new ones have defaults. What can't be done that way takes another [`FORMAT`].

mod hosts;
mod incoming;
mod saved;

pub use incoming::Incoming;
pub use saved::{load, save};

use crate::changed::changed;
use crate::host::HostPattern;
use crate::index::Keyed;
use crate::tables::{ListenerRow, NameRow, PermissionRow, ServiceRow, SniRow, Tables, VirtualHost};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

/// How rows are written. A peer that reads and writes another one is refused.
pub const FORMAT: u32 = 1;
/// Rows travel in pieces of about this size, so that the first are read while the next are written.
const PART_BYTES: usize = 64 << 10;

/// A row's place: the table's name and the key in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub table: String,
    pub key: String,
}

/// Rows of one table, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub table: String,
    pub count: usize,
    pub bodies: Vec<u8>,
}

/// A piece of what turns one proxy's tables into the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub upserts: Vec<Rows>,
    pub removals: Vec<RowId>,
    /// All of them together take effect.
    pub is_last: bool,
}

/// A part that can't be taken, with the row it fails at.
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

/// A row's key as removals spell it.
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

impl KeyText for HostPattern {
    fn text(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
    fn find<T: Keyed<Key = Self>>(rows: &[Arc<T>], text: &str) -> Result<usize, usize> {
        let host = Self::parse(text);
        rows.binary_search_by(|row| row.key().cmp(&host))
    }
}

/// A row of a sorted table.
trait Row: Keyed<Key: KeyText> + Serialize + DeserializeOwned + PartialEq {
    const TABLE: &'static str;
    fn order(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
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

/// Of one listener.
impl Row for VirtualHost {
    const TABLE: &'static str = hosts::TABLE;
}

const PROXY: &str = "proxy";

/// What is to be written.
enum Item<'a> {
    Put(&'static str, &'a (dyn Encode + Sync)),
    /// A listener without its hosts.
    Frame(Box<ListenerRow>),
    Host(SocketAddr, &'a VirtualHost),
    /// A listener that does what an earlier one does.
    Twin(hosts::Twin),
    Gone(&'static str, String),
}

trait Encode {
    fn encode(&self, into: &mut Vec<u8>);
}

impl<T: Serialize> Encode for T {
    fn encode(&self, into: &mut Vec<u8>) {
        // Rows hold strings, numbers and lists only, and memory takes what is written: there is nothing that can fail.
        let _ = rmp_serde::encode::write_named(into, self);
    }
}

impl Part {
    fn write(&mut self, item: &Item<'_>) {
        match item {
            Item::Put(table, row) => self.put(table, *row),
            Item::Frame(row) => self.put(ListenerRow::TABLE, row.as_ref()),
            Item::Host(listener, host) => self.put(hosts::TABLE, &hosts::HostRef { listener: *listener, host }),
            Item::Twin(twin) => self.put(hosts::TWINS, twin),
            Item::Gone(table, key) => self.removals.push(RowId { table: (*table).to_owned(), key: key.clone() }),
        }
    }

    fn put(&mut self, table: &str, row: &dyn Encode) {
        match self.upserts.last_mut().filter(|rows| rows.table == table) {
            Some(rows) => {
                rows.count += 1;
                row.encode(&mut rows.bodies);
            }
            None => {
                let mut bodies = Vec::new();
                row.encode(&mut bodies);
                self.upserts.push(Rows { table: table.to_owned(), count: 1, bodies });
            }
        }
    }

    fn size_bytes(&self) -> usize {
        let removals: usize = self.removals.iter().map(|id| id.table.len() + id.key.len()).sum();
        self.upserts.iter().map(|rows| rows.bodies.len()).sum::<usize>() + removals
    }
}

/// What changed from `base` to `next`, written piece by piece as it is asked for; without a base, everything. There is a last
/// piece always.
pub fn parts<'a>(base: Option<&'a Tables>, next: &'a Tables) -> impl Iterator<Item = Part> + Send + 'a {
    static NOTHING: LazyLock<Tables> = LazyLock::new(Tables::default);
    let is_new = base.is_none_or(|base| base.proxy != next.proxy);
    let proxy = is_new.then_some(Item::Put(PROXY, &next.proxy as &(dyn Encode + Sync)));
    let base = base.unwrap_or(&NOTHING);
    let mut written = hosts::Written::default();
    let listeners = changed(&base.listeners, &next.listeners, ListenerRow::order);
    let listeners = listeners
        .flat_map(move |(old, new)| hosts::items(old.map(AsRef::as_ref), new.map(AsRef::as_ref), &mut written));
    let mut items = proxy
        .into_iter()
        .chain(items(&base.services, &next.services))
        .chain(items(&base.permissions, &next.permissions))
        .chain(listeners)
        .chain(items(&base.snis, &next.snis))
        .chain(items(&base.names, &next.names));
    let mut is_over = false;
    std::iter::from_fn(move || {
        let mut part = Part::default();
        while !is_over && part.size_bytes() < PART_BYTES {
            match items.next() {
                Some(item) => part.write(&item),
                None => (is_over, part.is_last) = (true, true),
            }
        }
        (part.is_last || !is_over).then_some(part)
    })
}

/// Both are sorted; rows that are one allocation aren't looked at.
fn items<'a, T: Row + Send + Sync>(
    base: &'a [Arc<T>],
    next: &'a [Arc<T>],
) -> impl Iterator<Item = Item<'a>> + Send + 'a {
    changed(base, next, T::order).filter_map(|(old, new)| match (old, new) {
        (Some(old), Some(new)) if old == new => None,
        (_, Some(new)) => Some(Item::Put(T::TABLE, new.as_ref())),
        (Some(old), None) => Some(Item::Gone(T::TABLE, old.key().text().into_owned())),
        (None, None) => None,
    })
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

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
