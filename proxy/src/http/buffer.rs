//! Read buffers that a connection holds only while bytes are in them: a thread keeps a few for all of its connections,
//! so an idle connection costs none. Knows no protocol.

use crate::bare;
use crate::stream::Wired;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

const SMALL_BYTES: usize = 16 * 1024;
/// Holds the largest head (60 KiB), and is what large bodies are moved by.
const LARGE_BYTES: usize = 64 * 1024;
/// Free buffers that a thread keeps, of each size.
const SPARE_MAX: usize = 64;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn take(large: bool) -> Vec<u8> {
    let spare = SPARE.with(|spare| spare.borrow_mut().get_mut(usize::from(large)).and_then(Vec::pop));
    spare.unwrap_or_else(|| vec![0; if large { LARGE_BYTES } else { SMALL_BYTES }])
}

fn give(bytes: Vec<u8>) {
    let class = match bytes.len() {
        SMALL_BYTES => 0,
        LARGE_BYTES => 1,
        _ => return,
    };
    SPARE.with(|spare| {
        if let Some(spare) = spare.borrow_mut().get_mut(class)
            && spare.len() < SPARE_MAX
        {
            spare.push(bytes);
        }
    });
}

#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Empty, or one of the two sizes.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all there was: the next buffer may be larger.
    eager: bool,
    /// The runtime will wake `waker` once the socket that this is filled from is readable.
    asked: bool,
    waker: Option<Waker>,
}

impl Buffer {
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Holds `bytes` as if they had been read, in place of what it held; false if they are too many.
    pub(super) fn put(&mut self, bytes: &[u8]) -> bool {
        self.release();
        let mut room = take(bytes.len() > SMALL_BYTES);
        let fits = room.get_mut(..bytes.len()).map(|room| room.copy_from_slice(bytes)).is_some();
        (self.bytes, self.end) = (room, if fits { bytes.len() } else { 0 });
        fits
    }

    /// So many bytes are to come: they are read by as few calls as possible.
    pub(super) fn expect(&mut self, count: u64) {
        self.eager |= count > SMALL_BYTES as u64;
    }

    /// Gives the memory back; what was in it is gone.
    pub(super) fn release(&mut self) {
        (self.start, self.end, self.eager) = (0, 0, false);
        give(std::mem::take(&mut self.bytes));
    }

    /// The same from what can be asked first: then not even a poll in vain borrows memory.
    pub(super) fn poll_fill_wired<R: Wired>(&mut self, io: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_fill_at_most(io, cx, usize::MAX)
    }

    /// The same for no more than `most` bytes, where what follows may be moved past our memory.
    pub(super) fn poll_fill_at_most<R: Wired>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if let Some(socket) = io.socket() {
            return self.poll_socket(socket, cx, most);
        }
        if self.bytes.is_empty() {
            ready!(io.poll_readable(cx));
        }
        self.poll_read(io, cx, most)
    }

    /// Reads once from a socket, and borrows memory only if it is said to be readable.
    fn poll_socket(&mut self, socket: &TcpStream, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        if self.eager {
            // It may never run dry: the runtime counts, so that others get their turn.
            ready!(socket.poll_read_ready(cx))?;
        }
        loop {
            let mut size = 0;
            let read = bare::attempt_within(socket, Interest::READABLE, || {
                self.make_room()?;
                let to = self.end.saturating_add(most).min(self.bytes.len());
                let room = self.bytes.get_mut(self.end..to).unwrap_or_default();
                size = room.len();
                Ok((bare::receive(socket, room)?, size))
            });
            if size > 0 {
                self.asked = false;
            }
            match read {
                Some(Ok(count)) => {
                    self.filled(count, count == size);
                    return Poll::Ready(Ok(count));
                }
                _ if size > 0 && self.is_empty() => give(std::mem::take(&mut self.bytes)),
                _ => {}
            }
            match read {
                Some(read) => return Poll::Ready(read),
                None => ready!(self.poll_readable(socket, cx))?,
            }
        }
    }

    /// Has the runtime wake this task once the socket is readable, unless it was asked to and hasn't yet.
    fn poll_readable(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if self.asked && known {
            return Poll::Pending;
        }
        // A task that has had its share is told to wait without having asked.
        let has_share = coop::has_budget_remaining();
        let ready = socket.poll_read_ready(cx);
        self.asked = has_share && ready.is_pending();
        if self.asked && !known {
            self.waker = Some(cx.waker().clone());
        }
        ready
    }

    fn filled(&mut self, count: usize, full: bool) {
        self.end += count;
        self.eager = full || (self.eager && count >= SMALL_BYTES);
    }

    /// Reads once. 0 is the end of the stream. Holds no memory while an empty buffer waits.
    pub(super) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.poll_read(io, cx, usize::MAX)
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room()?;
        let to = self.end.saturating_add(most).min(self.bytes.len());
        let mut target = ReadBuf::new(self.bytes.get_mut(self.end..to).unwrap_or_default());
        let read = Pin::new(io).poll_read(cx, &mut target);
        let (count, full) = (target.filled().len(), target.remaining() == 0);
        match read {
            Poll::Ready(Ok(())) => {
                self.filled(count, full);
                Poll::Ready(Ok(count))
            }
            other => {
                if self.is_empty() {
                    give(std::mem::take(&mut self.bytes));
                }
                other.map_ok(|()| 0)
            }
        }
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if self.bytes.is_empty() || (self.eager && self.bytes.len() < LARGE_BYTES) {
                let large = take(self.eager);
                give(std::mem::replace(&mut self.bytes, large));
            }
        } else if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
            } else if self.bytes.len() < LARGE_BYTES {
                let mut large = take(true);
                if let Some(room) = large.get_mut(..self.end) {
                    room.copy_from_slice(self.data());
                }
                give(std::mem::replace(&mut self.bytes, large));
            } else {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            (self.start, self.end) = (0, self.end - self.start);
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn consuming_more_than_there_is_empties_the_buffer() {
        let mut buffer = Buffer::default();
        (buffer.bytes, buffer.start, buffer.end) = (vec![0; 8], 3, 8);
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
    }
}
