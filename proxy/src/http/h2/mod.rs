//! HTTP/2, downstream and upstream, through hyper. Must not know frames: hyper's limits are set here, its state isn't.

mod bridge;
mod endpoint;
mod headers;
mod server;
mod shared;

pub(super) use bridge::Upstream;
pub(super) use server::serve;
pub(super) use shared::Shared;

/// Window of one stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What one stream may have waiting to be sent; hyper's default lets two connections hold 95 MB.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams that a peer opened and reset before they were looked at.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we had to reset for a peer's errors, over a connection's life.
const LOCAL_RESETS_MAX: usize = 256;
/// HPACK's dynamic table.
const HEADER_TABLE_BYTES: u32 = 4096;

/// Runs hyper's tasks where the connection runs.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}
