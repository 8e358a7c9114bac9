//! A control plane with many sidecars: what it does for each of them, and what each costs it. Values are of the control
//! plane alone; nobody else's is measured, and no traffic flows.

use super::HTTP;
use crate::bench::load::Outcome;
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::process::Running;
use crate::bench::report::{Results, Sample};
use crate::bench::{Context, Res, cpu, probe};
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(super) const JOBS: &[&str] = &["mesh-connect", "mesh-memory", "mesh-endpoint", "mesh-service"];
const SERVICES: usize = 1000;
const SIDECARS: u16 = 100;
/// Admin ports; DNS is 100 above, behind the last of them.
const ADMIN: u16 = 20_000;
const READY_MAX: Duration = Duration::from_secs(60);
const CHANGES: usize = 5;
/// After so long without work everybody has heard of a change.
const QUIET: Duration = Duration::from_millis(400);
const SETTLE_MAX: Duration = Duration::from_secs(20);

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    if !context.wants_peer("weir") {
        return Ok(());
    }
    let mut resources = vec![weir::MESH.to_owned()];
    resources.extend((0..SERVICES).map(|number| weir::workload(&format!("svc{number}"), HTTP, "http")));
    let cp = ControlPlane::start(context, &resources)?;
    let each = f64::from(SIDECARS);
    let mut add = |job, value: f64| {
        if context.wants(job) {
            results.add(Sample::new(job, "weir", value / each, &Outcome::default()));
        }
    };
    let family = cp.family();
    let (ms, memory) = (settled(&family), cpu::resident_mib(&family));
    let sidecars = connected(&cp)?;
    add("mesh-connect", settled(&family) - ms);
    add("mesh-memory", cpu::resident_mib(&family) - memory);
    for number in 0..CHANGES {
        let moved = changed(&family, "svc500", 18_100 + number)?;
        add("mesh-endpoint", moved * 1000.0);
        let new = changed(&family, &format!("new{number}"), usize::from(HTTP))?;
        add("mesh-service", new * 1000.0);
    }
    sidecars.iter().for_each(Running::terminate);
    Ok(())
}

fn connected(cp: &ControlPlane) -> Res<Vec<Running>> {
    let mut all = Vec::new();
    for number in 0..SIDECARS {
        let name = format!("web-{number}");
        let resource = format!(
            "type: Dataplane\nmesh: default\nname: {name}\nnetworking:\n  address: 127.0.1.{}\n  inbound:\n  \
             - {{port: 18080, servicePort: 18081, tags: {{kuma.io/service: web, kuma.io/protocol: http}}}}\n  \
             transparentProxying: {{redirectPortInbound: 15006, redirectPortOutbound: 15001}}\n",
            number + 1
        );
        let arguments = ["--interception", "off"];
        all.push(cp.launch(&Proxy {
            name: &name,
            resource: &resource,
            admin: ADMIN + number,
            arguments: &arguments,
        })?);
    }
    match (0..SIDECARS).find(|number| !probe::is_ready(ADMIN + number, READY_MAX)) {
        Some(number) => Err(format!("sidecar web-{number} is not ready after {READY_MAX:?}")),
        None => Ok(all),
    }
}

/// Milliseconds on a CPU that follow from a Dataplane at `port`.
fn changed(family: &[u32], service: &str, port: usize) -> Res<f64> {
    let resource = json!({"type": "Dataplane", "mesh": "default", "name": format!("{service}-1"),
        "networking": {"address": "127.0.0.1", "inbound": [{"port": port,
            "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"}}]}});
    let before = settled(family);
    probe::put(weir::API, &format!("/meshes/default/dataplanes/{service}-1"), &resource.to_string())?;
    Ok(settled(family) - before)
}

/// Milliseconds on a CPU so far, when there is nothing to do any more.
fn settled(family: &[u32]) -> f64 {
    let began = Instant::now();
    let mut last = cpu::milliseconds(family);
    loop {
        sleep(QUIET);
        let now = cpu::milliseconds(family);
        if now <= last || began.elapsed() > SETTLE_MAX {
            return now;
        }
        last = now;
    }
}
