//! Service probes: asks the proxy's own applications whether they accept connections, and notes what changed (spec/naming.md §2.6).
//! Must not know who is told.

use crate::channel::Status;
use crate::inbound;
use crate::socket::{self, ConnectOptions, Mode};
use snapshot::ProbeRow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// The probes that run. They end when this is dropped.
pub(crate) struct Probes {
    mode: Option<Mode>,
    status: Arc<watch::Sender<Status>>,
    running: BTreeMap<String, (ProbeRow, AbortHandle)>,
    tasks: JoinSet<()>,
}

/// Successes or failures in a row, until they are enough to believe.
#[derive(Debug, Default)]
struct Streak {
    healthy: Option<bool>,
    count: u32,
    last: bool,
}

impl Streak {
    /// What is believed from now on, if that is news.
    fn take(&mut self, succeeded: bool, row: &ProbeRow) -> Option<bool> {
        self.count = if self.last == succeeded { self.count.saturating_add(1) } else { 1 };
        self.last = succeeded;
        let enough = if succeeded { row.healthy_threshold } else { row.unhealthy_threshold };
        if self.count < enough || self.healthy == Some(succeeded) {
            return None;
        }
        self.healthy = Some(succeeded);
        self.healthy
    }
}

impl Probes {
    pub(crate) fn new(mode: Option<Mode>, status: Arc<watch::Sender<Status>>) -> Self {
        Self { mode, status, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Starts what is new, ends what is gone; what stays keeps its streak.
    pub(crate) fn follow(&mut self, rows: &[ProbeRow]) {
        while self.tasks.try_join_next().is_some() {}
        let is_wanted = |row: &ProbeRow| rows.contains(row);
        let status = &self.status;
        self.running.retain(|inbound, (row, task)| {
            let stays = is_wanted(row);
            if !stays {
                task.abort();
                status.send_if_modified(|status| status.health.remove(inbound).is_some());
            }
            stays
        });
        for row in rows {
            if !self.running.contains_key(&row.inbound) {
                let way = way(self.mode, row);
                let task = self.tasks.spawn(probe(row.clone(), way, self.status.clone()));
                self.running.insert(row.inbound.clone(), (row.clone(), task));
            }
        }
    }
}

/// Where the application is, and from where it is asked: as the proxy's other connections to it.
fn way(mode: Option<Mode>, row: &ProbeRow) -> (SocketAddr, Option<IpAddr>) {
    let redirected = mode == Some(Mode::Redirect);
    let app = if !redirected && row.app == row.listener { inbound::loopback(row.app) } else { row.app };
    (app, inbound::source(row.captured && redirected, app))
}

async fn probe(row: ProbeRow, (app, source): (SocketAddr, Option<IpAddr>), status: Arc<watch::Sender<Status>>) {
    let options = ConnectOptions { source, ..ConnectOptions::default() };
    let mut streak = Streak::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(row.interval_ms.max(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = socket::connect(app, &options, Duration::from_millis(row.timeout_ms)).await;
        let Some(healthy) = streak.take(outcome.is_ok(), &row) else { continue };
        match outcome {
            Ok(_) => tracing::info!(inbound = %row.inbound, %app, "the application accepts connections"),
            Err(why) => tracing::warn!(inbound = %row.inbound, %app, %why, "the application accepts no connections"),
        }
        status.send_if_modified(|status| status.health.insert(row.inbound.clone(), healthy) != Some(healthy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn row(app: SocketAddr) -> ProbeRow {
        ProbeRow {
            inbound: ":80".into(),
            listener: "127.0.0.9:80".parse().unwrap(),
            app,
            captured: false,
            interval_ms: 5,
            timeout_ms: 1000,
            healthy_threshold: 1,
            unhealthy_threshold: 3,
        }
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let row = ProbeRow { healthy_threshold: 2, ..row("127.0.0.1:1".parse().unwrap()) };
        let mut streak = Streak::default();
        let taken =
            [true, false, true, true, true, false, false, true, false, false, false].map(|s| streak.take(s, &row));
        let mut expected = [None; 11];
        (expected[3], expected[10]) = (Some(true), Some(false));
        assert_eq!(taken, expected);
    }

    #[test]
    fn the_application_is_asked_where_and_from_where_it_is_served() {
        let app = "10.0.0.1:80".parse().unwrap();
        let row = ProbeRow { listener: app, captured: true, ..row(app) };
        assert_eq!(way(Some(Mode::Redirect), &row), (app, Some([127, 0, 0, 6].into())));
        assert_eq!(way(Some(Mode::Bind), &row), ("127.0.0.1:80".parse().unwrap(), None));
    }

    #[tokio::test]
    async fn an_application_that_comes_and_goes_is_noted_and_one_that_is_no_longer_probed_forgotten() {
        let (sender, mut status) = watch::channel(Status::default());
        let mut probes = Probes::new(None, Arc::new(sender));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let rows = [row(listener.local_addr().unwrap())];
        probes.follow(&rows);
        status.wait_for(|s| s.health.get(":80") == Some(&true)).await.unwrap();
        drop(listener);
        status.wait_for(|s| s.health.get(":80") == Some(&false)).await.unwrap();
        probes.follow(&rows);
        assert_eq!(probes.running.len(), 1);
        probes.follow(&[]);
        assert!(status.borrow().health.is_empty());
    }
}
