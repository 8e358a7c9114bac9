//! The HTTP data path: our own HTTP/1.1 codec and connection loop, and HTTP/2 on top of it. Must not know snapshots'
//! indexes, balancing or how connections are made: those come in through `traffic`.

mod buffer;
mod exchange;
pub mod fault;
mod forward;
pub mod framing;
mod h2;
pub mod head;
mod headers;
mod known;
mod mirror;
pub mod path;
mod pool;
mod pump;
mod respond;
mod serve;
mod sniff;
pub mod target;
mod timer;
pub mod traffic;

pub use pool::Pools;
pub use sniff::{Wire, serve};

#[cfg(test)]
mod tests;
