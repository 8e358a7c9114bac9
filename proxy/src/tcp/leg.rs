//! One of the two streams of a copy: reading, writing and shutting down, plain or TLS. Must not know the other stream, counts
//! or when the copy is over.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;

use crate::bare;
use crate::mux::{Failed, MuxStream};
use crate::socket::settle;
use crate::stream::Stream;
use crate::tcp::{BUFFER_BYTES, Buffer, LARGE_PLAIN_BYTES};
use crate::tls::TlsStream;

/// One of the two streams, as the copy uses it. Sockets are shared: one direction reads while the other writes.
pub(super) enum Leg<'a> {
    Plain(Plain<'a>),
    Tls(&'a mut TlsStream<TcpStream>),
    Mux(&'a mut MuxStream),
}

pub(super) struct Plain<'a> {
    tcp: &'a TcpStream,
    /// Not written so far.
    unwritten: bool,
    /// Options are still to be set.
    unsettled: bool,
    /// The poller will wake the task when there is something to read.
    is_awaited: bool,
    /// The last read took all there was.
    pub(super) is_dry: bool,
    /// It took less than the last write offered: the poller is asked before the next one.
    is_full: bool,
}

impl Plain<'_> {
    pub(super) fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            settle(self.tcp);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, large: bool, buffer: &mut Option<Buffer>) -> Poll<io::Result<usize>> {
        let wanted = if large { LARGE_PLAIN_BYTES } else { BUFFER_BYTES };
        let tcp = self.tcp;
        let read = || -> io::Result<usize> {
            let buffer = buffer.get_or_insert_with(|| Buffer::of(large));
            Ok(recv(tcp, buffer.range_mut(0, wanted), RecvFlags::empty())?.0)
        };
        self.poll_reading(cx, wanted, read)
    }

    pub(super) fn poll_read_into(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        let tcp = self.tcp;
        self.poll_reading(cx, space.len(), || Ok(recv(tcp, &mut *space, RecvFlags::empty())?.0))
    }

    /// Registers for the next arrival once: until that, each further turn of the copy finds the registration standing.
    fn poll_reading(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut read: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.is_dry {
                if let Some(done) = bare::attempt(self.tcp, Interest::READABLE, wanted, &mut read) {
                    self.is_awaited = false;
                    self.is_dry = matches!(done, Ok(count) if count < wanted);
                    return Poll::Ready(done);
                }
                if self.is_awaited {
                    return Poll::Pending;
                }
            }
            ready!(self.poll_arrival(cx))?;
        }
    }

    /// Ready when something came since the socket was dry, at once if it isn't; else the poller will wake the task.
    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_dry = false;
        let ready = self.tcp.poll_read_ready(cx);
        // Without budget it is the task that is pending, not the socket.
        self.is_awaited = ready.is_pending() && has_budget_remaining();
        ready
    }

    /// Tried at once: a socket mostly takes what it is given, and of a new one the poller knows nothing yet.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !std::mem::take(&mut self.unwritten) {
            self.settle();
        }
        if !self.is_full {
            match send(self.tcp, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.is_full = count < bytes.len();
                    if self.is_full {
                        // Its readiness is given back, which saves the call that would only say EAGAIN.
                        let _ = self.tcp.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        let count = ready!(bare::poll_send(cx, self.tcp, bytes))?;
        self.is_full = count < bytes.len();
        Poll::Ready(Ok(count))
    }
}

/// What the peer has said already, for [`Stream::preceded_by`]; nothing is waited for. Only of streams without TLS.
pub(crate) fn take_waiting(stream: &mut Stream) -> io::Result<Bytes> {
    let tcp = match stream {
        Stream::Replayed(replayed) if !replayed.prefix.is_empty() => return Ok(std::mem::take(&mut replayed.prefix)),
        Stream::Replayed(replayed) => &replayed.tcp,
        Stream::Plain(tcp) => tcp,
        Stream::Tls(_) | Stream::Mux(_) => return Ok(Bytes::new()),
    };
    let mut buffer = Buffer::take();
    let read = || -> io::Result<usize> { Ok(recv(tcp, buffer.range_mut(0, BUFFER_BYTES), RecvFlags::empty())?.0) };
    let count = bare::attempt(tcp, Interest::READABLE, BUFFER_BYTES, read).unwrap_or(Ok(0))?;
    Ok(Bytes::copy_from_slice(buffer.range(0, count)))
}

impl<'a> Leg<'a> {
    pub(super) fn of(stream: &'a mut Stream, unwritten: bool, unsettled: bool) -> (Self, Bytes) {
        let plain =
            |tcp| Self::Plain(Plain { tcp, unwritten, unsettled, is_awaited: false, is_dry: false, is_full: false });
        match stream {
            Stream::Plain(tcp) => (plain(tcp), Bytes::new()),
            Stream::Replayed(replayed) => (plain(&replayed.tcp), std::mem::take(&mut replayed.prefix)),
            Stream::Tls(tls) => (Self::Tls(tls), Bytes::new()),
            Stream::Mux(stream) => (Self::Mux(stream), Bytes::new()),
        }
    }

    pub(super) fn plain(&self) -> Option<&'a TcpStream> {
        match self {
            Self::Plain(plain) => Some(plain.tcp),
            Self::Tls(_) | Self::Mux(_) => None,
        }
    }

    /// Ends when this side broke, unread.
    pub(super) fn broke(&self) -> impl Future<Output = ()> + use<'a> {
        let watch = match self {
            Self::Mux(stream) => Some(stream.watch()),
            Self::Plain(_) | Self::Tls(_) => None,
        };
        let tcp = self.plain();
        async move {
            match (tcp, watch) {
                (Some(tcp), _) => drop(tcp.ready(Interest::ERROR).await),
                (None, Some(watch)) => watch.broke().await,
                (None, None) => pending().await,
            }
        }
    }

    /// The task has another waker now, which the poller doesn't know.
    pub(super) fn forget_waker(&mut self) {
        if let Self::Plain(plain) = self {
            plain.is_awaited = false;
        }
    }

    pub(super) fn settle(&mut self) {
        if let Self::Plain(plain) = self {
            plain.settle();
        }
    }

    /// Moves bytes on without memory in between, where one of the two is a tunnel's stream and the other a socket.
    pub(super) fn poll_pass(&mut self, cx: &mut Context<'_>, to: &mut Leg<'_>) -> Option<Poll<Result<usize, Failed>>> {
        match (self, to) {
            (Self::Mux(from), Leg::Plain(to)) => Some(from.poll_pass(cx, |cx, bytes| to.poll_write(cx, bytes))),
            (Self::Plain(from), Leg::Mux(to)) => Some(to.poll_fill(cx, |cx, space| from.poll_read_into(cx, space))),
            _ => None,
        }
    }

    /// One read, into a buffer that is only taken when there may be something to read.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        large: bool,
        buffer: &mut Option<Buffer>,
    ) -> Poll<io::Result<usize>> {
        if let Self::Plain(plain) = self {
            return plain.poll_read(cx, large, buffer);
        }
        let mut buffer = ReadBuf::new(buffer.get_or_insert_with(|| Buffer::of(large)).whole());
        match self {
            Self::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, &mut buffer))?,
            Self::Mux(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buffer))?,
            Self::Plain(_) => {}
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(plain) => plain.poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Mux(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Mux(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(plain) => Poll::Ready(SockRef::from(plain.tcp).shutdown(std::net::Shutdown::Write)),
            Self::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => {
                ready!(Pin::new(&mut **tls).poll_flush(cx))?;
                Pin::new(tls).poll_shutdown(cx)
            }
        }
    }
}
