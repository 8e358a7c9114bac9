//! The command line of `cargo xtask bench`.

use super::meter::Unit;
use super::{Res, jobs};
use std::path::{Path, PathBuf};
use std::time::Duration;

const USAGE: &str = "usage: cargo xtask bench [JOB or its beginning ...] [--secs N] [--reps N] [--only weir,envoy,..]
                         [--weir PATH] [--profile NAME] [--no-write] [--list]
                         [--count instructions|calls [--record]]
The table goes to stdout and, row by row, into docs/performance.md. Needs root for a network namespace.
--count compares counts per operation with benches/counts.json instead, and fails where weir needs more than before;
--record replaces them.";
/// No group of jobs begins later than this.
pub(crate) const RUN_MAX: Duration = Duration::from_secs(20 * 60);

pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) repeats: usize,
    pub(crate) is_list: bool,
    pub(crate) is_written: bool,
    pub(crate) profile: String,
    pub(crate) unit: Unit,
    pub(crate) is_recorded: bool,
    jobs: Vec<String>,
    only: Vec<String>,
    weir: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Res<Self> {
        let mut options = Self {
            seconds: 2,
            repeats: 3,
            is_list: false,
            is_written: true,
            profile: "release".to_owned(),
            unit: Unit::CpuTime,
            is_recorded: false,
            jobs: Vec::new(),
            only: Vec::new(),
            weir: None,
        };
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{word} needs a value\n{USAGE}"));
            let number =
                |text: &String| text.parse::<u64>().map_err(|_| format!("{word} {text}: not a number\n{USAGE}"));
            match word.as_str() {
                "--secs" => options.seconds = number(value()?)?.clamp(1, 60),
                "--reps" => options.repeats = usize::try_from(number(value()?)?.clamp(1, 20)).unwrap_or(3),
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--weir" => options.weir = Some(PathBuf::from(value()?)),
                "--profile" => options.profile = value()?.clone(),
                "--no-write" => options.is_written = false,
                "--count" => options.unit = Unit::parse(value()?).ok_or(USAGE)?,
                "--record" => options.is_recorded = true,
                "--list" => options.is_list = true,
                job if jobs::JOBS.iter().any(|known| known.id.starts_with(job)) => options.jobs.push(job.to_owned()),
                _ => return Err(format!("{word}: neither a job (--list) nor a flag\n{USAGE}")),
            }
        }
        Ok(options)
    }

    pub(crate) fn wants_job(&self, job: &str) -> bool {
        // A job's own name means it alone; anything else is the beginning of several.
        let means =
            |word: &String| if jobs::find(word).is_some() { word == job } else { job.starts_with(word.as_str()) };
        self.jobs.is_empty() || self.jobs.iter().any(means)
    }

    pub(crate) fn wants_peer(&self, peer: &str) -> bool {
        self.only.is_empty() || peer == "bare" || self.only.iter().any(|only| only == peer)
    }

    pub(crate) fn has_own_binary(&self) -> bool {
        self.weir.is_some()
    }

    /// The given binary, or the one just built.
    pub(crate) fn weir(&self, root: &Path) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        self.weir.clone().unwrap_or_else(|| target.join(&self.profile).join("weir"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Res<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_jobs_own_name_means_it_alone_and_a_beginning_all_that_begin_so() {
        let one = parse("h1-1k --secs 1").unwrap_or_else(|problem| panic!("{problem}"));
        assert!(one.wants_job("h1-1k") && !one.wants_job("h1-1k-routes"));
        let many = parse("h1-").unwrap_or_else(|problem| panic!("{problem}"));
        assert!(many.wants_job("h1-1k-routes") && many.wants_job("h1-64k") && !many.wants_job("h2c-1k"));
    }

    #[test]
    fn an_unknown_job_is_refused_with_the_usage() {
        assert!(parse("h3-1k").err().is_some_and(|problem| problem.contains("usage:")));
    }
}
