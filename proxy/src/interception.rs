//! Brings the packets for virtual IPs to the proxy's sockets: local routes (`bind`), one nftables rule more (`tproxy`), or nothing
//! (`redirect`, whose rules `weir install transparent-proxy` writes). What it adds it removes. Must not know snapshots.

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::socket::Mode;

/// Our own nftables table, replaced and removed as a whole.
const TPROXY_TABLE: &str = "weir_tproxy";
/// Of our routes; no routing daemon that rt_protos lists has it.
const ROUTE_PROTOCOL: &str = "87";
/// Bit of CAP_NET_ADMIN in the masks of /proc/self/status (capabilities(7)).
const CAP_NET_ADMIN_BIT: u32 = 12;

/// A block of addresses in CIDR form. Host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    first: IpAddr,
    prefix_bits: u8,
}

impl Range {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.prefix_bits) == Some(self.first)
    }

    fn is_loopback(&self) -> bool {
        self.first.is_loopback()
    }

    /// The flag of `ip`, also the family's name in nftables with `ip` for `-4`.
    fn family(&self) -> &'static str {
        if self.first.is_ipv4() { "-4" } else { "-6" }
    }
}

/// `None` when `bits` is more than the family has.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let host = 32u32.checked_sub(bits)?;
            let mask = u32::MAX.checked_shl(host).unwrap_or(0);
            Some(IpAddr::V4((u32::from(v4) & mask).into()))
        }
        IpAddr::V6(v6) => {
            let host = 128u32.checked_sub(bits)?;
            let mask = u128::MAX.checked_shl(host).unwrap_or(0);
            Some(IpAddr::V6((u128::from(v6) & mask).into()))
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address range; write it like 240.0.0.0/4 or fd00:fd00::/64");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix_bits) = (address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?);
        let first = masked(address, prefix_bits).ok_or_else(wrong)?;
        Ok(Self { first, prefix_bits })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

/// A step that failed: the command, what it said, and what the operator can do.
#[derive(Debug)]
pub(crate) struct InterceptionError(String);

impl fmt::Display for InterceptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InterceptionError {}

/// What was added to this machine. [`Installed::remove`] takes it away again, and so does dropping it.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    routes: Vec<Range>,
    table: bool,
}

/// Makes `ranges` arrive at this proxy. Idempotent: a route that is there already is used and left alone at the end. IPv6 ranges
/// are passed over on a machine without IPv6, loopback ranges need nothing.
pub(crate) fn install(mode: Mode, ranges: &[Range], outbound_port: u16) -> Result<Installed, InterceptionError> {
    let mut installed = Installed::default();
    if mode == Mode::Redirect {
        return Ok(installed);
    }
    let ranges: Vec<Range> =
        ranges.iter().copied().filter(|range| !range.is_loopback() && is_family_up(range)).collect();
    if ranges.is_empty() {
        return Ok(installed);
    }
    check_capability()?;
    for range in &ranges {
        if add_route(range)? {
            installed.routes.push(*range);
        }
    }
    if mode == Mode::Tproxy {
        run("nft", &["-f", "-"], &tproxy_rules(&ranges, outbound_port))?;
        installed.table = true;
    }
    Ok(installed)
}

impl Installed {
    pub(crate) fn remove(mut self) -> Result<(), InterceptionError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), InterceptionError> {
        let mut result = Ok(());
        if std::mem::take(&mut self.table) {
            result = run("nft", &["delete", "table", "inet", TPROXY_TABLE], "").map(drop);
        }
        for range in self.routes.drain(..) {
            result = result.and(route("del", &range));
        }
        result
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(%error, "interception is not fully removed");
        }
    }
}

/// CAP_NET_ADMIN in this network namespace, or what to do about its absence.
pub(crate) fn check_capability() -> Result<(), InterceptionError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if effective_capabilities(&status) & (1 << CAP_NET_ADMIN_BIT) != 0 {
        return Ok(());
    }
    Err(InterceptionError(
        "capturing virtual IPs needs CAP_NET_ADMIN: start as root, use AmbientCapabilities=CAP_NET_ADMIN or setcap \
         cap_net_admin+ep, or let the control plane hand out virtual IPs inside 127.0.0.0/8"
            .to_owned(),
    ))
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The kernel lists IPv6 addresses here; without IPv6 the file is empty or absent.
fn is_family_up(range: &Range) -> bool {
    range.first.is_ipv4() || std::fs::read("/proc/net/if_inet6").is_ok_and(|listed| !listed.is_empty())
}

/// False when the route was there before and isn't ours. One that we left behind by dying becomes ours again.
fn add_route(range: &Range) -> Result<bool, InterceptionError> {
    match route("add", range) {
        Err(InterceptionError(said)) if said.contains("File exists") => {
            if route("del", range).is_err() {
                return Ok(false);
            }
            route("add", range).map(|()| true)
        }
        added => added.map(|()| true),
    }
}

/// Routes of ours alone: the protocol number marks them.
fn route(action: &str, range: &Range) -> Result<(), InterceptionError> {
    let text = range.to_string();
    run("ip", &[range.family(), "route", action, "local", &text, "dev", "lo", "proto", ROUTE_PROTOCOL], "")
}

/// Packets of local programs to a virtual IP leave through `lo`, by the local route, and come in again: here they meet the rule.
fn tproxy_rules(ranges: &[Range], port: u16) -> String {
    let rule = |family: &str, of: &dyn Fn(&Range) -> bool| {
        let list: Vec<String> = ranges.iter().filter(|range| of(range)).map(Range::to_string).collect();
        match list.is_empty() {
            true => String::new(),
            false => format!(
                "    {family} daddr {{ {} }} meta l4proto tcp tproxy {family} to :{port} accept\n",
                list.join(", ")
            ),
        }
    };
    let (v4, v6) = (rule("ip", &|range| range.first.is_ipv4()), rule("ip6", &|range| range.first.is_ipv6()));
    format!(
        "add table inet {TPROXY_TABLE}\ndelete table inet {TPROXY_TABLE}\ntable inet {TPROXY_TABLE} {{\n  chain prerouting {{\n    \
         type filter hook prerouting priority mangle; policy accept;\n{v4}{v6}  }}\n}}\n"
    )
}

/// Runs a tool of the operating system to its end. Only at start and stop, so blocking is fine.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), InterceptionError> {
    let command = format!("{program} {}", arguments.join(" "));
    let failed = |error: io::Error| {
        let hint = match (error.kind(), program) {
            (io::ErrorKind::NotFound, "nft") => "; install nftables",
            (io::ErrorKind::NotFound, _) => "; install iproute2",
            _ => "",
        };
        InterceptionError(format!("cannot run `{command}`: {error}{hint}"))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that doesn't read its input tells why in its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(InterceptionError(format!("`{command}` failed: {}", said.trim())))
}

#[cfg(test)]
#[path = "interception_tests.rs"]
mod tests;
