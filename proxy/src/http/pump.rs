//! Moves one body from one peer to the other, out of the sender's framing into ours. Bounded: it reads only after it
//! has written. Must not know heads or routes.

use super::buffer::Buffer;
use super::fault::Fault;
use super::framing::{Decoder, Framing};
use crate::bare;
use crate::splice;
use crate::stream::Wired;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Pieces up to this long are copied behind what waits to be written, longer ones are written from where they are.
const COPY_BYTES_MAX: usize = 4 * 1024;
/// No more is gathered for one write.
const GATHER_BYTES_MAX: usize = 16 * 1024;

/// Less of a body than this left is copied: two system calls more don't pay for it.
const SPLICE_BYTES_MIN: u64 = 16 * 1024;

/// Which peer an unfinished pipe waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Source,
    Sink,
}

#[derive(Debug)]
pub(super) enum Broken {
    Source(io::Error),
    Sink(io::Error),
    Fault(Fault),
}

pub(super) struct Pipe {
    pub(super) input: Buffer,
    /// Written before the payload: a head, chunks, chunk sizes.
    pub(super) out: Vec<u8>,
    written: usize,
    /// Bytes at the start of `input` that are to be written.
    payload: usize,
    /// Written after the payload.
    tail: &'static [u8],
    decoder: Decoder,
    /// While a body moves past our memory.
    spliced: Option<splice::Pipe>,
    chunked: bool,
    close_sink: bool,
    stage: Stage,
    unflushed: bool,
    pub(super) waits: Waits,
    /// Body bytes passed on.
    pub(super) moved: u64,
    /// Set by every read and write; the owner clears it.
    pub(super) progress: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Moving,
    /// The source's body is over; what waits is still to be written.
    Ended,
    Closing,
    Finished,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            input: Buffer::default(),
            out: Vec::new(),
            written: 0,
            payload: 0,
            tail: b"",
            decoder: Decoder::new(Framing::Empty),
            spliced: None,
            chunked: false,
            close_sink: false,
            stage: Stage::Moving,
            unflushed: false,
            waits: Waits::Source,
            moved: 0,
            progress: false,
        }
    }
}

impl Pipe {
    /// Starts a message: `input` may hold bytes already, and what is in `out` goes first. Only `out`'s memory is kept.
    pub(super) fn begin(&mut self, mut input: Buffer) {
        if input.is_empty() {
            // Others may go first: as many streams as wait for their turn would hold as many buffers.
            input.release();
        }
        self.input = input;
        self.rewind();
        (self.payload, self.tail, self.moved) = (0, b"", 0);
        self.spliced = None;
        self.decoder.restart(Framing::Empty);
        (self.chunked, self.close_sink, self.unflushed, self.progress) = (false, false, false, false);
        self.waits = Waits::Source;
    }

    /// Forgets all but some memory.
    pub(super) fn clear(&mut self, bytes_kept: usize) {
        self.out.clear();
        self.out.shrink_to(bytes_kept);
        self.input.release();
    }

    /// Says how the body comes and how it goes.
    pub(super) fn frame(&mut self, framing: Framing, chunked: bool) {
        self.decoder.restart(framing);
        self.chunked = chunked;
    }

    /// A tunnel: bytes as they come until the source ends, which then is passed on.
    pub(super) fn tunnel(&mut self) {
        self.frame(Framing::UntilClose, false);
        self.close_sink = true;
        self.stage = Stage::Moving;
    }

    /// Part of what is lined up was written, part wasn't.
    pub(super) fn is_torn(&self) -> bool {
        self.written > 0 && self.written < self.out.len()
    }

    /// Starts over with the same head; only for messages without body.
    pub(super) fn rewind(&mut self) {
        self.written = 0;
        self.stage = Stage::Moving;
    }

    /// Moves until a peer isn't ready or the body is over.
    pub(super) fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Broken>>
    where
        R: Wired,
        W: Wired,
    {
        loop {
            if self.stage == Stage::Moving && self.payload == 0 && self.tail.is_empty() {
                self.gather().map_err(Broken::Fault)?;
                if self.can_splice(from, to) {
                    ready!(self.poll_splice(cx, from, to))?;
                    continue;
                }
            }
            ready!(self.poll_write(cx, to)).map_err(Broken::Sink)?;
            match self.stage {
                Stage::Finished => return Poll::Ready(Ok(())),
                Stage::Ended => {
                    ready!(self.poll_flush(cx, to)).map_err(Broken::Sink)?;
                    if !self.close_sink {
                        self.stage = Stage::Finished;
                        return Poll::Ready(Ok(()));
                    }
                    self.stage = Stage::Closing;
                    continue;
                }
                Stage::Closing => {
                    self.waits = Waits::Sink;
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Sink)?;
                    self.stage = Stage::Finished;
                    continue;
                }
                Stage::Moving if !self.input.is_empty() => continue,
                Stage::Moving => {}
            }
            ready!(self.poll_flush(cx, to)).map_err(Broken::Sink)?;
            self.waits = Waits::Source;
            let count = ready!(self.input.poll_fill_wired(from, cx)).map_err(Broken::Source)?;
            self.progress = true;
            if count == 0 {
                self.decoder.end_of_input().map_err(Broken::Fault)?;
            }
        }
    }

    /// Borrows a pipe if all of what is left of a body is still to come, is worth it, and both ends are bare sockets.
    fn can_splice<R: Wired, W: Wired>(&mut self, from: &R, to: &W) -> bool {
        let worth = || self.decoder.length_left().is_some_and(|left| left >= SPLICE_BYTES_MIN);
        if self.spliced.is_none()
            && self.stage == Stage::Moving
            && self.payload == 0
            && !self.chunked
            && self.input.is_empty()
            && worth()
            && from.socket().is_some()
            && to.socket().is_some()
        {
            // Without a pipe (no descriptor is left) bytes are copied.
            self.spliced = splice::Pipe::take().ok();
        }
        self.spliced.is_some()
    }

    /// Moves the body's rest from socket to socket, never a byte beyond its end. What waits before it is written once the
    /// first of it is here, to leave together, or alone if that isn't at once.
    fn poll_splice<R: Wired, W: Wired>(
        &mut self,
        cx: &mut Context<'_>,
        from: &R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let (Some(pipe), Some(from), Some(sink)) = (self.spliced.as_mut(), from.socket(), to.socket()) else {
                return Poll::Ready(Ok(()));
            };
            if pipe.held > 0 {
                self.waits = Waits::Sink;
                while let Some(out) = self.out.get(self.written..).filter(|out| !out.is_empty()) {
                    self.written += ready!(splice::poll_write_ahead(cx, sink, out)).map_err(Broken::Sink)?;
                    self.progress = true;
                }
                ready!(pipe.poll_drain(cx, sink)).map_err(Broken::Sink)?;
                self.progress = true;
                continue;
            }
            let Some(left) = self.decoder.length_left() else { break };
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let Poll::Ready(count) = pipe.poll_fill_at_most(cx, from, most) else {
                ready!(self.poll_write(cx, to)).map_err(Broken::Sink)?;
                self.waits = Waits::Source;
                return Poll::Pending;
            };
            let count = count.map_err(Broken::Source)?;
            if count == 0 {
                self.decoder.end_of_input().map_err(Broken::Fault)?;
            }
            self.progress = true;
            self.decoder.pass(count as u64);
            self.moved += count as u64;
        }
        self.spliced = None;
        Poll::Ready(Ok(()))
    }

    /// Writes all that waits.
    #[inline]
    pub(super) fn poll_write<W: Wired>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        match self.written == self.out.len() && self.payload == 0 && self.tail.is_empty() {
            true => Poll::Ready(Ok(())),
            false => self.poll_write_some(cx, to),
        }
    }

    fn poll_write_some<W: Wired>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        loop {
            let out = self.out.get(self.written..).unwrap_or_default();
            let payload = self.input.data().get(..self.payload).unwrap_or_default();
            if out.is_empty() && payload.is_empty() && self.tail.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.waits = Waits::Sink;
            let count = if payload.is_empty() && self.tail.is_empty() {
                ready!(poll_write_one(cx, to, out))?
            } else if out.is_empty() && self.tail.is_empty() {
                ready!(poll_write_one(cx, to, payload))?
            } else {
                let parts = [IoSlice::new(out), IoSlice::new(payload), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *to).poll_write_vectored(cx, &parts))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.progress = true;
            self.unflushed = true;
            self.advance(count);
        }
    }

    /// Has the sink send what it may have kept.
    pub(super) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            self.waits = Waits::Sink;
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        let of_payload = (count - of_out).min(self.payload);
        self.payload -= of_payload;
        self.input.consume(of_payload);
        self.tail = self.tail.get(count - of_out - of_payload..).unwrap_or_default();
    }

    /// Decodes what there is and lines it up for writing.
    fn gather(&mut self) -> Result<(), Fault> {
        loop {
            let step = self.decoder.step(self.input.data())?;
            self.input.consume(step.skip);
            self.moved += step.data as u64;
            if step.data > 0 {
                self.line_up(step.data);
            }
            if step.done {
                self.stage = Stage::Ended;
                self.finish();
                return Ok(());
            }
            if step.data == 0 || self.payload > 0 || self.out.len() >= GATHER_BYTES_MAX {
                return Ok(());
            }
        }
    }

    fn line_up(&mut self, count: usize) {
        self.start_out();
        if self.chunked {
            // Writing to a vector can't fail.
            let _ = write!(self.out, "{count:x}\r\n");
        }
        if count <= COPY_BYTES_MAX && (self.chunked || !self.out.is_empty()) {
            self.out.extend_from_slice(self.input.data().get(..count).unwrap_or_default());
            self.input.consume(count);
            if self.chunked {
                self.out.extend_from_slice(b"\r\n");
            }
            return;
        }
        self.payload = count;
        self.tail = if self.chunked { b"\r\n" } else { b"" };
    }

    /// Writes the last chunk and the trailers.
    fn finish(&mut self) {
        if !self.chunked {
            return;
        }
        if self.payload > 0 {
            // Only bodies that came unchunked end together with data, so there are no trailers.
            self.tail = b"\r\n0\r\n\r\n";
            return;
        }
        self.start_out();
        self.out.extend_from_slice(b"0\r\n");
        for (name, value) in self.decoder.trailers() {
            self.out.extend_from_slice(name);
            self.out.extend_from_slice(b": ");
            self.out.extend_from_slice(value);
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Makes room for more before the payload.
    pub(super) fn start_out(&mut self) {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }
}

fn poll_write_one<W: Wired>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match to.socket() {
        Some(socket) => bare::poll_send(cx, socket, bytes),
        None => Pin::new(to).poll_write(cx, bytes),
    }
}
