//! The one swap of a process: a [`Publisher`] that never goes back within an epoch, and [`Reader`]s that can only load.

use crate::{Generation, Snapshot};
use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;

/// Refused: not newer than what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    pub current: Generation,
    pub offered: Generation,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} isn't newer than {}, which is in force", self.offered, self.current)
    }
}

/// Not `Clone`: one publisher a process.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<ArcSwap<Snapshot>>,
    /// Kept until the next publish, so that the large deallocation happens here and not in a request.
    previous: Option<Arc<Snapshot>>,
}

/// A place to load the snapshot in force from.
#[derive(Clone, Debug)]
pub struct Reader(Arc<ArcSwap<Snapshot>>);

/// A worker's own reader: a load costs one relaxed compare while nothing has changed.
#[derive(Debug)]
pub struct CachedReader(arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

/// A cell that holds the empty snapshot, generation 0.
pub fn cell() -> (Publisher, Reader) {
    let cell = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    (Publisher { cell: cell.clone(), previous: None }, Reader(cell))
}

impl Publisher {
    /// Puts `snapshot` in force for every reader at once.
    ///
    /// # Errors
    /// [`Stale`] when it doesn't supersede what is in force ([`Generation::supersedes`]).
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<(), Stale> {
        let current = self.cell.load().generation();
        let offered = snapshot.generation();
        if !offered.supersedes(current) {
            return Err(Stale { current, offered });
        }
        self.previous = Some(self.cell.swap(snapshot));
        Ok(())
    }

    /// Frees the snapshot before the one in force, unless a reader still holds it.
    pub fn forget_previous(&mut self) {
        self.previous = None;
    }

    pub fn reader(&self) -> Reader {
        Reader(self.cell.clone())
    }
}

impl Reader {
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    pub fn cached(&self) -> CachedReader {
        CachedReader(arc_swap::Cache::new(self.0.clone()))
    }
}

impl CachedReader {
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}
