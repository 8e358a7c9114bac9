//! TLS passed through by its SNI, 1,000 names: a real hello, echoed back by the backend, then close.

use super::{ECHO, add, backend, haproxy, nginx, on_loopback};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{self, Slot, envoy};
use crate::bench::report::Results;
use crate::bench::tool::client_hello;
use crate::bench::{Context, Res, load, write};
use std::path::Path;

pub(super) const JOBS: &[&str] = &["sni-crr"];
const NAMES: usize = 1_000;

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "echo", ECHO)?;
    let folder = context.folder("hellos")?;
    let (plain, mesh) = (folder.join("plain"), folder.join("mesh"));
    hellos(&plain, |name| format!("h{name}.mesh"))?;
    hellos(&mesh, |name| format!("h{name}{{mesh=default}}"))?;
    let mut control_plane = None;
    let mut slots = Vec::new();
    add(context, &mut slots, "weir", || {
        let mut resources = vec![weir::MTLS.to_owned(), weir::EVERYONE.to_owned()];
        resources.extend((0..NAMES).map(|name| weir::workload(&format!("h{name}"), ECHO, "tcp")));
        let cp = control_plane.insert(ControlPlane::start(context, &resources)?);
        let ingress = "type: ZoneIngress\nname: ingress\nnetworking: {address: 127.0.0.1, port: 18000, \
             advertisedAddress: 127.0.0.1, advertisedPort: 18000}\n";
        let arguments = ["--interception", "off", "--proxy-type=ingress"];
        let proxy = Proxy { name: "ingress", resource: ingress, admin: 18_090, arguments: &arguments };
        Ok(Slot { name: "weir", port: 18_000, running: vec![cp.proxy(&proxy)?] })
    });
    add(context, &mut slots, "envoy", || {
        super::envoy(context, 18_200, vec![envoy::sni(18_200, NAMES, "be")], vec![envoy::cluster("be", ECHO)])
    });
    add(context, &mut slots, "nginx", || {
        nginx(context, 18_400, |folder| peers::nginx::sni(folder, 18_400, ECHO, NAMES))
    });
    add(context, &mut slots, "haproxy", || {
        let config = |map: &str| peers::haproxy::sni(18_600, ECHO, NAMES, map);
        haproxy(context, 18_600, &peers::haproxy::sni_map(NAMES), config)
    });
    let seconds = context.seconds.to_string();
    context.measure(results, "sni-crr", &slots, |slot| {
        let file = if slot.name == "weir" { &mesh } else { &plain };
        load::tool(&["crr", &on_loopback(slot.port), "32", &seconds, &file.display().to_string()])
    })
}

/// One hello for each name. The mesh's names aren't DNS names, so they are written over one of the same length.
fn hellos(file: &Path, name: impl Fn(usize) -> String) -> Res<()> {
    let mut bytes = Vec::new();
    for number in 0..NAMES {
        let wanted = name(number);
        let stand_in = format!("{}.mesh", "x".repeat(wanted.len().saturating_sub(5)));
        let mut hello = client_hello(&stand_in)?;
        let at = hello.windows(stand_in.len()).position(|window| window == stand_in.as_bytes());
        let place = at.and_then(|at| hello.get_mut(at..at + wanted.len())).ok_or("a hello without its SNI")?;
        place.copy_from_slice(wanted.as_bytes());
        bytes.extend_from_slice(&u32::try_from(hello.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&hello);
    }
    write(file, bytes)
}
