//! From a message to its reply, the same for UDP and TCP: at once and without allocating if it is ours, through an
//! upstream otherwise. What to answer is `lookup`'s matter, how to relay `forward`'s; it knows no sockets.

use crate::answer::{self, ANSWER_BYTES_MAX, Body, Rcode, Why};
use crate::forward::{Forwarder, Transport};
use crate::hosts::Hosts;
use crate::lookup::{Answer, Question, is_below, lookup, of_addresses};
use crate::metrics::{Metrics, Source};
use crate::querylog::QueryLog;
use crate::wire::{self, Query, Shape, class, qtype};
use snapshot::{Reader, Snapshot};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the loops share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) reader: Reader,
    pub(crate) rules: Rules,
    pub(crate) forwarder: Forwarder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) query_log: Option<QueryLog>,
    pub(crate) tcp_idle: Duration,
}

impl Core {
    /// Counts a reply that was sent, and logs it if that is wanted.
    pub(crate) fn replied(&self, client: SocketAddr, reply: &[u8], source: Source, start: Instant) {
        self.metrics.replied(reply, source, start.elapsed());
        self.log(client, reply, source, start);
    }

    pub(crate) fn log(&self, client: SocketAddr, reply: &[u8], source: Source, start: Instant) {
        if let Some(log) = &self.query_log {
            log.answered(client, reply, source, start.elapsed());
        }
    }
}

/// What this proxy's own configuration says about answers.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Names below it are SERVFAIL before the first snapshot.
    pub(crate) domain: String,
    pub(crate) no_aaaa: bool,
    /// Answered before anybody is asked, whatever the mesh says.
    pub(crate) hosts: Hosts,
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
pub(crate) fn respond(snapshot: &Snapshot, rules: &Rules, message: &[u8], out: &mut [u8]) -> Outcome {
    let reply = match wire::parse(message) {
        Shape::Silent => None,
        Shape::Foreign => return Outcome::Relay,
        Shape::Malformed => answer::malformed(message, out),
        Shape::Question(query) => match decide(snapshot, rules, &query) {
            Some(body) => answer::answer(message, &query, body, snapshot.dns().ttl_s, out),
            None => return Outcome::Relay,
        },
    };
    reply.map_or(Outcome::Silent, Outcome::Reply)
}

/// `None`: the question isn't ours.
fn decide<'a>(snapshot: &'a Snapshot, rules: &Rules, query: &Query) -> Option<Body<'a>> {
    let no_aaaa = query.qtype == qtype::AAAA && (rules.no_aaaa || snapshot.dns().no_aaaa);
    let Some(name) = query.name.text() else { return no_aaaa.then_some(Body::Empty) };
    let host = rules.hosts.find(name).filter(|_| matches!(query.qclass, class::IN | class::ANY));
    if snapshot.is_empty() && host.is_none() {
        // NXDOMAIN from outside would be remembered by clients for longer than we need to start.
        let unready = is_below(name, &rules.domain).then_some(Body::ServFail(Why::NotReady));
        return unready.or(no_aaaa.then_some(Body::Empty));
    }
    let no_data = || Body::Soa { zone_at: zone_at(name, &snapshot.dns().domain) };
    let question = Question { name, qtype: query.qtype, qclass: query.qclass };
    let found = host.map_or_else(|| lookup(snapshot, &question), |host| of_addresses(host, query.qtype));
    let body = match found {
        Answer::A(v4) => Body::Addresses { v4: Some(v4), v6: None },
        Answer::Aaaa(_) if no_aaaa => no_data(),
        Answer::Aaaa(v6) => Body::Addresses { v4: None, v6: Some(v6) },
        Answer::All { v4, v6 } => Body::Addresses { v4, v6 },
        Answer::Ptr(name) => Body::Ptr(name),
        Answer::NoData => no_data(),
        Answer::Unplaced => Body::ServFail(Why::Unplaced),
        Answer::NotImplemented => Body::Error(Rcode::NotImp),
        Answer::NotOurs if no_aaaa => Body::Empty,
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
    match core.forwarder.relay(message, client, transport).await {
        Ok(bytes) => bytes,
        Err(why) => refusal(message, why),
    }
}

pub(crate) fn refusal(message: &[u8], why: Why) -> Vec<u8> {
    let mut out = [0; ANSWER_BYTES_MAX];
    let length = answer::failed(message, why, &mut out).unwrap_or(0);
    out.get(..length).unwrap_or_default().to_vec()
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
