//! The HTTP gateway: plain, with many routes, over TLS, HTTP/2, and handshakes.

use super::{HTTP, add, backend, bare, haproxy, nginx, on_loopback};
use crate::bench::load::{self, Outcome, Wrk};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{self, HOSTS, PREFIXES, Ports, Slot, envoy};
use crate::bench::process::{LOAD_CORE, PROXY_CORE};
use crate::bench::report::Results;
use crate::bench::{Context, Res, cpu, write};
use std::path::Path;

pub(super) const JOBS: &[&str] = &[
    "h1-1k",
    "h1-1k-routes",
    "h1-64k",
    "h1-close",
    "h1-c1",
    "h1tls-1k",
    "h2c-1k",
    "h2tls-1k",
    "h2c-64k",
    "tls-full",
    "tls-resumed",
];
const CONNECTIONS: usize = 64;
const CONNECTIONS_CLOSING: usize = 32;

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "http", HTTP)?;
    let (mut slots, _control_plane) = slots(context)?;
    let scripts = context.folder("wrk")?;
    let script = scripts.join("routes.lua");
    write(&script, every_route())?;
    let plain = |slot: &Slot, path: &str, connections, header, core| {
        wrk(context, &url("http", slot.port, path), connections, header, core)
    };
    let ports = |slot: &Slot| Ports::from(slot.port);
    context.measure(results, "h1-1k", &slots, |slot| plain(slot, "/p0", CONNECTIONS, None, LOAD_CORE))?;
    context.measure(results, "h1-1k-routes", &slots, |slot| routes(context, ports(slot).routes, &script))?;
    context.measure(results, "h1-64k", &slots, |slot| plain(slot, "/p0/64k", CONNECTIONS, None, LOAD_CORE))?;
    added_latency(context, results, "h1-c1", &slots)?;
    // It can only move bytes, and ends a connection at once.
    slots.retain(|slot| slot.name != "bare");
    let close = Some("Connection: close");
    context.measure(results, "h1-close", &slots, |slot| plain(slot, "/p0", CONNECTIONS_CLOSING, close, LOAD_CORE))?;
    context.measure(results, "h1tls-1k", &slots, |slot| {
        wrk(context, &url("https", ports(slot).tls, "/p0"), CONNECTIONS, None, LOAD_CORE)
    })?;
    let h2 = |scheme, port, path: &str| load::h2load(context, &url(scheme, port, path));
    context.measure(results, "h2c-1k", &slots, |slot| h2("http", ports(slot).http2, "/p0"))?;
    context.measure(results, "h2tls-1k", &slots, |slot| h2("https", ports(slot).tls, "/p0"))?;
    context.measure(results, "h2c-64k", &slots, |slot| h2("http", ports(slot).http2, "/p0/64k"))?;
    let seconds = context.seconds.to_string();
    let tls = |slot: &Slot, kind: &str| load::tool(&["tls", &on_loopback(ports(slot).tls), &seconds, kind, "h0.mesh"]);
    context.measure(results, "tls-full", &slots, |slot| tls(slot, "full"))?;
    context.measure(results, "tls-resumed", &slots, |slot| tls(slot, "resume"))
}

fn slots(context: &Context) -> Res<(Vec<Slot>, Option<ControlPlane>)> {
    let certificates = &context.certificates;
    let mut slots = Vec::new();
    let mut control_plane = None;
    add(context, &mut slots, "weir", || {
        let resources = weir::http_gateway(Ports::from(18_000), HTTP, &certificates.read("web.pem")?);
        let cp = control_plane.insert(ControlPlane::start(context, &resources)?);
        let off = ["--interception", "off"];
        let gateway = Proxy { name: "gw-1", resource: weir::GATEWAY, admin: 18_090, arguments: &off };
        Ok(Slot { name: "weir", port: 18_000, running: vec![cp.proxy(&gateway)?] })
    });
    add(context, &mut slots, "envoy", || {
        let ports = Ports::from(18_200);
        let http = |count| envoy::http(envoy::hosts(count, "be"), "http");
        let listeners = vec![
            envoy::listener(ports.http, http(1), None),
            envoy::listener(ports.http2, http(1), None),
            envoy::listener(ports.tls, http(1), Some(envoy::tls(certificates, false))),
            envoy::listener(ports.routes, http(HOSTS * PREFIXES), None),
        ];
        super::envoy(context, ports.http, listeners, vec![envoy::cluster("be", HTTP)])
    });
    add(context, &mut slots, "nginx", || {
        nginx(context, 18_400, |folder| peers::nginx::http(folder, Ports::from(18_400), HTTP, certificates))
    });
    add(context, &mut slots, "haproxy", || {
        let config = |map: &str| peers::haproxy::http(Ports::from(18_600), HTTP, certificates, map);
        haproxy(context, 18_600, &peers::haproxy::http_map(), config)
    });
    add(context, &mut slots, "bare", || {
        let ports = Ports::from(18_800);
        bare(context, ports.http, &[("copy", ports.http, HTTP), ("copy", ports.routes, HTTP)])
    });
    Ok((slots, control_plane))
}

pub(super) fn url(scheme: &str, port: u16, path: &str) -> String {
    format!("{scheme}://127.0.0.1:{port}{path}")
}

pub(super) fn wrk(context: &Context, url: &str, connections: usize, header: Option<&str>, core: usize) -> Res<Outcome> {
    load::wrk(&Wrk { core, connections, seconds: context.seconds, url: url.to_owned(), header, script: None })
}

fn routes(context: &Context, port: u16, script: &Path) -> Res<Outcome> {
    let url = url("http", port, "/");
    let seconds = context.seconds;
    load::wrk(&Wrk { core: LOAD_CORE, connections: CONNECTIONS, seconds, url, header: None, script: Some(script) })
}

/// One connection, with proxy, load and backend on the load's core, so that no wake-up crosses cores: what the proxy
/// adds to the median without it.
pub(super) fn added_latency(context: &Context, results: &mut Results, job: &'static str, slots: &[Slot]) -> Res<()> {
    if !context.wants(job) {
        return Ok(());
    }
    let one = |port: u16| wrk(context, &url("http", port, "/p0"), 1, None, LOAD_CORE);
    let direct = one(HTTP)?;
    context.measure_own(results, job, slots, |slot| {
        let pids = slot.family();
        cpu::pin(&pids, LOAD_CORE)?;
        let outcome = one(slot.port);
        cpu::pin(&pids, PROXY_CORE)?;
        let outcome = outcome?;
        Ok((outcome, Some(outcome.p50_us - direct.p50_us)))
    })
}

/// Asks for each of the thousand routes in an order without pattern.
fn every_route() -> String {
    let total = HOSTS * PREFIXES;
    format!(
        "local requests, at = {{}}, 0\nfunction init(args)\n  for i = 1, {total} do\n    \
         local j = (i * 7919) % {total}\n    local host, prefix = math.floor(j / {PREFIXES}), j % {PREFIXES}\n    \
         requests[i] = wrk.format('GET', '/p' .. prefix .. '/x', {{Host = 'h' .. host .. '.mesh'}})\n  end\nend\n\
         function request()\n  at = at + 1\n  if at > {total} then at = 1 end\n  return requests[at]\nend\n"
    )
}
