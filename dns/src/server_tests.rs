//! Our bytes, read by hickory and compared with what hickory makes of the same lookup.

use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;
use snapshot::{DnsSettings, Generation, NameRow, Origin, ProxyRow, Tables};

fn mesh() -> Snapshot {
    let row = |name: &str, v6: Option<&str>| {
        let v6 = v6.map(|a| a.parse().unwrap());
        Arc::new(NameRow { name: name.into(), v4: "240.0.0.1".parse().ok(), v6, origin: Origin::default() })
    };
    let names = vec![row("api.example.com", None), row("both.mesh", Some("fd00:fd00::1")), row("v4.mesh", None)];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap()
}

fn rules() -> Rules {
    Rules { domain: "mesh".into(), no_aaaa: false, hosts: Hosts::default() }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Asked::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_version(version).set_dnssec_ok(true).set_max_payload(4096);
    message.edns = Some(edns);
    message
}

fn answered(snapshot: &Snapshot, message: &[u8]) -> Result<Message, Outcome> {
    let mut out = [0; ANSWER_BYTES_MAX];
    match respond(snapshot, &rules(), message, &mut out) {
        Outcome::Reply(length) => Ok(Message::from_vec(&out[..length]).unwrap()),
        outcome => Err(outcome),
    }
}

fn ask(name: &str, kind: RecordType) -> Message {
    answered(&mesh(), &query(name, kind).to_vec().unwrap()).unwrap()
}

#[test]
fn an_address_is_answered_with_the_questions_case_id_and_flags() {
    let reply = ask("V4.MeSh.", RecordType::A);
    assert_eq!(reply.metadata.id, 4711);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
    assert_eq!(reply.queries[0].name().to_ascii(), "V4.MeSh.");
    let record = &reply.answers[0];
    assert_eq!(record.name.to_ascii(), "V4.MeSh.");
    assert_eq!((record.ttl, record.dns_class), (60, DNSClass::IN));
    assert_eq!(record.data, RData::A("240.0.0.1".parse().unwrap()));
    assert_eq!(ask("both.mesh.", RecordType::AAAA).answers[0].data, RData::AAAA("fd00:fd00::1".parse().unwrap()));
}

#[test]
fn a_missing_record_is_nodata_with_the_soa_of_the_domain_or_of_the_name() {
    for (name, kind, owner) in [
        ("v4.mesh.", RecordType::AAAA, "mesh."),
        ("v4.mesh.", RecordType::HTTPS, "mesh."),
        ("api.example.com.", RecordType::TXT, "api.example.com."),
    ] {
        let reply = ask(name, kind);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!((reply.answers.len(), reply.authorities.len()), (0, 1));
        assert_eq!(reply.authorities[0].name.to_ascii(), owner);
        let RData::SOA(soa) = &reply.authorities[0].data else { panic!("{reply:?}") };
        assert_eq!((soa.minimum, soa.mname.to_ascii()), (60, format!("ns.{owner}")));
    }
}

#[test]
fn edns_is_answered_with_edns_and_an_unknown_version_with_badvers() {
    let reply = answered(&mesh(), &with_edns(query("v4.mesh.", RecordType::A), 0).to_vec().unwrap()).unwrap();
    let edns = reply.edns.as_ref().unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == 1232 && edns.version() == 0);
    assert_eq!(reply.answers.len(), 1);
    let reply = answered(&mesh(), &with_edns(query("v4.mesh.", RecordType::A), 1).to_vec().unwrap()).unwrap();
    // 16 is BADSIG as well, where a signature is meant.
    assert_eq!((u16::from(reply.metadata.response_code), reply.answers.len()), (16, 0));
}

#[test]
fn before_the_first_snapshot_mesh_names_fail_and_others_are_relayed() {
    let empty = Snapshot::default();
    let reply = answered(&empty, &query("v4.mesh.", RecordType::A).to_vec().unwrap()).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let edns = with_edns(query("v4.mesh.", RecordType::A), 0).to_vec().unwrap();
    let mut out = [0; ANSWER_BYTES_MAX];
    let Outcome::Reply(length) = respond(&empty, &rules(), &edns, &mut out) else { panic!("no reply") };
    let (code, text) = Why::NotReady.info();
    let option = [&[0, 15, 0, 2 + text.len() as u8, 0, code as u8], text.as_bytes()].concat();
    assert!(out[..length].ends_with(&option), "an Extended DNS Error says why (RFC 8914)");
    let row = NameRow { name: "late.mesh".into(), v4: None, v6: None, origin: Origin::default() };
    let tables = Tables { names: vec![Arc::new(row)], ..Tables::default() };
    let without = Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap();
    let mut out = [0; ANSWER_BYTES_MAX];
    let asked = with_edns(query("late.mesh.", RecordType::A), 0).to_vec().unwrap();
    let Outcome::Reply(length) = respond(&without, &rules(), &asked, &mut out) else { panic!() };
    assert_eq!(out[3] & 15, 2);
    assert!(String::from_utf8_lossy(&out[..length]).contains("no virtual IP"), "so does a name without an address");
    let other = query("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(answered(&empty, &other).unwrap_err(), Outcome::Relay);
}

#[test]
fn without_aaaa_every_question_for_one_is_answered_empty_and_no_resolver_is_asked() {
    let rules = Rules { no_aaaa: true, ..rules() };
    for (name, authorities) in [("both.mesh.", 1), ("www.example.com.", 0)] {
        let bytes = query(name, RecordType::AAAA).to_vec().unwrap();
        let mut out = [0; ANSWER_BYTES_MAX];
        let Outcome::Reply(length) = respond(&mesh(), &rules, &bytes, &mut out) else { panic!("{name}") };
        let reply = Message::from_vec(&out[..length]).unwrap();
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(reply.authorities.len(), authorities, "only our own zone has a SOA of ours");
        assert_eq!(reply.metadata.authoritative, authorities == 1);
    }
    let bytes = query("www.example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(respond(&mesh(), &rules, &bytes, &mut [0; ANSWER_BYTES_MAX]), Outcome::Relay);
}

#[test]
fn a_host_of_the_operators_is_answered_before_the_mesh_and_before_there_is_one() {
    let given = ["both.mesh=10.0.0.5".parse().unwrap(), "db.example=fd00::5".parse().unwrap()];
    let rules = Rules { hosts: Hosts::new(&given).unwrap(), ..rules() };
    for snapshot in [mesh(), Snapshot::default()] {
        let ask = |name: &str, kind| {
            let mut out = [0; ANSWER_BYTES_MAX];
            match respond(&snapshot, &rules, &query(name, kind).to_vec().unwrap(), &mut out) {
                Outcome::Reply(length) => Message::from_vec(&out[..length]).unwrap(),
                outcome => panic!("{name}: {outcome:?}"),
            }
        };
        assert_eq!(ask("Both.mesh.", RecordType::A).answers[0].data, RData::A(A::new(10, 0, 0, 5)));
        assert_eq!(ask("db.example.", RecordType::AAAA).answers[0].data, RData::AAAA(AAAA("fd00::5".parse().unwrap())));
        for (name, kind) in [("both.mesh.", RecordType::AAAA), ("db.example.", RecordType::TXT)] {
            let reply = ask(name, kind);
            assert_eq!(
                (reply.metadata.response_code, reply.answers.len()),
                (ResponseCode::NoError, 0),
                "{name} {kind}"
            );
        }
    }
}

#[test]
fn what_is_no_plain_question_is_relayed_refused_or_ignored() {
    let plain = query("v4.mesh.", RecordType::A).to_vec().unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = plain.clone();
        bytes[at] = value;
        bytes
    };
    let outcome = |bytes: &[u8]| {
        answered(&mesh(), bytes).map(|reply| (reply.metadata.response_code, bytes.len() >= 12)).map_err(Some)
    };
    assert_eq!(outcome(&with(2, 0x80)), Err(Some(Outcome::Silent)), "a reply");
    assert_eq!(outcome(&plain[..11]), Err(Some(Outcome::Silent)), "too short");
    assert_eq!(outcome(&with(2, 0x28)), Err(Some(Outcome::Relay)), "an update");
    assert_eq!(outcome(&with(5, 0)), Err(Some(Outcome::Relay)), "no question");
    assert_eq!(outcome(&with(5, 2)), Ok((ResponseCode::FormErr, true)), "two questions");
    assert_eq!(outcome(&with(12, 0xc0)), Ok((ResponseCode::FormErr, true)), "a pointer as the name");
    assert_eq!(outcome(&with(12, 0x40)), Ok((ResponseCode::FormErr, true)), "a reserved label type");
    assert_eq!(outcome(&plain[..20]), Ok((ResponseCode::FormErr, true)), "cut");
    assert_eq!(outcome(&with(14, b'.')), Err(Some(Outcome::Relay)), "a dot inside a label");
    assert_eq!(outcome(&[&plain[..], b"x"].concat()), Ok((ResponseCode::FormErr, true)), "more than it says");
}

/// What hickory answers with the same lookup; `None`: nothing, the question isn't ours.
fn by_hickory(snapshot: &Snapshot, message: &[u8]) -> Option<Message> {
    let query = Message::from_vec(message).unwrap();
    let owner = query.queries[0].name().clone();
    let text = owner.to_lowercase().to_ascii();
    let name = text.trim_end_matches('.');
    let (qtype, qclass) = (query.queries[0].query_type().into(), query.queries[0].query_class().into());
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = query.metadata.recursion_desired;
    reply.metadata.authoritative = true;
    let record = |data| Record::from_rdata(owner.clone(), 60, data);
    match lookup(snapshot, &Question { name, qtype, qclass }) {
        Answer::NotOurs => return None,
        _ if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) => {
            (reply.metadata.authoritative, reply.metadata.response_code) = (false, ResponseCode::BADVERS);
        }
        Answer::A(v4) => reply.answers.push(record(RData::A(A(v4)))),
        Answer::Aaaa(v6) => reply.answers.push(record(RData::AAAA(AAAA(v6)))),
        Answer::All { v4, v6 } => {
            reply.answers.extend(v4.map(|v4| record(RData::A(A(v4)))));
            reply.answers.extend(v6.map(|v6| record(RData::AAAA(AAAA(v6)))));
        }
        Answer::Ptr(name) => {
            reply.answers.push(record(RData::PTR(PTR(Name::from_ascii(format!("{name}.")).unwrap()))));
        }
        Answer::NotImplemented => {
            (reply.metadata.authoritative, reply.metadata.response_code) = (false, ResponseCode::NotImp);
        }
        Answer::Unplaced => panic!("every name here has an address"),
        Answer::NoData => {
            let zone = Name::from_ascii(if is_below(name, "mesh") { "mesh." } else { &text }).unwrap();
            let (mname, rname) = (zone.prepend_label("ns").unwrap(), zone.prepend_label("hostmaster").unwrap());
            let soa = SOA::new(mname, rname, 1, 3600, 600, 86_400, 60);
            reply.authorities.push(Record::from_rdata(zone, 60, RData::SOA(soa)));
        }
    }
    reply.edns = query.edns.map(|theirs| {
        let mut ours = Edns::new();
        ours.set_max_payload(1232).set_dnssec_ok(theirs.flags().dnssec_ok);
        ours
    });
    Some(Message::from_vec(&reply.to_vec().unwrap()).unwrap())
}

#[test]
fn any_gives_both_addresses_and_reverse_questions_the_name() {
    let any = ask("both.mesh.", RecordType::ANY);
    let data: Vec<_> = any.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["240.0.0.1", "fd00:fd00::1"]);
    let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.0.0.d.f.ip6.arpa.";
    for (name, expected) in [("1.0.0.240.in-addr.arpa.", "api.example.com."), (nibbles, "both.mesh.")] {
        assert_eq!(ask(name, RecordType::PTR).answers[0].data.to_string(), expected);
    }
    let foreign = query("example.com.", RecordType::ANY).to_vec().unwrap();
    assert_eq!(answered(&mesh(), &foreign).unwrap_err(), Outcome::Relay);
}

#[test]
fn the_longest_answers_fit_what_any_client_takes_over_udp() {
    let label = "x".repeat(63);
    let long = format!("{label}.{label}.{label}.{}.mesh", "x".repeat(56));
    let names = vec![Arc::new(NameRow {
        name: long.clone(),
        v4: "240.0.0.1".parse().ok(),
        v6: "fd00:fd00::1".parse().ok(),
        origin: Origin::default(),
    })];
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let tables = Tables { proxy: ProxyRow { dns, ..ProxyRow::default() }, names, ..Tables::default() };
    let snapshot = Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap();
    let nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.0.0.d.f.ip6.arpa.";
    for (name, kind) in [(&*long, RecordType::ANY), (&long, RecordType::TXT), (nibbles, RecordType::PTR)] {
        let bytes = with_edns(query(&format!("{}.", name.trim_end_matches('.')), kind), 0).to_vec().unwrap();
        let reply = answered(&snapshot, &bytes).unwrap();
        assert!(!reply.metadata.truncation && reply.answers.len() + reply.authorities.len() > 0, "{name} {kind}");
        assert!(answered(&Snapshot::default(), &bytes).is_ok() || kind == RecordType::PTR, "refusals too");
    }
}

/// `plain` as the fast path never sees it: with records in every section, whose names are pointers, and OPT among them.
fn written_oddly(plain: &[u8]) -> Vec<u8> {
    let record = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00\x02\x01x";
    let edns = plain[11] == 1;
    let (question, opt) = plain.split_at(plain.len() - if edns { 11 } else { 0 });
    let mut bytes = [question, record, record, record, opt, record].concat();
    bytes[6..12].copy_from_slice(&[0, 1, 0, 1, 0, 2 + u8::from(edns)]);
    bytes
}

#[test]
fn records_behind_the_question_are_read_to_their_end_or_refused() {
    let plain = with_edns(query("v4.mesh.", RecordType::A), 0).to_vec().unwrap();
    let at = plain.len() - 11;
    let odd = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        change(&mut bytes);
        answered(&mesh(), &bytes).unwrap().metadata.response_code
    };
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let with_options = |b: &mut Vec<u8>, options: &[u8]| {
        b[at + 10] = options.len() as u8;
        b.extend(options);
    };
    assert_eq!(odd(&|b| with_options(b, &cookie)), ResponseCode::NoError, "a cookie is ignored");
    assert_eq!(odd(&|b| with_options(b, &cookie[..11])), ResponseCode::FormErr, "an option that is cut");
    assert_eq!(odd(&|b| b[at + 10] = 1), ResponseCode::FormErr, "data that isn't there");
    assert_eq!(odd(&|b| b[11] = 2), ResponseCode::FormErr, "a record that isn't there");
    assert_eq!(odd(&|b| b[8] = 255), ResponseCode::FormErr, "60,000 records that aren't there");
    assert_eq!(odd(&|b| (b[7], b[11]) = (1, 0)), ResponseCode::FormErr, "OPT as an answer");
    assert_eq!(odd(&|b| b.splice(at..=at, [1, b'x', 0]).for_each(drop)), ResponseCode::FormErr, "OPT of a name");
    assert_eq!(odd(&|b| b.splice(at..=at, [0xc0, at as u8]).for_each(drop)), ResponseCode::FormErr, "a loop");
    let twice = |b: &mut Vec<u8>| {
        b.extend_from_within(at..);
        b[11] = 2;
    };
    assert_eq!(odd(&twice), ResponseCode::FormErr, "two OPT records");
}

fn in_random_case(name: &str, seed: u64) -> String {
    let turned = |(at, c): (usize, char)| if seed >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(turned).collect()
}

proptest! {
    #[test]
    fn the_fast_path_and_the_full_path_give_the_same_bytes_and_hickory_the_same_answer(
        name in 0usize..7, kind in any::<u16>(), seed in any::<u64>(), edns in 0u8..3, flags in any::<(bool, bool)>(),
        usual in any::<bool>(),
    ) {
        let names = ["v4.mesh.", "both.mesh.", "api.example.com.", "unknown.mesh.", "www.example.com.",
            "1.0.0.240.in-addr.arpa.", "9.0.0.240.in-addr.arpa."];
        let kind = if usual { [1, 28, 255, 12][usize::from(kind & 3)] } else { kind };
        let mut message = query(&in_random_case(names[name], seed), RecordType::from(kind));
        message.metadata.id = seed as u16;
        message.metadata.recursion_desired = flags.0;
        message.metadata.checking_disabled = flags.1;
        if edns > 0 {
            message = with_edns(message, edns - 1);
        }
        let bytes = message.to_vec().unwrap();
        let (mut fast, mut full) = ([0; ANSWER_BYTES_MAX], [0; ANSWER_BYTES_MAX]);
        let outcome = respond(&mesh(), &rules(), &bytes, &mut fast);
        prop_assert_eq!(&outcome, &respond(&mesh(), &rules(), &written_oddly(&bytes), &mut full));
        prop_assert_eq!(fast, full);
        let ours = if let Outcome::Reply(length) = outcome { Some(Message::from_vec(&fast[..length]).unwrap()) } else { None };
        prop_assert_eq!(ours, by_hickory(&mesh(), &bytes));
    }

    #[test]
    fn random_bytes_never_panic_and_replies_hardly_exceed_them(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600), queries in 0u8..3, plain in any::<bool>(),
    ) {
        if let (Some(head), true) = (bytes.get_mut(..12), plain) {
            head[2..].copy_from_slice(&[1, 0, 0, queries, 0, 0, 0, 0, 0, 0]);
        }
        let mut out = [0; ANSWER_BYTES_MAX];
        if let Outcome::Reply(length) = respond(&mesh(), &rules(), &bytes, &mut out) {
            prop_assert!(length <= bytes.len() + 128);
            prop_assert!(out[2] & 0x80 != 0 && out[..2] == bytes[..2]);
        }
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0usize..60, value in any::<u8>()) {
        let mut bytes = with_edns(query("both.mesh.", RecordType::A), 0).to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let mut out = [0; ANSWER_BYTES_MAX];
        respond(&mesh(), &rules(), &bytes, &mut out);
    }
}
