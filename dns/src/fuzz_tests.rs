//! Mutated questions, replies and resolv.conf files, from a corpus that is replayed first. A bounded number by default;
//! `WEIR_FUZZ_SECONDS=600 cargo test -p dns fuzz` goes on for so long and adds what behaved in a new way to the corpus.

use crate::answer::ANSWER_BYTES_MAX;
use crate::forward::{Verdict, judge};
use crate::server::{Outcome, Rules, respond};
use crate::{resolv, tcp, wire};
use bytes::BytesMut;
use hickory_proto::op::Message;
use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Snapshot, Tables};
use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Inputs a test tries when it isn't told how long.
const INPUTS: u32 = 30_000;
const CORPUS_MAX: usize = 400;
const INPUT_BYTES_MAX: usize = 1400;
/// Octets at which decisions change: lengths, pointers, OPT, section counts.
const TELLING: [u8; 16] = [0, 1, 2, 11, 12, 13, 15, 28, 41, 63, 64, 127, 128, 0xc0, 0xfc, 0xff];

/// xorshift, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = TELLING[self.below(TELLING.len())],
                2 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                3 => bytes.insert(at, TELLING[self.below(TELLING.len())]),
                4 if !bytes.is_empty() => drop(bytes.drain(at..(at + 1 + self.below(12)).min(bytes.len()))),
                5 => bytes.truncate(at),
                6 => bytes.extend_from_within(at..(at + self.below(40)).min(bytes.len())),
                _ => {
                    let other = &corpus[self.below(corpus.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", name].iter().collect()
}

/// One input a line, in hexadecimal.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn keep(name: &str, corpus: &mut [Vec<u8>]) {
    corpus.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    let mut text = String::new();
    for input in corpus {
        input.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    std::fs::write(path(name), text).unwrap();
}

/// Replays the corpus, then mutates it. `check` fails on a finding and tells how the input was treated: what is treated
/// in a new way is mutated further.
fn fuzz<T: std::hash::Hash>(name: &str, check: impl Fn(&[u8]) -> T) {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut seen = HashSet::new();
    let mut inputs = corpus(name);
    inputs.retain(|input| seen.insert(hasher.hash_one(check(input))));
    let seconds = std::env::var("WEIR_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = if seconds.is_some() { u64::from(std::process::id()) } else { 1 };
    let (mut random, mut tried) = (Random(0x9e37_79b9_7f4a_7c15 ^ seed), 0);
    while end.map_or(tried < INPUTS, |end| tried % 1024 != 0 || Instant::now() < end) {
        tried = tried.wrapping_add(1);
        let input = random.mutated(&inputs);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input)));
        let treated = outcome.unwrap_or_else(|_| panic!("{name}: finding with {input:02x?}"));
        if inputs.len() < CORPUS_MAX && seen.insert(hasher.hash_one(treated)) {
            inputs.push(input);
        }
    }
    if seconds.is_some() {
        keep(name, &mut inputs);
        println!("{name}: {tried} inputs, corpus {}", inputs.len());
    }
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
    let rules = Rules { domain: "mesh".into(), no_aaaa: false };
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
