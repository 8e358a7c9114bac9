//! HTTP/2 connections to one endpoint: as few as its requests need, shared by them, of one worker. Must not know who asks.

use super::super::pool::Pools;
use super::super::traffic::{Context, Traffic};
use super::conn::Core;
use super::drive::{Connection, Ended, Ending, Times};
use super::stream::StreamIo;
use crate::error::{ConnError, Reason};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, oneshot};

/// Connections to one endpoint.
const CONNECTIONS_MAX: usize = 64;
/// An endpoint's first settings come as soon as it is connected to.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// For the rest of a header block.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// An endpoint that reads nothing for so long is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Default)]
pub(in super::super) struct Endpoint {
    connections: Rc<Connections>,
}

#[derive(Default)]
struct Connections {
    open: RefCell<Vec<Rc<RefCell<Core>>>>,
    /// Requests that come together wait for one new connection.
    dialling: Mutex<()>,
    /// How often no connection came about, and why the last time.
    failures: Cell<u64>,
    failure: RefCell<Option<ConnError>>,
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.open.get_mut().iter().for_each(|core| core.borrow_mut().retire());
    }
}

impl Endpoint {
    /// Whether it has connections, or is about to.
    pub(in super::super) fn is_open(&self) -> bool {
        let Connections { open, dialling, .. } = &*self.connections;
        dialling.try_lock().is_err() || open.borrow().iter().any(|core| core.borrow().is_open())
    }

    /// A stream on the first connection that has room, so that those beyond need end up idle, and whether it was used before.
    fn stream(&self, scheme: &'static str) -> Option<(StreamIo, bool)> {
        let mut open = self.connections.open.borrow_mut();
        let mut at = 0;
        while let Some(core) = open.get(at) {
            let place = core.borrow_mut().take_place(scheme);
            if let Some((place, used)) = place {
                return Some((StreamIo::new(Rc::clone(core), place), used));
            }
            if core.borrow().is_open() {
                at += 1;
            } else {
                open.remove(at);
            }
        }
        None
    }

    /// One more connection, which is waited for by all that need it; if there is none, they share the reason.
    async fn wait<T: Traffic>(
        &self,
        (context, target): (&Context<T>, &T::Target),
        endpoint: &T::Endpoint,
        scheme: &'static str,
    ) -> Result<(StreamIo, bool), ConnError> {
        let failures = self.connections.failures.get();
        let _turn = self.connections.dialling.lock().await;
        if let Some(stream) = self.stream(scheme) {
            return Ok(stream);
        }
        if failures != self.connections.failures.get()
            && let Some(failure) = &*self.connections.failure.borrow()
        {
            return Err(failure.clone());
        }
        match self.open(context, target, endpoint).await {
            Ok(()) => self.stream(scheme).ok_or_else(full),
            Err(error) => {
                self.connections.failures.set(failures.wrapping_add(1));
                *self.connections.failure.borrow_mut() = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn open<T: Traffic>(
        &self,
        context: &Context<T>,
        target: &T::Target,
        endpoint: &T::Endpoint,
    ) -> Result<(), ConnError> {
        if self.connections.open.borrow().len() >= CONNECTIONS_MAX {
            return Err(full());
        }
        let io = context.traffic.connect(target, endpoint).await?;
        let core = Rc::new(RefCell::new(Core::client()));
        self.connections.open.borrow_mut().push(Rc::clone(&core));
        let (greeted, greeting) = oneshot::channel();
        let times = Times { head: HEAD_TIMEOUT, idle: context.pools.idle_max(), body: BODY_TIMEOUT };
        tokio::task::spawn_local(run(Connection::new(io, Rc::clone(&core), times), Rc::clone(&core), greeted));
        let why = match tokio::time::timeout(GREETING_TIMEOUT, greeting).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => "it ended the connection",
            Err(_) => "it says nothing",
        };
        core.borrow_mut().retire();
        let detail = format!("the endpoint doesn't speak HTTP/2 ({why}): its protocol may be http");
        Err(ConnError::new(Reason::UpstreamProtocol, detail))
    }
}

fn full() -> ConnError {
    ConnError::new(Reason::Overflow, "the endpoint allows no more HTTP/2 streams, and there are connections enough")
}

impl<K: Clone + Eq + Hash, Io> Pools<K, Io> {
    /// A stream to an endpoint on a connection that is there, and whether that was used before.
    pub(in super::super) fn stream(&self, endpoint: &K, scheme: &'static str) -> Option<(StreamIo, bool)> {
        self.shared.borrow().get(endpoint)?.stream(scheme)
    }
}

/// A stream to an endpoint, for one request, and whether its connection was used before.
pub(super) async fn stream<T: Traffic>(
    context: &Context<T>,
    target: &T::Target,
    endpoint: &T::Endpoint,
    scheme: &'static str,
) -> Result<(StreamIo, bool), ConnError> {
    let shared = context.pools.shared.borrow_mut().entry(endpoint.clone()).or_default().clone();
    match shared.stream(scheme) {
        Some(stream) => Ok(stream),
        None => Box::pin(shared.wait((context, target), endpoint, scheme)).await,
    }
}

/// Drives a connection to its end; says when the endpoint's settings are here.
async fn run<S>(mut connection: Connection<S>, core: Rc<RefCell<Core>>, greeted: oneshot::Sender<()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ending = Ending(Rc::clone(&core));
    let mut greeted = Some(greeted);
    let ended = poll_fn(|cx| {
        let ended = connection.poll(cx);
        if core.borrow().is_greeted()
            && let Some(greeted) = greeted.take()
        {
            // Whoever opened it may not need it any more.
            let _ = greeted.send(());
        }
        ended
    })
    .await;
    drop(greeted);
    if let Ended::Broken(code) = ended {
        core.borrow_mut().break_off(code);
        connection.linger().await;
    }
}
