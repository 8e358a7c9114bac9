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

/// Every socket to be bound. `mode` none: nothing is intercepted, VIPs aren't served.
pub(crate) fn plan(tables: &Tables, mode: Option<Mode>) -> BTreeMap<SocketAddr, Wanted> {
    let mut sockets = BTreeMap::new();
    let own = Wanted { purpose: Purpose::Own, options: BindOptions::default() };
    let ranges: Vec<Range> = tables.proxy.dns.vip_ranges.iter().filter_map(|range| range.parse().ok()).collect();
    let is_routed = |ip| ranges.is_empty() || ranges.iter().any(|range| range.contains(ip));
    for row in &tables.listeners {
        let wanted = match &row.role {
            Role::Outbound { vip: true, .. } if mode != Some(Mode::Bind) => continue,
            // Of directAccessServices: only install's rules capture what is somebody's own address.
            Role::Outbound { vip: true, .. } if !is_routed(row.address.ip()) => continue,
            Role::Outbound { vip: true, .. } => vip(row.address.ip()),
            Role::Inbound { captured: true, .. } if mode == Some(Mode::Redirect) => continue,
            Role::Outbound { .. } | Role::Inbound { .. } | Role::Gateway { .. } | Role::Zone => own,
        };
        sockets.insert(row.address, wanted);
    }
    if matches!(mode, Some(Mode::Redirect | Mode::Tproxy)) {
        capture(tables, mode == Some(Mode::Tproxy), &mut sockets);
    }
    sockets
}

/// How many addresses of `directAccessServices` are dialled past this proxy: they are somebody's own, and only install's rules
/// capture such.
pub(crate) fn uncaptured(tables: &Tables, mode: Option<Mode>) -> usize {
    if mode.is_none_or(|mode| mode == Mode::Redirect) {
        return 0;
    }
    let ranges: Vec<Range> = tables.proxy.dns.vip_ranges.iter().filter_map(|range| range.parse().ok()).collect();
    let is_past = |row: &&Arc<ListenerRow>| {
        let is_vip = matches!(row.role, Role::Outbound { vip: true, .. });
        is_vip && !ranges.is_empty() && !ranges.iter().any(|range| range.contains(row.address.ip()))
    };
    tables.listeners.iter().filter(is_past).count()
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
    use super::{Purpose, plan, uncaptured};
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

    #[test]
    fn without_interception_vips_are_not_served() {
        assert_eq!(addresses(None), ["10.0.0.1:80", "127.0.0.1:9000"]);
    }
}
