//! From settings and what the machine has to what is captured, with what the operator should know. Must not change the machine.

use std::net::IpAddr;

use super::InstallError;
use super::rules::{Dns, Plan};
use super::settings::{FamilyMode, Settings};

/// The user that Kuma's proxy runs as.
pub(super) const PROXY_UID: u32 = 5678;
const PROXY_USER: &str = "kuma-dp";
const SSH_PORT: u16 = 22;

/// What the settings leave to the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) resolvers: Vec<IpAddr>,
    /// An IPv6 address beside the loopback's.
    pub(super) ipv6: bool,
    /// uid of the user that the settings name or imply.
    pub(super) proxy_uid: Option<u32>,
    /// Port of this machine that the operator's SSH session came in by.
    pub(super) ssh_port: Option<u16>,
    /// Connection tracking takes up connections in their middle.
    pub(super) loose: bool,
}

impl Machine {
    pub(super) fn look(settings: &Settings) -> Self {
        let resolvers = std::fs::read_to_string(&settings.resolv_conf).unwrap_or_default();
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let loose = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose").unwrap_or_default();
        Self {
            resolvers: resolvers_of(&resolvers),
            ipv6: addresses.lines().any(|line| line.split_whitespace().next_back() != Some("lo")),
            proxy_uid: proxy_uid(&settings.user),
            ssh_port: std::env::var("SSH_CONNECTION").ok().and_then(|text| ssh_port(&text)),
            loose: loose.trim() != "0",
        }
    }
}

/// sshd says: client's address and port, own address and port.
pub(super) fn ssh_port(connection: &str) -> Option<u16> {
    connection.split_whitespace().nth(3)?.parse().ok()
}

pub(super) fn resolvers_of(resolv_conf: &str) -> Vec<IpAddr> {
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

pub(super) fn plan(settings: Settings, machine: &Machine) -> Result<(Plan, Vec<String>), InstallError> {
    let mut warnings = Vec::new();
    let Some(proxy_uid) = machine.proxy_uid else {
        let named = if settings.user.is_empty() { PROXY_USER } else { &settings.user };
        return Err(InstallError::machine(format!(
            "there is no user {named:?} (nor uid {PROXY_UID}) to tell the proxy's traffic by: make one \
             (useradd -u {PROXY_UID} -U {PROXY_USER}) or name another with --kuma-dp-user"
        )));
    };
    warn_of_ignored(&settings.ignored, &mut warnings);
    let dualstack = settings.family == FamilyMode::Dualstack;
    if dualstack && !machine.ipv6 {
        warnings.push("this machine has no IPv6 address beside the loopback's: only IPv4 is captured".to_owned());
    }
    let ipv6 = dualstack && machine.ipv6;
    let dns = match (settings.dns, settings.dns_all) {
        (_, true) => Dns::All,
        (true, false) => Dns::Servers(servers(machine, ipv6, &settings, &mut warnings)),
        (false, false) => Dns::Off,
    };
    let plan = Plan {
        proxy_uid,
        ipv6,
        inbound: settings.inbound,
        outbound: settings.outbound,
        exclude_uids: settings.exclude_uids,
        dns,
        dns_port: settings.dns_port,
        split_zones: settings.split_zones,
        vnets: settings.vnets,
        drop_invalid: settings.drop_invalid,
        log: settings.log.then_some(settings.log_level),
        comments: settings.comments,
    };
    warn_of_lock_out(&plan, machine, &mut warnings);
    Ok((plan, warnings))
}

fn warn_of_ignored(ignored: &[&str], warnings: &mut Vec<String>) {
    if ignored.contains(&"storeFirewalld") {
        let text = "storeFirewalld has no effect: firewalld leaves our table alone when it reloads; to have the rules \
            after a reboot too, run this command from a unit that is Before=network-online.target";
        warnings.push(text.to_owned());
    }
    let others: Vec<&str> = ignored.iter().copied().filter(|path| *path != "storeFirewalld").collect();
    if !others.is_empty() {
        warnings.push(format!(
            "{}: no effect here, the rules are one nftables table that is replaced in one transaction",
            others.join(", ")
        ));
    }
}

/// The session that runs this command goes on in any case: what isn't captured is the next one.
fn warn_of_lock_out(plan: &Plan, machine: &Machine, warnings: &mut Vec<String>) {
    let inbound = &plan.inbound;
    let is_in = |ranges: &[super::ports::PortRange], port| ranges.iter().any(|range| range.contains(port));
    let captured = |port: &u16| {
        let wanted =
            if inbound.include.is_empty() { !is_in(&inbound.exclude, *port) } else { is_in(&inbound.include, *port) };
        inbound.enabled && wanted
    };
    if let Some(port) = machine.ssh_port.filter(captured) {
        let name = if port == SSH_PORT { "SSH".to_owned() } else { format!("SSH (port {port})") };
        warnings.push(format!(
            "new {name} sessions will go through the proxy, and fail while it doesn't run: exclude them with \
             --exclude-inbound-ports {port}, or try the rules with --confirm 60s. This session isn't touched"
        ));
    }
    if plan.drop_invalid && !machine.loose {
        let text = "with dropInvalidPackets and net.netfilter.nf_conntrack_tcp_loose=0, connections that were open before \
            connection tracking began are cut off, SSH sessions too";
        warnings.push(text.to_owned());
    }
}

fn servers(machine: &Machine, ipv6: bool, settings: &Settings, warnings: &mut Vec<String>) -> Vec<IpAddr> {
    let servers: Vec<IpAddr> = machine.resolvers.iter().copied().filter(|server| ipv6 || server.is_ipv4()).collect();
    for (family, wanted) in [("IPv4", true), ("IPv6", false)] {
        if (wanted || ipv6) && !servers.iter().any(|server| server.is_ipv4() == wanted) {
            let path = settings.resolv_conf.display();
            warnings.push(format!("{path} names no {family} resolver: DNS over {family} isn't captured"));
        }
    }
    servers
}
