//! The report's arithmetic.

use super::*;

fn results(values: &[(&'static str, f64)]) -> Results {
    let mut results = Results::default();
    for (peer, value) in values {
        results.add(Sample { job: "h1-1k", peer: (*peer).to_owned(), value: *value, rate: 1.0, errors: 0.0 });
    }
    results
}

fn of(values: &[(&'static str, f64)]) -> Verdict {
    let job = jobs::find("h1-1k").unwrap_or_else(|| panic!("the job exists"));
    verdict(job, &results(values).figures("h1-1k"))
}

#[test]
fn the_median_of_an_even_number_is_between_the_middle_two() {
    assert!((median(vec![4.0, 1.0, 2.0, 100.0]) - 3.0).abs() < 1e-9);
    assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
}

#[test]
fn the_goal_is_met_only_when_all_of_it_is() {
    let met = of(&[("weir", 9.0), ("weir", 50.0), ("weir", 8.0), ("envoy", 37.0), ("haproxy", 12.0)]);
    assert_eq!((met.to_envoy.map(|r| (r * 100.0).round()), met.is_met), (Some(411.0), Some(true)));
    let behind_haproxy = of(&[("weir", 9.0), ("envoy", 37.0), ("haproxy", 10.0)]);
    assert_eq!(behind_haproxy.is_met, Some(false));
}

#[test]
fn without_the_peer_of_the_goal_nothing_is_claimed() {
    assert_eq!(of(&[("weir", 9.0), ("envoy", 37.0)]).is_met, None);
    assert_eq!(of(&[("envoy", 37.0)]).is_met, None);
}

#[test]
fn the_best_other_is_the_cheapest_that_is_neither_envoy_nor_weir() {
    let best = of(&[("weir", 10.0), ("envoy", 5.0), ("nginx", 20.0), ("haproxy", 30.0), ("bare", 1.0)]).best;
    assert_eq!(best.map(|(peer, ratio)| (peer, ratio.round())), Some(("nginx".to_owned(), 2.0)));
}

#[test]
fn the_floor_is_compared_and_is_no_peer() {
    let floor = of(&[("weir", 10.0), ("bare", 8.0), ("nginx", 20.0)]);
    assert_eq!(floor.to_bare.map(|ratio| (ratio * 10.0).round()), Some(8.0));
}

#[test]
fn only_the_generated_section_is_replaced_and_rows_survive_the_file() {
    let document = format!("by hand\n{BEGIN}\nold\n{END}\nalso by hand\n");
    let next = replace(&document, "new").unwrap_or_default();
    assert_eq!(next, format!("by hand\n{BEGIN}\nnew\n{END}\nalso by hand\n"));
    let rows = BTreeMap::from([("h1-1k".to_owned(), results(&[("weir", 1.5)]).figures("h1-1k"))]);
    assert_eq!(read_rows(&json!({"rows": write_rows(&rows)})), rows);
}
