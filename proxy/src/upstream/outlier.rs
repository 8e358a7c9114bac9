//! Passive ejection: an endpoint that couldn't be connected to is passed over for a while, doubling while it fails.
//! Must not count requests or statuses, nor choose endpoints.

use std::time::{Duration, Instant};

/// First pause of an endpoint after a failed connection; doubled by each further one.
pub(crate) const EJECT_MS_MIN: u64 = 1_000;
/// Longest pause.
pub(crate) const EJECT_MS_MAX: u64 = 30_000;

/// What is known of an endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    failures: u32,
    until: Option<Instant>,
}

impl Health {
    pub(crate) fn is_ejected(&self, now: impl FnOnce() -> Instant) -> bool {
        self.until.is_some_and(|until| now() < until)
    }

    /// A connection was made: all is forgiven.
    pub(crate) fn succeeded() -> Self {
        Self::default()
    }

    /// A connection couldn't be made. Attempts that began before the ejection don't lengthen it.
    pub(crate) fn failed(self, now: Instant) -> Self {
        if self.is_ejected(|| now) {
            return self;
        }
        let pause = EJECT_MS_MIN.checked_shl(self.failures).unwrap_or(EJECT_MS_MAX).clamp(EJECT_MS_MIN, EJECT_MS_MAX);
        Self { failures: self.failures.saturating_add(1).min(16), until: now.checked_add(Duration::from_millis(pause)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_one_second_to_thirty() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for pause_s in [1, 2, 4, 8, 16, 30, 30] {
            health = health.failed(now);
            assert!(health.is_ejected(|| now + Duration::from_secs(pause_s) - Duration::from_millis(1)));
            now += Duration::from_secs(pause_s);
            assert!(!health.is_ejected(|| now));
        }
        assert_eq!(Health::succeeded(), Health::default());
    }

    #[test]
    fn failures_of_parallel_attempts_count_once() {
        let now = Instant::now();
        let once = Health::default().failed(now);
        assert_eq!(once.failed(now), once);
    }
}
