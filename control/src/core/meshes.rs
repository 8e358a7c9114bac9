//! What a mesh brings with it: its certificate authority, made or checked when mTLS is switched on, its token key, and
//! the rule that an enabled CA isn't exchanged.

use super::defaults::{secret, signing_keys};
use super::{Core, Refusal, Violation, secret_data, typed};
use crate::identity::{Ca, CaError, CaMaterial, TokenScope};
use crate::resource::{CaBackend, DataSource, Mesh, Resource, Spec};
use crate::store::{Change, Key};
use crate::time::parse_expiration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(86_400);
/// Of a file that a data source names.
const SOURCE_BYTES_MAX: u64 = 1 << 20;

/// The CA that a mesh has switched on.
#[derive(Debug)]
pub struct MeshCa {
    pub ca: Ca,
    /// The backend's name.
    pub backend: String,
    /// Inbounds also take plaintext.
    pub permissive: bool,
    /// Of workload certificates.
    pub lifetime: Duration,
}

/// A CA and what it was made from.
pub(super) struct CachedCa {
    backend: CaBackend,
    material: CaMaterial,
    ca: Arc<MeshCa>,
}

impl Core {
    /// The CA of a mesh, `None` while mTLS is off.
    pub fn mesh_ca(&self, mesh: &str) -> Result<Option<Arc<MeshCa>>, Refusal> {
        let document = self
            .store
            .get(&Key::new("Mesh", "", mesh))
            .ok_or_else(|| Refusal::MeshNotFound { mesh: mesh.to_string() })?;
        let Spec::Mesh(spec) = typed(&document).map_err(Refusal::Failed)?.spec else { return Ok(None) };
        let Some(backend) = spec.ca() else { return Ok(None) };
        let material = self.material(mesh, backend, &BTreeMap::new()).map_err(Refusal::Invalid)?;
        let mut cas = self.cas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cas.get(mesh).filter(|c| c.backend == *backend && c.material == material) {
            return Ok(Some(cached.ca.clone()));
        }
        let ca = if is_builtin(backend) { Ca::builtin(mesh, &material) } else { Ca::provided(mesh, &material) };
        let lifetime = backend.expiration().and_then(parse_expiration).filter(|d| !d.is_zero());
        let ca = Arc::new(MeshCa {
            ca: ca.map_err(|e| Refusal::Failed(e.to_string()))?,
            backend: backend.name.clone(),
            permissive: backend.is_permissive(),
            lifetime: lifetime.unwrap_or(CERTIFICATE_LIFETIME),
        });
        cas.insert(mesh.to_string(), CachedCa { backend: backend.clone(), material, ca: ca.clone() });
        Ok(Some(ca))
    }

    /// What is written beside a mesh; refused if it may not become so.
    pub(super) async fn mesh_changes(
        &self,
        name: &str,
        mesh: &Mesh,
        secrets: &BTreeMap<Key, String>,
    ) -> Result<Vec<Change>, Refusal> {
        let old = self.store.get(&Key::new("Mesh", "", name));
        if let Some(old) = &old {
            self.check_same_ca(&old.body, mesh)?;
        }
        let mut changes = Vec::new();
        let needs_key = self.signs_tokens() && self.key_ring(TokenScope::Dataplane { mesh: name.into() }).is_empty();
        if old.is_none() && needs_key {
            changes.extend(signing_keys(vec![TokenScope::Dataplane { mesh: name.into() }]).await?);
        }
        let Some(backend) = mesh.ca() else { return Ok(changes) };
        if is_builtin(backend) {
            let [cert, key] = builtin_secrets(name, &backend.name);
            if self.store.get(&cert).is_none() || self.store.get(&key).is_none() {
                let material = CaMaterial::generate(name, ca_lifetime(backend), self.clock.now_ms())
                    .map_err(|e| Refusal::Failed(e.to_string()))?;
                changes.push(secret("Secret", name, &cert.name, &material.cert_pem));
                changes.push(secret("Secret", name, &key.name, &material.key_pem));
            }
        } else if !mesh.mtls.as_ref().is_some_and(|m| m.skip_validation) {
            self.check_provided(name, mesh, backend, secrets)?;
        }
        Ok(changes)
    }

    /// A process that made itself the user tokens' key makes the meshes' keys too.
    fn signs_tokens(&self) -> bool {
        !self.key_ring(TokenScope::User).is_empty()
    }

    fn check_same_ca(&self, old: &str, new: &Mesh) -> Result<(), Refusal> {
        let old: serde_json::Value = serde_json::from_str(old).unwrap_or_default();
        let before = old.pointer("/mtls/enabledBackend").and_then(|v| v.as_str()).unwrap_or_default();
        let after = new.mtls.as_ref().map_or("", |m| m.enabled_backend.as_str());
        if before.is_empty() || after.is_empty() || before == after {
            return Ok(());
        }
        let why = "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA";
        Err(Refusal::Invalid(vec![Violation::new("mtls.enabledBackend", why)]))
    }

    fn check_provided(
        &self,
        name: &str,
        mesh: &Mesh,
        backend: &CaBackend,
        secrets: &BTreeMap<Key, String>,
    ) -> Result<(), Refusal> {
        let backends = mesh.mtls.as_ref().map_or(&[][..], |m| &m.backends);
        let index = backends.iter().position(|b| b.name == backend.name).unwrap_or(0);
        let at = |field: &str| format!("mtls.backends[{index}].{field}");
        let in_place = |list: Vec<Violation>| {
            Refusal::Invalid(list.into_iter().map(|v| Violation::new(at(&v.field), v.message)).collect())
        };
        let material = self.material(name, backend, secrets).map_err(in_place)?;
        match Ca::provided(name, &material) {
            Ok(_) => Ok(()),
            Err(CaError::Material { problems, .. }) => {
                Err(in_place(problems.into_iter().map(|(field, why)| Violation::new(field, why)).collect()))
            }
            Err(error) => Err(in_place(vec![Violation::new("conf", error.to_string())])),
        }
    }

    /// Certificate and key of a backend, from where it says. Fields of problems are relative to the backend.
    fn material(
        &self,
        mesh: &str,
        backend: &CaBackend,
        secrets: &BTreeMap<Key, String>,
    ) -> Result<CaMaterial, Vec<Violation>> {
        let (cert, key) = if is_builtin(backend) {
            let [cert, key] = builtin_secrets(mesh, &backend.name);
            (self.secret_text(&cert, secrets), self.secret_text(&key, secrets))
        } else {
            let read = |source: &Option<DataSource>| match source {
                None => Err("has to be defined".to_string()),
                Some(source) => self.source(mesh, source, secrets),
            };
            (read(&backend.conf.cert), read(&backend.conf.key))
        };
        match (cert, key) {
            (Ok(cert_pem), Ok(key_pem)) => Ok(CaMaterial { cert_pem, key_pem }),
            (cert, key) => {
                let problem = |field: &str, r: Result<String, String>| r.err().map(|why| Violation::new(field, why));
                Err(problem("conf.cert", cert).into_iter().chain(problem("conf.key", key)).collect())
            }
        }
    }

    fn source(&self, mesh: &str, source: &DataSource, secrets: &BTreeMap<Key, String>) -> Result<String, String> {
        match source {
            DataSource::Inline(text) | DataSource::InlineString(text) => Ok(text.clone()),
            DataSource::Secret(name) => self.secret_text(&Key::new("Secret", mesh, name), secrets),
            DataSource::File(path) => {
                let failed = |e: std::io::Error| format!("could not read {path}: {e}");
                let mut text = String::new();
                let file = std::fs::File::open(path).map_err(failed)?;
                file.take(SOURCE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
                Ok(text)
            }
        }
    }

    /// Decoded; `secrets` (base64) are written together with what asks.
    fn secret_text(&self, key: &Key, secrets: &BTreeMap<Key, String>) -> Result<String, String> {
        let data = match secrets.get(key) {
            Some(data) => data.clone(),
            None => {
                self.store.get(key).and_then(|d| secret_data(&d.body)).ok_or_else(|| format!("there is no {key}"))?
            }
        };
        let bytes = STANDARD.decode(data.trim()).map_err(|e| format!("{key} is not base64: {e}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{key} is not text"))
    }
}

/// The data of the secrets among `resources`.
pub(super) fn secrets_of(resources: &[Resource]) -> BTreeMap<Key, String> {
    let data = |r: &Resource| match &r.spec {
        Spec::Secret(s) | Spec::GlobalSecret(s) => Some((r.key(), s.data.clone())),
        _ => None,
    };
    resources.iter().filter_map(data).collect()
}

fn is_builtin(backend: &CaBackend) -> bool {
    backend.kind == "builtin"
}

fn ca_lifetime(backend: &CaBackend) -> Duration {
    let written = backend.conf.ca_cert.as_ref().and_then(|c| c.get("expiration")).and_then(|e| e.as_str());
    written.and_then(parse_expiration).filter(|d| !d.is_zero()).unwrap_or(CA_LIFETIME)
}

fn builtin_secrets(mesh: &str, backend: &str) -> [Key; 2] {
    ["cert", "key"].map(|part| Key::new("Secret", mesh, &format!("{mesh}.ca-builtin-{part}-{backend}")))
}
