//! The proxy as a whole: wires workers, listeners, DNS, admin and the source of updates, and is the one place that
//! publishes. Every fallible step of starting is in [`Proxy::bind`].

use crate::admin::{Admin, AdminState, Format, Readiness};
use crate::capture::Capture;
use crate::channel::Status;
use crate::identity::Identities;
use crate::last_good::{LastGood, Saver};
use crate::listener;
use crate::memory::Trimmer;
use crate::metrics::Metrics;
use crate::probe::Probes;
use crate::quota::Count;
use crate::socket::Mode;
use crate::sockets::Sockets;
use crate::source::{Csr, QUEUE_MAX, Update, Updates};
use crate::worker::{self, Shared};
use snapshot::{Generation, Publisher, Reader, Snapshot, Stale, Tables, cell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// From telling the control plane of the leaving to closing the listeners: so long peers may take to hear of it, and meet
/// an open door meanwhile.
const DRAIN_NOTICE: Duration = Duration::from_millis(500);

/// How one proxy is run on this machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// For logs and the names of state files.
    pub name: String,
    pub workers: usize,
    /// None: nothing is intercepted.
    pub mode: Option<Mode>,
    /// The machine has IPv6: IPv6 VIPs are served and AAAA questions answered with them.
    pub ipv6: bool,
    /// `bind` and `tproxy` add the routes of the VIP ranges (and tproxy its rule), and take them away at the end.
    pub manage_routes: bool,
    pub admin: Option<SocketAddr>,
    pub dns: Option<dns::Config>,
    /// Folder of the last good snapshot.
    pub state: Option<PathBuf>,
    pub drain_deadline: Duration,
}

/// A running proxy's handles.
pub struct Proxy {
    coordinator: Coordinator,
    updates: Updates,
    inbox: mpsc::Receiver<Update>,
    reader: Reader,
    status: watch::Receiver<Status>,
    drain: Arc<Notify>,
    admin: Option<Admin>,
    admin_address: Option<SocketAddr>,
    dns_addresses: Vec<SocketAddr>,
    restored: (Generation, Arc<Tables>),
    deadline: Duration,
}

impl Proxy {
    /// Starts workers, binds admin and DNS, and takes the last good snapshot into force if there is one.
    ///
    /// # Errors
    /// What can't be bound or made, with its address.
    pub async fn bind(config: Config) -> Result<Self, String> {
        crate::socket::raise_descriptor_limit();
        let (publisher, reader) = cell();
        let identities = Arc::new(Identities::new());
        let metrics = Metrics::new();
        let (draining, is_draining) = watch::channel(false);
        let (published_sender, published) = watch::channel(());
        let shared = Shared {
            published,
            live: Count::default(),
            reader: reader.clone(),
            identities: identities.clone(),
            metrics: metrics.clone(),
            mode: config.mode,
            draining: is_draining,
        };
        let workers: std::io::Result<Vec<_>> =
            (0..config.workers.max(1)).map(|i| worker::start(shared.clone(), i)).collect();
        let workers = workers.map_err(|e| format!("{}: worker: {e}", config.name))?;
        let mut parts = vec!["snapshot", "listeners", "identity"];
        if config.dns.is_some() {
            parts.push("dns");
        }
        let readiness = Readiness::new(&parts);
        let drain = Arc::new(Notify::new());
        let (dns_addresses, dns_metrics) = start_dns(&config, &reader, &readiness).await?;
        let admin = bind_admin(&config, (&reader, &metrics, dns_metrics), &readiness, &drain)?;
        let admin_address = admin.as_ref().and_then(|a| a.local_addr().ok());
        let (updates, inbox) = mpsc::channel(QUEUE_MAX);
        let (status_sender, status) = watch::channel(Status::default());
        let status_sender = Arc::new(status_sender);
        let last_good = config.state.as_ref().map(|folder| LastGood::new(folder, &config.name));
        let saver = last_good.clone().map(LastGood::saver).transpose();
        let mut coordinator = Coordinator {
            config: config.clone(),
            publisher,
            reader: reader.clone(),
            identities,
            metrics,
            readiness,
            sockets: Sockets::new(&config.name, workers),
            capture: Capture::new(&config.name, config.mode.filter(|_| config.manage_routes)),
            saver: saver.map_err(|e| format!("{}: saver: {e}", config.name))?,
            last_good,
            told: published_sender,
            trimmer: Trimmer::new(),
            draining,
            probes: Probes::new(config.mode, status_sender.clone()),
            status: status_sender,
        };
        let restored = coordinator.restore().await;
        let deadline = config.drain_deadline;
        Ok(Self {
            coordinator,
            updates,
            inbox,
            reader,
            status,
            drain,
            admin,
            admin_address,
            dns_addresses,
            restored,
            deadline,
        })
    }

    pub fn updates(&self) -> Updates {
        self.updates.clone()
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends `run` when notified, as `POST /drain` does.
    pub fn drain(&self) -> Arc<Notify> {
        self.drain.clone()
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    pub fn dns_addresses(&self) -> &[SocketAddr] {
        &self.dns_addresses
    }

    /// What is in force since before any control plane spoke: the base of the first delta.
    pub fn restored(&mut self) -> crate::channel::Base {
        let (generation, tables) = std::mem::take(&mut self.restored);
        crate::channel::Base { generation, tables }
    }

    /// Serves until drained: by `drain()` or when every sender of updates is gone.
    pub async fn run(self) {
        let Self { mut coordinator, updates, mut inbox, drain, admin, deadline, .. } = self;
        drop(updates);
        let admin = admin.map(|admin| tokio::spawn(admin.serve()));
        loop {
            tokio::select! {
                () = drain.notified() => break,
                () = until(coordinator.trimmer.due_at()) => coordinator.trim(),
                () = until(coordinator.sockets.retry_at()) => {
                    coordinator.sockets.retry().await;
                    coordinator.note_readiness();
                }
                update = inbox.recv() => match update {
                    None => break,
                    Some(update) => coordinator.take(update).await,
                },
            }
        }
        coordinator.drain(deadline, &mut inbox).await;
        if let Some(admin) = admin {
            admin.abort();
        }
    }
}

/// DNS has a thread of its own: a large snapshot being decoded must not delay an answer.
async fn start_dns(
    config: &Config,
    reader: &Reader,
    readiness: &Arc<Readiness>,
) -> Result<(Vec<SocketAddr>, Option<Arc<dns::Metrics>>), String> {
    let Some(dns_config) = config.dns.clone() else { return Ok((Vec::new(), None)) };
    let (name, reader, readiness) = (config.name.clone(), reader.clone(), readiness.clone());
    let (bound_sender, bound) = oneshot::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("{name}: {e}"))?;
    let thread = std::thread::Builder::new().name("weir-dns".into()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            match dns::bind(dns_config, reader).await {
                Ok(server) => {
                    readiness.done("dns");
                    let _ = bound_sender.send(Ok((server.addresses().to_vec(), server.metrics())));
                    server.run(std::future::pending()).await;
                }
                Err(error) => drop(bound_sender.send(Err(error))),
            }
        });
    });
    thread.map_err(|e| format!("{}: dns: {e}", config.name))?;
    match bound.await {
        Ok(Ok((addresses, metrics))) => Ok((addresses, Some(metrics))),
        Ok(Err(error)) => Err(format!("{}: dns: {error}", config.name)),
        Err(_) => Err(format!("{}: the DNS thread ended", config.name)),
    }
}

fn bind_admin(
    config: &Config,
    shown: (&Reader, &Arc<Metrics>, Option<Arc<dns::Metrics>>),
    readiness: &Arc<Readiness>,
    drain: &Arc<Notify>,
) -> Result<Option<Admin>, String> {
    let Some(address) = config.admin else { return Ok(None) };
    let (reader, metrics, dns_metrics) = (shown.0.clone(), shown.1.clone(), shown.2);
    let drain = drain.clone();
    let state = AdminState {
        readiness: readiness.clone(),
        metrics: Box::new(move || {
            let mut text = metrics.encode();
            if let Some(dns) = &dns_metrics {
                dns.render(&mut text);
            }
            text
        }),
        snapshot: Box::new(move |format| {
            let snapshot = reader.load();
            let tables = || serde_json::to_string_pretty(snapshot.tables()).unwrap_or_default();
            (!snapshot.is_empty()).then(|| match format {
                Format::Text => format!("generation {}\n{}", snapshot.generation(), snapshot.tables()),
                Format::Json => tables(),
            })
        }),
        drain: Box::new(move || drain.notify_one()),
    };
    let bound = Admin::bind(address, Arc::new(state));
    bound
        .map(Some)
        .map_err(|e| format!("{}: admin {address}: {e}; set networking.admin.port to another port", config.name))
}

/// The only one that publishes.
struct Coordinator {
    config: Config,
    publisher: Publisher,
    reader: Reader,
    identities: Arc<Identities>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    sockets: Sockets,
    capture: Capture,
    last_good: Option<LastGood>,
    saver: Option<Saver>,
    /// Wakes what must hear of each publish.
    told: watch::Sender<()>,
    trimmer: Trimmer,
    draining: watch::Sender<bool>,
    status: Arc<watch::Sender<Status>>,
    probes: Probes,
}

impl Coordinator {
    async fn restore(&mut self) -> (Generation, Arc<Tables>) {
        let Some(last_good) = self.last_good.clone() else { return Default::default() };
        match last_good.load(&self.identities) {
            Ok(None) => Default::default(),
            Ok(Some((generation, tables))) => match self.put_in_force(tables.clone(), generation).await {
                Ok(()) => {
                    tracing::info!(proxy = %self.config.name, %generation, "serving the last good snapshot until the control plane speaks");
                    self.note_readiness();
                    (generation, tables)
                }
                Err(reasons) => {
                    tracing::warn!(proxy = %self.config.name, ?reasons, "the saved snapshot is of no use");
                    Default::default()
                }
            },
            Err(problem) => {
                tracing::warn!(proxy = %self.config.name, "saved snapshot: {problem}");
                Default::default()
            }
        }
    }

    async fn take(&mut self, update: Update) {
        match update {
            Update::Offer { tables, generation, verdict } => {
                let outcome = self.put_in_force(tables, generation).await;
                match &outcome {
                    Ok(()) => {
                        // Saving takes its time and isn't needed for serving.
                        self.note_readiness();
                        if let Some(saver) = &self.saver {
                            saver.save(self.reader.load());
                        }
                    }
                    Err(_) => self.metrics.snapshot_refused(),
                }
                // A source that went away meanwhile doesn't wait for the answer.
                let _ = verdict.send(outcome);
            }
            Update::Ahead(row) => self.capture.ahead(&row),
            Update::Material(material) => {
                for problem in self.identities.install(material, now_ms()) {
                    tracing::error!(proxy = %self.config.name, "{problem}");
                }
                if let Some(last_good) = &self.last_good {
                    last_good.save_identities(&self.identities);
                }
            }
            Update::Csrs { meshes, reply } => {
                let meshes = if meshes.is_empty() { self.identities.due(now_ms()) } else { meshes };
                let _ = reply.send(meshes.iter().filter_map(|mesh| self.csr(mesh)).collect());
            }
        }
        self.note_readiness();
    }

    fn csr(&self, mesh: &str) -> Option<Csr> {
        let services = self.reader.load().tables().proxy.services.clone();
        match self.identities.csr(mesh, &services) {
            Ok(pem) => Some(Csr { mesh: mesh.to_owned(), pem }),
            Err(problem) => {
                tracing::error!(proxy = %self.config.name, "{problem}");
                None
            }
        }
    }

    /// Builds, binds what is new, publishes, then closes what is gone. All or nothing but for single sockets: one that
    /// can't be bound stops only itself.
    async fn put_in_force(&mut self, tables: Arc<Tables>, generation: Generation) -> Result<(), Vec<String>> {
        let begun = Instant::now();
        let current = self.reader.load();
        let tables = if self.config.ipv6 { tables } else { listener::without_ipv6(tables) };
        let built = Snapshot::build_after(Some(&current), tables, generation);
        let snapshot = Arc::new(built.map_err(|v| v.iter().map(ToString::to_string).collect::<Vec<_>>())?);
        let built_us = begun.elapsed().as_micros();
        let tables = snapshot.tables();
        if !generation.supersedes(current.generation()) {
            // The same control plane says after a lost stream what it said before.
            let is_known = generation == current.generation() && tables == current.tables();
            let stale = Stale { current: current.generation(), offered: generation };
            return if is_known { Ok(()) } else { Err(vec![stale.to_string()]) };
        }
        // While draining nothing new is accepted, but permissions, names and routes still change for live connections.
        if *self.draining.borrow() {
            return self.publish(snapshot);
        }
        self.capture.follow(&tables.proxy).await;
        let change = self.sockets.change(current.tables(), tables, self.config.mode);
        self.sockets.warn_of(change.uncaptured);
        let bound = self.sockets.bind(&change).await;
        self.publish(snapshot)?;
        self.sockets.accept(bound).await;
        self.sockets.close_gone(&change).await;
        self.probes.follow(&self.reader.load().tables().proxy.probes);
        self.readiness.done("snapshot");
        tracing::debug!(proxy = %self.config.name, %generation, built_us, all_us = begun.elapsed().as_micros(), "snapshot in force");
        Ok(())
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Result<(), Vec<String>> {
        self.publisher.publish(snapshot.clone()).map_err(|stale| vec![stale.to_string()])?;
        self.told.send_replace(());
        self.metrics.snapshot_accepted(snapshot.generation());
        self.trimmer.published();
        self.metrics.prune(|service| snapshot.service(service).is_some());
        Ok(())
    }

    fn trim(&mut self) {
        self.publisher.forget_previous();
        self.trimmer.trim();
    }

    fn note_readiness(&self) {
        let snapshot = self.reader.load();
        // Once ready it needn't be looked into again.
        if self.readiness.check().is_err() && !snapshot.is_empty() {
            if self.sockets.retry_at().is_none() {
                self.readiness.done("listeners");
            }
            let have = self.identities.meshes();
            let needed = listener::meshes_needed(snapshot.tables());
            if needed.iter().all(|mesh| have.iter().any(|h| h == mesh)) {
                self.readiness.done("identity");
            }
        }
        let ready = self.readiness.check().is_ok();
        let was = self.status.borrow().ready;
        if ready && !was {
            tracing::info!(proxy = %self.config.name, generation = %snapshot.generation(), "ready");
        }
        self.status.send_if_modified(|status| {
            let changed = status.ready != ready;
            status.ready = ready;
            changed
        });
    }

    /// Readiness off and tell the control plane; a little later stop accepting; wait for connections, then give up on the
    /// rest.
    async fn drain(mut self, deadline: Duration, inbox: &mut mpsc::Receiver<Update>) {
        tracing::info!(proxy = %self.config.name, deadline_s = deadline.as_secs(), "draining");
        self.readiness.terminate();
        self.probes.follow(&[]);
        self.status.send_modify(|s| (s.ready, s.draining) = (false, true));
        let begun = Instant::now();
        self.serve_until(std::pin::pin!(tokio::time::sleep(DRAIN_NOTICE.min(deadline / 4))), inbox).await;
        self.draining.send_replace(true);
        let waiting = self.sockets.drain().await;
        let all = async {
            for drained in waiting {
                let _ = drained.await;
            }
        };
        let left = deadline.saturating_sub(begun.elapsed());
        let all = std::pin::pin!(tokio::time::timeout(left, all));
        if self.serve_until(all, inbox).await.is_err() {
            tracing::warn!(proxy = %self.config.name, live = self.metrics.active_connections(), "deadline reached: live connections are closed");
        }
        if let Some(saver) = self.saver.take() {
            saver.finish().await;
        }
        self.capture.remove().await;
    }

    /// Policies still hold for live connections.
    async fn serve_until<T>(
        &mut self,
        mut end: Pin<&mut impl Future<Output = T>>,
        inbox: &mut mpsc::Receiver<Update>,
    ) -> T {
        loop {
            tokio::select! {
                ended = &mut end => return ended,
                Some(update) = inbox.recv() => self.take(update).await,
            }
        }
    }
}

/// Whether this machine (this network namespace) has IPv6 at all.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |t| t.as_millis() as u64)
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
