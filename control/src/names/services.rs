//! Names and addresses of MeshService, MeshExternalService and MeshMultiZoneService (spec/naming.md §6): which hostname
//! a HostnameGenerator gives to which of them, and what sidecars dial. Pure; it must not know endpoints.

use super::servable;
use crate::resource::{MeshServicesMode, Resource, ServiceKind, Spec, Tags};
use crate::template::HostnameTemplate;
use crate::vip::{EntryKind, Key, Vip, VipTable};
use snapshot::{NameRow, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

const ORIGIN_LABEL: &str = "kuma.io/origin";
pub const ZONE_LABEL: &str = "kuma.io/zone";
const DISPLAY_NAME_LABEL: &str = "kuma.io/display-name";
pub(crate) const NAMESPACE_LABEL: &str = "k8s.kuma.io/namespace";

/// A port of a service of these kinds, at its VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceOutbound {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub port: u16,
    pub kind: ServiceKind,
    /// Of the resource, in the mesh that has the outbound.
    pub name: String,
}

/// MeshServices and their kin of one mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceNames {
    /// Sorted by name, each once. One that a tag's name equals takes its place.
    pub names: Vec<NameRow>,
    /// Sorted by address and port.
    pub outbounds: Vec<ServiceOutbound>,
}

/// What generators made of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hostnames {
    /// With the name of the generator.
    pub given: Vec<(String, String)>,
    pub refused: Vec<Refused>,
}

/// Why a generator gives a service no hostname.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub generator: String,
    /// `Collision` or `TemplateError`
    pub reason: &'static str,
    pub message: String,
}

/// Of a resource as Kuma's control plane would have labelled it; what is written wins.
pub fn labels(resource: &Resource, own_zone: &str) -> Tags {
    let meta = &resource.meta;
    let mut labels = meta.labels.clone();
    let foreign = labels.get(ZONE_LABEL).is_some_and(|zone| zone != own_zone && !own_zone.is_empty());
    // Of all zones, as of a global control plane; so is what another zone has.
    let is_global = foreign || matches!(resource.spec, Spec::MeshMultiZoneService(_));
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    };
    add("kuma.io/mesh", &meta.mesh);
    add(DISPLAY_NAME_LABEL, &meta.name);
    add("kuma.io/env", "universal");
    add(ORIGIN_LABEL, if is_global { "global" } else { "zone" });
    if !is_global {
        add(ZONE_LABEL, own_zone);
    }
    labels
}

/// The kind of a resource that has a VIP of its own.
fn kind_of(spec: &Spec) -> Option<ServiceKind> {
    match spec {
        Spec::MeshService(_) => Some(ServiceKind::MeshService),
        Spec::MeshExternalService(_) => Some(ServiceKind::MeshExternalService),
        Spec::MeshMultiZoneService(_) => Some(ServiceKind::MeshMultiZoneService),
        _ => None,
    }
}

fn entry_kind(kind: ServiceKind) -> EntryKind {
    match kind {
        ServiceKind::MeshService => EntryKind::MeshService,
        ServiceKind::MeshExternalService => EntryKind::MeshExternalService,
        ServiceKind::MeshMultiZoneService => EntryKind::MeshMultiZoneService,
    }
}

/// What has an address: one space a kind, across all meshes.
pub fn service_key(kind: ServiceKind, mesh: &str, name: &str) -> Key {
    Key::new(entry_kind(kind), format!("{mesh}/{name}"))
}

pub fn service_keys(resources: &[&Resource], kind: ServiceKind) -> BTreeSet<Key> {
    let of_kind = resources.iter().filter(|resource| kind_of(&resource.spec) == Some(kind));
    of_kind.map(|resource| service_key(kind, &resource.meta.mesh, &resource.meta.name)).collect()
}

/// Hostnames of every service of every mesh. The order of resources is no matter: generators of the zone come before
/// global ones, older before newer; so do the services that want the same name, over the kinds of a mesh.
pub fn hostnames(resources: &[&Resource], own_zone: &str) -> BTreeMap<Key, Hostnames> {
    let mut generators = Vec::new();
    for resource in resources {
        if let Spec::HostnameGenerator(generator) = &resource.spec {
            let is_global = resource.meta.labels.get(ORIGIN_LABEL).is_some_and(|origin| origin == "global");
            let template = HostnameTemplate::new(&generator.template);
            generators.push(((is_global, resource.meta.created_ms, &resource.meta.name), generator, template));
        }
    }
    generators.sort_by(|a, b| a.0.cmp(&b.0));
    let mut services: Vec<_> = resources.iter().filter_map(|r| kind_of(&r.spec).map(|kind| (kind, *r))).collect();
    services.sort_by_key(|(kind, r)| (&r.meta.mesh, *kind, r.meta.created_ms, &r.meta.name));
    let services: Vec<_> = services.into_iter().map(|(kind, r)| (kind, r, labels(r, own_zone))).collect();
    let mut taken: BTreeMap<(&str, String), String> = BTreeMap::new();
    let mut all: BTreeMap<Key, Hostnames> = BTreeMap::new();
    for ((_, _, by), generator, template) in &mut generators {
        for (kind, service, labels) in &services {
            if !generator.selector.of(*kind).is_some_and(|selector| selector.matches(labels)) {
                continue;
            }
            let meta = &service.meta;
            let found = all.entry(service_key(*kind, &meta.mesh, &meta.name)).or_default();
            let refused = |reason, message| Refused { generator: by.to_string(), reason, message };
            let made = match template {
                Ok(template) => template.host(&data(service, labels), labels),
                Err(error) => Err(error.clone()),
            };
            let host = match made.and_then(|host| servable(&host)) {
                Ok(host) => host,
                Err(error) => {
                    found.refused.push(refused("TemplateError", error));
                    continue;
                }
            };
            let own = format!("{}: {}", kind.name(), meta.name);
            match taken.entry((meta.mesh.as_str(), host.clone())).or_insert_with(|| own.clone()) {
                holder if *holder == own => {
                    if !found.given.iter().any(|(given, _)| *given == host) {
                        found.given.push((host, by.to_string()));
                    }
                }
                holder => {
                    let message = format!("Hostname collision with {holder}");
                    found.refused.push(refused("Collision", message));
                }
            }
        }
    }
    all
}

fn data(service: &Resource, labels: &Tags) -> BTreeMap<String, String> {
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    [
        ("Name", service.meta.name.clone()),
        ("DisplayName", label(DISPLAY_NAME_LABEL)),
        ("Namespace", label(NAMESPACE_LABEL)),
        ("Mesh", service.meta.mesh.clone()),
        ("Zone", label(ZONE_LABEL)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Ports that a service is dialled on.
fn ports(spec: &Spec) -> Vec<u16> {
    match spec {
        Spec::MeshService(service) => service.ports.iter().map(|port| port.port).collect(),
        Spec::MeshMultiZoneService(service) => service.ports.iter().map(|port| port.port).collect(),
        Spec::MeshExternalService(service) => vec![service.r#match.port],
        _ => Vec::new(),
    }
}

/// What the services of a mesh are called, and where they are dialled. One without an address gives nothing.
pub fn service_names(
    (mesh, mode): (&str, MeshServicesMode),
    resources: &[&Resource],
    hostnames: &BTreeMap<Key, Hostnames>,
    vips: &BTreeMap<ServiceKind, VipTable>,
) -> ServiceNames {
    let mut out = ServiceNames::default();
    for resource in resources.iter().filter(|resource| resource.meta.mesh == mesh) {
        let Some(kind) = kind_of(&resource.spec) else { continue };
        if kind == ServiceKind::MeshService && mode == MeshServicesMode::Disabled {
            continue;
        }
        let name = &resource.meta.name;
        let key = service_key(kind, mesh, name);
        let vip = vips.get(&kind).and_then(|table| table.entries.get(&key)).filter(|vip| !vip.is_empty());
        let Some(Vip { v4, v6 }) = vip.copied() else { continue };
        let one = |port| ServiceOutbound { v4, v6, port, kind, name: name.clone() };
        out.outbounds.extend(ports(&resource.spec).into_iter().map(one));
        for (host, _) in hostnames.get(&key).iter().flat_map(|found| &found.given) {
            let origin = Origin::new(kind.name(), mesh, name);
            out.names.push(NameRow { name: host.clone(), v4, v6, origin });
        }
    }
    out.outbounds.sort_by_key(|outbound| (outbound.v4, outbound.v6, outbound.port));
    out.names.sort();
    out
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
