//! What became of names and addresses, for operators: who lost a name, what has none and why. Values only.

use super::{Conflict, Hostnames, NameWarning, Skipped, View};
use crate::vip::{Key, Problem};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

impl Passes {
    pub fn count(&mut self, took: Duration, is_done: bool) {
        if is_done {
            self.done += 1;
            self.ms += took.as_secs_f64() * 1e3;
        } else {
            self.failed += 1;
        }
    }
}

/// Of all meshes, after one pass.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    pub meshes: BTreeMap<String, MeshNaming>,
    /// Exhausted ranges of MeshServices and their kin, by kind.
    pub services: Vec<(&'static str, Problem)>,
    /// By `service_key`.
    pub hostnames: BTreeMap<Key, Hostnames>,
    pub passes: Passes,
}

/// Listed of each, at most; all are counted.
const LISTED_MAX: usize = 1000;

#[derive(Clone, Debug, Default)]
pub struct MeshNaming {
    /// Services, hosts and names that want an address.
    pub entries: usize,
    pub conflict_count: usize,
    pub conflicts: Vec<Conflict>,
    pub skipped_count: usize,
    pub skipped: Vec<Skipped>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// Passes over all meshes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passes {
    pub done: u64,
    pub ms: f64,
    pub failed: u64,
}

impl MeshNaming {
    pub fn of(view: &View, problems: &[Problem], warnings: &[NameWarning]) -> Self {
        Self {
            entries: view.entries.len(),
            conflict_count: view.conflicts.len(),
            conflicts: view.conflicts.iter().take(LISTED_MAX).cloned().collect(),
            skipped_count: view.skipped.len(),
            skipped: view.skipped.iter().take(LISTED_MAX).cloned().collect(),
            problems: problems.to_vec(),
            warnings: warnings.iter().take(LISTED_MAX).map(ToString::to_string).collect(),
        }
    }
}

/// Names without an address, because a range is exhausted.
fn unnamed(problems: &[Problem]) -> usize {
    let of = |problem: &Problem| match problem {
        Problem::Exhausted { unnamed, .. } => *unnamed,
        _ => 0,
    };
    // Both families lack the same names.
    problems.iter().map(of).max().unwrap_or(0)
}

impl Naming {
    /// Prometheus' text format; `vip_generation*` are Kuma's.
    pub fn to_metrics(&self) -> String {
        let Passes { done, ms, failed } = self.passes;
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, rows: Vec<(String, String)>| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let passes = vec![("_sum".to_owned(), format!("{ms:.3}")), ("_count".to_owned(), done.to_string())];
        family("vip_generation", "summary", "Milliseconds of a pass that names and allocates.", passes);
        let failures = vec![(String::new(), failed.to_string())];
        family("vip_generation_errors", "counter", "Passes whose addresses could not be made durable.", failures);
        let of_mesh = |value: &dyn Fn(&MeshNaming) -> usize| {
            let row =
                |(mesh, naming): (&String, &MeshNaming)| (format!("{{mesh=\"{mesh}\"}}"), value(naming).to_string());
            self.meshes.iter().map(row).collect::<Vec<_>>()
        };
        family("weir_names", "gauge", "Entries that want an address.", of_mesh(&|n| n.entries));
        let help = "Entries without an address, because the range is exhausted.";
        let mut exhausted = of_mesh(&|n| unnamed(&n.problems));
        exhausted.extend(self.services.iter().map(|(kind, problem)| {
            (format!("{{kind=\"{kind}\"}}"), unnamed(std::slice::from_ref(problem)).to_string())
        }));
        family("weir_names_without_address", "gauge", help, exhausted);
        let help = "Resources that lost a name and port to another.";
        family("weir_name_conflicts", "gauge", help, of_mesh(&|n| n.conflict_count));
        family(
            "weir_names_skipped",
            "gauge",
            "Names that a template or resource could not give.",
            of_mesh(&|n| n.skipped_count),
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k7_a_pass_is_a_sample_and_an_exhausted_range_is_counted_by_mesh() {
        let exhausted = Problem::Exhausted { range: "r".into(), unnamed: 3, examples: Vec::new(), quarantined: 1 };
        let mesh = MeshNaming { entries: 5, problems: vec![exhausted.clone()], ..MeshNaming::default() };
        let naming = Naming {
            meshes: [("default".to_owned(), mesh)].into(),
            services: vec![("MeshService", exhausted)],
            passes: Passes { done: 1, ms: 2.5, failed: 0 },
            ..Naming::default()
        };
        let text = naming.to_metrics();
        for line in [
            "vip_generation_count 1",
            "vip_generation_sum 2.500",
            "vip_generation_errors 0",
            "weir_names{mesh=\"default\"} 5",
            "weir_names_without_address{mesh=\"default\"} 3",
            "weir_names_without_address{kind=\"MeshService\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
