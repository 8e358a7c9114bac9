//! What isn't one HTTP/1.1 request and its answer passes too: upgrades, HTTP/2 with prior knowledge, refusals.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::client::{Connection, get};
use crate::ground::Ground;

/// A sidecar with an outbound, and a workload behind it whose application is NET.11:9000.
pub(crate) fn resources(protocol: &str) -> String {
    format!(
        "
type: Dataplane
mesh: default
name: web
networking:
  address: NET.1
  inbound: [{{port: 9000, serviceAddress: NET.11, tags: {{kuma.io/service: web, kuma.io/protocol: {protocol}}}}}]
---
type: Dataplane
mesh: default
name: client
networking:
  address: NET.2
  inbound: [{{port: 9000, serviceAddress: NET.12, tags: {{kuma.io/service: client}}}}]
  outbound: [{{port: 8080, address: NET.6, tags: {{kuma.io/service: web}}}}]
"
    )
}

#[test]
fn a_websocket_passes_both_proxies_in_both_directions() {
    let ground = Ground::new();
    let listener = TcpListener::bind(ground.at(11, 9000)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let asks = head.contains("upgrade: websocket") && head.contains("sec-websocket-key");
        let answer: &[u8] = if asks {
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        } else {
            b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n"
        };
        let _ = stream.write_all(answer);
        let mut frame = [0; 4];
        while stream.read_exact(&mut frame).is_ok() {
            frame.reverse();
            let _ = stream.write_all(&frame);
        }
    });
    let _mesh = ground.up(&resources("http"));
    let mut connection = Connection::open(ground.at(6, 8080)).unwrap();
    let head = "GET /chat HTTP/1.1\r\nhost: web.mesh\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    let answer = connection.answer().unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    for frame in [b"ping", b"pong"] {
        connection.send(frame).unwrap();
        let mut expected = frame.to_vec();
        expected.reverse();
        assert_eq!(connection.read_exactly(4).unwrap(), expected);
    }
}

#[test]
fn a_service_whose_application_is_gone_answers_503_quickly() {
    let ground = Ground::new();
    let _mesh = ground.up(&resources("http"));
    let began = Instant::now();
    assert_eq!(get(ground.at(6, 8080), "web.mesh", "/").status, 503);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Says the version it was asked in, and the body's length.
async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = request.version();
    let length = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("{version:?} {length}"))))
}

#[tokio::test]
async fn http2_with_prior_knowledge_stays_http2_to_an_http2_service() {
    let ground = Ground::new();
    let listener = tokio::net::TcpListener::bind(ground.at(11, 9000)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(tell);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let resources = resources("http2");
    let (ground, _mesh) = tokio::task::spawn_blocking(move || {
        let mesh = ground.up(&resources);
        (ground, mesh)
    })
    .await
    .unwrap();
    let stream = tokio::net::TcpStream::connect(ground.at(6, 8080)).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut under_way = tokio::task::JoinSet::new();
    for length in [0, 1, 1000, 100_000] {
        let mut sender = sender.clone();
        under_way.spawn(async move {
            let request =
                Request::post("http://web.mesh/upload").body(Full::<Bytes>::from(vec![b'x'; length])).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&body), format!("HTTP/2.0 {length}"));
        });
    }
    while let Some(done) = under_way.join_next().await {
        done.unwrap();
    }
}
