//! Dataplane: reading and checking (spec/naming.md §2).

use super::common::{self, PORT_MESSAGE, SERVICE};
use super::decode::{Cursor, Fields, Spot};
use super::name;
use super::{
    Admin, Dataplane, Gateway, GatewayType, Health, Inbound, InboundState, Networking, Outbound, ServiceProbe, Tags,
    TransparentProxying,
};
use std::net::IpAddr;

const DIFFER: &str = "serviceAddress and servicePort has to differ from address and port";

const INSTEAD: &str =
    "the proxy serves its own /metrics and /ready on the admin port; applications are probed by serviceProbe";

pub(super) fn decode(f: &mut Fields<'_>) -> Dataplane {
    let mut dp = Dataplane::default();
    // The documentation shows inbound and outbound beside networking, where Kuma drops them.
    let misplaced_in = misplaced(f, "inbound");
    let misplaced_out = misplaced(f, "outbound");
    match f.get("networking") {
        Some(cursor) => {
            if let Some(mut n) = cursor.fields() {
                dp.networking = networking(&mut n, misplaced_in, misplaced_out, f.has("probes"));
                n.done();
            }
        }
        None => f.spot("networking").error("must be defined"),
    }
    for name in ["metrics", "probes"] {
        if let Some(cursor) = f.get(name) {
            cursor.spot.warn("is kept as written and has no effect here", INSTEAD);
            if name == "probes" {
                probes(&cursor);
            } else if cursor.node.get("type").and_then(|t| t.as_text()).is_some_and(|t| t != "prometheus") {
                cursor.spot.member("type").error(super::mesh_backends::UNKNOWN_METRICS);
            }
            dp.other.insert(name.to_owned(), cursor.node.to_json());
        }
    }
    dp
}

fn misplaced<'a>(f: &mut Fields<'a>, name: &'static str) -> Option<Cursor<'a>> {
    let mut cursor = f.get(name)?;
    cursor.spot.warn(
        format!("{name} stands beside networking; it is read as networking.{name}"),
        format!("indent it by two spaces, so that it stands under networking as networking.{name}"),
    );
    cursor.spot.path = format!("networking.{name}");
    Some(cursor)
}

fn networking<'a>(
    n: &mut Fields<'a>,
    misplaced_in: Option<Cursor<'a>>,
    misplaced_out: Option<Cursor<'a>>,
    has_probes: bool,
) -> Networking {
    let mut net = Networking { address: n.text("address"), ..Networking::default() };
    if net.address.is_empty() {
        n.spot("address").error("address can't be empty");
    } else {
        common::address(&net.address, &n.spot("address"));
    }
    net.advertised_address = n.text("advertisedAddress");
    if !net.advertised_address.is_empty() {
        common::address(&net.advertised_address, &n.spot("advertisedAddress"));
    }
    let inbound = n.get("inbound").or(misplaced_in).map(|c| c.items()).unwrap_or_default();
    let outbound = n.get("outbound").or(misplaced_out).map(|c| c.items()).unwrap_or_default();
    net.gateway = n.get("gateway").and_then(|c| gateway(&c));
    exclusions(n, &net, (!inbound.is_empty(), !outbound.is_empty(), has_probes));
    net.inbound = inbound.iter().filter_map(|c| self::inbound(c, &net.address)).collect();
    net.outbound = outbound.iter().filter_map(self::outbound).collect();
    net.transparent_proxying = n.get("transparentProxying").and_then(|c| transparent(&c));
    net.admin = n.get("admin").and_then(|c| admin(&c));
    if let Some(admin) = &net.admin {
        admin_overlap(n, admin, &net);
    }
    net
}

/// What a gateway, of one type or the other, can't have.
fn exclusions(n: &Fields<'_>, net: &Networking, (inbound, outbound, probes): (bool, bool, bool)) {
    let builtin = net.gateway.as_ref().map(|g| g.kind == GatewayType::Builtin);
    match builtin {
        None if !inbound && !n.has("gateway") => {
            n.spot.error("has to contain at least one inbound interface or gateway");
        }
        None => {}
        Some(false) if inbound => {
            n.spot("inbound").error("inbound cannot be defined for delegated gateways");
        }
        Some(false) => {}
        Some(true) => {
            for (there, name) in [(inbound, "inbound"), (outbound, "outbound"), (probes, "probes")] {
                if there {
                    n.spot(name).error(format!("{name} cannot be defined for builtin gateways"));
                }
            }
        }
    }
}

fn gateway(cursor: &Cursor<'_>) -> Option<Gateway> {
    let mut f = cursor.fields()?;
    let types = [("DELEGATED", 0, GatewayType::Delegated), ("BUILTIN", 1, GatewayType::Builtin)];
    let kind = f.get("type").and_then(|c| c.one_of(&types)).unwrap_or_default();
    let tags = f.get("tags").map(|c| common::own_tags(&c)).unwrap_or_default();
    let spot = f.spot("tags");
    if !tags.contains_key(SERVICE) {
        spot.error(common::missing_tag(SERVICE));
    }
    if let Some(protocol) = tags.get(common::PROTOCOL).filter(|p| *p != "tcp") {
        let message = format!("other values than tcp are not allowed, provided value \"{protocol}\"");
        spot.key(common::PROTOCOL).error(message);
    }
    f.done();
    Some(Gateway { kind, tags })
}

fn inbound(cursor: &Cursor<'_>, networking_address: &str) -> Option<Inbound> {
    let mut f = cursor.fields()?;
    let states = [
        ("Ready", 0, InboundState::Ready),
        ("NotReady", 1, InboundState::NotReady),
        ("Ignored", 2, InboundState::Ignored),
    ];
    let mut inbound = Inbound {
        port: common::required_port(&mut f, "port"),
        service_port: common::optional_port(&mut f, "servicePort"),
        service_address: common::ip(&mut f, "serviceAddress"),
        address: common::ip(&mut f, "address"),
        tags: f.get("tags").map(|c| common::own_tags(&c)).unwrap_or_default(),
        health: f.get("health").and_then(|c| health(&c)),
        service_probe: f.get("serviceProbe").and_then(|c| service_probe(&c)),
        state: f.get("state").and_then(|c| c.one_of(&states)).unwrap_or_default(),
        name: f.text("name"),
    };
    own_protocol(&mut f, &mut inbound.tags);
    own_address(&f, &inbound, networking_address);
    if !inbound.tags.contains_key(SERVICE) {
        f.spot("tags").key(SERVICE).error("tag has to exist");
    }
    f.done();
    Some(inbound)
}

/// Kuma 3 writes the protocol beside the tags; the tag is what the mesh goes by.
fn own_protocol(f: &mut Fields<'_>, tags: &mut Tags) {
    let Some(cursor) = f.get("protocol") else { return };
    let Some(protocol) = cursor.text().filter(|text| !text.is_empty()) else { return };
    common::protocol(&protocol, &cursor.spot);
    tags.entry(common::PROTOCOL.to_owned()).or_insert(protocol);
}

/// The proxy and the app can't both have the same address and port.
fn own_address(f: &Fields<'_>, inbound: &Inbound, networking_address: &str) {
    let Some(service_address) = inbound.service_address else { return };
    let same_port = inbound.service_port.is_none_or(|p| p == inbound.port);
    let as_networking = networking_address.parse::<IpAddr>().is_ok_and(|a| a == service_address);
    let as_inbound = inbound.address.is_some_and(|a| a == service_address);
    for same_address in [as_networking, as_inbound] {
        if same_port && same_address {
            f.spot("serviceAddress").error(DIFFER);
        }
    }
}

fn health(cursor: &Cursor<'_>) -> Option<Health> {
    let mut f = cursor.fields()?;
    let ready = f.flag("ready");
    f.done();
    Some(Health { ready })
}

fn service_probe(cursor: &Cursor<'_>) -> Option<ServiceProbe> {
    let mut f = cursor.fields()?;
    let probe = ServiceProbe {
        interval: duration(&mut f, "interval"),
        timeout: duration(&mut f, "timeout"),
        unhealthy_threshold: threshold(&mut f, "unhealthyThreshold"),
        healthy_threshold: threshold(&mut f, "healthyThreshold"),
        tcp: f.json("tcp").unwrap_or_default(),
    };
    f.done();
    Some(probe)
}

fn duration(f: &mut Fields<'_>, name: &'static str) -> Option<String> {
    let cursor = f.get(name)?;
    let text = cursor.text()?;
    match go_duration(&text) {
        Some(seconds) if seconds > 0.0 => {}
        Some(_) => cursor.spot.error("must have a positive value"),
        None => cursor.spot.error_with("must have a valid value", "a duration such as 500ms, 10s or 1m30s"),
    }
    Some(text)
}

fn threshold(f: &mut Fields<'_>, name: &'static str) -> Option<u32> {
    f.get(name)?.in_range(1..=i128::from(u32::MAX), "must have a positive value")
}

/// `1m30s`, `500ms`, `-2h`: seconds, if it is a duration.
pub(super) fn go_duration(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        parts += 1;
        rest = tail;
    }
    (parts > 0).then_some(sign * total)
}

fn outbound(cursor: &Cursor<'_>) -> Option<Outbound> {
    let mut f = cursor.fields()?;
    let port = common::required_port(&mut f, "port");
    let address = common::ip(&mut f, "address");
    let tags = f.get("tags").map(|c| common::own_tags(&c)).unwrap_or_default();
    let reference = f.get("backendRef");
    if f.get("service").is_some() {
        f.spot("service").warn("has no effect since Kuma 2.4", format!("write it as a tag: tags: {{{SERVICE}: NAME}}"));
    }
    outbound_target(&f, &tags, reference.as_ref());
    if let Some(reference) = &reference {
        backend_ref(reference);
    }
    f.done();
    Some(Outbound { address, port, tags, backend_ref: reference.map(|c| c.node.to_json()) })
}

fn outbound_target(f: &Fields<'_>, tags: &Tags, reference: Option<&Cursor<'_>>) {
    if reference.is_none() && !tags.contains_key(SERVICE) {
        f.spot("tags").error(common::missing_tag(SERVICE));
    }
    if reference.is_some() && !tags.is_empty() {
        f.spot.error("both backendRef and tags/service cannot be defined");
    }
}

const KINDS: [&str; 3] = ["MeshExternalService", "MeshMultiZoneService", "MeshService"];

fn backend_kind(spot: &Spot<'_>, kind: &str) {
    if !KINDS.contains(&kind) {
        spot.error(format!("invalid value. Available values are: {}", KINDS.join(",")));
    }
}

fn backend_ref(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    let kind = f.text("kind");
    backend_kind(&f.spot("kind"), &kind);
    let named = !f.text("name").is_empty();
    let labelled = f.get("labels").is_some_and(|c| !c.tags().is_empty());
    if !named && !labelled {
        f.spot.error("either 'name' or 'labels' should be specified");
    }
    let port = f.get("port");
    if kind != "MeshExternalService" {
        match port {
            Some(cursor) => drop(common::port(&cursor)),
            None => f.spot("port").error(PORT_MESSAGE),
        }
    }
    f.done();
}

fn transparent(cursor: &Cursor<'_>) -> Option<TransparentProxying> {
    let mut f = cursor.fields()?;
    let families =
        [("UnSpecified", 0, "UnSpecified"), ("DualStack", 1, "DualStack"), ("IPv4", 2, "IPv4"), ("IPv6", 3, "IPv6")];
    let tp = TransparentProxying {
        redirect_port_inbound: common::optional_port(&mut f, "redirectPortInbound").unwrap_or_default(),
        redirect_port_outbound: common::optional_port(&mut f, "redirectPortOutbound").unwrap_or_default(),
        direct_access_services: f.texts("directAccessServices"),
        reachable_services: f.texts("reachableServices"),
        reachable_backends: f.get("reachableBackends").map(|c| {
            reachable_backends(&c);
            c.node.to_json()
        }),
        ip_family_mode: f.get("ipFamilyMode").and_then(|c| c.one_of(&families)).unwrap_or_default().to_owned(),
    };
    if tp.ip_family_mode == "IPv6" {
        f.spot("ipFamilyMode").error("IPv6 is reserved and has no meaning yet: use DualStack or IPv4");
    }
    if f.get("redirectPortInboundV6").is_some() {
        f.spot("redirectPortInboundV6")
            .warn("has no effect since Kuma 2.9", "remove it; redirectPortInbound serves both");
    }
    f.done();
    Some(tp)
}

fn reachable_backends(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    for item in f.items("refs") {
        let Some(mut r) = item.fields() else { continue };
        let kind = r.text("kind");
        backend_kind(&r.spot("kind"), &kind);
        let (name, namespace) = (r.text("name"), r.text("namespace"));
        if !name.is_empty() {
            name::check_shape(&name, &r.spot("name"));
        }
        let labelled = r.get("labels").is_some_and(|c| !c.tags().is_empty());
        if name.is_empty() && namespace.is_empty() && !labelled {
            r.spot.error("name or labels are required");
        }
        if name.is_empty() && !namespace.is_empty() {
            r.spot("name").error("name is required, when namespace is defined");
        }
        if labelled && (!name.is_empty() || !namespace.is_empty()) {
            r.spot("labels").error("labels cannot be defined when name is specified");
        }
        if let Some(cursor) = r.get("port") {
            common::port(&cursor);
        }
        r.done();
    }
    f.done();
}

pub(super) fn admin(cursor: &Cursor<'_>) -> Option<Admin> {
    let mut f = cursor.fields()?;
    let port = common::optional_port(&mut f, "port").unwrap_or_default();
    f.done();
    Some(Admin { port })
}

fn admin_overlap(n: &Fields<'_>, admin: &Admin, net: &Networking) {
    let loopback = |own: Option<IpAddr>, default: &str| {
        own.or_else(|| default.parse().ok()).is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
    };
    let spot = n.spot("admin").member("port");
    if admin.port != 0 && net.inbound.iter().any(|i| i.port == admin.port && loopback(i.address, &net.address)) {
        spot.error("must differ from inbound");
    }
    if admin.port != 0 && net.outbound.iter().any(|o| o.port == admin.port && loopback(o.address, "127.0.0.1")) {
        spot.error("must differ from outbound");
    }
}

fn probes(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    common::required_port(&mut f, "port");
    for item in f.items("endpoints") {
        let Some(mut e) = item.fields() else { continue };
        common::required_port(&mut e, "inboundPort");
        for name in ["inboundPath", "path"] {
            if !e.text(name).starts_with('/') {
                e.spot(name).error("should be a valid URL Path");
            }
        }
        e.done();
    }
    f.done();
}
