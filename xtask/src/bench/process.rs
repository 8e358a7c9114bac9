//! Child processes on a core of their own choice, ended when dropped. Knows no peer.

use super::{Res, cpu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The load's and the backend's core, and the proxy's.
pub(crate) const LOAD_CORE: usize = 0;
pub(crate) const PROXY_CORE: usize = 1;
const TERM_GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// A running program; SIGTERM, then SIGKILL, when dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
}

/// `taskset -c CORE PROGRAM`, to which arguments and environment can be added.
pub(crate) fn on_core(core: usize, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program.as_ref());
    command
}

impl Running {
    /// Starts `command`, its output in `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Res<Self> {
        let file = |error| format!("{}: {error}", log.display());
        let out = File::create(log).map_err(file)?;
        let err = out.try_clone().map_err(file)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().map_err(|error| format!("{name} can't be started: {error}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    pub(crate) fn family(&self) -> Vec<u32> {
        cpu::family(self.child.id())
    }

    /// Asks it to end; who drops it waits.
    pub(crate) fn terminate(&self) {
        let _ended = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
    }

    /// Waits until `port` on loopback accepts.
    pub(crate) fn listens(&mut self, port: u16, at_most: Duration) -> Res<()> {
        let began = Instant::now();
        while began.elapsed() < at_most {
            if opens(port) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended before it listened on port {port}: {status}", self.name));
            }
            sleep(POLL);
        }
        Err(format!("{} does not listen on port {port} after {at_most:?}", self.name))
    }
}

pub(crate) fn opens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.terminate();
        let began = Instant::now();
        while began.elapsed() < TERM_GRACE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            sleep(POLL);
        }
        for process in self.family() {
            let _gone = kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL);
        }
        let _reaped = self.child.wait();
    }
}
