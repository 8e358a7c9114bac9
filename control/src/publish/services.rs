//! Names and addresses of MeshServices and their kin, beside those of tags: allocated over all meshes, a table a kind.

use super::{Loop, tables};
use crate::changed::{self, Change};
use crate::names::{self, Naming};
use crate::resource::{MeshServicesMode, Resource, ServiceKind, Spec};
use crate::settings::Cidr;
use crate::store::StoreError;
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

impl Loop {
    /// What they are called and where they are dialled, once it is durable.
    pub(super) async fn follow_services(
        &mut self,
        changes: &[Change<'_>],
        resources: &[Arc<Resource>],
    ) -> Result<(), StoreError> {
        if self.service_problems.is_some() && !changed::sides(changes).any(concerns) {
            return Ok(());
        }
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        let (mut unsaved, mut given, mut problems) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut exhausted = Vec::new();
        for kind in ServiceKind::ALL {
            let keys = names::service_keys(&plain, kind);
            let blob = format!("vips/{}", kind.name());
            let stored = tables::load(self.core.store(), &blob);
            let before: VipTable = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
            if keys.is_empty() && before == VipTable::default() {
                continue;
            }
            let (table, trouble) = vip::allocate(&before, &keys, &self.ranges_of(kind), self.core.clock().now_ms());
            problems.extend(trouble.iter().map(|p| format!("{}: {p}", kind.name())));
            exhausted.extend(trouble.into_iter().map(|p: Problem| (kind.name(), p)));
            if table != before {
                let bytes = serde_json::to_vec(&table).unwrap_or_default();
                unsaved.extend(tables::changes(self.core.store(), &blob, &bytes));
            }
            given.insert(kind, table);
        }
        let hostnames = if given.is_empty() { BTreeMap::new() } else { names::hostnames(&plain, &self.settings.zone) };
        for (key, found) in &hostnames {
            let why =
                |r: &names::Refused| format!("{key}: HostnameGenerator {} gives no name: {}", r.generator, r.message);
            problems.extend(found.refused.iter().map(why));
        }
        if !unsaved.is_empty() {
            self.core.store().apply(unsaved).await?;
        }
        let mut services = BTreeMap::new();
        for mesh in resources.iter().filter(|r| matches!(r.spec, Spec::Mesh(_))).map(|r| r.meta.name.as_str()) {
            let named = names::service_names((mesh, mode(&plain, mesh)), &plain, &hostnames, &given);
            services.insert(mesh.to_owned(), Arc::new(named));
        }
        self.services = services;
        self.naming = Arc::new(Naming { services: exhausted, hostnames, ..Naming::clone(&self.naming) });
        self.service_problems = Some(problems);
        Ok(())
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
