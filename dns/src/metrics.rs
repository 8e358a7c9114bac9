//! What the DNS server counts, and its text for Prometheus under the names `kuma-dp` uses (spec/naming.md §5.7).
//! Plain atomics; it must not know who scrapes them.

use crate::wire::{self, qtype};
use snapshot::{Reader, Snapshot};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const BUCKETS_US: [u64; 12] = [25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 8_000_000];

/// Of questions and of codes that are told apart.
const TYPES: usize = 3;
const RCODES: usize = 4;

#[derive(Debug, Default)]
struct Histogram {
    /// The last one is +Inf.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration, times: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slot = BUCKETS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(slot) {
            bucket.fetch_add(times, Relaxed);
        }
        self.sum_us.fetch_add(us.saturating_mul(times), Relaxed);
    }

    fn render(&self, name: &str, whose: &Labels, out: &mut String) {
        let _ = writeln!(out, "# TYPE {name} histogram");
        let mut total = 0;
        let bounds = BUCKETS_US.iter().map(|us| seconds(*us)).chain([String::from("+Inf")]);
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            total += bucket.load(Relaxed);
            let labels = whose.with(&format!("le=\"{bound}\""));
            let _ = writeln!(out, "{name}_bucket{labels} {total}");
        }
        let labels = whose.with("");
        let _ =
            writeln!(out, "{name}_sum{labels} {}\n{name}_count{labels} {total}", seconds(self.sum_us.load(Relaxed)));
    }
}

/// Microseconds as seconds, without floating point.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Whose DNS it is, on every line: `kuma_io_zone="…",mesh="…"` once the control plane has said it.
struct Labels(String);

impl Labels {
    fn of(snapshot: &Snapshot) -> Self {
        let proxy = &snapshot.tables().proxy;
        let known = [("kuma_io_zone", &proxy.zone), ("mesh", &proxy.mesh)];
        // Names of zones and meshes hold nothing that would have to be escaped.
        let known = known.iter().filter(|(_, value)| !value.is_empty());
        Self(known.map(|(name, value)| format!("{name}=\"{value}\"")).collect::<Vec<_>>().join(","))
    }

    /// In braces, unless there is none.
    fn with(&self, own: &str) -> String {
        let comma = if self.0.is_empty() || own.is_empty() { "" } else { "," };
        if self.0.is_empty() && own.is_empty() { String::new() } else { format!("{{{}{comma}{own}}}", self.0) }
    }
}

/// Who gave the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Local,
    Upstream,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Upstream => "upstream",
        }
    }
}

/// Counters of one DNS server.
#[derive(Debug)]
pub struct Metrics {
    reader: Reader,
    request: Histogram,
    upstream_request: Histogram,
    upstream_failures: AtomicU64,
    /// A, AAAA, other; first what we answered, then what upstreams did.
    queries: [AtomicU64; 2 * TYPES],
    /// noerror, nxdomain, servfail, other.
    rcodes: [AtomicU64; RCODES],
    /// Datagrams without a reply: replies themselves, too short, or our send buffer was full.
    dropped: AtomicU64,
    /// How long the first snapshot was waited for, in microseconds.
    ready_wait_us: OnceLock<u64>,
}

impl Metrics {
    pub(crate) fn new(reader: Reader) -> Self {
        Self {
            reader,
            request: Histogram::default(),
            upstream_request: Histogram::default(),
            upstream_failures: AtomicU64::default(),
            queries: Default::default(),
            rcodes: Default::default(),
            dropped: AtomicU64::default(),
            ready_wait_us: OnceLock::new(),
        }
    }

    /// Counts a reply, by what it says itself.
    pub(crate) fn replied(&self, reply: &[u8], source: Source, took: Duration) {
        let offset = if source == Source::Local { 0 } else { TYPES };
        count(&self.queries, offset + type_slot(reply), 1);
        count(&self.rcodes, rcode_slot(reply), 1);
        self.request.observe(took, 1);
    }

    /// Adds what a thread has counted for itself and empties it; each of its replies took at most `took`.
    pub(crate) fn add(&self, tally: &mut Tally, took: Duration) {
        let replies = tally.queries.iter().sum();
        if replies == 0 {
            return;
        }
        tally.queries.iter().enumerate().for_each(|(slot, n)| count(&self.queries, slot, *n));
        tally.rcodes.iter().enumerate().for_each(|(slot, n)| count(&self.rcodes, slot, *n));
        self.request.observe(took, replies);
        *tally = Tally::default();
    }

    pub(crate) fn dropped(&self, replies: usize) {
        if replies > 0 {
            self.dropped.fetch_add(u64::try_from(replies).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(crate) fn upstream(&self, took: Duration, answered: bool) {
        self.upstream_request.observe(took, 1);
        self.upstream_failures.fetch_add(u64::from(!answered), Relaxed);
    }

    /// The first snapshot is in force.
    pub(crate) fn ready(&self, waited: Duration) {
        let _ = self.ready_wait_us.set(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
    }

    /// Appends the exposition text.
    pub fn render(&self, out: &mut String) {
        let snapshot = self.reader.load();
        let whose = Labels::of(&snapshot);
        self.request.render("kuma_dp_dns_request_duration_seconds", &whose, out);
        self.upstream_request.render("kuma_dp_dns_upstream_request_duration_seconds", &whose, out);
        let mut family = |name: &str, kind: &str, values: &[(String, String)]| {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "{name}{} {value}", whose.with(labels));
            }
        };
        let one = |value: &AtomicU64| vec![(String::new(), value.load(Relaxed).to_string())];
        family("kuma_dp_dns_upstream_request_failure_count", "counter", &one(&self.upstream_failures));
        let labels = ["local", "upstream"].iter().flat_map(|s| ["A", "AAAA", "other"].iter().map(move |q| (q, s)));
        let queries = self.queries.iter().zip(labels).map(|(value, (qtype, source))| {
            (format!("qtype=\"{qtype}\",source=\"{source}\""), value.load(Relaxed).to_string())
        });
        family("kuma_dp_dns_queries_total", "counter", &queries.collect::<Vec<_>>());
        let codes = self.rcodes.iter().zip(["noerror", "nxdomain", "servfail", "other"]);
        let codes = codes.map(|(value, rcode)| (format!("rcode=\"{rcode}\""), value.load(Relaxed).to_string()));
        family("kuma_dp_dns_response_codes_total", "counter", &codes.collect::<Vec<_>>());
        let entries = snapshot.tables().names.len().to_string();
        family("kuma_dp_dns_entries_total", "gauge", &[(String::new(), entries)]);
        if let Some(us) = self.ready_wait_us.get() {
            family("kuma_dp_dns_config_ready_wait_seconds", "gauge", &[(String::new(), seconds(*us))]);
        }
        family("weir_dns_dropped_total", "counter", &one(&self.dropped));
    }
}

fn count(counters: &[AtomicU64], slot: usize, times: u64) {
    if let Some(counter) = counters.get(slot).filter(|_| times > 0) {
        counter.fetch_add(times, Relaxed);
    }
}

/// A, AAAA, other.
fn type_slot(reply: &[u8]) -> usize {
    match wire::question_type(reply) {
        Some(qtype::A) => 0,
        Some(qtype::AAAA) => 1,
        _ => 2,
    }
}

/// noerror, nxdomain, servfail, other.
fn rcode_slot(reply: &[u8]) -> usize {
    match wire::rcode(reply) {
        Some(0) => 0,
        Some(3) => 1,
        Some(2) => 2,
        _ => 3,
    }
}

/// Replies of our own that one thread has counted: plain numbers, carried over once a batch.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queries: [u64; TYPES],
    rcodes: [u64; RCODES],
}

impl Tally {
    pub(crate) fn replied(&mut self, reply: &[u8]) {
        for slot in [self.queries.get_mut(type_slot(reply)), self.rcodes.get_mut(rcode_slot(reply))] {
            slot.into_iter().for_each(|n| *n += 1);
        }
    }
}
