//! Instances come and go in order, and no caller notices.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use harness::{HttpServer, Node, Process, eventually, http_get};
use nix::sys::signal::Signal;

use crate::support::mesh::{ALLOW_ALL, LONG, MESH, Mesh, client_yaml, curl_until, dataplane_yaml, ready};
use crate::support::traffic::resolve;

harness::isolated_tests! {
    fn a_rolling_restart_loses_no_request() {
        let mut mesh = Mesh::start();
        mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
        let [web, one, two] = ["web", "one", "two"].map(|name| mesh.network.node(name));
        let instances = [("one", &one), ("two", &two)];
        for (name, node) in instances {
            node.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), move |_, _| name.to_owned()));
        }
        let mut proxies = instances.map(|(name, node)| start(&mesh, name, node));
        let mut web_proxy = mesh.client(&web, "web-1", &client_yaml("web-1", &web, "east"));
        ready(&mut web_proxy);
        for (name, _) in instances {
            curl_until(&web, &["http://backend.mesh/"], 200, name);
        }
        let vip = SocketAddr::new(eventually("backend.mesh", LONG, || resolve(&web, "ahostsv4", "backend.mesh")), 80);
        let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        let lost = std::thread::scope(|scope| {
            let caller = scope.spawn(|| call(&web, vip, &done, &served));
            for round in 0..4 {
                let (name, node) = instances[round % 2];
                let proxy = &mut proxies[round % 2];
                let before = served.load(Relaxed);
                proxy.signal(Signal::SIGTERM);
                proxy.wait(LONG);
                *proxy = start(&mesh, name, node);
                curl_until(&web, &["http://backend.mesh/"], 200, name);
                // Each round is under load.
                eventually("requests", LONG, || (served.load(Relaxed) > before + 10 || caller.is_finished()).then_some(()));
            }
            done.store(true, Relaxed);
            caller.join().unwrap()
        });
        assert!(lost.is_empty(), "{} of {} requests lost: {lost:?}", lost.len(), served.load(Relaxed));
    }
}

fn start(mesh: &Mesh, name: &str, node: &Node) -> Process {
    let inbounds = [(18080, 8080, "kuma.io/service: backend, kuma.io/protocol: http")];
    let yaml = dataplane_yaml(name, node.v4.into(), &inbounds, "");
    let mut proxy = mesh.dataplane(node, name, &yaml, &["--dns-enabled=false"]);
    ready(&mut proxy);
    proxy
}

/// Asks until it is done; what went wrong.
fn call(web: &Node, vip: SocketAddr, done: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    web.enter(|| {
        let mut lost = Vec::new();
        while !done.load(Relaxed) && lost.len() < 10 {
            match http_get(vip, "backend.mesh", "/") {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => drop(served.fetch_add(1, Relaxed)),
                other => lost.push(format!("{other:?}")),
            }
        }
        lost
    })
}
