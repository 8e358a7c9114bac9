//! What the mesh answers to a question: a synchronous function of (snapshot, question), the same for UDP, TCP and
//! `explain`. It must not know bytes on the wire, sockets or resolvers.

use crate::wire::{class, qtype};
use snapshot::Snapshot;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A question in presentation form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// Lower case, without trailing dot.
    pub name: &'a str,
    pub qtype: u16,
    pub qclass: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Everything there is (ANY).
    All {
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    },
    /// The name exists, the record doesn't. Never NXDOMAIN: clients would give up the other family too.
    NoData,
    /// The name is the mesh's and has no address at all: its range was exhausted, or is IPv6 and this machine isn't.
    Unplaced,
    /// The name of a virtual IP.
    Ptr(&'a str),
    /// The name exists, but the question is about a transaction (AXFR and the like), not about a record.
    NotImplemented,
    /// The question goes to the original resolvers, unchanged.
    NotOurs,
}

/// Only rows of the table are ours: an unknown name below the mesh's domain goes upstream like any other, because
/// companies have zones of that name of their own.
pub fn lookup<'a>(snapshot: &'a Snapshot, question: &Question<'_>) -> Answer<'a> {
    if question.qclass != class::IN && question.qclass != class::ANY {
        return Answer::NotOurs;
    }
    if let Some(row) = snapshot.name(question.name) {
        return match (row.v4, row.v6) {
            (None, None) => Answer::Unplaced,
            addresses => of_addresses(addresses, question.qtype),
        };
    }
    let reverse = matches!(question.qtype, qtype::PTR | qtype::ANY).then(|| reverse_address(question.name)).flatten();
    match reverse.and_then(|address| snapshot.vip_name(address)) {
        Some(row) => Answer::Ptr(&row.name),
        None => Answer::NotOurs,
    }
}

/// Of a name that has these.
pub(crate) fn of_addresses((v4, v6): (Option<Ipv4Addr>, Option<Ipv6Addr>), kind: u16) -> Answer<'static> {
    match (kind, v4, v6) {
        (qtype::A, Some(v4), _) => Answer::A(v4),
        (qtype::AAAA, _, Some(v6)) => Answer::Aaaa(v6),
        (qtype::ANY, v4, v6) => Answer::All { v4, v6 },
        (kind, ..) if qtype::is_meta(kind) => Answer::NotImplemented,
        _ => Answer::NoData,
    }
}

/// Whether `name` is the domain or below it.
pub fn is_below(name: &str, domain: &str) -> bool {
    let Some(rest) = name.strip_suffix(domain) else { return false };
    !domain.is_empty() && (rest.is_empty() || rest.ends_with('.'))
}

/// `1.0.0.240.in-addr.arpa`, or the 32 nibbles below `ip6.arpa`.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(text) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = text.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next().filter(|label| is_plain_number(label))?.parse().ok()?;
        }
        return labels.next().is_none().then_some(IpAddr::V4(octets.into()));
    }
    let text = name.strip_suffix(".ip6.arpa")?;
    let (mut bits, mut count) = (0u128, 0);
    for label in text.rsplit('.') {
        let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
        bits = (bits << 4) | digit;
        count += 1;
    }
    (count == 32).then_some(IpAddr::V6(bits.into()))
}

/// As resolvers write an octet: digits without a sign or a leading zero.
fn is_plain_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
