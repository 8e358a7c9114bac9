//! The publishing loop: whenever the store has changed, all resources become one [`Published`] world (names allocated,
//! authorities ready), which sessions compile their own proxy's tables from. Level-triggered: it recomputes, never patches.

mod addresses;
mod names;
mod outside;
mod pace;
mod services;
mod tables;
#[cfg(test)]
mod tests;

use crate::changed::{self, Change};
use crate::compile::{self, World};
use crate::core::{Core, MeshCa};
use crate::names::{NameSettings, Naming, ServiceNames, Skipped};
use crate::resource::Resource;
use crate::settings::Settings;
use crate::sorted::of_kind_and_mesh;
use crate::store::{self, Key, Store, StoreError};
use crate::vip::{self, Ranges, VipTable};
use addresses::{Journal, Unsaved};
use names::{Given, Names};
use outside::Outside;
use pace::Pace;
use serde::de::DeserializeOwned;
use snapshot::{Generation, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// DNS names and files that resources name are looked at again after this long.
const OUTSIDE_EVERY: Duration = Duration::from_secs(10);
/// How long the first publication waits for new DNS names; later ones come when they come.
const PATIENCE: Duration = Duration::from_millis(100);

/// What was published before is let go of after this long.
const FREE_AFTER: Duration = Duration::from_millis(20);

/// Of names that can't be given, in one publication's log.
const SKIPPED_TOLD_MAX: usize = 20;

/// Blob of the last start's epoch.
const EPOCH: &str = "epoch";

/// The mesh at one moment, as every session sees it.
pub struct Published {
    pub generation: Generation,
    /// Of the store: a write of this revision or an earlier one is in.
    revision: AtomicU64,
    pub world: World,
    /// Sorted by kind, mesh, name.
    pub resources: Arc<Vec<Arc<Resource>>>,
    /// Of meshes with mTLS.
    pub authorities: BTreeMap<String, Arc<MeshCa>>,
    /// What became of names and addresses.
    pub naming: Arc<Naming>,
    /// What an operator should know: conflicts of names, exhausted ranges, secrets that can't be used.
    pub problems: Vec<String>,
}

impl Published {
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

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
    naming: Arc<Naming>,
    services: BTreeMap<String, Arc<ServiceNames>>,
    /// Problems of MeshServices and their kin; None until they were looked at.
    service_problems: Option<Vec<String>>,
    reported: BTreeSet<String>,
    skipped: BTreeSet<Skipped>,
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
            revision: AtomicU64::new(0),
            world: World::new(Vec::new(), compile::Settings::default(), BTreeMap::new()),
            resources: Arc::default(),
            authorities: BTreeMap::new(),
            naming: Arc::default(),
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
            naming: Arc::default(),
            services: BTreeMap::new(),
            service_problems: None,
            reported: BTreeSet::new(),
            skipped: BTreeSet::new(),
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
        let mut pace = Pace::default();
        loop {
            tokio::select! {
                changed = self.changes.changed() => match changed {
                    Ok(()) if !is_failed && self.has_nothing_new() => continue,
                    Ok(()) => {}
                    Err(_) => return,
                },
                changed = self.withdrawn.changed() => if changed.is_err() { return },
                changed = self.outside.changed() => if !changed { continue },
                _ = tick.tick() => if !self.outside.again().await && self.reported.is_empty() && !is_failed {
                    continue;
                },
                () = self.out.closed() => return,
            }
            if let Some(at) = pace.next().filter(|at| *at > Instant::now()) {
                tokio::time::sleep_until(at.into()).await;
            }
            self.changes.mark_unchanged();
            self.withdrawn.mark_unchanged();
            let begun = Instant::now();
            let refreshed = self.refresh().await;
            pace.published(begun, Instant::now());
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

    /// Whether what was written since isn't a resource: addresses, mostly, our own. Who waits for the revision hears of it.
    fn has_nothing_new(&self) -> bool {
        let (contents, published) = (self.core.contents(), self.out.borrow().clone());
        let is_same = Arc::ptr_eq(&contents.resources, &published.resources);
        if is_same && published.revision.fetch_max(contents.revision, Ordering::Relaxed) < contents.revision {
            self.out.send_modify(|_| {});
        }
        is_same
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
        problems.extend(self.follow_names(&changes, &before.world, &resources).await?);
        problems.extend(self.names.problems.iter().cloned());
        problems.extend(self.follow_services(&changes, &resources).await?);
        problems.extend(self.service_problems.iter().flatten().cloned());
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
        let naming = self.naming.clone();
        let published =
            Published { generation, revision: revision.into(), world, resources, authorities, naming, problems };
        let before = [before, self.out.send_replace(Arc::new(published))];
        // Freeing a large mesh takes as long as making one: those who were waiting come first.
        tokio::spawn(async move {
            tokio::time::sleep(FREE_AFTER).await;
            drop(before);
        });
        Ok(())
    }

    fn world_settings(&self) -> compile::Settings {
        compile::Settings {
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
            services: self.services.clone(),
        }
    }

    /// The CA of every mesh that has mTLS on; one that can't be used stops only its mesh.
    fn authorities(&self, resources: &[Arc<Resource>], problems: &mut Vec<String>) -> BTreeMap<String, Arc<MeshCa>> {
        let mut found = BTreeMap::new();
        for mesh in of_kind_and_mesh(resources, "Mesh", "").iter().map(|r| &r.meta.name) {
            match self.core.mesh_ca(mesh) {
                Ok(None) => {}
                Ok(Some(ca)) => drop(found.insert(mesh.clone(), ca)),
                Err(problem) => problems.push(format!("mesh {mesh}: its CA can't be used: {problem}")),
            }
        }
        found
    }

    /// Names of every mesh, with addresses that are durable before anyone hears of them. A mesh whose addresses can't be
    /// made durable keeps the names it had, and stops no other; what is returned says so.
    async fn follow_names(
        &mut self,
        changes: &[Change<'_>],
        served: &World,
        resources: &[Arc<Resource>],
    ) -> Result<Option<String>, StoreError> {
        let begun = Instant::now();
        let (store, settings) = (self.core.store(), self.name_settings());
        let ranges = ranges(&self.settings);
        let given = Given { settings: &settings, ranges: &ranges, now_ms: self.core.clock().now_ms() };
        self.names.follow(changes, resources, &given, &|mesh| load_addresses(store, mesh));
        let Some(meshes) = self.names.reports() else { return Ok(None) };
        let mut naming = Naming { meshes, ..Naming::clone(&self.naming) };
        let mut failed: Vec<(String, StoreError)> = Vec::new();
        for (mesh, what) in self.names.unsaved() {
            let (table, journal) = match what {
                Unsaved::Table(bytes) => (tables::changes(store, &table_blob(&mesh), &bytes), None),
                Unsaved::Journal(bytes) => (Vec::new(), Some(bytes)),
            };
            let mut unsaved = vec![store::Change::Blob { name: journal_blob(&mesh), bytes: journal }];
            unsaved.extend(table);
            failed.extend(store.apply(unsaved).await.err().map(|error| (mesh, error)));
        }
        for (mesh, _) in &failed {
            self.names.fall_back(mesh, served.names(mesh).cloned());
        }
        naming.passes.count(begun.elapsed(), failed.is_empty());
        self.naming = Arc::new(naming);
        self.tell_skipped();
        let told: Vec<String> = failed.iter().map(|(mesh, _)| format!("error during update, mesh = {mesh}")).collect();
        match failed.into_iter().next() {
            // At the start there is nothing to keep.
            Some((_, error)) if self.sequence == 0 => Err(error),
            Some((_, error)) => {
                Ok(Some(format!("{} (the store doesn't take the allocated addresses: {error})", told.join("; "))))
            }
            None => Ok(None),
        }
    }

    fn name_settings(&self) -> NameSettings {
        NameSettings {
            domain: self.settings.domain.clone(),
            service_vip_enabled: self.settings.service_vip_enabled,
            vip_port: self.settings.service_vip_port,
            host_vip_port: self.settings.host_vip_port,
            own_zone: self.settings.zone.clone(),
        }
    }

    /// Names that templates can't give, each once: no fault of the mesh's, so not among its problems.
    fn tell_skipped(&mut self) {
        let now: BTreeSet<&Skipped> = self.naming.meshes.values().flat_map(|mesh| &mesh.skipped).collect();
        let new: Vec<&Skipped> = now.iter().filter(|skipped| !self.skipped.contains(**skipped)).copied().collect();
        for skipped in new.iter().take(SKIPPED_TOLD_MAX) {
            tracing::info!("{skipped}");
        }
        if let more @ 1.. = new.len().saturating_sub(SKIPPED_TOLD_MAX) {
            tracing::info!("{more} names more are skipped so; weir inspect names tells of them");
        }
        self.skipped = now.into_iter().cloned().collect();
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
        let mut found: VipTable = read_blob(&table, tables::load(store, &table))?.unwrap_or_default();
        let changes = store.blob(&journal).map(|bytes| bytes.to_vec());
        if let Some(journal) = read_blob::<Journal>(&journal, changes)? {
            journal.apply(&mut found);
        }
        Ok(found)
    };
    read().map_or_else(|problem| (VipTable::default(), Some(problem)), |table| (table, None))
}

fn read_blob<T: DeserializeOwned>(name: &str, bytes: Option<Vec<u8>>) -> Result<Option<T>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
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
