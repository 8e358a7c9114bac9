//! Zone ingress and egress: the connection is routed by the SNI of its ClientHello. TLS passes through untouched, but
//! for external services, where the egress ends it.

use crate::admission::{Admission, Place};
use crate::connection::{self, Ended, Serving, finish};
use crate::error::{ConnError, Reason};
use crate::metrics::Direction;
use crate::outbound::{self, Site};
use crate::sni::{self, Hello};
use crate::stream::Stream;
use crate::traffic::HttpTraffic;
use crate::{socket, tls};
use snapshot::{Handler, ServiceRow, SniTarget, lookup};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

pub(crate) async fn serve(serving: &Serving, stream: TcpStream) {
    let timeout = Duration::from_millis(sni::HELLO_TIMEOUT_MS);
    let hello = sni::take_hello(&stream, timeout, sni::HELLO_BYTES_MAX).await;
    let name = match hello {
        Ok((Hello::Sni { name, .. }, bytes)) => Ok((name, bytes)),
        Ok((other, _)) => Err(ConnError::new(Reason::DownstreamProtocol, format!("no usable ClientHello: {other:?}"))),
        Err(failure) => Err(failure),
    };
    let (name, hello) = match name {
        Ok(found) => found,
        Err(failure) => return refuse(serving, &stream, Ended::default(), &failure),
    };
    let snapshot = serving.worker.snapshot();
    let Some(sni) = snapshot.sni(&name).cloned() else {
        let failure = ConnError::new(Reason::NoRoute, format!("SNI {name} is known to no service here"));
        return refuse(serving, &stream, Ended::default(), &failure);
    };
    match &sni.row.target {
        SniTarget::Passthrough { service } => {
            let Some(service) = snapshot.service(service).cloned() else { return };
            drop(snapshot);
            passthrough(serving, Stream::with_prefix(stream, hello.into()), &name, &service).await;
        }
        SniTarget::Terminate { mesh, permission, handler, .. } => {
            drop(snapshot);
            Box::pin(terminate(serving, (stream, hello), (mesh, permission, &name), handler)).await;
        }
    }
}

fn refuse(serving: &Serving, stream: &TcpStream, ended: Ended, failure: &ConnError) {
    socket::reset_on_drop(stream);
    finish(&serving.worker, Direction::Zone, &ended, (serving.peer, serving.begun, Some(failure)));
}

/// The bytes go on as they came, the ClientHello first.
async fn passthrough(serving: &Serving, mut stream: Stream, sni: &str, service: &Arc<ServiceRow>) {
    let worker = &serving.worker;
    let mut ended = Ended::default();
    let counted = worker.shared.metrics.handle(Direction::Zone, &service.name, "").connection();
    let failure = match outbound::connected(worker, service, &mut stream).await {
        Err(failure) => {
            stream.reset_on_drop();
            Some(failure)
        }
        Ok((mut upstream, rest)) => {
            (ended.upstream, ended.received) = (Some(upstream.address), upstream.sent as u64);
            let mut stream = stream.preceded_by(rest);
            let idle = Duration::from_millis(service.idle_timeout_ms);
            let pair = (&mut stream, &mut upstream.stream);
            connection::copy(worker, pair, idle, None, &mut ended).await
        }
    };
    let way = (Direction::Zone, &counted);
    connection::finish_counted(serving, way, &service.name, (|| format!("sni {sni}"), ended), failure.as_ref());
}

/// An external service: our identity `zone-egress` of the client's mesh, its permission, then out.
async fn terminate(
    serving: &Serving,
    (stream, hello): (TcpStream, Vec<u8>),
    what: (&str, &str, &str),
    handler: &Handler,
) {
    let (mesh, permission, sni) = what;
    let worker = &serving.worker;
    let accepted = match worker.shared.identities.server(mesh) {
        Ok(server) => tls::accept_mesh_after(&server, &server.config, stream, &hello).await,
        Err(why) => Err(ConnError::new(Reason::DownstreamTls, why)),
    };
    drop(hello);
    let (stream, peers) = match accepted {
        Ok(accepted) => accepted,
        Err(failure) => {
            let ended = Ended { origin: format!("sni {sni}"), ..Ended::default() };
            return finish(worker, Direction::Zone, &ended, (serving.peer, serving.begun, Some(&failure)));
        }
    };
    let site = Site::Sni(sni.to_owned());
    let mut stream = Stream::from(stream);
    if let Handler::Http { .. } = handler {
        let traffic = HttpTraffic::routed(serving, site, "http").for_peer(Some(peers));
        return outbound::http_connection(worker, serving.peer, stream, (traffic, worker.http.sidecar.clone()), ())
            .await;
    }
    if lookup::authorize(worker.snapshot().access(permission), &peers) {
        let admission = Admission { place: Place::Sni(sni.to_owned()), peers: Some(peers) };
        return outbound::serve(serving, stream, handler, site, Some(&admission)).await;
    }
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
    let detail = format!("{} isn't admitted to the external service of SNI {sni}", peers.join(" "));
    let ended = Ended { origin: permission.to_owned(), ..Ended::default() };
    finish(
        worker,
        Direction::Zone,
        &ended,
        (serving.peer, serving.begun, Some(&ConnError::new(Reason::Denied, detail))),
    );
}
