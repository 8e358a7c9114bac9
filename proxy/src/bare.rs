//! Bytes from and to a bare socket by one system call each, past the C library, whose calls first make the thread
//! cancellable. Must not know what the bytes mean.

use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what there is, up to what fits; 0 is the end of the stream.
pub(crate) fn receive(from: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    Ok(recv(from, room, RecvFlags::empty())?.0)
}

/// Writes as much as the socket takes.
pub(crate) fn poll_send(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        match attempt(to, Interest::WRITABLE, bytes.len(), || Ok(send(to, bytes, SendFlags::NOSIGNAL)?)) {
            Some(done) => return Poll::Ready(done),
            None => ready!(to.poll_write_ready(cx))?,
        }
    }
}

/// One call, if the socket isn't known to be unready; None while it is. A short count means that it has or takes no more for
/// now, so its readiness is given back in the same breath, which saves the call that would only say EAGAIN.
pub(crate) fn attempt(
    socket: &TcpStream,
    interest: Interest,
    wanted: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    attempt_within(socket, interest, || Ok((call()?, wanted)))
}

/// The same for a call that says itself how much it wanted, beside how much it got.
#[inline]
pub(crate) fn attempt_within(
    socket: &TcpStream,
    interest: Interest,
    mut call: impl FnMut() -> io::Result<(usize, usize)>,
) -> Option<io::Result<usize>> {
    let mut short = 0;
    let done = socket.try_io(interest, || {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok((count, wanted)) if 0 < count && count < wanted => {
                    short = count;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                done => return done.map(|(count, _)| count),
            }
        }
    });
    match done {
        _ if short > 0 => Some(Ok(short)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        done => Some(done),
    }
}
