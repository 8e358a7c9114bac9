//! Failover between endpoints over loopback.

use super::*;
use crate::identity::{Bundle, IdentityMaterial, Material};
use crate::socket::ConnectOptions;
use crate::test_ca::Ca;
use snapshot::{Balance, Origin, Protocol, spiffe_id};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn endpoint(address: Address, port: u16, priority: u8) -> Endpoint {
    let origin = Origin::new("Dataplane", "default", &format!("dp-{port}"));
    Endpoint { address, port, weight: 1, priority, zone: String::new(), origin }
}

fn local(port: u16) -> Endpoint {
    endpoint(Address::Ip(Ipv4Addr::LOCALHOST.into()), port, 0)
}

fn service(endpoints: Vec<Endpoint>, tls: UpstreamTls) -> ServiceRow {
    ServiceRow {
        name: "backend".to_owned(),
        service: "backend".to_owned(),
        mesh: "default".to_owned(),
        protocol: Protocol::Tcp,
        tls,
        balance: Balance::RoundRobin,
        connect_timeout_ms: 5_000,
        idle_timeout_ms: 0,
        hint: String::new(),
        endpoints: Arc::new(endpoints),
        origin: Origin::new("default", "", ""),
    }
}

async fn listening() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port that refuses: held by a socket that doesn't listen.
fn refusing() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn upstreams() -> Upstreams {
    Upstreams::new(ConnectOptions::default(), 1)
}

#[tokio::test]
async fn a_refusing_endpoint_is_passed_over_now_and_for_a_while() {
    let ((_live, up), (_dead, down)) = (listening().await, refusing());
    let service = service(vec![local(down), local(up)], UpstreamTls::None);
    let upstreams = upstreams();
    for _ in 0..4 {
        let connected = upstreams.connect(None, &service, &Identities::new(), &[]).await.unwrap();
        assert_eq!(connected.address.port(), up);
        assert_eq!(connected.picked.endpoint().unwrap().origin.name, format!("dp-{up}"));
    }
    // Had it not been ejected, every second pick would be the dead one.
    let picks: Vec<_> = (0..4).map(|_| upstreams.pick(&service, &[]).unwrap().index).collect();
    assert_eq!(picks, [1; 4]);
}

#[tokio::test]
async fn a_lower_priority_takes_over_when_the_first_fails() {
    let ((_live, up), (_dead, down)) = (listening().await, refusing());
    let far = endpoint(Address::Ip(Ipv4Addr::LOCALHOST.into()), up, 1);
    let service = service(vec![local(down), far], UpstreamTls::None);
    assert_eq!(upstreams().connect(None, &service, &Identities::new(), &[]).await.unwrap().address.port(), up);
}

#[tokio::test]
async fn first_words_reach_the_endpoint_that_takes_the_connection_and_only_it() {
    let ((live, up), (_dead, down)) = (listening().await, refusing());
    let far = endpoint(Address::Ip(Ipv4Addr::LOCALHOST.into()), up, 1);
    let service = service(vec![local(down), far], UpstreamTls::None);
    let connected = upstreams().connect(None, &service, &Identities::new(), b"hello").await.unwrap();
    drop(connected.stream);
    let mut heard = Vec::new();
    live.accept().await.unwrap().0.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"hello"[..connected.sent]);
}

#[tokio::test]
async fn what_was_begun_at_an_endpoint_that_refuses_goes_on_at_another() {
    let ((live, up), (_dead, down)) = (listening().await, refusing());
    let far = endpoint(Address::Ip(Ipv4Addr::LOCALHOST.into()), up, 1);
    let service = service(vec![local(down), far], UpstreamTls::None);
    let upstreams = upstreams();
    for first in [&b"hello"[..], b""] {
        let Some(Err(dialled)) = upstreams.begin(&service, first) else { panic!("it refuses") };
        let connected = upstreams.connect(Some(dialled), &service, &Identities::new(), first).await.unwrap();
        assert_eq!((connected.address.port(), connected.picked.index), (up, 1));
        let _first = live.accept().await.unwrap();
        // Not ejected any more, or the second round would begin with the other one.
        upstreams.at(&service, 0).unwrap().report(true);
    }
}

#[tokio::test]
async fn a_connection_on_this_machine_is_there_at_once_with_its_first_words() {
    let (live, up) = listening().await;
    let service = service(vec![local(up)], UpstreamTls::None);
    for first in [&b"hello"[..], b""] {
        let Some(Ok(connected)) = upstreams().begin(&service, first) else { panic!("loopback takes no time") };
        drop(connected.stream);
        let mut heard = Vec::new();
        live.accept().await.unwrap().0.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, first[..connected.sent]);
    }
}

#[tokio::test]
async fn when_all_refuse_the_error_names_service_endpoints_and_causes() {
    let ((_one, a), (_two, b)) = (refusing(), refusing());
    let service = service(vec![local(a), local(b)], UpstreamTls::None);
    let upstreams = upstreams();
    for _ in 0..2 {
        let error = upstreams.connect(None, &service, &Identities::new(), &[]).await.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectFailed);
        for words in [
            "service backend of mesh default, 2 of 2 endpoints tried",
            &format!("127.0.0.1:{a} (Dataplane default/dp-{a})"),
            &format!("127.0.0.1:{b} (Dataplane default/dp-{b})"),
            "refused",
        ] {
            assert!(error.detail.contains(words), "{} should say {words}", error.detail);
        }
    }
}

#[tokio::test]
async fn a_service_without_endpoints_says_why() {
    let mut service = service(vec![], UpstreamTls::None);
    service.hint = "routing.zoneEgress is on and zone east has no ZoneEgress".to_owned();
    let error = upstreams().connect(None, &service, &Identities::new(), &[]).await.unwrap_err();
    assert_eq!(error.reason, Reason::NoEndpoint);
    assert!(error.detail.ends_with("has no endpoint: routing.zoneEgress is on and zone east has no ZoneEgress"));
}

#[tokio::test]
async fn a_name_is_resolved_and_kept_as_host() {
    let (_live, up) = listening().await;
    let named = endpoint(Address::Name("localhost".to_owned()), up, 0);
    let service = service(vec![named], UpstreamTls::None);
    let connected = upstreams().connect(None, &service, &Identities::new(), &[]).await.unwrap();
    assert_eq!(connected.picked.host(), Some("localhost"));
    assert!(connected.address.ip().is_loopback());
}

#[tokio::test]
async fn missing_material_is_our_fault_and_ejects_nobody() {
    let (_live, up) = listening().await;
    let service = service(vec![local(up)], mesh_tls(&["backend"]));
    let upstreams = upstreams();
    let error = upstreams.connect(None, &service, &Identities::new(), &[]).await.unwrap_err();
    assert!(error.detail.contains("no certificate of mesh default yet"), "{}", error.detail);
    let picked = upstreams.pick(&service, &[]).unwrap();
    assert_eq!(picked.health.get(), Health::default());
}

fn mesh_tls(peers: &[&str]) -> UpstreamTls {
    UpstreamTls::Mesh {
        identity_mesh: "default".to_owned(),
        mesh: "default".to_owned(),
        sni: "a1.backend.80.default.svc".to_owned(),
        peers: peers.iter().map(|peer| spiffe_id("default", peer)).collect(),
    }
}

fn identities(ca: &Ca, service: &str) -> Identities {
    let ids = Identities::new();
    let csr = ids.csr("default", &[service.to_owned()]).unwrap();
    let chain_pem = ca.sign(&csr, &[&spiffe_id("default", service)]);
    let identities = vec![IdentityMaterial { mesh: "default".to_owned(), chain_pem, not_after_ms: u64::MAX }];
    let bundles = vec![Bundle { mesh: "default".to_owned(), ca_pem: ca.pem.clone() }];
    assert!(ids.install(Material { identities, bundles, secrets: vec![] }, 0).is_empty());
    ids
}

/// Accepts one connection, says `service` to it, and tells who came.
async fn serve(listener: TcpListener, ids: Identities, service: &str) -> Result<Vec<String>, ConnError> {
    let (tcp, _) = listener.accept().await.unwrap();
    let server = ids.server("default").unwrap();
    let (mut stream, uris) = tls::accept_mesh_by(&server, &server.mux, tcp).await?;
    assert_eq!(stream.alpn(), Some(crate::mux::ALPN));
    let tunnel = crate::mux::Tunnel::new(false);
    let answer = async {
        let mut one = tunnel.accept().await.unwrap();
        one.write_all(service.as_bytes()).await.unwrap();
        one.shutdown().await.unwrap();
    };
    let (ended, ()) = tokio::join!(crate::mux::run(&mut stream, &tunnel), answer);
    assert_eq!(ended, Ok(()), "the client closes its tunnels in peace");
    Ok(uris)
}

#[tokio::test]
async fn a_peer_that_knows_no_tunnels_gets_a_connection_for_each_stream() {
    let ca = Ca::new();
    let (listener, port) = listening().await;
    let service = service(vec![local(port)], mesh_tls(&["backend"]));
    let (server, ids) = (identities(&ca, "backend"), identities(&ca, "web"));
    let upstreams = upstreams();
    for _ in 0..2 {
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let (mut stream, _) = tls::accept_mesh(&server.server("default").unwrap(), tcp).await.unwrap();
            stream.write_all(b"old").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let dial = async {
            let mut connected = upstreams.connect(None, &service, &ids, &[]).await.unwrap();
            let mut said = String::new();
            connected.stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "old");
        };
        tokio::join!(accept, dial);
    }
}

#[tokio::test]
async fn an_impostor_is_refused_and_the_next_endpoint_serves() {
    let ca = Ca::new();
    let ((bad, bad_port), (good, good_port)) = (listening().await, listening().await);
    let far = endpoint(Address::Ip(Ipv4Addr::LOCALHOST.into()), good_port, 1);
    let service = service(vec![local(bad_port), far], mesh_tls(&["backend"]));
    let ids = identities(&ca, "web");
    let dial = async {
        let mut connected = upstreams().connect(None, &service, &ids, &[]).await.unwrap();
        let mut said = String::new();
        connected.stream.read_to_string(&mut said).await.unwrap();
        said
    };
    let run = async {
        tokio::join!(
            serve(bad, identities(&ca, "impostor"), "impostor"),
            serve(good, identities(&ca, "backend"), "backend"),
            dial
        )
    };
    // Where tunnels have their tasks.
    let (refused, served, said) = tokio::task::LocalSet::new().run_until(run).await;
    assert_eq!(said, "backend");
    assert_eq!(served.unwrap(), ["spiffe://default/web"]);
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_refused_identity_is_explained_with_the_endpoint() {
    let ca = Ca::new();
    let (listener, port) = listening().await;
    let service = service(vec![local(port)], mesh_tls(&["backend"]));
    let ids = identities(&ca, "web");
    let upstreams = upstreams();
    let connect = upstreams.connect(None, &service, &ids, &[]);
    let (_, outcome) = tokio::join!(serve(listener, identities(&ca, "impostor"), "impostor"), connect);
    let error = outcome.unwrap_err();
    assert_eq!(error.reason, Reason::UpstreamTls);
    let expected = "peer identity spiffe://default/impostor isn't one of [spiffe://default/backend]";
    assert!(error.detail.contains(expected), "{}", error.detail);
    assert!(error.detail.contains(&format!("127.0.0.1:{port}")), "{}", error.detail);
}

#[tokio::test]
async fn what_the_snapshot_no_longer_has_is_forgotten() {
    let (_live, up) = listening().await;
    let service = service(vec![local(up)], UpstreamTls::None);
    let upstreams = upstreams();
    drop(upstreams.pick(&service, &[]));
    upstreams.prune(|name| name == "backend");
    assert_eq!(upstreams.services.borrow().len(), 1);
    upstreams.prune(|_| false);
    assert_eq!(upstreams.services.borrow().len(), 0);
}
