//! Programs that run beside the test: their output is kept, and they end with the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

/// Killed when dropped; when the test panics its log is printed first.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    readers: [JoinHandle<()>; 2],
}

impl Process {
    #[track_caller]
    pub fn start(name: &str, mut command: Command) -> Self {
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::default();
        let readers = [keep(child.stdout.take(), &log), keep(child.stderr.take(), &log)];
        Self { name: name.to_owned(), child, log, readers }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Standard output and error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first line that contains `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str, within: Duration) -> String {
        let what = format!("{text:?} in the log of {}", self.name);
        eventually(&what, within, || {
            let ended = self.child.try_wait().unwrap();
            // What was said at the very end counts too. A child of its own may hold the pipes open.
            let complete = self.readers.iter().all(JoinHandle::is_finished);
            let found = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            if found.is_none()
                && complete
                && let Some(status) = ended
            {
                panic!("{} ended ({status}) without {text:?}:\n{}", self.name, self.log());
            }
            found
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("signalling an own child");
    }

    /// The end without a warning: SIGKILL.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// The polite end: SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(&what, within, || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}---", self.name, self.log());
        }
    }
}

fn keep(stream: Option<impl Read + Send + 'static>, log: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let (stream, log) = (stream.expect("a piped stream"), log.clone());
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
