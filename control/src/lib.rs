//! The control plane as a library: resources in, one checked `Snapshot` per proxy out.
#![forbid(unsafe_code)]

pub mod compile;
pub mod names;
pub mod resource;
pub mod settings;
pub mod select;
pub mod template;
pub mod vip;
pub mod identity;
pub mod store;
pub mod time;
