//! Chains, rules and matches as values: what nftables reads, what `--explain-port` walks through, and the words for both come from
//! these. Must not know which rules there are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

use super::ports::{Block, PortRange, Protocol, merged};

/// Everything is in this table, family inet.
pub(super) const TABLE: &str = "weir";

/// Ours, or read from a listing.
pub(super) type Text = Cow<'static, str>;

#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) chains: Vec<Chain>,
    /// Whether rules carry their comments.
    pub(super) comments: bool,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: Text,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Where the kernel enters a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// Else `filter`.
    pub(super) nat: bool,
    pub(super) point: Point,
    pub(super) priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Prerouting,
    Output,
}

/// All of `when` have to hold; none is always.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) when: Vec<Match>,
    pub(super) then: Verdict,
    pub(super) why: Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Protocol(Vec<Protocol>),
    Port {
        protocols: Vec<Protocol>,
        ports: Vec<PortRange>,
        not: bool,
    },
    SourcePort(Protocol, u16),
    Ipv6,
    /// Any but the first packet of a TCP connection.
    NotOpening,
    In(String),
    Out(String),
    Source(Block),
    Destination {
        block: Block,
        not: bool,
    },
    User {
        first: u32,
        last: u32,
        not: bool,
    },
    Untrackable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Return,
    Jump(Text),
    /// To this port of this machine.
    Redirect(u16),
    /// Tracked in this zone, and no further rule of the chain asked.
    Zone(u16),
    Drop,
    /// Then on to the next rule.
    Log {
        prefix: Text,
        level: Text,
    },
}

/// Of a chain: its hook, and each rule's conditions and verdict.
type Content<'a> = (Option<Hook>, Vec<(Vec<Match>, &'a Verdict)>);

impl Program {
    /// Whether both do the same with every packet, whatever their comments.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.contents() == other.contents()
    }

    /// Without comments and empty chains, in an order of its own.
    fn contents(&self) -> BTreeMap<&str, Content<'_>> {
        let listed = |condition: &Match| match condition.clone() {
            Match::Port { protocols, ports, not } => Match::Port { protocols, ports: merged(&ports), not },
            other => other,
        };
        let rule = |rule: &'_ Rule| rule.when.iter().map(listed).collect::<Vec<_>>();
        let full = self.chains.iter().filter(|chain| !chain.rules.is_empty());
        full.map(|chain| {
            let rules = chain.rules.iter().map(|r| (rule(r), &r.then)).collect();
            (&*chain.name, (chain.hook, rules))
        })
        .collect()
    }
}

/// What decides about the first packet of a connection, or about a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) point: Point,
    pub(super) protocol: Protocol,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
    /// The interface it leaves by, or came in by.
    pub(super) interface: &'a str,
    /// Whose socket sent it; none of what comes from outside.
    pub(super) user: Option<u32>,
}

impl Match {
    pub(super) fn holds(&self, packet: &Packet<'_>) -> bool {
        match self {
            Self::Protocol(protocols) => protocols.contains(&packet.protocol),
            Self::Port { protocols, ports, not } => {
                let is_one = ports.iter().any(|range| range.contains(packet.port));
                protocols.contains(&packet.protocol) && is_one != *not
            }
            // Answers have it; packets that open something don't.
            Self::SourcePort(..) => false,
            Self::Ipv6 => packet.destination.is_ipv6(),
            Self::NotOpening | Self::Untrackable => false,
            Self::In(name) => packet.point == Point::Prerouting && packet.interface == name,
            Self::Out(name) => packet.point == Point::Output && packet.interface == name,
            Self::Source(block) => block.contains(packet.source),
            Self::Destination { block, not } => {
                block.is_ipv4() == packet.destination.is_ipv4() && block.contains(packet.destination) != *not
            }
            Self::User { first, last, not } => packet.user.is_some_and(|user| (*first..=*last).contains(&user) != *not),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unless = |not: &bool| if *not { "!= " } else { "" };
        let family = |block: &Block| if block.is_ipv4() { "ip" } else { "ip6" };
        match self {
            Self::Protocol(protocols) => write!(f, "meta l4proto {}", set(protocols)),
            Self::Port { protocols, ports, not } => match protocols.as_slice() {
                [protocol] => write!(f, "{protocol} dport {}{}", unless(not), set(ports)),
                several => write!(f, "meta l4proto {} th dport {}{}", set(several), unless(not), set(ports)),
            },
            Self::SourcePort(protocol, port) => write!(f, "{protocol} sport {port}"),
            Self::Ipv6 => f.write_str("meta nfproto ipv6"),
            Self::NotOpening => f.write_str("tcp flags & (fin | syn | rst | ack) != syn"),
            Self::In(name) => write!(f, "iifname \"{name}\""),
            Self::Out(name) => write!(f, "oifname \"{name}\""),
            Self::Source(block) => write!(f, "{} saddr {block}", family(block)),
            Self::Destination { block, not } => write!(f, "{} daddr {}{block}", family(block), unless(not)),
            Self::User { first, last, not } if first == last => write!(f, "meta skuid {}{first}", unless(not)),
            Self::User { first, last, not } => write!(f, "meta skuid {}{first}-{last}", unless(not)),
            Self::Untrackable => f.write_str("ct state invalid"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Zone(zone) => write!(f, "ct zone set {zone} return"),
            Self::Drop => f.write_str("drop"),
            Self::Log { prefix, level } => write!(f, "log prefix \"{prefix}\" level {level}"),
        }
    }
}

/// Without its comment.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.when {
            write!(f, "{condition} ")?;
        }
        self.then.fmt(f)
    }
}

/// The file for `nft -f`: replaces our table as a whole, in the one transaction that a file is.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
        // A chain must be there before a rule jumps to it.
        let (entered, jumped_to): (Vec<&Chain>, Vec<&Chain>) = self.chains.iter().partition(|c| c.hook.is_some());
        for chain in jumped_to.into_iter().rev().chain(entered) {
            writeln!(f, "\tchain {} {{", chain.name)?;
            if let Some(Hook { nat, point, priority }) = chain.hook {
                let kind = if nat { "nat" } else { "filter" };
                let point = if point == Point::Prerouting { "prerouting" } else { "output" };
                writeln!(f, "\t\ttype {kind} hook {point} priority {priority}; policy accept;")?;
            }
            for rule in &chain.rules {
                match self.comments && !rule.why.is_empty() {
                    true => writeln!(f, "\t\t{rule} comment \"{}\"", rule.why)?,
                    false => writeln!(f, "\t\t{rule}")?,
                }
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

/// One item bare, several in braces.
fn set<T: fmt::Display>(items: &[T]) -> String {
    if let [item] = items {
        return item.to_string();
    }
    let mut text = String::from("{ ");
    for (index, item) in items.iter().enumerate() {
        let _ = write!(text, "{}{item}", if index == 0 { "" } else { ", " });
    }
    text + " }"
}
