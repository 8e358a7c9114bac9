//! A gateway's plan made from nothing: its listeners by port and their TLS. What happens to a request is decided in
//! `hosts` and `routes`.

use super::hosts::{self, Host, HostKey, Sub};
use super::kept::Known;
use super::plan::{Counted, Destinations, Plan, Port};
use super::routes::{self, Draft, Prepared};
use super::selected::Selected;
use super::{choose, effective_tags};
use crate::compile::external::Aside;
use crate::compile::rows::Upstreams;
use crate::compile::world::{MeshIndex, World};
use crate::compile::{Problem, material};
use crate::resource::{GatewayListener, GatewayProtocol, MeshGateway, RouteConf, Tags, TlsMode};
use snapshot::{Backend, GatewayTls, Handler, HostPattern, Origin, Role, ServerName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A TCP connection through a gateway ends after this long without a byte.
const TCP_IDLE_TIMEOUT_MS: u64 = 300_000;

/// What a port speaks behind its TLS.
enum Served {
    Http,
    Tcp,
}

pub(super) struct Making<'a> {
    world: &'a World,
    mesh: &'a MeshIndex,
    known: &'a Known,
    origin: Origin,
    aside: Aside,
    ports: Vec<Arc<Port>>,
    notes: Counted<Problem>,
    destinations: Destinations,
    places: HashMap<String, Vec<(usize, usize)>>,
}

/// For proxies with `tags`; None when no MeshGateway selects them.
pub(super) fn make(
    known: &Known,
    (world, mesh): (&World, &MeshIndex),
    upstreams: &mut Upstreams<'_>,
    tags: &Tags,
) -> Option<Plan> {
    let (meta, spec) = choose(mesh, tags)?;
    let origin = Origin::new("MeshGateway", &mesh.name, &meta.name);
    let mut making = Making {
        world,
        mesh,
        known,
        origin,
        aside: Aside::default(),
        ports: Vec::new(),
        notes: Counted::default(),
        destinations: Destinations::default(),
        places: HashMap::new(),
    };
    making.listeners(tags, spec);
    Some(making.finish(upstreams))
}

impl<'a> Making<'a> {
    fn listeners(&mut self, tags: &Tags, spec: &'a MeshGateway) {
        let selected = Selected::new(self.mesh.gateway_routes());
        let mut ports: BTreeMap<u16, Vec<Sub<'a>>> = BTreeMap::new();
        for listener in &spec.listeners {
            let routes = selected.by(&effective_tags(tags, spec, listener));
            let sub = Sub { host: HostPattern::parse(&listener.hostname), listener, routes };
            ports.entry(listener.port).or_default().push(sub);
        }
        self.note_misfits(ports.values().flatten());
        for (number, subs) in ports {
            self.port(number, subs);
        }
    }

    fn finish(self, upstreams: &mut Upstreams<'_>) -> Plan {
        let Self { mesh, origin, aside, ports, notes, mut destinations, places, .. } = self;
        let services = destinations.find(upstreams);
        Plan {
            origin,
            ports,
            aside: Arc::new(aside),
            notes: Arc::new(notes),
            destinations: Arc::new(destinations),
            services: Arc::new(services),
            places: Arc::new(places),
            resources: mesh.resources(),
        }
    }

    fn note(&mut self, origin: Origin, text: impl Into<String>) {
        self.aside.problems.push(Problem::new(origin, text));
    }

    /// Takes over what was said and asked for when a route was read.
    fn take(&mut self, draft: &Draft) {
        self.notes.add(&draft.notes);
        self.destinations.add(&draft.destinations);
    }

    fn port(&mut self, number: u16, subs: Vec<Sub<'a>>) {
        let Some(first) = subs.first().map(|sub| sub.listener) else { return };
        let (mut fit, odd): (Vec<Sub<'a>>, Vec<Sub<'a>>) = subs
            .into_iter()
            .partition(|s| s.listener.protocol == first.protocol && s.listener.cross_mesh == first.cross_mesh);
        for Sub { listener, .. } in odd {
            let text = format!(
                "listener `{}` on port {} differs in protocol or crossMesh from the first one there: left out",
                listener.hostname, listener.port
            );
            self.note(self.origin.clone(), text);
        }
        let connections_max = fit.iter().find_map(|sub| sub.listener.connection_limit.filter(|n| *n != 0));
        fit.sort_by_cached_key(|sub| order(&sub.host));
        let Some((served, tls)) = self.serve(first, &mut fit) else { return };
        let is_https = first.protocol == GatewayProtocol::Https;
        let (handler, hosts) = match served {
            Served::Http => {
                let hosts = self.hosts(&fit, (number, is_https));
                (Handler::Http { hosts: hosts.iter().map(|host| host.row.clone()).collect() }, hosts)
            }
            Served::Tcp => (self.tcp(&fit), Vec::new()),
        };
        let role = Role::Gateway { handler, tls, connections_max };
        self.ports.push(Arc::new(Port { number, is_https, role, hosts }));
    }

    /// What a port does, or `None` with a note.
    fn serve(&mut self, first: &GatewayListener, subs: &mut Vec<Sub<'a>>) -> Option<(Served, GatewayTls)> {
        match first.protocol {
            GatewayProtocol::Http if first.cross_mesh => {
                let mesh = self.mesh;
                if !mesh.has_mtls() {
                    let text =
                        format!("crossMesh listener on port {} needs mTLS in mesh {}: left out", first.port, mesh.name);
                    self.note(self.origin.clone(), text);
                    return None;
                }
                let meshes = self.world.meshes.values().filter(|m| m.has_mtls());
                let client_meshes = meshes.map(|m| m.name.clone()).collect();
                Some((Served::Http, GatewayTls::Mesh { mesh: mesh.name.clone(), client_meshes }))
            }
            GatewayProtocol::Http => Some((Served::Http, GatewayTls::None)),
            GatewayProtocol::Https => Some((Served::Http, GatewayTls::Terminate { secrets: self.certificates(subs)? })),
            GatewayProtocol::Tcp => Some((Served::Tcp, GatewayTls::None)),
            GatewayProtocol::Tls => {
                let mode = first.tls.as_ref().map_or(TlsMode::None, |tls| tls.mode);
                if mode != TlsMode::Terminate || subs.len() > 1 {
                    let text = format!(
                        "TLS on port {} is served only with one listener and mode TERMINATE so far: left out",
                        first.port
                    );
                    self.note(self.origin.clone(), text);
                    return None;
                }
                Some((Served::Tcp, GatewayTls::Terminate { secrets: self.certificates(subs)? }))
            }
            GatewayProtocol::None => {
                let text = format!("listener on port {} has no protocol: left out", first.port);
                self.note(self.origin.clone(), text);
                None
            }
        }
    }

    /// The virtual hosts of a port.
    fn hosts(&mut self, subs: &[Sub<'a>], (number, is_https): (u16, bool)) -> Vec<Arc<Host>> {
        let port = self.ports.len();
        let mut made = Vec::new();
        for (host, attached) in hosts::distributed(subs, is_https) {
            for name in attached.keys() {
                self.places.entry((*name).to_owned()).or_default().push((port, made.len()));
            }
            let routes: Vec<Arc<Prepared>> = attached.into_values().map(|r| self.known.route(r, number)).collect();
            routes.iter().for_each(|route| self.take(&route.draft));
            let key = HostKey { gateway: self.origin.name.clone(), port: number, is_https, host };
            let host = self.known.host(key, routes, &self.origin);
            self.notes.add(&host.notes);
            made.push(host);
        }
        made
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
                let pem = material::read(self.world, self.mesh, source);
                match pem.and_then(|pem| material::key_pair(name, &pem)) {
                    Ok(pair) => {
                        names.push(ServerName { host: sub.host.clone(), secret: pair.name.clone() });
                        self.aside.secrets.push(pair);
                    }
                    Err(text) => {
                        let place = format!("listener `{}` on port {}", sub.host, sub.listener.port);
                        self.note(self.origin.clone(), format!("{place}: certificate {at}: {text}"));
                    }
                }
            }
            if names.len() == before {
                let place = format!("listener `{}` on port {}", sub.host, sub.listener.port);
                self.note(self.origin.clone(), format!("{place} has no usable certificate: left out"));
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
            let mut draft = Draft::new(&self.mesh.name, name);
            for (at, rule) in rules.iter().enumerate() {
                match routes::backends(&mut draft, &format!("rule {at}"), rule) {
                    Ok(list) => routes::pool(&mut pooled, list),
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
            let origin = Origin::new("MeshGatewayRoute", &self.mesh.name, name);
            let text =
                format!("its rules (http or tcp) don't fit the protocol of any listener of {} it selects", self.origin);
            self.note(origin, text);
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
