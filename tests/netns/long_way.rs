//! An application of zone east reaches one of zone west: name, virtual IP, sidecar, zone egress, zone ingress, sidecar.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::{HttpServer, eventually};
use nix::sys::signal::Signal;

use crate::support::mesh::{LONG, curl, curl_until, dataplane_yaml, ready};
use crate::support::traffic::{bulk_file, connect, exchange, resolve, say};
use crate::support::zones;

/// A failure that names its cause comes within this time.
const FAST: Duration = Duration::from_secs(3);

const GATEWAY: &str = "
type: MeshGateway
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  listeners: [{port: 8080, protocol: HTTP}]
---
type: MeshGatewayRoute
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  http:
    rules:
    - matches: [{path: {match: PREFIX, value: /}}]
      backends: [{destination: {kuma.io/service: backend}}]
";

harness::isolated_tests! {
    fn the_long_way_works() {
        let mut zones = zones::start();
        let web = zones.web.clone();
        let answer = curl_until(&web, &["http://backend.mesh/hello"], 200, "GET /hello HTTP/1.1");
        assert!(answer.contains("host: backend.mesh"), "{answer}");
        for database in ["ahostsv4", "ahostsv6"] {
            let vip = eventually("bulk.mesh", LONG, || resolve(&web, database, "bulk.mesh"));
            exchange(&web, SocketAddr::new(vip, 80)).unwrap();
            zones.verdicts.recv_timeout(LONG).unwrap().unwrap();
        }
        let [sent, back] = ["sent", "back"].map(|name| zones.mesh.path(name).to_str().unwrap().to_owned());
        bulk_file(sent.as_ref());
        curl_until(&web, &["http://files.mesh/"], 403, "nginx");
        assert_eq!(curl(&web, &["-T", &sent, "http://files.mesh/bulk"]).0, 201);
        assert_eq!(curl(&web, &["-o", &back, "http://files.mesh/bulk"]).0, 200);
        harness::command("cmp", &[&sent, &back]);

        let mut egress = zones.egress_proxy.take().unwrap();
        egress.signal(Signal::SIGTERM);
        egress.wait(LONG);
        curl_until(&web, &["http://backend.mesh/hello"], 503, "egress");
        let asked = Instant::now();
        assert_eq!(curl(&web, &["http://backend.mesh/hello"]).0, 503);
        assert!(asked.elapsed() < FAST, "slow to fail: {:?}", asked.elapsed());
        let vip = resolve(&web, "ahostsv4", "bulk.mesh").unwrap();
        let asked = Instant::now();
        assert!(say(&web, SocketAddr::new(vip, 80), "x").map_or(true, |answer| answer.is_empty()));
        assert!(asked.elapsed() < FAST, "slow to fail: {:?}", asked.elapsed());
        zones.web_proxy.wait_for("no ZoneEgress", LONG);

        zones.start_egress();
        curl_until(&web, &["http://backend.mesh/again"], 200, "GET /again");
        exchange(&web, SocketAddr::new(vip, 80)).unwrap();
        zones.verdicts.recv_timeout(LONG).unwrap().unwrap();
    }

    fn an_egress_that_dies_without_a_word_is_named_too() {
        let mut zones = zones::start();
        let web = zones.web.clone();
        curl_until(&web, &["http://backend.mesh/hello"], 200, "GET /hello");
        zones.egress_proxy.take().unwrap();
        curl_until(&web, &["http://backend.mesh/hello"], 503, "egress");
        zones.start_egress();
        curl_until(&web, &["http://backend.mesh/again"], 200, "GET /again");
    }

    fn of_two_egresses_one_may_die() {
        let mut zones = zones::start();
        let web = zones.web.clone();
        let second = zones.mesh.network.node("east-egress-2");
        let _second = zones::egress(&zones.mesh, &second, "zoneegress-2");
        let admin = ["http://127.0.0.1:9901/snapshot"];
        curl_until(&web, &admin, 200, &format!("{}:10002", second.v4));
        curl_until(&web, &["http://backend.mesh/"], 200, "GET /");
        // Without a word: the sidecar finds out by itself, and no request is lost to it.
        zones.egress_proxy.take().unwrap();
        for _ in 0..20 {
            let answer = curl(&web, &["http://backend.mesh/"]);
            assert_eq!(answer.0, 200, "{answer:?}");
        }
    }

    fn zone_proxies_leave_tls_to_the_backends_sidecar() {
        let zones = zones::start();
        let snapshot = curl_until(&zones.web, &["http://127.0.0.1:9901/snapshot"], 200, ".backend.0.default.svc");
        let sni = snapshot.split_whitespace().find_map(|word| word.strip_prefix("sni=").filter(|sni| sni.contains(".backend.")));
        let sni = sni.unwrap();
        for (at, port) in [(zones.ingress.v4, 10001), (zones.egress.v4, 10002)] {
            let script = format!(
                "timeout 20 openssl s_client -connect {at}:{port} -servername {sni} -alpn kuma </dev/null 2>/dev/null \
                 | openssl x509 -noout -ext subjectAltName"
            );
            let shown = zones.web.run("bash", &["-c", &script]);
            assert!(shown.contains("URI:spiffe://default/backend"), "{at}:{port}: {shown}");
        }
    }

    fn a_gateway_takes_the_long_way_too() {
        let mut zones = zones::start();
        zones.mesh.apply(GATEWAY);
        let gateway = zones.mesh.network.node("gateway");
        let rest = "  gateway: {type: BUILTIN, tags: {kuma.io/service: edge, kuma.io/zone: east}}";
        let yaml = dataplane_yaml("edge-1", gateway.v4.into(), &[], rest);
        let mut proxy = zones.mesh.dataplane(&gateway, "edge-1", &yaml, &["--dns-enabled=false"]);
        ready(&mut proxy);
        let url = format!("http://{}:8080/cart", gateway.v4);
        curl_until(&zones.web, &[&url], 200, "GET /cart");
        zones.egress_proxy.take().unwrap().signal(Signal::SIGTERM);
        curl_until(&zones.web, &[&url], 503, "egress");
    }

    fn an_external_service_sees_the_egress_and_without_it_nobody() {
        let mut zones = zones::start();
        let web = zones.web.clone();
        let partner = zones.mesh.network.node("partner");
        partner.enter(|| HttpServer::start("0.0.0.0:80".parse().unwrap(), |_, peer| format!("partner saw {}", peer.ip())));
        zones.mesh.apply(&format!(
            "type: ExternalService
mesh: default
name: partner
tags:
  kuma.io/service: partner
  kuma.io/protocol: http
networking:
  address: {}:80
",
            partner.v4
        ));
        let body = curl_until(&web, &["http://partner.mesh/"], 200, "partner saw ");
        assert_eq!(body, format!("partner saw {}", zones.egress.v4));
        zones.egress_proxy.take().unwrap().signal(Signal::SIGTERM);
        curl_until(&web, &["http://partner.mesh/"], 503, "egress");
    }

    fn a_zone_ingress_closes_what_it_does_not_know_and_serves_on() {
        let zones = zones::start();
        let web = zones.web.clone();
        let address = SocketAddr::new(zones.ingress.v4.into(), 10001);
        let mut client = web.command("timeout");
        client.args(["20", "openssl", "s_client", "-connect", &address.to_string(), "-servername", "unknown.example"]);
        let output = client.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains("no peer certificate available"), "{output:?}");
        let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\nhost: backend.mesh\r\n\r\n", &[0xff; 70_000], b"\x16\x03\x01\xff\xff\x01", b""];
        for bytes in garbage {
            let mut stream = connect(&web, address).unwrap();
            // The peer may have closed already.
            let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => assert!(answer.len() < 16, "an answer to garbage: {answer:?}"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
            }
        }
        curl_until(&web, &["http://backend.mesh/hello"], 200, "GET /hello");
    }
}
