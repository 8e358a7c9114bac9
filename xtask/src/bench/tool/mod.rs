//! `cargo xtask bench-tool NAME ...`: backends and load generators that no package offers. Each is one thread; it must not
//! be what limits a measurement. They know no peer and print one line of JSON.

mod bare;
mod dns;
mod echo;
mod events;
mod histogram;
mod http;
mod http2;
mod idle;
mod load;
mod tls;

pub(crate) use tls::client_hello;

use super::Res;
use histogram::Histogram;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::time::Duration;

const USAGE: &str = "usage: cargo xtask bench-tool
  http PORT | http2 PORT | echo PORT | sink PORT
                                             a backend on loopback
  copy|splice PORT BACKEND                   a forwarder that only moves bytes: the floor
  rr|crr ADDRESS CONNECTIONS SECS [FILE]     messages of 64 bytes (or FILE's), kept or new connections, echoed back
  bulk ADDRESS STREAMS SECS                  bytes one way; an operation is a MiB
  idle ADDRESS CONNECTIONS HOST              one request on each connection, then silence until stdin ends
  dns ADDRESS NAMES SECS                     A questions for svc0.mesh.. of 4 sockets, 16 in flight each
  tls ADDRESS SECS full|resume SNI           handshake, one GET, close; 16 at a time";

/// What a load did.
pub(crate) struct Report {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) elapsed: Duration,
    pub(crate) times: Histogram,
}

pub(crate) fn run(arguments: &[String]) -> Res<()> {
    more_descriptors()?;
    let word = |at: usize| arguments.get(at).map(String::as_str).ok_or_else(|| USAGE.to_owned());
    let number = |at: usize| word(at)?.parse::<usize>().map_err(|_| USAGE.to_owned());
    let seconds = |at: usize| {
        let seconds = word(at)?.parse::<f64>().map_err(|_| USAGE.to_owned())?;
        Duration::try_from_secs_f64(seconds).map_err(|_| USAGE.to_owned())
    };
    let address = || word(1)?.parse().map_err(|_| USAGE.to_owned());
    let port = || word(1)?.parse().map_err(|_| USAGE.to_owned());
    let backend = || word(2)?.parse().map_err(|_| USAGE.to_owned());
    let report = match word(0)? {
        "http" => return http::serve(port()?),
        "http2" => return http2::serve(port()?),
        "echo" => return echo::serve(port()?, echo::Way::Back),
        "sink" => return echo::serve(port()?, echo::Way::Nowhere),
        "copy" => return bare::serve(port()?, backend()?, bare::Way::Copy),
        "splice" => return bare::serve(port()?, backend()?, bare::Way::Splice),
        "idle" => return idle::hold(address()?, number(2)?, word(3)?),
        "rr" => load::messages(address()?, number(2)?, seconds(3)?, &load::payloads(arguments.get(4))?, false)?,
        "crr" => load::messages(address()?, number(2)?, seconds(3)?, &load::payloads(arguments.get(4))?, true)?,
        "bulk" => load::bulk(address()?, number(2)?, seconds(3)?)?,
        "dns" => dns::ask(address()?, number(2)?, seconds(3)?)?,
        "tls" => tls::handshakes(address()?, seconds(2)?, word(3)? == "resume", word(4)?)?,
        _ => return Err(USAGE.to_owned()),
    };
    println!("{}", report.json());
    Ok(())
}

impl Report {
    fn json(&self) -> serde_json::Value {
        let seconds = self.elapsed.as_secs_f64();
        json!({"ops": self.operations, "errs": self.errors, "secs": seconds, "rate": self.operations as f64 / seconds,
            "p50_us": self.times.quantile_us(0.5), "p99_us": self.times.quantile_us(0.99)})
    }
}

pub(crate) fn more_descriptors() -> Res<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("RLIMIT_NOFILE: {error}"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| format!("RLIMIT_NOFILE: {error}"))
}
