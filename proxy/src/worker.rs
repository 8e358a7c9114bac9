//! One worker: a thread with a current-thread runtime, its own listeners, balancing state and upstream pools, so that a
//! request never changes core. Owns the life of connections; what they do is `connection`'s.

use crate::clock;
use crate::connection;
use crate::error::{ConnError, Reason};
use crate::identity::Identities;
use crate::joined::{self, Start};
use crate::listener::Purpose;
use crate::metrics::{Direction, Metrics};
use crate::quota::{self, Count, Counted};
use crate::socket::{Acceptor, ConnectOptions, Mode};
use crate::stream::Stream;
use crate::traffic::EndpointKey;
use crate::upstream::Upstreams;
use crate::upstream::balance::Rng;
use snapshot::{CachedReader, Reader, Role, Snapshot};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Commands that wait for a busy worker.
pub(crate) const COMMANDS_MAX: usize = 64;
/// Of thousands of listeners that come or go, so many are seen to before traffic is again: about 0.2 ms.
const LISTENERS_AT_ONCE: usize = 32;
/// Idle upstream connections are closed after this long.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// Pools and balancing state of services that are gone are dropped this often at most.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// A full listener is logged this often at most.
const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(1);

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
    /// Connections of this address, of all workers.
    pub live: Count,
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
    /// Changes with each publish.
    pub published: watch::Receiver<()>,
    /// Connections of the process.
    pub live: Count,
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
    /// Refused for a limit since the log last said so, and when that was.
    refused: Cell<(u64, Option<Instant>)>,
}

/// One live connection of a worker: counted until dropped, after a panic too.
struct Live(Rc<Worker>);

impl Live {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.live.set(worker.live.get() + 1);
        Self(worker.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
        if self.0.live.get() == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

/// A connection's task. No `async` block: that has room for what it awaits a second time, as what it captures.
struct Connection<F> {
    task: Pin<Box<F>>,
    _live: Live,
}

impl<F: Future<Output = ()>> Future for Connection<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.task.as_mut().poll(cx)
    }
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
            refused: Cell::new((0, None)),
            shared,
        }
    }

    /// The snapshot in force, for one decision.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.reader.borrow_mut().load().clone()
    }

    /// The same without counting who holds it; `decide` mustn't ask for it again.
    pub(crate) fn with_snapshot<R>(&self, decide: impl FnOnce(&Snapshot) -> R) -> R {
        decide(self.reader.borrow_mut().load())
    }

    /// A number below `bound`, for weights.
    pub(crate) fn draw(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    /// Runs a connection on this worker and counts it until it ends.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let live = Live::new(self);
        // Boxed: the runtime moves what it is given some seven times, 2 KiB each.
        tokio::task::spawn_local(Connection { task: Box::pin(task), _live: live });
    }

    /// Places in the process and at the listener, or which of the two is full.
    fn admit(&self, listener: SocketAddr, live: &Count) -> Result<[Counted; 2], ConnError> {
        let full = |detail: String| ConnError::new(Reason::Overflow, detail);
        let snapshot = self.snapshot();
        let max = quota::process_max(snapshot.tables().proxy.kind);
        let in_process =
            self.shared.live.enter(max).ok_or_else(|| full(format!("this proxy has its {max} connections")))?;
        let own_max = snapshot.listener(listener).and_then(|l| match &l.row.role {
            Role::Gateway { connections_max, .. } => connections_max.map(|n| n as usize),
            _ => None,
        });
        let max = own_max.unwrap_or(max);
        let at_listener = live.enter(max).ok_or_else(|| full(format!("{listener} has its {max} connections")))?;
        Ok([in_process, at_listener])
    }

    /// A place in the process for a stream of a tunnel: it counts as a connection.
    pub(crate) fn admit_stream(&self) -> Result<Counted, ConnError> {
        let max = quota::process_max(self.snapshot().tables().proxy.kind);
        let full = || ConnError::new(Reason::Overflow, format!("this proxy has its {max} connections"));
        self.shared.live.enter(max).ok_or_else(full)
    }

    /// Counts each, and says so once in a while: a flood mustn't become one of log lines.
    pub(crate) fn refuse(&self, direction: Direction, failure: &ConnError) {
        self.shared.metrics.handle(direction, "", "").failed(failure.reason);
        let (count, said) = self.refused.get();
        if said.is_some_and(|at| at.elapsed() < REFUSALS_SAID_EVERY) {
            return self.refused.set((count + 1, said));
        }
        tracing::warn!(count = count + 1, "connections closed at once: {failure}");
        self.refused.set((0, Some(Instant::now())));
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
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64).wrapping_add(index as u64 * 7919);
    // Never sent elsewhere, so that a wake-up takes no lock; it can only be made where it runs.
    let (made, outcome) = std::sync::mpsc::channel();
    std::thread::Builder::new().name(format!("weir-{index}")).spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let built = runtime.enable_all().on_thread_unpark(clock::begin_turn).build_local(Default::default());
        match built {
            Ok(runtime) => {
                // Whoever started us waits for the word.
                let _ = made.send(Ok(()));
                runtime.block_on(run(Rc::new(Worker::new(shared, seed)), commands));
            }
            Err(error) => drop(made.send(Err(error))),
        }
    })?;
    outcome.recv().unwrap_or_else(|_| Err(std::io::Error::other("the worker's thread ended at once")))?;
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
                Some(Command::Open(opened)) => for (at, listener) in opened.into_iter().enumerate() {
                    breathe(at).await;
                    let address = listener.address;
                    let task = tokio::task::spawn_local(accept(worker.clone(), listener));
                    if let Some(old) = listeners.insert(address, task.abort_handle()) {
                        old.abort();
                    }
                },
                Some(Command::Close(addresses)) => for (at, address) in addresses.into_iter().enumerate() {
                    breathe(at).await;
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

/// Connections have their turn between some listeners and the next.
async fn breathe(at: usize) {
    if at % LISTENERS_AT_ONCE == LISTENERS_AT_ONCE - 1 {
        tokio::task::yield_now().await;
    }
}

async fn accept(worker: Rc<Worker>, opened: Opened) {
    let Opened { address, purpose, socket, live } = opened;
    let mut acceptor = match Acceptor::new(socket) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            return tracing::error!(%address, %error, "listener can't be watched; its connections aren't served");
        }
    };
    loop {
        let (stream, peer) = acceptor.accept().await;
        match worker.admit(address, &live) {
            Ok(places) => {
                let (listener, destination) = (address, None);
                begin(&worker, connection::Arrival { stream, peer, listener, purpose, destination, places });
            }
            Err(failure) => {
                let direction = match purpose {
                    Purpose::CaptureInbound => Direction::Inbound,
                    Purpose::Own | Purpose::CaptureOutbound => Direction::Outbound,
                };
                worker.refuse(direction, &failure);
            }
        }
    }
}

/// Each kind of connection has a task of its own kind, no larger than it needs.
fn begin(worker: &Rc<Worker>, arrival: connection::Arrival) {
    match joined::start(worker, arrival) {
        Start::Joined(serving, mut joined) => worker.spawn(async move { joined.run(&serving, None).await }),
        Start::Chosen(serving, chosen) => worker.spawn(async move { chosen.run(&serving, None).await }),
        Start::Other(arrival) => worker.spawn(connection::serve(worker.clone(), arrival)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Rc<Worker> {
        let (_publisher, reader) = snapshot::cell();
        let (_, draining) = watch::channel(false);
        let (_, published) = watch::channel(());
        let (identities, metrics) = (Arc::new(Identities::new()), Metrics::new());
        let shared = Shared { reader, identities, metrics, mode: None, draining, published, live: Count::default() };
        Rc::new(Worker::new(shared, 1))
    }

    #[tokio::test]
    async fn a_panic_in_one_connection_ends_only_that_connection() {
        let local = tokio::task::LocalSet::new();
        let run = async {
            let worker = worker();
            worker.spawn(async { panic!("a connection's own fault") });
            worker.spawn(async {});
            assert_eq!(worker.live.get(), 2);
            worker.drained().await;
            assert_eq!(worker.live.get(), 0);
        };
        local.run_until(run).await;
    }
}
