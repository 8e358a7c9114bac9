//! `cargo xtask VERB`: what developers and CI run, the same on every machine. It knows the repository's files and
//! cargo's commands; it must not depend on the crates it checks.

mod bench;
mod edges;
mod rules;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask VERB
  ci      format, clippy, tidy, and all tests: what must pass before a merge
  tidy    the rules of the house (design.md R1-R15) that a program can see
  proto   regenerate the control channel's code from its .proto
  bench   weir beside its peers, one table (--list: the jobs); `cargo bench` has the parts
  demo    a small mesh on this machine, to look at";

fn main() -> ExitCode {
    let verb = std::env::args().nth(1).unwrap_or_default();
    let done = match verb.as_str() {
        "ci" => ci(),
        "tidy" => tidy(),
        "proto" => run("cargo", &["run", "--quiet", "--manifest-path", "xtask/proto-gen/Cargo.toml"])
            .and_then(|()| run("cargo", &["fmt", "--package", "control", "--package", "proxy"])),
        "bench" => bench::run(&root(), &std::env::args().skip(2).collect::<Vec<_>>()),
        "bench-tool" => bench::tool(&std::env::args().skip(2).collect::<Vec<_>>()),
        "demo" => run("cargo", &["run", "--release", "--", "demo"]),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Cheapest first.
fn ci() -> Result<(), String> {
    run("cargo", &["fmt", "--all", "--check"])?;
    tidy()?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    run("cargo", &["test", "--workspace", "--locked"])
}

fn tidy() -> Result<(), String> {
    let findings = tidy::findings(&root())?;
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(format!("{}\n{} findings; the rules are in design.md", lines.join("\n"), lines.len()))
}

/// The workspace's root, which is xtask's parent wherever it was checked out.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    eprintln!("xtask: {line}");
    let status = Command::new(program).args(arguments).current_dir(root()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(error) => Err(format!("`{line}` can't be started: {error}")),
    }
}
