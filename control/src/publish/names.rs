//! Names of every mesh, kept from publication to publication: a changed Dataplane or ExternalService costs its services'
//! names and not all.
//! What names mean is `names`' and `vip`'s matter; whatever isn't understood here is found from nothing.

use super::addresses::Addresses;
use crate::changed::{self, Change};
use crate::names::{
    MeshNames, MeshNaming, NameSettings, NameWarning, NamedOutbound, NamesInput, SERVICE_TAG, View, Wish, claims,
    freed, names_and_outbounds, view,
};
use crate::resource::{Dataplane, Key as ResourceKey, Resource, Spec, Tags};
use crate::sorted::range_of_kind;
use crate::vip::{EntryKind, Key, Ranges, VipTable};
use snapshot::NameRow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// More changes at once than these are found faster from nothing.
const SINGLE_CHANGES_MAX: usize = 256;

/// Names of all meshes.
#[derive(Default)]
pub(super) struct Names {
    pub by_mesh: BTreeMap<String, Arc<MeshNames>>,
    pub problems: Vec<String>,
    /// Since the last [`Names::reports`].
    has_changed: bool,
    kept: BTreeMap<String, Kept>,
}

/// All that names depend on beside resources.
pub(super) struct Given<'a> {
    pub settings: &'a NameSettings,
    pub ranges: &'a Ranges,
    pub now_ms: u64,
}

/// Addresses of a mesh before anything is known of them, and what is wrong with how they were stored.
pub(super) type Load<'a> = &'a dyn Fn(&str) -> (VipTable, Option<String>);

struct Kept {
    view: View,
    addresses: Addresses,
    names: Arc<MeshNames>,
    warnings: Vec<NameWarning>,
    /// What was wrong with the addresses as they were stored.
    stored: Option<String>,
    /// Made when it is first of use.
    index: Option<Index>,
}

/// Who is concerned by what.
#[derive(Default)]
struct Index {
    /// Dataplanes and ExternalServices.
    offered: HashMap<String, BTreeMap<ResourceKey, Arc<Resource>>>,
    keys: HashMap<String, BTreeSet<Key>>,
    /// Keys that want a name, also those that don't have it.
    claims: HashMap<String, BTreeSet<Key>>,
}

/// Whether names may be others for its sake.
pub(super) fn concerns(resource: &Arc<Resource>) -> bool {
    let is_unconcerned = matches!(
        resource.spec,
        Spec::MeshGatewayRoute(_)
            | Spec::TrafficPermission(_)
            | Spec::MeshPassthrough(_)
            | Spec::Secret(_)
            | Spec::GlobalSecret(_)
            | Spec::ZoneEgress(_)
            | Spec::Zone(_)
            | Spec::MeshService(_)
            | Spec::MeshExternalService(_)
            | Spec::MeshMultiZoneService(_)
            | Spec::HostnameGenerator(_)
            | Spec::Opaque(_)
    );
    !is_unconcerned
}

impl Names {
    /// Follows `changes` to `resources`. Nobody may hear of it before [`Names::unsaved`] is durable.
    pub(super) fn follow(
        &mut self,
        changes: &[Change<'_>],
        resources: &[Arc<Resource>],
        given: &Given<'_>,
        load: Load<'_>,
    ) {
        let concerned: Vec<Change<'_>> =
            changes.iter().filter(|(old, new)| old.iter().chain(new).any(|r| concerns(r))).copied().collect();
        let has_trouble = self.kept.values().any(|kept| !kept.addresses.problems().is_empty());
        let has_rested = self.kept.values().any(|kept| kept.addresses.is_rested(given.now_ms));
        let is_new = self.kept.is_empty();
        if !(is_new || has_trouble || has_rested) && concerned.is_empty() {
            return;
        }
        let are_many = concerned.len() > SINGLE_CHANGES_MAX;
        if is_new || has_trouble || are_many || !self.patch(&concerned, resources, given) {
            self.find(resources, given, load);
        }
        self.show();
    }

    fn show(&mut self) {
        self.by_mesh = self.kept.iter().map(|(mesh, kept)| (mesh.clone(), kept.names.clone())).collect();
        self.problems = self.kept.iter().flat_map(|(mesh, kept)| kept.problems(mesh)).collect();
        self.has_changed = true;
    }

    fn find(&mut self, resources: &[Arc<Resource>], given: &Given<'_>, load: Load<'_>) {
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        let mut kept = BTreeMap::new();
        for mesh in resources.iter().filter(|r| r.kind() == "Mesh").map(|r| r.meta.name.as_str()) {
            let view = view(&NamesInput { mesh, resources: &plain, settings: given.settings });
            let (mut addresses, served, stored) = match self.kept.remove(mesh) {
                Some(before) => (before.addresses, before.names, before.stored),
                None => {
                    let (table, problem) = load(mesh);
                    (Addresses::stored(table), Arc::default(), problem)
                }
            };
            addresses.allocate(&view.keys(), &served, given);
            let (names, warnings) = names_and_outbounds(&view, addresses.table(), given.settings);
            let names = Arc::new(names);
            kept.insert(mesh.to_owned(), Kept { view, addresses, names, warnings, stored, index: None });
        }
        self.kept = kept;
    }

    /// False when all names have to be found anew; nothing is lost then.
    fn patch(&mut self, changes: &[Change<'_>], resources: &[Arc<Resource>], given: &Given<'_>) -> bool {
        let mut by_mesh: BTreeMap<&str, Vec<Change<'_>>> = BTreeMap::new();
        for change in changes {
            let sides = || change.0.into_iter().chain(change.1);
            let is_followed = |r: &Arc<Resource>| match &r.spec {
                Spec::Dataplane(_) => true,
                Spec::ExternalService(es) => service(&es.tags).is_some_and(|service| !service.is_empty()),
                _ => false,
            };
            if !sides().all(is_followed) {
                return false;
            }
            sides().take(1).for_each(|r| by_mesh.entry(&r.meta.mesh).or_default().push(*change));
        }
        let is_patched = by_mesh.into_iter().all(|(mesh, changes)| match self.kept.get_mut(mesh) {
            Some(kept) => kept.patch(mesh, &changes, resources, given).is_some(),
            // A mesh that isn't defined has no names.
            None => true,
        });
        is_patched && self.kept.values_mut().all(|kept| kept.release(given).is_some())
    }

    /// For operators, by mesh; None while nothing is different.
    pub(super) fn reports(&mut self) -> Option<BTreeMap<String, MeshNaming>> {
        let report = |kept: &Kept| MeshNaming::of(&kept.view, kept.addresses.problems(), &kept.warnings);
        std::mem::take(&mut self.has_changed)
            .then(|| self.kept.iter().map(|(mesh, kept)| (mesh.clone(), report(kept))).collect())
    }

    /// What couldn't be stored isn't used: the mesh keeps the names it had, and all is found anew next time, from what
    /// is stored.
    pub(super) fn fall_back(&mut self, mesh: &str, served: Option<Arc<MeshNames>>) {
        match served {
            Some(served) => drop(self.by_mesh.insert(mesh.to_owned(), served)),
            None => drop(self.by_mesh.remove(mesh)),
        }
        self.kept.clear();
    }

    /// What has to be stored before the names are used, by mesh.
    pub(super) fn unsaved(&mut self) -> Vec<(String, super::addresses::Unsaved)> {
        self.kept.iter_mut().filter_map(|(mesh, kept)| Some((mesh.clone(), kept.addresses.unsaved()?))).collect()
    }

    /// Gets ready for the next change while nobody waits.
    pub(super) fn prepare(&mut self, resources: &[Arc<Resource>], settings: &NameSettings) {
        for (mesh, kept) in self.kept.iter_mut().filter(|(_, kept)| kept.index.is_none()) {
            kept.index = Some(Index::new(mesh, resources, kept, settings));
        }
    }
}

impl Kept {
    fn problems(&self, mesh: &str) -> Vec<String> {
        let mut all: Vec<String> = self.stored.iter().cloned().collect();
        all.extend(self.addresses.problems().iter().map(|p| format!("mesh {mesh}: {p}")));
        all.extend(self.view.conflicts.iter().map(|c| format!("mesh {mesh}: {c}")));
        all.extend(self.warnings.iter().map(|w| format!("mesh {mesh}: {w}")));
        all
    }

    fn patch(
        &mut self,
        mesh: &str,
        changes: &[Change<'_>],
        resources: &[Arc<Resource>],
        given: &Given<'_>,
    ) -> Option<()> {
        let mut index = self.index.take().unwrap_or_else(|| Index::new(mesh, resources, self, given.settings));
        let services: BTreeSet<&str> = changed::sides(changes).flat_map(|r| services(r)).collect();
        index.replace(changes);
        let sub = sub_view(mesh, &index, &services, resources, given.settings);
        let (mut gone, mut new) = (BTreeMap::new(), BTreeMap::new());
        for key in self.concerned(&index, &services, &sub)? {
            let (old, now) = (self.view.entries.get(&key), sub.entries.get(&key));
            if old != now {
                old.map(|wishes| gone.insert(key.clone(), wishes.clone()));
                now.map(|wishes| new.insert(key, wishes.clone()));
            }
        }
        if !gone.is_empty() || !new.is_empty() {
            self.exchange(&mut index, (gone, new), given)?;
        }
        self.view.skipped.retain(|skipped| !services.contains(skipped.service.as_str()));
        self.view.skipped.extend(sub.skipped.into_iter().filter(|s| services.contains(s.service.as_str())));
        self.view.skipped.sort();
        self.index = Some(index);
        Some(())
    }

    /// Lets go of addresses that rested long enough.
    fn release(&mut self, given: &Given<'_>) -> Option<()> {
        if self.addresses.is_rested(given.now_ms) {
            self.addresses.change(&BTreeSet::new(), BTreeMap::new(), given)?;
            Arc::make_mut(&mut self.names).freed =
                freed(&self.view.mesh, self.addresses.table(), given.settings.vip_port);
        }
        Some(())
    }

    /// Keys that the services ask for, or asked for. None when others have a say in one of them.
    fn concerned(&self, index: &Index, services: &BTreeSet<&str>, sub: &View) -> Option<BTreeSet<Key>> {
        let is_ours = |wish: &Wish| service(&wish.tags).is_some_and(|s| services.contains(s));
        let asked = sub.entries.iter().filter(|(_, wishes)| wishes.iter().any(is_ours)).map(|(key, _)| key.clone());
        let keys: BTreeSet<Key> =
            asked.chain(services.iter().filter_map(|s| index.keys.get(*s)).flatten().cloned()).collect();
        let wishes = |view: &View, key: &Key| view.entries.get(key).is_none_or(|wishes| wishes.iter().all(is_ours));
        let is_alone = keys.iter().all(|key| wishes(&self.view, key) && wishes(sub, key));
        let mut conflicts = self.view.conflicts.iter().chain(&sub.conflicts);
        (is_alone && conflicts.all(|c| !(keys.contains(&c.key) || is_ours(&c.winner) || is_ours(&c.loser))))
            .then_some(keys)
    }

    /// Puts entries in the place of others.
    fn exchange(&mut self, index: &mut Index, (gone, new): (Entries, Entries), given: &Given<'_>) -> Option<()> {
        // A host written as an address may have one that is allocated, and then the order of all counts.
        let may_collide = |key: &Key| key.literal().is_some_and(|ip| given.ranges.contains(ip));
        let collides = self.warnings.iter().any(|w| matches!(w, NameWarning::Occupied { .. }));
        let hosts = self.view.entries.range(Key::new(EntryKind::Host, "")..).map(|(key, _)| key);
        let mut hosts = hosts.take_while(|key| key.kind == EntryKind::Host).chain(new.keys());
        if collides || hosts.any(may_collide) {
            return None;
        }
        let before: Vec<(Key, Claimed)> =
            gone.iter().map(|(key, wishes)| (key.clone(), self.claimed(key, wishes, given))).collect();
        let added: BTreeSet<Key> = new.keys().filter(|key| !gone.contains_key(*key)).cloned().collect();
        let lost = before.iter().filter(|(key, _)| !new.contains_key(key));
        let removed = lost.map(|(key, c)| (key.clone(), c.outbounds.iter().map(|o| o.port).collect())).collect();
        self.addresses.change(&added, removed, given)?;
        for (key, wishes) in &gone {
            self.view.entries.remove(key);
            index.forget(key, wishes);
        }
        self.view.entries.extend(new.iter().map(|(key, wishes)| (key.clone(), wishes.clone())));
        let after: Vec<(Key, Claimed)> =
            new.iter().map(|(key, wishes)| (key.clone(), self.claimed(key, wishes, given))).collect();
        for (key, claimed) in &before {
            claimed.names.iter().for_each(|name| index.unclaim(name, key));
        }
        for (key, claimed) in &after {
            index.learn(key, new.get(key).map_or(&[][..], Vec::as_slice), &claimed.names);
        }
        let names: BTreeSet<&str> =
            before.iter().chain(&after).flat_map(|(_, c)| &c.names).map(String::as_str).collect();
        let rows = self.rows(index, &names, &new, given);
        let table = Arc::make_mut(&mut self.names);
        table.freed = freed(&self.view.mesh, self.addresses.table(), given.settings.vip_port);
        for name in &names {
            if let Ok(at) = table.names.binary_search_by(|row| row.name.as_str().cmp(name)) {
                table.names.remove(at);
            }
        }
        for row in rows {
            let at = table.names.binary_search_by(|held| held.name.cmp(&row.name)).err()?;
            table.names.insert(at, row);
        }
        for outbound in before.iter().flat_map(|(_, c)| &c.outbounds) {
            if let Ok(at) = table.outbounds.binary_search_by(|held| place(held).cmp(&place(outbound))) {
                table.outbounds.remove(at);
            }
        }
        for outbound in after.into_iter().flat_map(|(_, c)| c.outbounds) {
            let at = table.outbounds.binary_search_by(|held| place(held).cmp(&place(&outbound))).err()?;
            table.outbounds.insert(at, outbound);
        }
        Some(())
    }

    /// What these entries would have if they were all.
    fn alone(&self, entries: Entries, given: &Given<'_>) -> (MeshNames, Vec<NameWarning>) {
        let all = &self.addresses.table().entries;
        let vips = entries.keys().filter_map(|key| Some((key.clone(), *all.get(key)?))).collect();
        let table = VipTable { entries: vips, ..VipTable::default() };
        names_and_outbounds(&View { entries, ..View::default() }, &table, given.settings)
    }

    fn claimed(&self, key: &Key, wishes: &[Wish], given: &Given<'_>) -> Claimed {
        let (found, _) = self.alone(BTreeMap::from([(key.clone(), wishes.to_vec())]), given);
        Claimed { names: found.names.iter().map(|row| row.name.clone()).collect(), outbounds: found.outbounds }
    }

    /// Who has these names now, and what is to be said of it.
    fn rows(&mut self, index: &Index, names: &BTreeSet<&str>, new: &Entries, given: &Given<'_>) -> Vec<Arc<NameRow>> {
        let rivals = names.iter().filter_map(|name| index.claims.get(*name)).flatten();
        let rivals = rivals.filter_map(|key| Some((key.clone(), self.view.entries.get(key)?.clone())));
        let all: Entries = rivals.collect();
        let (found, mut warnings) = self.alone(all.clone(), given);
        // An entry without a name has no rival, and none of the names above.
        for (key, wishes) in new.iter().filter(|(key, _)| !all.contains_key(*key)) {
            warnings.extend(self.alone(BTreeMap::from([(key.clone(), wishes.clone())]), given).1);
        }
        let view = &self.view;
        let is_about = |warning: &NameWarning| match warning {
            NameWarning::Shared { name, .. } => names.contains(name.as_str()),
            NameWarning::Unnamed { key, .. } | NameWarning::Occupied { key, .. } => {
                new.contains_key(key) || !view.entries.contains_key(key)
            }
        };
        self.warnings.retain(|warning| !is_about(warning));
        self.warnings.extend(warnings.into_iter().filter(is_about));
        found.names.into_iter().filter(|row| names.contains(row.name.as_str())).collect()
    }
}

type Entries = BTreeMap<Key, Vec<Wish>>;

struct Claimed {
    names: Vec<String>,
    outbounds: Vec<Arc<NamedOutbound>>,
}

/// What outbounds are sorted by.
fn place(outbound: &Arc<NamedOutbound>) -> (Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>, u16) {
    (outbound.v4, outbound.v6, outbound.port)
}

fn service(tags: &Tags) -> Option<&str> {
    tags.get(SERVICE_TAG).map(String::as_str)
}

fn services(resource: &Resource) -> impl Iterator<Item = &str> {
    let (inbounds, external) = match &resource.spec {
        Spec::Dataplane(Dataplane { networking, .. }) => (networking.inbound.as_slice(), None),
        Spec::ExternalService(es) => (&[][..], Some(&es.tags)),
        _ => (&[][..], None),
    };
    inbounds.iter().map(|inbound| &inbound.tags).chain(external).filter_map(service)
}

/// What is asked for by Dataplanes and ExternalServices of these services, and by everything that is neither.
fn sub_view(
    mesh: &str,
    index: &Index,
    services: &BTreeSet<&str>,
    resources: &[Arc<Resource>],
    settings: &NameSettings,
) -> View {
    // By kind, so in this order.
    let (dataplanes, external) = (range_of_kind(resources, "Dataplane"), range_of_kind(resources, "ExternalService"));
    let parts = [resources.get(..dataplanes.start), resources.get(dataplanes.end..external.start)];
    let parts = parts.into_iter().chain([resources.get(external.end..)]).flatten();
    let others = parts.flatten().filter(|r| concerns(r));
    let own: BTreeMap<&ResourceKey, &Arc<Resource>> =
        services.iter().filter_map(|s| index.offered.get(*s)).flatten().collect();
    let list: Vec<&Resource> = others.chain(own.into_values()).map(AsRef::as_ref).collect();
    view(&NamesInput { mesh, resources: &list, settings })
}

impl Index {
    fn new(mesh: &str, resources: &[Arc<Resource>], kept: &Kept, settings: &NameSettings) -> Self {
        let mut index = Self::default();
        resources.iter().filter(|r| r.meta.mesh == mesh).for_each(|r| index.add(r));
        for (key, wishes) in &kept.view.entries {
            index.learn(key, wishes, &claims(key, &settings.domain));
        }
        index
    }

    fn add(&mut self, resource: &Arc<Resource>) {
        for service in services(resource) {
            let of_service = self.offered.entry(service.to_owned()).or_default();
            of_service.insert(resource.key(), resource.clone());
        }
    }

    fn replace(&mut self, changes: &[Change<'_>]) {
        for (old, new) in changes {
            for (resource, service) in old.iter().flat_map(|r| services(r).map(move |s| (r, s))) {
                if let Some(of_service) = self.offered.get_mut(service) {
                    of_service.remove(&resource.key());
                }
            }
            new.iter().for_each(|r| self.add(r));
        }
    }

    fn learn(&mut self, key: &Key, wishes: &[Wish], names: &[String]) {
        for service in wishes.iter().filter_map(|wish| service(&wish.tags)) {
            self.keys.entry(service.to_owned()).or_default().insert(key.clone());
        }
        for name in names {
            self.claims.entry(name.clone()).or_default().insert(key.clone());
        }
    }

    fn forget(&mut self, key: &Key, wishes: &[Wish]) {
        for service in wishes.iter().filter_map(|wish| service(&wish.tags)) {
            if let Some(keys) = self.keys.get_mut(service) {
                keys.remove(key);
            }
        }
    }

    fn unclaim(&mut self, name: &str, key: &Key) {
        if let Some(keys) = self.claims.get_mut(name) {
            keys.remove(key);
            if keys.is_empty() {
                self.claims.remove(name);
            }
        }
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
