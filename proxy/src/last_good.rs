//! The last good snapshot and identities on disk, so that a proxy starts and serves while its control plane is away.

use crate::identity::Identities;
use snapshot::{Generation, Snapshot, Tables};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After a save the next one waits this many times as long as it took: of a burst of snapshots to a large mesh only
/// the last is written, and a small mesh's is on disk at once.
const SAVE_PAUSE_RATIO: u32 = 9;
/// And never less, nor more: a kill within this time finds the snapshot before.
const SAVE_PAUSE: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(5);
/// Traffic comes first: a large mesh is tens of milliseconds of work, on a core that a worker may need.
const SAVER_NICE: i32 = 19;

/// One proxy's state files in the data folder.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    snapshot: PathBuf,
    /// Where releases before 2026-11-21 saved it.
    old_snapshot: PathBuf,
    identities: PathBuf,
}

impl LastGood {
    /// `proxy` becomes part of the files' names.
    pub(crate) fn new(folder: &Path, proxy: &str) -> Self {
        let safe: String =
            proxy.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
        Self {
            snapshot: folder.join(format!("{safe}.snapshot")),
            old_snapshot: folder.join(format!("{safe}.snapshot.json")),
            identities: folder.join(format!("{safe}.identity.json")),
        }
    }

    /// What was saved; None when nothing was.
    ///
    /// # Errors
    /// The file is there and can't be used.
    pub(crate) fn load(&self, identities: &Identities) -> Result<Option<(Generation, Arc<Tables>)>, String> {
        let Some((path, bytes)) = self.read()? else { return Ok(None) };
        let (generation, tables) = snapshot::load(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        match identities.import(&self.identities) {
            Ok(problems) => problems.iter().for_each(|p| tracing::warn!("{}: {p}", self.identities.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("{}: {e}; certificates come with the control plane", self.identities.display()),
        }
        Ok(Some((generation, Arc::new(tables))))
    }

    fn read(&self) -> Result<Option<(&Path, Vec<u8>)>, String> {
        for path in [&self.snapshot, &self.old_snapshot] {
            match std::fs::read(path) {
                Ok(bytes) => return Ok(Some((path, bytes))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(format!("{}: {e}", path.display())),
            }
        }
        Ok(None)
    }

    /// Saves in the background.
    ///
    /// # Errors
    /// The thread can't be made.
    pub(crate) fn saver(self) -> io::Result<Saver> {
        let next = Arc::new(Next::default());
        let queue = next.clone();
        let thread = std::thread::Builder::new().name("weir-saver".into()).spawn(move || save_each(&self, &queue))?;
        Ok(Saver { next, thread: Some(thread) })
    }

    /// Replaces the saved snapshot as a whole.
    fn save(&self, generation: Generation, tables: &Tables) {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.snapshot.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let scratch = self.snapshot.with_extension("new");
            let mut file = io::BufWriter::new(std::fs::File::create(&scratch)?);
            snapshot::save(generation, tables, &mut file)?;
            file.flush()?;
            std::fs::rename(&scratch, &self.snapshot)?;
            match std::fs::remove_file(&self.old_snapshot) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.snapshot.display(), %error, "last good snapshot not saved; a restart without control plane has nothing to serve");
        }
    }

    pub(crate) fn save_identities(&self, identities: &Identities) {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.identities.parent() {
                std::fs::create_dir_all(folder)?;
            }
            identities.export(&self.identities)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.identities.display(), %error, "identities not saved");
        }
    }
}

/// Writes snapshots beside the work: a large mesh takes a while, and only the newest is of use.
pub(crate) struct Saver {
    next: Arc<Next>,
    /// Until it is waited for.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Next {
    what: Mutex<What>,
    wake: Condvar,
}

/// What is to be saved next.
#[derive(Default)]
struct What {
    snapshot: Option<Arc<Snapshot>>,
    is_last: bool,
}

impl Next {
    fn lock(&self) -> MutexGuard<'_, What> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None when there is nothing more to come.
    fn wait(&self) -> Option<Arc<Snapshot>> {
        let is_idle = |what: &mut What| what.snapshot.is_none() && !what.is_last;
        self.wake.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner).snapshot.take()
    }

    fn pause(&self, pause: Duration) {
        drop(self.wake.wait_timeout_while(self.lock(), pause, |what| !what.is_last));
    }
}

impl Saver {
    pub(crate) fn save(&self, snapshot: Arc<Snapshot>) {
        self.next.lock().snapshot = Some(snapshot);
        self.next.wake.notify_one();
    }

    /// What waits is written before this returns.
    pub(crate) async fn finish(mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.end();
        // It ended early only by a panic, which was reported.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }

    fn end(&self) {
        self.next.lock().is_last = true;
        self.next.wake.notify_one();
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.end();
    }
}

fn save_each(to: &LastGood, next: &Next) {
    // Of this thread alone. It saves all the same where it may not step back.
    let _ = rustix::process::nice(SAVER_NICE);
    while let Some(snapshot) = next.wait() {
        let began = Instant::now();
        to.save(snapshot.generation(), snapshot.tables());
        drop(snapshot);
        next.pause((began.elapsed() * SAVE_PAUSE_RATIO).clamp(*SAVE_PAUSE.start(), *SAVE_PAUSE.end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_burst_the_last_snapshot_is_on_disk_when_the_saver_finished() {
        let folder = tempfile::tempdir().unwrap();
        let last_good = LastGood::new(folder.path(), "default.web/1");
        let saver = last_good.clone().saver().unwrap();
        for sequence in 1..=50 {
            let generation = Generation { epoch: 7, sequence };
            saver.save(Arc::new(Snapshot::build(Tables::default(), generation).unwrap()));
            tokio::task::yield_now().await;
        }
        saver.finish().await;
        let (generation, _) = last_good.load(&Identities::new()).unwrap().unwrap();
        assert_eq!(generation, Generation { epoch: 7, sequence: 50 });
    }
}
