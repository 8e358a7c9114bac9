//! The newer kinds of services and what names them (spec/naming.md §6). In universal form they stand under `spec`.

use super::{DataSource, Tags, no};
use serde::Serialize;
use std::ops::Deref;

/// A spec that is given back under `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Under<T> {
    pub spec: T,
}

impl<T> Deref for Under<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.spec
    }
}

/// What a `backendRef` can name. The order decides who has a hostname that several want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
}

impl ServiceKind {
    pub const ALL: [Self; 3] = [Self::MeshService, Self::MeshExternalService, Self::MeshMultiZoneService];

    pub fn name(self) -> &'static str {
        match self {
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// `Mesh.meshServices.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshServicesMode {
    /// No MeshService is made, and none is dialled.
    #[default]
    Disabled,
    /// Beside the names of `kuma.io/service`.
    Everywhere,
    /// Only what a Dataplane lists under `reachableBackends`.
    ReachableBackends,
    /// Instead of the names of `kuma.io/service`.
    Exclusive,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshService {
    #[serde(skip_serializing_if = "no")]
    pub selector: ServiceSelector,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<ServiceIdentity>,
    /// `Available` (default) or `Unavailable`, as another zone's control plane says of its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// At most one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSelector {
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub dataplane_tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_ref: Option<NameRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NameRef {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    /// Empty is `tcp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_protocol: String,
}

/// An inbound, by its port or its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServiceIdentity {
    /// `ServiceTag` or `SpiffeID`.
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshMultiZoneService {
    pub selector: MultiZoneSelector,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MultiZoneSelector {
    pub mesh_service: LabelSelector,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub match_labels: Tags,
}

impl LabelSelector {
    pub fn matches(&self, labels: &Tags) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshExternalService {
    pub r#match: ExternalMatch,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ExternalEndpoint>,
    #[serde(skip_serializing_if = "no")]
    pub extension: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<MeshExternalTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExternalMatch {
    /// `HostnameGenerator`, the only one.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub port: u16,
    /// Empty is `tcp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExternalEndpoint {
    pub address: String,
    pub port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshExternalTls {
    pub enabled: bool,
    #[serde(skip_serializing_if = "no")]
    pub version: serde_json::Value,
    #[serde(skip_serializing_if = "no")]
    pub allow_renegotiation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// `Secured` (default), `SkipSAN`, `SkipCA` or `SkipAll`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    #[serde(skip_serializing_if = "no")]
    pub subject_alt_names: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<DataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<DataSource>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HostnameGenerator {
    pub selector: GeneratorSelector,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    #[serde(skip_serializing_if = "no")]
    pub extension: serde_json::Value,
}

/// Exactly one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GeneratorSelector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_service: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_external_service: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_multi_zone_service: Option<LabelSelector>,
}

impl GeneratorSelector {
    pub fn of(&self, kind: ServiceKind) -> Option<&LabelSelector> {
        match kind {
            ServiceKind::MeshService => self.mesh_service.as_ref(),
            ServiceKind::MeshExternalService => self.mesh_external_service.as_ref(),
            ServiceKind::MeshMultiZoneService => self.mesh_multi_zone_service.as_ref(),
        }
    }
}
