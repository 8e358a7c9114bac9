//! Bytes from socket to socket without passing through our memory: pipes, borrowed from a pool of the worker's thread.
//! Must not know directions, counting or when splicing pays. Relies on SIGPIPE being ignored, as Rust's runtime does.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc::MSG_MORE;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe may hold: with 16 streams a quarter less CPU time than 256 KiB. That much may wait in each direction for a peer
/// that doesn't read.
pub(crate) const PIPE_BYTES: usize = 1 << 20;
/// A pipe that holds less isn't worth its system calls.
const PIPE_BYTES_MIN: usize = 64 << 10;
/// Idle pipes a worker keeps (two descriptors each).
const POOL_PIPES_MAX: usize = 16;

thread_local! {
    pub(crate) static POOL: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe and the count of bytes inside. Dropped empty it goes back to the pool, else it is closed.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Reading end, writing end; absent only while dropping.
    ends: Option<(OwnedFd, OwnedFd)>,
    pub(crate) held: usize,
}

impl Pipe {
    pub(crate) fn take() -> io::Result<Self> {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        let ends = match pooled {
            Some(ends) => ends,
            None => {
                let ends = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                // Past its user's quota of pipe memory, 64 MiB, an unprivileged process is refused, and new pipes hold 8 KiB: then
                // a copy costs less.
                let size = |bytes: usize| fcntl(&ends.1, FcntlArg::F_SETPIPE_SZ(bytes as i32));
                if size(PIPE_BYTES).or_else(|_| size(PIPE_BYTES_MIN)).is_err() {
                    return Err(io::ErrorKind::QuotaExceeded.into());
                }
                ends
            }
        };
        Ok(Self { ends: Some(ends), held: 0 })
    }

    /// Moves what the socket has into the empty pipe; 0 is the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        self.poll_fill_at_most(cx, from, PIPE_BYTES)
    }

    /// The same for no more than `most` bytes, where others follow that aren't to be moved.
    pub(crate) fn poll_fill_at_most(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held, 0, "a full pipe and an empty socket both say EAGAIN");
        let Some((_, write_end)) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || {
                Ok(splice(from, None, write_end, None, most.min(PIPE_BYTES), SpliceFFlags::SPLICE_F_NONBLOCK)?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                moved => {
                    self.held = *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }

    /// Moves what the pipe holds into the socket, as far as it takes it.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some((read_end, _)) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            let mut count = 0;
            let moved = to.try_io(Interest::WRITABLE, || {
                count = splice(read_end, None, to, None, self.held, SpliceFFlags::SPLICE_F_NONBLOCK)?;
                // Less than all means that the socket is full: its readiness is given back, which saves being told so.
                if 0 < count && count < self.held { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            self.held -= count;
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && count == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ if count == 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                _ => return Poll::Ready(Ok(count)),
            }
        }
    }
}

/// Writes bytes that more will follow at once: the kernel keeps them to send them together with what comes.
pub(crate) fn poll_write_ahead(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let written = to.try_io(Interest::WRITABLE, || SockRef::from(to).send_with_flags(bytes, MSG_MORE));
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return Poll::Ready(written),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held == 0
            && let Some(ends) = self.ends.take()
        {
            // While the thread ends its pool is gone already; then the pipe is simply closed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < POOL_PIPES_MAX {
                    pool.push(ends);
                }
            });
        }
    }
}
