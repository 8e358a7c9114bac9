//! Moves bytes both ways between two streams until both are at their end. Half-close survives, a reset is passed on, memory is
//! bounded and borrowed only while bytes are in flight. Must not know why these two streams belong together.

mod buffer;
mod leg;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use crate::error::Reason;
use crate::mux::Failed;
use crate::splice::Pipe;
use crate::stream::Stream;
pub(crate) use buffer::Buffer;
use buffer::SCRATCH;
pub(crate) use leg::take_waiting;
use leg::{Leg, Plain};

/// A read that fills this much is the sign of bulk: from there on plain bytes are spliced.
const BUFFER_BYTES: usize = 16 << 10;
/// Of a socket: sealed, it still fits one segment of a loopback interface (65,483 bytes).
const LARGE_PLAIN_BYTES: usize = 65_280;
/// A splice below this much is the sign that the bulk is over.
const BULK_BYTES_MIN: usize = BUFFER_BYTES;
/// A connection that lasts this long gets the socket options that short ones do without.
const SETTLE_AFTER: Duration = Duration::from_secs(10);
/// The idle time is looked at so many times: a silent pair ends that share of it late at most, and no byte asks for the time.
const IDLE_LOOKS: u32 = 8;
/// What one direction moves before the worker's other connections get their turn.
const TURN_BYTES: usize = 1 << 20;

/// What became of a pair of streams. `up` is from the first (downstream) to the second (upstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub up_bytes: u64,
    pub down_bytes: u64,
    pub ended: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions came to their end.
    Finished,
    /// Nothing moved in either direction for the idle time.
    Idle,
    /// The downstream broke: reset, or TLS cut without its goodbye. Both sockets send RST when dropped.
    DownstreamReset,
    /// The upstream broke, likewise.
    UpstreamReset,
}

impl End {
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Finished => None,
            Self::Idle => Some(Reason::IdleTimeout),
            Self::DownstreamReset => Some(Reason::DownstreamReset),
            Self::UpstreamReset => Some(Reason::UpstreamReset),
        }
    }
}

/// Bytes delivered so far, readable while the copy runs and after it was cancelled.
#[derive(Debug, Default)]
pub struct Progress {
    up: AtomicU64,
    down: AtomicU64,
}

impl Progress {
    /// Of a copy whose first bytes are on their way up already.
    pub(crate) fn after(sent: u64) -> Self {
        Self { up: AtomicU64::new(sent), down: AtomicU64::new(0) }
    }

    pub fn up_bytes(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub fn down_bytes(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// [`copy_watched`] for callers that need the counts only at the end.
pub async fn copy_both(downstream: &mut Stream, upstream: &mut Stream, idle: Duration) -> Copied {
    copy_watched(downstream, upstream, idle, &Progress::default()).await
}

/// Copies until both directions ended, one side broke, or nothing moved for `idle`. `b` may be a socket that isn't settled.
/// Drop both streams afterwards.
pub async fn copy_watched(a: &mut Stream, b: &mut Stream, idle: Duration, progress: &Progress) -> Copied {
    let ended = {
        let (mut a, head_a) = Leg::of(a, true, false);
        let (mut b, head_b) = Leg::of(b, progress.up_bytes() == 0, true);
        let mut up = Direction::new(head_a, &progress.up);
        let mut down = Direction::new(head_b, &progress.down);
        // A side that finished sending isn't read any more, so its reset would go unnoticed while the other is silent.
        let mut a_broke = pin!(a.broke());
        let mut b_broke = pin!(b.broke());
        let look = idle / IDLE_LOOKS;
        let mut timer = pin!(tokio::time::sleep(look.min(SETTLE_AFTER)));
        let mut due = Instant::now() + idle;
        let mut waker = Waker::noop().clone();
        poll_fn(move |cx| {
            let is_known = waker.will_wake(cx.waker());
            if !is_known {
                waker.clone_from(cx.waker());
                a.forget_waker();
                b.forget_waker();
            }
            let up_done = match up.poll(cx, &mut a, &mut b, down.is_finished()) {
                Poll::Ready(Err(_)) => return Poll::Ready(End::DownstreamReset),
                state => state.is_ready(),
            };
            let down_done = match down.poll(cx, &mut b, &mut a, up.is_finished()) {
                Poll::Ready(Err(_)) => return Poll::Ready(End::UpstreamReset),
                state => state.is_ready(),
            };
            match (up_done, down_done) {
                (true, true) if up.failed => return Poll::Ready(End::UpstreamReset),
                (true, true) if down.failed => return Poll::Ready(End::DownstreamReset),
                (true, true) => return Poll::Ready(End::Finished),
                (true, false) if a_broke.as_mut().poll(cx).is_ready() => return Poll::Ready(End::DownstreamReset),
                (false, true) if b_broke.as_mut().poll(cx).is_ready() => return Poll::Ready(End::UpstreamReset),
                _ => {}
            }
            // Its registration stands.
            if is_known && !timer.is_elapsed() {
                return Poll::Pending;
            }
            while timer.as_mut().poll(cx).is_ready() {
                b.settle();
                let now = Instant::now();
                if std::mem::take(&mut up.moved) | std::mem::take(&mut down.moved) {
                    due = now + idle;
                }
                if due <= now {
                    return Poll::Ready(End::Idle);
                }
                timer.as_mut().reset(due.min(now + look));
            }
            if !has_budget_remaining() {
                // The timer may have had no turn to register.
                waker.clone_from(Waker::noop());
            }
            Poll::Pending
        })
        .await
    };
    if matches!(ended, End::DownstreamReset | End::UpstreamReset) {
        a.reset_on_drop();
        b.reset_on_drop();
    }
    Copied { up_bytes: progress.up_bytes(), down_bytes: progress.down_bytes(), ended }
}

/// What one direction holds between its reader and its writer.
enum Carry {
    Nothing,
    /// Bytes that came with the stream.
    Head(Bytes),
    Buffer {
        buffer: Buffer,
        from: usize,
        to: usize,
    },
    Pipe(Pipe),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Moving,
    /// The reader is at its end, the writer must hear of it.
    Closing,
    Done,
}

/// Where a direction broke: only a broken reader ends the copy at once. When writing fails the peer's last words may still wait
/// in its socket; they are read and delivered by the other direction, which finds the end soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Reading,
}

struct Direction<'p> {
    carry: Carry,
    phase: Phase,
    /// Splice from now on, until that moves little.
    bulk: bool,
    /// Reads are large, until one doesn't fill the smaller buffer.
    large: bool,
    may_splice: bool,
    unflushed: bool,
    failed: bool,
    moved: bool,
    delivered: &'p AtomicU64,
}

impl<'p> Direction<'p> {
    fn new(head: Bytes, delivered: &'p AtomicU64) -> Self {
        let carry = if head.is_empty() { Carry::Nothing } else { Carry::Head(head) };
        Self {
            carry,
            phase: Phase::Moving,
            bulk: false,
            large: false,
            may_splice: true,
            unflushed: false,
            failed: false,
            moved: false,
            delivered,
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Done && !self.failed
    }

    /// Ready when this direction is over; an error is the reader's. `last`: the other one is finished.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg<'_>,
        to: &mut Leg<'_>,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        let mut turn_bytes = TURN_BYTES;
        while self.phase == Phase::Moving {
            if let (Leg::Plain(from), Leg::Plain(to), Carry::Nothing, false) =
                (&mut *from, &mut *to, &self.carry, self.bulk || self.large)
            {
                match ready!(self.poll_message(cx, from, to)) {
                    Ok(0) => self.phase = Phase::Closing,
                    Ok(_) => {}
                    Err(Failed::Source) => return Poll::Ready(Err(Broken::Reading)),
                    Err(Failed::Sink) => return self.fail(),
                }
                continue;
            }
            if ready!(self.poll_drain(cx, to)).is_err() {
                return self.fail();
            }
            if turn_bytes == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_move(cx, from, to) {
                Poll::Ready(Ok(0)) => self.phase = Phase::Closing,
                Poll::Ready(Ok(count)) => {
                    self.moved = true;
                    turn_bytes = turn_bytes.saturating_sub(count);
                }
                Poll::Ready(Err(Failed::Source)) => return Poll::Ready(Err(Broken::Reading)),
                Poll::Ready(Err(Failed::Sink)) => return self.fail(),
                Poll::Pending => {
                    if self.unflushed && ready!(to.poll_flush(cx)).is_err() {
                        return self.fail();
                    }
                    self.unflushed = false;
                    return Poll::Pending;
                }
            }
        }
        if self.phase == Phase::Closing {
            // Both sockets are about to be closed, which says as much; nothing unread can turn that into a reset.
            let close_is_enough = last && to.plain().is_some();
            if !close_is_enough && ready!(to.poll_shutdown(cx)).is_err() {
                return self.fail();
            }
            self.phase = Phase::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self) -> Poll<Result<(), Broken>> {
        self.carry = Carry::Nothing;
        self.failed = true;
        self.phase = Phase::Done;
        Poll::Ready(Ok(()))
    }

    /// One read of a socket, written to the other at once; what that doesn't take is kept. Small messages have this way alone.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Plain<'_>,
        to: &mut Plain<'_>,
    ) -> Poll<Result<usize, Failed>> {
        let passed = ready!(SCRATCH.with_borrow_mut(|scratch| self.poll_pass_on(cx, from, to, scratch)))?;
        // Asked here, as the next turn would only find the same.
        if passed > 0 && from.is_dry && matches!(self.carry, Carry::Nothing) && ready!(from.poll_arrival(cx)).is_err() {
            return Poll::Ready(Err(Failed::Source));
        }
        Poll::Ready(Ok(passed))
    }

    fn poll_pass_on(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Plain<'_>,
        to: &mut Plain<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, Failed>> {
        let count = match ready!(from.poll_read_into(cx, scratch)) {
            Ok(0) => return Poll::Ready(Ok(0)),
            Ok(count) => count,
            Err(_) => return Poll::Ready(Err(Failed::Source)),
        };
        let bytes = scratch.get(..count).unwrap_or_default();
        self.moved = true;
        if count == BUFFER_BYTES {
            (self.bulk, self.large) = (self.may_splice, !self.may_splice);
            from.settle();
        }
        let written = match to.poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Ok(written)) if written > 0 => written,
            Poll::Ready(_) => return Poll::Ready(Err(Failed::Sink)),
        };
        self.deliver(written);
        let rest = bytes.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            self.carry = Carry::Buffer { buffer: Buffer::with(rest), from: 0, to: rest.len() };
        }
        Poll::Ready(Ok(count))
    }

    /// One read, passed on at once or kept to be written.
    fn poll_move(&mut self, cx: &mut Context<'_>, from: &mut Leg<'_>, to: &mut Leg<'_>) -> Poll<Result<usize, Failed>> {
        let Some(passed) = from.poll_pass(cx, to) else {
            return self.poll_fill(cx, from, to).map_err(|_| Failed::Source);
        };
        let count = ready!(passed)?;
        self.deliver(count);
        if count >= BUFFER_BYTES {
            from.settle();
            to.settle();
        }
        Poll::Ready(Ok(count))
    }

    fn deliver(&self, count: usize) {
        // Written by this task alone, so load and store need no lock prefix.
        self.delivered.store(self.delivered.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut Leg<'_>) -> Poll<io::Result<()>> {
        loop {
            if matches!(self.carry, Carry::Pipe(_)) {
                to.settle();
            }
            let written = match (&mut self.carry, to.plain()) {
                (Carry::Nothing, _) => return Poll::Ready(Ok(())),
                (Carry::Pipe(pipe), _) if pipe.held == 0 => return Poll::Ready(Ok(())),
                (Carry::Pipe(pipe), Some(tcp)) => ready!(pipe.poll_drain(cx, tcp))?,
                // A pipe is filled only when both legs are plain.
                (Carry::Pipe(_), None) => return Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
                (Carry::Head(head), _) => {
                    let count = ready!(to.poll_write(cx, head))?;
                    head.advance(count);
                    count
                }
                (Carry::Buffer { buffer, from, to: end }, _) => {
                    let count = ready!(to.poll_write(cx, buffer.range(*from, *end)))?;
                    *from += count;
                    count
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moved = true;
            self.unflushed = true;
            self.deliver(written);
            match &self.carry {
                Carry::Head(head) if head.is_empty() => self.carry = Carry::Nothing,
                Carry::Buffer { from, to, .. } if from == to => self.carry = Carry::Nothing,
                _ => {}
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut Leg<'_>, to: &Leg<'_>) -> Poll<io::Result<usize>> {
        let sockets = from.plain().filter(|_| to.plain().is_some());
        if self.bulk
            && let Some(tcp) = sockets
            && let Some(pipe) = self.pipe()
        {
            match pipe.poll_fill(cx, tcp) {
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {
                    self.may_splice = false;
                }
                Poll::Ready(Ok(count)) => {
                    self.bulk = count >= BULK_BYTES_MIN;
                    return Poll::Ready(Ok(count));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.carry = Carry::Nothing;
                    return Poll::Pending;
                }
            }
        }
        // An empty pipe, if any, goes back before the wait.
        self.carry = Carry::Nothing;
        let mut buffer = None;
        let count = ready!(from.poll_read(cx, self.large, &mut buffer))?;
        let full = count >= BUFFER_BYTES;
        self.bulk = full && self.may_splice && sockets.is_some();
        self.large = full && !self.bulk;
        if full {
            from.settle();
        }
        if let Some(buffer) = buffer.filter(|_| count > 0) {
            self.carry = Carry::Buffer { buffer, from: 0, to: count };
        }
        Poll::Ready(Ok(count))
    }

    /// The pipe in hand or a pooled one; where there is none to be had this direction goes on by copying.
    fn pipe(&mut self) -> Option<&mut Pipe> {
        if !matches!(self.carry, Carry::Pipe(_)) {
            let taken = Pipe::take().ok();
            self.may_splice = taken.is_some();
            self.carry = Carry::Pipe(taken?);
        }
        match &mut self.carry {
            Carry::Pipe(pipe) => Some(pipe),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
