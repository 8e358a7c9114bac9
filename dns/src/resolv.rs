//! The original resolvers: `nameserver` lines of a resolv.conf that is read again when it changes, or a fixed list;
//! and which of them stayed silent lately. It must not know queries.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// More `nameserver` lines than this are ignored, with a warning (libc stops at 3).
const NAMESERVERS_MAX: usize = 8;
/// A resolv.conf longer than this isn't one.
const RESOLV_CONF_BYTES_MAX: u64 = 64 << 10;

/// The resolvers, best first.
#[derive(Debug)]
pub(crate) struct Resolvers {
    /// `None`: a fixed list.
    file: Option<PathBuf>,
    check_every: Duration,
    silent_for: Duration,
    /// Our own addresses: asking ourselves would loop.
    own: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    servers: Vec<SocketAddr>,
    /// (mtime s, ns, inode, length) of what was read; `None` when there was no file.
    stamp: Option<(i64, i64, u64, u64)>,
    checked: Option<Instant>,
    silent_until: HashMap<SocketAddr, Instant>,
}

impl Resolvers {
    /// A non-empty `fixed` list wins over the file.
    pub(crate) fn new(fixed: Vec<SocketAddr>, file: PathBuf, own: Vec<SocketAddr>, times: &super::Times) -> Self {
        let state = State { servers: without_own(fixed, &own), ..State::default() };
        let file = state.servers.is_empty().then_some(file);
        Self { file, check_every: times.resolv_conf_check, silent_for: times.silent, own, state: Mutex::new(state) }
    }

    /// In the order to ask them: those that were silent lately come last, but are still asked.
    pub(crate) fn ordered(&self, now: Instant) -> Vec<SocketAddr> {
        let mut state = self.lock();
        if let Some(file) = &self.file
            && state.checked.is_none_or(|at| now.saturating_duration_since(at) >= self.check_every)
        {
            state.checked = Some(now);
            self.refresh(&mut state, file);
        }
        state.silent_until.retain(|_, until| *until > now);
        let mut servers = state.servers.clone();
        servers.sort_by_key(|server| state.silent_until.contains_key(server));
        servers
    }

    pub(crate) fn silent(&self, server: SocketAddr, now: Instant) {
        let mut state = self.lock();
        if state.servers.contains(&server) && state.silent_until.insert(server, now + self.silent_for).is_none() {
            warn!(%server, "DNS resolver doesn't answer; the others are asked first for a while");
        }
    }

    pub(crate) fn answered(&self, server: SocketAddr) {
        self.lock().silent_until.remove(&server);
    }

    /// Never held over an await; a panic elsewhere leaves the state usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self, state: &mut State, file: &Path) {
        let stamp = std::fs::metadata(file).ok().map(|m| (m.mtime(), m.mtime_nsec(), m.ino(), m.len()));
        if stamp == state.stamp && (stamp.is_some() || !state.servers.is_empty()) {
            return;
        }
        let readable = stamp.is_some_and(|(.., length)| length <= RESOLV_CONF_BYTES_MAX);
        let text = if readable { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() };
        let servers = without_own(parse(&text), &self.own);
        if servers.is_empty() {
            // A file that is being rewritten must not take the resolvers away; the next query looks again.
            if stamp != state.stamp || state.servers.is_empty() {
                warn!(file = %file.display(), "no usable `nameserver` line; mesh names are answered, others SERVFAIL");
            }
            return;
        }
        info!(file = %file.display(), ?servers, "DNS resolvers");
        state.stamp = stamp;
        state.servers = servers;
        state.silent_until.clear();
    }
}

fn without_own(servers: Vec<SocketAddr>, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_own = |server: &SocketAddr| {
        own.iter().any(|o| {
            o.port() == server.port()
                && (o.ip() == server.ip() || (o.ip().is_unspecified() && server.ip().is_loopback()))
        })
    };
    let (ours, mut others): (Vec<_>, Vec<_>) = servers.into_iter().partition(is_own);
    if !ours.is_empty() {
        warn!(?ours, "resolvers that are this DNS server itself are skipped");
    }
    others.truncate(NAMESERVERS_MAX);
    others
}

/// `nameserver` lines as libc reads them; lines it can't read are skipped.
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        nameserver(words.next()?)
    };
    text.lines().filter_map(address).collect()
}

/// `192.0.2.1`, `2001:db8::1` or `fe80::1%eth0`.
fn nameserver(text: &str) -> Option<SocketAddr> {
    const PORT: u16 = 53;
    let (address, scope) = text.split_once('%').unwrap_or((text, ""));
    match address.parse().ok()? {
        IpAddr::V4(v4) => Some(SocketAddr::from((v4, PORT))),
        IpAddr::V6(v6) => {
            let index = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok()).unwrap_or(0);
            Some(SocketAddrV6::new(v6, PORT, 0, index).into())
        }
    }
}

#[cfg(test)]
#[path = "resolv_tests.rs"]
mod tests;
