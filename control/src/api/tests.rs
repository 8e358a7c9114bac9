//! The API over real connections, port chosen by the system.
use super::*;
use crate::core::{ADMIN_TOKEN_SECRET, Defaults};
use crate::identity::{DataplaneClaims, TokenScope, ZoneClaims};
use crate::store::{Key, Store};
use crate::time::Clock;
use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NOW_MS: u64 = 1_800_000_000_000;

struct Server {
    address: SocketAddr,
    core: Arc<Core>,
    ready: watch::Sender<bool>,
    _stop: watch::Sender<bool>,
}

struct Reply {
    status: u16,
    head: String,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Server {
    async fn start(options: Options) -> Self {
        let clock = Clock::from_fn(|| NOW_MS);
        Self::over(
            Store::memory(clock.clone()),
            options,
            Defaults { mesh: true, hostname_generators: false, signing_keys: false },
        )
        .await
    }

    async fn over(store: Store, options: Options, defaults: Defaults) -> Self {
        let core = Core::start(store, Clock::from_fn(|| NOW_MS), defaults).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, readiness) = watch::channel(false);
        let (_stop, stop) = watch::channel(false);
        tokio::spawn(Api::new(core.clone(), options, readiness).run(listener, None, stop));
        Self { address, core, ready, _stop }
    }

    async fn with_keys(options: Options) -> Self {
        Self::over(Store::memory(Clock::from_fn(|| NOW_MS)), options, Defaults::default()).await
    }

    async fn send(&self, line: &str, headers: &str, body: &str) -> Reply {
        let host = if headers.to_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let request = format!(
            "{line} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses a body early may close before all of it is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let all = String::from_utf8(all).unwrap();
        let (head, text) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: {all:?}"));
        let status = head[9..12].parse().unwrap();
        Reply { status, head: head.to_lowercase(), text: text.to_string() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), "", "").await
    }

    async fn put(&self, path: &str, body: Value) -> Reply {
        self.send(&format!("PUT {path}"), "", &body.to_string()).await
    }
}

fn dataplane(name: &str) -> Value {
    json!({"type": "Dataplane", "mesh": "default", "name": name, "networking": {"address": "127.0.0.1",
        "inbound": [{"port": 8080, "tags": {"kuma.io/service": format!("web-{name}")}}]}})
}

#[tokio::test]
async fn resource_is_created_updated_read_and_deleted() {
    let server = Server::start(Options::default()).await;
    let path = "/meshes/default/dataplanes/a";
    assert_eq!(server.get(path).await.status, 404);
    let created = server.put(path, dataplane("a")).await;
    assert_eq!((created.status, &created.json()["outcome"]), (201, &json!("created")));
    let again = server.put(path, dataplane("a")).await;
    assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("unchanged")));
    let mut other = dataplane("a");
    other["networking"]["inbound"][0]["port"] = json!(9090);
    assert_eq!(server.put(path, other).await.json()["outcome"], "updated");
    let found = server.get(path).await.json();
    assert_eq!(found["networking"]["inbound"][0]["port"], 9090);
    assert_eq!(found["creationTime"], "2027-01-15T08:00:00Z");
    assert_eq!((&found["type"], &found["mesh"], &found["name"]), (&json!("Dataplane"), &json!("default"), &json!("a")));
    // What was read may be put back.
    assert_eq!(server.put(path, found).await.json()["outcome"], "unchanged");
    let deleted = server.send(&format!("DELETE {path}"), "", "").await;
    assert_eq!((deleted.status, deleted.text.as_str()), (200, ""));
    let gone = server.send(&format!("DELETE {path}"), "", "").await;
    assert_eq!(gone.status, 404);
    assert!(!gone.json()["title"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn errors_have_kumas_shape() {
    let server = Server::start(Options::default()).await;
    let reply = server.put("/meshes/default/dataplanes/b", dataplane("a")).await;
    assert_eq!(reply.status, 400);
    let error = reply.json();
    assert_eq!(error["title"], "Could not process a resource");
    assert_eq!(error["detail"], "Resource is not valid");
    assert_eq!(error["details"], error["detail"]);
    assert_eq!((&error["type"], &error["status"]), (&json!("/std-errors"), &json!(400)));
    assert_eq!(error["invalid_parameters"][0]["field"], "name");
    assert_eq!(error["causes"][0]["message"], "name from the URL has to be the same as in body");

    let reply = server.put("/meshes/absent/dataplanes/a", dataplane("a")).await;
    assert_eq!((reply.status, &reply.json()["title"]), (404, &json!("Failed to retrieve Mesh")));
    assert_eq!(server.get("/meshes/absent/dataplanes").await.status, 404);
    assert_eq!(server.get("/nothing").await.status, 404);
    assert_eq!(server.get("/meshes/default/zones").await.status, 404);
    assert_eq!(server.get("/dataplanes/a").await.status, 404);
    assert_eq!(server.send("PATCH /meshes/default", "", "").await.status, 405);
    assert_eq!(server.put("/meshes/default/dataplane-insights/a", json!({})).await.status, 405);
    assert_eq!(server.get("/meshes/%ff/dataplanes").await.status, 400);
    for body in ["", "{", "[]", "\"x\"", "null"] {
        assert_eq!(server.send("PUT /meshes/default/dataplanes/a", "", body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn mesh_rules_reach_the_client() {
    let server = Server::start(Options::default()).await;
    let mesh = |ca: &str| json!({"type": "Mesh", "name": "default", "mtls": {"enabledBackend": ca, "backends": [{"name": ca, "type": "builtin"}]}});
    assert_eq!(server.put("/meshes/default", mesh("ca-1")).await.status, 200);
    let reply = server.put("/meshes/default", mesh("ca-2")).await;
    assert_eq!((reply.status, &reply.json()["causes"][0]["field"]), (400, &json!("mtls.enabledBackend")));
    let secret = server.get("/meshes/default/secrets/default.ca-builtin-cert-ca-1").await;
    assert_eq!((secret.status, &secret.json()["type"]), (200, &json!("Secret")));
    server.put("/meshes/default/dataplanes/a", dataplane("a")).await;
    let reply = server.send("DELETE /meshes/default", "", "").await;
    assert_eq!(reply.json()["causes"][0]["message"], "unable to delete mesh, there are still some dataplanes attached");
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let server = Server::start(Options::default()).await;
    for name in ["c", "a", "b"] {
        assert_eq!(server.put(&format!("/meshes/default/dataplanes/{name}"), dataplane(name)).await.status, 201);
    }
    let names = |reply: &Reply| -> Vec<String> {
        reply.json()["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().into()).collect()
    };
    let first = server.get("/meshes/default/dataplanes?size=2&name=").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first.json()["total"], 3);
    let next = first.json()["next"].as_str().unwrap().to_string();
    assert_eq!(next, "http://localhost/meshes/default/dataplanes?size=2&name=&offset=2");
    let second = server.get(next.strip_prefix("http://localhost").unwrap()).await;
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second.json()["next"], Value::Null);
    assert_eq!(names(&server.get("/dataplanes").await).len(), 3);
    assert_eq!(names(&server.get("/dataplanes?tag=kuma.io/service:web-b").await), ["b"]);
    assert_eq!(names(&server.get("/dataplanes?tag=kuma.io%2Fservice%3Aweb&name=c").await), ["c"]);
    assert_eq!(names(&server.get("/dataplanes?gateway=true").await).len(), 0);
    assert_eq!(names(&server.get("/meshes").await), ["default"]);
    for (query, field) in [("size=0", "size"), ("size=1001", "size"), ("size=x", "size"), ("offset=x", "offset")] {
        let reply = server.get(&format!("/dataplanes?{query}")).await;
        assert_eq!((reply.status, &reply.json()["invalid_parameters"][0]["field"]), (400, &json!(field)), "{query}");
    }
}

#[tokio::test]
async fn overviews_join_a_resource_and_its_insight() {
    let server = Server::start(Options::default()).await;
    server.put("/meshes/default/dataplanes/a", dataplane("a")).await;
    let key = Key::new("Dataplane", "default", "a");
    server.core.set_insight(key, json!({"subscriptions": [{"id": "1"}]}));
    let list = server.get("/meshes/default/dataplanes/_overview").await.json();
    let item = &list["items"][0];
    assert_eq!(item["type"], "DataplaneOverview");
    assert_eq!(item["dataplane"]["networking"]["address"], "127.0.0.1");
    assert_eq!(item["dataplaneInsight"]["subscriptions"][0]["id"], "1");
    assert_eq!(server.get("/meshes/default/dataplanes+insights").await.json(), list);
    assert_eq!(server.get("/meshes/default/dataplanes/a/_overview").await.json(), *item);
    assert_eq!(server.get("/meshes/default/dataplane-insights/a").await.json()["subscriptions"][0]["id"], "1");
    for path in ["/zones/_overview", "/zone-ingresses/_overview", "/zoneegresses/_overview", "/zoneegressoverviews"] {
        assert_eq!(server.get(path).await.json()["total"], 0, "{path}");
    }
}

#[tokio::test]
async fn the_api_tells_about_itself() {
    let server = Server::start(Options { config: json!({"mode": "zone"}), ..Options::default() }).await;
    let index = server.get("/").await.json();
    assert_eq!(index["product"], "Kuma");
    assert_eq!(index["clusterId"].as_str().unwrap(), server.core.cluster_id());
    assert_eq!(server.get("/ready").await.status, 503);
    server.ready.send(true).unwrap();
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(server.get("/config").await.json()["mode"], "zone");
    assert_eq!(server.get("/who-am-i").await.json()["name"], "mesh-system:admin");
    assert!(server.get("/policies").await.text.contains("traffic-permissions"));
    assert!(server.get("/_resources").await.text.contains("zone-ingresses"));
    assert_eq!(server.get("/status/zones").await.json(), json!([]));
    assert_eq!(server.get("/global-insight").await.json()["resources"]["Mesh"]["total"], 1);
    let head = server.send("HEAD /", "", "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert!(!head.head.contains("access-control-allow"), "{}", head.head);
}

#[tokio::test]
async fn tokens_are_issued_and_verify() {
    let server = Server::with_keys(Options::default()).await;
    let issue =
        async |kind: &str, body: Value| server.send(&format!("POST /tokens/{kind}"), "", &body.to_string()).await;
    let reply =
        issue("dataplane", json!({"mesh": "default", "name": "a", "tags": {"t": ["v"]}, "validFor": "1h"})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.head.contains("content-type: text/plain"));
    let ring = server.core.key_ring(TokenScope::Dataplane { mesh: "default".into() });
    let claims: DataplaneClaims = ring.verify(&reply.text, NOW_MS + 3_599_000).unwrap();
    assert_eq!((claims.name.as_str(), &claims.tags["t"][0][..]), ("a", "v"));
    assert!(ring.verify::<DataplaneClaims>(&reply.text, NOW_MS + 3_600_000).is_err());
    let reply = issue("zone", json!({"zone": "east", "scope": ["egress"]})).await;
    let claims: ZoneClaims = server.core.key_ring(TokenScope::Zone).verify(&reply.text, NOW_MS).unwrap();
    assert_eq!(claims.zone, "east");

    for (kind, body, field) in [
        ("dataplane", json!({}), "mesh"),
        ("dataplane", json!({"mesh": "default", "type": "x"}), "type"),
        ("dataplane", json!({"mesh": "default", "validFor": "1d"}), "validFor"),
        ("zone", json!({"zone": "east"}), "scope"),
        ("user", json!({"validFor": "1h"}), "name"),
        ("user", json!({"name": "u"}), "validFor"),
    ] {
        let reply = issue(kind, body).await;
        assert_eq!((reply.status, &reply.json()["title"]), (400, &json!("Invalid request")));
        assert_eq!(reply.json()["invalid_parameters"][0]["field"], field);
    }
    assert_eq!(server.send("POST /tokens/zone", "", "{").await.status, 400);
    let keyless = Server::start(Options::default()).await;
    let reply = keyless.send("POST /tokens/zone", "", "{\"scope\":[]}").await;
    assert_eq!((reply.status, &reply.json()["title"]), (404, &json!("Signing Key not found")));
}

#[tokio::test]
async fn strangers_may_read_but_not_have_secrets_or_tokens() {
    let server = Server::with_keys(Options { localhost_is_admin: false, ..Options::default() }).await;
    assert_eq!(server.get("/meshes").await.status, 200);
    assert_eq!(server.get("/who-am-i").await.json()["name"], "mesh-system:anonymous");
    for line in [
        "GET /global-secrets",
        "GET /global-secrets/admin-user-token",
        "PUT /meshes/default/secrets/x",
        "DELETE /meshes/default/secrets/x",
        "GET /secrets",
        "GET /meshes/default/secrets",
        "POST /tokens/zone",
    ] {
        let reply = server.send(line, "", "{}").await;
        assert_eq!((reply.status, &reply.json()["title"]), (403, &json!("Access Denied")), "{line}");
    }
    let document = server.core.get(&Key::new("GlobalSecret", "", ADMIN_TOKEN_SECRET)).unwrap();
    let body: Value = serde_json::from_str(&document.body).unwrap();
    let token = base64::engine::general_purpose::STANDARD.decode(body["data"].as_str().unwrap()).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", String::from_utf8(token).unwrap());
    assert_eq!(server.send("GET /global-secrets", &bearer, "").await.status, 200);
    let forged = bearer.replace("\r\n", "x\r\n");
    for bad in [forged.as_str(), "Authorization: Basic eDp5\r\n", "Authorization: Bearer \r\n"] {
        let reply = server.send("GET /meshes", bad, "").await;
        assert_eq!((reply.status, &reply.json()["title"]), (401, &json!("Invalid authentication data")), "{bad}");
    }
}

#[tokio::test]
async fn pages_of_other_sites_have_no_say_on_loopback() {
    let server = Server::with_keys(Options::default()).await;
    let rebound = server.send("GET /global-secrets", "Host: evil.example\r\n", "").await;
    assert_eq!(rebound.status, 403);
    for host in ["localhost:5681", "127.0.0.1", "[::1]:5681"] {
        assert_eq!(server.send("GET /global-secrets", &format!("Host: {host}\r\n"), "").await.status, 200, "{host}");
    }
    let crossing = server.send("POST /tokens/zone", "Sec-Fetch-Site: cross-site\r\n", "{\"scope\":[]}").await;
    assert_eq!(crossing.status, 403);
}

#[tokio::test]
async fn long_bodies_and_strange_names_are_refused_with_a_reason() {
    let server = Server::start(Options::default()).await;
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    let reply = server.send("PUT /meshes/default/dataplanes/a", "", &long).await;
    assert_eq!((reply.status, &reply.json()["title"]), (413, &json!("Content Too Large")));
    for name in ["..", "%2e%2e%2fx", "A", "-a", "a%00"] {
        let path = format!("/meshes/default/dataplanes/{name}");
        let mut body = dataplane("a");
        body["name"] = json!(decoded(name, false).unwrap());
        assert_eq!(server.put(&path, body).await.status, 400, "{name}");
    }
}

#[tokio::test]
async fn snapshots_are_shown_where_there_are_any() {
    let of = |mesh: &str, name: &str, json: bool| match (mesh, name, json) {
        ("default", "a", false) => Some("tables".to_string()),
        ("default", "a", true) => Some("{\"rows\":[]}".to_string()),
        _ => None,
    };
    let server = Server::start(Options { snapshots: Some(Box::new(of)), ..Options::default() }).await;
    assert_eq!(server.get("/meshes/default/dataplanes/a/_snapshot").await.text, "tables");
    assert_eq!(server.get("/meshes/default/dataplanes/a/_snapshot?format=json").await.json(), json!({"rows": []}));
    assert_eq!(server.get("/meshes/default/dataplanes/b/_snapshot").await.status, 404);
}

#[tokio::test]
async fn a_full_store_is_a_server_error_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::from_fn(|| NOW_MS);
    let store = Store::open_bounded(dir.path(), clock, 200 << 10).unwrap();
    let server = Server::over(
        store,
        Options::default(),
        Defaults { mesh: true, hostname_generators: false, signing_keys: false },
    )
    .await;
    let secret = |i: usize| {
        let data = base64::engine::general_purpose::STANDARD.encode("x".repeat(20 << 10));
        json!({"type": "Secret", "mesh": "default", "name": format!("s{i}"), "data": data})
    };
    let mut i = 0;
    let reply = loop {
        let reply = server.put(&format!("/meshes/default/secrets/s{i}"), secret(i)).await;
        if reply.status != 201 {
            break reply;
        }
        i += 1;
    };
    assert_eq!(reply.status, 507, "{}", reply.text);
    assert_eq!(server.get(&format!("/meshes/default/secrets/s{i}")).await.status, 404);
    assert_eq!(server.send("DELETE /meshes/default/secrets/s0", "", "").await.status, 200);
    assert_eq!(server.put(&format!("/meshes/default/secrets/s{i}"), secret(i)).await.status, 201);
}

#[tokio::test]
async fn the_server_ends_when_asked_to() {
    let core = Core::start(
        Store::memory(Clock::system()),
        Clock::system(),
        Defaults { mesh: true, hostname_generators: false, signing_keys: false },
    )
    .await
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_ready, readiness) = watch::channel(true);
    let (stop, stopping) = watch::channel(false);
    let server = tokio::spawn(Api::new(core, Options::default(), readiness).run(listener, None, stopping));
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
}

#[tokio::test]
async fn names_what_became_of_them_and_statuses_are_shown() {
    let clock = Clock::from_fn(|| NOW_MS);
    let defaults = Defaults { mesh: true, hostname_generators: true, signing_keys: false };
    let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
    let vo = |name: &str| {
        format!(
            "type: VirtualOutbound\nmesh: default\nname: {name}\nselectors: [{{match: {{kuma.io/service: '*'}}}}]\nconf: {{host: \
             x.mesh, port: '80', parameters: [{{name: s, tagKey: kuma.io/service}}]}}\n---\n"
        )
    };
    let yaml = vo("vo-a")
        + &vo("vo-b")
        + "type: Mesh\nname: default\nmeshServices: {mode: Everywhere}\n---\ntype: Dataplane\nmesh: default\nname: d\nnetworking: \
           {address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: web}}]}\n---\ntype: MeshService\nmesh: default\nname: \
           web\nspec: {selector: {dataplaneTags: {kuma.io/service: web}}, ports: [{port: 80}]}\n---\ntype: \
           MeshMultiZoneService\nmesh: default\nname: all\nspec: {selector: {meshService: {matchLabels: \
           {kuma.io/display-name: web}}}, ports: [{name: http, port: 80}]}\n";
    let intake = crate::resource::read(&yaml, "t.yaml");
    for written in core.apply(intake.resources).await {
        written.outcome.unwrap();
    }
    let settings = crate::settings::Settings::new("/nowhere".into());
    let (_publishing, subscription) = crate::publish::Loop::start(core.clone(), settings).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ready, readiness) = watch::channel(false);
    let (_stop, stop) = watch::channel(false);
    let options = Options { published: Some(subscription), ..Options::default() };
    tokio::spawn(Api::new(core.clone(), options, readiness).run(listener, None, stop));
    let server = Server { address, core, ready, _stop };

    let names = server.get("/meshes/default/_names").await.json();
    let shown: Vec<&str> = names["items"].as_array().unwrap().iter().filter_map(|n| n["name"].as_str()).collect();
    assert_eq!(shown, ["web.mesh", "x.mesh", "all.mzsvc.mesh.local", "web.svc.mesh.local"]);
    assert_eq!((&names["items"][1]["v4"], &names["items"][1]["ports"]), (&json!("240.0.0.1"), &json!([80])));
    let problems = server.get("/meshes/default/_names/problems").await.json();
    assert_eq!(problems["conflicts"][0]["winner"]["origin"], "VirtualOutbound default/vo-a");
    assert_eq!(problems["conflicts"][0]["loser"]["origin"], "VirtualOutbound default/vo-b");
    let metrics = server.get("/metrics").await.text;
    assert!(
        metrics.contains("weir_name_conflicts{mesh=\"default\"} 1\n") && metrics.contains("vip_generation_count 1\n")
    );
    let status = &server.get("/meshes/default/meshservices/web").await.json()["status"];
    assert_eq!(status["vips"], json!([{"ip": "241.0.0.0"}]));
    assert_eq!(status["addresses"][0]["hostname"], "web.svc.mesh.local");
    assert_eq!(status["addresses"][0]["hostnameGeneratorRef"]["coreName"], "local-universal-mesh-service");
    assert_eq!(status["hostnameGenerators"][0]["conditions"][0]["status"], "True");
    assert_eq!(status["dataplaneProxies"], json!({"connected": 0, "healthy": 1, "total": 1}));
    let all = &server.get("/meshes/default/meshmultizoneservices/all").await.json()["status"];
    assert_eq!(all["meshServices"], json!([{"name": "web", "namespace": "", "zone": "default", "mesh": "default"}]));
    assert_eq!(all["addresses"][0]["hostname"], "all.mzsvc.mesh.local");
    let listed = server.get("/meshes/default/meshservices").await.json();
    assert_eq!(listed["items"][0]["status"]["vips"], status["vips"]);
    assert_eq!(server.get("/meshes/nowhere/_names").await.status, 404);
}
