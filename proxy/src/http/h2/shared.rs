//! HTTP/2 connections to endpoints: one an endpoint and worker, shared by its requests. Must not know who asks.

use super::super::traffic::{Context, Traffic};
use super::{CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_TABLE_BYTES, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES};
use crate::error::{ConnError, Reason};
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// A connection that answers no ping for this long is given up.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// An endpoint's connection; behind a lock so that requests that come together don't each open one.
#[derive(Clone, Default)]
pub(in super::super) struct Shared {
    sender: Rc<Mutex<Option<SendRequest<Upload>>>>,
}

impl Shared {
    pub(in super::super) fn is_open(&self) -> bool {
        // One that is being opened counts as open.
        self.sender.try_lock().map_or(true, |sender| sender.as_ref().is_some_and(|sender| !sender.is_closed()))
    }
}

/// The endpoint's connection, opened if there is none.
pub(super) async fn sender<T: Traffic>(
    context: &Context<T>,
    target: &T::Target,
    endpoint: &T::Endpoint,
) -> Result<SendRequest<Upload>, ConnError> {
    let shared = context.pools.shared.borrow_mut().entry(endpoint.clone()).or_default().clone();
    let mut slot = shared.sender.lock().await;
    if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    let io = Box::pin(context.traffic.connect(target, endpoint)).await?;
    let handshake = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX as u32)
        .max_header_list_size(super::super::head::HEAD_BYTES_MAX as u32)
        .header_table_size(HEADER_TABLE_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(io))
        .await;
    let (sender, connection) = handshake
        .map_err(|error| ConnError::new(Reason::UpstreamProtocol, format!("HTTP/2 with the endpoint: {error}")))?;
    tokio::task::spawn_local(connection);
    *slot = Some(sender.clone());
    Ok(sender)
}

/// A client's body on its way to an endpoint.
pub(super) struct Upload {
    pieces: Option<mpsc::Receiver<Result<Frame<Bytes>, io::Error>>>,
}

impl Upload {
    /// None: there is no body.
    pub(super) fn new(pieces: Option<mpsc::Receiver<Result<Frame<Bytes>, io::Error>>>) -> Self {
        Self { pieces }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.pieces {
            Some(pieces) => pieces.poll_recv(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_none()
    }
}

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
