//! What is measured: each file starts the peers of some jobs once and runs their loads in turn. A group that fails says
//! why and the others go on.

mod dns;
mod http;
mod http2_upstream;
mod memory;
mod mesh;
mod mtls;
mod sni;
mod tcp;
mod update;
mod vip;

use super::peers::{self, Slot, envoy};
use super::process::{LOAD_CORE, PROXY_CORE, Running, on_core};
use super::report::Results;
use super::{Context, Res, load, say, write};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Backends on loopback.
pub(super) const HTTP: u16 = 19_001;
pub(super) const ECHO: u16 = 19_002;
pub(super) const SINK: u16 = 19_003;
pub(super) const HTTP2: u16 = 19_004;
const START_MAX: Duration = Duration::from_secs(60);

type Group = fn(&Context, &mut Results) -> Res<()>;
const GROUPS: [(&[&str], Group); 10] = [
    (http::JOBS, http::run),
    (http2_upstream::JOBS, http2_upstream::run),
    (mtls::JOBS, mtls::run),
    (tcp::JOBS, tcp::run),
    (vip::JOBS, vip::run),
    (sni::JOBS, sni::run),
    (dns::JOBS, dns::run),
    (memory::JOBS, memory::run),
    (update::JOBS, update::run),
    (mesh::JOBS, mesh::run),
];

pub(super) fn run_all(context: &Context) -> Results {
    let mut results = Results::default();
    for (jobs, group) in GROUPS {
        if !jobs.iter().any(|job| context.wants(job)) {
            continue;
        }
        if context.is_late() {
            say(&format!("no time left for {}", jobs.join(", ")));
        } else if let Err(problem) = group(context, &mut results) {
            say(&problem);
        }
    }
    results
}

fn backend(context: &Context, kind: &str, port: u16) -> Res<Running> {
    let mut command = load::tool_command(LOAD_CORE)?;
    command.args([kind, &port.to_string()]);
    let mut running = Running::start(kind, command, &context.folder(kind)?.join("log"))?;
    running.listens(port, START_MAX)?;
    Ok(running)
}

/// Adds the slot, or says why it is left out.
fn add(context: &Context, slots: &mut Vec<Slot>, name: &'static str, start: impl FnOnce() -> Res<Slot>) {
    if !context.wants_peer(name) {
        return;
    }
    match start() {
        Ok(slot) => slots.push(slot),
        Err(problem) => say(&format!("{name} is left out: {problem}")),
    }
}

/// Envoy with that bootstrap, listening on `port` where it is a TCP port.
fn start_envoy(context: &Context, folder: &Path, bootstrap: &Value) -> Res<Running> {
    let file = folder.join("envoy.json");
    write(&file, bootstrap.to_string())?;
    let mut command = on_core(PROXY_CORE, context.program("envoy").unwrap_or_default());
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
    Running::start("envoy", command, &folder.join("envoy.log"))
}

/// The floor: what moving the bytes costs without a proxy's work. Each forwarder listens on its own port.
fn bare(context: &Context, port: u16, forwarders: &[(&str, u16, u16)]) -> Res<Slot> {
    let mut running = Vec::new();
    for (way, port, backend) in forwarders {
        let mut command = load::tool_command(PROXY_CORE)?;
        command.args([*way, &port.to_string(), &on_loopback(*backend)]);
        let mut forwarder = Running::start("bare", command, &context.folder(&format!("bare-{port}"))?.join("log"))?;
        forwarder.listens(*port, START_MAX)?;
        running.push(forwarder);
    }
    Ok(Slot { name: "bare", port, running })
}

fn envoy(context: &Context, port: u16, listeners: Vec<Value>, clusters: Vec<Value>) -> Res<Slot> {
    let folder = context.folder(&format!("envoy-{port}"))?;
    let mut running = start_envoy(context, &folder, &envoy::bootstrap(listeners, clusters, port + 90))?;
    running.listens(port + 90, START_MAX)?;
    if !super::probe::is_ready(port + 90, START_MAX) {
        return Err("Envoy is not ready".to_owned());
    }
    Ok(Slot { name: "envoy", port, running: vec![running] })
}

fn nginx(context: &Context, port: u16, config: impl FnOnce(&Path) -> String) -> Res<Slot> {
    let folder = context.folder("nginx")?;
    let file = folder.join("nginx.conf");
    let text = config(&folder);
    if text.starts_with("load_module") && !Path::new(peers::nginx::STREAM_MODULE).exists() {
        return Err(format!("{} is missing: apt-get install libnginx-mod-stream", peers::nginx::STREAM_MODULE));
    }
    write(&file, text)?;
    let mut command = on_core(PROXY_CORE, context.program("nginx").unwrap_or_default());
    command.arg("-c").arg(&file);
    let mut running = Running::start("nginx", command, &folder.join("log"))?;
    running.listens(port, START_MAX)?;
    Ok(Slot { name: "nginx", port, running: vec![running] })
}

/// `config` gets the path of the map file, whose content `map` is.
fn haproxy(context: &Context, port: u16, map: &str, config: impl FnOnce(&str) -> String) -> Res<Slot> {
    let folder = context.folder("haproxy")?;
    let (file, map_file) = (folder.join("haproxy.cfg"), folder.join("map"));
    write(&map_file, map)?;
    write(&file, config(&map_file.display().to_string()))?;
    let mut command = on_core(PROXY_CORE, context.program("haproxy").unwrap_or_default());
    command.args(["-db", "-f"]).arg(&file);
    let mut running = Running::start("haproxy", command, &folder.join("log"))?;
    running.listens(port, START_MAX)?;
    Ok(Slot { name: "haproxy", port, running: vec![running] })
}

fn on_loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
