//! New connections through one VIP of 5,000: weir's two ways of interception, Envoy behind iptables' REDIRECT. Each runs
//! alone: rules of one would cost the other, conntrack above all.

use super::{ECHO, add, backend, start_envoy};
use crate::bench::load::{self, Outcome};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{Slot, envoy, vip};
use crate::bench::process::Running;
use crate::bench::report::Results;
use crate::bench::{Context, Res, probe, run_quiet, write};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const JOBS: &[&str] = &["vip-bind", "vip-tproxy"];
pub(super) const VIPS: usize = 5_000;
const START_MAX: Duration = Duration::from_secs(60);
const ENVOY: u16 = 18_200;

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "echo", ECHO)?;
    for (job, mode) in JOBS.iter().zip(["bind", "tproxy"]) {
        if !context.wants(job) {
            continue;
        }
        let mut slots = Vec::new();
        let mut control_plane = None;
        let mut address = None;
        add(context, &mut slots, "weir", || {
            let cp = control_plane.insert(mesh(context, "tcp", ECHO)?);
            let running = vec![sidecar(cp, mode)?];
            address = Some(address_of(0)?);
            Ok(Slot { name: "weir", port: 0, running })
        });
        context.measure(results, job, &slots, |_| new_connections(context, address.unwrap_or(vip(0)), 80))?;
    }
    if !JOBS.iter().any(|job| context.wants(job)) {
        return Ok(());
    }
    let mut slots = Vec::new();
    add(context, &mut slots, "envoy", || {
        let (running, _) = redirected_envoy(context, "tcp", ECHO)?;
        Ok(Slot { name: "envoy", port: ENVOY, running: vec![running] })
    });
    let redirect = if slots.is_empty() { None } else { Some(Redirect::set()?) };
    for job in JOBS {
        context.measure(results, job, &slots, |_| new_connections(context, vip(3), 80))?;
    }
    drop(redirect);
    Ok(())
}

fn new_connections(context: &Context, address: Ipv4Addr, port: u16) -> Res<Outcome> {
    load::tool(&["crr", &format!("{address}:{port}"), "32", &context.seconds.to_string()])
}

/// A mesh of `VIPS` services, all of them the one backend.
pub(super) fn mesh(context: &Context, protocol: &str, backend: u16) -> Res<ControlPlane> {
    let mut resources = vec![weir::MESH.to_owned()];
    resources.extend((0..VIPS).map(|name| weir::workload(&format!("svc{name}"), backend, protocol)));
    ControlPlane::start(context, &resources)
}

pub(super) fn sidecar(cp: &ControlPlane, mode: &str) -> Res<Running> {
    let resource = weir::sidecar();
    let arguments = ["--interception", mode];
    cp.proxy(&Proxy { name: "web-1", resource: &resource, admin: 18_090, arguments: &arguments })
}

/// The VIP of the service with that number, asked of the sidecar.
pub(super) fn address_of(number: usize) -> Res<Ipv4Addr> {
    let name = format!("svc{number}.mesh");
    let mut found = None;
    probe::until(START_MAX, || {
        found = probe::resolve(18_190, &name);
        found.is_some()
    });
    found.ok_or(format!("weir gives {name} no VIP"))
}

/// Envoy with a listener for each VIP, of one cluster; its configuration is in the folder's files.
pub(super) fn redirected_envoy(context: &Context, protocol: &str, backend: u16) -> Res<(Running, PathBuf)> {
    let folder = context.folder("envoy-vips")?;
    let clusters = vec![json!({"name": "blackhole", "type": "STATIC"}), envoy::cluster("be", backend)];
    write(&folder.join("cds.json"), envoy::resources("cluster.v3.Cluster", clusters).to_string())?;
    write(&folder.join("lds.json"), listeners(protocol, VIPS).to_string())?;
    let running = start_envoy(context, &folder, &envoy::from_files(&folder, ENVOY + 90))?;
    if !probe::is_ready(ENVOY + 90, START_MAX) {
        return Err("Envoy is not ready".to_owned());
    }
    Ok((running, folder))
}

/// What its lds.json holds for VIPs with the numbers up to `count`.
pub(super) fn listeners(protocol: &str, count: usize) -> Value {
    let filter = |number: usize| match protocol {
        "http" => envoy::http(envoy::hosts(1, "be"), &format!("svc{number}")),
        _ => envoy::tcp_proxy("be", &format!("svc{number}")),
    };
    let mut all = vec![envoy::original_destination(ENVOY)];
    all.extend((0..count).map(|number| envoy::vip_listener(number, filter(number))));
    envoy::resources("listener.v3.Listener", all)
}

/// Connections to the VIPs of `peers::vip` go to Envoy while this lives.
pub(super) struct Redirect;

impl Redirect {
    pub(super) fn set() -> Res<Self> {
        run_quiet("ip", &["route", "replace", "local", "241.0.0.0/8", "dev", "lo"])?;
        let port = ENVOY.to_string();
        let rule =
            ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", "241.0.0.0/8", "-j", "REDIRECT", "--to-ports", &port];
        run_quiet("iptables", &rule)?;
        Ok(Self)
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        let _absent = run_quiet("iptables", &["-t", "nat", "-F", "OUTPUT"]);
        // The empty table would keep conntrack on.
        let _absent = run_quiet("nft", &["delete", "table", "ip", "nat"]);
    }
}
