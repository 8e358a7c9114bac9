//! The specs of all kinds, field for field as in Kuma 2.x (universal form), with defaults left to the reader of a
//! field: an absent value stays absent, so that a resource is given back as it was written.

mod gateway;
mod service;

pub use gateway::{
    Backend, GatewayListener, GatewayProtocol, HeaderFilter, HttpRule, ListenerTls, MatcherKind, MeshGateway,
    MeshGatewayRoute, Mirror, Modifier, NameValue, PathReplace, Redirect, Rewrite, RouteConf, RouteFilter, RouteMatch,
    TlsMode,
};
pub use service::{
    ExternalEndpoint, ExternalMatch, GeneratorSelector, HostnameGenerator, LabelSelector, MeshExternalService,
    MeshExternalTls, MeshMultiZoneService, MeshService, MeshServicesMode, MultiZoneSelector, NameRef, ServiceIdentity,
    ServiceKind, ServicePort, ServiceSelector, TargetPort, Under, Verification,
};

use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub type Tags = BTreeMap<String, String>;

fn no<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// spec/zones.md §10
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    #[serde(skip_serializing_if = "no")]
    pub networking: MeshNetworking,
    #[serde(skip_serializing_if = "no")]
    pub routing: Routing,
    #[serde(skip_serializing_if = "no")]
    pub constraints: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_services: Option<serde_json::Value>,
    /// logging, tracing, metrics and skipCreatingInitialPolicies, kept as written.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub enabled_backend: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<CaBackend>,
    #[serde(skip_serializing_if = "no")]
    pub skip_validation: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaBackend {
    pub name: String,
    /// `builtin` or `provided`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `STRICT` (default) or `PERMISSIVE`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_cert: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_chain: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "no")]
    pub conf: CaConf,
}

impl CaBackend {
    /// `dpCert.rotation.expiration` as written (`1d`), if any.
    pub fn expiration(&self) -> Option<&str> {
        self.dp_cert.as_ref()?.get("rotation")?.get("expiration")?.as_str()
    }

    pub fn is_permissive(&self) -> bool {
        self.mode.eq_ignore_ascii_case("PERMISSIVE")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaConf {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<DataSource>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DataSource {
    Secret(String),
    File(String),
    /// Decoded already; written as base64.
    #[serde(serialize_with = "as_base64")]
    Inline(String),
    InlineString(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshNetworking {
    #[serde(skip_serializing_if = "no")]
    pub outbound: MeshOutbound,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshOutbound {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    #[serde(skip_serializing_if = "no")]
    pub locality_aware_load_balancing: bool,
    #[serde(skip_serializing_if = "no")]
    pub zone_egress: bool,
    #[serde(skip_serializing_if = "no")]
    pub default_forbid_mesh_external_service_access: bool,
}

impl Mesh {
    /// The backend that is on, if mTLS is on.
    pub fn ca(&self) -> Option<&CaBackend> {
        let mtls = self.mtls.as_ref()?;
        mtls.backends.iter().find(|b| !mtls.enabled_backend.is_empty() && b.name == mtls.enabled_backend)
    }

    pub fn mesh_services_mode(&self) -> MeshServicesMode {
        let mode = self.mesh_services.as_ref().and_then(|written| written.get("mode")).and_then(|mode| mode.as_str());
        match mode {
            Some("Everywhere") => MeshServicesMode::Everywhere,
            Some("ReachableBackends") => MeshServicesMode::ReachableBackends,
            Some("Exclusive") => MeshServicesMode::Exclusive,
            _ => MeshServicesMode::Disabled,
        }
    }

    pub fn passthrough(&self) -> bool {
        self.networking.outbound.passthrough.unwrap_or(true)
    }
}

/// spec/naming.md §2
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Dataplane {
    pub networking: Networking,
    /// `metrics` and `probes`, kept as written.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Networking {
    /// IP or DNS name.
    pub address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advertised_address: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Inbound>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Outbound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparent_proxying: Option<TransparentProxying>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Admin {
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_address: Option<IpAddr>,
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_probe: Option<ServiceProbe>,
    #[serde(skip_serializing_if = "no")]
    pub state: InboundState,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Health {
    pub ready: bool,
}

/// Durations in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceProbe {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
    #[serde(skip_serializing_if = "no")]
    pub tcp: serde_json::Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum InboundState {
    #[default]
    Ready,
    NotReady,
    Ignored,
}

impl Inbound {
    /// A marker without a listener, an endpoint or a name (spec/naming.md §2.7).
    pub const MARKER_PORT: u16 = 49151;

    pub fn service(&self) -> &str {
        self.tags.get("kuma.io/service").map_or("", String::as_str)
    }

    /// Its name in what proxies report of their probes.
    pub fn probed_as(&self) -> String {
        self.address.map_or_else(|| format!(":{}", self.port), |ip| SocketAddr::new(ip, self.port).to_string())
    }

    /// Whether others may send it traffic (spec/naming.md §2.5).
    pub fn is_ready(&self) -> bool {
        self.state == InboundState::Ready && self.health.as_ref().is_none_or(|h| h.ready)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    pub port: u16,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_ref: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Gateway {
    #[serde(rename = "type")]
    pub kind: GatewayType,
    pub tags: Tags,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GatewayType {
    #[default]
    Delegated,
    Builtin,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransparentProxying {
    #[serde(skip_serializing_if = "no")]
    pub redirect_port_inbound: u16,
    #[serde(skip_serializing_if = "no")]
    pub redirect_port_outbound: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub direct_access_services: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reachable_services: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_backends: Option<serde_json::Value>,
    /// `UnSpecified`, `DualStack`, `IPv4` or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip_family_mode: String,
}

impl Dataplane {
    pub fn gateway_type(&self) -> Option<GatewayType> {
        self.networking.gateway.as_ref().map(|g| g.kind)
    }

    /// Tag sets of the proxy: every inbound's, and the gateway's.
    pub fn tag_sets(&self) -> impl Iterator<Item = &Tags> {
        self.networking.inbound.iter().map(|i| &i.tags).chain(self.networking.gateway.iter().map(|g| &g.tags))
    }
}

/// A map of tags that selects tag sets: every key must be there, with an equal value unless it is `*`.
pub type Matcher = Tags;

/// spec/naming.md §4
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VirtualOutbound {
    #[serde(serialize_with = "as_selectors")]
    pub selectors: Vec<Matcher>,
    pub conf: VirtualOutboundConf,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VirtualOutboundConf {
    pub host: String,
    pub port: String,
    pub parameters: Vec<Parameter>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    pub name: String,
    /// As written; empty = the value of `name` (see [`Parameter::tag`]).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag_key: String,
}

impl Parameter {
    pub fn tag(&self) -> &str {
        if self.tag_key.is_empty() { &self.name } else { &self.tag_key }
    }
}

/// spec/zones.md §3
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ZoneEgress {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    pub networking: ZoneNetworking,
}

/// spec/zones.md §8
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneIngress {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    pub networking: ZoneNetworking,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub available_services: Vec<AvailableService>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneNetworking {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    pub port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advertised_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AvailableService {
    pub tags: Tags,
    pub instances: u32,
    pub mesh: String,
    #[serde(skip_serializing_if = "no")]
    pub external_service: bool,
}

/// spec/zones.md §7
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExternalService {
    pub tags: Tags,
    pub networking: ExternalNetworking,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalNetworking {
    /// `host:port`.
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExternalTls>,
    #[serde(skip_serializing_if = "no", rename = "disableHostDNSEntry")]
    pub disable_host_dns_entry: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalTls {
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<DataSource>,
    #[serde(skip_serializing_if = "no")]
    pub allow_renegotiation: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    #[serde(skip_serializing_if = "no")]
    pub skip_hostname_verification: bool,
}

/// spec/zones.md §12.1
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrafficPermission {
    #[serde(serialize_with = "as_selectors")]
    pub sources: Vec<Matcher>,
    #[serde(serialize_with = "as_selectors")]
    pub destinations: Vec<Matcher>,
}

/// Both Secret (of a mesh) and GlobalSecret.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Secret {
    /// Base64, as written.
    pub data: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Zone {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A kind of Kuma's that is stored and given back, and has no effect here (yet).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Opaque {
    #[serde(skip)]
    pub kind: String,
    /// Everything but type, mesh, name and labels, in universal form.
    #[serde(flatten)]
    pub body: BTreeMap<String, serde_json::Value>,
}

fn as_selectors<S: serde::Serializer>(list: &[Matcher], out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Selector<'a> {
        r#match: &'a Tags,
    }
    out.collect_seq(list.iter().map(|m| Selector { r#match: m }))
}

fn as_base64<S: serde::Serializer>(text: &str, out: S) -> Result<S::Ok, S::Error> {
    use base64::Engine;
    out.serialize_str(&base64::engine::general_purpose::STANDARD.encode(text))
}
