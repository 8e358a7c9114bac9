//! Which endpoint gets the next connection or request: a synchronous choice from rows, their state, a random number
//! generator and the time. Must not open connections, nor know where endpoints come from.

use super::outlier::Health;
use snapshot::{Address, Balance, Endpoint};
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// SplitMix64: good enough to spread load, seeded by the caller.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 if that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// What one worker knows of one endpoint. It outlives snapshots as long as the address stays.
#[derive(Debug, Default)]
struct Slot {
    /// Connections or requests in flight.
    active: Rc<Cell<u32>>,
    health: Rc<Cell<Health>>,
    /// Smooth round robin's running weight.
    credit: i64,
}

/// One in-flight use of an endpoint; dropping it ends the use.
#[derive(Debug)]
pub(crate) struct Lease(Rc<Cell<u32>>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// One worker's state of one service, aligned with the endpoints of the snapshot in use.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Kept alive, so that comparing pointers tells whether the endpoints are the same.
    endpoints: Option<Arc<Vec<Endpoint>>>,
    slots: Vec<Slot>,
    /// Indices by priority, without weight 0.
    tiers: Vec<Vec<usize>>,
    /// Room for a pick's candidates.
    eligible: Vec<usize>,
}

impl State {
    /// Aligns the slots with `endpoints`; an address that stays keeps its state.
    pub(crate) fn sync(&mut self, endpoints: &Arc<Vec<Endpoint>>, rng: &mut Rng) {
        if self.endpoints.as_ref().is_some_and(|known| Arc::ptr_eq(known, endpoints)) {
            return;
        }
        let mut known: HashMap<(Address, u16), Slot> = HashMap::new();
        if let Some(old) = self.endpoints.take() {
            let keys = old.iter().map(|endpoint| (endpoint.address.clone(), endpoint.port));
            known.extend(keys.zip(self.slots.drain(..)));
        }
        let slot_of = |endpoint: &Endpoint| {
            known.remove(&(endpoint.address.clone(), endpoint.port)).unwrap_or_else(|| Slot {
                // A random start, or the workers of all proxies would begin with the same endpoint.
                credit: rng.below(u64::from(endpoint.weight)) as i64,
                ..Slot::default()
            })
        };
        self.slots = endpoints.iter().map(slot_of).collect();
        self.tiers = tiers(endpoints);
        self.endpoints = Some(Arc::clone(endpoints));
    }

    /// The next endpoint that isn't in `tried`: of the lowest priority that has a healthy one, or, when all are
    /// ejected, of the lowest priority at all. The clock is only read while something is ejected.
    pub(crate) fn pick(
        &mut self,
        balance: Balance,
        tried: &[usize],
        rng: &mut Rng,
        now: impl Fn() -> Instant,
    ) -> Option<usize> {
        if let Some(only) = self.only(tried, &now) {
            return Some(only);
        }
        let endpoints = Arc::clone(self.endpoints.as_ref()?);
        let mut eligible = std::mem::take(&mut self.eligible);
        self.find_eligible(tried, &now, &mut eligible);
        let picked = match balance {
            _ if eligible.len() <= 1 => eligible.first().copied(),
            Balance::RoundRobin => self.round_robin(&eligible, &endpoints),
            Balance::LeastRequest { choices } => self.least_request(&mut eligible, &endpoints, choices, rng),
            Balance::Random => random(&eligible, &endpoints, rng),
        };
        self.eligible = eligible;
        picked
    }

    /// The first tier's only endpoint, if it is there to be had: the usual case, without an allocation.
    fn only(&self, tried: &[usize], now: impl Fn() -> Instant) -> Option<usize> {
        let &[index] = self.tiers.first()?.as_slice() else { return None };
        let ejected = self.slots.get(index)?.health.get().is_ejected(&now);
        (!ejected && !tried.contains(&index)).then_some(index)
    }

    fn find_eligible(&self, tried: &[usize], now: impl Fn() -> Instant, found: &mut Vec<usize>) {
        let untried = |index: &&usize| !tried.contains(*index);
        let healthy = |index: &&usize| self.slots.get(**index).is_some_and(|slot| !slot.health.get().is_ejected(&now));
        found.clear();
        for tier in &self.tiers {
            found.extend(tier.iter().filter(untried).filter(healthy));
            if !found.is_empty() {
                return;
            }
        }
        for tier in &self.tiers {
            found.extend(tier.iter().filter(untried));
            if !found.is_empty() {
                return;
            }
        }
    }

    /// Smooth weighted round robin: everyone earns its weight, the richest pays the total.
    fn round_robin(&mut self, eligible: &[usize], endpoints: &[Endpoint]) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(i64, usize)> = None;
        for &index in eligible {
            let (Some(slot), Some(endpoint)) = (self.slots.get_mut(index), endpoints.get(index)) else { continue };
            total += i64::from(endpoint.weight);
            slot.credit += i64::from(endpoint.weight);
            if best.is_none_or(|(credit, _)| slot.credit > credit) {
                best = Some((slot.credit, index));
            }
        }
        let (_, index) = best?;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.credit -= total;
        }
        Some(index)
    }

    /// The least loaded for its weight among a few random ones.
    fn least_request(&self, pool: &mut [usize], endpoints: &[Endpoint], choices: u8, rng: &mut Rng) -> Option<usize> {
        let load = |index: usize| {
            let active = self.slots.get(index).map_or(0, |slot| slot.active.get());
            let weight = endpoints.get(index).map_or(1, |endpoint| endpoint.weight.max(1));
            // Scaled, so that integers compare as the quotients do.
            (u64::from(active) + 1) * (1 << 20) / u64::from(weight)
        };
        let draws = match choices {
            0 | 1 => 2,
            n => usize::from(n),
        };
        let mut best: Option<usize> = None;
        for drawn in 0..draws.min(pool.len()) {
            // Without replacement: what was drawn is moved in front.
            let other = drawn + rng.below((pool.len() - drawn) as u64) as usize;
            pool.swap(drawn, other);
            let &candidate = pool.get(drawn)?;
            if best.is_none_or(|best| load(candidate) < load(best)) {
                best = Some(candidate);
            }
        }
        best
    }

    /// Counts one use of the endpoint until the lease is dropped.
    pub(crate) fn lease(&self, index: usize) -> Option<Lease> {
        let active = Rc::clone(&self.slots.get(index)?.active);
        active.set(active.get().saturating_add(1));
        Some(Lease(active))
    }

    /// The endpoint's health, to note how an attempt went, even after the next snapshot.
    pub(crate) fn health(&self, index: usize) -> Option<Rc<Cell<Health>>> {
        Some(Rc::clone(&self.slots.get(index)?.health))
    }
}

fn random(eligible: &[usize], endpoints: &[Endpoint], rng: &mut Rng) -> Option<usize> {
    let weight = |index: usize| endpoints.get(index).map_or(0, |endpoint| u64::from(endpoint.weight));
    let mut point = rng.below(eligible.iter().map(|&index| weight(index)).sum());
    eligible.iter().copied().find(|&index| {
        let hit = point < weight(index);
        point = point.saturating_sub(weight(index));
        hit
    })
}

fn tiers(endpoints: &[Endpoint]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..endpoints.len()).collect();
    let priority = |index: usize| endpoints.get(index).map(|endpoint| endpoint.priority);
    order.retain(|&index| endpoints.get(index).is_some_and(|endpoint| endpoint.weight > 0));
    order.sort_by_key(|&index| priority(index));
    order.chunk_by(|&a, &b| priority(a) == priority(b)).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
