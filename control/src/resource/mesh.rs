//! Mesh: reading and checking (spec/zones.md §10). Its logging, tracing and metrics are in `mesh_backends`.

use super::common::{self, EMPTY};
use super::decode::{Cursor, Fields, Spot};
use super::{CaBackend, CaConf, Mesh, MeshNetworking, MeshOutbound, Mtls, Routing, mesh_backends};
use serde_json::Value as Json;
use std::collections::HashSet;

/// [`builtin`] as users write it.
const MTLS: &str = "{enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}";
const UNKNOWN_BACKEND: &str = "has to be set to one of the backends in the mesh";

pub(super) fn decode(f: &mut Fields<'_>) -> Mesh {
    let mut mesh = Mesh::default();
    match f.get("mtls") {
        Some(cursor) if cursor.node.is_placeholder() => {
            let message = format!("`[...]` is a placeholder of the documentation; it is read as {MTLS}");
            cursor.spot.warn(message, "write it out; a mesh with a CA of its own needs that one here");
            mesh.mtls = Some(builtin());
        }
        Some(cursor) => mesh.mtls = mtls(&cursor),
        None => {}
    }
    mesh.networking = f.get("networking").and_then(|c| networking(&c)).unwrap_or_default();
    mesh.routing = f.get("routing").and_then(|c| routing(&c)).unwrap_or_default();
    if mesh.routing.zone_egress && mesh.ca().is_none() && !f.has("mtls") {
        f.spot("mtls").error_with("has to be set when zoneEgress enabled", format!("fill in: mtls: {MTLS}"));
    } else if mesh.routing.zone_egress && mesh.mtls.as_ref().is_some_and(|m| m.enabled_backend.is_empty()) {
        f.spot("mtls").error_with("has to be set when zoneEgress enabled", "set mtls.enabledBackend");
    }
    if let Some(cursor) = f.get("constraints") {
        constraints(&cursor);
        mesh.constraints = cursor.node.to_json();
    }
    mesh.mesh_services = f.get("meshServices").map(|c| mesh_services(&c));
    for (name, check) in mesh_backends::SECTIONS {
        if let Some(cursor) = f.get(name) {
            check(&cursor);
            mesh.other.insert((*name).to_owned(), cursor.node.to_json());
        }
    }
    mesh
}

/// What the documentation's `mtls: [...]` stands for.
fn builtin() -> Mtls {
    let backend = CaBackend { name: "ca-1".to_owned(), kind: "builtin".to_owned(), ..CaBackend::default() };
    Mtls { enabled_backend: backend.name.clone(), backends: vec![backend], ..Mtls::default() }
}

fn mtls(cursor: &Cursor<'_>) -> Option<Mtls> {
    let mut f = cursor.fields()?;
    let enabled_backend = f.text("enabledBackend");
    let items = f.items("backends");
    if items.len() > 1 {
        f.spot("backends").error("cannot have more than 1 backends");
    }
    let mut names = HashSet::new();
    let mut backends = Vec::new();
    for item in items {
        let Some(backend) = backend(&item) else { continue };
        if !names.insert(backend.name.clone()) {
            let message = format!("\"{}\" name is already used for another backend", backend.name);
            item.spot.member("name").error(message);
        }
        backends.push(backend);
    }
    if !enabled_backend.is_empty() && !names.contains(&enabled_backend) {
        f.spot("enabledBackend").error(UNKNOWN_BACKEND);
    }
    let skip_validation = f.flag("skipValidation");
    f.done();
    Some(Mtls { enabled_backend, backends, skip_validation })
}

fn backend(cursor: &Cursor<'_>) -> Option<CaBackend> {
    let mut f = cursor.fields()?;
    let modes = [("STRICT", 0, "STRICT"), ("PERMISSIVE", 1, "PERMISSIVE")];
    let (name, kind) = (f.text("name"), f.text("type"));
    if name.is_empty() {
        f.spot("name").error(EMPTY);
    }
    if !["builtin", "provided"].contains(&kind.as_str()) {
        f.spot("type")
            .error_with("could not find installed plugin for this type", "the types are builtin and provided");
    }
    let mode = f.get("mode").and_then(|c| c.one_of(&modes)).unwrap_or_default().to_owned();
    let certificate = f.get("dpCert");
    if let Some(c) = &certificate {
        expiration(c);
    }
    let dp_cert = certificate.map(|c| c.node.to_json());
    let root_chain = f.json("rootChain");
    let conf = f.get("conf").and_then(|c| ca_conf(&c, &kind)).unwrap_or_default();
    if kind == "provided" && !f.has("conf") {
        f.spot("conf").error_with("has to be defined", "conf: {cert: {secret: NAME}, key: {secret: NAME}}");
    }
    f.done();
    Some(CaBackend { name, kind, mode, dp_cert, root_chain, conf })
}

/// Kuma's path for it lacks the index and the capital.
fn expiration(cursor: &Cursor<'_>) {
    let text = cursor.node.get("rotation").and_then(|r| r.get("expiration")).and_then(|e| e.as_text());
    if !text.is_some_and(is_period) {
        let spot = Spot { path: "mtls.dpcert.rotation.expiration".to_owned(), ..cursor.spot.clone() };
        spot.error_with("has to be a valid format", "one number and one unit of y, w, d, h, m, s, ms: 1d");
    }
}

fn is_period(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    text == "0" || (unit.len() < text.len() && ["y", "w", "d", "h", "m", "s", "ms"].contains(&unit))
}

fn ca_conf(cursor: &Cursor<'_>, kind: &str) -> Option<CaConf> {
    let mut f = cursor.fields()?;
    let conf = CaConf {
        ca_cert: f.json("caCert"),
        cert: f.get("cert").and_then(|c| common::data_source(&c)),
        key: f.get("key").and_then(|c| common::data_source(&c)),
    };
    if kind == "provided" {
        for name in ["cert", "key"] {
            if !f.has(name) {
                f.spot(name).error("has to be defined");
            }
        }
    }
    f.done();
    Some(conf)
}

fn networking(cursor: &Cursor<'_>) -> Option<MeshNetworking> {
    let mut f = cursor.fields()?;
    let outbound = f.get("outbound").and_then(|c| {
        let mut o = c.fields()?;
        let passthrough = o.boolean("passthrough");
        o.done();
        Some(MeshOutbound { passthrough })
    });
    f.done();
    Some(MeshNetworking { outbound: outbound.unwrap_or_default() })
}

fn routing(cursor: &Cursor<'_>) -> Option<Routing> {
    let mut f = cursor.fields()?;
    let routing = Routing {
        locality_aware_load_balancing: f.flag("localityAwareLoadBalancing"),
        zone_egress: f.flag("zoneEgress"),
        default_forbid_mesh_external_service_access: f.flag("defaultForbidMeshExternalServiceAccess"),
    };
    f.done();
    Some(routing)
}

fn constraints(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    if let Some(mut proxy) = f.get("dataplaneProxy").and_then(|c| c.fields()) {
        for list in ["requirements", "restrictions"] {
            for item in proxy.items(list) {
                let Some(mut entry) = item.fields() else { continue };
                if entry.get("tags").is_none_or(|c| common::matching_tags(&c).is_empty()) {
                    entry.spot("tags").error("must have at least one tag");
                }
                entry.done();
            }
        }
        proxy.done();
    }
    f.done();
}

/// The mode as a name, whichever way it was written.
fn mesh_services(cursor: &Cursor<'_>) -> Json {
    let modes = [
        ("Disabled", 0, "Disabled"),
        ("Everywhere", 1, "Everywhere"),
        ("ReachableBackends", 2, "ReachableBackends"),
        ("Exclusive", 3, "Exclusive"),
    ];
    let Some(mut f) = cursor.fields() else { return Json::Null };
    let mode = f.get("mode").and_then(|c| c.one_of(&modes));
    f.done();
    mode.map_or_else(|| serde_json::json!({}), |mode| serde_json::json!({ "mode": mode }))
}
