//! From the mesh to the local workload: mTLS, permission, then the application.

use crate::admission::{Admission, Place};
use crate::connection::{self, Ended, Serving, finish};
use crate::error::{ConnError, Reason};
use crate::metrics::Direction;
use crate::outbound::{self, CONNECT_TIMEOUT};
use crate::sni::{self, Hello};
use crate::socket::Mode;
use crate::stream::Stream;
use crate::tls::TlsStream;
use crate::traffic::HttpTraffic;
use crate::{mux, socket, tls};
use bytes::Buf;
use snapshot::{InboundTls, ListenerRow, Protocol, Role, lookup};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The source of connections to the own application: interception rules let it through (spec/naming.md §7.1).
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// A tunnel without streams is closed after so long: its peer would have, were it alive.
const TUNNEL_IDLE_MINUTES: u32 = 10;
/// A tunnel takes no new streams after this long, well after its peer would have stopped opening any: its certificate was
/// judged when the tunnel began.
const TUNNEL_AGE_MINUTES: u32 = 120;
/// Between asking for no more streams and refusing them.
const TUNNEL_NOTICE_MINUTES: u32 = 2;

/// The parts of an inbound row.
struct Inbound<'a> {
    row: &'a ListenerRow,
    service: &'a str,
    protocol: Protocol,
    app: SocketAddr,
    tls: InboundTls,
    permission: &'a str,
    captured: bool,
}

fn inbound<'a>(serving: &Serving, row: &'a ListenerRow) -> Option<Inbound<'a>> {
    let redirected = serving.worker.shared.mode == Some(Mode::Redirect);
    match &row.role {
        Role::Inbound { captured, service, protocol, app, tls, permission } => {
            // Without install's rules the proxy has the address itself, and the application the same port on loopback.
            let app = if !redirected && *app == row.address { loopback(*app) } else { *app };
            let captured = *captured && redirected;
            Some(Inbound { row, service, protocol: *protocol, app, tls: *tls, permission, captured })
        }
        _ => None,
    }
}

pub(crate) fn loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Strict mTLS, or none.
pub(crate) async fn serve(serving: &Serving, stream: TcpStream, row: &ListenerRow) {
    let Some(inbound) = inbound(serving, row) else { return };
    if inbound.tls == InboundTls::Off {
        return to_app(serving, Stream::Plain(stream), &inbound, None).await;
    }
    let snapshot = serving.worker.snapshot();
    let mesh = snapshot.tables().proxy.mesh.clone();
    drop(snapshot);
    let accepted = match serving.worker.shared.identities.server(&mesh) {
        Ok(server) => tls::accept_mesh_by(&server, &server.mux, stream).await,
        Err(why) => Err(ConnError::new(Reason::DownstreamTls, why)),
    };
    match accepted {
        Ok((stream, peers)) if stream.alpn() == Some(mux::ALPN) => {
            // Boxed, as few connections are tunnels.
            Box::pin(tunnel(serving, stream, &inbound, peers)).await;
        }
        Ok((stream, peers)) => to_app(serving, Stream::from(stream), &inbound, Some(peers)).await,
        Err(failure) => ended(serving, &inbound, Ended::default(), Some(&failure)),
    }
}

/// Many connections in one: each stream is served as a connection of its own, by the row then in force.
async fn tunnel(serving: &Serving, mut stream: TlsStream<TcpStream>, inbound: &Inbound<'_>, peers: Vec<String>) {
    let worker = &serving.worker;
    let tunnel = mux::Tunnel::new(false);
    let mut told = worker.shared.draining.clone();
    let drain = async {
        if told.wait_for(|draining| *draining).await.is_ok() {
            tunnel.close();
        }
        std::future::pending::<()>().await;
    };
    let accept = async {
        while let Some(stream) = tunnel.accept().await {
            match worker.admit_stream() {
                Ok(place) => {
                    let Serving { worker, peer, destination, .. } = serving;
                    let one = Serving {
                        worker: worker.clone(),
                        peer: *peer,
                        destination: *destination,
                        begun: Instant::now(),
                        places: [Some(place), None],
                    };
                    let peers = peers.clone();
                    worker.spawn(async move {
                        of_tunnel(&one, Stream::Mux(stream), peers).await;
                    });
                }
                Err(failure) => {
                    stream.reset_on_drop();
                    worker.refuse(Direction::Inbound, &failure);
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        biased;
        outcome = mux::run(&mut stream, &tunnel) => outcome,
        () = accept => Ok(()),
        () = drain => Ok(()),
        () = aged(&tunnel) => Ok(()),
    };
    if let Err(why) = outcome {
        socket::reset_on_drop(stream.get_ref());
        ended(serving, inbound, Ended::default(), Some(&ConnError::new(Reason::DownstreamReset, why)));
    }
}

/// Ends when the tunnel has been idle for too long; an old one takes no new streams.
async fn aged(tunnel: &mux::Tunnel) {
    let (mut age, mut idle) = (0, 0);
    while idle < TUNNEL_IDLE_MINUTES {
        tokio::time::sleep(Duration::from_secs(60)).await;
        age += 1;
        idle = if tunnel.is_idle() { idle + 1 } else { 0 };
        match age {
            TUNNEL_AGE_MINUTES => tunnel.close(),
            _ if age >= TUNNEL_AGE_MINUTES + TUNNEL_NOTICE_MINUTES => tunnel.refuse(),
            _ => {}
        }
    }
}

async fn of_tunnel(serving: &Serving, stream: Stream, peers: Vec<String>) {
    let listener = serving.worker.snapshot().listener(serving.destination).cloned();
    match listener.as_ref().and_then(|listener| inbound(serving, &listener.row)) {
        Some(inbound) => to_app(serving, stream, &inbound, Some(peers)).await,
        // The inbound is gone; so is its socket.
        None => stream.reset_on_drop(),
    }
}

/// Plain text and the application's own TLS pass as they are; only TLS with ALPN `kuma` is the mesh's.
pub(crate) async fn permissive(serving: &Serving, stream: TcpStream, row: &ListenerRow) {
    let Some(inbound) = inbound(serving, row) else { return };
    let hello = sni::read_hello(&stream, Duration::from_millis(sni::HELLO_TIMEOUT_MS), sni::HELLO_BYTES_MAX).await;
    match hello {
        Ok(hello) if hello.alpn().is_some_and(|alpn| alpn.offers(tls::ALPN_KUMA) || alpn.offers(mux::ALPN)) => {
            serve(serving, stream, row).await
        }
        // Server-first protocols say nothing: after the wait they are plain text too.
        Ok(Hello::NotTls | Hello::Malformed(_) | Hello::TooLarge | Hello::NeedMore) | Err(_) => {
            to_app(serving, Stream::Plain(stream), &inbound, None).await;
        }
        Ok(_) => opaque(serving, stream, &inbound).await,
    }
}

/// The application's own TLS.
async fn opaque(serving: &Serving, stream: TcpStream, inbound: &Inbound<'_>) {
    let mut end = Ended { service: inbound.service.into(), ..Ended::default() };
    let failure = outbound::plain(serving, stream, inbound.app, source(inbound.captured, inbound.app), &mut end).await;
    ended(serving, inbound, end, failure.as_ref());
}

/// `peers` are the client's identities; none when the connection isn't mTLS, and then no permission applies.
async fn to_app(serving: &Serving, stream: Stream, inbound: &Inbound<'_>, peers: Option<Vec<String>>) {
    let snapshot = serving.worker.snapshot();
    let allowed = peers.as_ref().is_none_or(|p| lookup::authorize(snapshot.access(inbound.permission), p));
    drop(snapshot);
    if inbound.protocol.is_http() {
        let source = source(inbound.captured, inbound.app);
        let traffic =
            HttpTraffic::inbound(serving, inbound.service, (inbound.app, source), inbound.protocol).for_peer(peers);
        let settings = serving.worker.http.inbound.clone();
        return Box::pin(outbound::http_connection(&serving.worker, serving.peer, stream, (traffic, settings), ()))
            .await;
    }
    if !allowed {
        return deny(serving, stream, inbound, &peers.unwrap_or_default()).await;
    }
    let mut end = Ended::default();
    let counted = serving.worker.shared.metrics.handle(Direction::Inbound, inbound.service, "").connection();
    let failure = copy(serving, stream, inbound, peers, &mut end).await;
    let origin = || inbound.row.origin.to_string();
    let way = (Direction::Inbound, &counted);
    connection::finish_counted(serving, way, inbound.service, (origin, end), failure.as_ref());
}

/// The client sees an orderly end without data.
async fn deny(serving: &Serving, mut stream: Stream, inbound: &Inbound<'_>, peers: &[String]) {
    let snapshot = serving.worker.snapshot();
    let by = snapshot.permission(inbound.permission).map(|p| p.origin.to_string()).unwrap_or_default();
    drop(snapshot);
    let detail = format!("{} isn't admitted to {} by {by}", peers.join(" "), inbound.service);
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    let end = Ended { origin: by, ..Ended::default() };
    ended(serving, inbound, end, Some(&ConnError::new(Reason::Denied, detail)));
}

async fn copy(
    serving: &Serving,
    mut stream: Stream,
    inbound: &Inbound<'_>,
    peers: Option<Vec<String>>,
    end: &mut Ended,
) -> Option<ConnError> {
    let source = source(inbound.captured, inbound.app);
    let options = socket::ConnectOptions { source, unsettled: true, ..socket::ConnectOptions::default() };
    let opened = async {
        let mut first = connection::first_words(&mut stream)?;
        let (app, sent) = socket::connect_saying(inbound.app, &options, &first, CONNECT_TIMEOUT).await?;
        first.advance(sent);
        Ok((app, first, sent))
    };
    match opened.await {
        Err(failure) => {
            stream.reset_on_drop();
            Some(failure)
        }
        Ok((app, rest, sent)) => {
            (end.upstream, end.received) = (Some(inbound.app), sent as u64);
            let mut stream = stream.preceded_by(rest);
            let idle = Duration::from_millis(snapshot::limits::IDLE_TIMEOUT_MS * 2);
            let admission = Admission { place: Place::Inbound(serving.destination), peers };
            let pair = (&mut stream, &mut Stream::Plain(app));
            connection::copy(&serving.worker, pair, idle, Some(&admission), end).await
        }
    }
}

fn ended(serving: &Serving, inbound: &Inbound<'_>, mut end: Ended, failure: Option<&ConnError>) {
    inbound.service.clone_into(&mut end.service);
    if end.origin.is_empty() {
        end.origin = inbound.row.origin.to_string();
    }
    finish(&serving.worker, Direction::Inbound, &end, (serving.peer, serving.begun, failure));
}

/// Loopback needs no special source: no rule captures it.
pub(crate) fn source(captured: bool, app: SocketAddr) -> Option<IpAddr> {
    match app.ip() {
        ip if !captured || ip.is_loopback() => None,
        IpAddr::V4(_) => Some(SOURCE_V4.into()),
        IpAddr::V6(_) => Some(SOURCE_V6.into()),
    }
}

/// A captured port that no inbound declares: to the application, as it is.
pub(crate) async fn passthrough(serving: Serving, stream: TcpStream) {
    let mut end = Ended { service: "inbound-passthrough".into(), ..Ended::default() };
    let source = source(true, serving.destination);
    let failure = outbound::plain(&serving, stream, serving.destination, source, &mut end).await;
    finish(&serving.worker, Direction::Passthrough, &end, (serving.peer, serving.begun, failure.as_ref()));
}
