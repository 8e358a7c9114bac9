//! One stream of a tunnel: what has arrived and isn't read, how much either side may send, who waits for it. Must not know
//! frames, nor other streams.

use super::frame::Code;
use std::cell::RefCell;
use std::hash::Hasher;
use std::ops::Range;
use std::task::{Context, Waker};

/// What a side may send on a stream before it hears more: part of the wire format.
pub(crate) const WINDOW_BYTES: u32 = 64 << 10;
/// What the driver reads at a time: four full TLS records.
pub(super) const CHUNK_BYTES: usize = 66 << 10;
/// Read bytes are moved off the front of a buffer once there are so many, and no fewer than unread ones.
const COMPACT_BYTES: usize = 64 << 10;
const BUFFER_BYTES_MIN: usize = 2 << 10;
/// What a worker keeps for streams to come: chunks; smaller buffers; and the bytes of the latter together.
const CHUNKS_MAX: usize = 32;
const SPARE_MAX: usize = 256;
const SPARE_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Spare {
    chunks: Vec<Vec<u8>>,
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// [`CHUNK_BYTES`] of the worker's pool.
pub(super) fn chunk() -> Vec<u8> {
    SPARE.with_borrow_mut(|spare| spare.chunks.pop()).unwrap_or_else(|| vec![0; CHUNK_BYTES])
}

/// Gives memory back to the pool.
pub(super) fn release(buffer: Vec<u8>) {
    if buffer.is_empty() {
        return;
    }
    // While the thread ends the pool is gone already; then the memory is simply freed.
    let _ = SPARE.try_with(|spare| {
        let spare = &mut *spare.borrow_mut();
        if buffer.len() >= CHUNK_BYTES {
            if spare.chunks.len() < CHUNKS_MAX && buffer.len() == CHUNK_BYTES {
                spare.chunks.push(buffer);
            }
        } else if spare.buffers.len() < SPARE_MAX && spare.bytes + buffer.len() <= SPARE_BYTES_MAX {
            spare.bytes += buffer.len();
            spare.buffers.push(buffer);
        }
    });
}

/// Bytes in the order they came; without memory while there are none.
#[derive(Default)]
pub(super) struct Arrived {
    /// Initialised all of it.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Arrived {
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes = SPARE.with_borrow_mut(|spare| {
                let buffer = spare.buffers.pop().unwrap_or_default();
                spare.bytes -= buffer.len();
                buffer
            });
        }
        if self.start >= COMPACT_BYTES.max(self.end - self.start) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.end + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two().max(BUFFER_BYTES_MIN), 0);
        }
        if let Some(space) = self.bytes.get_mut(self.end..end) {
            space.copy_from_slice(bytes);
            self.end = end;
        }
    }

    /// Takes these bytes of a chunk with the chunk, and leaves another one in its place; copies if something is here still.
    pub(super) fn give(&mut self, chunk: &mut Vec<u8>, range: Range<usize>) {
        if self.start < self.end {
            return self.push(chunk.get(range).unwrap_or_default());
        }
        release(std::mem::replace(&mut self.bytes, std::mem::replace(chunk, self::chunk())));
        (self.start, self.end) = (range.start, range.end.min(self.bytes.len()));
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
            release(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        release(std::mem::take(&mut self.bytes));
    }
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) arrived: Arrived,
    /// The peer's half is over.
    pub(super) ended: bool,
    /// Ours is.
    pub(super) finished: bool,
    /// The peer reads no more.
    pub(super) stopped: bool,
    pub(super) broken: Option<Code>,
    /// What we may send.
    pub(super) credit: u32,
    /// What the peer may send.
    pub(super) granted: u32,
    /// Read, and not told to the peer yet.
    pub(super) owed: u32,
    /// What the peer may have sent beyond what is read and told.
    pub(super) window: u32,
    /// Read since the window grew.
    pub(super) read: u32,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) watcher: Option<Waker>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { credit: WINDOW_BYTES, granted: WINDOW_BYTES, window: WINDOW_BYTES, ..Self::default() }
    }

    pub(super) fn wake(&mut self) {
        for waker in [&mut self.reader, &mut self.writer, &mut self.watcher] {
            wake(waker);
        }
    }
}

/// Ids rise by one: any spread is good enough, and it is looked up for each frame.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Keeps a waker that would do the same.
pub(super) fn set(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::Rng;

    #[test]
    fn bytes_are_read_in_the_order_they_came_in_whatever_memory() {
        let mut rng = Rng::new(3);
        let (mut arrived, mut sent, mut read) = (Arrived::default(), Vec::new(), Vec::new());
        for step in 0..2000_u32 {
            let bytes = vec![step as u8; rng.below(40_000) as usize];
            sent.extend_from_slice(&bytes);
            if rng.below(2) == 0 {
                let mut chunk = chunk();
                let from = rng.below(100) as usize;
                chunk[from..from + bytes.len()].copy_from_slice(&bytes);
                arrived.give(&mut chunk, from..from + bytes.len());
                release(chunk);
            } else {
                arrived.push(&bytes);
            }
            let count = arrived.unread().len().min(rng.below(80_000) as usize);
            read.extend_from_slice(&arrived.unread()[..count]);
            arrived.consume(count);
        }
        read.extend_from_slice(arrived.unread());
        assert!(read == sent, "bytes differ");
        arrived.consume(arrived.unread().len());
        assert!(arrived.bytes.is_empty(), "it holds memory for nothing");
    }
}
