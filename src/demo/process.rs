//! The demo's processes: this very binary, started again as control plane and proxies. Each is waited for by its `ready`
//! line, its log kept in the demo's folder, and none outlives the demo. Must not know what they are for.

use crate::failure::Failure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Until a process that was asked to end is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The last lines of a log that tell why a process ended.
const TOLD_LINES: usize = 6;

#[derive(Clone, Debug, PartialEq)]
enum State {
    Starting,
    Ready,
    /// With its last lines.
    Ended(String),
}

struct Process {
    name: String,
    child: Child,
    state: watch::Receiver<State>,
    /// Disconnected when the process has closed its stderr: it is ending.
    ending: mpsc::Receiver<()>,
}

/// All of them; dropping it ends them.
pub(super) struct Processes {
    program: PathBuf,
    folder: PathBuf,
    running: Vec<Process>,
}

impl Processes {
    pub(super) fn new(program: PathBuf, folder: PathBuf) -> Self {
        Self { program, folder, running: Vec::new() }
    }

    /// This program, here or in a namespace, untouched by the settings of the caller's shell.
    fn command(&self, namespace: Option<&str>, arguments: &[String]) -> Command {
        let mut command = match namespace {
            None => Command::new(&self.program),
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name]).arg(&self.program);
                ip
            }
        };
        let ours = |name: &str| name.starts_with("KUMA_") || name.starts_with("WEIR_") || name == "NOTIFY_SOCKET";
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            command.env_remove(name);
        }
        command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null());
        // A process group apart: Ctrl-C is the demo's, which ends the others in order.
        command.process_group(0);
        command
    }

    /// Runs one to its end, for what it prints.
    pub(super) fn run(&self, namespace: Option<&str>, arguments: &[String]) -> Result<String, Failure> {
        let output =
            self.command(namespace, arguments).output().map_err(|e| format!("{}: {e}", self.program.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::failed(format!("`weir {}` failed: {}", arguments.join(" "), said.trim())))
    }

    /// Starts one that stays.
    pub(super) fn start(&mut self, name: &str, namespace: Option<&str>, arguments: &[String]) -> Result<(), Failure> {
        let path = self.folder.join(format!("{name}.log"));
        let log = fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut command = self.command(namespace, arguments);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting {name}: {e}"))?;
        let (sender, state) = watch::channel(State::Starting);
        let (end, ending) = mpsc::channel();
        let stderr = child.stderr.take();
        self.running.push(Process { name: name.to_owned(), child, state, ending });
        let follow = move || {
            if let Some(stderr) = stderr {
                follow(stderr, log, &sender);
            }
            drop(end);
        };
        std::thread::Builder::new()
            .name(format!("{name}.log"))
            .spawn(follow)
            .map_err(|e| format!("starting a thread: {e}"))?;
        Ok(())
    }

    /// Waits until all that were started are ready.
    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        for process in &mut self.running {
            let settled = process.state.wait_for(|state| *state != State::Starting);
            let settled = match tokio::time::timeout(READY_TIMEOUT, settled).await {
                Ok(Ok(state)) => state.clone(),
                Ok(Err(_)) => State::Ended(String::new()),
                Err(_) => State::Starting,
            };
            let told = || tail(&self.folder.join(format!("{}.log", process.name)));
            match settled {
                State::Ready => {}
                State::Ended(last) => {
                    return Err(Failure::failed(format!("{} ended at its start:\n{last}", process.name)));
                }
                State::Starting => {
                    let text =
                        format!("{} isn't ready after {READY_TIMEOUT:?}; its log ends:\n{}", process.name, told());
                    return Err(Failure::failed(text));
                }
            }
        }
        Ok(())
    }

    /// When one ends that should run: which, and its last words.
    pub(super) async fn first_to_end(&self) -> String {
        let mut waits = tokio::task::JoinSet::new();
        for process in &self.running {
            let (name, mut state) = (process.name.clone(), process.state.clone());
            waits.spawn(async move {
                let ended = state.wait_for(|s| matches!(s, State::Ended(_))).await;
                let last = ended.map_or_else(
                    |_| String::new(),
                    |s| if let State::Ended(t) = &*s { t.clone() } else { String::new() },
                );
                format!("{name} ended by itself; its log ends:\n{last}")
            });
        }
        match waits.join_next().await {
            Some(Ok(text)) => text,
            _ => std::future::pending().await,
        }
    }

    /// Warnings and errors of all logs, bounded.
    pub(super) fn complaints(&self) -> String {
        let mut out = String::new();
        for process in &self.running {
            let text = fs::read_to_string(self.folder.join(format!("{}.log", process.name))).unwrap_or_default();
            let bad = text.lines().filter(|l| l.contains(" WARN ") || l.contains("ERROR "));
            let mut bad: VecDeque<&str> = bad.collect();
            while bad.len() > TOLD_LINES {
                bad.pop_front();
            }
            for line in bad {
                out += &format!("  {}: {line}\n", process.name);
            }
        }
        out
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let signal = |process: &Process, signal| {
            if let Ok(pid) = i32::try_from(process.child.id()) {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        };
        for process in self.running.iter().rev() {
            signal(process, Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for process in &mut self.running {
            let _ = process.ending.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let late = Instant::now() >= deadline;
            if late {
                let _ = process.child.kill();
            }
            let _ = process.child.wait();
        }
    }
}

fn follow(stderr: impl Read, mut log: fs::File, state: &watch::Sender<State>) {
    let mut last: VecDeque<String> = VecDeque::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        // A full disk loses log lines, not the demo.
        let _ = writeln!(log, "{line}");
        if line.starts_with("ready") {
            state.send_replace(State::Ready);
        }
        last.push_back(line);
        if last.len() > TOLD_LINES {
            last.pop_front();
        }
    }
    state.send_replace(State::Ended(Vec::from(last).join("\n")));
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TOLD_LINES)..).unwrap_or_default().join("\n")
}

/// Ends processes of an earlier demo that was killed: this program, started with files of the demo's folder.
pub(super) fn end_stale(program: &Path, folder: &Path) {
    let named = |path: &Path| path.file_name().map(|n| n.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    let inside = format!("{}/", folder.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(exe) = fs::read_link(entry.path().join("exe")) else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let of_demo = arguments.split(|b| *b == 0).any(|a| String::from_utf8_lossy(a).contains(&inside));
        if of_demo && named(&exe) == named(program) && pid != i32::try_from(std::process::id()).unwrap_or(0) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            // Its ports are free once it is gone.
            let deadline = Instant::now() + STOP_TIMEOUT;
            while fs::read_link(entry.path().join("exe")).is_ok() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
