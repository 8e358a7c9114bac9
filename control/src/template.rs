//! STUB until the template engine is merged: replaces `{{.name}}` and nothing else.

use std::collections::BTreeMap;

fn fill(template: &str, data: &BTreeMap<String, String>) -> String {
    let mut out = template.to_owned();
    for (name, value) in data {
        out = out.replace(&format!("{{{{.{name}}}}}"), value);
    }
    out
}

pub fn eval_host(template: &str, data: &BTreeMap<String, String>) -> Result<String, String> {
    let host = fill(template, data);
    let good = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    let wrong = || format!("evaluation of template with parameters didn't return a valid dns name result={host:?}");
    good.then(|| host.clone()).ok_or_else(wrong)
}

pub fn eval_port(template: &str, data: &BTreeMap<String, String>) -> Result<u16, String> {
    let port = fill(template, data);
    port.parse().map_err(|_| {
        format!("evaluation of template with parameters didn't evaluate to a parsable number result={port:?}")
    })
}
