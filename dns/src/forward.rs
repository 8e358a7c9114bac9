//! What isn't ours, relayed to the original resolvers byte by byte (only the id is ours on the way): failover, a fresh
//! source port and a random id per query, answers checked against id, question and address. It must not know mesh names.

use crate::answer::Why;
use crate::metrics::Metrics;
use crate::resolv::Resolvers;
use crate::{Times, wire};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
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
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep_until, timeout, timeout_at};
use tracing::{debug, warn};

const MESSAGE_BYTES_MAX: usize = 65_535;
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
    /// Addresses our pending queries come from: a client with one of them is ourselves, caught by interception.
    pending: Mutex<HashSet<SocketAddr>>,
    /// Keyed by the kernel's randomness; hashing a counter with it gives ids nobody can foresee.
    secret: RandomState,
    counter: AtomicU64,
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
    pub(crate) fn new(resolvers: Resolvers, times: Times, mark: Option<u32>, metrics: Arc<Metrics>) -> Self {
        let (pending, counter) = (Mutex::default(), AtomicU64::new(0));
        Self { resolvers, times, mark, metrics, pending, secret: RandomState::new(), counter }
    }

    /// The reply of a resolver, under the client's id.
    pub(crate) async fn relay(&self, query: &[u8], client: SocketAddr, transport: Transport) -> Result<Vec<u8>, Why> {
        if self.pending().contains(&client) {
            warn!(%client, "a query that was relayed came back: traffic of this process must be exempt from DNS capture");
            return Err(Why::Loop);
        }
        let start = Instant::now();
        if self.resolvers.ordered(start).is_empty() {
            return Err(Why::NoResolver);
        }
        let deadline = start + self.times.overall;
        let reply = match transport {
            Transport::Udp => self.over_udp(query, deadline).await,
            Transport::Tcp => timeout_at(deadline.into(), self.over_tcp(query)).await.unwrap_or_default(),
        };
        self.metrics.upstream(start.elapsed(), reply.is_some());
        let mut reply = reply.ok_or(Why::Unanswered)?;
        wire::set_id(&mut reply, wire::id(query).unwrap_or_default());
        Ok(reply)
    }

    /// Asks the servers one after the other, still listening to those asked before; then all again, until one answers.
    async fn over_udp(&self, query: &[u8], deadline: Instant) -> Option<Vec<u8>> {
        let servers = self.resolvers.ordered(Instant::now());
        let mut waiting = servers.iter();
        let mut tries: Vec<Try<'_>> = Vec::with_capacity(servers.len());
        let mut second_best = None;
        while Instant::now() < deadline {
            match waiting.next() {
                Some(server) => match self.ask(*server, query) {
                    Ok(attempt) => tries.push(attempt),
                    Err(error) => debug!(%server, %error, "DNS resolver can't be asked"),
                },
                None => tries.iter().filter(|t| t.hearing.is_some()).for_each(|t| drop(t.socket.try_send(&t.query))),
            }
            let until = deadline.min(Instant::now() + self.times.one_try);
            let more = waiting.len() > 0;
            let answer = tokio::select! {
                answer = poll_fn(|cx| poll_tries(&mut tries, &mut second_best, more, cx)) => answer,
                () = sleep_until(until.into()) => {
                    let now = Instant::now();
                    tries.iter().filter(|t| t.hearing.is_some()).for_each(|t| self.resolvers.silent(t.server, now));
                    continue;
                }
            };
            match answer {
                Some(bytes) => return Some(bytes),
                None if more => {}
                None => break,
            }
        }
        second_best
    }

    /// Binds a fresh port that only this server can reach, and sends.
    fn ask(&self, server: SocketAddr, query: &[u8]) -> io::Result<Try<'_>> {
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

    async fn over_tcp(&self, query: &[u8]) -> Option<Vec<u8>> {
        let mut second_best = None;
        for server in self.resolvers.ordered(Instant::now()) {
            let query = self.with_own_id(query);
            match timeout(self.times.one_try_tcp, self.exchange(server, &query)).await {
                Ok(Ok(reply)) => match judge(&query, &reply) {
                    Verdict::Final => return Some(reply),
                    Verdict::Refusal => second_best = Some(reply),
                    Verdict::Foreign => warn!(%server, "DNS resolver answered another question over TCP"),
                },
                Ok(Err(error)) => debug!(%server, %error, "DNS resolver can't be asked over TCP"),
                Err(_) => self.resolvers.silent(server, Instant::now()),
            }
        }
        second_best
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

/// Ready with a final answer; or with `None` when no open try is left, or one ended badly and there is another server.
fn poll_tries(
    tries: &mut [Try<'_>],
    second_best: &mut Option<Vec<u8>>,
    more: bool,
    cx: &mut Context<'_>,
) -> Poll<Option<Vec<u8>>> {
    let mut ended = false;
    for attempt in tries.iter_mut() {
        match poll_try(attempt, second_best, cx) {
            Poll::Ready(Some(reply)) => return Poll::Ready(Some(reply)),
            Poll::Ready(None) => ended = true,
            Poll::Pending => {}
        }
    }
    if (ended && more) || tries.iter().all(|t| t.hearing.is_none()) { Poll::Ready(None) } else { Poll::Pending }
}

/// `None`: this server has nothing (more) to say.
fn poll_try(attempt: &mut Try<'_>, second_best: &mut Option<Vec<u8>>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
    let Some(hearing) = &mut attempt.hearing else { return Poll::Pending };
    let Poll::Ready(heard) = hearing.as_mut().poll(cx) else { return Poll::Pending };
    attempt.hearing = None;
    let resolvers = &attempt.forwarder.resolvers;
    match heard {
        Ok(bytes) => {
            resolvers.answered(attempt.server);
            if judge(&attempt.query, &bytes) == Verdict::Final {
                return Poll::Ready(Some(bytes));
            }
            second_best.get_or_insert(bytes);
        }
        Err(error) => {
            debug!(server = %attempt.server, %error, "DNS resolver can't be reached");
            resolvers.silent(attempt.server, Instant::now());
        }
    }
    Poll::Ready(None)
}

/// Waits for a reply to `query`, or for word that nobody listens there: ICMP errors alone don't make a socket readable.
async fn hear(socket: Arc<UdpSocket>, query: Arc<[u8]>) -> io::Result<Vec<u8>> {
    loop {
        let receive = || {
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            let length = (&*SockRef::from(&*socket)).read(&mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        };
        let bytes = socket.async_io(Interest::READABLE | Interest::ERROR, receive).await?;
        if judge(&query, &bytes) != Verdict::Foreign {
            return Ok(bytes);
        }
        // An impostor may be first: the server's own answer may still come.
        debug!("a DNS answer with a wrong id or question is ignored");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// NOERROR or NXDOMAIN: goes to the client.
    Final,
    /// The server can't or won't: another one may.
    Refusal,
    /// Not an answer to this query.
    Foreign,
}

fn judge(query: &[u8], reply: &[u8]) -> Verdict {
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
