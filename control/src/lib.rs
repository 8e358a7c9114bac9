//! The control plane as a library: resources in, one checked `Snapshot` per proxy out.
#![forbid(unsafe_code)]

pub mod api;
pub mod core;
pub mod identity;
pub mod names;
pub mod resource;
pub mod store;
pub mod template;
pub mod time;
