//! Whom to ask about what isn't ours: the upstreams of a domain that somebody configured, or the `nameserver` lines and
//! options of a resolv.conf that is read again when it changes; and which of them stayed silent lately. It must not know
//! queries or sockets.

use crate::lookup::is_below;
use snapshot::DnsUpstream;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// More servers than this aren't asked about one name (libc stops at 3).
const NAMESERVERS_MAX: usize = 8;
/// A resolv.conf longer than this isn't one.
const RESOLV_CONF_BYTES_MAX: u64 = 64 << 10;
/// Between two log lines about one resolver that doesn't answer.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// libc's bounds of `options timeout:` and `options attempts:`.
const TIMEOUT_S: (u64, u64) = (1, 30);
const ATTEMPTS: (u32, u32) = (1, 5);

/// Whom to ask about one name, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Best first: those that were silent lately come last, but are still asked.
    pub(crate) servers: Vec<SocketAddr>,
    /// A silent one that is asked beside the first, to see whether it is back.
    pub(crate) probe: Option<SocketAddr>,
    /// Until the next one is asked as well; `None`: as we like it.
    pub(crate) one_try: Option<Duration>,
    /// How often each is asked; `None`: until the time is over.
    pub(crate) attempts: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Resolvers {
    /// The proxy's own rules; of two for one domain these win over the control plane's.
    rules: Vec<DnsUpstream>,
    /// The resolv.conf, and the port of the servers it names.
    file: (PathBuf, u16),
    check_every: Duration,
    settle: Duration,
    silent_for: Duration,
    /// Our own addresses: asking ourselves would loop.
    own: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    conf: Conf,
    /// Of what was read last, and since when it has it.
    stamp: Option<Stamp>,
    since: Option<Instant>,
    /// What was read had stood still before, so nobody is writing it any more.
    settled: bool,
    checked: Option<Instant>,
    /// When each of the silent is tried again.
    silent: HashMap<SocketAddr, Instant>,
    /// When the log last spoke of each: a slow resolver isn't worth a line a query.
    warned: HashMap<SocketAddr, Instant>,
    /// Questions that began, for `options rotate`.
    begun: usize,
}

/// What a resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conf {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) attempts: Option<u32>,
    pub(crate) rotate: bool,
}

/// mtime (s, ns), inode, length.
type Stamp = (i64, i64, u64, u64);

impl Resolvers {
    pub(crate) fn new(
        rules: Vec<DnsUpstream>,
        file: (PathBuf, u16),
        own: Vec<SocketAddr>,
        times: &super::Times,
    ) -> Self {
        let (check_every, settle, silent_for) = (times.resolv_conf_check, times.resolv_conf_settle, times.silent);
        let resolvers = Self { rules, file, check_every, settle, silent_for, own, state: Mutex::default() };
        // Before anybody can ask: a file that is rewritten later has something to fall back on.
        resolvers.conf(&mut resolvers.lock(), Instant::now());
        resolvers
    }

    /// Whom to ask about `name` (`None`: the message is about no name). `mesh`: the control plane's rules.
    pub(crate) fn plan(&self, name: Option<&str>, mesh: &[DnsUpstream], now: Instant) -> Plan {
        let mut state = self.lock();
        state.begun = state.begun.wrapping_add(1);
        let mut plan = match self.rule(name.unwrap_or_default(), mesh) {
            Some(servers) => Plan { servers, ..Plan::default() },
            None => self.conf(&mut state, now),
        };
        let State { silent, .. } = &mut *state;
        plan.servers.sort_by_key(|server| silent.contains_key(server));
        if plan.servers.first().is_some_and(|server| !silent.contains_key(server)) {
            let due = plan.servers.iter().find(|server| silent.get(server).is_some_and(|at| *at <= now));
            plan.probe = due.copied();
            // One query probes, not all that begin before it knows more.
            if let Some(server) = plan.probe {
                silent.insert(server, now + self.silent_for);
            }
        }
        plan
    }

    pub(crate) fn silent(&self, server: SocketAddr, now: Instant) {
        let mut state = self.lock();
        state.silent.insert(server, now + self.silent_for);
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= WARN_EVERY;
        if state.warned.get(&server).is_none_or(is_old) {
            state.warned.insert(server, now);
            warn!(%server, "DNS resolver doesn't answer; the others are asked first until it does");
        }
    }

    pub(crate) fn answered(&self, server: SocketAddr) {
        self.lock().silent.remove(&server);
    }

    /// The servers of the longest domain that the name is in; of the same domain twice the proxy's own.
    fn rule(&self, name: &str, mesh: &[DnsUpstream]) -> Option<Vec<SocketAddr>> {
        let applies = |rule: &&DnsUpstream| rule.domain.is_empty() || is_below(name, &rule.domain);
        let longest = |rules: &[DnsUpstream]| rules.iter().filter(applies).map(|rule| rule.domain.len()).max();
        let (own, theirs) = (longest(&self.rules), longest(mesh));
        let (rules, length) = if own >= theirs { (&*self.rules, own?) } else { (mesh, theirs?) };
        let chosen = rules.iter().filter(applies).filter(|rule| rule.domain.len() == length);
        Some(self.without_own(chosen.map(|rule| rule.server).collect()))
    }

    fn conf(&self, state: &mut State, now: Instant) -> Plan {
        let is_due = |at| now.saturating_duration_since(at) >= self.check_every;
        if state.conf.servers.is_empty() || state.checked.is_none_or(is_due) {
            let first = state.checked.replace(now).is_none();
            self.refresh(state, first, now);
        }
        let Conf { mut servers, timeout, attempts, rotate } = state.conf.clone();
        if rotate && !servers.is_empty() {
            let first = state.begun % servers.len();
            servers.rotate_left(first);
        }
        Plan { servers, probe: None, one_try: timeout, attempts }
    }

    /// A file that changed may still be in the making: until it stands still, what it said before counts too, and its
    /// last line only when it is whole.
    fn refresh(&self, state: &mut State, first: bool, now: Instant) {
        let (file, port) = (&*self.file.0, self.file.1);
        let stamp = std::fs::metadata(file).ok().map(|m| (m.mtime(), m.mtime_nsec(), m.ino(), m.len()));
        let unchanged = stamp.is_some() && stamp == state.stamp;
        let still = state.since.is_some_and(|since| now.saturating_duration_since(since) >= self.settle);
        if unchanged && (state.settled || !still) {
            return;
        }
        if !unchanged {
            state.since = Some(now);
        }
        let readable = stamp.is_some_and(|(.., length)| length <= RESOLV_CONF_BYTES_MAX);
        let text = if readable { std::fs::read_to_string(file).unwrap_or_default() } else { String::new() };
        let settled = (unchanged && still) || state.conf.servers.is_empty();
        let whole = if settled { &*text } else { text.rsplit_once('\n').map_or("", |(lines, _)| lines) };
        let mut conf = parse(whole, port);
        conf.servers = self.without_own(conf.servers);
        if conf.servers.is_empty() {
            if stamp != state.stamp || first {
                let kept = &state.conf.servers;
                warn!(file = %file.display(), ?kept, "no usable `nameserver` line; what it said before stays in force");
            }
            // Read again next time, in case it was caught half written.
            (state.stamp, state.settled) = (stamp, false);
            return;
        }
        if !settled {
            let before = state.conf.servers.iter().filter(|server| !conf.servers.contains(server));
            let before: Vec<_> = before.copied().collect();
            conf.servers.extend(before);
            conf.servers.truncate(NAMESERVERS_MAX);
        }
        if conf != state.conf {
            info!(file = %file.display(), servers = ?conf.servers, "DNS resolvers");
            state.silent.retain(|server, _| conf.servers.contains(server));
            state.warned.retain(|server, _| conf.servers.contains(server));
        }
        (state.conf, state.stamp, state.settled) = (conf, stamp, settled);
    }

    fn without_own(&self, servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let is_own = |server: &SocketAddr| {
            self.own.iter().any(|own| {
                own.port() == server.port()
                    && (own.ip() == server.ip() || (own.ip().is_unspecified() && server.ip().is_loopback()))
            })
        };
        servers.into_iter().filter(|server| !is_own(server)).take(NAMESERVERS_MAX).collect()
    }

    /// Never held over an await; a panic elsewhere leaves the state usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As libc reads it; lines and words it can't read are skipped. `search` and `domain` are the client's matter.
pub(crate) fn parse(text: &str, port: u16) -> Conf {
    let mut conf = Conf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => conf.servers.extend(words.next().and_then(|word| nameserver(word, port))),
            Some("options") => words.for_each(|word| option(&mut conf, word)),
            _ => {}
        }
    }
    conf
}

fn option(conf: &mut Conf, word: &str) {
    match word.split_once(':') {
        Some(("timeout", value)) => {
            let seconds = value.parse::<u64>().ok().map(|s| s.clamp(TIMEOUT_S.0, TIMEOUT_S.1));
            conf.timeout = seconds.map(Duration::from_secs).or(conf.timeout);
        }
        Some(("attempts", value)) => {
            let attempts = value.parse::<u32>().ok().map(|n| n.clamp(ATTEMPTS.0, ATTEMPTS.1));
            conf.attempts = attempts.or(conf.attempts);
        }
        _ => conf.rotate |= word == "rotate",
    }
}

/// `192.0.2.1`, `2001:db8::1` or `fe80::1%eth0`.
fn nameserver(text: &str, port: u16) -> Option<SocketAddr> {
    let (address, scope) = text.split_once('%').unwrap_or((text, ""));
    match address.parse().ok()? {
        IpAddr::V4(v4) => Some(SocketAddr::from((v4, port))),
        IpAddr::V6(v6) => {
            let index = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok()).unwrap_or(0);
            Some(SocketAddrV6::new(v6, port, 0, index).into())
        }
    }
}

#[cfg(test)]
#[path = "resolv_tests.rs"]
mod tests;
