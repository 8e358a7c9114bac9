//! An HTTP/2 connection from its preface to its end: reads frames into its state, writes what streams have lined up, many
//! at once, and keeps its deadlines. Must not know requests or sockets.

use super::super::buffer::Buffer;
use super::super::timer::Timer;
use super::conn::Core;
use super::frame::{Code, PREFACE};
use super::stream::Abort;
use super::{OUT_BYTES_KEPT, OUT_BYTES_MAX};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// A peer with open streams that is silent this long is asked for a sign of life,
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// and given up if it gives none.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// An endpoint is asked no more often: gRPC's servers end a connection that pings them every few minutes.
const ENDPOINT_PING_INTERVAL: Duration = Duration::from_secs(6 * 60);
/// After GOAWAY for an error, the peer's bytes are read away this long, so that it gets to see it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// Places for streams are kept so long after the last stream.
const PLACES_KEPT: Duration = Duration::from_secs(1);
/// Reads before the streams they opened get their turn.
const READS_MAX: u32 = 4;

#[derive(Clone, Copy)]
pub(super) enum Ended {
    Orderly,
    /// The peer closed, or can't be spoken to any more.
    Gone,
    Broken(Code),
}

/// How long may be waited for the peer.
pub(super) struct Times {
    /// For the rest of a preface, a header block, or a frame while there is no stream.
    pub(super) head: Duration,
    /// For a stream.
    pub(super) idle: Duration,
    /// For it to read.
    pub(super) body: Duration,
}

/// However the connection ends, its streams end with it.
pub(super) struct Ending(pub(super) Rc<RefCell<Core>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.borrow_mut().abort(Abort::Reset);
    }
}

pub(super) struct Connection<S> {
    io: S,
    input: Buffer,
    core: Rc<RefCell<Core>>,
    times: Times,
    timer: Timer,
    /// The preface has come; an endpoint sends none.
    greeted: bool,
    /// When a sign of life was asked for.
    pinged: Option<Instant>,
    heard_at: Instant,
    /// When something was written that nothing was heard to since.
    unheard_since: Option<Instant>,
    /// An endpoint isn't asked before.
    ping_from: Instant,
    /// Since when what is lined up waits for the peer.
    wrote_at: Instant,
    /// Since when there is no stream.
    idle_since: Option<Instant>,
    /// Since when the rest of a preface, frame or header block is waited for.
    partial_since: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(io: S, core: Rc<RefCell<Core>>, times: Times) -> Self {
        let (now, greeted) = (Instant::now(), core.borrow().is_client());
        Self {
            io,
            input: Buffer::default(),
            core,
            times,
            timer: Timer::new(),
            greeted,
            pinged: None,
            heard_at: now,
            unheard_since: None,
            ping_from: now,
            wrote_at: now,
            idle_since: Some(now),
            partial_since: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Task<'_>) -> Poll<Ended> {
        self.core.borrow_mut().listen(cx);
        for turn in 0.. {
            if let Poll::Ready(Err(_)) = self.poll_write(cx) {
                return Poll::Ready(Ended::Gone);
            }
            if turn == READS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match self.poll_frames(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ended::Gone),
                Poll::Ready(Err(code)) => return Poll::Ready(Ended::Broken(code)),
                Poll::Pending => break,
            }
        }
        let core = self.core.borrow();
        let written = core.written == core.out.len();
        if core.is_over() && written {
            drop(core);
            ready!(Pin::new(&mut self.io).poll_shutdown(cx)).unwrap_or_default();
            return Poll::Ready(Ended::Orderly);
        }
        drop(core);
        self.poll_deadlines(cx)
    }

    /// Reads once and handles what came: false at the end of the stream.
    fn poll_frames(&mut self, cx: &mut Task<'_>) -> Poll<Result<bool, Code>> {
        if self.core.borrow().out.len() - self.core.borrow().written >= OUT_BYTES_MAX * 2 {
            // Whoever doesn't read the answers needn't ask for more. Writing goes on first.
            return Poll::Pending;
        }
        self.handle()?;
        match ready!(self.input.poll_fill(&mut self.io, cx)) {
            Ok(0) | Err(_) => return Poll::Ready(Ok(false)),
            Ok(_) => self.heard_at = Instant::now(),
        }
        (self.pinged, self.unheard_since) = (None, None);
        self.handle()?;
        Poll::Ready(Ok(true))
    }

    fn handle(&mut self) -> Result<(), Code> {
        if !self.greeted {
            let data = self.input.data();
            let due = PREFACE.len().min(data.len());
            if data.get(..due) != PREFACE.get(..due) {
                return Err(Code::Protocol);
            }
            if due < PREFACE.len() {
                return Ok(());
            }
            self.input.consume(due);
            self.greeted = true;
        }
        let taken = self.core.borrow_mut().receive(self.input.data())?;
        self.input.consume(taken);
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        let mut guard = self.core.borrow_mut();
        let core = &mut *guard;
        if core.written == core.out.len() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = core.out.get(core.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => core.written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if core.written >= OUT_BYTES_MAX {
                        core.out.drain(..core.written);
                        core.written = 0;
                    }
                    core.unblock();
                    return Poll::Pending;
                }
            }
            self.wrote_at = Instant::now();
            self.unheard_since.get_or_insert(self.wrote_at);
        }
        core.out.clear();
        core.written = 0;
        if core.is_idle() {
            core.out.shrink_to(OUT_BYTES_KEPT);
        }
        core.unblock();
        drop(guard);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_deadlines(&mut self, cx: &mut Task<'_>) -> Poll<Ended> {
        loop {
            let Some((due, what)) = self.deadline() else { return Poll::Pending };
            ready!(self.timer.poll(cx, due));
            let mut core = self.core.borrow_mut();
            match what {
                Due::Goodbye => {
                    core.leave();
                    drop(core);
                    let _ = ready!(self.poll_write(cx));
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx)).unwrap_or_default();
                    return Poll::Ready(Ended::Orderly);
                }
                Due::Ping => {
                    core.ask_for_pong();
                    drop(core);
                    let now = Instant::now();
                    (self.pinged, self.ping_from) = (Some(now), now + ENDPOINT_PING_INTERVAL);
                    if let Poll::Ready(Err(_)) = self.poll_write(cx) {
                        return Poll::Ready(Ended::Gone);
                    }
                }
                Due::Tidy => core.dismiss_free(),
                Due::GiveUp => return Poll::Ready(Ended::Gone),
            }
        }
    }

    fn deadline(&mut self) -> Option<(Instant, Due)> {
        let core = self.core.borrow();
        let after = |at: Instant, wait: Duration| at.checked_add(wait).unwrap_or(at + Duration::from_secs(86_400));
        // A body's frames may take their time: streams have their own clocks.
        if core.in_block() || (core.is_idle() && !self.input.is_empty()) {
            let since = *self.partial_since.get_or_insert_with(Instant::now);
            return Some((after(since, self.times.head), Due::GiveUp));
        }
        self.partial_since = None;
        if core.is_idle() {
            let since = *self.idle_since.get_or_insert_with(Instant::now);
            let wait = if core.is_leaving() { PING_TIMEOUT } else { self.times.idle };
            return Some(match core.has_free() && wait > PLACES_KEPT {
                true => (after(since, PLACES_KEPT), Due::Tidy),
                false => (after(since, wait), Due::Goodbye),
            });
        }
        self.idle_since = None;
        if core.written < core.out.len() {
            return Some((after(self.wrote_at, self.times.body), Due::GiveUp));
        }
        if let Some(at) = self.pinged {
            return Some((after(at, PING_TIMEOUT), Due::GiveUp));
        }
        let ping = match core.is_client() {
            false => after(self.heard_at, PING_INTERVAL),
            true => after(self.unheard_since?, PING_INTERVAL).max(self.ping_from),
        };
        Some((ping, Due::Ping))
    }

    /// Writes what is left, ends our side and reads the peer's rest away.
    pub(super) async fn linger(&mut self) {
        let due = Instant::now() + LINGER;
        self.input.consume(usize::MAX);
        let (mut shut, mut left) = (false, LINGER_BYTES_MAX);
        poll_fn(|cx| {
            if !shut && self.poll_write(cx).is_ready() {
                shut = Pin::new(&mut self.io).poll_shutdown(cx).is_ready();
            }
            while let Poll::Ready(read) = self.input.poll_fill(&mut self.io, cx) {
                let count = read.unwrap_or(0);
                self.input.consume(count);
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return Poll::Ready(());
                }
            }
            self.timer.poll(cx, due)
        })
        .await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The places for streams are needed no more.
    Tidy,
    Goodbye,
    Ping,
    GiveUp,
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
