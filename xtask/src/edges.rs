//! Which crate may depend on which: the arrows of design.md against `cargo metadata`. A crate that isn't listed here
//! is a finding, so that a new one gets its arrows decided.

use crate::tidy::Finding;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Every crate of the workspace, and the ones it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("weir", &["control", "proxy", "dns", "snapshot"]),
    ("control", &["snapshot"]),
    ("dns", &["snapshot"]),
    ("proxy", &["dns", "snapshot"]),
    ("snapshot", &[]),
    ("harness", &[]),
    ("benches", &["control", "proxy", "dns", "snapshot"]),
    ("xtask", &[]),
];
/// What tests of these crates may use beyond that.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[("weir", &["harness"]), ("proxy", &["harness"]), ("dns", &["harness"])];
/// Everything of others that the contract may use: no runtime, no network, no YAML.
const OF_SNAPSHOT: &[&str] = &["arc-swap", "hashbrown", "regex", "rmp-serde", "serde", "serde_json"];

pub(crate) fn metadata(root: &Path) -> Result<Value, String> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new("cargo").args(arguments).current_dir(root).output();
    let output = output.map_err(|error| format!("`cargo metadata` can't be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("`cargo metadata` isn't JSON: {error}"))
}

pub(crate) fn check(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = of(ALLOWED, name) else {
            findings.push(finding(name, "has no arrows in xtask/src/edges.rs and design.md".into()));
            continue;
        };
        let in_tests = of(ALLOWED_IN_TESTS, name).unwrap_or_default();
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_test = dependency["kind"].as_str() == Some("dev");
            let fine = allowed.contains(&target) || (is_test && in_tests.contains(&target));
            if members.contains(&target) && !fine {
                findings.push(finding(name, format!("must not depend on `{target}`")));
            } else if name == "snapshot" && !is_test && !OF_SNAPSHOT.contains(&target) {
                findings.push(finding(name, format!("must not depend on `{target}`, only on {OF_SNAPSHOT:?}")));
            }
        }
    }
    findings
}

fn of<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(row, _)| *row == name).map(|(_, targets)| *targets)
}

fn finding(package: &str, problem: String) -> Finding {
    Finding { path: format!("crate {package}"), line: 0, problem: format!("{problem} (R1)") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings_of(package: &str, dependency: &str, kind: Value) -> Vec<Finding> {
        let members = ["proxy", "control", "dns", "snapshot", "harness"].map(|name| json!({"name": name}));
        let package = json!({"name": package, "dependencies": [{"name": dependency, "kind": kind}]});
        let packages: Vec<Value> = members.into_iter().chain([package]).collect();
        check(&json!({ "packages": packages }))
    }

    #[test]
    fn an_arrow_that_the_design_forbids_is_found() {
        for (package, dependency) in [
            ("proxy", "control"),
            ("dns", "proxy"),
            ("dns", "control"),
            ("control", "proxy"),
            ("snapshot", "dns"),
            ("xtask", "snapshot"),
            ("snapshot", "tokio"),
            ("proxy", "harness"),
        ] {
            assert_eq!(findings_of(package, dependency, Value::Null).len(), 1, "{package} -> {dependency}");
        }
        assert_eq!(findings_of("stranger", "serde", Value::Null).len(), 1);
    }

    #[test]
    fn an_arrow_of_the_design_is_no_finding() {
        for (package, dependency) in
            [("proxy", "dns"), ("control", "snapshot"), ("snapshot", "serde"), ("dns", "tokio")]
        {
            assert_eq!(findings_of(package, dependency, Value::Null), []);
        }
        assert_eq!(findings_of("proxy", "harness", json!("dev")), []);
        assert_eq!(findings_of("snapshot", "tempfile", json!("dev")), []);
    }
}
