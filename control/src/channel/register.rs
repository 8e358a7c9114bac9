//! Who a proxy is: its token, its own resource, and its place among the connected.

use super::presence::{Presence, StreamId, key as stored_as};
use super::{away, proto};
use crate::compile::ProxyKey;
use crate::core::Core;
use crate::identity::{DataplaneClaims, TokenError, TokenScope, ZoneClaims, check_dataplane, check_zone};
use crate::resource::{Resource, Spec, Tags, read};
use crate::settings::Auth;
use snapshot::FORMAT;
use std::sync::Arc;
use tonic::Status;

const DATAPLANE_TOKEN_REQUIRED: &str = "Dataplane Token is required. Generate token using 'kumactl generate dataplane-token > /path/file' and provide it via --dataplane-token-file=/path/file argument to Kuma DP";
const ZONE_TOKEN_REQUIRED: &str = "Zone Token is required. Generate token using 'kumactl generate zone-token > /path/file' and provide it via --dataplane-token-file=/path/file argument to Kuma DP";
const ZONE_TAG: &str = "kuma.io/zone";
/// Of a proxy's own resource.
const RESOURCE_BYTES_MAX: usize = 512 << 10;

/// A proxy that was let in.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) key: ProxyKey,
    pub(super) stream: StreamId,
    /// Of the store, with the proxy's resource in it.
    pub(super) revision: u64,
    /// The proxy brought its resource: it goes with the proxy.
    pub(super) brought: bool,
    /// A zone proxy that is new: others are sent to it when it is ready.
    pub(super) withheld: bool,
    /// It told that it leaves.
    pub(super) said_goodbye: bool,
}

/// What a token says; nothing is claimed where none is asked for.
enum Claims {
    Nothing,
    Dataplane(DataplaneClaims),
    Zone(ZoneClaims),
}

/// Who is asked for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate<'a> {
    /// Of dataplanes, of zone proxies.
    pub(super) auth: (Auth, Auth),
    /// Of Dataplanes that don't say theirs.
    pub(super) zone: &'a str,
}

pub(super) async fn register(
    core: &Arc<Core>,
    presence: &Presence,
    gate: Gate<'_>,
    hello: &proto::Hello,
) -> Result<Registered, Status> {
    let key = match hello.proxy_type.as_str() {
        "" | "dataplane" => ProxyKey::dataplane(&hello.mesh, &hello.name),
        "ingress" => ProxyKey::ingress(&hello.name),
        "egress" => ProxyKey::egress(&hello.name),
        other => return Err(Status::invalid_argument(format!("invalid proxy type \"{other}\""))),
    };
    let claims = authenticate(core, gate.auth, &hello.token, &key)?;
    if !hello.formats.contains(&FORMAT) {
        return Err(Status::invalid_argument(format!(
            "{}: this control plane writes rows in format {FORMAT}, the proxy (release {}) reads {:?}; \
             install the same release of both",
            key.origin(),
            hello.version,
            hello.formats
        )));
    }
    let brought = !hello.resource.is_empty();
    let mut resource = if brought { own_resource(&hello.resource, &key)? } else { stored(core, &key)? };
    let zone = authorize(claims, hello, (&key, gate.zone), &resource)?;
    fill_zone(&mut resource, &zone);
    away::mark(&mut resource.meta);
    let mut revision = 0;
    let _registering = presence.registering().await;
    let is_new = core.get(&stored_as(&key)).is_none();
    let withheld = is_new && !matches!(key, ProxyKey::Dataplane { .. });
    if withheld {
        // Before its resource is there: nobody may be sent to it and then away again.
        core.withdraw(&stored_as(&key), true);
    }
    if brought {
        for written in core.apply(vec![resource]).await {
            if let Err(error) = written.outcome {
                if withheld {
                    core.withdraw(&stored_as(&key), false);
                }
                return Err(Status::invalid_argument(format!("{}: {error}", key.origin())));
            }
        }
        revision = core.revision();
    }
    let (stream, has_twin) = presence.connected(&key);
    core.withdraw(&stored_as(&key), withheld);
    if has_twin {
        tracing::warn!(proxy = %key.origin(), "is connected twice: one of the processes should have another name");
    }
    Ok(Registered { key, stream, revision, brought, withheld, said_goodbye: false })
}

fn stored(core: &Core, key: &ProxyKey) -> Result<Resource, Status> {
    let absent = || format!("{} doesn't exist: apply it, or start the proxy with --dataplane-file", key.origin());
    let document = core.get(&stored_as(key)).ok_or_else(|| Status::not_found(absent()))?;
    crate::core::typed(&document).map_err(|why| Status::not_found(format!("{} can't be read: {why}", key.origin())))
}

fn own_resource(text: &str, key: &ProxyKey) -> Result<Resource, Status> {
    if text.len() > RESOURCE_BYTES_MAX {
        let message = format!("the proxy's resource has {} bytes, at most {RESOURCE_BYTES_MAX} are taken", text.len());
        return Err(Status::invalid_argument(message));
    }
    let intake = read(text, "the proxy's resource");
    let errors: Vec<String> = intake.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(Status::invalid_argument(errors.join("\n")));
    }
    let mut resources = intake.resources;
    let Some(resource) = resources.pop().filter(|_| resources.is_empty()) else {
        return Err(Status::invalid_argument("the proxy's resource must be exactly one document"));
    };
    let wanted = stored_as(key);
    if resource.kind() != wanted.kind {
        let message = format!("invalid proxy resource type \"{}\", expected {}", resource.kind(), wanted.kind);
        return Err(Status::invalid_argument(message));
    }
    if resource.key() != wanted {
        return Err(Status::invalid_argument("name and mesh of the hello differ from the resource's"));
    }
    Ok(resource)
}

/// Whose token it is.
fn authenticate(core: &Core, auth: (Auth, Auth), token: &str, key: &ProxyKey) -> Result<Claims, Status> {
    let now_ms = core.clock().now_ms();
    let (wanted, required) = match key {
        ProxyKey::Dataplane { .. } => (auth.0, DATAPLANE_TOKEN_REQUIRED),
        ProxyKey::ZoneIngress { .. } | ProxyKey::ZoneEgress { .. } => (auth.1, ZONE_TOKEN_REQUIRED),
    };
    if wanted == Auth::None {
        return Ok(Claims::Nothing);
    }
    if token.is_empty() {
        return Err(Status::unauthenticated(required));
    }
    let claims = match key {
        ProxyKey::Dataplane { mesh, .. } => {
            core.key_ring(TokenScope::Dataplane { mesh: mesh.clone() }).verify(token, now_ms).map(Claims::Dataplane)
        }
        _ => core.key_ring(TokenScope::Zone).verify(token, now_ms).map(Claims::Zone),
    };
    claims.map_err(|error| refused(key, &error))
}

/// Whether the token is for this proxy. Gives the zone that it is bound to, empty when it isn't.
fn authorize(
    claims: Claims,
    hello: &proto::Hello,
    (key, own_zone): (&ProxyKey, &str),
    resource: &Resource,
) -> Result<String, Status> {
    match (claims, &resource.spec) {
        (Claims::Nothing, _) => Ok(String::new()),
        (Claims::Dataplane(claims), Spec::Dataplane(dataplane)) => {
            let mut tags: Vec<Tags> = dataplane.tag_sets().cloned().collect();
            if !own_zone.is_empty() {
                for set in &mut tags {
                    set.entry(ZONE_TAG.to_owned()).or_insert_with(|| own_zone.to_owned());
                }
            }
            let tags: Vec<&Tags> = tags.iter().collect();
            let checked = check_dataplane(&claims, &resource.meta.name, &resource.meta.mesh, &tags);
            checked.map(|()| String::new()).map_err(|error| refused(key, &error))
        }
        (Claims::Zone(claims), spec) => {
            let zone = match spec {
                Spec::ZoneIngress(z) => &z.zone,
                Spec::ZoneEgress(z) => &z.zone,
                _ => "",
            };
            // A resource without a zone takes the token's.
            let zone = if zone.is_empty() { &claims.zone } else { zone };
            check_zone(&claims, &hello.proxy_type, zone).map_err(|error| refused(key, &error))?;
            Ok(claims.zone)
        }
        (Claims::Dataplane(_), _) => Err(Status::internal("a dataplane's resource is of another kind")),
    }
}

fn refused(key: &ProxyKey, error: &TokenError) -> Status {
    Status::unauthenticated(format!("{}: {error}", key.origin()))
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

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
