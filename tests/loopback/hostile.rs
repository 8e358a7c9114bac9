//! Input that means harm, or is broken: each has a clear answer, nothing is lost by it and the next good one is served.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use harness::{HttpServer, eventually};

use crate::client::{Connection, dns, get, request};
use crate::ground::{Ground, LONG, may_bind_low_ports, stderr};

/// A gateway on NET.4:8080 for every host, before NET.11:9000; and a sidecar with a name.
const MESH: &str = "
type: Dataplane
mesh: default
name: app
networking:
  address: NET.1
  admin: {port: ADMIN}
  inbound: [{port: 9000, serviceAddress: NET.11, tags: {kuma.io/service: app, kuma.io/protocol: http}}]
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
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
  listeners: [{port: 8080, protocol: HTTP, tags: {port: http-8080}}]
---
type: MeshGatewayRoute
mesh: default
name: edge
selectors: [{match: {kuma.io/service: edge}}]
conf:
  http:
    rules:
    - matches: [{path: {match: PREFIX, value: /}}]
      backends: [{destination: {kuma.io/service: app}}]
";

/// Heads that two parsers could read in two ways (RFC 9112), or that no parser should take.
const AMBIGUOUS: [(&str, &str); 17] = [
    ("both lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"),
    (
        "both lengths, swapped",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
    ),
    ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nab"),
    ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nab"),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n"),
    ("a bare line feed within", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
    ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
    ("a zero byte", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
    ("a bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("a space within a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n"),
];

#[test]
fn ambiguous_requests_are_refused_with_400_and_the_backend_sees_none() {
    let ground = Ground::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    HttpServer::start(ground.at(11, 9000), move |head, _| {
        log.lock().unwrap().push(head.to_owned());
        "served".to_owned()
    });
    let _mesh = ground.up_with(MESH, &["--as", "app"]);
    let gateway = ground.at(4, 8080);
    for (what, bytes) in AMBIGUOUS {
        let mut connection = Connection::open(gateway).unwrap();
        connection.send(bytes.as_bytes()).unwrap();
        let answer = connection.answer().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(answer.status, 400, "{what}");
        assert!(answer.closes(), "{what}: {}", answer.head);
        assert_eq!(connection.rest().unwrap(), "", "{what}: something follows the refusal");
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    assert_eq!(get(gateway, "a", "/").body, "served");
}

#[test]
fn a_broken_chunk_ends_the_connection_and_what_follows_is_no_request() {
    let ground = Ground::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    HttpServer::start(ground.at(11, 9000), move |head, _| {
        log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
        "served".to_owned()
    });
    let _mesh = ground.up_with(MESH, &["--as", "app"]);
    let gateway = ground.at(4, 8080);
    for chunk in
        ["zz\r\nabc\r\n", "5\nabcde\r\n", "-1\r\n", "3\r\nabcde\r\n", "fffffffffffffffff\r\na", "0x3\r\nabc\r\n"]
    {
        let mut connection = Connection::open(gateway).unwrap();
        let head = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        // A reset by then is as good an end.
        let _ = connection.send(format!("{head}{chunk}0\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let answers = connection.rest().unwrap();
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{chunk:?}: {answers}");
        assert!(
            !answers.contains("HTTP/1.1 200") || answers.to_lowercase().contains("connection: close"),
            "{chunk:?}: {answers}"
        );
    }
    assert!(seen.lock().unwrap().iter().all(|line| line.starts_with("POST /first")), "{:?}", seen.lock().unwrap());
    assert_eq!(get(gateway, "a", "/").body, "served");
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        let count = self.next() % (max + 1);
        (0..count).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn random_packets_to_the_dns_port_do_not_keep_a_good_question_from_its_answer() {
    let ground = Ground::new();
    let mesh = ground.up_with(MESH, &["--as", "app"]);
    let server = mesh.dns.unwrap();
    let expected = mesh.resolve("app.mesh", 80).ip();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for round in 0..20 {
        for _ in 0..50 {
            let mut packet = noise.bytes(600);
            // Half look like questions, so that they get further.
            if packet.len() > 12 && noise.next().is_multiple_of(2) {
                packet[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            let _ = socket.send_to(&packet, server);
        }
        let answer = dns(server, "app.mesh", 1);
        assert_eq!(answer.records.first().map(|record| record.1), Some(expected), "round {round}");
    }
}

/// A ClientHello's record with any rest.
fn hello(rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1];
    bytes.extend_from_slice(&u16::try_from(rest.len() + 4).unwrap().to_be_bytes());
    bytes.push(1);
    bytes.extend_from_slice(&u32::try_from(rest.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(rest);
    bytes
}

fn throw_garbage(address: SocketAddr) {
    let mut noise = Noise(7);
    let mut pieces = vec![
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        vec![22, 3, 1, 0xff, 0xff],
        vec![22, 3, 1, 0, 0],
        hello(&[]),
        hello(&[3, 3]),
        Vec::new(),
    ];
    pieces.extend((0..30).map(|_| noise.bytes(300)));
    pieces.extend((0..30).map(|_| hello(&noise.bytes(300))));
    let mut open = Vec::new();
    for piece in pieces {
        let mut connection = Connection::open(address).unwrap();
        let _ = connection.send(&piece);
        open.push(connection);
    }
    // What isn't a whole ClientHello may be waited for; the peer's leaving ends that.
    drop(open);
}

#[test]
fn garbage_instead_of_a_client_hello_ends_alone_at_zone_ingress_and_egress() {
    let ground = Ground::new();
    let app = HttpServer::start(ground.at(9, 0), |_, _| "outside".to_owned());
    let resources = format!(
        "
type: Mesh
name: default
mtls: {{enabledBackend: ca-1, backends: [{{name: ca-1, type: builtin}}]}}
routing: {{zoneEgress: true}}
---
type: TrafficPermission
mesh: default
name: everyone
sources: [{{match: {{kuma.io/service: '*'}}}}]
destinations: [{{match: {{kuma.io/service: '*'}}}}]
---
type: ExternalService
mesh: default
name: outside
tags: {{kuma.io/service: outside, kuma.io/protocol: http}}
networking: {{address: '{}'}}
---
type: ZoneEgress
name: egress
networking: {{address: NET.5, port: 10002}}
---
type: ZoneIngress
name: ingress
networking: {{address: NET.6, port: 10001, advertisedAddress: NET.6, advertisedPort: 10001}}
---
{MESH}",
        app.address
    );
    let mesh = ground.up_with(&resources, &["--as", "app"]);
    for address in [ground.at(5, 10002), ground.at(6, 10001)] {
        throw_garbage(address);
        Connection::open(address).unwrap();
    }
    if may_bind_low_ports() {
        let address = mesh.resolve("outside.mesh", 80);
        eventually("the way through the egress", LONG, || {
            Some(get(address, "outside.mesh", "/")).filter(|answer| answer.status == 200 && answer.body == "outside")
        });
    }
}

/// Texts that no reader should follow to their end, with a word of the refusal.
fn indigestible() -> Vec<(&'static str, String)> {
    let bomb: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]\n", format!("*a{}", n - 1)))
        .collect();
    vec![
        ("malformed", "type: Mesh\nname: [unclosed\n".to_owned()),
        ("wrong type", "type: Mesh\nname: {a: b}\n".to_owned()),
        ("no document of ours", "hello\n".to_owned()),
        ("alias bomb", format!("type: Mesh\nname: x\na0: &a0 [x]\n{bomb}")),
        ("deep flow", format!("type: Mesh\nname: x\nmtls: {}{}\n", "[".repeat(100_000), "]".repeat(100_000))),
        ("deep blocks", (0..3000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        ("50 MiB", "# filler filler filler filler filler filler filler filler filler\n".repeat(50 * 1024 * 1024 / 65)),
        ("binary", "\u{0}\u{1}\u{2}type: Mesh".to_owned()),
    ]
}

#[test]
fn indigestible_files_are_refused_with_their_name_and_the_control_plane_lives_on() {
    let ground = Ground::new();
    let cp = ground.cp();
    let url = format!("http://{}", cp.api);
    let added = ground.weir(&["config", "control-planes", "add", "--name", "test", "--address", &url]);
    assert!(added.status.success(), "{}", stderr(&added));
    for (what, text) in indigestible() {
        let file = ground.path("bad.yaml");
        std::fs::write(&file, text).unwrap();
        let output = ground.weir(&["apply", "-f", file.to_str().unwrap()]);
        assert!(matches!(output.status.code(), Some(1 | 2 | 64)), "{what}: {:?} {}", output.status, stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("bad.yaml") && said.len() < 10_000, "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
    assert_eq!(cp.send("GET", "/meshes/default", "").0, 200);
}

#[test]
fn indigestible_bodies_are_refused_by_the_rest_api() {
    let ground = Ground::new();
    let cp = ground.cp();
    let path = "/meshes/x";
    let deep = format!(r#"{{"type": "Mesh", "name": "x", "mtls": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for (what, body) in [
        ("malformed", "{"),
        ("not an object", "[]"),
        ("wrong type", r#"{"type": "Mesh", "name": 5}"#),
        ("deep", deep.as_str()),
        ("another name", r#"{"type": "Mesh", "name": "y"}"#),
    ] {
        let (status, said) = cp.send("PUT", path, body);
        assert_eq!(status, 400, "{what}: {said}");
        assert!(
            serde_json::from_str::<serde_json::Value>(&said).is_ok_and(|said| said.get("title").is_some()),
            "{what}: {said}"
        );
    }
    let large = format!(r#"{{"type": "Mesh", "name": "x", "filler": "{}"}}"#, "x".repeat(50 * 1024 * 1024));
    assert_eq!(request(cp.api, "PUT", path, &large).status, 413);
    assert_eq!(cp.send("GET", path, "").0, 404);
    assert_eq!(cp.send("GET", "/meshes/default", "").0, 200);
}
