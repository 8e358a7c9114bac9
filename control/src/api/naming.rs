//! Names of a mesh as they are served, what became of those that aren't, and the status of MeshServices and their kin.
//! Nothing is stored: it is what the publishing loop last made.

use super::Call;
use super::answer::{Answer, ApiError};
use super::items::shown;
use crate::names::{Hostnames, NAMESPACE_LABEL, Wish, ZONE_LABEL, service_key};
use crate::publish::Published;
use crate::resource::ServiceKind;
use crate::store::Document;
use serde_json::{Value, json};
use snapshot::NameRow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Call<'_> {
    fn published(&self) -> Result<Arc<Published>, ApiError> {
        let subscription = self.api.options.published.as_ref();
        let missing = || ApiError::new(404, "Not found", "nothing is published here");
        subscription.map(|s| s.borrow().clone()).ok_or_else(missing)
    }

    /// `GET /meshes/{mesh}/_names`: every name with its address, its ports and the resource it comes from.
    pub(super) fn names(&self, mesh: &str) -> Result<Answer, ApiError> {
        self.require_mesh(mesh)?;
        let published = self.published()?;
        let (names, services) = (published.world.names(mesh), published.world.services(mesh));
        let mut ports: HashMap<_, BTreeSet<u16>> = HashMap::new();
        let tagged = names.into_iter().flat_map(|n| &n.outbounds).map(|o| ((o.v4, o.v6), o.port));
        let of_services = services.into_iter().flat_map(|s| &s.outbounds).map(|o| ((o.v4, o.v6), o.port));
        for (address, port) in tagged.chain(of_services) {
            ports.entry(address).or_default().insert(port);
        }
        let tagged = names.into_iter().flat_map(|names| &names.names).map(AsRef::as_ref);
        let rows: Vec<&NameRow> = tagged.chain(services.into_iter().flat_map(|services| &services.names)).collect();
        self.page(rows, |row| {
            let ports = ports.get(&(row.v4, row.v6));
            json!({"name": row.name, "v4": row.v4, "v6": row.v6, "ports": ports, "origin": row.origin.to_string()})
        })
    }

    /// `GET /meshes/{mesh}/_names/problems`
    pub(super) fn name_problems(&self, mesh: &str) -> Result<Answer, ApiError> {
        self.require_mesh(mesh)?;
        let published = self.published()?;
        let nothing = crate::names::MeshNaming::default();
        let naming = published.naming.meshes.get(mesh).unwrap_or(&nothing);
        let wish = |wish: &Wish| json!({"origin": wish.origin.to_string(), "source": wish.source.to_string()});
        let conflicts = naming.conflicts.iter().map(|c| {
            json!({
                "name": c.key.name, "port": c.loser.port, "winner": wish(&c.winner), "loser": wish(&c.loser),
                "message": c.to_string(),
            })
        });
        let texts = |list: &[String]| list.iter().map(|text| Value::from(text.as_str())).collect::<Value>();
        let addresses: Vec<String> = naming.problems.iter().map(ToString::to_string).collect();
        let skipped: Vec<String> = naming.skipped.iter().map(ToString::to_string).collect();
        let body = json!({
            "conflicts": conflicts.collect::<Value>(),
            "skipped": texts(&skipped),
            "addresses": texts(&addresses),
            "warnings": texts(&naming.warnings),
        });
        Ok(Answer::json(200, &body))
    }

    /// `GET /metrics`
    pub(super) fn metrics(&self) -> Result<Answer, ApiError> {
        Ok(Answer::text(200, self.published()?.naming.to_metrics()))
    }

    /// A document, and of MeshServices and their kin the status.
    pub(super) fn shown_with_status(&self, document: &Arc<Document>) -> Value {
        let mut body = shown(document);
        let kind = ServiceKind::of_name(&document.key.kind);
        if let (Some(kind), Ok(published), Some(fields)) = (kind, self.published(), body.as_object_mut()) {
            fields.insert("status".into(), self.status(&published, kind, document));
        }
        body
    }

    fn status(&self, published: &Published, kind: ServiceKind, document: &Document) -> Value {
        let (mesh, name) = (&document.key.mesh, &document.key.name);
        let services = published.world.services(mesh);
        let own = services.into_iter().flat_map(|s| &s.outbounds).find(|o| o.kind == kind && o.name == *name);
        let vips = own.into_iter().flat_map(|o| {
            let v4 = o.v4.map(|ip| json!({"ip": ip}));
            v4.into_iter().chain(o.v6.map(|ip| json!({"ip": ip})))
        });
        let hostnames = published.naming.hostnames.get(&service_key(kind, mesh, name));
        let mut status = json!({
            "vips": vips.collect::<Value>(),
            "addresses": hostnames.map(addresses).unwrap_or_else(|| json!([])),
            "hostnameGenerators": hostnames.map(conditions).unwrap_or_else(|| json!([])),
        });
        let Some(fields) = status.as_object_mut() else { return status };
        let members = published.world.service_members(mesh, kind, name);
        if kind == ServiceKind::MeshService {
            let key = |name: &String| crate::store::Key::new("Dataplane", mesh, name);
            let connected = members.proxies.iter().filter(|name| self.is_connected(&key(name))).count();
            let counts = json!({"connected": connected, "healthy": members.healthy, "total": members.proxies.len()});
            fields.insert("dataplaneProxies".into(), counts);
            let tls = if published.authorities.contains_key(mesh) { "Ready" } else { "NotReady" };
            fields.insert("tls".into(), json!({"status": tls}));
        }
        if kind == ServiceKind::MeshMultiZoneService {
            let one = |name: &String| {
                let found = published.resource("MeshService", mesh, name);
                let labels = found.map(|r| published.world.labels(r)).unwrap_or_default();
                let of = |key: &str| labels.get(key).cloned().unwrap_or_default();
                json!({"name": name, "namespace": of(NAMESPACE_LABEL), "zone": of(ZONE_LABEL), "mesh": mesh})
            };
            fields.insert("meshServices".into(), members.services.iter().map(one).collect());
        }
        status
    }
}

fn addresses(hostnames: &Hostnames) -> Value {
    let one = |(host, by): &(String, String)| json!({"hostname": host, "origin": "HostnameGenerator", "hostnameGeneratorRef": {"coreName": by}});
    hostnames.given.iter().map(one).collect()
}

fn conditions(hostnames: &Hostnames) -> Value {
    let condition = |by: &str, status: &str, reason: &str, message: &str| {
        json!({
            "hostnameGeneratorRef": {"coreName": by},
            "conditions": [{"type": "Generated", "status": status, "reason": reason, "message": message}],
        })
    };
    let given = hostnames.given.iter().map(|(_, by)| condition(by, "True", "Generated", ""));
    let refused = hostnames.refused.iter().map(|r| condition(&r.generator, "False", r.reason, &r.message));
    given.chain(refused).collect()
}
