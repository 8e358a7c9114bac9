//! What zone ingress and egress share: one listener, and rows by SNI in both spellings. It doesn't know which services
//! they are for.

use super::rows::{Rows, service_row};
use super::sni::{self, MESH, service};
use super::world::{Available, MeshIndex, World, carries, plain};
use crate::resource::{Tags, ZoneNetworking};
use snapshot::{Endpoint, ListenerRow, Origin, Role, SniRow, SniTarget};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The plain service, and the subsets that clients ask for and that exist among `sets`.
pub(super) fn destinations(
    (world, mesh): (&World, &MeshIndex),
    service_name: &str,
    sets: &Available,
    of_gateways: bool,
) -> Vec<Tags> {
    let mut first = plain(service_name);
    if of_gateways {
        first.insert(MESH.into(), mesh.name.clone());
    }
    let asked = world.asked(&mesh.name, service_name);
    let existing = asked.filter(|tags| {
        **tags != first && tags.contains_key(MESH) == of_gateways && sets.keys().any(|have| carries(have, tags))
    });
    let further: Vec<Tags> = existing.cloned().collect();
    std::iter::once(first).chain(further).collect()
}

pub(super) fn listen(world: &World, rows: &mut Rows, networking: &ZoneNetworking, origin: Origin) {
    let ip = match networking.address.is_empty() {
        true => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        false => world.ip(&networking.address),
    };
    match ip {
        Some(ip) => {
            rows.listen(ListenerRow { address: SocketAddr::new(ip, networking.port), role: Role::Zone, origin });
        }
        None => {
            let text =
                format!("address {} doesn't resolve: nothing listens until it does, or is an IP", networking.address);
            rows.note(origin, text);
        }
    }
}

/// Bytes for `tags` go on untouched to `endpoints`.
pub(super) fn pass(
    rows: &mut Rows,
    mesh: &str,
    tags: &Tags,
    (endpoints, hint): (Arc<Vec<Endpoint>>, String),
    origin: &Origin,
) {
    let name = sni::zone_row_name(mesh, tags);
    let mut row = service_row(name.clone(), mesh, service(tags));
    row.hint = if endpoints.is_empty() { hint } else { String::new() };
    row.endpoints = endpoints;
    row.origin = origin.clone();
    rows.services.entry(name.clone()).or_insert_with(|| Arc::new(row));
    route(rows, mesh, tags, &SniTarget::Passthrough { service: name }, origin);
}

/// The first that takes an SNI keeps it.
pub(super) fn route(rows: &mut Rows, mesh: &str, tags: &Tags, target: &SniTarget, origin: &Origin) {
    for sni in [sni::of_tags(mesh, tags), sni::legacy(mesh, tags)] {
        let row = SniRow { sni: sni.clone(), target: target.clone(), origin: origin.clone() };
        rows.snis.entry(sni).or_insert(row);
    }
}

pub(super) fn mesh_origin(mesh: &MeshIndex) -> Origin {
    Origin::new("Mesh", "", &mesh.name)
}
