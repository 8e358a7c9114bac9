//! The network namespace of a run: loopback only, the same settings for all. Owns the re-execution inside; ends with it.

use super::{Res, say};
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::{env, fs, thread};

const INSIDE: &str = "XTASK_BENCH_INSIDE";

pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs this very command again in namespaces of its own: network, and processes, so that all of them end with it.
pub(crate) fn enter() -> Res<ExitStatus> {
    let program = env::current_exe().map_err(|error| format!("xtask's own path: {error}"))?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
    command.args(env::args_os().skip(1)).env(INSIDE, "1").stdin(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| format!("unshare can't be started (package util-linux): {error}"))?;
    let pipe = child.stdin.take();
    let status = child.wait().map_err(|error| format!("unshare: {error}"))?;
    drop(pipe);
    Ok(status)
}

/// Ends this process when the one outside does: stdin is its pipe.
#[expect(clippy::disallowed_methods, reason = "nobody is left to report to; the namespace ends what runs in it")]
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let mut nothing = [0_u8; 1];
        let _closed = std::io::stdin().read(&mut nothing);
        std::process::exit(130);
    });
}

/// Loopback up; reno, since the pacing of bbr distorts bulk over loopback; ports enough for short connections.
pub(crate) fn prepare() -> Res<()> {
    super::run_quiet("ip", &["link", "set", "lo", "up"])?;
    let settings = [
        ("ip_local_port_range", "30000 65000"),
        ("tcp_tw_reuse", "1"),
        ("tcp_max_tw_buckets", "4096"),
        ("tcp_congestion_control", "reno"),
    ];
    for (key, value) in settings {
        set(&format!("/proc/sys/net/ipv4/{key}"), value);
    }
    set("/proc/sys/net/core/somaxconn", "8192");
    Ok(())
}

/// A kernel without the setting is still worth measuring on, if one knows.
fn set(path: &str, value: &str) {
    if let Err(error) = fs::write(path, value) {
        say(&format!("{path} stays as it is: {error}"));
    }
}
