//! Addresses of endpoints that are DNS names (external services): the system's resolver behind a small cache of this
//! worker. Must not know services or TLS.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// An answer, or a failure, holds this long; the system's resolver doesn't tell the record's own TTL.
pub(crate) const FRESH_MS: u64 = 5_000;
/// While lookups fail, the last answer serves this long.
pub(crate) const STALE_MS: u64 = 300_000;
/// One lookup.
pub(crate) const LOOKUP_TIMEOUT_MS: u64 = 5_000;
/// Names remembered by one worker.
const NAMES_MAX: usize = 1_024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// What is known of one name. Failures are remembered too, or every connection would wait for a dead resolver.
#[derive(Debug, Default)]
struct Known {
    asked: Option<Instant>,
    good: Option<(Instant, Rc<[IpAddr]>)>,
    problem: String,
}

/// Behind a lock that lets one task ask while others wait for its answer.
type Entry = Rc<Mutex<Known>>;

#[derive(Debug, Default)]
pub(crate) struct Resolver {
    names: RefCell<HashMap<String, Entry>>,
}

impl Resolver {
    /// The addresses of `name`, IPv4 first.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Rc<[IpAddr]>, String> {
        self.lookup_with(name, ask(name)).await
    }

    async fn lookup_with<F>(&self, name: &str, ask: F) -> Result<Rc<[IpAddr]>, String>
    where
        F: Future<Output = Result<Vec<IpAddr>, String>>,
    {
        let entry = self.entry(name);
        let mut known = entry.lock().await;
        if !is_younger(known.asked, FRESH_MS) {
            let answer = ask.await;
            let now = Instant::now();
            known.asked = Some(now);
            match answer {
                Ok(addresses) => known.good = Some((now, addresses.into())),
                Err(problem) => known.problem = problem,
            }
        }
        match &known.good {
            Some((at, addresses)) if is_younger(Some(*at), STALE_MS) => Ok(Rc::clone(addresses)),
            _ => Err(known.problem.clone()),
        }
    }

    fn entry(&self, name: &str) -> Entry {
        let mut names = self.names.borrow_mut();
        if let Some(entry) = names.get(name) {
            return Rc::clone(entry);
        }
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        Rc::clone(names.entry(name.to_owned()).or_default())
    }
}

fn is_younger(at: Option<Instant>, limit_ms: u64) -> bool {
    at.is_some_and(|at| at.elapsed() < Duration::from_millis(limit_ms))
}

async fn ask(name: &str) -> Result<Vec<IpAddr>, String> {
    let limit = Duration::from_millis(LOOKUP_TIMEOUT_MS);
    let found = match tokio::time::timeout(limit, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => found,
        Ok(Err(e)) => return Err(format!("{name} can't be resolved: {e}")),
        Err(_) => return Err(format!("{name} can't be resolved: no answer within {LOOKUP_TIMEOUT_MS} ms")),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|socket| socket.ip()) {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // As the reference resolves them, and a machine without IPv6 routes then loses no time.
    addresses.sort_by_key(IpAddr::is_ipv6);
    if addresses.is_empty() { Err(format!("{name} has no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: u8) -> Vec<IpAddr> {
        vec![IpAddr::from([127, 0, 0, last])]
    }

    #[tokio::test]
    async fn a_fresh_answer_is_not_asked_for_again() {
        let resolver = Resolver::default();
        resolver.lookup_with("a.test", async { Ok(addresses(1)) }).await.unwrap();
        let again = resolver.lookup_with("a.test", async { Err("asked again".to_owned()) }).await.unwrap();
        assert_eq!(*again, addresses(1));
    }

    #[tokio::test]
    async fn a_stale_answer_serves_while_lookups_fail() {
        let resolver = Resolver::default();
        let old = Instant::now().checked_sub(Duration::from_millis(FRESH_MS + 1)).unwrap();
        let good = Some((old, addresses(1).into()));
        *resolver.entry("a.test").lock().await = Known { asked: Some(old), good, problem: String::new() };
        let stale = resolver.lookup_with("a.test", async { Err("down".to_owned()) }).await.unwrap();
        assert_eq!(*stale, addresses(1));
        // The failure is as fresh as an answer would be.
        let again = resolver.lookup_with("a.test", async { Ok(addresses(2)) }).await.unwrap();
        assert_eq!(*again, addresses(1));
        assert_eq!(resolver.lookup_with("b.test", async { Err("down".to_owned()) }).await.unwrap_err(), "down");
    }

    #[tokio::test]
    async fn localhost_resolves() {
        let found = Resolver::default().lookup("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback));
    }
}
