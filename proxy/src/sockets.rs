//! The sockets that are open and those that should be: binds what a snapshot wants, one socket a worker, closes what is
//! gone, and tries again what couldn't be bound. Must not know what a listener does.

use crate::listener::{self, Change, Wanted};
use crate::quota::Count;
use crate::socket::{self, Mode};
use crate::worker::{Command, Opened};
use snapshot::Tables;
use std::collections::{BTreeMap, HashSet};
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

    /// From what is open or missing to `tables`, with `old` in force.
    pub(crate) fn change(&self, old: &Tables, tables: &Tables, mode: Option<Mode>) -> Change {
        listener::change(old, tables, mode, self.uncaptured).unwrap_or_else(|| Change {
            sockets: self.difference(&listener::plan(tables, mode)),
            uncaptured: listener::uncaptured(tables, mode),
        })
    }

    fn difference(&self, wanted: &BTreeMap<SocketAddr, Wanted>) -> Vec<(SocketAddr, Option<Wanted>)> {
        let gone = self.open.keys().chain(self.missing.keys()).filter(|address| !wanted.contains_key(address));
        let new = wanted.iter().filter(|(address, want)| self.open.get(address) != Some(want));
        gone.map(|address| (*address, None)).chain(new.map(|(address, want)| (*address, Some(*want)))).collect()
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

    /// Binds what is new. A socket that can't be bound stops only itself.
    pub(crate) async fn bind(&mut self, change: &Change) -> Bound {
        let wanted = || change.sockets.iter().filter_map(|(address, want)| Some((address, want.as_ref()?)));
        // A socket whose purpose changed must be closed before its successor is bound.
        let is_changed = |(address, want): &(&SocketAddr, &Wanted)| self.open.get(*address).is_some_and(|w| w != *want);
        let changed: HashSet<SocketAddr> = wanted().filter(is_changed).map(|(address, _)| *address).collect();
        self.close(changed.iter().copied().collect()).await;
        for (address, _) in change.sockets.iter().filter(|(_, want)| want.is_none()) {
            self.missing.remove(address);
        }
        let mut bound = Bound(self.workers.iter().map(|_| Vec::new()).collect());
        for (address, want) in wanted() {
            if self.open.contains_key(address) {
                continue;
            }
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

    /// Closes what is gone; live connections go on.
    pub(crate) async fn close_gone(&mut self, change: &Change) {
        let gone = change.sockets.iter().filter(|(address, want)| want.is_none() && self.open.contains_key(address));
        self.close(gone.map(|(address, _)| *address).collect()).await;
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

    async fn follow(sockets: &mut Sockets, wanted: &BTreeMap<SocketAddr, Wanted>) {
        let change = Change { sockets: sockets.difference(wanted), uncaptured: 0 };
        let bound = sockets.bind(&change).await;
        sockets.accept(bound).await;
        sockets.close_gone(&change).await;
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
            follow(&mut sockets, &wanted(&[(address, purpose)])).await;
        }
        assert_eq!(drained(&mut commands), ["open 1", "close 1", "open 1"]);
        follow(&mut sockets, &BTreeMap::new()).await;
        assert_eq!(drained(&mut commands), ["close 1"]);
    }

    #[tokio::test]
    async fn a_port_that_was_taken_is_bound_when_it_is_free() {
        let (sender, mut commands) = mpsc::channel(8);
        let mut sockets = Sockets::new("t", vec![sender]);
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        follow(&mut sockets, &wanted(&[(holder.local_addr().unwrap(), Purpose::Own)])).await;
        assert!(sockets.retry_at().is_some());
        sockets.retry().await;
        assert!(drained(&mut commands).is_empty() && sockets.retry_at().is_some());
        drop(holder);
        sockets.retry().await;
        assert_eq!(drained(&mut commands), ["open 1"]);
        assert!(sockets.retry_at().is_none());
    }
}
