//! What resources refer to outside the store: DNS names in the addresses of proxies, and files of data sources. Looked
//! up and read here, off the publishing path, and kept; it must not know what they are used for.

use crate::resource::{DataSource, Resource, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lookups at the same time.
const LOOKUPS_MAX: usize = 16;
const FILES_MAX: usize = 1024;
const FILE_BYTES_MAX: u64 = 1 << 20;
const FILE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Outside {
    /// Every name in use; None = not found yet. One that stops resolving keeps its last address.
    names: BTreeMap<String, Option<IpAddr>>,
    failed: BTreeSet<String>,
    lookups: JoinSet<(String, Option<IpAddr>)>,
    /// Whose lookups are on their way.
    pending: BTreeSet<String>,
    places: Arc<Semaphore>,
    files: BTreeMap<String, Result<String, String>>,
}

impl Outside {
    pub(super) fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            failed: BTreeSet::new(),
            lookups: JoinSet::new(),
            pending: BTreeSet::new(),
            places: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            files: BTreeMap::new(),
        }
    }

    /// Whether there is anything to look up or read for its sake.
    pub(super) fn is_named_by(resource: &Arc<Resource>) -> bool {
        !hostnames(&resource.spec).is_empty() || !files(&resource.spec).is_empty()
    }

    /// Takes over what `resources` name. New files are read; new names are looked up, and waited for `patience`.
    pub(super) async fn follow(&mut self, resources: &[Arc<Resource>], patience: Duration) {
        let names: BTreeSet<&str> = resources.iter().flat_map(|r| hostnames(&r.spec)).collect();
        let paths: BTreeSet<&str> = resources.iter().flat_map(|r| files(&r.spec)).take(FILES_MAX).collect();
        self.names.retain(|name, _| names.contains(name.as_str()));
        self.failed.retain(|name| names.contains(name.as_str()));
        self.files.retain(|path, _| paths.contains(path.as_str()));
        for path in paths {
            if !self.files.contains_key(path) {
                self.files.insert(path.to_owned(), read(path).await);
            }
        }
        let mut is_new = false;
        for name in names {
            if !self.names.contains_key(name) {
                is_new = true;
                self.names.insert(name.to_owned(), None);
                self.look_up(name.to_owned());
            }
        }
        if is_new {
            let all = async {
                while !self.pending.is_empty() {
                    self.changed().await;
                }
            };
            // The others come in through `changed`.
            let _ = tokio::time::timeout(patience, all).await;
        }
    }

    /// Looks everything up again. True when a file has changed; names come in through `changed`.
    pub(super) async fn again(&mut self) -> bool {
        let names: Vec<String> = self.names.keys().cloned().collect();
        for name in names {
            self.look_up(name);
        }
        let mut has_changed = false;
        for (path, known) in &mut self.files {
            let now = read(path).await;
            has_changed |= *known != now;
            *known = now;
        }
        has_changed
    }

    /// Waits for the next lookup to end, for ever while there is none. True if something is different now.
    pub(super) async fn changed(&mut self) -> bool {
        let Some(Ok((name, found))) = self.lookups.join_next().await else { return std::future::pending().await };
        self.pending.remove(&name);
        let Some(known) = self.names.get_mut(&name) else { return false };
        let Some(address) = found else { return self.failed.insert(name) };
        let is_new = *known != Some(address);
        *known = Some(address);
        self.failed.remove(&name) || is_new
    }

    fn look_up(&mut self, name: String) {
        if !self.pending.insert(name.clone()) {
            return;
        }
        let places = self.places.clone();
        self.lookups.spawn(async move {
            let _place = places.acquire_owned().await;
            let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0)));
            let found = match lookup.await {
                // The least as text, as in Kuma, so that the order of a round robin isn't a change.
                Ok(Ok(addresses)) => addresses.map(|a| a.ip()).min_by_key(ToString::to_string),
                _ => None,
            };
            (name, found)
        });
    }

    pub(super) fn resolved(&self) -> BTreeMap<String, IpAddr> {
        self.names.iter().filter_map(|(name, address)| Some((name.clone(), (*address)?))).collect()
    }

    pub(super) fn files(&self) -> BTreeMap<String, String> {
        self.files.iter().filter_map(|(path, text)| Some((path.clone(), text.clone().ok()?))).collect()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let names = self.failed.iter().map(|name| match self.names.get(name) {
            Some(Some(last)) => format!("address {name} doesn't resolve any more; {last}, its last one, stays in use"),
            _ => format!("address {name} doesn't resolve"),
        });
        names.chain(self.files.values().filter_map(|text| text.as_ref().err().cloned()))
    }
}

async fn read(path: &str) -> Result<String, String> {
    let reading = async {
        let about = tokio::fs::metadata(path).await.map_err(|e| format!("could not read {path}: {e}"))?;
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(format!("could not read {path}: it has to be a file of at most {FILE_BYTES_MAX} bytes"));
        }
        tokio::fs::read_to_string(Path::new(path)).await.map_err(|e| format!("could not read {path}: {e}"))
    };
    let late = |_| Err(format!("could not read {path}: no answer within {} s", FILE_TIMEOUT.as_secs()));
    tokio::time::timeout(FILE_TIMEOUT, reading).await.unwrap_or_else(late)
}

/// DNS names where an address may be one.
fn hostnames(spec: &Spec) -> Vec<&str> {
    let candidates = match spec {
        Spec::Dataplane(d) => vec![&d.networking.address, &d.networking.advertised_address],
        Spec::ZoneIngress(z) => vec![&z.networking.address, &z.networking.advertised_address],
        Spec::ZoneEgress(z) => vec![&z.networking.address],
        _ => Vec::new(),
    };
    let is_name = |a: &&str| !a.is_empty() && a.parse::<IpAddr>().is_err();
    candidates.into_iter().map(String::as_str).filter(is_name).collect()
}

/// Files that data sources name. Those of a CA are read where it is made; here their changes are noticed.
fn files(spec: &Spec) -> Vec<&str> {
    let sources: Vec<&DataSource> = match spec {
        Spec::MeshGateway(g) => {
            g.listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|t| &t.certificates).collect()
        }
        Spec::ExternalService(e) => {
            let tls = e.networking.tls.iter();
            tls.flat_map(|t| [&t.ca_cert, &t.client_cert, &t.client_key]).flatten().collect()
        }
        Spec::Mesh(m) => m.ca().iter().flat_map(|ca| [&ca.conf.cert, &ca.conf.key]).flatten().collect(),
        _ => Vec::new(),
    };
    let mut paths = Vec::new();
    for source in sources {
        if let DataSource::File(path) = source {
            paths.push(path.as_str());
        }
    }
    paths
}
