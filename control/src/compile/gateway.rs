//! A builtin gateway: which MeshGateway applies, its listeners by port, and their TLS. What happens to a request is
//! decided in `gateway_routes`.

use super::gateway_hosts::{self, Sub};
use super::gateway_routes::{self, Draft};
use super::rows::{Client, Input, Rows, Upstreams};
use super::selected::Selected;
use super::sni::ZONE;
use super::world::MeshIndex;
use super::{Made, material};
use crate::resource::{
    GatewayListener, GatewayProtocol, MeshGateway, MeshGatewayRoute, Meta, RouteConf, RouteFilter, Tags, TlsMode,
};
use crate::select::{Precedence, selector_rank};
use snapshot::{Backend, GatewayTls, Handler, HostPattern, ListenerRow, Origin, ProxyKind, Role, ServerName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// A TCP connection through a gateway ends after this long without a byte.
const TCP_IDLE_TIMEOUT_MS: u64 = 300_000;

/// The one MeshGateway for a proxy with `tags`: most specific, newest, first by name.
pub(super) fn choose<'a>(mesh: &'a MeshIndex, tags: &Tags) -> Option<(&'a Meta, &'a MeshGateway)> {
    let ranked = mesh.gateways().filter_map(|(meta, gateway)| {
        selector_rank(&gateway.selectors, tags).map(|rank| (Precedence::new(rank, meta), meta, gateway))
    });
    ranked.max_by_key(|(precedence, ..)| *precedence).map(|(_, meta, gateway)| (meta, gateway))
}

/// Of the proxy, the MeshGateway and the listener; the later wins.
pub(super) fn effective_tags(own: &Tags, gateway: &MeshGateway, listener: &GatewayListener) -> Tags {
    let mut tags = own.clone();
    for further in [&gateway.tags, &listener.tags] {
        tags.extend(further.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    tags
}

/// All destinations that a route can send to.
pub(super) fn destinations(route: &MeshGatewayRoute) -> Vec<&Tags> {
    match &route.conf {
        RouteConf::Tcp(rules) => rules.iter().flatten().map(|b| &b.destination).collect(),
        RouteConf::Http { rules, .. } => {
            let mirrors = rules.iter().flat_map(|r| &r.filters).filter_map(|f| match f {
                RouteFilter::Mirror(mirror) => Some(&mirror.backend.destination),
                _ => None,
            });
            rules.iter().flat_map(|r| &r.backends).map(|b| &b.destination).chain(mirrors).collect()
        }
    }
}

pub(super) fn compile(input: Input<'_>) -> Made {
    let proxy = input.proxy_row(ProxyKind::Gateway);
    let mut rows = Rows::default();
    let net = &input.dataplane.networking;
    let mut tags = net.gateway.as_ref().map(|g| g.tags.clone()).unwrap_or_default();
    if !proxy.zone.is_empty() {
        tags.insert(ZONE.into(), proxy.zone.clone());
    }
    let Some(address) = input.world.ip(&net.address) else {
        rows.note(input.origin(), format!("address {} doesn't resolve: the gateway listens nowhere", net.address));
        return rows.finish(proxy);
    };
    let Some((meta, spec)) = choose(input.mesh, &tags) else {
        rows.note(input.origin(), "no MeshGateway selects this gateway: it listens nowhere");
        return rows.finish(proxy);
    };
    let origin = Origin::new("MeshGateway", &input.mesh.name, &meta.name);
    let selected = Selected::new(input.mesh.gateway_routes());
    let mut ports: BTreeMap<u16, Vec<Sub<'_>>> = BTreeMap::new();
    for listener in &spec.listeners {
        let routes = selected.by(&effective_tags(&tags, spec, listener));
        let sub = Sub { host: HostPattern::parse(&listener.hostname), listener, routes };
        ports.entry(listener.port).or_default().push(sub);
    }
    let client = Client { mesh: input.mesh, zone: &proxy.zone, dataplane: Some(input.dataplane) };
    let mut gateway = Builtin { input, origin, rows, upstreams: Upstreams::new(input.world, client) };
    gateway.note_misfits(ports.values().flatten());
    for (port, subs) in ports {
        gateway.port(SocketAddr::new(address, port), subs);
    }
    gateway.rows.finish(proxy.clone())
}

pub(super) struct Builtin<'a> {
    pub input: Input<'a>,
    pub origin: Origin,
    pub rows: Rows,
    pub upstreams: Upstreams<'a>,
}

impl<'a> Builtin<'a> {
    /// Takes over what was said and asked for when a route was read.
    pub(super) fn take(&mut self, draft: &Draft) {
        self.rows.aside.problems.extend(draft.notes.iter().cloned());
        for tags in &draft.destinations {
            self.upstreams.reach(&mut self.rows, tags);
        }
    }

    fn port(&mut self, address: SocketAddr, subs: Vec<Sub<'a>>) {
        let Some(first) = subs.first().map(|sub| sub.listener) else { return };
        let (mut fit, odd): (Vec<Sub<'a>>, Vec<Sub<'a>>) = subs
            .into_iter()
            .partition(|s| s.listener.protocol == first.protocol && s.listener.cross_mesh == first.cross_mesh);
        for Sub { listener, .. } in odd {
            let text = format!(
                "listener `{}` on port {} differs in protocol or crossMesh from the first one there: left out",
                listener.hostname, listener.port
            );
            self.rows.note(self.origin.clone(), text);
        }
        let connections_max = fit.iter().find_map(|sub| sub.listener.connection_limit.filter(|n| *n != 0));
        fit.sort_by_cached_key(|sub| order(&sub.host));
        let Some((handler, tls)) = self.serve(first, &mut fit) else { return };
        let role = Role::Gateway { handler, tls, connections_max };
        self.rows.listen(ListenerRow { address, role, origin: self.origin.clone() });
    }

    /// What a port does, or `None` with a note.
    fn serve(&mut self, first: &GatewayListener, subs: &mut Vec<Sub<'a>>) -> Option<(Handler, GatewayTls)> {
        match first.protocol {
            GatewayProtocol::Http if first.cross_mesh => {
                let mesh = self.input.mesh;
                if !mesh.has_mtls() {
                    let text =
                        format!("crossMesh listener on port {} needs mTLS in mesh {}: left out", first.port, mesh.name);
                    self.rows.note(self.origin.clone(), text);
                    return None;
                }
                let meshes = self.input.world.meshes.values().filter(|m| m.has_mtls());
                let client_meshes = meshes.map(|m| m.name.clone()).collect();
                let hosts = gateway_hosts::hosts(self, subs, first);
                Some((Handler::Http { hosts }, GatewayTls::Mesh { mesh: mesh.name.clone(), client_meshes }))
            }
            GatewayProtocol::Http => {
                Some((Handler::Http { hosts: gateway_hosts::hosts(self, subs, first) }, GatewayTls::None))
            }
            GatewayProtocol::Https => {
                let secrets = self.certificates(subs)?;
                Some((
                    Handler::Http { hosts: gateway_hosts::hosts(self, subs, first) },
                    GatewayTls::Terminate { secrets },
                ))
            }
            GatewayProtocol::Tcp => Some((self.tcp(subs), GatewayTls::None)),
            GatewayProtocol::Tls => {
                let mode = first.tls.as_ref().map_or(TlsMode::None, |tls| tls.mode);
                if mode != TlsMode::Terminate || subs.len() > 1 {
                    let text = format!(
                        "TLS on port {} is served only with one listener and mode TERMINATE so far: left out",
                        first.port
                    );
                    self.rows.note(self.origin.clone(), text);
                    return None;
                }
                let secrets = self.certificates(subs)?;
                Some((self.tcp(subs), GatewayTls::Terminate { secrets }))
            }
            GatewayProtocol::None => {
                let text = format!("listener on port {} has no protocol: left out", first.port);
                self.rows.note(self.origin.clone(), text);
                None
            }
        }
    }

    /// Certificates of each listener; a listener without a usable one is left out alone.
    fn certificates(&mut self, subs: &mut Vec<Sub<'a>>) -> Option<Vec<ServerName>> {
        let mut names = Vec::new();
        subs.retain(|sub| {
            let before = names.len();
            for (at, source) in sub.listener.tls.iter().flat_map(|tls| &tls.certificates).enumerate() {
                let name = format!(
                    "gateway/{}/{}/{}/{}/{at}",
                    self.origin.mesh, self.origin.name, sub.listener.port, sub.host
                );
                let pem = material::read(self.input.world, self.input.mesh, source);
                match pem.and_then(|pem| material::key_pair(name, &pem)) {
                    Ok(pair) => {
                        names.push(ServerName { host: sub.host.clone(), secret: pair.name.clone() });
                        self.rows.aside.secrets.push(pair);
                    }
                    Err(text) => {
                        let place = format!("listener `{}` on port {}", sub.host, sub.listener.port);
                        self.rows.note(self.origin.clone(), format!("{place}: certificate {at}: {text}"));
                    }
                }
            }
            if names.len() == before {
                let place = format!("listener `{}` on port {}", sub.host, sub.listener.port);
                self.rows.note(self.origin.clone(), format!("{place} has no usable certificate: left out"));
            }
            names.len() > before
        });
        (!names.is_empty()).then_some(names)
    }

    /// All backends of all rules of all routes are one weighted set.
    fn tcp(&mut self, subs: &[Sub<'a>]) -> Handler {
        let mut seen = BTreeSet::new();
        let mut pooled: Vec<Backend> = Vec::new();
        for (resource, route) in subs.iter().flat_map(|sub| &sub.routes) {
            let RouteConf::Tcp(rules) = &route.conf else { continue };
            let name = &resource.meta.name;
            if !seen.insert(name) {
                continue;
            }
            let mut draft = Draft::new(&self.input.mesh.name, name);
            for (at, rule) in rules.iter().enumerate() {
                match gateway_routes::backends(&mut draft, &format!("rule {at}"), rule) {
                    Ok(list) => gateway_routes::pool(&mut pooled, list),
                    Err(_) => draft.note(format!("rule {at} has no backend that gets traffic")),
                }
            }
            self.take(&draft);
        }
        Handler::Tcp { backends: pooled, idle_timeout_ms: TCP_IDLE_TIMEOUT_MS }
    }

    /// A route that is selected, and whose kind fits none of the listeners that select it.
    fn note_misfits<'b>(&mut self, subs: impl Iterator<Item = &'b Sub<'a>>)
    where
        'a: 'b,
    {
        let mut fits: BTreeMap<&str, bool> = BTreeMap::new();
        for sub in subs {
            let is_http = matches!(sub.listener.protocol, GatewayProtocol::Http | GatewayProtocol::Https);
            for (resource, route) in &sub.routes {
                let does = is_http == matches!(route.conf, RouteConf::Http { .. });
                *fits.entry(&resource.meta.name).or_default() |= does;
            }
        }
        for (name, _) in fits.into_iter().filter(|(_, fits)| !fits) {
            let origin = Origin::new("MeshGatewayRoute", &self.input.mesh.name, name);
            let text =
                format!("its rules (http or tcp) don't fit the protocol of any listener of {} it selects", self.origin);
            self.rows.note(origin, text);
        }
    }
}

/// Exact names first, then longer wildcards, `*` last.
fn order(host: &HostPattern) -> (u8, Reverse<usize>, String) {
    let text = host.to_string();
    match host {
        HostPattern::Exact(_) => (0, Reverse(0), text),
        HostPattern::Suffix(_) => (1, Reverse(text.split('.').count()), text),
        HostPattern::Any => (2, Reverse(0), text),
    }
}
