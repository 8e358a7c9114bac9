//! The sections of a Mesh that are kept as written: logging, tracing, metrics. Only what they refer to is checked.

use super::common::EMPTY;
use super::decode::{Cursor, Fields};
use std::collections::HashSet;

type Check = fn(&Cursor<'_>);

/// Field of the Mesh, and what checks it.
pub(super) const SECTIONS: &[(&str, Check)] = &[
    ("logging", logging),
    ("tracing", tracing),
    ("metrics", metrics),
    ("skipCreatingInitialPolicies", skipped_policies),
];

/// Names of the backends, each with its checked fields.
fn backends(f: &mut Fields<'_>, check: impl Fn(&str, &mut Fields<'_>)) -> HashSet<String> {
    let mut names = HashSet::new();
    for item in f.items("backends") {
        let Some(mut b) = item.fields() else { continue };
        let (name, kind) = (b.text("name"), b.text("type"));
        if name.is_empty() {
            b.spot("name").error(EMPTY);
        }
        if names.contains(&name) {
            b.spot("name").error(format!("\"{name}\" name is already used for another backend"));
        }
        check(&kind, &mut b);
        b.also_known(&["conf", "format", "sampling"]);
        b.done();
        names.insert(name);
    }
    names
}

fn chosen(f: &mut Fields<'_>, field: &'static str, names: &HashSet<String>, message: &str) {
    let name = f.text(field);
    if !name.is_empty() && !names.contains(&name) {
        f.spot(field).error(message);
    }
}

fn logging(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    let names = backends(&mut f, |kind, b| {
        if !["tcp", "file"].contains(&kind) {
            b.spot("type").error("unknown backend type. Available backends: \"tcp\", \"file\"");
            return;
        }
        let field = if kind == "tcp" { "address" } else { "path" };
        let Some(mut conf) = b.get("conf").and_then(|c| c.fields()) else {
            b.spot("conf").error(EMPTY);
            return;
        };
        let value = conf.text(field);
        if value.is_empty() {
            conf.spot(field).error(EMPTY);
        } else if kind == "tcp" && value.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            conf.spot(field).error("has to be in format of HOST:PORT");
        }
        conf.done();
    });
    chosen(&mut f, "defaultBackend", &names, "has to be set to one of the logging backend in mesh");
    f.done();
}

fn tracing(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    let names = backends(&mut f, |kind, b| {
        if !["zipkin", "datadog"].contains(&kind) {
            b.spot("type").error("unknown backend type. Available backends: \"zipkin\", \"datadog\"");
        }
        if let Some(share) = b.get("sampling").and_then(|c| c.number())
            && !(0.0..=100.0).contains(&share)
        {
            b.spot("sampling").error("has to be in [0.0 - 100.0] range");
        }
    });
    chosen(&mut f, "defaultBackend", &names, "has to be set to one of the tracing backend in mesh");
    f.done();
}

pub(super) const UNKNOWN_METRICS: &str = "unknown backend type. Available backends: \"prometheus\"";

fn metrics(cursor: &Cursor<'_>) {
    let Some(mut f) = cursor.fields() else { return };
    let names = backends(&mut f, |kind, b| {
        if kind != "prometheus" {
            b.spot("type").error(UNKNOWN_METRICS);
        }
    });
    chosen(&mut f, "enabledBackend", &names, "has to be set to one of the backends in the mesh");
    f.done();
}

fn skipped_policies(cursor: &Cursor<'_>) {
    cursor.texts();
}
