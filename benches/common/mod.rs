//! Meshes of a given size for the benchmarks: as YAML through the real compiler, or as rows. Measures nothing itself.
#![allow(dead_code, clippy::unwrap_used, reason = "each benchmark uses a part, and may panic")]

use control::compile::{self, ProxyKey, World};
use control::names::{NameSettings, NamesInput, names_and_outbounds, view};
use control::resource::{self, Resource};
use control::vip::{self, Ranges, VipTable};
use snapshot::{
    Backend, Forward, Generation, Handler, HostPattern, ListenerRow, Match, Origin, PathMatch, Role, RouteAction,
    RouteRow, ServiceRow, Snapshot, Tables, VirtualHost,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SIZES: [usize; 3] = [10, 1_000, 10_000];

pub(crate) fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
}

pub(crate) fn generation(sequence: u64) -> Generation {
    Generation { epoch: 1, sequence }
}

/// A mesh of `count` services of one HTTP instance each, and the sidecar `web`.
pub(crate) fn resources(count: usize) -> Vec<Arc<Resource>> {
    let mut text = String::from("type: Mesh\nname: default\n");
    text.push_str("---\ntype: Dataplane\nmesh: default\nname: web\nnetworking:\n  address: 10.0.0.1\n");
    text.push_str("  inbound: [{port: 8080, tags: {kuma.io/service: web, kuma.io/protocol: http}}]\n");
    text.push_str("  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}\n");
    for index in 0..count {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + index as u32);
        text.push_str(&format!(
            "---\ntype: Dataplane\nmesh: default\nname: svc-{index}\nnetworking:\n  address: {address}\n  inbound: \
             [{{port: 8080, tags: {{kuma.io/service: svc-{index}, kuma.io/protocol: http}}}}]\n"
        ));
    }
    let intake = resource::read(&text, "bench.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources.into_iter().map(Arc::new).collect()
}

/// All that the control plane does from resources to an indexed world.
pub(crate) fn world(resources: &[Arc<Resource>]) -> World {
    let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
    let settings = NameSettings::default();
    let view = view(&NamesInput { mesh: "default", resources: &plain, settings: &settings });
    let (table, _) = vip::allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0);
    let (names, _) = names_and_outbounds(&view, &table, &settings);
    let settings = compile::Settings {
        domain: "mesh".into(),
        dns_ttl_s: 60,
        zone: "default".into(),
        has_ipv6: true,
        ..compile::Settings::default()
    };
    World::new(resources.to_vec(), settings, BTreeMap::from([("default".to_owned(), names)]))
}

pub(crate) fn web() -> ProxyKey {
    ProxyKey::dataplane("default", "web")
}

/// What the sidecar `web` of such a mesh gets.
pub(crate) fn sidecar(count: usize) -> Tables {
    compile::compile(&world(&resources(count)), &web()).tables
}

/// `tables` with one endpoint of one service at another port.
pub(crate) fn one_endpoint_moved(tables: &Tables) -> Tables {
    let mut next = tables.clone();
    let row = next.services.iter_mut().find(|row| !row.endpoints.is_empty()).unwrap();
    let mut endpoints = row.endpoints.as_ref().clone();
    endpoints[0].port = endpoints[0].port.wrapping_add(1);
    *row = Arc::new(ServiceRow { endpoints: Arc::new(endpoints), ..row.as_ref().clone() });
    next
}

pub(crate) const GATEWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// A gateway listener with `count` hosts (every other one a wildcard) of ten prefixes each.
pub(crate) fn gateway(count: usize) -> Snapshot {
    let mut tables = sidecar(1);
    let service = tables.services[0].name.clone();
    let route = |path: String| RouteRow {
        matches: Match { path: PathMatch::Prefix(path), ..Match::default() },
        action: RouteAction::Forward(Forward {
            backends: vec![Backend { service: service.clone(), weight: 1 }],
            ..Forward::default()
        }),
        origin: Origin::new("MeshGatewayRoute", "default", "bench"),
    };
    let host = |index: usize| VirtualHost {
        host: HostPattern::parse(&format!("{}h{index}.example.com", if index % 2 == 1 { "*." } else { "" })),
        routes: (0..10).map(|prefix| route(format!("/p{prefix}"))).collect(),
    };
    let handler = Handler::Http { hosts: (0..count).map(host).map(Arc::new).collect() };
    let role = Role::Gateway { handler, tls: snapshot::GatewayTls::None, connections_max: None };
    let row = ListenerRow { address: GATEWAY, role, origin: Origin::new("MeshGateway", "default", "bench") };
    tables.listeners = vec![Arc::new(row)];
    Snapshot::build(tables, generation(1)).unwrap()
}
