//! What the proxy counts, and its Prometheus text. Labels come from the snapshot (service, route) or from closed lists,
//! never from the wire. A handle is resolved once a connection or service; counting is a plain store.
//! Must not know HTTP servers or snapshots.

mod cells;
mod text;

use cells::Series;
pub(crate) use cells::{ConnectionGuard, Handle, RequestGuard};
use hashbrown::HashMap;
use snapshot::Generation;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// Distinct (direction, service, route). Further ones are counted together under [`OTHER`].
pub(crate) const SERIES_MAX: usize = 10_000;
/// Label of what exceeds [`SERIES_MAX`].
pub(crate) const OTHER: &str = "(other)";
/// Upper bounds of the request duration histogram.
pub(crate) const DURATION_BUCKETS_S: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
    Gateway,
    /// Zone ingress or egress.
    Zone,
    /// Captured, but not for the mesh.
    Passthrough,
}

impl Direction {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
            Self::Zone => "zone",
            Self::Passthrough => "passthrough",
        }
    }
}

type ByRoute = HashMap<String, Arc<Series>>;
type ByService = HashMap<String, ByRoute>;

/// All counters of the process, shared by its workers.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: RwLock<HashMap<Direction, ByService>>,
    size: AtomicU64,
    epoch_ms: AtomicU64,
    sequence: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The counters of a service's row; `route` is the origin of the chosen route, or empty.
    pub(crate) fn handle(&self, direction: Direction, service: &str, route: &str) -> Handle {
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&direction).and_then(|all| all.get(service)).and_then(|routes| routes.get(route));
        match found {
            Some(series) => Handle::new(series),
            None => {
                drop(known);
                self.add(direction, service, route)
            }
        }
    }

    fn add(&self, direction: Direction, service: &str, route: &str) -> Handle {
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let full = self.size.load(Relaxed) >= SERIES_MAX as u64;
        let (service, route) = if full { (OTHER, "") } else { (service, route) };
        let routes = series.entry(direction).or_default().entry(service.to_owned()).or_default();
        let found = routes.entry(route.to_owned()).or_insert_with(|| {
            self.size.fetch_add(1, Relaxed);
            Arc::default()
        });
        Handle::new(found)
    }

    /// Forgets services that the snapshot no longer has and that have no connection left.
    pub(crate) fn prune(&self, keep: impl Fn(&str) -> bool) {
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        let mut size = 0;
        for services in series.values_mut() {
            services.retain(|service, routes| {
                routes.retain(|_, series| keep(service) || Arc::strong_count(series) > 1);
                size += routes.len() as u64;
                !routes.is_empty()
            });
        }
        self.size.store(size, Relaxed);
    }

    /// A snapshot came into use.
    pub(crate) fn snapshot_accepted(&self, generation: Generation) {
        self.epoch_ms.store(generation.epoch, Relaxed);
        self.sequence.store(generation.sequence, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    /// A snapshot couldn't be built and was nacked.
    pub(crate) fn snapshot_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Connections being served.
    pub(crate) fn active_connections(&self) -> u64 {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series.values().flat_map(HashMap::values).flat_map(HashMap::values).map(|s| s.active()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use std::time::Duration;

    #[test]
    fn a_connection_is_active_until_its_guard_is_dropped() {
        let metrics = Metrics::new();
        let handle = metrics.handle(Direction::Outbound, "backend", "");
        let guard = handle.connection();
        assert_eq!(metrics.active_connections(), 1);
        handle.bytes(3, 5);
        drop(guard);
        assert_eq!(metrics.active_connections(), 0);
        let text = metrics.encode();
        assert!(
            text.contains("weir_connections_total{direction=\"outbound\",service=\"backend\",route=\"\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("way=\"sent\"} 5\n"), "{text}");
    }

    #[test]
    fn requests_count_by_class_reason_and_duration_under_both_names() {
        let metrics = Metrics::new();
        for route in ["MeshHTTPRoute default/a", ""] {
            let handle = metrics.handle(Direction::Outbound, "backend", route);
            handle.answered(204, Duration::from_millis(2));
            handle.answered(503, Duration::from_secs(20));
            handle.failed(Reason::ConnectFailed);
            drop(handle.request());
        }
        let text = metrics.encode();
        for line in [
            "weir_requests_total{direction=\"outbound\",service=\"backend\",route=\"MeshHTTPRoute default/a\",code=\"2xx\"} 1",
            "weir_failures_total{direction=\"outbound\",service=\"backend\",route=\"\",reason=\"connect_failed\"} 1",
            "weir_request_duration_seconds_bucket{direction=\"outbound\",service=\"backend\",route=\"\",le=\"+Inf\"} 2",
            "envoy_cluster_upstream_rq_xx{envoy_cluster_name=\"backend\",envoy_response_code_class=\"5\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\nisn't in\n{text}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::new();
        let _ = metrics.handle(Direction::Zone, "a\"b\\c\nd", "").connection();
        assert!(metrics.encode().contains("service=\"a\\\"b\\\\c\\nd\""));
    }

    #[test]
    fn series_are_bounded_and_pruned_once_unused() {
        let metrics = Metrics::new();
        for index in 0..SERIES_MAX {
            let _ = metrics.handle(Direction::Outbound, &index.to_string(), "");
        }
        let held = metrics.handle(Direction::Outbound, "one too many", "").connection();
        assert!(
            metrics
                .encode()
                .contains("weir_connections_total{direction=\"outbound\",service=\"(other)\",route=\"\"} 1")
        );
        metrics.prune(|service| service == "7");
        assert_eq!(metrics.size.load(Relaxed), 2);
        drop(held);
        metrics.prune(|service| service == "7");
        assert_eq!(metrics.size.load(Relaxed), 1);
    }

    #[test]
    fn snapshots_count_by_result() {
        let metrics = Metrics::new();
        metrics.snapshot_accepted(Generation { epoch: 9, sequence: 4 });
        metrics.snapshot_refused();
        let text = metrics.encode();
        assert!(text.contains("weir_snapshot_sequence 4\n"));
        assert!(text.contains("weir_snapshots_total{result=\"refused\"} 1\n"));
    }
}
