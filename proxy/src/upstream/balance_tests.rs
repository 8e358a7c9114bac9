//! Distribution, priority and ejection of endpoints.

use super::*;
use snapshot::Origin;
use std::net::IpAddr;
use std::time::Duration;

/// `(weight, priority)` of each endpoint.
fn endpoints(rows: &[(u32, u8)]) -> Arc<Vec<Endpoint>> {
    let endpoint = |(index, &(weight, priority)): (usize, &(u32, u8))| Endpoint {
        address: Address::Ip(IpAddr::from([10, 0, 0, index as u8])),
        port: 80,
        weight,
        priority,
        zone: String::new(),
        origin: Origin::default(),
    };
    Arc::new(rows.iter().enumerate().map(endpoint).collect())
}

fn state(rows: &[(u32, u8)]) -> (State, Rng) {
    let (mut state, mut rng) = (State::default(), Rng::new(7));
    state.sync(&endpoints(rows), &mut rng);
    (state, rng)
}

fn counts(rows: &[(u32, u8)], balance: Balance, picks: usize) -> Vec<usize> {
    let (mut state, mut rng) = state(rows);
    let mut counts = vec![0; rows.len()];
    for _ in 0..picks {
        counts[state.pick(balance, &[], &mut rng, Instant::now).unwrap()] += 1;
    }
    counts
}

fn eject(state: &State, index: usize, now: Instant) {
    let health = state.health(index).unwrap();
    health.set(health.get().failed(now));
}

#[test]
fn round_robin_gives_each_its_weight_exactly() {
    assert_eq!(counts(&[(1, 0), (1, 0), (1, 0)], Balance::RoundRobin, 300), [100, 100, 100]);
    let weighted = counts(&[(5, 0), (1, 0), (0, 0), (2, 0)], Balance::RoundRobin, 800);
    for (count, ideal) in weighted.iter().zip([500_usize, 100, 0, 200]) {
        assert!(count.abs_diff(ideal) <= 1, "{weighted:?}");
    }
}

#[test]
fn random_follows_the_weights() {
    let counts = counts(&[(3, 0), (1, 0), (0, 0)], Balance::Random, 40_000);
    assert!((29_000..31_000).contains(&counts[0]), "{counts:?}");
    assert_eq!(counts[2], 0);
}

#[test]
fn least_request_avoids_the_busy_endpoint() {
    let (mut state, mut rng) = state(&[(1, 0), (1, 0)]);
    let _busy = [state.lease(0), state.lease(0)];
    for _ in 0..100 {
        assert_eq!(state.pick(Balance::LeastRequest { choices: 2 }, &[], &mut rng, Instant::now), Some(1));
    }
}

#[test]
fn least_request_spreads_equal_load() {
    let counts = counts(&[(1, 0); 4], Balance::LeastRequest { choices: 2 }, 4_000);
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}

#[test]
fn a_lease_ends_with_its_drop() {
    let (state, _) = state(&[(1, 0)]);
    let lease = state.lease(0);
    assert_eq!(state.slots[0].active.get(), 1);
    drop(lease);
    assert_eq!(state.slots[0].active.get(), 0);
}

#[test]
fn the_pick_is_of_the_lowest_priority_that_is_eligible() {
    // (endpoints as (weight, priority), ejected, tried, expected)
    type Case = (&'static [(u32, u8)], &'static [usize], &'static [usize], Option<usize>);
    let table: &[Case] = &[
        (&[], &[], &[], None),
        (&[(0, 0)], &[], &[], None),
        (&[(1, 0)], &[], &[], Some(0)),
        (&[(1, 1), (1, 0)], &[], &[], Some(1)),
        (&[(1, 0), (1, 1)], &[0], &[], Some(1)),
        (&[(1, 0), (1, 1)], &[], &[0], Some(1)),
        (&[(1, 0), (1, 0)], &[0], &[], Some(1)),
        (&[(1, 0), (1, 1)], &[0, 1], &[], Some(0)),
        (&[(1, 0), (1, 0)], &[0, 1], &[0], Some(1)),
        (&[(1, 0), (1, 1)], &[1], &[0], Some(1)),
        (&[(1, 0), (1, 0)], &[], &[0, 1], None),
        (&[(0, 0), (1, 3)], &[], &[], Some(1)),
    ];
    for (rows, ejected, tried, expected) in table {
        for balance in [Balance::RoundRobin, Balance::LeastRequest { choices: 2 }, Balance::Random] {
            let (mut state, mut rng) = state(rows);
            let now = Instant::now();
            ejected.iter().for_each(|&index| eject(&state, index, now));
            assert_eq!(state.pick(balance, tried, &mut rng, || now), *expected, "{rows:?} {ejected:?} {tried:?}");
        }
    }
}

#[test]
fn an_ejected_endpoint_comes_back_when_its_pause_is_over() {
    let (mut state, mut rng) = state(&[(1, 0), (1, 0)]);
    let now = Instant::now();
    eject(&state, 0, now);
    let later = now + Duration::from_secs(2);
    let picks: Vec<_> = (0..4).map(|_| state.pick(Balance::RoundRobin, &[], &mut rng, || later).unwrap()).collect();
    assert!(picks.contains(&0), "{picks:?}");
}

#[test]
fn an_address_that_stays_keeps_its_state_over_a_publish() {
    let (mut state, mut rng) = state(&[(1, 0), (1, 0)]);
    let now = Instant::now();
    eject(&state, 1, now);
    let lease = state.lease(1);
    state.sync(&endpoints(&[(1, 0), (1, 0), (1, 0)]), &mut rng);
    assert!(state.slots[1].health.get().is_ejected(|| now));
    assert!(!state.slots[2].health.get().is_ejected(|| now));
    assert_eq!(state.slots[1].active.get(), 1);
    drop(lease);
    assert_eq!(state.slots[1].active.get(), 0);
}
