//! What the HTTP data path asks of the rest of the proxy, and what it tells it: decide a request, pick an endpoint,
//! connect to it, record the outcome. Must not know HTTP's bytes.

use super::head::Head;
use super::pool::Pools;
use crate::error::{ConnError, Reason};
use crate::stream::Wired;
use snapshot::{Filters, Timeouts};
use std::borrow::Cow;
use std::future::Future;
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The proxy behind one downstream connection: it may know the peer, the listener and the snapshot. Everything stays on
/// its worker's thread.
pub trait Traffic: 'static {
    /// Whom a request goes to, as `decide` says and `pick` and `connect` understand it.
    type Target: 'static;
    /// Key of the pools: connections under equal keys are interchangeable, so it holds service (its TLS) and address.
    type Endpoint: Clone + Eq + Hash + 'static;
    /// Held while the endpoint serves a request (for least-request balancing and circuit breakers).
    type Load: 'static;
    type Io: Wired + 'static;

    fn decide(&self, request: &RequestView<'_>) -> Decision<Self::Target>;

    /// `tried` just failed: pick another one, or fail if there is no other.
    fn pick(
        &self,
        target: &Self::Target,
        tried: Option<&Self::Endpoint>,
    ) -> Result<Picked<Self::Endpoint, Self::Load>, ConnError>;

    /// A new connection, TLS included, within the service's connect timeout.
    fn connect(
        &self,
        target: &Self::Target,
        endpoint: &Self::Endpoint,
    ) -> impl Future<Output = Result<Self::Io, ConnError>>;

    /// Once for every request that was decided or refused. `plan` is None for what didn't get so far.
    fn finished(&self, plan: Option<&Plan<Self::Target>>, outcome: &Outcome<'_, Self::Endpoint>);
}

/// What a request's route is found by.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a str,
    /// Normalised; starts with `/`, or is `*`.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// Lower case, without port and final dot; empty if HTTP/1.0 sent none.
    pub host: &'a str,
    pub headers: Headers<'a>,
}

#[derive(Clone, Copy)]
pub struct Headers<'a> {
    pub head: &'a Head,
    pub buffer: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Value of a header; repeated ones are joined with `,`. `name` in any case.
    pub fn get(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let Self { head, buffer } = *self;
        let same = |n: &[u8]| n.eq_ignore_ascii_case(name.as_bytes());
        join(head.fields.iter().filter(|f| same(f.name.of(buffer))).map(|f| f.value.of(buffer)))
    }
}

fn join<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let mut joined = Cow::Borrowed(values.next()?);
    for value in values {
        let bytes = joined.to_mut();
        bytes.push(b',');
        bytes.extend_from_slice(value);
    }
    Some(joined)
}

pub struct Decision<T> {
    pub action: Action<T>,
    /// The route's filters. Those of the response hold for answers of our own too.
    pub filters: Option<Arc<Filters>>,
}

pub enum Action<T> {
    Forward(Plan<T>),
    Redirect {
        status: u16,
        location: String,
    },
    /// An answer without an upstream. `reason` when it is a failure (`Denied`, `NoRoute`).
    Respond {
        status: u16,
        body: Cow<'static, str>,
        reason: Option<Reason>,
    },
}

impl<T> Decision<T> {
    /// Refuses with what follows from the reason.
    pub fn refuse(reason: Reason, body: impl Into<Cow<'static, str>>) -> Self {
        let status = reason.consequence().status;
        Self { action: Action::Respond { status, body: body.into(), reason: Some(reason) }, filters: None }
    }
}

pub struct Plan<T> {
    pub target: T,
    /// Rewritten path without query; the request's own otherwise.
    pub path: Option<String>,
    pub timeouts: Timeouts,
    /// Speak HTTP/2 to the endpoint.
    pub h2: bool,
    /// Gets a copy of the request; what it answers is dropped.
    pub mirror: Option<T>,
}

pub struct Picked<E, L> {
    pub endpoint: E,
    /// Its DNS name, if it is addressed by one (`host_of_endpoint`).
    pub host: Option<Arc<str>>,
    pub load: L,
}

/// How a request ended.
#[derive(Debug)]
pub struct Outcome<'a, E> {
    /// Empty, like host and path, if the request was refused before it was understood.
    pub method: &'a str,
    pub host: &'a str,
    /// Normalised, without query.
    pub path: &'a str,
    /// What the client was sent; 0 if nothing.
    pub status: u16,
    pub reason: Option<Reason>,
    /// For the log: who, what, where, what next. Empty if all went well.
    pub detail: &'a str,
    pub endpoint: Option<&'a E>,
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
    pub elapsed: Duration,
}

/// How one listener speaks HTTP.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A gateway faces strangers: underscores in header names are refused, paths fully normalised, forwarding headers
    /// set and the client's own ones dropped.
    pub edge: bool,
    /// The listener terminates TLS for its clients (`x-forwarded-proto`).
    pub https: bool,
    /// Overwrites the `server` header of responses.
    pub server: Option<&'static str>,
    /// From the first byte of a request's head to its end.
    pub head_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// Without progress of a body while it is the client's turn to send or to read.
    pub body_timeout: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams_max: u32,
}

impl Settings {
    /// A sidecar trusts its application to be slow.
    pub fn sidecar() -> Self {
        Self {
            edge: false,
            https: false,
            server: None,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_millis(snapshot::limits::IDLE_TIMEOUT_MS),
            body_timeout: Duration::from_secs(300),
            streams_max: 1000,
        }
    }

    pub fn gateway(https: bool) -> Self {
        Self {
            edge: true,
            https,
            server: Some("weir"),
            head_timeout: Duration::from_millis(500),
            idle_timeout: Duration::from_secs(300),
            body_timeout: Duration::from_secs(30),
            streams_max: 100,
        }
    }
}

/// All that a downstream connection needs.
pub struct Context<T: Traffic> {
    pub traffic: Rc<T>,
    /// The worker's.
    pub pools: Rc<Pools<T::Endpoint, T::Io>>,
    pub settings: Arc<Settings>,
    pub peer: Option<IpAddr>,
}

impl<T: Traffic> Clone for Context<T> {
    fn clone(&self) -> Self {
        Self {
            traffic: Rc::clone(&self.traffic),
            pools: Rc::clone(&self.pools),
            settings: Arc::clone(&self.settings),
            peer: self.peer,
        }
    }
}

/// How a downstream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Orderly: between messages.
    Closed,
    /// In the middle of a response: the caller resets the connection, so that no client takes it for complete.
    Broken,
}
