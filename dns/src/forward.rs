//! What isn't ours, relayed to the original resolvers byte by byte (only the id is ours on the way): failover, a fresh
//! source port and a random id per query, answers checked against id, question and address. It must not know mesh names.

use crate::answer::Why;
use crate::metrics::Metrics;
use crate::resolv::{Plan, Resolvers};
use crate::{Config, Times, wire};
use snapshot::Reader;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::future::{Future, poll_fn};
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tracing::{debug, warn};

const MESSAGE_BYTES_MAX: usize = 65_535;
/// Rounds after which a refusal counts, though another server may still answer.
const REFUSED_ROUNDS: u32 = 2;
const NO_ERROR: u8 = 0;
const NAME_ERROR: u8 = 3;

/// How the client asked, and so how upstreams are asked: truncated answers go back as they are over UDP, and the
/// client comes again over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
pub(crate) struct Forwarder {
    resolvers: Resolvers,
    times: Times,
    mark: Option<u32>,
    metrics: Arc<Metrics>,
    /// Where the control plane's rules stand.
    reader: Reader,
    /// One of `Config::relays_max` for every query that waits for resolvers, over UDP or TCP.
    room: Arc<Semaphore>,
    /// Addresses our pending queries come from: a client with one of them is ourselves, caught by interception.
    pending: Mutex<HashSet<SocketAddr>>,
    /// Keyed by the kernel's randomness; hashing a counter with it gives ids nobody can foresee.
    secret: RandomState,
    counter: AtomicU64,
}

/// A client's query, and what decides whom to ask.
struct Question<'a> {
    bytes: &'a [u8],
    name: Option<String>,
    deadline: Instant,
}

/// One UDP question on its way to one resolver.
struct Try<'a> {
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    query: Arc<[u8]>,
    local: SocketAddr,
    /// Ends with a reply to this very query, or because the server can't be reached. `None`: it has ended.
    hearing: Option<Hearing>,
    forwarder: &'a Forwarder,
}

type Hearing = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send>>;

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.forwarder.pending().remove(&self.local);
    }
}

impl Forwarder {
    pub(crate) fn new(resolvers: Resolvers, config: &Config, metrics: Arc<Metrics>, reader: Reader) -> Self {
        let (pending, counter) = (Mutex::default(), AtomicU64::new(0));
        let room = Arc::new(Semaphore::new(config.relays_max));
        let (times, mark) = (config.times, config.mark);
        Self { resolvers, times, mark, metrics, reader, room, pending, secret: RandomState::new(), counter }
    }

    /// A place among the queries that wait for resolvers. `None`: all are taken.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// The reply of a resolver, under the client's id.
    pub(crate) async fn relay(&self, query: &[u8], client: SocketAddr, transport: Transport) -> Result<Vec<u8>, Why> {
        if self.pending().contains(&client) {
            warn!(%client, "a query that was relayed came back: traffic of this process must be exempt from DNS capture");
            return Err(Why::Loop);
        }
        let start = Instant::now();
        let deadline = start + self.times.overall;
        let question = Question { bytes: query, name: wire::question_name(query), deadline };
        let plan = self.plan(&question);
        if plan.servers.is_empty() {
            return Err(Why::NoResolver);
        }
        let reply = match transport {
            Transport::Udp => self.over_udp(&question, plan, false).await,
            Transport::Tcp => self.over_tcp(&question, plan).await,
        };
        self.metrics.upstream(start.elapsed(), reply.is_some());
        let mut reply = reply.ok_or(Why::Unanswered)?;
        wire::set_id(&mut reply, wire::id(query).unwrap_or_default());
        Ok(reply)
    }

    fn plan(&self, question: &Question<'_>) -> Plan {
        let snapshot = self.reader.load();
        self.resolvers.plan(question.name.as_deref(), &snapshot.dns().upstreams, Instant::now())
    }

    /// Asks the servers one after the other, still listening to those asked before; then all again, until one answers.
    /// Servers that are named only meanwhile are asked too. `whole`: a truncated answer is none.
    async fn over_udp(&self, question: &Question<'_>, plan: Plan, whole: bool) -> Option<Vec<u8>> {
        let mut asking =
            Asking { forwarder: self, question, whole, asked: Vec::new(), tries: Vec::new(), second_best: None };
        plan.probe.into_iter().for_each(|server| asking.ask(server));
        let one_try = self.share(plan.one_try.unwrap_or(self.times.one_try), plan.servers.len());
        let (mut servers, mut round) = (plan.servers, 1);
        while Instant::now() < question.deadline {
            let mut waiting = servers.iter();
            while let Some(server) = waiting.next() {
                asking.ask(*server);
                let reply = asking.listen(one_try, waiting.len() > 0).await;
                if reply.is_some() {
                    return reply;
                }
            }
            servers = self.plan(question).servers;
            servers.retain(|server| !asking.asked.contains(server));
            if !servers.is_empty() {
                continue;
            }
            let rounds = if asking.second_best.is_some() { REFUSED_ROUNDS } else { u32::MAX };
            if round >= plan.attempts.unwrap_or(u32::MAX).min(rounds) || !asking.again() {
                break;
            }
            round += 1;
            let reply = asking.listen(one_try, false).await;
            if reply.is_some() {
                return reply;
            }
        }
        asking.second_best
    }

    /// A resolver that can't be asked over TCP may still know over UDP what isn't too long for it.
    async fn over_tcp(&self, question: &Question<'_>, plan: Plan) -> Option<Vec<u8>> {
        let mut second_best = None;
        let one_try = self.share(self.times.one_try_tcp, plan.servers.len() + 1);
        for server in plan.servers {
            let query = self.with_own_id(question.bytes);
            let until = question.deadline.min(Instant::now() + one_try);
            match timeout_at(until.into(), self.exchange(server, &query)).await {
                Ok(Ok(reply)) => match judge(&query, &reply) {
                    Verdict::Final => return Some(reply),
                    Verdict::Refusal => second_best = Some(reply),
                    Verdict::Foreign => warn!(%server, "DNS resolver answered another question over TCP"),
                },
                Ok(Err(error)) => debug!(%server, %error, "DNS resolver can't be asked over TCP"),
                Err(_) => self.resolvers.silent(server, Instant::now()),
            }
        }
        let plan = self.plan(question);
        self.over_udp(question, plan, true).await.or(second_best)
    }

    /// `one_try`, or less if that many servers and a second chance wouldn't fit into the whole.
    fn share(&self, one_try: Duration, servers: usize) -> Duration {
        let shares = u32::try_from(servers).unwrap_or(u32::MAX).saturating_add(1);
        one_try.min(self.times.overall / shares)
    }

    /// Binds a fresh port that only this server can reach, and sends.
    fn begin(&self, server: SocketAddr, query: &[u8]) -> io::Result<Try<'_>> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let any: SocketAddr =
            if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        socket.bind(&any.into())?;
        socket.connect(&server.into())?;
        let query: Arc<[u8]> = self.with_own_id(query).into();
        let socket = std::net::UdpSocket::from(socket);
        let local = socket.local_addr()?;
        self.pending().insert(local);
        let sent = socket.send(&query);
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let hearing: Hearing = Box::pin(hear(socket.clone(), query.clone()));
        let attempt = Try { socket, server, query, local, hearing: Some(hearing), forwarder: self };
        // Sent before the runtime knows the socket: `try_send` would have to wait for its first event.
        sent.map(|_| attempt)
    }

    async fn exchange(&self, server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        let mut stream: TcpStream = socket.connect(server).await?;
        let local = stream.local_addr()?;
        self.pending().insert(local);
        let _forget = Forget { forwarder: self, local };
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), query].concat();
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await?;
        self.resolvers.answered(server);
        Ok(reply)
    }

    fn with_own_id(&self, query: &[u8]) -> Vec<u8> {
        let count = self.counter.fetch_add(1, Relaxed);
        let [high, low, ..] = self.secret.hash_one(count).to_be_bytes();
        let mut query = query.to_vec();
        wire::set_id(&mut query, u16::from_be_bytes([high, low]));
        query
    }

    fn pending(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a TCP query's address out of `pending`, however the exchange ends.
struct Forget<'a> {
    forwarder: &'a Forwarder,
    local: SocketAddr,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.forwarder.pending().remove(&self.local);
    }
}

/// A question on its way to several resolvers over UDP.
struct Asking<'a> {
    forwarder: &'a Forwarder,
    question: &'a Question<'a>,
    /// A truncated answer is none.
    whole: bool,
    /// Also those that couldn't be.
    asked: Vec<SocketAddr>,
    tries: Vec<Try<'a>>,
    /// The first refusal, for when nobody does better.
    second_best: Option<Vec<u8>>,
}

impl Asking<'_> {
    fn ask(&mut self, server: SocketAddr) {
        if self.asked.contains(&server) {
            return;
        }
        self.asked.push(server);
        match self.forwarder.begin(server, self.question.bytes) {
            Ok(attempt) => self.tries.push(attempt),
            Err(error) => debug!(%server, %error, "DNS resolver can't be asked"),
        }
    }

    /// Repeats the query to those that haven't ended. False: there are none.
    fn again(&self) -> bool {
        let mut open = self.tries.iter().filter(|t| t.hearing.is_some()).peekable();
        let any = open.peek().is_some();
        // What can't be sent now may be answered yet.
        open.for_each(|t| drop(t.socket.try_send(&t.query)));
        any
    }

    /// The answer, if there is one within `one_try` or before all have ended; with `more` servers to come, one that has
    /// ended is enough to go on.
    async fn listen(&mut self, one_try: Duration, more: bool) -> Option<Vec<u8>> {
        let until = self.question.deadline.min(Instant::now() + one_try);
        if let Ok(answer) = timeout_at(until.into(), poll_fn(|cx| self.poll(more, cx))).await {
            return answer;
        }
        let now = Instant::now();
        let open = self.tries.iter().filter(|t| t.hearing.is_some());
        open.for_each(|t| self.forwarder.resolvers.silent(t.server, now));
        None
    }

    fn poll(&mut self, more: bool, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut ended = false;
        for attempt in &mut self.tries {
            let Some(hearing) = &mut attempt.hearing else { continue };
            let Poll::Ready(heard) = hearing.as_mut().poll(cx) else { continue };
            (attempt.hearing, ended) = (None, true);
            match heard {
                Ok(reply) => {
                    self.forwarder.resolvers.answered(attempt.server);
                    match judge(&attempt.query, &reply) {
                        _ if self.whole && wire::is_truncated(&reply) => {}
                        Verdict::Final => return Poll::Ready(Some(reply)),
                        _ => {
                            self.second_best.get_or_insert(reply);
                        }
                    }
                }
                Err(error) => {
                    debug!(server = %attempt.server, %error, "DNS resolver can't be reached");
                    self.forwarder.resolvers.silent(attempt.server, Instant::now());
                }
            }
        }
        let all_ended = self.tries.iter().all(|t| t.hearing.is_none());
        if all_ended || (ended && more) { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// Waits for a reply to `query`, or for word that nobody listens there: ICMP errors alone don't make a socket readable.
async fn hear(socket: Arc<UdpSocket>, query: Arc<[u8]>) -> io::Result<Vec<u8>> {
    thread_local! {
        /// Room for the longest reply, once a thread.
        static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; MESSAGE_BYTES_MAX]);
    }
    let receive = || {
        ROOM.with_borrow_mut(|room| {
            let length = (&*SockRef::from(&*socket)).read(room)?;
            Ok(room.get(..length).unwrap_or_default().to_vec())
        })
    };
    loop {
        let bytes = socket.async_io(Interest::READABLE | Interest::ERROR, receive).await?;
        if judge(&query, &bytes) != Verdict::Foreign {
            return Ok(bytes);
        }
        // An impostor may be first: the server's own answer may still come.
        debug!("a DNS answer with a wrong id or question is ignored");
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// NOERROR or NXDOMAIN: goes to the client.
    Final,
    /// The server can't or won't: another one may.
    Refusal,
    /// Not an answer to this query.
    Foreign,
}

/// What a reply means for `query`.
pub(crate) fn judge(query: &[u8], reply: &[u8]) -> Verdict {
    let is_reply = reply.len() >= wire::HEADER_BYTES && reply.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !is_reply || wire::id(query) != wire::id(reply) {
        return Verdict::Foreign;
    }
    let code = wire::rcode(reply).unwrap_or(NO_ERROR);
    let good = code == NO_ERROR || code == NAME_ERROR;
    let same = match (wire::question_bytes(query), wire::question_bytes(reply)) {
        _ if wire::question_count(query) == Some(0) => true,
        (Some(ours), Some(theirs)) => same_question(ours, theirs),
        // Servers that understood nothing repeat nothing.
        _ => !good && wire::question_count(reply) == Some(0),
    };
    match (same, good) {
        (false, _) => Verdict::Foreign,
        (true, true) => Verdict::Final,
        (true, false) => Verdict::Refusal,
    }
}

/// Names in any case; type and class exactly.
fn same_question(ours: &[u8], theirs: &[u8]) -> bool {
    match (ours.split_last_chunk::<4>(), theirs.split_last_chunk::<4>()) {
        (Some((our_name, our_kind)), Some((their_name, their_kind))) => {
            our_kind == their_kind && our_name.eq_ignore_ascii_case(their_name)
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
