//! Memory for TLS bytes in flight: blocks of a worker's pool, and what a connection has read or has still to write in them.
//! An idle connection holds no block. Must not know what the bytes mean.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Kept free behind the application's records, for alerts and key updates.
pub(super) const CONTROL_BYTES: usize = 256;
/// Four full records with all that a version adds to them, and so one system call for as many.
const BLOCK_BYTES: usize = 4 * ((16 << 10) + 5 + 8 + 1 + 16) + CONTROL_BYTES;
/// The first read: one full record and a little. Who fills it has more, and gets the whole block next time.
const FIRST_READ_BYTES: usize = 17 << 10;
/// Idle blocks a worker keeps.
const POOL_BLOCKS_MAX: usize = 32;

thread_local! {
    static BLOCKS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Block(Box<[u8]>);

impl Block {
    fn take() -> Self {
        let pooled = BLOCKS.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        Self(pooled.unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice()))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // While the thread ends its pool is gone already; then the block is simply freed.
        let _ = BLOCKS.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOL_BLOCKS_MAX {
                pool.push(bytes);
            }
        });
    }
}

/// What was read and isn't used yet.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    block: Option<Block>,
    from: usize,
    to: usize,
    /// A part of a record, while the rest of it is awaited and the block serves others.
    stash: Box<[u8]>,
    bulk: bool,
}

impl Incoming {
    pub(super) fn bytes(&self) -> &[u8] {
        self.range(self.from..self.to)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.from..self.to;
        self.block.as_mut().and_then(|block| block.0.get_mut(range)).unwrap_or_default()
    }

    /// Not even part of a record is here.
    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to && self.stash.is_empty()
    }

    /// Where [`Self::bytes`] begin, for [`Self::range`].
    pub(super) fn position(&self) -> usize {
        self.from
    }

    pub(super) fn range(&self, range: Range<usize>) -> &[u8] {
        self.block.as_ref().and_then(|block| block.0.get(range)).unwrap_or_default()
    }

    /// Begins with what was read before TLS was known of; `false` when that is more than a block.
    pub(super) fn begin_with(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let block = self.block.get_or_insert_with(Block::take);
        let Some(space) = block.0.get_mut(..bytes.len()) else { return false };
        space.copy_from_slice(bytes);
        (self.from, self.to) = (0, bytes.len());
        true
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.from = (self.from + count).min(self.to);
    }

    /// Gives the block back when nothing in it is needed any more.
    pub(super) fn release_if_empty(&mut self) {
        if self.from == self.to {
            (self.block, self.from, self.to) = (None, 0, 0);
        }
    }

    /// One read. What is pending while the socket has nothing waits in memory of its own size.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, io: Pin<&mut impl AsyncRead>) -> Poll<io::Result<usize>> {
        let block = self.block.get_or_insert_with(Block::take);
        if !self.stash.is_empty() {
            let stash = std::mem::take(&mut self.stash);
            if let Some(front) = block.0.get_mut(..stash.len()) {
                front.copy_from_slice(&stash);
            }
            (self.from, self.to) = (0, stash.len());
        } else if self.from > 0 {
            block.0.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let limit = if self.bulk { BLOCK_BYTES } else { (self.to + FIRST_READ_BYTES).min(BLOCK_BYTES) };
        let Some(space) = block.0.get_mut(self.to..limit).filter(|space| !space.is_empty()) else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message larger than 64 KiB")));
        };
        let mut buffer = ReadBuf::new(space);
        match io.poll_read(cx, &mut buffer) {
            Poll::Pending => {
                self.stash = self.range(0..self.to).into();
                (self.block, self.from, self.to, self.bulk) = (None, 0, 0, false);
                Poll::Pending
            }
            Poll::Ready(outcome) => {
                let (count, room) = (buffer.filled().len(), buffer.remaining());
                self.bulk = room == 0;
                self.to += count;
                Poll::Ready(outcome.map(|()| count))
            }
        }
    }
}

/// Records that are sealed and not yet written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    block: Option<Block>,
    from: usize,
    to: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    pub(super) fn room(&self) -> usize {
        BLOCK_BYTES - self.to
    }

    /// The free space behind what waits.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let to = self.to;
        self.block.get_or_insert_with(Block::take).0.get_mut(to..).unwrap_or_default()
    }

    /// `count` bytes of the space are filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.to = (self.to + count).min(BLOCK_BYTES);
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut io: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.block.as_ref().and_then(|block| block.0.get(self.from..self.to)) {
            if bytes.is_empty() {
                (self.block, self.from, self.to) = (None, 0, 0);
                break;
            }
            match ready!(io.as_mut().poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.from += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}
