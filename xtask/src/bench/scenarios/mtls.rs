//! A pair of sidecars with mutual TLS between them, both on the proxy's core: a client in clear, its sidecar, the
//! workload's sidecar, the workload.

use super::http::{added_latency, url, wrk};
use super::{ECHO, HTTP, SINK, add, backend, on_loopback};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{Slot, envoy};
use crate::bench::process::LOAD_CORE;
use crate::bench::report::Results;
use crate::bench::{Context, Res, load, probe};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const JOBS: &[&str] = &["mtls-1k", "mtls-c1", "mtls-new", "mtls-tcp-new", "mtls-bulk"];
const START_MAX: Duration = Duration::from_secs(30);

/// Bulk goes through the port above a slot's, short connections through the next.
pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backends = [backend(context, "http", HTTP)?, backend(context, "echo", ECHO)?, backend(context, "sink", SINK)?];
    let mut control_plane = None;
    let mut slots = Vec::new();
    add(context, &mut slots, "weir", || {
        let cp = control_plane.insert(ControlPlane::start(context, &resources())?);
        let off = ["--interception", "off"];
        let (client, server) = (client(18_000), server());
        let proxy = |name, resource, admin| cp.proxy(&Proxy { name, resource, admin, arguments: &off });
        let running = vec![proxy("server-1", &server, 18_091)?, proxy("client-1", &client, 18_090)?];
        let address = SocketAddr::from(([127, 0, 0, 1], 18_000));
        let answers = || probe::get(address, "web", "/p0").is_some_and(|text| text.starts_with("HTTP/1.1 200"));
        if !probe::until(START_MAX, answers) {
            return Err("the pair does not answer: certificates?".to_owned());
        }
        Ok(Slot { name: "weir", port: 18_000, running })
    });
    add(context, &mut slots, "envoy", || envoy_pair(context, 18_200));
    context.measure(results, "mtls-1k", &slots, |slot| {
        wrk(context, &url("http", slot.port, "/p0"), 64, None, LOAD_CORE)
    })?;
    added_latency(context, results, "mtls-c1", &slots)?;
    context.measure(results, "mtls-new", &slots, |slot| {
        wrk(context, &url("http", slot.port, "/p0"), 16, Some("Connection: close"), LOAD_CORE)
    })?;
    let seconds = context.seconds.to_string();
    context.measure(results, "mtls-tcp-new", &slots, |slot| {
        load::tool(&["crr", &on_loopback(slot.port + 2), "32", &seconds])
    })?;
    context
        .measure(results, "mtls-bulk", &slots, |slot| load::tool(&["bulk", &on_loopback(slot.port + 1), "1", &seconds]))
}

fn resources() -> Vec<String> {
    vec![weir::MTLS.to_owned(), weir::EVERYONE.to_owned(), server()]
}

fn server() -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: server-1\nnetworking:\n  address: 127.0.0.3\n  inbound:\n  \
         - {{port: 18011, servicePort: {HTTP}, serviceAddress: 127.0.0.1, \
         tags: {{kuma.io/service: web, kuma.io/protocol: http}}}}\n  \
         - {{port: 18012, servicePort: {SINK}, serviceAddress: 127.0.0.1, \
         tags: {{kuma.io/service: sink, kuma.io/protocol: tcp}}}}\n  \
         - {{port: 18013, servicePort: {ECHO}, serviceAddress: 127.0.0.1, \
         tags: {{kuma.io/service: echo, kuma.io/protocol: tcp}}}}\n"
    )
}

fn client(port: u16) -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: client-1\nnetworking:\n  address: 127.0.0.2\n  inbound:\n  \
         - {{port: 18021, servicePort: 18022, tags: {{kuma.io/service: client, kuma.io/protocol: tcp}}}}\n  outbound:\n  \
         - {{port: {port}, address: 127.0.0.1, tags: {{kuma.io/service: web}}}}\n  \
         - {{port: {}, address: 127.0.0.1, tags: {{kuma.io/service: sink}}}}\n  \
         - {{port: {}, address: 127.0.0.1, tags: {{kuma.io/service: echo}}}}\n",
        port + 1,
        port + 2
    )
}

/// HTTP/2 between the two for HTTP and for short connections, plain TLS for bulk: each what Envoy is best at.
fn envoy_pair(context: &Context, port: u16) -> Res<Slot> {
    let certificates = &context.certificates;
    let http = || envoy::http(envoy::hosts(1, "http"), "http");
    let inner = port + 10;
    let server = super::envoy(
        context,
        inner,
        vec![
            envoy::listener(inner, http(), Some(envoy::tls(certificates, true))),
            envoy::listener(inner + 1, envoy::tcp_proxy("sink", "tcp"), Some(envoy::tls(certificates, true))),
            envoy::listener(inner + 2, envoy::http2_to_tcp("echo", "tcp"), Some(envoy::tls(certificates, true))),
        ],
        vec![envoy::cluster("http", HTTP), envoy::cluster("sink", SINK), envoy::cluster("echo", ECHO)],
    )?;
    let over_http2 = |name, port| envoy::over_http2(envoy::cluster(name, port));
    let mut client = super::envoy(
        context,
        port,
        vec![
            envoy::listener(port, http(), None),
            envoy::listener(port + 1, envoy::tcp_proxy("sink", "tcp"), None),
            envoy::listener(port + 2, envoy::tcp_over_http2("echo", "tcp"), None),
        ],
        vec![
            envoy::over_mtls(over_http2("http", inner), certificates, "h2"),
            envoy::over_mtls(over_http2("echo", inner + 2), certificates, "h2"),
            envoy::over_mtls(envoy::cluster("sink", inner + 1), certificates, "mesh"),
        ],
    )?;
    client.running.extend(server.running);
    Ok(client)
}
