//! What a change means: the store's contents in memory, and transactions staged over them before they show.
//! It must not know whether anything is durable.

use super::{Applied, Change, Document, Expect, Key, Outcome, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

/// Changed keys that are remembered for those who ask what changed; who is further behind reads everything.
const LOG_KEYS_MAX: usize = 1 << 14;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) revision: u64,
    /// Documents that changed, oldest first, each with the revision that has it.
    log: VecDeque<(u64, Key)>,
    /// What changed up to here isn't in the log.
    log_begins: u64,
    pub(super) documents: BTreeMap<Key, Arc<Document>>,
    pub(super) blobs: BTreeMap<String, Arc<[u8]>>,
}

/// What isn't visible yet. `None` is a removal.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) documents: BTreeMap<Key, Option<Arc<Document>>>,
    pub(super) blobs: BTreeMap<String, Option<Arc<[u8]>>>,
    /// How much the revision grows.
    pub(super) changes: u64,
}

#[derive(Debug)]
pub(super) struct Mirror {
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { state: RwLock::default(), revision: watch::Sender::new(0) }
    }
}

impl Mirror {
    // Nothing panics while it holds the lock, and every publication leaves the state whole: poison can be ignored.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Stage and show in one step.
    pub(super) fn apply(&self, changes: Vec<Change>, now_ms: u64) -> Result<Applied, StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut staged = Staged::default();
        let outcomes = staged.add(&state, changes, now_ms)?;
        state.take(staged);
        let revision = state.revision;
        drop(state);
        self.announce(revision);
        Ok(Applied { outcomes, revision })
    }

    /// Make visible what has been committed.
    pub(super) fn publish(&self, staged: Staged) -> u64 {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.take(staged);
        let revision = state.revision;
        drop(state);
        self.announce(revision);
        revision
    }

    pub(super) fn replace(&self, state: State) {
        let revision = state.revision;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.announce(revision);
    }

    fn announce(&self, revision: u64) {
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

impl State {
    pub(super) fn list(&self, kind: Option<&str>, mesh: Option<&str>) -> Vec<Arc<Document>> {
        let of_mesh = |d: &&Arc<Document>| mesh.is_none_or(|m| d.key.mesh == m);
        match kind {
            None => self.documents.values().filter(of_mesh).cloned().collect(),
            Some(kind) => self
                .documents
                .range(Key::new(kind, mesh.unwrap_or(""), "")..)
                .map(|(_, d)| d)
                .take_while(|d| d.key.kind == kind && mesh.is_none_or(|m| d.key.mesh == m))
                .cloned()
                .collect(),
        }
    }

    /// As read from a file: nothing is known of how it came about.
    pub(super) fn loaded(revision: u64) -> Self {
        Self { revision, log_begins: revision, ..Self::default() }
    }

    /// The documents that changed after `revision`, sorted by key, each as it is now; None when that is forgotten.
    pub(super) fn changed_since(&self, revision: u64) -> Option<Vec<(Key, Option<Arc<Document>>)>> {
        if revision < self.log_begins || revision > self.revision {
            return None;
        }
        let newer = self.log.iter().rev().take_while(|(at, _)| *at > revision).map(|(_, key)| key);
        let keys: BTreeSet<&Key> = newer.collect();
        Some(keys.into_iter().map(|key| (key.clone(), self.documents.get(key).cloned())).collect())
    }

    fn take(&mut self, staged: Staged) {
        self.revision += staged.changes;
        for key in staged.documents.keys() {
            self.log.push_back((self.revision, key.clone()));
        }
        while self.log.len() > LOG_KEYS_MAX
            && let Some((forgotten, _)) = self.log.pop_front()
        {
            self.log_begins = forgotten;
        }
        for (key, document) in staged.documents {
            match document {
                Some(document) => self.documents.insert(key, document),
                None => self.documents.remove(&key),
            };
        }
        for (name, bytes) in staged.blobs {
            match bytes {
                Some(bytes) => self.blobs.insert(name, bytes),
                None => self.blobs.remove(&name),
            };
        }
    }
}

impl Staged {
    /// One more transaction over `state` and what is staged already; on an error nothing of it stays.
    pub(super) fn add(&mut self, state: &State, changes: Vec<Change>, now_ms: u64) -> Result<Vec<Outcome>, StoreError> {
        let mut own = Self::default();
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let outcome = match change {
                Change::Put { key, body, labels, expect } => {
                    let found = own.find(self, state, &key);
                    check(&key, expect, found)?;
                    let (outcome, created_ms, version) = match found {
                        Some(old) if old.body == body && old.labels == labels => (Outcome::Unchanged, 0, 0),
                        Some(old) => (Outcome::Updated, old.created_ms, old.version + 1),
                        None => (Outcome::Created, now_ms, 1),
                    };
                    if outcome != Outcome::Unchanged {
                        let document =
                            Document { key: key.clone(), body, labels, created_ms, modified_ms: now_ms, version };
                        own.documents.insert(key, Some(Arc::new(document)));
                    }
                    outcome
                }
                Change::Delete { key, expect } => {
                    let found = own.find(self, state, &key);
                    check(&key, expect, found)?;
                    match found {
                        None => Outcome::Absent,
                        Some(_) => {
                            own.documents.insert(key, None);
                            Outcome::Deleted
                        }
                    }
                }
                Change::Blob { name, bytes } => own.set_blob(self, state, name, bytes),
            };
            own.changes += u64::from(!matches!(outcome, Outcome::Unchanged | Outcome::Absent));
            outcomes.push(outcome);
        }
        self.changes += own.changes;
        self.documents.extend(own.documents);
        self.blobs.extend(own.blobs);
        Ok(outcomes)
    }

    fn find<'a>(&'a self, earlier: &'a Self, state: &'a State, key: &Key) -> Option<&'a Arc<Document>> {
        match self.documents.get(key).or_else(|| earlier.documents.get(key)) {
            Some(staged) => staged.as_ref(),
            None => state.documents.get(key),
        }
    }

    fn set_blob(&mut self, earlier: &Self, state: &State, name: String, bytes: Option<Vec<u8>>) -> Outcome {
        let found = match self.blobs.get(&name).or_else(|| earlier.blobs.get(&name)) {
            Some(staged) => staged.as_ref(),
            None => state.blobs.get(&name),
        };
        let outcome = match (found, &bytes) {
            (None, None) => return Outcome::Absent,
            (Some(old), Some(new)) if old[..] == new[..] => return Outcome::Unchanged,
            (None, Some(_)) => Outcome::Created,
            (Some(_), Some(_)) => Outcome::Updated,
            (Some(_), None) => Outcome::Deleted,
        };
        self.blobs.insert(name, bytes.map(Arc::from));
        outcome
    }
}

fn check(key: &Key, expected: Expect, found: Option<&Arc<Document>>) -> Result<(), StoreError> {
    let found = found.map(|d| d.version);
    let met = match expected {
        Expect::Anything => true,
        Expect::Absent => found.is_none(),
        Expect::Version(v) => found == Some(v),
    };
    if met { Ok(()) } else { Err(StoreError::Conflict { key: key.clone(), expected, found }) }
}
