//! The table of kinds: how each is called in REST paths and on the command line, and where it lives.

/// Whether resources of a kind belong to a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Global,
    Mesh,
}

/// Where the spec of a kind stands in universal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Beside type, mesh and name.
    Flat,
    /// Under `spec`.
    Spec,
}

/// What becomes of a kind here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Decoded, checked and obeyed.
    Typed,
    /// Stored and given back, without effect.
    Stored,
    /// Written by the control plane only.
    ReadOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    pub kind: &'static str,
    /// In REST paths: `/meshes/{mesh}/{path}/{name}`.
    pub path: &'static str,
    /// On the command line.
    pub singular: &'static str,
    pub plural: &'static str,
    /// Other names that are understood, in paths and on the command line.
    pub aliases: &'static [&'static str],
    pub scope: Scope,
    pub shape: Shape,
    pub support: Support,
}

impl KindInfo {
    pub fn is_mesh_scoped(&self) -> bool {
        self.scope == Mesh
    }
}

use Scope::{Global, Mesh};
use Shape::{Flat, Spec};
use Support::{ReadOnly, Stored, Typed};

type Names = (&'static str, &'static str, &'static str, &'static str);

const fn row(names: Names, scope: Scope, shape: Shape, support: Support) -> KindInfo {
    let (kind, path, singular, plural) = names;
    KindInfo { kind, path, singular, plural, aliases: &[], scope, shape, support }
}

const fn alias(mut info: KindInfo, aliases: &'static [&'static str]) -> KindInfo {
    info.aliases = aliases;
    info
}

/// Meshes first, then what a mesh holds: the order in which resources are best applied.
pub static KINDS: &[KindInfo] = &[
    row(("Mesh", "meshes", "mesh", "meshes"), Global, Flat, Typed),
    alias(
        row(("GlobalSecret", "global-secrets", "global-secret", "global-secrets"), Global, Flat, Typed),
        &["globalsecret", "globalsecrets"],
    ),
    row(("Secret", "secrets", "secret", "secrets"), Mesh, Flat, Typed),
    row(("Zone", "zones", "zone", "zones"), Global, Flat, Typed),
    alias(
        row(("ZoneIngress", "zone-ingresses", "zone-ingress", "zone-ingresses"), Global, Flat, Typed),
        &["zoneingress", "zoneingresses"],
    ),
    alias(
        row(("ZoneEgress", "zoneegresses", "zoneegress", "zoneegresses"), Global, Flat, Typed),
        &["zone-egress", "zone-egresses"],
    ),
    row(("Dataplane", "dataplanes", "dataplane", "dataplanes"), Mesh, Flat, Typed),
    alias(
        row(("ExternalService", "external-services", "external-service", "external-services"), Mesh, Flat, Typed),
        &["externalservice", "externalservices"],
    ),
    alias(
        row(("VirtualOutbound", "virtual-outbounds", "virtual-outbound", "virtual-outbounds"), Mesh, Flat, Typed),
        &["virtualoutbound", "virtualoutbounds"],
    ),
    alias(
        row(("MeshGateway", "meshgateways", "meshgateway", "meshgateways"), Mesh, Flat, Typed),
        &["mesh-gateway", "mesh-gateways"],
    ),
    alias(
        row(("MeshGatewayRoute", "meshgatewayroutes", "meshgatewayroute", "meshgatewayroutes"), Mesh, Flat, Typed),
        &["mesh-gateway-route", "mesh-gateway-routes"],
    ),
    alias(
        row(
            ("TrafficPermission", "traffic-permissions", "traffic-permission", "traffic-permissions"),
            Mesh,
            Flat,
            Typed,
        ),
        &["trafficpermission", "trafficpermissions"],
    ),
    alias(
        row(("TrafficRoute", "traffic-routes", "traffic-route", "traffic-routes"), Mesh, Flat, Stored),
        &["trafficroute", "trafficroutes"],
    ),
    alias(
        row(("TrafficLog", "traffic-logs", "traffic-log", "traffic-logs"), Mesh, Flat, Stored),
        &["trafficlog", "trafficlogs"],
    ),
    alias(
        row(("TrafficTrace", "traffic-traces", "traffic-trace", "traffic-traces"), Mesh, Flat, Stored),
        &["traffictrace", "traffictraces"],
    ),
    alias(row(("HealthCheck", "health-checks", "healthcheck", "healthchecks"), Mesh, Flat, Stored), &["health-check"]),
    alias(
        row(("CircuitBreaker", "circuit-breakers", "circuit-breaker", "circuit-breakers"), Mesh, Flat, Stored),
        &["circuitbreaker", "circuitbreakers"],
    ),
    alias(
        row(("FaultInjection", "fault-injections", "fault-injection", "fault-injections"), Mesh, Flat, Stored),
        &["faultinjection", "faultinjections"],
    ),
    alias(
        row(("RateLimit", "rate-limits", "rate-limit", "rate-limits"), Mesh, Flat, Stored),
        &["ratelimit", "ratelimits"],
    ),
    row(("Retry", "retries", "retry", "retries"), Mesh, Flat, Stored),
    row(("Timeout", "timeouts", "timeout", "timeouts"), Mesh, Flat, Stored),
    alias(
        row(("ProxyTemplate", "proxytemplates", "proxytemplate", "proxytemplates"), Mesh, Flat, Stored),
        &["proxy-template", "proxy-templates"],
    ),
    row(("HostnameGenerator", "hostnamegenerators", "hostnamegenerator", "hostnamegenerators"), Global, Spec, Typed),
    row(("MeshService", "meshservices", "meshservice", "meshservices"), Mesh, Spec, Typed),
    row(
        ("MeshExternalService", "meshexternalservices", "meshexternalservice", "meshexternalservices"),
        Mesh,
        Spec,
        Typed,
    ),
    row(
        ("MeshMultiZoneService", "meshmultizoneservices", "meshmultizoneservice", "meshmultizoneservices"),
        Mesh,
        Spec,
        Typed,
    ),
    row(("MeshAccessLog", "meshaccesslogs", "meshaccesslog", "meshaccesslogs"), Mesh, Spec, Stored),
    row(("MeshCircuitBreaker", "meshcircuitbreakers", "meshcircuitbreaker", "meshcircuitbreakers"), Mesh, Spec, Stored),
    row(("MeshFaultInjection", "meshfaultinjections", "meshfaultinjection", "meshfaultinjections"), Mesh, Spec, Stored),
    row(("MeshHealthCheck", "meshhealthchecks", "meshhealthcheck", "meshhealthchecks"), Mesh, Spec, Stored),
    row(("MeshHTTPRoute", "meshhttproutes", "meshhttproute", "meshhttproutes"), Mesh, Spec, Stored),
    row(
        (
            "MeshLoadBalancingStrategy",
            "meshloadbalancingstrategies",
            "meshloadbalancingstrategy",
            "meshloadbalancingstrategies",
        ),
        Mesh,
        Spec,
        Stored,
    ),
    row(("MeshMetric", "meshmetrics", "meshmetric", "meshmetrics"), Mesh, Spec, Stored),
    row(("MeshPassthrough", "meshpassthroughs", "meshpassthrough", "meshpassthroughs"), Mesh, Spec, Typed),
    row(("MeshProxyPatch", "meshproxypatches", "meshproxypatch", "meshproxypatches"), Mesh, Spec, Stored),
    row(("MeshRateLimit", "meshratelimits", "meshratelimit", "meshratelimits"), Mesh, Spec, Stored),
    row(("MeshRetry", "meshretries", "meshretry", "meshretries"), Mesh, Spec, Stored),
    row(("MeshTCPRoute", "meshtcproutes", "meshtcproute", "meshtcproutes"), Mesh, Spec, Stored),
    row(("MeshTimeout", "meshtimeouts", "meshtimeout", "meshtimeouts"), Mesh, Spec, Stored),
    row(("MeshTLS", "meshtlses", "meshtls", "meshtlses"), Mesh, Spec, Stored),
    row(("MeshTrace", "meshtraces", "meshtrace", "meshtraces"), Mesh, Spec, Stored),
    row(
        ("MeshTrafficPermission", "meshtrafficpermissions", "meshtrafficpermission", "meshtrafficpermissions"),
        Mesh,
        Spec,
        Stored,
    ),
    row(
        ("MeshGatewayInstance", "meshgatewayinstances", "meshgatewayinstance", "meshgatewayinstances"),
        Mesh,
        Spec,
        Stored,
    ),
    row(("DataplaneInsight", "dataplane-insights", "dataplane-insight", "dataplane-insights"), Mesh, Flat, ReadOnly),
    row(("ZoneInsight", "zone-insights", "zone-insight", "zone-insights"), Global, Flat, ReadOnly),
    row(
        ("ZoneIngressInsight", "zone-ingress-insights", "zone-ingress-insight", "zone-ingress-insights"),
        Global,
        Flat,
        ReadOnly,
    ),
    row(("ZoneEgressInsight", "zoneegressinsights", "zoneegressinsight", "zoneegressinsights"), Global, Flat, ReadOnly),
    row(("MeshInsight", "mesh-insights", "mesh-insight", "mesh-insights"), Global, Flat, ReadOnly),
    row(("ServiceInsight", "service-insights", "service-insight", "service-insights"), Mesh, Flat, ReadOnly),
];

/// By the name that stands in `type:` or `kind:`.
pub fn kind(name: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|k| k.kind == name)
}

/// By the segment of a REST path.
pub fn kind_by_path(path: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|k| k.path == path).or_else(|| KINDS.iter().find(|k| k.aliases.contains(&path)))
}

/// By what stands on a command line: singular, plural, path, alias or the kind itself, in any case.
pub fn kind_by_name(arg: &str) -> Option<&'static KindInfo> {
    let arg = arg.to_ascii_lowercase();
    let named = |k: &&KindInfo| {
        [k.singular, k.plural, k.path].contains(&arg.as_str())
            || k.aliases.contains(&arg.as_str())
            || k.kind.eq_ignore_ascii_case(&arg)
    };
    KINDS.iter().find(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_name_stands_for_two_kinds() {
        let mut seen = HashSet::new();
        for k in KINDS {
            let names: HashSet<&str> =
                [k.path, k.singular, k.plural].into_iter().chain(k.aliases.iter().copied()).collect();
            for name in names {
                assert!(seen.insert(name), "{name}");
                assert_eq!(kind_by_name(name), Some(k), "{name}");
            }
            assert_eq!(kind(k.kind), Some(k));
            assert_eq!(kind_by_path(k.path), Some(k));
        }
    }

    #[test]
    fn kinds_are_found_as_users_write_them() {
        for (arg, kind) in [
            ("Dataplane", "Dataplane"),
            ("zone-ingress", "ZoneIngress"),
            ("meshtls", "MeshTLS"),
            ("healthcheck", "HealthCheck"),
            ("virtual-outbounds", "VirtualOutbound"),
        ] {
            assert_eq!(kind_by_name(arg).map(|k| k.kind), Some(kind), "{arg}");
        }
        assert_eq!(kind_by_name("nothing"), None);
        assert_eq!(kind_by_path("globalsecrets").map(|k| k.kind), Some("GlobalSecret"));
    }
}
