//! The endpoints of a destination, seen from a zone: who is dialled directly, which other zones are reached through
//! whom, with which weight, and in words why there is nobody. It knows the world, not the proxy that asks.

use super::protocol;
use super::sni::{MESH, PROTOCOL, service};
use super::world::{Available, Instance, MeshIndex, Offer, PublicIngress, World, carries};
use crate::resource::Tags;
use snapshot::{Address, Endpoint, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What every proxy that looks from the same place sees of a destination.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub protocol: Protocol,
    pub endpoints: Arc<Vec<Endpoint>>,
    pub hint: String,
}

/// The place and what is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// The mesh that has the destination.
    pub mesh: &'a str,
    pub zone: &'a str,
    pub via_egress: bool,
    pub tags: &'a Tags,
}

/// The group of a destination for sidecars and gateways.
pub(super) fn group(world: &World, view: &View<'_>) -> Group {
    match world.meshes.get(view.mesh) {
        Some(mesh) => Search { world, mesh, view }.group(),
        None => Group { hint: format!("there is no mesh {}", view.mesh), ..Group::default() },
    }
}

/// Only what runs in `zone`: an ingress never sends anything on to another zone.
pub(super) fn local(mesh: &MeshIndex, zone: &str, tags: &Tags) -> Arc<Vec<Endpoint>> {
    let ready = instances(mesh, tags).filter(|i| i.ready && i.zone == zone && carries(&i.tags, tags));
    let mut list = Endpoints::default();
    ready.for_each(|i| list.push(of_instance(i, 1, 0)));
    list.sorted()
}

/// Only what other zones' ingresses offer.
pub(super) fn remote(world: &World, mesh: &MeshIndex, zone: &str, tags: &Tags) -> Arc<Vec<Endpoint>> {
    let mut list = Endpoints::default();
    for (ingress, instances) in remote_ingresses(world, &mesh.name, zone, tags) {
        list.push(of_ingress(ingress, instances, 0));
    }
    list.sorted()
}

/// All egresses of `zone`, alike.
pub(super) fn egresses(world: &World, zone: &str, weight: u32, priority: u8) -> Vec<Endpoint> {
    let own = world.egresses.iter().filter(|e| e.zone == zone);
    own.map(|e| Endpoint {
        address: Address::Ip(e.address),
        port: e.port,
        weight,
        priority,
        zone: e.zone.clone(),
        origin: e.origin.clone(),
    })
    .collect()
}

pub(super) fn no_egress(mesh: &str, zone: &str) -> String {
    format!("mesh {mesh} routes through zone egress, and {} has no ZoneEgress", zone_text(zone))
}

/// Ingresses of other zones that offer `tags`, with the number of instances behind each.
pub(super) fn remote_ingresses<'a>(
    world: &'a World,
    mesh: &'a str,
    zone: &'a str,
    tags: &'a Tags,
) -> impl Iterator<Item = (&'a PublicIngress, u32)> {
    world.ingresses.iter().filter(move |i| i.zone != zone).filter_map(move |ingress| {
        let sets = sets(ingress.offers.get(mesh)?, tags)?;
        let instances =
            sets.iter().filter(|(have, _)| carries(have, tags)).fold(0_u32, |n, (_, k)| n.saturating_add(*k));
        (instances > 0).then_some((ingress, instances))
    })
}

fn sets<'a>(offer: &'a Offer, tags: &Tags) -> Option<&'a Available> {
    let map = if tags.contains_key(MESH) { &offer.gateways } else { &offer.services };
    map.get(service(tags))
}

fn instances<'a>(mesh: &'a MeshIndex, tags: &Tags) -> impl Iterator<Item = &'a Instance> {
    mesh.service(tags).into_iter().flat_map(|group| &group.instances)
}

struct Search<'a> {
    world: &'a World,
    mesh: &'a MeshIndex,
    view: &'a View<'a>,
}

impl Search<'_> {
    fn group(&self) -> Group {
        let mut list = Endpoints::default();
        let egresses = self.world.egresses.iter().filter(|e| e.zone == self.view.zone).count();
        let remote: Vec<(&PublicIngress, u32)> =
            if self.mesh.has_mtls() { self.remote().collect() } else { Vec::new() };
        let remote_instances = self.by_zone(&remote).values().fold(0_u32, |n, k| n.saturating_add(*k));
        let far = u8::from(self.mesh.spec.routing.locality_aware_load_balancing);
        let weight = match (self.view.via_egress, remote.is_empty()) {
            (_, true) => 1,
            // Each egress gets the weight of all remote instances, so a local one counts once per egress.
            (true, false) => u32::try_from(egresses).unwrap_or(u32::MAX).max(1),
            (false, false) => self.ingresses_in_use(),
        };
        for instance in self.local().filter(|i| i.ready) {
            list.push(of_instance(instance, weight, 0));
        }
        if self.view.via_egress {
            let weight = if list.0.is_empty() { 1 } else { remote_instances };
            if remote_instances > 0 {
                egresses_into(&mut list, self.world, self.view.zone, weight, far);
            }
        } else {
            remote.iter().for_each(|(ingress, instances)| list.push(of_ingress(ingress, *instances, far)));
        }
        let endpoints = list.sorted();
        let hint = if endpoints.is_empty() { self.hint(egresses, !remote.is_empty()) } else { String::new() };
        Group { protocol: self.protocol(), endpoints, hint }
    }

    fn matching(&self) -> impl Iterator<Item = &Instance> {
        instances(self.mesh, self.view.tags).filter(|i| carries(&i.tags, self.view.tags))
    }

    fn local(&self) -> impl Iterator<Item = &Instance> {
        self.matching().filter(|i| i.zone == self.view.zone)
    }

    fn remote(&self) -> impl Iterator<Item = (&PublicIngress, u32)> {
        remote_ingresses(self.world, &self.mesh.name, self.view.zone, self.view.tags)
    }

    /// Several ingresses of a zone lead to the same instances.
    fn by_zone<'b>(&self, remote: &[(&'b PublicIngress, u32)]) -> BTreeMap<&'b str, u32> {
        let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
        for (ingress, instances) in remote {
            let most = zones.entry(&ingress.zone).or_default();
            *most = (*most).max(*instances);
        }
        zones
    }

    /// Distinct coordinates of other zones' ingresses that serve this mesh.
    fn ingresses_in_use(&self) -> u32 {
        let serving = self.world.ingresses.iter().filter(|i| i.zone != self.view.zone);
        let count = serving.filter(|i| i.offers.contains_key(&self.mesh.name)).count();
        u32::try_from(count).unwrap_or(u32::MAX).max(1)
    }

    /// Over all endpoints of the service, not only those with the tags.
    fn protocol(&self) -> Protocol {
        if self.view.tags.contains_key(MESH) {
            return Protocol::Http;
        }
        let here = instances(self.mesh, self.view.tags).map(|i| i.tags.get(PROTOCOL));
        let elsewhere = self.world.ingresses.iter().filter_map(|i| i.offers.get(&self.mesh.name));
        let elsewhere = elsewhere.filter_map(|o| sets(o, self.view.tags)).flatten().map(|(tags, _)| tags.get(PROTOCOL));
        protocol::common(here.chain(elsewhere).map(|tag| tag.map(String::as_str)))
    }

    fn hint(&self, egresses: usize, has_remote: bool) -> String {
        let View { mesh, zone, via_egress, tags } = *self.view;
        let what = self.what();
        if via_egress && has_remote && egresses == 0 {
            return no_egress(mesh, zone);
        }
        let elsewhere: BTreeSet<&str> =
            self.matching().filter(|i| i.ready && i.zone != zone).map(|i| i.zone.as_str()).collect();
        let offered = || self.remote().next().map(|(ingress, _)| ingress.zone.as_str());
        if let Some(other) = elsewhere.first().copied().or_else(offered) {
            return if !self.mesh.has_mtls() {
                format!(
                    "{what} runs in {} only, and mTLS of mesh {mesh} is off: other zones are unreachable",
                    zone_text(other)
                )
            } else {
                format!("{what} runs in {} only, which has no public ZoneIngress", zone_text(other))
            };
        }
        let idle = self.matching().count();
        if idle > 0 {
            return format!("{what} has {idle} inbound(s) in mesh {mesh}, and none is ready");
        }
        if tags.len() > 1 && instances(self.mesh, tags).next().is_some() {
            return format!("no Dataplane of {} in mesh {mesh} has {what}", service(tags));
        }
        if tags.contains_key(MESH) {
            return format!("no gateway in mesh {mesh} has a crossMesh listener with {what}");
        }
        format!("no Dataplane in mesh {mesh} has {what}")
    }

    fn what(&self) -> String {
        let tags = self.view.tags.iter().filter(|(k, _)| *k != MESH);
        tags.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
    }
}

/// `zone east`, or a word for the only zone, which may have no name.
fn zone_text(zone: &str) -> String {
    if zone.is_empty() { "this zone".into() } else { format!("zone {zone}") }
}

fn egresses_into(list: &mut Endpoints, world: &World, zone: &str, weight: u32, priority: u8) {
    egresses(world, zone, weight, priority).into_iter().for_each(|e| list.push(e));
}

pub(super) fn of_instance(instance: &Instance, weight: u32, priority: u8) -> Endpoint {
    Endpoint {
        address: Address::Ip(instance.address),
        port: instance.port,
        weight,
        priority,
        zone: instance.zone.clone(),
        origin: instance.origin.clone(),
    }
}

pub(super) fn of_ingress(ingress: &PublicIngress, weight: u32, priority: u8) -> Endpoint {
    Endpoint {
        address: Address::Ip(ingress.address),
        port: ingress.port,
        weight,
        priority,
        zone: ingress.zone.clone(),
        origin: ingress.origin.clone(),
    }
}

/// One endpoint an address; the first wins.
#[derive(Default)]
pub(super) struct Endpoints(BTreeMap<(Address, u16), Endpoint>);

impl Endpoints {
    pub(super) fn push(&mut self, endpoint: Endpoint) {
        self.0.entry((endpoint.address.clone(), endpoint.port)).or_insert(endpoint);
    }

    pub(super) fn sorted(self) -> Arc<Vec<Endpoint>> {
        Arc::new(self.0.into_values().collect())
    }
}

/// `host:port`, with `[…]` around an IPv6 address.
pub(super) fn host_and_port(text: &str) -> Option<(Address, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().ok().filter(|p| *p != 0)?;
    let address = match host.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(ip),
        Err(_) if !host.is_empty() => Address::Name(host.trim_end_matches('.').to_ascii_lowercase()),
        Err(_) => return None,
    };
    Some((address, port))
}
