//! Moves a tunnel's frames between its connection and the socket: one read brings frames for many streams, one write
//! takes what all streams that were ready have written. Must not know what TLS is.

use super::conn::{Conn, Side};
use super::stream::MuxStream;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at a time; holds several frames.
const READ_BYTES: usize = 64 << 10;
/// Read before streams get their turn.
const TURN_BYTES: usize = 256 << 10;
/// Larger buffers for writing aren't kept.
const SPENT_BYTES_MAX: usize = 512 << 10;

thread_local! {
    /// Lent to the tunnel that reads; a worker reads one at a time.
    static SPARE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

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
}

/// Ends the streams with the tunnel, also when the driver is dropped.
struct Dying<'a>(&'a Tunnel);

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        self.0.conn.borrow_mut().die("the tunnel was closed".to_owned());
    }
}

/// Serves the tunnel until it ends; says why, if not in peace.
pub(crate) async fn run<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io, tunnel: &Tunnel) -> Result<(), String> {
    let dying = Dying(tunnel);
    let mut driver = Driver { io, tunnel, read: Vec::new(), filled: 0, out: Vec::new(), written: 0, unflushed: false };
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
    /// Empty unless part of a frame is in it.
    read: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<'_, Io> {
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
        if self.read.is_empty() {
            let spare = SPARE.with_borrow_mut(Option::take);
            self.read = spare.unwrap_or_else(|| vec![0; READ_BYTES]);
            self.filled = 0;
        }
        let mut turn = 0;
        let ended = loop {
            let mut buffer = ReadBuf::new(self.read.get_mut(self.filled..).unwrap_or_default());
            match Pin::new(&mut *self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => break false,
                Poll::Ready(Err(error)) => return Err(error.to_string()),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => break true,
                Poll::Ready(Ok(())) => {}
            }
            turn += buffer.filled().len();
            self.filled += buffer.filled().len();
            let done = self.tunnel.conn.borrow_mut().receive(self.read.get(..self.filled).unwrap_or_default())?;
            self.read.copy_within(done..self.filled, 0);
            self.filled -= done;
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                break false;
            }
        };
        if self.filled == 0 {
            let read = std::mem::take(&mut self.read);
            SPARE.with_borrow_mut(|spare| *spare = Some(read));
        }
        Ok(ended)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                let rest = self.out.get(self.written..).unwrap_or_default();
                let count = ready!(Pin::new(&mut *self.io).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
                self.unflushed = true;
            }
            self.written = 0;
            self.out.clear();
            self.out.shrink_to(SPENT_BYTES_MAX);
            let mut conn = self.tunnel.conn.borrow_mut();
            self.out = conn.take_out(cx, std::mem::take(&mut self.out));
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
