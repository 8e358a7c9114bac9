//! Intake from outside: documents in, resources and problems out.

mod dataplanes;
mod forms;
mod kinds;
mod output;
mod passthrough;
mod seeds;
mod services;
mod virtual_outbounds;

use super::{Intake, Resource, read};

/// The one resource of a text without errors.
fn good(text: &str) -> Resource {
    let mut intake = read(text, "t.yaml");
    assert!(!intake.has_errors(), "{}", listing(&intake));
    assert_eq!(intake.resources.len(), 1);
    intake.resources.remove(0)
}

fn listing(intake: &Intake) -> String {
    intake.problems.iter().map(|p| format!("{p}\n")).collect()
}

/// `field: message` of every error.
fn errors(text: &str) -> Vec<String> {
    let intake = read(text, "t.yaml");
    intake.problems.iter().filter(|p| p.is_error()).map(|p| format!("{}: {}", p.field, p.message)).collect()
}

fn warnings(text: &str) -> Vec<String> {
    let intake = read(text, "t.yaml");
    assert!(!intake.has_errors(), "{}", listing(&intake));
    intake.problems.iter().map(|p| format!("{}: {}", p.field, p.message)).collect()
}
