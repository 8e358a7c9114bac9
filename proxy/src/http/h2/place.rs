//! Where streams are served, one after the other: a task that goes on with the connection's next stream as an HTTP/1
//! connection does with its next request, so that a stream costs neither a task nor memory nor a timer. Must not know
//! frames.

use super::super::buffer::Buffer;
use super::super::serve::{Scratch, Session};
use super::super::timer::Timer;
use super::super::traffic::{Context, Traffic};
use super::stream::StreamIo;
use std::future::poll_fn;
use tokio::sync::watch;
use tokio::time::Instant;

/// Serves the streams that get this place, until there will be no other.
pub(super) async fn serve<T: Traffic>(io: StreamIo, context: Context<T>, drain: watch::Receiver<bool>) {
    let (input, last) = (Buffer::default(), Instant::now());
    let mut session = Session { io, input, timer: Timer::new(), context, drain, last };
    while poll_fn(|cx| session.io.poll_open(cx)).await {
        let mut scratch = Scratch::take();
        session.io.take_head(&mut scratch.head, &mut session.input);
        session.request(&mut scratch).await;
        scratch.give();
        // Nothing of a body that nobody read may get to the next stream.
        session.input.release();
        session.io.close();
    }
}
