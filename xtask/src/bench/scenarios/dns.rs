//! DNS: A records of a mesh of 1,000 and of 10,000 names.

use super::{add, on_loopback};
use crate::bench::load;
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{Slot, envoy, knot};
use crate::bench::process::{PROXY_CORE, Running, on_core};
use crate::bench::report::Results;
use crate::bench::{Context, Res, cpu, probe, write};
use std::time::Duration;

pub(super) const JOBS: &[&str] = &["dns-1000", "dns-10000"];
const START_MAX: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    for (job, names) in JOBS.iter().zip([1_000, 10_000]) {
        if !context.wants(job) {
            continue;
        }
        let mut control_plane = None;
        let mut slots = Vec::new();
        add(context, &mut slots, "weir", || {
            let mut resources = vec![weir::MESH.to_owned()];
            resources.extend((0..names).map(|name| weir::workload(&format!("svc{name}"), 19_001, "tcp")));
            let cp = control_plane.insert(ControlPlane::start(context, &resources)?);
            // Without interception a proxy answers no DNS; nothing is sent to the ports that this opens.
            let redirect = ["--interception", "redirect"];
            let sidecar = weir::sidecar();
            let proxy = Proxy { name: "web-1", resource: &sidecar, admin: 18_090, arguments: &redirect };
            let running = vec![cp.proxy(&proxy)?];
            answers(Slot { name: "weir", port: 18_190, running }, names)
        });
        add(context, &mut slots, "envoy", || {
            let slot = super::envoy(context, 18_200, vec![envoy::dns(18_200, names)], Vec::new())?;
            answers(slot, names)
        });
        add(context, &mut slots, "knot", || answers(start_knot(context, names)?, names));
        let (count, seconds) = (names.to_string(), context.seconds.to_string());
        context
            .measure(results, job, &slots, |slot| load::tool(&["dns", &on_loopback(slot.port), &count, &seconds]))?;
    }
    Ok(())
}

/// The slot once it knows the last name.
fn answers(slot: Slot, names: usize) -> Res<Slot> {
    let name = format!("svc{}.mesh", names - 1);
    if probe::until(START_MAX, || probe::resolve(slot.port, &name).is_some()) {
        return Ok(slot);
    }
    Err(format!("it doesn't know {name} after {START_MAX:?}"))
}

fn start_knot(context: &Context, names: usize) -> Res<Slot> {
    let folder = context.folder("knot")?;
    std::fs::create_dir_all(folder.join("db")).map_err(|error| format!("{}: {error}", folder.display()))?;
    write(&folder.join("mesh.zone"), knot::zone(names))?;
    write(&folder.join("knot.conf"), knot::config(&folder, 18_400))?;
    let mut command = on_core(PROXY_CORE, context.program("knot").unwrap_or_default());
    command.arg("-c").arg(folder.join("knot.conf"));
    let running = Running::start("knot", command, &folder.join("log"))?;
    let slot = answers(Slot { name: "knot", port: 18_400, running: vec![running] }, names)?;
    // It chooses cores itself.
    cpu::pin(&slot.family(), PROXY_CORE)?;
    Ok(slot)
}
