//! Which resolvers are asked, and in which order.

use super::*;
use crate::Times;
use std::path::Path;

const PORT: u16 = 53;

fn times() -> Times {
    Times { resolv_conf_check: Duration::ZERO, resolv_conf_settle: Duration::ZERO, ..Times::default() }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), PORT)
}

fn rule(text: &str) -> DnsUpstream {
    text.parse().unwrap()
}

/// Of a file alone.
fn of_file(file: &Path) -> Resolvers {
    Resolvers::new(vec![], (file.to_owned(), PORT), vec![], &times())
}

fn fixed(servers: &[&str]) -> Resolvers {
    Resolvers::new(servers.iter().map(|server| rule(server)).collect(), ("".into(), PORT), vec![], &times())
}

fn ordered(resolvers: &Resolvers) -> Vec<SocketAddr> {
    resolvers.plan(Some("example.com"), &[], Instant::now()).servers
}

#[test]
fn nameservers_and_options_are_read_as_libc_does() {
    let text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # ours\nnameserver x\n\
        search a b\noptions ndots:5 timeout:3 attempts:9 rotate\noptions timeout:x\n";
    let conf = parse(text, PORT);
    assert_eq!(conf.servers, [at("192.0.2.1"), at("2001:db8::1")]);
    assert_eq!((conf.timeout, conf.attempts, conf.rotate), (Some(Duration::from_secs(3)), Some(5), true));
    assert_eq!(parse("options timeout:0 attempts:0", PORT).timeout, Some(Duration::from_secs(1)));
}

#[test]
fn a_rewritten_file_counts_beside_the_old_one_until_it_stands_still() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let resolvers = of_file(&file);
    assert_eq!(ordered(&resolvers), []);
    std::fs::write(&file, "nameserver 192.0.2.1").unwrap();
    assert_eq!(ordered(&resolvers), [at("192.0.2.1")], "the first is taken as it is");
    let other = folder.path().join("new");
    std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
    std::fs::rename(&other, &file).unwrap();
    assert_eq!(ordered(&resolvers), [at("192.0.2.2"), at("192.0.2.1")]);
    assert_eq!(ordered(&resolvers), [at("192.0.2.2")]);
}

#[test]
fn a_half_written_file_loses_no_resolver_and_gives_no_wrong_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    let resolvers = of_file(&file);
    assert_eq!(ordered(&resolvers), [at("192.0.2.1")]);
    for half in ["", "names", "nameserver 192.0.2.2"] {
        std::fs::write(&file, half).unwrap();
        assert_eq!(ordered(&resolvers), [at("192.0.2.1")], "{half:?}");
    }
    std::fs::write(&file, "nameserver 192.0.2.21\nnameserver 192.0.2.3").unwrap();
    assert_eq!(ordered(&resolvers), [at("192.0.2.21"), at("192.0.2.1")], "a line may be cut");
    assert_eq!(ordered(&resolvers), [at("192.0.2.21"), at("192.0.2.3")], "nobody writes any more");
    for gone in ["", "# nothing\n"] {
        std::fs::write(&file, gone).unwrap();
        for _ in 0..3 {
            assert_eq!(ordered(&resolvers), [at("192.0.2.21"), at("192.0.2.3")], "the last good one stays");
        }
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ordered(&resolvers).len(), 2);
}

#[test]
fn silent_resolvers_come_last_and_are_probed_by_one_query_at_a_time() {
    let (one, two) = (at("192.0.2.1"), at("192.0.2.2"));
    let resolvers = fixed(&["192.0.2.1", "192.0.2.2"]);
    let now = Instant::now();
    resolvers.silent(one, now);
    let plan = |after| resolvers.plan(None, &[], now + Duration::from_secs(after));
    assert_eq!(plan(1), Plan { servers: vec![two, one], ..Plan::default() });
    assert_eq!(plan(11), Plan { servers: vec![two, one], probe: Some(one), ..Plan::default() });
    assert_eq!(plan(12).probe, None);
    assert_eq!(plan(22).probe, Some(one));
    resolvers.silent(two, now);
    assert_eq!(plan(50).probe, None, "when all are silent the first is asked anyway");
    resolvers.answered(one);
    assert_eq!(plan(50).servers, [one, two]);
}

#[test]
fn rotate_begins_with_another_server_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 192.0.2.1\nnameserver 192.0.2.2\noptions rotate\n").unwrap();
    let resolvers = of_file(&file);
    let (first, second) = (ordered(&resolvers), ordered(&resolvers));
    assert_eq!((first[0], first[1]), (second[1], second[0]));
    assert_eq!(first, ordered(&resolvers));
}

#[test]
fn the_longest_domain_decides_and_the_proxys_rule_beats_the_control_planes() {
    let own = vec![rule("consul=192.0.2.1:8600"), rule("consul=192.0.2.2"), rule("10.in-addr.arpa=192.0.2.3")];
    let mesh = [rule("Consul.=192.0.2.4"), rule("dc1.consul=192.0.2.5"), rule("[2001:db8::1]:5353")];
    let resolvers = Resolvers::new(own, ("".into(), PORT), vec![], &times());
    for (name, expected) in [
        ("web.consul", "192.0.2.1:8600"),
        ("consul", "192.0.2.1:8600"),
        ("web.dc1.consul", "192.0.2.5:53"),
        ("7.0.0.10.in-addr.arpa", "192.0.2.3:53"),
        ("notconsul", "[2001:db8::1]:5353"),
    ] {
        let plan = resolvers.plan(Some(name), &mesh, Instant::now());
        assert_eq!(plan.servers[0], expected.parse().unwrap(), "{name}");
    }
    assert_eq!(resolvers.plan(Some("a.consul"), &mesh, Instant::now()).servers.len(), 2);
    assert_eq!(resolvers.plan(Some("example.com"), &[], Instant::now()).servers, []);
}

#[test]
fn we_never_ask_ourselves() {
    let rules = vec![rule("127.0.0.1"), rule("192.0.2.1")];
    let resolvers = Resolvers::new(rules, ("".into(), PORT), vec![at("0.0.0.0")], &times());
    assert_eq!(ordered(&resolvers), [at("192.0.2.1")]);
}
