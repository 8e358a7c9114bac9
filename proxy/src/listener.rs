//! Which sockets a snapshot needs: a pure function of its rows and of how this machine intercepts.

use crate::interception::Range;
use crate::socket::{BindOptions, Mode};
use snapshot::{GatewayTls, ListenerRow, Role, Tables};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// How a connection that a socket accepts finds its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The socket's own address is the row's.
    Own,
    /// The original destination is, of traffic that leaves the workload.
    CaptureOutbound,
    /// The original destination is, of traffic that comes in.
    CaptureInbound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub purpose: Purpose,
    pub options: BindOptions,
}

/// What holds for all rows of a proxy on this machine.
struct Place {
    /// None: nothing is intercepted, VIPs aren't served.
    mode: Option<Mode>,
    ranges: Vec<Range>,
}

impl Place {
    fn new(tables: &Tables, mode: Option<Mode>) -> Self {
        Self { mode, ranges: tables.proxy.dns.vip_ranges.iter().filter_map(|range| range.parse().ok()).collect() }
    }

    fn is_routed(&self, ip: IpAddr) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(ip))
    }

    /// The socket that a row needs.
    fn socket(&self, row: &ListenerRow) -> Option<Wanted> {
        match &row.role {
            Role::Outbound { vip: true, .. } => {
                // Of directAccessServices: only install's rules capture what is somebody's own address.
                let is_bound = self.mode == Some(Mode::Bind) && self.is_routed(row.address.ip());
                is_bound.then(|| vip(row.address.ip()))
            }
            Role::Inbound { captured: true, .. } if self.mode == Some(Mode::Redirect) => None,
            Role::Outbound { .. } | Role::Inbound { .. } | Role::Gateway { .. } | Role::Zone => {
                Some(Wanted { purpose: Purpose::Own, options: BindOptions::default() })
            }
        }
    }

    /// Whether a row is an address of `directAccessServices` that is dialled past this proxy: it is somebody's own, and only
    /// install's rules capture such.
    fn is_past(&self, row: &ListenerRow) -> bool {
        let is_vip = matches!(row.role, Role::Outbound { vip: true, .. });
        is_vip && matches!(self.mode, Some(Mode::Bind | Mode::Tproxy)) && !self.is_routed(row.address.ip())
    }
}

/// How sockets change.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    /// None: no socket any more.
    pub sockets: Vec<(SocketAddr, Option<Wanted>)>,
    /// Addresses that are dialled past this proxy.
    pub uncaptured: usize,
}

/// From what was planned for `old` with that many addresses past the proxy to what `new` needs, looking at what changed
/// alone. None where that doesn't do: everything is to be planned.
pub(crate) fn change(old: &Tables, new: &Tables, mode: Option<Mode>, mut uncaptured: usize) -> Option<Change> {
    if old.proxy != new.proxy {
        return None;
    }
    let place = Place::new(new, mode);
    let mut sockets = Vec::new();
    for (old, new) in snapshot::changed(&old.listeners, &new.listeners, |a, b| a.address.cmp(&b.address)) {
        uncaptured -= usize::from(old.is_some_and(|row| place.is_past(row)));
        uncaptured += usize::from(new.is_some_and(|row| place.is_past(row)));
        let (had, wanted) = (old.and_then(|row| place.socket(row)), new.and_then(|row| place.socket(row)));
        if had != wanted {
            sockets.extend(old.or(new).map(|row| (row.address, wanted)));
        }
    }
    Some(Change { sockets, uncaptured })
}

/// Every socket to be bound.
pub(crate) fn plan(tables: &Tables, mode: Option<Mode>) -> BTreeMap<SocketAddr, Wanted> {
    let place = Place::new(tables, mode);
    let needed = |row: &Arc<ListenerRow>| Some((row.address, place.socket(row)?));
    let mut sockets: BTreeMap<SocketAddr, Wanted> = tables.listeners.iter().filter_map(needed).collect();
    if matches!(mode, Some(Mode::Redirect | Mode::Tproxy)) {
        capture(tables, mode == Some(Mode::Tproxy), &mut sockets);
    }
    sockets
}

/// How many addresses are dialled past this proxy.
pub(crate) fn uncaptured(tables: &Tables, mode: Option<Mode>) -> usize {
    let place = Place::new(tables, mode);
    tables.listeners.iter().filter(|row| place.is_past(row)).count()
}

fn vip(address: IpAddr) -> Wanted {
    // Loopback addresses are this machine's already: no privilege is needed.
    let transparent = !address.is_loopback();
    Wanted { purpose: Purpose::Own, options: BindOptions { transparent, ..BindOptions::default() } }
}

/// The wildcard sockets of `redirect` and `tproxy`, for the ports that the Dataplane asks for.
fn capture(tables: &Tables, transparent: bool, sockets: &mut BTreeMap<SocketAddr, Wanted>) {
    let i = &tables.proxy.interception;
    // Only install's rules send what comes in to a port of its own.
    let inbound_port = if transparent { 0 } else { i.inbound_port };
    let ports = [(i.outbound_port, Purpose::CaptureOutbound), (inbound_port, Purpose::CaptureInbound)];
    for (port, purpose) in ports.into_iter().filter(|(port, _)| *port != 0) {
        let wanted = Wanted { purpose, options: BindOptions { transparent, ..BindOptions::default() } };
        sockets.insert(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), wanted);
        if !i.ipv4_only {
            sockets.insert(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), wanted);
        }
    }
}

/// IPv6 VIPs lead nowhere on a machine without IPv6: their names answer AAAA with NODATA.
pub(crate) fn without_ipv6(tables: Arc<Tables>) -> Arc<Tables> {
    let mut tables = Arc::unwrap_or_clone(tables);
    let is_v6_vip = |row: &ListenerRow| row.address.is_ipv6() && matches!(row.role, Role::Outbound { vip: true, .. });
    tables.listeners.retain(|row| !is_v6_vip(row));
    for row in tables.names.iter_mut().filter(|row| row.v6.is_some()) {
        Arc::make_mut(row).v6 = None;
    }
    tables.proxy.interception.ipv4_only = true;
    Arc::new(tables)
}

/// Meshes whose identity the listeners and services of these tables need.
pub(crate) fn meshes_needed(tables: &Tables) -> Vec<&str> {
    let mut meshes: Vec<&str> = Vec::new();
    for row in &tables.listeners {
        match &row.role {
            Role::Inbound { tls, .. } if *tls != snapshot::InboundTls::Off => meshes.push(&tables.proxy.mesh),
            Role::Gateway { tls: GatewayTls::Mesh { mesh, .. }, .. } => meshes.push(mesh),
            _ => {}
        }
    }
    for row in &tables.snis {
        if let snapshot::SniTarget::Terminate { mesh, .. } = &row.target {
            meshes.push(mesh);
        }
    }
    for row in &tables.services {
        if let snapshot::UpstreamTls::Mesh { identity_mesh, .. } = &row.tls {
            meshes.push(identity_mesh);
        }
    }
    meshes.sort_unstable();
    meshes.dedup();
    meshes
}

#[cfg(test)]
mod tests {
    use super::{Purpose, change, plan, uncaptured};
    use crate::socket::Mode;
    use snapshot::{Handler, InboundTls, Interception, ListenerRow, Origin, Protocol, ProxyRow, Role, Tables};
    use std::sync::Arc;

    fn tables() -> Tables {
        let row = |address: &str, role| {
            Arc::new(ListenerRow { address: address.parse().unwrap(), role, origin: Origin::default() })
        };
        let handler = || Handler::Tcp { backends: vec![], idle_timeout_ms: 0 };
        let inbound = Role::Inbound {
            captured: true,
            service: "web".into(),
            protocol: Protocol::Tcp,
            app: "10.0.0.1:80".parse().unwrap(),
            tls: InboundTls::Off,
            permission: "p".into(),
        };
        Tables {
            proxy: ProxyRow {
                interception: Interception { outbound_port: 15001, inbound_port: 15006, ipv4_only: false },
                ..ProxyRow::default()
            },
            listeners: vec![
                row("10.0.0.1:80", inbound),
                row("127.0.0.1:9000", Role::Outbound { vip: false, handler: handler() }),
                row("240.0.0.1:80", Role::Outbound { vip: true, handler: handler() }),
            ],
            ..Tables::default()
        }
    }

    fn addresses(mode: Option<Mode>) -> Vec<String> {
        plan(&tables(), mode).keys().map(ToString::to_string).collect()
    }

    #[test]
    fn redirect_binds_two_ports_a_family_and_no_captured_address() {
        let expected = ["0.0.0.0:15001", "0.0.0.0:15006", "127.0.0.1:9000", "[::]:15001", "[::]:15006"];
        assert_eq!(addresses(Some(Mode::Redirect)), expected);
    }

    #[test]
    fn tproxy_binds_one_port_a_family_and_the_inbound_itself() {
        let expected = ["0.0.0.0:15001", "10.0.0.1:80", "127.0.0.1:9000", "[::]:15001"];
        assert_eq!(addresses(Some(Mode::Tproxy)), expected);
    }

    #[test]
    fn bind_mode_binds_every_vip_transparently_and_the_inbound_itself() {
        let plan = plan(&tables(), Some(Mode::Bind));
        assert_eq!(plan.len(), 3);
        let vip = plan.get(&"240.0.0.1:80".parse().unwrap()).unwrap();
        assert!(vip.options.transparent && vip.purpose == Purpose::Own);
    }

    #[test]
    fn bind_mode_leaves_addresses_beyond_the_virtual_ranges() {
        let mut tables = tables();
        tables.proxy.dns.vip_ranges = vec!["240.0.0.0/4".into()];
        let direct = Role::Outbound { vip: true, handler: Handler::Tcp { backends: vec![], idle_timeout_ms: 0 } };
        let address = "10.0.0.9:80".parse().unwrap();
        tables.listeners.push(Arc::new(ListenerRow { address, role: direct, origin: Origin::default() }));
        let plan = plan(&tables, Some(Mode::Bind));
        assert!(plan.contains_key(&"240.0.0.1:80".parse().unwrap()) && !plan.contains_key(&address));
        let past = [Mode::Bind, Mode::Tproxy, Mode::Redirect].map(|mode| uncaptured(&tables, Some(mode)));
        assert_eq!(past, [1, 1, 0], "and says so");
    }

    /// Rows by the bits of a number, some with a purpose of their own.
    fn some(bits: u32) -> Tables {
        let mut tables = tables();
        let inbound = tables.listeners.remove(0);
        tables.proxy.dns.vip_ranges = vec!["240.0.0.0/4".into()];
        tables.listeners.clear();
        for (n, address) in ["10.0.0.9:80", "127.0.0.1:9000", "240.0.0.1:80", "240.0.0.2:80"].iter().enumerate() {
            let handler = Handler::Tcp { backends: vec![], idle_timeout_ms: u64::from(bits >> 8) };
            let role = Role::Outbound { vip: bits & (16 << n) != 0, handler };
            let (address, origin) = (address.parse().unwrap(), Origin::default());
            if bits & (1 << n) != 0 {
                tables.listeners.push(Arc::new(ListenerRow { address, role, origin }));
            }
        }
        if bits & 256 != 0 {
            tables.listeners.push(inbound);
        }
        tables.listeners.sort_by_key(|row| row.address);
        tables
    }

    #[test]
    fn planning_what_changed_gives_what_planning_everything_gives() {
        for mode in [None, Some(Mode::Bind), Some(Mode::Tproxy), Some(Mode::Redirect)] {
            for (old, new) in (0..512).flat_map(|a| [1, 7, 30, 99, 200, 511].map(|b| (some(a), some(a ^ b)))) {
                let mut planned = plan(&old, mode);
                let change = change(&old, &new, mode, uncaptured(&old, mode)).unwrap();
                for (address, wanted) in change.sockets {
                    match wanted {
                        Some(wanted) => drop(planned.insert(address, wanted)),
                        None => assert!(planned.remove(&address).is_some()),
                    }
                }
                assert_eq!((planned, change.uncaptured), (plan(&new, mode), uncaptured(&new, mode)));
            }
        }
        let mut other = some(3);
        other.proxy.dns.vip_ranges.clear();
        assert_eq!(change(&some(3), &other, Some(Mode::Bind), 0), None);
    }

    #[test]
    fn without_interception_vips_are_not_served() {
        assert_eq!(addresses(None), ["10.0.0.1:80", "127.0.0.1:9000"]);
    }
}
