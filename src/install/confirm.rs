//! Installing on trial: a process of its own, out of the operator's session, puts back what was there before unless it hears in time
//! that the operator still gets in. Must not know what the rules are.
//!
//! It listens on a socket in the abstract namespace, which belongs to a network namespace as the rules do, and ends with it.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{ADDED_SOURCE, InstallError, TABLE, installed, remove, say, tool};

const SOCKET: &str = "weir-transparent-proxy-on-trial";
const KEEP: &[u8] = b"keep\n";
const ARMED: &str = "armed";
const KEPT: &str = "kept";
const ROLLED_BACK: &str = "rolled back";
/// Of a peer that connects and says nothing.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
const WAIT_S_MAX: u64 = 24 * 60 * 60;
/// The machine may be busy just then.
const ROLL_BACK_TRIES: u32 = 10;

/// How long an installation is on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait(Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wait = control::time::parse_go_duration(text).map_err(|why| format!("{why}; write it like 60s"))?;
        match (1..=WAIT_S_MAX).contains(&wait.as_secs()) {
            true => Ok(Self(wait)),
            false => Err(format!("{text} is not from 1s to {} h", WAIT_S_MAX / 3600)),
        }
    }
}

fn address() -> Result<SocketAddr, InstallError> {
    SocketAddr::from_abstract_name(SOCKET).map_err(|error| InstallError::machine(error.to_string()))
}

pub(super) fn is_pending() -> bool {
    address().is_ok_and(|address| UnixStream::connect_addr(&address).is_ok())
}

pub(super) fn refuse_while_pending() -> Result<(), InstallError> {
    match is_pending() {
        false => Ok(()),
        true => Err(InstallError::machine(
            "an installation waits for confirmation: confirm it with `install transparent-proxy --keep`, undo it with \
             `uninstall transparent-proxy`, or wait for its end",
        )),
    }
}

/// Tells the process that waits that all is well.
pub(super) fn keep() -> Result<(), InstallError> {
    let none = |_| {
        InstallError::machine(
            "no installation waits for confirmation: nothing was installed with --confirm, or its time is over",
        )
    };
    let mut stream = UnixStream::connect_addr(&address()?).map_err(none)?;
    let mut answer = String::new();
    let asked = stream.write_all(KEEP).and_then(|()| stream.read_to_string(&mut answer));
    match asked {
        Ok(_) if answer.trim() == KEPT => Ok(()),
        _ => Err(InstallError::machine("the confirmation came too late: the installation is being rolled back")),
    }
}

/// The process that waits has begun to.
pub(super) struct Armed {
    wait: Duration,
    deadline: Instant,
    says: BufReader<ChildStdout>,
}

/// Before the rules change: without somebody to undo them they don't.
pub(super) fn arm(Wait(wait): Wait) -> Result<Armed, InstallError> {
    let failed = |error: io::Error| {
        InstallError::machine(format!("cannot start the process that rolls back: {error}; nothing was changed"))
    };
    let program = std::env::current_exe().map_err(failed)?;
    let seconds = format!("{}s", wait.as_secs());
    let mut child = Command::new(program)
        .args(["install", "transparent-proxy", "--roll-back-after", &seconds])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + wait;
    let out = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let mut says = BufReader::new(out);
    match line(&mut says).as_deref() {
        Some(ARMED) => Ok(Armed { wait, deadline, says }),
        other => Err(failed(io::Error::other(other.unwrap_or("it ended").to_owned()))),
    }
}

fn line(from: &mut BufReader<ChildStdout>) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).ok().filter(|count| *count > 0).map(|_| line.trim().to_owned())
}

impl Armed {
    /// On a terminal waits for Enter; or for what another terminal or the clock decides.
    pub(super) fn ask(mut self) -> Result<(), InstallError> {
        let seconds = self.wait.as_secs();
        let command = "`install transparent-proxy --keep`";
        if !io::stdin().is_terminal() {
            say(&mut io::stdout(), &format!("Transparent proxy set up for {seconds} s; to keep it run {command}\n"));
            return Ok(());
        }
        let prompt = format!(
            "Transparent proxy set up for {seconds} s. See from elsewhere that you still get in; then press Enter to keep it, \
             or run {command} there.\n"
        );
        say(&mut io::stderr(), &prompt);
        while let Some(left) = self.deadline.checked_duration_since(Instant::now()) {
            let stdin = io::stdin();
            let mut ready = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.says.get_ref().as_fd(), PollFlags::POLLIN),
            ];
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let polled = poll(&mut ready, timeout);
            let [entered, said] = ready.map(|fd| fd.any().unwrap_or(false));
            if polled.is_ok() && said {
                break;
            }
            if polled.is_ok() && entered {
                let mut answer = String::new();
                // The end of input is no confirmation.
                if io::stdin().read_line(&mut answer).is_ok_and(|count| count > 0) {
                    keep()?;
                }
                break;
            }
        }
        let outcome = line(&mut self.says);
        match outcome.as_deref() {
            Some(KEPT) => {
                say(&mut io::stdout(), "Transparent proxy kept\n");
                Ok(())
            }
            Some(ROLLED_BACK) => Err(InstallError::machine("not confirmed in time: the machine is as it was before")),
            other => Err(InstallError::machine(format!("rolling back: {}", other.unwrap_or("the process ended")))),
        }
    }
}

/// The life of the process that waits.
pub(super) fn guard(Wait(wait): Wait) -> Result<(), InstallError> {
    let deadline = Instant::now() + wait;
    leave_session();
    let listener = UnixListener::bind_addr(&address()?)
        .map_err(|error| InstallError::machine(format!("an installation waits already: {error}")))?;
    let before = installed()?;
    say(&mut io::stdout(), &format!("{ARMED}\n"));
    if is_kept(&listener, deadline) {
        say(&mut io::stdout(), &format!("{KEPT}\n"));
        return Ok(());
    }
    drop(listener);
    let mut outcome = Ok(());
    for attempt in 1..=ROLL_BACK_TRIES {
        outcome = roll_back(before.as_deref());
        if outcome.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_secs(attempt.into()));
    }
    let said = outcome.as_ref().map_or_else(ToString::to_string, |()| ROLLED_BACK.to_owned());
    // Where the operator looks once the session is gone.
    let _ = std::fs::write("/dev/kmsg", format!("weir: transparent proxy was not confirmed: {said}\n"));
    say(&mut io::stdout(), &format!("{said}\n"));
    outcome
}

/// Out of the terminal's reach, and out of the cgroup that logind may kill with the session. Where that one isn't ours to leave, the
/// first is what counts.
fn leave_session() {
    let _ = nix::unistd::setsid();
    let _ = std::fs::write("/sys/fs/cgroup/cgroup.procs", "0");
}

/// Whether root said so before the deadline.
fn is_kept(listener: &UnixListener, deadline: Instant) -> bool {
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        if !poll(&mut ready, timeout).is_ok_and(|count| count > 0) {
            continue;
        }
        let Ok((mut peer, _)) = listener.accept() else { continue };
        let is_root = getsockopt(&peer, PeerCredentials).is_ok_and(|credentials| credentials.uid() == 0);
        let mut asked = [0; KEEP.len()];
        let _ = peer.set_read_timeout(Some(PEER_TIMEOUT));
        if is_root && peer.read_exact(&mut asked).is_ok() && asked == KEEP {
            let _ = peer.write_all(KEPT.as_bytes());
            return true;
        }
    }
    false
}

fn roll_back(before: Option<&str>) -> Result<(), InstallError> {
    let Some(before) = before else {
        return installed()?.map_or(Ok(()), |table| remove(&table));
    };
    let now = installed()?.unwrap_or_default();
    if now.contains(ADDED_SOURCE) && !before.contains(ADDED_SOURCE) {
        remove(&now)?;
    }
    let text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{before}");
    tool("nft", &["-f", "-"], &text).map(drop)
}
