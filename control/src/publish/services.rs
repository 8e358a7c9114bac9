//! Names and addresses of MeshServices and their kin, beside those of tags: allocated over all meshes, a table a kind.

use super::{Loop, tables};
use crate::names::{self, MeshNames, Naming};
use crate::resource::{MeshServicesMode, Resource, ServiceKind, Spec};
use crate::settings::Cidr;
use crate::store::Change;
use crate::vip::{self, Ranges, VipTable};
use std::collections::BTreeMap;
use std::net::IpAddr;

impl Loop {
    /// Adds to the names of every mesh; returns what has to be durable before anyone hears of it.
    pub(super) fn service_names(
        &self,
        resources: &[&Resource],
        names: &mut BTreeMap<String, MeshNames>,
        naming: &mut Naming,
        problems: &mut Vec<String>,
    ) -> Vec<Change> {
        let (mut changes, mut tables) = (Vec::new(), BTreeMap::new());
        for kind in ServiceKind::ALL {
            let keys = names::service_keys(resources, kind);
            let blob = format!("vips/{}", kind.name());
            let before = self.load_vips(&blob, problems);
            if keys.is_empty() && before == VipTable::default() {
                continue;
            }
            let (table, trouble) = vip::allocate(&before, &keys, &self.ranges_of(kind), self.core.clock().now_ms());
            problems.extend(trouble.iter().map(|p| format!("{}: {p}", kind.name())));
            naming.services.extend(trouble.into_iter().map(|p| (kind.name(), p)));
            if table != before {
                changes.extend(tables::changes(self.core.store(), &blob, &table));
            }
            tables.insert(kind, table);
        }
        if tables.is_empty() {
            return changes;
        }
        let hostnames = names::hostnames(resources, &self.settings.zone);
        for (key, found) in &hostnames {
            let why =
                |r: &names::Refused| format!("{key}: HostnameGenerator {} gives no name: {}", r.generator, r.message);
            problems.extend(found.refused.iter().map(why));
        }
        for (mesh, into) in names {
            into.services = names::service_names((mesh, mode(resources, mesh)), resources, &hostnames, &tables);
        }
        naming.hostnames = hostnames;
        changes
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
