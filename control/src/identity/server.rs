//! The certificate that the control channel shows where none is configured: made at the first start, kept as two PEM
//! files. It must not know what is served with it.

use super::ca::{CaError, params};
use crate::time::Clock;
use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use x509_parser::prelude::{FromDer, X509Certificate};

const CERT_FILE: &str = "server.crt";
const KEY_FILE: &str = "server.key";
const LIFETIME_MS: u64 = 3650 * 86_400_000;
/// A certificate that ends sooner is made anew at the next start.
const RENEWED_BEFORE_MS: u64 = 30 * 86_400_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMaterial {
    pub cert_pem: String,
    pub key_pem: String,
    /// What clients pass as CA file to verify this server.
    pub cert_path: PathBuf,
}

/// The pair in `data_dir`; made if there is none or it is about to end. Names: localhost, this host, its own loopback
/// addresses and `addresses`.
pub fn server_material(data_dir: &Path, addresses: &[IpAddr], clock: &Clock) -> Result<ServerMaterial, String> {
    let (cert_path, key_path) = (data_dir.join(CERT_FILE), data_dir.join(KEY_FILE));
    let now_ms = clock.now_ms();
    if let Some((cert_pem, key_pem)) = read(&cert_path, &key_path)? {
        let until = not_after_ms(&cert_pem).ok_or_else(|| {
            format!(
                "{} is no certificate in PEM: mend it, or remove it and {KEY_FILE} to get new ones",
                cert_path.display()
            )
        })?;
        if until > now_ms.saturating_add(RENEWED_BEFORE_MS) {
            return Ok(ServerMaterial { cert_pem, key_pem, cert_path });
        }
        tracing::warn!(path = %cert_path.display(), "the server certificate ends soon: a new one is made");
    }
    let (cert_pem, key_pem) = generate(addresses, now_ms).map_err(|e| e.to_string())?;
    let failed = |path: &Path, e: io::Error| format!("server certificate {}: {e}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|e| failed(data_dir, e))?;
    // The key first: a certificate without its key would be taken for a pair.
    write(&key_path, &key_pem, 0o600).map_err(|e| failed(&key_path, e))?;
    write(&cert_path, &cert_pem, 0o644).map_err(|e| failed(&cert_path, e))?;
    Ok(ServerMaterial { cert_pem, key_pem, cert_path })
}

fn generate(addresses: &[IpAddr], now_ms: u64) -> Result<(String, String), CaError> {
    let failed = |e: rcgen::Error| CaError::Failed(format!("server certificate: {e}"));
    let mut params = params(now_ms, now_ms.saturating_add(LIFETIME_MS))?;
    params.distinguished_name.push(DnType::CommonName, "weir control plane");
    let names = ["localhost".to_string()].into_iter().chain(hostname().filter(|h| h != "localhost"));
    params.subject_alt_names = names.filter_map(|n| n.try_into().ok().map(SanType::DnsName)).collect();
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    ips.extend(addresses.iter().filter(|a| !a.is_loopback() && !a.is_unspecified()));
    params.subject_alt_names.extend(ips.into_iter().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim().to_ascii_lowercase();
    let legal = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
    (!name.is_empty() && legal).then_some(name)
}

fn read(cert: &Path, key: &Path) -> Result<Option<(String, String)>, String> {
    match (fs::read_to_string(cert), fs::read_to_string(key)) {
        (Ok(cert), Ok(key)) => Ok(Some((cert, key))),
        (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        (Err(e), _) => Err(format!("server certificate {}: {e}", cert.display())),
        (_, Err(e)) => Err(format!("server key {}: {e}", key.display())),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn not_after_ms(pem: &str) -> Option<u64> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    u64::try_from(cert.validity().not_after.timestamp()).ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    #[test]
    fn server_certificate_is_kept_private_and_renewed_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (clock, now) = Clock::manual(1_800_000_000_000);
        let first = server_material(&data, &[], &clock).unwrap();
        assert_eq!(server_material(&data, &[], &clock).unwrap(), first);
        let mode = fs::metadata(data.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        now.fetch_add(LIFETIME_MS - RENEWED_BEFORE_MS, Ordering::Relaxed);
        assert_ne!(server_material(&data, &[], &clock).unwrap(), first);
        fs::write(data.join(CERT_FILE), "nonsense").unwrap();
        assert!(server_material(&data, &[], &clock).unwrap_err().contains("server.crt"));
    }

    #[test]
    fn server_certificate_is_its_own_trust_anchor_for_every_given_address() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::from_fn(|| 1_800_000_000_000);
        let made = server_material(dir.path(), &["192.0.2.7".parse().unwrap()], &clock).unwrap();
        let der = CertificateDer::from_pem_slice(made.cert_pem.as_bytes()).unwrap();
        let anchor = webpki::anchor_from_trusted_cert(&der).unwrap();
        let cert = webpki::EndEntityCert::try_from(&der).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(clock.now_ms()));
        let usage = webpki::KeyUsage::server_auth();
        cert.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], now, usage, None, None).unwrap();
        for name in ["localhost", "127.0.0.1", "::1", "192.0.2.7"] {
            cert.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
        }
    }
}
