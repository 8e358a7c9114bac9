//! From the local workload, or from a gateway's clients, into the mesh.

use crate::admission::Admission;
use crate::connection::{self, Ended, Serving, finish};
use crate::error::{ConnError, Reason};
use crate::http::traffic::Settings;
use crate::interception::Range;
use crate::joined::Chosen;
use crate::metrics::Direction;
use crate::passthrough::{self, Admitted};
use crate::socket;
use crate::stream::Stream;
use crate::traffic::HttpTraffic;
use crate::upstream::Connected;
use crate::worker::Worker;
use crate::{http, routing, tls};
use bytes::{Buf, Bytes};
use snapshot::{Backend, GatewayTls, Handler, ServiceRow, Snapshot};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Whose routes decide: a listener's, or those of an SNI that ends at an egress.
#[derive(Clone, Debug)]
pub(crate) enum Site {
    Listener(SocketAddr),
    Sni(String),
}

/// A connection whose row is found. `admission`: whom a permission let in, at an egress.
pub(crate) async fn serve(
    serving: &Serving,
    stream: Stream,
    handler: &Handler,
    site: Site,
    admission: Option<&Admission>,
) {
    match handler {
        Handler::Tcp { backends, idle_timeout_ms } => {
            // Boxed: most such connections are begun in `joined`.
            let idle = Duration::from_millis(*idle_timeout_ms);
            Box::pin(balance(serving, stream, backends, idle, admission)).await;
        }
        Handler::Http { .. } => {
            let settings = serving.worker.http.sidecar.clone();
            let traffic = HttpTraffic::routed(serving, site, "http");
            Box::pin(http_connection(&serving.worker, serving.peer, stream, (traffic, settings), ())).await;
        }
    }
}

/// Requests of a captured connection.
pub(crate) fn http(serving: Serving, stream: TcpStream) {
    let settings = serving.worker.http.sidecar.clone();
    let traffic = HttpTraffic::routed(&serving, Site::Listener(serving.destination), "http");
    spawn_http(serving, stream.into(), traffic, settings);
}

/// A gateway's connection: TLS first, where the listener has it.
pub(crate) async fn gateway(serving: Serving, stream: TcpStream, handler: &Handler, gateway_tls: &GatewayTls) {
    let site = Site::Listener(serving.destination);
    let ids = &serving.worker.shared.identities;
    let (stream, https) = match gateway_tls {
        GatewayTls::None => (Ok(Stream::Plain(stream)), false),
        GatewayTls::Mesh { mesh, client_meshes } => match ids.cross_mesh_server(mesh, client_meshes) {
            Ok(server) => (Box::pin(tls::accept_mesh(&server, stream)).await.map(|(tls, _)| Stream::from(tls)), false),
            Err(why) => (Err(ConnError::new(Reason::DownstreamTls, why)), false),
        },
        GatewayTls::Terminate { secrets } => match ids.gateway(secrets) {
            Ok(config) => (Box::pin(tls::accept(&config, stream)).await.map(Stream::from), true),
            Err(why) => (Err(ConnError::new(Reason::DownstreamTls, why)), true),
        },
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(failure) => {
            let ended = Ended { origin: serving.destination.to_string(), ..Ended::default() };
            return finish(&serving.worker, Direction::Gateway, &ended, (serving.peer, serving.begun, Some(&failure)));
        }
    };
    match handler {
        Handler::Tcp { .. } => serve(&serving, stream, handler, site, None).await,
        Handler::Http { .. } => {
            let http = &serving.worker.http;
            let (settings, scheme) = if https { (&http.gateway_https, "https") } else { (&http.gateway, "http") };
            let (settings, traffic) = (settings.clone(), HttpTraffic::routed(&serving, site, scheme));
            spawn_http(serving, stream, traffic, settings);
        }
    }
}

/// In a task of its own, which is as small as HTTP alone allows: the connection's first one has room for every protocol.
fn spawn_http(serving: Serving, stream: Stream, traffic: HttpTraffic, settings: Arc<Settings>) {
    let Serving { worker, peer, places, .. } = serving;
    worker.spawn(http_connection(&worker, peer, stream, (traffic, settings), places));
}

/// Requests of one connection, each decided for itself; `held` until it ends.
pub(crate) fn http_connection<H: 'static>(
    worker: &Worker,
    peer: SocketAddr,
    stream: Stream,
    (traffic, settings): (HttpTraffic, Arc<Settings>),
    held: H,
) -> impl Future<Output = ()> + use<H> {
    let context = http::traffic::Context {
        traffic: Rc::new(traffic),
        pools: worker.pools.clone(),
        settings,
        peer: Some(peer.ip()),
    };
    let alpn = stream.tls().and_then(tls::TlsStream::alpn);
    let wire = match alpn {
        Some(b"h2") => http::Wire::Two,
        Some(b"http/1.1") => http::Wire::One,
        _ => http::Wire::Sniff,
    };
    http::serve(stream, context, worker.shared.draining.clone(), wire, move |end, stream| {
        if let (http::traffic::End::Broken, Some(stream)) = (end, stream) {
            stream.reset_on_drop();
        }
        drop(held);
    })
}

/// A whole connection to one backend.
async fn balance(
    serving: &Serving,
    stream: Stream,
    backends: &[Backend],
    idle: Duration,
    admission: Option<&Admission>,
) {
    let worker = &serving.worker;
    let snapshot = worker.snapshot();
    let chosen = routing::choose(backends, &mut |bound| worker.draw(bound)).and_then(|name| snapshot.service(name));
    let Some(service) = chosen.cloned() else {
        let failure = ConnError::new(Reason::NoRoute, no_backend(&snapshot, serving.destination));
        stream.reset_on_drop();
        return finish(worker, Direction::Outbound, &Ended::default(), (serving.peer, serving.begun, Some(&failure)));
    };
    drop(snapshot);
    Chosen::new(worker, stream, service, idle).run(serving, admission).await;
}

/// A way to the service, which takes the client's first words along, and those that it couldn't take.
pub(crate) async fn connected(
    worker: &Worker,
    service: &ServiceRow,
    stream: &mut Stream,
) -> Result<(Connected, Bytes), ConnError> {
    let mut first = connection::first_words(stream)?;
    let upstream = match worker.upstreams.begin(service, &first) {
        Some(Ok(upstream)) => upstream,
        other => {
            let dialled = other.and_then(Result::err);
            Box::pin(worker.upstreams.connect(dialled, service, &worker.shared.identities, &first)).await?
        }
    };
    first.advance(upstream.sent);
    Ok((upstream, first))
}

fn no_backend(snapshot: &Snapshot, destination: SocketAddr) -> String {
    let row = snapshot.listener(destination).map(|listener| &listener.row.origin);
    match row.filter(|origin| origin.kind == "freed") {
        Some(was) => format!("{destination} was {}'s, which is gone: the client kept an old DNS answer", was.name),
        None => format!("{destination} has no backend"),
    }
}

/// A captured connection to what the mesh doesn't know: on to where it was headed, where that is allowed.
pub(crate) async fn unmatched(serving: Serving, stream: TcpStream) {
    let mut ended = Ended { service: "passthrough".into(), ..Ended::default() };
    let failure = if is_virtual(&serving) {
        // Beyond this host nobody has it; and the way there may lead right back here.
        socket::reset_on_drop(&stream);
        let detail = format!("{} is virtual, and no name of the mesh has this address and port", serving.destination);
        Some(ConnError::new(Reason::NoRoute, detail))
    } else {
        match passthrough::admit(&serving, &stream).await {
            Admitted::Bytes => plain(&serving, stream, serving.destination, None, &mut ended).await,
            Admitted::Requests => {
                let settings = serving.worker.http.sidecar.clone();
                let traffic = HttpTraffic::passthrough(&serving);
                return spawn_http(serving, Stream::Plain(stream), traffic, settings);
            }
            Admitted::Nothing(failure) => {
                socket::reset_on_drop(&stream);
                Some(failure)
            }
        }
    };
    finish(&serving.worker, Direction::Passthrough, &ended, (serving.peer, serving.begun, failure.as_ref()));
}

fn is_virtual(serving: &Serving) -> bool {
    let snapshot = serving.worker.snapshot();
    let ranges = snapshot.tables().proxy.dns.vip_ranges.iter();
    ranges.filter_map(|range| range.parse::<Range>().ok()).any(|range| range.contains(serving.destination.ip()))
}

/// Bytes as they are, to one address.
pub(crate) async fn plain(
    serving: &Serving,
    stream: TcpStream,
    to: SocketAddr,
    source: Option<std::net::IpAddr>,
    ended: &mut Ended,
) -> Option<ConnError> {
    let options = socket::ConnectOptions { source, unsettled: true, ..socket::ConnectOptions::default() };
    let mut stream = Stream::Plain(stream);
    let opened = async {
        let mut first = connection::first_words(&mut stream)?;
        let (upstream, sent) = socket::connect_saying(to, &options, &first, CONNECT_TIMEOUT).await?;
        first.advance(sent);
        Ok((upstream, first, sent))
    };
    match opened.await {
        Err(failure) => {
            stream.reset_on_drop();
            Some(failure)
        }
        Ok((upstream, rest, sent)) => {
            (ended.upstream, ended.received) = (Some(to), sent as u64);
            let idle = Duration::from_millis(snapshot::limits::IDLE_TIMEOUT_MS);
            let _counted = serving.worker.shared.metrics.handle(Direction::Outbound, &ended.service, "").connection();
            let pair = (&mut stream.preceded_by(rest), &mut Stream::Plain(upstream));
            connection::copy(&serving.worker, pair, idle, None, ended).await
        }
    }
}

/// Of passthrough and of the proxy's own application.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    type Places = [Option<crate::quota::Counted>; 2];
    type Serve<'a, F> = fn(&'a Worker, SocketAddr, Stream, (HttpTraffic, Arc<Settings>), Places) -> F;

    fn bytes_of<F>(_: Serve<'_, F>) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_http_connection_takes_no_more_memory_than_a_usual_request_needs() {
        assert!(bytes_of(http_connection) <= 2048, "{} bytes", bytes_of(http_connection));
    }
}
