//! HTTP/2 with clients and endpoints: an engine that shows each stream as the byte stream of an HTTP/1 peer. Must not know
//! how requests are decided.

mod answer;
mod ask;
mod budget;
mod conn;
mod drive;
mod endpoint;
mod frame;
mod hpack;
mod huffman;
mod message;
mod place;
mod server;
mod stream;
mod upstream;

pub(super) use endpoint::Endpoint;
pub(super) use server::serve;
pub(super) use upstream::{Again, Upstream};

/// Window of one stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Window of a client's connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Streams on one connection to an endpoint; a full one gets another beside it.
const ENDPOINT_STREAMS_MAX: u32 = 256;
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Frames of a connection that wait to be written; streams don't take more from their other side.
const OUT_BYTES_MAX: usize = 128 * 1024;
/// A larger buffer isn't kept while there is nothing to write.
const OUT_BYTES_KEPT: usize = 16 * 1024;
