//! Who may call whom: denied by default, admitted as soon as a TrafficPermission says so, and as long as it does.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use harness::{HttpServer, echo_server, eventually};

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, client_yaml, curl, curl_until, dataplane_yaml, ready};
use crate::support::traffic::{connect, resolve, say};

harness::isolated_tests! {
    fn what_no_permission_admits_is_denied_until_one_does() {
        let mut mesh = Mesh::start();
        mesh.apply(MESH);
        let [web, backend] = ["web", "backend"].map(|name| mesh.network.node(name));
        backend.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), |head, _| head.to_owned()));
        backend.enter(|| echo_server("0.0.0.0:7000".parse().unwrap()));
        let inbounds = [(18080, 8080, "kuma.io/service: backend, kuma.io/protocol: http"), (17000, 7000, "kuma.io/service: echo")];
        let yaml = dataplane_yaml("backend-1", backend.v4.into(), &inbounds, "");
        let mut backend_proxy = mesh.dataplane(&backend, "backend-1", &yaml, &["--dns-enabled=false"]);
        let mut web_proxy = mesh.client(&web, "web-1", &client_yaml("web-1", &web, "east"));
        ready(&mut backend_proxy);
        ready(&mut web_proxy);

        let body = curl_until(&web, &["http://backend.mesh/"], 403, "");
        assert_eq!(body, "RBAC: access denied");
        let echo = SocketAddr::new(eventually("echo.mesh", LONG, || resolve(&web, "ahostsv4", "echo.mesh")), 80);
        assert!(say(&web, echo, "hello").map_or(true, |answer| answer.is_empty()));
        backend_proxy.wait_for("RBAC", LONG);

        mesh.apply(ALLOW_ALL);
        curl_until(&web, &["http://backend.mesh/"], 200, "GET / HTTP/1.1");
        eventually("an admitted connection", LONG, || say(&web, echo, "hello").ok().filter(|answer| answer == "hello"));

        // A live connection is one stream of many between the two proxies, and still loses its permission with the others.
        let mut live = connect(&web, echo).unwrap();
        let mut echoed = [0; 4];
        live.write_all(b"live").unwrap();
        live.read_exact(&mut echoed).unwrap();

        mesh.kumactl(&["delete", "traffic-permission", "allow-all"], "");
        assert_eq!(live.read(&mut echoed).unwrap_err().kind(), ErrorKind::ConnectionReset);
        backend_proxy.wait_for("any more; its live connection is reset", LONG);
        let body = curl_until(&web, &["http://backend.mesh/"], 403, "");
        assert_eq!(body, "RBAC: access denied");
        // Without a sidecar there is no way in at all.
        let direct = format!("http://{}:18080/", backend.v4);
        assert_eq!(curl(&web, &[&direct]).0, 0);
    }

    fn a_proxy_with_a_token_of_another_is_sent_away_and_told_why() {
        let mut mesh = Mesh::start();
        let web = mesh.network.node("web");
        mesh.token("web-1", &["generate", "dataplane-token", "--name", "other", "--valid-for", "720h"]);
        let mut proxy = mesh.proxy(&web, "web-1", &client_yaml("web-1", &web, "east"), &[]);
        assert!(!proxy.wait(LONG).success());
        proxy.wait_for("proxy name from requestor: web-1 is different than in token: other", LONG);
        mesh.token("egress", &["generate", "zone-token", "--scope", "ingress", "--valid-for", "720h"]);
        let yaml = format!("type: ZoneEgress\nname: egress\nnetworking: {{address: {}, port: 10002}}\n", web.v4);
        let mut proxy = mesh.proxy(&web, "egress", &yaml, &["--proxy-type=egress"]);
        assert!(!proxy.wait(LONG).success());
        proxy.wait_for("scope", LONG);
    }
}
