//! A builtin gateway: which MeshGateway applies to a proxy, and its rows out of the [`Plan`] that proxies with the same tags
//! have in common. What is in a plan is decided in `gateway/`.

mod hosts;
mod kept;
mod plan;
mod ports;
mod routes;
mod selected;

pub(super) use kept::Gateways;

use super::Made;
use super::rows::{Client, Input, Rows, Upstreams};
use super::sni::ZONE;
use super::world::MeshIndex;
use crate::resource::{GatewayListener, MeshGateway, MeshGatewayRoute, Meta, RouteConf, RouteFilter, Tags};
use crate::select::{Precedence, selector_rank};
use snapshot::{ListenerRow, ProxyKind};
use std::net::SocketAddr;

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
    let Some(plan) = input.mesh.gateways.plan(input.world, input.mesh, &tags) else {
        rows.note(input.origin(), "no MeshGateway selects this gateway: it listens nowhere");
        return rows.finish(proxy);
    };
    for (port, role) in plan.roles() {
        let address = SocketAddr::new(address, port);
        rows.listen(ListenerRow { address, role: role.clone(), origin: plan.origin.clone() });
    }
    rows.aside.problems.extend(plan.problems().cloned());
    rows.aside.secrets.extend(plan.secrets().iter().cloned());
    rows.services_in_common = plan.services();
    let client = Client { mesh: input.mesh, zone: &proxy.zone, dataplane: Some(input.dataplane) };
    let mut upstreams = Upstreams::new(input.world, client);
    for tags in plan.left_out() {
        upstreams.reach(&mut rows, tags);
    }
    rows.finish(proxy)
}
