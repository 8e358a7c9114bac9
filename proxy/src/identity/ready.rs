//! Key material in the form that handshakes use, immutable but for its caches of configurations. Must not make keys.

use super::{Bundle, IdentityMaterial, Key, SecretMaterial};
use crate::tls::{ExternalVerifier, MeshClient, MeshServer, Roots, external_client, gateway_server, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use snapshot::{Client, HostPattern, Protocol, ServerName};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Configurations of one sort kept ready; beyond it all are forgotten and made again as needed.
const CONFIGS_MAX: usize = 4096;
/// Certificates in one chain or bundle.
const CHAIN_MAX: usize = 16;
/// The CA of an external service that means the machine's own store.
const SYSTEM_CA: &str = "system";

pub(super) struct Identity {
    pub(super) material: IdentityMaterial,
    pub(super) key: Key,
    pub(super) since_ms: u64,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Fails if the certificate isn't for this key.
    pub(super) fn new(material: IdentityMaterial, key: Key, since_ms: u64) -> Result<Self, String> {
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.0.to_vec()));
        let certified = Arc::new(certify(&material.chain_pem, der)?);
        Ok(Self { material, key, since_ms, certified })
    }

    pub(super) fn renew_at_ms(&self) -> u64 {
        self.since_ms.saturating_add(self.material.not_after_ms.saturating_sub(self.since_ms) / 5 * 4)
    }
}

pub(super) struct Trust {
    pub(super) bundle: Bundle,
    roots: Arc<Roots>,
}

pub(super) struct Secret {
    pub(super) material: SecretMaterial,
    certified: Arc<CertifiedKey>,
}

/// Everything handshakes need. A new one starts with empty caches: sessions that were agreed under old material end.
#[derive(Default)]
pub(super) struct Ready {
    pub(super) identities: BTreeMap<String, Arc<Identity>>,
    pub(super) trust: BTreeMap<String, Arc<Trust>>,
    pub(super) secrets: BTreeMap<String, Arc<Secret>>,
    clients: Cache<(String, String, Vec<String>), MeshClient>,
    servers: Cache<(String, Vec<String>), MeshServer>,
    gateways: Cache<Vec<(String, String)>, ServerConfig>,
    externals: Cache<ExternalKey, ClientConfig>,
}

#[derive(PartialEq, Eq, Hash)]
struct ExternalKey {
    ca_pem: String,
    skip_name_check: bool,
    secret: String,
    protocol: Protocol,
}

impl Ready {
    pub(super) fn new(
        identities: BTreeMap<String, Arc<Identity>>,
        trust: BTreeMap<String, Arc<Trust>>,
        secrets: BTreeMap<String, Arc<Secret>>,
    ) -> Self {
        Self { identities, trust, secrets, ..Self::default() }
    }

    /// The bundle in usable form; the old one of its mesh if the new isn't.
    pub(super) fn trust_for(&self, bundle: &Bundle, problems: &mut Vec<String>) -> Option<(String, Arc<Trust>)> {
        let old = self.trust.get(&bundle.mesh).map(Arc::clone);
        if let Some(old) = old.as_ref().filter(|old| old.bundle == *bundle) {
            return Some((bundle.mesh.clone(), Arc::clone(old)));
        }
        match Roots::parse(&bundle.mesh, &bundle.ca_pem) {
            Ok(roots) => {
                Some((bundle.mesh.clone(), Arc::new(Trust { bundle: bundle.clone(), roots: Arc::new(roots) })))
            }
            Err(problem) => {
                problems.push(format!("mesh {}: {problem}", bundle.mesh));
                old.map(|old| (bundle.mesh.clone(), old))
            }
        }
    }

    /// The secret in usable form; the old one of its name if the new isn't.
    pub(super) fn secret_for(
        &self,
        material: SecretMaterial,
        problems: &mut Vec<String>,
    ) -> Option<(String, Arc<Secret>)> {
        let name = material.name.clone();
        let old = self.secrets.get(&name).map(Arc::clone);
        if let Some(old) = old.as_ref().filter(|old| old.material == material) {
            return Some((name, Arc::clone(old)));
        }
        let key = PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes())
            .map_err(|e| format!("its private key can't be read: {e}"));
        match key.and_then(|key| certify(&material.cert_pem, key)) {
            Ok(certified) => Some((name, Arc::new(Secret { material, certified: Arc::new(certified) }))),
            Err(problem) => {
                problems.push(format!("secret {name}: {problem}"));
                old.map(|old| (name, old))
            }
        }
    }

    pub(super) fn server(&self, mesh: &str, client_meshes: &[String]) -> Result<Arc<MeshServer>, String> {
        self.servers.get((mesh.to_owned(), client_meshes.to_vec()), || {
            let key = Arc::clone(&self.identity(mesh)?.certified);
            let mut trust = vec![self.roots(mesh)?];
            // A client mesh whose CA didn't come is left out: its clients are refused, the others are served.
            trust.extend(client_meshes.iter().filter(|other| *other != mesh).filter_map(|m| self.roots(m).ok()));
            MeshServer::new(key, trust)
        })
    }

    pub(super) fn client(&self, identity: &str, mesh: &str, peers: &[String]) -> Result<Arc<MeshClient>, String> {
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        self.clients.get((identity.to_owned(), mesh.to_owned(), peers.clone()), || {
            MeshClient::new(Arc::clone(&self.identity(identity)?.certified), self.roots(mesh)?, peers)
        })
    }

    pub(super) fn gateway(&self, names: &[ServerName]) -> Result<Arc<ServerConfig>, String> {
        let key = names.iter().map(|name| (name.host.to_string(), name.secret.clone())).collect();
        self.gateways.get(key, || {
            let pick =
                |name: &ServerName| Some((name.host.clone(), Arc::clone(&self.secrets.get(&name.secret)?.certified)));
            let found: Vec<_> = names.iter().filter_map(pick).collect();
            if found.is_empty() {
                let wanted: Vec<_> = names.iter().map(|name| name.secret.as_str()).collect();
                return Err(format!("none of the listener's certificates [{}] is at hand", wanted.join(", ")));
            }
            gateway_server(Arc::new(ByName(found)))
        })
    }

    pub(super) fn external(&self, client: &Client, protocol: Protocol) -> Result<Arc<ClientConfig>, String> {
        let key = ExternalKey {
            ca_pem: client.ca_pem.clone(),
            skip_name_check: client.skip_name_check,
            secret: client.secret.clone(),
            protocol,
        };
        self.externals.get(key, || {
            let roots = match client.ca_pem.as_str() {
                "" => {
                    let name = &client.server_name;
                    tracing::warn!(name, "an external service is encrypted but not verified: set its caCert");
                    None
                }
                SYSTEM_CA => Some(system_roots()?),
                pem => Some(Arc::new(Roots::parse("", pem)?)),
            };
            let shown = match client.secret.as_str() {
                "" => None,
                name => match self.secrets.get(name) {
                    Some(secret) => Some(Arc::clone(&secret.certified)),
                    None => return Err(format!("the client certificate {name} isn't at hand")),
                },
            };
            let alpn = match protocol {
                Protocol::Tcp => Vec::new(),
                Protocol::Http => vec![b"http/1.1".to_vec()],
                Protocol::Http2 | Protocol::Grpc => vec![b"h2".to_vec()],
            };
            external_client(ExternalVerifier::new(&provider(), roots, !client.skip_name_check), shown, alpn)
        })
    }

    fn identity(&self, mesh: &str) -> Result<&Identity, String> {
        self.identities
            .get(mesh)
            .map(AsRef::as_ref)
            .ok_or_else(|| format!("the proxy has no certificate of mesh {mesh} yet: is its control plane reachable?"))
    }

    fn roots(&self, mesh: &str) -> Result<Arc<Roots>, String> {
        let trust = self.trust.get(mesh).ok_or_else(|| format!("the proxy has no CA bundle of mesh {mesh}"))?;
        Ok(Arc::clone(&trust.roots))
    }
}

fn system_roots() -> Result<Arc<Roots>, String> {
    static ROOTS: OnceLock<Result<Arc<Roots>, String>> = OnceLock::new();
    ROOTS.get_or_init(|| Roots::system().map(Arc::new)).clone()
}

fn certify(chain_pem: &str, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("its certificate can't be read: {e}"))?;
    match chain.len() {
        0 => Err("there is no certificate in it".to_owned()),
        n if n > CHAIN_MAX => Err(format!("its chain has more than {CHAIN_MAX} certificates")),
        _ => CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => "certificate and private key don't belong together".to_owned(),
            other => other.to_string(),
        }),
    }
}

/// Configurations made on demand.
struct Cache<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V> Cache<K, V> {
    fn get<F, T>(&self, key: K, make: F) -> Result<Arc<V>, String>
    where
        F: FnOnce() -> Result<T, String>,
        T: Into<Arc<V>>,
    {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(&key) {
            return Ok(Arc::clone(value));
        }
        let value: Arc<V> = make()?.into();
        if known.len() >= CONFIGS_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&value));
        Ok(value)
    }
}

/// A gateway's certificates: the most specific host pattern that has one the client can verify.
#[derive(Debug)]
struct ByName(Vec<(HostPattern, Arc<CertifiedKey>)>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let candidates = || self.0.iter().filter(|(host, _)| host.matches(&name));
        let best = candidates().map(|(host, _)| rank(host)).max()?;
        candidates()
            .filter(|(host, _)| rank(host) == best)
            .find(|(_, key)| key.key.choose_scheme(hello.signature_schemes()).is_some())
            .map(|(_, key)| Arc::clone(key))
    }
}

/// Exact before the longest wildcard before any.
fn rank(host: &HostPattern) -> (u8, usize) {
    match host {
        HostPattern::Exact(name) => (2, name.len()),
        HostPattern::Suffix(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    }
}
