//! Two zones: an application host with its sidecar and an egress in east, an ingress and a backend with its sidecar in west.

use std::sync::mpsc::Receiver;

use harness::{HttpServer, Node, Process};

use super::mesh::{ALLOW_ALL, MESH, Mesh, client_yaml, dataplane_yaml, ready};
use super::traffic::bulk_server;

/// What is declared first is dropped first.
pub(crate) struct Zones {
    pub(crate) egress_proxy: Option<Process>,
    pub(crate) web_proxy: Process,
    pub(crate) _ingress_proxy: Process,
    pub(crate) _backend_proxy: Process,
    pub(crate) web: Node,
    pub(crate) egress: Node,
    pub(crate) ingress: Node,
    /// What service `bulk` thinks of the bytes it got.
    pub(crate) verdicts: Receiver<Result<(), String>>,
    pub(crate) mesh: Mesh,
}

/// Everything is ready; `backend` speaks HTTP, `bulk` is TCP.
pub(crate) fn start() -> Zones {
    let mut mesh = Mesh::start();
    mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
    let [web, egress, ingress, backend] =
        ["east-web", "east-egress", "west-ingress", "west-backend"].map(|name| mesh.network.node(name));
    backend.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), |head, _| head.to_owned()));
    let verdicts = bulk_server(&backend, 7000);
    let inbounds = [
        (18080, 8080, "kuma.io/service: backend, kuma.io/protocol: http, kuma.io/zone: west"),
        (17000, 7000, "kuma.io/service: bulk, kuma.io/zone: west"),
    ];
    let yaml = dataplane_yaml("backend-1", backend.v4.into(), &inbounds, "");
    let mut backend_proxy = mesh.dataplane(&backend, "backend-1", &yaml, &["--dns-enabled=false"]);
    mesh.token("ingress", &["generate", "zone-token", "--zone", "west", "--scope", "ingress", "--valid-for", "720h"]);
    let yaml = format!(
        "type: ZoneIngress
name: ingress
zone: west
networking: {{address: {0}, port: 10001, advertisedAddress: {0}, advertisedPort: 10001}}
",
        ingress.v4
    );
    let mut ingress_proxy = mesh.proxy(&ingress, "ingress", &yaml, &["--proxy-type=ingress"]);
    mesh.token("egress", &["generate", "zone-token", "--valid-for", "720h", "--scope", "egress"]);
    let mut web_proxy = mesh.client(&web, "web-1", &client_yaml("web-1", &web, "east"));
    for proxy in [&mut backend_proxy, &mut ingress_proxy, &mut web_proxy] {
        ready(proxy);
    }
    let (_ingress_proxy, _backend_proxy) = (ingress_proxy, backend_proxy);
    let mut zones =
        Zones { egress_proxy: None, web_proxy, _ingress_proxy, _backend_proxy, web, egress, ingress, verdicts, mesh };
    zones.start_egress();
    zones
}

impl Zones {
    /// The egress as the user's page starts it.
    pub(crate) fn start_egress(&mut self) {
        let address = self.egress.v4;
        let yaml = format!("type: ZoneEgress\nname: zoneegress-1\nnetworking:\n  address: {address}\n  port: 10002\n");
        let mut proxy = self.mesh.proxy(&self.egress, "egress", &yaml, &["--proxy-type=egress"]);
        ready(&mut proxy);
        self.egress_proxy = Some(proxy);
    }
}
