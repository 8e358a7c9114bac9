//! What a load cost the processes of a slot: CPU time, or counts that no other tenant of the machine changes:
//! instructions in user space (callgrind) and system calls (strace). Knows no peer and no load.

use super::{Res, cpu, run_quiet};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// strace says nothing once it follows all threads.
const ATTACHED_AFTER: Duration = Duration::from_millis(500);
const DUMPED_AFTER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unit {
    #[default]
    CpuTime,
    Instructions,
    Calls,
}

impl Unit {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "instructions" => Some(Self::Instructions),
            "calls" => Some(Self::Calls),
            _ => None,
        }
    }

    /// In the table and in the file of what was counted before.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CpuTime => "µs CPU",
            Self::Instructions => "instructions",
            Self::Calls => "calls",
        }
    }

    /// What a program that is measured so is started with; `folder` gets the counts.
    pub(crate) fn launcher(self, folder: &Path) -> Vec<String> {
        if self != Self::Instructions {
            return Vec::new();
        }
        let file = format!("--callgrind-out-file={}", folder.join("counts.%p").display());
        ["valgrind", "--tool=callgrind", "--quiet", &file].map(str::to_owned).to_vec()
    }
}

/// A measurement that has begun.
pub(crate) enum Meter {
    Cpu { pids: Vec<u32>, before: u64 },
    Instructions { pids: Vec<u32>, folder: PathBuf },
    Calls { tracer: Child, table: PathBuf },
}

impl Meter {
    pub(crate) fn start(unit: Unit, pids: Vec<u32>, folder: &Path) -> Res<Self> {
        match unit {
            Unit::CpuTime => Ok(Self::Cpu { before: cpu::nanoseconds(&pids), pids }),
            Unit::Instructions => {
                pids.iter().try_for_each(|&pid| vgdb(pid, "zero"))?;
                Ok(Self::Instructions { pids, folder: folder.to_owned() })
            }
            Unit::Calls => {
                let table = folder.join("calls");
                let mut command = Command::new("strace");
                command.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&table).stderr(Stdio::null());
                for pid in &pids {
                    command.args(["-p", &pid.to_string()]);
                }
                let tracer = command.spawn().map_err(|error| format!("strace can't be started: {error}"))?;
                sleep(ATTACHED_AFTER);
                Ok(Self::Calls { tracer, table })
            }
        }
    }

    /// Microseconds, instructions or calls since the start.
    pub(crate) fn stop(self) -> Res<f64> {
        match self {
            Self::Cpu { pids, before } => Ok(cpu::nanoseconds(&pids).saturating_sub(before) as f64 / 1000.0),
            Self::Instructions { pids, folder } => pids.iter().map(|&pid| instructions(pid, &folder)).sum(),
            Self::Calls { mut tracer, table } => {
                let pid = Pid::from_raw(tracer.id().cast_signed());
                kill(pid, Signal::SIGINT).map_err(|error| format!("strace: {error}"))?;
                tracer.wait().map_err(|error| format!("strace: {error}"))?;
                let text = fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?;
                calls(&text).ok_or(format!("strace counted nothing:\n{text}"))
            }
        }
    }
}

fn vgdb(pid: u32, order: &str) -> Res<()> {
    run_quiet("vgdb", &[&format!("--pid={pid}"), order])
}

/// The process writes its dump when it is next awake, beside an empty file from its start.
fn instructions(pid: u32, folder: &Path) -> Res<f64> {
    vgdb(pid, "dump")?;
    let began = Instant::now();
    while began.elapsed() < DUMPED_AFTER {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let is_of_this =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("counts.{pid}.")));
            let counted = is_of_this.then(|| total(&fs::read_to_string(&path).ok()?)).flatten();
            if let Some(counted) = counted {
                fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                return Ok(counted);
            }
        }
        sleep(POLL);
    }
    Err(format!("callgrind wrote no counts of process {pid} into {} within {DUMPED_AFTER:?}", folder.display()))
}

/// Of a callgrind dump.
fn total(text: &str) -> Option<f64> {
    text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

/// The sum of a table with a count and a name in each row.
fn calls(text: &str) -> Option<f64> {
    let total = text.lines().rev().find(|line| line.trim_end().ends_with(" total"))?;
    total.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_of_a_callgrind_dump_and_of_straces_table_are_read() {
        assert_eq!(super::total("fn=(1)\n16 3\ntotals: 1234\n"), Some(1234.0));
        let table =
            "    calls syscall\n--------- ------\n      300 read\n      100 write\n--------- ------\n      400 total\n";
        assert_eq!(super::calls(table), Some(400.0));
    }
}
