//! The data plane: binds listeners, decides by the snapshot, moves bytes. Must not know YAML or policies.
#![deny(unsafe_code)]

pub mod error;
pub mod http;
