//! The one holder of private keys: makes them, asks for certificates (CSR), and keeps ready TLS configurations for
//! every mesh the proxy is part of, swapped as a unit on their own clock, apart from the snapshot.
//! Must not know the control channel's messages, listeners or services.

mod disk;
mod ready;

use crate::tls::MeshClient;
use crate::tls::MeshServer;
use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use ready::{Identity, Ready, Trust};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use snapshot::{Client, Protocol, ServerName, spiffe_id};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Meshes that one proxy can hold identities of (an egress has one in each).
pub const MESHES_MAX: usize = 1024;

/// What the control channel brings. `identities` answer CSRs; bundles and secrets are always the whole set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    pub identities: Vec<IdentityMaterial>,
    pub bundles: Vec<Bundle>,
    pub secrets: Vec<SecretMaterial>,
}

/// A certificate for the key of this mesh's last CSR (or, sent again, of an earlier one).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityMaterial {
    pub mesh: String,
    /// Leaf first.
    pub chain_pem: String,
    pub not_after_ms: u64,
}

/// The CA certificates of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    pub mesh: String,
    pub ca_pem: String,
}

/// A certificate with its key that a resource names: a gateway's, or a client's for an external service.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretMaterial {
    pub name: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for SecretMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretMaterial({})", self.name)
    }
}

/// A private key, PKCS#8. Never printed.
#[derive(Clone, PartialEq, Eq)]
struct Key(Arc<Vec<u8>>);

/// The keys of one mesh: the one in use, and the one a certificate is asked for.
#[derive(Default)]
struct Keys {
    current: Option<Key>,
    pending: Option<Key>,
}

/// See the module's words. Shared by all workers; nothing here blocks beyond a hash lookup, except `export` and
/// `import`, and the first use of the system's CA store.
pub struct Identities {
    ready: ArcSwap<Ready>,
    keys: Mutex<BTreeMap<String, Keys>>,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({:?})", self.meshes())
    }
}

impl Identities {
    pub fn new() -> Self {
        Self { ready: ArcSwap::from_pointee(Ready::default()), keys: Mutex::new(BTreeMap::new()) }
    }

    /// A signing request (PEM) for this mesh's next certificate, over a fresh key. Asked again before the answer
    /// came, it is for the same key.
    pub fn csr(&self, mesh: &str, services: &[String]) -> Result<String, String> {
        let mut keys = self.lock();
        if keys.len() >= MESHES_MAX && !keys.contains_key(mesh) {
            return Err(format!("no key for mesh {mesh}: the proxy already has {MESHES_MAX} meshes"));
        }
        let slot = keys.entry(mesh.to_owned()).or_default();
        let key = match &slot.pending {
            Some(key) => key.clone(),
            None => Key::generate().map_err(|e| format!("can't make a key for mesh {mesh}: {e}"))?,
        };
        let pem = request(&key, mesh, services).map_err(|e| format!("can't ask for a certificate of {mesh}: {e}"))?;
        slot.pending = Some(key);
        Ok(pem)
    }

    /// Takes new material into use. A wrong piece stops only itself: it is named in the answer, its predecessor stays
    /// in use, the rest is new. A mesh's identity lives as long as its bundle is sent.
    pub fn install(&self, material: Material, now_ms: u64) -> Vec<String> {
        let mut problems = Vec::new();
        let mut keys = self.lock();
        let old = self.ready.load_full();
        let trust: BTreeMap<String, Arc<Trust>> =
            material.bundles.iter().filter_map(|bundle| old.trust_for(bundle, &mut problems)).collect();
        let mut identities = old.identities.clone();
        identities.retain(|mesh, _| material.bundles.iter().any(|bundle| bundle.mesh == *mesh));
        for asked in material.identities {
            let Some(slot) = keys.get_mut(&asked.mesh) else {
                problems.push(format!("a certificate of mesh {} came, but no key was made for it", asked.mesh));
                continue;
            };
            let mesh = asked.mesh.clone();
            match slot.adopt(asked, now_ms) {
                Ok(identity) => drop(identities.insert(mesh, Arc::new(identity))),
                Err(problem) => problems.push(format!("the new certificate of mesh {mesh} is of no use: {problem}")),
            }
        }
        let secrets = material.secrets.into_iter().filter_map(|secret| old.secret_for(secret, &mut problems)).collect();
        keys.retain(|mesh, slot| slot.pending.is_some() || identities.contains_key(mesh));
        self.ready.store(Arc::new(Ready::new(identities, trust, secrets)));
        problems
    }

    /// Meshes whose certificate has lived four fifths of its time: ask for the next one.
    pub fn due(&self, now_ms: u64) -> Vec<String> {
        let ready = self.ready.load();
        ready.identities.values().filter(|id| id.renew_at_ms() <= now_ms).map(|id| id.material.mesh.clone()).collect()
    }

    /// Meshes with an identity, in order.
    pub fn meshes(&self) -> Vec<String> {
        self.ready.load().identities.keys().cloned().collect()
    }

    /// When the mesh's certificate ends.
    pub fn not_after_ms(&self, mesh: &str) -> Option<u64> {
        self.ready.load().identities.get(mesh).map(|id| id.material.not_after_ms)
    }

    /// For inbounds: clients of the same mesh.
    pub fn server(&self, mesh: &str) -> Result<Arc<MeshServer>, String> {
        self.ready.load().server(mesh, &[])
    }

    /// For cross-mesh gateway listeners: clients of `mesh` or any of `client_meshes`.
    pub fn cross_mesh_server(&self, mesh: &str, client_meshes: &[String]) -> Result<Arc<MeshServer>, String> {
        self.ready.load().server(mesh, client_meshes)
    }

    /// For outbounds: our identity of `identity_mesh` towards one of `peers` in `mesh`.
    pub fn client(&self, identity_mesh: &str, mesh: &str, peers: &[String]) -> Result<Arc<MeshClient>, String> {
        self.ready.load().client(identity_mesh, mesh, peers)
    }

    /// For gateway listeners that terminate: certificates of these secrets by SNI.
    pub fn gateway(&self, names: &[ServerName]) -> Result<Arc<ServerConfig>, String> {
        self.ready.load().gateway(names)
    }

    /// For external services.
    pub fn external(&self, client: &Client, protocol: Protocol) -> Result<Arc<ClientConfig>, String> {
        self.ready.load().external(client, protocol)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Keys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Pairs a certificate with the key it is for: the asked one, which then is the current one, or still the current.
    fn adopt(&mut self, material: IdentityMaterial, now_ms: u64) -> Result<Identity, String> {
        let mut problem = "no key was made for it".to_owned();
        for key in [self.pending.clone(), self.current.clone()].into_iter().flatten() {
            match Identity::new(material.clone(), key, now_ms) {
                Ok(identity) => {
                    if self.pending.as_ref() == Some(&identity.key) {
                        self.pending = None;
                    }
                    self.current = Some(identity.key.clone());
                    return Ok(identity);
                }
                Err(e) => problem = e,
            }
        }
        Err(problem)
    }
}

impl Key {
    fn generate() -> Result<Self, rcgen::Error> {
        Ok(Self(Arc::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der())))
    }
}

/// The names in it are a wish; the control plane signs those it knows from the resource.
fn request(key: &Key, mesh: &str, services: &[String]) -> Result<String, rcgen::Error> {
    let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.0.as_slice()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for service in services {
        params.subject_alt_names.push(SanType::URI(spiffe_id(mesh, service).try_into()?));
    }
    params.serialize_request(&pair)?.pem()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
