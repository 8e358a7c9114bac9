//! The small words of the contract: who a row came from, what a proxy is, how bytes are understood.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The resource a row was compiled from, so that every decision can say who ordered it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Kind as users write it (`VirtualOutbound`), or `default` for what no resource ordered.
    pub kind: String,
    pub mesh: String,
    pub name: String,
}

impl Origin {
    pub fn new(kind: &str, mesh: &str, name: &str) -> Self {
        Self { kind: kind.into(), mesh: mesh.into(), name: name.into() }
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
