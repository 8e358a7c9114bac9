//! The jobs that are measured and what is wanted of each. One line a job; the arithmetic is in `report.rs`.

/// What is wanted: all that is given must hold. Every value is better when smaller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// Envoy's value divided by weir's, at least.
    pub(crate) envoy: f64,
    /// Another peer's value divided by weir's, at least.
    pub(crate) peer: Option<(&'static str, f64)>,
    /// weir's value at most.
    pub(crate) at_most: Option<f64>,
}

const fn times(envoy: f64) -> Goal {
    Goal { envoy, peer: None, at_most: None }
}

const fn and(envoy: f64, name: &'static str, ratio: f64) -> Goal {
    Goal { envoy, peer: Some((name, ratio)), at_most: None }
}

const fn at_most(value: f64) -> Goal {
    Goal { envoy: 0.0, peer: None, at_most: Some(value) }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Of the value that the goal speaks of.
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
}

const fn job(id: &'static str, title: &'static str, unit: &'static str, goal: Goal) -> Job {
    Job { id, title, unit, goal }
}

pub(crate) const CPU: &str = "µs CPU";
const MIB: &str = "MiB";
const ADDED: &str = "µs added p50";

pub(crate) const JOBS: &[Job] = &[
    job("h1-1k", "HTTP/1.1 gateway, 1 KiB, 1 route", CPU, and(4.0, "haproxy", 1.2)),
    job("h1-1k-routes", "HTTP/1.1 gateway, 1 KiB, 1,000 routes", CPU, and(4.0, "haproxy", 1.2)),
    job("h1-64k", "HTTP/1.1 gateway, 64 KiB", CPU, times(3.0)),
    job("h1-close", "HTTP/1.1 gateway, new connection per request", CPU, times(1.0)),
    job("h1-c1", "HTTP/1.1 gateway, one connection, same core", ADDED, times(1.0)),
    job("h1tls-1k", "HTTP/1.1 over TLS, 1 KiB", CPU, times(3.6)),
    job("h2c-1k", "HTTP/2 clear, 1 KiB", CPU, times(3.8)),
    job("h2tls-1k", "HTTP/2 over TLS, 1 KiB", CPU, times(3.8)),
    job("h2c-64k", "HTTP/2 clear, 64 KiB", CPU, times(2.0)),
    job("h2up-1k", "HTTP/2 to an HTTP/2 endpoint, 1 KiB", CPU, times(3.8)),
    job("tls-full", "TLS 1.3 P-256 handshakes, full", CPU, times(1.5)),
    job("tls-resumed", "TLS 1.3 P-256 handshakes, resumed", CPU, times(1.5)),
    job("mtls-1k", "sidecar pair over mTLS, HTTP 1 KiB", CPU, times(3.6)),
    job("mtls-c1", "sidecar pair over mTLS, one connection, same core", ADDED, times(2.5)),
    job("mtls-new", "sidecar pair over mTLS, new connection per request", CPU, times(2.0)),
    job("mtls-tcp-new", "sidecar pair over mTLS, TCP connect-request-close", CPU, times(2.0)),
    job("mtls-bulk", "sidecar pair over mTLS, bulk, a MiB", CPU, times(1.1)),
    job("tcp-bulk1", "TCP bulk, 1 stream, a MiB", CPU, times(3.7)),
    job("tcp-bulk16", "TCP bulk, 16 streams, a MiB", CPU, times(5.0)),
    job("tcp-rr64", "TCP ping-pong, 64 connections", CPU, times(1.55)),
    job("tcp-rr1", "TCP ping-pong, 1 connection", CPU, times(1.0)),
    job("tcp-crr", "TCP connect-request-close", CPU, times(2.3)),
    job("vip-bind", "TCP through a VIP of 5,000, new connections, bind", CPU, times(2.5)),
    job("vip-tproxy", "TCP through a VIP of 5,000, new connections, tproxy", CPU, times(2.5)),
    job("sni-crr", "SNI passthrough, 1,000 names, new connections", CPU, times(3.2)),
    job("dns-1000", "DNS A, 1,000 names", CPU, at_most(1.9)),
    job("dns-10000", "DNS A, 10,000 names", CPU, at_most(1.9)),
    job("memory-idle", "memory idle", MIB, at_most(8.0)),
    job("memory-conns", "memory, 9,000 idle HTTP connections", MIB, at_most(40.0)),
    job("memory-vips", "memory, 5,000 HTTP VIPs", MIB, at_most(30.0)),
    job("ready-routes", "ready with 10,000 routes", "s", at_most(0.03)),
    job("ready-vips", "ready with 5,000 HTTP VIPs", "s", at_most(0.1)),
    job("update-vip", "one VIP added to 5,000, until traffic sees it", "ms", at_most(5.0)),
    job("update-route", "one route of 10,000 changed, until traffic sees it", "ms", at_most(5.0)),
    job("update-p99", "p99 of traffic under updates of one route, times its quiet p99", "×", at_most(1.1)),
    job("mesh-connect", "control plane, 100 sidecars of 1,000 services connect, each", "ms CPU", at_most(10.0)),
    job("mesh-memory", "control plane, 100 sidecars of 1,000 services, each", MIB, at_most(1.0)),
    job("mesh-endpoint", "control plane, one endpoint changed, for each of 100 sidecars", CPU, at_most(500.0)),
    job("mesh-service", "control plane, one service of 1,000 added, for each of 100 sidecars", CPU, at_most(500.0)),
];

pub(crate) fn find(id: &str) -> Option<&'static Job> {
    JOBS.iter().find(|job| job.id == id)
}
