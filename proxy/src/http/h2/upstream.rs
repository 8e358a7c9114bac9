//! What a request's exchange speaks to: an endpoint's own connection, or a stream on a shared one. Must not know the client.

use super::super::traffic::{Context, Traffic};
use super::endpoint;
use super::stream::{Abort, StreamIo};
use crate::error::ConnError;
use crate::stream::Wired;
use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(in super::super) enum Upstream<Io> {
    Own(Io),
    Stream(StreamIo),
}

/// How a request that nothing was answered to is sent once more.
pub(in super::super) enum Again {
    /// From its beginning: it has no body.
    Rewound,
    /// As far as it was sent: the rest of its body follows.
    Resent(Vec<u8>),
}

impl<Io> Upstream<Io> {
    /// A stream to an endpoint that speaks HTTP/2, and whether its connection was used before.
    pub(in super::super) async fn stream<T: Traffic<Io = Io>>(
        context: &Context<T>,
        target: &T::Target,
        endpoint: &T::Endpoint,
    ) -> Result<(Self, bool), ConnError> {
        let scheme = super::super::headers::scheme(&context.settings);
        let (stream, used) = endpoint::stream(context, target, endpoint, scheme).await?;
        Ok((Self::Stream(stream), used))
    }

    /// Whether a request that wasn't answered may go to another connection. `harmless`: even if the endpoint has begun.
    pub(in super::super) fn again(&mut self, harmless: bool) -> Option<Again> {
        match self {
            Self::Own(_) => harmless.then_some(Again::Rewound),
            Self::Stream(stream) => match stream.take_back()? {
                (Abort::Refused, sent) => Some(Again::Resent(sent)),
                (Abort::Reset, _) => harmless.then_some(Again::Rewound),
                (Abort::Broken, _) => None,
            },
        }
    }
}

impl<Io: AsyncWrite + Unpin> Upstream<Io> {
    /// Sends all of `bytes` at once; false if there is no room for that.
    pub(in super::super) fn resend(&mut self, mut bytes: &[u8]) -> bool {
        let mut cx = Task::from_waker(Waker::noop());
        while !bytes.is_empty() {
            match Pin::new(&mut *self).poll_write(&mut cx, bytes) {
                Poll::Ready(Ok(count)) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
                _ => return false,
            }
        }
        true
    }
}

impl<Io: Wired> Wired for Upstream<Io> {
    fn awaits(&self) -> Option<&tokio::net::TcpStream> {
        match self {
            Self::Own(io) => io.awaits(),
            Self::Stream(io) => io.awaits(),
        }
    }

    fn poll_readable(&self, cx: &mut Task<'_>) -> Poll<()> {
        match self {
            Self::Own(io) => io.poll_readable(cx),
            Self::Stream(io) => io.poll_readable(cx),
        }
    }

    fn socket(&self) -> Option<&tokio::net::TcpStream> {
        match self {
            Self::Own(io) => io.socket(),
            Self::Stream(_) => None,
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Upstream<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Stream(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Upstream<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Stream(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write_vectored(cx, parts),
            Self::Stream(io) => Pin::new(io).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
