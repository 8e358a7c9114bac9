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
    pub(crate) _nginx: Process,
    pub(crate) web: Node,
    pub(crate) egress: Node,
    pub(crate) ingress: Node,
    /// What service `bulk` thinks of the bytes it got.
    pub(crate) verdicts: Receiver<Result<(), String>>,
    pub(crate) mesh: Mesh,
}

/// Everything is ready; `backend` speaks HTTP, `bulk` is TCP, `files` keeps what is PUT.
pub(crate) fn start() -> Zones {
    let mut mesh = Mesh::start();
    mesh.apply(&format!("{MESH}---{ALLOW_ALL}"));
    let [web, egress, ingress, backend] =
        ["east-web", "east-egress", "west-ingress", "west-backend"].map(|name| mesh.network.node(name));
    backend.enter(|| HttpServer::start("0.0.0.0:8080".parse().unwrap(), |head, _| head.to_owned()));
    let verdicts = bulk_server(&backend, 7000);
    let nginx = files_server(&mesh, &backend);
    let inbounds = [
        (18080, 8080, "kuma.io/service: backend, kuma.io/protocol: http, kuma.io/zone: west"),
        (17000, 7000, "kuma.io/service: bulk, kuma.io/zone: west"),
        (18081, 8081, "kuma.io/service: files, kuma.io/protocol: http, kuma.io/zone: west"),
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
    let mut web_proxy = mesh.client(&web, "web-1", &client_yaml("web-1", &web, "east"));
    for proxy in [&mut backend_proxy, &mut ingress_proxy, &mut web_proxy] {
        ready(proxy);
    }
    let (_ingress_proxy, _backend_proxy) = (ingress_proxy, backend_proxy);
    let mut zones = Zones {
        egress_proxy: None,
        web_proxy,
        _ingress_proxy,
        _backend_proxy,
        _nginx: nginx,
        web,
        egress,
        ingress,
        verdicts,
        mesh,
    };
    zones.start_egress();
    zones
}

impl Zones {
    /// The egress as the user's page starts it.
    pub(crate) fn start_egress(&mut self) {
        self.egress_proxy = Some(egress(&self.mesh, &self.egress, "zoneegress-1"));
    }
}

/// A ready ZoneEgress of the default zone.
pub(crate) fn egress(mesh: &Mesh, node: &Node, name: &str) -> Process {
    mesh.token(name, &["generate", "zone-token", "--valid-for", "720h", "--scope", "egress"]);
    let address = node.v4;
    let yaml = format!("type: ZoneEgress\nname: {name}\nnetworking:\n  address: {address}\n  port: 10002\n");
    let mut proxy = mesh.proxy(node, name, &yaml, &["--proxy-type=egress"]);
    ready(&mut proxy);
    proxy
}

/// nginx that takes files by PUT and gives them back.
fn files_server(mesh: &Mesh, node: &Node) -> Process {
    let folder = mesh.path("nginx");
    std::fs::create_dir_all(&folder).unwrap();
    let folder = folder.display();
    let config = format!(
        "user root;
daemon off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  server {{ listen 8081; root {folder}; location / {{ dav_methods PUT; }} }}
}}
"
    );
    let config = mesh.write("nginx.conf", &config);
    node.spawn("nginx", &["-c", config.to_str().unwrap()])
}
