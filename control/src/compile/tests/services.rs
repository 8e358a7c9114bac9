//! MeshServices and their kin in the tables of sidecars and zone proxies (spec/naming.md §6, §7.8).

use super::make::*;
use super::*;
use crate::names::{ServiceNames, ServiceOutbound};
use crate::resource::{Outbound, Resource, ServiceKind, Spec, TransparentProxying, read};
use snapshot::{NameRow, Origin, Protocol, SniTarget};

fn parsed(yaml: &str) -> Resource {
    let intake = read(yaml, "t.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources.into_iter().next().unwrap()
}

fn mesh_service(name: &str, spec: &str) -> Resource {
    parsed(&format!("type: MeshService\nmesh: default\nname: {name}\nlabels: {{team: a}}\nspec: {spec}"))
}

fn backend_service() -> Resource {
    mesh_service(
        "backend",
        "{selector: {dataplaneTags: {kuma.io/service: backend}}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}",
    )
}

fn external_service(tls: &str) -> Resource {
    parsed(&format!(
        "type: MeshExternalService\nmesh: default\nname: ext\nspec: {{match: {{type: HostnameGenerator, port: 443, protocol: \
         http}}, endpoints: [{{address: a.com, port: 8443}}, {{address: '2001:db8::1', port: 8443}}]{tls}}}"
    ))
}

fn multi_zone() -> Resource {
    parsed(
        "type: MeshMultiZoneService\nmesh: default\nname: all\nspec: {selector: {meshService: {matchLabels: {team: a}}}, ports: \
         [{name: web, port: 80, appProtocol: http2}]}",
    )
}

/// VIP 241.0.0.n of the n-th.
fn at(list: &[(ServiceKind, &str, u16)]) -> ServiceNames {
    let one = |(n, (kind, name, port)): (u8, &(ServiceKind, &str, u16))| ServiceOutbound {
        v4: Some([241, 0, 0, n].into()),
        v6: None,
        port: *port,
        kind: *kind,
        name: (*name).to_owned(),
    };
    let outbounds: Vec<ServiceOutbound> = (1..).zip(list).map(one).collect();
    let name = |o: &ServiceOutbound| NameRow {
        name: format!("{}.svc", o.name),
        v4: o.v4,
        v6: None,
        origin: Origin::default(),
    };
    ServiceNames { names: outbounds.iter().map(name).collect(), outbounds }
}

fn client(with: impl FnOnce(&mut TransparentProxying)) -> Resource {
    change(app("web", "10.0.0.1", "service=web,zone=east"), |d| {
        let mut tp = TransparentProxying { redirect_port_outbound: 15001, ..Default::default() };
        with(&mut tp);
        d.networking.transparent_proxying = Some(tp);
    })
}

fn switched(mut mesh: Resource, mode: &str) -> Resource {
    if let Spec::Mesh(spec) = &mut mesh.spec {
        spec.mesh_services = Some(serde_json::json!({ "mode": mode }));
    }
    mesh
}

const BACKEND: (ServiceKind, &str, u16) = (ServiceKind::MeshService, "backend", 80);

#[test]
fn a_mesh_service_is_dialled_at_the_inbounds_it_selects() {
    let named = change(app("b2", "10.0.1.2", "service=backend,zone=east"), |d| {
        d.networking.inbound[0].port = 9090;
        d.networking.inbound[0].name = "main".into();
    });
    let by_name = mesh_service(
        "named",
        "{selector: {dataplaneTags: {kuma.io/service: backend}}, ports: [{port: 1, targetPort: main}]}",
    );
    let by_ref = mesh_service("one", "{selector: {dataplaneRef: {name: b2}}, ports: [{port: 9090}]}");
    let nobody = mesh_service("nobody", "{ports: [{port: 1}]}");
    let services = at(&[
        BACKEND,
        (ServiceKind::MeshService, "named", 1),
        (ServiceKind::MeshService, "one", 9090),
        (ServiceKind::MeshService, "nobody", 1),
    ]);
    let b1 = app("b1", "10.0.1.1", "service=backend,zone=east,protocol=tcp");
    let list = vec![mesh("default", "mtls"), client(|_| {}), b1, named, backend_service(), by_name, by_ref, nobody];
    let compiled = sidecar(&served_world("east", list, services), "web");
    let row = |address: &str| service(&compiled, target(listener(&compiled, address)));
    assert_eq!(endpoints(row("241.0.0.1:80")), ["10.0.1.1:8080 1/0"]);
    assert_eq!(row("241.0.0.1:80").protocol, Protocol::Http);
    assert_eq!(row("241.0.0.1:80").name, "default_backend___msvc_80");
    let (sni, peers) = peers(row("241.0.0.1:80"));
    assert!(sni.ends_with(".backend.80.default.ms"), "{sni}");
    assert_eq!(peers, ["spiffe://default/backend"]);
    assert_eq!(endpoints(row("241.0.0.2:1")), ["10.0.1.2:9090 1/0"]);
    assert_eq!(endpoints(row("241.0.0.3:9090")), ["10.0.1.2:9090 1/0"]);
    assert!(row("241.0.0.4:1").hint.contains("selects no inbound on port 1"), "{}", row("241.0.0.4:1").hint);
}

fn two_zones(words: &str) -> World {
    let list = vec![
        mesh("default", words),
        client(|_| {}),
        app("b1", "10.0.1.1", "service=backend,zone=east"),
        app("b2", "10.0.1.2", "service=backend,zone=west"),
        app("b3", "10.0.1.3", "service=backend,zone=west"),
        ingress("i", "west", "1.1.1.1:10001"),
        egress("e", "east", "10.0.9.1"),
        backend_service(),
        multi_zone(),
        external_service(", tls: {enabled: true}"),
    ];
    let kinds =
        [BACKEND, (ServiceKind::MeshMultiZoneService, "all", 80), (ServiceKind::MeshExternalService, "ext", 443)];
    served_world("east", list, at(&kinds))
}

#[test]
fn other_zones_come_after_the_own_and_are_reached_by_the_sni_that_their_ingress_knows() {
    let world = two_zones("mtls");
    let compiled = sidecar(&world, "web");
    let at_ingress = checked(&world, &ProxyKey::ingress("i"));
    for address in ["241.0.0.1:80", "241.0.0.2:80"] {
        let row = service(&compiled, target(listener(&compiled, address)));
        assert_eq!(endpoints(row), ["1.1.1.1:10001 2/1", "10.0.1.1:8080 1/0"]);
        let SniTarget::Passthrough { service: passed } = &sni(&at_ingress, peers(row).0).unwrap().target else {
            panic!()
        };
        assert_eq!(endpoints(service(&at_ingress, passed)), ["10.0.1.2:8080 1/0", "10.0.1.3:8080 1/0"]);
    }
    let plain = sidecar(&two_zones(""), "web");
    assert_eq!(endpoints(service(&plain, target(listener(&plain, "241.0.0.1:80")))), ["10.0.1.1:8080 1/0"]);
}

#[test]
fn with_zone_egress_they_are_reached_through_it() {
    let world = two_zones("mtls egress");
    let compiled = sidecar(&world, "web");
    let at_egress = checked(&world, &ProxyKey::egress("e"));
    let row = service(&compiled, target(listener(&compiled, "241.0.0.2:80")));
    assert_eq!(endpoints(row), ["10.0.1.1:8080 1/0", "10.0.9.1:10002 1/1"]);
    let SniTarget::Passthrough { service: passed } = &sni(&at_egress, peers(row).0).unwrap().target else { panic!() };
    assert_eq!(endpoints(service(&at_egress, passed)), ["1.1.1.1:10001 2/0"]);
}

#[test]
fn a_mesh_external_service_is_dialled_by_the_egress_alone() {
    let world = two_zones("mtls");
    let compiled = sidecar(&world, "web");
    let row = service(&compiled, target(listener(&compiled, "241.0.0.3:443")));
    assert_eq!(endpoints(row), ["10.0.9.1:10002 1/0"]);
    assert_eq!(peers(row).1, ["spiffe://default/zone-egress"]);
    let at_egress = checked(&world, &ProxyKey::egress("e"));
    let found = sni(&at_egress, peers(row).0).unwrap();
    let SniTarget::Terminate { handler: Handler::Http { .. }, permission, .. } = &found.target else {
        panic!("{found:?}")
    };
    assert_ne!(row_of_permission(&at_egress, permission).access, Access::Deny);
    let dialled = service(&at_egress, "default_ext___extsvc_443");
    assert_eq!(endpoints(dialled), ["2001:db8::1:8443 1/0", "a.com:8443 1/0"]);
    let UpstreamTls::External { client } = &dialled.tls else { panic!() };
    assert_eq!((client.ca_pem.as_str(), client.skip_name_check), ("system", false));
    let plain = sidecar(&two_zones(""), "web");
    let row = service(&plain, target(listener(&plain, "241.0.0.3:443")));
    assert!(row.endpoints.is_empty() && row.hint.contains("needs mTLS"), "{}", row.hint);
}

#[test]
fn verification_is_what_the_resource_says() {
    let world = |tls: &str| {
        let list = vec![mesh("default", "mtls"), egress("e", "east", "10.0.9.1"), external_service(tls)];
        served_world("east", list, ServiceNames::default())
    };
    let client = |mode: &str| {
        let world = world(&format!(", tls: {{enabled: true, verification: {{mode: {mode}, serverName: b.com}}}}"));
        let compiled = checked(&world, &ProxyKey::egress("e"));
        match &service(&compiled, "default_ext___extsvc_443").tls {
            UpstreamTls::External { client } => {
                (client.ca_pem.clone(), client.skip_name_check, client.server_name.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(client("Secured"), ("system".into(), false, "b.com".into()));
    assert_eq!(client("SkipSAN"), ("system".into(), true, "b.com".into()));
    assert_eq!(client("SkipAll"), (String::new(), true, "b.com".into()));
    let missing = ", tls: {enabled: true, verification: {caCert: {secret: none}}}";
    let compiled = checked(&world(missing), &ProxyKey::egress("e"));
    assert!(compiled.tables.snis.is_empty());
    assert!(
        compiled.problems[0].text.contains("tls.verification.caCert: there is no Secret none"),
        "{:?}",
        compiled.problems
    );
}

fn dialled(list: Vec<Resource>, mode: &str) -> Vec<String> {
    let mut all = vec![switched(mesh("default", ""), mode), backend_service(), multi_zone()];
    all.extend(list);
    let world = served_world("east", all, at(&[BACKEND, (ServiceKind::MeshMultiZoneService, "all", 80)]));
    let compiled = sidecar(&world, "web");
    let listeners = &compiled.tables.listeners;
    let names: Vec<String> = compiled.tables.names.iter().map(|row| row.name.clone()).collect();
    assert_eq!(names.len(), listeners.len() - 1, "{names:?}");
    let virtual_only = listeners.iter().filter(|l| matches!(l.role, Role::Outbound { vip: true, .. }));
    virtual_only.map(|l| l.address.to_string()).collect()
}

#[test]
fn reachable_backends_trim_them_and_reachable_services_hide_them() {
    let both = ["241.0.0.1:80", "241.0.0.2:80"];
    let refs = |json: serde_json::Value| client(move |tp| tp.reachable_backends = Some(json));
    assert_eq!(dialled(vec![client(|_| {})], "Everywhere"), both);
    assert_eq!(dialled(vec![client(|_| {})], "ReachableBackends"), [""; 0]);
    assert_eq!(dialled(vec![client(|tp| tp.reachable_services = vec!["x".into()])], "Everywhere"), [""; 0]);
    assert_eq!(dialled(vec![refs(serde_json::json!({}))], "Everywhere"), [""; 0]);
    let one = serde_json::json!({"refs": [{"kind": "MeshService", "name": "backend", "port": 80}]});
    assert_eq!(dialled(vec![refs(one.clone())], "Everywhere"), both[..1]);
    assert_eq!(dialled(vec![refs(one)], "ReachableBackends"), both[..1]);
    let other = serde_json::json!({"refs": [{"kind": "MeshService", "name": "backend", "port": 81}]});
    assert_eq!(dialled(vec![refs(other)], "Exclusive"), [""; 0]);
    let labels =
        serde_json::json!({"refs": [{"kind": "MeshMultiZoneService", "labels": {"kuma.io/display-name": "all"}}]});
    assert_eq!(dialled(vec![refs(labels)], "Exclusive"), both[1..]);
}

#[test]
fn a_written_outbound_leads_to_the_oldest_that_its_reference_names() {
    let outbound =
        |port: u16, json: serde_json::Value| Outbound { port, backend_ref: Some(json), ..Outbound::default() };
    let web = change(app("web", "10.0.0.1", "service=web,zone=east"), |d| {
        d.networking.outbound = vec![
            outbound(1001, serde_json::json!({"kind": "MeshService", "labels": {"team": "a"}, "port": 80})),
            outbound(1002, serde_json::json!({"kind": "MeshService", "name": "gone", "port": 80})),
            outbound(1003, serde_json::json!({"kind": "MeshService", "name": "backend", "port": 81})),
        ];
    });
    let mut older = mesh_service("zz", "{selector: {dataplaneTags: {kuma.io/service: b}}, ports: [{port: 80}]}");
    let mut newer = backend_service();
    (older.meta.created_ms, newer.meta.created_ms) = (1, 2);
    let compiled = sidecar(&world("east", vec![mesh("default", ""), web, older, newer]), "web");
    assert_eq!(target(listener(&compiled, "127.0.0.1:1001")), "default_zz___msvc_80");
    assert_eq!(compiled.problems.iter().filter(|p| p.text.contains("no resource is what its backendRef")).count(), 1);
    // A port that the service doesn't have is a listener without endpoints, which says so.
    let row = service(&compiled, target(listener(&compiled, "127.0.0.1:1003")));
    assert!(row.hint.contains("there is no MeshService default/backend with port 81"), "{}", row.hint);
}
