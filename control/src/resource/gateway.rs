//! MeshGateway: reading and checking (spec/gateway.md §2.2, §2.5).

use super::common::{self, EMPTY};
use super::decode::{Cursor, Fields, Spot};
use super::{GatewayListener, GatewayProtocol, ListenerTls, MeshGateway, TlsMode};

const MAX_CERTIFICATES: usize = 2;
/// Of one gateway.
const MAX_LISTENERS: usize = 1000;

pub(super) fn decode(f: &mut Fields<'_>) -> MeshGateway {
    let selectors = common::selectors(f, "selectors", true);
    let tags = f.get("tags").map(|c| common::listener_tags(&c)).unwrap_or_default();
    let listeners = match f.get("conf") {
        Some(cursor) => cursor.fields().map(conf).unwrap_or_default(),
        None => {
            f.spot("conf").error(EMPTY);
            Vec::new()
        }
    };
    if listeners.iter().any(|l| l.cross_mesh) {
        for index in 1..selectors.len() {
            f.spot("selectors").item(index).error("there can be at most one selector");
        }
    }
    MeshGateway { selectors, tags, listeners }
}

fn conf(mut f: Fields<'_>) -> Vec<GatewayListener> {
    let items = f.items("listeners");
    if items.is_empty() {
        f.spot("listeners").error(EMPTY);
    }
    if items.len() > MAX_LISTENERS {
        f.spot("listeners").error(format!("has {} listeners, more than the limit of {MAX_LISTENERS}", items.len()));
        return Vec::new();
    }
    let read = |cursor| listener(&cursor).map(|l| (cursor.spot, l));
    let all: Vec<_> = items.into_iter().filter_map(read).collect();
    for (index, (spot, listener)) in all.iter().enumerate() {
        let others = || all.iter().enumerate().filter(move |(i, _)| *i != index).map(|(_, (_, other))| other);
        shared_port(spot, listener, &others().filter(|o| o.port == listener.port && o.port != 0).collect::<Vec<_>>());
    }
    f.done();
    all.into_iter().map(|(_, listener)| listener).collect()
}

/// Rules for a listener and the others on its port.
fn shared_port(spot: &Spot<'_>, listener: &GatewayListener, others: &[&GatewayListener]) {
    let host = |l: &GatewayListener| if l.hostname == "*" { String::new() } else { l.hostname.clone() };
    let is_tcp = |l: &GatewayListener| l.protocol == GatewayProtocol::Tcp;
    if others.iter().any(|o| o.protocol != listener.protocol) {
        spot.error("protocol conflicts with other listeners on this port");
    }
    if others.iter().any(|o| host(o) == host(listener)) {
        spot.error("multiple listeners for hostname on this port");
    } else if is_tcp(listener) && others.iter().any(|o| is_tcp(o)) {
        spot.warn("TCP has no host names: the routes of all TCP listeners on this port are pooled", "use one listener");
    }
    if others.iter().any(|o| o.cross_mesh != listener.cross_mesh) {
        spot.member("crossMesh").error("cannot be mixed with other listeners on this port");
    }
    if let Some(limit) = listener.connection_limit
        && others.iter().filter_map(|o| o.connection_limit).any(|other| other != limit)
    {
        spot.member("resources.connectionLimit").error("conflicting values for this port");
    }
}

fn listener(cursor: &Cursor<'_>) -> Option<GatewayListener> {
    use GatewayProtocol::{Http, Https, None as Unset, Tcp, Tls};
    let protocols = [("NONE", 0, Unset), ("TCP", 1, Tcp), ("TLS", 3, Tls), ("HTTP", 4, Http), ("HTTPS", 5, Https)];
    let mut f = cursor.fields()?;
    let hostname = f.text("hostname");
    common::hostname(&hostname, &f.spot("hostname"));
    let port = common::required_port(&mut f, "port");
    let written = f.get("protocol");
    let protocol = written.as_ref().and_then(|c| c.one_of(&protocols));
    if protocol == Some(Unset) || written.is_none() {
        f.spot("protocol").error(EMPTY);
    }
    let protocol = protocol.unwrap_or_default();
    let cross_mesh = f.flag("crossMesh");
    if cross_mesh && matches!(protocol, Https | Tls | Tcp) {
        f.spot("protocol").error("protocol is not supported with crossMesh");
    }
    let block = f.get("tls");
    let tls = block.as_ref().and_then(tls_block);
    tls_rules(&f.spot("tls"), protocol, cross_mesh, tls.as_ref());
    let tags = f.get("tags").map(|c| common::listener_tags(&c)).unwrap_or_default();
    let connection_limit = f.get("resources").and_then(|c| connection_limit(&c));
    f.done();
    Some(GatewayListener { hostname, port, protocol, tls, tags, cross_mesh, connection_limit })
}

fn connection_limit(cursor: &Cursor<'_>) -> Option<u32> {
    let mut f = cursor.fields()?;
    let range = 0..=i128::from(u32::MAX);
    let limit = f.get("connectionLimit").and_then(|c| c.in_range(range, "must be a number of connections"));
    f.done();
    limit.filter(|n| *n != 0)
}

fn tls_block(cursor: &Cursor<'_>) -> Option<ListenerTls> {
    let modes =
        [("NONE", 0, TlsMode::None), ("TERMINATE", 1, TlsMode::Terminate), ("PASSTHROUGH", 2, TlsMode::Passthrough)];
    let mut f = cursor.fields()?;
    let mode = f.get("mode").and_then(|c| c.one_of(&modes)).unwrap_or_default();
    let certificates = f.items("certificates").iter().filter_map(common::data_source).collect();
    let options = f.json("options").unwrap_or_default();
    f.done();
    Some(ListenerTls { mode, certificates, options })
}

fn tls_rules(spot: &Spot<'_>, protocol: GatewayProtocol, cross_mesh: bool, tls: Option<&ListenerTls>) {
    let wants_tls = matches!(protocol, GatewayProtocol::Https | GatewayProtocol::Tls);
    let Some(tls) = tls else {
        if wants_tls && !cross_mesh {
            spot.error_with(EMPTY, "tls: {mode: TERMINATE, certificates: [{secret: NAME}]}");
        }
        return;
    };
    if cross_mesh {
        if tls.mode != TlsMode::None || !tls.certificates.is_empty() {
            spot.error("must be empty with crossMesh");
        }
        return;
    }
    match tls.mode {
        TlsMode::None => spot.member("mode").error(EMPTY),
        TlsMode::Passthrough if protocol == GatewayProtocol::Https => {
            spot.member("mode").error("mode is not supported on HTTPS listeners");
        }
        TlsMode::Terminate if tls.certificates.is_empty() => {
            spot.member("certificates").error("cannot be empty in TLS termination mode");
        }
        TlsMode::Terminate if tls.certificates.len() > MAX_CERTIFICATES => {
            spot.member("certificates").error(format!("cannot have more than {MAX_CERTIFICATES} certificates"));
        }
        _ => {}
    }
    if matches!(protocol, GatewayProtocol::Http | GatewayProtocol::Tcp) {
        spot.warn("has no effect on HTTP and TCP listeners", "use protocol HTTPS or TLS");
    }
}
