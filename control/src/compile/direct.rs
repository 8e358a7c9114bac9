//! `directAccessServices`: what a workload dials by an instance's own address reaches that instance by mTLS (spec/naming.md §7.7).
//! It knows which instances, not who is healthy: the workload chose.

use super::rows::{Input, Rows, service_row};
use super::sni::{self, ZONE};
use crate::resource::{Inbound, Tags};
use snapshot::{Address, Backend, Endpoint, Handler, ListenerRow, Origin, Role, UpstreamTls, limits, spiffe_id};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One virtual listener per instance, passing bytes, at every address that nothing else has.
pub(super) fn listen(input: Input<'_>, rows: &mut Rows, services: &[String], has_ipv6: bool) {
    let all = services.iter().any(|service| service == "*");
    let others = input.mesh.dataplanes().filter(|(meta, _)| meta.name != input.name);
    for (meta, dataplane) in others {
        let net = &dataplane.networking;
        let inbounds = net.inbound.iter().filter(|i| i.port != Inbound::MARKER_PORT);
        for inbound in inbounds.filter(|i| all || services.iter().any(|service| service == i.service())) {
            // Where it binds, not where others are told to go.
            let Some(ip) = inbound.address.or_else(|| input.world.ip(&net.address)) else { continue };
            let address = SocketAddr::new(ip, inbound.port);
            let is_free = !rows.listeners.contains_key(&address) && !is_written(input, address);
            if is_free && (ip.is_ipv4() || has_ipv6) {
                let origin = Origin::new("Dataplane", &input.mesh.name, &meta.name);
                instance(input, rows, (address, inbound), origin);
            }
        }
    }
}

/// The Dataplane's own outbounds come first.
fn is_written(input: Input<'_>, address: SocketAddr) -> bool {
    let mut outbounds = input.dataplane.networking.outbound.iter();
    outbounds.any(|o| o.address.is_some_and(|ip| SocketAddr::new(ip, o.port) == address))
}

fn instance(input: Input<'_>, rows: &mut Rows, (address, inbound): (SocketAddr, &Inbound), origin: Origin) {
    let mesh = input.mesh;
    let mut row = service_row(format!("direct_access_{address}"), &mesh.name, inbound.service());
    let zone = input.world.zone_of_tags(&inbound.tags).to_owned();
    if mesh.has_mtls() {
        let mut tags: Tags = inbound.tags.clone();
        if !zone.is_empty() {
            tags.insert(ZONE.into(), zone.clone());
        }
        row.tls = UpstreamTls::Mesh {
            identity_mesh: mesh.name.clone(),
            mesh: mesh.name.clone(),
            sni: sni::of_tags(&mesh.name, &tags),
            peers: vec![spiffe_id(&mesh.name, inbound.service())],
        };
    }
    let ip: IpAddr = address.ip();
    let endpoint = Endpoint {
        address: Address::Ip(ip),
        port: address.port(),
        weight: 1,
        priority: 0,
        zone,
        origin: origin.clone(),
    };
    row.endpoints = Arc::new(vec![endpoint]);
    row.origin = origin.clone();
    let backends = vec![Backend { service: row.name.clone(), weight: 1 }];
    let handler = Handler::Tcp { backends, idle_timeout_ms: limits::IDLE_TIMEOUT_MS };
    rows.services.insert(row.name.clone(), row.into());
    rows.listen(ListenerRow { address, role: Role::Outbound { vip: true, handler }, origin });
}
