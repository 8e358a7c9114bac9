//! Zone egress and ingress.

use super::make::*;
use super::*;
use crate::resource::{DataSource, ExternalTls, Resource, Spec};
use snapshot::SniTarget;
use std::collections::BTreeMap;

fn of_mesh(mesh: &str, name: &str, address: &str, text: &str) -> Resource {
    dataplane(mesh, name, address, vec![inbound(8080, text)])
}

fn zone_egress(world: &World) -> Compiled {
    checked(world, &ProxyKey::egress("e1"))
}

fn passes_to<'a>(compiled: &'a Compiled, name: &str) -> &'a ServiceRow {
    match &sni(compiled, name).unwrap_or_else(|| panic!("no SNI {name}")).target {
        SniTarget::Passthrough { service: row } => service(compiled, row),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_egress_passes_remote_services_through_in_both_spellings() {
    let world = world(
        "east",
        vec![
            mesh("mesh-1", "mtls egress"),
            egress("e1", "east", "10.0.9.1"),
            offering(ingress("i", "west", "10.0.0.254:10001"), "mesh-1", "service=service-1", 3),
            offering(ingress("own", "east", "10.0.0.253:10001"), "mesh-1", "service=service-2", 3),
        ],
    );
    let compiled = zone_egress(&world);
    assert_eq!(compiled.tables.snis.len(), 2);
    let row = passes_to(&compiled, "service-1{mesh=mesh-1}");
    assert_eq!((row.name.as_str(), endpoints(row)), ("mesh-1:service-1", vec!["10.0.0.254:10001 3/0".to_owned()]));
    assert_eq!(row.tls, UpstreamTls::None);
    assert_eq!(listener(&compiled, "10.0.9.1:10002").role, Role::Zone);
    assert_eq!(compiled.tables.proxy.services, ["zone-egress"]);
}

#[test]
fn an_egress_knows_nothing_of_meshes_without_mtls_and_only_external_services_without_the_switch() {
    let list = |words| {
        vec![
            mesh("default", words),
            egress("e1", "east", "10.0.9.1"),
            offering(ingress("i", "west", "10.0.0.254:10001"), "default", "service=service-1", 3),
            external("es", "ext.com:80", "service=ext"),
        ]
    };
    let snis =
        |words| zone_egress(&world("east", list(words))).tables.snis.iter().map(|s| s.sni.clone()).collect::<Vec<_>>();
    assert!(snis("").is_empty());
    assert_eq!(snis("mtls").iter().filter(|s| s.ends_with('}')).collect::<Vec<_>>(), ["ext{mesh=default}"]);
    let both: Vec<String> = snis("mtls egress").into_iter().filter(|s| s.ends_with('}')).collect();
    assert_eq!(both, ["ext{mesh=default}", "service-1{mesh=default}"]);
}

#[test]
fn an_egress_terminates_external_services_with_their_permission() {
    let world = world(
        "east",
        vec![
            mesh("default", "mtls egress"),
            egress("e1", "east", "10.0.9.1"),
            external("a", "a.com:80", "service=ext,protocol=http"),
            external("b", "b.com:80", "service=ext,protocol=http"),
            external("closed", "10.1.1.1:5432", "service=db"),
            permission("p", "service=backend", "service=ext"),
        ],
    );
    let compiled = zone_egress(&world);
    let SniTarget::Terminate { mesh, permission: name, handler: Handler::Http { hosts }, .. } =
        &sni(&compiled, "ext{mesh=default}").unwrap().target
    else {
        panic!()
    };
    assert_eq!(mesh, "default");
    assert!(matches!(&hosts[0].routes[0].action,
        snapshot::RouteAction::Forward(f) if f.timeouts.request_ms == 0 && f.filters.host_of_endpoint));
    let Access::AnyOf(any) = &row_of_permission(&compiled, name).access else { panic!() };
    assert_eq!(any[0].uris, ["spiffe://default/backend"]);
    assert_eq!(endpoints(service(&compiled, "default:ext")), ["a.com:80 1/0", "b.com:80 1/0"]);
    let SniTarget::Terminate { permission: name, handler: Handler::Tcp { .. }, .. } =
        &sni(&compiled, "db{mesh=default}").unwrap().target
    else {
        panic!()
    };
    assert_eq!(row_of_permission(&compiled, name).access, Access::Deny);
}

#[test]
fn an_external_service_of_another_zone_is_passed_to_its_ingress_and_there_to_its_egress() {
    let list = vec![
        mesh("default", "mtls egress"),
        egress("e1", "east", "10.0.9.1"),
        egress("e2", "west", "10.0.9.2"),
        ingress("i2", "west", "1.1.1.1:10001"),
        external("es", "ext.com:80", "service=ext,zone=west"),
    ];
    let world = world("east", list);
    let compiled = zone_egress(&world);
    assert_eq!(endpoints(passes_to(&compiled, "ext{mesh=default}")), ["1.1.1.1:10001 1/0"]);
    let compiled = checked(&world, &ProxyKey::ingress("i2"));
    assert_eq!(endpoints(passes_to(&compiled, "ext{mesh=default}")), ["10.0.9.2:10002 1/0"]);
    let compiled = checked(&world, &ProxyKey::egress("e2"));
    assert!(matches!(sni(&compiled, "ext{mesh=default}").unwrap().target, SniTarget::Terminate { .. }));
}

#[test]
fn one_egress_keeps_equal_services_of_two_meshes_apart() {
    let world = world(
        "east",
        vec![
            mesh("a", "mtls egress"),
            mesh("b", "mtls egress"),
            egress("e1", "east", "10.0.9.1"),
            of_mesh("a", "x", "10.2.0.1", "service=backend,zone=west"),
            of_mesh("b", "y", "10.2.0.2", "service=backend,zone=south"),
            ingress("iw", "west", "1.1.1.1:10001"),
            ingress("is", "south", "1.1.1.2:10001"),
        ],
    );
    let compiled = zone_egress(&world);
    assert_eq!(endpoints(passes_to(&compiled, "backend{mesh=a}")), ["1.1.1.1:10001 1/0"]);
    assert_eq!(endpoints(passes_to(&compiled, "backend{mesh=b}")), ["1.1.1.2:10001 1/0"]);
}

#[test]
fn subsets_are_known_when_somebody_asks_for_them_and_they_exist() {
    let client = change(app("web", "10.0.0.1", "service=web,zone=east"), |d| {
        d.networking.outbound =
            vec![outbound(1, "service=backend,version=v1"), outbound(2, "service=backend,version=v9")];
    });
    let list = vec![
        mesh("default", "mtls egress"),
        client,
        app("b1", "10.0.1.1", "service=backend,zone=west,version=v1"),
        app("b2", "10.0.1.2", "service=backend,zone=west,version=v2"),
        ingress("i", "west", "1.1.1.1:10001"),
        egress("e1", "east", "10.0.9.1"),
    ];
    let world = world("east", list);
    let v1 = "backend{mesh=default,version=v1}";
    let compiled = zone_egress(&world);
    assert_eq!(endpoints(passes_to(&compiled, v1)), ["1.1.1.1:10001 1/0"]);
    assert_eq!(endpoints(passes_to(&compiled, "backend{mesh=default}")), ["1.1.1.1:10001 2/0"]);
    assert!(sni(&compiled, "backend{mesh=default,version=v9}").is_none());
    let compiled = checked(&world, &ProxyKey::ingress("i"));
    assert_eq!(endpoints(passes_to(&compiled, v1)), ["10.0.1.1:8080 1/0"]);
    assert_eq!(passes_to(&compiled, "backend{mesh=default}").endpoints.len(), 2);
    assert!(compiled.tables.proxy.services.is_empty());
    // What the client sends is what both know.
    let client = sidecar(&world, "web");
    let row = client.tables.services.iter().find(|s| !s.endpoints.is_empty()).unwrap();
    assert!(sni(&compiled, peers(row).0).is_some());
}

#[test]
fn n6_a_virtual_outbound_reaches_another_zone_by_the_sni_that_its_ingress_knows() {
    for tag_key in ["", ", tagKey: version"] {
        let vo = format!(
            "type: VirtualOutbound\nmesh: default\nname: vo\nselectors: [{{match: {{kuma.io/service: '*'}}}}]\nconf: {{host: \
             '{{{{.version}}}}.{{{{.s}}}}.mesh', port: '80', parameters: [{{name: s, tagKey: kuma.io/service}}, {{name: \
             version{tag_key}}}]}}"
        );
        let client = change(app("web", "10.0.0.1", "service=web,zone=b"), |d| {
            let tp = crate::resource::TransparentProxying { redirect_port_outbound: 15001, ..Default::default() };
            d.networking.transparent_proxying = Some(tp);
        });
        let list = vec![
            mesh("default", "mtls"),
            client,
            app("s", "10.0.1.1", "service=svc,zone=a,version=v1"),
            app("t", "10.0.1.2", "service=svc,zone=a,version=v2"),
            ingress("i", "a", "1.1.1.1:10001"),
            crate::resource::read(&vo, "vo.yaml").resources.remove(0),
        ];
        let names = golden::names_of("default", &list.iter().collect::<Vec<_>>(), "b");
        let vip = names.names.iter().find(|row| row.name == "v1.svc.mesh").and_then(|row| row.v4).unwrap();
        let world = named_world("b", list, BTreeMap::from([("default".to_owned(), names)]));
        let compiled = sidecar(&world, "web");
        let row = service(&compiled, target(listener(&compiled, &format!("{vip}:80"))));
        assert_eq!(endpoints(row), ["1.1.1.1:10001 1/0"]);
        let at_ingress = checked(&world, &ProxyKey::ingress("i"));
        assert_eq!(endpoints(passes_to(&at_ingress, peers(row).0)), ["10.0.1.1:8080 1/0"]);
    }
}

#[test]
fn a_bad_secret_leaves_out_one_external_service_and_nothing_else() {
    let mut bad = external("bad", "bad.com:443", "service=bad");
    if let Spec::ExternalService(es) = &mut bad.spec {
        let ca_cert = Some(DataSource::Secret("missing".into()));
        es.networking.tls = Some(ExternalTls { enabled: true, ca_cert, ..ExternalTls::default() });
    }
    let list = vec![
        mesh("default", "mtls egress"),
        egress("e1", "east", "10.0.9.1"),
        bad,
        external("good", "good.com:80", "service=good"),
    ];
    let compiled = zone_egress(&world("east", list));
    assert!(sni(&compiled, "bad{mesh=default}").is_none() && sni(&compiled, "good{mesh=default}").is_some());
    let text = compiled.problems[0].to_string();
    assert!(
        text.starts_with("ExternalService default/bad: networking.tls.caCert: there is no Secret missing"),
        "{text}"
    );
}

#[test]
fn the_order_of_resources_does_not_matter() {
    let mut list = vec![
        mesh("default", "mtls egress"),
        app("b1", "10.0.1.1", "service=backend,zone=west,version=v1"),
        app("b2", "10.0.1.2", "service=backend,zone=east,version=v2"),
        ingress("i", "west", "1.1.1.1:10001"),
        ingress("j", "west", "1.1.1.1:10001"),
        egress("e1", "east", "10.0.9.1"),
        external("a", "a.com:80", "service=ext"),
        external("b", "b.com:80", "service=ext"),
        permission("p", "service=*", "service=*"),
        permission("q", "service=*", "service=*"),
    ];
    let first = world("east", list.clone());
    for turn in 0..list.len() {
        list.rotate_left(turn);
        list.swap(0, turn);
        let other = world("east", list.clone());
        for key in first.proxies() {
            assert_eq!(checked(&first, &key), checked(&other, &key), "{key:?}");
        }
    }
}

#[test]
fn an_egress_without_anything_to_route_still_listens() {
    let world = world("east", vec![mesh("default", ""), egress("e1", "east", "10.0.9.1")]);
    let compiled = zone_egress(&world);
    assert!(compiled.tables.snis.is_empty());
    assert_eq!(listener(&compiled, "10.0.9.1:10002").role, Role::Zone);
}

fn secured(mut resource: Resource, tls: ExternalTls) -> Resource {
    if let Spec::ExternalService(es) = &mut resource.spec {
        es.networking.tls = Some(tls);
    }
    resource
}

#[test]
fn client_certificates_travel_beside_the_tables() {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode("KEY");
    let tls = ExternalTls {
        enabled: true,
        ca_cert: Some(DataSource::InlineString("CA".into())),
        client_cert: Some(DataSource::Inline("CERT".into())),
        client_key: Some(DataSource::Secret("key".into())),
        server_name: "api.com".into(),
        ..ExternalTls::default()
    };
    let world = world(
        "",
        vec![
            mesh("default", "mtls egress"),
            egress("e1", "", "10.0.9.1"),
            resource("default", "key", Spec::Secret(crate::resource::Secret { data })),
            secured(external("es", "10.1.1.1:443", "service=ext"), tls),
        ],
    );
    let compiled = zone_egress(&world);
    let UpstreamTls::External { client } = &service(&compiled, "default:ext").tls else { panic!() };
    assert_eq!((client.server_name.as_str(), client.ca_pem.as_str()), ("api.com", "CA"));
    assert_eq!(client.secret, compiled.secrets[0].name);
    assert_eq!((compiled.secrets[0].cert_pem.as_str(), compiled.secrets[0].key_pem.as_str()), ("CERT", "KEY"));
    assert!(!format!("{compiled:?}").contains("KEY"));
}

#[test]
fn external_services_of_one_name_may_mix_addresses_but_not_tls() {
    let open = ExternalTls { enabled: true, ..ExternalTls::default() };
    let world = world(
        "",
        vec![
            mesh("default", "mtls egress"),
            egress("e1", "", "10.0.9.1"),
            external("a", "10.1.1.1:80", "service=ext"),
            external("b", "b.com:80", "service=ext"),
            secured(external("c", "c.com:443", "service=ext"), open),
        ],
    );
    let compiled = zone_egress(&world);
    assert_eq!(endpoints(service(&compiled, "default:ext")), ["10.1.1.1:80 1/0", "b.com:80 1/0"]);
    assert!(compiled.problems.iter().any(|p| p.origin.name == "c" && p.text.starts_with("TLS settings differ")));
}
