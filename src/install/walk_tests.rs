//! The walks of spec/naming.md §7.4: what the model says of each packet, and that the kernel does with it what the model says.

use std::net::SocketAddr;

use harness::{HttpServer, Node};

use super::model::{Packet, Point};
use super::ports::Protocol;
use super::tests::{args, machine, planned};
use super::walk::{Addresses, Facts, Outcome, Question, explain, scenarios, walk};
use super::{installed_program, run_install};

const OWN: &str = "10.0.0.1";
const APP: u32 = 1000;
const PROXY: u32 = 5678;
const TO_OUTBOUND: Outcome = Outcome::Redirected(15001);
const TO_INBOUND: Outcome = Outcome::Redirected(15006);
const TO_DNS: Outcome = Outcome::Redirected(15053);

/// What becomes of a packet; `own` addresses leave by `lo`.
fn outcome(line: &str, point: Point, protocol: Protocol, who: Option<u32>, (from, to): (&str, &str)) -> Outcome {
    let to: SocketAddr = to.parse().unwrap();
    let is_own = to.ip().is_loopback() || to.ip().to_string() == OWN;
    let packet = Packet {
        point,
        protocol,
        source: from.parse().unwrap(),
        destination: to.ip(),
        port: to.port(),
        interface: if is_own && point == Point::Output { "lo" } else { "eth0" },
        user: who,
    };
    walk(&planned(line, &machine()).0.program(), &packet).1
}

fn leaves(line: &str, who: u32, to: &str) -> Outcome {
    outcome(line, Point::Output, Protocol::Tcp, Some(who), (OWN, to))
}

fn arrives(line: &str, from: &str, to: &str) -> Outcome {
    outcome(line, Point::Prerouting, Protocol::Tcp, None, (from, to))
}

fn asks(line: &str, protocol: Protocol, who: u32, resolver: &str) -> Outcome {
    outcome(line, Point::Output, protocol, Some(who), (OWN, resolver))
}

#[test]
fn the_application_to_a_virtual_ip_or_the_world_is_captured() {
    for to in ["240.0.0.7:80", "203.0.113.9:5432", "[fd00:fd00::7]:80"] {
        assert_eq!(leaves("", APP, to), TO_OUTBOUND, "{to}");
        assert_eq!(leaves("", 0, to), TO_OUTBOUND, "root is nobody special: {to}");
    }
}

#[test]
fn a_peer_is_captured_on_declared_and_undeclared_ports() {
    assert_eq!(arrives("", "10.0.0.2", "10.0.0.1:8080"), TO_INBOUND);
    assert_eq!(arrives("", "10.0.0.2", "10.0.0.1:9999"), TO_INBOUND);
    assert_eq!(arrives("--redirect-inbound=false", "10.0.0.2", "10.0.0.1:8080"), Outcome::Untouched, "a gateway");
    assert_eq!(arrives("--exclude-inbound-ips 10.0.0.0/30", "10.0.0.2", "10.0.0.1:8080"), Outcome::Untouched);
    assert_eq!(arrives("--exclude-inbound-ips 10.0.0.0/31", "10.0.0.2", "10.0.0.1:8080"), TO_INBOUND);
    assert_eq!(arrives("--include-inbound-ports 80", "10.0.0.2", "10.0.0.1:81"), Outcome::Untouched);
}

#[test]
fn n15_the_application_to_its_own_virtual_ip_comes_in_again_by_the_inbound_side() {
    assert_eq!(leaves("", APP, "240.0.0.1:80"), TO_OUTBOUND);
    // The proxy picked its own machine's endpoint.
    assert_eq!(leaves("", PROXY, "10.0.0.1:8080"), TO_INBOUND);
    let delivery = ("127.0.0.6", "10.0.0.1:8080");
    assert_eq!(outcome("", Point::Output, Protocol::Tcp, Some(PROXY), delivery), Outcome::Untouched);
}

#[test]
fn the_application_to_its_own_address_and_to_loopback_goes_directly() {
    for to in ["10.0.0.1:8080", "127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"] {
        assert_eq!(leaves("", APP, to), Outcome::Untouched, "{to}");
    }
}

#[test]
fn all_that_the_proxys_user_opens_leaves() {
    for to in ["203.0.113.9:443", "240.0.0.1:80", "[2001:db8::9]:1", "127.0.0.1:8080"] {
        assert_eq!(leaves("--redirect-all-dns-traffic", PROXY, to), Outcome::Untouched, "{to}");
    }
}

#[test]
fn questions_over_udp_and_tcp_go_to_the_proxys_dns_but_for_its_own() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for resolver in ["10.0.0.53:53", "9.9.9.9:53", "127.0.0.53:53", "[fd00::53]:53"] {
            assert_eq!(asks("--redirect-all-dns-traffic", protocol, APP, resolver), TO_DNS, "{protocol} {resolver}");
            assert_eq!(asks("--redirect-all-dns-traffic", protocol, PROXY, resolver), Outcome::Untouched);
        }
        // Those of resolv.conf alone.
        assert_eq!(asks("--redirect-dns", protocol, APP, "10.0.0.53:53"), TO_DNS);
        assert_eq!(asks("--redirect-dns", protocol, APP, "9.9.9.9:53"), Outcome::Untouched);
    }
    assert_eq!(asks("", Protocol::Udp, APP, "10.0.0.53:53"), Outcome::Untouched);
    assert_eq!(asks("", Protocol::Tcp, APP, "10.0.0.53:53"), TO_OUTBOUND);
}

#[test]
fn excluded_users_ports_and_destinations_go_directly_over_dns_too() {
    let line =
        "--redirect-all-dns-traffic --exclude-outbound-ports-for-uids 2000-2010 --exclude-outbound-ips 10.5.0.0/16";
    assert_eq!(leaves(line, 2005, "203.0.113.9:80"), Outcome::Untouched);
    assert_eq!(leaves(line, 2011, "203.0.113.9:80"), TO_OUTBOUND);
    assert_eq!(leaves(line, APP, "10.5.200.1:80"), Outcome::Untouched);
    assert_eq!(leaves(line, APP, "10.6.0.1:80"), TO_OUTBOUND);
    assert_eq!(asks(line, Protocol::Udp, 2000, "9.9.9.9:53"), Outcome::Untouched);
    assert_eq!(asks(line, Protocol::Udp, APP, "10.5.0.1:53"), Outcome::Untouched);
    assert_eq!(leaves("--exclude-outbound-ports 80", APP, "203.0.113.9:80"), Outcome::Untouched);
    assert_eq!(leaves("--ip-family-mode ipv4", APP, "[2001:db8::9]:80"), Outcome::Untouched);
}

#[test]
fn a_container_network_is_captured_beyond_itself() {
    let line = "--vnet docker0:172.17.0.0/16 --redirect-all-dns-traffic";
    let from_container = |protocol, to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        let packet = Packet {
            point: Point::Prerouting,
            protocol,
            source: "172.17.0.2".parse().unwrap(),
            destination: to.ip(),
            port: to.port(),
            interface: "docker0",
            user: None,
        };
        walk(&planned(line, &machine()).0.program(), &packet).1
    };
    assert_eq!(from_container(Protocol::Tcp, "240.0.0.7:80"), TO_OUTBOUND);
    assert_eq!(from_container(Protocol::Tcp, "172.17.0.3:80"), TO_INBOUND);
    assert_eq!(from_container(Protocol::Udp, "9.9.9.9:53"), TO_DNS);
    assert_eq!(from_container(Protocol::Tcp, "9.9.9.9:53"), TO_DNS);
}

#[test]
fn explaining_a_port_names_chains_rules_and_outcomes_for_each_kind_of_packet() {
    let plan = planned("--exclude-outbound-ports 5432 --exclude-outbound-ports-for-uids 7", &machine()).0;
    let text = explain(
        &plan.program(),
        "the rules of these settings",
        "5432".parse().unwrap(),
        &["10.0.0.1".parse().unwrap()],
    );
    let expected = "
Out: the application (uid 1000) connects to 203.0.113.9:5432
  output rule 4: meta l4proto tcp jump KUMA_MESH_OUTBOUND   # connections that leave
  KUMA_MESH_OUTBOUND rule 1: tcp dport 5432 return   # excluded port
  => not captured: goes to 203.0.113.9 itself
";
    assert!(text.contains(expected), "{text}");
    for title in
        ["In: 203.0.113.9 connects", "Out: root", "Out: uid 7", "Out: the proxy (uid 5678)", "own 10.0.0.1:5432"]
    {
        assert!(text.contains(title), "{title} is not in {text}");
    }
    assert!(text.contains("KUMA_MESH_INBOUND rule 1: meta l4proto tcp jump KUMA_MESH_INBOUND_REDIRECT"), "{text}");
    for wrong in ["0", "x", "70000", "10.0.0.1"] {
        assert!(wrong.parse::<Question>().unwrap_err().contains("ADDRESS:PORT"), "{wrong}");
    }
}

/// Who answers a connection like this packet's, dialled on its node: a port of the proxy's, or the one it was meant for.
fn answered_by(node: &Node, packet: &Packet<'_>) -> String {
    let url = format!("http://{}/", SocketAddr::new(packet.destination, packet.port));
    let mut curl = match packet.user {
        // `ip netns exec` takes root.
        Some(user) => {
            let mut setpriv = node.command("setpriv");
            let id = user.to_string();
            setpriv.args(["--reuid", &id, "--regid", &id, "--clear-groups", "curl"]);
            setpriv
        }
        None => node.command("curl"),
    };
    let is_delivery = [[127, 0, 0, 6].into(), std::net::IpAddr::V6(6.into())].contains(&packet.source);
    if is_delivery {
        curl.args(["--interface", &packet.source.to_string()]);
    }
    let output = curl.args(["-gsS", "--max-time", "20", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{url}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

harness::isolated_tests! {
    fn the_kernel_does_what_explain_port_says() {
        let mut network = harness::Network::new();
        let (server, other) = (network.node("server"), network.node("other"));
        const PORT: u16 = 5432;
        for (node, ports) in [(&server, &[PORT, 15001, 15006][..]), (&other, &[PORT])] {
            for port in ports {
                let any = SocketAddr::new("::".parse().unwrap(), *port);
                let name = port.to_string();
                node.enter(|| HttpServer::start(any, move |_: &str, _| name.clone()));
            }
        }
        let lines = [
            "",
            "--redirect-all-dns-traffic",
            "--exclude-outbound-ports 5432 --exclude-inbound-ports 5000-6000",
            "--include-inbound-ports 5432 --include-outbound-ports 80",
            "--exclude-outbound-ports-for-uids tcp:5100,5000-5500,5501:1000 --exclude-inbound-ips 10.10.0.0/24",
            "--exclude-outbound-ips 10.10.0.0/24,fd10::/64 --redirect-outbound-insert-instead-of-append",
            "--redirect-inbound=false --ip-family-mode ipv4",
            "--redirect-outbound=false --redirect-inbound-insert-instead-of-append --iptables-logs",
        ];
        let mut outcomes = Vec::new();
        for line in lines {
            let plan = planned(line, &machine()).0;
            let (program, line) = (plan.program(), format!("--kuma-dp-user {} {line}", plan.proxy_uid));
            server.enter(|| run_install(&args(&line)).unwrap());
            let installed = server.enter(|| installed_program().unwrap().unwrap());
            assert!(installed.is_like(&program), "{installed} is not {program}");
            assert_eq!(Facts::of(&installed), Facts::of(&program));
            for (own, to) in server.addresses().into_iter().zip(other.addresses()) {
                for (title, packet) in scenarios(&Facts::of(&program), PORT, Addresses { own, other: to }) {
                    let expected = match walk(&installed, &packet).1 {
                        Outcome::Redirected(port) => port,
                        Outcome::Untouched => PORT,
                        Outcome::Dropped => unreachable!("nothing here drops"),
                    };
                    let dialler = if packet.point == Point::Output { &server } else { &other };
                    assert_eq!(answered_by(dialler, &packet), expected.to_string(), "{title}, with {line:?}");
                    outcomes.push(expected);
                }
            }
        }
        for port in [PORT, 15001, 15006] {
            assert!(outcomes.contains(&port), "no packet ends at {port}");
        }
    }
}
