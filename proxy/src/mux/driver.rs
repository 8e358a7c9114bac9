//! Moves a tunnel's frames between its connection and the socket: one read brings frames for many streams, one write
//! takes what all streams that were ready have written. Must not know what TLS is.

use super::conn::{Conn, Side};
use super::frame::Out;
use super::slot;
use super::stream::MuxStream;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncWrite, ReadBuf};

/// Read before streams get their turn.
const TURN_BYTES: usize = 256 << 10;

/// A live tunnel, shared by its streams and its driver.
pub(crate) struct Tunnel {
    pub(super) conn: RefCell<Conn>,
}

impl Tunnel {
    /// `dialled`: we may open streams.
    pub(crate) fn new(dialled: bool) -> Rc<Self> {
        let side = if dialled { Side::Dialled } else { Side::Accepted };
        Rc::new(Self { conn: RefCell::new(Conn::new(side)) })
    }

    /// A new stream, if there may be another one.
    pub(crate) fn open(self: &Rc<Self>) -> Option<MuxStream> {
        let id = self.conn.borrow_mut().open()?;
        Some(MuxStream::new(Rc::clone(self), id))
    }

    /// The peer's next stream; `None` when the tunnel is no more.
    pub(crate) async fn accept(self: &Rc<Self>) -> Option<MuxStream> {
        let id = poll_fn(|cx| self.conn.borrow_mut().poll_accept(cx)).await?;
        Some(MuxStream::new(Rc::clone(self), id))
    }

    /// No stream is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.conn.borrow().len() == 0
    }

    /// No new streams; the tunnel ends with its last one.
    pub(crate) fn close(&self) {
        self.conn.borrow_mut().close();
    }

    /// Streams that the peer opens from now on are refused.
    pub(crate) fn refuse(&self) {
        self.conn.borrow_mut().refuse();
    }
}

/// Ends the streams with the tunnel, also when the driver is dropped.
struct Dying<'a>(&'a Tunnel);

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        self.0.conn.borrow_mut().die("the tunnel was closed".to_owned());
    }
}

/// Serves the tunnel until it ends; says why, if not in peace.
pub(crate) async fn run<Io: AsyncBufRead + AsyncWrite + Unpin>(io: &mut Io, tunnel: &Tunnel) -> Result<(), String> {
    let dying = Dying(tunnel);
    let mut driver = Driver { io, tunnel, bulk: false, out: Out::default(), written: 0, unflushed: false };
    let outcome = poll_fn(|cx| driver.poll(cx)).await;
    let why = match &outcome {
        Ok(()) => "the tunnel was closed".to_owned(),
        Err(why) => format!("the tunnel broke: {why}"),
    };
    tunnel.conn.borrow_mut().die(why);
    drop(dying);
    outcome
}

struct Driver<'a, Io> {
    io: &'a mut Io,
    tunnel: &'a Tunnel,
    /// The last bytes read were mostly one stream's.
    bulk: bool,
    out: Out,
    written: usize,
    unflushed: bool,
}

impl<Io: AsyncBufRead + AsyncWrite + Unpin> Driver<'_, Io> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let ended = self.poll_fill(cx)?;
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            // Farewells of streams that are no more may find a peer that has left.
            let lost = self.tunnel.conn.borrow().len();
            return Poll::Ready(if lost == 0 { Ok(()) } else { Err(error.to_string()) });
        }
        let conn = self.tunnel.conn.borrow();
        // The peer's close is in peace when no stream is left.
        if ended {
            let lost = conn.len();
            return Poll::Ready(if lost == 0 {
                Ok(())
            } else {
                Err(format!("the peer closed it under {lost} streams"))
            });
        }
        if conn.is_dead() || (conn.is_over() && self.out.is_empty()) {
            drop(conn);
            return Pin::new(&mut *self.io).poll_shutdown(cx).map(|_| Ok(()));
        }
        Poll::Pending
    }

    /// True at the end of the socket.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut turn = 0;
        while turn < TURN_BYTES {
            let (count, large) = match if self.bulk { self.poll_chunk(cx) } else { self.poll_slice(cx) } {
                Poll::Pending => return Ok(false),
                Poll::Ready(read) => read?,
            };
            if count == 0 {
                return Ok(true);
            }
            let given = large && self.bulk;
            self.bulk = large;
            if given {
                break;
            }
            turn += count;
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Takes frames where TLS has them. Bytes read, and whether most of them were one stream's.
    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, bool), String>> {
        let bytes = ready!(Pin::new(&mut *self.io).poll_fill_buf(cx)).map_err(|error| error.to_string())?;
        let count = bytes.len();
        let large = self.tunnel.conn.borrow_mut().receive(bytes)?;
        Pin::new(&mut *self.io).consume(count);
        Poll::Ready(Ok((count, large)))
    }

    /// Has them opened in memory that the stream can keep, should it be one stream's: bulk isn't copied then.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, bool), String>> {
        let mut chunk = slot::chunk();
        let mut buffer = ReadBuf::new(&mut chunk);
        let read = Pin::new(&mut *self.io).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        let taken = read.map(|read| {
            read.map_err(|error| error.to_string())?;
            Ok((count, self.tunnel.conn.borrow_mut().receive_chunk(&mut chunk, count)?))
        });
        slot::release(chunk);
        taken
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                let rest = self.out.bytes().get(self.written..).unwrap_or_default();
                let count = ready!(Pin::new(&mut *self.io).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
                self.unflushed = true;
            }
            self.written = 0;
            self.out.clear();
            let mut conn = self.tunnel.conn.borrow_mut();
            self.out = conn.take_out(cx);
            if self.out.is_empty() {
                drop(conn);
                if self.unflushed {
                    ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            conn.written();
        }
    }
}
