//! MeshService, MeshMultiZoneService and MeshExternalService as rows: what a sidecar dials, and what zone ingress and
//! egress know of them by SNI. Where they are dialled is `names`' matter, where it is allowed `reachable`'s.

use super::endpoints::{self, Endpoints};
use super::rows::{Reached, Rows, handler_for, service_row};
use super::sni::{self, Named, service};
use super::world::{Instance, MeshIndex, PublicIngress, World, carries};
use super::{Problem, SecretMaterial, external, material, protocol};
use crate::names::{MeshNames, ServiceNames, ZONE_LABEL};
use crate::resource::{
    MeshExternalService, MeshExternalTls, MeshMultiZoneService, MeshService, Meta, Resource, ServiceKind, ServicePort,
    Spec, TargetPort,
};
use snapshot::{
    Access, Client, Endpoint, Origin, PermissionRow, Principal, Protocol, ServiceRow, SniRow, SniTarget, UpstreamTls,
    spiffe_id,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the proxies of this machine trust.
const SYSTEM_CA: &str = "system";

/// A port of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target<'a> {
    pub kind: ServiceKind,
    pub name: &'a str,
    pub port: u16,
}

impl Target<'_> {
    fn short(self) -> (&'static str, &'static str) {
        match self.kind {
            ServiceKind::MeshService => ("ms", "msvc"),
            ServiceKind::MeshExternalService => ("mes", "extsvc"),
            ServiceKind::MeshMultiZoneService => ("mzms", "mzsvc"),
        }
    }

    fn sni(self, mesh: &str) -> String {
        sni::of_resource(&Named { name: self.name, mesh, port: self.port, kind: self.short().0 }, "")
    }

    /// `default_web___msvc_80`: mesh, name, no namespace, no zone, kind, port.
    fn row_name(self, mesh: &str) -> String {
        format!("{mesh}_{}___{}_{}", self.name, self.short().1, self.port)
    }

    pub(super) fn origin(self, mesh: &str) -> Origin {
        Origin::new(self.kind.name(), mesh, self.name)
    }
}

/// Whence a target is looked for.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    pub world: &'a World,
    pub mesh: &'a MeshIndex,
    pub zone: &'a str,
}

impl From<'_> {
    fn via_egress(self) -> bool {
        self.mesh.spec.routing.zone_egress && self.mesh.has_mtls()
    }
}

/// What every proxy that looks from the same zone sees of a target.
#[derive(Debug, Default)]
struct ServiceGroup {
    protocol: Protocol,
    endpoints: Arc<Vec<Endpoint>>,
    hint: String,
    /// URI SANs of those who may answer.
    peers: Vec<String>,
}

/// A port and who answers there: a MeshService's own, or those of all that a MeshMultiZoneService selects.
struct Members<'a> {
    protocol: Protocol,
    list: Vec<(&'a MeshService, &'a Meta, &'a ServicePort)>,
}

fn members<'a>(world: &'a World, mesh: &'a MeshIndex, target: Target<'_>) -> Option<Members<'a>> {
    let on_port = |ports: &'a [ServicePort]| ports.iter().find(|port| port.port == target.port);
    match mesh.backend(target.kind, target.name).map(|r| (&r.meta, &r.spec))? {
        (meta, Spec::MeshService(service)) => {
            let port = on_port(&service.ports)?;
            Some(Members { protocol: protocol_of(&port.app_protocol), list: vec![(service, meta, port)] })
        }
        (_, Spec::MeshMultiZoneService(all)) => {
            let own = on_port(&all.ports)?;
            let list = selected(world, mesh, all).filter_map(|(meta, service)| {
                service.ports.iter().find(|port| port.port == own.port).map(|port| (service, meta, port))
            });
            Some(Members { protocol: protocol_of(&own.app_protocol), list: list.collect() })
        }
        _ => None,
    }
}

fn selected<'a>(
    world: &'a World,
    mesh: &'a MeshIndex,
    all: &'a MeshMultiZoneService,
) -> impl Iterator<Item = (&'a Meta, &'a MeshService)> {
    mesh.backends(ServiceKind::MeshService).iter().filter_map(|r| match &r.spec {
        Spec::MeshService(service) => {
            let labels = crate::names::labels(r, &world.settings.zone);
            all.selector.mesh_service.matches(&labels).then_some((&r.meta, &**service))
        }
        _ => None,
    })
}

fn protocol_of(written: &str) -> Protocol {
    protocol::of_tag(Some(&written.to_owned()))
}

/// Inbounds that answer for a port of a MeshService, ready or not.
fn instances<'a>(
    mesh: &'a MeshIndex,
    (meshed, meta, port): (&'a MeshService, &'a Meta, &'a ServicePort),
) -> impl Iterator<Item = &'a Instance> {
    let tags = &meshed.selector.dataplane_tags;
    let named = meshed.selector.dataplane_ref.as_ref();
    let selects_none = tags.is_empty() && named.is_none();
    let of_service = (!service(tags).is_empty()).then(|| mesh.instances.get(service(tags)));
    let all = mesh.instances.iter().filter(move |_| of_service.is_none() && !selects_none);
    let lists = of_service.flatten().into_iter().chain(all.map(|(_, service)| service));
    let zone = meta.labels.get(ZONE_LABEL);
    let target = port.target_port.clone().unwrap_or(TargetPort::Number(port.port));
    lists.flat_map(|service| &service.instances).filter(move |instance| {
        let is_port = match &target {
            TargetPort::Number(number) => instance.port == *number,
            TargetPort::Name(name) => instance.inbound == *name,
        };
        is_port
            && !selects_none
            && named.is_none_or(|wanted| instance.origin.name == wanted.name)
            && zone.is_none_or(|zone| instance.zone == *zone)
            && carries(&instance.tags, tags)
    })
}

/// Who answers in `zone` itself.
fn local(mesh: &MeshIndex, members: &Members<'_>, zone: &str) -> Arc<Vec<Endpoint>> {
    let mut list = Endpoints::default();
    for member in &members.list {
        let ready = instances(mesh, *member).filter(|instance| instance.ready && instance.zone == zone);
        ready.for_each(|instance| list.push(endpoints::of_instance(instance, 1, 0)));
    }
    list.sorted()
}

/// Ingresses of other zones where somebody answers, with how many.
fn remote<'a>(world: &'a World, mesh: &MeshIndex, members: &Members<'_>, zone: &str) -> Vec<(&'a PublicIngress, u32)> {
    let mut by_zone: BTreeMap<&str, u32> = BTreeMap::new();
    for member in members.list.iter().filter(|(service, ..)| service.state != "Unavailable") {
        for instance in instances(mesh, *member).filter(|instance| instance.ready && instance.zone != zone) {
            let count = by_zone.entry(&instance.zone).or_default();
            *count = count.saturating_add(1);
        }
    }
    let ingresses = world.ingresses.iter().filter(|ingress| ingress.zone != zone);
    ingresses.filter_map(|ingress| Some((ingress, *by_zone.get(ingress.zone.as_str())?))).collect()
}

fn search(from: From<'_>, target: Target<'_>) -> ServiceGroup {
    let From { world, mesh, zone } = from;
    let via_egress = from.via_egress();
    let Some(members) = members(world, mesh, target) else {
        let hint = format!("there is no {} with port {}", target.origin(&mesh.name), target.port);
        return ServiceGroup { hint, ..ServiceGroup::default() };
    };
    let mut list = Endpoints::default();
    local(mesh, &members, zone).iter().cloned().for_each(|endpoint| list.push(endpoint));
    let far = if mesh.has_mtls() { remote(world, mesh, &members, zone) } else { Vec::new() };
    let egresses = endpoints::egresses(world, zone, 1, 1);
    if via_egress && !far.is_empty() {
        egresses.iter().cloned().for_each(|egress| list.push(egress));
    } else if !via_egress {
        far.iter().for_each(|(ingress, count)| list.push(endpoints::of_ingress(ingress, *count, 1)));
    }
    let endpoints = list.sorted();
    let mut peers: BTreeSet<String> = BTreeSet::new();
    let mut idle = 0;
    for member in &members.list {
        peers.extend(instances(mesh, *member).map(|instance| spiffe_id(&mesh.name, service(&instance.tags))));
        idle += instances(mesh, *member).count();
        for identity in &member.0.identities {
            let is_tag = identity.kind == "ServiceTag";
            peers.insert(if is_tag { spiffe_id(&mesh.name, &identity.value) } else { identity.value.clone() });
        }
    }
    if peers.is_empty() {
        peers.insert(spiffe_id(&mesh.name, target.name));
    }
    let hint = match (endpoints.is_empty(), via_egress && !far.is_empty()) {
        (false, _) => String::new(),
        (true, true) => endpoints::no_egress(&mesh.name, zone),
        (true, false) if idle > 0 => {
            format!("{} has {idle} inbound(s), and none is ready and reachable from here", target.origin(&mesh.name))
        }
        (true, false) => format!("{} selects no inbound on port {}", target.origin(&mesh.name), target.port),
    };
    ServiceGroup { protocol: members.protocol, endpoints, hint, peers: peers.into_iter().collect() }
}

/// The row that a sidecar's listeners refer to, made when it isn't there yet. None where there is no such target.
pub(super) fn reach(from: From<'_>, rows: &mut Rows, target: Target<'_>) -> Option<Reached> {
    let name = target.row_name(&from.mesh.name);
    if let Some(row) = rows.services.get(&name) {
        return Some(Reached { protocol: row.protocol, name, named: false });
    }
    let row = row(from, target)?;
    let protocol = row.protocol;
    put(rows, row);
    Some(Reached { protocol, name, named: false })
}

/// What every sidecar that looks from the same zone gets. None where there is no such target.
pub(super) fn row(from: From<'_>, target: Target<'_>) -> Option<ServiceRow> {
    let resource = from.mesh.backend(target.kind, target.name)?;
    Some(match &resource.spec {
        Spec::MeshExternalService(spec) => external_row(from, target, spec),
        _ => internal_row(from, target),
    })
}

fn put(rows: &mut Rows, row: ServiceRow) {
    rows.services.insert(row.name.clone(), Arc::new(row));
}

fn internal_row(from: From<'_>, target: Target<'_>) -> ServiceRow {
    let mesh = from.mesh;
    let group = search(from, target);
    let mut row = service_row(target.row_name(&mesh.name), &mesh.name, target.name);
    row.protocol = group.protocol;
    row.hint = group.hint;
    row.endpoints = group.endpoints;
    row.origin = target.origin(&mesh.name);
    if mesh.has_mtls() {
        row.tls = mesh_tls(&mesh.name, target, group.peers);
    }
    row
}

fn mesh_tls(mesh: &str, target: Target<'_>, peers: Vec<String>) -> UpstreamTls {
    UpstreamTls::Mesh { identity_mesh: mesh.to_owned(), mesh: mesh.to_owned(), sni: target.sni(mesh), peers }
}

/// Through the zone's egress or not at all.
fn external_row(from: From<'_>, target: Target<'_>, spec: &MeshExternalService) -> ServiceRow {
    let From { world, mesh, zone } = from;
    let mut row = service_row(target.row_name(&mesh.name), &mesh.name, target.name);
    row.protocol = protocol_of(&spec.r#match.protocol);
    row.origin = target.origin(&mesh.name);
    if !mesh.has_mtls() {
        row.hint = format!("{} is reached through zone egress, which needs mTLS in mesh {}", row.origin, mesh.name);
        return row;
    }
    row.endpoints = Arc::new(endpoints::egresses(world, zone, 1, 0));
    if row.endpoints.is_empty() {
        row.hint = endpoints::no_egress(&mesh.name, zone);
    }
    row.tls = mesh_tls(&mesh.name, target, vec![spiffe_id(&mesh.name, super::egress::SERVICE_NAME)]);
    row
}

/// Every port of the kinds that zones pass on.
fn targets(mesh: &MeshIndex) -> impl Iterator<Item = Target<'_>> {
    let kinds = [ServiceKind::MeshService, ServiceKind::MeshMultiZoneService];
    kinds.into_iter().flat_map(|kind| mesh.backends(kind)).flat_map(|resource| {
        let (kind, ports) = match &resource.spec {
            Spec::MeshMultiZoneService(all) => (ServiceKind::MeshMultiZoneService, all.ports.as_slice()),
            Spec::MeshService(service) => (ServiceKind::MeshService, service.ports.as_slice()),
            _ => (ServiceKind::MeshService, &[] as &[ServicePort]),
        };
        ports.iter().map(move |port| Target { kind, name: &resource.meta.name, port: port.port })
    })
}

fn pass(rows: &mut Rows, mesh: &str, target: Target<'_>, (endpoints, hint): (Arc<Vec<Endpoint>>, String)) {
    let name = target.row_name(mesh);
    let mut row = service_row(name.clone(), mesh, target.name);
    row.hint = if endpoints.is_empty() { hint } else { String::new() };
    row.endpoints = endpoints;
    row.origin = target.origin(mesh);
    put(rows, row);
    route(rows, mesh, target, SniTarget::Passthrough { service: name });
}

fn route(rows: &mut Rows, mesh: &str, target: Target<'_>, to: SniTarget) {
    let sni = target.sni(mesh);
    let row = SniRow { sni: sni.clone(), target: to, origin: target.origin(mesh) };
    rows.snis.entry(sni).or_insert(row);
}

/// What an ingress passes on to the workloads of its own zone.
pub(super) fn at_ingress(world: &World, mesh: &MeshIndex, own_zone: &str, rows: &mut Rows) {
    for target in targets(mesh) {
        let Some(members) = members(world, mesh, target) else { continue };
        if !members.list.iter().any(|member| instances(mesh, *member).any(|instance| instance.zone == own_zone)) {
            continue;
        }
        let hint = format!("no inbound of {} is ready in this zone", target.origin(&mesh.name));
        pass(rows, &mesh.name, target, (local(mesh, &members, own_zone), hint));
    }
}

/// What an egress passes on to the ingresses of other zones.
pub(super) fn at_egress(world: &World, mesh: &MeshIndex, own_zone: &str, rows: &mut Rows) {
    for target in targets(mesh).filter(|_| mesh.spec.routing.zone_egress) {
        let Some(members) = members(world, mesh, target) else { continue };
        let mut list = Endpoints::default();
        let far = remote(world, mesh, &members, own_zone);
        far.iter().for_each(|(ingress, count)| list.push(endpoints::of_ingress(ingress, *count, 0)));
        let endpoints = list.sorted();
        if !endpoints.is_empty() {
            pass(rows, &mesh.name, target, (endpoints, String::new()));
        }
    }
    for resource in mesh.backends(ServiceKind::MeshExternalService) {
        let Spec::MeshExternalService(spec) = &resource.spec else { continue };
        if let Err(text) = terminate(world, mesh, (resource, spec), rows) {
            let origin = Origin::new("MeshExternalService", &mesh.name, &resource.meta.name);
            rows.aside.problems.push(Problem::new(origin, format!("{text}; it is left out")));
        }
    }
}

/// mTLS ends here, and the external service is dialled from here.
fn terminate(
    world: &World,
    mesh: &MeshIndex,
    (resource, spec): (&Resource, &MeshExternalService),
    rows: &mut Rows,
) -> Result<(), String> {
    let name = resource.meta.name.as_str();
    let target = Target { kind: ServiceKind::MeshExternalService, name, port: spec.r#match.port };
    let mut list = Endpoints::default();
    for endpoint in &spec.endpoints {
        let text = match endpoint.address.contains(':') {
            true => format!("[{}]:{}", endpoint.address, endpoint.port),
            false => format!("{}:{}", endpoint.address, endpoint.port),
        };
        let (address, port) = endpoints::host_and_port(&text).ok_or_else(|| format!("{text} is no address"))?;
        let (zone, origin) = (String::new(), target.origin(&mesh.name));
        list.push(Endpoint { address, port, weight: 1, priority: 0, zone, origin });
    }
    let mut row = service_row(target.row_name(&mesh.name), &mesh.name, name);
    row.protocol = protocol_of(&spec.r#match.protocol);
    row.origin = target.origin(&mesh.name);
    row.endpoints = list.sorted();
    if row.endpoints.is_empty() {
        row.hint = format!("{} has no endpoints", row.origin);
    }
    if let Some(tls) = spec.tls.as_ref().filter(|tls| tls.enabled) {
        row.tls = tls_of(world, mesh, &resource.meta, tls, rows)?;
    }
    let is_named = external::is_named(&row.endpoints);
    let to = Reached { name: row.name.clone(), protocol: row.protocol, named: is_named };
    let permission = permit(mesh, rows);
    let handler = handler_for(&to, 0);
    put(rows, row);
    let mesh_name = mesh.name.clone();
    let to = SniTarget::Terminate { mesh: mesh_name, permission, handler, protocol: to.protocol };
    route(rows, &mesh.name, target, to);
    Ok(())
}

/// Everybody in the mesh, unless the mesh forbids it.
fn permit(mesh: &MeshIndex, rows: &mut Rows) -> String {
    let is_forbidden = mesh.spec.routing.default_forbid_mesh_external_service_access;
    let access = if is_forbidden { Access::Deny } else { Access::AnyOf(vec![Principal::default()]) };
    let name = format!("{}/mesh-external-services", mesh.name);
    let origin = Origin::new("Mesh", "", &mesh.name);
    rows.permissions.entry(name.clone()).or_insert(PermissionRow { name: name.clone(), access, origin });
    name
}

fn tls_of(
    world: &World,
    mesh: &MeshIndex,
    meta: &Meta,
    tls: &MeshExternalTls,
    rows: &mut Rows,
) -> Result<UpstreamTls, String> {
    let given = tls.verification.clone().unwrap_or_default();
    let read =
        |source, field: &str| material::read(world, mesh, source).map_err(|e| format!("tls.verification.{field}: {e}"));
    let skips_ca = ["SkipCA", "SkipAll"].contains(&given.mode.as_str());
    let ca_pem = match &given.ca_cert {
        _ if skips_ca => String::new(),
        Some(source) => read(source, "caCert")?,
        None => SYSTEM_CA.to_owned(),
    };
    if given.subject_alt_names.as_array().is_some_and(|list| !list.is_empty()) {
        let origin = Origin::new("MeshExternalService", &mesh.name, &meta.name);
        let text =
            "tls.verification.subjectAltNames aren't compared: the certificate must name serverName or the address";
        rows.aside.problems.push(Problem::new(origin, text));
    }
    let mut secret = String::new();
    if let (Some(cert), Some(key)) = (&given.client_cert, &given.client_key) {
        let (cert_pem, key_pem) = (read(cert, "clientCert")?, read(key, "clientKey")?);
        secret = format!("mesh-external-service/{}/{}", mesh.name, meta.name);
        rows.aside.secrets.push(SecretMaterial { name: secret.clone(), cert_pem, key_pem });
    }
    let skip_name_check = skips_ca || given.mode == "SkipSAN";
    Ok(UpstreamTls::External { client: Client { server_name: given.server_name, ca_pem, skip_name_check, secret } })
}

/// Who stands behind a service, for its status.
#[derive(Debug, Default)]
pub struct ServiceMembers {
    /// Dataplanes that a MeshService selects.
    pub proxies: BTreeSet<String>,
    /// Those of them with an inbound that is ready.
    pub healthy: usize,
    /// MeshServices that a MeshMultiZoneService selects.
    pub services: Vec<String>,
}

impl World {
    pub fn names(&self, mesh: &str) -> Option<&Arc<MeshNames>> {
        self.meshes.get(mesh).map(|index| &index.names)
    }

    pub fn services(&self, mesh: &str) -> Option<&Arc<ServiceNames>> {
        self.settings.services.get(mesh)
    }

    /// Of a resource, as HostnameGenerators and references see them.
    pub fn labels(&self, resource: &Resource) -> crate::resource::Tags {
        crate::names::labels(resource, &self.settings.zone)
    }

    pub fn service_members(&self, mesh: &str, kind: ServiceKind, name: &str) -> ServiceMembers {
        let mut found = ServiceMembers::default();
        let Some(mesh) = self.meshes.get(mesh) else { return found };
        let Some(resource) = mesh.backend(kind, name) else { return found };
        match &resource.spec {
            Spec::MeshService(service) => {
                let mut healthy = BTreeSet::new();
                for port in &service.ports {
                    for instance in instances(mesh, (service, &resource.meta, port)) {
                        found.proxies.insert(instance.origin.name.clone());
                        if instance.ready {
                            healthy.insert(instance.origin.name.as_str());
                        }
                    }
                }
                found.healthy = healthy.len();
            }
            Spec::MeshMultiZoneService(all) => {
                found.services = selected(self, mesh, all).map(|(meta, _)| meta.name.clone()).collect();
            }
            _ => {}
        }
        found
    }
}
