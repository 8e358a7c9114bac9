//! Short ways to write resources down.

use super::super::{Settings, World};
use crate::names::{MeshNames, ServiceNames};
use crate::resource::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn tags(text: &str) -> Tags {
    let pair = |p: &str| p.split_once('=').map(|(k, v)| (long(k), v.to_owned())).unwrap();
    text.split(',').filter(|p| !p.is_empty()).map(pair).collect()
}

fn long(key: &str) -> String {
    match key {
        "service" | "zone" | "protocol" | "mesh" => format!("kuma.io/{key}"),
        _ => key.to_owned(),
    }
}

pub(super) fn resource(mesh: &str, name: &str, spec: Spec) -> Resource {
    Resource { meta: Meta { mesh: mesh.into(), name: name.into(), ..Meta::default() }, spec }
}

/// Words: `mtls`, `permissive`, `egress`, `locality`.
pub(super) fn mesh(name: &str, words: &str) -> Resource {
    let has = |word: &str| words.split(' ').any(|w| w == word);
    let mut mesh = Mesh::default();
    if has("mtls") || has("permissive") {
        let mode = if has("permissive") { "PERMISSIVE".into() } else { String::new() };
        let ca = CaBackend { name: "ca-1".into(), kind: "builtin".into(), mode, ..CaBackend::default() };
        mesh.mtls = Some(Mtls { enabled_backend: "ca-1".into(), backends: vec![ca], skip_validation: false });
    }
    mesh.routing.zone_egress = has("egress");
    mesh.routing.locality_aware_load_balancing = has("locality");
    resource("", name, Spec::Mesh(mesh))
}

pub(super) fn inbound(port: u16, text: &str) -> Inbound {
    Inbound { port, tags: tags(text), ..Inbound::default() }
}

pub(super) fn dataplane(mesh: &str, name: &str, address: &str, inbounds: Vec<Inbound>) -> Resource {
    let networking = Networking { address: address.into(), inbound: inbounds, ..Networking::default() };
    resource(mesh, name, Spec::Dataplane(Dataplane { networking, ..Dataplane::default() }))
}

/// A Dataplane with one inbound.
pub(super) fn app(name: &str, address: &str, text: &str) -> Resource {
    dataplane("default", name, address, vec![inbound(8080, text)])
}

pub(super) fn outbound(port: u16, text: &str) -> Outbound {
    Outbound { port, tags: tags(text), ..Outbound::default() }
}

pub(super) fn change(mut resource: Resource, with: impl FnOnce(&mut Dataplane)) -> Resource {
    if let Spec::Dataplane(dataplane) = &mut resource.spec {
        with(dataplane);
    }
    resource
}

pub(super) fn ingress(name: &str, zone: &str, advertised: &str) -> Resource {
    let mut networking = ZoneNetworking { address: "10.9.9.9".into(), port: 10001, ..ZoneNetworking::default() };
    if let Some((address, port)) = advertised.split_once(':') {
        networking.advertised_address = address.into();
        networking.advertised_port = Some(port.parse().unwrap());
    }
    let spec = ZoneIngress { zone: zone.into(), networking, available_services: Vec::new() };
    resource("", name, Spec::ZoneIngress(spec))
}

pub(super) fn offering(mut ingress: Resource, mesh: &str, text: &str, instances: u32) -> Resource {
    if let Spec::ZoneIngress(spec) = &mut ingress.spec {
        let service = AvailableService { tags: tags(text), instances, mesh: mesh.into(), external_service: false };
        spec.available_services.push(service);
    }
    ingress
}

pub(super) fn egress(name: &str, zone: &str, address: &str) -> Resource {
    let networking = ZoneNetworking { address: address.into(), port: 10002, ..ZoneNetworking::default() };
    resource("", name, Spec::ZoneEgress(ZoneEgress { zone: zone.into(), networking }))
}

pub(super) fn external(name: &str, address: &str, text: &str) -> Resource {
    let networking = ExternalNetworking { address: address.into(), ..ExternalNetworking::default() };
    resource("default", name, Spec::ExternalService(ExternalService { tags: tags(text), networking }))
}

pub(super) fn permission(name: &str, from: &str, to: &str) -> Resource {
    let spec = TrafficPermission { sources: vec![tags(from)], destinations: vec![tags(to)] };
    resource("default", name, Spec::TrafficPermission(spec))
}

pub(super) fn settings(zone: &str) -> Settings {
    Settings { domain: "mesh".into(), dns_ttl_s: 60, zone: zone.into(), has_ipv6: true, ..Settings::default() }
}

pub(super) fn world(zone: &str, resources: Vec<Resource>) -> World {
    named_world(zone, resources, BTreeMap::new())
}

pub(super) fn served_world(zone: &str, resources: Vec<Resource>, services: ServiceNames) -> World {
    let services = BTreeMap::from([("default".to_owned(), Arc::new(services))]);
    let settings = Settings { services, ..settings(zone) };
    World::new(resources.into_iter().map(Arc::new).collect(), settings, BTreeMap::new())
}

pub(super) fn named_world(zone: &str, resources: Vec<Resource>, names: BTreeMap<String, MeshNames>) -> World {
    World::new(resources.into_iter().map(Arc::new).collect(), settings(zone), names)
}
