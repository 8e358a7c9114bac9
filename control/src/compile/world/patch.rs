//! A world made from the one before: only what changed is looked at. Whatever isn't understood here makes a world from
//! nothing, so that a forgotten dependence costs time and never truth.

use super::{Instance, MeshIndex, Service, Services, Settings, World, service};
use crate::changed::{self, Change};
use crate::compile::Problem;
use crate::names::MeshNames;
use crate::resource::{Dataplane, GatewayType, Resource, Spec};
use crate::sorted::of_kind_and_mesh;
use snapshot::Origin;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// Of one mesh.
#[derive(Default)]
struct Touched<'a> {
    /// Dataplanes that are there (now), or not any more.
    dataplanes: BTreeMap<&'a str, Option<&'a Dataplane>>,
    /// Services whose endpoints may be others now.
    services: BTreeSet<Arc<str>>,
    has_externals: bool,
    has_secrets: bool,
    /// MeshServices and their kin.
    has_backends: bool,
}

/// The world after `previous`; None when it has to be made from nothing.
pub(super) fn patched(
    previous: &World,
    resources: &Arc<Vec<Arc<Resource>>>,
    settings: &Settings,
    names: &BTreeMap<String, Arc<MeshNames>>,
) -> Option<World> {
    let withdrawn = rejoined(previous, resources, settings)?;
    let mut changes = changed::between(&previous.resources, resources);
    changes.extend(withdrawn.into_iter().map(|r| (Some(r), Some(r))));
    let touched = touched(previous, &changes)?;
    let mut world = World {
        settings: settings.clone(),
        meshes: BTreeMap::new(),
        ingresses: previous.ingresses.clone(),
        egresses: previous.egresses.clone(),
        resources: resources.clone(),
        zone_proxies: previous.zone_proxies.clone(),
        problems: previous.problems.clone(),
        asked: OnceLock::new(),
    };
    let nothing = Touched::default();
    for (mesh, before) in &previous.meshes {
        let touched = touched.get(mesh.as_str()).unwrap_or(&nothing);
        let names = names.get(mesh).cloned().unwrap_or_default();
        let has_same_addresses = match (settings.services.get(mesh), previous.settings.services.get(mesh)) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before) || now == before,
            (now, before) => now.is_none() && before.is_none(),
        };
        let is_same = touched.services.is_empty()
            && !touched.has_backends
            && Arc::ptr_eq(&names, &before.names)
            && has_same_addresses;
        let index = MeshIndex {
            name: mesh.clone(),
            spec: before.spec.clone(),
            names,
            instances: world.instances_after(before, touched),
            gateway_instances: before.gateway_instances.clone(),
            sidecars: before.sidecars.after((!is_same).then_some(&touched.services)),
            gateways: if touched.has_secrets {
                before.gateways.outdated()
            } else {
                before.gateways.after(&touched.services)
            },
            resources: resources.clone(),
            external: if touched.has_externals { externals(resources, mesh) } else { before.external.clone() },
        };
        world.meshes.insert(mesh.clone(), index);
    }
    Some(world)
}

/// Dataplanes that were withdrawn or are back since. None when anything else of the settings differs, or when it is a
/// zone proxy.
fn rejoined<'a>(
    previous: &World,
    resources: &'a [Arc<Resource>],
    settings: &Settings,
) -> Option<Vec<&'a Arc<Resource>>> {
    let before = &previous.settings;
    let Settings {
        domain,
        dns_ttl_s,
        zone,
        has_ipv6,
        vip_ranges,
        resolved,
        files,
        withdrawn,
        aaaa,
        dns_upstreams,
        probing,
        services: _,
    } = settings;
    let is_same = *domain == before.domain
        && *dns_ttl_s == before.dns_ttl_s
        && *zone == before.zone
        && *has_ipv6 == before.has_ipv6
        && *vip_ranges == before.vip_ranges
        && *resolved == before.resolved
        && *aaaa == before.aaaa
        && *dns_upstreams == before.dns_upstreams
        && *probing == before.probing
        && *files == before.files;
    let mut found = Vec::new();
    for origin in withdrawn.symmetric_difference(&before.withdrawn) {
        let at = resources.binary_search_by(|r| r.order().cmp(&(&*origin.kind, &*origin.mesh, &*origin.name)));
        match at.ok().and_then(|at| resources.get(at)) {
            Some(resource) if matches!(resource.spec, Spec::Dataplane(_)) => found.push(resource),
            // One that is gone is a change of its own.
            None if origin.kind == "Dataplane" => {}
            _ => return None,
        }
    }
    is_same.then_some(found)
}

fn touched<'a>(previous: &World, changes: &'a [Change<'a>]) -> Option<BTreeMap<&'a str, Touched<'a>>> {
    // What a zone offers depends on every instance in it.
    if !changes.is_empty() && !previous.ingresses.is_empty() {
        return None;
    }
    let mut all: BTreeMap<&str, Touched<'_>> = BTreeMap::new();
    for change in changes {
        for (resource, is_now) in change.0.map(|r| (r, false)).into_iter().chain(change.1.map(|r| (r, true))) {
            let (meta, mesh) = (&resource.meta, resource.meta.mesh.as_str());
            if matches!(
                resource.spec,
                Spec::GlobalSecret(_) | Spec::Zone(_) | Spec::HostnameGenerator(_) | Spec::Opaque(_)
            ) {
                continue;
            }
            // A mesh that isn't defined is there as long as something is in it.
            let index = previous.meshes.get(mesh)?;
            index.named_mesh(&previous.resources)?;
            let touched = all.entry(mesh).or_default();
            match &resource.spec {
                Spec::Dataplane(dataplane) => {
                    if dataplane.gateway_type() == Some(GatewayType::Builtin) && has_crossing(index) {
                        return None;
                    }
                    touched.services.extend(dataplane.networking.inbound.iter().map(|i| service(&i.tags).into()));
                    touched.dataplanes.insert(&meta.name, is_now.then_some(dataplane));
                }
                Spec::ExternalService(es) => {
                    touched.services.insert(service(&es.tags).into());
                    touched.has_externals = true;
                }
                Spec::Secret(_) => touched.has_secrets = true,
                Spec::MeshService(_) | Spec::MeshExternalService(_) | Spec::MeshMultiZoneService(_) => {
                    touched.has_backends = true;
                }
                // Read anew by each compilation, or known from the names.
                Spec::MeshGatewayRoute(_)
                | Spec::TrafficPermission(_)
                | Spec::MeshPassthrough(_)
                | Spec::VirtualOutbound(_) => {}
                Spec::Mesh(_) | Spec::ZoneEgress(_) | Spec::ZoneIngress(_) | Spec::MeshGateway(_) => return None,
                Spec::GlobalSecret(_) | Spec::Zone(_) | Spec::HostnameGenerator(_) | Spec::Opaque(_) => {}
            }
        }
    }
    Some(all)
}

fn has_crossing(index: &MeshIndex) -> bool {
    index.gateways().any(|(_, gateway)| gateway.listeners.iter().any(|l| l.cross_mesh))
}

impl MeshIndex {
    fn named_mesh(&self, resources: &[Arc<Resource>]) -> Option<()> {
        let meshes = of_kind_and_mesh(resources, "Mesh", "");
        meshes.binary_search_by(|r| r.meta.name.as_str().cmp(&self.name)).ok().map(drop)
    }
}

fn externals(resources: &[Arc<Resource>], mesh: &str) -> Arc<BTreeMap<String, Vec<Arc<Resource>>>> {
    let mut external: BTreeMap<String, Vec<Arc<Resource>>> = BTreeMap::new();
    for resource in of_kind_and_mesh(resources, "ExternalService", mesh) {
        if let Spec::ExternalService(es) = &resource.spec {
            external.entry(service(&es.tags).to_owned()).or_default().push(resource.clone());
        }
    }
    Arc::new(external)
}

impl World {
    fn instances_after(&mut self, before: &MeshIndex, touched: &Touched<'_>) -> Arc<Services> {
        if touched.dataplanes.is_empty() {
            return before.instances.clone();
        }
        let origin = |name: &str| Origin::new("Dataplane", &before.name, name);
        let mut made: Vec<Instance> = Vec::new();
        for (name, dataplane) in &touched.dataplanes {
            let origin = origin(name);
            self.problems.retain(|problem| problem.origin != origin);
            match dataplane.map_or(Ok(Vec::new()), |d| self.instances_of(d, &origin)) {
                Ok(list) => made.extend(list),
                Err(text) => drop(self.problems.insert(Problem::new(origin, text))),
            }
        }
        let mut services = Services::clone(&before.instances);
        for name in &touched.services {
            let held = services.get(name).map_or(&[][..], |s| s.instances.as_slice());
            let kept = held.iter().filter(|i| !touched.dataplanes.contains_key(i.origin.name.as_str())).cloned();
            let new = made.iter().filter(|i| service(&i.tags) == &**name).cloned();
            let mut list: Vec<Instance> = kept.chain(new).collect();
            // By Dataplane; its inbounds are in their order already.
            list.sort_by(|a, b| a.origin.name.cmp(&b.origin.name));
            match list.is_empty() {
                true => services.remove(name),
                false => services.insert(name.clone(), Service::new(list)),
            }
        }
        Arc::new(services)
    }
}
