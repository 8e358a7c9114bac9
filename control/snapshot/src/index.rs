//! Rows by key, in a table that a next snapshot shares while nothing in it changed and patches where something did.
//! Keys stay in the rows. It must not know what a row means.

use crate::changed::changed;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// What an [`Index`] holds.
pub(crate) trait Keyed {
    type Key: ?Sized + Hash + Eq;
    fn key(&self) -> &Self::Key;
}

pub(crate) struct Index<T> {
    table: Arc<HashTable<Arc<T>>>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { table: Arc::default(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), hasher: self.hasher.clone() }
    }
}

impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index of {}", self.table.len())
    }
}

impl<T: Keyed> Index<T> {
    pub(crate) fn get(&self, key: &T::Key) -> Option<&Arc<T>> {
        if self.table.is_empty() {
            return None;
        }
        self.table.find(self.hasher.hash_one(key), |row| row.key() == key)
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        let hasher = &self.hasher;
        Arc::make_mut(&mut self.table).reserve(more, |row| hasher.hash_one(row.key()));
    }

    /// False when a row of this key is there already: it stays.
    pub(crate) fn insert(&mut self, row: Arc<T>) -> bool {
        let hasher = &self.hasher;
        let hash = hasher.hash_one(row.key());
        let table = Arc::make_mut(&mut self.table);
        if table.find(hash, |have| have.key() == row.key()).is_some() {
            return false;
        }
        table.insert_unique(hash, row, |row| hasher.hash_one(row.key()));
        true
    }

    pub(crate) fn remove(&mut self, key: &T::Key) {
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = Arc::make_mut(&mut self.table).find_entry(hash, |row| row.key() == key) {
            found.remove();
        }
    }
}

/// How one list of rows becomes another, by identity. Both should be sorted; where one isn't, more rows count as changed.
pub(crate) struct Changes<'a, T> {
    pub gone: Vec<&'a Arc<T>>,
    pub new: Vec<&'a Arc<T>>,
}

impl<'a, T: Keyed<Key: Ord>> Changes<'a, T> {
    pub(crate) fn between(old: &'a [Arc<T>], new: &'a [Arc<T>]) -> Self {
        let mut changes = Self { gone: Vec::new(), new: Vec::new() };
        for (old, new) in changed(old, new, |a, b| a.key().cmp(b.key())) {
            changes.gone.extend(old);
            changes.new.extend(new);
        }
        changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}
