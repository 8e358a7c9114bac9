//! Gives memory back that only starting, or taking a large snapshot, needed: free heap pages, and pages of code that ran
//! once. Owns these calls to the C library and the kernel. Must not know what the memory was used for.
#![expect(unsafe_code, reason = "neither call has a safe form; each block has its proof")]

use nix::libc;
use std::path::Path;
use std::time::{Duration, Instant};

/// Memory is given back so long after a snapshot came into force: what decoding and building used, then the snapshot before
/// it, which idle workers let go of within their pruning interval.
const TRIM_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];
/// Memory isn't given back for less than this. A small change leaves little behind, and giving back isn't free: workers
/// stand at the heap's lock, and read code anew.
const TRIM_BYTES_MIN: usize = 4 << 20;

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
    use super::{drop_code_pages, trim_heap, unchanged_mappings};

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
