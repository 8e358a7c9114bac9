//! Rows about what isn't the mesh's: the world outside, and the proxy's own applications.

use crate::name::Origin;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A part of the world beyond the mesh that a workload may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassthroughRow {
    pub to: PassthroughTo,
    /// None = any.
    pub port: Option<u16>,
    pub protocol: PassthroughProtocol,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassthroughTo {
    Block {
        address: IpAddr,
        prefix_bits: u8,
    },
    /// A host name in lower case, or `*.suffix`, or `*`: what the client says, whatever address it dialled.
    Name(String),
}

/// How much the client has to say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassthroughProtocol {
    /// Nothing.
    Bytes,
    Tls,
    Http,
    Http2,
}

/// Whether an application accepts connections is asked every so often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// What the Dataplane's inbound is called in reports.
    pub inbound: String,
    pub listener: SocketAddr,
    pub app: SocketAddr,
    /// As in [`crate::Role::Inbound`].
    pub captured: bool,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub healthy_threshold: u32,
    pub unhealthy_threshold: u32,
}
