//! Key material in a file of the proxy's own (0600), so that it starts and serves while the control plane is away.

use super::ready::{Identity, Ready};
use super::{Bundle, Identities, IdentityMaterial, Key, Keys, SecretMaterial};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// A file of key material.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Saved {
    identities: Vec<SavedIdentity>,
    bundles: Vec<Bundle>,
    secrets: Vec<SecretMaterial>,
}

#[derive(Serialize, Deserialize)]
struct SavedIdentity {
    material: IdentityMaterial,
    /// PKCS#8.
    key: Vec<u8>,
    since_ms: u64,
}

impl Identities {
    /// Writes the material in use to `path`, whole or not at all. Blocks.
    pub fn export(&self, path: &Path) -> io::Result<()> {
        let ready = self.ready.load_full();
        let identities = ready.identities.values().map(|id| SavedIdentity {
            material: id.material.clone(),
            key: id.key.0.to_vec(),
            since_ms: id.since_ms,
        });
        let saved = Saved {
            identities: identities.collect(),
            bundles: ready.trust.values().map(|trust| trust.bundle.clone()).collect(),
            secrets: ready.secrets.values().map(|secret| secret.material.clone()).collect(),
        };
        let text = serde_json::to_vec(&saved).map_err(io::Error::other)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = path.with_extension("part");
        match fs::remove_file(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // A new file, so that its mode is ours and no link of someone else's is followed.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&part, path)
    }

    /// Takes the material of `path` into use; answers with what of it is of no use. Blocks.
    pub fn import(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut text = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        let saved: Saved = serde_json::from_slice(&text).map_err(io::Error::other)?;
        let mut problems = Vec::new();
        let mut keys = self.lock();
        let old = Ready::default();
        let mut identities = BTreeMap::new();
        for SavedIdentity { material, key, since_ms } in saved.identities {
            let (mesh, key) = (material.mesh.clone(), Key(Arc::new(key)));
            match Identity::new(material, key.clone(), since_ms) {
                Ok(identity) => {
                    keys.insert(mesh.clone(), Keys { current: Some(key), pending: None });
                    identities.insert(mesh, Arc::new(identity));
                }
                Err(problem) => problems.push(format!("the saved certificate of mesh {mesh}: {problem}")),
            }
        }
        let trust = saved.bundles.iter().filter_map(|bundle| old.trust_for(bundle, &mut problems)).collect();
        let secrets = saved.secrets.into_iter().filter_map(|secret| old.secret_for(secret, &mut problems)).collect();
        self.ready.store(Arc::new(Ready::new(identities, trust, secrets)));
        Ok(problems)
    }
}
