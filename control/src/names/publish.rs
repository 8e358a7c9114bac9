//! From entries and their addresses to the names and outbounds that sidecars get.

use super::{FREED, FreedOutbound, MeshNames, NameSettings, NamedOutbound, View, Wish, servable};
use crate::vip::{EntryKind, Key, Vip, VipTable};
use snapshot::{NameRow, Origin};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Something a user would expect to work and that doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameWarning {
    /// Two services claim a name: `a_b` is `a.b.mesh` too, unless there is a service `a.b`.
    Shared { name: String, winner: Key, loser: Key },
    /// A service whose name can't be a DNS name; its address works.
    Unnamed { key: Key, reason: String },
    /// An address and port that an earlier entry serves already.
    Occupied { key: Key, address: IpAddr, port: u16 },
}

impl fmt::Display for NameWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared { name, winner, loser } => {
                write!(f, "{name} leads to service {:?} and not to {:?}: rename one of them", winner.name, loser.name)
            }
            Self::Unnamed { key, reason } => write!(f, "service {:?} has no name: {reason}", key.name),
            Self::Occupied { key, address, port } => {
                write!(f, "{:?} isn't served on {address}:{port}, because another entry is", key.name)
            }
        }
    }
}

/// How strongly an entry claims a name: the greatest has it, the later key among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// `_` read as `.`
    Alias,
    /// Differs in case from what is served.
    Folded,
    Service,
    Host,
    Fqdn,
}

/// Notes where the addresses that `table` has freed since `before` were served, as far as that is known.
pub fn remember_ports(before: &VipTable, served: &MeshNames, table: &mut VipTable) {
    let mut fresh: Vec<_> = table.quarantine.iter_mut().filter(|(key, _)| before.entries.contains_key(key)).collect();
    if fresh.is_empty() {
        return;
    }
    let mut ports: HashMap<Vip, BTreeSet<u16>> = HashMap::new();
    for outbound in &served.outbounds {
        ports.entry(Vip { v4: outbound.v4, v6: outbound.v6 }).or_default().insert(outbound.port);
    }
    for (_, freed) in &mut fresh {
        freed.ports = ports.get(&freed.vip).into_iter().flatten().copied().collect();
    }
}

/// Resting addresses, where they were served; on the VIP port, where that isn't known any more.
pub(crate) fn freed(mesh: &str, vips: &VipTable, vip_port: u16) -> Vec<FreedOutbound> {
    let mut list = Vec::new();
    for (key, freed) in &vips.quarantine {
        let ports = if freed.ports.is_empty() { &[vip_port] } else { freed.ports.as_slice() };
        let origin = Origin::new(FREED, mesh, &key.name);
        let one =
            |port: &u16| FreedOutbound { v4: freed.vip.v4, v6: freed.vip.v6, port: *port, origin: origin.clone() };
        list.extend(ports.iter().map(one));
    }
    list
}

/// Entries without an address give nothing but a name to refuse, if it is a service's.
pub fn names_and_outbounds(view: &View, vips: &VipTable, settings: &NameSettings) -> (MeshNames, Vec<NameWarning>) {
    let mut out = Publisher { settings, names: BTreeMap::new(), outbounds: Outbounds::default(), warnings: Vec::new() };
    let mut unplaced = Vec::new();
    for (key, wishes) in &view.entries {
        let Some(first) = wishes.first() else { continue };
        let Some(vip) = vips.entries.get(key).filter(|vip| !vip.is_empty()) else {
            let name = servable(&format!("{}.{}", key.name, settings.domain));
            if let (EntryKind::Service, Ok(name)) = (key.kind, name) {
                unplaced.push((key.name.clone(), Arc::new(row(&name, Vip::default(), &first.origin))));
            }
            continue;
        };
        match key.kind {
            EntryKind::Service => out.service(key, *vip, first),
            EntryKind::Host => out.host(key, *vip, wishes),
            EntryKind::Fqdn => {
                out.name(Claim::Fqdn, key, row(&key.name, *vip, &first.origin));
                out.ports(key, *vip, wishes);
            }
            // Those are in tables of their own (`services`).
            EntryKind::MeshService | EntryKind::MeshExternalService | EntryKind::MeshMultiZoneService => {}
        }
    }
    let Publisher { names, outbounds, mut warnings, .. } = out;
    let mut outbounds_sorted = outbounds.list;
    outbounds_sorted.sort_by_key(|outbound| (outbound.v4, outbound.v6, outbound.port));
    warnings.extend(outbounds.warnings);
    let names = names.into_values().map(|(_, _, row)| Arc::new(row)).collect();
    let outbounds = outbounds_sorted.into_iter().map(Arc::new).collect();
    let freed = freed(&view.mesh, vips, settings.vip_port);
    (MeshNames { names, outbounds, freed, unplaced }, warnings)
}

/// Names that an entry would have if it were the only one.
pub(crate) fn claims(key: &Key, domain: &str) -> Vec<String> {
    match key.kind {
        EntryKind::Service => {
            let (name, alias) = service_names(key, domain);
            let Ok(served) = servable(&name) else { return Vec::new() };
            [Some(served), (alias != name).then(|| servable(&alias).ok()).flatten()].into_iter().flatten().collect()
        }
        EntryKind::Host => servable(&key.name).into_iter().collect(),
        EntryKind::Fqdn => vec![key.name.clone()],
        EntryKind::MeshService | EntryKind::MeshExternalService | EntryKind::MeshMultiZoneService => Vec::new(),
    }
}

/// A service's own name, and that with `_` read as `.`
fn service_names(key: &Key, domain: &str) -> (String, String) {
    (format!("{}.{domain}", key.name), format!("{}.{domain}", key.name.replace('_', ".")))
}

struct Publisher<'a> {
    settings: &'a NameSettings,
    names: BTreeMap<String, (Claim, &'a Key, NameRow)>,
    outbounds: Outbounds,
    warnings: Vec<NameWarning>,
}

impl<'a> Publisher<'a> {
    /// Only the first port counts: a service that is both a dataplane's and external is the dataplane's.
    fn service(&mut self, key: &'a Key, vip: Vip, first: &Wish) {
        let (name, alias) = service_names(key, &self.settings.domain);
        match servable(&name) {
            Err(reason) => self.warnings.push(NameWarning::Unnamed { key: key.clone(), reason }),
            Ok(served) => {
                let claim = if served == name { Claim::Service } else { Claim::Folded };
                self.name(claim, key, row(&served, vip, &first.origin));
                if alias != name
                    && let Ok(alias) = servable(&alias)
                {
                    self.name(Claim::Alias, key, row(&alias, vip, &first.origin));
                }
            }
        }
        self.ports(key, vip, std::slice::from_ref(first));
        if first.port != self.settings.vip_port {
            self.outbounds.add(key, vip, first, self.settings.vip_port);
        }
    }

    fn host(&mut self, key: &'a Key, vip: Vip, wishes: &[Wish]) {
        self.ports(key, vip, wishes);
        let (Ok(name), Some(first)) = (servable(&key.name), wishes.first()) else { return };
        self.name(Claim::Host, key, row(&name, vip, &first.origin));
        if self.settings.host_vip_port && wishes.iter().all(|wish| wish.port != self.settings.vip_port) {
            self.outbounds.add(key, vip, first, self.settings.vip_port);
        }
    }

    fn ports(&mut self, key: &Key, vip: Vip, wishes: &[Wish]) {
        for wish in wishes.iter().filter(|wish| wish.port != 0) {
            self.outbounds.add(key, vip, wish, wish.port);
        }
    }

    /// A VirtualOutbound's or host's name hides a service's on purpose; between services it is an accident.
    fn name(&mut self, claim: Claim, key: &'a Key, row: NameRow) {
        let name = row.name.clone();
        let Some((held, holder, _)) = self.names.get(&name) else {
            self.names.insert(name, (claim, key, row));
            return;
        };
        let wins = claim >= *held;
        if *holder != key && claim.max(*held) <= Claim::Service {
            let (winner, loser) = if wins { (key, *holder) } else { (*holder, key) };
            let (winner, loser) = (winner.clone(), loser.clone());
            self.warnings.push(NameWarning::Shared { name: name.clone(), winner, loser });
        }
        if wins {
            self.names.insert(name, (claim, key, row));
        }
    }
}

fn row(name: &str, vip: Vip, origin: &Origin) -> NameRow {
    NameRow { name: name.into(), v4: vip.v4, v6: vip.v6, origin: origin.clone() }
}

#[derive(Default)]
struct Outbounds {
    list: Vec<NamedOutbound>,
    taken: HashSet<(IpAddr, u16)>,
    warnings: Vec<NameWarning>,
}

impl Outbounds {
    fn add(&mut self, key: &Key, vip: Vip, wish: &Wish, port: u16) {
        // A host written as an address may be one that is allocated, too.
        let mut addresses = vip.v4.map(IpAddr::V4).into_iter().chain(vip.v6.map(IpAddr::V6));
        if let Some(address) = addresses.clone().find(|address| self.taken.contains(&(*address, port))) {
            self.warnings.push(NameWarning::Occupied { key: key.clone(), address, port });
            return;
        }
        self.taken.extend(addresses.by_ref().map(|address| (address, port)));
        let (tags, origin) = (wish.tags.clone(), wish.origin.clone());
        self.list.push(NamedOutbound { v4: vip.v4, v6: vip.v6, port, tags, origin });
    }
}
