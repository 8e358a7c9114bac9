//! A change of one resource among many: until traffic sees it, and what running traffic notices. Values are milliseconds,
//! and the p99 under changes divided by the quiet one.

use super::memory::{ROUTES, routed_gateway};
use super::vip::{self, Redirect, VIPS};
use super::{HTTP, backend, start_envoy};
use crate::bench::load::{Outcome, Wrk, wrk_command, wrk_outcome};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{self, PREFIXES, envoy};
use crate::bench::process::LOAD_CORE;
use crate::bench::report::{Results, Sample};
use crate::bench::{Context, Res, probe, say, write};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(super) const JOBS: &[&str] = &["update-vip", "update-route", "update-p99"];
const SEEN_MAX: Duration = Duration::from_secs(30);
const CHANGES: usize = 5;
const HOST: usize = 777;

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "http", HTTP)?;
    let groups: [(&str, super::Group); 4] =
        [("weir", weir_vip), ("envoy", envoy_vip), ("weir", weir_route), ("envoy", envoy_route)];
    for ((peer, group), jobs) in groups.into_iter().zip([&JOBS[..1], &JOBS[..1], &JOBS[1..], &JOBS[1..]]) {
        if context.wants_peer(peer)
            && jobs.iter().any(|job| context.wants(job))
            && let Err(problem) = group(context, results)
        {
            say(&format!("{peer}, {}: {problem}", jobs.join(", ")));
        }
    }
    Ok(())
}

fn add(results: &mut Results, job: &'static str, peer: &str, value: f64) {
    results.add(Sample::new(job, peer, value, &Outcome::default()));
}

/// Milliseconds until `is_seen`.
fn timed(change: impl FnOnce() -> Res<()>, is_seen: impl FnMut() -> bool) -> Res<f64> {
    let began = Instant::now();
    change()?;
    if !probe::until(SEEN_MAX, is_seen) {
        return Err(format!("traffic doesn't see the change after {SEEN_MAX:?}"));
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn answers(address: SocketAddr) -> bool {
    probe::get(address, "x", "/").is_some_and(|text| text.starts_with("HTTP/1.1 200"))
}

fn weir_vip(context: &Context, results: &mut Results) -> Res<()> {
    let cp = vip::mesh(context, "http", HTTP)?;
    let _sidecar = vip::sidecar(&cp, "tproxy")?;
    for number in VIPS..VIPS + CHANGES {
        let name = format!("svc{number}.mesh");
        let resource = json!({"type": "Dataplane", "mesh": "default", "name": format!("svc{number}-1"),
            "networking": {"address": "127.0.0.1", "inbound": [{"port": HTTP,
                "tags": {"kuma.io/service": format!("svc{number}"), "kuma.io/protocol": "http"}}]}});
        let path = format!("/meshes/default/dataplanes/svc{number}-1");
        let change = || probe::put(weir::API, &path, &resource.to_string());
        let seen = || probe::resolve(18_190, &name).is_some_and(|ip| answers(SocketAddr::from((ip, 80))));
        add(results, "update-vip", "weir", timed(change, seen)?);
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn envoy_vip(context: &Context, results: &mut Results) -> Res<()> {
    let _redirect = Redirect::set()?;
    let (_running, folder) = vip::redirected_envoy(context, "http", HTTP)?;
    for number in VIPS..VIPS + CHANGES {
        let next = prepared(&folder.join("lds.json"), &vip::listeners("http", number + 1).to_string())?;
        let change = || rename(&next, &folder.join("lds.json"));
        let seen = || answers(SocketAddr::from((peers::vip(number), 80)));
        add(results, "update-vip", "envoy", timed(change, seen)?);
    }
    Ok(())
}

/// A rename is what Envoy watches for; the file is written before the clock starts.
fn prepared(file: &Path, text: &str) -> Res<PathBuf> {
    let next = file.with_extension("next");
    write(&next, text)?;
    Ok(next)
}

fn rename(from: &Path, to: &Path) -> Res<()> {
    std::fs::rename(from, to).map_err(|error| format!("{}: {error}", to.display()))
}

/// The route that changes, with a header that says which change is in force.
fn weir_revision(revision: usize) -> String {
    let rule = |prefix: usize| {
        json!({"matches": [{"path": {"match": "PREFIX", "value": format!("/p{prefix}")}}],
            "filters": [{"responseHeader": {"set": [{"name": "x-rev", "value": revision.to_string()}]}}],
            "backends": [{"destination": {"kuma.io/service": "backend"}, "weight": 1}]})
    };
    let rules: Vec<Value> = (0..PREFIXES).map(rule).collect();
    let selectors = json!([{"match": {"kuma.io/service": "gw", "h": format!("h{HOST}")}}]);
    json!({"type": "MeshGatewayRoute", "mesh": "default", "name": format!("r{HOST}"), "selectors": selectors,
        "conf": {"http": {"rules": rules}}})
    .to_string()
}

fn sees(port: u16, revision: usize) -> bool {
    let answer = probe::get(SocketAddr::from(([127, 0, 0, 1], port)), &format!("h{HOST}.mesh"), "/p7");
    answer.is_some_and(|text| text.contains(&format!("x-rev: {revision}\r\n")))
}

fn weir_route(context: &Context, results: &mut Results) -> Res<()> {
    let cp = ControlPlane::start(context, &routed_gateway())?;
    let arguments = ["--interception", "off"];
    let _gateway = cp.proxy(&Proxy { name: "gw-1", resource: weir::GATEWAY, admin: 18_090, arguments: &arguments })?;
    let path = format!("/meshes/default/meshgatewayroutes/r{HOST}");
    changes(
        context,
        results,
        ("weir", 18_000),
        |revision| Ok(weir_revision(revision)),
        |body| probe::put(weir::API, &path, body),
    )
}

fn envoy_route(context: &Context, results: &mut Results) -> Res<()> {
    let folder = context.folder("envoy-route")?;
    let revisioned = |revision: usize| {
        let mut hosts = envoy::hosts(ROUTES, "be");
        for route in hosts[HOST]["routes"].as_array_mut().into_iter().flatten() {
            route["response_headers_to_add"] = json!([{"header": {"key": "x-rev", "value": revision.to_string()}}]);
        }
        let config = json!({"name": "routes", "virtual_hosts": hosts});
        envoy::resources("route.v3.RouteConfiguration", vec![config]).to_string()
    };
    let source = json!({"route_config_name": "routes",
        "config_source": {"path_config_source": {"path": folder.join("rds.json")}}});
    let listener = envoy::listener(18_200, envoy::http(source, "http"), None);
    write(&folder.join("rds.json"), revisioned(0))?;
    write(&folder.join("lds.json"), envoy::resources("listener.v3.Listener", vec![listener]).to_string())?;
    let clusters = vec![envoy::cluster("be", HTTP)];
    write(&folder.join("cds.json"), envoy::resources("cluster.v3.Cluster", clusters).to_string())?;
    let _running = start_envoy(context, &folder, &envoy::from_files(&folder, 18_290))?;
    if !probe::is_ready(18_290, SEEN_MAX) {
        return Err("Envoy is not ready".to_owned());
    }
    let file = folder.join("rds.json");
    let prepare = |revision| Ok(prepared(&file, &revisioned(revision))?.display().to_string());
    changes(context, results, ("envoy", 18_200), prepare, |next| rename(Path::new(next), &file))
}

/// Some changes one by one, then traffic without and with one a second. What `prepare` makes, `change` puts in force.
fn changes(
    context: &Context,
    results: &mut Results,
    (peer, port): (&str, u16),
    prepare: impl Fn(usize) -> Res<String>,
    change: impl Fn(&str) -> Res<()>,
) -> Res<()> {
    if context.wants("update-route") {
        for revision in 1..=CHANGES {
            let next = prepare(revision)?;
            add(results, "update-route", peer, timed(|| change(&next), || sees(port, revision))?);
            sleep(Duration::from_millis(300));
        }
    }
    if !context.wants("update-p99") {
        return Ok(());
    }
    for repeat in 0..context.repeats {
        let quiet = traffic(context, port, |_| Ok(()))?;
        let busy = traffic(context, port, |second| change(&prepare(100 + 50 * repeat + second)?))?;
        say(&format!("{peer}: p99 {:.0} µs quiet, {:.0} µs under updates", quiet.p99_us, busy.p99_us));
        add(results, "update-p99", peer, busy.p99_us / quiet.p99_us.max(1.0));
    }
    Ok(())
}

fn traffic(context: &Context, port: u16, each_second: impl Fn(usize) -> Res<()>) -> Res<Outcome> {
    let seconds = context.seconds.max(3);
    let url = super::http::url("http", port, "/p3");
    let header = Some("Host: h5.mesh");
    let wanted = Wrk { core: LOAD_CORE, connections: 32, seconds, url, header, script: None };
    let child = wrk_command(&wanted).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let child = child.map_err(|error| format!("wrk: {error}"))?;
    sleep(Duration::from_millis(500));
    for second in 0..usize::try_from(seconds).unwrap_or(1) - 1 {
        each_second(second)?;
        sleep(Duration::from_secs(1));
    }
    let output = child.wait_with_output().map_err(|error| format!("wrk: {error}"))?;
    wrk_outcome(&String::from_utf8_lossy(&output.stdout))
}
