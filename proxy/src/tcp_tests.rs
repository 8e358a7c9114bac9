//! The copy between real sockets on loopback: bytes, half-close, resets, idle time and memory.

use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::buffer::BUFFERS;
use super::*;
use crate::socket::reset_on_drop;
use crate::splice::POOL;
use tokio::io::Interest;

const LONG: Duration = Duration::from_secs(60);

/// (application's socket, proxy's socket).
async fn pair() -> (TcpStream, TcpStream) {
    let listener = crate::socket::listen_tcp("127.0.0.1:0".parse().unwrap(), Default::default()).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let (outer, inner) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (outer.unwrap(), inner.unwrap().0)
}

/// Streams of a tunnel stay on one thread, and so does a future that might hold one.
fn on_a_thread<F: Future>(make: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
where
    F::Output: Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(make()))
}

/// Client and server with a copy between them.
async fn proxied(idle: Duration) -> (TcpStream, TcpStream, JoinHandle<Copied>) {
    let ((client, a), (server, b)) = (pair().await, pair().await);
    let copy = on_a_thread(move || async move { copy_both(&mut a.into(), &mut b.into(), idle).await });
    (client, server, copy)
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

async fn send_then_half_close(mut writer: impl AsyncWriteExt + Unpin, bytes: Arc<Vec<u8>>) {
    writer.write_all(&bytes).await.unwrap();
    writer.shutdown().await.unwrap();
}

async fn read_all(mut reader: impl AsyncReadExt + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn exchange_bytes(bytes: usize) {
    let (client, server, copy) = proxied(LONG).await;
    let (up, down) = (Arc::new(noise(bytes, 1)), Arc::new(noise(bytes, 2)));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let ((), (), at_server, at_client) = tokio::join!(
        send_then_half_close(client_write, up.clone()),
        send_then_half_close(server_write, down.clone()),
        read_all(server_read),
        read_all(client_read)
    );
    assert!(at_server == *up && at_client == *down, "bytes differ");
    let expected = Copied { up_bytes: bytes as u64, down_bytes: bytes as u64, ended: End::Finished };
    assert_eq!(copy.await.unwrap(), expected);
}

#[tokio::test]
async fn twenty_mebibytes_both_ways_arrive_byte_exact() {
    exchange_bytes(20 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_mebibytes_both_ways_arrive_byte_exact_across_threads() {
    exchange_bytes(20 << 20).await;
}

#[tokio::test]
async fn sizes_around_the_buffer_arrive_byte_exact() {
    for bytes in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES, 5 * BUFFER_BYTES + 7] {
        exchange_bytes(bytes).await;
    }
}

#[tokio::test]
async fn an_answer_still_arrives_after_the_client_half_closed() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"answer");
    assert_eq!(copy.await.unwrap().ended, End::Finished);
}

#[tokio::test]
async fn a_greeting_still_arrives_before_the_client_speaks() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    server.write_all(b"220 ready").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"220 ready");
    client.write_all(b"bye").await.unwrap();
    drop(client);
    assert_eq!(read_all(&mut server).await, b"bye");
    assert_eq!(copy.await.unwrap().ended, End::Finished);
}

fn reset(stream: TcpStream) {
    reset_on_drop(&stream);
    drop(stream);
}

async fn assert_reset(stream: &mut TcpStream) {
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_is_passed_on_to_the_server() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    reset(client);
    assert_reset(&mut server).await;
    assert_eq!(copy.await.unwrap(), Copied { up_bytes: 1, down_bytes: 0, ended: End::DownstreamReset });
}

#[tokio::test]
async fn a_reset_is_passed_on_to_the_client() {
    let (mut client, server, copy) = proxied(LONG).await;
    reset(server);
    assert_reset(&mut client).await;
    assert_eq!(copy.await.unwrap().ended, End::UpstreamReset);
}

#[tokio::test]
async fn a_reset_after_half_close_is_passed_on_though_the_server_is_silent() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"");
    reset(client);
    assert_eq!(copy.await.unwrap().ended, End::DownstreamReset);
    server.ready(Interest::ERROR).await.unwrap();
    assert!(server.write(b"answer").await.is_err());
}

#[tokio::test]
async fn the_last_words_of_a_server_that_resets_reach_the_client() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    server.write_all(b"413 too much").await.unwrap();
    let mut words = [0; 12];
    client.read_exact(&mut words).await.unwrap();
    reset(server);
    // Whether the write or the read meets the reset first, the end is the same.
    let _ = client.write_all(&noise(1 << 16, 3)).await;
    assert_eq!(copy.await.unwrap().ended, End::UpstreamReset);
}

#[tokio::test]
async fn a_silent_pair_ends_after_the_idle_time_since_its_last_byte() {
    let idle = Duration::from_millis(200);
    let (mut client, mut server, copy) = proxied(idle).await;
    let mut last_byte = Instant::now();
    for _ in 0..4 {
        // sleep: the silence between bytes is what is tested
        tokio::time::sleep(idle / 2).await;
        last_byte = Instant::now();
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
    }
    let copied = copy.await.unwrap();
    assert_eq!((copied.up_bytes, copied.ended), (4, End::Idle));
    assert!(last_byte.elapsed() >= idle, "{:?}", last_byte.elapsed());
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let (mut client, mut server, copy) = proxied(LONG).await;
    // The writer gets stuck once the kernel's buffers and one pipe are full. Without CAP_NET_ADMIN the kernel's own limit holds.
    let bytes_max = if crate::interception::check_capability().is_ok() { 16 << 20 } else { 128 << 20 };
    let chunk = vec![7; 1 << 20];
    let mut sent = 0usize;
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(300), client.write(&chunk)).await {
        sent += count.unwrap();
        assert!(sent < bytes_max, "the proxy takes in without bound");
    }
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.len(), sent);
    drop(server);
    assert_eq!(copy.await.unwrap().up_bytes, sent as u64);
}

#[tokio::test]
async fn replayed_bytes_are_delivered_first() {
    let ((mut client, a), (mut server, b)) = (pair().await, pair().await);
    let copy = on_a_thread(move || async move {
        let mut a = Stream::with_prefix(a, Bytes::from_static(b"GET "));
        copy_both(&mut a, &mut b.into(), LONG).await
    });
    client.write_all(b"/").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, b"GET /");
    drop(server);
    assert_eq!(copy.await.unwrap().up_bytes, 5);
}

#[tokio::test]
async fn nothing_is_borrowed_while_nothing_moves() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let ((mut client, a), (mut server, b)) = (pair().await, pair().await);
            let copy = tokio::task::spawn_local(async move { copy_both(&mut a.into(), &mut b.into(), LONG).await });
            // The one that will be borrowed, where a socket doesn't take a message at once.
            drop(Buffer::take());
            // In turns bulk, which is spliced from its second buffer on, and little.
            for (seed, count) in
                [1 << 20, 1, 1 << 20, 3 << 20, 17, BUFFER_BYTES, 2 * BUFFER_BYTES, 1].into_iter().enumerate()
            {
                let bytes = noise(count, seed as u64 + 1);
                let (sent, received) = tokio::join!(client.write_all(&bytes), async {
                    let mut received = vec![0; bytes.len()];
                    server.read_exact(&mut received).await.map(|_| received)
                });
                sent.unwrap();
                assert!(received.unwrap() == bytes);
                let is_all_back = || (BUFFERS.with_borrow(Vec::len), POOL.with_borrow(Vec::len)) == (1, 1);
                let all_back = async {
                    while !is_all_back() {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(LONG, all_back).await.expect("a buffer or a pipe isn't given back");
            }
            drop((client, server));
            copy.await.unwrap();
        })
        .await;
}

mod tls {
    use super::*;
    use crate::tls::TlsStream;
    use rustls::pki_types::{PrivateKeyDer, ServerName};

    fn tls(stream: TlsStream<TcpStream>) -> Stream {
        Stream::Tls(Box::new(stream))
    }

    async fn tls_pair() -> (TlsStream<TcpStream>, TlsStream<TcpStream>) {
        let key = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let der = key.cert.der().clone();
        let private = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let mut server =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![der.clone()], private).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der).unwrap();
        let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (outer, inner) = pair().await;
        (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
        let (server, client) = (Arc::new(server), Arc::new(client));
        let name = ServerName::try_from("a.test").unwrap();
        let (outer, inner) =
            tokio::join!(crate::tls::connect(&client, name, outer), crate::tls::accept(&server, inner));
        (outer.unwrap(), inner.unwrap())
    }

    #[tokio::test]
    async fn bytes_through_tls_on_both_legs_arrive_byte_exact_with_half_close() {
        let ((client, a), (server, b)) = (tls_pair().await, tls_pair().await);
        let copy = on_a_thread(move || async move { copy_both(&mut tls(a), &mut tls(b), LONG).await });
        let (up, down) = (Arc::new(noise(3 << 20, 1)), Arc::new(noise(3 << 20, 2)));
        let (client_read, client_write) = tokio::io::split(client);
        let (server_read, server_write) = tokio::io::split(server);
        let ((), (), at_server, at_client) = tokio::join!(
            send_then_half_close(client_write, up.clone()),
            send_then_half_close(server_write, down.clone()),
            read_all(server_read),
            read_all(client_read)
        );
        assert!(at_server == *up && at_client == *down, "bytes differ");
        assert_eq!(copy.await.unwrap().ended, End::Finished);
    }

    #[tokio::test]
    async fn tls_cut_without_its_goodbye_resets_the_plain_side() {
        let ((client, a), (mut server, b)) = (tls_pair().await, pair().await);
        let copy = on_a_thread(move || async move { copy_both(&mut tls(a), &mut b.into(), LONG).await });
        drop(client);
        assert_reset(&mut server).await;
        assert_eq!(copy.await.unwrap().ended, End::DownstreamReset);
    }
}

#[path = "tcp/tunnel_tests.rs"]
mod tunnel;
