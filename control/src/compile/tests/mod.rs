//! Compilation, asked as a table.

mod beyond;
mod dns;
mod gateways;
mod golden;
mod make;
mod patched;
mod services;
mod sidecars;
mod zones;

use super::{Compiled, ProxyKey, World, compile};
use snapshot::{Access, Address, Handler, ListenerRow, PermissionRow, Role, ServiceRow, SniRow, UpstreamTls};

fn sidecar(world: &World, name: &str) -> Compiled {
    checked(world, &ProxyKey::dataplane("default", name))
}

/// What is compiled can always be executed.
fn checked(world: &World, key: &ProxyKey) -> Compiled {
    let compiled = compile(world, key);
    let built = snapshot::Snapshot::build(compiled.tables.clone(), snapshot::Generation::default());
    let violations: Vec<String> = built.err().into_iter().flatten().map(|v| v.to_string()).collect();
    assert!(violations.is_empty(), "{key:?}: {violations:#?}");
    compiled
}

fn service<'a>(compiled: &'a Compiled, name: &str) -> &'a ServiceRow {
    compiled.tables.services.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no service {name}"))
}

fn listener<'a>(compiled: &'a Compiled, address: &str) -> &'a ListenerRow {
    let address = address.parse().unwrap();
    compiled.tables.listeners.iter().find(|l| l.address == address).unwrap_or_else(|| panic!("no listener {address}"))
}

fn sni<'a>(compiled: &'a Compiled, name: &str) -> Option<&'a SniRow> {
    compiled.tables.snis.iter().find(|s| s.sni == name).map(AsRef::as_ref)
}

fn row_of_permission<'a>(compiled: &'a Compiled, name: &str) -> &'a PermissionRow {
    compiled.tables.permissions.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no permission {name}"))
}

fn permission_of<'a>(compiled: &'a Compiled, address: &str) -> &'a Access {
    match &listener(compiled, address).role {
        Role::Inbound { permission: name, .. } => &row_of_permission(compiled, name).access,
        other => panic!("{other:?}"),
    }
}

/// `address:port weight/priority`
fn endpoints(row: &ServiceRow) -> Vec<String> {
    let text = |a: &Address| match a {
        Address::Ip(ip) => ip.to_string(),
        Address::Name(name) => name.clone(),
    };
    row.endpoints.iter().map(|e| format!("{}:{} {}/{}", text(&e.address), e.port, e.weight, e.priority)).collect()
}

fn peers(row: &ServiceRow) -> (&str, &[String]) {
    match &row.tls {
        UpstreamTls::Mesh { sni, peers, .. } => (sni, peers),
        other => panic!("{other:?}"),
    }
}

/// The service behind a listener that sends everything to one.
fn target(row: &ListenerRow) -> &str {
    let handler = match &row.role {
        Role::Outbound { handler, .. } | Role::Gateway { handler, .. } => handler,
        other => panic!("{other:?}"),
    };
    match handler {
        Handler::Tcp { backends, .. } => &backends[0].service,
        Handler::Http { hosts } => match &hosts[0].routes[0].action {
            snapshot::RouteAction::Forward(forward) => &forward.backends[0].service,
            other => panic!("{other:?}"),
        },
    }
}
