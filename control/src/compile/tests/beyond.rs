//! What a sidecar reaches besides names: the world outside, instances by their own addresses; and its probes.

use super::make::*;
use super::*;
use crate::resource::{InboundState, Resource, ServiceProbe, TransparentProxying};
use snapshot::Protocol;
use std::sync::Arc;

fn web() -> Resource {
    app("web", "10.0.0.1", "service=web,zone=east")
}

fn backend(n: u8, zone: &str) -> Resource {
    let text = format!("service=backend,zone={zone},protocol=http,version=v{n}");
    app(&format!("backend-{n}"), &format!("10.0.1.{n}"), &text)
}

fn passthrough(name: &str, spec: &str) -> Resource {
    let text = format!("type: MeshPassthrough\nmesh: default\nname: {name}\nspec: {spec}\n");
    crate::resource::read(&text, "test").resources.remove(0)
}

/// What `web` may reach beyond the mesh under these policies.
fn beyond(policies: Vec<Resource>) -> (bool, Vec<String>) {
    let list = [vec![mesh("default", ""), web()], policies].concat();
    let proxy = sidecar(&world("east", list), "web").tables.proxy.clone();
    let text = |row: &snapshot::PassthroughRow| format!("{:?} {} {:?}", row.port, row.origin.name, row.protocol);
    (proxy.passthrough, proxy.passthrough_rows.iter().map(text).collect())
}

#[test]
fn a_mesh_passthrough_replaces_the_meshs_switch_for_the_proxies_it_is_for() {
    assert_eq!(beyond(vec![]), (true, vec![]));
    let nothing = (false, vec![]);
    assert_eq!(beyond(vec![passthrough("p", "{default: {}}")]), nothing, "Matched is the default mode");
    assert_eq!(beyond(vec![passthrough("p", "{default: {passthroughMode: None}}")]), nothing);
    assert_eq!(beyond(vec![passthrough("p", "{default: {passthroughMode: All}}")]), (true, vec![]));
    for other in ["{kind: MeshSubset, tags: {kuma.io/service: other}}", "{kind: Dataplane, name: other}"] {
        let policy = passthrough("p", &format!("{{targetRef: {other}, default: {{passthroughMode: None}}}}"));
        assert_eq!(beyond(vec![policy]), (true, vec![]), "{other}");
    }
    for own in ["{kind: MeshSubset, tags: {kuma.io/service: web}}", "{kind: Dataplane, name: web}", "{kind: Mesh}"] {
        let policy = passthrough("p", &format!("{{targetRef: {own}, default: {{passthroughMode: None}}}}"));
        assert_eq!(beyond(vec![policy]), nothing, "{own}");
    }
}

#[test]
fn of_several_passthrough_policies_the_most_specific_mode_counts_and_all_matches() {
    let of = |kind: &str, mode: &str, port: u16| {
        let one = format!("{{type: IP, value: 1.1.1.1, port: {port}, protocol: tls}}");
        format!("{{targetRef: {kind}, default: {{{mode}appendMatch: [{one}]}}}}")
    };
    let all = passthrough("a", &of("{kind: Mesh}", "passthroughMode: All, ", 1));
    let own = passthrough("b", &of("{kind: Dataplane, name: web}", "passthroughMode: Matched, ", 2));
    let silent = passthrough("c", &of("{kind: Dataplane, name: web}", "", 3));
    let rows = vec!["Some(1) a Tls".to_owned(), "Some(3) c Tls".to_owned(), "Some(2) b Tls".to_owned()];
    assert_eq!(beyond(vec![silent, own, all.clone()]), (false, rows));
    assert_eq!(beyond(vec![all]), (true, vec![]));
}

#[test]
fn probes_take_what_the_dataplane_leaves_out_from_the_control_plane_each_value_for_itself() {
    let probed = change(app("web", "10.0.0.1", "service=web"), |d| {
        let probe = ServiceProbe { interval: Some("1m30s".into()), healthy_threshold: Some(4), ..Default::default() };
        d.networking.inbound[0].service_probe = Some(probe);
    });
    let compiled = sidecar(&world("", vec![mesh("default", ""), probed]), "web");
    let row = &compiled.tables.proxy.probes[0];
    assert_eq!((row.inbound.as_str(), row.app.port()), (":8080", compiled_app(&compiled).port()));
    assert_eq!((row.interval_ms, row.timeout_ms), (90_000, 2000));
    assert_eq!((row.healthy_threshold, row.unhealthy_threshold), (4, 1));
}

/// Where the first inbound's application is.
fn compiled_app(compiled: &Compiled) -> std::net::SocketAddr {
    let mut apps = compiled.tables.listeners.iter().filter_map(|l| match &l.role {
        Role::Inbound { app, .. } => Some(*app),
        _ => None,
    });
    apps.next().unwrap()
}

/// `web` with transparent proxying, that dials instances of these services by their own addresses.
fn direct(services: &[&str]) -> Resource {
    let services: Vec<String> = services.iter().map(|s| (*s).to_owned()).collect();
    change(web(), move |d| {
        d.networking.transparent_proxying = Some(TransparentProxying {
            redirect_port_outbound: 15001,
            direct_access_services: services,
            ..Default::default()
        });
    })
}

#[test]
fn direct_access_reaches_every_instance_of_the_listed_services_by_its_own_address_whatever_its_health() {
    let ill = change(backend(2, "east"), |d| d.networking.inbound[0].state = InboundState::NotReady);
    let moved = change(backend(3, "east"), |d| d.networking.advertised_address = "1.2.3.4".into());
    let other = app("db", "10.0.2.1", "service=db");
    let list = |services: &[&str]| {
        vec![mesh("default", "mtls"), direct(services), backend(1, "east"), ill.clone(), moved.clone(), other.clone()]
    };
    let compiled = sidecar(&world("east", list(&["backend"])), "web");
    let own = |c: &Compiled| -> Vec<String> {
        let outbound = |l: &&Arc<ListenerRow>| matches!(l.role, Role::Outbound { .. });
        let rows = c.tables.listeners.iter().filter(outbound).filter(|l| target(l).starts_with("direct_access_"));
        rows.map(|l| l.address.to_string()).collect()
    };
    assert_eq!(own(&compiled), ["10.0.1.1:8080", "10.0.1.2:8080", "10.0.1.3:8080"]);
    let row = service(&compiled, "direct_access_10.0.1.2:8080");
    assert_eq!(endpoints(row), ["10.0.1.2:8080 1/0"]);
    assert_eq!((row.protocol, peers(row).1), (Protocol::Tcp, &["spiffe://default/backend".to_owned()][..]));
    let compiled = sidecar(&world("east", list(&["*"])), "web");
    assert_eq!(own(&compiled).len(), 4, "of everybody but the proxy itself");
    let plain = sidecar(&world("east", vec![mesh("default", ""), direct(&["db"]), other]), "web");
    assert_eq!(service(&plain, "direct_access_10.0.2.1:8080").tls, UpstreamTls::None);
}

#[test]
fn direct_access_leaves_addresses_that_are_taken() {
    let claims = change(direct(&["backend"]), |d| {
        d.networking.outbound = vec![outbound(8080, "service=db")];
        d.networking.outbound[0].address = Some("10.0.1.1".parse().unwrap());
    });
    let neighbour = app("backend-9", "10.0.0.1", "service=backend");
    let compiled = sidecar(&world("", vec![mesh("default", ""), claims, backend(1, "east"), neighbour]), "web");
    assert!(compiled.tables.services.iter().all(|s| !s.name.starts_with("direct_access_")));
    assert!(!compiled.problems.iter().any(|p| p.text.contains("taken")), "{:?}", compiled.problems);
}
