//! DNS over TCP (RFC 7766): length-prefixed messages, answered as soon as each is known, in any order. It owns limits
//! of connections; the answers are the same as over UDP.

use crate::answer::{ANSWER_BYTES_MAX, Why};
use crate::forward::Transport;
use crate::metrics::Source;
use crate::server::{self, Core, Outcome, respond};
use bytes::{Buf, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{debug, warn};

/// Clients connected at the same time; the next waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Queries of one connection that wait for resolvers; the next isn't read until one is answered.
const PIPELINE_MAX: usize = 16;
/// A client that doesn't take its answers.
const WRITE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of file descriptors), so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve_tcp(core: Arc<Core>, listener: TcpListener, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = shutdown.changed() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, client)) => {
                    let core = core.clone();
                    connections.spawn(async move {
                        if let Err(error) = connection(&core, stream, client).await {
                            debug!(%client, %error, "DNS connection ended");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "DNS over TCP can't accept; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(core: &Arc<Core>, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    let (mut input, mut output) = stream.into_split();
    let mut buffer = BytesMut::with_capacity(512);
    let mut pending: JoinSet<(Vec<u8>, Instant)> = JoinSet::new();
    let mut open = true;
    // Bytes that don't make a query don't keep a connection.
    let mut idle_at = Instant::now() + core.tcp_idle;
    while open || !pending.is_empty() {
        while pending.len() < PIPELINE_MAX
            && let Some(message) = take_message(&mut buffer)
        {
            let start = Instant::now();
            idle_at = start + core.tcp_idle;
            let mut out = [0; ANSWER_BYTES_MAX];
            match respond(&core.reader.load(), &core.rules, &message, &mut out) {
                Outcome::Reply(length) => {
                    let bytes = out.get(..length).unwrap_or_default();
                    write(&mut output, bytes).await?;
                    core.replied(client, bytes, Source::Local, start);
                }
                Outcome::Silent => return Ok(()),
                Outcome::Relay => match core.forwarder.place() {
                    Some(place) => {
                        let core = core.clone();
                        pending.spawn(async move {
                            let _place = place;
                            (server::relay(&core, &message, client, Transport::Tcp).await, start)
                        });
                    }
                    None => {
                        let bytes = server::refusal(&message, Why::Busy);
                        write(&mut output, &bytes).await?;
                        core.replied(client, &bytes, Source::Local, start);
                    }
                },
            }
        }
        tokio::select! {
            Some(answered) = pending.join_next() => {
                let (bytes, start) = answered.map_err(io::Error::other)?;
                write(&mut output, &bytes).await?;
                core.replied(client, &bytes, Source::Upstream, start);
            }
            read = timeout_at(idle_at.into(), input.read_buf(&mut buffer)), if open && pending.len() < PIPELINE_MAX => {
                match read {
                    Ok(read) => open = read? > 0,
                    // Slow resolvers aren't the client's idleness.
                    Err(_) => (open, idle_at) = (!pending.is_empty(), Instant::now() + core.tcp_idle),
                }
            }
        }
    }
    Ok(())
}

/// One whole message. The length prefix bounds the buffer to 64 KiB.
pub(crate) fn take_message(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::from(u16::from_be_bytes(*buffer.first_chunk::<2>()?));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length))
}

async fn write(output: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    timeout(WRITE, output.write_all(&framed)).await?
}
