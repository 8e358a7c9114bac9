//! YAML in, one readable text out: `control/testdata/compile/<case>/{input.yaml,expected.txt}`.
//! `UPDATE_GOLDEN=1` rewrites what is expected. The first line of the input names the zone: `# zone: east`.

use super::*;
use crate::compile::Settings;
use crate::names::{self, MeshNames, NameSettings, NamesInput};
use crate::resource::{self, Resource};
use crate::vip::{self, Ranges, VipTable};
use snapshot::{GatewayTls, Match, PathMatch, RouteAction, SniTarget, TextMatch};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

#[test]
fn golden_cases_compile_to_what_is_expected() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/compile");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(cases).unwrap() {
        let dir = entry.unwrap().path();
        let input = std::fs::read_to_string(dir.join("input.yaml")).unwrap();
        let text = compile_text(&input);
        let expected = dir.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", dir.display()));
        }
        count += 1;
    }
    assert!(count >= 5);
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 accepts these:\n{}", wrong.join("\n"));
}

#[test]
fn golden_cases_do_not_depend_on_the_order_of_resources() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/compile");
    for entry in std::fs::read_dir(cases).unwrap() {
        let input = std::fs::read_to_string(entry.unwrap().path().join("input.yaml")).unwrap();
        let mut resources = resource::read(&input, "input.yaml").resources;
        let first = world(&input, resources.clone());
        for turn in 0..resources.len() {
            resources.rotate_left(1);
            resources.swap(0, turn);
            let other = world(&input, resources.clone());
            for key in first.proxies() {
                assert_eq!(checked(&first, &key), checked(&other, &key), "{key:?}");
            }
        }
    }
}

fn world(input: &str, resources: Vec<Resource>) -> World {
    let zone = input.lines().next().and_then(|l| l.strip_prefix("# zone:")).map_or("", str::trim).to_owned();
    let mut names = BTreeMap::new();
    let mut sorted: Vec<&Resource> = resources.iter().collect();
    sorted.sort_by(|a, b| (&a.meta.mesh, &a.meta.name).cmp(&(&b.meta.mesh, &b.meta.name)));
    let meshes: BTreeSet<&str> = sorted.iter().map(|r| r.meta.mesh.as_str()).filter(|m| !m.is_empty()).collect();
    for mesh in meshes {
        names.insert(mesh.to_owned(), names_of(mesh, &sorted, &zone));
    }
    let settings = Settings { domain: "mesh".into(), dns_ttl_s: 60, zone, has_ipv6: false, ..Settings::default() };
    World::new(resources.into_iter().map(Arc::new).collect(), settings, names)
}

pub(super) fn names_of(mesh: &str, resources: &[&Resource], zone: &str) -> MeshNames {
    let settings = NameSettings { own_zone: zone.to_owned(), ..NameSettings::default() };
    let view = names::view(&NamesInput { mesh, resources, settings: &settings });
    let (table, _) = vip::allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0);
    names::names_and_outbounds(&view, &table, &settings).0
}

fn compile_text(input: &str) -> String {
    let intake = resource::read(input, "input.yaml");
    assert!(!intake.has_errors(), "{:#?}", intake.problems);
    let world = world(input, intake.resources);
    let mut out = String::new();
    for problem in world.problems() {
        let _ = writeln!(out, "problem {problem}");
    }
    for key in world.proxies() {
        show(&checked(&world, &key), &mut out);
    }
    out
}

fn show(compiled: &Compiled, out: &mut String) {
    let proxy = &compiled.tables.proxy;
    let _ = writeln!(
        out,
        "# {:?} {}/{} zone={} services={} passthrough={}",
        proxy.kind,
        proxy.mesh,
        proxy.name,
        proxy.zone,
        proxy.services.join(","),
        proxy.passthrough
    );
    for row in &compiled.tables.names {
        let _ = writeln!(out, "name {} {} ({})", row.name, row.v4.map_or("-".into(), |ip| ip.to_string()), row.origin);
    }
    for row in &compiled.tables.listeners {
        let _ = writeln!(out, "listener {} {} ({})", row.address, role(&row.role), row.origin);
    }
    for row in &compiled.tables.services {
        let _ = writeln!(out, "service {} {:?} {} ({})", row.name, row.protocol, tls(&row.tls), row.origin);
        for (line, endpoint) in endpoints(row).iter().zip(row.endpoints.iter()) {
            let _ = writeln!(out, "  {line} {} ({})", endpoint.zone, endpoint.origin);
        }
        if !row.hint.is_empty() {
            let _ = writeln!(out, "  none: {}", row.hint);
        }
    }
    for row in &compiled.tables.permissions {
        let access = match &row.access {
            Access::Deny => "deny".to_owned(),
            Access::AnyOf(list) => {
                list.iter().map(|p| format!("[{}]", p.uris.join(" "))).collect::<Vec<_>>().join(" or ")
            }
        };
        let _ = writeln!(out, "permission {} {access} ({})", row.name, row.origin);
    }
    for row in &compiled.tables.snis {
        let target = match &row.target {
            SniTarget::Passthrough { service } => format!("pass {service}"),
            SniTarget::Terminate { mesh, permission, handler: to, .. } => {
                format!("terminate {mesh} permission={permission} {}", handler(to))
            }
        };
        let _ = writeln!(out, "sni {} {target} ({})", row.sni, row.origin);
    }
    for secret in &compiled.secrets {
        let _ = writeln!(out, "secret {}", secret.name);
    }
    for problem in &compiled.problems {
        let _ = writeln!(out, "problem {problem}");
    }
    out.push('\n');
}

fn role(role: &Role) -> String {
    match role {
        Role::Outbound { vip, handler: to } => format!("{} {}", if *vip { "vip" } else { "outbound" }, handler(to)),
        Role::Inbound { captured, service, protocol, app, tls, permission } => {
            format!("inbound {service} {protocol:?} app={app} tls={tls:?} permission={permission} captured={captured}")
        }
        Role::Gateway { handler: to, tls, .. } => {
            let tls = match tls {
                GatewayTls::None => "plain".to_owned(),
                GatewayTls::Mesh { mesh, client_meshes } => format!("mesh {mesh} clients={}", client_meshes.join(",")),
                GatewayTls::Terminate { secrets } => {
                    secrets.iter().map(|s| format!("{}={}", s.host, s.secret)).collect::<Vec<_>>().join(",")
                }
            };
            format!("gateway {tls} {}", handler(to))
        }
        Role::Zone => "zone".into(),
    }
}

fn handler(handler: &Handler) -> String {
    match handler {
        Handler::Tcp { backends, .. } => format!("tcp {}", weighted(backends)),
        Handler::Http { hosts } => {
            let routes = hosts.iter().flat_map(|h| h.routes.iter().map(move |r| (h, r)));
            let lines = routes.map(|(h, r)| format!("{}{} -> {}", h.host, matching(&r.matches), action(&r.action)));
            format!("http {}", lines.collect::<Vec<_>>().join("; "))
        }
    }
}

fn weighted(backends: &[snapshot::Backend]) -> String {
    backends.iter().map(|b| format!("{}*{}", b.service, b.weight)).collect::<Vec<_>>().join("+")
}

fn matching(matches: &Match) -> String {
    let mut text = match &matches.path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => format!("{path}/*"),
        PathMatch::Regex(path) => format!("~{path}"),
    };
    if let Some(method) = &matches.method {
        let _ = write!(text, " {method}");
    }
    for header in &matches.headers {
        let _ = write!(text, " {}{}", header.name, value(&header.value));
    }
    for query in &matches.queries {
        let _ = write!(text, " ?{}{}", query.name, value(&query.value));
    }
    text
}

fn value(value: &TextMatch) -> String {
    match value {
        TextMatch::Exact(text) => format!("={text}"),
        TextMatch::Prefix(text) => format!("={text}*"),
        TextMatch::Regex(text) => format!("~{text}"),
        TextMatch::Present => "!".into(),
        TextMatch::Absent => "-".into(),
    }
}

fn action(action: &RouteAction) -> String {
    match action {
        RouteAction::Forward(forward) => {
            let mut text = weighted(&forward.backends);
            if !forward.filters.is_empty() {
                let _ = write!(text, " {}", serde_json::to_string(&forward.filters).unwrap());
            }
            text
        }
        RouteAction::Redirect(redirect) => format!("redirect {}", serde_json::to_string(redirect).unwrap()),
        RouteAction::Respond { status, .. } => format!("respond {status}"),
    }
}

fn tls(tls: &UpstreamTls) -> String {
    match tls {
        UpstreamTls::None => "plain".into(),
        UpstreamTls::Mesh { identity_mesh, mesh, sni, peers } => {
            format!("mtls {identity_mesh}->{mesh} sni={sni} peers={}", peers.join(","))
        }
        UpstreamTls::External { client } => {
            let ca = if client.ca_pem.is_empty() { "unverified" } else { "verified" };
            format!("tls {ca} name={} secret={}", client.server_name, client.secret)
        }
    }
}
