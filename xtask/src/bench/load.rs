//! Runs a load on its core and reads what it counted: wrk, h2load, and xtask's own. Knows no peer and no goal.

use super::process::{LOAD_CORE, on_core};
use super::{Context, Res};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) operations: f64,
    pub(crate) rate: f64,
    pub(crate) errors: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// `xtask bench-tool ARGUMENTS`.
pub(crate) fn tool(arguments: &[&str]) -> Res<Outcome> {
    let text = output(tool_command(LOAD_CORE)?.args(arguments))?;
    let json: Value = serde_json::from_str(&text).map_err(|_| format!("{arguments:?} answered: {text}"))?;
    let number = |key: &str| json[key].as_f64().unwrap_or(0.0);
    Ok(Outcome {
        operations: number("ops"),
        rate: number("rate"),
        errors: number("errs"),
        p50_us: number("p50_us"),
        p99_us: number("p99_us"),
    })
}

pub(crate) fn tool_command(core: usize) -> Res<Command> {
    let program = std::env::current_exe().map_err(|error| format!("xtask's own path: {error}"))?;
    let mut command = on_core(core, program);
    command.arg("bench-tool");
    Ok(command)
}

fn output(command: &mut Command) -> Res<String> {
    let line = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{line}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{line}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// What wrk is asked to do.
pub(crate) struct Wrk<'a> {
    pub(crate) core: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: u64,
    pub(crate) url: String,
    pub(crate) header: Option<&'a str>,
    pub(crate) script: Option<&'a Path>,
}

pub(crate) fn wrk(wanted: &Wrk<'_>) -> Res<Outcome> {
    wrk_outcome(&output(&mut wrk_command(wanted))?)
}

pub(crate) fn wrk_command(wanted: &Wrk<'_>) -> Command {
    let mut command = on_core(wanted.core, "wrk");
    command.args(["-t1", "--latency", "--timeout", "10s"]);
    command.arg(format!("-c{}", wanted.connections)).arg(format!("-d{}s", wanted.seconds));
    if let Some(header) = wanted.header {
        command.args(["-H", header]);
    }
    if let Some(script) = wanted.script {
        command.arg("-s").arg(script);
    }
    command.arg(&wanted.url);
    command
}

pub(crate) fn wrk_outcome(text: &str) -> Res<Outcome> {
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest.trim_start());
    let first =
        |text: Option<&str>| text.and_then(|text| text.split_whitespace().next()).unwrap_or_default().to_owned();
    let rate = first(after("Requests/sec:")).parse().map_err(|_| format!("wrk answered: {text}"))?;
    let before = text.split_once(" requests in").map(|(before, _)| before).unwrap_or_default();
    let operations = before.split_whitespace().last().unwrap_or_default().parse().unwrap_or(0.0);
    let socket_errors = after("Socket errors:").and_then(|rest| rest.lines().next()).unwrap_or_default();
    let errors = socket_errors.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<f64>().ok()).sum::<f64>()
        + first(after("Non-2xx or 3xx responses:")).parse::<f64>().unwrap_or(0.0);
    let quantile = |key: &str| microseconds(&first(after(key)));
    Ok(Outcome { operations, rate, errors, p50_us: quantile("\n     50%"), p99_us: quantile("\n     99%") })
}

fn microseconds(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => 6e7,
    };
    number.parse::<f64>().unwrap_or(0.0) * factor
}

/// Eight connections with 32 streams each.
pub(crate) fn h2load(context: &Context, url: &str) -> Res<Outcome> {
    let mut command = on_core(LOAD_CORE, "h2load");
    command.args(["-t1", "-c8", "-m32", "-D", &context.seconds.to_string(), url]);
    h2load_outcome(&output(&mut command)?)
}

fn h2load_outcome(text: &str) -> Res<Outcome> {
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    let numbers = |line: &str| -> Vec<f64> {
        line.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|word| word.parse().ok()).collect()
    };
    let before = line("finished in").split(" req/s").next().unwrap_or_default();
    let rate = before.split_whitespace().last().unwrap_or_default().parse();
    let rate = rate.map_err(|_| format!("h2load answered: {text}"))?;
    // total, started, done, succeeded, failed, errored, timeout; 2xx, 3xx, 4xx, 5xx with their own digits in between.
    let requests = numbers(line("requests:"));
    let codes: Vec<f64> = line("status codes:").split(',').filter_map(|part| numbers(part).first().copied()).collect();
    let at = |list: &[f64], at: usize| list.get(at).copied().unwrap_or(0.0);
    let errors = at(&requests, 4) + at(&codes, 2) + at(&codes, 3);
    Ok(Outcome { operations: at(&requests, 3), rate, errors, ..Outcome::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_rate_quantiles_and_errors_are_read() {
        let text = "  Latency Distribution\n     50%  624.00us\n     75%    1.00ms\n     99%    2.50ms\n  \
            198765 requests in 2.00s, 250.00MB read\n  Socket errors: connect 0, read 3, write 0, timeout 1\n  \
            Non-2xx or 3xx responses: 6\nRequests/sec:  99382.50\nTransfer/sec:    125.00MB\n";
        let outcome = wrk_outcome(text).unwrap_or_default();
        assert_eq!((outcome.operations, outcome.rate, outcome.errors), (198_765.0, 99_382.5, 10.0));
        assert_eq!((outcome.p50_us, outcome.p99_us), (624.0, 2_500.0));
    }

    #[test]
    fn h2loads_rate_and_failures_are_read() {
        let text = "finished in 2.00s, 51234.50 req/s, 52.00MB/s\n\
            requests: 102480 total, 102725 started, 102480 done, 102469 succeeded, 11 failed, 0 errored, 0 timeout\n\
            status codes: 102469 2xx, 0 3xx, 4 4xx, 7 5xx\n";
        let outcome = h2load_outcome(text).unwrap_or_default();
        assert_eq!((outcome.operations, outcome.rate, outcome.errors), (102_469.0, 51_234.5, 22.0));
    }
}
