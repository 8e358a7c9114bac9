//! The REST API as Kuma's clients know it: paths, JSON and errors over `Core`. It owns HTTP and must not know what a
//! resource means beyond its kind's row in the registry.
//!
//! The routes are one `match` on the path's segments: kinds are data, not routes.

mod access;
mod answer;
mod info;
mod insights;
mod items;
mod naming;
mod overview;
#[cfg(test)]
mod tests;
mod tokens;

use crate::core::Core;
use access::User;
use answer::{Answer, ApiError};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A request's body.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
const HEADERS_DEADLINE_S: u64 = 10;
const BODY_DEADLINE_S: u64 = 30;
const TLS_DEADLINE_S: u64 = 10;
/// How long answers under way may take after the end was asked for.
const DRAIN_DEADLINE_S: u64 = 5;
/// After a failed accept (no file descriptors): don't spin.
const ACCEPT_PAUSE_MS: u64 = 50;

/// The tables that a proxy executes, as text or JSON: (mesh, name, json).
pub type Snapshots = dyn Fn(&str, &str, bool) -> Option<String> + Send + Sync;

pub struct Options {
    /// Requests from a loopback address are the admin's.
    pub localhost_is_admin: bool,
    /// The effective configuration, secrets masked, for `GET /config`.
    pub config: serde_json::Value,
    /// For `GET /meshes/{mesh}/dataplanes/{name}/_snapshot`.
    pub snapshots: Option<Box<Snapshots>>,
    /// What the publishing loop makes, for names, statuses and metrics.
    pub published: Option<crate::publish::Subscription>,
    pub version: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            localhost_is_admin: true,
            config: serde_json::json!({}),
            snapshots: None,
            published: None,
            version: env!("CARGO_PKG_VERSION").to_string(),
        }
    }
}

pub struct Api {
    core: Arc<Core>,
    options: Options,
    instance_id: String,
    hostname: String,
    ready: watch::Receiver<bool>,
}

/// One request, taken apart.
struct Call<'a> {
    api: &'a Api,
    user: User,
    method: Method,
    /// Decoded, without empty ones at the end.
    path: Vec<String>,
    query: Vec<(String, String)>,
    /// `http://host:port/path` of this request, for links.
    url: String,
    body: Bytes,
}

impl Api {
    /// `ready` is what `GET /ready` tells.
    pub fn new(core: Arc<Core>, options: Options, ready: watch::Receiver<bool>) -> Arc<Self> {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
        let instance_id = match crate::identity::random_bytes::<2>() {
            Ok([a, b]) => format!("{hostname}-{a:02x}{b:02x}"),
            Err(_) => hostname.clone(),
        };
        Arc::new(Self { core, options, instance_id, hostname, ready })
    }

    /// Serve until `stop` turns true, then finish what is under way. With `tls`, HTTPS.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        mut stop: watch::Receiver<bool>,
    ) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            };
            let (api, tls, stop) = (self.clone(), tls.clone(), stop.clone());
            connections.spawn(async move {
                let _place = place;
                let Some(acceptor) = tls else { return api.connection(stream, peer, false, stop).await };
                let deadline = Duration::from_secs(TLS_DEADLINE_S);
                if let Ok(Ok(stream)) = tokio::time::timeout(deadline, acceptor.accept(stream)).await {
                    api.connection(stream, peer, true, stop).await;
                }
            });
        }
        let deadline = Duration::from_secs(DRAIN_DEADLINE_S);
        let _ = tokio::time::timeout(deadline, async { while connections.join_next().await.is_some() {} }).await;
    }

    async fn connection<S>(self: Arc<Self>, stream: S, peer: SocketAddr, tls: bool, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let api = &self;
        let service =
            service_fn(move |request| async move { Ok::<_, Infallible>(api.answer(request, peer, tls).await) });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEADERS_DEADLINE_S))
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr, tls: bool) -> Response<Full<Bytes>> {
        let head = request.method() == Method::HEAD;
        let result = match self.call(request, peer, tls).await {
            Ok(call) => call.route().await,
            Err(error) => Err(error),
        };
        let answer = result.unwrap_or_else(ApiError::into_answer);
        answer.into_response(head)
    }

    async fn call(&self, request: Request<Incoming>, peer: SocketAddr, tls: bool) -> Result<Call<'_>, ApiError> {
        let (head, body) = request.into_parts();
        let host = head.headers.get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let user = access::user(self, &head.headers, host, peer.ip().to_canonical())?;
        let path = head.uri.path().split('/').filter(|s| !s.is_empty());
        let path: Option<Vec<String>> = path.map(|s| decoded(s, false)).collect();
        let query = head.uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
        let pair = |p: &str| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            Some((decoded(name, true)?, decoded(value, true)?))
        };
        let query: Option<Vec<(String, String)>> = query.map(pair).collect();
        let (Some(path), Some(query)) = (path, query) else {
            return Err(ApiError::bad_request("the URL is not UTF-8 in percent encoding"));
        };
        let limited = Limited::new(body, BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(Duration::from_secs(BODY_DEADLINE_S), limited).await {
            Err(_) => return Err(ApiError::new(408, "Request Timeout", "the body didn't arrive in time")),
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let why = format!("a body may have {BODY_BYTES_MAX} bytes");
                return Err(ApiError::new(413, "Content Too Large", &why));
            }
            Ok(Err(error)) => return Err(ApiError::bad_request(&format!("the body broke off: {error}"))),
        };
        let method = if head.method == Method::HEAD { Method::GET } else { head.method };
        let url = format!("{}://{host}{}", if tls { "https" } else { "http" }, head.uri.path());
        Ok(Call { api: self, user, method, path, query, url, body })
    }
}

impl Call<'_> {
    async fn route(&self) -> Result<Answer, ApiError> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match (self.method.as_str(), path.as_slice()) {
            ("GET", []) => Ok(self.index()),
            ("GET", ["ready" | "healthy"]) => Ok(self.ready()),
            ("GET", ["metrics"]) => self.metrics(),
            ("GET", ["config"]) => Ok(Answer::json(200, &self.api.options.config)),
            ("GET", ["policies"]) => Ok(self.policies()),
            ("GET", ["_resources"]) => Ok(self.resource_kinds()),
            ("GET", ["who-am-i"]) => Ok(self.who_am_i()),
            ("GET", ["status", "zones"]) => Ok(self.zone_status()),
            ("GET", ["global-insight" | "global-insights"]) => Ok(self.global_insight()),
            ("POST", ["tokens", kind]) => self.issue_token(kind).await,
            ("GET", ["meshes", mesh, "dataplanes", name, "_snapshot"]) => self.snapshot(mesh, name),
            ("GET", ["meshes", mesh, "_names"]) => self.names(mesh),
            ("GET", ["meshes", mesh, "_names", "problems"]) => self.name_problems(mesh),
            ("GET", ["meshes", mesh, kind, "_overview"]) if *kind != "meshes" => self.overviews(kind, Some(mesh)),
            ("GET", ["meshes", mesh, kind, name, "_overview"]) => self.overview(kind, mesh, name),
            ("GET", ["meshes", mesh, kind]) if kind.ends_with("+insights") => self.overviews(kind, Some(mesh)),
            ("GET", [kind, "_overview"]) => self.overviews(kind, None),
            ("GET", [kind]) if kind.ends_with("+insights") || *kind == "zoneegressoverviews" => {
                self.overviews(kind, None)
            }
            ("GET", ["meshes", mesh, kind]) => self.list(kind, Some(mesh)),
            (_, ["meshes", mesh, kind, name]) => self.item(kind, mesh, name).await,
            ("GET", [kind]) => self.list(kind, None),
            ("GET", [kind, name, "_overview"]) => self.overview(kind, "", name),
            (_, [kind, name]) => self.item(kind, "", name).await,
            _ => Err(ApiError::new(404, "Not found", "there is nothing at this path")),
        }
    }

    /// The last value given, if any.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Percent-decoded (RFC 3986 §2.1); in queries `+` is a space.
fn decoded(text: &str, plus: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        out.push(match b {
            b'%' => (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8,
            b'+' if plus => b' ',
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// Whether a Host header can only mean this machine: a name under a stranger's control could be made to point here.
fn is_local_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
