//! The built binary as its users run it: processes on loopback addresses, no privileges, no namespaces. Every test has a block of
//! 127.0.0.0/8 for itself, so that all run at the same time.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't be set up fails, with the reason")]

mod client;
mod ground;

mod away;
mod carry;
mod cli;
mod drain;
mod hostile;
mod names;
mod pages;
mod seeds;
mod store;
mod swap;
mod tokens;
