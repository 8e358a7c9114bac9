//! What service probes are like where a Dataplane leaves it open (spec/naming.md §2.6).

use std::time::Duration;

/// Service probes: whether there are any, and what one that leaves it open is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    pub enabled: bool,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}

impl Default for Probing {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        }
    }
}
