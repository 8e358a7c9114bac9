//! The control plane's state: every resource goes in and out here, from the REST API, from files and from the channel
//! alike. It owns the rules between resources (meshes, their CAs, defaults) and must not know HTTP nor how resources
//! compile.

mod defaults;
mod health;
mod members;
mod meshes;
#[cfg(test)]
mod tests;

pub use defaults::{ADMIN_TOKEN_SECRET, Defaults};
pub use meshes::MeshCa;

use crate::identity::{KeyRing, TokenScope};
use crate::resource::{self, Resource, Spec};
use crate::store::{Change, Changed, Document, Expect, Key, Outcome, Store, StoreError};
use crate::time::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{RwLock, watch};

/// Proxies and zones whose state is remembered; the oldest key gives way.
const INSIGHTS_MAX: usize = 200_000;

/// A field of a resource and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub message: String,
}

impl Violation {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why one write wasn't done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    MeshNotFound { mesh: String },
    NotFound { key: Key },
    ReadOnly { kind: String },
    Invalid(Vec<Violation>),
    Store(StoreError),
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MeshNotFound { mesh } => write!(f, "there is no mesh {mesh:?}; apply it first"),
            Self::NotFound { key } => write!(f, "there is no {key}"),
            Self::ReadOnly { kind } => write!(f, "{kind} is written by the control plane only"),
            Self::Invalid(list) => {
                let parts: Vec<String> = list.iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
                f.write_str(&parts.join("; "))
            }
            Self::Store(error) => error.fmt(f),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What became of one resource of an `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: Key,
    pub outcome: Result<Outcome, Refusal>,
}

/// All resources at one revision, typed; documents that can't be read are named apart.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub revision: u64,
    /// Sorted by kind, mesh, name. One that didn't change is the same allocation in the next contents.
    pub resources: Arc<Vec<Arc<Resource>>>,
    pub unreadable: Arc<BTreeMap<Key, String>>,
}

impl Contents {
    fn take(&mut self, changed: Changed) {
        self.revision = changed.revision;
        if changed.documents.is_empty() {
            return;
        }
        let resources = Arc::make_mut(&mut self.resources);
        for (key, document) in changed.documents {
            let decoded = document.map(|d| typed(&d).map(Arc::new));
            if !self.unreadable.is_empty() {
                Arc::make_mut(&mut self.unreadable).remove(&key);
            }
            let wanted = (key.kind.as_str(), key.mesh.as_str(), key.name.as_str());
            match (resources.binary_search_by(|r| r.order().cmp(&wanted)), decoded) {
                (Ok(at), Some(Ok(resource))) => drop(resources.get_mut(at).map(|held| *held = resource)),
                (Err(at), Some(Ok(resource))) => resources.insert(at, resource),
                (found, other) => {
                    found.into_iter().for_each(|at| drop(resources.remove(at)));
                    if let Some(Err(why)) = other {
                        Arc::make_mut(&mut self.unreadable).insert(key, why);
                    }
                }
            }
        }
    }
}

pub struct Core {
    store: Store,
    clock: Clock,
    cluster_id: String,
    /// Held for writing while a mesh changes, for reading by every other write: no resource gets into a mesh that goes.
    meshes: RwLock<()>,
    /// The contents at the last time they were asked for.
    decoded: Mutex<Contents>,
    cas: Mutex<BTreeMap<String, meshes::CachedCa>>,
    /// What proxies and zones report; lives with the process.
    insights: Mutex<BTreeMap<Key, serde_json::Value>>,
    /// Proxies that nobody is sent to for now: not ready yet, or leaving. Lives with the process.
    withdrawn: watch::Sender<BTreeSet<Key>>,
    /// Proxies probe their applications where a Dataplane asks for it.
    probing: AtomicBool,
}

impl Core {
    /// Takes a store over, and makes what `defaults` asks for and isn't there.
    pub async fn start(store: Store, clock: Clock, defaults: Defaults) -> Result<Arc<Self>, Refusal> {
        let cluster_id = defaults::cluster_id(&store).await?;
        let core = Self {
            store,
            clock,
            cluster_id,
            meshes: RwLock::default(),
            decoded: Mutex::default(),
            cas: Mutex::default(),
            insights: Mutex::default(),
            withdrawn: watch::Sender::default(),
            probing: AtomicBool::new(true),
        };
        core.make_defaults(defaults).await?;
        Ok(Arc::new(core))
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// For blobs (VIP tables and the like); resources are written through `apply`.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.store.watch()
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Document>> {
        self.store.get(key)
    }

    pub fn list(&self, kind: Option<&str>, mesh: Option<&str>) -> Vec<Arc<Document>> {
        self.store.list(kind, mesh)
    }

    pub fn has_mesh(&self, mesh: &str) -> bool {
        self.store.get(&Key::new("Mesh", "", mesh)).is_some()
    }

    /// Everything, typed. What hasn't changed since the last call isn't decoded again, nor looked at.
    pub fn contents(&self) -> Contents {
        let mut known = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.changed_since(known.revision) {
            Some(changed) => known.take(changed),
            None => {
                let all = self.store.contents();
                let documents = all.documents.into_iter().map(|d| (d.key.clone(), Some(d))).collect();
                *known = Contents::default();
                known.take(Changed { revision: all.revision, documents });
            }
        }
        known.clone()
    }

    /// Write resources. What can be written is, in one transaction; what can't says why. Meshes may come in any order.
    pub async fn apply(&self, resources: Vec<Resource>) -> Vec<Written> {
        if resources.iter().any(|r| matches!(r.spec, Spec::Mesh(_))) {
            let _alone = self.meshes.write().await;
            self.apply_locked(resources).await
        } else {
            let _shared = self.meshes.read().await;
            self.apply_locked(resources).await
        }
    }

    async fn apply_locked(&self, resources: Vec<Resource>) -> Vec<Written> {
        let new_meshes: BTreeSet<&str> = resources
            .iter()
            .filter(|r| matches!(r.spec, Spec::Mesh(_)) && !self.has_mesh(&r.meta.name))
            .map(|r| r.meta.name.as_str())
            .collect();
        let secrets = meshes::secrets_of(&resources);
        let constraints = self.constraints(&resources);
        let mut changes = Vec::new();
        let mut written: Vec<Written> = Vec::with_capacity(resources.len());
        for resource in &resources {
            let key = resource.key();
            let admitted = self.admit(&key, &new_meshes).and_then(|()| is_member(resource, &constraints));
            let outcome = match admitted {
                Err(refusal) => Err(refusal),
                Ok(()) => self.changes_for(resource, &key, &secrets).await.map(|more| {
                    changes.extend(more);
                    Outcome::Unchanged
                }),
            };
            written.push(Written { key, outcome });
        }
        // A mesh that was refused takes what was to live in it along.
        let refused: BTreeSet<String> = written
            .iter()
            .filter(|w| w.key.kind == "Mesh" && w.outcome.is_err() && !self.has_mesh(&w.key.name))
            .map(|w| w.key.name.clone())
            .collect();
        for one in written.iter_mut().filter(|w| refused.contains(&w.key.mesh)) {
            one.outcome = Err(Refusal::MeshNotFound { mesh: one.key.mesh.clone() });
        }
        changes.retain(|c| !matches!(c, Change::Put { key, .. } if refused.contains(&key.mesh)));
        self.commit(changes, &mut written).await;
        written
    }

    /// Of the meshes that `resources` name: as they are being written, or else as they are.
    fn constraints(&self, resources: &[Resource]) -> BTreeMap<String, serde_json::Value> {
        let mut constraints: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        for resource in resources {
            match &resource.spec {
                Spec::Mesh(mesh) => drop(constraints.insert(resource.meta.name.clone(), mesh.constraints.clone())),
                Spec::Dataplane(_) if !constraints.contains_key(&resource.meta.mesh) => {
                    let document = self.store.get(&Key::new("Mesh", "", &resource.meta.mesh));
                    let body = document.and_then(|d| serde_json::from_str::<serde_json::Value>(&d.body).ok());
                    let found = body.and_then(|b| b.get("constraints").cloned()).unwrap_or_default();
                    constraints.insert(resource.meta.mesh.clone(), found);
                }
                _ => {}
            }
        }
        constraints
    }

    async fn commit(&self, changes: Vec<Change>, written: &mut [Written]) {
        let keys: Vec<Option<Key>> = changes
            .iter()
            .map(|c| match c {
                Change::Put { key, .. } => Some(key.clone()),
                _ => None,
            })
            .collect();
        let result = self.store.apply(changes).await;
        // The user's own write of a key is the last one of it.
        let outcomes: BTreeMap<Key, Outcome> = match &result {
            Ok(applied) => keys.into_iter().zip(&applied.outcomes).filter_map(|(k, o)| Some((k?, *o))).collect(),
            Err(_) => BTreeMap::new(),
        };
        for one in written.iter_mut().filter(|w| w.outcome.is_ok()) {
            one.outcome = match &result {
                Ok(_) => Ok(outcomes.get(&one.key).copied().unwrap_or(Outcome::Unchanged)),
                Err(error) => Err(Refusal::Store(error.clone())),
            };
        }
    }

    fn admit(&self, key: &Key, new_meshes: &BTreeSet<&str>) -> Result<(), Refusal> {
        let info = resource::registry::kind(&key.kind)
            .ok_or_else(|| Refusal::Invalid(vec![Violation::new("type", format!("unknown kind {:?}", key.kind))]))?;
        if info.support == resource::registry::Support::ReadOnly {
            return Err(Refusal::ReadOnly { kind: key.kind.clone() });
        }
        let mesh = &key.mesh;
        if info.is_mesh_scoped() && !self.has_mesh(mesh) && !new_meshes.contains(mesh.as_str()) {
            return Err(Refusal::MeshNotFound { mesh: mesh.clone() });
        }
        Ok(())
    }

    async fn changes_for(
        &self,
        resource: &Resource,
        key: &Key,
        secrets: &BTreeMap<Key, String>,
    ) -> Result<Vec<Change>, Refusal> {
        let mut changes = match &resource.spec {
            Spec::Mesh(mesh) => self.mesh_changes(&key.name, mesh, secrets).await?,
            _ => Vec::new(),
        };
        changes.push(put(self.with_health(resource, key).as_ref().unwrap_or(resource), key));
        Ok(changes)
    }

    /// Remove one resource. A mesh takes along all it holds, and stays while it holds dataplanes.
    pub async fn delete(&self, key: &Key) -> Result<Outcome, Refusal> {
        let _alone = self.meshes.write().await;
        if self.store.get(key).is_none() {
            return Err(Refusal::NotFound { key: key.clone() });
        }
        let mut changes = Vec::new();
        if key.kind == "Mesh" {
            if !self.store.list(Some("Dataplane"), Some(&key.name)).is_empty() {
                let why = "unable to delete mesh, there are still some dataplanes attached";
                return Err(Refusal::Invalid(vec![Violation::new("mesh", why)]));
            }
            changes.extend(self.store.list(None, Some(&key.name)).iter().map(|d| Change::delete(d.key.clone())));
        }
        changes.push(Change::delete(key.clone()));
        let is_gone = |other: &Key| other == key || (key.kind == "Mesh" && other.mesh == key.name);
        let applied = self.store.apply(changes).await?;
        // One of the same name is another proxy.
        self.withdrawn.send_if_modified(|keys| {
            keys.retain(|other| !is_gone(other));
            false
        });
        Ok(applied.outcomes.last().copied().unwrap_or(Outcome::Absent))
    }

    /// The keys of a kind of token as they are now.
    pub fn key_ring(&self, scope: TokenScope) -> KeyRing {
        let mesh = scope.mesh().to_string();
        let secrets: Vec<(String, String)> = self
            .store
            .list(Some(scope.secret_kind()), Some(&mesh))
            .into_iter()
            .filter(|d| scope.serial_of(&d.key.name).is_some() || d.key.name == scope.revocations_name())
            .filter_map(|d| Some((d.key.name.clone(), secret_data(&d.body)?)))
            .collect();
        KeyRing::load(scope, secrets.iter().map(|(n, d)| (n.as_str(), d.as_str())))
    }

    /// What a proxy or zone reports about itself: shown in overviews, gone with this process.
    pub fn set_insight(&self, key: Key, insight: serde_json::Value) {
        let mut insights = self.insights.lock().unwrap_or_else(PoisonError::into_inner);
        insights.insert(key, insight);
        if insights.len() > INSIGHTS_MAX {
            insights.pop_first();
        }
    }

    /// Change one in place; an absent one starts as null.
    pub fn update_insight(&self, key: &Key, change: impl FnOnce(&mut serde_json::Value)) {
        let mut insight = self.insight(key).unwrap_or_default();
        change(&mut insight);
        self.set_insight(key.clone(), insight);
    }

    /// Others stop sending to a proxy, or may send to it again, while its resource stays.
    pub fn withdraw(&self, key: &Key, is_withdrawn: bool) {
        self.withdrawn.send_if_modified(|keys| match is_withdrawn {
            true => keys.insert(key.clone()),
            false => keys.remove(key),
        });
    }

    /// Also of proxies whose resources aren't there yet.
    pub fn withdrawn(&self) -> BTreeSet<Key> {
        self.withdrawn.borrow().clone()
    }

    pub fn watch_withdrawn(&self) -> watch::Receiver<BTreeSet<Key>> {
        self.withdrawn.subscribe()
    }

    pub fn insight(&self, key: &Key) -> Option<serde_json::Value> {
        self.insights.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

fn is_member(resource: &Resource, constraints: &BTreeMap<String, serde_json::Value>) -> Result<(), Refusal> {
    match (&resource.spec, constraints.get(&resource.meta.mesh)) {
        (Spec::Dataplane(dataplane), Some(of_mesh)) => members::check(&resource.meta.mesh, of_mesh, dataplane),
        _ => Ok(()),
    }
}

fn put(resource: &Resource, key: &Key) -> Change {
    let mut body = resource.to_json();
    if let Some(fields) = body.as_object_mut() {
        // The store keeps the times beside the body: else no write would be without change.
        fields.remove("creationTime");
        fields.remove("modificationTime");
    }
    Change::Put {
        key: key.clone(),
        body: body.to_string(),
        labels: resource.meta.labels.clone(),
        expect: Expect::Anything,
    }
}

/// A stored document as a resource.
pub fn typed(document: &Document) -> Result<Resource, String> {
    let key = &document.key;
    let intake = resource::read_as(&document.body, &key.kind, &key.mesh, &key.name);
    let error = intake.problems.iter().find(|p| p.is_error()).map(ToString::to_string);
    let mut resource =
        intake.resources.into_iter().next().ok_or_else(|| error.unwrap_or_else(|| "it is empty".into()))?;
    resource.meta.created_ms = document.created_ms;
    resource.meta.modified_ms = document.modified_ms;
    resource.meta.place = None;
    Ok(resource)
}

/// The `data` of a stored secret.
fn secret_data(body: &str) -> Option<String> {
    serde_json::from_str::<serde_json::Value>(body).ok()?.get("data")?.as_str().map(str::to_string)
}
