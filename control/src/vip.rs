//! Virtual IPs of one mesh: which name has which address. A pure function of the table before, the names wanted now,
//! the ranges and the time. It must not know where names come from or where the table is kept.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address that lost its name isn't given to another one for this long: clients keep DNS answers.
pub const QUARANTINE_MS: u64 = 600_000;
/// How many names a [`Problem::Exhausted`] lists.
const EXAMPLES_MAX: usize = 3;

/// What makes an entry. The order decides who is served first from a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A value of `kuma.io/service`.
    Service,
    /// The host of an external service, perhaps an IP address.
    Host,
    /// A name made by a VirtualOutbound or a cross-mesh gateway.
    Fqdn,
    /// These three have a space each, over all meshes; their names are `<mesh>/<name>`.
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
}

impl EntryKind {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Host => "host",
            Self::Fqdn => "name",
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: EntryKind,
    pub name: String,
}

impl Key {
    pub fn new(kind: EntryKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }

    /// The address of a host that is written as one; it isn't allocated.
    pub fn literal(&self) -> Option<IpAddr> {
        (self.kind == EntryKind::Host).then(|| self.name.parse().ok()).flatten()
    }
}

/// `0:backend`, `1:api.example.com`, `2:v1.backend.mesh`, as Kuma's persisted form has it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind as u8, self.name)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = match text.split_once(':') {
            Some(("0", name)) => (EntryKind::Service, name),
            Some(("1", name)) => (EntryKind::Host, name),
            Some(("2", name)) => (EntryKind::Fqdn, name),
            Some(("3", name)) => (EntryKind::MeshService, name),
            Some(("4", name)) => (EntryKind::MeshExternalService, name),
            Some(("5", name)) => (EntryKind::MeshMultiZoneService, name),
            _ => return Err(format!("{text:?} is no VIP key: it must start with `0:` to `5:`")),
        };
        Ok(Self::new(kind.0, kind.1))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Neither family: the range was exhausted, and the name isn't served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vip {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl Vip {
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// What is persisted for a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VipTable {
    pub entries: BTreeMap<Key, Vip>,
    /// By last owner, who gets the address back when it returns in time.
    pub quarantine: BTreeMap<Key, Freed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    #[serde(flatten)]
    pub vip: Vip,
    pub freed_at_ms: u64,
    /// Where it was served: who still dials it is told so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

impl Freed {
    /// Whether the address may be another name's; a clock that was set back doesn't prolong it.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        now_ms - self.freed_at_ms.min(now_ms) >= QUARANTINE_MS
    }
}

impl VipTable {
    /// When the next address leaves quarantine: time to allocate again if the range is exhausted.
    pub fn next_release_ms(&self) -> Option<u64> {
        self.quarantine.values().map(|freed| freed.freed_at_ms.saturating_add(QUARANTINE_MS)).min()
    }
}

/// The addresses to give out; a family without a range gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub v4: Option<Cidr<Ipv4Addr>>,
    pub v6: Option<Cidr<Ipv6Addr>>,
}

impl Ranges {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self.v4.is_some_and(|range| range.contains(ip)),
            IpAddr::V6(ip) => self.v6.is_some_and(|range| range.contains(ip)),
        }
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self {
            v4: Some(Cidr { network: Ipv4Addr::new(240, 0, 0, 0), prefix: 4 }),
            v6: Some(Cidr { network: Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, 0), prefix: 64 }),
        }
    }
}

/// The two address families, as numbers.
pub trait Family: Copy + Eq + fmt::Display + FromStr {
    const BITS: u8;
    fn number(self) -> u128;
    fn from_number(number: u128) -> Self;
}

impl Family for Ipv4Addr {
    const BITS: u8 = 32;
    fn number(self) -> u128 {
        self.to_bits().into()
    }
    fn from_number(number: u128) -> Self {
        Self::from_bits(number as u32)
    }
}

impl Family for Ipv6Addr {
    const BITS: u8 = 128;
    fn number(self) -> u128 {
        self.to_bits()
    }
    fn from_number(number: u128) -> Self {
        Self::from_bits(number)
    }
}

/// `240.0.0.0/4`. Both the network address and the last one are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr<A> {
    network: A,
    prefix: u8,
}

impl<A: Family> Cidr<A> {
    /// `None` when `prefix` is longer than an address. Bits of `address` behind the prefix are cleared.
    pub fn new(address: A, prefix: u8) -> Option<Self> {
        let host_bits = A::BITS.checked_sub(prefix)?;
        let network = A::from_number(address.number() & !low_bits(host_bits));
        Some(Self { network, prefix })
    }

    pub fn contains(&self, address: A) -> bool {
        (self.first()..=self.last()).contains(&address.number())
    }

    /// Those that don't come before `address`, in order.
    pub(crate) fn addresses_from(&self, address: A) -> impl Iterator<Item = A> {
        (self.first().max(address.number())..=self.last()).map(A::from_number)
    }

    fn first(&self) -> u128 {
        self.network.number()
    }

    fn last(&self) -> u128 {
        self.first() | low_bits(A::BITS - self.prefix)
    }
}

/// A number of `count` ones.
fn low_bits(count: u8) -> u128 {
    u128::MAX.checked_shr(128 - u32::from(count)).unwrap_or(0)
}

impl<A: Family> fmt::Display for Cidr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl<A: Family> FromStr for Cidr<A> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(address, prefix)| Self::new(address.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| format!("CIDR must be valid: {text:?} should look like 240.0.0.0/4 or fd00:fd00::/64"))
    }
}

/// What went wrong while allocating. The other names are served all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// These names have no address, thus aren't served.
    Exhausted { range: String, unnamed: usize, examples: Vec<Key>, quarantined: usize },
    /// A persisted address outside the range (it was reconfigured) was replaced.
    Outside { key: Key, address: IpAddr, range: String },
    /// A persisted address was another entry's too; that one kept it.
    Duplicate { key: Key, address: IpAddr, keeper: Key },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted { range, unnamed, examples, quarantined } => {
                let names = examples.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
                write!(f, "failed to allocate new VIPs: No addresses left in {range}: {unnamed} names aren't served ")?;
                write!(f, "({names}…), {quarantined} addresses rest in quarantine; enlarge dnsServer.CIDR")
            }
            Self::Outside { key, address, range } => {
                write!(f, "VIP {address} of {:?} is outside {range}: it gets a new one", key.name)
            }
            Self::Duplicate { key, address, keeper } => {
                write!(f, "VIP {address} of {:?} belongs to {:?}: it gets a new one", key.name, keeper.name)
            }
        }
    }
}

/// The table that serves exactly `wanted`: entries keep their addresses, returning ones get theirs back from
/// quarantine, new ones take, in key order, the lowest address that is neither used nor in quarantine.
pub fn allocate(previous: &VipTable, wanted: &BTreeSet<Key>, ranges: &Ranges, now_ms: u64) -> (VipTable, Vec<Problem>) {
    let mut problems = Vec::new();
    let quarantine = quarantine(previous, wanted, now_ms);
    let claims = claims(previous, &quarantine, wanted);
    let resting: Vec<Vip> =
        quarantine.iter().filter(|(key, _)| !wanted.contains(key)).map(|(_, freed)| freed.vip).collect();
    let claims4 = claims.iter().map(|(key, vip)| (*key, vip.v4));
    let v4 = family(ranges.v4, wanted, claims4, resting.iter().filter_map(|vip| vip.v4), &mut problems);
    let claims6 = claims.iter().map(|(key, vip)| (*key, vip.v6));
    let v6 = family(ranges.v6, wanted, claims6, resting.iter().filter_map(|vip| vip.v6), &mut problems);
    let entries = wanted.iter().map(|key| {
        let vip = match key.literal() {
            Some(IpAddr::V4(ip)) => Vip { v4: Some(ip), v6: None },
            Some(IpAddr::V6(ip)) => Vip { v4: None, v6: Some(ip) },
            None => Vip { v4: v4.get(key).copied(), v6: v6.get(key).copied() },
        };
        (key.clone(), vip)
    });
    let entries = entries.collect();
    let quarantine = quarantine.into_iter().filter(|(key, _)| !wanted.contains(key)).collect();
    (VipTable { entries, quarantine }, problems)
}

/// What rests now: the freed of before whose time isn't over, and what this pass frees. A clock that was set back
/// doesn't prolong it.
fn quarantine(previous: &VipTable, wanted: &BTreeSet<Key>, now_ms: u64) -> BTreeMap<Key, Freed> {
    let mut all = previous.quarantine.clone();
    all.values_mut().for_each(|freed| freed.freed_at_ms = freed.freed_at_ms.min(now_ms));
    all.retain(|_, freed| now_ms - freed.freed_at_ms < QUARANTINE_MS);
    for (key, vip) in &previous.entries {
        if !wanted.contains(key) && key.literal().is_none() && !vip.is_empty() {
            all.insert(key.clone(), Freed { vip: *vip, freed_at_ms: now_ms, ports: Vec::new() });
        }
    }
    all
}

/// Who says to own what: entries of before first, then those who return from quarantine, each in key order.
fn claims<'a>(
    previous: &VipTable,
    quarantine: &BTreeMap<Key, Freed>,
    wanted: &'a BTreeSet<Key>,
) -> Vec<(&'a Key, Vip)> {
    let mut staying = Vec::new();
    let mut returning = Vec::new();
    for key in wanted.iter().filter(|key| key.literal().is_none()) {
        match (previous.entries.get(key), quarantine.get(key)) {
            (Some(vip), _) => staying.push((key, *vip)),
            (None, Some(freed)) => returning.push((key, freed.vip)),
            (None, None) => {}
        }
    }
    staying.append(&mut returning);
    staying
}

/// Addresses of one family for all wanted names, as far as the range goes.
fn family<'a, A: Family + Into<IpAddr>>(
    range: Option<Cidr<A>>,
    wanted: &'a BTreeSet<Key>,
    claims: impl Iterator<Item = (&'a Key, Option<A>)>,
    resting: impl Iterator<Item = A>,
    problems: &mut Vec<Problem>,
) -> HashMap<&'a Key, A> {
    let mut given = HashMap::with_capacity(wanted.len());
    let Some(range) = range else { return given };
    // Who has which address; `None` is quarantine.
    let mut used: HashMap<u128, Option<&Key>> = HashMap::with_capacity(wanted.len());
    for (key, address) in claims {
        let Some(address) = address else { continue };
        if !range.contains(address) {
            problems.push(Problem::Outside { key: key.clone(), address: address.into(), range: range.to_string() });
        } else if let Some(keeper) = used.get(&address.number()).copied().flatten() {
            let keeper = keeper.clone();
            problems.push(Problem::Duplicate { key: key.clone(), address: address.into(), keeper });
        } else {
            used.insert(address.number(), Some(key));
            given.insert(key, address);
        }
    }
    let mut quarantined = 0;
    for address in resting.filter(|address| range.contains(*address)) {
        quarantined += usize::from(used.insert(address.number(), None).is_none());
    }
    // Nothing is freed within a pass, so the lowest free address only moves up.
    let mut free = (range.first()..=range.last()).filter(|number| !used.contains_key(number));
    let (mut unnamed, mut examples) = (0, Vec::new());
    for key in wanted.iter().filter(|key| key.literal().is_none()) {
        if given.contains_key(key) {
            continue;
        }
        if let Some(number) = free.next() {
            given.insert(key, A::from_number(number));
            continue;
        }
        unnamed += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(key.clone());
        }
    }
    if unnamed > 0 {
        let range = range.to_string();
        problems.push(Problem::Exhausted { range, unnamed, examples, quarantined });
    }
    given
}

#[cfg(test)]
#[path = "vip_tests.rs"]
mod tests;
