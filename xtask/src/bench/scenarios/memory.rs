//! Memory and the time until ready. Values are MiB of resident memory, and seconds.

use super::vip::{self, Redirect};
use super::{HTTP, backend};
use crate::bench::load::{self, Outcome};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{Ports, envoy, haproxy, nginx};
use crate::bench::process::{LOAD_CORE, PROXY_CORE, Running};
use crate::bench::report::{Results, Sample};
use crate::bench::{Context, Res, cpu, probe, say};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(super) const JOBS: &[&str] = &["memory-idle", "memory-conns", "memory-vips", "ready-routes", "ready-vips"];
const IDLE: usize = 9_000;
const SETTLE: Duration = Duration::from_secs(3);
const DIGEST: Duration = Duration::from_secs(1);
const READY_MAX: Duration = Duration::from_secs(60);
pub(super) const ROUTES: usize = 10_000;

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "http", HTTP)?;
    if context.wants("memory-idle") || context.wants("memory-conns") {
        for peer in ["weir", "envoy", "nginx", "haproxy"] {
            if context.wants_peer(peer) {
                report_problem(peer, connections(context, results, peer));
            }
        }
    }
    if context.wants("ready-routes") {
        report_problem("ready-routes", many_routes(context, results));
    }
    if context.wants("memory-vips") || context.wants("ready-vips") {
        report_problem("VIPs", many_vips(context, results));
    }
    Ok(())
}

fn report_problem(what: &str, done: Res<()>) {
    if let Err(problem) = done {
        say(&format!("{what}: {problem}"));
    }
}

fn add(results: &mut Results, job: &'static str, peer: &str, value: f64) {
    results.add(Sample::new(job, peer, value, &Outcome::default()));
}

/// A gateway with one route: nothing to do, then with idle connections.
fn connections(context: &Context, results: &mut Results, peer: &str) -> Res<()> {
    let mut control_plane = None;
    let (running, port) = one_route(context, peer, &mut control_plane)?;
    sleep(SETTLE);
    if context.wants("memory-idle") {
        add(results, "memory-idle", peer, cpu::resident_mib(&running.family()));
    }
    if context.wants("memory-conns") {
        let mut command = load::tool_command(LOAD_CORE)?;
        command.args(["idle", &super::on_loopback(port), &IDLE.to_string(), "h0.mesh"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("idle connections: {error}"))?;
        let held = child.stdout.take().and_then(|out| BufReader::new(out).lines().next());
        sleep(SETTLE);
        let memory = cpu::resident_mib(&running.family());
        drop(child.stdin.take());
        let _ended = child.wait();
        if held.is_none() {
            return Err(format!("{IDLE} connections were not accepted"));
        }
        add(results, "memory-conns", peer, memory);
    }
    Ok(())
}

fn one_route(context: &Context, peer: &str, control_plane: &mut Option<ControlPlane>) -> Res<(Running, u16)> {
    let certificates = &context.certificates;
    let of = |slot: crate::bench::peers::Slot| {
        let port = slot.port;
        slot.running.into_iter().next().map(|running| (running, port)).ok_or_else(|| "nothing runs".to_owned())
    };
    match peer {
        "weir" => {
            let mut resources = vec![weir::MESH.to_owned(), weir::workload("backend", HTTP, "http")];
            resources.extend([weir::GATEWAY.to_owned(), weir::route("one", "l: one", &["/".to_owned()], "")]);
            resources.push(
                "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{match: {kuma.io/service: gw}}]\nconf:\n  \
                 listeners: [{port: 18000, protocol: HTTP, tags: {l: one}}]\n"
                    .to_owned(),
            );
            let cp = control_plane.insert(ControlPlane::start(context, &resources)?);
            Ok((cp.proxy(&gateway(&["--interception", "off"]))?, 18_000))
        }
        "envoy" => {
            let listener = envoy::listener(18_200, envoy::http(envoy::hosts(1, "be"), "http"), None);
            of(super::envoy(context, 18_200, vec![listener], vec![envoy::cluster("be", HTTP)])?)
        }
        "nginx" => {
            of(super::nginx(context, 18_400, |folder| nginx::http(folder, Ports::from(18_400), HTTP, certificates))?)
        }
        _ => of(super::haproxy(context, 18_600, &haproxy::http_map(), |map| {
            haproxy::http(Ports::from(18_600), HTTP, certificates, map)
        })?),
    }
}

fn gateway<'a>(arguments: &'a [&'a str]) -> Proxy<'a> {
    Proxy { name: "gw-1", resource: weir::GATEWAY, admin: 18_090, arguments }
}

/// A gateway of 10,000 routes, and how long each start of it takes.
fn many_routes(context: &Context, results: &mut Results) -> Res<()> {
    if context.wants_peer("weir") {
        let cp = ControlPlane::start(context, &routed_gateway())?;
        let off = ["--interception", "off"];
        // It has the resources already, and isn't busy with taking them.
        sleep(DIGEST);
        for _ in 0..context.repeats {
            let seconds = until_ready(18_090, || cp.launch(&gateway(&off)))?.0;
            add(results, "ready-routes", "weir", seconds);
        }
    }
    if context.wants_peer("envoy") {
        let listener = envoy::listener(18_200, envoy::http(envoy::hosts(ROUTES, "be"), "http"), None);
        let bootstrap = envoy::bootstrap(vec![listener], vec![envoy::cluster("be", HTTP)], 18_290);
        let folder = context.folder("envoy-routes")?;
        for _ in 0..context.repeats {
            let seconds = until_ready(18_290, || super::start_envoy(context, &folder, &bootstrap))?.0;
            add(results, "ready-routes", "envoy", seconds);
        }
    }
    Ok(())
}

/// Resources of a gateway with 1,000 hosts of ten prefixes each.
pub(super) fn routed_gateway() -> Vec<String> {
    let hosts = ROUTES / crate::bench::peers::PREFIXES;
    let mut resources = vec![weir::MESH.to_owned(), weir::workload("backend", HTTP, "http"), weir::GATEWAY.to_owned()];
    let head = "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{match: {kuma.io/service: gw}}]\nconf:\n  \
         listeners:\n";
    resources.push(head.to_owned() + &weir::host_listeners(18_000, hosts));
    resources.extend((0..hosts).map(weir::host_route));
    resources
}

fn until_ready(admin: u16, start: impl FnOnce() -> Res<Running>) -> Res<(f64, Running)> {
    let began = Instant::now();
    let running = start()?;
    if !probe::is_ready(admin, READY_MAX) {
        return Err(format!("not ready after {READY_MAX:?}"));
    }
    Ok((began.elapsed().as_secs_f64(), running))
}

/// A sidecar that serves 5,000 HTTP VIPs.
fn many_vips(context: &Context, results: &mut Results) -> Res<()> {
    if context.wants_peer("weir") {
        let cp = vip::mesh(context, "http", HTTP)?;
        let resource = weir::sidecar();
        sleep(DIGEST);
        for _ in 0..context.repeats {
            let arguments = ["--interception", "tproxy"];
            let proxy = Proxy { name: "web-1", resource: &resource, admin: 18_090, arguments: &arguments };
            let (seconds, running) = until_ready(18_090, || cp.launch(&proxy))?;
            sleep(SETTLE);
            add(results, "ready-vips", "weir", seconds);
            add(results, "memory-vips", "weir", cpu::resident_mib(&running.family()));
        }
    }
    if context.wants_peer("envoy") {
        let _redirect = Redirect::set()?;
        let began = Instant::now();
        let (running, _) = vip::redirected_envoy(context, "http", HTTP)?;
        add(results, "ready-vips", "envoy", began.elapsed().as_secs_f64());
        sleep(SETTLE);
        let family = running.family();
        cpu::pin(&family, PROXY_CORE)?;
        add(results, "memory-vips", "envoy", cpu::resident_mib(&family));
    }
    Ok(())
}
