//! TCP without TLS: bulk, ping-pong, short connections.

use super::{ECHO, SINK, add, backend, bare, haproxy, nginx, on_loopback};
use crate::bench::load;
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{self, Slot, envoy};
use crate::bench::report::Results;
use crate::bench::{Context, Res};

pub(super) const JOBS: &[&str] = &["tcp-bulk1", "tcp-bulk16", "tcp-rr64", "tcp-rr1", "tcp-crr"];

/// Echo on `base`, sink one above.
fn pairs(base: u16) -> [(u16, u16); 2] {
    [(base, ECHO), (base + 1, SINK)]
}

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backends = [backend(context, "echo", ECHO)?, backend(context, "sink", SINK)?];
    let mut control_plane = None;
    let mut slots = Vec::new();
    add(context, &mut slots, "weir", || {
        let cp = control_plane.insert(ControlPlane::start(context, &gateway(18_000))?);
        let off = ["--interception", "off"];
        let gateway = Proxy { name: "gw-1", resource: weir::GATEWAY, admin: 18_090, arguments: &off };
        Ok(Slot { name: "weir", port: 18_000, running: vec![cp.proxy(&gateway)?] })
    });
    add(context, &mut slots, "envoy", || {
        let one = |(port, to): (u16, u16)| {
            let name = format!("c{to}");
            (envoy::listener(port, envoy::tcp_proxy(&name, "tcp"), None), envoy::cluster(&name, to))
        };
        let (listeners, clusters) = pairs(18_200).map(one).into_iter().unzip();
        super::envoy(context, 18_200, listeners, clusters)
    });
    add(context, &mut slots, "nginx", || nginx(context, 18_400, |folder| peers::nginx::tcp(folder, &pairs(18_400))));
    add(context, &mut slots, "haproxy", || {
        let pairs = pairs(18_600).map(|(port, to)| (port, to, to == SINK));
        haproxy(context, 18_600, "", |_| peers::haproxy::tcp(&pairs))
    });
    add(context, &mut slots, "bare", || bare(context, 18_800, &[("copy", 18_800, ECHO), ("splice", 18_801, SINK)]));
    let seconds = context.seconds.to_string();
    let tool = |kind: &str, port: u16, count: &str| load::tool(&[kind, &on_loopback(port), count, &seconds]);
    context.measure(results, "tcp-bulk1", &slots, |slot| tool("bulk", slot.port + 1, "1"))?;
    context.measure(results, "tcp-bulk16", &slots, |slot| tool("bulk", slot.port + 1, "16"))?;
    context.measure(results, "tcp-rr64", &slots, |slot| tool("rr", slot.port, "64"))?;
    context.measure(results, "tcp-rr1", &slots, |slot| tool("rr", slot.port, "1"))?;
    context.measure(results, "tcp-crr", &slots, |slot| tool("crr", slot.port, "32"))
}

fn gateway(base: u16) -> Vec<String> {
    let mut listeners = "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{match: {kuma.io/service: gw}}]\n\
         conf:\n  listeners:\n"
        .to_owned();
    let mut all = vec![weir::MESH.to_owned(), weir::GATEWAY.to_owned()];
    for (port, to) in pairs(base) {
        listeners.push_str(&format!("  - {{port: {port}, protocol: TCP, tags: {{to: t{to}}}}}\n"));
        all.push(weir::workload(&format!("s{to}"), to, "tcp"));
        all.push(format!(
            "type: MeshGatewayRoute\nmesh: default\nname: t{to}\n\
             selectors: [{{match: {{kuma.io/service: gw, to: t{to}}}}}]\n\
             conf: {{tcp: {{rules: [{{backends: [{{destination: {{kuma.io/service: s{to}}}}}]}}]}}}}\n"
        ));
    }
    all.push(listeners);
    all
}
