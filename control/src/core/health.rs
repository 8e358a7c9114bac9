//! What service probes say of a Dataplane's inbounds, and what becomes of it when the resource is written (spec/naming.md §2.4, §2.6).
//! Must not know who probes.

use super::{Core, Refusal, put, typed};
use crate::resource::{Dataplane, Health, Inbound, InboundState, Resource, Spec};
use crate::store::{Change, Expect, Key, StoreError};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Writes that others may make between our reading and our writing.
const TRIES: u32 = 5;

impl Core {
    /// Without probes nobody would ever call an inbound healthy: none is then taken for unhealthy.
    pub fn set_probing(&self, enabled: bool) {
        self.probing.store(enabled, Ordering::Relaxed);
    }

    /// The resource as it is to be stored, where its inbounds' health is the probes' to say: a new one isn't ready, a written one
    /// keeps what probes found, unless the writer says something himself.
    pub(super) fn with_health(&self, resource: &Resource, key: &Key) -> Option<Resource> {
        let Spec::Dataplane(dataplane) = &resource.spec else { return None };
        let is_probed = dataplane.networking.inbound.iter().any(|inbound| inbound.service_probe.is_some());
        if !is_probed || !self.probing.load(Ordering::Relaxed) {
            return None;
        }
        let stored = self.get(key).and_then(|document| typed(&document).ok());
        let mut resource = resource.clone();
        let Spec::Dataplane(dataplane) = &mut resource.spec else { return None };
        for inbound in dataplane.networking.inbound.iter_mut().filter(|inbound| inbound.service_probe.is_some()) {
            match stored.as_ref().map(|stored| &stored.spec) {
                None => note(inbound, false),
                Some(Spec::Dataplane(stored)) => keep(inbound, stored),
                Some(_) => {}
            }
        }
        Some(resource)
    }

    /// Stores what probes found, by [`Inbound::probed_as`]. Nothing is written when it is known already.
    ///
    /// # Errors
    /// The store's.
    pub async fn report_health(&self, key: &Key, found: &BTreeMap<String, bool>) -> Result<(), Refusal> {
        for attempt in 1..=TRIES {
            let Some(document) = self.get(key) else { return Ok(()) };
            let Ok(mut resource) = typed(&document) else { return Ok(()) };
            let Spec::Dataplane(dataplane) = &mut resource.spec else { return Ok(()) };
            let mut changed = false;
            for inbound in dataplane.networking.inbound.iter_mut().filter(|inbound| inbound.service_probe.is_some()) {
                if let Some(healthy) = found.get(&inbound.probed_as()) {
                    let before = inbound.clone();
                    note(inbound, *healthy);
                    changed |= *inbound != before;
                }
            }
            if !changed {
                return Ok(());
            }
            let Change::Put { key, body, labels, .. } = put(&resource, key) else { return Ok(()) };
            let change = Change::Put { key, body, labels, expect: Expect::Version(document.version) };
            match self.store.apply(vec![change]).await {
                Err(StoreError::Conflict { .. }) if attempt < TRIES => {}
                outcome => return outcome.map(drop).map_err(Refusal::Store),
            }
        }
        Ok(())
    }
}

/// An inbound that is to be ignored stays so.
fn note(inbound: &mut Inbound, healthy: bool) {
    inbound.health = Some(Health { ready: healthy });
    if inbound.state != InboundState::Ignored {
        inbound.state = if healthy { InboundState::Ready } else { InboundState::NotReady };
    }
}

fn keep(inbound: &mut Inbound, stored: &Dataplane) {
    let is_silent = inbound.state == InboundState::Ready && inbound.health.is_none();
    let mut probed = stored.networking.inbound.iter().filter(|was| was.service_probe.is_some());
    if let Some(was) = probed.find(|was| was.probed_as() == inbound.probed_as()).filter(|_| is_silent) {
        (inbound.state, inbound.health) = (was.state, was.health.clone());
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
