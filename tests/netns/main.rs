//! The built binary end to end, as an operator runs it: control plane, proxies and applications as processes, each host a
//! network namespace. Every test runs alone in namespaces of its own. Must not know weir's crates.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails, with the reason")]

mod beyond;
mod control_plane;
mod gateway;
mod interception;
mod long_way;
mod permission;
mod rolling;
mod support;
mod together;
mod trial;
