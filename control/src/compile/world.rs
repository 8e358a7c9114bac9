//! All resources, indexed once and then asked by every compilation: who offers a service, which zones can be reached
//! how, which subsets clients ask for. It makes no rows, and doesn't know which proxy asks.

use super::endpoints::{self, Group};
use super::sni::{MESH, SERVICE, ZONE, service};
use super::{Problem, gateway};
use crate::names::MeshNames;
use crate::resource::{
    Dataplane, ExternalService, GatewayType, Inbound, InboundState, Mesh, MeshGateway, MeshGatewayRoute,
    MeshPassthrough, Meta, Resource, Secret, Spec, Tags, TrafficPermission, ZoneEgress, ZoneIngress, ZoneNetworking,
};
use crate::select;
use crate::settings::{Aaaa, Probing};
use snapshot::{DnsUpstream, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// What the control plane as a whole decides. Name resolution and file reading happen before, so that compiling is pure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Suffix of mesh names, without dots at its ends.
    pub domain: String,
    pub dns_ttl_s: u32,
    /// The zone of everything that doesn't name one.
    pub zone: String,
    /// Whether proxies serve IPv6 VIPs and AAAA records.
    pub has_ipv6: bool,
    /// What AAAA questions are answered.
    pub aaaa: Aaaa,
    /// Which servers know certain domains.
    pub dns_upstreams: Vec<DnsUpstream>,
    /// Ranges of virtual IPs, for the routes that proxies need.
    pub vip_ranges: Vec<String>,
    /// DNS names in `address` and `advertisedAddress` fields, resolved.
    pub resolved: BTreeMap<String, IpAddr>,
    /// Contents of the files that data sources name, by path.
    pub files: BTreeMap<String, String>,
    pub probing: Probing,
    /// Proxies that nobody is sent to for now, though their resources are there.
    pub withdrawn: BTreeSet<Origin>,
}

/// One address that offers a service.
#[derive(Clone, Debug)]
pub(super) struct Instance {
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

/// The tag sets that a zone offers, and how often each.
pub(super) type Available = BTreeMap<Tags, u32>;

/// What a zone offers of one mesh, by service. Cross-mesh gateways are apart: only `kuma.io/mesh` reaches them.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    pub services: BTreeMap<String, Available>,
    pub gateways: BTreeMap<String, Available>,
}

pub(super) type Offers = BTreeMap<String, Offer>;

/// A ZoneIngress that other zones can dial.
#[derive(Clone, Debug)]
pub(super) struct PublicIngress {
    pub address: IpAddr,
    pub port: u16,
    pub zone: String,
    pub offers: Arc<Offers>,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) struct Egress {
    pub address: IpAddr,
    pub port: u16,
    pub zone: String,
    pub origin: Origin,
}

/// One mesh's resources, each list sorted by name.
#[derive(Default)]
pub(super) struct MeshIndex {
    pub name: String,
    pub spec: Mesh,
    pub names: MeshNames,
    pub instances: BTreeMap<String, Vec<Instance>>,
    /// Listeners of cross-mesh gateways, by the gateway's service.
    pub gateway_instances: BTreeMap<String, Vec<Instance>>,
    /// Tag sets that clients ask for beyond the plain service, by service.
    pub asked: BTreeMap<String, BTreeSet<Tags>>,
    pub(super) resources: BTreeMap<&'static str, Vec<Arc<Resource>>>,
    external: BTreeMap<String, Vec<Arc<Resource>>>,
}

macro_rules! of_kind {
    ($name:ident, $kind:ident) => {
        pub(super) fn $name(&self) -> impl Iterator<Item = (&Meta, &$kind)> {
            self.resources.get(stringify!($kind)).into_iter().flatten().filter_map(|r| match &r.spec {
                Spec::$kind(spec) => Some((&r.meta, spec)),
                _ => None,
            })
        }
    };
}

impl MeshIndex {
    of_kind!(dataplanes, Dataplane);
    of_kind!(gateways, MeshGateway);
    of_kind!(routes, MeshGatewayRoute);
    of_kind!(external_services, ExternalService);
    of_kind!(permissions, TrafficPermission);
    of_kind!(secrets, Secret);
    of_kind!(passthroughs, MeshPassthrough);

    pub(super) fn dataplane(&self, name: &str) -> Option<(&Meta, &Dataplane)> {
        let list = self.resources.get("Dataplane")?;
        let at = list.binary_search_by(|r| r.meta.name.as_str().cmp(name)).ok()?;
        match list.get(at).map(|r| (&r.meta, &r.spec))? {
            (meta, Spec::Dataplane(dataplane)) => Some((meta, dataplane)),
            _ => None,
        }
    }

    pub(super) fn external(&self, service_name: &str) -> impl Iterator<Item = (&Meta, &ExternalService)> {
        self.external.get(service_name).into_iter().flatten().filter_map(|r| match &r.spec {
            Spec::ExternalService(es) => Some((&r.meta, es)),
            _ => None,
        })
    }

    pub(super) fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets().find(|(meta, _)| meta.name == name).map(|(_, secret)| secret)
    }

    pub(super) fn has_mtls(&self) -> bool {
        self.spec.ca().is_some()
    }
}

/// All resources of a control plane at one moment. Equal resources give equal worlds, whatever their order.
pub struct World {
    pub(super) settings: Settings,
    pub(super) meshes: BTreeMap<String, MeshIndex>,
    pub(super) ingresses: Vec<PublicIngress>,
    pub(super) egresses: Vec<Egress>,
    zone_proxies: BTreeMap<(&'static str, String), Arc<Resource>>,
    problems: Vec<Problem>,
    /// Groups that were asked for already: thousands of proxies share them. No result depends on it.
    pub(super) groups: Mutex<BTreeMap<endpoints::View, Arc<Group>>>,
}

impl World {
    pub fn new(mut resources: Vec<Arc<Resource>>, settings: Settings, names: BTreeMap<String, MeshNames>) -> Self {
        resources.sort_by(|a, b| (&a.meta.mesh, &a.meta.name).cmp(&(&b.meta.mesh, &b.meta.name)));
        let mut world = Self {
            settings,
            meshes: BTreeMap::new(),
            ingresses: Vec::new(),
            egresses: Vec::new(),
            zone_proxies: BTreeMap::new(),
            problems: Vec::new(),
            groups: Mutex::default(),
        };
        world.sort_in(resources);
        for (mesh, names) in names {
            if let Some(index) = world.meshes.get_mut(&mesh) {
                index.names = names;
            }
        }
        world.index_instances();
        world.index_asked();
        world.index_zones();
        world
    }

    /// What is wrong for everybody: an endpoint without an address, a mesh that isn't defined.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Keys of all proxies that can be compiled, sorted.
    pub fn proxies(&self) -> Vec<super::ProxyKey> {
        let mut keys = Vec::new();
        for (mesh, index) in &self.meshes {
            keys.extend(index.dataplanes().map(|(meta, _)| super::ProxyKey::dataplane(mesh, &meta.name)));
        }
        for (kind, name) in self.zone_proxies.keys() {
            keys.push(if *kind == "ZoneEgress" {
                super::ProxyKey::egress(name)
            } else {
                super::ProxyKey::ingress(name)
            });
        }
        keys.sort();
        keys
    }

    pub(super) fn egress(&self, name: &str) -> Option<&ZoneEgress> {
        match &self.zone_proxies.get(&("ZoneEgress", name.to_owned()))?.spec {
            Spec::ZoneEgress(egress) => Some(egress),
            _ => None,
        }
    }

    pub(super) fn ingress(&self, name: &str) -> Option<&ZoneIngress> {
        match &self.zone_proxies.get(&("ZoneIngress", name.to_owned()))?.spec {
            Spec::ZoneIngress(ingress) => Some(ingress),
            _ => None,
        }
    }

    pub(super) fn zone_or_own<'a>(&'a self, zone: &'a str) -> &'a str {
        if zone.is_empty() { &self.settings.zone } else { zone }
    }

    pub(super) fn zone_of_tags<'a>(&'a self, tags: &'a Tags) -> &'a str {
        self.zone_or_own(tags.get(ZONE).map_or("", String::as_str))
    }

    /// The zone a Dataplane runs in.
    pub(super) fn zone_of(&self, dataplane: &Dataplane) -> String {
        let named = dataplane.tag_sets().find_map(|tags| tags.get(ZONE)).map_or("", String::as_str);
        self.zone_or_own(named).to_owned()
    }

    pub(super) fn ip(&self, address: &str) -> Option<IpAddr> {
        address.parse().ok().or_else(|| self.settings.resolved.get(address).copied())
    }

    fn sort_in(&mut self, resources: Vec<Arc<Resource>>) {
        for resource in resources {
            let kind = match &resource.spec {
                Spec::Mesh(mesh) => {
                    let index = self.mesh_mut(&resource.meta.name.clone());
                    index.spec = mesh.clone();
                    index.resources.insert("Mesh", vec![resource]);
                    continue;
                }
                Spec::ZoneEgress(_) => "ZoneEgress",
                Spec::ZoneIngress(_) => "ZoneIngress",
                Spec::Dataplane(_) => "Dataplane",
                Spec::MeshGateway(_) => "MeshGateway",
                Spec::MeshGatewayRoute(_) => "MeshGatewayRoute",
                Spec::ExternalService(_) => "ExternalService",
                Spec::TrafficPermission(_) => "TrafficPermission",
                Spec::Secret(_) => "Secret",
                Spec::MeshPassthrough(_) => "MeshPassthrough",
                other => match crate::names::kind_of(other) {
                    Some(kind) => kind.name(),
                    None => continue,
                },
            };
            if kind.starts_with("Zone") {
                self.zone_proxies.insert((kind, resource.meta.name.clone()), resource);
            } else {
                let mesh = resource.meta.mesh.clone();
                if let Spec::ExternalService(es) = &resource.spec {
                    let list = self.mesh_mut(&mesh).external.entry(service(&es.tags).to_owned()).or_default();
                    list.push(resource.clone());
                }
                self.mesh_mut(&mesh).resources.entry(kind).or_default().push(resource);
            }
        }
        for (name, index) in &self.meshes {
            if !index.resources.contains_key("Mesh") {
                let text =
                    format!("mesh {name} isn't defined and is taken with defaults (no mTLS): apply `type: Mesh`");
                self.problems.push(Problem::new(Origin::new("Mesh", "", name), text));
            }
        }
    }

    fn mesh_mut(&mut self, name: &str) -> &mut MeshIndex {
        self.meshes
            .entry(name.to_owned())
            .or_insert_with(|| MeshIndex { name: name.to_owned(), ..MeshIndex::default() })
    }

    fn index_instances(&mut self) {
        let mut problems = Vec::new();
        let mut found: Vec<(String, bool, Instance)> = Vec::new();
        for (mesh, index) in &self.meshes {
            for (meta, dataplane) in index.dataplanes() {
                let origin = Origin::new("Dataplane", mesh, &meta.name);
                match self.instances_of(dataplane, &origin) {
                    Ok(list) => found.extend(list.into_iter().map(|i| (mesh.clone(), false, i))),
                    Err(text) => problems.push(Problem::new(origin, text)),
                }
                let list = self.gateway_instances_of(index, dataplane, &Origin::new("Dataplane", mesh, &meta.name));
                found.extend(list.into_iter().map(|i| (mesh.clone(), true, i)));
            }
        }
        for (mesh, is_gateway, mut instance) in found {
            instance.ready &= !self.settings.withdrawn.contains(&instance.origin);
            let index = self.mesh_mut(&mesh);
            let map = if is_gateway { &mut index.gateway_instances } else { &mut index.instances };
            map.entry(service(&instance.tags).to_owned()).or_default().push(instance);
        }
        self.problems.extend(problems);
    }

    fn instances_of(&self, dataplane: &Dataplane, origin: &Origin) -> Result<Vec<Instance>, String> {
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
            let ready = inbound.is_ready();
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
        let crossing = gateway.listeners.iter().filter(|l| l.cross_mesh);
        crossing
            .map(|listener| {
                let mut tags = gateway::effective_tags(&own_tags, gateway, listener);
                tags.insert(MESH.into(), index.name.clone());
                let (port, inbound) = (listener.port, String::new());
                Instance { tags, address, port, inbound, zone: zone.clone(), ready: true, origin: origin.clone() }
            })
            .collect()
    }

    fn index_asked(&mut self) {
        let mut asked: Vec<(String, Tags)> = Vec::new();
        for (mesh, index) in &self.meshes {
            let named = index.names.outbounds.iter().map(|o| &o.tags);
            let written = index.dataplanes().flat_map(|(_, d)| &d.networking.outbound).map(|o| &o.tags);
            let routed = index.routes().flat_map(|(_, route)| gateway::destinations(route));
            for tags in named.chain(written).chain(routed) {
                let target = tags.get(MESH).unwrap_or(mesh);
                asked.push((target.clone(), tags.clone()));
            }
        }
        for (mesh, tags) in asked {
            if let Some(index) = self.meshes.get_mut(&mesh) {
                index.asked.entry(service(&tags).to_owned()).or_default().insert(tags);
            }
        }
    }

    fn index_zones(&mut self) {
        let computed = self.offers_by_zone();
        let mut taken: BTreeMap<(IpAddr, u16), usize> = BTreeMap::new();
        let resources: Vec<Arc<Resource>> = self.zone_proxies.values().cloned().collect();
        for resource in resources {
            let origin = |kind| Origin::new(kind, "", &resource.meta.name);
            if self.settings.withdrawn.contains(&origin(resource.kind())) {
                continue;
            }
            match &resource.spec {
                Spec::ZoneEgress(egress) => match self.ip(&egress.networking.address) {
                    Some(address) => self.egresses.push(Egress {
                        address,
                        port: egress.networking.port,
                        zone: self.zone_or_own(&egress.zone).to_owned(),
                        origin: origin("ZoneEgress"),
                    }),
                    None => self.no_address(origin("ZoneEgress"), &egress.networking.address),
                },
                Spec::ZoneIngress(ingress) => {
                    let origin = origin("ZoneIngress");
                    let Some(public) = self.public(ingress, &computed, origin) else { continue };
                    let key = (public.address, public.port);
                    // Of several with the same coordinates the first one with services counts.
                    match taken.get(&key).and_then(|at| self.ingresses.get_mut(*at)) {
                        None => {
                            taken.insert(key, self.ingresses.len());
                            self.ingresses.push(public);
                        }
                        Some(earlier) if earlier.offers.is_empty() => *earlier = public,
                        Some(_) => {}
                    }
                }
                _ => {}
            }
        }
        self.egresses.sort_by_key(|e| (e.address, e.port));
        self.ingresses.sort_by_key(|i| (i.address, i.port));
    }

    fn no_address(&mut self, origin: Origin, written: &str) {
        let text = format!("address `{written}` isn't an IP and doesn't resolve: nobody is sent there");
        self.problems.push(Problem::new(origin, text));
    }

    fn public(
        &mut self,
        ingress: &ZoneIngress,
        computed: &BTreeMap<String, Arc<Offers>>,
        origin: Origin,
    ) -> Option<PublicIngress> {
        let ZoneNetworking { advertised_address, advertised_port, .. } = &ingress.networking;
        let port = advertised_port.filter(|_| !advertised_address.is_empty())?;
        let Some(address) = self.ip(advertised_address) else {
            self.no_address(origin, advertised_address);
            return None;
        };
        let zone = self.zone_or_own(&ingress.zone).to_owned();
        let offers = computed.get(&zone).cloned().unwrap_or_else(|| Arc::new(self.as_written(ingress, &zone)));
        Some(PublicIngress { address, port, zone, offers, origin })
    }

    /// What each zone with Dataplanes in the store offers.
    fn offers_by_zone(&self) -> BTreeMap<String, Arc<Offers>> {
        let mut zones: BTreeMap<String, Offers> = BTreeMap::new();
        for (mesh, index) in &self.meshes {
            for (is_gateway, map) in [(false, &index.instances), (true, &index.gateway_instances)] {
                for instance in map.values().flatten() {
                    let offers = zones.entry(instance.zone.clone()).or_default();
                    if instance.ready {
                        add(offers.entry(mesh.clone()).or_default(), is_gateway, &instance.tags, 1);
                    }
                }
            }
        }
        zones.into_iter().map(|(zone, offers)| (zone, Arc::new(offers))).collect()
    }

    fn as_written(&self, ingress: &ZoneIngress, zone: &str) -> Offers {
        let mut offers = Offers::new();
        for written in ingress.available_services.iter().filter(|s| !s.external_service) {
            let mut tags = written.tags.clone();
            tags.remove("mesh");
            if !zone.is_empty() {
                tags.insert(ZONE.into(), zone.to_owned());
            }
            let offer = offers.entry(written.mesh.clone()).or_default();
            add(offer, tags.contains_key(MESH), &tags, written.instances);
        }
        offers
    }
}

fn add(offer: &mut Offer, is_gateway: bool, tags: &Tags, instances: u32) {
    let map = if is_gateway { &mut offer.gateways } else { &mut offer.services };
    let count = map.entry(service(tags).to_owned()).or_default().entry(tags.clone()).or_default();
    *count = count.saturating_add(instances);
}

/// Whether endpoints with `tags` are what `wanted` asks for; `kuma.io/mesh` names the mesh, not an endpoint.
pub(super) fn carries(tags: &Tags, wanted: &Tags) -> bool {
    wanted.iter().filter(|(k, _)| *k != MESH).all(|(k, v)| tags.get(k) == Some(v))
}

/// A tag set of just the service.
pub(super) fn plain(service_name: &str) -> Tags {
    Tags::from([(SERVICE.to_owned(), service_name.to_owned())])
}

pub(super) fn selects(selectors: &[crate::resource::Matcher], tags: &Tags) -> bool {
    selectors.iter().any(|m| select::matches(m, tags))
}
