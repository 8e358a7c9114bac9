//! The gateway between HTTP/2 clients and an endpoint that speaks HTTP/2 (gRPC's way).

use super::http::url;
use super::{HTTP2, add, backend, haproxy};
use crate::bench::peers::weir::{self, ControlPlane, Proxy};
use crate::bench::peers::{self, Slot, envoy};
use crate::bench::report::Results;
use crate::bench::{Context, Res, load};

pub(super) const JOBS: &[&str] = &["h2up-1k"];

pub(super) fn run(context: &Context, results: &mut Results) -> Res<()> {
    let _backend = backend(context, "http2", HTTP2)?;
    let mut control_plane = None;
    let mut slots = Vec::new();
    add(context, &mut slots, "weir", || {
        let resources = weir::http2_gateway(18_000, HTTP2);
        let cp = control_plane.insert(ControlPlane::start(context, &resources)?);
        let off = ["--interception", "off"];
        let gateway = Proxy { name: "gw-1", resource: weir::GATEWAY, admin: 18_090, arguments: &off };
        Ok(Slot { name: "weir", port: 18_000, running: vec![cp.proxy(&gateway)?] })
    });
    add(context, &mut slots, "envoy", || {
        let listener = envoy::listener(18_200, envoy::http(envoy::hosts(1, "be"), "http"), None);
        let cluster = envoy::over_http2(envoy::cluster("be", HTTP2));
        super::envoy(context, 18_200, vec![listener], vec![cluster])
    });
    add(context, &mut slots, "haproxy", || haproxy(context, 18_600, "", |_| peers::haproxy::http2(18_600, HTTP2)));
    context.measure(results, "h2up-1k", &slots, |slot| load::h2load(context, &url("http", slot.port, "/")))
}
