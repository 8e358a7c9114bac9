//! From a message to its reply, the same for UDP and TCP: at once and without allocating where that can be, through
//! hickory or an upstream otherwise. What to answer is `lookup`'s matter, how to relay `forward`'s; it knows no sockets.

use crate::forward::{Forwarder, Transport};
use crate::lookup::{Answer, Question, is_below, lookup};
use crate::metrics::{Metrics, Source};
use crate::unusual::{self, Mesh, Unusual};
use crate::wire::{self, Body, Query, Rcode, Shape};
use snapshot::{Reader, Snapshot};
use std::net::SocketAddr;
use std::sync::Arc;

/// What the loops share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) reader: Reader,
    pub(crate) domain: Arc<str>,
    pub(crate) forwarder: Forwarder,
    pub(crate) metrics: Arc<Metrics>,
}

/// What is to be done with a message, seen from the fast path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply stands in the buffer.
    Reply(usize),
    Silent,
    Relay,
    Unusual,
}

/// Answers what can be answered at once. Doesn't allocate.
pub(crate) fn respond(snapshot: &Snapshot, domain: &str, message: &[u8], out: &mut [u8]) -> Outcome {
    let reply = match wire::parse(message) {
        Shape::Silent => None,
        Shape::Foreign => return Outcome::Relay,
        Shape::Unusual => return Outcome::Unusual,
        Shape::Malformed => wire::error(message, Rcode::FormErr, out),
        Shape::Plain(query) => match decide(snapshot, domain, &query) {
            Ok(body) => wire::answer(message, &query, body, snapshot.dns().ttl_s, out),
            Err(outcome) => return outcome,
        },
    };
    reply.map_or(Outcome::Silent, Outcome::Reply)
}

fn decide(snapshot: &Snapshot, domain: &str, query: &Query) -> Result<Body, Outcome> {
    let Some(name) = query.name.text() else { return Err(Outcome::Relay) };
    if snapshot.is_empty() {
        // NXDOMAIN from outside would be remembered by clients for longer than we need to start.
        return if is_below(name, domain) { Ok(Body::Error(Rcode::ServFail)) } else { Err(Outcome::Relay) };
    }
    let body = match lookup(snapshot, &Question { name, qtype: query.qtype, qclass: query.qclass }) {
        Answer::A(v4) => Body::A(v4),
        Answer::Aaaa(v6) => Body::Aaaa(v6),
        Answer::NoData => Body::Soa { zone_at: zone_at(name, &snapshot.dns().domain) },
        Answer::All { .. } | Answer::Ptr(_) => return Err(Outcome::Unusual),
        Answer::NotOurs => return Err(Outcome::Relay),
    };
    let version = query.edns.map_or(0, |edns| edns.version);
    Ok(if version > 0 { Body::Error(Rcode::BadVers) } else { body })
}

/// Where the zone begins in the name: at the mesh's domain, or at the name itself when it is outside (a VirtualOutbound
/// or an external host). Offsets in text and on the wire are the same, a dot stands where the next length octet is.
fn zone_at(name: &str, domain: &str) -> usize {
    if is_below(name, domain) { name.len() - domain.len() } else { 0 }
}

/// The reply to what the fast path didn't take: hickory's or an upstream's. Empty = silence.
pub(crate) async fn slow(
    core: &Core,
    message: &[u8],
    client: SocketAddr,
    transport: Transport,
    outcome: Outcome,
) -> (Vec<u8>, Source) {
    if outcome == Outcome::Unusual {
        let mesh = Mesh { snapshot: core.reader.load(), domain: core.domain.clone() };
        match unusual::answer(message, client, mesh).await {
            Unusual::Reply(bytes) => return (bytes, Source::Local),
            Unusual::Malformed => return (error(message, Rcode::FormErr), Source::Local),
            Unusual::Relay => {}
        }
    }
    match core.forwarder.relay(message, client, transport).await {
        Some(bytes) => (bytes, Source::Upstream),
        None => (error(message, Rcode::ServFail), Source::Upstream),
    }
}

fn error(message: &[u8], rcode: Rcode) -> Vec<u8> {
    let mut out = [0; wire::ANSWER_BYTES_MAX];
    let length = wire::error(message, rcode, &mut out).unwrap_or(0);
    out.get(..length).unwrap_or_default().to_vec()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
