//! `cargo xtask bench`: weir beside the peers that are installed, in one run and one table. Owns the command line and the
//! way of measuring; what is measured is in `scenarios/`, what is wanted in `jobs.rs`.

mod certs;
mod counts;
mod cpu;
mod jobs;
mod load;
mod meter;
mod netns;
mod options;
mod peers;
mod probe;
mod process;
mod report;
mod scenarios;
mod tool;

use certs::Certificates;
use load::Outcome;
use meter::{Meter, Unit};
use options::Options;
use peers::Slot;
use report::{Results, Sample};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) type Res<T> = Result<T, String>;

/// Of one run.
pub(crate) struct Context {
    pub(crate) seconds: u64,
    pub(crate) repeats: usize,
    pub(crate) weir: PathBuf,
    pub(crate) certificates: Certificates,
    options: Options,
    place: PathBuf,
    began: Instant,
}

pub(crate) fn tool(arguments: &[String]) -> Res<()> {
    tool::run(arguments)
}

pub(crate) fn run(root: &Path, arguments: &[String]) -> Res<()> {
    let options = Options::parse(arguments)?;
    if options.is_list {
        return list();
    }
    if !netns::is_inside() {
        return outside(&options, arguments);
    }
    netns::prepare()?;
    tool::more_descriptors()?;
    // Questions of the harness itself must not cost the proxy's core.
    cpu::pin(&[std::process::id()], process::LOAD_CORE)?;
    let place = std::env::temp_dir().join(format!("weir-bench-{}", date("+%s")));
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let weir = options.weir(root);
    let certificates = Certificates::make(&place)?;
    let (seconds, repeats) = (options.seconds, options.repeats);
    let context = Context { seconds, repeats, weir, certificates, options, place, began: Instant::now() };
    let results = scenarios::run_all(&context);
    let _left = fs::remove_dir_all(&context.place);
    match context.options.unit {
        Unit::CpuTime => report::finish(root, &results, &context.options),
        unit => counts::finish(root, &results, unit, context.options.is_recorded),
    }
}

/// Builds weir and the load tools optimised, says what is missing, and goes inside.
fn outside(options: &Options, arguments: &[String]) -> Res<()> {
    for (program, install) in peers::PEERS.iter().chain(&peers::LOADS) {
        if peers::find(program).is_none() {
            say(&format!("{program} is not installed and left out: {install}"));
        }
    }
    if !options.has_own_binary() {
        crate::run("cargo", &["build", "--profile", &options.profile, "--package", "weir"])?;
    }
    if cfg!(debug_assertions) {
        // Loads must not be what limits: this program again, optimised.
        let mut line = vec!["run", "--quiet", "--profile", &options.profile, "--package", "xtask", "--", "bench"];
        line.extend(arguments.iter().map(String::as_str));
        return crate::run("cargo", &line);
    }
    let status = netns::enter()?;
    if status.success() { Ok(()) } else { Err(format!("the run ended with {status}")) }
}

fn list() -> Res<()> {
    for job in jobs::JOBS {
        println!("{:14} {} ({})", job.id, job.title, report::goal_text(job));
    }
    Ok(())
}

impl Context {
    pub(crate) fn wants(&self, job: &str) -> bool {
        let is_countable = |job| jobs::find(job).is_some_and(|job| job.unit == jobs::CPU);
        self.options.wants_job(job) && (self.unit() == Unit::CpuTime || is_countable(job))
    }

    pub(crate) fn unit(&self) -> Unit {
        self.options.unit
    }

    pub(crate) fn wants_peer(&self, peer: &str) -> bool {
        // Only weir is started under callgrind.
        (self.unit() != Unit::Instructions || peer == "weir")
            && self.options.wants_peer(peer)
            && (peer == "weir" || peer == "bare" || self.program(peer).is_some())
    }

    pub(crate) fn program(&self, peer: &str) -> Option<PathBuf> {
        peers::find(if peer == "knot" { "knotd" } else { peer })
    }

    /// An empty folder of its own.
    pub(crate) fn folder(&self, name: &str) -> Res<PathBuf> {
        let folder = self.place.join(name);
        let _absent = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(folder)
    }

    pub(crate) fn is_late(&self) -> bool {
        self.began.elapsed() > options::RUN_MAX
    }

    /// What a program of this run is started with so that its cost can be read.
    pub(crate) fn launcher(&self) -> Vec<String> {
        self.unit().launcher(&self.place)
    }

    /// Runs `load` against every slot in turn, `repeats` times; the value is the cost of an operation, in CPU time unless
    /// something else is counted.
    pub(crate) fn measure(
        &self,
        results: &mut Results,
        job: &'static str,
        slots: &[Slot],
        load: impl Fn(&Slot) -> Res<Outcome>,
    ) -> Res<()> {
        self.measure_own(results, job, slots, |slot| Ok((load(slot)?, None)))
    }

    /// As `measure`, where the load may say a value of its own.
    pub(crate) fn measure_own(
        &self,
        results: &mut Results,
        job: &'static str,
        slots: &[Slot],
        load: impl Fn(&Slot) -> Res<(Outcome, Option<f64>)>,
    ) -> Res<()> {
        if !self.wants(job) {
            return Ok(());
        }
        if self.unit() != Unit::CpuTime {
            // Counts would include what happens once: state saved, connections and caches filled.
            slots.iter().try_for_each(|slot| load(slot).map(|_| ()))?;
        }
        for _ in 0..self.repeats {
            for slot in slots {
                let metered = || {
                    let meter = Meter::start(self.unit(), slot.family(), &self.place)?;
                    let done = load(slot);
                    let cost = meter.stop()?;
                    done.map(|(outcome, own)| (own.unwrap_or(cost / outcome.operations), outcome))
                };
                match metered() {
                    Ok((value, outcome)) => results.add(Sample::new(job, slot.name, value, &outcome)),
                    Err(problem) => say(&format!("{job}, {}: {problem}", slot.name)),
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn say(text: &str) {
    eprintln!("bench: {text}");
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Res<()> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn run_quiet(program: &str, arguments: &[&str]) -> Res<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} can't be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

pub(crate) fn date(format: &str) -> String {
    let output = Command::new("date").args(["-u", format]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
