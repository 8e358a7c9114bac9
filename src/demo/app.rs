//! The demo's sample services: an HTTP one that names itself, and a TCP one that answers PING. Each on a thread of its own,
//! inside its node's namespace. Must not know the mesh.

use super::network;
use super::plan::{App, AppKind};
use crate::failure::Failure;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once to one service.
const CONNECTIONS_MAX: usize = 128;
/// What one TCP client may send.
const TCP_BYTES_MAX: u64 = 64 << 10;

/// Returns when it listens. The service lives as long as the process.
pub(super) fn start(app: App, namespace: Option<String>) -> Result<(), Failure> {
    let (bound, outcome) = mpsc::channel();
    let thread = std::thread::Builder::new().name(app.says.clone());
    let says = app.says.clone();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string());
        let entered = namespace.map_or(Ok(()), |name| network::enter(&name));
        match entered.and(runtime) {
            Ok(runtime) => runtime.block_on(serve(app, &bound)),
            Err(error) => drop(bound.send(Err(error))),
        }
    };
    thread.spawn(body).map_err(|e| format!("{says}: starting a thread: {e}"))?;
    let outcome = outcome.recv().map_err(|e| e.to_string()).and_then(|outcome| outcome);
    outcome.map_err(|e| Failure::failed(format!("{says}: {e}")))
}

async fn serve(app: App, bound: &mpsc::Sender<Result<(), String>>) {
    let address = SocketAddr::from(app.address);
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return drop(bound.send(Err(format!("can't listen on {address}: {error}")))),
    };
    let _ = bound.send(Ok(()));
    let (app, places) = (Arc::new(app), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let app = app.clone();
        tokio::spawn(async move {
            match app.kind {
                AppKind::Http => http(stream, &app).await,
                AppKind::Tcp => tcp(stream, &app).await,
            }
            drop(place);
        });
    }
}

async fn http(stream: TcpStream, app: &App) {
    // Behind a sidecar the caller is always the sidecar.
    let peer = stream.peer_addr().ok().map(|p| p.ip()).filter(|ip| !ip.is_loopback());
    let peer = peer.map_or_else(String::new, |ip| format!(", asked by {ip}"));
    let service = service_fn(|request| {
        let response = answer(&request, app, &peer);
        async { Ok::<_, Infallible>(response) }
    });
    // A client that breaks off is none of a sample's business.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, app: &App, peer: &str) -> Response<Full<Bytes>> {
    let host = request.headers().get("host").and_then(|h| h.to_str().ok()).unwrap_or("-");
    let text = format!("hello from {}: {} {} for {host}{peer}\n", app.says, request.method(), request.uri().path());
    Response::new(Full::new(Bytes::from(text)))
}

/// PING is answered like redis does, and with a name; any other line comes back as it is.
async fn tcp(mut stream: TcpStream, app: &App) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(TCP_BYTES_MAX)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.trim() {
            "PING" => format!("+PONG from {}\r\n", app.says),
            "QUIT" => return,
            other => format!("+{other}\r\n"),
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
