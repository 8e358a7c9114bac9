//! The demo's network: a namespace a node, and a bridge in the first of them, so that nothing of it is in the machine's own
//! network. Every name begins with the demo's prefix; all that has such a name is the demo's to remove.

use super::plan::{HOSTNAME, Node, PREFIX, Plan};
use nix::sched::{CloneFlags, setns};
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const NAMES: &str = "/run/netns";
/// ip-netns(8) shows these files as those of /etc to what runs in a namespace.
const FILES: &str = "/etc/netns";

/// Exists as long as the demo does.
pub(super) struct Network {
    /// Nodes have addresses of IPv6 too.
    pub(super) ipv6: bool,
}

impl Network {
    /// # Errors
    /// What failed; nothing of it is left behind.
    pub(super) fn make(plan: &Plan) -> Result<Self, String> {
        let mut network = Self { ipv6: true };
        let (Some(first), others) = (plan.nodes.first(), plan.nodes.get(1..).unwrap_or_default()) else {
            return Ok(network);
        };
        let bridge = first.namespace();
        ip(&["netns", "add", &bridge], "")?;
        let mut links = format!(
            "link set lo up\nlink add br0 type bridge\naddr add {}/16 dev br0\nlink set br0 up\n",
            first.address
        );
        for (i, node) in others.iter().enumerate() {
            ip(&["netns", "add", &node.namespace()], "")?;
            links += &format!("link add veth{i} type veth peer name eth0 netns {}\n", node.namespace());
            links += &format!("link set veth{i} master br0 up\n");
        }
        ip(&["-n", &bridge, "-batch", "-"], &links)?;
        network.ipv6 &= v6(first, "br0");
        for node in others {
            let own = format!("link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\n", node.address);
            ip(&["-n", &node.namespace(), "-batch", "-"], &own)?;
            network.ipv6 &= v6(node, "eth0");
            files(node, plan).map_err(|e| format!("{FILES}/{}: {e}", node.namespace()))?;
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = remove_all() {
            crate::print::note(&format!("Warning: {error}; remove it with `ip netns delete`"));
        }
    }
}

/// Addresses of IPv6 too, on a machine that has it.
fn v6(node: &Node, device: &str) -> bool {
    let [_, _, zone, number] = node.address.octets();
    let address = format!("fd77:6569:7200::{zone}:{number}/64");
    ip(&["-n", &node.namespace(), "-6", "addr", "add", &address, "dev", device, "nodad"], "").is_ok()
}

/// Resolver and host names of the programs that people start in a namespace.
fn files(node: &Node, plan: &Plan) -> std::io::Result<()> {
    let folder = Path::new(FILES).join(node.namespace());
    if node.asks_mesh {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    }
    if node.name == "outside" {
        let gateway = plan.nodes.iter().find(|n| n.name.ends_with("-gateway"));
        let gateway = gateway.map_or(String::new(), |n| format!("{} {HOSTNAME}\n", n.address));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n::1 localhost\n{gateway}"))?;
    }
    Ok(())
}

/// Removes what this or an earlier demo made.
pub(super) fn remove_all() -> Result<(), String> {
    let mut result = Ok(());
    for name in ours(NAMES) {
        result = ip(&["netns", "delete", &name], "").and(result);
    }
    for name in ours(FILES) {
        let path = Path::new(FILES).join(name);
        let removed = fs::remove_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()));
        result = removed.and(result);
    }
    // Goes only when it is empty: an empty one means nothing to ip-netns.
    let _ = fs::remove_dir(FILES);
    result
}

fn ours(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with(PREFIX)).collect()
}

/// Moves this thread into a namespace.
pub(super) fn enter(namespace: &str) -> Result<(), String> {
    let path = Path::new(NAMES).join(namespace);
    let file = fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| format!("entering {namespace}: {e}"))
}

/// Runs ip(8) of iproute2.
fn ip(arguments: &[&str], input: &str) -> Result<(), String> {
    let shown = format!("ip {}", arguments.join(" "));
    let mut command = Command::new("ip");
    // Apart from the terminal's group: Ctrl-C mustn't break it off in the middle.
    command.process_group(0);
    let started = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|e| format!("`{shown}`: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => return Err(format!("`{shown}`: {e}")),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(|e| format!("`{shown}`: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
