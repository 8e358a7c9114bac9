//! `up`: a whole mesh in one process. A control plane, and a proxy for every address of this machine that the resources
//! name; the same libraries as `cp run` and `dp run`, joined without a network between them.

mod feed;
mod files;

use crate::cli::Up;
use crate::control_plane::{self, ControlPlane};
use crate::failure::Failure;
use control::compile::{Options, ProxyKey};
use control::publish::Published;
use control::resource::{Resource, Spec};
use control::settings::{Cidr, Settings, StoreKind};
use proxy::socket::Mode;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

const ADMIN_PORT: u16 = 9901;
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// The ready line waits this long for every proxy.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Saved files are looked at this often with `--watch`.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Without privileges, virtual IPs are loopback addresses.
const UNPRIVILEGED_RANGE: Cidr = Cidr { network: IpAddr::V4(Ipv4Addr::new(127, 240, 0, 0)), prefix: 12 };

pub(crate) fn run(args: Up) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(serve(args))
}

async fn serve(args: Up) -> Result<(), Failure> {
    let files = files::Files::new(args.files.clone());
    let resources = files.read().map_err(Failure::config)?;
    let settings = settings(&args)?;
    let cp = control_plane::start(&settings, false).await?;
    files::apply(&cp.core, resources.clone()).await.map_err(Failure::config)?;
    let acting = acting(&args, &cp)?;
    known_only(&args.only, &resources)?;
    let mut mesh = Mesh {
        args,
        addresses: control_plane::machine_addresses(),
        settings,
        acting,
        running: BTreeMap::new(),
        failed: BTreeMap::new(),
    };
    mesh.live(cp, files, resources).await
}

fn settings(args: &Up) -> Result<Settings, Failure> {
    let mut settings = control_plane::settings(None)?;
    settings.api = args.api;
    match &args.data {
        Some(folder) => (settings.store, settings.data_dir) = (StoreKind::Sqlite, folder.clone()),
        None => settings.store = StoreKind::Memory,
    }
    if !nix::unistd::Uid::effective().is_root() && std::env::var_os("KUMA_DNS_SERVER_CIDR").is_none() {
        settings.cidr = UNPRIVILEGED_RANGE;
        settings.cidr_v6 = None;
        tracing::warn!("not root: virtual IPs come from {UNPRIVILEGED_RANGE}, so that they need no route");
    }
    Ok(settings)
}

/// The dataplane that VIPs and DNS act for.
fn acting(args: &Up, cp: &ControlPlane) -> Result<Option<ProxyKey>, Failure> {
    let contents = cp.core.contents();
    let dataplanes: Vec<&Resource> =
        contents.resources.iter().map(AsRef::as_ref).filter(|r| r.kind() == "Dataplane").collect();
    let key = |r: &Resource| ProxyKey::dataplane(&r.meta.mesh, &r.meta.name);
    if let Some(name) = &args.acting {
        let found = dataplanes.iter().find(|r| r.meta.name == *name);
        let names: Vec<&str> = dataplanes.iter().map(|r| r.meta.name.as_str()).collect();
        let none =
            || Failure::config(format!("--as {name}: there is no such Dataplane; there are: {}", names.join(", ")));
        return found.map(|r| Some(key(r))).ok_or_else(none);
    }
    let transparent: Vec<&&Resource> = dataplanes.iter().filter(|r| is_transparent(r)).collect();
    let transparent: Vec<&&Resource> =
        transparent.into_iter().filter(|r| args.only.is_empty() || args.only.contains(&r.meta.name)).collect();
    match transparent.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(key(one))),
        several => {
            let names: Vec<&str> = several.iter().map(|r| r.meta.name.as_str()).collect();
            let text =
                format!("several Dataplanes have transparentProxying ({}): name one with --as", names.join(", "));
            Err(Failure::config(text))
        }
    }
}

/// Every name of `--only` is a proxy's.
fn known_only(only: &[String], resources: &[Resource]) -> Result<(), Failure> {
    let is_proxy = |r: &&Resource| matches!(r.spec, Spec::Dataplane(_) | Spec::ZoneIngress(_) | Spec::ZoneEgress(_));
    let proxies: Vec<&str> = resources.iter().filter(is_proxy).map(|r| r.meta.name.as_str()).collect();
    match only.iter().find(|name| !proxies.contains(&name.as_str())) {
        Some(name) => {
            Err(Failure::config(format!("--only {name}: there is no such proxy; there are: {}", proxies.join(", "))))
        }
        None => Ok(()),
    }
}

/// What chooses another address, where a DNS server couldn't listen.
pub(crate) fn hint(problem: String, flag: &str) -> String {
    if problem.contains("DNS can't listen") { format!("{problem}; {flag} chooses another") } else { problem }
}

fn is_transparent(resource: &Resource) -> bool {
    matches!(&resource.spec, Spec::Dataplane(d) if d.networking.transparent_proxying.is_some())
}

/// A proxy of this process.
struct Running {
    drain: Arc<Notify>,
    ready: watch::Receiver<proxy::channel::Status>,
    dns: Option<SocketAddr>,
    task: tokio::task::JoinHandle<()>,
}

struct Mesh {
    args: Up,
    addresses: Vec<IpAddr>,
    settings: Settings,
    acting: Option<ProxyKey>,
    running: BTreeMap<ProxyKey, Running>,
    /// Proxies that couldn't start: tried again when their resource changes.
    failed: BTreeMap<ProxyKey, String>,
}

impl Mesh {
    async fn live(&mut self, cp: ControlPlane, files: files::Files, resources: Vec<Resource>) -> Result<(), Failure> {
        let mut subscription = cp.subscription.clone();
        let revision = cp.core.revision();
        let published = subscription.wait_for(|p| p.revision() >= revision).await.map_err(|e| e.to_string())?.clone();
        self.follow(&cp, &published).await;
        let stop = crate::notify::stop_signal();
        tokio::pin!(stop);
        let mut is_told = tokio::select! {
            () = &mut stop => true,
            announced = self.announce(&cp) => announced.map(|()| false)?,
        };
        let mut watching = files::Watching::new(files, resources);
        let mut tick = tokio::time::interval(WATCH_EVERY);
        while !is_told {
            tokio::select! {
                () = &mut stop => is_told = true,
                changed = subscription.changed() => {
                    changed.map_err(|e| e.to_string())?;
                    let published = subscription.borrow_and_update().clone();
                    self.follow(&cp, &published).await;
                }
                _ = tick.tick(), if self.args.watch => watching.look(&cp.core).await,
            }
        }
        let running = std::mem::take(&mut self.running);
        running.values().for_each(|r| r.drain.notify_one());
        let all = async {
            for running in running.into_values() {
                let _ = running.task.await;
            }
        };
        // A second signal ends the wait.
        tokio::select! {
            () = all => {}
            () = crate::notify::stop_signal() => {}
        }
        Ok(())
    }

    /// Starts and stops proxies so that they are those of the published resources.
    async fn follow(&mut self, cp: &ControlPlane, published: &Published) {
        let wanted = self.wanted(published);
        let gone: Vec<ProxyKey> = self.running.keys().filter(|k| !wanted.contains_key(*k)).cloned().collect();
        for key in gone {
            if let Some(running) = self.running.remove(&key) {
                tracing::info!(proxy = %key.origin(), "its resource is gone: draining");
                running.drain.notify_one();
            }
        }
        for (key, admin) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            match self.start(cp, &key, admin).await {
                Ok(running) => {
                    self.failed.remove(&key);
                    self.running.insert(key, running);
                }
                Err(problem) => {
                    if self.failed.get(&key) != Some(&problem) {
                        tracing::error!(proxy = %key.origin(), "{problem}");
                    }
                    self.failed.insert(key, problem);
                }
            }
        }
    }

    /// Proxies whose address is this machine's, with the admin port they ask for.
    fn wanted(&self, published: &Published) -> BTreeMap<ProxyKey, Option<u16>> {
        let mut wanted = BTreeMap::new();
        for resource in published.resources.iter() {
            let meta = &resource.meta;
            let (key, address, admin) = match &resource.spec {
                Spec::Dataplane(d) => {
                    let n = &d.networking;
                    (ProxyKey::dataplane(&meta.mesh, &meta.name), &n.address, n.admin.as_ref())
                }
                Spec::ZoneIngress(z) => {
                    (ProxyKey::ingress(&meta.name), &z.networking.address, z.networking.admin.as_ref())
                }
                Spec::ZoneEgress(z) => {
                    (ProxyKey::egress(&meta.name), &z.networking.address, z.networking.admin.as_ref())
                }
                _ => continue,
            };
            let chosen = self.args.only.is_empty() || self.args.only.contains(&meta.name);
            if chosen && self.is_mine(address) {
                wanted.insert(key, admin.map(|a| a.port));
            }
        }
        wanted
    }

    fn is_mine(&self, address: &str) -> bool {
        match address.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || self.addresses.contains(&ip),
            Err(_) => address == "localhost",
        }
    }

    async fn start(&self, cp: &ControlPlane, key: &ProxyKey, admin: Option<u16>) -> Result<Running, String> {
        let acts = self.acting.as_ref() == Some(key);
        let mode = if acts { self.mode()? } else { None };
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let admin = admin.or(acts.then_some(ADMIN_PORT)).map(loopback);
        let name = match key {
            ProxyKey::Dataplane { mesh, name } => format!("{mesh}.{name}"),
            ProxyKey::ZoneIngress { name } => format!("ZoneIngress.{name}"),
            ProxyKey::ZoneEgress { name } => format!("ZoneEgress.{name}"),
        };
        let config = proxy::Config {
            name,
            workers: self.args.interception.workers.filter(|n| *n > 0).unwrap_or(1),
            mode,
            ipv6: proxy::has_ipv6(),
            manage_routes: true,
            admin,
            dns: acts.then(|| dns::Config {
                listen: vec![self.args.dns],
                domain: self.settings.domain.clone(),
                ..dns::Config::default()
            }),
            state: None,
            drain_deadline: DRAIN_DEADLINE,
        };
        let proxy = proxy::Proxy::bind(config).await.map_err(|e| hint(e, "--dns"))?;
        let options = Options { as_transparent: acts };
        let who = (key.clone(), options);
        let (updates, status) = (proxy.updates(), proxy.status());
        tokio::spawn(feed::feed(cp.core.clone(), cp.subscription.clone(), who, updates, status.clone()));
        let (drain, ready, dns) = (proxy.drain(), status, proxy.dns_addresses().first().copied());
        Ok(Running { drain, ready, dns, task: tokio::spawn(proxy.run()) })
    }

    fn mode(&self) -> Result<Option<Mode>, String> {
        match self.args.interception.interception.as_deref() {
            None => Ok(Some(Mode::Bind)),
            given => crate::run::mode(given, true).map_err(|f| f.text),
        }
    }

    /// Says what runs where, once everything that could start is ready.
    async fn announce(&mut self, cp: &ControlPlane) -> Result<(), Failure> {
        for (key, running) in &mut self.running {
            let wait = running.ready.wait_for(|status| status.ready);
            if tokio::time::timeout(READY_WITHIN, wait).await.is_err() {
                tracing::warn!(proxy = %key.origin(), "not ready yet; see its messages above");
            }
        }
        if !self.failed.is_empty() {
            let failed: Vec<String> = self.failed.iter().map(|(k, why)| format!("{}: {why}", k.origin())).collect();
            let text = failed.join("\n");
            return Err(format!("{text}\nmend it, or name the proxies to run here with --only").into());
        }
        let names: Vec<String> = self.running.keys().map(|k| k.origin().to_string()).collect();
        // The bound address: `--dns` may ask for any port.
        let acting = self.running.iter().find_map(|(k, r)| r.dns.map(|at| format!(", DNS {at} for {}", k.origin())));
        let acting = acting.unwrap_or_default();
        let what = match names.len() {
            0 => "no proxy: no Dataplane, ZoneIngress or ZoneEgress has an address of this machine (ip -br address)"
                .into(),
            1 => format!("1 proxy: {}", names.join(", ")),
            several => format!("{several} proxies: {}", names.join(", ")),
        };
        cp.ready.send_replace(true);
        eprintln!("ready: REST http://{}, {what}{acting}", cp.api);
        crate::notify::ready();
        Ok(())
    }
}
