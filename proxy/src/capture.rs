//! Interception as a proxy wants it now: installed before the first snapshot is in force, beside receiving it, and anew when the
//! mesh's ranges change. What is installed is `interception`'s matter. Must not know rows other than the proxy's own.

use crate::interception::{Installed, InterceptionError, Range, install};
use crate::socket::Mode;
use snapshot::ProxyRow;
use tokio::task::JoinHandle;

/// Ranges of virtual IPs, and the port that takes what goes to them.
type Wanted = (Vec<Range>, u16);

pub(crate) struct Capture {
    proxy: String,
    /// None: nothing is captured, or somebody else sees to it.
    mode: Option<Mode>,
    installing: Option<(Wanted, JoinHandle<Result<Installed, InterceptionError>>)>,
    installed: Option<(Wanted, Installed)>,
}

fn wanted(row: &ProxyRow) -> Wanted {
    (row.dns.vip_ranges.iter().filter_map(|range| range.parse().ok()).collect(), row.interception.outbound_port)
}

impl Capture {
    pub(crate) fn new(proxy: &str, mode: Option<Mode>) -> Self {
        Self { proxy: proxy.to_owned(), mode, installing: None, installed: None }
    }

    /// Begins while the rest of a first snapshot is on its way: most of the time that tools of the operating system take is
    /// waiting for the kernel.
    pub(crate) fn ahead(&mut self, row: &ProxyRow) {
        if self.installed.is_none() && self.installing.is_none() {
            self.begin(wanted(row));
        }
    }

    /// When this is over, what goes to the ranges of `row` arrives at this proxy, or the log says why not.
    pub(crate) async fn follow(&mut self, row: &ProxyRow) {
        let wanted = wanted(row);
        if self.installing.is_none() && self.installed.as_ref().is_none_or(|(have, _)| *have != wanted) {
            // The old routes go first: what is there already isn't added, and would then be missing.
            self.installed = None;
            self.begin(wanted.clone());
        }
        self.end().await;
        if self.installed.as_ref().is_some_and(|(have, _)| *have != wanted) {
            self.installed = None;
            self.begin(wanted);
            self.end().await;
        }
    }

    fn begin(&mut self, wanted: Wanted) {
        let Some(mode) = self.mode else { return };
        let (ranges, port) = wanted.clone();
        self.installing = Some((wanted, tokio::task::spawn_blocking(move || install(mode, &ranges, port))));
    }

    async fn end(&mut self) {
        let Some((wanted, installing)) = self.installing.take() else { return };
        let error = match installing.await {
            Ok(Ok(installed)) => return self.installed = Some((wanted, installed)),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        tracing::error!(proxy = %self.proxy, error, "virtual IPs can't be reached on this machine");
    }

    /// Takes away what was added.
    pub(crate) async fn remove(&mut self) {
        self.end().await;
        if let Some(Err(error)) = self.installed.take().map(|(_, installed)| installed.remove()) {
            tracing::warn!(proxy = %self.proxy, %error, "interception is not fully removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(range: &str) -> ProxyRow {
        let mut row = ProxyRow::default();
        row.dns.vip_ranges = vec![range.to_owned()];
        row
    }

    /// Loopback ranges need nothing of the machine.
    #[tokio::test]
    async fn what_was_begun_ahead_is_used_and_other_ranges_replace_it() {
        let mut capture = Capture::new("t", Some(Mode::Bind));
        capture.ahead(&row("127.1.0.0/16"));
        assert!(capture.installing.is_some() && capture.installed.is_none());
        for range in ["127.1.0.0/16", "127.2.0.0/16"] {
            capture.follow(&row(range)).await;
            assert_eq!(capture.installed.as_ref().unwrap().0, wanted(&row(range)));
        }
        capture.ahead(&row("127.3.0.0/16"));
        assert!(capture.installing.is_none(), "what is in force stays until its successor is");
        capture.ahead(&row("127.2.0.0/16"));
        capture.remove().await;
        assert!(capture.installed.is_none());
    }

    #[tokio::test]
    async fn another_range_than_announced_is_installed_at_last() {
        let mut capture = Capture::new("t", Some(Mode::Bind));
        capture.ahead(&row("127.1.0.0/16"));
        capture.follow(&row("127.2.0.0/16")).await;
        assert_eq!(capture.installed.as_ref().unwrap().0, wanted(&row("127.2.0.0/16")));
    }
}
