//! An application of zone east reaches one of zone west: name, virtual IP, sidecar, zone egress, zone ingress, sidecar.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::{HttpServer, Node, eventually};
use nix::sys::signal::Signal;

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, curl, curl_until, ready};
use crate::support::traffic::{bulk_server, exchange, resolve, say};

/// A failure that names its cause comes within this time.
const FAST: Duration = Duration::from_secs(3);

harness::isolated_tests! {
    fn the_long_way_works() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [web, egress, ingress, backend] =
            ["east-web", "east-egress", "west-ingress", "west-backend"].map(|name| mesh.network.node(name));

        let http = SocketAddr::new(backend.v4.into(), 8080);
        backend.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), |head, peer| format!("{} {head}", peer.ip())));
        let verdicts = bulk_server(&backend, 7000);
        let yaml = backend_yaml(&backend, http.port());
        let mut backend_proxy = mesh.dataplane(&backend, "backend-1", &yaml, &["--dns-enabled=false"]);

        mesh.token("ingress", &["generate", "zone-token", "--zone", "west", "--scope", "ingress", "--valid-for", "720h"]);
        let yaml = format!(
            "type: ZoneIngress\nname: ingress\nzone: west\nnetworking:\n  address: {0}\n  port: 10001\n  advertisedAddress: {0}\n  advertisedPort: 10001\n",
            ingress.v4
        );
        let mut ingress_proxy = mesh.proxy(&ingress, "ingress", &yaml, &["--proxy-type=ingress"]);

        mesh.token("egress", &["generate", "zone-token", "--valid-for", "720h", "--scope", "egress"]);
        let egress_yaml =
            format!("type: ZoneEgress\nname: zoneegress-1\nnetworking:\n  address: {}\n  port: 10002\n", egress.v4);
        let mut egress_proxy = mesh.proxy(&egress, "egress", &egress_yaml, &["--proxy-type=egress"]);

        let upstream = mesh.write("resolv.conf", "nameserver 10.10.0.254\n");
        web.set_resolv_conf("nameserver 127.0.0.1\n");
        let resolvers = format!("--resolv-conf={}", upstream.display());
        let arguments = ["--interception=bind", "--dns-coredns-port=53", &resolvers];
        let mut web_proxy = mesh.dataplane(&web, "web-1", &web_yaml(&web), &arguments);
        for proxy in [&mut backend_proxy, &mut ingress_proxy, &mut egress_proxy, &mut web_proxy] {
            ready(proxy);
        }

        let answer = curl_until(&web, &["http://backend.mesh/hello"], 200, "GET /hello HTTP/1.1");
        assert!(answer.contains("host: backend.mesh"), "{answer}");
        for database in ["ahostsv4", "ahostsv6"] {
            let vip = eventually("bulk.mesh", LONG, || resolve(&web, database, "bulk.mesh"));
            exchange(&web, SocketAddr::new(vip, 80)).unwrap();
            verdicts.recv_timeout(LONG).unwrap().unwrap();
        }

        egress_proxy.signal(Signal::SIGTERM);
        egress_proxy.wait(LONG);
        let began = Instant::now();
        curl_until(&web, &["http://backend.mesh/hello"], 503, "egress");
        let asked = Instant::now();
        assert_eq!(curl(&web, &["http://backend.mesh/hello"]).0, 503);
        assert!(asked.elapsed() < FAST, "slow to fail: {:?}, {:?} since the stop", asked.elapsed(), began.elapsed());
        let vip = resolve(&web, "ahostsv4", "bulk.mesh").unwrap();
        let asked = Instant::now();
        assert!(say(&web, SocketAddr::new(vip, 80), "x").map_or(true, |answer| answer.is_empty()));
        assert!(asked.elapsed() < FAST, "{:?}", asked.elapsed());
        web_proxy.wait_for("no ZoneEgress", LONG);

        let mut egress_proxy = mesh.proxy(&egress, "egress", &egress_yaml, &["--proxy-type=egress"]);
        ready(&mut egress_proxy);
        curl_until(&web, &["http://backend.mesh/again"], 200, "GET /again");
        exchange(&web, SocketAddr::new(vip, 80)).unwrap();
        verdicts.recv_timeout(LONG).unwrap().unwrap();
    }
}

fn backend_yaml(node: &Node, port: u16) -> String {
    format!(
        "type: Dataplane
mesh: default
name: backend-1
networking:
  address: {}
  inbound:
  - port: 18080
    servicePort: {port}
    tags:
      kuma.io/service: backend
      kuma.io/protocol: http
      kuma.io/zone: west
  - port: 17000
    servicePort: 7000
    tags:
      kuma.io/service: bulk
      kuma.io/zone: west
",
        node.v4
    )
}

fn web_yaml(node: &Node) -> String {
    format!(
        "type: Dataplane
mesh: default
name: web-1
networking:
  address: {}
  inbound:
  - port: 18080
    servicePort: 8080
    tags:
      kuma.io/service: web
      kuma.io/protocol: http
      kuma.io/zone: east
  transparentProxying:
    redirectPortOutbound: 15001
",
        node.v4
    )
}
