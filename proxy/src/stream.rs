//! One connection's byte stream, plain or TLS, as an enum so that the data path needs no dynamic dispatch.
//! Must not know who is at the other end, or what the bytes mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::mux::MuxStream;
use crate::socket::reset_on_drop;
use crate::tls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    /// Plain, with bytes that were read before and come first.
    Replayed(Box<Replayed>),
    Tls(Box<TlsStream<TcpStream>>),
    /// One of many on a tunnel between two of our proxies.
    Mux(MuxStream),
}

#[derive(Debug)]
pub struct Replayed {
    pub(crate) prefix: Bytes,
    pub(crate) tcp: TcpStream,
}

impl Stream {
    /// A plain stream whose reader sees `prefix` first.
    pub fn with_prefix(tcp: TcpStream, prefix: Bytes) -> Self {
        if prefix.is_empty() { Self::Plain(tcp) } else { Self::Replayed(Box::new(Replayed { prefix, tcp })) }
    }

    /// The same stream, whose reader sees `first` before anything else; it was read from this stream before.
    pub(crate) fn preceded_by(self, first: Bytes) -> Self {
        match self {
            Self::Plain(tcp) => Self::with_prefix(tcp, first),
            Self::Replayed(mut replayed) => {
                debug_assert!(replayed.prefix.is_empty(), "its own prefix comes first and is taken first");
                replayed.prefix = first;
                Self::Replayed(replayed)
            }
            other => {
                debug_assert!(first.is_empty(), "nothing is read ahead from TLS and tunnels");
                other
            }
        }
    }

    /// Makes the peer see a reset instead of an orderly end when this is dropped.
    pub fn reset_on_drop(&self) {
        match self {
            Self::Plain(tcp) => reset_on_drop(tcp),
            Self::Replayed(replayed) => reset_on_drop(&replayed.tcp),
            Self::Tls(tls) => reset_on_drop(tls.get_ref()),
            Self::Mux(stream) => stream.reset_on_drop(),
        }
    }

    /// The TLS session, for the peer's certificates, ALPN and SNI.
    pub fn tls(&self) -> Option<&TlsStream<TcpStream>> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Plain(_) | Self::Replayed(_) | Self::Mux(_) => None,
        }
    }

    /// The socket, or the stream back if bytes are still to be replayed or it is TLS.
    pub fn into_plain(self) -> Result<TcpStream, Self> {
        match self {
            Self::Plain(tcp) => Ok(tcp),
            Self::Replayed(replayed) if replayed.prefix.is_empty() => Ok(replayed.tcp),
            other => Err(other),
        }
    }
}

/// A byte stream that may be a bare socket below: then it can be asked and moved without our memory.
pub trait Wired: AsyncRead + AsyncWrite + Unpin {
    /// Pending, and then the task is woken, only while a read would be in vain.
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The socket that a read must wait for, where that is all there is to [`Self::poll_readable`].
    fn awaits(&self) -> Option<&TcpStream> {
        self.socket()
    }

    /// The socket, if reading and writing it is all that reading and writing this does.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Wired for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(tcp) => tcp.poll_readable(cx),
            Self::Tls(tls) if tls.holds_nothing() => tls.get_ref().poll_readable(cx),
            Self::Replayed(_) | Self::Tls(_) | Self::Mux(_) => Poll::Ready(()),
        }
    }

    fn awaits(&self) -> Option<&TcpStream> {
        match self {
            Self::Tls(tls) if tls.holds_nothing() => Some(tls.get_ref()),
            _ => self.socket(),
        }
    }

    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Replayed(replayed) if replayed.prefix.is_empty() => Some(&replayed.tcp),
            Self::Replayed(_) | Self::Tls(_) | Self::Mux(_) => None,
        }
    }
}

impl Wired for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(drop)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Wired for tokio::io::DuplexStream {}

impl Wired for tokio::io::Empty {}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(tls: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(tls))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            Self::Mux(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Replayed(replayed) if replayed.prefix.is_empty() => Pin::new(&mut replayed.tcp).poll_read(cx, buffer),
            Self::Replayed(replayed) => {
                let count = replayed.prefix.len().min(buffer.remaining());
                buffer.put_slice(replayed.prefix.split_to(count).chunk());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Replayed(replayed) => Pin::new(&mut replayed.tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Mux(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Replayed(replayed) => Pin::new(&mut replayed.tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            Self::Mux(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) | Self::Replayed(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Mux(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Replayed(replayed) => Pin::new(&mut replayed.tcp).poll_shutdown(cx),
            Self::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn replayed_bytes_come_before_the_sockets() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        client.write_all(b" world").await.unwrap();
        client.shutdown().await.unwrap();
        let stream = Stream::with_prefix(tcp, Bytes::from_static(b"hello"));
        let mut stream = stream.into_plain().unwrap_err();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
        stream.into_plain().unwrap();
    }
}
