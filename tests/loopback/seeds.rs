//! Each document that people copied from Kuma's pages keeps its promise. Documents stand here as published; only addresses are the
//! test's own.

use std::net::SocketAddr;

use harness::{HttpServer, echo_server, eventually};

use crate::client::{Answer, Connection, dns, get};
use crate::ground::{Ground, LONG, Mesh, may_bind_low_ports};

/// A workload that asks for names; the proxies of others run beside its.
const CLIENT: &str = "
---
type: Dataplane
mesh: default
name: client-1
networking:
  address: NET.1
  admin: {port: ADMIN}
  inbound: [{port: 9001, servicePort: 9002, tags: {kuma.io/service: client}}]
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
";

/// A workload on NET.2:9000 whose application is on NET.3:9000.
fn workload(tags: &str) -> String {
    format!(
        "
---
type: Dataplane
mesh: default
name: backend-1
networking:
  address: NET.2
  inbound:
  - port: 9000
    serviceAddress: NET.3
    tags:
      kuma.io/service: backend
{tags}
"
    )
}

fn echoes(ground: &Ground, mesh: &Mesh, name: &str, port: u16) {
    let address = mesh.resolve(name, port);
    assert!(address.to_string().starts_with(&ground.text("NET.")), "{address} is none of the range");
    if port < 1024 && !may_bind_low_ports() {
        return;
    }
    let mut connection = Connection::open(address).unwrap();
    connection.send(b"through the mesh").unwrap();
    assert_eq!(connection.read_exactly(16).unwrap(), b"through the mesh");
}

/// A VirtualOutbound as published; a workload with these tags is reached by `name:port`.
fn names(virtual_outbound: &str, tags: &str, name: &str, port: u16) {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let mesh = ground.up_with(&[virtual_outbound, &workload(tags), CLIENT].concat(), &["--as", "client-1"]);
    echoes(&ground, &mesh, name, port);
}

/// A document of the pages, as it is published.
macro_rules! seed {
    ($name:literal) => {
        concat!("---\n", include_str!(concat!("../../control/testdata/intake/seeds/", $name, ".yaml")))
    };
}

#[test]
fn seed_the_first_example_is_reached_as_v1_backend_mesh_on_port_1800() {
    for policy in [seed!("virtual-outbound-2.4-03"), seed!("virtual-outbound-doc-02")] {
        let ground = Ground::new();
        echo_server(ground.at(2, 6379));
        let backend = seed!("virtual-outbound-2.4-01").replace("192.168.0.2", "NET.2");
        let mut mesh = ground.up_with(&[&backend, policy, CLIENT].concat(), &["--as", "client-1"]);
        echoes(&ground, &mesh, "v1.backend.mesh", 1800);
        // The page's slip is read as meant, and named.
        let warning = mesh.process.wait_for("inbound", LONG);
        assert!(warning.contains("networking"), "{warning}");
    }
}

#[test]
fn seed_the_first_example_in_kubernetes_form_names_by_the_service_port_tag() {
    let tags = "      version: v1\n      k8s.kuma.io/service-port: '1800'";
    names(seed!("virtual-outbound-2.4-02"), tags, "v1.backend.mesh", 1800);
}

#[test]
fn seed_same_as_the_default_dns_in_both_forms() {
    names(seed!("virtual-outbound-2.4-04"), "", "backend.mesh", 80);
    names(seed!("virtual-outbound-2.4-05"), "", "backend.mesh", 80);
}

#[test]
fn seed_one_hostname_per_version_in_both_forms() {
    for policy in [seed!("virtual-outbound-2.4-06"), seed!("virtual-outbound-2.4-07")] {
        names(policy, "      kuma.io/version: v2", "backend.v2.mesh", 80);
    }
}

#[test]
fn seed_a_custom_tag_defines_hostname_and_port_in_both_forms() {
    for policy in [seed!("virtual-outbound-2.4-08"), seed!("virtual-outbound-2.4-09")] {
        let tags = "      my.mesh/hostname: kafka.corp.example.com\n      my.mesh/port: '9092'";
        names(policy, tags, "kafka.corp.example.com", 9092);
    }
}

#[test]
fn seed_one_hostname_per_instance_in_kubernetes_form() {
    let tags = "      statefulset.kubernetes.io/pod-name: zk-0";
    names(seed!("virtual-outbound-2.4-10"), tags, "backend.zk-0.mesh", 8080);
}

#[test]
fn seed_one_hostname_per_instance_reaches_just_that_instance() {
    let ground = Ground::new();
    let second = "
---
type: Dataplane
mesh: default
name: backend-2
networking:
  address: NET.4
  inbound: [{port: 9000, serviceAddress: NET.5, tags: {kuma.io/service: backend, kuma.io/protocol: http, kuma.io/instance: '1'}}]
";
    for (host, instance) in [(3, "0"), (5, "1")] {
        HttpServer::start(ground.at(host, 9000), move |_, _| instance.to_owned());
    }
    let first = workload("      kuma.io/instance: '0'\n      kuma.io/protocol: http");
    let policy = seed!("virtual-outbound-2.4-11");
    let mesh = ground.up_with(&[policy, &first, second, CLIENT].concat(), &["--as", "client-1"]);
    for instance in ["0", "1", "0"] {
        let name = format!("inst-{instance}.backend.mesh");
        let address = mesh.resolve(&name, 8080);
        for _ in 0..4 {
            assert_eq!(get(address, &name, "/").body, instance);
        }
    }
}

#[test]
fn seed_dns_names_with_underscores_have_dots_too_and_lead_to_port_80() {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let service = workload("").replace("service: backend", "service: echo-server_echo-example_svc_1010");
    let mesh = ground.up_with(&[&service, CLIENT].concat(), &["--as", "client-1"]);
    let names = ["echo-server_echo-example_svc_1010.mesh", "echo-server.echo-example.svc.1010.mesh"];
    let [written, dotted] = names.map(|name| mesh.resolve(name, 80));
    assert_eq!(written, dotted);
    echoes(&ground, &mesh, names[1], 80);
}

#[test]
fn seed_a_name_of_the_mesh_shadows_the_same_name_outside() {
    let ground = Ground::new();
    let outside = HttpServer::start(ground.at(9, 0), |_, _| "through the mesh".to_owned());
    let external = format!(
        "---\ntype: ExternalService\nmesh: default\nname: out\ntags: {{kuma.io/service: out, kuma.io/protocol: http}}\n\
         networking: {{address: 'localhost:{}'}}\n",
        outside.address.port()
    );
    let mesh = ground.up_with(&[&external, CLIENT].concat(), &["--as", "client-1"]);
    // Every resolver outside says 127.0.0.1.
    let address = mesh.resolve("localhost", outside.address.port());
    assert!(address.to_string().starts_with(&ground.text("NET.")), "{address} is none of the range");
}

#[test]
fn seed_redis_mesh_is_60_in_a_and_aaaa() {
    let ground = Ground::new();
    let resources = [&workload("").replace("backend", "redis"), CLIENT].concat();
    let file = ground.write("mesh.yaml", &resources);
    // Without interception no address need be routable.
    let mut command = ground.up_command(&file, &["--interception", "off", "--as", "client-1"]);
    command.env("KUMA_DNS_SERVER_CIDR", "240.0.0.0/4").env("WEIR_DNS_SERVER_CIDR_V6", "fd00:fd00::/64");
    let mesh = Mesh::ready(harness::Process::start("up", command));
    let server = mesh.dns.unwrap();
    let [v4, v6] = [1, 28]
        .map(|kind| eventually("redis.mesh", LONG, || dns(server, "redis.mesh", kind).records.into_iter().next()));
    assert_eq!((v4.0, v6.0), (60, 60));
    assert!(v4.1.to_string().starts_with("240.0.0."), "{v4:?}");
    assert!(v6.1.to_string().starts_with("fd00:fd00::"), "{v6:?}");
    assert_eq!(dns(server, "nobody.mesh", 1).code, 3, "NXDOMAIN");
}

#[test]
fn seed_n13_a_service_that_is_removed_has_no_name_and_its_old_address_resets() {
    const PORT: u16 = 8080;
    let ground = Ground::new();
    echo_server(ground.at(9, 7000));
    let file = ground.write("mesh.yaml", CLIENT);
    let mut command = ground.up_command(&file, &["--interception", "bind", "--as", "client-1"]);
    command.env("KUMA_DNS_SERVER_SERVICE_VIP_PORT", PORT.to_string());
    let mut mesh = Mesh::ready(harness::Process::start("up", command));
    let path = "/meshes/default/external-services/billing";
    let (status, body) = mesh.put(
        path,
        &format!(
            r#"{{"type": "ExternalService", "mesh": "default", "name": "billing", "tags": {{"kuma.io/service": "billing"}},
            "networking": {{"address": "{}"}}}}"#,
            ground.at(9, 7000)
        ),
    );
    assert_eq!(status, 201, "{body}");
    echoes(&ground, &mesh, "billing.mesh", PORT);
    let vip = mesh.resolve("billing.mesh", PORT);
    assert_eq!(crate::client::request(mesh.api, "DELETE", path, "").status, 200);
    let server = mesh.dns.unwrap();
    eventually("billing.mesh to be gone", LONG, || dns(server, "billing.mesh", 1).records.is_empty().then_some(()));
    let late = Connection::open(vip).and_then(|mut late| {
        late.send(b"x")?;
        late.read_exactly(1)
    });
    assert!(late.is_err());
    let line = mesh.process.wait_for("old DNS answer", LONG);
    assert!(line.contains(&format!("{vip} was billing's")), "{line}");
}

#[test]
fn seed_the_http_gateway_routes_8080_for_foo_example_com() {
    let ground = Ground::new();
    HttpServer::start(ground.at(3, 9000), |head, _| format!("demo {}", head.lines().next().unwrap()));
    let gateway =
        [&seed!("gateway-2.5-08").replace("127.0.0.1", "NET.4"), seed!("gateway-2.5-10"), seed!("gateway-2.5-12")]
            .concat();
    let demo =
        workload("      kuma.io/protocol: http").replace("service: backend", "service: demo-app_kuma-demo_svc_5000");
    let _mesh = ground.up(&[gateway, demo].concat());
    let answer = get(ground.at(4, 8080), "foo.example.com", "/a?b=c");
    assert_eq!((answer.status, answer.body.as_str()), (200, "demo GET /a?b=c HTTP/1.1"));
    assert_eq!(get(ground.at(4, 8080), "bar.example.com", "/").status, 404);
}

#[test]
fn seed_the_tcp_gateway_leads_to_redis() {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let gateway = [&seed!("gateway-2.5-08").replace("127.0.0.1", "NET.4"), seed!("gateway-2.5-13")].concat();
    let _mesh =
        ground.up(&[gateway, workload("").replace("service: backend", "service: redis_kuma-demo_svc_6379")].concat());
    let mut connection = Connection::open(ground.at(4, 8080)).unwrap();
    connection.send(b"*1\r\n$4\r\nPING\r\n").unwrap();
    assert_eq!(connection.read_exactly(14).unwrap(), b"*1\r\n$4\r\nPING\r\n");
}

#[test]
fn seed_the_delegated_gateway_s_outbound_is_on_33033() {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let kong = seed!("gateway-2.5-05").replace("10.0.0.1", "NET.4");
    // The page's outbound is on 127.0.0.1, which other tests have too.
    let kong = kong.replace("port: 33033\n", "port: 33033\n      address: NET.6\n");
    let _mesh = ground.up(&[kong, workload("")].concat());
    let mut connection = Connection::open(ground.at(6, 33033)).unwrap();
    connection.send(b"to backend").unwrap();
    assert_eq!(connection.read_exactly(10).unwrap(), b"to backend");
}

/// Two meshes with certificates: the gateway of `default` serves workloads of `other`.
const TWO_MESHES: &str = r#"
type: Mesh
name: default
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
---
type: Mesh
name: other
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
---
type: TrafficPermission
mesh: default
name: everyone
sources: [{match: {kuma.io/service: '*'}}]
destinations: [{match: {kuma.io/service: '*'}}]
---
type: Dataplane
mesh: default
name: cross-mesh-gateway-1
networking:
  address: NET.4
  gateway: {type: BUILTIN, tags: {kuma.io/service: cross-mesh-gateway}}
---
type: MeshGateway
mesh: default
name: cross-mesh-gateway
selectors:
  - match:
      kuma.io/service: cross-mesh-gateway
conf:
  listeners:
    - port: 8080
      protocol: HTTP
      crossMesh: true
      hostname: default.mesh
---
type: MeshGatewayRoute
mesh: default
name: cross-mesh-route
selectors: [{match: {kuma.io/service: cross-mesh-gateway}}]
conf:
  http:
    rules:
      - matches: [{path: {match: PREFIX, value: /}}]
        backends: [{destination: {kuma.io/service: backend}}]
"#;

/// Asks until the certificates are everywhere.
fn get_when_ready(address: SocketAddr, host: &str) -> Answer {
    eventually(&format!("{host} on {address}"), LONG, || {
        Some(get(address, host, "/")).filter(|answer| answer.status == 200)
    })
}

#[test]
fn seed_the_cross_mesh_gateway_is_reached_by_its_hostname_from_another_mesh() {
    let ground = Ground::new();
    HttpServer::start(ground.at(3, 9000), |_, _| "from default".to_owned());
    let stranger = CLIENT.replace("mesh: default", "mesh: other");
    let resources = [TWO_MESHES, &workload("      kuma.io/protocol: http"), &stranger].concat();
    let mesh = ground.up_with(&resources, &["--as", "client-1"]);
    assert_eq!(get_when_ready(mesh.resolve("default.mesh", 8080), "default.mesh:8080").body, "from default");
}

#[test]
fn seed_the_cross_mesh_gateway_is_reached_by_an_explicit_outbound_without_transparent_proxy() {
    let ground = Ground::new();
    HttpServer::start(ground.at(3, 9000), |_, _| "from default".to_owned());
    let stranger = "
---
type: Dataplane
mesh: other
name: client-1
networking:
  address: NET.1
  inbound: [{port: 9001, servicePort: 9002, tags: {kuma.io/service: client}}]
  outbound:
  - port: 8080
    address: NET.6
    tags:
      kuma.io/service: cross-mesh-gateway
      kuma.io/mesh: default
";
    let _mesh = ground.up(&[TWO_MESHES, &workload("      kuma.io/protocol: http"), stranger].concat());
    assert_eq!(get_when_ready(ground.at(6, 8080), "default.mesh:8080").body, "from default");
}

#[test]
fn seed_with_zone_egress_routing_an_external_service_is_reached_only_through_the_egress() {
    let ground = Ground::new();
    let app = HttpServer::start(ground.at(9, 0), |_, peer| format!("seen from {}", peer.ip()));
    let resources = format!(
        "
type: Mesh
name: default
mtls: # mTLS is required to use ZoneEgress
  enabledBackend: ca-1
  backends: [{{name: ca-1, type: builtin}}]
routing:
  zoneEgress: true
---
type: TrafficPermission
mesh: default
name: everyone
sources: [{{match: {{kuma.io/service: '*'}}}}]
destinations: [{{match: {{kuma.io/service: '*'}}}}]
---
type: ExternalService
mesh: default
name: outside
tags: {{kuma.io/service: outside, kuma.io/protocol: http}}
networking: {{address: '{}'}}
{CLIENT}",
        app.address
    );
    let path = "/zoneegresses/zoneegress-1";
    let egress = ground
        .text(r#"{"type": "ZoneEgress", "name": "zoneegress-1", "networking": {"address": "NET.5", "port": 10002}}"#);
    let mesh = ground.up_with(&resources, &["--as", "client-1"]);
    let address = mesh.resolve("outside.mesh", 80);
    if !may_bind_low_ports() {
        return;
    }
    // "If enabled but no ZoneEgress is available the communication will fail."
    assert_eq!(get(address, "outside.mesh", "/").status, 503);
    let (status, body) = mesh.put(path, &egress);
    assert_eq!(status, 201, "{body}");
    let answer = get_when_ready(address, "outside.mesh");
    assert!(answer.body.starts_with("seen from 127."), "{}", answer.body);
}
