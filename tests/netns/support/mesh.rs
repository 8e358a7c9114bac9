//! A mesh as its operator sets it up: `weir links`, `kuma-cp run`, `kumactl apply -f -`, `kumactl generate`, `kuma-dp run`.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::{Network, Node, Process, eventually};

/// Patience with a process or a change; a busy machine needs some.
pub(crate) const LONG: Duration = Duration::from_secs(40);
const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// mTLS, everything between zones through the egress.
pub(crate) const MESH: &str = "
type: Mesh
name: default
mtls:
  enabledBackend: ca-1
  backends:
  - name: ca-1
    type: builtin
routing:
  zoneEgress: true
";

pub(crate) const ALLOW_ALL: &str = "
type: TrafficPermission
mesh: default
name: allow-all
sources:
- match:
    kuma.io/service: '*'
destinations:
- match:
    kuma.io/service: '*'
";

/// The network, the control plane on its own host, and a folder for files. What is declared first is dropped first.
pub(crate) struct Mesh {
    control_plane: Option<Process>,
    pub(crate) host: Node,
    pub(crate) network: Network,
    pub(crate) folder: tempfile::TempDir,
}

impl Mesh {
    /// With a control plane that is ready.
    pub(crate) fn start() -> Self {
        let mut network = Network::new();
        let host = network.node("cp");
        let folder = tempfile::tempdir().unwrap();
        harness::command(WEIR, &["links", folder.path().to_str().unwrap()]);
        let mut mesh = Self { control_plane: None, host, network, folder };
        mesh.start_control_plane();
        mesh
    }

    pub(crate) fn start_control_plane(&mut self) {
        let mut command = self.host.command(&self.program("kuma-cp"));
        command.arg("run").env("WEIR_DATA_DIR", self.path("cp")).env("KUMA_MULTIZONE_ZONE_NAME", "east");
        let mut process = Process::start("kuma-cp", command);
        process.wait_for("ready:", LONG);
        self.control_plane = Some(process);
    }

    pub(crate) fn kill_control_plane(&mut self) {
        let mut process = self.control_plane.take().unwrap();
        process.signal(nix::sys::signal::Signal::SIGKILL);
        process.wait(LONG);
    }

    /// Of the symlinks that `weir links` made.
    pub(crate) fn program(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file for a program; its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `kumactl` on the control plane's host; what it printed.
    #[track_caller]
    pub(crate) fn kumactl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.host.command(&self.program("kumactl"));
        command.args(arguments).env("HOME", self.folder.path());
        let output = run_with_input(command, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kumactl {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `kumactl install` and `uninstall` are for the host they run on.
    #[track_caller]
    pub(crate) fn kumactl_on(&self, node: &Node, arguments: &[&str]) -> String {
        node.run(&self.program("kumactl"), arguments)
    }

    #[track_caller]
    pub(crate) fn apply(&self, yaml: &str) {
        self.kumactl(&["apply", "-f", "-"], yaml);
    }

    /// `kuma-dp run` of a Dataplane with its own token, not yet awaited.
    pub(crate) fn dataplane(&self, node: &Node, name: &str, yaml: &str, arguments: &[&str]) -> Process {
        let mesh = yaml.lines().find_map(|line| line.strip_prefix("mesh: ")).unwrap_or("default");
        let generate = ["generate", "dataplane-token", "--name", name, "--mesh", mesh, "--valid-for", "720h"];
        self.token(name, &generate);
        self.proxy(node, name, yaml, arguments)
    }

    /// `kuma-dp run` with the token of that name, not yet awaited.
    pub(crate) fn proxy(&self, node: &Node, name: &str, yaml: &str, arguments: &[&str]) -> Process {
        let mut command = node.command(&self.program("kuma-dp"));
        command.args(self.run_arguments(name, yaml)).args(arguments);
        Process::start(name, command)
    }

    /// Waits until the proxy's last good snapshot on disk speaks of this: saving follows publication.
    #[track_caller]
    pub(crate) fn saved(&self, name: &str, words: &str) {
        eventually(&format!("{words:?} in the last good snapshot of {name}"), LONG, || {
            let entries = std::fs::read_dir(self.path(&format!("{name}.state"))).ok()?;
            let mut files = entries.filter_map(Result::ok).map(|entry| entry.path());
            let file = files.find(|path| path.to_string_lossy().ends_with(".snapshot"))?;
            snapshot::load(&std::fs::read(file).ok()?).ok()?.1.to_string().contains(words).then_some(())
        })
    }

    /// Arguments of `kuma-dp` that the resource and the token of this name make.
    pub(crate) fn run_arguments(&self, name: &str, yaml: &str) -> Vec<String> {
        let file = self.write(&format!("{name}.yaml"), yaml);
        let own = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        vec![
            "run".into(),
            format!("--cp-address=https://{}:5678", self.host.v4),
            own("dataplane-token-file", &self.path(&format!("{name}.token"))),
            own("dataplane-file", &file),
            own("ca-cert-file", &self.path("cp/server.crt")),
            own("data", &self.path(&format!("{name}.state"))),
            "--concurrency=1".into(),
            "--drain-time=1s".into(),
        ]
    }

    /// The token that `kumactl generate …` prints, in `<name>.token`.
    pub(crate) fn token(&self, name: &str, generate: &[&str]) {
        let token = self.kumactl(generate, "");
        self.write(&format!("{name}.token"), &token);
    }

    /// A sidecar that binds virtual IPs and answers its host's questions on port 53, not yet awaited.
    pub(crate) fn client(&self, node: &Node, name: &str, yaml: &str) -> Process {
        let arguments = self.client_arguments(node);
        self.dataplane(node, name, yaml, &arguments.each_ref().map(String::as_str))
    }

    /// Makes the node ask itself for names; the arguments of a `kuma-dp` that answers.
    pub(crate) fn client_arguments(&self, node: &Node) -> [String; 3] {
        node.set_resolv_conf("nameserver 127.0.0.1\n");
        let upstream = self.write("resolv.conf", "nameserver 10.10.0.254\n");
        let resolvers = format!("--resolv-conf={}", upstream.display());
        ["--interception=bind".into(), "--dns-coredns-port=53".into(), resolvers]
    }
}

/// Waits for the line with which a proxy says that it serves.
#[track_caller]
pub(crate) fn ready(process: &mut Process) {
    process.wait_for("ready: proxy", LONG);
}

/// A Dataplane; each inbound is its port, its application's port and its tags, `rest` more lines of `networking`.
pub(crate) fn dataplane_yaml(name: &str, address: IpAddr, inbounds: &[(u16, u16, &str)], rest: &str) -> String {
    let mut yaml = format!("type: Dataplane\nmesh: default\nname: {name}\nnetworking:\n  address: {address}\n");
    if !inbounds.is_empty() {
        yaml.push_str("  inbound:\n");
    }
    for (port, application, tags) in inbounds {
        yaml.push_str(&format!("  - {{port: {port}, servicePort: {application}, tags: {{{tags}}}}}\n"));
    }
    format!("{yaml}{rest}\n")
}

/// The `rest` of a client that virtual IPs are bound for.
pub(crate) const OUTBOUND_ONLY: &str = "  transparentProxying: {redirectPortOutbound: 15001}";

/// A Dataplane whose application only asks others.
pub(crate) fn client_yaml(name: &str, node: &Node, zone: &str) -> String {
    let tags = format!("kuma.io/service: web, kuma.io/protocol: http, kuma.io/zone: {zone}");
    dataplane_yaml(name, node.v4.into(), &[(18080, 8080, &tags)], OUTBOUND_ONLY)
}

/// What `curl` gets: status and body; status 0 when there was no answer.
pub(crate) fn curl(node: &Node, arguments: &[&str]) -> (u16, String) {
    let mut command = node.command("curl");
    command.args(["-sS", "--max-time", "10", "-w", "\n%{http_code}"]).args(arguments);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    let body = if body.is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { body.to_owned() };
    (status.trim().parse().unwrap_or(0), body)
}

/// Asks until the answer has this status and its body these words.
#[track_caller]
pub(crate) fn curl_until(node: &Node, arguments: &[&str], status: u16, words: &str) -> String {
    let began = Instant::now();
    eventually(&format!("{status} with {words:?} of curl {arguments:?}"), LONG * 2, || {
        let got = curl(node, arguments);
        let found = got.0 == status && got.1.contains(words);
        assert!(found || began.elapsed() < LONG, "wanted {status} with {words:?} of curl {arguments:?}, got {got:?}");
        found.then_some(got.1)
    })
}

fn run_with_input(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
