//! The data plane: binds listeners, decides by the snapshot, moves bytes. Must not know YAML or policies.
#![deny(unsafe_code)]

pub mod accesslog;
pub mod admin;
pub mod drain;
pub mod error;
pub mod identity;
pub mod interception;
pub mod metrics;
pub mod sni;
pub mod socket;
mod splice;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod upstream;

#[cfg(test)]
mod test_ca;
pub mod http;
