//! The copy on both sides of a tunnel: between a client's socket and a stream, and between that stream and a server's socket.

use super::*;
use crate::mux::{self, Tunnel};
use tokio::io::BufReader;
use tokio::task::LocalSet;

/// What the way between both proxies holds: frames come in pieces.
const WAY_BYTES: usize = 100_000;

/// A tunnel whose drivers run on the current `LocalSet`.
fn tunnel() -> (Rc<Tunnel>, Rc<Tunnel>) {
    let (dialled, accepted) = (Tunnel::new(true), Tunnel::new(false));
    let (a, b) = tokio::io::duplex(WAY_BYTES);
    for (io, tunnel) in [(a, dialled.clone()), (b, accepted.clone())] {
        let mut io = BufReader::with_capacity(16 << 10, io);
        tokio::task::spawn_local(async move { mux::run(&mut io, &tunnel).await });
    }
    (dialled, accepted)
}

/// Client and server, and both copies between them: how they end.
async fn through((dialled, accepted): &(Rc<Tunnel>, Rc<Tunnel>)) -> (TcpStream, TcpStream, [JoinHandle<Copied>; 2]) {
    let ((client, near), (server, far)) = (pair().await, pair().await);
    let copied = |a: Stream, b: Stream| {
        let (mut a, mut b) = (a, b);
        tokio::task::spawn_local(async move { copy_both(&mut a, &mut b, LONG).await })
    };
    let stream = dialled.open().unwrap();
    let outbound = copied(near.into(), Stream::Mux(stream));
    let inbound = copied(Stream::Mux(accepted.accept().await.unwrap()), far.into());
    (client, server, [outbound, inbound])
}

async fn ends([outbound, inbound]: [JoinHandle<Copied>; 2]) -> [End; 2] {
    [outbound.await.unwrap().ended, inbound.await.unwrap().ended]
}

#[tokio::test]
async fn whoever_closes_first_a_connection_through_a_tunnel_ends_in_peace() {
    let run = async {
        let tunnel = tunnel();
        for client_first in [true, false] {
            let (mut client, mut server, copies) = through(&tunnel).await;
            client.write_all(b"question").await.unwrap();
            server.read_exact(&mut [0; 8]).await.unwrap();
            server.write_all(b"answer").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
            let (first, mut second) = if client_first { (client, server) } else { (server, client) };
            drop(first);
            assert_eq!(read_all(&mut second).await, b"");
            drop(second);
            assert_eq!(ends(copies).await, [End::Finished; 2], "client first: {client_first}");
        }
        assert!(tunnel.0.is_idle() && tunnel.1.is_idle());
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn bytes_through_a_tunnel_arrive_byte_exact_and_are_counted_on_both_sides() {
    let run = async {
        let tunnel = tunnel();
        for bytes in [0, 1, BUFFER_BYTES, 70_000, 5 << 20] {
            let (client, server, [outbound, inbound]) = through(&tunnel).await;
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
            assert_eq!((outbound.await.unwrap(), inbound.await.unwrap()), (expected, expected));
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_reset_on_either_side_is_passed_through_the_tunnel_with_its_blame() {
    let run = async {
        let tunnel = tunnel();
        let (client, mut server, copies) = through(&tunnel).await;
        reset_on_drop(&client);
        drop(client);
        assert_reset(&mut server).await;
        assert_eq!(ends(copies).await, [End::DownstreamReset; 2]);
        let (mut client, server, copies) = through(&tunnel).await;
        reset_on_drop(&server);
        drop(server);
        assert_reset(&mut client).await;
        assert_eq!(ends(copies).await, [End::UpstreamReset; 2]);
    };
    LocalSet::new().run_until(run).await;
}
