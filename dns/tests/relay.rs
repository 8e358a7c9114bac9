//! What isn't ours, on loopback: resolvers that are dead, lie, refuse or truncate, and mesh names answered meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod cases;

use dns::{Config, Times};
use snapshot::{DnsSettings, DnsUpstream, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
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

fn times() -> Times {
    Times {
        one_try: Duration::from_millis(500),
        one_try_tcp: Duration::from_millis(1500),
        overall: Duration::from_millis(2500),
        ..Times::default()
    }
}

/// Every name of these, in turn.
fn all(servers: Vec<SocketAddr>) -> Vec<DnsUpstream> {
    servers.into_iter().map(|server| DnsUpstream { domain: String::new(), server }).collect()
}

async fn start(upstreams: Vec<SocketAddr>) -> Server {
    start_with(Config { upstreams: all(upstreams), times: times(), ..Config::default() }, mesh()).await
}

async fn start_with(config: Config, snapshot: Snapshot) -> Server {
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(snapshot)).unwrap();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let bound = dns::bind(Config { listen, ..config }, reader).await.unwrap();
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

#[test]
fn by_default_a_client_has_its_servfail_within_eight_seconds() {
    assert!(Times::default().overall < Duration::from_secs(8));
}

#[tokio::test]
async fn a_refused_question_says_why() {
    let mut question = query(7, "example.com");
    question[11] = 1;
    question.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("missing");
    let nobody = start_with(Config { resolv_conf, times: times(), ..Config::default() }, mesh()).await;
    let dead = start(vec![closed().await]).await;
    for (server, why) in [(nobody, "resolv.conf names no usable resolver"), (dead, "no resolver answered in time")] {
        let answer = ask(server.address, &question).await;
        assert_eq!(answer[3] & 0x0f, 2);
        assert!(answer.ends_with(&[&[0, 22], why.as_bytes()].concat()), "{why}");
    }
}

#[tokio::test]
async fn only_so_many_queries_wait_and_the_next_is_refused_at_once() {
    let upstreams = all(vec![resolver(|_| vec![]).await]);
    let server = start_with(Config { upstreams, times: times(), relays_max: 4, ..Config::default() }, mesh()).await;
    let address = server.address;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for id in 0..4 {
        send(&mut stream, &query(id, "example.com")).await;
    }
    // Its answer overtakes the others: they have their places by then.
    send(&mut stream, &query(9, "backend.mesh")).await;
    assert_eq!(receive(&mut stream).await[1], 9);
    let mut question = query(7, "example.com");
    question[11] = 1;
    question.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    send(&mut stream, &question).await;
    let refused = receive(&mut stream).await;
    assert_eq!((refused[1], refused[3] & 0x0f), (7, 2), "over TCP, before those that wait");
    assert!(refused.ends_with(b"too many queries wait for resolvers"));
    assert!(ask(address, &question).await.ends_with(b"too many queries wait for resolvers"), "over UDP");
    for _ in 0..4 {
        assert_eq!(receive(&mut stream).await[3] & 0x0f, 2);
    }
}

#[tokio::test]
async fn names_of_a_domain_are_asked_where_somebody_said() {
    let tagged = |tag: &'static [u8]| resolver(move |query| vec![[&reply(query, 0)[..], tag].concat()]);
    let (own, theirs, rest) = (tagged(b"own").await, tagged(b"theirs").await, tagged(b"rest").await);
    let rule = |domain: &str, server| DnsUpstream { domain: domain.into(), server };
    let dns = DnsSettings {
        domain: "mesh".into(),
        ttl_s: 60,
        upstreams: vec![rule("consul", theirs), rule("corp.example", theirs)],
        ..DnsSettings::default()
    };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, ..Tables::default() };
    let snapshot = Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap();
    let upstreams = vec![rule("consul", own), rule("", rest)];
    let server = start_with(Config { upstreams, times: times(), ..Config::default() }, snapshot).await;
    for (name, tag) in
        [("a.consul", "own"), ("A.Corp.Example", "theirs"), ("example.com", "rest"), ("nobody.mesh", "rest")]
    {
        let answer = ask(server.address, &query(7, name)).await;
        assert!(answer.ends_with(tag.as_bytes()), "{name} of {tag}");
    }
}

#[tokio::test]
async fn a_spoofed_answer_from_another_address_is_never_heard() {
    let (say, mut hear) = tokio::sync::mpsc::channel::<(Vec<u8>, SocketAddr)>(1);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut bytes, spoofer) = ([0; 512], UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (length, client) = socket.recv_from(&mut bytes).await.unwrap();
        // It even knows id and question.
        spoofer.send_to(&reply(&bytes[..length], 0), client).await.unwrap();
        say.send((bytes[..length].to_vec(), client)).await.unwrap();
        socket.send_to(&reply(&bytes[..length], 3), client).await.unwrap();
    });
    let question = query(7, "example.com");
    assert_eq!(ask(start(vec![address]).await.address, &question).await, reply(&question, 3));
    let (sent, _) = hear.recv().await.unwrap();
    assert_eq!(sent[2..], question[2..], "all but the id is the client's");
}

#[tokio::test]
async fn options_attempts_and_timeout_of_resolv_conf_are_obeyed() {
    let (say, mut hear) = tokio::sync::mpsc::channel(16);
    let silent = resolver(move |query| {
        say.try_send(query.to_vec()).unwrap();
        vec![]
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions attempts:2 timeout:1\n").unwrap();
    let times = Times { overall: PATIENCE, ..times() };
    let config = Config { resolv_conf, resolvers_port: silent.port(), times, ..Config::default() };
    let start = Instant::now();
    assert_eq!(ask(start_with(config, mesh()).await.address, &query(7, "example.com")).await[3] & 0x0f, 2);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(hear.recv().await, hear.recv().await, "the same query again, to the same place");
    assert!(hear.try_recv().is_err());
}

#[tokio::test]
async fn a_tcp_client_gets_from_another_resolver_what_the_first_truncates() {
    // Truncates over UDP, and nobody listens over TCP.
    let truncating = resolver(|query| {
        let mut short = query.to_vec();
        short[2] |= 0x82;
        vec![short]
    })
    .await;
    let udp_only = resolver(|query| vec![reply(query, 0)]).await;
    let server = start(vec![truncating, udp_only]).await;
    let question = query(7, "big.example.com");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, &question).await;
    assert_eq!(receive(&mut stream).await, reply(&question, 0));
}

#[tokio::test]
async fn more_queries_than_wait_at_once_are_all_answered_on_one_tcp_connection() {
    let server = start(vec![truncating(Duration::ZERO).await]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for id in 0..60 {
        send(&mut stream, &query(id, if id.is_multiple_of(3) { "backend.mesh" } else { "www.example.com" })).await;
    }
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let answer = receive(&mut stream).await;
        let local = answer[1].is_multiple_of(3);
        assert_eq!(answer.len() < 100, local, "each gets its own answer");
        ids.insert(answer[1]);
    }
    assert_eq!(ids.len(), 60);
}

#[tokio::test]
async fn a_tcp_connection_that_never_says_a_whole_query_ends() {
    let times = Times { tcp_idle: Duration::from_millis(300), ..times() };
    let server = start_with(Config { times, ..Config::default() }, mesh()).await;
    let (mut silent, dribbling) =
        (TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap());
    let (mut input, mut output) = dribbling.into_split();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while output.write_all(&[1]).await.is_ok() {
            ticks.tick().await;
        }
    });
    let mut byte = [0];
    let ended = timeout(PATIENCE, input.read(&mut byte)).await.unwrap();
    // Bytes nobody read make it a reset.
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert_eq!(timeout(PATIENCE, silent.read(&mut byte)).await.unwrap().unwrap(), 0);
}
