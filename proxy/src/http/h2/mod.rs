//! HTTP/2: downstream our own engine, which hands each stream on as an HTTP/1 exchange; upstream hyper's. Must not know
//! how requests are decided.

mod answer;
mod bridge;
mod budget;
mod conn;
mod frame;
mod hpack;
mod huffman;
mod place;
mod request;
mod server;
mod shared;
mod stream;

pub(super) use bridge::Upstream;
pub(super) use server::serve;
pub(super) use shared::Shared;

/// Window of one stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Frames of a downstream connection that wait to be written; streams don't read from endpoints beyond.
const OUT_BYTES_MAX: usize = 128 * 1024;
/// A larger buffer isn't kept while there is nothing to write.
const OUT_BYTES_KEPT: usize = 16 * 1024;
/// What one stream to an endpoint may have waiting to be sent; hyper's default lets two connections hold 95 MB.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// HPACK's dynamic table.
const HEADER_TABLE_BYTES: u32 = 4096;
