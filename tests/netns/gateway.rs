//! Gateways: builtin for HTTP and TCP, delegated, and one that other meshes may call.

use harness::{HttpServer, Node, Process};

use crate::support::mesh::{ALLOW_ALL, MESH, Mesh, curl, curl_until, dataplane_yaml, ready};

const EDGE: &str = "
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
    - port: 6379
      protocol: TCP
      tags:
        port: tcp/6379
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
---
type: MeshGatewayRoute
mesh: default
name: edge-gateway-tcp
selectors:
  - match:
      kuma.io/service: edge-gateway
      port: tcp/6379
conf:
  tcp:
    rules:
      - backends:
          - destination:
              kuma.io/service: redis_kuma-demo_svc_6379
";

const CROSS_MESH: &str = "
type: Mesh
name: other
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
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
selectors:
- match:
    kuma.io/service: cross-mesh-gateway
conf:
  http:
    rules:
    - matches: [{path: {match: PREFIX, value: /}}]
      backends: [{weight: 1, destination: {kuma.io/service: demo-app_kuma-demo_svc_5000}}]
";

/// `--dns-enabled=false`, as the user's page starts gateways.
const NO_DNS: [&str; 1] = ["--dns-enabled=false"];

harness::isolated_tests! {
    fn a_builtin_gateway_serves_http_and_tcp_from_outside() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}---{EDGE}"));
        let [gateway, backend, client] = ["gateway", "backend", "client"].map(|name| mesh.network.node(name));
        let mut apps = start_apps(&mesh, &backend);
        let mut proxy = mesh.dataplane(&gateway, "gateway-instance-1", &builtin_yaml("edge-gateway", &gateway), &NO_DNS);
        ready(&mut apps.proxy);
        ready(&mut proxy);

        let url = "http://foo.example.com:8080/cart?id=1";
        let to_gateway = ["--resolve", &format!("foo.example.com:8080:{}", gateway.v4), url];
        curl_until(&client, &to_gateway, 200, "GET /cart?id=1 HTTP/1.1");
        let direct = format!("http://{}:8080/", gateway.v4);
        assert_eq!(curl(&client, &["-H", "host: bar.example.com", &direct]).0, 404);
        assert_eq!(curl(&client, &[&direct]).0, 404);
        assert_eq!(client.run("redis-cli", &["-h", &gateway.v4.to_string(), "ping"]), "PONG\n");
    }

    fn a_delegated_gateway_reaches_its_written_outbound() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [kong, backend] = ["kong", "backend"].map(|name| mesh.network.node(name));
        let mut apps = start_apps(&mesh, &backend);
        let rest = "  gateway:
    type: DELEGATED
    tags:
      kuma.io/service: kong
  outbound:
    - port: 33033
      tags:
        kuma.io/service: demo-app_kuma-demo_svc_5000";
        let mut proxy = mesh.dataplane(&kong, "kong-01", &dataplane_yaml("kong-01", kong.v4.into(), &[], rest), &NO_DNS);
        ready(&mut apps.proxy);
        ready(&mut proxy);
        curl_until(&kong, &["http://localhost:33033/via-kong"], 200, "GET /via-kong");
    }

    fn another_mesh_reaches_a_cross_mesh_gateway_through_a_written_outbound() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}---{CROSS_MESH}"));
        let [gateway, backend, client, stranger] =
            ["gateway", "backend", "client", "stranger"].map(|name| mesh.network.node(name));
        let mut apps = start_apps(&mesh, &backend);
        let mut proxy = mesh.dataplane(&gateway, "cross-1", &builtin_yaml("cross-mesh-gateway", &gateway), &NO_DNS);
        let rest = "  outbound:
  - port: 8080
    tags:
      kuma.io/service: cross-mesh-gateway
      kuma.io/mesh: default";
        let yaml = dataplane_yaml("client-1", client.v4.into(), &[(18080, 9080, "kuma.io/service: client")], rest);
        let yaml = yaml.replace("mesh: default\nname", "mesh: other\nname");
        let mut client_proxy = mesh.dataplane(&client, "client-1", &yaml, &NO_DNS);
        for process in [&mut apps.proxy, &mut proxy, &mut client_proxy] {
            ready(process);
        }
        let ask = ["-H", "host: default.mesh", "http://127.0.0.1:8080/from-other"];
        curl_until(&client, &ask, 200, "GET /from-other");
        let direct = format!("http://{}:8080/", gateway.v4);
        assert_eq!(curl(&stranger, &["-H", "host: default.mesh", &direct]).0, 0);
    }
}

/// The user's demo application and Redis, both behind one sidecar.
struct Apps {
    proxy: Process,
    _redis: Process,
}

fn start_apps(mesh: &Mesh, backend: &Node) -> Apps {
    backend.enter(|| HttpServer::start("0.0.0.0:5000".parse().unwrap(), |head, _| head.to_owned()));
    let redis =
        backend.spawn("redis-server", &["--port", "6379", "--protected-mode", "no", "--save", "", "--dir", "/tmp"]);
    let inbounds = [
        (15000, 5000, "kuma.io/service: demo-app_kuma-demo_svc_5000, kuma.io/protocol: http"),
        (16379, 6379, "kuma.io/service: redis_kuma-demo_svc_6379"),
    ];
    let yaml = dataplane_yaml("backend-1", backend.v4.into(), &inbounds, "");
    Apps { proxy: mesh.dataplane(backend, "backend-1", &yaml, &NO_DNS), _redis: redis }
}

fn builtin_yaml(service: &str, node: &Node) -> String {
    let rest = format!("  gateway:\n    type: BUILTIN\n    tags:\n      kuma.io/service: {service}");
    let name = if service == "edge-gateway" { "gateway-instance-1" } else { "cross-1" };
    dataplane_yaml(name, node.v4.into(), &[], &rest)
}
