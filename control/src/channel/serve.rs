//! TLS and HTTP/2 under the channel's service.

use super::presence::Presence;
use super::{Server, Service, ahead, away, server};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connected proxies.
const PROXIES_MAX: usize = 16_384;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept, so that running out of descriptors doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, service: Service) {
    let acceptor = TlsAcceptor::from(tls);
    let service = Server { service, presence: Arc::new(Presence::default()) };
    let Service { core, patience, subscription, .. } = &service.service;
    let mut watch = JoinSet::new();
    watch.spawn(ahead::prepare(subscription.clone(), service.presence.clone()));
    watch.spawn(away::watch(service.presence.clone(), core.clone(), *patience));
    let places = Arc::new(Semaphore::new(PROXIES_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "control channel: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        let service = TowerToHyperService::new(server(service.clone()));
        tokio::spawn(async move {
            let _place = place;
            // Small frames, sent as they come.
            let _ = tcp.set_nodelay(true);
            let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => return tracing::debug!(%peer, %error, "control channel: TLS handshake failed"),
                Err(_) => return tracing::debug!(%peer, "control channel: no TLS handshake in time"),
            };
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .serve_connection(TokioIo::new(tls), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "control channel: connection ended");
            }
        });
    }
}
