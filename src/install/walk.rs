//! What the rules do with a packet: the answer of `--explain-port`, from the rules themselves. Must not know nftables' text, nor how
//! rules are made.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::{Chain, Match, Packet, Point, Program, Rule, Verdict};
use super::plan::PROXY_UID;
use super::ports::Protocol;
use super::rules::{INBOUND_REDIRECT, OUTBOUND, OUTBOUND_REDIRECT};

/// Jumps are from chains of hooks to ours, and from those to the redirecting ones.
const DEPTH_MAX: u8 = 4;
/// Users that aren't the proxy's.
const ROOT: u32 = 0;
const APPLICATION_UID: u32 = 1000;

/// A rule that held.
#[derive(Debug)]
pub(super) struct Step<'a> {
    chain: &'a str,
    /// From 1.
    number: usize,
    rule: &'a Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Goes where it was headed.
    Untouched,
    Redirected(u16),
    Dropped,
}

enum Walked {
    On,
    Returned,
    Ended(Outcome),
}

/// Chains of one hook in the order the kernel enters them; one that rewrites is the last to be asked.
pub(super) fn walk<'a>(program: &'a Program, packet: &Packet<'_>) -> (Vec<Step<'a>>, Outcome) {
    let mut steps = Vec::new();
    let is_here = |chain: &&Chain| chain.hook.is_some_and(|hook| hook.nat && hook.point == packet.point);
    let mut chains: Vec<&Chain> = program.chains.iter().filter(is_here).collect();
    chains.sort_by_key(|chain| chain.hook.map(|hook| hook.priority));
    for chain in chains {
        if let Walked::Ended(outcome) = through(program, chain, packet, DEPTH_MAX, &mut steps) {
            return (steps, outcome);
        }
    }
    (steps, Outcome::Untouched)
}

fn through<'a>(
    program: &'a Program,
    chain: &'a Chain,
    packet: &Packet<'_>,
    depth: u8,
    steps: &mut Vec<Step<'a>>,
) -> Walked {
    for (index, rule) in chain.rules.iter().enumerate() {
        if !rule.when.iter().all(|condition| condition.holds(packet)) {
            continue;
        }
        steps.push(Step { chain: &chain.name, number: index + 1, rule });
        match &rule.then {
            Verdict::Return | Verdict::Zone(_) => return Walked::Returned,
            Verdict::Redirect(port) => return Walked::Ended(Outcome::Redirected(*port)),
            Verdict::Drop => return Walked::Ended(Outcome::Dropped),
            Verdict::Log { .. } => {}
            Verdict::Jump(name) => {
                let Some(target) = program.chains.iter().find(|c| c.name == *name).filter(|_| depth > 0) else {
                    continue;
                };
                if let ended @ Walked::Ended(_) = through(program, target, packet, depth - 1, steps) {
                    return ended;
                }
            }
        }
    }
    Walked::On
}

/// Of `--explain-port`: a port, and an address where the answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl std::str::FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok(Self { address: Some(address.ip()), port: address.port() });
        }
        let port = super::ports::port(text).map_err(|why| format!("{why}, or write ADDRESS:PORT"))?;
        Ok(Self { address: None, port })
    }
}

/// An address of this machine, and one of somebody else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) own: IpAddr,
    pub(super) other: IpAddr,
}

impl Addresses {
    /// `own` as the machine has it; documentation addresses (RFC 5737, RFC 3849) for what isn't known.
    pub(super) fn new(own: &[IpAddr], question: Question) -> Self {
        let v4 = question.address.is_none_or(|address| address.is_ipv4());
        let is_outside = |ip: &&IpAddr| ip.is_ipv4() == v4 && !ip.is_loopback();
        let (own_example, other): (IpAddr, IpAddr) = match v4 {
            true => (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(203, 0, 113, 9).into()),
            false => (
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
            ),
        };
        let own = own.iter().find(is_outside).copied().unwrap_or(own_example);
        Self { own, other: question.address.filter(|address| *address != own).unwrap_or(other) }
    }
}

/// What the rules say about the proxy and about users.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) proxy_uid: u32,
    /// The first of each range of users that are excluded.
    excluded_uids: Vec<u32>,
    inbound_port: Option<u16>,
    outbound_port: Option<u16>,
}

impl Facts {
    pub(super) fn of(program: &Program) -> Self {
        let rules = |name: &str| {
            let chain = program.chains.iter().find(|chain| chain.name == name);
            chain.map_or(&[] as &[Rule], |chain| chain.rules.as_slice()).iter()
        };
        let users = |rule: &Rule| {
            let range = |condition: &Match| match condition {
                Match::User { first, last, not: false } => Some((*first, *last)),
                _ => None,
            };
            rule.when.iter().find_map(range)
        };
        let alone = |rule: &&Rule| rule.when.len() == 1 && rule.then == Verdict::Return;
        // Where no connection is captured, the one whose questions leave is the proxy.
        let asks =
            |rule: &&Rule| matches!(rule.when.first(), Some(Match::Port { protocols, .. }) if protocols.len() > 1);
        let own = rules(OUTBOUND).filter(alone).find_map(users);
        let own = own.or_else(|| rules("output_dns").filter(asks).find_map(users));
        let proxy_uid = own.map_or(PROXY_UID, |(first, _)| first);
        let mut excluded_uids: Vec<u32> = rules("output").filter_map(users).map(|(first, _)| first).collect();
        excluded_uids.dedup();
        let port = |name| {
            rules(name).find_map(|rule| match rule.then {
                Verdict::Redirect(port) => Some(port),
                _ => None,
            })
        };
        Self { proxy_uid, excluded_uids, inbound_port: port(INBOUND_REDIRECT), outbound_port: port(OUTBOUND_REDIRECT) }
    }
}

/// The whole answer, for people. `whose` are the rules.
pub(super) fn explain(program: &Program, whose: &str, question: Question, own: &[IpAddr]) -> String {
    let addresses = Addresses::new(own, question);
    let facts = Facts::of(program);
    let mut text = format!(
        "Port {}, by {whose} (this machine is {}, the other {}; the proxy is uid {}).\n\
         Connections that are open when the rules come stay as they are.\n",
        question.port, addresses.own, addresses.other, facts.proxy_uid
    );
    for (title, packet) in scenarios(&facts, question.port, addresses) {
        let (steps, outcome) = walk(program, &packet);
        let _ = writeln!(text, "\n{title}");
        for Step { chain, number, rule } in steps {
            let why = if rule.why.is_empty() { String::new() } else { format!("   # {}", rule.why) };
            let _ = writeln!(text, "  {chain} rule {number}: {rule}{why}");
        }
        let _ = writeln!(text, "  => {}", sentence(&facts, &packet, outcome));
    }
    text
}

fn sentence(facts: &Facts, packet: &Packet<'_>, outcome: Outcome) -> String {
    match outcome {
        Outcome::Dropped => "dropped".to_owned(),
        Outcome::Redirected(port) if Some(port) == facts.inbound_port => {
            format!("captured: to the inbound side of the proxy, port {port}")
        }
        Outcome::Redirected(port) if Some(port) == facts.outbound_port => {
            format!("captured: to the outbound side of the proxy, port {port}")
        }
        Outcome::Redirected(port) => format!("captured: the proxy's DNS answers on port {port}"),
        Outcome::Untouched => format!("not captured: goes to {} itself", packet.destination),
    }
}

/// The packets that answer a question about a port.
pub(super) fn scenarios(facts: &Facts, port: u16, addresses: Addresses) -> Vec<(String, Packet<'static>)> {
    let Addresses { own, other } = addresses;
    let proxy = facts.proxy_uid;
    let application = if proxy == APPLICATION_UID { APPLICATION_UID + 1 } else { APPLICATION_UID };
    let loopback: IpAddr = if own.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let source: IpAddr = if own.is_ipv4() { [127, 0, 0, 6].into() } else { Ipv6Addr::from(6).into() };
    let tcp = |(user, from): (u32, IpAddr), destination: IpAddr| {
        let interface = if destination == other { "eth0" } else { "lo" };
        let protocol = Protocol::Tcp;
        Packet { point: Point::Output, protocol, source: from, destination, port, interface, user: Some(user) }
    };
    let incoming = Packet {
        point: Point::Prerouting,
        protocol: Protocol::Tcp,
        source: other,
        destination: own,
        port,
        interface: "eth0",
        user: None,
    };
    let mut scenarios = vec![
        (format!("In: {other} connects to this machine, {own}:{port}"), incoming),
        (
            format!("Out: the application (uid {application}) connects to {other}:{port}"),
            tcp((application, own), other),
        ),
    ];
    if proxy != ROOT {
        scenarios.push((format!("Out: root connects to {other}:{port}"), tcp((ROOT, own), other)));
    }
    for first in &facts.excluded_uids {
        scenarios.push((format!("Out: uid {first} connects to {other}:{port}"), tcp((*first, own), other)));
    }
    scenarios.extend([
        (format!("Out: the proxy (uid {proxy}) connects to {other}:{port}"), tcp((proxy, own), other)),
        (
            format!("Within: the application connects to this machine's own {own}:{port}"),
            tcp((application, own), own),
        ),
        (
            format!("Within: the application connects to {loopback}:{port}"),
            tcp((application, loopback), loopback),
        ),
        (
            format!("Within: the proxy connects to {own}:{port}, as to any endpoint (the application called its own service)"),
            tcp((proxy, own), own),
        ),
        (
            format!("Within: the proxy delivers to the application at {own}:{port}, from {source}"),
            tcp((proxy, source), own),
        ),
    ]);
    if port == 53 {
        let datagram = |user| Packet { protocol: Protocol::Udp, ..tcp((user, own), other) };
        scenarios.extend([
            (format!("DNS: the application asks {other} over UDP"), datagram(application)),
            (format!("DNS: the proxy asks {other} over UDP"), datagram(proxy)),
        ]);
    }
    scenarios
}
