//! A stream to another proxy of ours on a tunnel that many streams share; a connection of its own to any other peer.
//! Must not know which endpoint is right.

use super::Upstreams;
use super::connect::{server_name, tls_failed};
use crate::error::{ConnError, Reason};
use crate::mux::{self, Begun, Tunnel};
use crate::socket;
use crate::stream::Stream;
use crate::tls::{self, MeshClient};
use snapshot::Endpoint;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Whom a tunnel leads to, and as whom we speak there.
#[derive(Clone)]
pub(super) struct TunnelKey {
    /// A new one after each rotation of keys or trust, so tunnels made under old ones take no new streams.
    client: Arc<MeshClient>,
    sni: Box<str>,
    address: SocketAddr,
}

impl PartialEq for TunnelKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.client, &other.client) && self.address == other.address && self.sni == other.sni
    }
}

impl Eq for TunnelKey {}

impl Hash for TunnelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.client).hash(state);
        self.address.hash(state);
    }
}

/// Zone proxies pass TLS through and choose a destination for each connection: a tunnel would tie all streams to one.
pub(super) fn leads_to_one_proxy(endpoint: &Endpoint) -> bool {
    endpoint.origin.kind == "Dataplane"
}

impl Upstreams {
    pub(super) async fn tunnelled(
        &self,
        client: &Arc<MeshClient>,
        sni: &str,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Stream, ConnError> {
        let key = TunnelKey { client: Arc::clone(client), sni: sni.into(), address };
        let dial = match self.tunnels.begin(&key).await {
            Begun::Stream(stream) => return Ok(Stream::Mux(stream)),
            Begun::Failed((reason, why)) => return Err(ConnError::new(reason, why)),
            Begun::Plain => None,
            Begun::Dial(dial) => Some(dial),
        };
        let config = if dial.is_some() { &client.mux } else { &client.config };
        let opened = async {
            let tcp = socket::connect(address, &self.options, timeout).await?;
            let name = server_name(sni, address.ip()).map_err(tls_failed)?;
            tls::connect_mesh_by(client, config, name, tcp).await.map_err(tls_failed)
        };
        let stream = match (opened.await, dial) {
            (Err(failure), Some(dial)) => {
                dial.failed((failure.reason, failure.detail.clone()));
                return Err(failure);
            }
            (stream, None) => return Ok(stream?.into()),
            (Ok(stream), Some(dial)) if stream.alpn() != Some(mux::ALPN) => {
                dial.plain();
                return Ok(stream.into());
            }
            (Ok(stream), Some(dial)) => (stream, dial),
        };
        let (mut io, dial) = stream;
        let tunnel = Tunnel::new(true);
        let stream = dial.tunnel(&tunnel);
        tokio::task::spawn_local(async move {
            if let Err(why) = mux::run(&mut io, &tunnel).await {
                tracing::debug!(%address, "a tunnel ended: {why}");
            }
        });
        stream.map(Stream::Mux).ok_or_else(|| ConnError::new(Reason::ConnectFailed, "the new tunnel takes no stream"))
    }
}
