//! Resolvers that are dead, slow, truncating or lying, in every order, under a resolv.conf that is rewritten under load:
//! no lookup is lost while one of them works, and none is answered wrong.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use dns::{Config, Times};
use snapshot::{Generation, Snapshot, Tables};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);
const LOOKUPS: u16 = 60;
const CLIENTS: u8 = 8;
/// Longer than one try: the answer comes when others have been asked as well.
const SLOW: Duration = Duration::from_millis(600);
const TOO_LONG: usize = 400;

/// What is wrong with a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Dead,
    Slow,
    /// Over UDP everything is too long for it; over TCP it answers.
    Truncating,
    /// Wrong ids, wrong questions, wrong senders, with an address of its own making.
    Lying,
    Refusing,
}

/// The honest answer: an address made from the name's own bytes.
fn honest(query: &[u8]) -> Vec<u8> {
    let end = query.len() - 4;
    let sum = query[12..end].iter().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.to_ascii_lowercase()));
    let mut bytes = [query, &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, sum]].concat();
    (bytes[2], bytes[3], bytes[7]) = (0x81, 0x80, 1);
    bytes
}

fn lie(query: &[u8]) -> Vec<u8> {
    let mut bytes = honest(query);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&[6, 6, 6, 6]);
    bytes
}

/// Serves on UDP and TCP of one address.
async fn serve(kind: Kind, udp: UdpSocket, tcp: TcpListener) {
    let (udp, other) = (Arc::new(udp), Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let length = stream.read_u16().await?;
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await?;
                let mut answer = match kind {
                    Kind::Dead => std::future::pending().await,
                    Kind::Lying => lie(&[&[query[0] ^ 1], &query[1..]].concat()),
                    _ => honest(&query),
                };
                if kind == Kind::Refusing {
                    answer[3] = 0x85;
                }
                stream.write_u16(answer.len() as u16).await?;
                stream.write_all(&answer).await
            });
        }
    });
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = udp.recv_from(&mut bytes).await {
            let (query, udp, other) = (bytes[..length].to_vec(), udp.clone(), other.clone());
            tokio::spawn(async move {
                let mut answer = honest(&query);
                match kind {
                    Kind::Dead => return,
                    Kind::Good => {}
                    // sleep: the peer is slow
                    Kind::Slow => sleep(SLOW).await,
                    Kind::Truncating => answer[2] |= 0x02,
                    Kind::Refusing => answer[3] = 0x85,
                    Kind::Lying => {
                        let _ = other.send_to(&lie(&query), client).await;
                        let _ = udp.send_to(&lie(&[&[query[0] ^ 1], &query[1..]].concat()), client).await;
                        answer = lie(&query);
                        answer[13] ^= 3;
                    }
                }
                // The client may be gone.
                let _ = udp.send_to(&answer, client).await;
            });
        }
    });
}

/// Resolvers of these kinds on 127.0.0.2 and so on, all at one port.
async fn resolvers(kinds: &[Kind]) -> (Vec<Ipv4Addr>, u16) {
    let addresses: Vec<_> = (2..).take(kinds.len()).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    'ports: loop {
        let mut sockets: Vec<(UdpSocket, TcpListener)> = Vec::new();
        for address in &addresses {
            let port = sockets.first().map_or(0, |(udp, _)| udp.local_addr().unwrap().port());
            // Another test may have this port there: then with another.
            let Ok(udp) = UdpSocket::bind((*address, port)).await else { continue 'ports };
            let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await else { continue 'ports };
            sockets.push((udp, tcp));
        }
        let port = sockets[0].0.local_addr().unwrap().port();
        for (kind, (udp, tcp)) in kinds.iter().zip(sockets) {
            serve(*kind, udp, tcp).await;
        }
        return (addresses, port);
    }
}

async fn start(resolv_conf: &Path, port: u16) -> SocketAddr {
    let (mut publisher, reader) = snapshot::cell();
    let snapshot = Snapshot::build(Tables::default(), Generation { epoch: 1, sequence: 1 }).unwrap();
    publisher.publish(Arc::new(snapshot)).unwrap();
    let times = Times {
        one_try: Duration::from_millis(500),
        one_try_tcp: Duration::from_secs(1),
        resolv_conf_check: Duration::ZERO,
        // Longer than the writer may be kept from its next write.
        resolv_conf_settle: PATIENCE,
        silent: Duration::from_millis(500),
        ..Times::default()
    };
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, resolv_conf: resolv_conf.into(), resolvers_port: port, times, ..Config::default() };
    let bound = dns::bind(config, reader).await.unwrap();
    let address = bound.addresses()[0];
    tokio::spawn(bound.run(std::future::pending()));
    address
}

fn conf(servers: impl IntoIterator<Item = Ipv4Addr>) -> String {
    servers.into_iter().map(|server| format!("nameserver {server}\n")).collect()
}

fn query(client: u8, id: u16) -> Vec<u8> {
    let name = format!("host-{client}-{id}");
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8]);
    bytes.extend(name.as_bytes());
    bytes.extend(b"\x07EXAMPLE\x00\x00\x01\x00\x01");
    bytes
}

/// As libc does: over UDP, and over TCP what was truncated.
async fn lookup(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut bytes = vec![0; TOO_LONG];
    let length = socket.recv(&mut bytes).await.unwrap();
    bytes.truncate(length);
    if bytes[2] & 0x02 == 0 {
        return bytes;
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(query).await.unwrap();
    bytes.resize(usize::from(stream.read_u16().await.unwrap()), 0);
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// All clients at once; each lookup must be answered, and by an honest resolver.
async fn load(server: SocketAddr) {
    let clients = (0..CLIENTS).map(|client| {
        tokio::spawn(async move {
            for id in 0..LOOKUPS {
                let query = query(client, id);
                let answer = timeout(PATIENCE, lookup(server, &query)).await.unwrap();
                assert_eq!(answer, honest(&query), "client {client}, lookup {id}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn one_working_resolver_is_enough_wherever_it_stands() {
    use Kind::{Dead, Good, Lying, Refusing, Slow, Truncating};
    for kinds in [
        &[Dead, Good][..],
        &[Slow, Dead],
        &[Lying, Good],
        &[Truncating, Dead],
        &[Dead, Truncating, Lying],
        &[Refusing, Slow],
        &[Dead, Lying, Refusing, Good],
    ] {
        let (addresses, port) = resolvers(kinds).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, conf(addresses)).unwrap();
        let server = start(&file, port).await;
        for id in 0..4 {
            let query = query(0, id);
            let answer = timeout(PATIENCE, lookup(server, &query)).await.unwrap();
            assert_eq!(answer, honest(&query), "{kinds:?}");
        }
    }
}

/// In place and in pieces, as careless programs do; there is always a good one in it.
fn rewrite(file: &Path, addresses: &[Ipv4Addr], round: usize) {
    let (good, bad) = addresses.split_at(2);
    let mut servers: Vec<_> = bad.iter().copied().cycle().skip(round).take(2).collect();
    servers.insert(round % 3, good[round % 2]);
    let text = conf(servers);
    let (first, second) = text.split_at(round % text.len());
    let mut file = std::fs::File::create(file).unwrap();
    for part in [first, second] {
        file.write_all(part.as_bytes()).unwrap();
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn rewriting_resolv_conf_under_load_loses_no_lookup() {
    use Kind::{Dead, Good, Lying, Refusing, Truncating};
    let (addresses, port) = resolvers(&[Good, Good, Dead, Lying, Refusing, Truncating]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    rewrite(&file, &addresses, 0);
    let server = start(&file, port).await;
    let (ended, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = {
        let (ended, rounds) = (ended.clone(), rounds.clone());
        std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                let round = rounds.fetch_add(1, Relaxed) + 1;
                rewrite(&file, &addresses, round);
                // sleep: a file that is rewritten all the time, and not only that
                std::thread::sleep(Duration::from_millis(3));
            }
        })
    };
    // On a busy machine the writer may hardly have begun when all is answered.
    while rounds.load(Relaxed) <= 10 {
        load(server).await;
    }
    ended.store(true, Relaxed);
    writer.join().unwrap();
}
