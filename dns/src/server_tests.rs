//! The fast path's bytes, read by hickory and compared with hickory's own.

use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
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
    let mut out = [0; wire::ANSWER_BYTES_MAX];
    match respond(snapshot, "mesh", message, &mut out) {
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
    let mut out = [0; wire::ANSWER_BYTES_MAX];
    let Outcome::Reply(length) = respond(&empty, "mesh", &edns, &mut out) else { panic!("no reply") };
    let (code, text) = Why::NotReady.info();
    let option = [&[0, 15, 0, 2 + text.len() as u8, 0, code as u8], text.as_bytes()].concat();
    assert!(out[..length].ends_with(&option), "an Extended DNS Error says why (RFC 8914)");
    assert_eq!(by_hickory(Snapshot::default(), &edns), Unusual::Reply(out[..length].to_vec()));
    let other = query("example.com.", RecordType::A).to_vec().unwrap();
    assert_eq!(answered(&empty, &other).unwrap_err(), Outcome::Relay);
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
    assert_eq!(outcome(&[&plain[..], b"x"].concat()), Err(Some(Outcome::Unusual)), "more than it says");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn by_hickory(snapshot: Snapshot, message: &[u8]) -> Unusual {
    let mesh = Mesh { snapshot: Arc::new(snapshot), domain: "mesh".into() };
    block_on(unusual::answer(message, "127.0.0.1:1".parse().unwrap(), mesh))
}

#[test]
fn hickory_and_the_fast_path_give_equal_answers() {
    for name in ["v4.mesh.", "Both.Mesh.", "API.example.com."] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::HTTPS] {
            for message in [query(name, kind), with_edns(query(name, kind), 0), with_edns(query(name, kind), 1)] {
                let bytes = message.to_vec().unwrap();
                let Unusual::Reply(slow) = by_hickory(mesh(), &bytes) else { panic!("{name} {kind}") };
                assert_eq!(answered(&mesh(), &bytes).unwrap(), Message::from_vec(&slow).unwrap(), "{name} {kind}");
            }
        }
    }
}

#[test]
fn any_and_reverse_questions_are_answered_by_hickory() {
    for (name, kind, answers) in [("both.mesh.", RecordType::ANY, 2), ("1.0.0.240.in-addr.arpa.", RecordType::PTR, 1)] {
        let bytes = query(name, kind).to_vec().unwrap();
        assert_eq!(answered(&mesh(), &bytes).unwrap_err(), Outcome::Unusual);
        let Unusual::Reply(reply) = by_hickory(mesh(), &bytes) else { panic!("{name}") };
        assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), answers);
    }
    let foreign = query("example.com.", RecordType::ANY).to_vec().unwrap();
    assert_eq!(by_hickory(mesh(), &foreign), Unusual::Relay);
    assert_eq!(by_hickory(mesh(), &foreign[..16]), Unusual::Malformed);
}

fn in_random_case(name: &str, seed: u64) -> String {
    let turned = |(at, c): (usize, char)| if seed >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
    name.chars().enumerate().map(turned).collect()
}

proptest! {
    #[test]
    fn the_fast_path_and_the_full_path_give_the_same_bytes(
        (name, kind) in ((0usize..5), any::<u16>()), seed in any::<u64>(), edns in 0u8..3, flags in any::<(bool, bool)>(), address in any::<bool>(),
    ) {
        let names = ["v4.mesh.", "both.mesh.", "api.example.com.", "unknown.mesh.", "www.example.com."];
        let kind = if address { 1 + 27 * (kind & 1) } else { kind };
        let mut message = query(&in_random_case(names[name], seed), RecordType::from(kind));
        message.metadata.id = seed as u16;
        message.metadata.recursion_desired = flags.0;
        message.metadata.checking_disabled = flags.1;
        if edns > 0 {
            message = with_edns(message, edns - 1);
        }
        let bytes = message.to_vec().unwrap();
        let mut out = [0; wire::ANSWER_BYTES_MAX];
        match respond(&mesh(), "mesh", &bytes, &mut out) {
            Outcome::Reply(length) => prop_assert_eq!(by_hickory(mesh(), &bytes), Unusual::Reply(out[..length].to_vec())),
            Outcome::Relay => prop_assert_eq!(by_hickory(mesh(), &bytes), Unusual::Relay),
            Outcome::Silent | Outcome::Unusual => {}
        }
    }

    #[test]
    fn random_bytes_never_panic_and_replies_hardly_exceed_them(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600), queries in 0u8..3, plain in any::<bool>(),
    ) {
        if let (Some(head), true) = (bytes.get_mut(..12), plain) {
            head[2..].copy_from_slice(&[1, 0, 0, queries, 0, 0, 0, 0, 0, 0]);
        }
        let mut out = [0; wire::ANSWER_BYTES_MAX];
        if let Outcome::Reply(length) = respond(&mesh(), "mesh", &bytes, &mut out) {
            prop_assert!(length <= bytes.len() + 128);
            prop_assert!(out[2] & 0x80 != 0 && out[..2] == bytes[..2]);
        }
        by_hickory(mesh(), &bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0usize..60, value in any::<u8>()) {
        let mut bytes = with_edns(query("both.mesh.", RecordType::A), 0).to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let mut out = [0; wire::ANSWER_BYTES_MAX];
        respond(&mesh(), "mesh", &bytes, &mut out);
        by_hickory(mesh(), &bytes);
    }
}
