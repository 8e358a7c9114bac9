//! The last good snapshot and identities on disk, so that a proxy starts and serves while its control plane is away.

use crate::identity::Identities;
use serde::{Deserialize, Serialize};
use snapshot::{Generation, Tables};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// One proxy's state files in the data folder.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    snapshot: PathBuf,
    identities: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    generation: Generation,
    tables: Tables,
}

impl LastGood {
    /// `proxy` becomes part of the files' names.
    pub(crate) fn new(folder: &Path, proxy: &str) -> Self {
        let safe: String =
            proxy.chars().map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
        Self {
            snapshot: folder.join(format!("{safe}.snapshot.json")),
            identities: folder.join(format!("{safe}.identity.json")),
        }
    }

    /// What was saved; None when nothing was.
    ///
    /// # Errors
    /// The file is there and can't be used.
    pub(crate) fn load(&self, identities: &Identities) -> Result<Option<(Generation, Tables)>, String> {
        let bytes = match std::fs::read(&self.snapshot) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("{}: {e}", self.snapshot.display())),
        };
        let saved: Saved = serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", self.snapshot.display()))?;
        match identities.import(&self.identities) {
            Ok(problems) => problems.iter().for_each(|p| tracing::warn!("{}: {p}", self.identities.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("{}: {e}; certificates come with the control plane", self.identities.display()),
        }
        Ok(Some((saved.generation, saved.tables)))
    }

    /// Replaces the saved snapshot as a whole.
    pub(crate) fn save(&self, generation: Generation, tables: &Tables) {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.snapshot.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let scratch = self.snapshot.with_extension("new");
            let mut file = io::BufWriter::new(std::fs::File::create(&scratch)?);
            let saved = Saved { generation, tables: tables.clone() };
            serde_json::to_writer(&mut file, &saved)?;
            file.flush()?;
            std::fs::rename(&scratch, &self.snapshot)
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
