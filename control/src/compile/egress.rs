//! A zone egress: other zones' services are passed through to their ingresses, external services are dialled from here,
//! for all meshes with mTLS at once.

use super::external;
use super::rows::{Reached, Rows, handler_for, proxy_row, service_row};
use super::sni::{self, service};
use super::world::{Available, MeshIndex, World, carries};
use super::{Made, endpoints, services, zone};
use crate::resource::{Tags, ZoneEgress};
use snapshot::{Origin, ProxyKind, SniTarget};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The identity of every egress, in every mesh.
pub const SERVICE_NAME: &str = "zone-egress";

pub(super) fn compile(world: &World, name: &str, spec: &ZoneEgress) -> Made {
    let mut proxy = proxy_row(world, ProxyKind::Egress, name, spec.networking.admin.as_ref());
    proxy.zone = world.zone_or_own(&spec.zone).to_owned();
    proxy.services = vec![SERVICE_NAME.to_owned()];
    let mut rows = Rows::default();
    zone::listen(world, &mut rows, &spec.networking, Origin::new("ZoneEgress", "", name));
    let mut egress = Egress { world, zone: &proxy.zone, rows };
    let is_used = world.meshes.values().any(|m| m.has_mtls() && m.spec.routing.zone_egress);
    for mesh in world.meshes.values().filter(|m| m.has_mtls()) {
        if mesh.spec.routing.zone_egress {
            egress.internal(mesh, false);
        }
        // A cross-mesh call is routed by the switch of the client's mesh.
        if is_used {
            egress.internal(mesh, true);
        }
        egress.external(mesh);
        services::at_egress(world, mesh, egress.zone, &mut egress.rows);
    }
    let rows = egress.rows;
    rows.finish(proxy)
}

struct Egress<'a> {
    world: &'a World,
    zone: &'a str,
    rows: Rows,
}

impl Egress<'_> {
    fn internal(&mut self, mesh: &MeshIndex, of_gateways: bool) {
        let origin = zone::mesh_origin(mesh);
        for (name, sets) in self.remote_sets(mesh, of_gateways) {
            if !of_gateways && mesh.external(&name).next().is_some() {
                continue;
            }
            for tags in zone::destinations((self.world, mesh), &name, &sets, of_gateways) {
                let endpoints = endpoints::remote(self.world, mesh, self.zone, &tags);
                zone::pass(&mut self.rows, &mesh.name, &tags, (endpoints, String::new()), &origin);
            }
        }
    }

    fn remote_sets(&self, mesh: &MeshIndex, of_gateways: bool) -> BTreeMap<String, Available> {
        let mut all: BTreeMap<String, Available> = BTreeMap::new();
        for ingress in self.world.ingresses.iter().filter(|i| i.zone != self.zone) {
            let Some(offer) = ingress.offers.get(&mesh.name) else { continue };
            let map = if of_gateways { &offer.gateways } else { &offer.services };
            for (name, sets) in map {
                all.entry(name.clone()).or_default().extend(sets.iter().map(|(tags, n)| (tags.clone(), *n)));
            }
        }
        all
    }

    fn external(&mut self, mesh: &MeshIndex) {
        let names: BTreeSet<&str> = mesh.external_services().map(|(_, es)| service(&es.tags)).collect();
        for name in names {
            let sets: Available = mesh.external(name).map(|(_, es)| (es.tags.clone(), 1)).collect();
            for tags in zone::destinations((self.world, mesh), name, &sets, false) {
                self.external_destination(mesh, name, &tags);
            }
        }
    }

    fn external_destination(&mut self, mesh: &MeshIndex, name: &str, tags: &Tags) {
        let here: Vec<_> =
            external::with_tags(mesh, name, tags).filter(|(_, es)| external::is_of_zone(es, self.zone)).collect();
        let Some((_, first)) = here.first() else {
            return self.external_elsewhere(mesh, name, tags);
        };
        let permission = self.rows.permit(mesh, &first.tags);
        let dialled = external::dial(self.world, mesh, self.zone, here.into_iter(), &mut self.rows.aside);
        if dialled.endpoints.is_empty() {
            return;
        }
        let mut row = service_row(sni::zone_row_name(&mesh.name, tags), &mesh.name, name);
        row.protocol = dialled.protocol;
        row.origin = dialled.origin.clone();
        let to =
            Reached { name: row.name.clone(), protocol: row.protocol, named: external::is_named(&dialled.endpoints) };
        row.tls = dialled.tls;
        row.endpoints = dialled.endpoints;
        self.rows.services.insert(row.name.clone(), Arc::new(row));
        let target = SniTarget::Terminate {
            mesh: mesh.name.clone(),
            permission,
            handler: handler_for(&to, 0),
            protocol: to.protocol,
        };
        zone::route(&mut self.rows, &mesh.name, tags, &target, &dialled.origin);
    }

    /// Bound to another zone: its ingress passes on to its egress, which terminates.
    fn external_elsewhere(&mut self, mesh: &MeshIndex, name: &str, tags: &Tags) {
        if !mesh.spec.routing.zone_egress {
            return;
        }
        let matching: Vec<_> = mesh.external(name).filter(|(_, es)| carries(&es.tags, tags)).collect();
        let Some((meta, _)) = matching.first() else { return };
        let origin = Origin::new("ExternalService", &mesh.name, &meta.name);
        let mut list = endpoints::Endpoints::default();
        for ingress in &self.world.ingresses {
            let behind = matching.iter().filter(|(_, es)| es.tags.get(sni::ZONE) == Some(&ingress.zone)).count();
            if behind > 0 && ingress.zone != self.zone {
                list.push(endpoints::of_ingress(ingress, u32::try_from(behind).unwrap_or(u32::MAX), 0));
            }
        }
        let hint = format!("ExternalService {} belongs to another zone, which has no public ZoneIngress", meta.name);
        let endpoints: Arc<_> = list.sorted();
        zone::pass(&mut self.rows, &mesh.name, tags, (endpoints, hint), &origin);
    }
}
