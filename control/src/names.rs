//! The names and outbounds of a mesh. (interface; see below)

use crate::resource::Tags;
use snapshot::{NameRow, Origin};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What every sidecar of a mesh may resolve and dial, before `reachableServices` trims it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshNames {
    /// Sorted by name; one row a name.
    pub names: Vec<NameRow>,
    /// Sorted by address and port.
    pub outbounds: Vec<NamedOutbound>,
}

/// A virtual listener: VIP (both families, where there are ranges) and port, to the endpoints that carry all `tags`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedOutbound {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub port: u16,
    /// Always with `kuma.io/service`; `kuma.io/mesh` for another mesh's gateway.
    pub tags: Tags,
    pub origin: Origin,
}
