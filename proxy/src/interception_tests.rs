//! Ranges and rules as values, and connections to virtual IPs in a network namespace of the test's own.

use std::time::Duration;

use crate::socket::{Acceptor, BindOptions, listen_tcp, original_destination};

use super::*;
use std::net::SocketAddr;

#[test]
fn ranges_are_read_with_their_host_bits_cleared() {
    let range: Range = "240.1.2.3/4".parse().unwrap();
    assert_eq!(range.to_string(), "240.0.0.0/4");
    let range: Range = "fd00:fd00::1/64".parse().unwrap();
    assert_eq!(range.to_string(), "fd00:fd00::/64");
    for wrong in ["", "240.0.0.0", "240.0.0.0/33", "fd00::/129", "x/4", "1.2.3.4/-1"] {
        assert!(wrong.parse::<Range>().unwrap_err().contains("240.0.0.0/4"), "{wrong}");
    }
}

#[test]
fn tproxy_is_one_rule_a_family() {
    let ranges = ["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
    let rules = tproxy_rules(&ranges, 15001);
    assert!(rules.contains("ip daddr { 240.0.0.0/4 } meta l4proto tcp tproxy ip to :15001 accept\n"), "{rules}");
    assert!(rules.contains("ip6 daddr { fd00:fd00::/64 } meta l4proto tcp tproxy ip6 to :15001 accept\n"), "{rules}");
    assert!(!tproxy_rules(&ranges[..1], 15001).contains("ip6"));
}

#[test]
fn loopback_ranges_and_redirect_need_no_privilege() {
    let ranges = ["127.128.0.0/16".parse().unwrap()];
    assert!(install(Mode::Bind, &ranges, 15001).unwrap().routes.is_empty());
    assert!(!install(Mode::Redirect, &["240.0.0.0/4".parse().unwrap()], 15001).unwrap().table);
}

#[test]
fn the_capability_is_read_from_the_effective_mask() {
    assert_eq!(effective_capabilities("CapPrm:\tffff\nCapEff:\t0000000000001000\n") >> CAP_NET_ADMIN_BIT, 1);
    assert_eq!(effective_capabilities("nothing"), 0);
}

const VIPS: [&str; 2] = ["240.0.0.0/4", "fd00:fd00::/64"];
const LONG: Duration = Duration::from_secs(20);

fn vips() -> Vec<Range> {
    VIPS.map(|range| range.parse().unwrap()).to_vec()
}

/// IPv6 counts as present once the loopback interface has its address, which it has.
fn machine() -> String {
    let tables = ["-4", "-6"].map(|family| harness::command("ip", &[family, "route", "show", "table", "all"]));
    [tables.concat(), harness::command("nft", &["list", "ruleset"])].concat()
}

/// What a connection to `vip` looks like to a listener bound to `listen`.
fn arrives(listen: &str, vip: &str, mode: Mode) -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = BindOptions { transparent: true, ..BindOptions::default() };
        // Two workers: the kernel may give the connection to either.
        let [mut one, mut two] =
            [(); 2].map(|()| Acceptor::new(listen_tcp(listen.parse().unwrap(), options).unwrap()).unwrap());
        let client = tokio::time::timeout(LONG, tokio::net::TcpStream::connect(vip)).await.unwrap().unwrap();
        let (stream, peer) = tokio::time::timeout(LONG, async {
            tokio::select! { accepted = one.accept() => accepted, accepted = two.accept() => accepted }
        })
        .await
        .unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        original_destination(&stream, mode).unwrap()
    })
}

harness::isolated_tests! {
    fn bound_virtual_ips_are_dialled_without_any_rule() {
        let before = machine();
        let installed = install(Mode::Bind, &vips(), 15001).unwrap();
        for vip in ["240.0.0.7:80", "[fd00:fd00::7]:80"] {
            assert_eq!(arrives(vip, vip, Mode::Bind).to_string(), vip);
        }
        assert!(harness::command("nft", &["list", "ruleset"]).is_empty());
        installed.remove().unwrap();
        assert_eq!(machine(), before);
    }

    fn one_wildcard_socket_takes_all_virtual_ips_with_tproxy() {
        let before = machine();
        let installed = install(Mode::Tproxy, &vips(), 15001).unwrap();
        for (listen, vip) in [("0.0.0.0:15001", "240.0.0.7:80"), ("0.0.0.0:15001", "250.1.2.3:9"), ("[::]:15001", "[fd00:fd00::7]:80")] {
            assert_eq!(arrives(listen, vip, Mode::Tproxy).to_string(), vip);
        }
        drop(installed);
        assert_eq!(machine(), before);
    }

    fn installing_over_the_remains_of_a_crash_works_and_leaves_foreign_routes() {
        harness::command("ip", &["route", "add", "local", "240.0.0.0/4", "dev", "lo"]);
        let before = machine();
        std::mem::forget(install(Mode::Tproxy, &vips()[..1], 15001).unwrap());
        install(Mode::Tproxy, &vips()[..1], 15001).unwrap().remove().unwrap();
        assert_eq!(machine(), before);
    }

    fn without_the_capability_the_error_says_what_to_do() {
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(1000)).unwrap();
        let error = install(Mode::Bind, &vips(), 15001).unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("127.0.0.0/8"), "{error}");
    }
}
