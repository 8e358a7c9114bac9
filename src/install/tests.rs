//! The rules as text, and what the kernel does with them in a network of the test's own, where the test is the proxy (uid 0) and
//! programs of another uid are the application.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use clap::Parser;
use proxy::error::Reason;
use proxy::socket::{Acceptor, BindOptions, ConnectOptions, Mode, connect, listen_tcp, original_destination};

use super::plan::PROXY_UID;
use super::*;

const APP_UID: u32 = 1000;
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: InstallArgs,
}

pub(super) fn args(line: &str) -> InstallArgs {
    try_args(line).unwrap()
}

fn try_args(line: &str) -> Result<InstallArgs, clap::Error> {
    Line::try_parse_from(std::iter::once("install").chain(line.split_whitespace())).map(|line| line.args)
}

pub(super) fn machine() -> Machine {
    let resolvers = vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()];
    Machine { resolvers, ipv6: true, proxy_uid: Some(PROXY_UID), ssh_port: None, loose: true }
}

/// Settings of a command line alone.
fn settings(line: &str) -> Result<Settings, Vec<String>> {
    Settings::load(&[], &|_| None, &try_args(line).map_err(|error| vec![error.to_string()])?.flags)
}

pub(super) fn planned(line: &str, machine: &Machine) -> (Plan, Vec<String>) {
    plan(settings(line).unwrap(), machine).unwrap()
}

/// The rules without their comments.
fn text(line: &str) -> String {
    planned(&format!("--disable-comments {line}"), &machine()).0.program().to_string()
}

/// Rules of one chain, without the line of its hook.
fn chain(text: &str, name: &str) -> Vec<String> {
    let after = text.split_once(&format!("chain {name} {{\n")).map_or("", |(_, after)| after);
    let body = after.split_once("\t}").map_or("", |(body, _)| body);
    body.lines().map(|line| line.trim().to_owned()).filter(|line| !line.starts_with("type ")).collect()
}

/// First in every chain that the kernel enters.
const OPEN: &str = "tcp flags & (fin | syn | rst | ack) != syn return";

#[test]
fn k69_the_default_rules_are_kumas_in_their_order() {
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
    assert_eq!(chain(&text, "prerouting"), [OPEN, "meta l4proto tcp jump KUMA_MESH_INBOUND"]);
    assert_eq!(chain(&text, "output"), [OPEN, "meta l4proto tcp jump KUMA_MESH_OUTBOUND"]);
    assert!(!text.contains("53"), "no DNS unless asked for: {text}");
}

#[test]
fn k70_dns_of_everybody_goes_to_the_proxy_over_udp_and_tcp() {
    let text = text("--redirect-all-dns-traffic --redirect-dns-port 12345");
    let expected = [
        OPEN,
        "meta l4proto { tcp, udp } th dport 53 meta skuid 5678 return",
        "udp dport 53 redirect to :12345",
        "tcp dport 53 redirect to :12345",
    ];
    assert_eq!(chain(&text, "output_dns"), expected);
    assert_eq!(chain(&text, "raw_prerouting"), ["udp sport 53 ct zone set 1 return"]);
    let expected = [
        "udp dport 53 meta skuid 5678 ct zone set 1 return",
        "udp sport 12345 meta skuid 5678 ct zone set 2 return",
        "udp dport 53 ct zone set 2 return",
    ];
    assert_eq!(chain(&text, "raw_output"), expected);
    assert!(chain(&text, "KUMA_MESH_OUTBOUND")[4].contains("tcp dport != 53"));
}

#[test]
fn k71_the_zone_split_can_be_left_out() {
    let text = text("--redirect-all-dns-traffic --skip-dns-conntrack-zone-split");
    assert!(!text.contains("ct zone") && !text.contains("raw_"), "{text}");
}

#[test]
fn dns_of_resolv_conf_is_captured_by_server() {
    let text = text("--redirect-dns");
    assert!(text.contains("\t\tip daddr 10.0.0.53 udp dport 53 redirect to :15053\n"), "{text}");
    assert!(text.contains("\t\tip6 daddr fd00::53 tcp dport 53 redirect to :15053\n"), "{text}");
    let alone = Machine { resolvers: vec!["10.0.0.53".parse().unwrap()], ..machine() };
    let (_, warnings) = planned("--redirect-dns", &alone);
    assert!(warnings[0].contains("names no IPv6 resolver"), "{warnings:?}");
    assert_eq!(plan::resolvers_of("# x\nnameserver 1.1.1.1\nsearch a\nnameserver fe80::1%eth0\n").len(), 2);
}

#[test]
fn k72_excluded_ports_return_first() {
    let text = text(
        "--exclude-inbound-ports 1000,1001 --exclude-outbound-ports 2000,2001 --redirect-inbound-port 12345 \
         --redirect-outbound-port 12346",
    );
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND")[..2], ["tcp dport 1000 return", "tcp dport 1001 return"]);
    assert_eq!(chain(&text, "KUMA_MESH_OUTBOUND")[..2], ["tcp dport 2000 return", "tcp dport 2001 return"]);
    assert!(text.contains("redirect to :12345") && text.contains("redirect to :12346"));
}

#[test]
fn k73_ports_can_be_excluded_for_users() {
    let text = text("--exclude-outbound-ports-for-uids tcp:1900,1902,1000-2000:106-108");
    assert_eq!(chain(&text, "output")[1], "tcp dport { 1900, 1902, 1000-2000 } meta skuid 106-108 return");
}

#[test]
fn k74_a_user_alone_is_excluded_over_tcp_and_udp() {
    let both = text("--exclude-outbound-ports-for-uids 123");
    let expected = ["meta l4proto tcp meta skuid 123 return", "meta l4proto udp meta skuid 123 return"];
    assert_eq!(chain(&both, "output")[1..3], expected);
    for wrong in ["*", "1,2", "x", "a:b:c:d", "sctp:1:1", "9-3", "tcp:70000:1", "4294967296", "tcp:0:1"] {
        assert!(settings(&format!("--exclude-outbound-ports-for-uids {wrong}")).is_err(), "{wrong}");
    }
    assert!(settings("--exclude-outbound-ports-for-uids 70000").is_ok(), "uids have 32 bits");
}

#[test]
fn k75_both_kinds_of_dns_redirection_are_refused() {
    let wrong = settings("--redirect-dns --redirect-all-dns-traffic").unwrap_err();
    assert_eq!(wrong, ["one of --redirect-dns or --redirect-all-dns-traffic should be specified"]);
}

#[test]
fn included_ports_are_captured_alone() {
    let text = text("--include-inbound-ports 80 --exclude-inbound-ports 90 --include-outbound-ports 443");
    assert_eq!(chain(&text, "KUMA_MESH_INBOUND"), ["tcp dport 80 jump KUMA_MESH_INBOUND_REDIRECT"]);
    assert_eq!(chain(&text, "KUMA_MESH_OUTBOUND").last().unwrap(), "tcp dport 443 jump KUMA_MESH_OUTBOUND_REDIRECT");
}

#[test]
fn a_gateway_leaves_its_inbound_side_alone() {
    for line in ["--redirect-inbound=false", "--redirect-inbound-port 0"] {
        assert_eq!(chain(&text(line), "KUMA_MESH_INBOUND"), ["meta l4proto tcp return"], "{line}");
    }
}

#[test]
fn ipv4_mode_returns_ipv6_first() {
    for name in ["prerouting", "output"] {
        assert_eq!(chain(&text("--ip-family-mode ipv4"), name)[1], "meta nfproto ipv6 return");
    }
}

#[test]
fn rules_say_why_they_are_there_and_stay_within_what_the_kernel_keeps() {
    let everything = "--redirect-dns --vnet docker0:172.17.0.0/16 --drop-invalid-packets --exclude-inbound-ips 10.0.0.1 \
        --exclude-outbound-ports-for-uids 5 --ip-family-mode ipv4";
    let program = planned(everything, &machine()).0.program();
    let text = program.to_string();
    assert!(text.contains("meta skuid 5678 return comment \"the proxy's own connections\""), "{text}");
    for rule in program.chains.iter().flat_map(|chain| &chain.rules) {
        assert!((1..=128).contains(&rule.why.len()) && !rule.why.contains('"'), "{rule} # {}", rule.why);
    }
}

#[test]
fn files_yield_to_variables_and_variables_to_flags() {
    let files = [
        (
            "a.yaml",
            "redirect: {inbound: {port: 1001, excludePorts: [22, '80-90']}, outbound: {port: 1002}, dns: {enabled: true}}",
        ),
        (
            "b.json",
            r#"{"kumaDPUser": 7, "redirect": {"outbound": {"port": "1003", "excludePortsForUIDs": ["tcp:1,2:5"]}}, "dryRun": true}"#,
        ),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), control::resource::yaml_to_json(text).unwrap()));
    let variable = |name: &str| match name {
        "KUMA_TRANSPARENT_PROXY_REDIRECT_INBOUND_PORT" => Some("2001".to_owned()),
        "KUMA_TRANSPARENT_PROXY_REDIRECT_DNS_PORT" => Some("2053".to_owned()),
        "KUMA_TRANSPARENT_PROXY_REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_IPS" => Some("10.0.0.0/8,fe80::/10".to_owned()),
        _ => None,
    };
    let settings = Settings::load(&files, &variable, &args("--redirect-dns-port 3053").flags).unwrap();
    assert_eq!((settings.inbound.port, settings.outbound.port, settings.dns_port), (2001, 1003, 3053));
    assert_eq!(settings.inbound.exclude.iter().map(ToString::to_string).collect::<Vec<_>>(), ["22", "80-90"]);
    assert_eq!((settings.exclude_uids.len(), settings.outbound.exclude_addresses.len()), (1, 2));
    assert!(settings.dns && settings.dry_run && settings.user == "7");
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_where() {
    let text = "redirect: {inbound: {port: 70000, excludePort: 1}, vnet: {networks: [eth0]}}\nverbos: true\nwait: 5\n";
    let file = [("tp.yaml".to_owned(), control::resource::yaml_to_json(text).unwrap())];
    let variable = |name: &str| name.ends_with("DROP_INVALID_PACKETS").then(|| "perhaps".to_owned());
    let mut wrong = Settings::load(&file, &variable, &args("--exclude-outbound-ips 10.0.0.0/40").flags).unwrap_err();
    wrong.sort_unstable();
    let expected = [
        "--exclude-outbound-ips: \"10.0.0.0/40\" is neither an IP address nor a CIDR",
        "KUMA_TRANSPARENT_PROXY_DROP_INVALID_PACKETS: \"perhaps\" is neither true nor false",
        "tp.yaml: redirect.inbound.excludePort: there is no such setting, did you mean redirect.inbound.excludePorts?",
        "tp.yaml: redirect.inbound.port: \"70000\" is no port; choose from 1 to 65535",
        "tp.yaml: redirect.vnet.networks: invalid virtual network \"eth0\", expected interface:CIDR like docker0:172.17.0.0/16",
        "tp.yaml: verbos: there is no such setting, did you mean verbose?",
    ];
    assert_eq!(wrong, expected);
}

#[test]
fn unknown_users_are_refused_with_the_way_out() {
    let error = plan(settings("").unwrap(), &Machine { proxy_uid: None, ..machine() }).unwrap_err();
    assert_eq!(error.exit_code, 1);
    assert!(error.to_string().contains("useradd"), "{error}");
    for wrong in
        ["--exclude-inbound-ips x", "--vnet x\"y:10.0.0.0/8", "--ip-family-mode ipv6", "--exclude-inbound-ports 5-3"]
    {
        assert!(settings(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn flags_about_iptables_are_taken_with_a_warning() {
    let (_, warnings) =
        planned("--wait 5 --store-firewalld --iptables-executables iptables:/x,iptables-save:/y", &machine());
    assert!(warnings[0].starts_with("storeFirewalld has no effect: firewalld leaves"), "{warnings:?}");
    assert!(warnings[1].starts_with("iptablesExecutables, wait: no effect"), "{warnings:?}");
}

#[test]
fn who_installs_over_ssh_is_told_what_becomes_of_the_next_session() {
    let over_ssh = Machine { ssh_port: plan::ssh_port("10.0.0.1 5000 10.0.0.2 2222"), ..machine() };
    let (_, warnings) = planned("", &over_ssh);
    assert!(warnings[0].contains("--exclude-inbound-ports 2222") && warnings[0].contains("--confirm"), "{warnings:?}");
    for line in ["--exclude-inbound-ports 2000-3000", "--redirect-inbound=false", "--include-inbound-ports 80"] {
        assert_eq!(planned(line, &over_ssh).1, [] as [&str; 0], "{line}");
    }
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

/// All that installing may change, in every tool's words.
fn ruleset() -> String {
    let rules = harness::command("nft", &["list", "ruleset"]);
    // iptables-save dates its output.
    let saved = ["iptables-save", "ip6tables-save"].map(|tool| harness::command(tool, &[]));
    let undated = saved.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#'));
    let addresses = harness::command("ip", &["-o", "addr", "show", "dev", "lo"]);
    [rules, undated.collect::<Vec<_>>().join("\n"), addresses].concat()
}

/// The rules that iptables of one kind shows, and its chains.
fn kept(tool: &str) -> Vec<String> {
    let saved = ["nat", "raw"].map(|table| harness::command(&format!("{tool}-save"), &["-t", table]));
    let is_kept = |line: &&str| line.starts_with('-') || line.contains("KUMA_MESH_");
    saved.iter().flat_map(|text| text.lines()).filter(is_kept).map(str::to_owned).collect()
}

/// Rules of others, in the tables that ours might meet.
fn rules_of_others() {
    harness::command("nft", &["add table ip other; add chain ip other c { type nat hook output priority -100 ; }"]);
    harness::command("nft", &["add rule ip other c tcp dport 81 redirect to :82"]);
    harness::command(
        "nft",
        &["add table inet filter; add chain inet filter input { type filter hook input priority 0 ; }"],
    );
    harness::command(
        "iptables",
        &["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "83", "-j", "REDIRECT", "--to-ports", "84"],
    );
    harness::command("ip6tables", &["-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "85", "-j", "NOTRACK"]);
}

fn install(line: &str) {
    let user = if line.contains("--kuma-dp-user") { "" } else { "--kuma-dp-user 0" };
    run_install(&args(&format!("{user} {line}"))).unwrap();
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
        rules_of_others();
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
        assert_eq!(ruleset(), before);
    }

    fn an_address_that_was_there_before_stays() {
        machine_up();
        harness::command("ip", &["-6", "addr", "add", PROXY_SOURCE_V6, "dev", "lo", "nodad"]);
        let before = ruleset();
        install("");
        install("--ip-family-mode ipv4");
        run_uninstall(&UninstallArgs::default()).unwrap();
        assert_eq!(ruleset(), before);
    }

    fn an_installation_that_broke_off_is_undone_or_completed() {
        machine_up();
        rules_of_others();
        let before = ruleset();
        let plan = planned("", &machine()).0;
        let source = Source { needed: true, present: false, added: true };
        let text = rules_text(&plan, &source);
        // The rules come whole or not at all.
        let error = tool("nft", &["-f", "-"], &format!("{text}table inet weir {{ chain output {{ jump nowhere }} }}\n"));
        assert!(error.unwrap_err().to_string().contains("nothing was changed"));
        assert_eq!(ruleset(), before);
        // Killed between the rules and the address.
        tool("nft", &["-f", "-"], &text).unwrap();
        run_uninstall(&UninstallArgs::default()).unwrap();
        assert_eq!(ruleset(), before);
        tool("nft", &["-f", "-"], &text).unwrap();
        install("");
        assert!(ruleset().contains("::6/128"));
        run_uninstall(&UninstallArgs::default()).unwrap();
        assert_eq!(ruleset(), before);
    }

    fn connections_that_were_open_before_go_on_through_installation_and_its_undoing() {
        let mut network = harness::Network::new();
        let (server, other) = (network.node("server"), network.node("other"));
        let mut sessions = Vec::new();
        for (own, peer) in server.addresses().into_iter().zip(other.addresses()) {
            // Someone's SSH session, one of the application's own connections, and one within the machine.
            for (from, to, address) in [(&other, &server, own), (&server, &other, peer), (&server, &server, own)] {
                let echo = to.enter(|| harness::echo_server(SocketAddr::new(address, 0)));
                sessions.push(from.enter(|| std::net::TcpStream::connect_timeout(&echo, LONG)).unwrap());
            }
        }
        let mut speak = |when: &str| {
            for (index, session) in sessions.iter_mut().enumerate() {
                session.set_read_timeout(Some(LONG)).unwrap();
                session.write_all(when.as_bytes()).unwrap();
                let mut answer = vec![0; when.len()];
                io::Read::read_exact(session, &mut answer).unwrap_or_else(|e| panic!("session {index} {when}: {e}"));
                assert_eq!(answer, when.as_bytes());
            }
        };
        speak("before anything was tracked");
        server.enter(|| install("--kuma-dp-user 5678 --redirect-all-dns-traffic --drop-invalid-packets"));
        speak("with the rules");
        server.enter(|| install("--redirect-outbound-insert-instead-of-append"));
        speak("with other rules");
        server.enter(|| run_uninstall(&UninstallArgs::default()).unwrap());
        speak("without them");
    }

    fn dry_run_changes_nothing() {
        let before = ruleset();
        run_install(&args("--kuma-dp-user 0 --dry-run")).unwrap();
        run_uninstall(&UninstallArgs { dry_run: true, verbose: false }).unwrap();
        assert_eq!(ruleset(), before);
    }

    fn kumas_own_rules_are_not_doubled_and_uninstalling_takes_them_away() {
        rules_of_others();
        for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
            let others = kept(tool);
            let comment = ["-m", "comment", "--comment", "kuma/mesh/transparent/proxy/of a test"];
            harness::command(tool, &["-t", "nat", "-N", "KUMA_MESH_INBOUND"]);
            for (table, rule) in [
                ("nat", &["-I", "PREROUTING", "-p", "tcp", "-j", "KUMA_MESH_INBOUND"][..]),
                ("nat", &["-A", "KUMA_MESH_INBOUND", "-p", "tcp", "-j", "RETURN"]),
                ("raw", &["-I", "PREROUTING", "-p", "udp", "--sport", "53", "-j", "CT", "--zone", "1"]),
            ] {
                harness::command(tool, &[&["-t", table], rule, &comment].concat());
            }
            let error = run_install(&args("--kuma-dp-user 0")).unwrap_err();
            assert!(error.to_string().contains("weir uninstall transparent-proxy"), "{error}");
            run_uninstall(&UninstallArgs { dry_run: true, verbose: false }).unwrap();
            assert_ne!(kept(tool), others, "{tool}");
            run_uninstall(&UninstallArgs::default()).unwrap();
            assert_eq!(kept(tool), others, "{tool}");
            run_install(&args("--kuma-dp-user 0")).unwrap();
        }
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
