//! What certificates carry, as a verifier sees it.
use super::*;
use rustls::pki_types::{ServerName, UnixTime};
use x509_parser::prelude::GeneralName;

const NOW_MS: u64 = 1_800_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);

fn ca() -> Ca {
    Ca::builtin("default", &CaMaterial::generate("default", DAY * 3650, NOW_MS).unwrap()).unwrap()
}

fn csr() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let mut asked = CertificateParams::new(vec!["evil.example".to_string()]).unwrap();
    asked.subject_alt_names.push(uri("spiffe://default/admin".into()).unwrap());
    asked.distinguished_name.push(DnType::CommonName, "admin");
    let csr = asked.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn leaf(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn uris(cert: &X509Certificate<'_>) -> Vec<String> {
    let names = cert.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(|n| match n {
            GeneralName::URI(uri) => uri.to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn issue(ca: &Ca) -> IssuedCert {
    let one = tags(&[("kuma.io/service", "web"), ("version", "v1")]);
    let two = tags(&[("kuma.io/service", "api"), ("version", "v1")]);
    let services = ["web".to_string(), "api".to_string(), "web".to_string()];
    ca.issue(&csr().1, Identity { services: &services, tags: &[&one, &two] }, DAY, NOW_MS).unwrap()
}

#[test]
fn builtin_ca_names_its_mesh() {
    let ca = ca();
    let der = leaf(ca.trust_pem());
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let subject = cert.subject().to_string();
    for part in ["CN=default", "O=weir", "OU=Mesh"] {
        assert!(subject.contains(part), "{subject}");
    }
    assert_eq!(uris(&cert), ["spiffe://default"]);
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(cert.is_ca() && usage.key_cert_sign() && usage.crl_sign() && !usage.key_agreement());
    assert_eq!(ca.not_after_ms(), NOW_MS + 3650 * 86_400_000);
}

#[test]
fn issued_certificate_has_the_mesh_names_and_nothing_the_csr_asked_for() {
    let issued = issue(&ca());
    let der = leaf(&issued.chain_pem);
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(
        uris(&cert),
        [
            "spiffe://default/api",
            "spiffe://default/web",
            "kuma://kuma.io/service/api",
            "kuma://kuma.io/service/web",
            "kuma://version/v1"
        ]
    );
    assert_eq!(cert.subject().to_string(), "");
    let eku = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.server_auth && eku.client_auth && !cert.is_ca());
    assert_eq!(cert.validity().not_before.timestamp() as u64 * 1000, NOW_MS - 10_000);
    assert_eq!(cert.validity().not_after.timestamp() as u64 * 1000, issued.not_after_ms);
    assert_eq!(issued.not_after_ms, NOW_MS + 86_400_000);
    assert_eq!(hex(cert.raw_serial()), issued.serial);
    assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 1);
}

#[test]
fn issued_certificate_verifies_against_the_ca() {
    let ca = ca();
    let issued = issue(&ca);
    let root = leaf(ca.trust_pem());
    let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
    let der = leaf(&issued.chain_pem);
    let cert = webpki::EndEntityCert::try_from(&der).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(NOW_MS));
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        cert.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &[],
            now,
            usage,
            None,
            None,
        )
        .unwrap();
    }
    let name = ServerName::try_from("evil.example").unwrap();
    assert!(cert.verify_is_valid_for_subject_name(&name).is_err());
}

#[test]
fn a_csr_in_pem_is_taken_and_a_forged_one_refused() {
    let ca = ca();
    let (_, mut der) = csr();
    let services = ["web".to_string()];
    let identity = Identity { services: &services, tags: &[] };
    let pem = super::super::keys::pem("CERTIFICATE REQUEST", &der);
    ca.issue(pem.as_bytes(), identity, DAY, NOW_MS).unwrap();
    // A letter of the subject changed: the signature no longer holds.
    let at = der.windows(5).position(|w| w == b"admin").unwrap();
    der[at] = b'b';
    for bad in [&der[..], b"", b"-----BEGIN", &[0x30; 20_000]] {
        assert!(matches!(ca.issue(bad, identity, DAY, NOW_MS), Err(CaError::Csr(_))));
    }
}

#[test]
fn identities_that_are_no_spiffe_path_are_refused() {
    let ca = ca();
    let (_, csr) = csr();
    for service in ["", "a b", "a//b", "..", "ü", "a?b"] {
        let services = [service.to_string()];
        let error = ca.issue(&csr, Identity { services: &services, tags: &[] }, DAY, NOW_MS).unwrap_err();
        assert!(matches!(error, CaError::Identity(_)), "{service}: {error}");
    }
    assert!(ca.issue(&csr, Identity { services: &[], tags: &[] }, DAY, NOW_MS).is_err());
    assert!(CaMaterial::generate("Bad Mesh", DAY, NOW_MS).is_err());
}

#[test]
fn a_leaf_never_outlives_its_ca_and_an_expired_ca_signs_nothing() {
    let ca = Ca::builtin("default", &CaMaterial::generate("default", DAY, NOW_MS).unwrap()).unwrap();
    let services = ["web".to_string()];
    let identity = Identity { services: &services, tags: &[] };
    let (_, csr) = csr();
    assert_eq!(ca.issue(&csr, identity, DAY * 30, NOW_MS).unwrap().not_after_ms, ca.not_after_ms());
    let error = ca.issue(&csr, identity, DAY, NOW_MS + 2 * 86_400_000).unwrap_err();
    assert_eq!(error, CaError::Expired { mesh: "default".into() });
}

#[test]
fn provided_material_is_checked_and_its_chain_sent_along() {
    let good = CaMaterial::generate("default", DAY, NOW_MS).unwrap();
    let ca = Ca::provided("default", &good).unwrap();
    let services = ["web".to_string()];
    let issued = ca.issue(&csr().1, Identity { services: &services, tags: &[] }, DAY, NOW_MS).unwrap();
    assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);

    let other = CaMaterial::generate("default", DAY, NOW_MS).unwrap();
    let mixed = CaMaterial { key_pem: other.key_pem, ..good.clone() };
    let error = Ca::provided("default", &mixed).unwrap_err().to_string();
    assert!(error.contains("conf.key: private key does not match"), "{error}");

    let key = KeyPair::generate().unwrap();
    let mut plain = params(NOW_MS, NOW_MS + 1000).unwrap();
    plain.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let plain = CaMaterial { cert_pem: plain.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() };
    let Err(CaError::Material { problems, .. }) = Ca::provided("default", &plain) else { panic!() };
    assert_eq!(problems.len(), 3, "{problems:?}");

    for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "text"] {
        let material = CaMaterial { cert_pem: broken.into(), ..good.clone() };
        assert!(matches!(Ca::provided("default", &material), Err(CaError::Material { .. })), "{broken}");
    }
}

#[test]
fn an_rsa_ca_signs_too() {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut root = params(NOW_MS, NOW_MS + 86_400_000).unwrap();
    root.distinguished_name.push(DnType::CommonName, "corporate");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let material = CaMaterial { cert_pem: root.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() };
    let ca = Ca::provided("default", &material).unwrap();
    issue(&ca);
}
