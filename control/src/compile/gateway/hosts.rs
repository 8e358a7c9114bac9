//! The virtual hosts of a gateway's HTTP port: which there are, and which routes each one has in which order. It knows no
//! socket and no certificate.

use super::routes::Prepared;
use crate::compile::Problem;
use crate::resource::{GatewayListener, MeshGatewayRoute, Resource, RouteConf};
use snapshot::{HostPattern, Match, Origin, PathMatch, RouteAction, RouteRow, VirtualHost};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host without any route answers this with 404.
const PAGE: &str = "This is a Kuma MeshGateway. No routes match this MeshGateway!\n";
const HSTS: (&str, &str) = ("strict-transport-security", "max-age=31536000; includeSubDomains");

/// One listener of a MeshGateway, with the routes that its tags select.
pub(super) struct Sub<'a> {
    pub host: HostPattern,
    pub listener: &'a GatewayListener,
    /// Sorted by name.
    pub routes: Vec<(&'a Arc<Resource>, &'a MeshGatewayRoute)>,
}

/// Routes of a virtual host by name: attached twice counts once.
pub(super) type Attached<'a> = BTreeMap<&'a str, &'a Arc<Resource>>;
type Hosts<'a> = BTreeMap<String, (HostPattern, Attached<'a>)>;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct HostKey {
    pub gateway: String,
    pub port: u16,
    pub is_https: bool,
    pub host: HostPattern,
}

/// A virtual host and what it was made of.
pub(super) struct Host {
    pub routes: Vec<Arc<Prepared>>,
    pub row: Arc<VirtualHost>,
    pub notes: Vec<Problem>,
}

impl Host {
    /// `origin`: of the MeshGateway.
    pub(super) fn new(key: &HostKey, prepared: Vec<Arc<Prepared>>, origin: &Origin) -> Self {
        let mut entries: Vec<_> = prepared.iter().flat_map(|route| &route.entries).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut routes: Vec<RouteRow> = entries.into_iter().map(|(_, row)| row.clone()).collect();
        let notes = shadowed(&key.host, &routes);
        if key.is_https {
            routes.iter_mut().for_each(demand_tls);
        }
        if routes.is_empty() {
            let action = RouteAction::Respond { status: 404, body: PAGE.into() };
            routes.push(RouteRow { matches: Match::default(), action, origin: origin.clone() });
        }
        Self { routes: prepared, row: Arc::new(VirtualHost { host: key.host.clone(), routes }), notes }
    }
}

/// The virtual hosts of a port, in the order of their texts, each with its routes.
pub(super) fn distributed<'a>(subs: &[Sub<'a>], is_https: bool) -> impl Iterator<Item = (HostPattern, Attached<'a>)> {
    let hosts = if is_https { distribute_apart(subs) } else { distribute(subs) };
    hosts.into_values()
}

/// All listeners of an HTTP port share one table.
fn distribute<'a>(subs: &[Sub<'a>]) -> Hosts<'a> {
    let mut hosts = Hosts::new();
    let mut regions: Vec<(HostPattern, &'a Arc<Resource>)> = Vec::new();
    for sub in subs {
        let own = hosts.entry(sub.host.to_string()).or_insert_with(|| (sub.host.clone(), Attached::new()));
        for (resource, route) in &sub.routes {
            let RouteConf::Http { hostnames, .. } = &route.conf else { continue };
            if hostnames.is_empty() {
                own.1.insert(&resource.meta.name, resource);
            }
            for wanted in hostnames.iter().map(|h| HostPattern::parse(h)) {
                if sub.host.intersects(&wanted) {
                    let region = if sub.host.contains(&wanted) { wanted } else { sub.host.clone() };
                    regions.push((region, resource));
                }
            }
        }
    }
    for (region, ..) in &regions {
        hosts.entry(region.to_string()).or_insert_with(|| (region.clone(), Attached::new()));
    }
    // Only now all hosts are known, so that the order of routes doesn't matter.
    for (region, resource) in regions {
        // Thousands of routes have a host of their own each.
        if matches!(region, HostPattern::Exact(_)) {
            if let Some((_, attached)) = hosts.get_mut(&region.to_string()) {
                attached.insert(&resource.meta.name, resource);
            }
            continue;
        }
        for (host, attached) in hosts.values_mut() {
            if *host == region || (region != HostPattern::Any && region.contains(host)) {
                attached.insert(&resource.meta.name, resource);
            }
        }
    }
    hosts
}

/// Each HTTPS listener has a table of its own. They fit into one when a host is kept only in the listener that its SNI
/// chooses; the proxy refuses a Host whose best certificate name isn't the connection's.
fn distribute_apart<'a>(subs: &[Sub<'a>]) -> Hosts<'a> {
    let mut all = Hosts::new();
    for sub in subs {
        let own = distribute(std::slice::from_ref(sub));
        let kept = own.into_iter().filter(|(_, (host, _))| {
            subs.iter().find(|s| s.host.contains(host)).is_some_and(|best| best.host == sub.host)
        });
        all.extend(kept);
    }
    all
}

/// Responses of HTTPS listeners tell browsers to stay with TLS.
fn demand_tls(route: &mut RouteRow) {
    if let RouteAction::Forward(forward) = &mut route.action {
        Arc::make_mut(&mut forward.filters).response.set.push((HSTS.0.into(), HSTS.1.into()));
    }
}

/// A catch-all prefix comes before every regex, as in the reference; hardly anybody means that.
fn shadowed(host: &HostPattern, routes: &[RouteRow]) -> Vec<Problem> {
    let Some(all) = routes.iter().find(|row| row.matches == Match::default()) else { return Vec::new() };
    let note = |row: &RouteRow| match &row.matches.path {
        PathMatch::Regex(text) => {
            let text =
                format!("regex `{text}` on host {host} is never reached: prefix / of {} comes first", all.origin);
            Some(Problem::new(row.origin.clone(), text))
        }
        _ => None,
    };
    routes.iter().filter_map(note).collect()
}
