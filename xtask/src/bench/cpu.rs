//! What processes cost: exact CPU time, memory, and which core they may use. Reads /proc only; knows no peer.

use super::Res;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;

/// A process and all its descendants.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        at += 1;
        for thread in threads(parent) {
            let text = fs::read_to_string(format!("/proc/{parent}/task/{thread}/children")).unwrap_or_default();
            all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    all
}

fn threads(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Nanoseconds on a CPU of all threads of `pids`. Exact, where /proc/PID/stat counts ticks of 4 ms.
pub(crate) fn nanoseconds(pids: &[u32]) -> u64 {
    let of = |pid: u32, thread: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    pids.iter().map(|&pid| threads(pid).into_iter().map(|thread| of(pid, thread)).sum::<u64>()).sum()
}

/// Milliseconds on a CPU, of threads that ended too; to 10 ms.
pub(crate) fn milliseconds(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may have spaces: utime and stime are fields 14 and 15 (proc(5)).
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum::<f64>()
    };
    pids.iter().map(of).sum::<f64>() * 10.0
}

/// Resident memory in MiB.
pub(crate) fn resident_mib(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0)
    };
    pids.iter().map(of).sum::<f64>() / 1024.0
}

/// Moves every thread of `pids` to one core: for peers that choose cores themselves, and for latency on one core.
pub(crate) fn pin(pids: &[u32], core: usize) -> Res<()> {
    let mut set = CpuSet::new();
    set.set(core).map_err(|error| format!("core {core}: {error}"))?;
    for &pid in pids {
        for thread in threads(pid) {
            // A thread that ended meanwhile needs no core.
            let _gone = sched_setaffinity(Pid::from_raw(thread.cast_signed()), &set);
        }
    }
    Ok(())
}
