//! Who offers a service: the inbounds of Dataplanes and the listeners of cross-mesh gateways, grouped. A group lives from
//! world to world while nothing in it changes, and the rows made of it with it.

use super::{MESH, MeshIndex, World, ZONE, service};
use crate::chunks::Chunks;
use crate::compile::{Problem, gateway};
use crate::resource::{Dataplane, GatewayType, Inbound, InboundState, Tags};
use snapshot::{Origin, ServiceRow};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// One address that offers a service.
#[derive(Clone, Debug)]
pub(in crate::compile) struct Instance {
    /// With `kuma.io/zone`, even where the resource leaves it out.
    pub tags: Tags,
    pub address: IpAddr,
    pub port: u16,
    /// The inbound's name, which is its port where it has none.
    pub inbound: String,
    pub zone: String,
    pub ready: bool,
    pub origin: Origin,
}

/// By value of `kuma.io/service`.
pub(in crate::compile) type Services = Chunks<Arc<str>, Arc<Service>>;

/// All instances of a service in a mesh, by Dataplane.
#[derive(Debug, Default)]
pub(in crate::compile) struct Service {
    pub instances: Vec<Instance>,
    /// Rows that were asked for already: thousands of proxies share them. No result depends on it.
    rows: Mutex<BTreeMap<Asker, Arc<ServiceRow>>>,
}

/// All that the row of a destination depends on beside the instances and the world's zones and meshes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::compile) struct Asker {
    /// The client's mesh.
    pub mesh: String,
    pub zone: String,
    pub tags: Tags,
}

impl Service {
    pub(super) fn new(instances: Vec<Instance>) -> Arc<Self> {
        Arc::new(Self { instances, rows: Mutex::default() })
    }

    pub(in crate::compile) fn row(&self, asker: Asker, make: impl FnOnce() -> ServiceRow) -> Arc<ServiceRow> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.entry(asker).or_insert_with(|| Arc::new(make())).clone()
    }
}

impl World {
    pub(super) fn index_instances(&mut self) {
        let mut problems = Vec::new();
        let mut found = Vec::new();
        for (mesh, index) in &self.meshes {
            let mut groups: [BTreeMap<Arc<str>, Vec<Instance>>; 2] = Default::default();
            for (meta, dataplane) in index.dataplanes() {
                let origin = Origin::new("Dataplane", mesh, &meta.name);
                let instances = self.instances_of(dataplane, &origin).unwrap_or_else(|text| {
                    problems.push(Problem::new(origin.clone(), text));
                    Vec::new()
                });
                let gateways = self.gateway_instances_of(index, dataplane, &origin);
                for (group, instances) in groups.iter_mut().zip([instances, gateways]) {
                    for instance in instances {
                        match group.get_mut(service(&instance.tags)) {
                            Some(list) => list.push(instance),
                            None => drop(group.insert(service(&instance.tags).into(), vec![instance])),
                        }
                    }
                }
            }
            let made =
                groups.map(|g| Services::of_sorted(g.into_iter().map(|(name, list)| (name, Service::new(list)))));
            found.push((mesh.clone(), made.map(Arc::new)));
        }
        for (mesh, [instances, gateway_instances]) in found {
            let index = self.mesh_mut(&mesh);
            index.instances = instances;
            index.gateway_instances = gateway_instances;
        }
        self.problems.extend(problems);
    }

    pub(super) fn instances_of(&self, dataplane: &Dataplane, origin: &Origin) -> Result<Vec<Instance>, String> {
        let net = &dataplane.networking;
        let offered: Vec<&Inbound> =
            net.inbound.iter().filter(|i| i.port != Inbound::MARKER_PORT && i.state != InboundState::Ignored).collect();
        if offered.is_empty() {
            return Ok(Vec::new());
        }
        let written = if net.advertised_address.is_empty() { &net.address } else { &net.advertised_address };
        let shared = self.ip(written);
        let mut list = Vec::new();
        for inbound in offered {
            let own = inbound.address.filter(|_| net.advertised_address.is_empty());
            let Some(address) = own.or(shared) else {
                return Err(format!(
                    "address {written} doesn't resolve: the Dataplane is no endpoint until it does, or is given as an IP"
                ));
            };
            let mut tags = inbound.tags.clone();
            let zone = self.zone_of_tags(&tags).to_owned();
            if !zone.is_empty() {
                tags.insert(ZONE.into(), zone.clone());
            }
            let ready = inbound.is_ready() && !self.settings.withdrawn.contains(origin);
            let name = if inbound.name.is_empty() { inbound.port.to_string() } else { inbound.name.clone() };
            let origin = origin.clone();
            list.push(Instance { tags, address, port: inbound.port, inbound: name, zone, ready, origin });
        }
        Ok(list)
    }

    fn gateway_instances_of(&self, index: &MeshIndex, dataplane: &Dataplane, origin: &Origin) -> Vec<Instance> {
        let Some(own) = dataplane.networking.gateway.as_ref().filter(|g| g.kind == GatewayType::Builtin) else {
            return Vec::new();
        };
        let net = &dataplane.networking;
        let written = if net.advertised_address.is_empty() { &net.address } else { &net.advertised_address };
        let zone = self.zone_of_tags(&own.tags).to_owned();
        let mut own_tags = own.tags.clone();
        if !zone.is_empty() {
            own_tags.insert(ZONE.into(), zone.clone());
        }
        let (Some((_, gateway)), Some(address)) = (gateway::choose(index, &own_tags), self.ip(written)) else {
            return Vec::new();
        };
        let ready = !self.settings.withdrawn.contains(origin);
        let crossing = gateway.listeners.iter().filter(|l| l.cross_mesh);
        crossing
            .map(|listener| {
                let mut tags = gateway::effective_tags(&own_tags, gateway, listener);
                tags.insert(MESH.into(), index.name.clone());
                let (port, inbound) = (listener.port, String::new());
                Instance { tags, address, port, inbound, zone: zone.clone(), ready, origin: origin.clone() }
            })
            .collect()
    }
}
