//! A mesh's certificate authority: made here (`builtin`) or given (`provided`), and the workload certificates it
//! signs from CSRs. It must not know where the material is kept nor which proxy asks.

use super::keys::{hex, random_bytes};
use crate::resource::Tags;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use snapshot::spiffe_id;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate signing request, DER or PEM.
const CSR_BYTES_MAX: usize = 16 << 10;
/// An RSA modulus in a CSR (bits).
const RSA_BITS_MIN: usize = 2048;
/// Certificates in a provided chain.
const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Clocks differ: certificates are valid from this long before now.
const BACKDATED_MS: u64 = 10_000;
/// The last moment X.509 dates of four-digit years hold: 9999-12-31T23:59:59Z.
const LAST_MOMENT_MS: u64 = 253_402_300_799_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaError {
    /// The material of a CA isn't fit: the field below the backend (`conf.cert[0]`, `conf.key`) and why.
    Material {
        mesh: String,
        problems: Vec<(String, String)>,
    },
    Csr(String),
    /// A service or tag that can't stand in a certificate.
    Identity(String),
    Expired {
        mesh: String,
    },
    Failed(String),
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Material { mesh, problems } => {
                write!(f, "CA of mesh {mesh}: ")?;
                let list: Vec<String> = problems.iter().map(|(field, why)| format!("{field}: {why}")).collect();
                write!(f, "{}", list.join("; "))
            }
            Self::Csr(why) => write!(f, "certificate signing request: {why}"),
            Self::Identity(why) => write!(f, "no certificate for this identity: {why}"),
            Self::Expired { mesh } => {
                write!(f, "CA of mesh {mesh} has expired: give mTLS of the mesh a new backend or new material")
            }
            Self::Failed(why) => write!(f, "certificate not made: {why}"),
        }
    }
}

impl std::error::Error for CaError {}

/// What is kept: both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaMaterial {
    pub cert_pem: String,
    pub key_pem: String,
}

impl CaMaterial {
    /// A new self-signed CA for a mesh (ECDSA P-256).
    pub fn generate(mesh: &str, lifetime: Duration, now_ms: u64) -> Result<Self, CaError> {
        let failed = |e: rcgen::Error| CaError::Failed(format!("CA of mesh {mesh}: {e}"));
        legal_trust_domain(mesh)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(now_ms, now_ms.saturating_add(lifetime.as_millis() as u64))?;
        params.distinguished_name.push(DnType::CommonName, mesh);
        params.distinguished_name.push(DnType::OrganizationName, "weir");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Mesh");
        params.subject_alt_names = vec![uri(format!("spiffe://{mesh}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(failed)?;
        Ok(Self { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Every `kuma.io/service` of the proxy; `zone-egress` for an egress.
    pub services: &'a [String],
    /// The tags of every inbound, and of the gateway.
    pub tags: &'a [&'a Tags],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCert {
    /// The leaf first.
    pub chain_pem: String,
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// Hexadecimal.
    pub serial: String,
}

/// A CA ready to sign.
pub struct Ca {
    mesh: String,
    issuer: Issuer<'static, KeyPair>,
    trust_pem: String,
    /// Sent after each leaf.
    chain_pem: String,
    not_after_ms: u64,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({}, until {})", self.mesh, self.not_after_ms)
    }
}

impl Ca {
    /// From material that `CaMaterial::generate` made: leaves are sent alone.
    pub fn builtin(mesh: &str, material: &CaMaterial) -> Result<Self, CaError> {
        Self::load(mesh, material).map(|ca| Self { chain_pem: String::new(), ..ca })
    }

    /// From a user's material, checked; leaves are sent with the given certificates, in their order.
    pub fn provided(mesh: &str, material: &CaMaterial) -> Result<Self, CaError> {
        Self::load(mesh, material)
    }

    /// What proxies trust, PEM.
    pub fn trust_pem(&self) -> &str {
        &self.trust_pem
    }

    pub fn mesh(&self) -> &str {
        &self.mesh
    }

    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    fn load(mesh: &str, material: &CaMaterial) -> Result<Self, CaError> {
        let refuse = |field: &str, why: String| CaError::Material {
            mesh: mesh.to_string(),
            problems: vec![(field.to_string(), why)],
        };
        legal_trust_domain(mesh)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(material.cert_pem.as_bytes())
            .take(CHAIN_CERTIFICATES_MAX + 1)
            .collect::<Result<_, _>>()
            .map_err(|e| refuse("conf.cert", format!("not PEM: {e:?}")))?;
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(refuse("conf.cert", format!("more than {CHAIN_CERTIFICATES_MAX} certificates")));
        }
        let first = chain.first().ok_or_else(|| refuse("conf.cert", "has no certificate in PEM".into()))?;
        let key = KeyPair::from_pem(&material.key_pem)
            .map_err(|e| refuse("conf.key", format!("not a private key in PEM: {e}")))?;
        let (_, cert) = X509Certificate::from_der(first)
            .map_err(|e| refuse("conf.cert[0]", format!("not an X.509 certificate: {e}")))?;
        let problems = unfit(&cert, &key);
        if !problems.is_empty() {
            return Err(CaError::Material { mesh: mesh.to_string(), problems });
        }
        let not_after_ms = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0).saturating_mul(1000);
        let trust_pem: String = chain.iter().map(|c| super::keys::pem("CERTIFICATE", c)).collect();
        let issuer =
            Issuer::from_ca_cert_der(first, key).map_err(|e| refuse("conf.cert[0]", format!("can't sign: {e}")))?;
        Ok(Self { mesh: mesh.to_string(), issuer, chain_pem: trust_pem.clone(), trust_pem, not_after_ms })
    }

    /// Sign the key of a CSR (DER or PEM) for `identity`. Names and extensions that the CSR asks for have no effect.
    pub fn issue(
        &self,
        csr: &[u8],
        identity: Identity<'_>,
        lifetime: Duration,
        now_ms: u64,
    ) -> Result<IssuedCert, CaError> {
        if now_ms >= self.not_after_ms {
            return Err(CaError::Expired { mesh: self.mesh.clone() });
        }
        let request = read_csr(csr)?;
        let not_after_ms = now_ms.saturating_add(lifetime.as_millis() as u64).min(self.not_after_ms);
        let mut params = params(now_ms, not_after_ms)?;
        params.subject_alt_names = self.names(identity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(|s| hex(s.as_ref())).unwrap_or_default();
        let leaf = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(|e| CaError::Failed(format!("mesh {}: {e}", self.mesh)))?;
        Ok(IssuedCert {
            chain_pem: leaf.pem() + &self.chain_pem,
            not_before_ms: now_ms.saturating_sub(BACKDATED_MS),
            not_after_ms,
            serial,
        })
    }

    /// The SPIFFE ids of the services, sorted, then every tag (spec/zones.md §11.1).
    fn names(&self, identity: Identity<'_>) -> Result<Vec<SanType>, CaError> {
        let services: BTreeSet<&str> = identity.services.iter().map(String::as_str).collect();
        if services.is_empty() {
            return Err(CaError::Identity("it has no service".into()));
        }
        let mut names = Vec::new();
        for service in services {
            if !service.split('/').all(legal_segment) {
                return Err(CaError::Identity(format!(
                    "service {service:?} is no SPIFFE path (letters, digits, . - _)"
                )));
            }
            names.push(uri(spiffe_id(&self.mesh, service))?);
        }
        let tags: BTreeSet<(&str, &str)> =
            identity.tags.iter().flat_map(|t| t.iter()).map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for (tag, value) in tags {
            let in_uri = |c: u8| c.is_ascii_alphanumeric() || b"-._~:/@!$&'()*+,;=%".contains(&c);
            if !tag.bytes().chain(value.bytes()).all(in_uri) {
                return Err(CaError::Identity(format!("tag {tag}={value} can't stand in a URI")));
            }
            names.push(uri(format!("kuma://{tag}/{value}"))?);
        }
        Ok(names)
    }
}

fn unfit(cert: &X509Certificate<'_>, key: &KeyPair) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, why: &str| problems.push((field.to_string(), why.to_string()));
    if !matches!(cert.basic_constraints(), Ok(Some(b)) if b.value.ca) {
        refuse("conf.cert[0]", "basic constraint 'CA' must be set to 'true'");
    }
    match cert.key_usage() {
        Ok(Some(usage)) => {
            if !usage.value.key_cert_sign() {
                refuse("conf.cert[0]", "key usage extension 'keyCertSign' must be set");
            }
            if usage.value.key_agreement() {
                refuse("conf.cert[0]", "key usage extension 'keyAgreement' must NOT be set");
            }
        }
        _ => refuse("conf.cert[0]", "key usage extension 'keyCertSign' must be set"),
    }
    if cert.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        refuse("conf.key", "private key does not match the certificate");
    }
    problems
}

fn read_csr(csr: &[u8]) -> Result<CertificateSigningRequestParams, CaError> {
    if csr.len() > CSR_BYTES_MAX {
        return Err(CaError::Csr(format!("has {} bytes, at most {CSR_BYTES_MAX}", csr.len())));
    }
    let der = match csr.starts_with(b"-----") {
        true => {
            CertificateSigningRequestDer::from_pem_slice(csr).map_err(|e| CaError::Csr(format!("not PEM: {e:?}")))?
        }
        false => CertificateSigningRequestDer::from(csr),
    };
    let request = CertificateSigningRequestParams::from_der(&der).map_err(|e| CaError::Csr(e.to_string()))?;
    let is_rsa = format!("{:?}", request.public_key.algorithm()).contains("RSA");
    if is_rsa && request.public_key.der_bytes().len() * 8 < RSA_BITS_MIN {
        return Err(CaError::Csr(format!("RSA keys need {RSA_BITS_MIN} bits")));
    }
    Ok(request)
}

/// Empty subject, random serial, validity; the rest is the caller's.
pub(super) fn params(now_ms: u64, not_after_ms: u64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + whole_seconds(now_ms.saturating_sub(BACKDATED_MS));
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + whole_seconds(not_after_ms);
    let mut serial: [u8; 16] = random_bytes().map_err(CaError::Failed)?;
    // A serial is a positive integer (RFC 5280 §4.1.2.2).
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn whole_seconds(ms: u64) -> Duration {
    Duration::from_secs(ms.min(LAST_MOMENT_MS) / 1000)
}

fn uri(text: String) -> Result<SanType, CaError> {
    let shown = text.clone();
    text.try_into().map(SanType::URI).map_err(|_| CaError::Identity(format!("{shown:?} is not ASCII")))
}

fn legal_trust_domain(mesh: &str) -> Result<(), CaError> {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
    match !mesh.is_empty() && mesh.bytes().all(legal) {
        true => Ok(()),
        false => Err(CaError::Identity(format!("mesh {mesh:?} is no SPIFFE trust domain (a-z, 0-9, . - _)"))),
    }
}

fn legal_segment(segment: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(legal)
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
