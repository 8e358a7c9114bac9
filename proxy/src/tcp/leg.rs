//! One of the two streams of a copy: reading, writing and shutting down, plain or TLS. Must not know the other stream, counts
//! or when the copy is over.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

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
    /// Not written so far: tried at once, since a new connection takes it, and the poller would only tell so after a turn of the
    /// loop. (An accepted one is read and written at once anyway: tokio takes it for ready.)
    unwritten: bool,
    /// Options are still to be set.
    unsettled: bool,
}

impl Plain<'_> {
    fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            settle(self.tcp);
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, large: bool, buffer: &mut Option<Buffer>) -> Poll<io::Result<usize>> {
        let wanted = if large { LARGE_PLAIN_BYTES } else { BUFFER_BYTES };
        let read = |mut socket: &socket2::Socket| {
            let buffer = buffer.get_or_insert_with(|| Buffer::of(large));
            io::Read::read(&mut socket, buffer.range_mut(0, wanted))
        };
        poll_plain(cx, self.tcp, Interest::READABLE, wanted, read)
    }

    fn poll_read_into(&self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        let wanted = space.len();
        let read = |mut socket: &socket2::Socket| io::Read::read(&mut socket, space);
        poll_plain(cx, self.tcp, Interest::READABLE, wanted, read)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.unwritten) {
            if let Some(done) = tried(SockRef::from(self.tcp).send(bytes)) {
                return Poll::Ready(done);
            }
        } else {
            self.settle();
        }
        poll_plain(cx, self.tcp, Interest::WRITABLE, bytes.len(), |socket| socket.send(bytes))
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
    let mut count = 0;
    let taken = tcp.try_io(Interest::READABLE, || {
        count = io::Read::read(&mut &*SockRef::from(tcp), buffer.range_mut(0, BUFFER_BYTES))?;
        // That's all for now, see `poll_plain`.
        if 0 < count && count < BUFFER_BYTES { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match taken {
        Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
        _ => Ok(Bytes::copy_from_slice(buffer.range(0, count))),
    }
}

/// `None`: ask the poller first, as usual.
fn tried(done: io::Result<usize>) -> Option<io::Result<usize>> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        done => Some(done),
    }
}

impl<'a> Leg<'a> {
    pub(super) fn of(stream: &'a mut Stream, unwritten: bool, unsettled: bool) -> (Self, Bytes) {
        let plain = |tcp| Self::Plain(Plain { tcp, unwritten, unsettled });
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

/// One system call when the socket is ready. A short count means that the socket has or takes no more for now, so the readiness
/// is given back in the same breath, which saves the call that would only say EAGAIN.
fn poll_plain(
    cx: &mut Context<'_>,
    tcp: &TcpStream,
    interest: Interest,
    wanted: usize,
    mut call: impl FnMut(&socket2::Socket) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        if interest.is_readable() {
            ready!(tcp.poll_read_ready(cx))?;
        } else {
            ready!(tcp.poll_write_ready(cx))?;
        }
        let mut short = 0;
        let done = tcp.try_io(interest, || {
            let count = call(&SockRef::from(tcp))?;
            if 0 < count && count < wanted {
                short = count;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if short > 0 {
                    return Poll::Ready(Ok(short));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
