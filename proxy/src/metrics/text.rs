//! The Prometheus text format (0.0.4) of [`Metrics`]. Must not count.

use super::cells::Sums;
use super::{DURATION_BUCKETS_S, Direction, Metrics};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

/// A family's samples, each with its labels rendered.
type Row<'a> = (&'a str, &'a Sums);

impl Metrics {
    pub(crate) fn encode(&self) -> String {
        let series = self.sorted();
        let rendered: Vec<(String, &Sums)> = series.iter().map(|(key, sums)| (labels(key), sums)).collect();
        let rows: Vec<Row<'_>> = rendered.iter().map(|(labels, series)| (labels.as_str(), *series)).collect();
        let mut out = String::with_capacity(4096 + rows.len() * 1024);
        self.process(&mut out);
        connections(&mut out, &rows);
        requests(&mut out, &rows);
        failures(&mut out, &rows);
        aliases(&mut out, &series);
        out
    }

    fn sorted(&self) -> BTreeMap<(Direction, String, String), Sums> {
        let all = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut sorted = BTreeMap::new();
        for (direction, services) in all.iter() {
            for (service, routes) in services {
                for (route, series) in routes {
                    sorted.insert((*direction, service.clone(), route.clone()), series.sums());
                }
            }
        }
        sorted
    }

    fn process(&self, out: &mut String) {
        family(out, "weir_snapshot_epoch_ms", "gauge", "Start of the control plane whose snapshot is in use.");
        sample(out, "weir_snapshot_epoch_ms", "", self.epoch_ms.load(Relaxed));
        family(out, "weir_snapshot_sequence", "gauge", "Number of the snapshot in use, within its epoch.");
        sample(out, "weir_snapshot_sequence", "", self.sequence.load(Relaxed));
        family(out, "weir_snapshots_total", "counter", "Snapshots received, by what became of them.");
        sample(out, "weir_snapshots_total", "result=\"accepted\"", self.accepted.load(Relaxed));
        sample(out, "weir_snapshots_total", "result=\"refused\"", self.refused.load(Relaxed));
    }
}

fn connections(out: &mut String, rows: &[Row<'_>]) {
    family(out, "weir_connections_total", "counter", "Connections from downstream.");
    for (labels, series) in rows {
        sample(out, "weir_connections_total", labels, series.connections);
    }
    family(out, "weir_connections_active", "gauge", "Connections being served.");
    for (labels, series) in rows {
        sample(out, "weir_connections_active", labels, series.active);
    }
    family(out, "weir_bytes_total", "counter", "Payload, received from and sent to downstream.");
    for (labels, series) in rows {
        for (way, count) in [("received", series.received), ("sent", series.sent)] {
            sample(out, "weir_bytes_total", &format!("{labels},way=\"{way}\""), count);
        }
    }
}

fn requests(out: &mut String, rows: &[Row<'_>]) {
    family(out, "weir_requests_total", "counter", "Requests answered, by class of status.");
    for (labels, series) in rows {
        for (class, count) in classes(series) {
            sample(out, "weir_requests_total", &format!("{labels},code=\"{class}xx\""), count);
        }
    }
    family(out, "weir_requests_active", "gauge", "Requests being served.");
    for (labels, series) in rows {
        sample(out, "weir_requests_active", labels, series.active_requests);
    }
    let name = "weir_request_duration_seconds";
    family(out, name, "histogram", "Time from a request's head to the end of its answer.");
    for (labels, series) in rows {
        let counts = series.durations;
        let total: u64 = counts.iter().sum();
        if total == 0 {
            continue;
        }
        let mut sum = 0;
        for (bound, count) in DURATION_BUCKETS_S.iter().zip(counts) {
            sum += count;
            sample(out, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), sum);
        }
        sample(out, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), total);
        sample(out, &format!("{name}_sum"), labels, series.duration_us as f64 / 1e6);
        sample(out, &format!("{name}_count"), labels, total);
    }
}

fn failures(out: &mut String, rows: &[Row<'_>]) {
    family(out, "weir_failures_total", "counter", "Connections and requests that ended otherwise than they should.");
    for (labels, series) in rows {
        for (reason, count) in &series.failures {
            sample(out, "weir_failures_total", &format!("{labels},reason=\"{reason}\""), count);
        }
    }
}

/// The few names of the reference that dashboards are built on.
fn aliases(out: &mut String, series: &BTreeMap<(Direction, String, String), Sums>) {
    let mut clusters: BTreeMap<&str, (u64, u64, BTreeMap<usize, u64>)> = BTreeMap::new();
    for ((direction, service, _), series) in series {
        if matches!(direction, Direction::Outbound | Direction::Gateway) {
            let (total, active, by_class) = clusters.entry(service).or_default();
            *total += series.connections;
            *active += series.active;
            for (class, count) in classes(series) {
                *by_class.entry(class).or_default() += count;
            }
        }
    }
    let label = |service: &str| format!("envoy_cluster_name=\"{}\"", escape(service));
    family(out, "envoy_cluster_upstream_cx_total", "counter", "Alias: connections to a service.");
    for (service, (total, ..)) in &clusters {
        sample(out, "envoy_cluster_upstream_cx_total", &label(service), total);
    }
    family(out, "envoy_cluster_upstream_cx_active", "gauge", "Alias: connections to a service being served.");
    for (service, (_, active, _)) in &clusters {
        sample(out, "envoy_cluster_upstream_cx_active", &label(service), active);
    }
    family(out, "envoy_cluster_upstream_rq_xx", "counter", "Alias: requests to a service by class of status.");
    for (service, (.., by_class)) in &clusters {
        for (class, count) in by_class {
            let labels = format!("{},envoy_response_code_class=\"{class}\"", label(service));
            sample(out, "envoy_cluster_upstream_rq_xx", &labels, count);
        }
    }
}

/// Classes of status that occurred.
fn classes(series: &Sums) -> impl Iterator<Item = (usize, u64)> {
    series.requests.iter().copied().enumerate().filter(|(_, count)| *count > 0)
}

fn labels((direction, service, route): &(Direction, String, String)) -> String {
    format!("direction=\"{}\",service=\"{}\",route=\"{}\"", direction.label(), escape(service), escape(route))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}
