//! The virtual IPs of a mesh between publications: allocated as [`vip::allocate`] does, at the cost of the names that come
//! and go, and stored as a table with what changed in it since. It must not know what a name is for.

use super::names::Given;
use crate::names::{MeshNames, remember_ports};
use crate::vip::{self, Cidr, Family, Freed, Key, Problem, Vip, VipTable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// So many changes are stored beside the table; with more it is stored anew.
const JOURNAL_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Addresses {
    table: VipTable,
    problems: Vec<Problem>,
    used: Option<Used>,
    journal: Journal,
    is_table_unsaved: bool,
    is_journal_unsaved: bool,
}

/// Addresses that have an owner or rest.
#[derive(Default)]
struct Used(Taken<Ipv4Addr>, Taken<Ipv6Addr>);

struct Taken<A> {
    all: HashSet<A>,
    /// Below it nothing of the range is free.
    lowest: Option<A>,
}

impl<A> Default for Taken<A> {
    fn default() -> Self {
        Self { all: HashSet::new(), lowest: None }
    }
}

/// What became of some keys of a stored table; null = nothing of it is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Journal {
    entries: BTreeMap<Key, Option<Vip>>,
    quarantine: BTreeMap<Key, Option<Freed>>,
}

/// What is to be stored: a table and no journal, or a journal to the table that is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsaved {
    Table(Vec<u8>),
    Journal(Vec<u8>),
}

impl Journal {
    pub(super) fn apply(self, table: &mut VipTable) {
        for (key, vip) in self.entries {
            match vip {
                Some(vip) => table.entries.insert(key, vip),
                None => table.entries.remove(&key),
            };
        }
        for (key, freed) in self.quarantine {
            match freed {
                Some(freed) => table.quarantine.insert(key, freed),
                None => table.quarantine.remove(&key),
            };
        }
    }
}

impl Addresses {
    /// As they were stored, table and journal together.
    pub(super) fn stored(table: VipTable) -> Self {
        Self { table, ..Self::default() }
    }

    pub(super) fn table(&self) -> &VipTable {
        &self.table
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Serves exactly `wanted`. `served` is where the addresses of before were served.
    pub(super) fn allocate(&mut self, wanted: &BTreeSet<Key>, served: &MeshNames, given: &Given<'_>) {
        let (mut table, problems) = vip::allocate(&self.table, wanted, given.ranges, given.now_ms);
        remember_ports(&self.table, served, &mut table);
        self.is_table_unsaved |= table != self.table;
        (self.table, self.problems, self.used) = (table, problems, None);
    }

    /// Whether a freed address may be given out again.
    pub(super) fn is_rested(&self, now_ms: u64) -> bool {
        self.table.next_release_ms().is_some_and(|at| at <= now_ms)
    }

    /// Serves `added` too, and not `removed`, with the ports where they were, any more. None when all have to be looked at; then nothing was done.
    pub(super) fn change(
        &mut self,
        added: &BTreeSet<Key>,
        removed: BTreeMap<Key, BTreeSet<u16>>,
        given: &Given<'_>,
    ) -> Option<()> {
        let (ranges, now_ms) = (given.ranges, given.now_ms);
        // A clock that was set back mustn't prolong the rest.
        if !self.problems.is_empty() || self.table.quarantine.values().any(|f| f.freed_at_ms > now_ms) {
            return None;
        }
        let mut used = self.used.take().unwrap_or_else(|| Used::of(&self.table));
        let rested: Vec<Key> =
            self.table.quarantine.iter().filter(|(_, f)| f.is_over(now_ms)).map(|(k, _)| k.clone()).collect();
        let mut journal = Journal::default();
        for key in rested {
            if let Some(freed) = self.table.quarantine.get(&key) {
                used.remove(freed.vip);
            }
            journal.quarantine.insert(key, None);
        }
        for (key, ports) in removed {
            let vip = self.table.entries.get(&key).copied()?;
            if key.literal().is_none() && !vip.is_empty() {
                let freed = Freed { vip, freed_at_ms: now_ms, ports: ports.into_iter().collect() };
                journal.quarantine.insert(key.clone(), Some(freed));
            }
            journal.entries.insert(key, None);
        }
        for key in added {
            let resting = match journal.quarantine.get(key) {
                Some(_) => None,
                None => self.table.quarantine.get(key),
            };
            if resting.is_some() {
                journal.quarantine.insert(key.clone(), None);
            }
            let vip = match key.literal() {
                Some(IpAddr::V4(ip)) => Vip { v4: Some(ip), v6: None },
                Some(IpAddr::V6(ip)) => Vip { v4: None, v6: Some(ip) },
                None => {
                    let had = resting.map(|freed| freed.vip).unwrap_or_default();
                    let v4 = used.0.take(had.v4, ranges.v4)?;
                    Vip { v4, v6: used.1.take(had.v6, ranges.v6)? }
                }
            };
            journal.entries.insert(key.clone(), Some(vip));
        }
        if journal == Journal::default() {
            self.used = Some(used);
            return Some(());
        }
        journal.clone().apply(&mut self.table);
        self.journal.entries.extend(journal.entries);
        self.journal.quarantine.extend(journal.quarantine);
        self.is_journal_unsaved = true;
        self.used = Some(used);
        Some(())
    }

    /// What has to be durable before the addresses are used.
    pub(super) fn unsaved(&mut self) -> Option<Unsaved> {
        let is_long = self.journal.entries.len() + self.journal.quarantine.len() > JOURNAL_MAX;
        if self.is_table_unsaved || (self.is_journal_unsaved && is_long) {
            (self.is_table_unsaved, self.is_journal_unsaved) = (false, false);
            self.journal = Journal::default();
            return serde_json::to_vec(&self.table).ok().map(Unsaved::Table);
        }
        std::mem::take(&mut self.is_journal_unsaved)
            .then(|| serde_json::to_vec(&self.journal).ok().map(Unsaved::Journal))
            .flatten()
    }
}

impl Used {
    fn of(table: &VipTable) -> Self {
        let mut used = Self::default();
        let owned = table.entries.iter().filter(|(key, _)| key.literal().is_none()).map(|(_, vip)| *vip);
        for vip in owned.chain(table.quarantine.values().map(|freed| freed.vip)) {
            used.0.all.extend(vip.v4);
            used.1.all.extend(vip.v6);
        }
        used
    }

    fn remove(&mut self, vip: Vip) {
        vip.v4.into_iter().for_each(|ip| self.0.free(ip));
        vip.v6.into_iter().for_each(|ip| self.1.free(ip));
    }
}

impl<A: Family + Hash> Taken<A> {
    /// The address that the name had, else the lowest free one; nothing without a range. None when the range is exhausted,
    /// or isn't what it was.
    fn take(&mut self, had: Option<A>, range: Option<Cidr<A>>) -> Option<Option<A>> {
        let Some(range) = range else { return Some(None) };
        let address = match had {
            Some(had) => Some(had).filter(|had| range.contains(*had)),
            None => {
                let mut from = range.addresses_from(self.lowest.unwrap_or(A::from_number(0)));
                self.lowest = from.find(|address| !self.all.contains(address));
                self.lowest
            }
        }?;
        self.all.insert(address);
        Some(Some(address))
    }

    fn free(&mut self, address: A) {
        if self.all.remove(&address) && self.lowest.is_some_and(|lowest| address.number() < lowest.number()) {
            self.lowest = Some(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::vip::{EntryKind, QUARANTINE_MS, Ranges};

    fn key(number: u64) -> Key {
        if number == 0 {
            return Key::new(EntryKind::Host, "240.0.0.3");
        }
        Key::new(if number.is_multiple_of(2) { EntryKind::Service } else { EntryKind::Fqdn }, format!("k{number}"))
    }

    #[test]
    fn step_by_step_gives_what_allocating_everything_gives() {
        let mut dice = Dice(7);
        let mut dice = |end: u64| dice.below(end as usize) as u64;
        let v4 = Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 27);
        let v6 = Cidr::new("fd00::".parse().unwrap(), 64);
        for ranges in [Ranges { v4, v6: None }, Ranges { v4, v6 }] {
            let (mut now, mut wanted, mut patched) = (0, BTreeSet::new(), 0);
            let mut stepwise = Addresses::default();
            let mut whole = VipTable::default();
            let mut stored = VipTable::default();
            let mut saved = stored.clone();
            for _ in 0..2_000 {
                now += dice(QUARANTINE_MS / 20);
                let before: BTreeSet<Key> = wanted.clone();
                for _ in 0..=dice(3) {
                    let key = key(dice(24));
                    if !wanted.remove(&key) {
                        wanted.insert(key);
                    }
                }
                let (added, removed) = (&wanted - &before, &before - &wanted);
                let settings = crate::names::NameSettings::default();
                let given = Given { settings: &settings, ranges: &ranges, now_ms: now };
                let removed = removed.into_iter().map(|key| (key, BTreeSet::new())).collect();
                match stepwise.change(&added, removed, &given) {
                    Some(()) => patched += 1,
                    None => stepwise.allocate(&wanted, &MeshNames::default(), &given),
                }
                whole = vip::allocate(&whole, &wanted, &ranges, now).0;
                assert_eq!(*stepwise.table(), whole);
                match stepwise.unsaved() {
                    Some(Unsaved::Table(bytes)) => {
                        stored = serde_json::from_slice(&bytes).unwrap();
                        saved = stored.clone();
                    }
                    Some(Unsaved::Journal(bytes)) => {
                        saved = stored.clone();
                        serde_json::from_slice::<Journal>(&bytes).unwrap().apply(&mut saved);
                    }
                    None => {}
                }
                assert_eq!(saved, whole);
            }
            assert!(patched > 500, "{patched}");
        }
    }

    /// Minutes, if every name looked for its address from the beginning.
    #[test]
    fn twenty_thousand_names_more_find_their_addresses_among_a_hundred_thousand() {
        let names = |from: usize, to: usize| -> BTreeSet<Key> {
            (from..to).map(|i| Key::new(EntryKind::Service, format!("s{i:06}"))).collect()
        };
        let (settings, ranges) = (crate::names::NameSettings::default(), Ranges::default());
        let given = Given { settings: &settings, ranges: &ranges, now_ms: 0 };
        let mut addresses = Addresses::default();
        addresses.allocate(&names(0, 100_000), &MeshNames::default(), &given);
        addresses.change(&names(100_000, 120_000), BTreeMap::new(), &given).unwrap();
        assert!(*addresses.table() == vip::allocate(&VipTable::default(), &names(0, 120_000), &ranges, 0).0);
    }
}
