//! From a service to an open stream: at most a few endpoints are tried, before any byte of payload is sent.

use super::Upstreams;
use super::balance::Lease;
use super::outlier::Health;
use super::tunnel;
use crate::error::{ConnError, Reason};
use crate::identity::Identities;
use crate::socket::{self, ConnectOptions};
use crate::stream::Stream;
use crate::tls;
use rustls::pki_types::ServerName;
use snapshot::{Address, Client, Endpoint, ServiceRow, UpstreamTls, limits};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Endpoints, or addresses of one endpoint's name, that one connection tries.
pub(crate) const ATTEMPTS_MAX: usize = 3;

/// A chosen endpoint. While it lives, it counts as one use of the endpoint.
#[derive(Debug)]
pub(crate) struct Picked {
    endpoints: Arc<Vec<Endpoint>>,
    pub index: usize,
    _lease: Lease,
    health: Rc<Cell<Health>>,
}

impl Picked {
    /// `None` never happens: `index` was chosen from these endpoints.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.index)
    }

    /// The endpoint's DNS name, where it has one.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.endpoint()?.address {
            Address::Name(name) => Some(name),
            Address::Ip(_) => None,
        }
    }

    /// Notes that the endpoint couldn't be reached, or could.
    pub(crate) fn report(&self, reached: bool) {
        let next = if reached { Health::succeeded() } else { self.health.get().failed(Instant::now()) };
        self.health.set(next);
    }
}

/// An open way to an endpoint.
#[derive(Debug)]
pub(crate) struct Connected {
    pub stream: Stream,
    pub address: SocketAddr,
    /// Counts as one use of the endpoint while it is held.
    pub picked: Picked,
    /// Of the first bytes, those that are on their way already.
    pub sent: usize,
}

/// A connection to a chosen endpoint that was begun.
#[derive(Debug)]
pub(crate) struct Dialled {
    picked: Picked,
    address: SocketAddr,
    begun: Result<socket::Begun, ConnError>,
}

/// What an attempt needs to know beside the endpoint.
#[derive(Clone, Copy)]
struct Wish<'a> {
    ids: &'a Identities,
    /// Leave the socket unsettled, see [`ConnectOptions`].
    unsettled: bool,
    /// What is to be sent first; a bare connection takes it along.
    first: &'a [u8],
}

impl Upstreams {
    /// The endpoint for the next connection or request. `tried` are indices that failed before.
    pub(crate) fn pick(&self, service: &ServiceRow, tried: &[usize]) -> Option<Picked> {
        let mut services = self.services.borrow_mut();
        let state = services.entry_ref(service.name.as_str()).or_default();
        let mut rng = self.rng.borrow_mut();
        state.sync(&service.endpoints, &mut rng);
        let index = state.pick(service.balance, tried, &mut rng, Instant::now)?;
        Some(Picked {
            endpoints: Arc::clone(&service.endpoints),
            index,
            _lease: state.lease(index)?,
            health: state.health(index)?,
        })
    }

    /// The endpoint at a place, when the caller has chosen it before.
    pub(crate) fn at(&self, service: &ServiceRow, index: usize) -> Option<Picked> {
        let mut services = self.services.borrow_mut();
        let state = services.entry_ref(service.name.as_str()).or_default();
        state.sync(&service.endpoints, &mut self.rng.borrow_mut());
        let (lease, health) = (state.lease(index)?, state.health(index)?);
        Some(Picked { endpoints: Arc::clone(&service.endpoints), index, _lease: lease, health })
    }

    /// What of [`Self::connect`] needs no waiting, or what is still to be waited for; `None` where TLS or a name comes first.
    pub(crate) fn begin(&self, service: &ServiceRow, first: &[u8]) -> Option<Result<Connected, Dialled>> {
        if service.tls != UpstreamTls::None {
            return None;
        }
        let picked = self.pick(service, &[])?;
        let endpoint = picked.endpoint()?;
        let Address::Ip(ip) = endpoint.address else { return None };
        let address = SocketAddr::new(ip, endpoint.port);
        let options = ConnectOptions { unsettled: true, ..self.options.clone() };
        Some(match socket::begin(address, &options, first).map(socket::Begun::now) {
            Ok(Ok((stream, sent))) => {
                picked.report(true);
                Ok(Connected { stream: stream.into(), address, picked, sent })
            }
            Ok(Err(begun)) => Err(Dialled { picked, address, begun: Ok(begun) }),
            Err(failure) => Err(Dialled { picked, address, begun: Err(failure) }),
        })
    }

    /// Opens a stream to some endpoint of the service, for a copy: it isn't settled. `first` waits to be sent; what isn't sent by
    /// then is the caller's. Goes on with what was begun.
    pub(crate) async fn connect(
        &self,
        mut dialled: Option<Dialled>,
        service: &ServiceRow,
        ids: &Identities,
        first: &[u8],
    ) -> Result<Connected, ConnError> {
        let wish = Wish { ids, unsettled: true, first };
        let mut tried = Vec::new();
        let mut failures: Vec<ConnError> = Vec::new();
        while tried.len() < ATTEMPTS_MAX {
            let (picked, begun) = match dialled.take() {
                Some(Dialled { picked, address, begun }) => (picked, Some((begun, address))),
                None => match self.pick(service, &tried) {
                    Some(picked) => (picked, None),
                    None => break,
                },
            };
            match self.attempt(service, &picked, wish, begun).await {
                Ok((stream, sent, address)) => return Ok(Connected { stream, address, picked, sent }),
                Err(failure) => {
                    let retryable = failure.reason.consequence().retryable;
                    failures.push(failure);
                    tried.push(picked.index);
                    if !retryable {
                        break;
                    }
                }
            }
        }
        Err(summary(service, &failures))
    }

    /// Opens a stream to this endpoint, and notes how that went.
    pub(crate) async fn dial(
        &self,
        service: &ServiceRow,
        picked: &Picked,
        ids: &Identities,
    ) -> Result<(Stream, SocketAddr), ConnError> {
        let (stream, _, address) =
            self.attempt(service, picked, Wish { ids, unsettled: false, first: &[] }, None).await?;
        Ok((stream, address))
    }

    async fn attempt(
        &self,
        service: &ServiceRow,
        picked: &Picked,
        wish: Wish<'_>,
        begun: Option<(Result<socket::Begun, ConnError>, SocketAddr)>,
    ) -> Result<(Stream, usize, SocketAddr), ConnError> {
        let Some(endpoint) = picked.endpoint() else { return Err(no_endpoint(service)) };
        let outcome = match begun {
            None => self.reach(service, endpoint, wish).await,
            Some((Ok(begun), address)) => match begun.there(timeout(service)).await {
                Ok((stream, sent)) => Ok((stream.into(), sent, address)),
                Err(failure) => Err((failure, false)),
            },
            Some((Err(failure), _)) => Err((failure, false)),
        };
        match outcome {
            Ok(stream) => {
                picked.report(true);
                Ok(stream)
            }
            Err((failure, ours)) => {
                // What fails for want of our own material says nothing about the endpoint.
                if !ours {
                    picked.report(false);
                }
                let at = &endpoint.origin;
                Err(ConnError::new(failure.reason, format!("{} ({at}): {}", place(endpoint), failure.detail)))
            }
        }
    }

    /// The flag tells that the failure is on our side.
    async fn reach(
        &self,
        service: &ServiceRow,
        endpoint: &Endpoint,
        wish: Wish<'_>,
    ) -> Result<(Stream, usize, SocketAddr), (ConnError, bool)> {
        let theirs = |failure| (failure, false);
        let plan =
            Plan::new(service, wish.ids).map_err(|problem| (ConnError::new(Reason::UpstreamTls, problem), true))?;
        let (only, addresses);
        let addresses = match &endpoint.address {
            Address::Ip(ip) => {
                only = [*ip];
                only.as_slice()
            }
            Address::Name(name) => {
                addresses = self.addresses(name).await.map_err(theirs)?;
                addresses.as_slice()
            }
        };
        let timeout = timeout(service);
        // TLS writes twice before a copy could see to it.
        let unsettled = wish.unsettled && matches!(plan, Plan::Plain);
        let options = ConnectOptions { unsettled, ..self.options.clone() };
        let mut failure = ConnError::new(Reason::ConnectFailed, "it has no address");
        for &ip in addresses.iter().take(ATTEMPTS_MAX) {
            let address = SocketAddr::new(ip, endpoint.port);
            let opened = match &plan {
                Plan::Mesh { client, sni } if tunnel::leads_to_one_proxy(endpoint) => {
                    Box::pin(self.tunnelled(client, sni, address, timeout)).await.map(|stream| (stream, 0))
                }
                Plan::Plain => {
                    let connected = socket::connect_saying(address, &options, wish.first, timeout).await;
                    connected.map(|(tcp, sent)| (tcp.into(), sent))
                }
                _ => match socket::connect(address, &options, timeout).await {
                    Ok(tcp) => plan.secure(endpoint, tcp, ip).await.map(|stream| (stream, 0)).map_err(tls_failed),
                    Err(failure) => Err(failure),
                },
            };
            match opened {
                Ok((stream, sent)) => return Ok((stream, sent, address)),
                Err(e) => failure = e,
            }
        }
        Err(theirs(failure))
    }

    /// A name's addresses begin with a random one of the first family, so that all get their share.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ConnError> {
        let found = Box::pin(self.resolver.lookup(name)).await.map_err(|e| ConnError::new(Reason::ConnectFailed, e))?;
        let mut addresses = found.to_vec();
        let family = addresses.partition_point(|ip| ip.is_ipv4() == found.first().is_some_and(IpAddr::is_ipv4));
        let first = self.rng.borrow_mut().below(family as u64) as usize;
        if let Some(family) = addresses.get_mut(..family) {
            family.rotate_left(first);
        }
        Ok(addresses)
    }
}

fn timeout(service: &ServiceRow) -> Duration {
    Duration::from_millis(match service.connect_timeout_ms {
        0 => limits::CONNECT_TIMEOUT_MS,
        ms => ms,
    })
}

/// What follows TCP, made before dialling so that missing material costs no connection.
enum Plan<'a> {
    Plain,
    Mesh { client: Arc<tls::MeshClient>, sni: &'a str },
    External { config: Arc<rustls::ClientConfig>, client: &'a Client },
}

impl<'a> Plan<'a> {
    fn new(service: &'a ServiceRow, ids: &Identities) -> Result<Self, String> {
        Ok(match &service.tls {
            UpstreamTls::None => Self::Plain,
            UpstreamTls::Mesh { identity_mesh, mesh, sni, peers } => {
                Self::Mesh { client: ids.client(identity_mesh, mesh, peers)?, sni }
            }
            UpstreamTls::External { client } => {
                Self::External { config: ids.external(client, service.protocol)?, client }
            }
        })
    }

    async fn secure(&self, endpoint: &Endpoint, tcp: TcpStream, ip: IpAddr) -> Result<Stream, String> {
        match self {
            Self::Plain => Ok(tcp.into()),
            // Boxed: large, and most connections don't need it.
            Self::Mesh { client, sni } => {
                Ok(Box::pin(tls::connect_mesh(client, server_name(sni, ip)?, tcp)).await?.into())
            }
            Self::External { config, client } => {
                let name = match (&endpoint.address, client.server_name.as_str()) {
                    (Address::Name(host), "") => host,
                    (_, configured) => configured,
                };
                Ok(Box::pin(tls::connect(config, server_name(name, ip)?, tcp)).await?.into())
            }
        }
    }
}

pub(super) fn tls_failed(problem: String) -> ConnError {
    ConnError::new(Reason::UpstreamTls, format!("TLS: {problem}"))
}

/// Without a name the address stands in: then no SNI is sent.
pub(super) fn server_name(name: &str, ip: IpAddr) -> Result<ServerName<'static>, String> {
    match name.trim_end_matches('.') {
        "" => Ok(ServerName::IpAddress(ip.into())),
        name => ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} can't be sent as server name")),
    }
}

fn place(endpoint: &Endpoint) -> String {
    match &endpoint.address {
        Address::Ip(ip) => SocketAddr::new(*ip, endpoint.port).to_string(),
        Address::Name(name) => format!("{name}:{}", endpoint.port),
    }
}

/// The error of a service without endpoints.
pub(crate) fn no_endpoint(service: &ServiceRow) -> ConnError {
    let hint = match service.hint.as_str() {
        "" => "no healthy proxy offers it",
        hint => hint,
    };
    let ServiceRow { name, mesh, origin, .. } = service;
    ConnError::new(Reason::NoEndpoint, format!("service {name} of mesh {mesh} ({origin}) has no endpoint: {hint}"))
}

fn summary(service: &ServiceRow, failures: &[ConnError]) -> ConnError {
    let Some(last) = failures.last() else { return no_endpoint(service) };
    let details: Vec<_> = failures.iter().map(|failure| failure.detail.as_str()).collect();
    let (tried, all) = (failures.len(), service.endpoints.len());
    let ServiceRow { name, mesh, .. } = service;
    let detail = format!("service {name} of mesh {mesh}, {tried} of {all} endpoints tried: {}", details.join("; "));
    ConnError::new(last.reason, detail)
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
