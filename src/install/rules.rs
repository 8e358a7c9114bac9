//! Which rules there are: a pure function of what is to be captured. Chains are named as Kuma's iptables chains are, and hold the
//! same rules in the same order (spec/naming.md §7.3), but for connections that were there before: those are never touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::{Chain, Hook, Match, Point, Program, Rule, Verdict};
use super::ports::{Block, PortRange, Protocol, UidExclusion, Vnet};

/// Beside destination NAT, which is at -100: before or after the rules of others.
const FIRST: i32 = -101;
const LAST: i32 = -99;
const RAW: i32 = -300;
const MANGLE: i32 = -150;

const DNS_PORT: u16 = 53;
const INBOUND: &str = "KUMA_MESH_INBOUND";
pub(super) const OUTBOUND: &str = "KUMA_MESH_OUTBOUND";
pub(super) const INBOUND_REDIRECT: &str = "KUMA_MESH_INBOUND_REDIRECT";
pub(super) const OUTBOUND_REDIRECT: &str = "KUMA_MESH_OUTBOUND_REDIRECT";

/// What is to be captured.
#[derive(Debug)]
pub(super) struct Plan {
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
    /// Level of the kernel's log.
    pub(super) log: Option<&'static str>,
    pub(super) comments: bool,
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
    pub(super) const fn to(port: u16) -> Self {
        Self { enabled: true, port, include: vec![], exclude: vec![], exclude_addresses: vec![], first: false }
    }

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

impl Plan {
    pub(super) fn program(&self) -> Program {
        let inbound = vec![when([tcp()], Verdict::Redirect(self.inbound.port), "to the proxy")];
        let outbound = vec![when([tcp()], Verdict::Redirect(self.outbound.port), "to the proxy")];
        let mut chains = vec![
            chain(INBOUND, None, self.inbound_rules()),
            chain(OUTBOUND, None, self.outbound_rules()),
            chain(INBOUND_REDIRECT, None, inbound),
            chain(OUTBOUND_REDIRECT, None, outbound),
        ];
        let nat = |point, priority| Some(Hook { nat: true, point, priority });
        let filter = |point, priority| Some(Hook { nat: false, point, priority });
        if !self.vnets.is_empty() {
            chains.push(chain("prerouting_vnet", nat(Point::Prerouting, FIRST), self.vnet_rules()));
        }
        let hook = nat(Point::Prerouting, self.inbound.priority());
        chains.push(chain("prerouting", hook, self.prerouting_rules()));
        if self.captures_dns() {
            chains.push(chain("output_dns", nat(Point::Output, FIRST), self.dns_rules()));
        }
        chains.push(chain("output", nat(Point::Output, self.outbound.priority()), self.output_rules()));
        if self.captures_dns() && self.split_zones {
            let answers = when([Match::SourcePort(Protocol::Udp, DNS_PORT)], Verdict::Zone(1), "answers of resolvers");
            chains.push(chain("raw_prerouting", filter(Point::Prerouting, RAW), vec![answers]));
            chains.push(chain("raw_output", filter(Point::Output, RAW), self.zone_rules()));
        }
        if self.drop_invalid {
            let rule = when([Match::Untrackable], Verdict::Drop, "belongs to no connection");
            chains.push(chain("mangle_prerouting", filter(Point::Prerouting, MANGLE), vec![rule]));
        }
        Program { chains, comments: self.comments }
    }

    fn captures_dns(&self) -> bool {
        match &self.dns {
            Dns::Off => false,
            Dns::Servers(servers) => !servers.is_empty(),
            Dns::All => true,
        }
    }

    /// What nothing of ours touches. A connection that was there before the rules may be new to connection tracking: only one
    /// that is just being opened can still be sent elsewhere.
    fn gates(&self) -> Vec<Rule> {
        let mut rules = vec![returns([Match::NotOpening], "connections that were there before")];
        if !self.ipv6 {
            rules.push(returns([Match::Ipv6], "only IPv4 is captured"));
        }
        rules
    }

    fn prerouting_rules(&self) -> Vec<Rule> {
        let mut rules = self.gates();
        rules.push(when([tcp()], Verdict::Jump(INBOUND.into()), "connections that come in"));
        rules
    }

    fn inbound_rules(&self) -> Vec<Rule> {
        let inbound = &self.inbound;
        if !inbound.enabled {
            return vec![returns([tcp()], "incoming connections aren't captured")];
        }
        let mut rules: Vec<Rule> = Vec::new();
        let sources = inbound.exclude_addresses.iter();
        rules.extend(sources.map(|block| returns([Match::Source(*block)], "excluded source")));
        if inbound.include.is_empty() {
            rules.extend(inbound.exclude.iter().map(|port| returns([dport(*port)], "excluded port")));
            rules.push(when([tcp()], Verdict::Jump(INBOUND_REDIRECT.into()), "everything else"));
        } else {
            let included =
                |port: &PortRange| when([dport(*port)], Verdict::Jump(INBOUND_REDIRECT.into()), "included port");
            rules.extend(inbound.include.iter().map(included));
        }
        rules
    }

    fn outbound_rules(&self) -> Vec<Rule> {
        let outbound = &self.outbound;
        if !outbound.enabled {
            return vec![returns([tcp()], "outgoing connections aren't captured")];
        }
        let lo = || Match::Out("lo".to_owned());
        let captured = || match self.dns {
            Dns::Off => tcp(),
            _ => Match::Port { protocols: vec![Protocol::Tcp], ports: vec![PortRange::one(DNS_PORT)], not: true },
        };
        let mut rules: Vec<Rule> =
            outbound.exclude.iter().map(|port| returns([dport(*port)], "excluded port")).collect();
        for source in [IpAddr::from([127, 0, 0, 6]), Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()] {
            rules.push(returns([lo(), Match::Source(source.into())], "the proxy to its own application"));
        }
        for here in LOOPBACKS {
            let why = "the application to its own service by the proxy: in again by the inbound side";
            let elsewhere = Match::Destination { block: here.into(), not: true };
            let conditions = [lo(), captured(), elsewhere, self.proxy(false)];
            rules.push(when(conditions, Verdict::Jump(INBOUND_REDIRECT.into()), why));
        }
        rules.push(returns([lo(), captured(), self.proxy(true)], "this machine to itself"));
        rules.push(returns([self.proxy(false)], "the proxy's own connections"));
        for here in LOOPBACKS {
            rules.push(returns([Match::Destination { block: here.into(), not: false }], "this machine to itself"));
        }
        if outbound.include.is_empty() {
            rules.push(when([tcp()], Verdict::Jump(OUTBOUND_REDIRECT.into()), "everything else"));
        } else {
            let included =
                |port: &PortRange| when([dport(*port)], Verdict::Jump(OUTBOUND_REDIRECT.into()), "included port");
            rules.extend(outbound.include.iter().map(included));
        }
        rules
    }

    fn proxy(&self, not: bool) -> Match {
        Match::User { first: self.proxy_uid, last: self.proxy_uid, not }
    }

    /// Users and destinations that nothing of ours touches.
    fn exclusions(&self) -> Vec<Rule> {
        let mut rules = self.gates();
        for exclusion in &self.exclude_uids {
            let (first, last) = exclusion.uids;
            for protocol in exclusion.protocols {
                let ports = match exclusion.ports.as_slice() {
                    [] => Match::Protocol(vec![*protocol]),
                    ports => Match::Port { protocols: vec![*protocol], ports: ports.to_vec(), not: false },
                };
                rules.push(returns([ports, Match::User { first, last, not: false }], "excluded user"));
            }
        }
        let excluded = self.outbound.exclude_addresses.iter();
        let destination = |block: &Block| Match::Destination { block: *block, not: false };
        rules.extend(excluded.map(|block| returns([destination(block)], "excluded destination")));
        rules
    }

    /// The proxy's own questions leave; the others' come to it, over UDP and TCP alike.
    fn dns_rules(&self) -> Vec<Rule> {
        let mut rules = self.exclusions();
        let both = vec![Protocol::Tcp, Protocol::Udp];
        let questions = Match::Port { protocols: both, ports: vec![PortRange::one(DNS_PORT)], not: false };
        rules.push(returns([questions, self.proxy(false)], "the proxy's own questions"));
        for server in self.resolvers() {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let conditions = server.iter().cloned().chain([question(protocol)]);
                rules.push(when(conditions, Verdict::Redirect(self.dns_port), "questions to the proxy"));
            }
        }
        rules
    }

    /// Matches of the captured resolvers; a match less is every resolver.
    fn resolvers(&self) -> Vec<Option<Match>> {
        match &self.dns {
            Dns::Off => vec![],
            Dns::All => vec![None],
            Dns::Servers(servers) => {
                let to = |server: &IpAddr| Some(Match::Destination { block: (*server).into(), not: false });
                servers.iter().map(to).collect()
            }
        }
    }

    fn output_rules(&self) -> Vec<Rule> {
        let mut rules = self.exclusions();
        if let Some(level) = self.log {
            rules.insert(1, when([tcp()], Verdict::Log { prefix: "OUTBOUND:".into(), level: level.into() }, ""));
        }
        if self.dns != Dns::Off {
            let conditions = [question(Protocol::Tcp), self.proxy(true)];
            rules.push(returns(conditions, "questions to resolvers that aren't captured"));
        }
        rules.push(when([tcp()], Verdict::Jump(OUTBOUND.into()), "connections that leave"));
        rules
    }

    /// Application with proxy, and proxy with resolver, are tracked apart: their ports may repeat.
    fn zone_rules(&self) -> Vec<Rule> {
        let answers = Match::SourcePort(Protocol::Udp, self.dns_port);
        // Containers' questions come in from outside and are in no zone: an answer in one would be nobody's.
        let to_container = |vnet: &Vnet| {
            returns([Match::Out(vnet.interface.clone()), answers.clone()], "the proxy answers a container")
        };
        let mut rules: Vec<Rule> = self.vnets.iter().map(to_container).collect();
        rules.extend([
            when([question(Protocol::Udp), self.proxy(false)], Verdict::Zone(1), "the proxy asks a resolver"),
            when([answers.clone(), self.proxy(false)], Verdict::Zone(2), "the proxy answers"),
        ]);
        let asked = |server: Option<Match>| {
            let conditions = server.into_iter().chain([question(Protocol::Udp)]);
            when(conditions, Verdict::Zone(2), "questions to the proxy")
        };
        rules.extend(self.resolvers().into_iter().map(asked));
        if let Dns::Servers(servers) = &self.dns {
            for server in servers.iter().filter(|server| server.is_loopback()) {
                let here = if server.is_ipv4() { LOOPBACKS[0] } else { LOOPBACKS[1] };
                let to = Match::Destination { block: here.into(), not: false };
                let conditions = [Match::Protocol(vec![Protocol::Udp]), to, Match::Source((*server).into())];
                rules.push(when(conditions, Verdict::Zone(1), "answers of a resolver on this machine"));
            }
        }
        rules
    }

    fn vnet_rules(&self) -> Vec<Rule> {
        let mut rules = self.gates();
        for vnet in &self.vnets {
            let interface = || Match::In(vnet.interface.clone());
            if self.captures_dns() {
                let questions = [Protocol::Udp, Protocol::Tcp].map(|protocol| {
                    let conditions = [interface(), question(protocol)];
                    when(conditions, Verdict::Redirect(self.dns_port), "questions of containers")
                });
                rules.extend(questions);
            }
            let beyond = Match::Destination { block: vnet.network, not: true };
            let to_proxy = Verdict::Redirect(self.outbound.port);
            rules.push(when([interface(), tcp(), beyond], to_proxy, "what containers dial"));
        }
        rules
    }
}

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn chain(name: &'static str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook, rules }
}

fn when(conditions: impl IntoIterator<Item = Match>, then: Verdict, why: &'static str) -> Rule {
    Rule { when: conditions.into_iter().collect(), then, why: why.into() }
}

fn returns(conditions: impl IntoIterator<Item = Match>, why: &'static str) -> Rule {
    when(conditions, Verdict::Return, why)
}

fn tcp() -> Match {
    Match::Protocol(vec![Protocol::Tcp])
}

fn dport(port: PortRange) -> Match {
    Match::Port { protocols: vec![Protocol::Tcp], ports: vec![port], not: false }
}

fn question(protocol: Protocol) -> Match {
    Match::Port { protocols: vec![protocol], ports: vec![PortRange::one(DNS_PORT)], not: false }
}
