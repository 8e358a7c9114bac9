//! HTTP/2 connections to endpoints: one an endpoint and worker, shared by its requests. Must not know who asks.

use super::super::traffic::{Context, Traffic};
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_TABLE_BYTES, LocalExecutor, SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
};
use crate::error::{ConnError, Reason};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

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

/// The endpoint's connection, opened if there is none. True if it served requests before.
pub(super) async fn sender<T: Traffic>(
    context: &Context<T>,
    target: &T::Target,
    endpoint: &T::Endpoint,
) -> Result<(SendRequest<Upload>, bool), ConnError> {
    let shared = context.pools.shared.borrow_mut().entry(endpoint.clone()).or_default().clone();
    let mut slot = shared.sender.lock().await;
    if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok((sender.clone(), true));
    }
    let io = Box::pin(context.traffic.connect(target, endpoint)).await?;
    let handshake = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
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
    Ok((sender, false))
}

/// When an upload ended, for the clock that starts then.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) bytes: Cell<u64>,
    ended: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    /// The instant it ended; if it hasn't, the task is woken then.
    pub(super) fn ended(&self, cx: &mut Task<'_>) -> Option<Instant> {
        if self.ended.get().is_none() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
        }
        self.ended.get()
    }

    fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// A client's body on its way to an endpoint.
pub(super) struct Upload {
    body: Incoming,
    progress: Rc<Progress>,
}

impl Upload {
    pub(super) fn new(body: Incoming) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        if body.is_end_stream() {
            progress.end();
        }
        (Self { body, progress: Rc::clone(&progress) }, progress)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(None | Some(Err(_))) => self.progress.end(),
            Poll::Ready(Some(Ok(frame))) => {
                let count = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.progress.bytes.set(self.progress.bytes.get() + count);
                if self.body.is_end_stream() {
                    self.progress.end();
                }
            }
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
