//! From rows to a checked, indexed value: the only way to a [`Snapshot`]. Control builds before it publishes and the
//! proxy builds after it decodes, so a compiler's mistake never reaches traffic.

use crate::lookup::host::HostTable;
use crate::tables::{
    Access, Backend, Handler, ListenerRow, NameRow, PermissionRow, Role, ServiceRow, SniRow, SniTarget, Tables,
    UpstreamTls,
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
    pub(crate) hosts: Option<HostTable>,
}

/// An SNI with its compiled routes, where mTLS ends here and HTTP is spoken.
#[derive(Debug)]
pub struct Sni {
    pub row: Arc<SniRow>,
    pub(crate) hosts: Option<HostTable>,
}

/// All that one proxy executes, checked and indexed. Immutable.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: Generation,
    tables: Tables,
    pub(crate) names: HashMap<String, Arc<NameRow>>,
    pub(crate) vips: HashMap<IpAddr, Arc<NameRow>>,
    pub(crate) listeners: HashMap<SocketAddr, Arc<Listener>>,
    pub(crate) services: HashMap<String, Arc<ServiceRow>>,
    pub(crate) permissions: HashMap<String, Arc<PermissionRow>>,
    pub(crate) snis: HashMap<String, Arc<Sni>>,
}

impl Snapshot {
    /// Checks and indexes `tables`.
    ///
    /// # Errors
    /// Every violation found, not only the first.
    pub fn build(tables: Tables, generation: Generation) -> Result<Self, Vec<Violation>> {
        Self::build_after(None, tables, generation)
    }

    /// As [`Snapshot::build`]; routes of listeners that `previous` already compiled are shared.
    ///
    /// # Errors
    /// Every violation found, not only the first.
    pub fn build_after(
        previous: Option<&Self>,
        tables: Tables,
        generation: Generation,
    ) -> Result<Self, Vec<Violation>> {
        let mut check = Check::default();
        check.size(&tables);
        let services = check.index("service", &tables.services, |r| r.name.clone());
        let permissions = check.index("permission", &tables.permissions, |r| r.name.clone());
        let names = check.index("name", &tables.names, |r| r.name.clone());
        for row in &tables.names {
            check.name(row);
        }
        for row in &tables.services {
            check.service(row);
        }
        let known = Known { services: &services, permissions: &permissions };
        let mut listeners = HashMap::with_capacity(tables.listeners.len());
        for row in &tables.listeners {
            let listener = check.listener(previous, row, &known);
            if listeners.insert(row.address, listener).is_some() {
                check.fail(format!("listener {}", row.address), "stands twice".into());
            }
        }
        let mut snis = HashMap::with_capacity(tables.snis.len());
        for row in &tables.snis {
            let sni = check.sni(previous, row, &known);
            if snis.insert(row.sni.clone(), sni).is_some() {
                check.fail(format!("sni {}", row.sni), "stands twice".into());
            }
        }
        if !check.violations.is_empty() {
            return Err(check.violations);
        }
        let vips = by_vip(&tables.names);
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
fn by_vip(names: &[Arc<NameRow>]) -> HashMap<IpAddr, Arc<NameRow>> {
    let mut vips = HashMap::with_capacity(names.len() * 2);
    for row in names {
        let addresses = row.v4.map(IpAddr::V4).into_iter().chain(row.v6.map(IpAddr::V6));
        for address in addresses {
            vips.entry(address).or_insert_with(|| row.clone());
        }
    }
    vips
}

struct Known<'a> {
    services: &'a HashMap<String, Arc<ServiceRow>>,
    permissions: &'a HashMap<String, Arc<PermissionRow>>,
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

    fn index<T>(&mut self, what: &str, rows: &[Arc<T>], key: impl Fn(&T) -> String) -> HashMap<String, Arc<T>> {
        let mut map = HashMap::with_capacity(rows.len());
        for row in rows {
            if map.insert(key(row), row.clone()).is_some() {
                self.fail(format!("{what} {}", key(row)), "stands twice".into());
            }
        }
        map
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

    fn listener(&mut self, previous: Option<&Snapshot>, row: &Arc<ListenerRow>, known: &Known<'_>) -> Arc<Listener> {
        let place = format!("listener {}", row.address);
        match &row.role {
            Role::Outbound { handler, .. } | Role::Gateway { handler, .. } => self.handler(&place, handler, known),
            Role::Inbound { permission, .. } => self.permission(&place, permission, known),
            Role::Zone => {}
        }
        if let Some(old) = previous.and_then(|p| p.listeners.get(&row.address)).filter(|old| old.row == *row) {
            return old.clone();
        }
        let hosts = match &row.role {
            Role::Outbound { handler, .. } | Role::Gateway { handler, .. } => self.hosts(&place, handler),
            _ => None,
        };
        Arc::new(Listener { row: row.clone(), hosts })
    }

    fn sni(&mut self, previous: Option<&Snapshot>, row: &Arc<SniRow>, known: &Known<'_>) -> Arc<Sni> {
        let place = format!("sni {}", row.sni);
        if row.sni.bytes().any(|b| b.is_ascii_uppercase()) {
            self.fail(place.clone(), "must be lower case".into());
        }
        let handler = match &row.target {
            SniTarget::Passthrough { service } => {
                self.service_exists(&place, service, known);
                None
            }
            SniTarget::Terminate { permission, handler, .. } => {
                self.permission(&place, permission, known);
                self.handler(&place, handler, known);
                Some(handler)
            }
        };
        if let Some(old) = previous.and_then(|p| p.snis.get(&row.sni)).filter(|old| old.row == *row) {
            return old.clone();
        }
        Arc::new(Sni { row: row.clone(), hosts: handler.and_then(|h| self.hosts(&place, h)) })
    }

    fn handler(&mut self, place: &str, handler: &Handler, known: &Known<'_>) {
        match handler {
            Handler::Tcp { backends, .. } => self.backends(place, backends, known),
            Handler::Http { hosts } => {
                for route in hosts.iter().flat_map(|h| &h.routes) {
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

    fn backends(&mut self, place: &str, backends: &[Backend], known: &Known<'_>) {
        for backend in backends {
            self.service_exists(place, &backend.service, known);
        }
    }

    fn service_exists(&mut self, place: &str, service: &str, known: &Known<'_>) {
        if !known.services.contains_key(service) {
            self.fail(place.into(), format!("refers to service {service}, which has no row"));
        }
    }

    fn permission(&mut self, place: &str, permission: &str, known: &Known<'_>) {
        if !known.permissions.contains_key(permission) {
            self.fail(place.into(), format!("refers to permission {permission}, which has no row"));
        }
    }

    fn hosts(&mut self, place: &str, handler: &Handler) -> Option<HostTable> {
        let Handler::Http { hosts } = handler else { return None };
        match HostTable::build(hosts) {
            Ok(table) => Some(table),
            Err(problems) => {
                self.violations.extend(problems.into_iter().map(|problem| Violation { row: place.into(), problem }));
                None
            }
        }
    }
}

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
