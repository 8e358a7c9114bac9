//! The files of `up`: read as a set, applied as a set, and looked at again while they are watched. A set with an error
//! changes nothing.

use crate::ctl::{expand, read_files};
use control::core::Core;
use control::resource::Resource;
use control::store::Key;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) struct Files {
    paths: Vec<String>,
}

/// What tells a saved file from its predecessor.
type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

impl Files {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths: paths.into_iter().map(|p| p.to_string_lossy().into_owned()).collect() }
    }

    pub(super) fn read(&self) -> Result<Vec<Resource>, String> {
        read_files(&self.paths, &[], "default")
    }

    fn stamp(&self) -> Stamp {
        let files = self.paths.iter().filter(|p| *p != "-").flat_map(|p| expand(p).unwrap_or_default());
        files
            .map(|path| {
                let meta = std::fs::metadata(&path).ok();
                let time = meta.as_ref().and_then(|m| m.modified().ok());
                (path, time, meta.map_or(0, |m| m.len()))
            })
            .collect()
    }
}

/// Applies all; every refusal is an error line.
pub(super) async fn apply(core: &Arc<Core>, resources: Vec<Resource>) -> Result<(), String> {
    let places: Vec<String> = resources
        .iter()
        .map(|r| r.meta.place.as_ref().map_or(String::new(), |p| format!("{}:{}: ", p.file, p.line)))
        .collect();
    let written = core.apply(resources).await;
    let refusal =
        |(w, place): (control::core::Written, String)| w.outcome.err().map(|e| format!("{place}error: {}: {e}", w.key));
    let errors: Vec<String> = written.into_iter().zip(places).filter_map(refusal).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// Files with what was last applied of them.
pub(super) struct Watching {
    files: Files,
    stamp: Stamp,
    applied: BTreeSet<Key>,
}

impl Watching {
    pub(super) fn new(files: Files, resources: Vec<Resource>) -> Self {
        let applied = resources.iter().map(Resource::key).collect();
        Self { stamp: files.stamp(), files, applied }
    }

    /// Applies edits since the last look; what left the files leaves the mesh.
    pub(super) async fn look(&mut self, core: &Arc<Core>) {
        let stamp = self.files.stamp();
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        let resources = match self.files.read() {
            Ok(resources) => resources,
            Err(errors) => return tracing::error!("the edit changes nothing until it is mended:\n{errors}"),
        };
        let keys: BTreeSet<Key> = resources.iter().map(Resource::key).collect();
        if let Err(errors) = apply(core, resources).await {
            tracing::error!("{errors}");
        }
        for gone in self.applied.difference(&keys) {
            if let Err(error) = core.delete(gone).await {
                tracing::error!("{gone}: {error}");
            }
        }
        tracing::info!(resources = keys.len(), "edit applied");
        self.applied = keys;
    }
}
