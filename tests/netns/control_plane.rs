//! The control plane dies without a word: what serves keeps serving, what starts does so from its last good snapshot.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use harness::{HttpServer, echo_server, eventually};
use nix::sys::signal::Signal;

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, client_yaml, curl, curl_until, dataplane_yaml, ready};
use crate::support::traffic::{connect, resolve};

harness::isolated_tests! {
    fn seed_proxies_resolve_serve_restart_and_take_changes_again_after_the_control_plane_was_killed() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [web, backend] = ["web", "backend"].map(|name| mesh.network.node(name));
        backend.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), |head, _| head.to_owned()));
        backend.enter(|| echo_server("0.0.0.0:7000".parse().unwrap()));
        let inbounds =
            [(18080, 8080, "kuma.io/service: backend, kuma.io/protocol: http"), (17000, 7000, "kuma.io/service: echo")];
        let yaml = dataplane_yaml("backend-1", backend.v4.into(), &inbounds, "");
        let backend_arguments = ["--dns-enabled=false"];
        let mut backend_proxy = mesh.dataplane(&backend, "backend-1", &yaml, &backend_arguments);
        let web_yaml = client_yaml("web-1", &web, "east");
        let mut web_proxy = mesh.client(&web, "web-1", &web_yaml);
        ready(&mut backend_proxy);
        ready(&mut web_proxy);
        curl_until(&web, &["http://backend.mesh/one"], 200, "GET /one");
        let echo = eventually("echo.mesh", LONG, || resolve(&web, "ahostsv4", "echo.mesh"));
        let mut living = connect(&web, SocketAddr::new(echo, 80)).unwrap();
        assert_eq!(echoed(&mut living), "ping");

        mesh.kill_control_plane();
        assert_eq!(echoed(&mut living), "ping");
        // Each is a connection of its own, with its own question for the name.
        for path in ["/two", "/three"] {
            let answer = curl(&web, &[&format!("http://backend.mesh{path}")]);
            assert!(answer.0 == 200 && answer.1.contains(path), "{answer:?}");
        }
        let arguments = mesh.client_arguments(&web);
        mesh.saved("web-1", &backend.v4.to_string());
        mesh.saved("backend-1", "17000");
        web_proxy.signal(Signal::SIGKILL);
        web_proxy.wait(LONG);
        let mut web_proxy = mesh.proxy(&web, "web-1", &web_yaml, &arguments.each_ref().map(String::as_str));
        backend_proxy.signal(Signal::SIGTERM);
        backend_proxy.wait(LONG);
        let mut backend_proxy = mesh.proxy(&backend, "backend-1", &yaml, &backend_arguments);
        ready(&mut web_proxy);
        ready(&mut backend_proxy);
        curl_until(&web, &["http://backend.mesh/four"], 200, "GET /four");

        mesh.start_control_plane();
        mesh.kumactl(&["delete", "traffic-permission", "allow-all"], "");
        curl_until(&web, &["http://backend.mesh/"], 403, "RBAC: access denied");
        mesh.apply(ALLOW_ALL);
        curl_until(&web, &["http://backend.mesh/five"], 200, "GET /five");
    }
}

/// Four bytes there and back.
fn echoed(stream: &mut TcpStream) -> String {
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    String::from_utf8_lossy(&back).into_owned()
}
