//! VirtualOutbound: reading and checking (spec/naming.md §4.1, §4.2). Templates are tried by `crate::template`.

use super::common::{self, SERVICE};
use super::decode::{Cursor, Fields, Spot};
use super::{Parameter, VirtualOutbound, VirtualOutboundConf};
use std::collections::{BTreeMap, HashSet};

const DEFINED: &str = "has to be defined";

pub(super) fn decode(f: &mut Fields<'_>) -> VirtualOutbound {
    let selectors = common::selectors(f, "selectors", false);
    let by_service = !selectors.is_empty() && selectors.iter().all(|s| s.contains_key(SERVICE));
    let conf = match f.get("conf") {
        Some(cursor) => cursor.fields().map(|f| conf(f, by_service)).unwrap_or_default(),
        None => {
            f.spot("conf").error(DEFINED);
            VirtualOutboundConf::default()
        }
    };
    VirtualOutbound { selectors, conf }
}

fn conf(mut f: Fields<'_>, by_service: bool) -> VirtualOutboundConf {
    let parameters = parameters(&mut f, by_service);
    let host = f.get("host").map_or(Some(String::new()), |c| c.text());
    let host = defined(host, &f.spot("host"));
    if !host.is_empty()
        && let Err(inner) = crate::template::eval_host(&host, &filled(&parameters, "dummy"))
    {
        f.spot("host").error(format!("template pre evaluation failed with error={}", go_quote(&inner)));
    }
    let port = f.get("port").map_or(Some(String::new()), |c| c.text_or_source());
    let port = defined(port, &f.spot("port"));
    if !port.is_empty()
        && let Err(inner) = crate::template::eval_port(&port, &filled(&parameters, "1"))
    {
        f.spot("port").error(format!("template pre evaluation failed with error={}", go_quote(&inner)));
    }
    f.done();
    VirtualOutboundConf { host, port, parameters }
}

/// `None` is what isn't text at all, and has been told already.
fn defined(text: Option<String>, spot: &Spot<'_>) -> String {
    if text.as_ref().is_some_and(String::is_empty) {
        spot.error(DEFINED);
    }
    text.unwrap_or_default()
}

fn filled(parameters: &[Parameter], value: &str) -> BTreeMap<String, String> {
    parameters.iter().map(|p| (p.name.clone(), value.to_owned())).collect()
}

/// `by_service`: every selector asks for the service tag.
fn parameters(f: &mut Fields<'_>, by_service: bool) -> Vec<Parameter> {
    let read = |cursor| parameter(&cursor).map(|p| (cursor.spot, p));
    let mut all: Vec<_> = f.items("parameters").into_iter().filter_map(read).collect();
    let mut seen = HashSet::new();
    for (spot, parameter) in &all {
        if !seen.insert(parameter.name.clone()) {
            spot.member("name").error("name is already used");
        }
    }
    if !all.iter().any(|(_, p)| p.tag_key == SERVICE) {
        let slip = all.iter_mut().find(|(_, p)| p.name == "service" && p.tag_key.is_empty());
        let missing = format!("must contain a parameter with {SERVICE} as a tagKey");
        if let Some((spot, parameter)) = slip {
            // The documentation writes `- name: service` alone and means the service tag.
            let form = format!("write {{name: service, tagKey: {SERVICE}}}");
            spot.warn(format!("has no tagKey; it is read as tagKey: {SERVICE}"), form);
            SERVICE.clone_into(&mut parameter.tag_key);
        } else if by_service && !seen.contains("service") {
            // The documentation's host-port in Kubernetes form leaves it out; which services it means is clear.
            let spot = f.spot("parameters");
            let form = "write it there, even if no template uses it";
            spot.warn(format!("{missing}; read as if {{name: service, tagKey: {SERVICE}}} were there"), form);
            all.push((spot, Parameter { name: "service".to_owned(), tag_key: SERVICE.to_owned() }));
        } else {
            let form = format!("add {{name: service, tagKey: {SERVICE}}}, even if no template uses it");
            f.spot("parameters").error_with(missing, form);
        }
    }
    all.into_iter().map(|(_, parameter)| parameter).collect()
}

fn parameter(cursor: &Cursor<'_>) -> Option<Parameter> {
    let mut f = cursor.fields()?;
    let (name, tag_key) = (f.text("name"), f.text("tagKey"));
    if !tag_key.is_empty() {
        if !common::is_tag_name(&tag_key) {
            f.spot("tagKey").error("must be a valid tag name");
        }
    } else if !common::is_tag_name(&name) {
        f.spot("name").error("must be a valid tag name if you are not setting tagKey");
    }
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        f.spot("name").error("must consist of alphanumeric characters to be used as a gotemplate key");
    }
    f.done();
    Some(Parameter { name, tag_key })
}

/// A Go string literal, as Kuma's message has it.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
