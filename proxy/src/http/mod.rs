//! The HTTP data path: our own HTTP/1.1 codec and connection loop, and HTTP/2 through hyper. Must not know snapshots'
//! indexes, balancing or how connections are made: those come in through `traffic`.

pub mod fault;
pub mod framing;
pub mod head;
pub mod path;
pub mod target;
