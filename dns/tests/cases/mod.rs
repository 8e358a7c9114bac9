//! The acceptance cases of spec/naming.md §13.4 that a server alone can show, each by its number; K49 to K52 and N11
//! are the compiler's.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

fn names(rows: &[(&str, Option<&str>, Option<&str>)], ttl_s: u32, sequence: u64) -> Snapshot {
    let names = rows.iter().map(|(name, v4, v6)| {
        let (v4, v6) = (v4.map(|a| a.parse().unwrap()), v6.map(|a| a.parse().unwrap()));
        Arc::new(NameRow { name: (*name).into(), v4, v6, origin: Origin::default() })
    });
    let dns = DnsSettings { domain: "mesh".into(), ttl_s, ..DnsSettings::default() };
    let proxy = ProxyRow { dns, ..ProxyRow::default() };
    let tables = Tables { proxy, names: names.collect(), ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence }).unwrap()
}

/// A resolver that answers NXDOMAIN, and how often it was asked.
async fn nobody() -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = resolver(move |query| {
        counter.fetch_add(1, Relaxed);
        vec![reply(query, 3)]
    });
    (address.await, asked)
}

async fn serve(snapshot: Snapshot, upstream: SocketAddr) -> Server {
    start_with(Config { upstreams: all(vec![upstream]), times: times(), ..Config::default() }, snapshot).await
}

fn typed(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = query(7, name);
    let at = bytes.len() - 4;
    bytes[at..at + 2].copy_from_slice(&kind.to_be_bytes());
    bytes
}

/// (code, answers, authorities) and whether the server speaks for the name.
fn summary(answer: &[u8]) -> (u8, u8, u8, bool) {
    (answer[3] & 0x0f, answer[7], answer[9], answer[2] & 0x04 != 0)
}

const NO_DATA: (u8, u8, u8, bool) = (0, 0, 1, true);

#[tokio::test]
async fn k53_a_name_of_the_table_is_answered_with_its_ttl_and_nobody_else_is_asked() {
    let (upstream, asked) = nobody().await;
    let server = serve(names(&[("example.com", Some("240.0.0.1"), Some("::2"))], 123, 1), upstream).await;
    let v6 = "::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    for (kind, data) in [(A, &[240, 0, 0, 1][..]), (AAAA, &v6[..])] {
        let answer = ask(server.address, &typed("example.com", kind)).await;
        assert_eq!(summary(&answer), (0, 1, 0, true));
        assert!(answer.ends_with(&[&[0, 0, 0, 123, 0, data.len() as u8], data].concat()), "{answer:?}");
    }
    assert_eq!(asked.load(Relaxed), 0);
}

#[tokio::test]
async fn k54_a_name_that_is_not_in_the_table_is_relayed_and_answered_verbatim() {
    let server = serve(mesh(), resolver(|query| vec![reply(query, 0)]).await).await;
    let question = query(7, "example.org");
    assert_eq!(ask(server.address, &question).await, reply(&question, 0));
}

#[tokio::test]
async fn k55_a_failing_upstream_is_servfail() {
    for upstream in [resolver(|query| vec![reply(query, 2)]).await, closed().await] {
        assert_eq!(ask(serve(mesh(), upstream).await.address, &query(7, "example.org")).await[3] & 0x0f, 2);
    }
}

#[tokio::test]
async fn n8_aaaa_of_an_ipv4_only_name_is_nodata_not_nxdomain() {
    let (upstream, asked) = nobody().await;
    let server = serve(mesh(), upstream).await;
    assert_eq!(summary(&ask(server.address, &typed("backend.mesh", AAAA)).await), NO_DATA);
    assert_eq!(asked.load(Relaxed), 0);
}

#[tokio::test]
async fn n9_case_does_not_matter_and_is_echoed() {
    let server = serve(names(&[("example.com", Some("240.0.0.1"), None)], 60, 1), nobody().await.0).await;
    for name in ["EXAMPLE.com", "eXaMpLe.CoM"] {
        let question = query(7, name);
        let answer = ask(server.address, &question).await;
        assert_eq!((summary(&answer), &answer[12..question.len()]), ((0, 1, 0, true), &question[12..]));
    }
}

#[tokio::test]
async fn n10_any_other_type_of_a_mesh_name_is_nodata() {
    let (upstream, asked) = nobody().await;
    let server = serve(mesh(), upstream).await;
    let (mx, srv, https, cname) = (15, 33, 65, 5);
    for kind in [TXT, mx, srv, https, cname, 65_535] {
        assert_eq!(summary(&ask(server.address, &typed("backend.mesh", kind)).await), NO_DATA, "type {kind}");
    }
    assert_eq!(asked.load(Relaxed), 0);
}

#[tokio::test]
async fn n12_without_a_control_plane_the_last_table_answers() {
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(mesh())).unwrap();
    let bound = dns::bind(Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() }, reader);
    let bound = bound.await.unwrap();
    let address = bound.addresses()[0];
    tokio::spawn(bound.run(std::future::pending()));
    drop(publisher);
    assert_eq!(summary(&ask(address, &query(7, "backend.mesh")).await), (0, 1, 0, true));
}

#[tokio::test]
async fn n13_a_deleted_services_name_goes_upstream_from_the_next_snapshot_on() {
    let (upstream, _) = nobody().await;
    let (mut publisher, reader) = snapshot::cell();
    publisher.publish(Arc::new(mesh())).unwrap();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, upstreams: all(vec![upstream]), times: times(), ..Config::default() };
    let bound = dns::bind(config, reader).await.unwrap();
    let address = bound.addresses()[0];
    tokio::spawn(bound.run(std::future::pending()));
    assert_eq!(summary(&ask(address, &query(7, "backend.mesh")).await), (0, 1, 0, true));
    publisher.publish(Arc::new(names(&[], 60, 2))).unwrap();
    assert_eq!(ask(address, &query(7, "backend.mesh")).await, reply(&query(7, "backend.mesh"), 3));
}

#[tokio::test]
async fn n14_tcp_gives_the_same_bytes_as_udp() {
    let snapshot =
        names(&[("backend.mesh", Some("240.0.0.1"), None), ("both.mesh", Some("240.0.0.2"), Some("fd00::2"))], 60, 1);
    let server = serve(snapshot, resolver(|query| vec![reply(query, 3)]).await).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for name in ["backend.mesh", "Both.Mesh", "2.0.0.240.in-addr.arpa"] {
        for kind in [A, AAAA, TXT, 12, 252, 255] {
            let question = typed(name, kind);
            let over_udp = ask(server.address, &question).await;
            send(&mut stream, &question).await;
            // What isn't ours was relayed over UDP here: nobody listens there over TCP.
            assert_eq!(receive(&mut stream).await, over_udp, "{name} {kind}");
        }
    }
}

#[tokio::test]
async fn every_metric_has_its_name_and_says_whose_it_is() {
    let dns = DnsSettings { domain: "mesh".into(), ttl_s: 60, ..DnsSettings::default() };
    let proxy = ProxyRow { dns, mesh: "default".into(), zone: "east".into(), ..ProxyRow::default() };
    let tables = Tables { proxy, ..Tables::default() };
    let snapshot = Snapshot::build(tables, Generation { epoch: 1, sequence: 1 }).unwrap();
    let (upstream, _) = nobody().await;
    let server = serve(snapshot, upstream).await;
    ask(server.address, &typed("example.org", AAAA)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    send(&mut stream, &query(7, "example.org")).await;
    receive(&mut stream).await;
    let rendered = || {
        let mut text = String::new();
        server.metrics.render(&mut text);
        text
    };
    let whose = "kuma_io_zone=\"east\",mesh=\"default\"";
    // A reply is counted after it is sent, at last here; the wait for the snapshot when the server first runs.
    let last = format!("kuma_dp_dns_request_duration_seconds_count{{{whose}}} 2");
    let whole = |text: &str| text.contains("ready_wait_seconds{") && text.contains(&last);
    let counted = async {
        while !whole(&rendered()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    let text = rendered();
    for line in [
        format!("kuma_dp_dns_upstream_request_duration_seconds_bucket{{{whose},le=\"+Inf\"}} 2"),
        format!("kuma_dp_dns_upstream_request_failure_count{{{whose}}} 0"),
        format!("kuma_dp_dns_queries_total{{{whose},qtype=\"AAAA\",source=\"upstream\"}} 1"),
        format!("kuma_dp_dns_response_codes_total{{{whose},rcode=\"nxdomain\"}} 2"),
        format!("kuma_dp_dns_entries_total{{{whose}}} 0"),
        format!("kuma_dp_dns_config_ready_wait_seconds{{{whose}}} 0"),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}
