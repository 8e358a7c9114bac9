//! The lines to try: each a whole shell command, what it shows and what its output must hold. `--once` runs them.

use super::plan::{HOSTNAME, Layout, Plan};
use super::resources::{GATEWAY_PORT, REDIS_PORT};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// One line may take this long.
const LINE_TIMEOUT: Duration = Duration::from_secs(20);
/// Output beyond this isn't shown.
const SHOWN_BYTES: usize = 2000;

pub(super) struct Line {
    pub(super) command: String,
    shows: String,
    /// Its output holds this.
    promise: String,
}

/// A program that the lines need and the packages that have it.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2 (Fedora, RHEL: iproute)"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils (Fedora, RHEL: bind-utils; Alpine: bind-tools)"),
    ("bash", "bash"),
];

/// What is missing on this machine, with the package to install.
pub(super) fn missing(layout: Layout, all: bool) -> Vec<String> {
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    let there = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    let needed = TOOLS.iter().filter(|(name, _)| if *name == "ip" { layout == Layout::Namespaces } else { all });
    let absent = needed.filter(|(name, _)| !there(name));
    absent.map(|(name, package)| format!("`{name}` isn't installed: install the package {package}")).collect()
}

/// What the lines depend on beside the plan.
pub(super) struct Facts {
    pub(super) ipv6: bool,
    /// The admin port of the first zone's `web`.
    pub(super) admin_port: u16,
}

pub(super) fn of(plan: &Plan, facts: &Facts) -> Vec<Line> {
    match plan.layout {
        Layout::Namespaces => in_namespaces(plan, facts),
        Layout::Loopback => on_loopback(plan, facts),
    }
}

fn line(command: String, shows: &str, promise: &str) -> Line {
    Line { command, shows: shows.to_owned(), promise: promise.to_owned() }
}

/// How a call from the first zone reaches the last.
fn path(plan: &Plan) -> &'static str {
    match plan.zones.len() {
        1 => "over mTLS",
        _ => "egress of east, ingress of west, mTLS all the way",
    }
}

fn in_namespaces(plan: &Plan, facts: &Facts) -> Vec<Line> {
    let at = |node: &str| format!("ip netns exec {}{node}", super::plan::PREFIX);
    let (web, last) = (at("east-web"), plan.last_zone());
    let backend = format!("in zone {last}");
    let egress = plan.address("east-zone");
    let mut lines = vec![
        line(format!("{web} dig +short backend.mesh"), "the sidecar's DNS gives a service's name a virtual IP", "240."),
        line(format!("{web} curl -s http://backend.mesh/"), &format!("a call by name: {}", path(plan)), &backend),
        line(
            format!("{web} curl -s http://v1.backend.mesh:1800/"),
            "a VirtualOutbound's name and port, made of tags: only v1 answers",
            "backend v1",
        ),
        line(
            format!("{web} bash -c 'exec 3<>/dev/tcp/redis.mesh/{REDIS_PORT}; echo PING >&3; head -n1 <&3'"),
            "plain TCP, on a port that a VirtualOutbound gives",
            "+PONG from redis",
        ),
        line(
            format!("{web} curl -s http://quotes.mesh/"),
            "an ExternalService: the zone egress is who asks it",
            &format!("asked by {egress}"),
        ),
        line(
            format!("{web} curl -s -o /dev/null -w '%{{http_code}}\\n' http://vault.mesh/"),
            "no TrafficPermission lets web call vault: refused",
            REFUSED,
        ),
        line(
            format!("{} curl -s http://{HOSTNAME}:{GATEWAY_PORT}/", at("outside")),
            "from outside the mesh through the builtin gateway",
            &backend,
        ),
    ];
    if facts.ipv6 {
        let command = format!("{web} dig +short AAAA backend.mesh");
        lines.insert(1, line(command, "and one of IPv6", "fd00:fd00:"));
    }
    if plan.zones.len() > 1 {
        let command = format!("{} curl -s http://backend.mesh/", at(&format!("{last}-web")));
        lines.push(line(command, "the same name in the other zone: straight to its neighbour", &backend));
    }
    lines.push(tables(&format!("{web} "), facts));
    lines
}

/// The names among the tables that the sidecar executes.
fn tables(at: &str, facts: &Facts) -> Line {
    let command = format!("{at}curl -s http://127.0.0.1:{}/snapshot | grep ^name", facts.admin_port);
    line(command, "the names that web knows, each with the resource it comes from", "VirtualOutbound default/versions")
}

/// What a caller without permission gets.
const REFUSED: &str = "403";

fn on_loopback(plan: &Plan, facts: &Facts) -> Vec<Line> {
    let port = plan.layout.service_port();
    let backend = format!("in zone {}", plan.last_zone());
    let dig = |name: &str| format!("dig @127.0.0.1 -p {} +short {name}", plan.layout.dns_port());
    // curl can't ask a DNS server of another port than 53.
    let curl =
        |name: &str, port: u16| format!("curl -s --resolve {name}:{port}:$({}) http://{name}:{port}/", dig(name));
    vec![
        line(dig("backend.mesh"), "the sidecar's DNS gives a service's name a virtual IP", "127.24"),
        line(curl("backend.mesh", port), &format!("a call by name: {}", path(plan)), &backend),
        line(
            curl("v1.backend.mesh", 1800),
            "a VirtualOutbound's name and port, made of tags: only v1 answers",
            "backend v1",
        ),
        line(
            format!("bash -c 'exec 3<>/dev/tcp/'$({})'/{REDIS_PORT}; echo PING >&3; head -n1 <&3'", dig("redis.mesh")),
            "plain TCP, on a port that a VirtualOutbound gives",
            "+PONG from redis",
        ),
        line(curl("quotes.mesh", port), "an ExternalService, called through the zone egress", "outside the mesh"),
        line(
            curl("vault.mesh", port).replacen("-s", "-s -o /dev/null -w '%{http_code}\\n'", 1),
            "no TrafficPermission lets web call vault: refused",
            REFUSED,
        ),
        line(
            format!(
                "curl -s --resolve {HOSTNAME}:{GATEWAY_PORT}:{} http://{HOSTNAME}:{GATEWAY_PORT}/",
                plan.address("east-gateway")
            ),
            "from outside the mesh through the builtin gateway",
            &backend,
        ),
        tables("", facts),
    ]
}

pub(super) fn text(lines: &[Line]) -> String {
    let mut out = String::new();
    for line in lines {
        let _ = writeln!(out, "  # {}\n  {}", line.shows, line.command);
    }
    out
}

/// What a line did.
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) text: String,
}

pub(super) async fn run(line: &Line, folder: &Path) -> Outcome {
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &line.command]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let (ok, told) = match tokio::time::timeout(LINE_TIMEOUT, shell.output()).await {
        Err(_) => (false, format!("no end within {LINE_TIMEOUT:?}")),
        Ok(Err(error)) => (false, format!("sh: {error}")),
        Ok(Ok(output)) => {
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            let ok = output.status.success() && out.contains(&line.promise);
            let failed = if ok { String::new() } else { String::from_utf8_lossy(&output.stderr).into_owned() };
            let status = if output.status.success() { String::new() } else { format!("\n{}", output.status) };
            let expected = if ok { String::new() } else { format!("\nexpected: {}", line.promise) };
            (ok, format!("{}\n{}{status}{expected}", out.trim(), failed.trim()))
        }
    };
    let shown: String = told.chars().take(SHOWN_BYTES).collect();
    let shown = shown.trim().replace('\n', "\n        ").replace('\r', "");
    let mark = if ok { "ok" } else { "FAILED" };
    Outcome { ok, text: format!("  {mark:6}  {}\n        {shown}\n", line.command) }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Layout, Plan};
    use super::{Facts, Line, of, run};

    fn line(command: &str) -> Line {
        super::line(command.to_owned(), "something", "promised")
    }

    #[tokio::test]
    async fn a_line_succeeds_only_when_its_command_does_and_prints_what_it_promised() {
        let folder = tempfile::tempdir().unwrap();
        for (command, ok) in [("echo promised", true), ("echo promised; exit 3", false), ("echo other", false)] {
            let outcome = run(&line(command), folder.path()).await;
            assert_eq!(outcome.ok, ok, "{}", outcome.text);
        }
    }

    #[test]
    fn the_lines_need_no_port_that_only_root_may_bind_on_loopback() {
        for line in of(&Plan::new(Layout::Loopback, 2), &Facts { ipv6: true, admin_port: 9901 }) {
            assert!(!line.command.contains("ip netns") && !line.command.contains(".mesh/'"), "{}", line.command);
        }
        assert!(Layout::Loopback.service_port() >= 1024);
    }
}
