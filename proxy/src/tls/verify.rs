//! Who may be on the other side of a TLS connection: SPIFFE rules inside the mesh, DNS names for external services.
//! Owns the verifiers and their typed refusals; must not know keys, sockets, services or permissions.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};

/// URIs of a refused peer that its refusal quotes.
const QUOTED_URIS_MAX: usize = 8;

/// Why a peer's certificate isn't good enough. Goes to the log only: on the wire each is the same alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No parseable end-entity certificate.
    Malformed(String),
    /// The chain doesn't lead to a trusted root, or isn't valid now or for this use.
    Chain { peer: String, problem: String },
    /// No URI SAN of a mesh that is trusted here.
    OtherMesh { presented: Vec<String>, meshes: Vec<String> },
    /// An identity of a trusted mesh, and one of another mesh beside it.
    Foreign { uri: String, mesh: String },
    /// An identity of the right mesh, of a service that isn't meant.
    OtherPeer { presented: Vec<String>, peers: Vec<String> },
    /// An external service's certificate isn't for its name.
    OtherName { name: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(problem) => write!(f, "the peer's certificate can't be read: {problem}"),
            Self::Chain { peer, problem } => write!(f, "the certificate of {peer} {problem}"),
            Self::OtherMesh { presented, meshes } => {
                write!(f, "peer identity {} isn't of mesh {}", list(presented), list(meshes))
            }
            Self::Foreign { uri, mesh } => write!(f, "the peer's certificate is of mesh {mesh} but also names {uri}"),
            Self::OtherPeer { presented, peers } => {
                write!(f, "peer identity {} isn't one of [{}]", list(presented), list(peers))
            }
            Self::OtherName { name } => write!(f, "the server's certificate isn't valid for the name {name}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

fn list(words: &[String]) -> String {
    match words {
        [] => "(none)".to_owned(),
        words if words.len() > QUOTED_URIS_MAX => {
            let (head, rest) = words.split_at(QUOTED_URIS_MAX);
            format!("{}, and {} more", head.join(", "), rest.len())
        }
        words => words.join(", "),
    }
}

/// The roots of one mesh, or of an external service.
#[derive(Debug)]
pub struct Roots {
    pub mesh: String,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// All certificates of `pem`, so that two CAs overlap while they rotate. At least one must be usable.
    pub fn parse(mesh: &str, pem: &str) -> Result<Self, String> {
        let mut roots = Self { mesh: mesh.to_owned(), anchors: Vec::new() };
        let mut problem = "no certificate in it".to_owned();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            match der.map_err(|e| e.to_string()).and_then(|der| roots.add(&der)) {
                Ok(()) => {}
                Err(e) => problem = e,
            }
        }
        if roots.anchors.is_empty() { Err(format!("the CA bundle can't be used: {problem}")) } else { Ok(roots) }
    }

    /// The machine's own roots, for external services that say `system`.
    pub fn system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = Self { mesh: String::new(), anchors: Vec::new() };
        for der in &found.certs {
            // A machine's store may hold what webpki doesn't read; the rest still serves.
            let _ = roots.add(der);
        }
        if roots.anchors.is_empty() {
            return Err(format!("the system's CA store gives no usable certificate: {:?}", found.errors));
        }
        Ok(roots)
    }

    fn add(&mut self, der: &CertificateDer<'_>) -> Result<(), String> {
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|e| format!("{e:?}"))?;
        self.anchors.push(anchor.to_owned());
        Ok(())
    }
}

/// Whom a verifier admits once the chain is good.
#[derive(Debug)]
enum Expect {
    /// Any identity of the mesh whose roots signed it.
    Mesh,
    /// One of these URI SANs, exactly.
    Peers(Vec<String>),
}

/// Verifies mesh peers, on either side.
#[derive(Debug)]
pub struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Vec<Arc<Roots>>,
    expect: Expect,
}

impl PeerVerifier {
    /// For servers: the client must be of one of these meshes, and signed by that mesh.
    pub fn of_meshes(provider: &CryptoProvider, trust: Vec<Arc<Roots>>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, trust, expect: Expect::Mesh }
    }

    /// For clients: the server must be one of `peers`, signed by the mesh of `roots`.
    pub fn of_peers(provider: &CryptoProvider, roots: Arc<Roots>, peers: Vec<String>) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
            trust: vec![roots],
            expect: Expect::Peers(peers),
        }
    }

    /// The whole check, also repeated on resumed sessions, whose handshake shows no certificate.
    pub fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime, usage: KeyUsage) -> Result<(), Refusal> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Refusal::Malformed("it shows none".to_owned()));
        };
        let cert = EndEntityCert::try_from(leaf).map_err(|e| Refusal::Malformed(format!("{e:?}")))?;
        let uris: Vec<String> = cert.valid_uri_names().map(str::to_owned).collect();
        let Some(roots) = self.trust.iter().find(|roots| uris.iter().any(|uri| is_of_mesh(uri, &roots.mesh))) else {
            let meshes = self.trust.iter().map(|roots| roots.mesh.clone()).collect();
            return Err(Refusal::OtherMesh { presented: spiffe(&uris), meshes });
        };
        // The CA of one mesh must not be able to vouch for another mesh's services where both are trusted.
        if let Some(uri) = uris.iter().find(|uri| uri.starts_with("spiffe://") && !is_of_mesh(uri, &roots.mesh)) {
            return Err(Refusal::Foreign { uri: uri.clone(), mesh: roots.mesh.clone() });
        }
        verify_chain(&cert, intermediates, (roots, self.algorithms), now, usage)
            .map_err(|problem| Refusal::Chain { peer: list(&spiffe(&uris)), problem })?;
        match &self.expect {
            Expect::Peers(peers) if !uris.iter().any(|uri| peers.contains(uri)) => {
                Err(Refusal::OtherPeer { presented: spiffe(&uris), peers: peers.clone() })
            }
            Expect::Peers(_) | Expect::Mesh => Ok(()),
        }
    }
}

/// With the slash: `spiffe://mesh-10/x` isn't of mesh `mesh-1`.
fn is_of_mesh(uri: &str, mesh: &str) -> bool {
    let service = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(mesh)).unwrap_or_default();
    service.len() > 1 && service.starts_with('/')
}

fn spiffe(uris: &[String]) -> Vec<String> {
    uris.iter().filter(|uri| uri.starts_with("spiffe://")).cloned().collect()
}

fn verify_chain(
    cert: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    (roots, algorithms): (&Roots, WebPkiSupportedAlgorithms),
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), String> {
    cert.verify_for_usage(algorithms.all, &roots.anchors, intermediates, now, usage, None, None)
        .map(|_| ())
        .map_err(|error| describe(&error, &roots.mesh))
}

fn describe(error: &webpki::Error, mesh: &str) -> String {
    use webpki::Error as E;
    match error {
        E::CertExpired { time, not_after } => {
            format!("expired {} s ago", time.as_secs().saturating_sub(not_after.as_secs()))
        }
        E::CertNotValidYet { time, not_before } => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            format!("becomes valid in {ahead} s: compare the clocks of both machines")
        }
        // The second: a CA of the same name, but with another key.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey if mesh.is_empty() => {
            "isn't signed by the configured CA".to_owned()
        }
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => format!("isn't signed by a CA of mesh {mesh}"),
        E::RequiredEkuNotFoundContext(_) => "isn't meant for this side of a connection (extended key usage)".to_owned(),
        E::CaUsedAsEndEntity => "is a CA's own".to_owned(),
        other => format!("isn't acceptable: {other:?}"),
    }
}

/// The methods that both traits ask of every verifier; signatures are checked alike everywhere.
macro_rules! signature_methods {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(&join(end_entity, intermediates), now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    signature_methods!();
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whom we trust is no one's business before they are known.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(&join(end_entity, intermediates), now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signature_methods!();
}

fn join<'a>(leaf: &'a CertificateDer<'_>, rest: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).map(|der| CertificateDer::from(der.as_ref())).collect()
}

/// Verifies external services. Without roots anybody is accepted (the reference's behaviour without `caCert`).
#[derive(Debug)]
pub struct ExternalVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    roots: Option<Arc<Roots>>,
    check_name: bool,
}

impl ExternalVerifier {
    pub fn new(provider: &CryptoProvider, roots: Option<Arc<Roots>>, check_name: bool) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, roots, check_name }
    }
}

impl ServerCertVerifier for ExternalVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let cert = EndEntityCert::try_from(end_entity).map_err(|e| Refusal::Malformed(format!("{e:?}")))?;
        let name = server_name.to_str().into_owned();
        verify_chain(&cert, intermediates, (roots, self.algorithms), now, KeyUsage::server_auth())
            .map_err(|problem| Refusal::Chain { peer: name.clone(), problem })?;
        if self.check_name && cert.verify_is_valid_for_subject_name(server_name).is_err() {
            return Err(Refusal::OtherName { name }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    signature_methods!();
}
