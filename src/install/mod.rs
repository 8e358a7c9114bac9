//! `weir install transparent-proxy` and its undoing: flags in, one nftables table in one transaction. Kuma's flags and environment
//! names; what it did with iptables is done with an own table, so that removing it leaves every other rule as it was.
//! Must not know the proxy.

mod ports;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{ArgAction, Args};

use ports::{PortRange, UidExclusion, Vnet};
use rules::{Direction, Dns, Rules, TABLE};

/// The user that Kuma's proxy runs as.
const PROXY_UID: u32 = 5678;
const PROXY_USER: &str = "kuma-dp";
/// Source of the proxy's connections to its own application (IPv4 has it anyway, within 127.0.0.0/8).
const PROXY_SOURCE_V6: &str = "::6/128";

/// Flags as `kumactl install transparent-proxy` has them.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallArgs {
    /// User (name or uid) that the proxy runs as; its traffic isn't captured [default: uid 5678, else kuma-dp]
    #[arg(long, alias = "kuma-dp-uid", env = "KUMA_TRANSPARENT_PROXY_KUMA_DP_USER", default_value = "")]
    kuma_dp_user: String,
    /// dualstack or ipv4
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_IP_FAMILY_MODE", default_value = "dualstack", ignore_case = true)]
    ip_family_mode: FamilyMode,
    /// Capture connections that come in (not on gateways)
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_ENABLED", default_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    redirect_inbound: bool,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_PORT", default_value_t = 15006)]
    redirect_inbound_port: u16,
    /// Capture only these ports of incoming connections
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_INCLUDE_PORTS", value_delimiter = ',')]
    include_inbound_ports: Vec<PortRange>,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_EXCLUDE_PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Vec<PortRange>,
    /// Sources (address or CIDR) whose connections aren't captured
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_EXCLUDE_PORTS_FOR_IPS", value_delimiter = ',')]
    exclude_inbound_ips: Vec<String>,
    /// Before rules that are there already, not after them
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_INSERT_REDIRECT_INSTEAD_OF_APPEND")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    redirect_inbound_insert_instead_of_append: bool,
    /// Capture connections that the workload opens
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_ENABLED", default_value = "true")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    redirect_outbound: bool,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_PORT", default_value_t = 15001)]
    redirect_outbound_port: u16,
    /// Capture only these ports of outgoing connections
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_INCLUDE_PORTS", value_delimiter = ',')]
    include_outbound_ports: Vec<PortRange>,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_EXCLUDE_PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<PortRange>,
    /// `[protocol:][ports:]uids`, repeatable, e.g. `tcp:8080,9000-9100:1000-1010`
    #[arg(long)]
    exclude_outbound_ports_for_uids: Vec<UidExclusion>,
    /// Destinations (address or CIDR) that aren't captured
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_IPS", value_delimiter = ',')]
    exclude_outbound_ips: Vec<String>,
    /// Before rules that are there already, not after them
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_INSERT_REDIRECT_INSTEAD_OF_APPEND")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    redirect_outbound_insert_instead_of_append: bool,
    /// Capture questions to the resolvers of resolv.conf
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_ENABLED")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    redirect_dns: bool,
    /// Capture questions to any resolver
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_CAPTURE_ALL")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    redirect_all_dns_traffic: bool,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_PORT", default_value_t = 15053)]
    redirect_dns_port: u16,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_RESOLV_CONFIG_PATH", default_value = "/etc/resolv.conf")]
    redirect_dns_resolv_config_path: PathBuf,
    /// Let application and proxy share one connection tracking zone for DNS
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_SKIP_CONNTRACK_ZONE_SPLIT")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    skip_dns_conntrack_zone_split: bool,
    /// `interface:CIDR` of a container network whose traffic is captured too, repeatable
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_REDIRECT_VNET_NETWORKS", value_delimiter = ';')]
    vnet: Vec<Vnet>,
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_DROP_INVALID_PACKETS")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    drop_invalid_packets: bool,
    /// Log captured packets in the kernel's log
    #[arg(long, env = "KUMA_TRANSPARENT_PROXY_LOG_ENABLED")]
    #[arg(action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    iptables_logs: bool,
    /// Print the rules, change nothing
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    ignored: Ignored,
}

/// Flags that say how iptables is to be run; accepted so that scripts keep working.
#[derive(Clone, Debug, Default, Args)]
struct Ignored {
    #[arg(long, hide = true)]
    iptables_executables: Option<String>,
    #[arg(long, hide = true)]
    wait: Option<String>,
    #[arg(long, hide = true)]
    wait_interval: Option<String>,
    #[arg(long, hide = true)]
    max_retries: Option<String>,
    #[arg(long, hide = true)]
    sleep_between_retries: Option<String>,
    #[arg(long, hide = true)]
    store_firewalld: bool,
    #[arg(long, hide = true)]
    disable_comments: bool,
    #[arg(long, hide = true)]
    ebpf_enabled: bool,
}

impl Ignored {
    fn given(&self) -> Vec<&'static str> {
        let given = [
            (self.iptables_executables.is_some(), "--iptables-executables"),
            (self.wait.is_some(), "--wait"),
            (self.wait_interval.is_some(), "--wait-interval"),
            (self.max_retries.is_some(), "--max-retries"),
            (self.sleep_between_retries.is_some(), "--sleep-between-retries"),
            (self.store_firewalld, "--store-firewalld"),
            (self.disable_comments, "--disable-comments"),
            (self.ebpf_enabled, "--ebpf-enabled"),
        ];
        given.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FamilyMode {
    Dualstack,
    Ipv4,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UninstallArgs {
    /// Print what would be removed, change nothing
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    verbose: bool,
}

/// What went wrong, and the exit code for it: 2 for what the command line says, 1 for what the machine says.
#[derive(Debug)]
pub(crate) struct InstallError {
    pub(crate) exit_code: u8,
    text: String,
}

impl InstallError {
    fn usage(text: impl Into<String>) -> Self {
        Self { exit_code: 2, text: text.into() }
    }

    fn machine(text: impl Into<String>) -> Self {
        Self { exit_code: 1, text: text.into() }
    }
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for InstallError {}

/// Installs, or with `--dry-run` prints, the rules. Installing again replaces them.
pub(crate) fn run_install(args: &InstallArgs) -> Result<(), InstallError> {
    let (rules, warnings) = plan(args, &Machine::look(args))?;
    for warning in warnings {
        say(&mut io::stderr(), &format!("# [WARNING] {warning}\n"));
    }
    let text = rules.to_string();
    if args.dry_run {
        say(&mut io::stdout(), &text);
        return Ok(());
    }
    require_root()?;
    refuse_other_owner()?;
    if rules.ipv6 {
        // Fails when it is there already; a machine that can't have it answers from the connection's own address.
        let _ = tool("ip", &["-6", "addr", "add", PROXY_SOURCE_V6, "dev", "lo"], "");
    }
    if args.verbose {
        say(&mut io::stdout(), &text);
    }
    tool("nft", &["-f", "-"], &text)?;
    say(
        &mut io::stdout(),
        "Transparent proxy set up successfully, you can now run the proxy using transparent-proxy.\n",
    );
    Ok(())
}

/// Removes our table and address, and nothing else. Not installed is fine too.
pub(crate) fn run_uninstall(args: &UninstallArgs) -> Result<(), InstallError> {
    let delete = format!("delete table inet {TABLE}\n");
    if args.dry_run {
        say(&mut io::stdout(), &delete);
        return Ok(());
    }
    require_root()?;
    let tables = tool("nft", &["list", "tables"], "")?;
    if tables.lines().any(|line| line.trim() == format!("table inet {TABLE}")) {
        if args.verbose {
            say(&mut io::stdout(), &delete);
        }
        tool("nft", &["-f", "-"], &delete)?;
        let _ = tool("ip", &["-6", "addr", "del", PROXY_SOURCE_V6, "dev", "lo"], "");
    }
    say(&mut io::stdout(), "Transparent proxy cleaned up successfully\n");
    Ok(())
}

/// What the flags leave to the machine.
#[derive(Debug, Default)]
struct Machine {
    resolvers: Vec<IpAddr>,
    /// An IPv6 address beside the loopback's.
    ipv6: bool,
    /// uid of the user that the flags name or imply.
    proxy_uid: Option<u32>,
}

impl Machine {
    fn look(args: &InstallArgs) -> Self {
        let resolvers = std::fs::read_to_string(&args.redirect_dns_resolv_config_path).unwrap_or_default();
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        Self {
            resolvers: resolvers_of(&resolvers),
            ipv6: addresses.lines().any(|line| line.split_whitespace().next_back() != Some("lo")),
            proxy_uid: proxy_uid(&args.kuma_dp_user),
        }
    }
}

fn resolvers_of(resolv_conf: &str) -> Vec<IpAddr> {
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.split('%').next()?.parse().ok())?
    };
    resolv_conf.lines().filter_map(value).collect()
}

fn proxy_uid(user: &str) -> Option<u32> {
    let by_name = |name| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    if user.is_empty() {
        let by_uid = nix::unistd::User::from_uid(PROXY_UID.into()).ok().flatten().map(|user| user.uid.as_raw());
        return by_uid.or_else(|| by_name(PROXY_USER));
    }
    user.parse().ok().or_else(|| by_name(user))
}

/// Flags and machine into rules, with what the operator should know.
fn plan(args: &InstallArgs, machine: &Machine) -> Result<(Rules, Vec<String>), InstallError> {
    if args.redirect_dns && args.redirect_all_dns_traffic {
        return Err(InstallError::usage("one of --redirect-dns or --redirect-all-dns-traffic should be specified"));
    }
    let mut warnings = Vec::new();
    if let given @ [_, ..] = args.ignored.given().as_slice() {
        warnings.push(format!("{} is about iptables and has no effect: the rules are nftables'", given.join(", ")));
    }
    let Some(proxy_uid) = machine.proxy_uid else {
        let named = if args.kuma_dp_user.is_empty() { PROXY_USER } else { &args.kuma_dp_user };
        return Err(InstallError::machine(format!(
            "there is no user {named:?} (nor uid {PROXY_UID}) to tell the proxy's traffic by: make one \
             (useradd -u {PROXY_UID} -U {PROXY_USER}) or name another with --kuma-dp-user"
        )));
    };
    let dualstack = args.ip_family_mode == FamilyMode::Dualstack;
    if dualstack && !machine.ipv6 {
        warnings.push("this machine has no IPv6 address beside the loopback's: only IPv4 is captured".to_owned());
    }
    let ipv6 = dualstack && machine.ipv6;
    let dns = match (args.redirect_dns, args.redirect_all_dns_traffic) {
        (_, true) => Dns::All,
        (true, false) => Dns::Servers(servers(machine, ipv6, args, &mut warnings)),
        (false, false) => Dns::Off,
    };
    let rules = Rules {
        proxy_uid,
        ipv6,
        inbound: Direction {
            enabled: args.redirect_inbound && args.redirect_inbound_port != 0,
            port: args.redirect_inbound_port,
            include: args.include_inbound_ports.clone(),
            exclude: args.exclude_inbound_ports.clone(),
            exclude_addresses: ports::blocks(&args.exclude_inbound_ips).map_err(InstallError::usage)?,
            first: args.redirect_inbound_insert_instead_of_append,
        },
        outbound: Direction {
            enabled: args.redirect_outbound && args.redirect_outbound_port != 0,
            port: args.redirect_outbound_port,
            include: args.include_outbound_ports.clone(),
            exclude: args.exclude_outbound_ports.clone(),
            exclude_addresses: ports::blocks(&args.exclude_outbound_ips).map_err(InstallError::usage)?,
            first: args.redirect_outbound_insert_instead_of_append,
        },
        exclude_uids: args.exclude_outbound_ports_for_uids.clone(),
        dns,
        dns_port: args.redirect_dns_port,
        split_zones: !args.skip_dns_conntrack_zone_split,
        vnets: args.vnet.clone(),
        drop_invalid: args.drop_invalid_packets,
        log: args.iptables_logs,
    };
    Ok((rules, warnings))
}

fn servers(machine: &Machine, ipv6: bool, args: &InstallArgs, warnings: &mut Vec<String>) -> Vec<IpAddr> {
    let servers: Vec<IpAddr> = machine.resolvers.iter().copied().filter(|server| ipv6 || server.is_ipv4()).collect();
    for (family, wanted) in [("IPv4", true), ("IPv6", false)] {
        if (wanted || ipv6) && !servers.iter().any(|server| server.is_ipv4() == wanted) {
            let path = args.redirect_dns_resolv_config_path.display();
            warnings.push(format!("{path} names no {family} resolver: DNS over {family} isn't captured"));
        }
    }
    servers
}

fn require_root() -> Result<(), InstallError> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(InstallError::machine(
            "you must be root user to install or uninstall transparent proxy; --dry-run works for anybody",
        )),
    }
}

/// Two sets of rules would send the same packets twice.
fn refuse_other_owner() -> Result<(), InstallError> {
    let ruleset = tool("nft", &["list", "ruleset"], "")?;
    match foreign_table(&ruleset) {
        None => Ok(()),
        Some(table) => Err(InstallError::machine(format!(
            "{table} holds rules of Kuma's own transparent proxy: remove them first (kumactl uninstall transparent-proxy)"
        ))),
    }
}

/// The table, not ours, that has Kuma's chains.
fn foreign_table(ruleset: &str) -> Option<&str> {
    let mut table = "";
    for line in ruleset.lines() {
        if line.starts_with("table ") {
            table = line.trim_end_matches('{').trim();
        }
        if line.trim_start().starts_with("chain KUMA_MESH_") && table != format!("table inet {TABLE}") {
            return Some(table);
        }
    }
    None
}

/// Output of a tool of the operating system.
fn tool(program: &str, arguments: &[&str], input: &str) -> Result<String, InstallError> {
    let command = format!("{program} {}", arguments.join(" "));
    let failed = |error: io::Error| {
        InstallError::machine(format!("cannot run `{command}`: {error}; install nftables and iproute2"))
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that doesn't read its input tells why in its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(InstallError::machine(format!("`{command}` failed, nothing was changed: {}", said.trim())))
}

/// A reader that went away (`| head`) is no error of ours.
fn say(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
