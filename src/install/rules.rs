//! The rules as nftables reads them: a pure function of what is to be captured. Chains are named as Kuma's iptables chains are,
//! and hold the same rules in the same order (spec/naming.md §7.3).

use std::fmt::{self, Write};
use std::net::IpAddr;

use super::ports::{Block, PortRange, UidExclusion, Vnet};

/// Everything is in this table, family inet.
pub(super) const TABLE: &str = "weir";
/// Beside destination NAT, which is at -100: before or after the rules of others.
const FIRST: i32 = -101;
const LAST: i32 = -99;

#[derive(Debug)]
pub(super) struct Rules {
    pub(super) proxy_uid: u32,
    pub(super) ipv6: bool,
    pub(super) inbound: Direction,
    pub(super) outbound: Direction,
    pub(super) exclude_uids: Vec<UidExclusion>,
    pub(super) dns: Dns,
    pub(super) dns_port: u16,
    pub(super) split_zones: bool,
    pub(super) vnets: Vec<Vnet>,
    pub(super) drop_invalid: bool,
    pub(super) log: bool,
}

#[derive(Debug)]
pub(super) struct Direction {
    pub(super) enabled: bool,
    pub(super) port: u16,
    /// If not empty, these alone.
    pub(super) include: Vec<PortRange>,
    pub(super) exclude: Vec<PortRange>,
    /// Peers whose connections aren't captured.
    pub(super) exclude_addresses: Vec<Block>,
    /// Before the rules of others.
    pub(super) first: bool,
}

impl Direction {
    fn priority(&self) -> i32 {
        if self.first { FIRST } else { LAST }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dns {
    Off,
    Servers(Vec<IpAddr>),
    All,
}

/// Replaces our table as a whole, in the one transaction that `nft -f` makes of a file.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
        chain(
            f,
            "KUMA_MESH_INBOUND_REDIRECT",
            None,
            &[format!("meta l4proto tcp redirect to :{}", self.inbound.port)],
        )?;
        chain(
            f,
            "KUMA_MESH_OUTBOUND_REDIRECT",
            None,
            &[format!("meta l4proto tcp redirect to :{}", self.outbound.port)],
        )?;
        chain(f, "KUMA_MESH_INBOUND", None, &self.inbound_rules())?;
        chain(f, "KUMA_MESH_OUTBOUND", None, &self.outbound_rules())?;
        if !self.vnets.is_empty() {
            chain(f, "prerouting_vnet", Some(("nat", "prerouting", FIRST)), &self.vnet_rules())?;
        }
        let jump = [self.family_gate(), vec!["meta l4proto tcp jump KUMA_MESH_INBOUND".to_owned()]].concat();
        chain(f, "prerouting", Some(("nat", "prerouting", self.inbound.priority())), &jump)?;
        if self.captures_dns() {
            chain(f, "output_dns", Some(("nat", "output", FIRST)), &self.dns_rules())?;
        }
        chain(f, "output", Some(("nat", "output", self.outbound.priority())), &self.output_rules())?;
        if self.captures_dns() && self.split_zones {
            let rules = ["udp sport 53 ct zone set 1".to_owned()];
            chain(f, "raw_prerouting", Some(("filter", "prerouting", -300)), &rules)?;
            chain(f, "raw_output", Some(("filter", "output", -300)), &self.zone_rules())?;
        }
        if self.drop_invalid {
            let rules = ["ct state invalid drop".to_owned()];
            chain(f, "mangle_prerouting", Some(("filter", "prerouting", -150)), &rules)?;
        }
        writeln!(f, "}}")
    }
}

fn chain(f: &mut fmt::Formatter<'_>, name: &str, hook: Option<(&str, &str, i32)>, rules: &[String]) -> fmt::Result {
    writeln!(f, "\tchain {name} {{")?;
    if let Some((kind, hook, priority)) = hook {
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;")?;
    }
    for rule in rules {
        writeln!(f, "\t\t{rule}")?;
    }
    writeln!(f, "\t}}")
}

impl Rules {
    fn captures_dns(&self) -> bool {
        match &self.dns {
            Dns::Off => false,
            Dns::Servers(servers) => !servers.is_empty(),
            Dns::All => true,
        }
    }

    fn family_gate(&self) -> Vec<String> {
        if self.ipv6 { vec![] } else { vec!["meta nfproto ipv6 return".to_owned()] }
    }

    fn inbound_rules(&self) -> Vec<String> {
        let inbound = &self.inbound;
        if !inbound.enabled {
            return vec!["meta l4proto tcp return".to_owned()];
        }
        let mut rules: Vec<String> = Vec::new();
        rules.extend(inbound.exclude_addresses.iter().map(|block| format!("{} return", peer("saddr", block))));
        if inbound.include.is_empty() {
            rules.extend(inbound.exclude.iter().map(|port| format!("tcp dport {port} return")));
            rules.push("meta l4proto tcp jump KUMA_MESH_INBOUND_REDIRECT".to_owned());
        } else {
            let included = |port| format!("tcp dport {port} jump KUMA_MESH_INBOUND_REDIRECT");
            rules.extend(inbound.include.iter().map(included));
        }
        rules
    }

    fn outbound_rules(&self) -> Vec<String> {
        let outbound = &self.outbound;
        if !outbound.enabled {
            return vec!["meta l4proto tcp return".to_owned()];
        }
        let uid = self.proxy_uid;
        let port = if self.dns == Dns::Off { "meta l4proto tcp" } else { "tcp dport != 53" };
        let mut rules: Vec<String> = outbound.exclude.iter().map(|port| format!("tcp dport {port} return")).collect();
        // The proxy to its own application.
        rules.push("oifname \"lo\" ip saddr 127.0.0.6 return".to_owned());
        rules.push("oifname \"lo\" ip6 saddr ::6 return".to_owned());
        // The application to itself by a virtual IP: in again through the inbound side, with its identity and permissions.
        for other in ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"] {
            rules.push(format!("oifname \"lo\" {port} {other} meta skuid {uid} jump KUMA_MESH_INBOUND_REDIRECT"));
        }
        rules.push(format!("oifname \"lo\" {port} meta skuid != {uid} return"));
        rules.push(format!("meta skuid {uid} return"));
        rules.push("ip daddr 127.0.0.1 return".to_owned());
        rules.push("ip6 daddr ::1 return".to_owned());
        if outbound.include.is_empty() {
            rules.push("meta l4proto tcp jump KUMA_MESH_OUTBOUND_REDIRECT".to_owned());
        } else {
            let included = |port| format!("tcp dport {port} jump KUMA_MESH_OUTBOUND_REDIRECT");
            rules.extend(outbound.include.iter().map(included));
        }
        rules
    }

    /// Users and destinations that nothing of ours touches.
    fn exclusions(&self) -> Vec<String> {
        let mut rules = self.family_gate();
        for exclusion in &self.exclude_uids {
            for protocol in exclusion.protocols {
                let ports = match exclusion.ports.as_slice() {
                    [] => format!("meta l4proto {protocol}"),
                    ports => format!("{protocol} dport {{ {} }}", list(ports)),
                };
                rules.push(format!("{ports} meta skuid {} return", exclusion.uids()));
            }
        }
        let excluded = &self.outbound.exclude_addresses;
        rules.extend(excluded.iter().map(|block| format!("{} return", peer("daddr", block))));
        rules
    }

    /// The proxy's own questions leave; the others' come to it, over UDP and TCP alike.
    fn dns_rules(&self) -> Vec<String> {
        let mut rules = self.exclusions();
        rules.push(format!("meta l4proto {{ tcp, udp }} th dport 53 meta skuid {} return", self.proxy_uid));
        for server in self.dns_destinations() {
            for protocol in ["udp", "tcp"] {
                rules.push(format!("{server}{protocol} dport 53 redirect to :{}", self.dns_port));
            }
        }
        rules
    }

    /// Matches of the captured resolvers, each with its trailing space.
    fn dns_destinations(&self) -> Vec<String> {
        match &self.dns {
            Dns::Off => vec![],
            Dns::All => vec![String::new()],
            Dns::Servers(servers) => {
                let family = |server: &IpAddr| if server.is_ipv4() { "ip" } else { "ip6" };
                servers.iter().map(|server| format!("{} daddr {server} ", family(server))).collect()
            }
        }
    }

    fn output_rules(&self) -> Vec<String> {
        let mut rules = self.exclusions();
        if self.log {
            rules.insert(0, "meta l4proto tcp log prefix \"OUTBOUND:\" level debug".to_owned());
        }
        if self.dns != Dns::Off {
            // Questions to resolvers that aren't captured.
            rules.push(format!("tcp dport 53 meta skuid != {} return", self.proxy_uid));
        }
        rules.push("meta l4proto tcp jump KUMA_MESH_OUTBOUND".to_owned());
        rules
    }

    /// Application with proxy, and proxy with resolver, are tracked apart: their ports may repeat.
    fn zone_rules(&self) -> Vec<String> {
        let uid = self.proxy_uid;
        let mut rules = vec![
            format!("udp dport 53 meta skuid {uid} ct zone set 1 return"),
            format!("udp sport {} meta skuid {uid} ct zone set 2 return", self.dns_port),
        ];
        rules.extend(self.dns_destinations().iter().map(|server| format!("{server}udp dport 53 ct zone set 2")));
        if let Dns::Servers(servers) = &self.dns {
            for server in servers.iter().filter(|server| server.is_loopback()) {
                let to = if server.is_ipv4() { "ip daddr 127.0.0.1 ip saddr" } else { "ip6 daddr ::1 ip6 saddr" };
                rules.push(format!("meta l4proto udp {to} {server} ct zone set 1"));
            }
        }
        rules
    }

    fn vnet_rules(&self) -> Vec<String> {
        let mut rules = self.family_gate();
        for vnet in &self.vnets {
            let interface = &vnet.interface;
            if self.captures_dns() {
                rules.push(format!("iifname \"{interface}\" udp dport 53 redirect to :{}", self.dns_port));
            }
            let family = if vnet.network.is_ipv4() { "ip" } else { "ip6" };
            let beyond = format!("{family} daddr != {}", vnet.network);
            rules
                .push(format!("iifname \"{interface}\" meta l4proto tcp {beyond} redirect to :{}", self.outbound.port));
        }
        rules
    }
}

fn peer(side: &str, block: &Block) -> String {
    format!("{} {side} {block}", if block.is_ipv4() { "ip" } else { "ip6" })
}

fn list(ports: &[PortRange]) -> String {
    let mut text = String::new();
    for (index, port) in ports.iter().enumerate() {
        let _ = write!(text, "{}{port}", if index == 0 { "" } else { ", " });
    }
    text
}
