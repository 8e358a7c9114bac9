//! Which resolvers are asked, and in which order.

use super::*;
use crate::Times;

fn times() -> Times {
    Times { resolv_conf_check: Duration::ZERO, ..Times::default() }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 53)
}

#[test]
fn nameserver_lines_are_read_as_libc_does() {
    let text =
        "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # ours\nnameserver x\nsearch a b\n";
    assert_eq!(parse(text), [at("192.0.2.1"), at("2001:db8::1")]);
}

#[test]
fn a_rewritten_file_is_read_again_and_an_emptied_one_keeps_the_old_resolvers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let resolvers = Resolvers::new(vec![], file.clone(), vec![], &times());
    assert_eq!(resolvers.ordered(Instant::now()), []);
    std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(resolvers.ordered(Instant::now()), [at("192.0.2.1")]);
    let other = folder.path().join("new");
    std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
    std::fs::rename(&other, &file).unwrap();
    assert_eq!(resolvers.ordered(Instant::now()), [at("192.0.2.2")]);
    std::fs::write(&file, "").unwrap();
    assert_eq!(resolvers.ordered(Instant::now()), [at("192.0.2.2")]);
}

#[test]
fn silent_resolvers_come_last_until_their_time_is_over() {
    let servers = vec![at("192.0.2.1"), at("192.0.2.2")];
    let resolvers = Resolvers::new(servers.clone(), PathBuf::new(), vec![], &times());
    let now = Instant::now();
    resolvers.silent(at("192.0.2.1"), now);
    assert_eq!(resolvers.ordered(now), [at("192.0.2.2"), at("192.0.2.1")]);
    assert_eq!(resolvers.ordered(now + Duration::from_secs(11)), servers);
}

#[test]
fn we_never_ask_ourselves() {
    let servers = vec![at("127.0.0.1"), at("192.0.2.1")];
    let resolvers = Resolvers::new(servers, PathBuf::new(), vec![at("0.0.0.0")], &times());
    assert_eq!(resolvers.ordered(Instant::now()), [at("192.0.2.1")]);
}
