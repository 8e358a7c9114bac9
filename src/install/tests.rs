//! The rules as text, and what the kernel does with them in a network of the test's own, where the test is the proxy (uid 0) and
//! programs of another uid are the application.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use clap::Parser;
use proxy::error::Reason;
use proxy::socket::{Acceptor, BindOptions, ConnectOptions, Mode, connect, listen_tcp, original_destination};

use super::*;

const APP_UID: u32 = 1000;
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: InstallArgs,
}

fn args(line: &str) -> InstallArgs {
    try_args(line).unwrap()
}

fn try_args(line: &str) -> Result<InstallArgs, clap::Error> {
    Line::try_parse_from(std::iter::once("install").chain(line.split_whitespace())).map(|line| line.args)
}

fn machine() -> Machine {
    let resolvers = vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()];
    Machine { resolvers, ipv6: true, proxy_uid: Some(PROXY_UID) }
}

fn text(line: &str) -> String {
    plan(&args(line), &machine()).unwrap().0.to_string()
}

/// Rules of one chain, without the line of its hook.
fn chain(text: &str, name: &str) -> Vec<String> {
    let after = text.split_once(&format!("chain {name} {{\n")).map_or("", |(_, after)| after);
    let body = after.split_once("\t}").map_or("", |(body, _)| body);
    body.lines().map(|line| line.trim().to_owned()).filter(|line| !line.starts_with("type ")).collect()
}

#[test]
fn the_default_rules_are_kumas_in_their_order() {
    let text = text("");
    assert_eq!(
        chain(&text, "KUMA_MESH_OUTBOUND"),
        [
            "oifname \"lo\" ip saddr 127.0.0.6 return",
            "oifname \"lo\" ip6 saddr ::6 return",
            "oifname \"lo\" meta l4proto tcp ip daddr != 127.0.0.1 meta skuid 5678 jump KUMA_MESH_INBOUND_REDIRECT",
            "oifname \"lo\" meta l4proto tcp ip6 daddr != ::1 meta skuid 5678 jump KUMA_MESH_INBOUND_REDIRECT",
            "oifname \"lo\" meta l4proto tcp meta skuid != 5678 return",
            "meta skuid 5678 return",
            "ip daddr 127.0.0.1 return",
            "ip6 daddr ::1 return",
            "meta l4proto tcp jump KUMA_MESH_OUTBOUND_REDIRECT",
        ]
    );
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND"), ["meta l4proto tcp jump KUMA_MESH_INBOUND_REDIRECT"]);
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND_REDIRECT"), ["meta l4proto tcp redirect to :15006"]);
    assert_eq!(chain(&text, "KUMA_MESH_OUTBOUND_REDIRECT"), ["meta l4proto tcp redirect to :15001"]);
    assert!(!text.contains("53"), "no DNS unless asked for: {text}");
}

#[test]
fn dns_of_everybody_goes_to_the_proxy_over_udp_and_tcp() {
    let text = text("--redirect-all-dns-traffic --redirect-dns-port 12345");
    let expected = [
        "meta l4proto { tcp, udp } th dport 53 meta skuid 5678 return",
        "udp dport 53 redirect to :12345",
        "tcp dport 53 redirect to :12345",
    ];
    assert_eq!(chain(&text, "output_dns"), expected);
    assert_eq!(chain(&text, "raw_prerouting"), ["udp sport 53 ct zone set 1"]);
    let expected = [
        "udp dport 53 meta skuid 5678 ct zone set 1 return",
        "udp sport 12345 meta skuid 5678 ct zone set 2 return",
        "udp dport 53 ct zone set 2",
    ];
    assert_eq!(chain(&text, "raw_output"), expected);
    assert!(chain(&text, "KUMA_MESH_OUTBOUND")[4].contains("tcp dport != 53"));
}

#[test]
fn the_zone_split_can_be_left_out() {
    assert!(!text("--redirect-all-dns-traffic --skip-dns-conntrack-zone-split").contains("ct zone"));
}

#[test]
fn dns_of_resolv_conf_is_captured_by_server() {
    let text = text("--redirect-dns");
    assert!(text.contains("\t\tip daddr 10.0.0.53 udp dport 53 redirect to :15053\n"), "{text}");
    assert!(text.contains("\t\tip6 daddr fd00::53 tcp dport 53 redirect to :15053\n"), "{text}");
    let alone = Machine { resolvers: vec!["10.0.0.53".parse().unwrap()], ..machine() };
    let (_, warnings) = plan(&args("--redirect-dns"), &alone).unwrap();
    assert!(warnings[0].contains("names no IPv6 resolver"), "{warnings:?}");
    assert_eq!(resolvers_of("# x\nnameserver 1.1.1.1\nsearch a\nnameserver fe80::1%eth0\n").len(), 2);
}

#[test]
fn excluded_ports_return_first() {
    let text = text(
        "--exclude-inbound-ports 1000,1001 --exclude-outbound-ports 2000,2001 --redirect-inbound-port 12345 \
         --redirect-outbound-port 12346",
    );
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND")[..2], ["tcp dport 1000 return", "tcp dport 1001 return"]);
    assert_eq!(chain(&text, "KUMA_MESH_OUTBOUND")[..2], ["tcp dport 2000 return", "tcp dport 2001 return"]);
    assert!(text.contains("redirect to :12345") && text.contains("redirect to :12346"));
}

#[test]
fn ports_can_be_excluded_for_users() {
    let text = text("--exclude-outbound-ports-for-uids tcp:1900,1902,1000-2000:106-108");
    assert_eq!(chain(&text, "output")[0], "tcp dport { 1900, 1902, 1000-2000 } meta skuid 106-108 return");
    let both = self::text("--exclude-outbound-ports-for-uids 123");
    let expected = ["meta l4proto tcp meta skuid 123 return", "meta l4proto udp meta skuid 123 return"];
    assert_eq!(chain(&both, "output")[..2], expected);
    for wrong in ["*", "1,2", "x", "a:b:c:d", "sctp:1:1", "9-3", "tcp:70000:1", "4294967296"] {
        assert!(try_args(&format!("--exclude-outbound-ports-for-uids {wrong}")).is_err(), "{wrong}");
    }
    assert!(try_args("--exclude-outbound-ports-for-uids 70000").is_ok(), "uids have 32 bits");
}

#[test]
fn included_ports_are_captured_alone() {
    let text = text("--include-inbound-ports 80 --exclude-inbound-ports 90 --include-outbound-ports 443");
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND"), ["tcp dport 80 jump KUMA_MESH_INBOUND_REDIRECT"]);
    assert_eq!(chain(&text, "KUMA_MESH_OUTBOUND").last().unwrap(), "tcp dport 443 jump KUMA_MESH_OUTBOUND_REDIRECT");
}

#[test]
fn a_gateway_leaves_its_inbound_side_alone() {
    assert_eq!(chain(&text("--redirect-inbound=false"), "KUMA_MESH_INBOUND"), ["meta l4proto tcp return"]);
}

#[test]
fn ipv4_mode_returns_ipv6_first() {
    for name in ["prerouting", "output"] {
        assert_eq!(chain(&text("--ip-family-mode ipv4"), name)[0], "meta nfproto ipv6 return");
    }
}

#[test]
fn contradictions_and_unknown_users_are_refused_with_the_way_out() {
    let error = plan(&args("--redirect-dns --redirect-all-dns-traffic"), &machine()).unwrap_err();
    assert_eq!(error.exit_code, 2);
    assert!(error.to_string().contains("one of"), "{error}");
    let error = plan(&args(""), &Machine { proxy_uid: None, ..machine() }).unwrap_err();
    assert_eq!(error.exit_code, 1);
    assert!(error.to_string().contains("useradd"), "{error}");
    for wrong in ["--exclude-outbound-ips 10.0.0.0/40", "--exclude-inbound-ips x"] {
        assert_eq!(plan(&args(wrong), &machine()).unwrap_err().exit_code, 2);
    }
    assert!(try_args("--vnet x\"y:10.0.0.0/8").is_err());
}

#[test]
fn flags_about_iptables_are_taken_with_a_warning() {
    let (_, warnings) = plan(&args("--wait 5 --store-firewalld"), &machine()).unwrap();
    assert!(warnings[0].starts_with("--wait, --store-firewalld"), "{warnings:?}");
}

#[test]
fn rules_of_another_owner_are_found() {
    let ours = "table inet weir {\n\tchain KUMA_MESH_INBOUND {\n";
    assert_eq!(foreign_table(ours), None);
    let kumas = format!("{ours}\t}}\n}}\ntable ip nat {{\n\tchain KUMA_MESH_INBOUND {{\n");
    assert_eq!(foreign_table(&kumas), Some("table ip nat"));
}

/// A machine with IPv4 and IPv6 whose default route leads nowhere.
fn machine_up() {
    // The cable's other end is in the same machine, without an address.
    harness::command("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "nowhere"]);
    harness::command("ip", &["link", "set", "nowhere", "up"]);
    harness::command("ip", &["addr", "add", "10.9.0.1/24", "dev", "eth0"]);
    harness::command("ip", &["-6", "addr", "add", "fd09::1/64", "dev", "eth0", "nodad"]);
    harness::command("ip", &["link", "set", "eth0", "up"]);
    harness::command("ip", &["route", "add", "default", "via", "10.9.0.2"]);
    harness::command("ip", &["-6", "route", "add", "default", "via", "fd09::2"]);
}

fn ruleset() -> String {
    harness::command("nft", &["list", "ruleset"])
}

fn install(line: &str) {
    run_install(&args(&format!("--kuma-dp-user 0 {line}"))).unwrap();
}

/// The application: a shell of its own uid.
fn app(script: &str) -> Child {
    Command::new("bash").args(["-c", script]).uid(APP_UID).gid(APP_UID).spawn().unwrap()
}

fn app_succeeds(script: &str) -> bool {
    app(script).wait().unwrap().success()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, future).await.expect("nothing arrived") })
}

/// Original destination of what arrives at `port` after `dial`.
fn captured(listener: &str, dial: impl FnOnce()) -> Result<SocketAddr, Reason> {
    block_on(async {
        let listener = listen_tcp(listener.parse().unwrap(), BindOptions::default()).unwrap();
        let mut acceptor = Acceptor::new(listener).unwrap();
        dial();
        let (stream, _) = acceptor.accept().await;
        original_destination(&stream, Mode::Redirect).map_err(|error| error.reason)
    })
}

harness::isolated_tests! {
    fn installing_twice_and_uninstalling_leaves_the_machine_as_it_was() {
        machine_up();
        harness::command("nft", &["add table ip other; add chain ip other c { type nat hook output priority -100 ; }"]);
        harness::command("nft", &["add rule ip other c tcp dport 81 redirect to :82"]);
        let before = ruleset();
        let everything = "--redirect-all-dns-traffic --drop-invalid-packets --iptables-logs --vnet eth9:10.8.0.0/16 \
            --exclude-outbound-ports-for-uids tcp:1900,1902,1000-2000:106-108 --exclude-outbound-ips 10.1.0.0/16,fd01::/16 \
            --exclude-inbound-ips 10.2.0.1 --exclude-inbound-ports 22 --redirect-outbound-insert-instead-of-append";
        install("");
        let defaults = ruleset();
        install(everything);
        assert_ne!(ruleset(), defaults);
        install("");
        assert_eq!(ruleset(), defaults);
        run_uninstall(&UninstallArgs::default()).unwrap();
        assert_eq!(ruleset(), before);
        run_uninstall(&UninstallArgs::default()).unwrap();
        assert!(!harness::command("ip", &["-6", "addr"]).contains("::6/128"));
    }

    fn dry_run_changes_nothing() {
        let before = ruleset();
        run_install(&args("--kuma-dp-user 0 --dry-run")).unwrap();
        run_uninstall(&UninstallArgs { dry_run: true, verbose: false }).unwrap();
        assert_eq!(ruleset(), before);
    }

    fn kumas_own_rules_are_not_doubled() {
        harness::command("iptables", &["-t", "nat", "-N", "KUMA_MESH_INBOUND"]);
        let error = run_install(&args("--kuma-dp-user 0")).unwrap_err();
        assert!(error.to_string().contains("kumactl uninstall"), "{error}");
    }

    fn what_the_application_dials_arrives_with_its_original_destination() {
        machine_up();
        install("");
        let mut apps = Vec::new();
        let dialled = captured("0.0.0.0:15001", || apps.push(app("exec 3<>/dev/tcp/240.0.0.7/80")));
        assert_eq!(dialled, Ok("240.0.0.7:80".parse().unwrap()));
        let dialled = captured("[::]:15001", || apps.push(app("exec 3<>/dev/tcp/fd00:fd00::7/443")));
        assert_eq!(dialled, Ok("[fd00:fd00::7]:443".parse().unwrap()));
        for mut app in apps {
            assert!(app.wait().unwrap().success());
        }
    }

    fn a_dial_of_the_interception_port_is_recognised_as_a_loop() {
        machine_up();
        install("");
        let mut apps = Vec::new();
        let dialled = captured("0.0.0.0:15001", || apps.push(app("exec 3<>/dev/tcp/127.0.0.1/15001")));
        assert_eq!(dialled, Err(Reason::Loop));
        apps.remove(0).wait().unwrap();
    }

    fn the_proxy_reaches_itself_through_its_inbound_side_and_its_application_directly() {
        machine_up();
        install("");
        let own: SocketAddr = "10.9.0.1:8080".parse().unwrap();
        let echo = harness::echo_server(own);
        // To its own address as if to any endpoint: captured, so that identity and permissions hold.
        let dialled = captured("0.0.0.0:15006", || drop(std::net::TcpStream::connect(echo).unwrap()));
        assert_eq!(dialled, Ok(own));
        // From the source that marks the last step to the application: not captured.
        for (address, source) in [(own, "127.0.0.6"), (harness::echo_server("[fd09::1]:0".parse().unwrap()), "::6")] {
            let options = ConnectOptions { source: Some(source.parse().unwrap()), ..ConnectOptions::default() };
            let stream = block_on(connect(address, &options, LONG)).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), address, "from {source}");
        }
    }

    fn the_application_reaches_itself_and_excluded_ports_directly() {
        machine_up();
        install("--exclude-outbound-ports 8080");
        harness::echo_server("10.9.0.1:9090".parse().unwrap());
        harness::echo_server("127.0.0.1:9091".parse().unwrap());
        assert!(app_succeeds("exec 3<>/dev/tcp/10.9.0.1/9090"));
        assert!(app_succeeds("exec 3<>/dev/tcp/127.0.0.1/9091"));
        // Nobody listens on 15001: what is captured is refused at once, what isn't goes into the void.
        assert!(!app_succeeds("exec 3<>/dev/tcp/240.0.0.7/80"));
        assert_eq!(app("timeout 1 bash -c 'exec 3<>/dev/tcp/240.0.0.7/8080'").wait().unwrap().code(), Some(124));
    }

    fn questions_over_udp_and_tcp_are_answered_by_the_proxy() {
        machine_up();
        for line in ["--redirect-all-dns-traffic", "--redirect-all-dns-traffic --skip-dns-conntrack-zone-split"] {
            install(line);
            for (listener, resolver) in [("127.0.0.1:15053", "10.9.0.53"), ("[::1]:15053", "fd09::53")] {
                let socket = UdpSocket::bind(listener).unwrap();
                socket.set_read_timeout(Some(LONG)).unwrap();
                // `read` would take the datagram's first byte and lose the others.
                let script = format!("exec 3<>/dev/udp/{resolver}/53; echo ask >&3; [ $(timeout 9 head -c 4 <&3) = yes ]");
                let mut client = app(&script);
                let (count, from) = socket.recv_from(&mut [0; 64]).unwrap();
                assert_eq!(count, 4);
                socket.send_to(b"yes\n", from).unwrap();
                assert!(client.wait().unwrap().success(), "no answer over UDP from {resolver} with {line}");
            }
            let mut apps = Vec::new();
            let dialled = captured("0.0.0.0:15053", || apps.push(app("exec 3<>/dev/tcp/10.9.0.53/53")));
            assert_eq!(dialled, Ok("10.9.0.53:53".parse().unwrap()));
            apps.remove(0).wait().unwrap();
        }
    }

    fn what_peers_dial_arrives_at_the_inbound_side() {
        let mut network = harness::Network::new();
        let (server, client) = (network.node("server"), network.node("client"));
        server.enter(|| install("--exclude-inbound-ports 22"));
        for (listener, address) in [("0.0.0.0:15006", server.addresses()[0]), ("[::]:15006", server.addresses()[1])] {
            let to = SocketAddr::new(address, 8080);
            let dialled = server.enter(|| {
                captured(listener, || {
                    client.enter(|| drop(std::net::TcpStream::connect_timeout(&to, LONG).unwrap()));
                })
            });
            assert_eq!(dialled, Ok(to));
        }
        let ssh = server.enter(|| harness::echo_server(SocketAddr::new(server.v4.into(), 22)));
        client.enter(|| std::net::TcpStream::connect_timeout(&ssh, LONG)).unwrap();
    }
}
