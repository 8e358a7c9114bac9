//! What isn't ours, on loopback: resolvers that are dead, lie, refuse or truncate, and mesh names answered meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use dns::{Config, Times};
use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

fn mesh() -> Snapshot {
    let v4 = "240.0.0.1".parse().ok();
    let names = vec![Arc::new(NameRow { name: "backend.mesh".into(), v4, v6: None, origin: Origin::default() })];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The query turned into a reply with this code, and bytes at its end that no encoder would write.
fn reply(query: &[u8], code: u8) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = code;
    bytes.extend(b"verbatim");
    bytes
}

struct Server {
    address: SocketAddr,
    metrics: Arc<dns::Metrics>,
}

async fn start(upstreams: Vec<SocketAddr>) -> Server {
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(mesh())).unwrap();
    let times = Times {
        one_try: Duration::from_millis(500),
        one_try_tcp: Duration::from_millis(1500),
        overall: Duration::from_millis(2500),
        ..Times::default()
    };
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let bound = dns::bind(Config { listen, upstreams, times, ..Config::default() }, reader).await.unwrap();
    let server = Server { address: bound.addresses()[0], metrics: bound.metrics() };
    tokio::spawn(bound.run(std::future::pending()));
    server
}

async fn ask(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut bytes = vec![0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut bytes)).await.unwrap().unwrap();
    bytes.truncate(length);
    bytes
}

/// A resolver over UDP that sends, for each query, what `answers` makes of it.
async fn resolver(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
            for answer in answers(&bytes[..length]) {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    address
}

/// A port nobody listens on.
async fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn other_names_are_relayed_byte_by_byte_whatever_their_code() {
    for code in [0, 2, 3, 5] {
        let server = start(vec![resolver(move |query| vec![reply(query, code)]).await]).await;
        let question = query(7, "www.example.com");
        assert_eq!(ask(server.address, &question).await, reply(&question, code));
    }
}

#[tokio::test]
async fn silent_closed_and_refusing_resolvers_are_passed_over() {
    let silent = resolver(|_| vec![]).await;
    let refusing = resolver(|query| vec![reply(query, 5)]).await;
    let good = resolver(|query| vec![reply(query, 0)]).await;
    let server = start(vec![silent, closed().await, refusing, good]).await;
    let question = query(7, "example.com");
    assert_eq!(ask(server.address, &question).await, reply(&question, 0));
    let start = Instant::now();
    assert_eq!(ask(server.address, &question).await, reply(&question, 0));
    assert!(start.elapsed() < Duration::from_millis(450), "the silent one is remembered");
}

#[tokio::test]
async fn resolvers_that_nobody_listens_on_fail_at_once() {
    let server = start(vec![closed().await, closed().await]).await;
    let start = Instant::now();
    assert_eq!(ask(server.address, &query(7, "example.com")).await[3] & 0x0f, 2);
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_liars_answers_are_ignored() {
    let liar = resolver(|query| {
        let mut wrong_id = reply(query, 0);
        wrong_id[0] ^= 1;
        let mut wrong_question = reply(query, 0);
        wrong_question[13] ^= 1;
        vec![wrong_id, wrong_question, b"x".to_vec(), query.to_vec(), reply(query, 3)]
    })
    .await;
    let server = start(vec![liar]).await;
    let question = query(7, "example.com");
    assert_eq!(ask(server.address, &question).await, reply(&question, 3));
}

#[tokio::test]
async fn dead_resolvers_end_in_servfail_while_mesh_names_are_answered_at_once() {
    let server = start(vec![resolver(|_| vec![]).await]).await;
    let address = server.address;
    let waiting: Vec<_> =
        (0..50).map(|id| tokio::spawn(async move { ask(address, &query(id, "example.com")).await })).collect();
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(ask(address, &query(1, "backend.mesh")).await[3] & 0x0f, 0);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap()[3] & 0x0f, 2);
    }
    let mut text = String::new();
    server.metrics.render(&mut text);
    for line in [
        "kuma_dp_dns_upstream_request_failure_count 50",
        "kuma_dp_dns_queries_total{qtype=\"A\",source=\"local\"} 20",
        "kuma_dp_dns_response_codes_total{rcode=\"servfail\"} 50",
        "kuma_dp_dns_entries_total 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn ids_and_source_ports_differ_from_query_to_query() {
    let (say, mut hear) = tokio::sync::mpsc::channel(64);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
            say.send((u16::from_be_bytes([bytes[0], bytes[1]]), client.port())).await.unwrap();
            socket.send_to(&reply(&bytes[..length], 0), client).await.unwrap();
        }
    });
    let server = start(vec![address]).await;
    let (mut ids, mut ports) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for _ in 0..20 {
        ask(server.address, &query(7, "example.com")).await;
        let (id, port) = hear.recv().await.unwrap();
        ids.insert(id);
        ports.insert(port);
    }
    assert!(ids.len() > 15 && ports.len() > 10, "{ids:?} {ports:?}");
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// Truncates over UDP, answers in full over TCP, after `wait` there.
async fn truncating(wait: Duration) -> SocketAddr {
    // One port for both: another test may have it over UDP, then another is tried.
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut bytes).await {
            bytes[2] |= 0x82;
            udp.send_to(&bytes[..length], client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let query = receive(&mut stream).await;
            let mut silence = [0];
            let _ = timeout(wait, stream.read(&mut silence)).await;
            let mut long = reply(&query, 0);
            long.resize(20_000, 7);
            send(&mut stream, &long).await;
        }
    });
    address
}

#[tokio::test]
async fn truncation_is_passed_on_and_tcp_clients_are_relayed_over_tcp() {
    let server = start(vec![truncating(Duration::ZERO).await]).await;
    let question = query(7, "big.example.com");
    assert_eq!(ask(server.address, &question).await[2] & 0x02, 0x02);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, &question).await;
    let answer = receive(&mut stream).await;
    assert_eq!((answer.len(), &answer[..2]), (20_000, &question[..2]));
}

#[tokio::test]
async fn mesh_names_overtake_relayed_ones_on_one_tcp_connection() {
    let server = start(vec![truncating(Duration::from_millis(200)).await]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, &query(1, "slow.example.com")).await;
    send(&mut stream, &query(2, "backend.mesh")).await;
    stream.shutdown().await.unwrap();
    assert_eq!(receive(&mut stream).await[1], 2);
    assert_eq!(receive(&mut stream).await[1], 1);
    assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
}
