//! One worker: a thread with a current-thread runtime, its own listeners, balancing state and upstream pools, so that a
//! request never changes core. Owns the life of connections; what they do is `connection`'s.

use crate::connection;
use crate::identity::Identities;
use crate::listener::Purpose;
use crate::metrics::Metrics;
use crate::socket::{Acceptor, ConnectOptions, Mode};
use crate::stream::Stream;
use crate::traffic::EndpointKey;
use crate::upstream::Upstreams;
use crate::upstream::balance::Rng;
use snapshot::{CachedReader, Reader, Snapshot};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Commands that wait for a busy worker.
pub(crate) const COMMANDS_MAX: usize = 64;
/// Idle upstream connections are closed after this long.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Pools and balancing state of services that are gone are dropped this often at most.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// What the coordinator asks of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    Open(Vec<Opened>),
    Close(Vec<SocketAddr>),
    /// Stop accepting, let connections end; answered when the last one has.
    Drain(oneshot::Sender<()>),
}

/// A bound socket and how its connections find their row.
#[derive(Debug)]
pub(crate) struct Opened {
    pub address: SocketAddr,
    pub purpose: Purpose,
    pub socket: std::net::TcpListener,
}

/// What all workers of a proxy share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub reader: Reader,
    pub identities: Arc<Identities>,
    pub metrics: Arc<Metrics>,
    pub mode: Option<Mode>,
    /// True from the start of draining.
    pub draining: watch::Receiver<bool>,
}

/// What every connection of this worker uses.
pub(crate) struct Worker {
    pub shared: Shared,
    pub upstreams: Upstreams,
    pub pools: Rc<crate::http::Pools<EndpointKey, Stream>>,
    pub http: crate::traffic::HttpSettings,
    reader: RefCell<CachedReader>,
    rng: RefCell<Rng>,
    live: Cell<usize>,
    idle: Notify,
}

impl Worker {
    fn new(shared: Shared, seed: u64) -> Self {
        Self {
            upstreams: Upstreams::new(ConnectOptions::default(), seed),
            pools: Rc::new(crate::http::Pools::new(POOL_IDLE)),
            http: crate::traffic::HttpSettings::default(),
            reader: RefCell::new(shared.reader.cached()),
            rng: RefCell::new(Rng::new(seed ^ 0x9e37_79b9_7f4a_7c15)),
            live: Cell::new(0),
            idle: Notify::new(),
            shared,
        }
    }

    /// The snapshot in force, for one decision.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.reader.borrow_mut().load().clone()
    }

    /// A number below `bound`, for weights.
    pub(crate) fn draw(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    /// Runs a connection on this worker and counts it until it ends.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        self.live.set(self.live.get() + 1);
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            task.await;
            worker.live.set(worker.live.get() - 1);
            if worker.live.get() == 0 {
                worker.idle.notify_waiters();
            }
        });
    }

    async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.live.get() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn prune(&self) {
        let snapshot = self.snapshot();
        self.upstreams.prune(|name| snapshot.service(name).is_some());
        self.pools.prune(|key| key.is_current(&snapshot));
    }
}

/// Starts a worker's thread; it ends when the sender is dropped.
///
/// # Errors
/// The thread or its runtime can't be made.
pub(crate) fn start(shared: Shared, index: usize) -> std::io::Result<mpsc::Sender<Command>> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64).wrapping_add(index as u64 * 7919);
    std::thread::Builder::new().name(format!("weir-{index}")).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, run(Rc::new(Worker::new(shared, seed)), commands));
    })?;
    Ok(sender)
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>) {
    let mut listeners: HashMap<SocketAddr, tokio::task::AbortHandle> = HashMap::new();
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    loop {
        tokio::select! {
            _ = prune.tick() => worker.prune(),
            command = commands.recv() => match command {
                None => return,
                Some(Command::Open(opened)) => for listener in opened {
                    let address = listener.address;
                    let task = tokio::task::spawn_local(accept(worker.clone(), listener));
                    if let Some(old) = listeners.insert(address, task.abort_handle()) {
                        old.abort();
                    }
                },
                Some(Command::Close(addresses)) => for address in addresses {
                    if let Some(task) = listeners.remove(&address) {
                        task.abort();
                    }
                },
                Some(Command::Drain(done)) => {
                    listeners.drain().for_each(|(_, task)| task.abort());
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move {
                        worker.drained().await;
                        // The coordinator may have given up by then.
                        let _ = done.send(());
                    });
                }
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, opened: Opened) {
    let Opened { address, purpose, socket } = opened;
    let mut acceptor = match Acceptor::new(socket) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            return tracing::error!(%address, %error, "listener can't be watched; its connections aren't served");
        }
    };
    loop {
        let (stream, peer) = acceptor.accept().await;
        let arrival = connection::Arrival { stream, peer, listener: address, purpose };
        worker.spawn(connection::serve(worker.clone(), arrival));
    }
}
