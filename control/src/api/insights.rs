//! What a mesh and its services add up to, counted when asked: `MeshInsight` and `ServiceInsight`. It knows dataplanes' JSON and what
//! their proxies report; nothing is stored.

use super::Call;
use super::items::shown;
use crate::resource::registry::{KINDS, Support};
use crate::store::{Document, Key};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SERVICE: &str = "kuma.io/service";

#[derive(Default)]
struct Count {
    online: u64,
    total: u64,
}

impl Count {
    fn add(&mut self, online: bool) {
        self.total += 1;
        self.online += u64::from(online);
    }

    fn to_json(&self) -> Value {
        json!({"total": self.total, "online": self.online, "offline": self.total - self.online})
    }

    fn status(&self) -> &'static str {
        match self.online {
            _ if self.total == 0 => "not_available",
            0 => "offline",
            online if online == self.total => "online",
            _ => "partially_degraded",
        }
    }
}

/// Dataplanes of one mesh, counted.
#[derive(Default)]
struct Counts {
    standard: Count,
    builtin: Count,
    delegated: Count,
    services: BTreeMap<String, Count>,
    external: BTreeSet<String>,
}

impl Call<'_> {
    pub(super) fn mesh_insight(&self, mesh: &str) -> Value {
        let counts = self.counts(mesh);
        let (mut policies, mut resources) = (Map::new(), Map::new());
        for kind in KINDS.iter().filter(|k| k.is_mesh_scoped() && k.support != Support::ReadOnly) {
            let total = self.api.core.list(Some(kind.kind), Some(mesh)).len();
            if total > 0 {
                let into = if super::info::is_plain(kind) { &mut resources } else { &mut policies };
                into.insert(kind.kind.into(), json!({"total": total}));
            }
        }
        let by_type = [&counts.standard, &counts.builtin, &counts.delegated];
        let all =
            Count { online: by_type.iter().map(|c| c.online).sum(), total: by_type.iter().map(|c| c.total).sum() };
        let gateway = Count {
            online: counts.builtin.online + counts.delegated.online,
            total: counts.builtin.total + counts.delegated.total,
        };
        let (internal, external) = (counts.services.len(), counts.external.len());
        json!({
            "type": "MeshInsight",
            "name": mesh,
            "lastSync": crate::time::to_rfc3339(self.api.core.clock().now_ms()),
            "dataplanes": all.to_json(),
            "dataplanesByType": {
                "standard": counts.standard.to_json(),
                "gateway": gateway.to_json(),
                "gatewayBuiltin": counts.builtin.to_json(),
                "gatewayDelegated": counts.delegated.to_json(),
            },
            "policies": policies,
            "resources": resources,
            "services": {"total": internal + external, "internal": internal, "external": external},
        })
    }

    /// One a service, by name.
    pub(super) fn service_insights(&self, mesh: &str) -> Vec<Value> {
        let counts = self.counts(mesh);
        let internal = counts.services.iter().map(|(name, count)| {
            json!({
                "type": "ServiceInsight", "mesh": mesh, "name": name, "serviceType": "internal",
                "status": count.status(), "dataplanes": count.to_json(),
            })
        });
        let external = counts.external.iter().map(|name| {
            json!({
                "type": "ServiceInsight", "mesh": mesh, "name": name, "serviceType": "external", "status": "not_available",
            })
        });
        internal.chain(external).collect()
    }

    fn counts(&self, mesh: &str) -> Counts {
        let mut counts = Counts::default();
        for document in self.api.core.list(Some("Dataplane"), Some(mesh)) {
            let online = self.is_online(&document);
            let spec = shown(&document);
            let gateway = spec.pointer("/networking/gateway");
            let kind = gateway.map(|g| g.get("type").and_then(Value::as_str).unwrap_or("DELEGATED"));
            match kind {
                None => counts.standard.add(online),
                Some("BUILTIN") => counts.builtin.add(online),
                Some(_) => counts.delegated.add(online),
            }
            let inbounds = spec.pointer("/networking/inbound").and_then(Value::as_array).into_iter().flatten();
            let services: BTreeSet<String> = inbounds.chain(gateway).filter_map(service).collect();
            for service in services {
                counts.services.entry(service).or_default().add(online);
            }
        }
        let outside = self.api.core.list(Some("ExternalService"), Some(mesh));
        counts.external = outside.iter().filter_map(|document| service(&shown(document))).collect();
        counts
    }

    /// Whether its proxy is connected.
    fn is_online(&self, document: &Arc<Document>) -> bool {
        self.is_connected(&document.key)
    }

    pub(super) fn is_connected(&self, key: &Key) -> bool {
        let insight = self.api.core.insight(key).unwrap_or_default();
        let subscriptions = insight.get("subscriptions").and_then(Value::as_array);
        let last = subscriptions.and_then(|all| all.last());
        last.is_some_and(|s| s.get("connectTime").is_some() && s.get("disconnectTime").is_none())
    }
}

fn service(tagged: &Value) -> Option<String> {
    tagged.get("tags")?.get(SERVICE)?.as_str().map(str::to_owned)
}
