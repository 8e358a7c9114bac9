//! The data plane: binds listeners, decides by the snapshot, moves bytes. Must not know YAML or policies.
#![deny(unsafe_code)]

mod accesslog;
mod admin;
mod admission;
mod app;
mod bare;
mod capture;
pub mod channel;
mod clock;
mod connection;
pub mod error;
pub mod http;
pub mod identity;
mod inbound;
mod interception;
mod joined;
mod last_good;
mod listener;
mod memory;
mod metrics;
mod mux;
mod outbound;
mod passthrough;
mod probe;
mod quota;
mod routing;
pub mod sni;
pub mod socket;
mod sockets;
pub mod source;
mod splice;
pub mod stream;
pub mod tcp;
#[cfg(test)]
mod test_ca;
pub mod tls;
mod traffic;
mod upstream;
mod worker;
mod zone;

pub use app::{Config, Proxy, has_ipv6};
pub use memory::Heap;
