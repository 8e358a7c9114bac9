//! The mesh's names, in the proxy's process: mesh names are answered from the snapshot in force, everything else is
//! relayed to the original resolvers as it is. It must not know how snapshots are made or what traffic does with a VIP.
#![forbid(unsafe_code)]

mod answer;
mod forward;
mod lookup;
mod metrics;
mod resolv;
mod server;
mod tcp;
mod udp;
mod wire;

pub use lookup::{Answer, Question, is_below, lookup};
pub use metrics::Metrics;
pub use wire::{class, qtype};

use snapshot::Reader;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Ports tried when any will do: UDP and TCP must get the same one.
const PORT_TRIES: usize = 16;

#[derive(Clone, Debug)]
pub struct Config {
    /// Each is served over UDP and TCP. Port 0: any, the same for both.
    pub listen: Vec<SocketAddr>,
    /// Where the original resolvers stand; read again when it changes.
    pub resolv_conf: PathBuf,
    /// Asked instead of those of `resolv_conf`, unless empty.
    pub upstreams: Vec<SocketAddr>,
    /// Names below it are SERVFAIL until the first snapshot is in force; after that the snapshot decides.
    pub domain: String,
    /// `SO_MARK` of queries to resolvers, so that capture of DNS exempts them.
    pub mark: Option<u32>,
    pub times: Times,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 15_053))],
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            upstreams: Vec::new(),
            domain: String::from("mesh"),
            mark: None,
            times: Times::default(),
        }
    }
}

/// How long relaying may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the next resolver is asked as well, over UDP.
    pub one_try: Duration,
    /// Connect and answer of one resolver, over TCP.
    pub one_try_tcp: Duration,
    /// Until the client gets SERVFAIL.
    pub overall: Duration,
    /// A resolver that didn't answer is asked last for so long.
    pub silent: Duration,
    /// How often `resolv_conf` is looked at.
    pub resolv_conf_check: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            one_try: Duration::from_millis(1200),
            one_try_tcp: Duration::from_secs(3),
            overall: Duration::from_secs(7),
            silent: Duration::from_secs(10),
            resolv_conf_check: Duration::from_secs(1),
        }
    }
}

/// Sockets that are bound; nothing is answered before [`Bound::run`].
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<(udp::Udp, TcpListener)>,
    addresses: Vec<SocketAddr>,
    core: Arc<server::Core>,
}

/// Binds every address of `config`.
///
/// # Errors
/// The first address that can't be bound, by name.
pub async fn bind(config: Config, reader: Reader) -> io::Result<Bound> {
    let mut sockets = Vec::with_capacity(config.listen.len());
    let mut addresses = Vec::with_capacity(config.listen.len());
    for address in &config.listen {
        let pair = bind_pair(*address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("DNS can't listen on {address} (UDP and TCP): {error}"))
        })?;
        addresses.push(pair.0.local_addr()?);
        sockets.push(pair);
    }
    let metrics = Arc::new(Metrics::new(reader.clone()));
    let resolvers = resolv::Resolvers::new(config.upstreams, config.resolv_conf, addresses.clone(), &config.times);
    let forwarder = forward::Forwarder::new(resolvers, config.times, config.mark, metrics.clone());
    let domain = config.domain.trim_matches('.').to_ascii_lowercase().into();
    let core = Arc::new(server::Core { reader, domain, forwarder, metrics });
    let served = sockets.into_iter().map(|(udp, tcp)| Ok((udp::Udp::new(core.clone(), udp)?, tcp)));
    let sockets = served.collect::<io::Result<_>>()?;
    Ok(Bound { sockets, addresses, core })
}

async fn bind_pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(address)?;
        tries -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
            Ok(tcp) => return Ok((udp, tcp)),
        }
    }
}

impl Bound {
    /// Where it listens, in the order of [`Config::listen`], with the ports the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.core.metrics.clone()
    }

    /// Serves until `shutdown` ends, then drops what is still waiting for resolvers.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        // Two tasks an address; each bounds its own.
        let mut loops = JoinSet::new();
        for (udp, tcp) in self.sockets {
            loops.spawn(udp.serve(stopped.clone()));
            loops.spawn(tcp::serve_tcp(self.core.clone(), tcp, stopped.clone()));
        }
        shutdown.await;
        stop.send_replace(true);
        while loops.join_next().await.is_some() {}
    }
}
