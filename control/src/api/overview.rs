//! Resources beside what their proxies and zones report.

use super::Call;
use super::answer::{Answer, ApiError};
use super::items::shown;
use crate::resource::registry::KindInfo;
use crate::store::{Document, Key};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Kinds that have an overview, and the names of its two parts.
const OVERVIEWS: [(&str, &str, &str); 4] = [
    ("Dataplane", "dataplane", "dataplaneInsight"),
    ("Zone", "zone", "zoneInsight"),
    ("ZoneIngress", "zoneIngress", "zoneIngressInsight"),
    ("ZoneEgress", "zoneEgress", "zoneEgressInsight"),
];
/// Beside the spec in a resource's JSON.
const META: [&str; 6] = ["type", "mesh", "name", "labels", "creationTime", "modificationTime"];

impl Call<'_> {
    pub(super) fn overviews(&self, path: &str, mesh: Option<&str>) -> Result<Answer, ApiError> {
        // The older names of the same lists.
        let path = match path {
            "zoneegressoverviews" => "zoneegresses",
            "zoneingresses+insights" => "zone-ingresses",
            path => path.strip_suffix("+insights").unwrap_or(path),
        };
        let info = self.listed_kind(path, mesh)?;
        self.require_mesh(mesh.unwrap_or_default())?;
        let parts = parts(info)?;
        self.page(self.matching(info, mesh)?, |d| self.both(d, parts))
    }

    pub(super) fn overview(&self, path: &str, mesh: &str, name: &str) -> Result<Answer, ApiError> {
        let info = self.kind(path, !mesh.is_empty())?;
        self.require_mesh(mesh)?;
        let parts = parts(info)?;
        let missing = || ApiError::not_found("Could not retrieve a resource");
        let document = self.api.core.get(&Key::new(info.kind, mesh, name)).ok_or_else(missing)?;
        Ok(Answer::json(200, &self.both(&document, parts)))
    }

    fn both(&self, document: &Arc<Document>, (own, insight): (&str, &str)) -> Value {
        let Value::Object(all) = shown(document) else { return Value::Null };
        let (mut whole, spec): (Map<String, Value>, Map<String, Value>) =
            all.into_iter().partition(|(name, _)| META.contains(&name.as_str()));
        let key = &document.key;
        whole.insert("type".into(), format!("{}Overview", key.kind).into());
        whole.insert(own.into(), Value::Object(spec));
        if let Some(found) = self.api.core.insight(key) {
            whole.insert(insight.into(), found);
        }
        Value::Object(whole)
    }

    /// The insight that belongs to the resource of the same mesh and name.
    pub(super) fn insight_of(&self, info: &KindInfo, key: &Key) -> Option<Value> {
        match info.kind {
            "MeshInsight" => return self.api.core.has_mesh(&key.name).then(|| self.mesh_insight(&key.name)),
            "ServiceInsight" => {
                return self
                    .service_insights(&key.mesh)
                    .into_iter()
                    .find(|s| s.get("name").is_some_and(|name| *name == *key.name));
            }
            _ => {}
        }
        let of = Key::new(info.kind.strip_suffix("Insight")?, &key.mesh, &key.name);
        let Value::Object(fields) = self.api.core.insight(&of)? else { return None };
        let mut whole = json!({"type": info.kind, "name": key.name});
        let into = whole.as_object_mut()?;
        if !key.mesh.is_empty() {
            into.insert("mesh".into(), key.mesh.clone().into());
        }
        into.extend(fields);
        Some(whole)
    }

    pub(super) fn insights(&self, info: &KindInfo, mesh: Option<&str>) -> Vec<Value> {
        if info.kind == "ServiceInsight" {
            let all = || self.api.core.list(Some("Mesh"), None).iter().map(|m| m.key.name.clone()).collect();
            let meshes: Vec<String> = mesh.map_or_else(all, |mesh| vec![mesh.to_owned()]);
            return meshes.iter().flat_map(|mesh| self.service_insights(mesh)).collect();
        }
        let Some(of) = info.kind.strip_suffix("Insight") else { return Vec::new() };
        self.api.core.list(Some(of), mesh).iter().filter_map(|d| self.insight_of(info, &d.key)).collect()
    }

    pub(super) fn snapshot(&self, mesh: &str, name: &str) -> Result<Answer, ApiError> {
        self.require_mesh(mesh)?;
        let json = self.parameter("format") == Some("json");
        let text = self.api.options.snapshots.as_ref().and_then(|of| of(mesh, name, json));
        match text {
            None => Err(ApiError::not_found("Could not retrieve a snapshot")),
            Some(text) if json => match serde_json::from_str(&text) {
                Ok(value) => Ok(Answer::json(200, &value)),
                Err(_) => Err(ApiError::new(500, "Could not retrieve a snapshot", "Internal Server Error")),
            },
            Some(text) => Ok(Answer::text(200, text)),
        }
    }
}

fn parts(info: &KindInfo) -> Result<(&'static str, &'static str), ApiError> {
    let found = OVERVIEWS.iter().find(|(kind, ..)| *kind == info.kind);
    found
        .map(|(_, own, insight)| (*own, *insight))
        .ok_or_else(|| ApiError::new(404, "Not found", &format!("a {} has no overview", info.kind)))
}
