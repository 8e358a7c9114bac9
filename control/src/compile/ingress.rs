//! A zone ingress: what other zones send for services of this zone is passed on to the workloads here, and what they
//! send for an external service of this zone to the egress here. Never to another zone, so there are no loops.

use super::rows::{Rows, proxy_row};
use super::sni::{ZONE, service};
use super::world::{Available, MeshIndex, World};
use super::{Made, endpoints, services, zone};
use crate::resource::ZoneIngress;
use snapshot::{Origin, ProxyKind};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn compile(world: &World, name: &str, spec: &ZoneIngress) -> Made {
    let mut proxy = proxy_row(world, ProxyKind::Ingress, name, spec.networking.admin.as_ref());
    proxy.zone = world.zone_or_own(&spec.zone).to_owned();
    let mut rows = Rows::default();
    zone::listen(world, &mut rows, &spec.networking, Origin::new("ZoneIngress", "", name));
    for mesh in world.meshes.values().filter(|m| m.has_mtls()) {
        if mesh.spec.routing.zone_egress {
            external(world, mesh, &proxy.zone, &mut rows);
        }
        internal((world, mesh), &proxy.zone, &mut rows, false);
        internal((world, mesh), &proxy.zone, &mut rows, true);
        services::at_ingress(world, mesh, &proxy.zone, &mut rows);
    }
    rows.finish(proxy)
}

fn internal((world, mesh): (&World, &MeshIndex), own_zone: &str, rows: &mut Rows, of_gateways: bool) {
    let origin = zone::mesh_origin(mesh);
    let map = if of_gateways { &mesh.gateway_instances } else { &mesh.instances };
    for (name, group) in map.iter() {
        let sets: Available =
            group.instances.iter().filter(|i| i.zone == own_zone).map(|i| (i.tags.clone(), 1)).collect();
        if sets.is_empty() || (!of_gateways && mesh.external(name).next().is_some()) {
            continue;
        }
        for tags in zone::destinations((world, mesh), name, &sets, of_gateways) {
            let hint = format!("no inbound of {name} in mesh {} is ready in this zone", mesh.name);
            let endpoints = endpoints::local(mesh, own_zone, &tags);
            zone::pass(rows, &mesh.name, &tags, (endpoints, hint), &origin);
        }
    }
}

fn external(world: &World, mesh: &MeshIndex, own_zone: &str, rows: &mut Rows) {
    let here: Vec<_> =
        mesh.external_services().filter(|(_, es)| es.tags.get(ZONE).is_some_and(|z| z == own_zone)).collect();
    let names: BTreeSet<&str> = here.iter().map(|(_, es)| service(&es.tags)).collect();
    for name in names {
        let of_name = here.iter().filter(|(_, es)| service(&es.tags) == name);
        let sets: Available = of_name.clone().map(|(_, es)| (es.tags.clone(), 1)).collect();
        let Some((meta, _)) = of_name.clone().next() else { continue };
        let origin = Origin::new("ExternalService", &mesh.name, &meta.name);
        for tags in zone::destinations((world, mesh), name, &sets, false) {
            let hint = endpoints::no_egress(&mesh.name, own_zone);
            let endpoints = Arc::new(endpoints::egresses(world, own_zone, 1, 0));
            zone::pass(rows, &mesh.name, &tags, (endpoints, hint), &origin);
        }
    }
}
