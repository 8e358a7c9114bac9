//! One stream of a tunnel as a byte stream. Must not know frames or windows.

use super::conn::Failed;
use super::driver::Tunnel;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Dropped, it ends like a closed socket: what was written still arrives.
pub struct MuxStream {
    tunnel: Rc<Tunnel>,
    id: u32,
    torn: Cell<bool>,
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MuxStream({})", self.id)
    }
}

impl MuxStream {
    pub(super) fn new(tunnel: Rc<Tunnel>, id: u32) -> Self {
        Self { tunnel, id, torn: Cell::new(false) }
    }

    /// Dropped, it resets.
    pub(crate) fn reset_on_drop(&self) {
        self.torn.set(true);
    }

    /// Has `write` take what has arrived, without a copy before: 0 bytes at the end.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Failed>> {
        self.tunnel.conn.borrow_mut().poll_pass(self.id, cx, write)
    }

    /// Has `read` put bytes straight into the tunnel: 0 bytes at its end.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Failed>> {
        self.tunnel.conn.borrow_mut().poll_fill(self.id, cx, read)
    }

    /// Ready when the peer has reset it, or the tunnel is gone.
    pub(crate) fn watch(&self) -> Watch {
        Watch { tunnel: Rc::clone(&self.tunnel), id: self.id }
    }
}

/// Notices that a stream broke while nobody reads it.
pub(crate) struct Watch {
    tunnel: Rc<Tunnel>,
    id: u32,
}

impl Watch {
    pub(crate) async fn broke(self) {
        std::future::poll_fn(|cx| self.tunnel.conn.borrow_mut().poll_broken(self.id, cx)).await;
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.tunnel.conn.borrow_mut().leave(self.id, self.torn.get());
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut conn = self.tunnel.conn.borrow_mut();
        let bytes = ready!(conn.poll_arrived(self.id, cx))?;
        let count = bytes.len().min(buffer.remaining());
        buffer.put_slice(bytes.get(..count).unwrap_or_default());
        conn.consume(self.id, count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tunnel.conn.borrow_mut().poll_write(self.id, cx, bytes)
    }

    /// The tunnel's own task writes when the ready streams have had their turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.tunnel.conn.borrow_mut().finish(self.id))
    }
}
