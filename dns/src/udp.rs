//! UDP sockets: a thread each that blocks in `recvmmsg` and answers with few `sendmmsg`, without allocating;
//! what takes longer goes to a task on the runtime. What to answer is `server`'s matter.

use crate::answer::{self, Why};
use crate::forward::Transport;
use crate::metrics::{Source, Tally};
use crate::replies::Replies;
use crate::server::{self, Core, Outcome, respond};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg};
use snapshot::Snapshot;
use socket2::SockRef;
use std::io::{self, IoSliceMut};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tracing::warn;

/// A query over UDP; more isn't read and makes the message malformed.
const QUERY_BYTES_MAX: usize = 2048;
/// Datagrams taken from the kernel at once.
pub(crate) const BATCH: usize = 32;
/// Queries on their way from the thread to the runtime; a place among those that wait for resolvers is theirs already.
const JOBS_MAX: usize = 1024;
/// Pause after an error of the socket that isn't a client's doing, so that a lasting one doesn't spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A query on its way to the runtime.
struct Job {
    message: Vec<u8>,
    client: SocketAddr,
    start: Instant,
    /// Its place among those that wait for resolvers.
    place: OwnedSemaphorePermit,
}

/// The two halves of a UDP socket's service: the thread, and the task for what it hands over.
pub(crate) struct Udp {
    core: Arc<Core>,
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    jobs: mpsc::Receiver<Job>,
    go: std::sync::mpsc::Sender<()>,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Drop for Udp {
    /// An unconnected socket reports an error here and wakes its reader all the same.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = SockRef::from(&*self.socket).shutdown(Shutdown::Both);
    }
}

impl Udp {
    /// Starts the thread, which answers nothing before [`Udp::serve`].
    ///
    /// # Errors
    /// When there can't be another thread.
    pub(crate) fn new(core: Arc<Core>, socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let (socket, stop) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let (sender, jobs) = mpsc::channel(JOBS_MAX);
        let (go, gone) = std::sync::mpsc::channel();
        let v4 = socket.local_addr()?.is_ipv4();
        let answerer = Answerer {
            core: core.clone(),
            socket: socket.clone(),
            stop: stop.clone(),
            sender,
            tally: Tally::default(),
        };
        std::thread::Builder::new().name("weir-dns-udp".into()).spawn(move || match gone.recv() {
            Ok(()) if v4 => answerer.run::<SockaddrIn>(|a| SocketAddrV4::from(a).into()),
            Ok(()) => answerer.run::<SockaddrIn6>(|a| SocketAddrV6::from(a).into()),
            Err(_) => {}
        })?;
        Ok(Self { core, socket, stop, jobs, go })
    }

    /// Serves until `shutdown` changes.
    pub(crate) async fn serve(mut self, mut shutdown: watch::Receiver<bool>) {
        let _ = self.go.send(());
        let mut relays = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = shutdown.changed() => return,
                Some(_) = relays.join_next() => {}
                Some(job) = self.jobs.recv() => {
                    let (core, socket) = (self.core.clone(), self.socket.clone());
                    relays.spawn(relay(core, socket, job));
                }
                else => return,
            }
        }
    }
}

async fn relay(core: Arc<Core>, socket: Arc<UdpSocket>, job: Job) {
    let Job { message, client, start, place } = job;
    let bytes = server::relay(&core, &message, client, Transport::Udp).await;
    drop(place);
    // A full send buffer loses the reply, as a full queue on the way would: clients ask again.
    let sent = SockRef::from(&*socket).send_to_with_flags(&bytes, &client.into(), nix::libc::MSG_DONTWAIT);
    match sent {
        Ok(_) if !bytes.is_empty() => core.replied(client, &bytes, Source::Upstream, start),
        _ => core.metrics.dropped(1),
    }
}

/// What the thread owns.
struct Answerer {
    core: Arc<Core>,
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    sender: mpsc::Sender<Job>,
    tally: Tally,
}

/// One batch, in memory that is allocated once.
struct Batch<S> {
    headers: MultiHeaders<S>,
    queries: Box<[[u8; QUERY_BYTES_MAX]]>,
    /// Length of each query and who asked.
    from: [(usize, Option<S>); BATCH],
}

impl<S: SockaddrLike + Copy> Batch<S> {
    fn new() -> Self {
        let queries = vec![[0; QUERY_BYTES_MAX]; BATCH].into();
        Self { headers: MultiHeaders::preallocate(BATCH, None), queries, from: [(0, None); BATCH] }
    }

    /// Waits for one datagram and takes those that are there with it: how many.
    fn receive(&mut self, socket: &UdpSocket) -> nix::Result<usize> {
        let mut queries = self.queries.iter_mut();
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(queries.next().map_or(&mut [], |q| q.as_mut_slice()))]);
        let flags = MsgFlags::MSG_WAITFORONE;
        let messages = recvmmsg(socket.as_raw_fd(), &mut self.headers, &mut slices, flags, None)?;
        let mut count = 0;
        for (message, from) in messages.zip(&mut self.from) {
            *from = (message.bytes, message.address);
            count += 1;
        }
        Ok(count)
    }
}

impl Answerer {
    fn run<S: SockaddrLike + Copy>(mut self, to_std: fn(S) -> SocketAddr) {
        let (mut batch, mut replies) = (Batch::<S>::new(), Replies::new(&self.socket));
        let mut reader = self.core.reader.cached();
        loop {
            let received = batch.receive(&self.socket);
            if self.stop.load(Relaxed) {
                return;
            }
            match received {
                Ok(count) => self.answer((&batch, count), &mut replies, reader.load(), to_std),
                // ICMP errors of replies sent earlier surface here; they say nothing about the next datagram.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
                Err(error) => {
                    warn!(%error, "DNS socket failed");
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    fn answer<S: SockaddrLike + Copy>(
        &mut self,
        (batch, count): (&Batch<S>, usize),
        replies: &mut Replies,
        snapshot: &Snapshot,
        to_std: fn(S) -> SocketAddr,
    ) {
        let start = Instant::now();
        let mut lost = 0;
        for (query, (length, from)) in batch.queries.iter().zip(&batch.from).take(count) {
            let (Some(from), Some(message)) = (from, query.get(..*length)) else { continue };
            let client = to_std(*from);
            if client.port() == 0 {
                continue;
            }
            let room = replies.room();
            let length = match respond(snapshot, &self.core.rules, message, room) {
                Outcome::Reply(length) => length,
                Outcome::Silent => 0,
                Outcome::Relay => match self.hand_over(message, client, start) {
                    Ok(()) => continue,
                    Err(()) => answer::failed(message, Why::Busy, room).unwrap_or(0),
                },
            };
            if length == 0 {
                lost += 1;
                continue;
            }
            let reply = room.get(..length).unwrap_or_default();
            self.tally.replied(reply);
            self.core.log(client, reply, Source::Local, start);
            lost += replies.add(length, client, &self.socket);
        }
        lost += replies.flush(&self.socket);
        self.core.metrics.dropped(lost);
        self.core.metrics.add(&mut self.tally, start.elapsed());
    }

    /// `Err`: too many are waiting already.
    fn hand_over(&self, message: &[u8], client: SocketAddr, start: Instant) -> Result<(), ()> {
        let place = self.core.forwarder.place().ok_or(())?;
        let job = Job { message: message.to_vec(), client, start, place };
        self.sender.try_send(job).map_err(drop)
    }
}
