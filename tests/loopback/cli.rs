//! The commands by Kuma's names against a control plane: what they do, what they print, and how they end.

use std::path::PathBuf;
use std::process::Output;

use harness::eventually;

use crate::ground::{ControlPlane, Ground, LONG, WEIR, stderr, stdout};

struct Desk {
    ground: Ground,
    cp: ControlPlane,
    bin: PathBuf,
}

impl Desk {
    /// A control plane, the symlinks, and kumactl configured to talk to it.
    fn new() -> Self {
        let ground = Ground::new();
        let cp = ground.cp();
        let bin = ground.path("bin");
        let linked = ground.weir(&["links", bin.to_str().unwrap()]);
        assert!(linked.status.success(), "{}", stderr(&linked));
        let desk = Self { ground, cp, bin };
        let url = format!("http://{}", desk.cp.api);
        let said = desk.ok(&["config", "control-planes", "add", "--name", "test", "--address", &url]);
        assert!(said.contains("added Control Plane \"test\""), "{said}");
        desk
    }

    fn kumactl(&self, arguments: &[&str]) -> Output {
        self.ground.command(self.bin.join("kumactl"), arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.kumactl(arguments);
        assert!(output.status.success(), "kumactl {arguments:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// What it says when it fails with this code.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.kumactl(arguments);
        assert_eq!(output.status.code(), Some(code), "kumactl {arguments:?}: {}", stderr(&output));
        stderr(&output)
    }
}

const SOME: &str = "
type: Dataplane
mesh: default
name: web-1
networking:
  address: 10.0.0.1
  inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: web}}]
---
apiVersion: kuma.io/v1alpha1
kind: VirtualOutbound
mesh: default
metadata: {name: default}
spec:
  selectors: [{match: {kuma.io/service: '*'}}]
  conf:
    host: '{{.service}}.mesh'
    port: '80'
    parameters: [{name: service, tagKey: kuma.io/service}]
---
type: ZoneEgress
name: egress-1
networking: {address: 10.0.0.9, port: 10002}
";

#[test]
fn resources_are_applied_shown_inspected_and_deleted() {
    let desk = Desk::new();
    let file = desk.ground.write("some.yaml", SOME);
    let file = file.to_str().unwrap();
    let said = desk.ok(&["apply", "-f", file, "--dry-run"]);
    assert!(said.contains("web-1"), "{said}");
    assert!(!desk.ok(&["get", "dataplanes"]).contains("web-1"), "a dry run changes nothing");
    assert!(desk.ok(&["apply", "-f", file]).contains("created"));
    let again = desk.ok(&["apply", "-f", file]);
    assert!(!again.contains("created"), "{again}");
    let table = desk.ok(&["get", "dataplanes"]);
    let header = table.lines().next().unwrap_or_default();
    assert!(header.starts_with("MESH") && header.ends_with("AGE"), "{table}");
    assert!(table.contains("web-1") && table.contains("kuma.io/service=web"), "{table}");
    let yaml = desk.ok(&["get", "virtual-outbound", "default", "-o", "yaml"]);
    assert!(yaml.contains("{{.service}}.mesh"), "{yaml}");
    let json = desk.ok(&["get", "dataplane", "web-1", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.pointer("/networking/address").and_then(|a| a.as_str()), Some("10.0.0.1"));
    assert!(desk.ok(&["get", "meshes"]).contains("default"));
    let inspected = desk.ok(&["inspect", "dataplanes"]);
    assert!(inspected.contains("web-1") && inspected.contains("Offline"), "{inspected}");
    assert!(desk.ok(&["inspect", "zoneegresses"]).contains("egress-1"));
    assert!(desk.ok(&["inspect", "meshes"]).contains("default   0/1          1"));
    assert!(desk.ok(&["inspect", "services"]).contains("web       Offline   0/1"));
    let tables = desk.ok(&["inspect", "dataplane", "web-1", "--type", "config-dump"]);
    assert!(tables.contains("10.0.0.1:80"), "{tables}");
    let names = desk.ok(&["inspect", "names"]);
    assert!(names.lines().any(|line| line.starts_with("web.mesh   80      127.")), "{names}");
    assert!(desk.ok(&["inspect", "names", "Web.Mesh."]).contains("VirtualOutbound default/default"));
    assert!(desk.fails(1, &["inspect", "names", "nobody.mesh"]).contains("has no name nobody.mesh"));
    desk.ok(&["delete", "dataplane", "web-1", "-m", "default"]);
    assert!(!desk.ok(&["get", "dataplanes"]).contains("web-1"));
    desk.ok(&["delete", "zoneegress", "egress-1"]);
}

#[test]
fn proxies_of_up_are_shown_online() {
    let ground = Ground::new();
    let web = SOME.split("---").next().unwrap().replace("10.0.0.1", "NET.1");
    let mesh = ground.up(&format!("type: Mesh\nname: default\n---{web}"));
    let url = format!("http://{}", mesh.api);
    let weir = |arguments: &[&str]| stdout(&ground.weir(arguments));
    weir(&["config", "control-planes", "add", "--name", "test", "--address", &url]);
    let shown = eventually("web-1 being online", LONG, || {
        Some(weir(&["inspect", "dataplanes"])).filter(|shown| shown.contains("Online"))
    });
    assert!(shown.contains("web-1"), "{shown}");
}

#[test]
fn what_was_read_can_be_applied_again() {
    let desk = Desk::new();
    let file = desk.ground.write("some.yaml", SOME);
    desk.ok(&["apply", "-f", file.to_str().unwrap()]);
    let shown = desk.ok(&["get", "dataplane", "web-1", "-o", "yaml"]);
    let shown = desk.ground.write("shown.yaml", &shown);
    let said = desk.ok(&["apply", "-f", shown.to_str().unwrap()]);
    assert!(!said.contains("created"), "{said}");
}

#[test]
fn tokens_are_three_parts_and_nothing_else_on_stdout() {
    let desk = Desk::new();
    for arguments in [
        &["generate", "dataplane-token", "--name", "web-1", "--mesh", "default", "--valid-for", "720h"][..],
        &["generate", "zone-token", "--valid-for", "720h", "--scope", "egress"],
        &["generate", "user-token", "--name", "ci", "--group", "mesh-system:admin", "--valid-for", "24h"],
    ] {
        let token = desk.ok(arguments);
        assert_eq!(token.trim_end().split('.').count(), 3, "{arguments:?}: {token}");
        assert!(!token.trim_end().contains(char::is_whitespace), "{arguments:?}: {token}");
    }
}

#[test]
fn a_refusal_is_shown_with_its_fields() {
    let desk = Desk::new();
    let file = desk.ground.write("bad.yaml", &SOME.replace("port: 80,", "port: 99999,"));
    let said = desk.fails(1, &["apply", "-f", file.to_str().unwrap()]);
    assert!(said.starts_with("Error: "), "{said}");
    assert!(said.contains("networking.inbound[0].port") && said.contains("bad.yaml:"), "{said}");
    assert!(said.contains("[1, 65535]"), "{said}");
    // Only the control plane knows which meshes there are.
    let file = desk.ground.write("bad.yaml", &SOME.replace("mesh: default", "mesh: nowhere"));
    let said = desk.fails(1, &["apply", "-f", file.to_str().unwrap()]);
    assert!(said.contains("nowhere") && said.contains("web-1"), "{said}");
}

#[test]
fn commands_end_with_the_codes_of_the_contract() {
    let desk = Desk::new();
    desk.fails(1, &["get", "dataplane", "nobody"]);
    desk.fails(1, &["delete", "dataplane", "nobody"]);
    desk.fails(2, &["get"]);
    desk.fails(2, &["apply"]);
    desk.fails(2, &["get", "meshes", "--nonsense"]);
    desk.fails(2, &["generate", "zone-token", "--scope", "moon"]);
    let unknown = desk.kumactl(&["get", "dataplains"]);
    assert!(!unknown.status.success());
    assert!(stderr(&unknown).contains("dataplanes"), "a slip of the pen gets a suggestion: {}", stderr(&unknown));
    // Nobody listens on a port that was free a moment ago.
    let nobody = format!("http://{}", harness::free_address(std::net::Ipv4Addr::LOCALHOST.into()));
    desk.ok(&["config", "control-planes", "add", "--name", "gone", "--address", &nobody, "--skip-check"]);
    assert!(desk.fails(1, &["get", "meshes"]).contains(&nobody[7..]));
    let ground = &desk.ground;
    for (code, arguments) in [
        (0, &["version"][..]),
        (0, &["--help"]),
        (2, &["nonsense"]),
        (64, &["up", "-f", "/nonexistent.yaml"]),
        (64, &["dp", "run"]),
        (64, &["dp", "run", "--proxy-type", "moon", "--name", "a", "--mesh", "default"]),
        (2, &["dp", "run", "--name", "a", "--mesh", "default", "--interception", "magic"]),
    ] {
        let output = ground.command(WEIR, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "weir {arguments:?}: {}", stderr(&output));
    }
    let mut odd = ground.command(desk.bin.join("kuma-cp"), &["run"]);
    odd.env("KUMA_DP_SERVER_PORT", "many").env("WEIR_DATA_DIR", ground.path("odd"));
    let output = odd.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("KUMA_DP_SERVER_PORT"), "{}", stderr(&output));
}
