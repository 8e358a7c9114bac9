//! A name and the way behind it appear together, in each mode that captures virtual IPs: whoever resolves a name can connect to it,
//! however early, over either family.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use harness::{HttpServer, Node, http_get};

use crate::support::mesh::{Mesh, dataplane_yaml, ready};

const NAMES: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
/// A lost datagram is asked again.
const PATIENCE: Duration = Duration::from_secs(2);

harness::isolated_tests! {
    fn with_bind_a_name_never_resolves_before_there_is_a_way_to_it() {
        hammered("bind");
    }

    fn with_tproxy_a_name_never_resolves_before_there_is_a_way_to_it() {
        hammered("tproxy");
    }
}

fn hammered(mode: &str) {
    let mut mesh = Mesh::start();
    mesh.apply("type: Mesh\nname: default\n");
    let [web, outside] = ["web", "outside"].map(|name| mesh.network.node(name));
    let application = SocketAddr::new(outside.v4.into(), 80);
    outside.enter(|| HttpServer::start(application, |_, _| "here".to_owned()));
    let yaml = dataplane_yaml("web-1", web.v4.into(), &[(8080, 8080, "kuma.io/service: web")], TRANSPARENT);
    let [_, port, resolvers] = mesh.client_arguments(&web);
    let mut proxy = mesh.dataplane(&web, "web-1", &yaml, &[&format!("--interception={mode}"), &port, &resolvers]);
    ready(&mut proxy);
    let tried = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..NAMES {
            let name = format!("late-{n}.mesh");
            let hammers = [A, AAAA, A].map(|kind| {
                let (web, name, tried) = (&web, name.clone(), &tried);
                scope.spawn(move || reached(web, &name, kind, tried))
            });
            mesh.apply(&format!(
                "type: ExternalService\nmesh: default\nname: late-{n}\ntags: {{kuma.io/service: late-{n}, kuma.io/protocol: http}}\n\
                 networking: {{address: '{application}'}}\n"
            ));
            for hammer in hammers {
                let answer = hammer.join().unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{name}: {answer}");
            }
        }
    });
    assert!(tried.load(Relaxed) > NAMES * 3, "they asked before it was there");
}

const TRANSPARENT: &str = "  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";

/// Asks until there is an address, and connects to it at once: what its application says.
fn reached(node: &Node, name: &str, kind: u16, tried: &AtomicUsize) -> String {
    node.enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:53").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            tried.fetch_add(1, Relaxed);
            if let Some(ip) = ask(&socket, name, kind) {
                let answer = http_get(SocketAddr::new(ip, 80), name, "/");
                return answer.unwrap_or_else(|error| panic!("{name} at {ip}: {error}"));
            }
        }
    })
}

/// The address of this family, unless there is none (yet).
fn ask(socket: &UdpSocket, name: &str, kind: u16) -> Option<IpAddr> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([&[0][..], &kind.to_be_bytes(), &[0, 1]].concat());
    socket.send(&question).unwrap();
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).ok()?;
    // One record alone, of our own: resolvers outside answer with addresses of theirs.
    let data =
        reply[..length].strip_prefix(&[&question[..2], &reply[2..12], &question[12..]].concat()[..])?.get(12..)?;
    let is_ours = reply[2] & 0x04 != 0 && reply[7] == 1;
    match (kind, is_ours) {
        (A, true) => Some(<[u8; 4]>::try_from(data).ok()?.into()),
        (AAAA, true) => Some(<[u8; 16]>::try_from(data).ok()?.into()),
        _ => None,
    }
}
