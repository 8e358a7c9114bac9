//! The control plane as a library: resources in, one checked `Snapshot` per proxy out.
#![forbid(unsafe_code)]

pub mod names;
pub mod resource;
pub mod template;
