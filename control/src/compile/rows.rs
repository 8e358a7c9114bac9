//! Rows while they are collected, and the services that a sidecar or a builtin gateway sends to. It decides nothing
//! about listeners or routes.

use super::endpoints::{self, View};
use super::external::{self, Aside};
use super::shared::Shared;
use super::sni::{self, MESH, service};
use super::world::Asker;
use super::world::{MeshIndex, World};
use super::{Compiled, Made, Problem, permissions};
use crate::names::FREED;
use crate::resource::{Dataplane, Tags};
use crate::settings::Aaaa;
use snapshot::{
    Backend, Balance, DnsSettings, Endpoint, Forward, Handler, HostPattern, ListenerRow, Match, NameRow, Origin,
    PermissionRow, Protocol, ProxyKind, ProxyRow, RouteAction, RouteRow, ServiceRow, SniRow, Tables, Timeouts,
    UpstreamTls, VirtualHost, limits, spiffe_id,
};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// The admin port of a proxy that names none.
const ADMIN_PORT: u16 = 9901;

/// A Dataplane in its world.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub world: &'a World,
    pub mesh: &'a MeshIndex,
    pub name: &'a str,
    pub dataplane: &'a Dataplane,
}

impl Input<'_> {
    pub(super) fn origin(&self) -> Origin {
        Origin::new("Dataplane", &self.mesh.name, self.name)
    }

    pub(super) fn proxy_row(&self, kind: ProxyKind) -> ProxyRow {
        let services: BTreeSet<String> = self.dataplane.tag_sets().map(|t| service(t).to_owned()).collect();
        ProxyRow {
            mesh: self.mesh.name.clone(),
            zone: self.world.zone_of(self.dataplane),
            services: services.into_iter().filter(|s| !s.is_empty()).collect(),
            ..proxy_row(self.world, kind, self.name, self.dataplane.networking.admin.as_ref())
        }
    }
}

pub(super) fn proxy_row(
    world: &World,
    kind: ProxyKind,
    name: &str,
    admin: Option<&crate::resource::Admin>,
) -> ProxyRow {
    ProxyRow {
        kind,
        name: name.to_owned(),
        admin_port: admin.map(|a| a.port).filter(|p| *p != 0).unwrap_or(ADMIN_PORT),
        dns: DnsSettings {
            domain: world.settings.domain.clone(),
            ttl_s: world.settings.dns_ttl_s,
            vip_ranges: world.settings.vip_ranges.clone(),
            upstreams: world.settings.dns_upstreams.clone(),
            no_aaaa: world.settings.aaaa == Aaaa::Off,
        },
        ..ProxyRow::default()
    }
}

/// Rows by key, so that they come out sorted.
#[derive(Default)]
pub(super) struct Rows {
    pub names: BTreeMap<String, Arc<NameRow>>,
    pub listeners: BTreeMap<SocketAddr, ListenerRow>,
    pub services: BTreeMap<String, Arc<ServiceRow>>,
    pub permissions: BTreeMap<String, PermissionRow>,
    pub snis: BTreeMap<String, SniRow>,
    pub aside: Aside,
    /// Rows that others have too; at the same place one's own counts.
    pub shared: Option<Arc<Shared>>,
    /// Rows that others have too where nothing else is shared, sorted.
    pub services_in_common: Arc<Vec<Arc<ServiceRow>>>,
}

impl Rows {
    pub(super) fn note(&mut self, origin: Origin, text: impl Into<String>) {
        self.aside.problems.push(Problem::new(origin, text));
    }

    /// The first at an address wins.
    pub(super) fn listen(&mut self, row: ListenerRow) {
        match self.listeners.get(&row.address) {
            None => {
                self.listeners.insert(row.address, row);
            }
            Some(first) => {
                let text = format!("{} is taken by {} already: this listener is left out", row.address, first.origin);
                self.note(row.origin, text);
            }
        }
    }

    /// Returns the row's name.
    pub(super) fn permit(&mut self, mesh: &MeshIndex, tags: &Tags) -> String {
        let row = permissions::row(mesh, tags);
        let name = row.name.clone();
        self.permissions.entry(name.clone()).or_insert(row);
        name
    }

    pub(super) fn finish(mut self, proxy: ProxyRow) -> Made {
        let shared = self.shared.take();
        let nothing = Tables::default();
        let common = shared.as_ref().map_or(&nothing, |shared| shared.snapshot.tables());
        let services = if shared.is_some() { &common.services } else { self.services_in_common.as_ref() };
        for own in self.listeners.values() {
            let at = common.listeners.binary_search_by(|row| row.address.cmp(&own.address)).ok();
            let taken = at.and_then(|at| common.listeners.get(at));
            if let Some(row) = taken.filter(|row| row.origin.kind != FREED) {
                let text = format!("{} is taken by {} already: this listener is left out", row.address, own.origin);
                self.aside.problems.push(Problem::new(row.origin.clone(), text));
            }
        }
        let Aside { mut problems, mut secrets } = self.aside;
        problems.sort();
        problems.dedup();
        secrets.sort();
        secrets.dedup();
        let listeners = self.listeners.into_values().map(Arc::new);
        let tables = Tables {
            proxy,
            names: merged(self.names.into_values(), &common.names, |a, b| a.name.cmp(&b.name)),
            listeners: merged(listeners, &common.listeners, |a, b| a.address.cmp(&b.address)),
            services: merged(self.services.into_values(), services, |a, b| a.name.cmp(&b.name)),
            permissions: self.permissions.into_values().map(Arc::new).collect(),
            snis: self.snis.into_values().map(Arc::new).collect(),
        };
        let compiled = Compiled { tables, secrets, problems };
        Made { compiled, proven: shared.map(|shared| shared.snapshot.clone()) }
    }
}

/// Both sorted; of the same key the own row. A proxy's own rows are few beside those that it has in common with others.
fn merged<T>(own: impl Iterator<Item = Arc<T>>, common: &[Arc<T>], order: impl Fn(&T, &T) -> Ordering) -> Vec<Arc<T>> {
    if common.is_empty() {
        return own.collect();
    }
    let mut rows = common.to_vec();
    for row in own {
        match rows.binary_search_by(|held| order(held, &row)) {
            Ok(at) => drop(rows.get_mut(at).map(|held| *held = row)),
            Err(at) => rows.insert(at, row),
        }
    }
    rows
}

/// So many rows are put in their places one by one; with more the list is sorted.
const SINGLE_ROWS_MAX: usize = 64;

/// Sorted rows without some and with others.
pub(super) fn patch<'a, T: 'a>(
    held: &'a [Arc<T>],
    gone: impl Iterator<Item = &'a Arc<T>>,
    new: impl Iterator<Item = &'a Arc<T>>,
    order: impl Fn(&T, &T) -> Ordering,
) -> Vec<Arc<T>> {
    let gone: HashSet<*const T> = gone.map(Arc::as_ptr).collect();
    let new: Vec<&Arc<T>> = new.collect();
    let is_kept = |row: &&Arc<T>| gone.is_empty() || !gone.contains(&Arc::as_ptr(row));
    let mut rows: Vec<Arc<T>> = Vec::with_capacity(held.len() + new.len());
    rows.extend(held.iter().filter(is_kept).cloned());
    if new.len() > SINGLE_ROWS_MAX {
        rows.extend(new.into_iter().cloned());
        rows.sort_by(|a, b| order(a, b));
        rows.dedup_by(|a, b| order(a, b).is_eq());
        return rows;
    }
    for row in new {
        if let Err(at) = rows.binary_search_by(|held| order(held, row)) {
            rows.insert(at, row.clone());
        }
    }
    rows
}

/// A service row that listeners and routes can refer to.
pub(super) struct Reached {
    pub name: String,
    pub protocol: Protocol,
    /// Requests carry the endpoint's host name: an external service dialled from here.
    pub named: bool,
}

/// Who sends.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub mesh: &'a MeshIndex,
    pub zone: &'a str,
    /// None where many are meant.
    pub dataplane: Option<&'a Dataplane>,
}

/// The services that a proxy of a mesh sends to.
pub(super) struct Upstreams<'a> {
    world: &'a World,
    client: Client<'a>,
    /// Seen before, by the tags asked for.
    known: BTreeMap<Tags, (Arc<ServiceRow>, bool)>,
}

impl<'a> Upstreams<'a> {
    pub(super) fn new(world: &'a World, client: Client<'a>) -> Self {
        Self { world, client, known: BTreeMap::new() }
    }

    /// The row for endpoints that carry `tags`, made when it isn't there yet.
    pub(super) fn reach(&mut self, rows: &mut Rows, tags: &Tags) -> Reached {
        if let Some((row, named)) = self.known.get(tags) {
            return Reached { name: row.name.clone(), protocol: row.protocol, named: *named };
        }
        let (row, named) = match self.common(tags) {
            Some(row) => (row, false),
            None => {
                let (row, named) = self.external(rows, tags);
                (Arc::new(row), named)
            }
        };
        let reached = Reached { name: row.name.clone(), protocol: row.protocol, named };
        rows.services.insert(row.name.clone(), row.clone());
        self.known.insert(tags.clone(), (row, named));
        reached
    }

    /// The row for `tags` that is the same for every proxy of this mesh in this zone; None when it depends on the proxy.
    pub(super) fn common(&mut self, tags: &Tags) -> Option<Arc<ServiceRow>> {
        if let Some((row, _)) = self.known.get(tags) {
            return Some(row.clone());
        }
        let mesh = self.client.mesh;
        let is_external = !tags.contains_key(MESH) && mesh.external(service(tags)).next().is_some();
        if is_external && !self.via_egress() {
            return None;
        }
        let row = match is_external {
            true => Arc::new(self.external_by_egress(tags)),
            false => self.internal(tags),
        };
        self.known.insert(tags.clone(), (row.clone(), false));
        Some(row)
    }

    fn via_egress(&self) -> bool {
        self.client.mesh.spec.routing.zone_egress && self.client.mesh.has_mtls()
    }

    fn internal(&self, tags: &Tags) -> Arc<ServiceRow> {
        let Client { mesh, zone, .. } = self.client;
        let target = tags.get(MESH).unwrap_or(&mesh.name);
        match self.world.meshes.get(target).and_then(|target| target.service(tags)) {
            Some(group) => {
                let asker = Asker { mesh: mesh.name.clone(), zone: zone.to_owned(), tags: tags.clone() };
                group.row(asker, || self.internal_row(target, tags))
            }
            None => Arc::new(self.internal_row(target, tags)),
        }
    }

    fn internal_row(&self, target: &str, tags: &Tags) -> ServiceRow {
        let (own, zone) = (self.client.mesh, self.client.zone);
        let mut row = service_row(sni::row_name(tags), target, service(tags));
        let view = View { mesh: target, zone, via_egress: self.via_egress(), tags };
        let group = endpoints::group(self.world, &view);
        row.protocol = group.protocol;
        let has_mtls = self.world.meshes.get(target).is_some_and(MeshIndex::has_mtls);
        if tags.contains_key(MESH) && !(has_mtls && own.has_mtls()) {
            row.hint = format!("calls from mesh {} to mesh {target} need mTLS in both meshes", own.name);
            return row;
        }
        row.hint = group.hint;
        row.endpoints = group.endpoints;
        if has_mtls {
            row.tls = self.mesh_tls(target, tags, spiffe_id(target, service(tags)));
        }
        row
    }

    fn mesh_tls(&self, target: &str, tags: &Tags, peer: String) -> UpstreamTls {
        UpstreamTls::Mesh {
            identity_mesh: self.client.mesh.name.clone(),
            mesh: target.to_owned(),
            sni: sni::of_tags(target, tags),
            peers: vec![peer],
        }
    }

    fn external_by_egress(&self, tags: &Tags) -> ServiceRow {
        let (world, Client { mesh, zone, .. }) = (self.world, self.client);
        let mut row = service_row(sni::row_name(tags), &mesh.name, service(tags));
        row.protocol = external::protocol_of(mesh, service(tags));
        row.tls = self.mesh_tls(&mesh.name, tags, spiffe_id(&mesh.name, super::egress::SERVICE_NAME));
        row.endpoints = Arc::new(endpoints::egresses(world, zone, 1, 0));
        if row.endpoints.is_empty() {
            row.hint = endpoints::no_egress(&mesh.name, zone);
        }
        if let Some((meta, _)) = external::with_tags(mesh, service(tags), tags).next() {
            row.origin = Origin::new("ExternalService", &mesh.name, &meta.name);
        }
        row
    }

    fn external(&self, rows: &mut Rows, tags: &Tags) -> (ServiceRow, bool) {
        let (world, Client { mesh, zone, dataplane }) = (self.world, self.client);
        let mut row = service_row(sni::row_name(tags), &mesh.name, service(tags));
        let mut refused = String::new();
        let admitted: Vec<_> = external::with_tags(mesh, service(tags), tags)
            .filter(|(meta, es)| {
                let picked = permissions::pick(mesh, &es.tags);
                let is_admitted = |tp| dataplane.is_some_and(|client| permissions::admits(world, tp, client));
                let admits = !mesh.has_mtls() || picked.is_some_and(|(_, tp)| is_admitted(tp));
                if !admits {
                    refused = match picked {
                        Some((tp, _)) => format!("TrafficPermission {} doesn't admit this proxy to it", tp.name),
                        None => "no TrafficPermission has it as a destination".into(),
                    };
                    refused = format!("ExternalService {}: {refused}", meta.name);
                }
                admits
            })
            .collect();
        let dialled = external::dial(world, mesh, zone, admitted.into_iter(), &mut rows.aside);
        row.protocol = external::protocol_of(mesh, service(tags));
        if dialled.endpoints.is_empty() {
            row.hint = match refused.is_empty() {
                true => {
                    format!("no ExternalService of {} can be used: the control plane's log says why", service(tags))
                }
                false => refused,
            };
        } else {
            row.origin = dialled.origin;
        }
        let named = external::is_named(&dialled.endpoints);
        row.tls = dialled.tls;
        row.endpoints = dialled.endpoints;
        (row, named)
    }
}

pub(super) fn service_row(name: String, mesh: &str, service: &str) -> ServiceRow {
    ServiceRow {
        name,
        service: service.to_owned(),
        mesh: mesh.to_owned(),
        protocol: Protocol::Tcp,
        tls: UpstreamTls::None,
        balance: Balance::RoundRobin,
        connect_timeout_ms: limits::CONNECT_TIMEOUT_MS,
        idle_timeout_ms: limits::IDLE_TIMEOUT_MS,
        hint: String::new(),
        endpoints: Arc::new(Vec::<Endpoint>::new()),
        origin: Origin::new("default", "", ""),
    }
}

/// Sends everything to one service.
pub(super) fn handler_for(to: &Reached, request_ms: u64) -> Handler {
    let backends = vec![Backend { service: to.name.clone(), weight: 1 }];
    if !to.protocol.is_http() {
        return Handler::Tcp { backends, idle_timeout_ms: limits::IDLE_TIMEOUT_MS };
    }
    let filters = snapshot::Filters { host_of_endpoint: to.named, ..Default::default() }.into();
    let timeouts = Timeouts { request_ms, stream_idle_ms: 0 };
    let route = RouteRow {
        matches: Match::default(),
        action: RouteAction::Forward(Forward { backends, filters, timeouts }),
        origin: Origin::new("default", "", ""),
    };
    Handler::Http { hosts: vec![Arc::new(VirtualHost { host: HostPattern::Any, routes: vec![route] })] }
}
