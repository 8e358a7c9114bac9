//! Which services of the newer kinds a sidecar dials: `reachableBackends`, `reachableServices`, and the mesh's mode
//! (spec/naming.md §7.8). And what a `backendRef` of a written outbound means.

use super::services::Target;
use super::world::{MeshIndex, World};
use crate::names::ServiceOutbound;
use crate::resource::{MeshServicesMode, Resource, ServiceKind, Tags, TransparentProxying};
use serde_json::Value;

/// A service by kind, and by name or labels.
pub(super) struct Reference {
    pub kind: ServiceKind,
    name: String,
    labels: Tags,
    pub port: Option<u16>,
}

impl Reference {
    /// None for what intake has refused.
    pub(super) fn read(written: &Value) -> Option<Self> {
        let text = |name: &str| written.get(name).and_then(Value::as_str).unwrap_or_default();
        let labels = written.get("labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        // A quoted number counts, as at intake.
        let port = written.get("port").and_then(|port| match port {
            Value::Number(number) => number.as_u64()?.try_into().ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        });
        Some(Self { kind: ServiceKind::of_name(text("kind"))?, name: text("name").to_owned(), labels, port })
    }

    fn is(&self, world: &World, resource: &Resource) -> bool {
        if !self.name.is_empty() {
            return self.name == resource.meta.name;
        }
        let labels = crate::names::labels(resource, &world.settings.zone);
        !self.labels.is_empty() && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// What a written outbound leads to; the oldest of several with the labels.
    pub(super) fn target<'a>(&self, world: &World, mesh: &'a MeshIndex) -> Option<Target<'a>> {
        let found = mesh.backends(self.kind).iter().filter(|resource| self.is(world, resource));
        let oldest = found.min_by_key(|resource| (resource.meta.created_ms, &resource.meta.name))?;
        let port = match &oldest.spec {
            crate::resource::Spec::MeshExternalService(spec) => spec.r#match.port,
            _ => self.port?,
        };
        Some(Target { kind: self.kind, name: &oldest.meta.name, port })
    }
}

/// What a sidecar may dial of them.
pub(super) enum Reachable {
    All,
    Nothing,
    These(Vec<Reference>),
}

impl Reachable {
    pub(super) fn of(proxying: Option<&TransparentProxying>, mode: MeshServicesMode) -> Self {
        if let Some(listed) = proxying.and_then(|tp| tp.reachable_backends.as_ref()) {
            let refs = listed.get("refs").and_then(Value::as_array).into_iter().flatten();
            return Self::These(refs.filter_map(Reference::read).collect());
        }
        let trims_services = proxying.is_some_and(|tp| !tp.reachable_services.is_empty());
        if trims_services || mode == MeshServicesMode::ReachableBackends { Self::Nothing } else { Self::All }
    }

    pub(super) fn contains(&self, world: &World, mesh: &MeshIndex, outbound: &ServiceOutbound) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::These(list) => mesh.backend(outbound.kind, &outbound.name).is_some_and(|resource| {
                list.iter().any(|reference| {
                    reference.kind == outbound.kind
                        && reference.port.is_none_or(|port| port == outbound.port)
                        && reference.is(world, resource)
                })
            }),
        }
    }
}
