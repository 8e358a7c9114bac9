//! Memory that bytes pass through, of the worker's thread: borrowed while they are in flight. Must not know streams.

use super::BUFFER_BYTES;
use std::cell::RefCell;

/// Read at a time once a read filled the smaller buffer and bytes can't be spliced: four full TLS records.
const LARGE_BYTES: usize = 66 << 10;
/// Idle buffers a worker keeps.
const POOL_BUFFERS_MAX: usize = 64;
const POOL_LARGE_MAX: usize = 16;

thread_local! {
    /// What passes through it is in it only during a turn.
    pub(super) static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
    pub(super) static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// [`BUFFER_BYTES`] or [`LARGE_BYTES`] borrowed from the worker's pool.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Self {
        let pooled = BUFFERS.with_borrow_mut(Vec::pop);
        Self(pooled.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()))
    }

    /// Not more than [`BUFFER_BYTES`].
    pub(super) fn with(bytes: &[u8]) -> Self {
        let mut buffer = Self::take();
        buffer.range_mut(0, bytes.len()).copy_from_slice(bytes);
        buffer
    }

    pub(super) fn of(large: bool) -> Self {
        if !large {
            return Self::take();
        }
        let pooled = LARGE.with_borrow_mut(Vec::pop);
        Self(pooled.unwrap_or_else(|| vec![0; LARGE_BYTES].into_boxed_slice()))
    }

    pub(crate) fn whole(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn range_mut(&mut self, from: usize, to: usize) -> &mut [u8] {
        self.0.get_mut(from..to).unwrap_or_default()
    }

    pub(super) fn range(&self, from: usize, to: usize) -> &[u8] {
        self.0.get(from..to).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let (pool, max) =
            if bytes.len() == LARGE_BYTES { (&LARGE, POOL_LARGE_MAX) } else { (&BUFFERS, POOL_BUFFERS_MAX) };
        // While the thread ends its pool is gone already; then the buffer is simply freed.
        let _ = pool.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < max {
                pool.push(bytes);
            }
        });
    }
}
