//! The mesh's names, in the proxy's process: mesh names are answered from the snapshot in force, everything else is
//! relayed to the original resolvers as it is. It must not know how snapshots are made or what traffic does with a VIP.
#![forbid(unsafe_code)]

mod answer;
mod forward;
mod guests;
mod hosts;
mod lookup;
mod metrics;
mod querylog;
mod replies;
mod resolv;
mod server;
mod tcp;
mod udp;
mod wire;

#[cfg(test)]
mod fuzz_tests;

pub use hosts::Host;
pub use lookup::{Answer, Question, is_below, lookup};
pub use metrics::Metrics;
pub use wire::{class, qtype};

use snapshot::{DnsUpstream, Reader};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Default of [`Config::relays_max`].
const RELAYS_MAX: usize = 1024;
/// Ports tried when any will do: UDP and TCP must get the same one.
const PORT_TRIES: usize = 16;
/// How often it is looked whether the first snapshot is there.
const FIRST_CHECK: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Config {
    /// Each is served over UDP and TCP. Port 0: any, the same for both.
    pub listen: Vec<SocketAddr>,
    /// Networks of containers, as first address and bits of the prefix: this machine's own addresses there are served too,
    /// on the port of the first of `listen`, as soon as there are any.
    pub guests: Vec<(IpAddr, u8)>,
    /// Where the original resolvers stand; read again when it changes.
    pub resolv_conf: PathBuf,
    /// Of the servers that `resolv_conf` names.
    pub resolvers_port: u16,
    /// Asked instead of those of `resolv_conf` about names of their domains. They win over the control plane's.
    pub upstreams: Vec<DnsUpstream>,
    /// Every AAAA question is answered NODATA, for machines without IPv6 whose programs don't notice.
    pub no_aaaa: bool,
    /// Answered here before anybody is asked, the mesh included.
    pub hosts: Vec<Host>,
    /// A line for each answer, up to so many a second.
    pub query_log: bool,
    /// Queries that wait for resolvers at the same time; the next is refused at once.
    pub relays_max: usize,
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
            guests: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            resolvers_port: 53,
            upstreams: Vec::new(),
            no_aaaa: false,
            hosts: Vec::new(),
            query_log: false,
            relays_max: RELAYS_MAX,
            domain: String::from("mesh"),
            mark: None,
            times: Times::default(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until the next resolver is asked as well, over UDP.
    pub one_try: Duration,
    /// Connect and answer of one resolver, over TCP.
    pub one_try_tcp: Duration,
    /// Until the client gets SERVFAIL.
    pub overall: Duration,
    /// A resolver that didn't answer is asked last until it does, and tried so often beside the others.
    pub silent: Duration,
    /// How often `resolv_conf` is looked at.
    pub resolv_conf_check: Duration,
    /// A `resolv_conf` that changed counts alone only when it hasn't changed again for so long.
    pub resolv_conf_settle: Duration,
    /// A client's TCP connection without a whole query for so long ends.
    pub tcp_idle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            one_try: Duration::from_millis(1200),
            one_try_tcp: Duration::from_secs(3),
            overall: Duration::from_secs(7),
            silent: Duration::from_secs(10),
            resolv_conf_check: Duration::from_secs(1),
            resolv_conf_settle: Duration::from_secs(1),
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// Sockets that are bound; nothing is answered before [`Bound::run`].
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<(udp::Udp, TcpListener)>,
    addresses: Vec<SocketAddr>,
    guests: Vec<(IpAddr, u8)>,
    core: Arc<server::Core>,
}

/// Binds every address of `config`.
///
/// # Errors
/// The first address that can't be bound, by name; hosts that contradict each other.
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
    let guests = config.guests.clone();
    let (rules, file) = (config.upstreams.clone(), (config.resolv_conf.clone(), config.resolvers_port));
    let resolvers = resolv::Resolvers::new(rules, file, addresses.clone(), &config.times);
    let forwarder = forward::Forwarder::new(resolvers, &config, metrics.clone(), reader.clone());
    let domain = config.domain.trim_matches('.').to_ascii_lowercase();
    let hosts = hosts::Hosts::new(&config.hosts).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    let rules = server::Rules { domain, no_aaaa: config.no_aaaa, hosts };
    let (query_log, tcp_idle) = (config.query_log.then(querylog::QueryLog::new), config.times.tcp_idle);
    let core = Arc::new(server::Core { reader, rules, forwarder, metrics, query_log, tcp_idle });
    let served = sockets.into_iter().map(|(udp, tcp)| Ok((udp::Udp::new(core.clone(), udp)?, tcp)));
    let sockets = served.collect::<io::Result<_>>()?;
    Ok(Bound { sockets, addresses, guests, core })
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
        // Two tasks an address, each of which bounds its own, one that ends with the first snapshot, one for all guests.
        let mut loops = JoinSet::new();
        loops.spawn(await_first(self.core.clone(), stopped.clone()));
        if let (Some(first), false) = (self.addresses.first(), self.guests.is_empty()) {
            loops.spawn(guests::serve(self.core.clone(), self.guests, first.port(), stopped.clone()));
        }
        for (udp, tcp) in self.sockets {
            loops.spawn(udp.serve(stopped.clone()));
            loops.spawn(tcp::serve_tcp(self.core.clone(), tcp, stopped.clone()));
        }
        shutdown.await;
        stop.send_replace(true);
        while loops.join_next().await.is_some() {}
    }
}

/// Notes how long the names of the first snapshot were waited for.
async fn await_first(core: Arc<server::Core>, mut stopped: watch::Receiver<bool>) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(FIRST_CHECK);
    while core.reader.load().is_empty() {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = ticks.tick() => {}
        }
    }
    core.metrics.ready(start.elapsed());
}
