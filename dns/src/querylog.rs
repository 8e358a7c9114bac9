//! A line for each answer, for those who want to see what programs ask: off unless switched on, and never more than so many
//! a second. It must not know why an answer is what it is.

use crate::metrics::Source;
use crate::wire::{self, qtype};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// What comes beyond is counted and told with the next second's first line.
const LINES_PER_SECOND_MAX: u64 = 500;

#[derive(Debug)]
pub(crate) struct QueryLog {
    began: Instant,
    /// Seconds since then, and lines in the last of them.
    second: AtomicU64,
    lines: AtomicU64,
}

impl QueryLog {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), second: AtomicU64::default(), lines: AtomicU64::default() }
    }

    /// Of a reply with its question in it.
    pub(crate) fn answered(&self, client: SocketAddr, reply: &[u8], source: Source, took: Duration) {
        if !self.is_room(self.began.elapsed().as_secs()) {
            return;
        }
        let name = wire::question_name(reply).unwrap_or_default();
        let kind = match wire::question_type(reply) {
            Some(qtype::A) => "A".to_owned(),
            Some(qtype::AAAA) => "AAAA".to_owned(),
            Some(qtype::PTR) => "PTR".to_owned(),
            Some(other) => format!("TYPE{other}"),
            None => String::new(),
        };
        let rcode = match wire::rcode(reply) {
            Some(0) => "NOERROR".to_owned(),
            Some(2) => "SERVFAIL".to_owned(),
            Some(3) => "NXDOMAIN".to_owned(),
            other => other.map(|code| format!("RCODE{code}")).unwrap_or_default(),
        };
        let answers = reply.get(6..).and_then(<[u8]>::first_chunk).map_or(0, |count| u16::from_be_bytes(*count));
        let (source, us) = (source.name(), took.as_micros());
        info!(target: "dns_query", %client, name, kind, rcode, answers, source, us, "query");
    }

    fn is_room(&self, now: u64) -> bool {
        if self.second.swap(now, Relaxed) != now {
            let unsaid = self.lines.swap(0, Relaxed).saturating_sub(LINES_PER_SECOND_MAX);
            if unsaid > 0 {
                warn!(target: "dns_query", unsaid, "more queries than are logged a second");
            }
        }
        self.lines.fetch_add(1, Relaxed) < LINES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_no_more() {
        let log = QueryLog::new();
        let lines = |second| (0..2 * LINES_PER_SECOND_MAX).filter(|_| log.is_room(second)).count() as u64;
        assert_eq!(lines(1), LINES_PER_SECOND_MAX);
        assert_eq!(lines(2), LINES_PER_SECOND_MAX);
    }
}
