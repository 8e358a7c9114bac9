//! weir's slot: a control plane on the load's core and proxies of one worker on theirs, from resources as a user writes
//! them. Knows weir's command line and nothing of a load.

use super::{HOSTS, PREFIXES, Ports};
use crate::bench::process::{LOAD_CORE, PROXY_CORE, Running, on_core};
use crate::bench::{Context, Res, probe, write};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where the control plane's REST API listens.
pub(crate) const API: u16 = 5681;
const START_MAX: Duration = Duration::from_secs(30);

pub(crate) const MESH: &str = "type: Mesh\nname: default\n";
pub(crate) const MTLS: &str = "type: Mesh\nname: default\n\
     mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}\n";
pub(crate) const EVERYONE: &str = "type: TrafficPermission\nmesh: default\nname: all\n\
     sources: [{match: {kuma.io/service: '*'}}]\ndestinations: [{match: {kuma.io/service: '*'}}]\n";
pub(crate) const GATEWAY: &str = "type: Dataplane\nmesh: default\nname: gw-1\nnetworking:\n  address: 127.0.0.1\n  \
     gateway: {type: BUILTIN, tags: {kuma.io/service: gw}}\n";

/// A control plane that has its resources.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    program: PathBuf,
    /// What proxies are started with.
    launcher: Vec<String>,
    /// Ends with this.
    running: Running,
}

/// One proxy to start.
pub(crate) struct Proxy<'a> {
    pub(crate) name: &'a str,
    pub(crate) resource: &'a str,
    /// Admin port; its DNS server is 100 above.
    pub(crate) admin: u16,
    pub(crate) arguments: &'a [&'a str],
}

impl ControlPlane {
    pub(crate) fn start(context: &Context, resources: &[String]) -> Res<Self> {
        let folder = context.folder("weir")?;
        let program = context.weir.clone();
        let mut command = on_core(LOAD_CORE, &program);
        command.args(["cp", "run"]).env("WEIR_DATA_DIR", folder.join("cp")).env("HOME", &folder);
        command.env("KUMA_STORE_TYPE", "memory").env("NO_COLOR", "1");
        command.env("KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "none").env("KUMA_DP_SERVER_AUTHN_ZONE_PROXY_TYPE", "none");
        let mut running = Running::start("weir cp run", command, &folder.join("cp.log"))?;
        running.listens(API, START_MAX)?;
        let made = Self { folder, program, launcher: context.launcher(), running };
        made.apply(resources)?;
        Ok(made)
    }

    pub(crate) fn family(&self) -> Vec<u32> {
        self.running.family()
    }

    fn apply(&self, resources: &[String]) -> Res<()> {
        let file = self.folder.join("resources.yaml");
        write(&file, resources.join("---\n"))?;
        let mut command = Command::new(&self.program);
        command.args(["apply", "--no-config", "-f"]).arg(&file).env("HOME", &self.folder);
        let output = command.output().map_err(|error| format!("weir apply: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("weir apply: {}", text.lines().take(5).collect::<Vec<_>>().join("\n")))
    }

    /// A proxy that is not waited for.
    pub(crate) fn launch(&self, proxy: &Proxy<'_>) -> Res<Running> {
        let file = self.folder.join(format!("{}.yaml", proxy.name));
        write(&file, proxy.resource)?;
        let data = self.folder.join(proxy.name);
        // Each start is a first start: there is no last good snapshot.
        let _absent = fs::remove_dir_all(&data);
        let (first, rest) =
            self.launcher.split_first().map_or((self.program.as_os_str(), &[][..]), |(a, b)| (a.as_ref(), b));
        let mut command = on_core(PROXY_CORE, first);
        command.args(rest);
        if !self.launcher.is_empty() {
            command.arg(&self.program);
        }
        command.args(["dp", "run", "--skip-verify", "--workers", "1", "--drain-time", "1s", "--dataplane-file"]);
        command.arg(file).arg("--data").arg(data).env("HOME", &self.folder).env("NO_COLOR", "1");
        command.args(["--admin-port", &proxy.admin.to_string()]);
        command.args(["--dns-coredns-port", &(proxy.admin + 100).to_string()]).args(proxy.arguments);
        Running::start("weir dp run", command, &self.folder.join(format!("{}.log", proxy.name)))
    }

    pub(crate) fn proxy(&self, proxy: &Proxy<'_>) -> Res<Running> {
        let running = self.launch(proxy)?;
        if probe::is_ready(proxy.admin, START_MAX) {
            return Ok(running);
        }
        let log = fs::read_to_string(self.folder.join(format!("{}.log", proxy.name))).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        Err(format!("weir's proxy {} is not ready after {START_MAX:?}: {}", proxy.name, last.join(" | ")))
    }
}

/// A workload that the harness itself runs on loopback.
pub(crate) fn workload(service: &str, port: u16, protocol: &str) -> String {
    format!(
        "type: Dataplane\nmesh: default\nname: {service}-1\nnetworking:\n  address: 127.0.0.1\n  inbound:\n  \
         - {{port: {port}, tags: {{kuma.io/service: {service}, kuma.io/protocol: {protocol}}}}}\n"
    )
}

/// A sidecar that captures nothing but VIPs.
pub(crate) fn sidecar() -> String {
    "type: Dataplane\nmesh: default\nname: web-1\nnetworking:\n  address: 127.0.0.1\n  inbound:\n  \
     - {port: 18080, servicePort: 18081, tags: {kuma.io/service: web, kuma.io/protocol: tcp}}\n  \
     transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}\n"
        .to_owned()
}

/// The HTTP gateway: one route on three ports, a thousand on the fourth.
pub(crate) fn http_gateway(ports: Ports, backend: u16, certificate: &str) -> Vec<String> {
    let data = base64(certificate.as_bytes());
    let mut listeners = format!(
        "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{{match: {{kuma.io/service: gw}}}}]\nconf:\n  \
         listeners:\n  - {{port: {}, protocol: HTTP, tags: {{l: one}}}}\n  \
         - {{port: {}, protocol: HTTP, tags: {{l: one}}}}\n  \
         - {{port: {}, protocol: HTTPS, tags: {{l: one}}, tls: {{mode: TERMINATE, certificates: [{{secret: web}}]}}}}\n",
        ports.http, ports.http2, ports.tls
    );
    listeners.push_str(&host_listeners(ports.routes, HOSTS));
    let mut all = vec![MESH.to_owned(), workload("backend", backend, "http"), GATEWAY.to_owned()];
    all.push(format!("type: Secret\nmesh: default\nname: web\ndata: {data}\n"));
    all.push(listeners);
    all.push(route("one", "l: one", &["/".to_owned()], ""));
    all.extend((0..HOSTS).map(host_route));
    all
}

/// A gateway with one route, to an endpoint that speaks HTTP/2.
pub(crate) fn http2_gateway(port: u16, backend: u16) -> Vec<String> {
    let listener = format!(
        "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{{match: {{kuma.io/service: gw}}}}]\nconf:\n  \
         listeners:\n  - {{port: {port}, protocol: HTTP, tags: {{l: one}}}}\n"
    );
    let one = route("one", "l: one", &["/".to_owned()], "");
    vec![MESH.to_owned(), workload("backend", backend, "http2"), GATEWAY.to_owned(), listener, one]
}

pub(crate) fn host_listeners(port: u16, count: usize) -> String {
    let line = |host| format!("  - {{port: {port}, protocol: HTTP, hostname: h{host}.mesh, tags: {{h: h{host}}}}}\n");
    (0..count).map(line).collect()
}

pub(crate) fn host_route(host: usize) -> String {
    let prefixes: Vec<String> = (0..PREFIXES).map(|prefix| format!("/p{prefix}")).collect();
    route(&format!("r{host}"), &format!("h: h{host}"), &prefixes, "")
}

/// A gateway's route to `backend`; `filters` is a line of YAML, or nothing.
pub(crate) fn route(name: &str, tag: &str, prefixes: &[String], filters: &str) -> String {
    let mut text = format!(
        "type: MeshGatewayRoute\nmesh: default\nname: {name}\n\
         selectors: [{{match: {{kuma.io/service: gw, {tag}}}}}]\nconf:\n  http:\n    rules:\n"
    );
    for prefix in prefixes {
        let _ok = writeln!(text, "    - matches: [{{path: {{match: PREFIX, value: {prefix}}}}}]");
        if !filters.is_empty() {
            let _ok = writeln!(text, "      {filters}");
        }
        text.push_str("      backends: [{destination: {kuma.io/service: backend}, weight: 1}]\n");
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS.get((bits & 63) as usize).copied().unwrap_or(b'='));
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let at = |index: usize| u32::from(piece.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        text.extend([digit(bits >> 18), digit(bits >> 12)]);
        text.push(if piece.len() > 1 { digit(bits >> 6) } else { '=' });
        text.push(if piece.len() > 2 { digit(bits) } else { '=' });
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads_as_rfc_4648_says() {
        assert_eq!(["f", "fo", "foo"].map(|text| super::base64(text.as_bytes())), ["Zg==", "Zm8=", "Zm9v"]);
    }
}
