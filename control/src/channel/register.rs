//! Who a proxy is: its token, its own resource, and what becomes of that resource when it leaves.

use super::proto;
use crate::compile::ProxyKey;
use crate::core::Core;
use crate::identity::{DataplaneClaims, KeyRing, TokenScope, ZoneClaims, check_dataplane, check_zone};
use crate::resource::{Resource, Spec, Tags, read};
use crate::settings::Auth;
use crate::store::Key;
use std::sync::Arc;
use tonic::Status;

const TOKEN_REQUIRED: &str = "Dataplane Token is required. Generate token using 'kumactl generate dataplane-token > /path/file' and provide it via --dataplane-token-file=/path/file argument to Kuma DP";

/// A proxy that was let in.
pub(super) struct Registered {
    pub(super) key: ProxyKey,
    /// Of the store, with the proxy's resource in it.
    pub(super) revision: u64,
    /// The proxy brought its resource: it goes with the proxy.
    pub(super) brought: bool,
}

pub(super) async fn register(core: &Arc<Core>, auth: (Auth, Auth), hello: &proto::Hello) -> Result<Registered, Status> {
    let (kind, key) = match hello.proxy_type.as_str() {
        "" | "dataplane" => ("Dataplane", None),
        "ingress" => ("ZoneIngress", Some(ProxyKey::ingress(&hello.name))),
        "egress" => ("ZoneEgress", Some(ProxyKey::egress(&hello.name))),
        other => return Err(Status::invalid_argument(format!("invalid proxy type \"{other}\""))),
    };
    let key = key.unwrap_or_else(|| ProxyKey::dataplane(&hello.mesh, &hello.name));
    let mut resource = if hello.resource.is_empty() {
        let found = stored(core, kind, hello);
        found.ok_or_else(|| {
            Status::not_found(format!(
                "{} doesn't exist: apply it, or start the proxy with --dataplane-file",
                key.origin()
            ))
        })?
    } else {
        own_resource(hello, kind)?
    };
    let zone = authenticate(core, auth, hello, (&key, &resource))?;
    fill_zone(&mut resource, &zone);
    let brought = !hello.resource.is_empty();
    let mut revision = 0;
    if brought {
        for written in core.apply(vec![resource]).await {
            written.outcome.map_err(|error| Status::invalid_argument(format!("{}: {error}", key.origin())))?;
        }
        revision = core.revision();
    }
    Ok(Registered { key, revision, brought })
}

fn stored(core: &Core, kind: &str, hello: &proto::Hello) -> Option<Resource> {
    let document = core.get(&Key::new(kind, &hello.mesh, &hello.name))?;
    crate::core::typed(&document).ok()
}

fn own_resource(hello: &proto::Hello, kind: &str) -> Result<Resource, Status> {
    let intake = read(&hello.resource, "the proxy's resource");
    let errors: Vec<String> = intake.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(Status::invalid_argument(errors.join("\n")));
    }
    let mut resources = intake.resources;
    let Some(resource) = resources.pop().filter(|_| resources.is_empty()) else {
        return Err(Status::invalid_argument("the proxy's resource must be exactly one document"));
    };
    if resource.kind() != kind {
        return Err(Status::invalid_argument(format!(
            "invalid proxy resource type \"{}\", expected {kind}",
            resource.kind()
        )));
    }
    if resource.meta.name != hello.name || resource.meta.mesh != hello.mesh {
        return Err(Status::invalid_argument("name and mesh of the hello differ from the resource's"));
    }
    Ok(resource)
}

/// The zone that the token is bound to; empty when it isn't.
fn authenticate(
    core: &Core,
    auth: (Auth, Auth),
    hello: &proto::Hello,
    proxy: (&ProxyKey, &Resource),
) -> Result<String, Status> {
    let (key, resource) = proxy;
    let now_ms = core.clock().now_ms();
    let refused = |error: crate::identity::TokenError| Status::unauthenticated(format!("{}: {error}", key.origin()));
    let wanted = match key {
        ProxyKey::Dataplane { .. } => auth.0,
        ProxyKey::ZoneIngress { .. } | ProxyKey::ZoneEgress { .. } => auth.1,
    };
    if wanted == Auth::None {
        return Ok(String::new());
    }
    if hello.token.is_empty() {
        return Err(Status::unauthenticated(TOKEN_REQUIRED));
    }
    match (&resource.spec, key) {
        (Spec::Dataplane(dataplane), ProxyKey::Dataplane { mesh, name }) => {
            let ring: KeyRing = core.key_ring(TokenScope::Dataplane { mesh: mesh.clone() });
            let claims: DataplaneClaims = ring.verify(&hello.token, now_ms).map_err(refused)?;
            let tags: Vec<&Tags> = dataplane.tag_sets().collect();
            check_dataplane(&claims, name, mesh, &tags).map_err(refused)?;
            Ok(String::new())
        }
        (spec, _) => {
            let claims: ZoneClaims = core.key_ring(TokenScope::Zone).verify(&hello.token, now_ms).map_err(refused)?;
            let zone = match spec {
                Spec::ZoneIngress(z) => &z.zone,
                Spec::ZoneEgress(z) => &z.zone,
                _ => "",
            };
            // A resource without a zone takes the token's.
            let zone = if zone.is_empty() { claims.zone.clone() } else { zone.to_owned() };
            check_zone(&claims, &hello.proxy_type, &zone).map_err(refused)?;
            Ok(claims.zone)
        }
    }
}

fn fill_zone(resource: &mut Resource, zone: &str) {
    let field = match &mut resource.spec {
        Spec::ZoneIngress(z) => &mut z.zone,
        Spec::ZoneEgress(z) => &mut z.zone,
        _ => return,
    };
    if field.is_empty() {
        zone.clone_into(field);
    }
}

/// The proxy said that it leaves: others stop sending to it now, not when its stream ends.
pub(super) async fn draining(core: &Core, proxy: &mut Registered) {
    if !proxy.brought {
        return;
    }
    let (kind, mesh, name) = match &proxy.key {
        ProxyKey::Dataplane { mesh, name } => ("Dataplane", mesh.as_str(), name),
        ProxyKey::ZoneIngress { name } => ("ZoneIngress", "", name),
        ProxyKey::ZoneEgress { name } => ("ZoneEgress", "", name),
    };
    if let Err(error) = core.delete(&Key::new(kind, mesh, name)).await {
        tracing::error!(proxy = %proxy.key.origin(), %error, "the leaving proxy's resource couldn't be removed");
        return;
    }
    proxy.brought = false;
}

/// The stream ended. After a crash the resource stays, so that a restart finds its place.
pub(super) async fn left(_core: &Core, proxy: &Registered) {
    if proxy.brought {
        tracing::warn!(proxy = %proxy.key.origin(), "proxy lost without a word; its resource stays");
    }
}
