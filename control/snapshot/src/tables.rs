//! What the compiler emits and the channel carries: plain rows with public fields, each with the resource it came from.
//! Rows are sorted by their key, so equal meshes give equal tables. No index and no check lives here (see `build`).

mod beyond;

pub use beyond::{PassthroughProtocol, PassthroughRow, PassthroughTo, ProbeRow};

use crate::host::HostPattern;
use crate::name::{Origin, Protocol, ProxyKind};
use crate::upstream::DnsUpstream;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

/// All that one proxy executes. Vectors are sorted: names by name, listeners by address, services and permissions by
/// name, SNIs by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    pub proxy: ProxyRow,
    pub names: Vec<Arc<NameRow>>,
    pub listeners: Vec<Arc<ListenerRow>>,
    pub services: Vec<Arc<ServiceRow>>,
    pub permissions: Vec<Arc<PermissionRow>>,
    pub snis: Vec<Arc<SniRow>>,
}

/// What holds for the proxy as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRow {
    pub kind: ProxyKind,
    /// Empty for zone proxies.
    pub mesh: String,
    pub name: String,
    pub zone: String,
    /// Values of `kuma.io/service` that the proxy stands for; its certificate names them all.
    pub services: Vec<String>,
    pub admin_port: u16,
    /// Unmatched captured connections go on to where the application meant them to.
    pub passthrough: bool,
    /// Where they don't, these still do.
    #[serde(default)]
    pub passthrough_rows: Vec<PassthroughRow>,
    pub interception: Interception,
    pub dns: DnsSettings,
    /// Of the proxy's own applications.
    #[serde(default)]
    pub probes: Vec<ProbeRow>,
}

/// Ports of transparent proxying that the Dataplane asks for; 0 = off. How packets get there is the machine's matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interception {
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// `ipFamilyMode: IPv4`: no IPv6 listeners, no AAAA.
    pub ipv4_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSettings {
    /// Suffix of mesh names, without dots at its ends (`mesh`).
    pub domain: String,
    pub ttl_s: u32,
    /// Ranges that VIPs come from (`240.0.0.0/4`), for the route that `bind` and `tproxy` need.
    pub vip_ranges: Vec<String>,
    /// Whom to ask about names of certain domains, instead of the machine's resolvers.
    #[serde(default)]
    pub upstreams: Vec<DnsUpstream>,
    /// AAAA questions about any name are answered empty.
    #[serde(default)]
    pub no_aaaa: bool,
}

/// A mesh name. `name` is lower case, without trailing dot. A family without an address answers NODATA.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameRow {
    pub name: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub origin: Origin,
}

/// A place where connections arrive: a socket of the proxy's own, or a captured original destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRow {
    pub address: SocketAddr,
    pub role: Role,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// From the local workload into the mesh. `vip`: the address is a virtual IP, reachable only by interception;
    /// otherwise the proxy binds it (`networking.outbound` without transparent proxy).
    Outbound { vip: bool, handler: Handler },
    /// From the mesh to the local workload. `captured`: transparent proxying delivers it, the address itself isn't
    /// bound in `redirect` and `tproxy` mode. `permission` names a row of `Tables::permissions`.
    Inbound {
        captured: bool,
        service: String,
        protocol: Protocol,
        app: SocketAddr,
        tls: InboundTls,
        permission: String,
    },
    /// A builtin gateway's socket.
    Gateway { handler: Handler, tls: GatewayTls, connections_max: Option<u32> },
    /// Zone ingress or egress: the connection is routed by SNI through `Tables::snis`.
    Zone,
}

/// TLS of a gateway listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayTls {
    #[default]
    None,
    /// A cross-mesh listener: mTLS with this mesh's identity, clients of any mesh in `client_meshes`.
    Mesh { mesh: String, client_meshes: Vec<String> },
    /// Terminate with the certificates of these secrets, chosen by SNI.
    Terminate { secrets: Vec<ServerName> },
}

/// A certificate of a gateway listener: the hostname it serves and the secret's name in the channel's material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerName {
    pub host: HostPattern,
    pub secret: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InboundTls {
    /// The mesh has no mTLS.
    #[default]
    Off,
    Strict,
    /// Plain text, the application's own TLS and mesh mTLS (ALPN `kuma`) on one port.
    Permissive,
}

/// What becomes of a connection's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handler {
    /// Whole connections are balanced. No backend = the connection is closed at once.
    Tcp {
        #[serde(deserialize_with = "tight")]
        backends: Vec<Backend>,
        idle_timeout_ms: u64,
    },
    /// Requests are routed. Hosts are in no particular order: the most specific pattern wins.
    Http {
        #[serde(deserialize_with = "tight")]
        hosts: Vec<Arc<VirtualHost>>,
    },
}

/// The routes of one hostname pattern; only the best-matching host is consulted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VirtualHost {
    pub host: HostPattern,
    /// First match wins; the compiler has sorted them by precedence.
    #[serde(deserialize_with = "tight")]
    pub routes: Vec<RouteRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouteRow {
    pub matches: Match,
    pub action: RouteAction,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Redirect),
    /// Answer without an upstream (a backend that can't be resolved: 500).
    Respond {
        status: u16,
        body: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    #[serde(deserialize_with = "tight")]
    pub backends: Vec<Backend>,
    /// Shared with the requests that they are applied to.
    #[serde(default = "no_filters", skip_serializing_if = "Filters::is_empty", deserialize_with = "filters")]
    pub filters: Arc<Filters>,
    pub timeouts: Timeouts,
}

/// A weighted reference to a row of `Tables::services`. Weight 0 gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub service: String,
    pub weight: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timeouts {
    /// Whole request, 0 = none.
    pub request_ms: u64,
    /// No byte in either direction, 0 = none.
    pub stream_idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_ms: crate::limits::REQUEST_TIMEOUT_MS, stream_idle_ms: 0 }
    }
}

/// Everything in a match must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Match {
    #[serde(default, skip_serializing_if = "PathMatch::is_any")]
    pub path: PathMatch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    Exact(String),
    /// Without trailing slash (`/` is the empty prefix): matches itself and what follows a `/`.
    Prefix(String),
    /// Whole path.
    Regex(String),
}

impl PathMatch {
    fn is_any(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    pub value: TextMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QueryMatch {
    pub name: String,
    pub value: TextMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextMatch {
    Exact(String),
    Prefix(String),
    /// Whole value.
    Regex(String),
    Present,
    Absent,
}

/// Changes to a request and its response, in the order of `spec`: remove, set, add, host, path, mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filters {
    pub request: HeaderOps,
    pub response: HeaderOps,
    pub host: Option<String>,
    /// The upstream's Host is the chosen endpoint's DNS name, where it has one.
    pub host_of_endpoint: bool,
    pub path: Option<PathRewrite>,
    pub mirror: Option<Mirror>,
}

impl Filters {
    /// Whether they change nothing; asked at every request.
    pub fn is_empty(&self) -> bool {
        let Self { request, response, host, host_of_endpoint, path, mirror } = self;
        let plain = host.is_none() && !host_of_endpoint && path.is_none() && mirror.is_none();
        let none = |ops: &HeaderOps| ops.remove.is_empty() && ops.set.is_empty() && ops.add.is_empty();
        plain && none(request) && none(response)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderOps {
    pub remove: Vec<String>,
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathRewrite {
    Full(String),
    /// Replaces the matched prefix.
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mirror {
    pub service: String,
    /// Of 1,000,000 requests.
    pub per_million: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    pub status: u16,
}

/// A group of endpoints that share protocol, TLS and balancing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `backend`, or `backend-<16 hex>` for a subset by tags (spec/zones.md §4.3).
    pub name: String,
    /// The value of `kuma.io/service`, for logs and metrics.
    pub service: String,
    pub mesh: String,
    pub protocol: Protocol,
    pub tls: UpstreamTls,
    pub balance: Balance,
    pub connect_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    /// Why there is no endpoint, when there is none: said in the error a client sees and in the log
    /// (`routing.zoneEgress is on and zone east has no ZoneEgress`).
    pub hint: String,
    #[serde(deserialize_with = "tight_shared")]
    pub endpoints: Arc<Vec<Endpoint>>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    pub weight: u32,
    /// 0 is used while it has endpoints; higher only after.
    pub priority: u8,
    pub zone: String,
    /// The Dataplane, ZoneIngress, ZoneEgress or ExternalService behind it.
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    Ip(IpAddr),
    /// Resolved by the proxy (external services).
    Name(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    #[default]
    RoundRobin,
    LeastRequest {
        choices: u8,
    },
    Random,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamTls {
    #[default]
    None,
    /// Mesh mTLS: our identity of `identity_mesh`, roots of `mesh`, and one of `peers` (URI SANs, exact) on the far side.
    Mesh { identity_mesh: String, mesh: String, sni: String, peers: Vec<String> },
    /// TLS to an external service.
    External { client: Client },
}

/// How an external service is verified and which certificate we show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Client {
    /// Sent as SNI and verified, unless empty (the endpoint's own name is then used).
    pub server_name: String,
    /// PEM; empty = encrypted but unverified, as in the reference (the control plane warns).
    pub ca_pem: String,
    pub skip_name_check: bool,
    /// Name of client certificate and key in the channel's material; empty = none.
    pub secret: String,
}

/// Who may talk to an inbound or to an external service behind an egress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRow {
    /// What listeners and SNIs refer to.
    pub name: String,
    pub access: Access,
    pub origin: Origin,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// No permission applies: nobody.
    #[default]
    Deny,
    /// Any one of them; a principal without URIs admits every authenticated peer.
    AnyOf(Vec<Principal>),
}

/// URI SANs that a peer's certificate must all carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Principal {
    pub uris: Vec<String>,
}

/// One SNI that a zone proxy knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SniRow {
    /// Lower case. Both the resource form and the legacy brace form are rows of their own.
    pub sni: String,
    pub target: SniTarget,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SniTarget {
    /// Bytes go on untouched to an endpoint of this service (its row has no TLS of our own).
    Passthrough { service: String },
    /// mTLS ends here with the identity `zone-egress` of `mesh`; the external service is dialled from here.
    Terminate { mesh: String, permission: String, handler: Handler, protocol: Protocol },
}

/// Reading leaves room for more (for four at first), and rows are kept for long: most lists hold one large element.
fn tight<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(from)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Most routes have none: one value for all of them.
fn no_filters() -> Arc<Filters> {
    static NONE: LazyLock<Arc<Filters>> = LazyLock::new(Arc::default);
    NONE.clone()
}

fn filters<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Filters>, D::Error> {
    let filters = Filters::deserialize(from)?;
    Ok(if filters.is_empty() { no_filters() } else { Arc::new(filters) })
}

fn tight_shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Arc<Vec<T>>, D::Error> {
    tight(from).map(Arc::new)
}
