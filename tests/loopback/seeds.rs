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

const BACKEND_1: &str = r#"
type: Dataplane
mesh: default
name: backend-1
networking:
  address: NET.2
inbound:
  - port: 9000
    servicePort: 6379
    tags:
      kuma.io/service: backend
      version: v1
      port: 1800
"#;

#[test]
fn the_virtual_outbound_page_s_first_example_is_reached_as_v1_backend_mesh_on_port_1800() {
    let ground = Ground::new();
    echo_server(ground.at(2, 6379));
    let policy = r#"
---
type: VirtualOutbound
mesh: default
name: test
selectors:
  - match:
      kuma.io/service: "*"
conf:
  host: "{{.v}}.{{.service}}.mesh"
  port: "{{.port}}"
  parameters:
    - name: service
      tagKey: "kuma.io/service"
    - name: port
      tagKey: port
    - name: v
      tagKey: version
"#;
    let mut mesh = ground.up_with(&[BACKEND_1, policy, CLIENT].concat(), &["--as", "client-1"]);
    echoes(&ground, &mesh, "v1.backend.mesh", 1800);
    // The page's slip is read as meant, and named.
    let warning = mesh.process.wait_for("inbound", LONG);
    assert!(warning.contains("networking"), "{warning}");
}

#[test]
fn the_first_example_in_kubernetes_form_names_by_the_service_port_tag() {
    names(
        r#"
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata:
  name: test
spec:
  selectors:
    - match:
        kuma.io/service: "*"
  conf:
    host: "{{.v}}.{{.service}}.mesh"
    port: "{{.port}}"
    parameters:
      - name: service
        tagKey: "kuma.io/service"
      - name: port
        tagKey: "k8s.kuma.io/service-port"
      - name: v
        tagKey: version
"#,
        "      version: v1\n      k8s.kuma.io/service-port: '1800'",
        "v1.backend.mesh",
        1800,
    );
}

#[test]
fn same_as_the_default_dns_in_kubernetes_form() {
    names(
        r#"
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata:
    name: default
spec:
    selectors:
      - match:
          kuma.io/service: "*"
    conf:
      host: "{{.service}}.mesh"
      port: "80"
      parameters:
        - name: service
          tagKey: "kuma.io/service"
"#,
        "",
        "backend.mesh",
        80,
    );
}

#[test]
fn same_as_the_default_dns_in_universal_form() {
    names(
        r#"
type: VirtualOutbound
mesh: default
name: default
selectors:
  - match:
      kuma.io/service: "*"
conf:
  host: "{{.service}}.mesh"
  port: "80"
  parameters:
    - name: service
      tagKey: "kuma.io/service"
"#,
        "",
        "backend.mesh",
        80,
    );
}

#[test]
fn one_hostname_per_version_in_kubernetes_form() {
    names(
        r#"
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata:
  name: versioned
spec:
    selectors:
      - match:
          kuma.io/service: "*"
    conf:
      host: "{{.service}}.{{.version}}.mesh"
      port: "80"
      parameters:
        - name: service
          tagKey: "kuma.io/service"
        - name: version
          tagKey: "kuma.io/version"
"#,
        "      kuma.io/version: v2",
        "backend.v2.mesh",
        80,
    );
}

#[test]
fn one_hostname_per_version_in_universal_form_with_its_spec_wrapper() {
    names(
        r#"
type: VirtualOutbound
mesh: default
name: versioned
spec:
    selectors:
      - match:
          kuma.io/service: "*"
    conf:
      host: "{{.service}}.{{.version}}.mesh"
      port: "80"
      parameters:
        - name: service
          tagKey: "kuma.io/service"
        - name: version
          tagKey: "kuma.io/version"
"#,
        "      kuma.io/version: v2",
        "backend.v2.mesh",
        80,
    );
}

#[test]
fn a_custom_tag_defines_hostname_and_port_in_kubernetes_form() {
    names(
        r#"
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata:
  name: host-port
spec:
    selectors:
      - match:
          kuma.io/service: "*"
    conf:
      host: "{{.hostname}}"
      port: "{{.port}}"
      parameters:
        - name: hostname
          tagKey: "my.mesh/hostname"
        - name: port
          tagKey: "my.mesh/port"
        - name: service
"#,
        "      my.mesh/hostname: legacy.example.mesh\n      my.mesh/port: '4321'",
        "legacy.example.mesh",
        4321,
    );
}

#[test]
fn a_custom_tag_defines_hostname_and_port_in_universal_form() {
    names(
        r#"
type: VirtualOutbound
mesh: default
name: host-port
selectors:
  - match:
      kuma.io/service: "*"
conf:
  host: "{{.hostname}}"
  port: "{{.port}}"
  parameters:
    - name: hostname
      tagKey: "my.mesh/hostname"
    - name: port
      tagKey: "my.mesh/port"
    - name: service
"#,
        "      my.mesh/hostname: kafka.corp.example.com\n      my.mesh/port: '9092'",
        "kafka.corp.example.com",
        9092,
    );
}

#[test]
fn one_hostname_per_instance_in_kubernetes_form() {
    names(
        r#"
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata:
  name: instance
spec:
  selectors:
    - match:
        kuma.io/service: "*"
        statefulset.kubernetes.io/pod-name: "*"
  conf:
    host: "{{.svc}}.{{.inst}}.mesh"
    port: "8080"
    parameters:
      - name: "svc"
        tagKey: "kuma.io/service"
      - name: "inst"
        tagKey: "statefulset.kubernetes.io/pod-name"
"#,
        "      statefulset.kubernetes.io/pod-name: zk-0",
        "backend.zk-0.mesh",
        8080,
    );
}

const PER_INSTANCE: &str = r#"
type: VirtualOutbound
mesh: default
name: default
selectors:
  - match:
      kuma.io/service: "*"
      kuma.io/instance: "*"
conf:
  host: "inst-{{.instance}}.{{.service}}.mesh"
  port: "8080"
  parameters:
    - name: service
      tagKey: "kuma.io/service"
    - name: instance
      tagKey: "kuma.io/instance"
"#;

#[test]
fn one_hostname_per_instance_in_universal_form_reaches_just_that_instance() {
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
    let mesh = ground.up_with(&[PER_INSTANCE, &first, second, CLIENT].concat(), &["--as", "client-1"]);
    for instance in ["0", "1", "0"] {
        let name = format!("inst-{instance}.backend.mesh");
        let address = mesh.resolve(&name, 8080);
        for _ in 0..4 {
            assert_eq!(get(address, &name, "/").body, instance);
        }
    }
}

#[test]
fn redis_mesh_is_60_in_a_and_aaaa() {
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
fn the_http_gateway_routes_8080_for_foo_example_com() {
    let ground = Ground::new();
    HttpServer::start(ground.at(3, 9000), |head, _| format!("demo {}", head.lines().next().unwrap()));
    let gateway = r#"
type: Dataplane
mesh: default
name: gateway-instance-1
networking:
  address: NET.4
  gateway:
    type: BUILTIN
    tags:
      kuma.io/service: edge-gateway
---
type: MeshGateway
mesh: default
name: edge-gateway
selectors:
  - match:
      kuma.io/service: edge-gateway
conf:
  listeners:
    - port: 8080
      protocol: HTTP
      hostname: foo.example.com
      tags:
        port: http-8080
---
type: MeshGatewayRoute
mesh: default
name: edge-gateway-route
selectors:
  - match:
      kuma.io/service: edge-gateway
      port: http-8080
conf:
  http:
    rules:
      - matches:
          - path:
              match: PREFIX
              value: /
        backends:
          - destination:
              kuma.io/service: demo-app_kuma-demo_svc_5000
"#;
    let demo =
        workload("      kuma.io/protocol: http").replace("service: backend", "service: demo-app_kuma-demo_svc_5000");
    let _mesh = ground.up(&[gateway, &demo].concat());
    let answer = get(ground.at(4, 8080), "foo.example.com", "/a?b=c");
    assert_eq!((answer.status, answer.body.as_str()), (200, "demo GET /a?b=c HTTP/1.1"));
    assert_eq!(get(ground.at(4, 8080), "bar.example.com", "/").status, 404);
}

#[test]
fn the_tcp_gateway_leads_to_redis() {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let gateway = r#"
type: Dataplane
mesh: default
name: gateway-instance-1
networking:
  address: NET.4
  gateway:
    type: BUILTIN
    tags:
      kuma.io/service: edge-gateway
---
type: MeshGateway
mesh: default
name: edge-gateway
selectors:
  - match:
      kuma.io/service: edge-gateway
conf:
  listeners:
    - port: 8080
      protocol: TCP
      tags:
        port: tcp/8080
---
type: MeshGatewayRoute
mesh: default
name: edge-gateway-route
selectors:
  - match:
      kuma.io/service: edge-gateway
      port: tcp/8080
conf:
  tcp:
    rules:
      - backends:
          - destination:
              kuma.io/service: redis_kuma-demo_svc_6379
"#;
    let _mesh =
        ground.up(&[gateway, &workload("").replace("service: backend", "service: redis_kuma-demo_svc_6379")].concat());
    let mut connection = Connection::open(ground.at(4, 8080)).unwrap();
    connection.send(b"*1\r\n$4\r\nPING\r\n").unwrap();
    assert_eq!(connection.read_exactly(14).unwrap(), b"*1\r\n$4\r\nPING\r\n");
}

#[test]
fn the_delegated_gateway_s_outbound_is_on_33033() {
    let ground = Ground::new();
    echo_server(ground.at(3, 9000));
    let kong = r#"
type: Dataplane
mesh: default
name: kong-01
networking:
  address: NET.4
  gateway:
    type: DELEGATED
    tags:
      kuma.io/service: kong
  outbound:
    - port: 33033
      address: NET.6
      tags:
        kuma.io/service: backend
"#;
    let _mesh = ground.up(&[kong, &workload("")].concat());
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
fn the_cross_mesh_gateway_is_reached_by_its_hostname_from_another_mesh() {
    let ground = Ground::new();
    HttpServer::start(ground.at(3, 9000), |_, _| "from default".to_owned());
    let stranger = CLIENT.replace("mesh: default", "mesh: other");
    let resources = [TWO_MESHES, &workload("      kuma.io/protocol: http"), &stranger].concat();
    let mesh = ground.up_with(&resources, &["--as", "client-1"]);
    assert_eq!(get_when_ready(mesh.resolve("default.mesh", 8080), "default.mesh:8080").body, "from default");
}

#[test]
fn the_cross_mesh_gateway_is_reached_by_an_explicit_outbound_without_transparent_proxy() {
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
fn with_zone_egress_routing_an_external_service_is_reached_only_through_the_egress() {
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
