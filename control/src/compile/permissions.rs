//! TrafficPermission: which one applies to an inbound or an external service, and what it admits.
//! Not additive: the one with the best destination rules alone.

use super::sni::SERVICE;
use super::world::{MeshIndex, World, selects};
use crate::resource::{Dataplane, Matcher, Meta, Tags, TrafficPermission};
use crate::select::{Precedence, selector_rank};
use snapshot::{Access, Origin, PermissionRow, Principal, spiffe_id};

/// The permission whose destinations match `tags` best.
pub(super) fn pick<'a>(mesh: &'a MeshIndex, tags: &Tags) -> Option<(&'a Meta, &'a TrafficPermission)> {
    let ranked = mesh.permissions().filter_map(|(meta, permission)| {
        selector_rank(&permission.destinations, tags).map(|rank| (Precedence::new(rank, meta), meta, permission))
    });
    ranked.max_by_key(|(precedence, ..)| *precedence).map(|(_, meta, permission)| (meta, permission))
}

/// The row for `tags`: what the chosen permission says, or that nobody may.
pub(super) fn row(mesh: &MeshIndex, tags: &Tags) -> PermissionRow {
    if !mesh.has_mtls() {
        return open();
    }
    match pick(mesh, tags) {
        None => PermissionRow { name: "deny".into(), access: Access::Deny, origin: Origin::new("default", "", "") },
        Some((meta, permission)) => PermissionRow {
            name: format!("{}/{}", mesh.name, meta.name),
            access: Access::AnyOf(principals(&mesh.name, permission)),
            origin: Origin::new("TrafficPermission", &mesh.name, &meta.name),
        },
    }
}

/// Whether `permission` admits a client, decided on the client's side.
pub(super) fn admits(world: &World, permission: &TrafficPermission, client: &Dataplane) -> bool {
    client.tag_sets().any(|tags| selects(&permission.sources, &world.with_zone(tags)))
}

/// Everybody: there is no identity to ask for.
fn open() -> PermissionRow {
    PermissionRow {
        name: "any".into(),
        access: Access::AnyOf(vec![Principal::default()]),
        origin: Origin::new("default", "", ""),
    }
}

fn principals(mesh: &str, permission: &TrafficPermission) -> Vec<Principal> {
    let mut list: Vec<Principal> = permission.sources.iter().map(|source| principal(mesh, source)).collect();
    list.sort();
    list.dedup();
    list
}

/// A `*` asks for nothing, not even that the tag is there.
fn principal(mesh: &str, source: &Matcher) -> Principal {
    let exact = source.iter().filter(|(_, v)| *v != "*");
    let uri = |(k, v): (&String, &String)| if k == SERVICE { spiffe_id(mesh, v) } else { format!("kuma://{k}/{v}") };
    Principal { uris: exact.map(uri).collect() }
}
