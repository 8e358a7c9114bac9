//! A Dataplane beside a workload, and a delegated gateway, which is one without inbounds. It knows which sockets and
//! virtual addresses there are and what stands behind them; endpoints are `endpoints`' matter.

use super::reachable::{Reachable, Reference};
use super::rows::{Client, Input, Rows, Upstreams, handler_for};
use super::services::Target;
use super::shared::Place;
use super::sni::{PROTOCOL, SERVICE, ZONE};
use super::{Made, Options, protocol, services};
use crate::names::{MeshNames, NamedOutbound};
use crate::resource::{Inbound, Tags};
use crate::settings::Aaaa;
use snapshot::{Handler, InboundTls, Interception, ListenerRow, NameRow, Origin, ProxyKind, Role, limits};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

pub(super) fn compile(input: Input<'_>, options: Options) -> Made {
    let mut proxy = input.proxy_row(ProxyKind::Sidecar);
    let net = &input.dataplane.networking;
    (proxy.passthrough, proxy.passthrough_rows) = super::passthrough::of(input);
    if let Some(tp) = &net.transparent_proxying {
        proxy.interception = Interception {
            outbound_port: tp.redirect_port_outbound,
            inbound_port: tp.redirect_port_inbound,
            ipv4_only: tp.ip_family_mode.eq_ignore_ascii_case("ipv4"),
        };
    }
    let is_transparent = proxy.interception.outbound_port != 0 || proxy.interception.inbound_port != 0;
    let aaaa = input.world.settings.aaaa;
    let has_ipv6 = input.world.settings.has_ipv6 && aaaa == Aaaa::Native && !proxy.interception.ipv4_only;
    if !has_ipv6 {
        proxy.dns.vip_ranges.retain(|range| !range.contains(':'));
    }
    let zone = proxy.zone.clone();
    let client = Client { mesh: input.mesh, zone: &zone, dataplane: Some(input.dataplane) };
    let mut sidecar = Sidecar {
        input,
        zone: &zone,
        rows: Rows::default(),
        upstreams: Upstreams::new(input.world, client),
        captured: proxy.interception.inbound_port != 0,
        has_ipv6,
        probes: Vec::new(),
        is_mapped: aaaa == Aaaa::Mapped && !proxy.interception.ipv4_only,
    };
    sidecar.inbounds();
    if !is_transparent {
        sidecar.written_outbounds();
    }
    if is_transparent || options.as_transparent {
        sidecar.outbounds();
    }
    let direct = net.transparent_proxying.as_ref().map_or(&[] as &[String], |tp| &tp.direct_access_services);
    if is_transparent && !direct.is_empty() {
        super::direct::listen(input, &mut sidecar.rows, direct, !proxy.interception.ipv4_only);
    }
    proxy.probes = sidecar.probes;
    sidecar.rows.finish(proxy)
}

struct Sidecar<'a> {
    input: Input<'a>,
    zone: &'a str,
    rows: Rows,
    upstreams: Upstreams<'a>,
    captured: bool,
    has_ipv6: bool,
    probes: Vec<snapshot::ProbeRow>,
    /// AAAA answers are the IPv4 addresses in IPv6 form: sockets of both families reach the IPv4 listener.
    is_mapped: bool,
}

impl Sidecar<'_> {
    fn inbounds(&mut self) {
        let net = &self.input.dataplane.networking;
        let shared = self.input.world.ip(&net.address);
        for inbound in net.inbound.iter().filter(|i| i.port != Inbound::MARKER_PORT) {
            let Some(ip) = inbound.address.or(shared) else {
                let text = format!("address {} doesn't resolve: inbound {} isn't served", net.address, inbound.port);
                self.rows.note(self.input.origin(), text);
                continue;
            };
            if let Some(app) = self.app(inbound, ip) {
                let row = self.inbound(inbound, SocketAddr::new(ip, inbound.port), app);
                self.probe(inbound, row.address, app);
                self.rows.listen(row);
            }
        }
    }

    /// Where the application listens. Without interception it can't be the listener's own address.
    fn app(&mut self, inbound: &Inbound, ip: IpAddr) -> Option<SocketAddr> {
        let port = inbound.service_port.filter(|p| *p != 0).unwrap_or(inbound.port);
        let app = SocketAddr::new(inbound.service_address.unwrap_or(ip), port);
        let listener = SocketAddr::new(ip, inbound.port);
        if self.captured || app != listener {
            return Some(app);
        }
        let local = SocketAddr::new(loopback(ip), port);
        let service = inbound.service();
        if local == listener || inbound.service_address.is_some() {
            let text = format!(
                "inbound {listener} of {service} would send to itself, and isn't served: set servicePort or serviceAddress to where the application listens"
            );
            self.rows.note(self.input.origin(), text);
            return None;
        }
        let text = format!(
            "inbound {listener} of {service} has no servicePort or serviceAddress: the application is expected at {local}"
        );
        self.rows.note(self.input.origin(), text);
        Some(local)
    }

    /// Each value that the Dataplane leaves out is the control plane's.
    fn probe(&mut self, inbound: &Inbound, listener: SocketAddr, app: SocketAddr) {
        let defaults = &self.input.world.settings.probing;
        let Some(probe) = inbound.service_probe.as_ref().filter(|_| defaults.enabled) else { return };
        let ms = |text: &Option<String>, default: std::time::Duration| {
            let given = text.as_deref().and_then(|text| crate::time::parse_go_duration(text).ok());
            u64::try_from(given.unwrap_or(default).as_millis()).unwrap_or(u64::MAX)
        };
        self.probes.push(snapshot::ProbeRow {
            inbound: inbound.probed_as(),
            listener,
            app,
            captured: self.captured,
            interval_ms: ms(&probe.interval, defaults.interval),
            timeout_ms: ms(&probe.timeout, defaults.timeout),
            healthy_threshold: probe.healthy_threshold.unwrap_or(defaults.healthy_threshold),
            unhealthy_threshold: probe.unhealthy_threshold.unwrap_or(defaults.unhealthy_threshold),
        });
    }

    fn inbound(&mut self, inbound: &Inbound, address: SocketAddr, app: SocketAddr) -> ListenerRow {
        let mesh = self.input.mesh;
        let mut tags = inbound.tags.clone();
        let zone = self.input.world.zone_of_tags(&inbound.tags);
        if !zone.is_empty() {
            tags.insert(ZONE.into(), zone.to_owned());
        }
        let tls = match mesh.spec.ca() {
            None => InboundTls::Off,
            Some(ca) if ca.is_permissive() => InboundTls::Permissive,
            Some(_) => InboundTls::Strict,
        };
        let role = Role::Inbound {
            captured: self.captured,
            service: inbound.service().to_owned(),
            protocol: protocol::of_tag(inbound.tags.get(PROTOCOL)),
            app,
            tls,
            permission: self.rows.permit(mesh, &tags),
        };
        ListenerRow { address, role, origin: self.input.origin() }
    }

    fn written_outbounds(&mut self) {
        for outbound in &self.input.dataplane.networking.outbound {
            let address = SocketAddr::new(outbound.address.unwrap_or(Ipv4Addr::LOCALHOST.into()), outbound.port);
            let origin = self.input.origin();
            if let Some(written) = &outbound.backend_ref {
                let target = Reference::read(written).and_then(|r| r.target(self.input.world, self.input.mesh));
                if target.is_none_or(|target| !self.lead_to((address, false), target, origin.clone())) {
                    let text =
                        format!("outbound {address}: no resource is what its backendRef {written} says: left out");
                    self.rows.note(origin, text);
                }
                continue;
            }
            if !outbound.tags.contains_key(SERVICE) {
                self.rows.note(origin, format!("outbound {address} has no kuma.io/service tag: left out"));
                continue;
            }
            self.outbound(address, false, &outbound.tags, origin);
        }
    }

    /// Virtual listeners and names; those that all sidecars have are made once for all.
    fn outbounds(&mut self) {
        let tp = self.input.dataplane.networking.transparent_proxying.as_ref();
        let named: BTreeSet<&str> = tp.iter().flat_map(|tp| &tp.reachable_services).map(String::as_str).collect();
        let backends = Reachable::of(tp, self.input.mesh.spec.mesh_services_mode());
        let has_backends = matches!(backends, Reachable::All);
        let place = Place { zone: self.zone.to_owned(), has_ipv6: self.has_ipv6, has_backends };
        let has_common = named.is_empty() && !self.is_mapped;
        let common = || self.input.mesh.sidecars.at(self.input.world, self.input.mesh, place);
        if let Some(shared) = has_common.then(common).flatten() {
            shared.left_out().for_each(|outbound| self.named_outbound(outbound));
            self.unplaced_names(&|_, name| shared.snapshot.name(name).is_none());
            self.rows.shared = Some(shared);
            if has_backends {
                return;
            }
        } else {
            self.named_outbounds(&named);
        }
        self.service_outbounds(&backends);
    }

    /// Virtual listeners, and the names that still lead to one. `reachable`: to which services; none = to all.
    fn named_outbounds(&mut self, reachable: &BTreeSet<&str>) {
        let is_reachable = |o: &&Arc<NamedOutbound>| {
            reachable.is_empty() || o.tags.get(SERVICE).is_some_and(|s| reachable.contains(&**s))
        };
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for outbound in self.input.mesh.names.outbounds.iter().filter(is_reachable) {
            v4.extend(outbound.v4);
            v6.extend(outbound.v6.filter(|_| self.has_ipv6));
            self.named_outbound(outbound);
        }
        self.freed_outbounds();
        for row in &self.input.mesh.names.names {
            let remains = row.v4.is_some_and(|ip| v4.contains(&ip)) || row.v6.is_some_and(|ip| v6.contains(&ip));
            if remains {
                let mapped = row.v4.filter(|_| self.is_mapped).map(|v4| v4.to_ipv6_mapped());
                let v6 = row.v6.filter(|_| self.has_ipv6).or(mapped);
                let row = if v6 == row.v6 { row.clone() } else { Arc::new(NameRow { v6, ..NameRow::clone(row) }) };
                self.rows.names.insert(row.name.clone(), row);
            }
        }
        self.unplaced_names(&|service, _| reachable.is_empty() || reachable.contains(service));
    }

    /// Names to refuse, those of (service, name) that `is_for` says yes to, unless somebody else has them.
    fn unplaced_names(&mut self, is_for: &dyn Fn(&str, &str) -> bool) {
        for (_, row) in self.input.mesh.names.unplaced.iter().filter(|(service, row)| is_for(service, &row.name)) {
            self.rows.names.entry(row.name.clone()).or_insert_with(|| row.clone());
        }
    }

    fn named_outbound(&mut self, outbound: &NamedOutbound) {
        let v6 = outbound.v6.filter(|_| self.has_ipv6);
        for ip in outbound.v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
            self.outbound(SocketAddr::new(ip, outbound.port), true, &outbound.tags, outbound.origin.clone());
        }
    }

    /// Of the newer kinds, where they are dialled and what they are called.
    fn service_outbounds(&mut self, reachable: &Reachable) {
        let Input { world, mesh, .. } = self.input;
        let Some(services) = world.services(&mesh.name) else { return };
        let mut served = BTreeSet::new();
        for outbound in services.outbounds.iter().filter(|o| reachable.contains(world, mesh, o)) {
            let target = Target { kind: outbound.kind, name: &outbound.name, port: outbound.port };
            let origin = Origin::new(outbound.kind.name(), &mesh.name, &outbound.name);
            let v6 = outbound.v6.filter(|_| self.has_ipv6).map(IpAddr::V6);
            for ip in outbound.v4.map(IpAddr::V4).into_iter().chain(v6) {
                served.insert(ip);
                self.lead_to((SocketAddr::new(ip, outbound.port), true), target, origin.clone());
            }
        }
        for row in &services.names {
            let mapped = row.v4.filter(|_| self.is_mapped).map(|v4| v4.to_ipv6_mapped());
            let v6 = row.v6.filter(|_| self.has_ipv6).or(mapped);
            let mut addresses = row.v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
            if addresses.any(|ip| served.contains(&ip)) {
                self.rows.names.insert(row.name.clone(), Arc::new(NameRow { v6, ..row.clone() }));
            }
        }
    }

    /// Says whether there is such a service and port.
    fn lead_to(&mut self, (address, vip): (SocketAddr, bool), target: Target<'_>, origin: Origin) -> bool {
        let Input { world, mesh, .. } = self.input;
        let from = services::From { world, mesh, zone: self.zone };
        let Some(to) = services::reach(from, &mut self.rows, target) else { return false };
        let handler = handler_for(&to, limits::REQUEST_TIMEOUT_MS);
        self.rows.listen(ListenerRow { address, role: Role::Outbound { vip, handler }, origin });
        true
    }

    fn freed_outbounds(&mut self) {
        for row in freed(&self.input.mesh.names, self.has_ipv6) {
            self.rows.listeners.entry(row.address).or_insert(row);
        }
    }

    fn outbound(&mut self, address: SocketAddr, vip: bool, tags: &Tags, origin: Origin) {
        let to = self.upstreams.reach(&mut self.rows, tags);
        let handler = handler_for(&to, limits::REQUEST_TIMEOUT_MS);
        self.rows.listen(ListenerRow { address, role: Role::Outbound { vip, handler }, origin });
    }
}

/// Without a backend: who uses an old DNS answer is reset, and the log says whose address it was.
pub(super) fn freed(names: &MeshNames, has_ipv6: bool) -> impl Iterator<Item = ListenerRow> {
    names.freed.iter().flat_map(move |freed| {
        let v6 = freed.v6.filter(|_| has_ipv6).map(IpAddr::V6);
        freed.v4.map(IpAddr::V4).into_iter().chain(v6).map(|ip| {
            let handler = Handler::Tcp { backends: Vec::new(), idle_timeout_ms: 0 };
            let role = Role::Outbound { vip: true, handler };
            ListenerRow { address: SocketAddr::new(ip, freed.port), role, origin: freed.origin.clone() }
        })
    })
}

fn loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}
