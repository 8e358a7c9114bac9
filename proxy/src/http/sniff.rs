//! Which HTTP a new connection speaks: said by ALPN, or seen in its first bytes. Must not know sockets or TLS.

use super::buffer::Buffer;
use super::h2;
use super::serve::Session;
use super::timer::deadline;
use super::traffic::{Context, End, Traffic};
use crate::stream::Wired;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How the version is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// ALPN said `http/1.1`.
    One,
    /// ALPN said `h2`.
    Two,
    /// By the first bytes.
    Sniff,
}

/// Serves one connection until its end. `drain` turns true when it should end after what is under way. Runs on a
/// `LocalSet`. HTTP/1 gives the connection to `done`, for the caller to reset if it is broken; HTTP/2 resets streams.
///
/// Not an `async fn`, which has room for its arguments twice: an idle connection is as small as its session.
pub fn serve<S, T, R>(
    io: S,
    context: Context<T>,
    drain: watch::Receiver<bool>,
    wire: Wire,
    done: impl FnOnce(End, Option<S>) -> R,
) -> impl Future<Output = R>
where
    S: Wired + 'static,
    T: Traffic,
{
    let mut session = Session::new(io, context, drain);
    async move {
        let is_two = match wire {
            Wire::One => Some(false),
            Wire::Two => Some(true),
            Wire::Sniff => session.is_two().await,
        };
        match is_two {
            None => done(End::Closed, Some(session.io)),
            Some(false) => {
                let end = session.serve().await;
                done(end, Some(session.io))
            }
            // Boxed: its state is large, and most connections speak HTTP/1.
            Some(true) => {
                let Session { io, input, context, drain, .. } = session;
                let end = match input.is_empty() {
                    true => Box::pin(h2::serve(io, context, drain)).await,
                    false => Box::pin(h2::serve(First { io, read: input }, context, drain)).await,
                };
                done(end, None)
            }
        }
    }
}

impl<S: Wired, T: Traffic> Session<S, T> {
    /// None if the connection ended before that could be seen.
    async fn is_two(&mut self) -> Option<bool> {
        let Self { io, input, timer, context, drain, .. } = self;
        let mut due = deadline(context.settings.idle_timeout);
        let seen = poll_fn(|cx| {
            loop {
                let data = input.data();
                if data.len() >= PREFACE.len() || !PREFACE.starts_with(data) {
                    return Poll::Ready(Some(data.starts_with(PREFACE)));
                }
                match input.poll_fill(io, cx) {
                    // What there is may still be half a request, which HTTP/1 answers.
                    Poll::Ready(Ok(0)) if !input.is_empty() => return Poll::Ready(Some(false)),
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(None),
                    Poll::Ready(Ok(_)) => due = deadline(context.settings.head_timeout),
                    Poll::Pending => break,
                }
            }
            match due {
                Some(at) => timer.poll(cx, at).map(|()| None),
                None => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            seen = seen => seen,
            Ok(_) = drain.wait_for(|drain| *drain) => None,
        }
    }
}

/// A connection some of whose bytes were looked at.
struct First<S> {
    io: S,
    read: Buffer,
}

impl<S: AsyncRead + Unpin> AsyncRead for First<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let count = this.read.data().len().min(buffer.remaining());
        buffer.put_slice(this.read.data().get(..count).unwrap_or_default());
        this.read.consume(count);
        if this.read.is_empty() {
            this.read.release();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for First<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
