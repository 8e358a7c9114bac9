//! Two ends of a tunnel over a pipe, and ends that misbehave.

use super::super::driver::{Tunnel, run};
use super::super::slot;
use super::super::stream::MuxStream;
use super::*;
use crate::upstream::balance::Rng;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::LocalSet;

/// Both ends of a live tunnel; `pipe` is what the way between holds.
async fn tunnel(pipe: usize) -> (Rc<Tunnel>, Rc<Tunnel>, [tokio::task::JoinHandle<Result<(), String>>; 2]) {
    let (a, b) = tokio::io::duplex(pipe);
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    let (dialled, accepted) = (Tunnel::new(true), Tunnel::new(false));
    let (one, other) = (dialled.clone(), accepted.clone());
    let left = tokio::task::spawn_local(async move { run(&mut a, &one).await });
    let right = tokio::task::spawn_local(async move { run(&mut b, &other).await });
    (dialled, accepted, [left, right])
}

async fn stream(dialled: &Rc<Tunnel>, accepted: &Rc<Tunnel>) -> (MuxStream, MuxStream) {
    let client = dialled.open().unwrap();
    (client, accepted.accept().await.unwrap())
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..bytes).map(|_| rng.below(256) as u8).collect()
}

#[tokio::test]
async fn many_streams_carry_their_own_bytes_and_each_half_ends_alone() {
    let run = async {
        let (dialled, accepted, _drivers) = tunnel(10_000).await;
        let echo = accepted.clone();
        tokio::task::spawn_local(async move {
            while let Some(mut stream) = echo.accept().await {
                tokio::task::spawn_local(async move {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    stream.write_all(&all).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
        let each = (0..100).map(|seed| {
            let mut stream = dialled.open().unwrap();
            tokio::task::spawn_local(async move {
                let sent = noise(3000 * seed, seed as u64);
                stream.write_all(&sent).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).await.unwrap();
                assert!(back == sent, "bytes differ");
            })
        });
        for one in each.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        assert!(dialled.is_idle() && accepted.is_idle());
        assert_eq!(dialled.conn.borrow().wider, 0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_reader_that_stands_still_stops_its_own_stream_alone() {
    let run = async {
        let (dialled, accepted, _drivers) = tunnel(64 << 10).await;
        let (slow, mut unread) = stream(&dialled, &accepted).await;
        let writer = tokio::task::spawn_local(async move {
            let mut slow = slow;
            slow.write_all(&vec![1; 1 << 20]).await.unwrap();
            slow
        });
        let (mut quick, mut other) = stream(&dialled, &accepted).await;
        for _ in 0..100 {
            quick.write_all(b"ping").await.unwrap();
            other.read_exact(&mut [0; 4]).await.unwrap();
        }
        assert!(!writer.is_finished());
        let held = accepted.conn.borrow().slots.values().map(|slot| slot.arrived.unread().len()).sum::<usize>();
        assert!(held <= WINDOW_BYTES as usize, "{held} bytes are held for a reader that reads nothing");
        let mut all = vec![0; 1 << 20];
        unread.read_exact(&mut all).await.unwrap();
        writer.await.unwrap();
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_dropped_stream_delivers_what_was_written_and_a_torn_one_is_reset() {
    let run = async {
        let (dialled, accepted, _drivers) = tunnel(64 << 10).await;
        let (mut client, mut server) = stream(&dialled, &accepted).await;
        client.write_all(b"last words").await.unwrap();
        drop(client);
        let mut all = String::new();
        server.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
        assert_eq!(server.write(b"?").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let (client, mut server) = stream(&dialled, &accepted).await;
        client.reset_on_drop();
        drop(client);
        server.watch().broke().await;
        assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_tunnel_that_dies_resets_every_stream_with_a_reason() {
    let run = async {
        let (dialled, accepted, [left, right]) = tunnel(64 << 10).await;
        let (mut client, mut server) = stream(&dialled, &accepted).await;
        right.abort();
        assert!(left.await.unwrap().unwrap_err().contains("under 1 streams"));
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(error.to_string().contains("tunnel"), "{error}");
        assert_eq!(client.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(server.read(&mut [0]).await.is_err());
        assert!(dialled.open().is_none() && accepted.accept().await.is_none());
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_draining_side_ends_when_the_last_stream_has() {
    let run = async {
        let (dialled, accepted, [left, right]) = tunnel(64 << 10).await;
        let (mut client, mut server) = stream(&dialled, &accepted).await;
        accepted.close();
        server.write_all(b"still here").await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
        assert!(dialled.open().is_none(), "a tunnel that drains takes no new stream");
        drop((client, server));
        assert_eq!(left.await.unwrap(), Ok(()));
        assert_eq!(right.await.unwrap(), Ok(()));
    };
    LocalSet::new().run_until(run).await;
}

impl Conn {
    /// In slices and in chunks by turns.
    fn receive_all(&mut self, bytes: &[u8]) -> Result<(), String> {
        for (piece, by_slice) in bytes.chunks(slot::CHUNK_BYTES).zip([true, false].into_iter().cycle()) {
            if by_slice {
                self.receive(piece)?;
                continue;
            }
            let mut chunk = slot::chunk();
            chunk[..piece.len()].copy_from_slice(piece);
            self.receive_chunk(&mut chunk, piece.len())?;
        }
        Ok(())
    }
}

fn frames(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Out::default();
    frames.iter().for_each(|frame| out.put(*frame));
    out.bytes().to_vec()
}

#[test]
fn who_breaks_the_protocol_is_told_how() {
    let open = Frame::Open { id: 1, bytes: b"", fin: false };
    let data = Frame::Data { id: 1, bytes: &[0; 30_000], fin: false };
    let fin = Frame::Data { id: 1, bytes: b"", fin: true };
    let credit = Frame::Credit { id: 1, bytes: u32::MAX };
    for (sent, why) in [
        (vec![open, open], "opened after"),
        (vec![data], "never opened"),
        (vec![open, data, data, data, data, data], "credit"),
        (vec![open, fin, fin], "after its end"),
        (vec![open, credit], "credit"),
    ] {
        let said = Conn::new(Side::Accepted).receive_all(&frames(&sent)).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    let said = Conn::new(Side::Dialled).receive_all(&frames(&[open])).unwrap_err();
    assert!(said.contains("dialled"), "{said}");
}

#[test]
fn streams_beyond_the_limit_are_refused_and_a_flood_of_pings_is_cut_off() {
    let mut conn = Conn::new(Side::Accepted);
    for id in 1..=STREAMS_MAX as u32 + 5 {
        conn.receive_all(&frames(&[Frame::Open { id, bytes: b"", fin: false }])).unwrap();
    }
    assert_eq!(conn.len(), STREAMS_MAX);
    assert_eq!(
        conn.out.bytes(),
        frames(
            &(0..5).map(|i| Frame::Reset { id: STREAMS_MAX as u32 + 1 + i, code: Code::Refused }).collect::<Vec<_>>()
        )
    );
    let flood = [0, 0, 0, 0, 5, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8].repeat(OUT_BYTES_ABUSE / 16 + 1);
    assert!(conn.receive_all(&flood).unwrap_err().contains("reads nothing"));
}

#[test]
fn a_window_grows_while_its_reader_keeps_up_and_all_growth_is_bounded() {
    let mut conn = Conn::new(Side::Accepted);
    let streams = 8;
    for id in 1..=streams {
        conn.receive_all(&frames(&[Frame::Open { id, bytes: b"", fin: false }])).unwrap();
    }
    let piece = vec![0; 16 << 10];
    for _ in 0..2000 {
        for id in 1..=streams {
            conn.receive_all(&frames(&[Frame::Data { id, bytes: &piece, fin: false }])).unwrap();
            conn.consume(id, piece.len());
            conn.out.clear();
        }
    }
    let windows: Vec<u32> = (1..=streams).map(|id| conn.slots[&id].window).collect();
    assert!(windows.iter().all(|window| (256 << 10..=WINDOW_BYTES_MAX).contains(window)), "{windows:?}");
    assert!(windows.contains(&WINDOW_BYTES_MAX), "{windows:?}");
    assert!(conn.wider <= WIDER_BYTES_MAX);
    assert!(conn.slots.values().all(|slot| slot.granted + slot.owed == slot.window), "no credit is lost or made up");
    (1..=streams).for_each(|id| conn.leave(id, false));
    assert_eq!(conn.wider, 0);
}

#[test]
fn a_tunnel_that_refuses_keeps_the_streams_it_has_and_takes_no_other() {
    let mut conn = Conn::new(Side::Accepted);
    let open = |id| Frame::Open { id, bytes: b"", fin: false };
    conn.receive_all(&frames(&[open(1)])).unwrap();
    conn.close();
    conn.receive_all(&frames(&[open(2)])).unwrap();
    conn.refuse();
    conn.receive_all(&frames(&[open(3), Frame::Data { id: 3, bytes: b"early", fin: true }])).unwrap();
    assert_eq!(conn.len(), 2, "one was on its way when the peer heard of the close");
    assert_eq!(conn.out.bytes(), frames(&[Frame::GoAway, Frame::Reset { id: 3, code: Code::Refused }]));
}

#[test]
fn random_frames_never_panic_nor_hold_more_than_was_granted() {
    let mut rng = Rng::new(11);
    for _ in 0..300 {
        let mut conn = Conn::new(if rng.below(2) == 0 { Side::Accepted } else { Side::Dialled });
        conn.open();
        for _ in 0..200 {
            let id = rng.below(6) as u32 + 1;
            let bytes = noise(rng.below(3000) as usize, 1);
            let fin = rng.below(8) == 0;
            let frame = match rng.below(7) {
                0 | 1 => Frame::Open { id, bytes: &bytes, fin },
                2 | 3 => Frame::Data { id, bytes: &bytes, fin },
                4 => Frame::Reset { id, code: Code::Broken },
                5 => Frame::Credit { id, bytes: rng.below(1 << 20) as u32 },
                _ => Frame::GoAway,
            };
            if conn.receive_all(&frames(&[frame])).is_err() {
                break;
            }
            match rng.below(5) {
                0 => conn.consume(id, 100.min(conn.slots.get(&id).map_or(0, |slot| slot.arrived.unread().len()))),
                1 => conn.leave(id, fin),
                2 => drop(conn.finish(id)),
                _ => {}
            }
        }
        assert!(conn.slots.values().all(|slot| slot.arrived.unread().len() <= 256 << 10));
    }
}
