//! The proxy's own HTTP interface: readiness, metrics, the snapshot in use, draining. Must not know how any of them is
//! made: it is given functions.

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections served at a time; further ones wait.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// A request's head.
pub(crate) const HEAD_TIMEOUT_MS: u64 = 5_000;
/// A connection in all.
pub(crate) const CONNECTION_TIMEOUT_MS: u64 = 60_000;
/// Pause when the machine gives no more connections.
const ACCEPT_PAUSE_MS: u64 = 100;

const HELP: &str = "\
GET  /ready                 200 READY, or 503 and what is missing
GET  /metrics               Prometheus text
GET  /snapshot              what the proxy executes, in words
GET  /snapshot?format=json  the same rows as JSON
POST /drain                 stop accepting, let live connections end
GET  /help                  this text
";

/// What the proxy still waits for before it can serve.
#[derive(Debug)]
pub(crate) struct Readiness {
    missing: Mutex<BTreeSet<&'static str>>,
    terminating: AtomicBool,
}

impl Readiness {
    /// Not ready until each of `parts` is [`done`](Self::done).
    pub(crate) fn new(parts: &[&'static str]) -> Arc<Self> {
        let missing = Mutex::new(parts.iter().copied().collect());
        Arc::new(Self { missing, terminating: AtomicBool::new(false) })
    }

    pub(crate) fn done(&self, part: &'static str) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    pub(crate) fn terminate(&self) {
        self.terminating.store(true, Relaxed);
    }

    /// `Err` says why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.terminating.load(Relaxed) {
            return Err("TERMINATING".to_owned());
        }
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<_> = missing.iter().copied().collect();
        if words.is_empty() { Ok(()) } else { Err(format!("NOT READY: waiting for {}", words.join(", "))) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

type Tell = Box<dyn Fn() -> String + Send + Sync>;
type Show = Box<dyn Fn(Format) -> Option<String> + Send + Sync>;
type Trigger = Box<dyn Fn() + Send + Sync>;

/// What the answers are made of.
pub(crate) struct AdminState {
    pub readiness: Arc<Readiness>,
    pub metrics: Tell,
    /// `None` while there is no snapshot.
    pub snapshot: Show,
    pub drain: Trigger,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminState({:?})", self.readiness)
    }
}

/// A bound admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: std::net::TcpListener,
    state: Arc<AdminState>,
}

impl Admin {
    pub(crate) fn bind(address: SocketAddr, state: Arc<AdminState>) -> io::Result<Self> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("can't bind the admin interface to {address}: {e}"));
        if !address.ip().is_loopback() {
            let problem = format!("the admin interface must be bound to a loopback address, not {address}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        // Not SO_REUSEPORT: two proxies must not share the port silently.
        let listener = std::net::TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        Ok(Self { listener, state })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped, and its connections with it.
    pub(crate) async fn serve(self) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => drop(connections.spawn(connection(tcp, Arc::clone(&self.state)))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn connection(tcp: TcpStream, state: Arc<AdminState>) {
    let service = service_fn(move |request| {
        let response = answer(&request, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_TIMEOUT_MS))
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service);
    // Whoever asks sees how it ended.
    let _ = tokio::time::timeout(Duration::from_millis(CONNECTION_TIMEOUT_MS), serving).await;
}

fn answer(request: &Request<Incoming>, state: &AdminState) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    let reading = method == Method::GET || method == Method::HEAD;
    match path {
        "/ready" if reading => match state.readiness.check() {
            Ok(()) => text(StatusCode::OK, "READY\n"),
            Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
        },
        "/metrics" if reading => typed("text/plain; version=0.0.4; charset=utf-8", (state.metrics)()),
        "/snapshot" if reading => show(request.uri().query().unwrap_or_default(), state),
        "/drain" if method == Method::POST => {
            // A page in a browser on this machine mustn't be able to do it.
            if request.headers().contains_key(header::ORIGIN) {
                return text(StatusCode::FORBIDDEN, "not from a browser\n");
            }
            (state.drain)();
            text(StatusCode::OK, "draining\n")
        }
        "/help" | "/" if reading => text(StatusCode::OK, HELP),
        "/ready" | "/metrics" | "/snapshot" | "/drain" | "/help" | "/" => {
            text(StatusCode::METHOD_NOT_ALLOWED, format!("not with {method}; see /help\n"))
        }
        _ => text(StatusCode::NOT_FOUND, "no such page; see /help\n"),
    }
}

fn show(query: &str, state: &AdminState) -> Response<Full<Bytes>> {
    let (format, kind) = match query {
        "" | "format=text" => (Format::Text, "text/plain; charset=utf-8"),
        "format=json" => (Format::Json, "application/json"),
        _ => return text(StatusCode::BAD_REQUEST, "format is text or json\n"),
    };
    match (state.snapshot)(format) {
        Some(body) => typed(kind, body),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

fn typed(kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn state() -> Arc<AdminState> {
        let readiness = Readiness::new(&["snapshot", "identity"]);
        let drained = Arc::clone(&readiness);
        Arc::new(AdminState {
            readiness,
            metrics: Box::new(|| "weir_x 1\n".to_owned()),
            snapshot: Box::new(|format| (format == Format::Json).then(|| "{}".to_owned())),
            drain: Box::new(move || drained.terminate()),
        })
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_answer_as_the_help_says() {
        let state = state();
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap(), Arc::clone(&state)).unwrap();
        let address = admin.local_addr().unwrap();
        let server = tokio::spawn(admin.serve());
        let table = [
            ("GET /ready", "503", "waiting for identity, snapshot"),
            ("GET /metrics", "200", "weir_x 1"),
            ("GET /snapshot", "503", "no snapshot yet"),
            ("GET /snapshot?format=json", "200", "{}"),
            ("GET /snapshot?format=xml", "400", "text or json"),
            ("GET /help", "200", "POST /drain"),
            ("GET /drain", "405", "see /help"),
            ("GET /etc/passwd", "404", "see /help"),
        ];
        for (line, status, words) in table {
            let answer = ask(address, &format!("{line} HTTP/1.1\r\nHost: x")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{line}: {answer}");
        }
        state.readiness.done("snapshot");
        state.readiness.done("identity");
        assert!(ask(address, "GET /ready HTTP/1.1\r\nHost: x").await.ends_with("READY\n"));
        assert!(ask(address, "POST /drain HTTP/1.1\r\nHost: x\r\nOrigin: http://evil").await.contains(" 403 "));
        assert!(ask(address, "POST /drain HTTP/1.1\r\nHost: x").await.contains(" 200 "));
        assert!(ask(address, "GET /ready HTTP/1.1\r\nHost: x").await.contains("TERMINATING"));
        server.abort();
    }

    #[test]
    fn the_interface_stays_on_loopback() {
        let error = Admin::bind("0.0.0.0:0".parse().unwrap(), state()).unwrap_err();
        assert!(error.to_string().contains("loopback"));
    }
}
