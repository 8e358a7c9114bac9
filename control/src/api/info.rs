//! What the API tells about itself.

use super::Call;
use super::answer::Answer;
use crate::resource::registry::{KINDS, KindInfo, Scope, Support};
use serde_json::{Map, Value, json};

impl Call<'_> {
    /// Never authenticated; kumactl reads `product` and `version`.
    pub(super) fn index(&self) -> Answer {
        let api = self.api;
        let version = &api.options.version;
        Answer::json(
            200,
            &json!({
                "hostname": api.hostname,
                "product": "Kuma",
                "version": version,
                "tagline": "Kuma",
                "instanceId": api.instance_id,
                "clusterId": api.core.cluster_id(),
                "basedOnKuma": format!("weir {version}"),
                "gui": "",
            }),
        )
    }

    pub(super) fn ready(&self) -> Answer {
        match *self.api.ready.borrow() {
            true => Answer::text(200, "ready\n"),
            false => Answer::text(503, "not ready\n"),
        }
    }

    pub(super) fn who_am_i(&self) -> Answer {
        Answer::json(200, &json!({"name": self.user.name, "groups": self.user.groups}))
    }

    pub(super) fn policies(&self) -> Answer {
        let policies = KINDS.iter().filter(|k| k.scope == Scope::Mesh && !is_plain(k)).map(|k| {
            json!({
                "name": k.kind,
                "path": k.path,
                "singularDisplayName": k.singular,
                "pluralDisplayName": k.plural,
                "readOnly": false,
                "isExperimental": false,
                "isTargetRefBased": k.kind.starts_with("Mesh") && !k.kind.starts_with("MeshGateway"),
                "isInbound": false,
                "isOutbound": false,
            })
        });
        Answer::json(200, &json!({"policies": policies.collect::<Vec<_>>()}))
    }

    pub(super) fn resource_kinds(&self) -> Answer {
        let kinds = KINDS.iter().map(|k| {
            json!({
                "name": k.kind,
                "path": k.path,
                "scope": if k.is_mesh_scoped() { "Mesh" } else { "Global" },
                "singularDisplayName": k.singular,
                "pluralDisplayName": k.plural,
                "readOnly": k.support == Support::ReadOnly,
                "includeInFederation": k.support != Support::ReadOnly,
            })
        });
        Answer::json(200, &json!({"resources": kinds.collect::<Vec<_>>()}))
    }

    pub(super) fn zone_status(&self) -> Answer {
        let zones = self.api.core.list(Some("Zone"), None);
        let status = zones.iter().map(|d| {
            let insight = self.api.core.insight(&d.key).unwrap_or_default();
            let last = insight.get("subscriptions").and_then(Value::as_array).and_then(|s| s.last());
            let active = last.is_some_and(|s| s.get("disconnectTime").is_none());
            json!({"name": d.key.name, "active": active})
        });
        Answer::json(200, &status.collect())
    }

    pub(super) fn global_insight(&self) -> Answer {
        let mut counts = Map::new();
        for kind in KINDS.iter().filter(|k| k.support != Support::ReadOnly) {
            let total = self.api.core.list(Some(kind.kind), None).len();
            if total > 0 {
                counts.insert(kind.kind.into(), json!({"total": total}));
            }
        }
        let now = crate::time::to_rfc3339(self.api.core.clock().now_ms());
        Answer::json(200, &json!({"type": "GlobalInsights", "creationTime": now, "resources": counts}))
    }
}

/// Kinds of a mesh that are no policies.
pub(super) fn is_plain(info: &KindInfo) -> bool {
    let plain = ["Secret", "Dataplane", "ExternalService", "MeshGateway", "MeshGatewayInstance"];
    let service = ["MeshService", "MeshExternalService", "MeshMultiZoneService"];
    plain.contains(&info.kind) || service.contains(&info.kind) || info.support == Support::ReadOnly
}
