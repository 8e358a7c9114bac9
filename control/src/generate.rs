//! MeshServices that a mesh gets from the `kuma.io/service` tags of its Dataplanes (spec/naming.md §6.3): which are to be
//! written and which removed is a pure function; [`Generator`] does it whenever the store has changed.

use crate::core::Core;
use crate::resource::{
    Inbound, InboundState, MeshService, MeshServicesMode, Meta, Resource, ServicePort, ServiceSelector, Spec, Tags,
    TargetPort, Under,
};
use crate::store::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A service without Dataplanes keeps its MeshService, and so its name and address, for this long.
pub const GRACE_MS: u64 = 3_600_000;
const SERVICE: &str = "kuma.io/service";
const PROTOCOL: &str = "kuma.io/protocol";
const MANAGED_BY: &str = "kuma.io/managed-by";
const GENERATOR: &str = "meshservice-generator";
/// Milliseconds since 1970.
const GONE_SINCE: &str = "kuma.io/deletion-grace-period-started-at";

/// What the store lacks.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub write: Vec<Resource>,
    pub remove: Vec<Key>,
    /// Services that get no MeshService, or one that doesn't fit all their Dataplanes.
    pub problems: BTreeSet<String>,
    /// When the next grace period ends.
    pub again_ms: Option<u64>,
}

/// One service of one mesh: ports by the inbound's name, of the oldest Dataplane.
struct Found<'a> {
    oldest: (u64, &'a str),
    ports: BTreeMap<u16, ServicePort>,
}

/// What should be written and removed now.
pub fn plan(resources: &[Arc<Resource>], now_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let meshes: BTreeSet<&str> = resources
        .iter()
        .filter(|r| matches!(&r.spec, Spec::Mesh(mesh) if mesh.mesh_services_mode() != MeshServicesMode::Disabled))
        .map(|r| r.meta.name.as_str())
        .collect();
    let existing: BTreeMap<(&str, &str), &Arc<Resource>> = resources
        .iter()
        .filter(|r| matches!(r.spec, Spec::MeshService(_)))
        .map(|r| ((r.meta.mesh.as_str(), r.meta.name.as_str()), r))
        .collect();
    let found = if meshes.is_empty() { BTreeMap::new() } else { services(resources, &meshes, &mut plan.problems) };
    for ((mesh, name), service) in &found {
        if !is_label(name) {
            let why = "its name must begin with a letter and have up to 63 small letters, digits and -";
            plan.problems.insert(format!("mesh {mesh}: service {name:?} gets no MeshService: {why}"));
            continue;
        }
        let made = made(mesh, name, service);
        match existing.get(&(*mesh, *name)) {
            Some(old) if !is_ours(old) => {}
            Some(old) if old.spec == made.spec && !old.meta.labels.contains_key(GONE_SINCE) => {}
            _ => plan.write.push(made),
        }
    }
    for ((mesh, name), old) in existing.iter().filter(|(key, old)| is_ours(old) && !found.contains_key(*key)) {
        let since = old.meta.labels.get(GONE_SINCE).and_then(|since| since.parse::<u64>().ok());
        match since.map(|since| since.min(now_ms)) {
            Some(since) if now_ms - since >= GRACE_MS => plan.remove.push(Key::new("MeshService", mesh, name)),
            Some(since) => plan.again(since),
            None => {
                let mut leaving = Resource::clone(old);
                leaving.meta.labels.insert(GONE_SINCE.into(), now_ms.to_string());
                plan.write.push(leaving);
                plan.again(now_ms);
            }
        }
    }
    plan
}

impl Plan {
    fn again(&mut self, since: u64) {
        let at = since.saturating_add(GRACE_MS);
        self.again_ms = Some(self.again_ms.map_or(at, |earlier| earlier.min(at)));
    }
}

fn is_ours(resource: &Resource) -> bool {
    resource.meta.labels.get(MANAGED_BY).is_some_and(|by| by == GENERATOR)
}

/// RFC 1035
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-')
}

fn services<'a>(
    resources: &'a [Arc<Resource>],
    meshes: &BTreeSet<&str>,
    problems: &mut BTreeSet<String>,
) -> BTreeMap<(&'a str, &'a str), Found<'a>> {
    let mut found: BTreeMap<(&str, &str), Found<'_>> = BTreeMap::new();
    for resource in resources.iter().filter(|r| meshes.contains(r.meta.mesh.as_str())) {
        let Spec::Dataplane(dataplane) = &resource.spec else { continue };
        let mut own: BTreeMap<&str, BTreeMap<u16, ServicePort>> = BTreeMap::new();
        for inbound in &dataplane.networking.inbound {
            let is_offered = inbound.state != InboundState::Ignored && inbound.port != Inbound::MARKER_PORT;
            if let Some(service) = inbound.tags.get(SERVICE).filter(|_| is_offered) {
                own.entry(service).or_default().insert(inbound.port, port_of(inbound));
            }
        }
        let age = (resource.meta.created_ms, resource.meta.name.as_str());
        for (service, ports) in own {
            let key = (resource.meta.mesh.as_str(), service);
            let Some(other) = found.get_mut(&key) else {
                found.insert(key, Found { oldest: age, ports });
                continue;
            };
            if other.ports != ports {
                problems.insert(format!(
                    "mesh {}: Dataplanes of service {service} have different ports; those of the oldest count in its MeshService",
                    key.0
                ));
            }
            if age < other.oldest {
                *other = Found { oldest: age, ports };
            }
        }
    }
    found
}

fn port_of(inbound: &Inbound) -> ServicePort {
    let target =
        if inbound.name.is_empty() { TargetPort::Number(inbound.port) } else { TargetPort::Name(inbound.name.clone()) };
    let name = if inbound.name.is_empty() { inbound.port.to_string() } else { inbound.name.clone() };
    let app_protocol = inbound.tags.get(PROTOCOL).map(|protocol| protocol.to_ascii_lowercase()).unwrap_or_default();
    ServicePort { name, port: inbound.port, target_port: Some(target), app_protocol }
}

fn made(mesh: &str, name: &str, found: &Found<'_>) -> Resource {
    let dataplane_tags = Tags::from([(SERVICE.to_owned(), name.to_owned())]);
    let spec = MeshService {
        selector: ServiceSelector { dataplane_tags, dataplane_ref: None },
        ports: found.ports.values().cloned().collect(),
        ..MeshService::default()
    };
    let labels = Tags::from([(MANAGED_BY.to_owned(), GENERATOR.to_owned())]);
    let meta = Meta { mesh: mesh.to_owned(), name: name.to_owned(), labels, ..Meta::default() };
    Resource { meta, spec: Spec::MeshService(Under { spec }) }
}

/// Keeps the store in accord with [`plan`].
pub struct Generator {
    core: Arc<Core>,
    reported: BTreeSet<String>,
}

/// Without a change in the store, and when a write failed.
const LATEST: Duration = Duration::from_secs(60);

impl Generator {
    pub fn new(core: Arc<Core>) -> Self {
        Self { core, reported: BTreeSet::new() }
    }

    /// Until the store is gone.
    pub async fn run(mut self) {
        let mut changes = self.core.watch();
        loop {
            changes.mark_unchanged();
            let next = self.turn().await;
            let until = next
                .map_or(LATEST, |at| Duration::from_millis(at.saturating_sub(self.core.clock().now_ms())).min(LATEST));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(until) => {}
            }
        }
    }

    async fn turn(&mut self) -> Option<u64> {
        let plan = plan(&self.core.contents().resources, self.core.clock().now_ms());
        for problem in plan.problems.difference(&self.reported) {
            tracing::warn!("{problem}");
        }
        self.reported = plan.problems;
        if !plan.write.is_empty() {
            for written in self.core.apply(plan.write).await {
                if let Err(refusal) = written.outcome {
                    tracing::warn!(key = %written.key, %refusal, "a MeshService can't be written");
                }
            }
        }
        for key in plan.remove {
            if let Err(refusal) = self.core.delete(&key).await {
                tracing::warn!(%key, %refusal, "a MeshService can't be removed");
            }
        }
        plan.again_ms
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
