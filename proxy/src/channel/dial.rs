//! One HTTP/2 connection over TLS to the control plane, as the service that the generated client calls.

use super::ChannelError;
use crate::tls::{ExternalVerifier, Roots};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A control plane that vanished without a word is noticed after at most both of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection, with the authority that requests need.
#[derive(Clone)]
pub(super) struct Service {
    sender: SendRequest<tonic::body::Body>,
    authority: String,
}

pub(super) async fn dial(address: &str, ca_pem: Option<&str>) -> Result<Service, ChannelError> {
    let lost = |text: String| ChannelError::Lost(format!("{address}: {text}"));
    let uri: Uri =
        address.parse().map_err(|_| ChannelError::Refused(format!(".URL must be a valid absolute URI: {address}")))?;
    let host =
        uri.host().ok_or_else(|| ChannelError::Refused(format!(".URL must be a valid absolute URI: {address}")))?;
    let port = uri.port_u16().unwrap_or(5678);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, connect(bare, port))
        .await
        .map_err(|_| lost(format!("no connection within {CONNECT_TIMEOUT:?}")))?
        .map_err(|e| lost(e.to_string()))?;
    tcp.set_nodelay(true).map_err(|e| lost(e.to_string()))?;
    let name = ServerName::try_from(bare.to_owned()).map_err(|e| lost(e.to_string()))?;
    let config = client_config(ca_pem).map_err(|e| ChannelError::Refused(format!("CA of the control plane: {e}")))?;
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
    let tls = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| lost(format!("no TLS handshake within {CONNECT_TIMEOUT:?}")))?
        .map_err(|e| lost(format!("TLS: {e}")))?;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|e| lost(format!("HTTP/2: {e}")))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "control channel connection ended");
        }
    });
    Ok(Service { sender, authority: uri.authority().map_or_else(|| host.to_owned(), ToString::to_string) })
}

/// A control plane on the proxy's own machine, named by an outside address of it, is asked over loopback when it refuses:
/// interception sends the proxy's connections to this machine to its own inbound side, which needs a control plane first.
async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let refused = match TcpStream::connect((host, port)).await {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => e,
        result => return result,
    };
    for address in tokio::net::lookup_host((host, port)).await? {
        if address.ip().is_loopback() || std::net::UdpSocket::bind((address.ip(), 0)).is_err() {
            continue;
        }
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        if let Ok(stream) = TcpStream::connect((loopback, port)).await {
            return Ok(stream);
        }
    }
    Err(refused)
}

/// Without a CA the channel is encrypted, and its other end isn't verified.
fn client_config(ca_pem: Option<&str>) -> Result<Arc<rustls::ClientConfig>, String> {
    let roots = ca_pem.map(|pem| Roots::parse("control plane", pem).map(Arc::new)).transpose()?;
    let verifier = ExternalVerifier::new(&crate::tls::provider(), roots, true);
    crate::tls::external_client(verifier, None, vec![b"h2".to_vec()])
}

impl tower_service::Service<Request<tonic::body::Body>> for Service {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        if let Ok(uri) = Uri::builder().scheme("https").authority(self.authority.as_str()).path_and_query(path).build()
        {
            *request.uri_mut() = uri;
        }
        Box::pin(self.sender.send_request(request))
    }
}
