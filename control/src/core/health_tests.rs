//! What becomes of a probed inbound's state, on a store in memory.

use super::*;
use crate::core::Defaults;
use crate::resource::read;
use crate::store::{Outcome, Store};
use crate::time::Clock;

const NO_KEYS: Defaults = Defaults { mesh: true, signing_keys: false, hostname_generators: false };

/// A Dataplane whose inbound on port 80 is probed, with more lines of that inbound.
fn probed(more: &str) -> Resource {
    let yaml = format!(
        "type: Dataplane\nmesh: default\nname: web\nnetworking:\n  address: 10.0.0.1\n  inbound:\n  - port: 80\n    \
         servicePort: 81\n    serviceProbe: {{tcp: {{}}}}\n    tags: {{kuma.io/service: web}}\n{more}"
    );
    read(&yaml, "test").resources.remove(0)
}

/// `state` and `health.ready` of that inbound as they are stored.
fn state(core: &Core) -> (InboundState, Option<bool>) {
    let document = core.get(&Key::new("Dataplane", "default", "web")).unwrap();
    let Spec::Dataplane(dataplane) = typed(&document).unwrap().spec else { panic!() };
    let inbound = &dataplane.networking.inbound[0];
    (inbound.state, inbound.health.as_ref().map(|health| health.ready))
}

#[tokio::test]
async fn a_probed_inbound_is_not_ready_until_a_probe_succeeds_and_keeps_its_state_when_written_again() {
    let core = Core::start(Store::memory(Clock::system()), Clock::system(), NO_KEYS).await.unwrap();
    let key = Key::new("Dataplane", "default", "web");
    let found = |healthy| [(":80".to_owned(), healthy)].into();
    core.apply(vec![probed("")]).await.remove(0).outcome.unwrap();
    assert_eq!(state(&core), (InboundState::NotReady, Some(false)));
    core.report_health(&key, &found(true)).await.unwrap();
    assert_eq!(state(&core), (InboundState::Ready, Some(true)));
    assert_eq!(core.apply(vec![probed("")]).await.remove(0).outcome, Ok(Outcome::Unchanged));
    core.report_health(&key, &found(false)).await.unwrap();
    core.apply(vec![probed("    name: http\n")]).await.remove(0).outcome.unwrap();
    assert_eq!(state(&core), (InboundState::NotReady, Some(false)));
    let revision = core.revision();
    core.report_health(&key, &found(false)).await.unwrap();
    core.report_health(&key, &[(":99".to_owned(), true)].into()).await.unwrap();
    assert_eq!(core.revision(), revision, "what is known already isn't written");
}

#[tokio::test]
async fn an_inbound_that_says_its_state_and_one_that_nobody_probes_are_stored_as_written() {
    let core = Core::start(Store::memory(Clock::system()), Clock::system(), NO_KEYS).await.unwrap();
    core.apply(vec![probed("")]).await.remove(0).outcome.unwrap();
    core.apply(vec![probed("    health: {ready: true}\n")]).await.remove(0).outcome.unwrap();
    assert_eq!(state(&core), (InboundState::Ready, Some(true)));
    core.delete(&Key::new("Dataplane", "default", "web")).await.unwrap();
    core.set_probing(false);
    core.apply(vec![probed("")]).await.remove(0).outcome.unwrap();
    assert_eq!(state(&core), (InboundState::Ready, None));
}
