//! When the next publication may begin: at once as long as they are few, and so that of a burst of writes each takes what
//! came meanwhile. It knows no mesh and no clock.

use std::time::{Duration, Instant};

/// Publications in a row leave proxies and everybody else this many times as long as they took.
const REST_RATIO: u32 = 2;
/// So much rest may be owed before the next one waits for it.
const CREDIT: Duration = Duration::from_millis(100);
/// After a publication of a very large mesh the next one waits no longer.
const WAIT_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Until then rest is owed.
    rested: Option<Instant>,
}

impl Pace {
    /// A publication took from `begun` to `ended`.
    pub(super) fn published(&mut self, begun: Instant, ended: Instant) {
        let from = self.rested.map_or(begun, |at| at.max(begun));
        self.rested = Some((from + (ended - begun) * (1 + REST_RATIO)).min(ended + WAIT_MAX + CREDIT));
    }

    /// When the next one may begin; what is past is now.
    pub(super) fn next(&self) -> Option<Instant> {
        self.rested?.checked_sub(CREDIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Publications of a burst of writes that lasts a second.
    fn of_burst(cost: Duration) -> usize {
        let (begun, mut pace, mut count) = (Instant::now(), Pace::default(), 0);
        let mut now = begun;
        while now < begun + 1000 * MS {
            now = pace.next().map_or(now, |at| at.max(now));
            pace.published(now, now + cost);
            (now, count) = (now + cost, count + 1);
        }
        count
    }

    #[test]
    fn a_change_now_and_then_is_published_at_once() {
        let (mut now, mut pace) = (Instant::now(), Pace::default());
        for _ in 0..100 {
            assert!(pace.next().is_none_or(|at| at <= now));
            pace.published(now, now + 20 * MS);
            now += 100 * MS;
        }
    }

    #[test]
    fn a_burst_takes_a_third_of_the_time_and_is_seen_soon() {
        assert!((66..=80).contains(&of_burst(5 * MS)), "{}", of_burst(5 * MS));
        assert_eq!(of_burst(300 * MS), 3);
    }
}
