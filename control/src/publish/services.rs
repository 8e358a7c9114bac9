//! Names and addresses of MeshServices and their kin, beside those of tags: allocated over all meshes, a table a kind.

use super::{Loop, tables};
use crate::changed::{self, Change};
use crate::names::{self, Naming};
use crate::resource::{MeshServicesMode, Resource, ServiceKind, Spec};
use crate::settings::Cidr;
use crate::store::{self, StoreError};
use crate::vip::{self, Problem, Ranges, VipTable};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

fn concerns(resource: &Arc<Resource>) -> bool {
    matches!(
        resource.spec,
        Spec::Mesh(_)
            | Spec::MeshService(_)
            | Spec::MeshExternalService(_)
            | Spec::MeshMultiZoneService(_)
            | Spec::HostnameGenerator(_)
    )
}

/// What allocating gave, over all meshes.
#[derive(Default)]
struct Allocated {
    tables: BTreeMap<ServiceKind, VipTable>,
    unsaved: Vec<store::Change>,
    problems: Vec<String>,
    exhausted: Vec<(&'static str, Problem)>,
}

impl Loop {
    /// What they are called and where they are dialled, once it is durable. What can't be made durable isn't used: all
    /// keep what they had, and what is returned says so.
    pub(super) async fn follow_services(
        &mut self,
        changes: &[Change<'_>],
        resources: &[Arc<Resource>],
    ) -> Result<Option<String>, StoreError> {
        // An exhausted range has room again when addresses rested, with no change that tells of it.
        let is_settled = self.service_problems.is_some() && self.naming.services.is_empty();
        if is_settled && !changed::sides(changes).any(concerns) {
            return Ok(None);
        }
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        let Allocated { tables, unsaved, mut problems, exhausted } = self.allocated(&plain);
        if !unsaved.is_empty()
            && let Err(error) = self.core.store().apply(unsaved).await
        {
            self.service_problems = None;
            let told = format!(
                "error during update, MeshServices and their kin (the store doesn't take the allocated addresses: {error})"
            );
            // At the start there is nothing to keep.
            return if self.sequence == 0 { Err(error) } else { Ok(Some(told)) };
        }
        let hostnames = if tables.is_empty() { BTreeMap::new() } else { names::hostnames(&plain, &self.settings.zone) };
        for (key, found) in &hostnames {
            let of = format!("{} {}", key.kind.word(), key.name);
            let why =
                |r: &names::Refused| format!("HostnameGenerator {} gives {of} no name: {}", r.generator, r.message);
            problems.extend(found.refused.iter().map(why));
        }
        let mut services = BTreeMap::new();
        for mesh in resources.iter().filter(|r| matches!(r.spec, Spec::Mesh(_))).map(|r| r.meta.name.as_str()) {
            let named = names::service_names((mesh, mode(&plain, mesh)), &plain, &hostnames, &tables);
            services.insert(mesh.to_owned(), Arc::new(named));
        }
        self.services = services;
        self.naming = Arc::new(Naming { services: exhausted, hostnames, ..Naming::clone(&self.naming) });
        self.service_problems = Some(problems);
        Ok(None)
    }

    fn allocated(&self, resources: &[&Resource]) -> Allocated {
        let mut all = Allocated::default();
        for kind in ServiceKind::ALL {
            let keys = names::service_keys(resources, kind);
            let blob = format!("vips/{}", kind.name());
            let stored = super::read_blob::<VipTable>(&blob, tables::load(self.core.store(), &blob));
            let before = stored.unwrap_or_else(|problem| {
                all.problems.push(problem);
                None
            });
            let before = before.unwrap_or_default();
            if keys.is_empty() && before == VipTable::default() {
                continue;
            }
            let (table, trouble) = vip::allocate(&before, &keys, &self.ranges_of(kind), self.core.clock().now_ms());
            all.problems.extend(trouble.iter().map(|p| format!("{}: {p}", kind.name())));
            let exhausted = trouble.into_iter().filter(|p| matches!(p, Problem::Exhausted { .. }));
            all.exhausted.extend(exhausted.map(|p| (kind.name(), p)));
            if table != before {
                let bytes = serde_json::to_vec(&table).unwrap_or_default();
                all.unsaved.extend(tables::changes(self.core.store(), &blob, &bytes));
            }
            all.tables.insert(kind, table);
        }
        all
    }

    fn ranges_of(&self, kind: ServiceKind) -> Ranges {
        let ipam = &self.settings.ipam;
        let Cidr { network, prefix } = match kind {
            ServiceKind::MeshService => ipam.mesh_service,
            ServiceKind::MeshExternalService => ipam.external,
            ServiceKind::MeshMultiZoneService => ipam.multi_zone,
        };
        match network {
            IpAddr::V4(network) => Ranges { v4: vip::Cidr::new(network, prefix), v6: None },
            IpAddr::V6(network) => Ranges { v4: None, v6: vip::Cidr::new(network, prefix) },
        }
    }
}

fn mode(resources: &[&Resource], mesh: &str) -> MeshServicesMode {
    let of_mesh = resources.iter().find_map(|resource| match &resource.spec {
        Spec::Mesh(spec) if resource.meta.name == mesh => Some(spec.mesh_services_mode()),
        _ => None,
    });
    of_mesh.unwrap_or_default()
}
