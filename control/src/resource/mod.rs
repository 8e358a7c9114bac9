//! Resources: what users write, as plain typed values. Intake (`yaml`, `decode`, one file a kind) makes them; nothing
//! here selects, allocates or compiles.

mod common;
mod dataplane;
mod decode;
mod external;
mod filter;
mod gateway;
mod intake;
mod kinds;
mod kubernetes;
mod mesh;
mod mesh_backends;
mod name;
mod output;
mod passthrough;
mod permission;
mod problem;
pub mod registry;
mod route;
mod secret;
mod service;
mod variables;
mod virtual_outbound;
mod yaml;
mod zone;

pub use intake::{Intake, read, read_as};
pub use name::is_valid as is_valid_name;
pub use output::{Key, yaml as to_yaml};
pub use problem::{Problem, Severity};
pub use variables::{Rendered, render_variables};
pub use yaml::yaml_to_json;

pub use passthrough::{
    MatchType, MeshPassthrough, PassthroughConf, PassthroughMatch, PassthroughMode, PassthroughProtocol,
    PassthroughTarget, TargetKind,
};

pub use kinds::{
    Admin, AvailableService, Backend, CaBackend, CaConf, DataSource, Dataplane, ExternalEndpoint, ExternalMatch,
    ExternalNetworking, ExternalService, ExternalTls, Gateway, GatewayListener, GatewayProtocol, GatewayType,
    GeneratorSelector, HeaderFilter, Health, HostnameGenerator, HttpRule, Inbound, InboundState, LabelSelector,
    ListenerTls, Matcher, MatcherKind, Mesh, MeshExternalService, MeshExternalTls, MeshGateway, MeshGatewayRoute,
    MeshMultiZoneService, MeshNetworking, MeshOutbound, MeshService, MeshServicesMode, Mirror, Modifier, Mtls,
    MultiZoneSelector, NameRef, NameValue, Networking, Opaque, Outbound, Parameter, PathReplace, Redirect, Rewrite,
    RouteConf, RouteFilter, RouteMatch, Routing, Secret, ServiceIdentity, ServiceKind, ServicePort, ServiceProbe,
    ServiceSelector, Tags, TargetPort, TlsMode, TrafficPermission, TransparentProxying, Under, Verification,
    VirtualOutbound, VirtualOutboundConf, Zone, ZoneEgress, ZoneIngress, ZoneNetworking,
};

use serde::{Deserialize, Serialize};

/// Where in a user's file a thing stood: 1-based.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: usize,
}

/// One resource. The pair (kind, mesh, name) is its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub meta: Meta,
    pub spec: Spec,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Empty for global kinds (Mesh, Zone, ZoneIngress, ZoneEgress …).
    pub mesh: String,
    pub name: String,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Milliseconds since 1970, set by the store; 0 before.
    pub created_ms: u64,
    pub modified_ms: u64,
    /// Where it was read from, when that is known.
    pub place: Option<Place>,
}

/// The kinds that have meaning here; every other known Kuma kind is kept as it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Spec {
    Mesh(Mesh),
    Dataplane(Dataplane),
    VirtualOutbound(VirtualOutbound),
    MeshGateway(MeshGateway),
    MeshGatewayRoute(MeshGatewayRoute),
    ZoneEgress(ZoneEgress),
    ZoneIngress(ZoneIngress),
    ExternalService(ExternalService),
    TrafficPermission(TrafficPermission),
    Secret(Secret),
    GlobalSecret(Secret),
    Zone(Zone),
    MeshService(Under<MeshService>),
    MeshExternalService(Under<MeshExternalService>),
    MeshMultiZoneService(Under<MeshMultiZoneService>),
    HostnameGenerator(Under<HostnameGenerator>),
    MeshPassthrough(MeshPassthrough),
    Opaque(Opaque),
}

#[cfg(test)]
mod tests;
