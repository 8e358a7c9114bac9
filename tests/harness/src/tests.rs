//! The harness's own promises.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::{HttpServer, Network, command, http_get, try_command};

const LONG: Duration = Duration::from_secs(20);

crate::isolated_tests! {
    fn nodes_reach_each_other_over_both_families() {
        let mut network = Network::new();
        let (server, client) = (network.node("server"), network.node("client"));
        for (to, from) in server.addresses().into_iter().zip(client.addresses()) {
            let http = server.enter(|| HttpServer::start(SocketAddr::new(to, 0), |head, peer| format!("{} {head}", peer.ip())));
            let answer = client.enter(|| http_get(http.address, "web.mesh", "/a")).unwrap();
            assert!(answer.contains(&format!("\r\n\r\n{from} GET /a HTTP/1.1\r\nhost: web.mesh")), "{answer}");
        }
    }

    fn each_node_has_its_own_resolvers() {
        let mut network = Network::new();
        let (one, two) = (network.node("one"), network.node("two"));
        one.set_resolv_conf("nameserver 10.1.1.1\n");
        two.set_resolv_conf("nameserver 10.2.2.2\n");
        assert!(one.run("cat", &["/etc/resolv.conf"]).contains("10.1.1.1"));
        assert!(two.run("cat", &["/etc/resolv.conf"]).contains("10.2.2.2"));
    }

    fn the_log_of_a_program_can_be_awaited_and_the_program_ends_with_its_handle() {
        let mut network = Network::new();
        let node = network.node("node");
        let mut process = node.spawn("sh", &["-c", "echo ready; exec sleep 1000"]);
        assert_eq!(process.wait_for("ready", LONG), "ready");
        let id = process.id().to_string();
        drop(process);
        assert!(try_command("kill", &["-0", &id]).is_err());
    }

    fn nothing_of_the_machine_outside_is_seen() {
        assert_eq!(command("nft", &["list", "ruleset"]), "");
        assert_eq!(command("ip", &["-o", "link"]).lines().filter(|line| line.contains("UP")).count(), 1);
    }
}

#[test]
fn a_failing_test_fails_outside_its_namespaces_too() {
    let result = std::panic::catch_unwind(|| {
        crate::isolated("harness::tests::there_is_no_such_test", || {});
    });
    assert!(result.is_err());
}

#[test]
fn a_free_address_can_be_bound() {
    TcpListener::bind(crate::free_address(Ipv4Addr::LOCALHOST.into())).unwrap();
}
