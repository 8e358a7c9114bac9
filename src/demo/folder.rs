//! The demo's folder of logs, tokens and state, and the lock that one demo at a time holds.

use crate::failure::Failure;
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Removed, lock and all, when dropped.
pub(super) struct Folder {
    path: PathBuf,
    lock: PathBuf,
    _held: Flock<fs::File>,
}

/// Where a user's demo keeps its files: the same place each time, so that a later demo finds what a killed one left.
pub(super) fn place() -> PathBuf {
    let user = nix::unistd::Uid::effective();
    if user.is_root() { "/run/weir-demo".into() } else { std::env::temp_dir().join(format!("weir-demo-{user}")) }
}

impl Folder {
    /// Takes the lock.
    pub(super) fn lock(path: PathBuf) -> Result<Self, Failure> {
        let lock = path.with_extension("lock");
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", lock.display()));
        let mut options = fs::OpenOptions::new();
        let no_link = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_link)
            .open(&lock)
            .map_err(failed)?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            let text = format!("another `weir demo` is running (it holds {}): end it first ({error})", lock.display());
            Failure::failed(text)
        })?;
        Ok(Self { path, lock, _held: held })
    }

    /// Makes the folder anew, for its owner only.
    pub(super) fn make(&self) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", self.path.display()));
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        // Fails when somebody else was quicker with the name.
        fs::DirBuilder::new().mode(0o700).create(&self.path).map_err(failed)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that only its owner reads; its path as an argument.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<String, Failure> {
        let path = self.path.join(name);
        let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(path.display().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for removed in [fs::remove_dir_all(&self.path), fs::remove_file(&self.lock)] {
            match removed {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    crate::print::note(&format!("Warning: {}: {e}; remove it yourself", self.path.display()));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Folder;

    #[test]
    fn one_demo_at_a_time_and_nothing_is_left_of_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        let first = Folder::lock(path.clone()).unwrap();
        first.make().unwrap();
        first.write("a.log", "text").unwrap();
        assert!(Folder::lock(path.clone()).is_err_and(|e| e.text.contains("another `weir demo`")));
        drop(first);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        assert!(Folder::lock(path).is_ok());
    }
}
