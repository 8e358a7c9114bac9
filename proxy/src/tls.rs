//! TLS as the mesh speaks it: versions, ALPN, verifiers, session resumption, handshakes with a deadline, and who the
//! peer is. Every rustls configuration is made here. Must not know where keys come from, nor snapshots or listeners.

mod block;
mod handshake;
mod record;
mod stream;
mod verify;

pub use stream::TlsStream;
pub use verify::{ExternalVerifier, PeerVerifier, Refusal, Roots};

use self::handshake::Handshake;
use crate::error::{ConnError, Reason};
use crate::mux;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, CommonState, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use webpki::{EndEntityCert, KeyUsage};

/// How long either side may take for a TLS handshake.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// TLS sessions that one client configuration remembers. A configuration speaks to one service, so it sees few names.
const SESSIONS_MAX: usize = 32;
/// The protocol by which a mesh client tells its mTLS from the application's own TLS.
pub const ALPN_KUMA: &[u8] = b"kuma";

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// The one crypto provider, passed explicitly: no process-wide default is installed or relied on.
///
/// AES-128 comes before AES-256: the key exchange (X25519, P-256) has no more than 128 bits either, and it takes a quarter less
/// time. ChaCha20 comes first on a machine without AES instructions. Servers decide by their own order. The one share that our
/// clients send is X25519's; the post-quantum hybrid is offered and accepted behind it, so that a peer can ask for it, but
/// costs our own proxies neither its 1.2 kB hello nor its time.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = default_provider();
        let first: &[_] = match aes_is_fast() {
            true => &[cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
            false => &[cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, cipher_suite::TLS13_AES_128_GCM_SHA256],
        };
        // A stable sort: what isn't named keeps its order behind.
        let place = |suite: &_| first.iter().position(|named| named == suite).unwrap_or(first.len());
        provider.cipher_suites.sort_by_key(place);
        provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768];
        Arc::new(provider)
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

#[cfg(target_arch = "x86_64")]
fn aes_is_fast() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn aes_is_fast() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn aes_is_fast() -> bool {
    false
}

/// A server of the mesh: its configuration, and the verifier that resumed sessions pass again.
#[derive(Debug)]
pub struct MeshServer {
    pub config: Arc<ServerConfig>,
    /// For listeners that serve tunnels of many streams too.
    pub mux: Arc<ServerConfig>,
    verifier: Arc<PeerVerifier>,
}

/// A client of the mesh.
#[derive(Debug)]
pub struct MeshClient {
    pub config: Arc<ClientConfig>,
    /// Offers tunnels of many streams too.
    pub mux: Arc<ClientConfig>,
    verifier: Arc<PeerVerifier>,
}

impl MeshServer {
    pub fn new(key: Arc<CertifiedKey>, trust: Vec<Arc<Roots>>) -> Result<Self, String> {
        let provider = provider();
        let verifier = Arc::new(PeerVerifier::of_meshes(&provider, trust));
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
        let builder = builder.map_err(|e| e.to_string())?;
        let config = builder
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        let config = tune_server(config, vec![ALPN_KUMA.to_vec()])?;
        let mut mux = config.clone();
        mux.alpn_protocols.insert(0, mux::ALPN.to_vec());
        Ok(Self { config: Arc::new(config), mux: Arc::new(mux), verifier })
    }
}

impl MeshClient {
    pub fn new(key: Arc<CertifiedKey>, roots: Arc<Roots>, peers: Vec<String>) -> Result<Self, String> {
        let provider = provider();
        let verifier = Arc::new(PeerVerifier::of_peers(&provider, roots, peers));
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS);
        let config = builder
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        let mux = tune_client(config.clone(), vec![mux::ALPN.to_vec(), ALPN_KUMA.to_vec()]);
        Ok(Self { config: Arc::new(tune_client(config, vec![ALPN_KUMA.to_vec()])), mux: Arc::new(mux), verifier })
    }
}

/// A gateway's server: certificates by SNI, no client certificate.
pub fn gateway_server(certificates: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
    let config = builder.map_err(|e| e.to_string())?.with_no_client_auth().with_cert_resolver(certificates);
    tune_server(config, vec![b"h2".to_vec(), b"http/1.1".to_vec()]).map(Arc::new)
}

/// A client of an external service.
pub fn external_client(
    verifier: ExternalVerifier,
    key: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
    let builder = builder.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(tune_client(config, alpn)))
}

fn tune_server(mut config: ServerConfig, alpn: Vec<Vec<u8>>) -> Result<ServerConfig, String> {
    config.alpn_protocols = alpn;
    config.ignore_client_order = true;
    // The record layer is ours (`stream.rs`), so rustls gives it the keys it negotiated.
    config.enable_secret_extraction = true;
    // One ticketer a configuration: all workers share it, and a ticket of one mesh means nothing to another.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|e| e.to_string())?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn tune_client(mut config: ClientConfig, alpn: Vec<Vec<u8>>) -> ClientConfig {
    config.alpn_protocols = alpn;
    config.enable_secret_extraction = true;
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)));
    config
}

/// Ends a client's mTLS; gives the stream and the URI SANs of the client.
pub async fn accept_mesh<S>(server: &MeshServer, io: S) -> Result<(TlsStream<S>, Vec<String>), ConnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_mesh_by(server, &server.config, io).await
}

/// The same, by one of the server's configurations.
pub async fn accept_mesh_by<S>(
    server: &MeshServer,
    config: &Arc<ServerConfig>,
    io: S,
) -> Result<(TlsStream<S>, Vec<String>), ConnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_mesh_after(server, config, io, &[]).await
}

/// The same, of a client whose first bytes were read already.
pub(crate) async fn accept_mesh_after<S>(
    server: &MeshServer,
    config: &Arc<ServerConfig>,
    io: S,
    first: &[u8],
) -> Result<(TlsStream<S>, Vec<String>), ConnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refused = |problem: String| ConnError::new(Reason::DownstreamTls, problem);
    let handshake = Handshake::server(Arc::clone(config), io, first);
    let handshake =
        within(HANDSHAKE_TIMEOUT_MS, handshake).await.map_err(|e| refused(format!("TLS handshake: {e}")))?;
    let session = handshake.common();
    recheck(&server.verifier, session, KeyUsage::client_auth()).map_err(|refusal| refused(refusal.to_string()))?;
    let uris = peer_uris(session);
    let stream = TlsStream::new(handshake).map_err(|e| refused(explain(&e)))?;
    Ok((stream, uris))
}

/// Ends a client's TLS within the deadline.
pub async fn accept<S>(config: &Arc<ServerConfig>, io: S) -> Result<TlsStream<S>, ConnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async { TlsStream::new(Handshake::server(Arc::clone(config), io, &[]).await?) };
    within(HANDSHAKE_TIMEOUT_MS, handshake)
        .await
        .map_err(|problem| ConnError::new(Reason::DownstreamTls, format!("TLS handshake: {problem}")))
}

async fn within<T>(limit_ms: u64, handshake: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_millis(limit_ms), handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(explain(&e)),
        Err(_) => Err(format!("not finished within {limit_ms} ms")),
    }
}

/// Opens mTLS to a mesh peer. The error is text for the caller's detail.
pub async fn connect_mesh<S>(mesh: &MeshClient, name: ServerName<'static>, io: S) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connect_mesh_by(mesh, &mesh.config, name, io).await
}

/// The same, by one of the client's configurations.
pub async fn connect_mesh_by<S>(
    mesh: &MeshClient,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    io: S,
) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = within(HANDSHAKE_TIMEOUT_MS, Handshake::client(Arc::clone(config), name, io)).await?;
    recheck(&mesh.verifier, handshake.common(), KeyUsage::server_auth()).map_err(|refusal| refusal.to_string())?;
    TlsStream::new(handshake).map_err(|e| explain(&e))
}

/// Opens TLS within the deadline.
pub async fn connect<S>(config: &Arc<ClientConfig>, name: ServerName<'static>, io: S) -> Result<TlsStream<S>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async { TlsStream::new(Handshake::client(Arc::clone(config), name, io).await?) };
    within(HANDSHAKE_TIMEOUT_MS, handshake).await
}

/// A resumed session shows no certificate: the remembered one may have expired since.
fn recheck(verifier: &PeerVerifier, session: &CommonState, usage: KeyUsage) -> Result<(), Refusal> {
    if session.handshake_kind() != Some(HandshakeKind::Resumed) {
        return Ok(());
    }
    verifier.check(session.peer_certificates().unwrap_or_default(), UnixTime::now(), usage)
}

/// The URI SANs of the peer's certificate; empty without one.
fn peer_uris(session: &CommonState) -> Vec<String> {
    session.peer_certificates().and_then(<[CertificateDer<'_>]>::first).map(uris_of).unwrap_or_default()
}

/// The URI SANs of a certificate.
pub fn uris_of(leaf: &CertificateDer<'_>) -> Vec<String> {
    EndEntityCert::try_from(leaf).map(|cert| cert.valid_uri_names().map(str::to_owned).collect()).unwrap_or_default()
}

/// The innermost cause of a failed handshake, in words.
pub fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the peer closed the connection during the handshake".to_owned(),
            _ => error.to_string(),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => other.0.to_string(),
        rustls::Error::NoCertificatesPresented => "the peer shows no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => {
            format!("the peer refused us with the alert {alert:?}; its log says why")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
