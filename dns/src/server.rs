//! From a message to its reply, the same for UDP and TCP: at once and without allocating if it is ours, through an
//! upstream otherwise. What to answer is `lookup`'s matter, how to relay `forward`'s; it knows no sockets.

use crate::answer::{self, ANSWER_BYTES_MAX, Body, Rcode, Why};
use crate::forward::{Forwarder, Transport};
use crate::lookup::{Answer, Question, is_below, lookup};
use crate::metrics::Metrics;
use crate::wire::{self, Query, Shape};
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

/// What is to be done with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply stands in the buffer.
    Reply(usize),
    Silent,
    Relay,
}

/// Answers whatever is ours, from bytes to bytes. Doesn't allocate.
pub(crate) fn respond(snapshot: &Snapshot, domain: &str, message: &[u8], out: &mut [u8]) -> Outcome {
    let reply = match wire::parse(message) {
        Shape::Silent => None,
        Shape::Foreign => return Outcome::Relay,
        Shape::Malformed => answer::malformed(message, out),
        Shape::Question(query) => match decide(snapshot, domain, &query) {
            Some(body) => answer::answer(message, &query, body, snapshot.dns().ttl_s, out),
            None => return Outcome::Relay,
        },
    };
    reply.map_or(Outcome::Silent, Outcome::Reply)
}

/// `None`: the question isn't ours.
fn decide<'a>(snapshot: &'a Snapshot, domain: &str, query: &Query) -> Option<Body<'a>> {
    let name = query.name.text()?;
    if snapshot.is_empty() {
        // NXDOMAIN from outside would be remembered by clients for longer than we need to start.
        return is_below(name, domain).then_some(Body::ServFail(Why::NotReady));
    }
    let body = match lookup(snapshot, &Question { name, qtype: query.qtype, qclass: query.qclass }) {
        Answer::A(v4) => Body::Addresses { v4: Some(v4), v6: None },
        Answer::Aaaa(v6) => Body::Addresses { v4: None, v6: Some(v6) },
        Answer::All { v4, v6 } => Body::Addresses { v4, v6 },
        Answer::Ptr(name) => Body::Ptr(name),
        Answer::NoData => Body::Soa { zone_at: zone_at(name, &snapshot.dns().domain) },
        Answer::NotImplemented => Body::Error(Rcode::NotImp),
        Answer::NotOurs => return None,
    };
    let version = query.edns.map_or(0, |edns| edns.version);
    Some(if version > 0 { Body::Error(Rcode::BadVers) } else { body })
}

/// Where the zone begins in the name: at the mesh's domain, or at the name itself when it is outside (a VirtualOutbound
/// or an external host). Offsets in text and on the wire are the same, a dot stands where the next length octet is.
fn zone_at(name: &str, domain: &str) -> usize {
    if is_below(name, domain) { name.len() - domain.len() } else { 0 }
}

/// The reply to what isn't ours: an upstream's, or our refusal.
pub(crate) async fn relay(core: &Core, message: &[u8], client: SocketAddr, transport: Transport) -> Vec<u8> {
    let why = match core.forwarder.relay(message, client, transport).await {
        Ok(bytes) => return bytes,
        Err(why) => why,
    };
    refusal(message, why)
}

pub(crate) fn refusal(message: &[u8], why: Why) -> Vec<u8> {
    let mut out = [0; ANSWER_BYTES_MAX];
    let length = answer::failed(message, why, &mut out).unwrap_or(0);
    out.get(..length).unwrap_or_default().to_vec()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
