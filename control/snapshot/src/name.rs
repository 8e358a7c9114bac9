//! The small words of the contract: who a row came from, what a proxy is, how bytes are understood.

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Kinds that rows come from, so that each row needn't hold its own copy.
const KINDS: [&str; 17] = [
    "default",
    "freed",
    "Mesh",
    "Dataplane",
    "ExternalService",
    "VirtualOutbound",
    "MeshService",
    "MeshExternalService",
    "MeshMultiZoneService",
    "HostnameGenerator",
    "MeshGateway",
    "MeshGatewayRoute",
    "MeshPassthrough",
    "TrafficPermission",
    "ZoneEgress",
    "ZoneIngress",
    "Zone",
];

fn shared(kind: &str) -> Cow<'static, str> {
    KINDS
        .iter()
        .find(|known| **known == kind)
        .map_or_else(|| Cow::Owned(kind.to_owned()), |known| Cow::Borrowed(*known))
}

fn read_shared<'de, D: Deserializer<'de>>(from: D) -> Result<Cow<'static, str>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Cow<'static, str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a kind")
        }

        fn visit_str<E: Error>(self, kind: &str) -> Result<Self::Value, E> {
            Ok(shared(kind))
        }
    }
    from.deserialize_str(Text)
}

/// The resource a row was compiled from, so that every decision can say who ordered it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Kind as users write it (`VirtualOutbound`), or `default` for what no resource ordered.
    #[serde(deserialize_with = "read_shared")]
    pub kind: Cow<'static, str>,
    pub mesh: String,
    pub name: String,
}

impl Origin {
    pub fn new(kind: &str, mesh: &str, name: &str) -> Self {
        Self { kind: shared(kind), mesh: mesh.into(), name: name.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mesh.is_empty(), self.name.is_empty()) {
            (_, true) => f.write_str(&self.kind),
            (true, false) => write!(f, "{} {}", self.kind, self.name),
            (false, false) => write!(f, "{} {}/{}", self.kind, self.mesh, self.name),
        }
    }
}

/// Which snapshot: a control plane's start, then its count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Milliseconds since 1970 when the control plane started.
    pub epoch: u64,
    pub sequence: u64,
}

impl Generation {
    /// Within one epoch the count only goes forward. Another epoch is another control plane, or the same one started anew, and
    /// says what holds now, even if its clock is behind the one before.
    pub fn supersedes(self, current: Self) -> bool {
        self != Self::default() && (self.epoch != current.epoch || self.sequence > current.sequence)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// What a proxy does in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// Beside a workload; also a delegated gateway, which has no inbounds.
    #[default]
    Sidecar,
    /// Builtin gateway.
    Gateway,
    Egress,
    Ingress,
}

/// How the bytes of a connection are understood (`kuma.io/protocol`). Kafka, tls and unknown are `Tcp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Http,
    Http2,
    Grpc,
}

impl Protocol {
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }

    /// Whether endpoints of this protocol are spoken to in HTTP/2.
    pub fn is_h2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// `spiffe://<mesh>/<service>`: the identity of a service's proxies.
pub fn spiffe_id(mesh: &str, service: &str) -> String {
    format!("spiffe://{mesh}/{service}")
}
