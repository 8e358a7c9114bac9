//! Giving resources back: key, JSON in the shape of the REST API, YAML that is the same byte for byte each time.

use super::registry::{self, Scope};
use super::yaml::{Kind, kind_of};
use super::{Resource, Spec};
use crate::time::to_rfc3339;
use serde_json::{Map, Value as Json};
use std::fmt::Write;

/// What a resource is called by; ordered by kind, mesh, name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: String,
    /// Empty for a global kind.
    pub mesh: String,
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.mesh.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            mesh => write!(f, "{} {mesh}/{}", self.kind, self.name),
        }
    }
}

impl Spec {
    pub fn kind(&self) -> &str {
        match self {
            Self::Mesh(_) => "Mesh",
            Self::Dataplane(_) => "Dataplane",
            Self::VirtualOutbound(_) => "VirtualOutbound",
            Self::MeshGateway(_) => "MeshGateway",
            Self::MeshGatewayRoute(_) => "MeshGatewayRoute",
            Self::ZoneEgress(_) => "ZoneEgress",
            Self::ZoneIngress(_) => "ZoneIngress",
            Self::ExternalService(_) => "ExternalService",
            Self::TrafficPermission(_) => "TrafficPermission",
            Self::Secret(_) => "Secret",
            Self::GlobalSecret(_) => "GlobalSecret",
            Self::Zone(_) => "Zone",
            Self::MeshService(_) => "MeshService",
            Self::MeshExternalService(_) => "MeshExternalService",
            Self::MeshMultiZoneService(_) => "MeshMultiZoneService",
            Self::HostnameGenerator(_) => "HostnameGenerator",
            Self::MeshPassthrough(_) => "MeshPassthrough",
            Self::Opaque(opaque) => &opaque.kind,
        }
    }
}

impl Resource {
    pub fn kind(&self) -> &str {
        self.spec.kind()
    }

    /// What lists of resources are sorted by: kind, mesh, name, as [`Key`] is.
    pub(crate) fn order(&self) -> (&str, &str, &str) {
        (self.kind(), &self.meta.mesh, &self.meta.name)
    }

    pub fn key(&self) -> Key {
        let (mesh, name) = (self.meta.mesh.clone(), self.meta.name.clone());
        Key { kind: self.kind().to_owned(), mesh, name }
    }

    /// As the REST API gives it, with times; the spec beside the name, or under `spec` for the newer kinds.
    pub fn to_json(&self) -> Json {
        let mut all = self.written();
        all.insert("creationTime".to_owned(), to_rfc3339(self.meta.created_ms).into());
        all.insert("modificationTime".to_owned(), to_rfc3339(self.meta.modified_ms).into());
        Json::Object(all)
    }

    /// The same without times: what a user would have written. Equal resources give equal bytes.
    pub fn to_yaml(&self) -> String {
        let all = self.written();
        let mut out = String::new();
        let first = ["type", "mesh", "name", "labels"];
        let rest = all.keys().map(String::as_str).filter(|key| !first.contains(key));
        for key in first.into_iter().chain(rest) {
            if let Some(value) = all.get(key) {
                entry(&mut out, 0, key, value);
            }
        }
        out
    }

    fn written(&self) -> Map<String, Json> {
        let mut all = match serde_json::to_value(&self.spec) {
            Ok(Json::Object(fields)) => fields,
            _ => Map::new(),
        };
        all.insert("type".to_owned(), self.kind().into());
        if registry::kind(self.kind()).is_none_or(|k| k.scope == Scope::Mesh) && !self.meta.mesh.is_empty() {
            all.insert("mesh".to_owned(), self.meta.mesh.as_str().into());
        }
        all.insert("name".to_owned(), self.meta.name.as_str().into());
        if !self.meta.labels.is_empty() {
            let labels = self.meta.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into()));
            all.insert("labels".to_owned(), Json::Object(labels.collect()));
        }
        all
    }
}

/// Any JSON value as YAML in block form.
pub fn yaml(value: &Json) -> String {
    let mut out = String::new();
    match value {
        Json::Object(map) if !map.is_empty() => map.iter().for_each(|(key, value)| entry(&mut out, 0, key, value)),
        Json::Array(items) if !items.is_empty() => items.iter().for_each(|value| item(&mut out, 0, value)),
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
    out
}

fn entry(out: &mut String, indent: usize, key: &str, value: &Json) {
    let _ = write!(out, "{:indent$}{}:", "", scalar(key));
    match value {
        Json::Object(map) if !map.is_empty() => {
            out.push('\n');
            map.iter().for_each(|(key, value)| entry(out, indent + 2, key, value));
        }
        Json::Array(items) if !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|value| item(out, indent, value));
        }
        other => {
            let _ = writeln!(out, " {}", flow(other));
        }
    }
}

fn item(out: &mut String, indent: usize, value: &Json) {
    let mut inner = String::new();
    match value {
        Json::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| entry(&mut inner, indent + 2, key, value));
        }
        Json::Array(items) if !items.is_empty() => items.iter().for_each(|v| item(&mut inner, indent + 2, v)),
        other => inner = format!("{:indent$}  {}\n", "", flow(other)),
    }
    // The dash takes the place of the first line's indentation.
    let _ = write!(out, "{:indent$}- {}", "", inner.get(indent + 2..).unwrap_or_default());
}

fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => scalar(text),
        Json::Object(_) => "{}".to_owned(),
        Json::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Plain if every YAML reader takes it for the same text, quoted otherwise.
fn scalar(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain = starts && text.chars().all(safe) && !words.iter().any(|w| w.eq_ignore_ascii_case(text));
    if plain && kind_of(text) == Kind::Text { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~' | '\u{a1}'..='\u{2027}' | '\u{2030}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' => out.push(c),
            c => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
