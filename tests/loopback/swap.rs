//! A change takes hold whole and at once: under load no request fails and none is routed by a mix of two generations. What can't be
//! used changes nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{HttpServer, eventually};

use crate::client::{Connection, get};
use crate::ground::{Ground, LONG, Mesh};

const CHANGES: u64 = 1000;
/// Fewer with three proxies: the way is what differs.
const CHANNEL_CHANGES: u64 = 200;
const KEPT_CONNECTIONS: usize = 3;
const FRESH_CONNECTIONS: usize = 2;
const HOST: &str = "foo.example.com";
const ROUTE: &str = "/meshes/default/meshgatewayroutes/edge";

/// A gateway on NET.4:8080 before the services `even` and `odd`.
const GATEWAY: &str = "
type: Dataplane
mesh: default
name: even
networking:
  address: NET.1
  inbound: [{port: 9000, serviceAddress: NET.11, tags: {kuma.io/service: even, kuma.io/protocol: http}}]
---
type: Dataplane
mesh: default
name: odd
networking:
  address: NET.2
  inbound: [{port: 9000, serviceAddress: NET.12, tags: {kuma.io/service: odd, kuma.io/protocol: http}}]
---
type: Dataplane
mesh: default
name: gateway
networking:
  address: NET.4
  gateway: {type: BUILTIN, tags: {kuma.io/service: edge}}
---
type: MeshGateway
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  listeners: [{port: 8080, protocol: HTTP, hostname: foo.example.com, tags: {port: http-8080}}]
";

/// The route of generation `n`: which service, and a header that names the generation.
fn route(n: u64) -> String {
    format!(
        r#"{{"type": "MeshGatewayRoute", "mesh": "default", "name": "edge",
"selectors": [{{"match": {{"kuma.io/service": "edge", "port": "http-8080"}}}}],
"conf": {{"http": {{"rules": [{{
  "matches": [{{"path": {{"match": "PREFIX", "value": "/"}}}}],
  "filters": [{{"requestHeader": {{"set": [{{"name": "x-generation", "value": "{n}"}}]}}}}],
  "backends": [{{"weight": 1, "destination": {{"kuma.io/service": "{}"}}}}]}}]}}}}}}"#,
        service(n)
    )
}

fn service(n: u64) -> &'static str {
    if n.is_multiple_of(2) { "even" } else { "odd" }
}

/// Applications that answer who they are and which generation sent the request: `odd 17`.
fn applications(ground: &Ground) {
    for (host, name) in [(11, "even"), (12, "odd")] {
        HttpServer::start(ground.at(host, 9000), move |head, _| {
            let generation = head.lines().find_map(|line| line.strip_prefix("x-generation: ")).unwrap_or("none");
            format!("{name} {generation}")
        });
    }
}

fn gateway() -> (Ground, Mesh, SocketAddr) {
    let ground = Ground::new();
    applications(&ground);
    let mesh = ground.up(&[GATEWAY, "---\n", &route(0)].concat());
    let address = ground.at(4, 8080);
    assert_eq!(get(address, HOST, "/").body, "even 0");
    (ground, mesh, address)
}

/// What the changing thread knows, and the load must agree with.
#[derive(Default)]
struct Progress {
    /// The newest change that was asked for.
    asked: AtomicU64,
    /// The newest that a request has been routed by, seen before the next was asked for.
    seen: AtomicU64,
    ended: AtomicBool,
    requests: AtomicU64,
}

impl Progress {
    /// One request, and whether its answer is one of a generation in force meanwhile.
    fn check(&self, connection: &mut Connection) {
        let oldest = self.seen.load(Ordering::SeqCst);
        let answer = connection.get(HOST, "/").expect("an answer");
        let newest = self.asked.load(Ordering::SeqCst);
        assert_eq!(answer.status, 200, "{answer:?}");
        let (name, generation) = answer.body.split_once(' ').expect("service and generation");
        let generation: u64 = generation.parse().unwrap_or_else(|_| panic!("{answer:?}"));
        assert_eq!(name, service(generation), "header of one generation, backend of another");
        assert!((oldest..=newest).contains(&generation), "{generation} answered between {oldest} and {newest}");
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn load(&self, address: SocketAddr, keep: bool) {
        let mut kept = Connection::open(address).unwrap();
        while !self.ended.load(Ordering::Relaxed) {
            if !keep {
                kept = Connection::open(address).unwrap();
            }
            self.check(&mut kept);
        }
    }
}

/// Changes the route again and again under load, each time when the last has been seen to act. The number of requests.
fn change_under_load(api: SocketAddr, address: SocketAddr, changes: u64) -> u64 {
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let progress = &progress;
        let keepers = (0..KEPT_CONNECTIONS).map(|_| scope.spawn(move || progress.load(address, true)));
        let others = (0..FRESH_CONNECTIONS).map(|_| scope.spawn(move || progress.load(address, false)));
        let load: Vec<_> = keepers.chain(others).collect();
        let changing = std::panic::catch_unwind(|| {
            let mut probe = Connection::open(address).unwrap();
            let mut api = Connection::open(api).unwrap();
            for n in 1..=changes {
                progress.asked.store(n, Ordering::SeqCst);
                let body = route(n);
                let head = format!("PUT {ROUTE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
                api.send(format!("{head}{body}").as_bytes()).unwrap();
                assert_eq!(api.answer().unwrap().status, 200);
                let wanted = format!("{} {n}", service(n));
                eventually("the change", LONG, || (probe.get(HOST, "/").unwrap().body == wanted).then_some(()));
                progress.seen.store(n, Ordering::SeqCst);
            }
        });
        progress.ended.store(true, Ordering::Relaxed);
        load.into_iter().for_each(|thread| thread.join().unwrap());
        changing.unwrap();
    });
    progress.requests.into_inner()
}

#[test]
fn a_thousand_route_changes_under_load_lose_and_misroute_no_request() {
    let (_ground, mesh, address) = gateway();
    let requests = change_under_load(mesh.api, address, CHANGES);
    assert!(requests > CHANGES, "{requests} requests are no load");
}

/// The parts of `GATEWAY` as a control plane and three proxies, each a process.
#[test]
fn route_changes_over_the_control_channel_lose_and_misroute_no_request() {
    let ground = Ground::new();
    applications(&ground);
    let cp = ground.cp();
    let documents = ground.text(GATEWAY);
    let documents: Vec<&str> = documents.split("---\n").collect();
    let gateway: serde_json::Value = serde_json::json!({
        "type": "MeshGateway", "mesh": "default", "name": "edge",
        "selectors": [{"match": {"kuma.io/service": "edge"}}],
        "conf": {"listeners": [{"port": 8080, "protocol": "HTTP", "hostname": HOST, "tags": {"port": "http-8080"}}]},
    });
    assert_eq!(cp.send("PUT", "/meshes/default/meshgateways/edge", &gateway.to_string()).0, 201);
    assert_eq!(cp.send("PUT", ROUTE, &route(0)).0, 201);
    let with_admin = |text: &str| text.replace("networking:\n", "networking:\n  admin: {port: ADMIN}\n");
    let names = ["even", "odd", "gateway"];
    let _proxies: Vec<_> =
        names.iter().zip(&documents).map(|(name, text)| ground.dp(&cp, name, &with_admin(text))).collect();
    let address = ground.at(4, 8080);
    eventually("the first route", LONG, || (get(address, HOST, "/").body == "even 0").then_some(()));
    let requests = change_under_load(cp.api, address, CHANNEL_CHANGES);
    assert!(requests > CHANNEL_CHANGES, "{requests} requests are no load");
}

#[test]
fn a_saved_file_takes_hold_and_one_that_cannot_be_read_changes_nothing() {
    let ground = Ground::new();
    applications(&ground);
    let file = |n: u64| [GATEWAY, "---\n", &route(n)].concat();
    let mut mesh = ground.up_with(&file(0), &["--watch"]);
    let address = ground.at(4, 8080);
    // Editors write beside and rename.
    let save = |text: &str| {
        ground.write("saved", text);
        std::fs::rename(ground.path("saved"), ground.path("mesh.yaml")).unwrap();
    };
    let becomes = |wanted: &str| {
        let mut kept = Connection::open(address).unwrap();
        eventually(wanted, LONG, || (kept.get(HOST, "/").unwrap().body == wanted).then_some(()));
    };
    becomes("even 0");
    save(&file(1));
    becomes("odd 1");
    // One document is malformed; the rest of the file doesn't take hold either.
    save(&[&file(2), "\n---\ntype: Mesh\nname: [unclosed\n"].concat());
    let line = mesh.process.wait_for("mesh.yaml:", LONG);
    assert!(line.contains("error"), "{line}");
    assert_eq!(get(address, HOST, "/").body, "odd 1");
    // A value of the wrong type, named with its place.
    save(&file(2).replace("port: 8080", "port: eighty"));
    mesh.process.wait_for("listeners[0].port", LONG);
    assert_eq!(get(address, HOST, "/").body, "odd 1");
    save(&file(2));
    becomes("even 2");
}

#[test]
fn a_refused_change_over_rest_says_why_and_changes_nothing() {
    let (_ground, mesh, address) = gateway();
    let wrong = route(1).replace("\"PREFIX\"", "\"NEARLY\"");
    let (status, body) = mesh.put(ROUTE, &wrong);
    assert_eq!(status, 400, "{body}");
    let reasons: serde_json::Value = serde_json::from_str(&body).unwrap();
    let field = reasons.pointer("/invalid_parameters/0/field").and_then(serde_json::Value::as_str);
    assert!(field.is_some_and(|field| field.contains("rules[0].matches[0].path.match")), "{body}");
    let (status, body) = mesh.put(ROUTE, &route(1).replace("\"edge\",", "\"another\","));
    assert_eq!(status, 400, "{body}");
    assert_eq!(get(address, HOST, "/").body, "even 0");
    assert_eq!(mesh.put(ROUTE, &route(1)).0, 200);
    eventually("the good change", LONG, || (get(address, HOST, "/").body == "odd 1").then_some(()));
}
