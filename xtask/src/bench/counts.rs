//! Instructions and system calls of an operation beside what they were when last recorded (benches/counts.json): a
//! regression shows here before a stopwatch sees it. Starts nothing.

use super::meter::Unit;
use super::report::Results;
use super::{Res, write};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// More than this share above what was recorded is a regression; batches of events vary less.
const TOLERANCE: f64 = 0.05;

/// Prints a row a job; fails, with all of them, where weir needs more than before.
pub(crate) fn finish(root: &Path, results: &Results, unit: Unit, is_recorded: bool) -> Res<()> {
    let store = root.join("benches/counts.json");
    let mut kept = match fs::read_to_string(&store) {
        Ok(text) => {
            serde_json::from_str::<Map<String, Value>>(&text).map_err(|e| format!("{}: {e}", store.display()))?
        }
        Err(_) => Map::new(),
    };
    let before = |job: &str| kept.get(job).and_then(|row| row[unit.name()].as_f64());
    let ours = results.values("weir");
    let others: Vec<_> = results.peers().into_iter().filter(|peer| peer != "weir").collect();
    let others: Vec<_> = others.iter().map(|peer| (peer, results.values(peer))).collect();
    println!(
        "| job | {} | recorded | {}",
        unit.name(),
        others.iter().map(|(peer, _)| format!("{peer} | ")).collect::<String>()
    );
    println!("|---|---|---|{}", "---|".repeat(others.len()));
    for (job, value) in &ours {
        let cell =
            |values: &BTreeMap<&str, f64>| values.get(job).map_or("–".to_owned(), |value| format!("{value:.1}"));
        let recorded = before(job).map_or("–".to_owned(), |value| format!("{value:.1}"));
        let others: String = others.iter().map(|(_, values)| format!(" {} |", cell(values))).collect();
        println!("| {job} | {value:.1} | {recorded} |{others}");
    }
    if is_recorded {
        for (job, value) in ours {
            kept.entry(job).or_insert_with(|| json!({}))[unit.name()] = json!((value * 10.0).round() / 10.0);
        }
        let text = serde_json::to_string_pretty(&kept).map_err(|error| format!("counts.json: {error}"))?;
        return write(&store, text + "\n");
    }
    let worse = worse(&ours, before);
    if worse.is_empty() { Ok(()) } else { Err(format!("more {} than recorded: {}", unit.name(), worse.join(", "))) }
}

fn worse(ours: &BTreeMap<&'static str, f64>, before: impl Fn(&str) -> Option<f64>) -> Vec<String> {
    let change = |(job, value): (&&'static str, &f64)| {
        let share = value / before(job)? - 1.0;
        (share > TOLERANCE).then(|| format!("{job} +{:.0} %", share * 100.0))
    };
    ours.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_is_more_than_the_tolerance_above_what_was_recorded() {
        let ours = BTreeMap::from([("a", 104.0), ("b", 106.0), ("new", 5.0)]);
        assert_eq!(worse(&ours, |job| (job != "new").then_some(100.0)), ["b +6 %"]);
    }
}
