//! The network namespace of a run: loopback only, the same settings for all. Owns the re-execution inside; ends with it.

use super::{Res, say};
use std::process::{Command, ExitStatus};
use std::{env, fs};

const INSIDE: &str = "XTASK_BENCH_INSIDE";

pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs this very command again in namespaces of its own: network, and processes, so that all of them end with it.
pub(crate) fn enter() -> Res<ExitStatus> {
    let program = env::current_exe().map_err(|error| format!("xtask's own path: {error}"))?;
    // When this process ends, so does unshare, and with it all that runs inside.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(program).args(env::args_os().skip(1)).env(INSIDE, "1");
    command.status().map_err(|error| format!("setpriv can't be started (package util-linux): {error}"))
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
