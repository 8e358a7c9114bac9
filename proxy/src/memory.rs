//! The process's memory: the heap, with a cache for what each connection takes, and giving back what only starting, or taking a
//! large snapshot, needed: free heap pages, and pages of code that ran once. Owns these calls to the C library and the kernel.
//! Must not know what the memory is used for.
#![expect(unsafe_code, reason = "an allocator and calls that have no safe form; each block has its proof")]

use nix::libc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// Memory is given back so long after a snapshot came into force: what decoding and building used, then the snapshot before
/// it, which idle workers let go of within their pruning interval.
const TRIM_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];
/// Memory isn't given back for less than this. A small change leaves little behind, and giving back isn't free: workers
/// stand at the heap's lock, and read code anew.
const TRIM_BYTES_MIN: usize = 4 << 20;

/// Sizes of blocks in the cache are multiples of this, and so are their addresses.
const STEP_BYTES: usize = 128;
/// What is larger isn't kept.
const BLOCK_BYTES_MAX: usize = 4 << 10;
/// The C library keeps what isn't larger for itself, as long as it isn't aligned beyond [`LIBC_ALIGN_MAX`].
const LIBC_BLOCK_BYTES_MAX: usize = 1 << 10;
const LIBC_ALIGN_MAX: usize = 16;
/// Free blocks a thread keeps.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// The C library's heap, and for each thread a cache of free blocks that its own cache doesn't take and that come and go with
/// every connection: those on cache lines of their own (tasks, sockets at the poller) and those over 1 KiB (what a connection is
/// doing). Its long way costs 700 instructions a block: a short TCP connection takes 12,815 instructions with the cache and 16,428
/// without, 9,000 idle HTTP connections 32.7 and 33.9 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Heap;

struct Cache {
    /// By size: the first free block, which begins with the address of the next.
    free: [Cell<*mut Free>; BLOCK_BYTES_MAX / STEP_BYTES],
    kept_bytes: Cell<usize>,
}

struct Free {
    next: *mut Free,
}

thread_local! {
    // It has nothing to drop, so it can be used at any time of a thread's life; what a thread kept at its end is lost.
    static CACHE: Cache = const {
        Cache { free: [const { Cell::new(null_mut()) }; BLOCK_BYTES_MAX / STEP_BYTES], kept_bytes: Cell::new(0) }
    };
}

impl Cache {
    fn take(&self, kind: usize) -> *mut u8 {
        let Some(first) = self.free.get(kind) else { return null_mut() };
        let block = first.get();
        if !block.is_null() {
            // SAFETY: what is in the list was given back by its user and begins with a `Free`, which `keep` wrote.
            first.set(unsafe { (*block).next });
            self.kept_bytes.set(self.kept_bytes.get() - block_bytes(kind));
        }
        block.cast()
    }

    /// Whether the block is kept; else it is still the caller's.
    fn keep(&self, kind: usize, block: *mut u8) -> bool {
        let Some(first) = self.free.get(kind) else { return false };
        let kept_bytes = self.kept_bytes.get() + block_bytes(kind);
        if kept_bytes > KEPT_BYTES_MAX {
            return false;
        }
        self.kept_bytes.set(kept_bytes);
        let block: *mut Free = block.cast();
        // SAFETY: nobody else has the block any more; it is aligned to 128 bytes and at least as long.
        unsafe { block.write(Free { next: first.get() }) };
        first.set(block);
        true
    }
}

/// Which list a block belongs to, if it is of the kind that is kept.
fn kind(layout: &Layout) -> Option<usize> {
    let is_ours = layout.size() > LIBC_BLOCK_BYTES_MAX || layout.align() > LIBC_ALIGN_MAX;
    let fits = layout.size() <= BLOCK_BYTES_MAX && layout.align() <= STEP_BYTES;
    (is_ours && fits).then(|| layout.size().max(1).div_ceil(STEP_BYTES) - 1)
}

fn block_bytes(kind: usize) -> usize {
    (kind + 1) * STEP_BYTES
}

/// How a block of a kind is asked of the system, and given back to it.
fn block(kind: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and a size of at most 4 KiB doesn't overflow.
    unsafe { Layout::from_size_align_unchecked(block_bytes(kind), STEP_BYTES) }
}

// SAFETY: a block is either the system's own answer to the same layout, or of a kind. Then it was asked of the system as
// `block(kind)`, which is as large and as aligned as each layout of that kind, and is given back to it as the same. `kind` depends on
// the layout alone, which is the same when a block is taken and when it is given back. A free block is in one list of one thread,
// and leaves it before anyone gets it.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(kind) = kind(&layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        let kept = CACHE.try_with(|cache| cache.take(kind)).unwrap_or(null_mut());
        // SAFETY: the size isn't 0.
        if kept.is_null() { unsafe { System.alloc(block(kind)) } } else { kept }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match kind(&layout) {
            Some(kind) if CACHE.try_with(|cache| cache.keep(kind, pointer)).unwrap_or(false) => {}
            // SAFETY: as it was asked for, see above.
            Some(kind) => unsafe { System.dealloc(pointer, block(kind)) },
            // SAFETY: the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if kind(&layout).is_none() {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise; what comes is at least as long as the layout says, or null.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is valid with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (kind(&layout), kind(&wanted)) {
            // SAFETY: the caller's promise; the system gave the block.
            (None, None) => unsafe { System.realloc(pointer, layout, bytes) },
            (old, new) if old == new => pointer,
            // SAFETY: the new block can't overlap the old one, and both have the lesser of the sizes.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(pointer, layout.size().min(bytes));
                    self.dealloc(pointer, layout);
                }
                moved
            },
        }
    }
}

/// When memory is given back.
pub(crate) struct Trimmer {
    /// When the snapshot in force came, and how often memory was looked at since.
    published: Instant,
    trims: usize,
    /// After memory was given back at last; None at first.
    resident: Option<usize>,
}

impl Trimmer {
    pub(crate) fn new() -> Self {
        Self { published: Instant::now(), trims: 0, resident: None }
    }

    /// A snapshot came into force.
    pub(crate) fn published(&mut self) {
        (self.published, self.trims) = (Instant::now(), 0);
    }

    /// None when there is nothing more to give back until the next snapshot.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        TRIM_AFTER.get(self.trims).map(|after| self.published + *after)
    }

    pub(crate) fn trim(&mut self) {
        self.trims += 1;
        if self.resident.is_some_and(|before| resident_bytes() < before + TRIM_BYTES_MIN) {
            return;
        }
        // What ran only to start has run by then; later it is workers that would miss their code.
        if self.resident.is_none() {
            drop_code_pages();
        }
        trim_heap();
        if self.trims == TRIM_AFTER.len() {
            self.resident = Some(resident_bytes());
        }
    }
}

/// Gives free pages of the heap back to the kernel, those between live allocations too.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, locks the allocator itself, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Physical memory of this process; 0 where the kernel doesn't say.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages.saturating_mul(usize::try_from(page).unwrap_or(4096))
}

/// Drops the mapped pages of our own executable and its libraries that can't differ from their files; what is still
/// used comes back from the page cache, a few microseconds a touch.
fn drop_code_pages() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, length) in unchanged_mappings(&smaps) {
        // SAFETY: the range is a whole mapping of a file that we can't write to and none of whose pages is our own copy,
        // so that dropping loses nothing: the next access reads the same bytes. Nothing unmaps code meanwhile: no
        // library is ever unloaded.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of each private, read-only mapping of an executable file without a page of our own.
fn unchanged_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            candidate = mapping;
        } else if let Some(own) = line.strip_prefix("Anonymous:")
            && let Some(range) = candidate.take()
            && own.trim() == "0 kB"
        {
            found.push(range);
        }
    }
    found
}

/// Reads `55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 1234   /usr/bin/weir`: outer None for another line, inner None
/// for a mapping that isn't ours to drop.
#[expect(clippy::option_option, reason = "another line and another mapping are different answers")]
fn header(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let is_read_only = matches!(words.next()?, "r-xp" | "r--p");
    let path = words.nth(3).map(Path::new).filter(|path| path.is_absolute());
    Some((is_read_only && path.is_some() && start < end).then(|| (start, end - start)))
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES_MAX, CACHE, Heap, KEPT_BYTES_MAX, drop_code_pages, trim_heap, unchanged_mappings};

    #[global_allocator]
    static HEAP: Heap = Heap;

    /// Bytes in a vector that grows and shrinks through all kinds of blocks.
    #[test]
    fn what_is_in_a_block_survives_each_change_of_its_size() {
        let mut bytes: Vec<u8> = Vec::new();
        for size in (0..3 * BLOCK_BYTES_MAX).step_by(37) {
            bytes.extend((bytes.len()..size).map(|at| at as u8));
            bytes.shrink_to_fit();
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8), "{size} bytes");
        }
        while let Some(last) = bytes.len().checked_sub(41) {
            bytes.truncate(last);
            bytes.shrink_to_fit();
            assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == at as u8), "{last} bytes");
        }
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_zeroed_when_asked_for() {
        #[repr(align(128))]
        struct Line([u8; 200]);
        for _ in 0..3 {
            let lines: Vec<Box<Line>> = (0..100_u8).map(|fill| Box::new(Line([fill; 200]))).collect();
            for (fill, line) in (0..100_u8).zip(&lines) {
                assert!(std::ptr::from_ref(&**line).cast::<Line>().is_aligned());
                assert!(line.0.iter().all(|byte| *byte == fill));
            }
            drop(lines);
            assert!(vec![0_u8; 2000].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_thread_keeps_a_bounded_amount_and_frees_what_another_took() {
        let blocks: Vec<Vec<u8>> = (0..1000).map(|_| Vec::with_capacity(3000)).collect();
        let kept = std::thread::spawn(move || {
            drop(blocks);
            CACHE.with(|cache| cache.kept_bytes.get())
        });
        let kept = kept.join().unwrap();
        assert!(0 < kept && kept <= KEPT_BYTES_MAX, "{kept} bytes");
    }

    #[test]
    fn only_read_only_mappings_of_files_without_own_pages_are_dropped() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 12 /usr/bin/weir
Rss:                   8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 12 /usr/bin/weir
Anonymous:             4 kB
5000-6000 rw-p 00004000 fe:00 12 /usr/bin/weir
Anonymous:             0 kB
6000-7000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7000-8000 r--p 00000000 00:00 0
Anonymous:             0 kB
8000-a000 r-xp 00000000 fe:00 13 /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(unchanged_mappings(smaps), [(0x1000, 0x2000), (0x8000, 0x2000)]);
    }

    #[test]
    fn code_and_data_are_as_before_after_giving_back() {
        let text = "kept".repeat(1000);
        drop_code_pages();
        trim_heap();
        assert_eq!(text, "kept".repeat(1000));
    }
}
