//! The publishing loop: whenever the store has changed, all resources become one [`Published`] world (names allocated,
//! authorities ready), which sessions compile their own proxy's tables from. Level-triggered: it recomputes, never patches.

mod addresses;
mod names;
mod outside;
#[cfg(test)]
mod tests;

use crate::changed::{self, Change};
use crate::compile::{self, World};
use crate::core::{Core, MeshCa};
use crate::names::NameSettings;
use crate::resource::Resource;
use crate::settings::Settings;
use crate::store::{self, Key, Store, StoreError};
use crate::vip::{self, Ranges, VipTable};
use addresses::{Journal, Unsaved};
use names::{Given, Names};
use outside::Outside;
use serde::de::DeserializeOwned;
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
    pub resources: Arc<Vec<Arc<Resource>>>,
    /// Of meshes with mTLS.
    pub authorities: BTreeMap<String, Arc<MeshCa>>,
    /// What an operator should know: conflicts of names, exhausted ranges, secrets that can't be used.
    pub problems: Vec<String>,
}

impl Published {
    pub fn resource(&self, kind: &str, mesh: &str, name: &str) -> Option<&Arc<Resource>> {
        let wanted = (kind, mesh, name);
        let found = self.resources.binary_search_by(|r| r.order().cmp(&wanted)).ok()?;
        self.resources.get(found)
    }
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
    names: Names,
    reported: BTreeSet<String>,
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
            resources: Arc::default(),
            authorities: BTreeMap::new(),
            problems: Vec::new(),
        };
        let (out, subscription) = watch::channel(Arc::new(nothing));
        let (changes, withdrawn) = (core.watch(), core.watch_withdrawn());
        let mut this = Self {
            core,
            settings,
            epoch,
            sequence: 0,
            changes,
            withdrawn,
            outside: Outside::new(),
            names: Names::default(),
            reported: BTreeSet::new(),
            out,
        };
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
            // In the time that others have to look at what was published.
            let resources = self.out.borrow().resources.clone();
            let settings = self.name_settings();
            self.names.prepare(&resources, &settings);
            if let Err(error) = refreshed {
                tracing::error!(%error, "nothing is published until the store takes the allocated addresses");
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let contents = self.core.contents();
        let (resources, revision) = (contents.resources, contents.revision);
        let before = self.out.borrow().clone();
        let changes = changed::between(&before.resources, &resources);
        let mut problems: Vec<String> = contents
            .unreadable
            .iter()
            .map(|(key, why)| format!("{key} can't be read and is left out: {why}"))
            .collect();
        if self.sequence == 0 || changed::sides(&changes).any(Outside::is_named_by) {
            self.outside.follow(&resources, PATIENCE).await;
        }
        problems.extend(self.outside.problems());
        self.follow_names(&changes, &resources).await?;
        problems.extend(self.names.problems.iter().cloned());
        let names_us = begun.elapsed().as_micros();
        let authorities = self.authorities(&resources, &mut problems);
        let world =
            World::after(Some(&before.world), resources.clone(), self.world_settings(), self.names.by_mesh.clone());
        problems.extend(world.problems().map(ToString::to_string));
        self.report(&problems);
        self.sequence += 1;
        let generation = Generation { epoch: self.epoch, sequence: self.sequence };
        tracing::debug!(%generation, names_us, all_us = begun.elapsed().as_micros(), "mesh published");
        // A subscription may be gone by now; there will be others.
        self.out.send_replace(Arc::new(Published { generation, revision, world, resources, authorities, problems }));
        Ok(())
    }

    fn world_settings(&self) -> compile::Settings {
        let ranges = [Some(self.settings.cidr), self.settings.cidr_v6];
        compile::Settings {
            domain: self.settings.domain.clone(),
            dns_ttl_s: self.settings.dns_ttl_s,
            zone: self.settings.zone.clone(),
            has_ipv6: self.settings.cidr_v6.is_some(),
            vip_ranges: ranges.iter().flatten().map(ToString::to_string).collect(),
            resolved: self.outside.resolved(),
            files: self.outside.files(),
            withdrawn: self.core.withdrawn().iter().map(|k| Origin::new(&k.kind, &k.mesh, &k.name)).collect(),
        }
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

    /// Names of every mesh, with addresses that are durable before anyone hears of them.
    async fn follow_names(&mut self, changes: &[Change<'_>], resources: &[Arc<Resource>]) -> Result<(), StoreError> {
        let (store, settings) = (self.core.store(), self.name_settings());
        let ranges = ranges(&self.settings);
        let given = Given { settings: &settings, ranges: &ranges, now_ms: self.core.clock().now_ms() };
        self.names.follow(changes, resources, &given, &|mesh| load_addresses(store, mesh));
        let mut unsaved = Vec::new();
        for (mesh, what) in self.names.unsaved() {
            let (table, journal) = match what {
                Unsaved::Table(bytes) => (Some(bytes), None),
                Unsaved::Journal(bytes) => (None, Some(bytes)),
            };
            unsaved.push(store::Change::Blob { name: journal_blob(&mesh), bytes: journal });
            unsaved.extend(table.map(|bytes| store::Change::Blob { name: table_blob(&mesh), bytes: Some(bytes) }));
        }
        if unsaved.is_empty() {
            return Ok(());
        }
        let saved = store.apply(unsaved).await;
        if saved.is_err() {
            // What is stored counts: everything is found anew from that.
            self.names = Names::default();
        }
        saved.map(drop)
    }

    fn name_settings(&self) -> NameSettings {
        NameSettings {
            domain: self.settings.domain.clone(),
            service_vip_enabled: self.settings.service_vip_enabled,
            vip_port: self.settings.service_vip_port,
            own_zone: self.settings.zone.clone(),
        }
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

fn table_blob(mesh: &str) -> String {
    format!("vips/{mesh}")
}

/// What changed in the table since it was stored.
fn journal_blob(mesh: &str) -> String {
    format!("vips/{mesh}/changes")
}

fn load_addresses(store: &Store, mesh: &str) -> (VipTable, Option<String>) {
    let read = || -> Result<VipTable, String> {
        let (table, journal) = (table_blob(mesh), journal_blob(mesh));
        let mut found: VipTable = read_blob(store, &table)?.unwrap_or_default();
        if let Some(journal) = read_blob::<Journal>(store, &journal)? {
            journal.apply(&mut found);
        }
        Ok(found)
    };
    read().map_or_else(|problem| (VipTable::default(), Some(problem)), |table| (table, None))
}

fn read_blob<T: DeserializeOwned>(store: &Store, name: &str) -> Result<Option<T>, String> {
    let Some(bytes) = store.blob(name) else { return Ok(None) };
    let why = |e| format!("{name}: the stored addresses can't be read ({e}); they are allocated anew");
    serde_json::from_slice(&bytes).map(Some).map_err(why)
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
