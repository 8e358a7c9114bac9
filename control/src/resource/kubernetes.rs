//! Kubernetes form: Kuma's own resources are taken apart, the rest of Kubernetes is refused by name with what to write
//! instead.

use super::Meta;
use super::decode::{Fields, Spot};
use super::intake::Parts;
use super::registry::{KindInfo, Shape};
use super::yaml::{MapKey, Node, Value};
use std::collections::BTreeMap;

const API: &str = "kuma.io/v1alpha1";
const NAMESPACE_LABEL: &str = "k8s.kuma.io/namespace";
const SECRET_TYPE: &str = "system.kuma.io/secret";
const GLOBAL_SECRET_TYPE: &str = "system.kuma.io/global-secret";

const WORKLOAD: &str = "run the program itself, and write a Dataplane with an inbound for each of its ports, tagged \
    kuma.io/service; for a gateway of another make, a Dataplane with networking.gateway.type DELEGATED";

/// What stands here for a kind of Kubernetes'.
fn instead(kind: &str) -> &'static str {
    match kind {
        "Service" | "Endpoints" | "EndpointSlice" => {
            "write a Dataplane for each instance, with an inbound tagged kuma.io/service; further names for a service \
             come from a VirtualOutbound"
        }
        "Ingress" | "IngressClass" => {
            "write a MeshGateway with the listeners and a MeshGatewayRoute with the paths; they run on a Dataplane with \
             networking.gateway.type BUILTIN"
        }
        "Gateway" | "GatewayClass" => {
            "write a MeshGateway with the listeners, and a Dataplane with networking.gateway.type BUILTIN that serves them"
        }
        "HTTPRoute" | "TCPRoute" | "TLSRoute" | "GRPCRoute" => "write a MeshGatewayRoute with conf.http or conf.tcp",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Pod" | "Job" | "CronJob" => WORKLOAD,
        "ConfigMap" => "settings come from weir cp run --config-file and KUMA_* variables",
        "Namespace" => "there are no namespaces here: a Mesh is the boundary",
        "Secret" => "write type: Secret, mesh, name and data (base64), or mark it type: system.kuma.io/secret",
        "ServiceAccount" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
            "identity comes from tokens: weir generate dataplane-token"
        }
        _ => "only Kuma's resources are kept here, those with apiVersion: kuma.io/v1alpha1 or a type",
    }
}

/// Refuses what isn't Kuma's; says whether it did.
pub(super) fn refused(root: &Node, spot: &Spot<'_>) -> bool {
    let text = |name: &str| root.get(name).and_then(Node::as_text).unwrap_or_default();
    let (api, kind) = (text("apiVersion"), text("kind"));
    if api == API || (kind == "Secret" && [SECRET_TYPE, GLOBAL_SECRET_TYPE].contains(&text("type"))) {
        return false;
    }
    if api.starts_with("kuma.io/") || (api.is_empty() && super::registry::kind(kind).is_some() && kind != "Secret") {
        spot.member("apiVersion").error_with(format!("has to be {API}, found \"{api}\""), format!("apiVersion: {API}"));
    } else {
        let named = if kind.is_empty() { "this object" } else { kind };
        spot.error_with(format!("{named} is an object of Kubernetes, which doesn't run here"), instead(kind));
    }
    true
}

/// Kuma's secrets are Kubernetes' own, marked by their type.
pub(super) fn secret_kind(root: &Node) -> &'static str {
    match root.get("type").and_then(Node::as_text) {
        Some(GLOBAL_SECRET_TYPE) => "GlobalSecret",
        _ => "Secret",
    }
}

pub(super) fn parts<'a>(root: &'a Node, kind: &KindInfo, mut f: Fields<'a>) -> Parts<'a> {
    let mut mesh = f.get("mesh");
    let metadata = f.get("metadata");
    if metadata.is_none() {
        f.spot("metadata").error_with("has to be defined", "metadata: {name: NAME}");
    }
    let mut name = None;
    let mut labels = BTreeMap::new();
    let mut name_spot = f.spot("metadata").member("name");
    if let Some(mut m) = metadata.and_then(|c| c.fields()) {
        name = m.get("name");
        name_spot = m.spot("name");
        if let Some(cursor) = m.get("labels") {
            let entry = cursor.entries().into_iter().find(|(key, _)| *key == "kuma.io/mesh");
            mesh = mesh.or(entry.map(|(_, value)| value));
            labels = cursor.tags();
        }
        let namespace = m.text("namespace");
        if !namespace.is_empty() && kind.is_mesh_scoped() {
            labels.entry(NAMESPACE_LABEL.to_owned()).or_insert(namespace);
        }
    }
    let spec = match kind.kind {
        "Secret" | "GlobalSecret" => secret_fields(root, &f),
        _ => match f.get("spec") {
            Some(cursor) => cursor.fields(),
            None => None,
        },
    };
    f.also_known(&["apiVersion", "kind", "status", "type", "data", "spec"]);
    let mut spec = spec.unwrap_or_else(|| Fields::new(Vec::new(), f.spot.clone()));
    // Paths are those of the universal form, as Kuma's validators have them.
    spec.spot.path.clear();
    if kind.shape == Shape::Spec {
        spec.spot.path.push_str("spec");
    }
    f.done();
    Parts { mesh, name, name_spot, labels, spec, universal: false }
}

/// `data: {value: …}` of Kubernetes is `data: …` here.
fn secret_fields<'a>(root: &'a Node, f: &Fields<'a>) -> Option<Fields<'a>> {
    let Value::Map(entries) = &root.get("data")?.value else { return None };
    let values: Vec<&(MapKey, Node)> = entries.iter().filter(|(key, _)| key.text == "value").collect();
    Some(Fields::new(values, f.spot.clone()).renamed("value", "data"))
}

/// What to run for a MeshGatewayInstance, which asks Kubernetes to run it.
pub(super) fn gateway_instance(root: &Node, meta: &Meta, spot: &Spot<'_>) {
    let tag =
        root.get("spec").and_then(|s| s.get("tags")).and_then(|t| t.get("kuma.io/service")).and_then(Node::as_text);
    let namespace = meta.labels.get(NAMESPACE_LABEL).map_or("default", String::as_str);
    let service = tag.map_or_else(|| format!("{}_{namespace}_svc", meta.name), str::to_owned);
    let (mesh, name) = (&meta.mesh, &meta.name);
    spot.warn(
        "a MeshGatewayInstance is stored and starts nothing here: each instance is a process that you start",
        format!(
            "weir dp run --cp-address=https://localhost:5678 --dns-enabled=false --dataplane-token-file=TOKEN \
             --dataplane-file={name}-1.yaml, and {name}-1.yaml holds {{type: Dataplane, mesh: {mesh}, name: {name}-1, \
             networking: {{address: ADDRESS, gateway: {{type: BUILTIN, tags: {{kuma.io/service: {service}}}}}}}}}"
        ),
    );
}
