//! How many connections a process and one listener may have at a time. Must not know what the connections do.

use snapshot::ProxyKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Of a builtin gateway's process: it stands at the edge.
pub(crate) const GATEWAY_CONNECTIONS_MAX: usize = 50_000;
/// Of any other proxy: so far beyond use that only a leak or an attack reaches it.
pub(crate) const CONNECTIONS_MAX: usize = 200_000;

/// For all connections of a process together.
pub(crate) fn process_max(kind: ProxyKind) -> usize {
    match kind {
        ProxyKind::Gateway => GATEWAY_CONNECTIONS_MAX,
        ProxyKind::Sidecar | ProxyKind::Egress | ProxyKind::Ingress => CONNECTIONS_MAX,
    }
}

/// A number of connections, shared by all workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

/// One connection of a [`Count`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Count {
    /// `None` when there are `max` already.
    pub(crate) fn enter(&self, max: usize) -> Option<Counted> {
        let before = self.0.fetch_add(1, Relaxed);
        // Dropped, it takes back what was added.
        let counted = Counted(self.0.clone());
        (before < max).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn a_full_count_admits_again_when_one_leaves() {
        let count = Count::default();
        let first = count.enter(2).unwrap();
        let _second = count.enter(2).unwrap();
        assert!(count.enter(2).is_none());
        assert!(count.enter(2).is_none(), "who was refused doesn't count");
        drop(first);
        assert!(count.enter(2).is_some());
    }
}
