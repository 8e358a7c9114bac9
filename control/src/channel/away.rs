//! Dataplanes whose proxies are away, also since before this control plane started (spec/naming.md §2.4, §10.1): after a
//! grace others stop sending to them, and at last their resources go. It knows no frames.

use super::presence::Presence;
use crate::compile::ProxyKey;
use crate::core::Core;
use crate::resource::{Meta, Spec};
use std::sync::Arc;
use std::time::Duration;

/// Label of Dataplanes that their proxies brought: the others may be without a proxy of ours on purpose.
const REGISTERED_BY: &str = "weir/registered-by";
const PROXY: &str = "proxy";
/// Between two looks, when nobody's patience is shorter. Streams that end set a timer of their own for the grace.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(500);

/// How long a dataplane may be away; zero = for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before others stop sending to it.
    pub grace: Duration,
    /// Before its resource is removed.
    pub cleanup: Duration,
}

impl Patience {
    pub(super) fn is_over(limit: Duration, away_ms: u64) -> bool {
        !limit.is_zero() && u128::from(away_ms) >= limit.as_millis()
    }

    fn look_every(self) -> Duration {
        let shortest = [self.grace, self.cleanup].into_iter().filter(|limit| !limit.is_zero()).min();
        shortest.map_or(LOOK_EVERY, |limit| (limit / 2).clamp(LOOK_EVERY_MIN, LOOK_EVERY))
    }
}

pub(super) fn mark(meta: &mut Meta) {
    meta.labels.insert(REGISTERED_BY.to_owned(), PROXY.to_owned());
}

/// Those that proxies brought, and that this control plane may never have seen.
fn registered(core: &Core) -> Vec<ProxyKey> {
    let contents = core.contents();
    let brought = contents.resources.iter().filter(|resource| {
        matches!(resource.spec, Spec::Dataplane(_))
            && resource.meta.labels.get(REGISTERED_BY).is_some_and(|by| by == PROXY)
    });
    brought.map(|resource| ProxyKey::dataplane(&resource.meta.mesh, &resource.meta.name)).collect()
}

/// Looks after all that are away, until dropped.
pub(super) async fn watch(presence: Arc<Presence>, core: Arc<Core>, patience: Patience) {
    presence.expect(registered(&core), core.clock().now_ms());
    let mut tick = tokio::time::interval(patience.look_every());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look(&presence, &core, patience).await;
    }
}

pub(super) async fn look(presence: &Presence, core: &Core, patience: Patience) {
    let now_ms = core.clock().now_ms();
    for (proxy, since_ms) in presence.away() {
        let away_ms = now_ms.saturating_sub(since_ms);
        if Patience::is_over(patience.cleanup, away_ms) {
            tracing::warn!(proxy = %proxy.origin(), away_s = away_ms / 1000, "is away for good: its resource is removed");
            presence.remove_away(core, &proxy).await;
        } else if Patience::is_over(patience.grace, away_ms) {
            presence.withdraw_away(core, &proxy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Defaults;
    use crate::resource::read;
    use crate::store::{Key, Store};
    use crate::time::Clock;
    use std::sync::atomic::Ordering;

    const PATIENCE: Patience = Patience { grace: Duration::from_secs(300), cleanup: Duration::from_secs(72 * 3600) };

    #[tokio::test]
    async fn who_was_lost_with_the_control_plane_is_withdrawn_and_removed_in_its_time_and_others_stay() {
        let (clock, now) = Clock::manual(1_700_000_000_000);
        let defaults = Defaults { mesh: true, hostname_generators: false, signing_keys: false };
        let core = Core::start(Store::memory(clock.clone()), clock, defaults).await.unwrap();
        for (name, is_brought) in [("lost", true), ("back", true), ("by-hand", false)] {
            let yaml = format!(
                "type: Dataplane\nmesh: default\nname: {name}\nnetworking: {{address: 10.0.0.1, inbound: [{{port: 80, tags: {{kuma.io/service: a}}}}]}}\n"
            );
            let mut resource = read(&yaml, "t").resources.remove(0);
            if is_brought {
                mark(&mut resource.meta);
            }
            core.apply(vec![resource]).await.remove(0).outcome.unwrap();
        }
        // Another control plane starts on this store.
        let presence = Presence::default();
        presence.expect(registered(&core), core.clock().now_ms());
        presence.connected(&ProxyKey::dataplane("default", "back"));
        let key = |name: &str| Key::new("Dataplane", "default", name);
        look(&presence, &core, PATIENCE).await;
        assert!(core.withdrawn().is_empty());
        now.fetch_add(300_000, Ordering::Relaxed);
        look(&presence, &core, PATIENCE).await;
        assert_eq!(core.withdrawn().into_iter().collect::<Vec<_>>(), [key("lost")]);
        now.fetch_add(72 * 3_600_000 - 300_001, Ordering::Relaxed);
        look(&presence, &core, PATIENCE).await;
        assert!(core.get(&key("lost")).is_some());
        now.fetch_add(1, Ordering::Relaxed);
        look(&presence, &core, PATIENCE).await;
        assert!(core.get(&key("lost")).is_none());
        assert!(core.get(&key("back")).is_some() && core.get(&key("by-hand")).is_some());
        assert!(presence.away().is_empty());
    }
}
