//! The publishing loop: whenever the store has changed, all resources become one [`Published`] world (names allocated,
//! authorities ready), which sessions compile their own proxy's tables from. Level-triggered: it recomputes, never patches.

mod outside;
mod services;
mod tables;
#[cfg(test)]
mod tests;

use crate::compile::{self, World};
use crate::core::{Core, MeshCa};
use crate::names::{
    MeshNames, MeshNaming, NameSettings, NamesInput, Naming, Passes, names_and_outbounds, remember_ports, view,
};
use crate::resource::Resource;
use crate::settings::Settings;
use crate::store::{Change, Key, StoreError};
use crate::vip::{self, Ranges, VipTable};
use outside::Outside;
use snapshot::{Generation, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A lone write is published at once. After a publication the next one waits this many times as long as it took, so that
/// of a burst of writes to a large mesh each publication takes what came meanwhile.
const PAUSE_RATIO: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// DNS names and files that resources name are looked at again after this long.
const OUTSIDE_EVERY: Duration = Duration::from_secs(10);
/// How long the first publication waits for new DNS names; later ones come when they come.
const PATIENCE: Duration = Duration::from_millis(100);

/// Blob of the last start's epoch.
const EPOCH: &str = "epoch";

/// The mesh at one moment, as every session sees it.
pub struct Published {
    pub generation: Generation,
    /// Of the store: a write of this revision or an earlier one is in.
    pub revision: u64,
    pub world: World,
    /// Sorted by kind, mesh, name.
    pub resources: Vec<Arc<Resource>>,
    /// Of meshes with mTLS.
    pub authorities: BTreeMap<String, Arc<MeshCa>>,
    /// What became of names and addresses.
    pub naming: Arc<Naming>,
    /// What an operator should know: conflicts of names, exhausted ranges, secrets that can't be used.
    pub problems: Vec<String>,
}

impl Published {
    pub fn resource(&self, kind: &str, mesh: &str, name: &str) -> Option<&Arc<Resource>> {
        let wanted = (kind, mesh, name);
        let found = self.resources.binary_search_by(|r| order(r).cmp(&wanted)).ok()?;
        self.resources.get(found)
    }
}

fn order(resource: &Resource) -> (&str, &str, &str) {
    (resource.kind(), &resource.meta.mesh, &resource.meta.name)
}

/// What sessions hold.
pub type Subscription = watch::Receiver<Arc<Published>>;

pub struct Loop {
    core: Arc<Core>,
    settings: Settings,
    epoch: u64,
    sequence: u64,
    changes: watch::Receiver<u64>,
    withdrawn: watch::Receiver<BTreeSet<Key>>,
    outside: Outside,
    reported: BTreeSet<String>,
    passes: Passes,
    out: watch::Sender<Arc<Published>>,
}

/// Milliseconds since 1970, and more than at any earlier start on this store: a clock that was set back must not make
/// proxies refuse what is new.
async fn next_epoch(core: &Core) -> Result<u64, StoreError> {
    let stored = core.store().blob(EPOCH);
    let before = stored.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse::<u64>().ok()).unwrap_or(0);
    let epoch = core.clock().now_ms().max(before.saturating_add(1));
    core.store().set_blob(EPOCH, epoch.to_string().into_bytes()).await?;
    Ok(epoch)
}

impl Loop {
    /// Publishes the store as it is now.
    ///
    /// # Errors
    /// When the allocated addresses can't be made durable.
    pub async fn start(core: Arc<Core>, settings: Settings) -> Result<(Self, Subscription), StoreError> {
        let epoch = next_epoch(&core).await?;
        let nothing = Published {
            generation: Generation { epoch, sequence: 0 },
            revision: 0,
            world: World::new(Vec::new(), compile::Settings::default(), BTreeMap::new()),
            resources: Vec::new(),
            authorities: BTreeMap::new(),
            naming: Arc::default(),
            problems: Vec::new(),
        };
        let (out, subscription) = watch::channel(Arc::new(nothing));
        let (changes, withdrawn) = (core.watch(), core.watch_withdrawn());
        let (outside, reported) = (Outside::new(), BTreeSet::new());
        let passes = Passes::default();
        let mut this = Self { core, settings, epoch, sequence: 0, changes, withdrawn, outside, reported, passes, out };
        this.refresh().await?;
        Ok((this, subscription))
    }

    /// Runs until every subscription is gone.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(OUTSIDE_EVERY);
        tick.reset();
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What isn't right yet is tried again with every tick.
        let mut is_failed = false;
        let mut rested_at = Instant::now();
        loop {
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() { return },
                changed = self.withdrawn.changed() => if changed.is_err() { return },
                changed = self.outside.changed() => if !changed { continue },
                _ = tick.tick() => if !self.outside.again().await && self.reported.is_empty() && !is_failed {
                    continue;
                },
                () = self.out.closed() => return,
            }
            if rested_at > Instant::now() {
                tokio::time::sleep_until(rested_at.into()).await;
            }
            self.changes.mark_unchanged();
            self.withdrawn.mark_unchanged();
            let begun = Instant::now();
            let refreshed = self.refresh().await;
            rested_at = Instant::now() + (begun.elapsed() * PAUSE_RATIO).min(PAUSE_MAX);
            is_failed = refreshed.is_err();
            if let Err(error) = refreshed {
                tracing::error!(%error, "nothing is published until the store takes the allocated addresses");
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let contents = self.core.contents();
        let resources = Vec::clone(&contents.resources);
        let mut problems: Vec<String> = contents
            .unreadable
            .iter()
            .map(|(key, why)| format!("{key} can't be read and is left out: {why}"))
            .collect();
        self.outside.follow(&resources, PATIENCE).await;
        problems.extend(self.outside.problems());
        let mut naming = Naming { passes: self.passes, ..Naming::default() };
        let names = self.names(&resources, &mut naming, &mut problems).await?;
        naming.passes = self.passes;
        let names_us = begun.elapsed().as_micros();
        let authorities = self.authorities(&resources, &mut problems);
        let settings = compile::Settings {
            domain: self.settings.domain.clone(),
            dns_ttl_s: self.settings.dns_ttl_s,
            zone: self.settings.zone.clone(),
            has_ipv6: self.settings.cidr_v6.is_some(),
            aaaa: self.settings.aaaa,
            dns_upstreams: self.settings.dns_upstreams.clone(),
            vip_ranges: self.settings.vip_ranges(),
            resolved: self.outside.resolved(),
            files: self.outside.files(),
            probing: self.settings.probing.clone(),
            withdrawn: self.core.withdrawn().iter().map(|k| Origin::new(&k.kind, &k.mesh, &k.name)).collect(),
        };
        let world = World::new(resources.clone(), settings, names);
        problems.extend(world.problems().iter().map(ToString::to_string));
        self.report(&problems);
        self.sequence += 1;
        let generation = Generation { epoch: self.epoch, sequence: self.sequence };
        let revision = contents.revision;
        tracing::debug!(%generation, names_us, all_us = begun.elapsed().as_micros(), "mesh published");
        // A subscription may be gone by now; there will be others.
        self.out.send_replace(Arc::new(Published {
            generation,
            revision,
            world,
            resources,
            authorities,
            naming: Arc::new(naming),
            problems,
        }));
        Ok(())
    }

    /// The CA of every mesh that has mTLS on; one that can't be used stops only its mesh.
    fn authorities(&self, resources: &[Arc<Resource>], problems: &mut Vec<String>) -> BTreeMap<String, Arc<MeshCa>> {
        let mut found = BTreeMap::new();
        for mesh in resources.iter().filter(|r| r.kind() == "Mesh").map(|r| &r.meta.name) {
            match self.core.mesh_ca(mesh) {
                Ok(None) => {}
                Ok(Some(ca)) => drop(found.insert(mesh.clone(), ca)),
                Err(problem) => problems.push(format!("mesh {mesh}: its CA can't be used: {problem}")),
            }
        }
        found
    }

    /// Names of every mesh, with addresses that are durable before anyone hears of them. A mesh whose addresses can't be
    /// made durable keeps the names it had, and stops no other.
    async fn names(
        &mut self,
        resources: &[Arc<Resource>],
        naming: &mut Naming,
        problems: &mut Vec<String>,
    ) -> Result<BTreeMap<String, MeshNames>, StoreError> {
        let begun = Instant::now();
        let settings = NameSettings {
            domain: self.settings.domain.clone(),
            service_vip_enabled: self.settings.service_vip_enabled,
            vip_port: self.settings.service_vip_port,
            host_vip_port: self.settings.host_vip_port,
            own_zone: self.settings.zone.clone(),
        };
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        let mut names = BTreeMap::new();
        let mut failed: Vec<(String, StoreError)> = Vec::new();
        let served = self.out.borrow().clone();
        for mesh in resources.iter().filter(|r| r.kind() == "Mesh").map(|r| r.meta.name.as_str()) {
            let (change, published) = self.names_of(mesh, (&plain, &settings), naming, problems);
            match self.persist(change).await {
                Ok(()) => drop(names.insert(mesh.to_owned(), published)),
                Err(error) => {
                    failed.push((mesh.to_owned(), error));
                    names.extend(served.world.names(mesh).map(|before| (mesh.to_owned(), before.clone())));
                }
            }
        }
        let changes = self.service_names(&plain, &mut names, naming, problems);
        if let Err(error) = self.persist(changes).await {
            failed.push(("services".to_owned(), error));
            for (mesh, into) in &mut names {
                into.services = served.world.names(mesh).map(|before| before.services.clone()).unwrap_or_default();
            }
        }
        self.count(begun, &failed, problems);
        match failed.into_iter().next() {
            // At the start there is nothing to keep.
            Some((_, error)) if self.sequence == 0 => Err(error),
            _ => Ok(names),
        }
    }

    async fn persist(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if !changes.is_empty() {
            self.core.store().apply(changes).await?;
        }
        Ok(())
    }

    fn count(&mut self, begun: Instant, failed: &[(String, StoreError)], problems: &mut Vec<String>) {
        if failed.is_empty() {
            self.passes.done += 1;
            self.passes.ms += begun.elapsed().as_secs_f64() * 1e3;
            return;
        }
        self.passes.failed += 1;
        let what: Vec<String> = failed.iter().map(|(mesh, _)| format!("error during update, mesh = {mesh}")).collect();
        let why = failed.iter().map(|(_, error)| error.to_string()).next().unwrap_or_default();
        problems.push(format!("{} (the store doesn't take the allocated addresses: {why})", what.join("; ")));
    }

    fn names_of(
        &self,
        mesh: &str,
        (resources, settings): (&[&Resource], &NameSettings),
        naming: &mut Naming,
        problems: &mut Vec<String>,
    ) -> (Vec<Change>, MeshNames) {
        let view = view(&NamesInput { mesh, resources, settings });
        let blob = format!("vips/{mesh}");
        let before = self.load_vips(&blob, problems);
        let (mut table, trouble) =
            vip::allocate(&before, &view.keys(), &ranges(&self.settings), self.core.clock().now_ms());
        if let Some(served) = self.out.borrow().world.names(mesh) {
            remember_ports(&before, served, &mut table);
        }
        let (published, warnings) = names_and_outbounds(&view, &table, settings);
        problems.extend(trouble.iter().map(|p| format!("mesh {mesh}: {p}")));
        problems.extend(view.conflicts.iter().map(|c| format!("mesh {mesh}: {c}")));
        problems.extend(warnings.iter().map(|w| format!("mesh {mesh}: {w}")));
        for skipped in &view.skipped {
            tracing::debug!(mesh, "{skipped}");
        }
        let mut changed = Vec::new();
        if table != before {
            changed = tables::changes(self.core.store(), &blob, &table);
        }
        let report = MeshNaming {
            entries: view.entries.len(),
            conflicts: view.conflicts,
            skipped: view.skipped,
            problems: trouble,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        };
        naming.meshes.insert(mesh.to_owned(), report);
        (changed, published)
    }

    fn load_vips(&self, blob: &str, problems: &mut Vec<String>) -> VipTable {
        tables::load(self.core.store(), blob).unwrap_or_else(|error| {
            problems.push(format!("{blob}: the stored addresses can't be read ({error}); they are allocated anew"));
            VipTable::default()
        })
    }

    /// Each problem is logged once, until it goes away.
    fn report(&mut self, problems: &[String]) {
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in now.difference(&self.reported) {
            tracing::warn!("{problem}");
        }
        self.reported = now;
    }
}

fn ranges(settings: &Settings) -> Ranges {
    let v4 = match settings.cidr.network {
        IpAddr::V4(network) => vip::Cidr::new(network, settings.cidr.prefix),
        IpAddr::V6(_) => None,
    };
    let v6 = settings.cidr_v6.and_then(|cidr| match cidr.network {
        IpAddr::V6(network) => vip::Cidr::new(network, cidr.prefix),
        IpAddr::V4(_) => None,
    });
    Ranges { v4, v6 }
}
