//! How connections reach the proxy, in every mode and over both families, with the proxy as a process.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{HttpServer, Node, Process, eventually};
use nix::sys::signal::Signal;

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, curl, curl_until, dataplane_yaml, ready};
use crate::support::traffic::{name_server, resolve, say};

/// Neither root nor the application.
const PROXY_UID: u32 = 5678;
/// A port that no name has.
const UNSERVED: u16 = 81;
const FAST: Duration = Duration::from_secs(5);
/// As Kuma's pages have it.
const TRANSPARENT: &str = "  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";

harness::isolated_tests! {
    fn bind_serves_virtual_ips_and_leaves_the_machine_as_it_was() {
        without_rules_of_others("bind");
    }

    fn tproxy_serves_virtual_ips_and_leaves_the_machine_as_it_was() {
        without_rules_of_others("tproxy");
    }

    fn bind_needs_two_capabilities_not_root_and_says_which() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [web, other] = ["web", "other"].map(|name| mesh.network.node(name));
        serve(&web, [127, 0, 0, 1].into(), 8080, "web");
        let yaml = |name, node: &Node| dataplane_yaml(name, node.v4.into(), &[(8080, 8080, HTTP_WEB)], TRANSPARENT);
        let arguments = mesh.client_arguments(&web);
        let capabilities = "+net_admin,+net_bind_service";
        let privileges = ["--inh-caps", capabilities, "--ambient-caps", capabilities];
        let mut command = unprivileged(&mesh, &web, "web-1", &yaml("web-1", &web), &privileges);
        command.args(arguments);
        let mut proxy = Process::start("web-1", command);
        ready(&mut proxy);
        curl_until(&web, &["http://web.mesh/"], 200, "web saw ");

        let mut command = unprivileged(&mesh, &other, "other-1", &yaml("other-1", &other), &[]);
        command.args(["--interception=bind", "--dns-enabled=false"]);
        let mut proxy = Process::start("other-1", command);
        proxy.wait_for("needs CAP_NET_ADMIN", LONG);
    }

    fn redirect_captures_both_directions_of_an_ipv4_host_and_is_undone_exactly() {
        redirect(|node| node.v4.into());
    }

    fn redirect_captures_both_directions_of_an_ipv6_host_and_is_undone_exactly() {
        redirect(|node| node.v6.into());
    }

    fn a_container_that_came_after_the_proxy_has_the_meshs_names_and_its_services() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [web, backend] = ["web", "backend"].map(|name| mesh.network.node(name));
        serve(&backend, backend.v4.into(), 8080, "backend");
        let vnet = "docker0:172.17.0.0/16";
        install(&mesh, &web, &["--redirect-all-dns-traffic", "--vnet", vnet]);
        install(&mesh, &backend, &["--redirect-dns"]);
        let mut proxies = [("backend-1", &backend, HTTP_BACKEND), ("web-1", &web, HTTP_WEB)].map(|(name, node, tags)| {
            let yaml = dataplane_yaml(name, node.v4.into(), &[(8080, 8080, tags)], TRANSPARENT);
            let mut command = unprivileged(&mesh, node, name, &yaml, &[]);
            command.arg(format!("--transparent-proxy-config=redirect: {{vnet: {{networks: [{vnet:?}]}}}}"));
            Process::start(name, command)
        });
        proxies.iter_mut().for_each(ready);
        let container = container(&web);
        curl_until(&container, &["http://backend.mesh/"], 200, "backend saw ");
        let vip = resolve(&container, "ahostsv4", "backend.mesh");
        for transport in ["+notcp", "+tcp"] {
            let answer = container.run("dig", &[transport, "+short", "@9.9.9.9", "backend.mesh", "A"]);
            assert_eq!(answer.trim().parse().ok(), vip, "{transport}");
        }
        for node in [&container, &web] {
            assert_eq!(burst(node), u64::MAX >> 32, "each of many questions at once has its answer, captured or not");
        }
        // Nobody else is let in: the machine's other addresses have no DNS.
        let stranger = mesh.network.node("stranger");
        let asked = stranger.try_run("dig", &["+time=1", "+tries=1", "-p", "15053", &format!("@{}", web.v4), "backend.mesh"]);
        assert!(asked.is_err(), "{asked:?}");
    }

    fn with_redirect_a_proxy_reaches_the_control_plane_of_its_own_machine_by_any_address() {
        let mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        install(&mesh, &mesh.host, &["--redirect-dns"]);
        let yaml = dataplane_yaml("web-1", mesh.host.v4.into(), &[(8080, 8080, HTTP_WEB)], TRANSPARENT);
        let mut proxy = Process::start("web-1", unprivileged(&mesh, &mesh.host, "web-1", &yaml, &[]));
        ready(&mut proxy);
    }
}

/// Asks a resolver far away about `backend.mesh`, A and AAAA in turns, 32 times at once: which were answered, as bits. Answers to one
/// client may share a packet, which capture and container networks have to carry.
fn burst(node: &Node) -> u64 {
    let socket = node.enter(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    node.enter(|| socket.connect("9.9.9.9:53").unwrap());
    socket.set_read_timeout(Some(FAST)).unwrap();
    for id in 0..32u8 {
        let head = [0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let kind = if id % 2 == 0 { 1 } else { 28 };
        socket.send(&[&head[..], b"\x07backend\x04mesh\x00\x00", &[kind, 0, 1]].concat()).unwrap();
    }
    let (mut answered, mut reply) = (0, [0; 512]);
    for _ in 0..32 {
        let length = socket.recv(&mut reply).unwrap_or_else(|error| panic!("{answered:b}: {error}"));
        assert!(length > 30 && reply[3] & 0x0f == 0 && reply[7] == 1, "{:?}", &reply[..length]);
        answered |= 1 << reply[1];
    }
    answered
}

/// On `docker0` of its machine, as Docker sets one up: 172.17.0.2.
fn container(machine: &Node) -> Node {
    let container = Node { name: "container".into(), v4: [172, 17, 0, 2].into(), v6: std::net::Ipv6Addr::LOCALHOST };
    for line in [
        format!("netns add {}", container.name),
        format!("link add docker0 netns {} type veth peer name eth0 netns {}", machine.name, container.name),
    ] {
        harness::command("ip", &line.split(' ').collect::<Vec<_>>());
    }
    machine.run("ip", &["addr", "add", "172.17.0.1/16", "dev", "docker0"]);
    machine.run("ip", &["link", "set", "docker0", "up"]);
    for line in
        ["link set lo up", "addr add 172.17.0.2/16 dev eth0", "link set eth0 up", "route add default via 172.17.0.1"]
    {
        container.run("ip", &line.split(' ').collect::<Vec<_>>());
    }
    container.set_resolv_conf("nameserver 9.9.9.9\n");
    container
}

/// `bind` and `tproxy`: the proxy as root, no rule but its own. Both ends have the Dataplane of Kuma's pages.
fn without_rules_of_others(mode: &str) {
    let mut mesh = Mesh::start();
    mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
    let [web, backend, stranger] = ["web", "backend", "stranger"].map(|name| mesh.network.node(name));
    let before = machine(&web);
    serve(&stranger, ANY, 80, "stranger");
    // The application can't have the proxy's own address.
    serve(&backend, [127, 0, 0, 1].into(), 8080, "backend");
    let interception = format!("--interception={mode}");
    let yaml = dataplane_yaml("backend-1", backend.v4.into(), &[(8080, 8080, HTTP_BACKEND)], TRANSPARENT);
    let mut backend_proxy = mesh.dataplane(&backend, "backend-1", &yaml, &[&interception, "--dns-enabled=false"]);
    let yaml = dataplane_yaml("web-1", web.v4.into(), &[(8080, 8080, HTTP_WEB)], TRANSPARENT);
    let [_, port, resolvers] = mesh.client_arguments(&web);
    let start = || mesh.dataplane(&web, "web-1", &yaml, &[&interception, &port, &resolvers]);
    let mut crashed = start();
    ready(&mut backend_proxy);
    ready(&mut crashed);
    reach_everything(&web, &stranger);
    crashed.signal(Signal::SIGKILL);
    crashed.wait(LONG);

    let mut web_proxy = start();
    ready(&mut web_proxy);
    reach_everything(&web, &stranger);

    web_proxy.signal(Signal::SIGTERM);
    web_proxy.wait(LONG);
    // What it had restored the control plane sent again: no reason to refuse it.
    assert!(!web_proxy.log().contains("refused"), "{}", web_proxy.log());
    assert_eq!(machine(&web), before);
}

/// `redirect`: proxies without any privilege, rules by `kumactl install`, the application on its proxy's port.
fn redirect(address: impl Fn(&Node) -> IpAddr) {
    let mut mesh = Mesh::start();
    mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
    let [web, backend, stranger] = ["web", "backend", "stranger"].map(|name| mesh.network.node(name));
    serve(&stranger, ANY, 80, "stranger");
    serve(&backend, address(&backend), 8080, "backend");
    name_server(&stranger);
    let resolver = address(&stranger);
    web.set_resolv_conf(&format!("nameserver {resolver}\n"));
    let ours = "add table ip other; add chain ip other c { type nat hook output priority -100 ; }; add rule ip other c tcp dport 99 redirect to :98";
    web.run("nft", &[ours]);
    let before = ruleset(&web);
    for node in [&web, &backend] {
        install(&mesh, node, &["--redirect-dns"]);
    }
    assert_ne!(ruleset(&web), before);
    let mut proxies = [("backend-1", &backend, HTTP_BACKEND), ("web-1", &web, HTTP_WEB)].map(|(name, node, tags)| {
        let yaml = dataplane_yaml(name, address(node), &[(8080, 8080, tags)], TRANSPARENT);
        Process::start(name, unprivileged(&mesh, node, name, &yaml, &[]))
    });
    proxies.iter_mut().for_each(ready);
    let peer = reach_everything(&web, &stranger);
    assert_eq!(peer, if address(&backend).is_ipv4() { "127.0.0.6" } else { "::6" });

    // A name of the world outside, by its own resolver.
    let body = curl_until(&web, &["http://stranger.example/"], 200, "stranger saw ");
    assert_eq!(body, format!("stranger saw {}", web.v4));
    let over_tcp = web.run("dig", &["+tcp", "+short", &format!("@{resolver}"), "backend.mesh", "A"]);
    assert_eq!(over_tcp.trim().parse().ok(), resolve(&web, "ahostsv4", "backend.mesh"));

    // Captured, and strict: no way around the sidecar.
    let direct = format!("http://{}/", SocketAddr::new(address(&backend), 8080));
    assert_eq!(curl(&stranger, &[&direct]).0, 0);
    // The application reaches itself, by address and by name.
    let own = serve(&web, address(&web), 8080, "own");
    assert_eq!(curl(&web, &[&format!("http://{own}/")]).0, 200);
    let body = curl_until(&web, &["http://web.mesh/"], 200, "own saw ");
    assert_eq!(body.rsplit(' ').next().unwrap(), peer);

    mesh.kumactl_on(&web, &["uninstall", "transparent-proxy"]);
    assert_eq!(ruleset(&web), before);
    assert!(!web.run("ip", &["-6", "addr"]).contains("::6/128"));
}

const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
const HTTP_BACKEND: &str = "kuma.io/service: backend, kuma.io/protocol: http";
const HTTP_WEB: &str = "kuma.io/service: web, kuma.io/protocol: http";

/// Names over both families, addresses beyond the mesh, and a virtual IP's port that is nobody's. Returns who the
/// backend's application saw.
#[track_caller]
fn reach_everything(web: &Node, stranger: &Node) -> String {
    let mut peer = String::new();
    for (family, database) in [("-4", "ahostsv4"), ("-6", "ahostsv6")] {
        let body = curl_until(web, &[family, "http://backend.mesh/"], 200, "backend saw ");
        peer = body.rsplit(' ').next().unwrap().to_owned();
        let vip = eventually("backend.mesh", LONG, || resolve(web, database, "backend.mesh"));
        let asked = Instant::now();
        let answer = say(web, SocketAddr::new(vip, UNSERVED), "x");
        assert!(answer.is_err() && asked.elapsed() < FAST, "{vip}:{UNSERVED}: {answer:?} after {:?}", asked.elapsed());
    }
    for address in stranger.addresses() {
        let answer = curl(web, &[&format!("http://{}/", SocketAddr::new(address, 80))]);
        assert!(answer.0 == 200 && answer.1.contains("stranger saw "), "{address}: {answer:?}");
    }
    peer
}

/// An application that tells who asked.
fn serve(node: &Node, ip: IpAddr, port: u16, name: &'static str) -> SocketAddr {
    let tell = move |_: &str, peer: SocketAddr| format!("{name} saw {}", peer.ip().to_canonical());
    node.enter(|| HttpServer::start(SocketAddr::new(ip, port), tell)).address
}

fn install(mesh: &Mesh, node: &Node, arguments: &[&str]) {
    let uid = PROXY_UID.to_string();
    mesh.kumactl_on(node, &[&["install", "transparent-proxy", "--kuma-dp-uid", &uid], arguments].concat());
}

/// `kuma-dp run` as a user with no capabilities but those that setpriv gives.
fn unprivileged(mesh: &Mesh, node: &Node, name: &str, yaml: &str, privileges: &[&str]) -> Command {
    mesh.token(name, &["generate", "dataplane-token", "--name", name, "--valid-for", "720h"]);
    let state = mesh.path(&format!("{name}.state"));
    std::fs::create_dir_all(&state).unwrap();
    for path in [mesh.folder.path(), &mesh.path("cp")] {
        harness::command("chmod", &["755", path.to_str().unwrap()]);
    }
    let id = PROXY_UID.to_string();
    harness::command("chown", &[&id, state.to_str().unwrap()]);
    let mut command = node.command("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).args(privileges);
    command.arg(mesh.program("kuma-dp")).args(mesh.run_arguments(name, yaml));
    command
}

fn ruleset(node: &Node) -> String {
    node.run("nft", &["list", "ruleset"])
}

/// What interception may change. Link-local addresses come up by themselves, late.
fn machine(node: &Node) -> String {
    let shown = [
        ruleset(node),
        node.run("ip", &["route", "show", "table", "all"]),
        node.run("ip", &["-6", "route", "show", "table", "all"]),
        node.run("ip", &["rule"]),
    ];
    shown.concat().lines().filter(|line| !line.contains("fe80:")).collect::<Vec<_>>().join("\n")
}
