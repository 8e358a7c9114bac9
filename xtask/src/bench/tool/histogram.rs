//! Times of operations in buckets of about 3 % each: quantiles without keeping every time.

use std::time::Duration;

const SUB: u32 = 5; // 32 buckets for each power of two
const BUCKETS: usize = 64 << SUB;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(super) fn add(&mut self, time: Duration) {
        let at = bucket(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
            self.total += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        let wanted = quantile * self.total as f64;
        let mut seen = 0_u64;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return floor(at) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    if bits <= SUB + 1 {
        return value as usize;
    }
    let shift = bits - SUB - 1;
    ((shift as usize) << SUB) + (value >> shift) as usize
}

/// The least value of a bucket.
fn floor(bucket: usize) -> u64 {
    let sub = 1_usize << SUB;
    if bucket < 2 * sub {
        return bucket as u64;
    }
    let shift = (bucket >> SUB) - 1;
    ((bucket - (shift << SUB)) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_at_most_a_thirtieth_below_its_values() {
        for value in [0, 1, 63, 64, 65, 1_000, 123_456, 10_000_000_000] {
            let low = floor(bucket(value));
            assert!(low <= value && value - low <= value / 30, "{value} is in the bucket of {low}");
        }
    }

    #[test]
    fn the_median_of_three_times_is_the_middle_one() {
        let mut times = Histogram::new();
        for us in [10, 20, 3_000] {
            times.add(Duration::from_micros(us));
        }
        assert!((19.0..=20.0).contains(&times.quantile_us(0.5)));
    }
}
