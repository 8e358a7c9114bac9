//! A name and the way behind it appear together: whoever resolves a name can connect to it, however early.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{HttpServer, Process};

use crate::client::{Connection, dns};
use crate::ground::{Ground, Mesh};

const NAMES: usize = 60;
const HAMMERS: usize = 3;
const PORT: u16 = 9000;

const CLIENT: &str = "
type: Dataplane
mesh: default
name: client
networking:
  address: NET.1
  inbound: [{port: 8000, serviceAddress: NET.11, tags: {kuma.io/service: client}}]
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
";

/// A resolver that knows nothing, at once.
fn nobody_knows(at: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind(at).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut bytes) {
            (bytes[2], bytes[3]) = (0x81, 0x83);
            let _ = socket.send_to(&bytes[..length], client);
        }
    });
    address
}

#[test]
fn a_name_never_resolves_before_there_is_a_way_to_it() {
    let ground = Ground::new();
    HttpServer::start(ground.at(11, PORT), |_, _| "here".to_owned());
    let file = ground.write("mesh.yaml", CLIENT);
    let mut command = ground.up_command(&file, &["--interception", "bind", "--as", "client"]);
    command.env("WEIR_DNS_SERVER_UPSTREAMS", nobody_knows(ground.at(53, 0)).to_string());
    let mesh = Mesh::ready(Process::start("up", command));
    let server = mesh.dns.unwrap();
    assert_eq!(dns(server, "outside.example", 1).code, 3, "the control plane's upstream answers");
    let tried = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..NAMES {
            let hammer = move || {
                loop {
                    tried.fetch_add(1, Ordering::Relaxed);
                    let answer = dns(server, &format!("late-{n}.mesh"), 1);
                    let Some((_, ip)) = answer.records.first() else { continue };
                    let address = SocketAddr::new(*ip, PORT);
                    let mut connection =
                        Connection::open(address).unwrap_or_else(|e| panic!("late-{n} at {address}: {e}"));
                    return connection.get("late", "/").unwrap().body;
                }
            };
            let hammers: Vec<_> = (0..HAMMERS).map(|_| scope.spawn(hammer)).collect();
            let resource = format!(
                r#"{{"type": "ExternalService", "mesh": "default", "name": "late-{n}",
                "tags": {{"kuma.io/service": "late-{n}", "kuma.io/protocol": "http"}},
                "networking": {{"address": "{}"}}}}"#,
                ground.at(11, PORT)
            );
            let (status, body) = mesh.put(&format!("/meshes/default/external-services/late-{n}"), &resource);
            assert!(status < 300, "{status} {body}");
            for hammer in hammers {
                assert_eq!(hammer.join().unwrap(), "here", "late-{n}");
            }
        }
    });
    assert!(tried.load(Ordering::Relaxed) > NAMES * HAMMERS, "they asked before it was there");
}
