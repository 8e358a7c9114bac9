//! Specs of the builtin gateway's kinds: MeshGateway and MeshGatewayRoute.

use super::{DataSource, Matcher, Tags, as_selectors, no};
use serde::Serialize;

/// spec/gateway.md §2
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshGateway {
    #[serde(serialize_with = "as_selectors")]
    pub selectors: Vec<Matcher>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(serialize_with = "as_listeners", rename = "conf")]
    pub listeners: Vec<GatewayListener>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayListener {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    pub port: u16,
    pub protocol: GatewayProtocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "no")]
    pub cross_mesh: bool,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_resources", rename = "resources")]
    pub connection_limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GatewayProtocol {
    #[default]
    None,
    Tcp,
    Tls,
    Http,
    Https,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListenerTls {
    pub mode: TlsMode,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<DataSource>,
    #[serde(skip_serializing_if = "no")]
    pub options: serde_json::Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsMode {
    #[default]
    None,
    Terminate,
    Passthrough,
}

/// spec/gateway.md §3. `http` and `tcp` exclude each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshGatewayRoute {
    #[serde(serialize_with = "as_selectors")]
    pub selectors: Vec<Matcher>,
    pub conf: RouteConf,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteConf {
    Http {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        hostnames: Vec<String>,
        rules: Vec<HttpRule>,
    },
    /// The backends of each rule.
    #[serde(serialize_with = "as_tcp_rules")]
    Tcp(Vec<Vec<Backend>>),
}

impl Default for RouteConf {
    fn default() -> Self {
        Self::Tcp(Vec::new())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HttpRule {
    pub matches: Vec<RouteMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RouteFilter>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteMatch {
    /// Kinds EXACT, PREFIX, REGEX.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Modifier>,
    /// Upper case; empty = any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Modifier>,
    #[serde(skip_serializing_if = "Vec::is_empty", rename = "queryParameters")]
    pub query_parameters: Vec<Modifier>,
}

/// `{match, name, value}` of a path (no name), header or query parameter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Modifier {
    #[serde(rename = "match")]
    pub kind: MatcherKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MatcherKind {
    #[default]
    Exact,
    Prefix,
    Regex,
    Absent,
    Present,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteFilter {
    RequestHeader(HeaderFilter),
    ResponseHeader(HeaderFilter),
    Mirror(Mirror),
    Redirect(Redirect),
    Rewrite(Rewrite),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderFilter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<NameValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<NameValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NameValue {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Mirror {
    pub percentage: f64,
    pub backend: Backend,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathReplace>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub path: Option<PathReplace>,
    #[serde(skip_serializing_if = "no")]
    pub host_to_backend_hostname: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathReplace {
    ReplaceFull(String),
    ReplacePrefixMatch(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Backend {
    /// Absent is not zero: left out on every backend means equal shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    pub destination: Tags,
}

fn as_listeners<S: serde::Serializer>(list: &[GatewayListener], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map([("listeners", list)])
}

fn as_resources<S: serde::Serializer>(limit: &Option<u32>, out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(limit.iter().map(|n| ("connectionLimit", n)))
}

fn as_tcp_rules<S: serde::Serializer>(rules: &[Vec<Backend>], out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Rule<'a> {
        backends: &'a [Backend],
    }
    out.collect_map([("rules", rules.iter().map(|r| Rule { backends: r }).collect::<Vec<_>>())])
}
