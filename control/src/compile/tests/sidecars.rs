//! Sidecars and delegated gateways.

use super::make::*;
use super::*;
use crate::compile::{Options, compile_with};
use crate::names::{FreedOutbound, MeshNames, NamedOutbound};
use crate::resource::{Gateway, GatewayType, InboundState, TransparentProxying};
use snapshot::{InboundTls, NameRow, Origin, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;

fn web() -> crate::resource::Resource {
    change(app("web", "10.0.0.1", "service=web,zone=east"), |d| {
        d.networking.outbound = vec![outbound(10001, "service=backend")];
    })
}

fn backend(n: u8, zone: &str) -> crate::resource::Resource {
    let text = format!("service=backend,zone={zone},protocol=http,version=v{n}");
    app(&format!("backend-{n}"), &format!("10.0.1.{n}"), &text)
}

#[test]
fn k63_local_endpoints_weigh_as_many_as_there_are_ingresses_and_an_ingress_its_instances() {
    let world = world(
        "east",
        vec![
            mesh("default", "mtls"),
            web(),
            backend(1, "east"),
            backend(2, "east"),
            backend(3, "west"),
            backend(4, "west"),
            backend(5, "west"),
            ingress("i1", "west", "1.1.1.1:10001"),
            ingress("i2", "west", "1.1.1.2:10001"),
        ],
    );
    let compiled = sidecar(&world, "web");
    let row = service(&compiled, "backend");
    let expected = ["1.1.1.1:10001 3/0", "1.1.1.2:10001 3/0", "10.0.1.1:8080 2/0", "10.0.1.2:8080 2/0"];
    assert_eq!(endpoints(row), expected);
    assert_eq!(row.protocol, Protocol::Http);
    let (sni, peers) = peers(row);
    assert!(sni.ends_with(".backend.0.default.svc"), "{sni}");
    assert_eq!(peers, ["spiffe://default/backend"]);
}

#[test]
fn k64_ingresses_with_equal_coordinates_count_once_the_first_with_services() {
    let list = vec![
        mesh("default", "mtls"),
        web(),
        ingress("i1", "west", "1.1.1.1:10001"),
        offering(ingress("i2", "west", "1.1.1.1:10001"), "default", "service=backend", 4),
        offering(ingress("i3", "west", "1.1.1.1:10001"), "default", "service=backend", 9),
    ];
    assert_eq!(endpoints(service(&sidecar(&world("east", list), "web"), "backend")), ["1.1.1.1:10001 4/0"]);
}

#[test]
fn k65_an_unready_inbound_is_no_endpoint_and_the_hint_says_so() {
    let idle = change(backend(1, "east"), |d| d.networking.inbound[0].state = InboundState::NotReady);
    let compiled = sidecar(&world("east", vec![mesh("default", ""), web(), idle]), "web");
    let row = service(&compiled, "backend");
    assert!(row.endpoints.is_empty());
    assert_eq!(row.hint, "kuma.io/service=backend has 1 inbound(s) in mesh default, and none is ready");
}

#[test]
fn k66_without_mtls_other_zones_are_unreachable() {
    let list = vec![mesh("default", ""), web(), backend(1, "west"), ingress("i", "west", "1.1.1.1:10001")];
    let compiled = sidecar(&world("east", list), "web");
    let row = service(&compiled, "backend");
    assert!(row.endpoints.is_empty());
    assert!(row.hint.contains("runs in zone west only, and mTLS of mesh default is off"), "{}", row.hint);
    assert_eq!(row.tls, UpstreamTls::None);
}

#[test]
fn k67_locality_puts_other_zones_behind() {
    let es = |name: &str, zone: &str| external(name, &format!("{name}.com:80"), &format!("service=ext,zone={zone}"));
    let list = vec![
        mesh("default", "mtls locality"),
        change(web(), |d| d.networking.outbound.push(outbound(10002, "service=ext"))),
        backend(1, "east"),
        backend(2, "west"),
        ingress("i", "west", "1.1.1.1:10001"),
        es("near", "east"),
        es("far", "west"),
        permission("all", "service=*", "service=*"),
    ];
    let compiled = sidecar(&world("east", list), "web");
    assert_eq!(endpoints(service(&compiled, "backend")), ["1.1.1.1:10001 1/1", "10.0.1.1:8080 1/0"]);
    assert_eq!(endpoints(service(&compiled, "ext")), ["far.com:80 1/1", "near.com:80 1/0"]);
}

#[test]
fn k68_one_inbound_with_another_protocol_makes_a_service_tcp() {
    let other = app("b", "10.0.1.9", "service=backend,zone=east,protocol=http2");
    let compiled = sidecar(&world("east", vec![mesh("default", ""), web(), backend(1, "east"), other]), "web");
    assert_eq!(service(&compiled, "backend").protocol, Protocol::Tcp);
    let Role::Outbound { handler: Handler::Tcp { .. }, vip: false } = &listener(&compiled, "127.0.0.1:10001").role
    else {
        panic!("HTTP");
    };
}

#[test]
fn egress_is_used_for_other_zones_only_when_the_mesh_says_so() {
    let list = |words| {
        vec![
            mesh("default", words),
            web(),
            backend(1, "east"),
            backend(2, "west"),
            backend(3, "west"),
            ingress("i", "west", "1.1.1.1:10001"),
            egress("e1", "east", "10.0.9.1"),
            egress("e2", "east", "10.0.9.2"),
            egress("far", "west", "10.0.9.3"),
        ]
    };
    let compiled = sidecar(&world("east", list("mtls egress")), "web");
    let row = service(&compiled, "backend");
    assert_eq!(endpoints(row), ["10.0.1.1:8080 2/0", "10.0.9.1:10002 2/0", "10.0.9.2:10002 2/0"]);
    assert_eq!(peers(row).1, ["spiffe://default/backend"]);
    let compiled = sidecar(&world("east", list("mtls")), "web");
    assert_eq!(endpoints(service(&compiled, "backend")), ["1.1.1.1:10001 2/0", "10.0.1.1:8080 1/0"]);
}

#[test]
fn egress_that_is_missing_fails_closed_and_is_named() {
    let list = vec![
        mesh("default", "mtls egress"),
        change(web(), |d| d.networking.outbound.push(outbound(10002, "service=ext"))),
        backend(2, "west"),
        ingress("i", "west", "1.1.1.1:10001"),
        external("es", "ext.com:443", "service=ext"),
    ];
    let compiled = sidecar(&world("east", list), "web");
    for name in ["backend", "ext"] {
        let row = service(&compiled, name);
        assert!(row.endpoints.is_empty());
        assert_eq!(row.hint, "mesh default routes through zone egress, and zone east has no ZoneEgress");
    }
}

#[test]
fn a_zone_without_public_ingress_is_named() {
    let list = vec![mesh("default", "mtls"), web(), backend(2, "west"), ingress("i", "west", "")];
    let compiled = sidecar(&world("east", list), "web");
    let hint = &service(&compiled, "backend").hint;
    assert_eq!(hint, "kuma.io/service=backend runs in zone west only, which has no public ZoneIngress");
}

#[test]
fn a_subset_that_matches_nothing_does_not_fall_back() {
    let web = change(web(), |d| d.networking.outbound = vec![outbound(10001, "service=backend,version=v9")]);
    let compiled = sidecar(&world("east", vec![mesh("default", ""), web, backend(1, "east")]), "web");
    let row = &compiled.tables.services[0];
    assert!(row.name.starts_with("backend-") && row.endpoints.is_empty());
    assert_eq!(row.hint, "no Dataplane of backend in mesh default has kuma.io/service=backend, version=v9");
}

#[test]
fn the_most_specific_permission_replaces_the_general_one() {
    let list = vec![
        mesh("default", "mtls"),
        web(),
        backend(1, "east"),
        permission("all", "service=*", "service=*"),
        permission("few", "service=web,version=v1", "service=backend"),
    ];
    let world = world("east", list);
    let Access::AnyOf(any) = permission_of(&sidecar(&world, "backend-1"), "10.0.1.1:8080").clone() else { panic!() };
    assert_eq!(any[0].uris, ["spiffe://default/web", "kuma://version/v1"]);
    let Access::AnyOf(any) = permission_of(&sidecar(&world, "web"), "10.0.0.1:8080").clone() else { panic!() };
    assert!(any[0].uris.is_empty());
}

#[test]
fn without_permission_mtls_denies_and_plain_meshes_allow() {
    let strict = world("east", vec![mesh("default", "mtls"), web()]);
    assert_eq!(permission_of(&sidecar(&strict, "web"), "10.0.0.1:8080"), &Access::Deny);
    let off = world("east", vec![mesh("default", ""), web()]);
    assert!(matches!(permission_of(&sidecar(&off, "web"), "10.0.0.1:8080"), Access::AnyOf(list) if list.len() == 1));
}

#[test]
fn inbounds_send_to_the_application_and_never_to_themselves() {
    let with = |change_it: fn(&mut crate::resource::Inbound)| {
        change(app("web", "10.0.0.1", "service=web,protocol=http"), |d| change_it(&mut d.networking.inbound[0]))
    };
    let app_of = |resource| {
        let compiled = sidecar(&world("", vec![mesh("default", "permissive"), resource]), "web");
        match compiled.tables.listeners.first().map(|l| l.role.clone()) {
            Some(Role::Inbound { app, tls: InboundTls::Permissive, .. }) => app.to_string(),
            _ => format!("none: {}", compiled.problems[0]),
        }
    };
    assert_eq!(app_of(with(|_| {})), "127.0.0.1:8080");
    assert_eq!(app_of(with(|i| i.service_port = Some(9090))), "10.0.0.1:9090");
    assert_eq!(app_of(with(|i| i.service_address = "127.0.0.5".parse().ok())), "127.0.0.5:8080");
    assert!(app_of(with(|i| i.address = "127.0.0.1".parse().ok())).contains("would send to itself"));
    let captured = change(with(|_| {}), |d| {
        let tp =
            TransparentProxying { redirect_port_inbound: 15006, redirect_port_outbound: 15001, ..Default::default() };
        d.networking.transparent_proxying = Some(tp);
    });
    assert_eq!(app_of(captured), "10.0.0.1:8080");
}

fn names() -> BTreeMap<String, MeshNames> {
    let origin = Origin::new("VirtualOutbound", "default", "vo");
    let name = |n: &str, v4: &str| {
        Arc::new(NameRow { name: n.into(), v4: v4.parse().ok(), v6: "fd00::1".parse().ok(), origin: origin.clone() })
    };
    let out = |v4: &str, v6: Option<&str>, text: &str| {
        Arc::new(NamedOutbound {
            v4: v4.parse().ok(),
            v6: v6.and_then(|v| v.parse().ok()),
            port: 1800,
            tags: tags(text),
            origin: origin.clone(),
        })
    };
    let mesh = MeshNames {
        names: vec![
            name("backend.mesh", "240.0.0.2"),
            name("v1.backend.mesh", "240.0.0.1"),
            name("web.mesh", "240.0.0.3"),
        ],
        outbounds: vec![
            out("240.0.0.1", Some("fd00::2"), "service=backend,version=v1"),
            out("240.0.0.2", None, "service=backend"),
            out("240.0.0.3", None, "service=web"),
        ],
        ..MeshNames::default()
    };
    BTreeMap::from([("default".to_owned(), mesh)])
}

fn transparent(family: &'static str, reachable: &[&str]) -> crate::resource::Resource {
    let reachable_services = reachable.iter().map(|s| (*s).to_owned()).collect();
    change(web(), move |d| {
        d.networking.transparent_proxying = Some(TransparentProxying {
            redirect_port_outbound: 15001,
            reachable_services,
            ip_family_mode: family.into(),
            ..Default::default()
        });
    })
}

#[test]
fn with_transparent_proxy_virtual_listeners_replace_the_written_ones() {
    let list = vec![mesh("default", ""), transparent("", &[]), backend(1, "east"), backend(2, "east")];
    let compiled = sidecar(&named_world("east", list, names()), "web");
    let addresses: Vec<String> = compiled.tables.listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:8080", "240.0.0.1:1800", "240.0.0.2:1800", "240.0.0.3:1800", "[fd00::2]:1800"]);
    let v1 = listener(&compiled, "240.0.0.1:1800");
    assert_eq!(v1.origin.name, "vo");
    assert_eq!(endpoints(service(&compiled, target(v1))), ["10.0.1.1:8080 1/0"]);
    assert_eq!(compiled.tables.names.len(), 3);
    assert_eq!(compiled.tables.proxy.interception.outbound_port, 15001);
}

#[test]
fn a_freed_address_is_a_listener_without_backend_that_names_its_last_owner() {
    let mut names = names();
    let origin = Origin::new(crate::names::FREED, "default", "billing");
    let freed = FreedOutbound { v4: "240.0.0.9".parse().ok(), v6: "fd00::9".parse().ok(), port: 80, origin };
    names.get_mut("default").unwrap().freed = vec![freed];
    let list = || vec![mesh("default", ""), transparent("", &["backend"]), backend(1, "east")];
    let compiled = sidecar(&named_world("east", list(), names.clone()), "web");
    for address in ["240.0.0.9:80", "[fd00::9]:80"] {
        let row = listener(&compiled, address);
        assert_eq!(row.origin.to_string(), "freed default/billing");
        let Role::Outbound { vip: true, handler: Handler::Tcp { backends, .. } } = &row.role else { panic!("{row:?}") };
        assert!(backends.is_empty());
    }
    let written = vec![mesh("default", ""), web(), backend(1, "east")];
    assert_eq!(sidecar(&named_world("east", written, names), "web").tables.listeners.len(), 2);
}

#[test]
fn reachable_services_trim_listeners_and_names_and_ipv4_mode_drops_ipv6() {
    let list = vec![mesh("default", ""), transparent("IPv4", &["backend"]), backend(1, "east")];
    let compiled = sidecar(&named_world("east", list, names()), "web");
    assert_eq!(compiled.tables.listeners.len(), 3);
    let names: Vec<&str> = compiled.tables.names.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["backend.mesh", "v1.backend.mesh"]);
    assert!(compiled.tables.names.iter().all(|n| n.v6.is_none()));
}

#[test]
fn a_dataplane_without_transparent_proxy_has_no_names_unless_it_is_run_as_if() {
    let world = named_world("east", vec![mesh("default", ""), web(), backend(1, "east")], names());
    let compiled = sidecar(&world, "web");
    assert!(compiled.tables.names.is_empty());
    assert_eq!(compiled.tables.listeners.len(), 2);
    let compiled = compile_with(&world, &ProxyKey::dataplane("default", "web"), Options { as_transparent: true });
    assert_eq!((compiled.tables.names.len(), compiled.tables.listeners.len()), (3, 6));
}

#[test]
fn a_delegated_gateway_has_outbounds_and_no_inbound() {
    let gateway = change(dataplane("default", "kong", "10.0.0.5", vec![]), |d| {
        d.networking.gateway = Some(Gateway { kind: GatewayType::Delegated, tags: tags("service=kong") });
        d.networking.outbound = vec![outbound(33033, "service=backend")];
    });
    let compiled =
        sidecar(&world("", vec![mesh("default", "mtls"), gateway, app("b", "10.0.1.1", "service=backend")]), "kong");
    assert_eq!(compiled.tables.proxy.services, ["kong"]);
    assert_eq!(target(listener(&compiled, "127.0.0.1:33033")), "backend");
    assert_eq!(compiled.tables.listeners.len(), 1);
}

#[test]
fn external_services_need_a_permission_for_this_proxy_where_mtls_is_on() {
    let list = |words, from: &str| {
        vec![
            mesh("default", words),
            change(web(), |d| d.networking.outbound = vec![outbound(10001, "service=ext")]),
            external("es-1", "httpbin.org:80", "service=ext,protocol=http"),
            permission("p", from, "service=ext"),
        ]
    };
    let allowed = sidecar(&world("", list("mtls", "service=web")), "web");
    assert_eq!(endpoints(service(&allowed, "ext")), ["httpbin.org:80 1/0"]);
    let Role::Outbound { handler: Handler::Http { hosts }, .. } = &listener(&allowed, "127.0.0.1:10001").role else {
        panic!()
    };
    assert!(matches!(&hosts[0].routes[0].action, snapshot::RouteAction::Forward(f) if f.filters.host_of_endpoint));
    let refused = sidecar(&world("", list("mtls", "service=other")), "web");
    assert_eq!(
        service(&refused, "ext").hint,
        "ExternalService es-1: TrafficPermission p doesn't admit this proxy to it"
    );
    let off = sidecar(&world("", list("", "service=other")), "web");
    assert_eq!(service(&off, "ext").endpoints.len(), 1);
    // The zone counts whether or not the Dataplane says it.
    for (zone, count) in [("east", 1), ("west", 0)] {
        let mut list = list("mtls", "zone=east");
        list[1] = change(app("web", "10.0.0.1", "service=web"), |d| {
            d.networking.outbound = vec![outbound(10001, "service=ext")];
        });
        assert_eq!(service(&sidecar(&world(zone, list), "web"), "ext").endpoints.len(), count, "{zone}");
    }
}

#[test]
fn a_dataplane_whose_address_does_not_resolve_is_left_out_alone() {
    let lost = app("lost", "nowhere.example", "service=backend");
    let world = world("", vec![mesh("default", ""), web(), lost, backend(1, "east")]);
    let problems: Vec<_> = world.problems().collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].text.contains("nowhere.example doesn't resolve"));
    assert!(sidecar(&world, "lost").tables.listeners.is_empty());
}

#[test]
fn two_outbounds_at_one_address_keep_the_first() {
    let web = change(web(), |d| d.networking.outbound.push(outbound(10001, "service=other")));
    let compiled = sidecar(&world("", vec![mesh("default", ""), web, backend(1, "")]), "web");
    assert_eq!(target(listener(&compiled, "127.0.0.1:10001")), "backend");
    assert!(compiled.problems.iter().any(|p| p.text.contains("is taken by Dataplane default/web already")));
}

#[test]
fn a_proxy_that_is_not_there_says_so() {
    let compiled = sidecar(&world("", vec![mesh("default", "")]), "nobody");
    assert!(compiled.problems[0].to_string().starts_with("Dataplane default/nobody: there is no such resource"));
}
