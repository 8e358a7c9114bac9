//! Keys, certificates and ready configurations: what is kept, replaced and refused.

use super::*;
use crate::test_ca::{Ca, leaf};
use crate::tls::{accept, accept_mesh, connect, connect_mesh};
use rustls::pki_types::ServerName as Sni;
use snapshot::HostPattern;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOW_MS: u64 = 1_000_000;
const DAY_MS: u64 = 86_400_000;

fn bundle(mesh: &str, ca: &Ca) -> Bundle {
    Bundle { mesh: mesh.to_owned(), ca_pem: ca.pem.clone() }
}

fn certificate(mesh: &str, chain_pem: String) -> IdentityMaterial {
    IdentityMaterial { mesh: mesh.to_owned(), chain_pem, not_after_ms: NOW_MS + DAY_MS }
}

/// A proxy of `service` in mesh `default` that went through the CSR.
fn proxy(ca: &Ca, service: &str) -> Identities {
    let ids = Identities::new();
    let csr = ids.csr("default", &[service.to_owned()]).unwrap();
    let chain = ca.sign(&csr, &[&spiffe_id("default", service)]);
    let identities = vec![certificate("default", chain)];
    let problems = ids.install(Material { identities, bundles: vec![bundle("default", ca)], secrets: vec![] }, NOW_MS);
    assert_eq!(problems, Vec::<String>::new());
    ids
}

async fn meet(server: &Identities, client: &Identities) -> Result<Vec<String>, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = server.server("default")?;
    let client = client.client("default", "default", &[spiffe_id("default", "backend")])?;
    let serve = async {
        let (mut stream, uris) = accept_mesh(&server, far).await.map_err(|e| e.detail)?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        Ok::<_, String>(uris)
    };
    let dial = async {
        let mut stream = connect_mesh(&client, Sni::try_from("a.backend.svc").unwrap(), near).await?;
        stream.read_u8().await.map_err(|e| e.to_string())
    };
    let (uris, byte) = tokio::join!(serve, dial);
    byte?;
    uris
}

#[tokio::test]
async fn proxies_whose_csrs_were_signed_meet() {
    let ca = Ca::new();
    let uris = meet(&proxy(&ca, "backend"), &proxy(&ca, "web")).await.unwrap();
    assert_eq!(uris, ["spiffe://default/web"]);
}

#[test]
fn a_repeated_request_is_for_the_same_key_and_a_renewal_for_a_new_one() {
    let ca = Ca::new();
    let ids = Identities::new();
    let services = ["web".to_owned()];
    let public = |pem: &str| {
        let csr = rcgen::CertificateSigningRequestParams::from_pem(pem).unwrap();
        rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec()
    };
    let first = ids.csr("default", &services).unwrap();
    assert_eq!(public(&first), public(&ids.csr("default", &services).unwrap()));
    let chain = ca.sign(&first, &["spiffe://default/web"]);
    let bundles = vec![bundle("default", &ca)];
    let material = Material { identities: vec![certificate("default", chain)], bundles, secrets: vec![] };
    assert_eq!(ids.install(material.clone(), NOW_MS), Vec::<String>::new());
    assert_ne!(public(&first), public(&ids.csr("default", &services).unwrap()));
    // While the renewal is asked for, the old certificate may come again.
    assert_eq!(ids.install(material, NOW_MS), Vec::<String>::new());
    assert_eq!(ids.meshes(), ["default"]);
}

#[test]
fn a_certificate_is_due_after_four_fifths_of_its_life() {
    let ids = proxy(&Ca::new(), "web");
    assert_eq!(ids.due(NOW_MS + DAY_MS / 5 * 4 - 1), Vec::<String>::new());
    assert_eq!(ids.due(NOW_MS + DAY_MS / 5 * 4), ["default"]);
}

#[test]
fn a_wrong_piece_stops_only_itself() {
    let ca = Ca::new();
    let ids = proxy(&ca, "web");
    ids.csr("other", &["zone-egress".to_owned()]).unwrap();
    let (strangers_chain, strangers_key) = leaf(&ca, &["spiffe://other/zone-egress"], |_| {});
    let (good_chain, good_key) = leaf(&ca, &[], |_| {});
    let secret = |name: &str, cert_pem: &str, key_pem: &str| SecretMaterial {
        name: name.to_owned(),
        cert_pem: cert_pem.to_owned(),
        key_pem: key_pem.to_owned(),
    };
    let material = Material {
        identities: vec![certificate("other", strangers_chain), certificate("unasked", String::new())],
        bundles: vec![
            bundle("default", &ca),
            bundle("other", &ca),
            Bundle { mesh: "broken".to_owned(), ca_pem: "no PEM".to_owned() },
        ],
        secrets: vec![secret("good", &good_chain, &good_key), secret("mixed", &good_chain, &strangers_key)],
    };
    let problems = ids.install(material, NOW_MS).join("\n");
    for words in [
        "the new certificate of mesh other is of no use: certificate and private key don't belong together",
        "a certificate of mesh unasked came, but no key was made for it",
        "mesh broken: the CA bundle can't be used: no certificate in it",
        "secret mixed: certificate and private key don't belong together",
    ] {
        assert!(problems.contains(words), "{problems}\nshould say\n{words}");
    }
    assert!(ids.server("default").is_ok());
    assert!(ids.server("other").unwrap_err().contains("no certificate of mesh other"));
    let name = |secret: &str| ServerName { host: HostPattern::Any, secret: secret.to_owned() };
    assert!(ids.gateway(&[name("good"), name("mixed")]).is_ok());
    assert!(ids.gateway(&[name("mixed")]).unwrap_err().contains("[mixed]"));
}

#[test]
fn an_identity_lives_as_long_as_its_bundle_is_sent() {
    let ca = Ca::new();
    let ids = proxy(&ca, "web");
    ids.install(Material { bundles: vec![bundle("default", &ca)], ..Material::default() }, NOW_MS);
    assert!(ids.server("default").is_ok());
    ids.install(Material::default(), NOW_MS);
    assert!(ids.server("default").is_err());
}

#[test]
fn configurations_are_made_once_whatever_the_order_of_peers() {
    let ids = proxy(&Ca::new(), "web");
    let peers = ["spiffe://default/a".to_owned(), "spiffe://default/b".to_owned()];
    let mut reversed = peers.clone();
    reversed.reverse();
    let one = ids.client("default", "default", &peers).unwrap();
    assert!(Arc::ptr_eq(&one, &ids.client("default", "default", &reversed).unwrap()));
    assert!(!Arc::ptr_eq(&one, &ids.client("default", "default", &peers[..1]).unwrap()));
}

#[tokio::test]
async fn a_restarted_proxy_serves_with_what_it_saved_for_its_eyes_only() {
    let ca = Ca::new();
    let (before, client) = (proxy(&ca, "backend"), proxy(&ca, "web"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.json");
    before.export(&path).unwrap();
    before.export(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let after = Identities::new();
    assert_eq!(after.import(&path).unwrap(), Vec::<String>::new());
    assert_eq!(after.not_after_ms("default"), Some(NOW_MS + DAY_MS));
    assert_eq!(after.due(NOW_MS + DAY_MS / 5 * 4), ["default"]);
    meet(&after, &client).await.unwrap();
}

#[test]
fn a_damaged_file_is_an_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.json");
    std::fs::write(&path, b"{\"identities\":[").unwrap();
    let ids = proxy(&Ca::new(), "web");
    assert!(ids.import(&path).is_err());
    assert!(ids.server("default").is_ok());
}

#[test]
fn keys_are_not_printed() {
    let ids = proxy(&Ca::new(), "web");
    let secret = SecretMaterial { name: "s".to_owned(), cert_pem: String::new(), key_pem: "PRIVATE".to_owned() };
    assert_eq!(format!("{ids:?} {secret:?}"), "Identities([\"default\"]) SecretMaterial(s)");
}

#[tokio::test]
async fn a_gateway_shows_the_certificate_of_the_most_specific_host() {
    let ca = Ca::new();
    let ids = Identities::new();
    let hosts = [("any", "*"), ("wild", "*.example.com"), ("exact", "api.example.com")];
    let secrets = hosts.map(|(name, _)| {
        let (cert_pem, key_pem) = leaf(&ca, &[&format!("test://{name}")], |_| {});
        SecretMaterial { name: name.to_owned(), cert_pem, key_pem }
    });
    ids.install(Material { secrets: secrets.to_vec(), ..Material::default() }, NOW_MS);
    let names = hosts.map(|(name, host)| ServerName { host: HostPattern::parse(host), secret: name.to_owned() });
    let asked = [("api.example.com", "any,wild,exact", "exact"), ("b.example.com", "any,wild,exact", "wild")];
    let asked = asked.into_iter().chain([("other.test", "any,wild", "any"), ("127.0.0.1", "wild,any", "any")]);
    let client = ids.external(&Client::default(), Protocol::Tcp).unwrap();
    for (sni, configured, expected) in asked {
        let names: Vec<_> = names.iter().filter(|name| configured.contains(&name.secret)).cloned().collect();
        let server = ids.gateway(&names).unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let sni = Sni::try_from(sni).unwrap();
        let (served, dialled) = tokio::join!(accept(&server, far), connect(&client, sni, near));
        served.unwrap();
        let dialled = dialled.unwrap();
        assert_eq!(crate::tls::uris_of(dialled.peer_certificate().unwrap()), [format!("test://{expected}")]);
    }
    let server = ids.gateway(&names[1..2]).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let unknown = connect(&client, Sni::try_from("other.test").unwrap(), near);
    let (served, dialled) = tokio::join!(accept(&server, far), unknown);
    assert!(served.is_err() && dialled.is_err());
}

#[test]
fn an_external_client_certificate_that_is_missing_is_named() {
    let client = Client { secret: "es-client".to_owned(), ..Client::default() };
    let problem = Identities::new().external(&client, Protocol::Http).unwrap_err();
    assert_eq!(problem, "the client certificate es-client isn't at hand");
}
