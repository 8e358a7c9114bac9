//! All resources, indexed once and then asked by every compilation: who offers a service, which zones can be reached
//! how, which subsets clients ask for. A world made after another shares with it what didn't change. It makes no rows,
//! and doesn't know which proxy asks.

mod patch;
mod services;
mod zones;

pub(super) use services::{Asker, Instance, Service, Services};

use super::gateway::Gateways;
use super::shared::Sidecars;
use super::sni::{MESH, SERVICE, ZONE, service};
use super::{Problem, gateway};
use crate::names::{MeshNames, ServiceNames};
use crate::resource::{
    Dataplane, ExternalService, Mesh, MeshGateway, MeshGatewayRoute, MeshPassthrough, Meta, Resource, Secret,
    ServiceKind, Spec, Tags, TrafficPermission, ZoneEgress, ZoneIngress,
};
use crate::select;
use crate::settings::{Aaaa, Probing};
use crate::sorted::of_kind_and_mesh;
use snapshot::{DnsUpstream, Origin};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

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
    /// What MeshServices and their kin are called and where they are dialled, by mesh. Read anew by each compilation.
    pub services: BTreeMap<String, Arc<ServiceNames>>,
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

/// One mesh's resources.
#[derive(Default)]
pub(super) struct MeshIndex {
    pub name: String,
    pub spec: Mesh,
    pub names: Arc<MeshNames>,
    pub instances: Arc<Services>,
    /// Listeners of cross-mesh gateways, by the gateway's service.
    pub gateway_instances: Arc<Services>,
    /// What sidecars have in common.
    pub sidecars: Sidecars,
    /// What gateways have in common.
    pub gateways: Gateways,
    /// Of the whole world, sorted by kind, mesh, name.
    resources: Arc<Vec<Arc<Resource>>>,
    external: Arc<BTreeMap<String, Vec<Arc<Resource>>>>,
}

macro_rules! of_kind {
    ($name:ident, $kind:ident) => {
        pub(super) fn $name(&self) -> impl Iterator<Item = (&Meta, &$kind)> {
            self.list(stringify!($kind)).iter().filter_map(|r| match &r.spec {
                Spec::$kind(spec) => Some((&r.meta, spec)),
                _ => None,
            })
        }
    };
}

impl MeshIndex {
    of_kind!(dataplanes, Dataplane);
    of_kind!(gateways, MeshGateway);
    of_kind!(external_services, ExternalService);
    of_kind!(permissions, TrafficPermission);
    of_kind!(passthroughs, MeshPassthrough);

    /// Sorted by name.
    fn list(&self, kind: &str) -> &[Arc<Resource>] {
        of_kind_and_mesh(&self.resources, kind, &self.name)
    }

    /// Of the whole world, sorted by kind, mesh, name.
    pub(super) fn resources(&self) -> Arc<Vec<Arc<Resource>>> {
        self.resources.clone()
    }

    /// Sorted by name.
    pub(super) fn gateway_routes(&self) -> impl Iterator<Item = (&Arc<Resource>, &MeshGatewayRoute)> {
        self.list("MeshGatewayRoute").iter().filter_map(|r| match &r.spec {
            Spec::MeshGatewayRoute(route) => Some((r, route)),
            _ => None,
        })
    }

    fn named(&self, kind: &str, name: &str) -> Option<&Arc<Resource>> {
        let list = self.list(kind);
        list.get(list.binary_search_by(|r| r.meta.name.as_str().cmp(name)).ok()?)
    }

    pub(super) fn dataplane(&self, name: &str) -> Option<(&Meta, &Dataplane)> {
        match self.named("Dataplane", name).map(|r| (&r.meta, &r.spec))? {
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
        match &self.named("Secret", name)?.spec {
            Spec::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    pub(super) fn has_mtls(&self) -> bool {
        self.spec.ca().is_some()
    }

    /// MeshServices and their kin, sorted by name.
    pub(super) fn backends(&self, kind: ServiceKind) -> &[Arc<Resource>] {
        self.list(kind.name())
    }

    pub(super) fn backend(&self, kind: ServiceKind, name: &str) -> Option<&Arc<Resource>> {
        self.named(kind.name(), name)
    }

    /// Who offers what `tags` ask for.
    pub(super) fn service(&self, tags: &Tags) -> Option<&Arc<Service>> {
        let map = if tags.contains_key(MESH) { &self.gateway_instances } else { &self.instances };
        map.get(service(tags))
    }
}

/// Of each mesh, by service: the tag sets that clients ask for beyond the plain service.
type Asked = BTreeMap<String, BTreeMap<String, BTreeSet<Tags>>>;

/// All resources of a control plane at one moment. Equal resources give equal worlds, whatever their order.
pub struct World {
    pub(super) settings: Settings,
    pub(super) meshes: BTreeMap<String, MeshIndex>,
    pub(super) ingresses: Vec<PublicIngress>,
    pub(super) egresses: Vec<Egress>,
    /// Sorted by kind, mesh, name.
    resources: Arc<Vec<Arc<Resource>>>,
    zone_proxies: BTreeMap<(&'static str, String), Arc<Resource>>,
    problems: BTreeSet<Problem>,
    /// Only zone proxies need it.
    asked: OnceLock<Asked>,
}

impl World {
    pub fn new(mut resources: Vec<Arc<Resource>>, settings: Settings, names: BTreeMap<String, MeshNames>) -> Self {
        resources.sort_by(|a, b| a.order().cmp(&b.order()));
        let names = names.into_iter().map(|(mesh, names)| (mesh, Arc::new(names))).collect();
        Self::after(None, Arc::new(resources), settings, names)
    }

    /// The same world as from nothing, at the cost of what changed since `previous`. `resources` are sorted by kind, mesh
    /// and name.
    pub fn after(
        previous: Option<&Self>,
        resources: Arc<Vec<Arc<Resource>>>,
        settings: Settings,
        names: BTreeMap<String, Arc<MeshNames>>,
    ) -> Self {
        let patched = previous.and_then(|previous| patch::patched(previous, &resources, &settings, &names));
        patched.unwrap_or_else(|| {
            let mut world = Self::indexed(resources, settings);
            world.adopt(names, previous);
            world
        })
    }

    /// What is wrong for everybody: an endpoint without an address, a mesh that isn't defined.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    fn indexed(resources: Arc<Vec<Arc<Resource>>>, settings: Settings) -> Self {
        let mut world = Self {
            settings,
            meshes: BTreeMap::new(),
            ingresses: Vec::new(),
            egresses: Vec::new(),
            resources: resources.clone(),
            zone_proxies: BTreeMap::new(),
            problems: BTreeSet::new(),
            asked: OnceLock::new(),
        };
        world.sort_in(&resources);
        world.index_instances();
        world.index_zones();
        world
    }

    fn adopt(&mut self, names: BTreeMap<String, Arc<MeshNames>>, previous: Option<&Self>) {
        for (mesh, names) in names {
            if let Some(index) = self.meshes.get_mut(&mesh) {
                index.names = names;
            }
        }
        for (name, index) in previous.iter().flat_map(|p| &p.meshes) {
            if let Some(own) = self.meshes.get_mut(name) {
                own.sidecars = index.sidecars.outdated();
                own.gateways = index.gateways.outdated();
            }
        }
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

    /// Tags as others see them: with the zone, which a resource may leave out.
    pub(super) fn with_zone<'a>(&self, tags: &'a Tags) -> Cow<'a, Tags> {
        let zone = self.zone_of_tags(tags);
        if zone.is_empty() || tags.contains_key(ZONE) {
            return Cow::Borrowed(tags);
        }
        let mut tags = tags.clone();
        tags.insert(ZONE.into(), self.settings.zone.clone());
        Cow::Owned(tags)
    }

    /// Of what doesn't say its own.
    pub(crate) fn zone(&self) -> &str {
        &self.settings.zone
    }

    /// Tag sets of a proxy, as others see them.
    pub(crate) fn tag_sets(&self, dataplane: &Dataplane) -> Vec<Tags> {
        dataplane.tag_sets().map(|tags| self.with_zone(tags).into_owned()).collect()
    }

    /// The zone a Dataplane runs in.
    pub(super) fn zone_of(&self, dataplane: &Dataplane) -> String {
        let named = dataplane.tag_sets().find_map(|tags| tags.get(ZONE)).map_or("", String::as_str);
        self.zone_or_own(named).to_owned()
    }

    pub(super) fn ip(&self, address: &str) -> Option<IpAddr> {
        address.parse().ok().or_else(|| self.settings.resolved.get(address).copied())
    }

    fn sort_in(&mut self, resources: &Arc<Vec<Arc<Resource>>>) {
        let mut external: BTreeMap<&str, BTreeMap<String, Vec<Arc<Resource>>>> = BTreeMap::new();
        for resource in resources.iter() {
            let (meta, mesh) = (&resource.meta, &resource.meta.mesh);
            match &resource.spec {
                Spec::Mesh(spec) => self.mesh_mut(&meta.name).spec = spec.clone(),
                Spec::ZoneEgress(_) => {
                    drop(self.zone_proxies.insert(("ZoneEgress", meta.name.clone()), resource.clone()))
                }
                Spec::ZoneIngress(_) => {
                    self.zone_proxies.insert(("ZoneIngress", meta.name.clone()), resource.clone());
                }
                Spec::ExternalService(es) => {
                    let of_mesh = external.entry(mesh).or_default();
                    of_mesh.entry(service(&es.tags).to_owned()).or_default().push(resource.clone());
                    self.mesh_mut(mesh);
                }
                Spec::Dataplane(_)
                | Spec::MeshGateway(_)
                | Spec::MeshGatewayRoute(_)
                | Spec::TrafficPermission(_)
                | Spec::MeshPassthrough(_)
                | Spec::MeshService(_)
                | Spec::MeshExternalService(_)
                | Spec::MeshMultiZoneService(_)
                | Spec::Secret(_) => drop(self.mesh_mut(mesh)),
                Spec::VirtualOutbound(_)
                | Spec::GlobalSecret(_)
                | Spec::Zone(_)
                | Spec::HostnameGenerator(_)
                | Spec::Opaque(_) => {}
            }
        }
        for (mesh, external) in external {
            self.mesh_mut(mesh).external = Arc::new(external);
        }
        for (name, index) in &mut self.meshes {
            index.resources = resources.clone();
            if of_kind_and_mesh(resources, "Mesh", "").binary_search_by(|r| r.meta.name.cmp(name)).is_err() {
                let text =
                    format!("mesh {name} isn't defined and is taken with defaults (no mTLS): apply `type: Mesh`");
                self.problems.insert(Problem::new(Origin::new("Mesh", "", name), text));
            }
        }
    }

    fn mesh_mut(&mut self, name: &str) -> &mut MeshIndex {
        if !self.meshes.contains_key(name) {
            self.meshes.insert(name.to_owned(), MeshIndex { name: name.to_owned(), ..MeshIndex::default() });
        }
        self.meshes.entry(name.to_owned()).or_default()
    }

    /// Tag sets that clients ask for beyond the plain service.
    pub(super) fn asked(&self, mesh: &str, service_name: &str) -> impl Iterator<Item = &Tags> {
        let asked = self.asked.get_or_init(|| self.find_asked());
        asked.get(mesh).and_then(|of_mesh| of_mesh.get(service_name)).into_iter().flatten()
    }

    fn find_asked(&self) -> Asked {
        let mut asked = Asked::new();
        for (mesh, index) in &self.meshes {
            let named = index.names.outbounds.iter().map(|o| &o.tags);
            let written = index.dataplanes().flat_map(|(_, d)| &d.networking.outbound).map(|o| &o.tags);
            let routed = index.gateway_routes().flat_map(|(_, route)| gateway::destinations(route));
            for tags in named.chain(written).chain(routed) {
                let target = tags.get(MESH).unwrap_or(mesh);
                let of_mesh = asked.entry(target.clone()).or_default();
                of_mesh.entry(service(tags).to_owned()).or_default().insert(tags.clone());
            }
        }
        asked
    }
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
