//! Small networks: nodes, each a network namespace, on one bridge, with IPv4 and IPv6.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::process::Process;

/// Makes the namespaces of an isolated test usable: loopback up, and names of nodes that nobody outside sees.
pub(crate) fn prepare() {
    command("ip", &["link", "set", "lo", "up"]);
    for folder in ["/run/netns", "/etc/netns"] {
        std::fs::create_dir_all(folder).expect("a folder for names of network namespaces");
        command("mount", &["-t", "tmpfs", "tmpfs", folder]);
    }
}

/// Runs a program to its end; its output, or a panic with what it said.
#[track_caller]
pub fn command(program: &str, arguments: &[&str]) -> String {
    match try_command(program, arguments) {
        Ok(output) => output,
        Err(said) => panic!("`{program} {}` failed: {said}", arguments.join(" ")),
    }
}

/// Output of a program that may fail, or what it said.
pub fn try_command(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{error}; is it installed?"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A bridge that also is every node's default route: 10.10.0.0/24 and fd10::/64.
#[derive(Debug)]
pub struct Network {
    nodes: u8,
}

impl Network {
    /// Only inside [`crate::isolated`].
    pub fn new() -> Self {
        command("ip", &["link", "add", "br0", "type", "bridge"]);
        command("ip", &["addr", "add", "10.10.0.254/24", "dev", "br0"]);
        command("ip", &["-6", "addr", "add", "fd10::fe/64", "dev", "br0", "nodad"]);
        command("ip", &["link", "set", "br0", "up"]);
        Self { nodes: 0 }
    }

    /// A further node; its addresses follow from the order of calls.
    pub fn node(&mut self, name: &str) -> Node {
        self.nodes += 1;
        let node = Node {
            name: name.to_owned(),
            v4: Ipv4Addr::new(10, 10, 0, self.nodes),
            v6: Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, self.nodes.into()),
        };
        let port = format!("veth{}", self.nodes);
        command("ip", &["netns", "add", name]);
        command("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name]);
        command("ip", &["link", "set", &port, "master", "br0", "up"]);
        node.run("ip", &["link", "set", "lo", "up"]);
        node.run("ip", &["addr", "add", &format!("{}/24", node.v4), "dev", "eth0"]);
        node.run("ip", &["-6", "addr", "add", &format!("{}/64", node.v6), "dev", "eth0", "nodad"]);
        node.run("ip", &["link", "set", "eth0", "up"]);
        node.run("ip", &["route", "add", "default", "via", "10.10.0.254"]);
        node.run("ip", &["-6", "route", "add", "default", "via", "fd10::fe"]);
        node
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// A machine of the network.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Node {
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Runs a program here to its end; its output, or a panic with what it said.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        command("ip", &[&["netns", "exec", &self.name, program], arguments].concat())
    }

    pub fn try_run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        try_command("ip", &[&["netns", "exec", &self.name, program], arguments].concat())
    }

    /// A command that will run here; for more than [`Node::run`] and [`Node::spawn`] offer. Another user's needs
    /// `setpriv --reuid`, as entering the node takes root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Starts a program here.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(&format!("{} on {}", program, self.name), command)
    }

    /// What programs started here see as /etc/resolv.conf.
    pub fn set_resolv_conf(&self, text: &str) {
        let folder = PathBuf::from("/etc/netns").join(&self.name);
        std::fs::create_dir_all(&folder).expect("a folder for the node's files");
        std::fs::write(folder.join("resolv.conf"), text).expect("the node's resolv.conf");
    }

    /// Runs `body` here, on a thread of its own. Sockets made in it stay here wherever they are used.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(PathBuf::from("/run/netns").join(&self.name)).expect("the node's namespace");
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the node");
                body()
            });
            thread.join()
        });
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
