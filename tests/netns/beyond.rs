//! What captured connections may reach besides the mesh's names: the world outside, instances by their own addresses, nobody; and
//! whom probes let others reach.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use harness::{HttpServer, Node, Process, echo_server, eventually};

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, dataplane_yaml, ready};
use crate::support::traffic::say;

const TRANSPARENT: &str = "  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";
const STRICTLY_INSIDE: &str = "networking:\n  outbound:\n    passthrough: false\n";
const HTTP_WEB: &str = "kuma.io/service: web, kuma.io/protocol: http";
const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

/// A sidecar that install's rules feed, not yet awaited. Proxies are root here, applications are not.
fn redirected(mesh: &Mesh, node: &Node, name: &str, yaml: &str) -> Process {
    mesh.kumactl_on(node, &["install", "transparent-proxy", "--kuma-dp-user", "0", "--redirect-dns"]);
    mesh.dataplane(node, name, yaml, &["--interception=redirect"])
}

/// Runs as the application: neither root nor the proxy.
fn application(node: &Node, arguments: &[&str]) -> (bool, String) {
    let mut command = node.command("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).args(arguments);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn application_gets(node: &Node, url: &str, host: &str) -> String {
    let host = format!("Host: {host}");
    application(node, &["curl", "-gsS", "--max-time", "20", "-w", " %{http_code}", "-H", &host, url]).1
}

fn mesh_of_one(policy: &str) -> (Mesh, Node, Node, Process) {
    let mut mesh = Mesh::start();
    let [web, stranger] = ["web", "stranger"].map(|name| mesh.network.node(name));
    web.set_resolv_conf(&format!("nameserver {}\n", stranger.v4));
    mesh.apply(&format!("{MESH}{STRICTLY_INSIDE}---{ALLOW_ALL}{policy}"));
    let yaml = dataplane_yaml("web-1", web.v4.into(), &[(8080, 8080, HTTP_WEB)], TRANSPARENT);
    let mut proxy = redirected(&mesh, &web, "web-1", &yaml);
    ready(&mut proxy);
    (mesh, web, stranger, proxy)
}

harness::isolated_tests! {
    fn n15_the_application_reaches_itself_by_its_virtual_ip_through_both_sides_of_its_proxy() {
        let (_mesh, web, _stranger, _proxy) = mesh_of_one("");
        web.enter(|| HttpServer::start(SocketAddr::new(web.v4.into(), 8080), |_: &str, peer| peer.ip().to_string()));
        // The inbound side takes nothing but mTLS, and its connections have this source.
        eventually("an answer of web.mesh", LONG, || {
            application_gets(&web, "http://web.mesh/", "web.mesh").starts_with("127.0.0.6 200").then_some(())
        });
    }

    fn n16_without_passthrough_what_is_not_of_the_mesh_is_closed_until_a_policy_has_it() {
        let (mesh, web, stranger, _proxy) = mesh_of_one("");
        stranger.enter(|| HttpServer::start(SocketAddr::new(ANY, 80), |_: &str, _| "stranger".to_owned()));
        for address in stranger.addresses() {
            let began = Instant::now();
            let (reached, said) = application(&web, &["curl", "-gsS", "--max-time", "20", &format!("http://{}/", SocketAddr::new(address, 80))]);
            assert!(!reached && began.elapsed() < LONG / 3, "{address}: {said}");
        }
        let [v4, v6] = stranger.addresses();
        mesh.apply(&format!("
type: MeshPassthrough
mesh: default
name: some
spec:
  default:
    appendMatch:
    - {{type: Domain, value: allowed.example, port: 80, protocol: http}}
    - {{type: CIDR, value: {v6}/64, protocol: tcp}}
"));
        let url = format!("http://{}/", SocketAddr::new(v4, 80));
        eventually("a request to the host that the policy has", LONG, || {
            (application_gets(&web, &url, "allowed.example") == "stranger 200").then_some(())
        });
        let refused = application_gets(&web, &url, "other.example");
        assert!(refused.contains("no MeshPassthrough") && refused.ends_with(" 503"), "{refused}");
        let url = format!("http://{}/", SocketAddr::new(v6, 80));
        assert_eq!(application_gets(&web, &url, "other.example"), "stranger 200", "by its address");
    }

    fn n17_a_service_nobody_is_ready_for_resolves_and_answers_503() {
        let ghost = "---
type: Dataplane
mesh: default
name: ghost-1
networking:
  address: 10.10.0.99
  inbound:
  - {port: 80, servicePort: 81, serviceProbe: {tcp: {}}, tags: {kuma.io/service: ghost, kuma.io/protocol: http}}
  - {port: 90, servicePort: 91, serviceProbe: {tcp: {}}, tags: {kuma.io/service: ghost-tcp}}
";
        let (mesh, web, _stranger, _proxy) = mesh_of_one(ghost);
        let stored = mesh.kumactl(&["get", "dataplane", "ghost-1", "-o", "yaml"], "");
        assert!(stored.contains("state: NotReady"), "{stored}");
        eventually("ghost.mesh", LONG, || application(&web, &["getent", "ahostsv4", "ghost.mesh"]).0.then_some(()));
        let (_, said) = application(&web, &["curl", "-sS", "--max-time", "20", "-w", " %{http_code}", "http://ghost.mesh/"]);
        assert!(said.contains("no healthy upstream") && said.ends_with(" 503"), "{said}");
        let (reached, said) = application(&web, &["curl", "-sS", "--max-time", "20", "http://ghost-tcp.mesh/"]);
        assert!(!reached && !said.contains("timed out"), "{said}");
    }

    fn n18_who_dials_an_interception_port_is_closed_without_a_loop() {
        let (_mesh, web, _, mut proxy) = mesh_of_one("");
        for address in ["127.0.0.1:15001".parse().unwrap(), SocketAddr::new(web.v4.into(), 15006)] {
            let began = Instant::now();
            let answer = say(&web, address, "x");
            assert!(answer.as_ref().map_or(true, String::is_empty), "{address}: {answer:?}");
            assert!(began.elapsed() < LONG / 3);
        }
        proxy.wait_for("interception port itself", LONG);
    }

    fn instances_are_dialled_by_their_own_addresses_with_the_meshs_identity() {
        let mut mesh = Mesh::start();
        let [web, backend] = ["web", "backend"].map(|name| mesh.network.node(name));
        for node in [&web, &backend] {
            node.set_resolv_conf("nameserver 10.10.0.254\n");
        }
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        backend.enter(|| HttpServer::start(SocketAddr::new(backend.v4.into(), 8080), |_: &str, peer| peer.ip().to_string()));
        let yaml = dataplane_yaml("backend-1", backend.v4.into(), &[(8080, 8080, "kuma.io/service: backend")], TRANSPARENT);
        let mut backend_proxy = redirected(&mesh, &backend, "backend-1", &yaml);
        let direct = TRANSPARENT.replace('}', ", directAccessServices: [backend]}");
        let yaml = dataplane_yaml("web-1", web.v4.into(), &[(8080, 8080, HTTP_WEB)], &direct);
        let mut web_proxy = redirected(&mesh, &web, "web-1", &yaml);
        ready(&mut backend_proxy);
        ready(&mut web_proxy);
        let url = format!("http://{}:8080/", backend.v4);
        // Strict mTLS: plain bytes would be refused.
        eventually("an answer of the instance", LONG, || {
            application_gets(&web, &url, "x").starts_with("127.0.0.6 200").then_some(())
        });
    }

    fn an_application_is_sent_to_while_its_probe_succeeds() {
        let mut mesh = Mesh::start();
        let backend = mesh.network.node("backend");
        backend.set_resolv_conf("nameserver 10.10.0.254\n");
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let probed = "kuma.io/service: backend}, serviceProbe: {interval: 100ms, tcp: {}";
        let yaml = dataplane_yaml("backend-1", backend.v4.into(), &[(8080, 8080, probed)], TRANSPARENT);
        let mut proxy = redirected(&mesh, &backend, "backend-1", &yaml);
        ready(&mut proxy);
        let is = |state: &str| {
            let what = format!("backend-1 being {state}");
            eventually(&what, LONG, || {
                let stored = mesh.kumactl(&["get", "dataplane", "backend-1", "-o", "yaml"], "");
                // Ready is the default, and isn't written.
                let ready = if stored.contains("state: NotReady") { "NotReady" } else { "Ready" };
                (ready == state).then_some(())
            });
        };
        is("NotReady");
        let address = backend.v4.to_string();
        let application = backend.spawn("redis-server", &["--port", "8080", "--bind", &address, "--save", ""]);
        is("Ready");
        drop(application);
        is("NotReady");
        echo_server_on(&backend);
        is("Ready");
        // Gone with its proxy, orderly.
        proxy.signal(nix::sys::signal::Signal::SIGTERM);
        proxy.wait(LONG);
        eventually("backend-1 being removed", LONG, || {
            (!mesh.kumactl(&["get", "dataplanes"], "").contains("backend-1")).then_some(())
        });
    }
}

fn echo_server_on(node: &Node) {
    node.enter(|| echo_server(SocketAddr::new(node.v4.into(), 8080)));
}
