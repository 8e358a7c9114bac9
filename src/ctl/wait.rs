//! `dp wait`: asks a proxy's admin port until it is ready.

use super::Done;
use super::client::{Api, Trust};
use crate::cli::Wait;
use crate::failure::Failure;
use http::{Method, StatusCode};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(crate) async fn wait(args: Wait) -> Done {
    let duration = |flag: &str, text: &str| -> Result<Duration, Failure> {
        control::time::parse_go_duration(text).map_err(|e| Failure::usage(format!("{flag}: {e}")))
    };
    let timeout = duration("--timeout", &args.timeout)?;
    let pause = duration("--check-frequency", &args.check_frequency)?;
    let request = duration("--request-timeout", &args.request_timeout)?;
    let api = Api { trust: Trust::Anybody, ..Api::new(args.url, request) };
    let deadline = Instant::now() + timeout;
    loop {
        let last = match api.send(Method::GET, "", None).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(String::new()),
            Ok(answer) => format!("HTTP status {}", answer.status),
            Err(failure) => failure.text,
        };
        if Instant::now() + pause > deadline {
            return Err(Failure::failed(format!(
                "{} wasn't ready within {timeout:?}; the last answer: {last}",
                api.url
            )));
        }
        sleep(pause).await;
    }
}
