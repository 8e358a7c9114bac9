//! The control plane as a library: resources in, one checked `Snapshot` per proxy out.
#![forbid(unsafe_code)]

pub mod api;
mod changed;
pub mod channel;
mod chunks;
pub mod compile;
pub mod core;
#[cfg(test)]
mod dice;
pub mod generate;
pub mod identity;
pub mod names;
pub mod publish;
pub mod resource;
pub mod select;
pub mod session;
pub mod settings;
mod sorted;
pub mod store;
pub mod template;
pub mod time;
pub mod vip;
