//! The mTLS matrix: who is let in, and what is said of who isn't.

use super::*;
use crate::test_ca::{Ca, leaf};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn certified((chain_pem, key_pem): (String, String)) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    Arc::new(CertifiedKey::from_der(chain, key, &provider()).unwrap())
}

fn key(ca: &Ca, uris: &[&str]) -> Arc<CertifiedKey> {
    certified(leaf(ca, uris, |_| {}))
}

fn roots(mesh: &str, ca: &Ca) -> Arc<Roots> {
    Arc::new(Roots::parse(mesh, &ca.pem).unwrap())
}

fn server(key: Arc<CertifiedKey>, trust: &[(&str, &Ca)]) -> MeshServer {
    MeshServer::new(key, trust.iter().map(|(mesh, ca)| roots(mesh, ca)).collect()).unwrap()
}

fn client(key: Arc<CertifiedKey>, trust: (&str, &Ca), peer: &str) -> MeshClient {
    MeshClient::new(key, roots(trust.0, trust.1), vec![peer.to_owned()]).unwrap()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a1.backend.80.default.svc").unwrap()
}

/// What each side says of a handshake followed by one byte either way.
async fn shake(server: &MeshServer, client: &MeshClient) -> (Result<Vec<String>, String>, Result<(), String>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = async {
        let (mut stream, uris) = accept_mesh(server, far).await.map_err(|e| e.detail)?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        let _ = stream.read_u8().await;
        Ok(uris)
    };
    let dial = async {
        let mut stream = connect_mesh(client, name(), near).await?;
        stream.read_u8().await.map_err(|e| explain(&e))?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())
    };
    tokio::join!(serve, dial)
}

const WEB: &str = "spiffe://default/web";
const BACKEND: &str = "spiffe://default/backend";

#[tokio::test]
async fn peers_of_one_mesh_meet_and_the_server_learns_every_uri_of_the_client() {
    let ca = Ca::new();
    let server = server(key(&ca, &[BACKEND]), &[("default", &ca)]);
    let client = client(key(&ca, &[WEB, "kuma://version/v1"]), ("default", &ca), BACKEND);
    let (served, dialled) = shake(&server, &client).await;
    dialled.unwrap();
    assert_eq!(served.unwrap(), [WEB, "kuma://version/v1"]);
}

#[tokio::test]
async fn the_client_refuses_a_server_that_is_not_the_one_it_means() {
    let (ca, other) = (Ca::new(), Ca::new());
    // (what the server shows, what the client's log says)
    let table = [
        (
            key(&ca, &["spiffe://default/impostor"]),
            "peer identity spiffe://default/impostor isn't one of [spiffe://default/backend]",
        ),
        (key(&other, &[BACKEND]), "isn't signed by a CA of mesh default"),
        (key(&ca, &["spiffe://default-2/backend"]), "isn't of mesh default"),
        (key(&ca, &[]), "peer identity (none) isn't of mesh default"),
        (key(&ca, &[BACKEND, "spiffe://other/backend"]), "but also names spiffe://other/backend"),
        (certified(leaf(&ca, &[BACKEND], |p| p.not_after = rcgen::date_time_ymd(2020, 1, 2))), "expired"),
        (certified(leaf(&ca, &[BACKEND], |p| p.not_before = rcgen::date_time_ymd(2999, 1, 1))), "becomes valid in"),
        (
            certified(leaf(&ca, &[BACKEND], |p| {
                p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            })),
            "extended key usage",
        ),
    ];
    for (shown, expected) in table {
        let server = server(shown, &[("default", &ca)]);
        let client = client(key(&ca, &[WEB]), ("default", &ca), BACKEND);
        let (served, dialled) = shake(&server, &client).await;
        let problem = dialled.unwrap_err();
        assert!(problem.contains(expected), "{problem:?} should say {expected:?}");
        let told = served.unwrap_err();
        assert!(told.contains("alert CertificateUnknown"), "the wire says no more than that: {told}");
    }
}

#[tokio::test]
async fn the_server_refuses_clients_of_other_meshes() {
    let (ca, other) = (Ca::new(), Ca::new());
    let table = [
        (key(&other, &["spiffe://mesh-1/web"]), "isn't signed by a CA of mesh mesh-1"),
        (key(&ca, &["spiffe://mesh-10/web"]), "peer identity spiffe://mesh-10/web isn't of mesh mesh-1"),
        (key(&ca, &["spiffe://mesh-1"]), "isn't of mesh mesh-1"),
        (key(&ca, &["spiffe://mesh-1/"]), "isn't of mesh mesh-1"),
        (key(&ca, &["kuma://kuma.io/service/web"]), "peer identity (none) isn't of mesh mesh-1"),
        (certified(leaf(&ca, &["spiffe://mesh-1/web"], |p| p.not_after = rcgen::date_time_ymd(2020, 1, 2))), "expired"),
        (
            certified(leaf(&ca, &["spiffe://mesh-1/web"], |p| {
                p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            })),
            "extended key usage",
        ),
    ];
    for (shown, expected) in table {
        let mesh_1 = server(key(&ca, &["spiffe://mesh-1/backend"]), &[("mesh-1", &ca)]);
        let client = client(shown, ("mesh-1", &ca), "spiffe://mesh-1/backend");
        let (served, dialled) = shake(&mesh_1, &client).await;
        let problem = served.unwrap_err();
        assert!(problem.contains(expected), "{problem:?} should say {expected:?}");
        assert!(dialled.unwrap_err().contains("alert"), "the client hears an alert");
    }
}

#[tokio::test]
async fn the_server_refuses_a_client_without_certificate() {
    let ca = Ca::new();
    let server = server(key(&ca, &[BACKEND]), &[("default", &ca)]);
    let bare = external_client(ExternalVerifier::new(&provider(), None, false), None, vec![ALPN_KUMA.to_vec()]);
    let (near, far) = tokio::io::duplex(1 << 16);
    let bare = bare.unwrap();
    let dial = async {
        let mut stream = connect(&bare, name(), near).await?;
        stream.read_u8().await.map(|_| ()).map_err(|e| explain(&e))
    };
    let (served, dialled) = tokio::join!(accept_mesh(&server, far), dial);
    assert!(served.unwrap_err().detail.contains("the peer shows no certificate"));
    assert!(dialled.unwrap_err().contains("alert"));
}

#[tokio::test]
async fn a_cross_mesh_server_binds_each_mesh_to_its_own_ca() {
    let (a, b) = (Ca::new(), Ca::new());
    let gateway = "spiffe://a/gateway";
    let server = server(key(&a, &[gateway]), &[("a", &a), ("b", &b)]);
    let of_b = client(key(&b, &["spiffe://b/web"]), ("a", &a), gateway);
    let (served, dialled) = shake(&server, &of_b).await;
    dialled.unwrap();
    assert_eq!(served.unwrap(), ["spiffe://b/web"]);
    let forged = client(key(&b, &["spiffe://a/web"]), ("a", &a), gateway);
    let (served, _) = shake(&server, &forged).await;
    let said = served.unwrap_err();
    assert!(said.contains("isn't signed by a CA of mesh a"), "{said}");
}

#[tokio::test]
async fn during_ca_rotation_both_cas_of_the_bundle_are_trusted() {
    let (old, new) = (Ca::new(), Ca::new());
    let both = Arc::new(Roots::parse("default", &format!("{}{}", old.pem, new.pem)).unwrap());
    for (ours, theirs) in [(&old, &new), (&new, &old)] {
        let server = MeshServer::new(key(theirs, &[BACKEND]), vec![Arc::clone(&both)]).unwrap();
        let client = MeshClient::new(key(ours, &[WEB]), Arc::clone(&both), vec![BACKEND.to_owned()]).unwrap();
        let (served, dialled) = shake(&server, &client).await;
        dialled.unwrap();
        served.unwrap();
    }
}

#[tokio::test]
async fn a_second_connection_resumes_and_still_shows_the_peer() {
    let ca = Ca::new();
    let server = server(key(&ca, &[BACKEND]), &[("default", &ca)]);
    let client = client(key(&ca, &[WEB]), ("default", &ca), BACKEND);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(1 << 16);
        let serve = async {
            let (mut stream, uris) = accept_mesh(&server, far).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            (stream.handshake_kind(), uris)
        };
        let dial = async { connect_mesh(&client, name(), near).await.unwrap().read_u8().await.unwrap() };
        let ((kind, uris), _) = tokio::join!(serve, dial);
        assert_eq!(uris, [WEB]);
        kinds.push(kind.unwrap());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn versions_and_alpn_are_those_of_the_mesh() {
    let ca = Ca::new();
    let server = server(key(&ca, &[BACKEND]), &[("default", &ca)]);
    let client = client(key(&ca, &[WEB]), ("default", &ca), BACKEND);
    for (versions, expected) in
        [(VERSIONS, rustls::ProtocolVersion::TLSv1_3), (&VERSIONS[1..], rustls::ProtocolVersion::TLSv1_2)]
    {
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let mut config = config
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&client.verifier) as _)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key(&ca, &[WEB]))));
        for alpn in [vec![], vec![ALPN_KUMA.to_vec()]] {
            config.alpn_protocols = alpn.clone();
            config.enable_secret_extraction = true;
            let config = Arc::new(config.clone());
            let (near, far) = tokio::io::duplex(1 << 16);
            let (served, dialled) = tokio::join!(accept_mesh(&server, far), connect(&config, name(), near));
            let (stream, _) = served.unwrap();
            dialled.unwrap();
            assert_eq!(stream.protocol_version(), expected);
            assert_eq!(stream.alpn(), alpn.first().map(Vec::as_slice));
        }
    }
}

#[tokio::test]
async fn external_services_are_verified_as_far_as_configured() {
    let (ca, other) = (Ca::new(), Ca::new());
    let shown = certified(leaf(&ca, &[], |p| {
        p.subject_alt_names.push(rcgen::SanType::DnsName("api.test".try_into().unwrap()));
    }));
    let resolver = Arc::new(SingleCertAndKey::from(shown));
    let server = gateway_server(resolver).unwrap();
    // (CA, name checked, name asked for, problem)
    let table = [
        (Some(&ca), true, "api.test", None),
        (Some(&ca), true, "other.test", Some("isn't valid for the name other.test")),
        (Some(&ca), false, "other.test", None),
        (Some(&other), true, "api.test", Some("isn't signed by the configured CA")),
        (Some(&other), false, "api.test", Some("isn't signed by the configured CA")),
        (None, true, "other.test", None),
    ];
    for (trusted, check_name, asked, problem) in table {
        let verifier = ExternalVerifier::new(&provider(), trusted.map(|ca| roots("", ca)), check_name);
        let config = external_client(verifier, None, vec![b"h2".to_vec()]).unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let asked = ServerName::try_from(asked).unwrap();
        let (_, dialled) = tokio::join!(accept(&server, far), connect(&config, asked, near));
        match (dialled, problem) {
            (Ok(stream), None) => assert_eq!(stream.alpn(), Some(&b"h2"[..])),
            (Err(said), Some(expected)) => assert!(said.contains(expected), "{said:?} should say {expected:?}"),
            (outcome, expected) => panic!("{:?} instead of {expected:?}", outcome.map(|_| ())),
        }
    }
}

#[tokio::test]
async fn a_silent_peer_is_cut_at_the_handshake_deadline() {
    let ca = Ca::new();
    let server = server(key(&ca, &[BACKEND]), &[("default", &ca)]);
    let (_silent, far) = tokio::io::duplex(64);
    let handshake = Handshake::server(Arc::clone(&server.config), far, &[]);
    assert_eq!(within(1, handshake).await.map(|_| ()).unwrap_err(), "not finished within 1 ms");
}
