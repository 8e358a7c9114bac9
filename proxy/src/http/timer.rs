//! One timer a connection for all of its deadlines, re-armed lazily: a later deadline than the armed one costs nothing.
//! Knows no protocol.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom the armed sleep wakes.
    waker: Option<Waker>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Ready once `deadline` is past.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if known && !sleep.is_elapsed() {
            // It is armed in time and knows us: nothing to ask the runtime.
            return Poll::Pending;
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        if !known {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// `after` from now; none for what is too far to name.
pub(super) fn deadline(after: Duration) -> Option<Instant> {
    Instant::now().checked_add(after)
}
