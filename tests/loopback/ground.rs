//! What a test stands on: a block of loopback addresses, a folder, and weir's processes. Knows flags, not behaviour.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{Process, eventually, free_address};

use crate::client::{dns, request};

pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// Patience with a slow machine; nothing waits this long when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(25);

/// Blocks given to the tests of this process so far.
static BLOCKS: AtomicU32 = AtomicU32::new(0);
/// Blocks between those of two processes whose ids follow each other.
const BLOCKS_OF_A_PROCESS: u32 = 64;

/// A block 127.x.y.0/24: hosts below .128, virtual IPs above; and a folder that goes with the test.
pub(crate) struct Ground {
    prefix: String,
    folder: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let index = std::process::id().wrapping_mul(BLOCKS_OF_A_PROCESS) + BLOCKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("127.{}.{}", 32 + index / 256 % 200, index % 256);
        Self { prefix, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn ip(&self, host: u8) -> Ipv4Addr {
        format!("{}.{host}", self.prefix).parse().unwrap()
    }

    pub(crate) fn at(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host).into(), port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `NET` stands for the block, `ADMIN` for a free port.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut filled = text.replace("NET.", &format!("{}.", self.prefix));
        while filled.contains("ADMIN") {
            filled = filled.replacen("ADMIN", &free_address(Ipv4Addr::LOCALHOST.into()).port().to_string(), 1);
        }
        filled
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, self.text(text)).expect("writing a file of the test");
        path
    }

    /// A command that sees no configuration but ours.
    pub(crate) fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("KUMA_") || text.starts_with("WEIR_") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("KUMA_DNS_SERVER_CIDR", format!("{}.128/25", self.prefix))
            .env("WEIR_DNS_SERVER_CIDR_V6", "");
        command
    }

    /// Runs weir to its end.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Output {
        self.command(WEIR, arguments).output().expect("starting weir")
    }

    pub(crate) fn up(&self, resources: &str) -> Mesh {
        self.up_with(resources, &[])
    }

    /// `up` with these resources, in bind mode, ready.
    pub(crate) fn up_with(&self, resources: &str, more: &[&str]) -> Mesh {
        let file = self.write("mesh.yaml", resources);
        let command = self.up_command(&file, &[&["--interception", "bind"], more].concat());
        Mesh::ready(Process::start("up", command))
    }

    pub(crate) fn up_command(&self, file: &Path, more: &[&str]) -> Command {
        let dns = format!("{}:0", self.ip(120));
        let fixed = ["up", "-f", file.to_str().unwrap(), "--api", "127.0.0.1:0", "--dns", &dns];
        self.command(WEIR, &[&fixed, more].concat())
    }
}

/// A running `up`.
pub(crate) struct Mesh {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    pub(crate) dns: Option<SocketAddr>,
}

impl Mesh {
    pub(crate) fn ready(mut process: Process) -> Self {
        let line = process.wait_for("ready: REST", LONG);
        let after = |mark: &str| {
            let rest = line.split_once(mark)?.1;
            rest.split([',', ' ']).next()?.parse().ok()
        };
        let api = after("http://").expect("the API's address in the ready line");
        Self { api, dns: after(", DNS "), process }
    }

    /// The address of a mesh name, and a port.
    pub(crate) fn resolve(&self, name: &str, port: u16) -> SocketAddr {
        let server = self.dns.expect("the DNS server's address in the ready line");
        let found =
            eventually(&format!("an address of {name}"), LONG, || dns(server, name, 1).records.into_iter().next());
        SocketAddr::new(found.1, port)
    }

    /// PUT of a resource; (status, body).
    pub(crate) fn put(&self, path: &str, body: &str) -> (u16, String) {
        let answer = request(self.api, "PUT", path, body);
        (answer.status, answer.body)
    }
}

/// Low ports need a privilege on most machines.
pub(crate) fn may_bind_low_ports() -> bool {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    is_root() || first.trim().parse::<u16>().is_ok_and(|first| first <= 80)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A running `cp run`.
pub(crate) struct ControlPlane {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    pub(crate) channel: String,
    pub(crate) ca: String,
}

impl Ground {
    /// A control plane whose state is in the test's folder, so that a second one finds what the first left.
    pub(crate) fn cp(&self) -> ControlPlane {
        self.cp_with(&[])
    }

    /// The same with more variables.
    pub(crate) fn cp_with(&self, variables: &[(&str, &str)]) -> ControlPlane {
        let mut command = self.command(WEIR, &["cp", "run"]);
        for port in ["KUMA_API_SERVER_HTTP_PORT", "KUMA_DP_SERVER_PORT"] {
            command.env(port, "0");
        }
        command.env("KUMA_API_SERVER_HTTPS_ENABLED", "false").env("WEIR_DATA_DIR", self.path("state"));
        command.envs(variables.iter().copied());
        let mut process = Process::start("cp", command);
        let line = process.wait_for("ready: REST", LONG);
        let between = |from: &str, to: &str| line.split_once(from)?.1.split_once(to).map(|(found, _)| found.to_owned());
        let api = between("http://", ",").and_then(|a| a.parse().ok()).expect("the API's address in the ready line");
        let channel = between("https://", " ").expect("the channel's address in the ready line");
        let port = channel.rsplit_once(':').unwrap().1;
        let channel = format!("https://127.0.0.1:{port}");
        ControlPlane { api, channel, ca: between("(CA ", ")").expect("the certificate's file"), process }
    }
}

impl Ground {
    /// `dp run` of a Dataplane called `name`, ready.
    pub(crate) fn dp(&self, cp: &ControlPlane, name: &str, resource: &str) -> Process {
        let asked = format!(r#"{{"mesh": "default", "name": "{name}", "validFor": "1h"}}"#);
        let (status, token) = cp.send("POST", "/tokens/dataplane", &asked);
        assert_eq!(status, 200, "{token}");
        std::fs::write(self.path(&format!("{name}.token")), token).unwrap();
        self.write(&format!("{name}.yaml"), resource);
        self.dp_again(cp, name)
    }

    /// The same once more, with the files that are there.
    pub(crate) fn dp_again(&self, cp: &ControlPlane, name: &str) -> Process {
        let mut command = self.command(WEIR, &["dp", "run", "--cp-address", &cp.channel, "--ca-cert-file", &cp.ca]);
        command.arg("--dataplane-file").arg(self.path(&format!("{name}.yaml")));
        command.arg("--dataplane-token-file").arg(self.path(&format!("{name}.token")));
        command.args(["--drain-time", "10s", "--workers", "2"]).env("WEIR_DATA_DIR", self.path("proxies"));
        let mut process = Process::start(name, command);
        process.wait_for("ready: proxy", LONG);
        process
    }
}

impl ControlPlane {
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let answer = request(self.api, method, path, body);
        (answer.status, answer.body)
    }
}
