//! The store: opaque documents by (kind, mesh, name) and small named blobs, changed in all-or-nothing transactions.
//! It must not know what a document means.
//!
//! Every backing is read through one mirror in memory (`memory`), so that reads never wait and all backings share one
//! meaning of a change; what differs is what must happen before a change shows: nothing, or a durable commit (`sqlite`).

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use crate::time::Clock;
use memory::Mirror;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

pub use crate::resource::Key;

/// One document's body, or one blob (bytes).
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Changes in one transaction.
pub const CHANGES_MAX: usize = 1 << 16;
/// The whole file, unless the caller says otherwise (bytes).
pub const FILE_BYTES_MAX: u64 = 64 << 30;

impl Key {
    pub fn new(kind: &str, mesh: &str, name: &str) -> Self {
        Self { kind: kind.into(), mesh: mesh.into(), name: name.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub key: Key,
    /// JSON, universal form.
    pub body: String,
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub modified_ms: u64,
    /// 1 when created, one more at each update.
    pub version: u64,
}

/// What the writer believes to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Anything,
    Absent,
    Version(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put {
        key: Key,
        body: String,
        labels: BTreeMap<String, String>,
        expect: Expect,
    },
    Delete {
        key: Key,
        expect: Expect,
    },
    /// `None` removes it.
    Blob {
        name: String,
        bytes: Option<Vec<u8>>,
    },
}

impl Change {
    pub fn put(key: Key, body: impl Into<String>) -> Self {
        Self::Put { key, body: body.into(), labels: BTreeMap::new(), expect: Expect::Anything }
    }

    pub fn delete(key: Key) -> Self {
        Self::Delete { key, expect: Expect::Anything }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Updated,
    Unchanged,
    Deleted,
    /// It was to be deleted and isn't there.
    Absent,
}

/// One outcome a change, in the same order, and the revision that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub outcomes: Vec<Outcome>,
    pub revision: u64,
}

/// What a reader gets of the whole store at one moment.
#[derive(Clone, Debug)]
pub struct Contents {
    pub revision: u64,
    /// Sorted by key.
    pub documents: Vec<Arc<Document>>,
}

/// What a reader of an earlier revision missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub revision: u64,
    /// Sorted by key.
    pub documents: Vec<(Key, Option<Arc<Document>>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    Conflict {
        key: Key,
        expected: Expect,
        found: Option<u64>,
    },
    TooLarge {
        what: String,
        bytes: usize,
        max: usize,
    },
    TooMany {
        changes: usize,
        max: usize,
    },
    /// No room on the disk or in the file's own limit.
    Full {
        path: PathBuf,
        why: String,
    },
    Io {
        path: PathBuf,
        why: String,
    },
    /// Another process has it open.
    Locked {
        path: PathBuf,
    },
    /// Written by a newer program.
    Schema {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    Closed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { key, expected, found } => {
                let found = found.map_or("nothing".to_string(), |v| format!("version {v}"));
                match expected {
                    Expect::Version(v) => write!(f, "{key} was expected at version {v}, the store has {found}"),
                    _ => write!(f, "{key} was expected to be absent, the store has {found}"),
                }?;
                write!(f, "; read it again and repeat the change")
            }
            Self::TooLarge { what, bytes, max } => write!(f, "{what} has {bytes} bytes, the store takes {max}"),
            Self::TooMany { changes, max } => {
                write!(f, "a transaction of {changes} changes, the store takes {max}; split it")
            }
            Self::Full { path, why } => {
                write!(f, "store {}: no room left ({why}); nothing was written, free space and repeat", path.display())
            }
            Self::Io { path, why } => write!(f, "store {}: {why}; the change was not acknowledged", path.display()),
            Self::Locked { path } => {
                write!(f, "store {}: in use by another process; stop it or choose another data folder", path.display())
            }
            Self::Schema { path, found, known } => write!(
                f,
                "store {}: schema version {found}, this program knows up to {known}; use a newer program",
                path.display()
            ),
            Self::Closed => write!(f, "the store is closed"),
        }
    }
}

impl std::error::Error for StoreError {}

pub struct Store {
    mirror: Arc<Mirror>,
    backing: Backing,
}

enum Backing {
    Memory(Clock),
    Sqlite(sqlite::Writer),
}

impl Store {
    /// Lost with the process.
    pub fn memory(clock: Clock) -> Self {
        Self { mirror: Arc::new(Mirror::default()), backing: Backing::Memory(clock) }
    }

    /// `weir.db` in `data_dir`, which is made if it isn't there.
    pub fn open(data_dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        Self::open_bounded(data_dir, clock, FILE_BYTES_MAX)
    }

    /// As `open`, with the file's limit in bytes; writes beyond it are refused with `Full`.
    pub fn open_bounded(data_dir: &Path, clock: Clock, file_bytes_max: u64) -> Result<Self, StoreError> {
        let mirror = Arc::new(Mirror::default());
        let writer = sqlite::Writer::start(data_dir, file_bytes_max, clock, mirror.clone())?;
        Ok(Self { mirror, backing: Backing::Sqlite(writer) })
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Document>> {
        self.mirror.read().documents.get(key).cloned()
    }

    /// Sorted by kind, mesh, name; `None` is every one.
    pub fn list(&self, kind: Option<&str>, mesh: Option<&str>) -> Vec<Arc<Document>> {
        self.mirror.read().list(kind, mesh)
    }

    /// Everything, at one revision.
    pub fn contents(&self) -> Contents {
        let state = self.mirror.read();
        Contents { revision: state.revision, documents: state.list(None, None) }
    }

    /// What changed after `revision`, by key, each as it is now (None = gone), and the revision that says so. None when
    /// that is too long ago to be remembered.
    pub fn changed_since(&self, revision: u64) -> Option<Changed> {
        let state = self.mirror.read();
        Some(Changed { revision: state.revision, documents: state.changed_since(revision)? })
    }

    pub fn blob(&self, name: &str) -> Option<Arc<[u8]>> {
        self.mirror.read().blobs.get(name).cloned()
    }

    /// Grows with every change, also of a blob; never falls, also not over a restart of a durable store.
    pub fn revision(&self) -> u64 {
        self.mirror.read().revision
    }

    /// The revision, each time it has grown.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.mirror.watch()
    }

    /// All of `changes` or none. When it returns, they are durable (as far as the store is) and visible.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<Applied, StoreError> {
        check_sizes(&changes)?;
        match &self.backing {
            Backing::Memory(clock) => self.mirror.apply(changes, clock.now_ms()),
            Backing::Sqlite(writer) => writer.apply(changes).await,
        }
    }

    pub async fn put(&self, key: Key, body: String, expect: Expect) -> Result<Outcome, StoreError> {
        self.one(Change::Put { key, body, labels: BTreeMap::new(), expect }).await
    }

    pub async fn delete(&self, key: Key) -> Result<Outcome, StoreError> {
        self.one(Change::delete(key)).await
    }

    pub async fn set_blob(&self, name: &str, bytes: Vec<u8>) -> Result<Outcome, StoreError> {
        self.one(Change::Blob { name: name.into(), bytes: Some(bytes) }).await
    }

    async fn one(&self, change: Change) -> Result<Outcome, StoreError> {
        let applied = self.apply(vec![change]).await?;
        applied.outcomes.first().copied().ok_or(StoreError::Closed)
    }
}

fn check_sizes(changes: &[Change]) -> Result<(), StoreError> {
    if changes.len() > CHANGES_MAX {
        return Err(StoreError::TooMany { changes: changes.len(), max: CHANGES_MAX });
    }
    for change in changes {
        let (what, bytes) = match change {
            Change::Put { key, body, .. } => (key.to_string(), body.len()),
            Change::Blob { name, bytes: Some(bytes) } => (format!("blob {name}"), bytes.len()),
            Change::Delete { .. } | Change::Blob { .. } => continue,
        };
        if bytes > BODY_BYTES_MAX {
            return Err(StoreError::TooLarge { what, bytes, max: BODY_BYTES_MAX });
        }
    }
    Ok(())
}
