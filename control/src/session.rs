//! What one proxy is owed: its tables, its certificates, its secrets, and what of them it has already. Shared by the
//! control channel and by `weir up`; no transport here.

use crate::compile::{self, Compiled, Options, Problem, ProxyKey, SecretMaterial, ZONE_EGRESS};
use crate::identity::{Identity, IssuedCert};
use crate::publish::Published;
use crate::resource::{Resource, Spec, Tags};
use snapshot::{Generation, Snapshot, Tables, Violation};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// One proxy's side of the mesh: what it was told and what it answered.
pub struct Session {
    proxy: ProxyKey,
    options: Options,
    /// The last accepted tables: the base of the next delta.
    held: Option<(Generation, Arc<Tables>)>,
    in_flight: Option<(Generation, Arc<Tables>)>,
    /// Tables that the proxy refused: not offered again unless they change.
    refused: Option<Arc<Tables>>,
    /// What the tables were at last, built: the next ones share what stays. None where the mesh has that for all.
    planned: Option<Arc<Snapshot>>,
    /// What was looked at last: there is nothing to do about it again.
    seen: Option<Generation>,
    /// Fingerprints of what the certificates depend on that were asked for, by mesh.
    identities: BTreeMap<String, String>,
    material: Material,
    has_material: bool,
}

/// What travels beside the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// Roots of every mesh with mTLS, PEM.
    pub bundles: BTreeMap<String, String>,
    pub secrets: Vec<SecretMaterial>,
}

/// What a proxy is to be told now, in this order.
pub struct Owed {
    /// Of the compilation: not for the proxy.
    pub problems: Vec<Problem>,
    pub material: Option<Material>,
    /// Meshes of which it has to ask a certificate.
    pub wanted: Vec<String>,
    pub offer: Option<Offer>,
}

/// Checked tables, to be accepted or rejected.
pub struct Offer {
    pub generation: Generation,
    pub tables: Arc<Tables>,
    /// What the proxy accepted last.
    pub base: Option<(Generation, Arc<Tables>)>,
}

fn resource<'a>(published: &'a Published, proxy: &ProxyKey) -> Option<&'a Resource> {
    let found = match proxy {
        ProxyKey::Dataplane { mesh, name } => published.resource("Dataplane", mesh, name),
        ProxyKey::ZoneIngress { name } => published.resource("ZoneIngress", "", name),
        ProxyKey::ZoneEgress { name } => published.resource("ZoneEgress", "", name),
    };
    found.map(AsRef::as_ref)
}

impl Session {
    pub fn new(proxy: ProxyKey, options: Options) -> Self {
        Self {
            proxy,
            options,
            held: None,
            in_flight: None,
            refused: None,
            planned: None,
            seen: None,
            identities: BTreeMap::new(),
            material: Material::default(),
            has_material: false,
        }
    }

    pub fn proxy(&self) -> &ProxyKey {
        &self.proxy
    }

    /// What the proxy is to be told of `published`. None when that was asked before, and when its resource isn't there (yet,
    /// or any more): what it has keeps serving. Tables wait while those before are unanswered: ask again after the answer.
    ///
    /// # Errors
    /// The compiler made tables that can't be built: nothing is sent, the proxy keeps what it has.
    pub fn owed(&mut self, published: &Published) -> Option<Result<Owed, Vec<Violation>>> {
        if self.seen.replace(published.generation) == Some(published.generation) {
            return None;
        }
        let resource = resource(published, &self.proxy)?;
        let begun = Instant::now();
        let made = compile::make(&published.world, &self.proxy, self.options);
        let Compiled { tables, secrets, problems } = made.compiled;
        let compiled_us = begun.elapsed().as_micros();
        let tables = Arc::new(match self.in_flight.as_ref().or(self.held.as_ref()) {
            Some(last) => snapshot::share(&last.1, tables),
            None => tables,
        });
        let previous = made.proven.as_ref().or(self.planned.as_ref()).map(AsRef::as_ref);
        let built = match Snapshot::build_after(previous, tables.clone(), published.generation) {
            Ok(built) => built,
            Err(violations) => return Some(Err(violations)),
        };
        tracing::debug!(proxy = %self.proxy.origin(), compiled_us, all_us = begun.elapsed().as_micros(), "proxy planned");
        // What many proxies share is kept once, beside the world.
        self.planned = made.proven.is_none().then(|| Arc::new(built));
        let wanted = self.wanted(published, resource);
        let material = Material { bundles: bundles(published), secrets };
        let is_new = !self.has_material || self.material != material;
        self.has_material = true;
        self.material = material;
        let material = is_new.then(|| self.material.clone());
        let offer = self.offer(published.generation, tables);
        Some(Ok(Owed { problems, material, wanted, offer }))
    }

    /// Meshes the proxy has to ask a certificate of now.
    fn wanted(&mut self, published: &Published, resource: &Resource) -> Vec<String> {
        let meshes: Vec<&String> = match &self.proxy {
            ProxyKey::Dataplane { mesh, .. } => published.authorities.keys().filter(|m| *m == mesh).collect(),
            ProxyKey::ZoneEgress { .. } => published.authorities.keys().collect(),
            ProxyKey::ZoneIngress { .. } => Vec::new(),
        };
        let (services, tags) = claims(published, resource);
        let fingerprint = |mesh: &String| {
            let authority = published.authorities.get(mesh);
            let trust = authority.map(|a| (a.lifetime, a.ca.trust_pem()));
            format!("{services:?} {tags:?} {trust:?}")
        };
        let now: BTreeMap<String, String> = meshes.into_iter().map(|m| (m.clone(), fingerprint(m))).collect();
        let is_new = |(mesh, print): &(&String, &String)| self.identities.get(*mesh) != Some(print);
        let wanted = now.iter().filter(is_new).map(|(mesh, _)| mesh.clone()).collect();
        self.identities = now;
        wanted
    }

    fn offer(&mut self, generation: Generation, tables: Arc<Tables>) -> Option<Offer> {
        let is_same = |t: &Arc<Tables>| *t == tables;
        let is_known =
            self.held.as_ref().is_some_and(|(_, t)| is_same(t)) || self.refused.as_ref().is_some_and(is_same);
        if is_known || self.in_flight.is_some() {
            return None;
        }
        self.in_flight = Some((generation, tables.clone()));
        Some(Offer { generation, tables, base: self.held.clone() })
    }

    /// Whether an offer is unanswered.
    pub fn is_waiting(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The proxy took the last offer.
    pub fn accepted(&mut self) {
        self.held = self.in_flight.take().or(self.held.take());
        self.refused = None;
    }

    /// The proxy can't take the last offer: it isn't made again as it is.
    pub fn rejected(&mut self) {
        self.refused = self.in_flight.take().map(|(_, tables)| tables);
    }

    /// No certificate came of it: it is wanted again with the next change.
    pub fn not_certified(&mut self, mesh: &str) {
        self.identities.remove(mesh);
    }

    /// What was told last.
    pub fn material(&self) -> &Material {
        &self.material
    }
}

/// Roots of every mesh with mTLS, PEM.
fn bundles(published: &Published) -> BTreeMap<String, String> {
    published.authorities.iter().map(|(m, ca)| (m.clone(), ca.ca.trust_pem().to_owned())).collect()
}

/// Signs a key of `proxy` for one mesh.
///
/// # Errors
/// Why not, for the log of both sides.
pub fn issue(
    published: &Published,
    proxy: &ProxyKey,
    mesh: &str,
    csr: &[u8],
    now_ms: u64,
) -> Result<IssuedCert, String> {
    let authority =
        published.authorities.get(mesh).ok_or_else(|| format!("mesh {mesh} has no usable CA (is mtls on?)"))?;
    if let ProxyKey::Dataplane { mesh: own, .. } = proxy
        && own != mesh
    {
        return Err(format!("a dataplane of mesh {own} gets no certificate of mesh {mesh}"));
    }
    let resource = resource(published, proxy).ok_or("the proxy's resource is gone")?;
    let (services, tags) = claims(published, resource);
    let tags: Vec<&Tags> = tags.iter().collect();
    let identity = Identity { services: &services, tags: &tags };
    authority.ca.issue(csr, identity, authority.lifetime, now_ms).map_err(|e| e.to_string())
}

/// Services and tag sets that a proxy's certificate names.
fn claims(published: &Published, resource: &Resource) -> (Vec<String>, Vec<Tags>) {
    match &resource.spec {
        Spec::Dataplane(dataplane) => {
            let tags = published.world.tag_sets(dataplane);
            let mut services: Vec<String> = tags.iter().filter_map(|t| t.get("kuma.io/service").cloned()).collect();
            services.sort();
            services.dedup();
            (services, tags)
        }
        Spec::ZoneEgress(_) => (vec![ZONE_EGRESS.into()], Vec::new()),
        _ => (Vec::new(), Vec::new()),
    }
}
