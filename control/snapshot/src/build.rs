//! From rows to a checked, indexed value: the only way to a [`Snapshot`]. Control builds before it publishes and the
//! proxy builds after it decodes, so a compiler's mistake never reaches traffic.

use crate::index::{Changes, Index, Keyed};
use crate::lookup::host::HostTable;
use crate::tables::{
    Access, Backend, Handler, ListenerRow, NameRow, PermissionRow, Role, ServiceRow, SniRow, SniTarget, Tables,
    UpstreamTls, VirtualHost,
};
use crate::{DnsSettings, Generation, limits};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Why tables can't be executed: the row, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub row: String,
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.row, self.problem)
    }
}

/// A listener with its compiled routes.
#[derive(Debug)]
pub struct Listener {
    pub row: Arc<ListenerRow>,
    /// Of an HTTP handler.
    pub(crate) hosts: Option<Arc<HostTable>>,
}

/// An SNI with its compiled routes, where mTLS ends here and HTTP is spoken.
#[derive(Debug)]
pub struct Sni {
    pub row: Arc<SniRow>,
    pub(crate) hosts: Option<Arc<HostTable>>,
}

/// All that one proxy executes, checked and indexed. Immutable; a next one shares what didn't change.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: Generation,
    tables: Arc<Tables>,
    pub(crate) names: Index<NameRow>,
    pub(crate) vips: Arc<VipMap>,
    pub(crate) listeners: Index<Listener>,
    pub(crate) services: Index<ServiceRow>,
    pub(crate) permissions: Index<PermissionRow>,
    pub(crate) snis: Index<Sni>,
}

pub(crate) type VipMap = HashMap<IpAddr, Arc<NameRow>, hashbrown::DefaultHashBuilder>;

impl Keyed for NameRow {
    type Key = str;
    fn key(&self) -> &str {
        &self.name
    }
}

impl Keyed for ServiceRow {
    type Key = str;
    fn key(&self) -> &str {
        &self.name
    }
}

impl Keyed for PermissionRow {
    type Key = str;
    fn key(&self) -> &str {
        &self.name
    }
}

impl Keyed for ListenerRow {
    type Key = SocketAddr;
    fn key(&self) -> &SocketAddr {
        &self.address
    }
}

impl Keyed for Listener {
    type Key = SocketAddr;
    fn key(&self) -> &SocketAddr {
        self.row.key()
    }
}

impl Keyed for SniRow {
    type Key = str;
    fn key(&self) -> &str {
        &self.sni
    }
}

impl Keyed for Sni {
    type Key = str;
    fn key(&self) -> &str {
        self.row.key()
    }
}

impl Snapshot {
    /// Checks and indexes `tables`.
    ///
    /// # Errors
    /// Every violation found, not only the first.
    pub fn build(tables: impl Into<Arc<Tables>>, generation: Generation) -> Result<Self, Vec<Violation>> {
        Self::build_after(None, tables, generation)
    }

    /// As [`Snapshot::build`], with the same outcome: what `previous` has proven and indexed of the same rows is shared, so
    /// that the cost is that of the rows that changed.
    ///
    /// # Errors
    /// Every violation found, not only the first.
    pub fn build_after(
        previous: Option<&Self>,
        tables: impl Into<Arc<Tables>>,
        generation: Generation,
    ) -> Result<Self, Vec<Violation>> {
        let tables: Arc<Tables> = tables.into();
        let nothing = Self::default();
        let before = previous.unwrap_or(&nothing);
        let mut check = Check::default();
        check.size(&tables);
        let changed = Changes::between(&before.tables.services, &tables.services);
        let (services, services_lost) = check.patch("service", &before.services, &changed);
        changed.new.iter().for_each(|row| check.service(row));
        let changed = Changes::between(&before.tables.permissions, &tables.permissions);
        let (permissions, permissions_lost) = check.patch("permission", &before.permissions, &changed);
        let changed = Changes::between(&before.tables.names, &tables.names);
        let (names, _) = check.patch("name", &before.names, &changed);
        changed.new.iter().for_each(|row| check.name(row));
        let vips = by_vip(&before.vips, &changed, &tables.names);
        let known = Known { services: &services, permissions: &permissions };
        // Rows that didn't change still refer to what is there, unless something went away.
        let refer_again = services_lost || permissions_lost;
        let listeners = check.listeners(before, &tables.listeners, &known, refer_again);
        let snis = check.snis(before, &tables.snis, &known, refer_again);
        if !check.violations.is_empty() {
            return Err(check.violations);
        }
        Ok(Self { generation, tables, names, vips, listeners, services, permissions, snis })
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The rows this was built from, as dumped, compared and carried.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn dns(&self) -> &DnsSettings {
        &self.tables.proxy.dns
    }

    /// True until a control plane has spoken.
    pub fn is_empty(&self) -> bool {
        self.generation == Generation::default()
    }
}

/// Address to name; of several names of one VIP, the first in order.
fn by_vip(before: &Arc<VipMap>, changed: &Changes<'_, NameRow>, names: &[Arc<NameRow>]) -> Arc<VipMap> {
    let addresses = |row: &NameRow| row.v4.map(IpAddr::V4).into_iter().chain(row.v6.map(IpAddr::V6));
    if changed.is_empty() {
        return before.clone();
    }
    let has_room = |row: &&Arc<NameRow>| addresses(row).all(|a| !before.contains_key(&a));
    let (mut vips, rows) = if changed.gone.is_empty() && changed.new.iter().all(has_room) {
        (VipMap::clone(before), changed.new.clone())
    } else {
        (VipMap::with_capacity_and_hasher(names.len() * 2, Default::default()), names.iter().collect())
    };
    for row in rows {
        for address in addresses(row) {
            vips.entry(address).or_insert_with(|| row.clone());
        }
    }
    Arc::new(vips)
}

struct Known<'a> {
    services: &'a Index<ServiceRow>,
    permissions: &'a Index<PermissionRow>,
}

#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn fail(&mut self, row: String, problem: String) {
        self.violations.push(Violation { row, problem });
    }

    fn size(&mut self, tables: &Tables) {
        let rows = tables.names.len() + tables.listeners.len() + tables.services.len() + tables.snis.len();
        if rows > limits::ROWS_MAX {
            self.fail("tables".into(), format!("{rows} rows, the limit is {}", limits::ROWS_MAX));
        }
    }

    /// The index that follows, and whether a key of the one before is gone.
    fn patch<T: Keyed<Key = str>>(
        &mut self,
        what: &str,
        before: &Index<T>,
        changed: &Changes<'_, T>,
    ) -> (Index<T>, bool) {
        let mut index = before.clone();
        if changed.is_empty() {
            return (index, false);
        }
        changed.gone.iter().for_each(|row| index.remove(row.key()));
        index.reserve(changed.new.len());
        for row in &changed.new {
            if !index.insert((*row).clone()) {
                self.fail(format!("{what} {}", row.key()), "stands twice".into());
            }
        }
        let is_lost = changed.gone.iter().any(|row| index.get(row.key()).is_none());
        (index, is_lost)
    }

    fn listeners(
        &mut self,
        before: &Snapshot,
        rows: &[Arc<ListenerRow>],
        known: &Known<'_>,
        refer_again: bool,
    ) -> Index<Listener> {
        let changed = Changes::between(&before.tables.listeners, rows);
        if refer_again {
            rows.iter().for_each(|row| self.listener_refers(None, row, known));
        } else {
            let held = |row: &ListenerRow| before.listeners.get(&row.address).map(|listener| listener.row.as_ref());
            changed.new.iter().for_each(|row| self.listener_refers(held(row), row, known));
        }
        let mut index = before.listeners.clone();
        if changed.is_empty() {
            return index;
        }
        changed.gone.iter().for_each(|row| index.remove(&row.address));
        index.reserve(changed.new.len());
        for row in changed.new {
            let listener = self.listener(before.listeners.get(&row.address), row);
            if !index.insert(listener) {
                self.fail(format!("listener {}", row.address), "stands twice".into());
            }
        }
        index
    }

    fn snis(&mut self, before: &Snapshot, rows: &[Arc<SniRow>], known: &Known<'_>, refer_again: bool) -> Index<Sni> {
        let changed = Changes::between(&before.tables.snis, rows);
        let to_ask: Vec<&Arc<SniRow>> = if refer_again { rows.iter().collect() } else { changed.new.clone() };
        to_ask.into_iter().for_each(|row| self.sni_refers(row, known));
        let mut index = before.snis.clone();
        if changed.is_empty() {
            return index;
        }
        changed.gone.iter().for_each(|row| index.remove(&row.sni));
        index.reserve(changed.new.len());
        for row in changed.new {
            let sni = self.sni(before.snis.get(&row.sni), row);
            if !index.insert(sni) {
                self.fail(format!("sni {}", row.sni), "stands twice".into());
            }
        }
        index
    }

    fn name(&mut self, row: &NameRow) {
        let labels_fit = row.name.split('.').all(|l| !l.is_empty() && l.len() <= limits::DNS_LABEL_BYTES_MAX);
        if row.name.len() > limits::DNS_NAME_BYTES_MAX || !labels_fit {
            self.fail(format!("name {}", row.name), "isn't a DNS name (RFC 1035 §2.3.4)".into());
        }
        if row.name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.fail(format!("name {}", row.name), "must be lower case".into());
        }
    }

    fn service(&mut self, row: &ServiceRow) {
        if let UpstreamTls::Mesh { peers, sni, .. } = &row.tls {
            if peers.is_empty() {
                self.fail(format!("service {}", row.name), "mTLS without a peer identity to expect".into());
            }
            if sni.is_empty() {
                self.fail(format!("service {}", row.name), "mTLS without an SNI".into());
            }
        }
    }

    /// `held`: an earlier row at that address, whose references still hold.
    fn listener_refers(&mut self, held: Option<&ListenerRow>, row: &ListenerRow, known: &Known<'_>) {
        let place = || format!("listener {}", row.address);
        match &row.role {
            Role::Outbound { handler, .. } | Role::Gateway { handler, .. } => {
                let proven = match held.map(|held| &held.role) {
                    Some(
                        Role::Outbound { handler: Handler::Http { hosts }, .. }
                        | Role::Gateway { handler: Handler::Http { hosts }, .. },
                    ) => hosts.as_slice(),
                    _ => &[],
                };
                self.handler(&place, (handler, proven), known);
            }
            Role::Inbound { permission, .. } => self.permission(&place, permission, known),
            Role::Zone => {}
        }
    }

    fn listener(&mut self, old: Option<&Arc<Listener>>, row: &Arc<ListenerRow>) -> Arc<Listener> {
        if let Some(old) = old.filter(|old| old.row == *row) {
            // The row of the new tables, so that the old one's memory can go.
            return Arc::new(Listener { row: row.clone(), hosts: old.hosts.clone() });
        }
        let hosts = match &row.role {
            Role::Outbound { handler, .. } | Role::Gateway { handler, .. } => {
                let before = old.and_then(|old| match (&old.row.role, &old.hosts) {
                    (
                        Role::Outbound { handler: Handler::Http { hosts }, .. }
                        | Role::Gateway { handler: Handler::Http { hosts }, .. },
                        Some(table),
                    ) => Some((hosts.as_slice(), table)),
                    _ => None,
                });
                self.hosts(&|| format!("listener {}", row.address), handler, before)
            }
            _ => None,
        };
        Arc::new(Listener { row: row.clone(), hosts })
    }

    fn sni_refers(&mut self, row: &SniRow, known: &Known<'_>) {
        let place = || format!("sni {}", row.sni);
        if row.sni.bytes().any(|b| b.is_ascii_uppercase()) {
            self.fail(place(), "must be lower case".into());
        }
        match &row.target {
            SniTarget::Passthrough { service } => self.service_exists(&place, service, known),
            SniTarget::Terminate { permission, handler, .. } => {
                self.permission(&place, permission, known);
                self.handler(&place, (handler, &[]), known);
            }
        }
    }

    fn sni(&mut self, old: Option<&Arc<Sni>>, row: &Arc<SniRow>) -> Arc<Sni> {
        if let Some(old) = old.filter(|old| old.row == *row) {
            return Arc::new(Sni { row: row.clone(), hosts: old.hosts.clone() });
        }
        let hosts = match &row.target {
            SniTarget::Passthrough { .. } => None,
            SniTarget::Terminate { handler, .. } => self.hosts(&|| format!("sni {}", row.sni), handler, None),
        };
        Arc::new(Sni { row: row.clone(), hosts })
    }

    /// Hosts at the same place in `proven` were asked before.
    fn handler(&mut self, place: Place<'_>, (handler, proven): (&Handler, &[Arc<VirtualHost>]), known: &Known<'_>) {
        match handler {
            Handler::Tcp { backends, .. } => self.backends(place, backends, known),
            Handler::Http { hosts } => {
                let is_new = |at: usize, host: &Arc<VirtualHost>| proven.get(at).is_none_or(|p| !Arc::ptr_eq(p, host));
                let new = hosts.iter().enumerate().filter(|(at, host)| is_new(*at, host));
                for route in new.flat_map(|(_, host)| &host.routes) {
                    if let crate::RouteAction::Forward(forward) = &route.action {
                        self.backends(place, &forward.backends, known);
                        if let Some(mirror) = &forward.filters.mirror {
                            self.service_exists(place, &mirror.service, known);
                        }
                    }
                }
            }
        }
    }

    fn backends(&mut self, place: Place<'_>, backends: &[Backend], known: &Known<'_>) {
        for backend in backends {
            self.service_exists(place, &backend.service, known);
        }
    }

    fn service_exists(&mut self, place: Place<'_>, service: &str, known: &Known<'_>) {
        if known.services.get(service).is_none() {
            self.fail(place(), format!("refers to service {service}, which has no row"));
        }
    }

    fn permission(&mut self, place: Place<'_>, permission: &str, known: &Known<'_>) {
        if known.permissions.get(permission).is_none() {
            self.fail(place(), format!("refers to permission {permission}, which has no row"));
        }
    }

    fn hosts(
        &mut self,
        place: Place<'_>,
        handler: &Handler,
        before: Option<(&[Arc<VirtualHost>], &Arc<HostTable>)>,
    ) -> Option<Arc<HostTable>> {
        let Handler::Http { hosts } = handler else { return None };
        if let Some(table) = HostTable::of_one(hosts) {
            return Some(table);
        }
        match HostTable::build_after(before.map(|(rows, table)| (rows, table.as_ref())), hosts) {
            Ok(table) => Some(Arc::new(table)),
            Err(problems) => {
                self.violations.extend(problems.into_iter().map(|problem| Violation { row: place(), problem }));
                None
            }
        }
    }
}

/// Names a row for a violation; most are never named.
type Place<'a> = &'a dyn Fn() -> String;

impl Snapshot {
    pub fn name(&self, name: &str) -> Option<&Arc<NameRow>> {
        self.names.get(name)
    }

    /// The name that a VIP belongs to.
    pub fn vip_name(&self, vip: IpAddr) -> Option<&Arc<NameRow>> {
        self.vips.get(&vip)
    }

    pub fn listener(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.listeners.get(&address)
    }

    pub fn service(&self, name: &str) -> Option<&Arc<ServiceRow>> {
        self.services.get(name)
    }

    pub fn permission(&self, name: &str) -> Option<&Arc<PermissionRow>> {
        self.permissions.get(name)
    }

    /// Access by the name of its row; an unknown name denies.
    pub fn access(&self, permission: &str) -> &Access {
        self.permissions.get(permission).map_or(&Access::Deny, |row| &row.access)
    }

    /// `sni` is lower case.
    pub fn sni(&self, sni: &str) -> Option<&Arc<Sni>> {
        self.snis.get(sni)
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
