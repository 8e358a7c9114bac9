//! The demo's resources, as a user would write them. Must not know how they are run.

use super::plan::{HOSTNAME, Role};
use std::net::Ipv4Addr;

pub(super) const GATEWAY_PORT: u16 = 8080;
/// Where applications listen behind their sidecars.
pub(super) const APP_PORT: u16 = 9080;
pub(super) const VAULT_APP_PORT: u16 = 9081;
pub(super) const QUOTES_PORT: u16 = 9090;
pub(super) const REDIS_PORT: u16 = 6379;

/// What is common to all zones.
pub(super) fn of_mesh(quotes: Ipv4Addr) -> String {
    let mut out = format!(
        "type: Mesh
name: default
mtls:
  enabledBackend: ca-1
  backends:
    - name: ca-1
      type: builtin
routing:
  zoneEgress: true
---
type: ExternalService
mesh: default
name: quotes
tags:
  kuma.io/service: quotes
  kuma.io/protocol: http
networking:
  address: {quotes}:{QUOTES_PORT}
"
    );
    out += VERSIONS;
    out += &redis_port();
    out += &edge();
    // Of several permissions for a destination the most specific alone holds: one has all its callers.
    for (to, from) in
        [("backend", &["web", "edge-gateway"][..]), ("redis", &["web"]), ("quotes", &["web"]), ("vault", &["auditor"])]
    {
        out += &format!("---\ntype: TrafficPermission\nmesh: default\nname: to-{to}\nsources:\n");
        for from in from {
            out += &format!("  - match: {{kuma.io/service: {from}}}\n");
        }
        out += &format!("destinations:\n  - match: {{kuma.io/service: {to}}}\n");
    }
    out
}

/// A name for each version of backend.
const VERSIONS: &str = r#"---
type: VirtualOutbound
mesh: default
name: versions
selectors:
  - match: {kuma.io/service: backend}
conf:
  host: "{{.v}}.{{.service}}.mesh"
  port: "{{.port}}"
  parameters:
    - name: service
      tagKey: kuma.io/service
    - name: port
      tagKey: port
    - name: v
      tagKey: version
"#;

fn redis_port() -> String {
    format!(
        r#"---
type: VirtualOutbound
mesh: default
name: redis
selectors:
  - match: {{kuma.io/service: redis}}
conf:
  host: "{{{{.service}}}}.mesh"
  port: "{REDIS_PORT}"
  parameters:
    - name: service
      tagKey: kuma.io/service
"#
    )
}

/// The builtin gateway's listener and route.
fn edge() -> String {
    format!(
        "---
type: MeshGateway
mesh: default
name: edge
selectors:
  - match: {{kuma.io/service: edge-gateway}}
conf:
  listeners:
    - port: {GATEWAY_PORT}
      protocol: HTTP
      hostname: {HOSTNAME}
      tags: {{port: http-{GATEWAY_PORT}}}
---
type: MeshGatewayRoute
mesh: default
name: edge-route
selectors:
  - match: {{kuma.io/service: edge-gateway, port: http-{GATEWAY_PORT}}}
conf:
  http:
    rules:
      - matches:
          - path: {{match: PREFIX, value: /}}
        backends:
          - weight: 1
            destination: {{kuma.io/service: backend}}
"
    )
}

/// A Dataplane up to its inbounds.
fn dataplane(name: &str, address: Ipv4Addr) -> String {
    format!("type: Dataplane\nmesh: default\nname: {name}\nnetworking:\n  address: {address}\n")
}

fn inbound(port: u16, app: (Ipv4Addr, u16), tags: &[(&str, &str)]) -> String {
    let tags: String = tags.iter().map(|(key, value)| format!("        {key}: {value}\n")).collect();
    format!("    - port: {port}\n      servicePort: {}\n      serviceAddress: {}\n      tags:\n{tags}", app.1, app.0)
}

pub(super) fn web(zone: &str, address: Ipv4Addr, app: Ipv4Addr) -> String {
    let tags = [("kuma.io/service", "web"), ("kuma.io/protocol", "http"), ("kuma.io/zone", zone)];
    let inbound = inbound(8080, (app, APP_PORT), &tags);
    let head = dataplane(&format!("{zone}-web"), address);
    format!(
        "{head}  inbound:\n{inbound}  transparentProxying:\n    redirectPortInbound: 15006\n    redirectPortOutbound: 15001\n"
    )
}

pub(super) fn backend(zone: &str, version: &str, address: Ipv4Addr, app: Ipv4Addr) -> String {
    let mut tags = vec![
        ("kuma.io/service", "backend"),
        ("kuma.io/protocol", "http"),
        ("kuma.io/zone", zone),
        ("version", version),
    ];
    if version == "v1" {
        tags.push(("port", "\"1800\""));
    }
    let head = dataplane(&format!("{zone}-backend-{version}"), address);
    format!("{head}  inbound:\n{}", inbound(8080, (app, APP_PORT), &tags))
}

pub(super) fn redis(zone: &str, address: Ipv4Addr, app: Ipv4Addr) -> String {
    let redis = [("kuma.io/service", "redis"), ("kuma.io/protocol", "tcp"), ("kuma.io/zone", zone)];
    let vault = [("kuma.io/service", "vault"), ("kuma.io/protocol", "http"), ("kuma.io/zone", zone)];
    let head = dataplane(&format!("{zone}-redis"), address);
    let (redis, vault) = (inbound(6379, (app, APP_PORT), &redis), inbound(8081, (app, VAULT_APP_PORT), &vault));
    format!("{head}  inbound:\n{redis}{vault}")
}

pub(super) fn gateway(zone: &str, address: Ipv4Addr) -> String {
    let head = dataplane(&format!("{zone}-gateway"), address);
    format!(
        "{head}  gateway:\n    type: BUILTIN\n    tags:\n      kuma.io/service: edge-gateway\n      kuma.io/zone: {zone}\n"
    )
}

pub(super) fn zone_proxy(role: Role, zone: &str, name: &str, address: Ipv4Addr) -> String {
    match role {
        Role::Ingress => format!(
            "type: ZoneIngress\nname: {name}\nzone: {zone}\nnetworking:\n  address: {address}\n  port: 10001\n  advertisedAddress: {address}\n  advertisedPort: 10001\n"
        ),
        _ => {
            format!("type: ZoneEgress\nname: {name}\nzone: {zone}\nnetworking:\n  address: {address}\n  port: 10002\n")
        }
    }
}
