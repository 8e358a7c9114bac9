//! The sockets that are open and those that should be: binds what a snapshot wants, one socket a worker, closes what is
//! gone, and tries again what couldn't be bound. Must not know what a listener does.

use crate::listener::Wanted;
use crate::quota::Count;
use crate::socket;
use crate::worker::{Command, Opened};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// A port that another program holds may become free.
const RETRY_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Sockets {
    proxy: String,
    workers: Vec<mpsc::Sender<Command>>,
    open: BTreeMap<SocketAddr, Wanted>,
    /// What couldn't be bound, and what the log says of it.
    missing: BTreeMap<SocketAddr, (Wanted, String)>,
    tried: Instant,
    /// Addresses without a socket that was last warned of.
    uncaptured: usize,
}

/// Bound, and not yet accepted from: a list for each worker.
pub(crate) struct Bound(Vec<Vec<Opened>>);

impl Sockets {
    pub(crate) fn new(proxy: &str, workers: Vec<mpsc::Sender<Command>>) -> Self {
        let (open, missing) = (BTreeMap::new(), BTreeMap::new());
        Self { proxy: proxy.to_owned(), workers, open, missing, tried: Instant::now(), uncaptured: 0 }
    }

    /// So many addresses of `directAccessServices` can't be served in this mode.
    pub(crate) fn warn_of(&mut self, uncaptured: usize) {
        if std::mem::replace(&mut self.uncaptured, uncaptured) != uncaptured && uncaptured > 0 {
            tracing::warn!(
                proxy = %self.proxy, addresses = uncaptured,
                "directAccessServices: these are dialled past the proxy, without mTLS; only --interception redirect captures them"
            );
        }
    }

    /// Binds what is new in `wanted`. A socket that can't be bound stops only itself.
    pub(crate) async fn bind(&mut self, wanted: &BTreeMap<SocketAddr, Wanted>) -> Bound {
        // A socket whose purpose changed must be closed before its successor is bound.
        let changed = |(address, have): &(&SocketAddr, &Wanted)| wanted.get(*address).is_some_and(|w| w != *have);
        let changed: Vec<SocketAddr> = self.open.iter().filter(changed).map(|(address, _)| *address).collect();
        self.close(changed.clone()).await;
        self.missing.retain(|address, _| wanted.contains_key(address));
        let mut bound = Bound(self.workers.iter().map(|_| Vec::new()).collect());
        for (address, want) in wanted.iter().filter(|(a, _)| !self.open.contains_key(a)).collect::<Vec<_>>() {
            // Virtual IPs are many, and this proxy's alone.
            if !want.options.transparent && !changed.contains(address) && socket::is_taken(*address) {
                tracing::error!(proxy = %self.proxy, %address,
                    "another listener of this user has the address too: connections are split between them at random; stop one (ss -ltnp shows which)");
            }
            self.bind_one(*address, *want, &mut bound);
        }
        self.tried = Instant::now();
        bound
    }

    fn bind_one(&mut self, address: SocketAddr, want: Wanted, bound: &mut Bound) {
        let sockets: Result<Vec<_>, _> =
            self.workers.iter().map(|_| socket::listen_tcp(address, want.options)).collect();
        match sockets {
            Ok(sockets) => {
                let live = Count::default();
                for (list, socket) in bound.0.iter_mut().zip(sockets) {
                    list.push(Opened { address, purpose: want.purpose, socket, live: live.clone() });
                }
                self.open.insert(address, want);
                if self.missing.remove(&address).is_some() {
                    tracing::info!(proxy = %self.proxy, %address, "listener bound at last");
                }
            }
            Err(error) => {
                let error = error.to_string();
                // Said once, not at every attempt.
                if self.missing.get(&address).is_none_or(|(_, said)| *said != error) {
                    tracing::error!(proxy = %self.proxy, error, retry_s = RETRY_EVERY.as_secs(), "listener left out; the others serve");
                }
                self.missing.insert(address, (want, error));
            }
        }
    }

    /// Workers accept from now on.
    pub(crate) async fn accept(&self, bound: Bound) {
        for (worker, sockets) in self.workers.iter().zip(bound.0).filter(|(_, sockets)| !sockets.is_empty()) {
            // A worker only ends with the process.
            let _ = worker.send(Command::Open(sockets)).await;
        }
    }

    /// Closes what isn't in `wanted`; live connections go on.
    pub(crate) async fn retain(&mut self, wanted: &BTreeMap<SocketAddr, Wanted>) {
        let gone = self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        self.close(gone).await;
    }

    async fn close(&mut self, addresses: Vec<SocketAddr>) {
        if addresses.is_empty() {
            return;
        }
        for address in &addresses {
            self.open.remove(address);
        }
        for worker in &self.workers {
            let _ = worker.send(Command::Close(addresses.clone())).await;
        }
    }

    /// When to try again what is missing; None when nothing is.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        (!self.missing.is_empty()).then(|| self.tried + RETRY_EVERY)
    }

    pub(crate) async fn retry(&mut self) {
        let mut bound = Bound(self.workers.iter().map(|_| Vec::new()).collect());
        let missing: Vec<_> = self.missing.iter().map(|(address, (want, _))| (*address, *want)).collect();
        for (address, want) in missing {
            self.bind_one(address, want, &mut bound);
        }
        self.tried = Instant::now();
        self.accept(bound).await;
    }

    /// Stops accepting; each of the answers comes when a worker's last connection has ended.
    pub(crate) async fn drain(&mut self) -> Vec<oneshot::Receiver<()>> {
        self.open.clear();
        self.missing.clear();
        let mut waiting = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, drained) = oneshot::channel();
            let _ = worker.send(Command::Drain(done)).await;
            waiting.push(drained);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Purpose;
    use crate::socket::BindOptions;

    fn wanted(list: &[(SocketAddr, Purpose)]) -> BTreeMap<SocketAddr, Wanted> {
        list.iter().map(|(a, purpose)| (*a, Wanted { purpose: *purpose, options: BindOptions::default() })).collect()
    }

    fn drained(commands: &mut mpsc::Receiver<Command>) -> Vec<String> {
        std::iter::from_fn(|| commands.try_recv().ok())
            .map(|command| match command {
                Command::Open(opened) => format!("open {}", opened.len()),
                Command::Close(addresses) => format!("close {}", addresses.len()),
                Command::Drain(_) => "drain".to_owned(),
            })
            .collect()
    }

    /// A port that nobody has just now.
    fn free() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_socket_whose_purpose_changed_is_opened_anew_and_stays_open() {
        let (sender, mut commands) = mpsc::channel(8);
        let mut sockets = Sockets::new("t", vec![sender]);
        let address = free();
        for purpose in [Purpose::Own, Purpose::CaptureOutbound] {
            let wanted = wanted(&[(address, purpose)]);
            let bound = sockets.bind(&wanted).await;
            sockets.accept(bound).await;
            sockets.retain(&wanted).await;
        }
        assert_eq!(drained(&mut commands), ["open 1", "close 1", "open 1"]);
        sockets.retain(&BTreeMap::new()).await;
        assert_eq!(drained(&mut commands), ["close 1"]);
    }

    #[tokio::test]
    async fn a_port_that_was_taken_is_bound_when_it_is_free() {
        let (sender, mut commands) = mpsc::channel(8);
        let mut sockets = Sockets::new("t", vec![sender]);
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = sockets.bind(&wanted(&[(holder.local_addr().unwrap(), Purpose::Own)])).await;
        sockets.accept(bound).await;
        assert!(sockets.retry_at().is_some());
        sockets.retry().await;
        assert!(drained(&mut commands).is_empty() && sockets.retry_at().is_some());
        drop(holder);
        sockets.retry().await;
        assert_eq!(drained(&mut commands), ["open 1"]);
        assert!(sockets.retry_at().is_none());
    }
}
