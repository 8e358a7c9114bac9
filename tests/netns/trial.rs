//! Installing on trial: what isn't confirmed is undone, whatever became of who installed it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use harness::{Network, Node, Process, eventually};
use nix::sys::signal::Signal;

use crate::support::mesh::LONG;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");
/// Far beyond any test.
const NEVER: &str = "3h";

fn install(node: &Node, arguments: &[&str]) -> Result<String, String> {
    let install = ["install", "transparent-proxy", "--kuma-dp-user", "5678"];
    node.try_run(WEIR, &[&install, arguments].concat())
}

fn ruleset(node: &Node) -> String {
    [node.run("nft", &["list", "ruleset"]), node.run("ip", &["-o", "addr", "show", "dev", "lo"])].concat()
}

/// Rules of somebody else, and their listing.
fn with_other_rules(network: &mut Network) -> (Node, String) {
    let node = network.node("server");
    node.run("iptables", &["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "83", "-j", "RETURN"]);
    let before = ruleset(&node);
    (node, before)
}

/// The command on a terminal of its own, its keyboard in the test's hands.
fn on_a_terminal(node: &Node, folder: &Path, wait: &str) -> (Process, File) {
    let keyboard = folder.join("keyboard");
    harness::command("mkfifo", &[keyboard.to_str().unwrap()]);
    let line = format!("exec {WEIR} install transparent-proxy --kuma-dp-user 5678 --confirm {wait}");
    let mut command = node.command("sh");
    // `script` takes what it reads for what is typed.
    command.args(["-c", &format!("exec script -qec '{line}' /dev/null <{}", keyboard.display())]);
    let process = Process::start("install", command);
    (process, File::options().write(true).open(keyboard).unwrap())
}

harness::isolated_tests! {
    fn an_installation_that_nobody_confirms_is_rolled_back() {
        let (node, before) = with_other_rules(&mut Network::new());
        let said = install(&node, &["--confirm", "2s"]).unwrap();
        assert!(said.contains("set up for 2 s") && said.contains("--keep"), "{said}");
        assert_ne!(ruleset(&node), before);
        eventually("the rules as they were", LONG, || (ruleset(&node) == before).then_some(()));
    }

    fn rolling_back_restores_the_installation_before() {
        let (node, _) = with_other_rules(&mut Network::new());
        install(&node, &["--ip-family-mode", "ipv4", "--exclude-outbound-ports", "5432"]).unwrap();
        let before = ruleset(&node);
        install(&node, &["--redirect-all-dns-traffic", "--confirm=1s"]).unwrap();
        assert_ne!(ruleset(&node), before);
        eventually("the earlier rules", LONG, || (ruleset(&node) == before).then_some(()));
    }

    fn what_another_terminal_confirms_stays() {
        let (node, before) = with_other_rules(&mut Network::new());
        install(&node, &["--confirm", NEVER]).unwrap();
        let refused = install(&node, &["--redirect-all-dns-traffic"]).unwrap_err();
        assert!(refused.contains("waits for confirmation"), "{refused}");
        assert!(install(&node, &["--keep"]).unwrap().contains("kept"));
        assert_ne!(ruleset(&node), before);
        let nothing = install(&node, &["--keep"]).unwrap_err();
        assert!(nothing.contains("no installation waits"), "{nothing}");
    }

    fn only_root_confirms() {
        let (node, _) = with_other_rules(&mut Network::new());
        install(&node, &["--confirm", NEVER]).unwrap();
        let mut stranger = node.command("setpriv");
        // Whom nobody listens to may find the socket closed before writing.
        let script = "use Socket; $SIG{PIPE} = 'IGNORE'; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, pack('Sa*', 1, \"\\0weir-transparent-proxy-on-trial\")) or die; \
            syswrite(S, \"keep\\n\"); print sysread(S, $_, 9) || 0";
        stranger.args(["--reuid=1000", "--regid=1000", "--clear-groups", "perl", "-e", script]);
        let output = stranger.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0", "{}", String::from_utf8_lossy(&output.stderr));
        assert!(install(&node, &["--keep"]).unwrap().contains("kept"), "still on trial");
    }

    fn uninstalling_ends_the_trial_too() {
        let (node, before) = with_other_rules(&mut Network::new());
        install(&node, &["--exclude-outbound-ports", "5432"]).unwrap();
        install(&node, &["--confirm", NEVER]).unwrap();
        node.run(WEIR, &["uninstall", "transparent-proxy"]);
        assert_eq!(ruleset(&node), before);
        assert!(install(&node, &["--keep"]).unwrap_err().contains("no installation waits"));
    }

    fn enter_on_the_terminal_confirms() {
        let (node, before) = with_other_rules(&mut Network::new());
        let folder = tempfile::tempdir().unwrap();
        let (mut process, mut typed) = on_a_terminal(&node, folder.path(), NEVER);
        process.wait_for("press Enter", LONG);
        typed.write_all(b"\n").unwrap();
        process.wait_for("Transparent proxy kept", LONG);
        assert_ne!(ruleset(&node), before);
    }

    fn the_death_of_the_session_does_not_stop_the_roll_back() {
        let (node, before) = with_other_rules(&mut Network::new());
        let folder = tempfile::tempdir().unwrap();
        let (mut process, _typed) = on_a_terminal(&node, folder.path(), "3s");
        process.wait_for("press Enter", LONG);
        assert_ne!(ruleset(&node), before);
        // The terminal with all that runs on it.
        process.signal(Signal::SIGKILL);
        process.wait(Duration::from_secs(20));
        eventually("the rules as they were", LONG, || (ruleset(&node) == before).then_some(()));
    }
}
