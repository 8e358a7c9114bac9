//! Mutated questions, replies and resolv.conf files, from a corpus that is replayed first. A bounded number by default;
//! `WEIR_FUZZ_SECONDS=600 cargo test -p dns fuzz` goes on for so long and adds what behaved in a new way to the corpus.

use crate::answer::ANSWER_BYTES_MAX;
use crate::forward::{Verdict, judge};
use crate::hosts::Hosts;
use crate::server::{Outcome, Rules, respond};
use crate::{resolv, tcp, wire};
use bytes::BytesMut;
use hickory_proto::op::Message;
use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
use std::sync::Arc;

/// Octets at which decisions change: lengths, pointers, OPT, section counts.
const TELLING: [u8; 16] = [0, 1, 2, 11, 12, 13, 15, 28, 41, 63, 64, 127, 128, 0xc0, 0xfc, 0xff];

fn fuzz<T: std::hash::Hash>(name: &str, check: impl Fn(&[u8]) -> T) {
    let corpus = [env!("CARGO_MANIFEST_DIR"), "corpus", name].iter().collect();
    harness::Fuzz { corpus, telling: &TELLING, inputs: 30_000, input_bytes_max: 1400 }.run(check);
}

fn mesh() -> Snapshot {
    let row = |name: &str, v4: &str, v6: &str| {
        let (v4, v6) = (v4.parse().ok(), v6.parse().ok());
        Arc::new(NameRow { name: name.into(), v4, v6, origin: Origin::default() })
    };
    let names = vec![row("b.mesh", "240.0.0.2", "fd00::2"), row("x.example", "240.0.0.3", "")];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
}

#[test]
fn fuzzed_questions_get_well_formed_replies_or_none() {
    let (mesh, empty) = (mesh(), Snapshot::default());
    let rules = Rules { domain: "mesh".into(), no_aaaa: false, hosts: Hosts::default() };
    fuzz("questions.hex", |message| {
        let mut treated = Vec::new();
        for snapshot in [&mesh, &empty] {
            let mut out = [0; ANSWER_BYTES_MAX];
            let outcome = respond(snapshot, &rules, message, &mut out);
            if let Outcome::Reply(length) = outcome {
                let reply = &out[..length];
                assert!(reply.len() <= message.len() + 128 && reply[2] & 0x82 == 0x80 && reply[..2] == message[..2]);
                let read = Message::from_vec(reply).unwrap();
                treated.extend([1, reply[2], reply[3], reply[7], reply[9], reply[11], read.answers.len() as u8]);
            } else {
                treated.push(if outcome == Outcome::Relay { 2 } else { 3 });
                assert!(
                    message.len() < 12 || message[2] & 0x80 == 0 || outcome == Outcome::Silent,
                    "a reply to a reply"
                );
            }
        }
        (treated, wire::question_type(message).map(|kind| kind.min(64)))
    });
}

#[test]
fn fuzzed_replies_are_believed_only_with_our_id_and_question() {
    let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    query.extend(b"\x03www\x07example\x03com\x00\x00\x01\x00\x01");
    fuzz("replies.hex", |reply| {
        let is_believed = judge(&query, reply) == Verdict::Final;
        if is_believed {
            assert!(reply[..2] == query[..2] && reply[2] & 0x80 != 0 && matches!(reply[3] & 15, 0 | 3));
            assert!(reply[12..query.len()].eq_ignore_ascii_case(&query[12..]));
        }
        let mut framed = BytesMut::from(reply);
        let mut messages = 0;
        while let Some(message) = tcp::take_message(&mut framed) {
            messages += 1;
            assert!(message.len() <= reply.len());
        }
        let kind = (wire::is_truncated(reply), wire::rcode(reply), wire::question_count(reply).map(|n| n.min(2)));
        (is_believed, kind, wire::question_name(reply).is_some(), messages.min(2))
    });
}

#[test]
fn fuzzed_resolv_conf_files_give_bounded_settings() {
    fuzz("resolv-conf.hex", |text| {
        let conf = resolv::parse(&String::from_utf8_lossy(text), 53);
        assert!(conf.timeout.is_none_or(|t| (1..=30).contains(&t.as_secs())));
        assert!(conf.attempts.is_none_or(|n| (1..=5).contains(&n)));
        (conf.servers.len().min(4), conf.timeout.is_some(), conf.attempts, conf.rotate)
    });
}
