//! Which HTTP a new connection speaks: said by ALPN, or seen in its first bytes. Must not know sockets or TLS.

use super::buffer::Buffer;
use super::h2;
use super::serve::serve as serve_one;
use super::timer::{Timer, deadline};
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
/// `LocalSet`. HTTP/1 gives the connection back, for the caller to reset if it is broken; HTTP/2 resets streams.
pub async fn serve<S, T>(io: S, context: Context<T>, drain: watch::Receiver<bool>, wire: Wire) -> (End, Option<S>)
where
    S: Wired + 'static,
    T: Traffic,
{
    match wire {
        Wire::One => given_back(serve_one(io, Buffer::default(), context, drain).await),
        // Boxed: hyper's state is large, and most connections speak HTTP/1.
        Wire::Two => (Box::pin(h2::serve(io, context, drain)).await, None),
        Wire::Sniff => {
            let mut first = First { io, read: Buffer::default() };
            match first.is_two(&context, drain.clone()).await {
                Some(true) => (Box::pin(h2::serve(first, context, drain)).await, None),
                Some(false) => given_back(serve_one(first.io, first.read, context, drain).await),
                None => (End::Closed, Some(first.io)),
            }
        }
    }
}

fn given_back<S>((end, io): (End, S)) -> (End, Option<S>) {
    (end, Some(io))
}

/// A connection some of whose bytes were looked at.
struct First<S> {
    io: S,
    read: Buffer,
}

impl<S: AsyncRead + Unpin> First<S> {
    /// None if the connection ended before that could be seen.
    async fn is_two<T: Traffic>(&mut self, context: &Context<T>, mut drain: watch::Receiver<bool>) -> Option<bool> {
        let mut timer = Timer::new();
        let mut due = deadline(context.settings.idle_timeout);
        let seen = poll_fn(|cx| {
            loop {
                let data = self.read.data();
                if data.len() >= PREFACE.len() || !PREFACE.starts_with(data) {
                    return Poll::Ready(Some(data.starts_with(PREFACE)));
                }
                match self.read.poll_fill(&mut self.io, cx) {
                    // What there is may still be half a request, which HTTP/1 answers.
                    Poll::Ready(Ok(0)) if !self.read.is_empty() => return Poll::Ready(Some(false)),
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
