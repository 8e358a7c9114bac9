//! MeshPassthrough: what it says, reading and checking (spec/naming.md §7.6). Messages are Kuma's, its spelling too.

use super::Tags;
use super::common::is_dns_name;
use super::decode::{Cursor, Fields, Spot};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Under `spec` in either form.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshPassthrough {
    pub spec: PassthroughSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassthroughSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PassthroughTarget>,
    pub default: PassthroughConf,
}

/// The proxies that it is for; none is all of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassthroughTarget {
    pub kind: TargetKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Tags,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proxy_types: Vec<String>,
    /// Read to be given back: none of them tells proxies apart here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub section_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mesh: String,
}

/// More specific ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TargetKind {
    #[default]
    Mesh,
    MeshSubset,
    Dataplane,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PassthroughConf {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough_mode: Option<PassthroughMode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub append_match: Vec<PassthroughMatch>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum PassthroughMode {
    All,
    None,
    #[default]
    Matched,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassthroughMatch {
    #[serde(rename = "type")]
    pub kind: MatchType,
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub protocol: PassthroughProtocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum MatchType {
    Domain,
    #[serde(rename = "IP")]
    Ip,
    #[serde(rename = "CIDR")]
    Cidr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PassthroughProtocol {
    #[default]
    Tcp,
    Tls,
    Grpc,
    Http,
    Http2,
    Mysql,
}

use PassthroughProtocol::{Grpc, Http, Http2, Mysql, Tcp, Tls};

impl PassthroughProtocol {
    pub fn is_http(self) -> bool {
        matches!(self, Grpc | Http | Http2)
    }
}

const PROTOCOLS: [(&str, i128, PassthroughProtocol); 6] =
    [("tcp", 0, Tcp), ("tls", 1, Tls), ("grpc", 2, Grpc), ("http", 3, Http), ("http2", 4, Http2), ("mysql", 5, Mysql)];

pub(super) fn decode(f: &mut Fields<'_>) -> MeshPassthrough {
    let target_ref = f.get("targetRef").and_then(|cursor| target(&cursor));
    let default = f.get("default").and_then(|cursor| conf(&cursor)).unwrap_or_default();
    MeshPassthrough { spec: PassthroughSpec { target_ref, default } }
}

fn target(cursor: &Cursor<'_>) -> Option<PassthroughTarget> {
    let mut f = cursor.fields()?;
    let kinds = [
        ("Mesh", 0, TargetKind::Mesh),
        ("MeshSubset", 1, TargetKind::MeshSubset),
        ("Dataplane", 2, TargetKind::Dataplane),
    ];
    let target = PassthroughTarget {
        kind: f.get("kind").and_then(|c| c.one_of(&kinds))?,
        name: f.text("name"),
        labels: f.get("labels").map(|c| c.tags()).unwrap_or_default(),
        tags: f.get("tags").map(|c| c.tags()).unwrap_or_default(),
        proxy_types: f.texts("proxyTypes"),
        namespace: f.text("namespace"),
        section_name: f.text("sectionName"),
        mesh: f.text("mesh"),
    };
    f.done();
    Some(target)
}

fn conf(cursor: &Cursor<'_>) -> Option<PassthroughConf> {
    let mut f = cursor.fields()?;
    let modes = [
        ("All", 0, PassthroughMode::All),
        ("None", 1, PassthroughMode::None),
        ("Matched", 2, PassthroughMode::Matched),
    ];
    let passthrough_mode = f.get("passthroughMode").and_then(|c| c.one_of(&modes));
    let mut append_match: Vec<PassthroughMatch> = Vec::new();
    for item in f.items("appendMatch") {
        if let Some(one) = item.fields().and_then(|f| one_match(f, &append_match)) {
            append_match.push(one);
        }
    }
    f.done();
    Some(PassthroughConf { passthrough_mode, append_match })
}

/// `before`: those that were read already.
fn one_match(mut f: Fields<'_>, before: &[PassthroughMatch]) -> Option<PassthroughMatch> {
    let protocol = f.get("protocol").map_or(Some(Tcp), |cursor| {
        let text = cursor.text()?;
        let found = PROTOCOLS.iter().find(|(name, ..)| *name == text);
        if found.is_none() {
            let names: Vec<String> = PROTOCOLS.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
            cursor.spot.error(format!("\"protocol\" must be one of [{}]", names.join(", ")));
        }
        found.map(|(_, _, protocol)| *protocol)
    });
    let port = f.get("port").and_then(|cursor| cursor.in_range::<u16>(1..=65535, "port must be a valid (1-65535)"));
    let has_port = f.has("port");
    let (kind, value) = (f.text("type"), f.text("value"));
    let spots = (f.spot("type"), f.spot("value"), f.spot("port"), f.spot("protocol"));
    f.done();
    let protocol = protocol?;
    if protocol == Mysql && !has_port {
        spots.2.error("port must be defined for Mysql protocol");
    }
    let clashes = |other: &&PassthroughMatch| other.port == port && other.protocol != protocol;
    if port.is_some() && protocol.is_http() && before.iter().any(|other| clashes(&other)) {
        spots.2.error(
            "using the same port in multiple matches requires the same protocol for the following protocols: [grpc http http2]",
        );
    }
    let again = |other: &PassthroughMatch| (&other.value, other.port, other.protocol) == (&value, port, protocol);
    if port.is_some() && before.iter().any(again) {
        spots.1.error(format!("value {value} is already defiend for this port and protocol"));
    }
    let kind = match kind.as_str() {
        "Domain" => {
            domain(&value, has_port, protocol, (&spots.1, &spots.2, &spots.3));
            MatchType::Domain
        }
        "IP" => {
            if value.parse::<IpAddr>().is_err() {
                spots.1.error("provided IP has incorrect value");
            }
            MatchType::Ip
        }
        "CIDR" => {
            if crate::settings::Cidr::parse(&value).is_none() {
                spots.1.error("provided CIDR has incorrect value");
            }
            MatchType::Cidr
        }
        other => {
            spots.0.error(format!("provided type {other} is not supported, one of Domain, IP, or CIDR is supported"));
            return None;
        }
    };
    Some(PassthroughMatch { kind, value, port, protocol })
}

fn domain(
    name: &str,
    has_port: bool,
    protocol: PassthroughProtocol,
    (value, port, spot): (&Spot<'_>, &Spot<'_>, &Spot<'_>),
) {
    if matches!(protocol, Tcp | Mysql) {
        let word = if protocol == Tcp { "tcp" } else { "mysql" };
        spot.error(format!("protocol {word} is not supported for a domain"));
    }
    match name.strip_prefix('*') {
        Some(rest) if !rest.is_empty() && !rest.starts_with('.') => {
            value.error("provided DNS has incorrect value, partial wildcard is currently not supported");
        }
        Some(_) if protocol.is_http() && !has_port => {
            port.error("wildcard domains doesn't work for all ports and layer 7 protocol");
        }
        Some(_) => {}
        None if !is_dns_name(name) => value.error("provided DNS has incorrect value"),
        None => {}
    }
}
