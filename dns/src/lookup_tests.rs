//! The rules of answers, one sentence each.

use super::*;
use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Tables};
use std::sync::Arc;

fn mesh() -> Snapshot {
    let row = |name: &str, v4: Option<&str>, v6: Option<&str>| {
        let (v4, v6) = (v4.map(|a| a.parse().unwrap()), v6.map(|a| a.parse().unwrap()));
        Arc::new(NameRow { name: name.into(), v4, v6, origin: Origin::default() })
    };
    let names = vec![
        row("api.example.com", Some("240.0.0.3"), None),
        row("backend.mesh", Some("240.0.0.1"), Some("fd00:fd00::1")),
        row("redis.mesh", Some("240.0.0.2"), None),
        row("unplaced.mesh", None, None),
    ];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
}

const TXT: u16 = 16;
const HTTPS: u16 = 65;
const AXFR: u16 = 252;
const CHAOS: u16 = 3;

#[test]
fn every_question_has_its_answer() {
    let v4 = |a: &str| a.parse::<Ipv4Addr>().unwrap();
    let v6: Ipv6Addr = "fd00:fd00::1".parse().unwrap();
    let snapshot = mesh();
    let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.0.0.d.f.ip6.arpa";
    for (name, kind, qclass, expected) in [
        ("backend.mesh", qtype::A, class::IN, Answer::A(v4("240.0.0.1"))),
        ("backend.mesh", qtype::AAAA, class::IN, Answer::Aaaa(v6)),
        ("backend.mesh", qtype::A, class::ANY, Answer::A(v4("240.0.0.1"))),
        ("backend.mesh", qtype::ANY, class::IN, Answer::All { v4: Some(v4("240.0.0.1")), v6: Some(v6) }),
        ("backend.mesh", qtype::A, CHAOS, Answer::NotOurs),
        ("redis.mesh", qtype::AAAA, class::IN, Answer::NoData),
        ("redis.mesh", TXT, class::IN, Answer::NoData),
        ("redis.mesh", HTTPS, class::IN, Answer::NoData),
        ("redis.mesh", qtype::PTR, class::IN, Answer::NoData),
        ("unplaced.mesh", qtype::A, class::IN, Answer::Unplaced),
        ("unplaced.mesh", qtype::ANY, class::IN, Answer::Unplaced),
        ("api.example.com", qtype::A, class::IN, Answer::A(v4("240.0.0.3"))),
        ("www.api.example.com", qtype::A, class::IN, Answer::NotOurs),
        ("unknown.mesh", qtype::A, class::IN, Answer::NotOurs),
        ("mesh", qtype::A, class::IN, Answer::NotOurs),
        ("", qtype::A, class::IN, Answer::NotOurs),
        ("2.0.0.240.in-addr.arpa", qtype::PTR, class::IN, Answer::Ptr("redis.mesh")),
        ("2.0.0.240.in-addr.arpa", qtype::A, class::IN, Answer::NotOurs),
        ("9.0.0.240.in-addr.arpa", qtype::PTR, class::IN, Answer::NotOurs),
        ("2.0.0.0.240.in-addr.arpa", qtype::PTR, class::IN, Answer::NotOurs),
        ("+2.0.0.240.in-addr.arpa", qtype::PTR, class::IN, Answer::NotOurs),
        ("02.0.0.240.in-addr.arpa", qtype::PTR, class::IN, Answer::NotOurs),
        ("redis.mesh", AXFR, class::IN, Answer::NotImplemented),
        (nibbles, qtype::PTR, class::IN, Answer::Ptr("backend.mesh")),
        ("1.0.0.ip6.arpa", qtype::PTR, class::IN, Answer::NotOurs),
    ] {
        let answer = lookup(&snapshot, &Question { name, qtype: kind, qclass });
        assert_eq!(answer, expected, "{name} type {kind} class {qclass}");
    }
}

#[test]
fn below_a_domain_means_whole_labels() {
    assert!(is_below("a.mesh", "mesh"));
    assert!(is_below("mesh", "mesh"));
    assert!(!is_below("amesh", "mesh"));
    assert!(!is_below("a.mesh", ""));
}
