//! What one proxy is owed: its tables, its certificates, its secrets. Functions of a [`Published`] world, shared by the
//! control channel and by `weir up`; no transport here.

use crate::compile::{Compiled, Options, ProxyKey, ZONE_EGRESS, compile_with};
use crate::identity::{Identity, IssuedCert};
use crate::publish::Published;
use crate::resource::{Resource, Spec, Tags};
use snapshot::{Snapshot, Violation};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A checked offer.
pub struct Plan {
    pub compiled: Compiled,
    /// The same tables, built: what the next plan of this proxy is made after.
    pub snapshot: Arc<Snapshot>,
    /// Meshes the proxy needs an identity of, each with a fingerprint of what the certificate depends on.
    pub identities: BTreeMap<String, String>,
    /// Roots of every mesh with mTLS, PEM.
    pub bundles: BTreeMap<String, String>,
}

fn resource<'a>(published: &'a Published, proxy: &ProxyKey) -> Option<&'a Resource> {
    let found = match proxy {
        ProxyKey::Dataplane { mesh, name } => published.resource("Dataplane", mesh, name),
        ProxyKey::ZoneIngress { name } => published.resource("ZoneIngress", "", name),
        ProxyKey::ZoneEgress { name } => published.resource("ZoneEgress", "", name),
    };
    found.map(AsRef::as_ref)
}

/// Compiles and checks what `proxy` is to do. None when its resource isn't there (yet, or any more). Rows that are as in
/// `previous` are shared with it, and not checked again.
///
/// # Errors
/// The compiler made tables that can't be built: nothing is sent, the proxy keeps what it has.
pub fn plan(
    published: &Published,
    proxy: &ProxyKey,
    options: Options,
    previous: Option<&Snapshot>,
) -> Option<Result<Plan, Vec<Violation>>> {
    let resource = resource(published, proxy)?;
    let begun = Instant::now();
    let mut compiled = compile_with(&published.world, proxy, options);
    let compiled_us = begun.elapsed().as_micros();
    if let Some(previous) = previous {
        compiled.tables = snapshot::share(previous.tables(), compiled.tables);
    }
    let snapshot = match Snapshot::build_after(previous, compiled.tables.clone(), published.generation) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(violations) => return Some(Err(violations)),
    };
    tracing::debug!(proxy = %proxy.origin(), compiled_us, all_us = begun.elapsed().as_micros(), "proxy planned");
    let (services, tags) = claims(resource);
    let meshes: Vec<&String> = match proxy {
        ProxyKey::Dataplane { mesh, .. } => published.authorities.keys().filter(|m| *m == mesh).collect(),
        ProxyKey::ZoneEgress { .. } => published.authorities.keys().collect(),
        ProxyKey::ZoneIngress { .. } => Vec::new(),
    };
    let fingerprint = |mesh: &String| {
        let authority = published.authorities.get(mesh);
        let trust = authority.map(|a| (a.lifetime, a.ca.trust_pem()));
        format!("{services:?} {tags:?} {trust:?}")
    };
    let identities = meshes.into_iter().map(|m| (m.clone(), fingerprint(m))).collect();
    let bundles = published.authorities.iter().map(|(m, ca)| (m.clone(), ca.ca.trust_pem().to_owned())).collect();
    Some(Ok(Plan { compiled, snapshot, identities, bundles }))
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
    let (services, tags) = claims(resource);
    let identity = Identity { services: &services, tags: &tags };
    authority.ca.issue(csr, identity, authority.lifetime, now_ms).map_err(|e| e.to_string())
}

/// Services and tag sets that a proxy's certificate names.
fn claims(resource: &Resource) -> (Vec<String>, Vec<&Tags>) {
    match &resource.spec {
        Spec::Dataplane(dataplane) => {
            let tags: Vec<&Tags> = dataplane.tag_sets().collect();
            let mut services: Vec<String> = tags.iter().filter_map(|t| t.get("kuma.io/service").cloned()).collect();
            services.sort();
            services.dedup();
            (services, tags)
        }
        Spec::ZoneEgress(_) => (vec![ZONE_EGRESS.into()], Vec::new()),
        _ => (Vec::new(), Vec::new()),
    }
}
