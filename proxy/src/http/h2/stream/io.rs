//! A stream as the byte stream of an HTTP/1 peer: what the peer sends reads as HTTP/1, and the HTTP/1 that is written to it
//! leaves as frames. So all that decides, forwards and times requests exists once. Must not know it.

use super::{Abort, Stage};
use crate::http::buffer::Buffer;
use crate::http::framing::Framing;
use crate::http::h2::answer;
use crate::http::h2::ask::Sent;
use crate::http::h2::conn::{Core, Shared};
use crate::http::head::{Cursor, Fields, HEAD_BYTES_MAX, Head, parse_fields};
use crate::stream::Wired;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head in pieces: as large as one may be.
const PARTIAL_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// What the next bytes written are. They come from our own side, so they are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Head,
    /// Body left.
    Length(u64),
    ChunkSize(u64),
    Chunk(u64),
    /// Bytes left of the line end after a chunk.
    ChunkEnd(u8),
    Trailers,
    Done,
}

pub(in crate::http) struct StreamIo {
    core: Rc<RefCell<Core>>,
    stream: Shared,
    next: Next,
    /// The start of a head or trailer section whose end hasn't come.
    partial: Vec<u8>,
}

impl StreamIo {
    pub(in super::super) fn new(core: Rc<RefCell<Core>>, stream: Shared) -> Self {
        Self { core, stream, next: Next::Head, partial: Vec::new() }
    }

    /// Ready once a stream is open here; false when there will be no other.
    pub(in super::super) fn poll_open(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut stream = self.stream.borrow_mut();
        match stream.stage {
            Stage::Open => Poll::Ready(true),
            Stage::Dismissed => Poll::Ready(false),
            Stage::Waiting => {
                stream.await_bytes(cx);
                Poll::Pending
            }
        }
    }

    /// Gives the request's head as if it had been read and parsed; false if it is still to be.
    pub(in super::super) fn take_head(&mut self, head: &mut Head, input: &mut Buffer) -> bool {
        let mut guard = self.stream.borrow_mut();
        let stream = &mut *guard;
        if stream.message.head.len == 0 || !input.put(&stream.message.bytes) {
            return false;
        }
        std::mem::swap(head, &mut stream.message.head);
        stream.head_read = stream.message.bytes.len();
        true
    }

    /// The exchange is over. The place is for the next stream.
    pub(in super::super) fn close(&mut self) {
        self.forget();
        self.core.borrow_mut().keep(&self.stream);
        self.next = Next::Head;
        self.partial = Vec::new();
    }

    /// Why an endpoint ended a stream of ours, and what was written to it, to be written to another one; None if it can't
    /// be, or an answer has begun.
    pub(in super::super) fn take_back(&mut self) -> Option<(Abort, Vec<u8>)> {
        let mut stream = self.stream.borrow_mut();
        let why = stream.aborted.filter(|_| stream.is_ours && !stream.answered)?;
        Some((why, stream.sent.take()?))
    }

    fn forget(&mut self) {
        let mut core = self.core.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        if stream.stage == Stage::Open {
            core.forget(&stream);
            stream.close();
        }
        drop(stream);
        // It may have been let in and never sent.
        core.unblock();
    }

    /// Takes what it can of `bytes`; 0 if it has to wait.
    fn take(&mut self, bytes: &[u8], cx: &Context<'_>) -> io::Result<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let count = match self.next {
                Next::Head => self.send_head(rest)?,
                Next::Length(left) => {
                    let count = self.take_data(rest, left, true, cx);
                    let left = left - count as u64;
                    self.next = if left == 0 { Next::Done } else { Next::Length(left) };
                    count
                }
                Next::ChunkSize(size) => self.take_size(rest, size),
                Next::Chunk(left) => {
                    let count = self.take_data(rest, left, false, cx);
                    let left = left - count as u64;
                    self.next = if left == 0 { Next::ChunkEnd(2) } else { Next::Chunk(left) };
                    count
                }
                Next::ChunkEnd(left) => {
                    self.next = if left > 1 { Next::ChunkEnd(left - 1) } else { Next::ChunkSize(0) };
                    1
                }
                Next::Trailers => self.take_trailers(rest)?,
                Next::Done => rest.len(),
            };
            if count == 0 {
                break;
            }
            at += count;
        }
        Ok(at)
    }

    fn take_data(&mut self, bytes: &[u8], left: u64, last: bool, cx: &Context<'_>) -> usize {
        let mut core = self.core.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        let room = core.room((&self.stream, &mut stream), bytes.len(), cx);
        let count = bytes.len().min(room).min(usize::try_from(left).unwrap_or(usize::MAX));
        if count > 0 {
            let end = last && count as u64 == left;
            core.push_data(&mut stream, bytes.get(..count).unwrap_or_default(), end);
            stream.ended = end;
        }
        count
    }

    fn take_size(&mut self, bytes: &[u8], mut size: u64) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match char::from(*byte).to_digit(16) {
                Some(digit) => size = size.wrapping_mul(16).wrapping_add(u64::from(digit)),
                None if *byte == b'\n' => {
                    self.next = if size == 0 { Next::Trailers } else { Next::Chunk(size) };
                    return at + 1;
                }
                None => {}
            }
        }
        self.next = Next::ChunkSize(size);
        bytes.len()
    }

    fn send_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.partial.is_empty() {
            let sent = self.core.borrow_mut().push_head(&self.stream, bytes)?;
            if let Some(sent) = sent {
                return self.sent_head(&sent);
            }
        }
        if self.stream.borrow().is_aborted() {
            return Ok(0);
        }
        let before = self.keep(bytes)?;
        let partial = std::mem::take(&mut self.partial);
        let sent = self.core.borrow_mut().push_head(&self.stream, &partial)?;
        match sent {
            Some(sent) => Ok(self.sent_head(&sent)?.saturating_sub(before)),
            None => {
                self.partial = partial;
                Ok(bytes.len())
            }
        }
    }

    /// Adds to what is kept: how much it was before.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.partial.len();
        if before > PARTIAL_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.partial.extend_from_slice(bytes);
        Ok(before)
    }

    fn sent_head(&mut self, sent: &Sent) -> io::Result<usize> {
        let mut stream = self.stream.borrow_mut();
        stream.ended = sent.is_end();
        if !stream.is_ours {
            stream.answered = sent.is_final;
        }
        self.next = match sent.framing {
            _ if !sent.is_final => Next::Head,
            Framing::Empty | Framing::Length(0) => Next::Done,
            Framing::Length(length) => Next::Length(length),
            Framing::Chunked => Next::ChunkSize(0),
            // We always say how our messages end.
            Framing::UntilClose => return Err(answer::unsound("without an end")),
        };
        Ok(sent.len)
    }

    fn take_trailers(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.keep(bytes)?;
        let section = if self.partial.starts_with(b"\r\n") {
            2
        } else {
            match self.partial.windows(4).position(|end| end == b"\r\n\r\n") {
                Some(at) => at + 4,
                None => return Ok(bytes.len()),
            }
        };
        let mut stream = self.stream.borrow_mut();
        let mut core = self.core.borrow_mut();
        if section == 2 {
            core.push_data(&mut stream, b"", true);
        } else {
            let kept = self.partial.get(..section).unwrap_or_default();
            let mut fields = Fields::default();
            parse_fields(&mut Cursor { head: kept, at: 0 }, &mut fields)
                .map_err(|fault| answer::unsound(fault.text()))?;
            core.push_trailers(stream.id, fields.iter().map(|f| (f.name.of(kept), f.value.of(kept))));
        }
        stream.ended = true;
        self.next = Next::Done;
        Ok(section.saturating_sub(before))
    }
}

fn error(why: Abort) -> io::Error {
    let (kind, text) = match why {
        Abort::Reset => (io::ErrorKind::ConnectionReset, "the stream was reset or its connection closed"),
        Abort::Refused => (io::ErrorKind::ConnectionReset, "the stream was refused"),
        Abort::Broken => (io::ErrorKind::InvalidData, "the stream or its connection breaks HTTP/2"),
    };
    io::Error::new(kind, text)
}

impl Wired for StreamIo {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.stream.borrow_mut();
        if stream.has_bytes() || stream.aborted.is_some() {
            return Poll::Ready(());
        }
        stream.await_bytes(cx);
        Poll::Pending
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        if let Some(why) = stream.broken_off() {
            return Poll::Ready(Err(error(why)));
        }
        let before = buffer.filled().len();
        let data = stream.read(buffer);
        if data > 0 {
            let mut core = self.core.borrow_mut();
            stream.used += data;
            core.give_back(data);
            core.give_back_to(&mut stream);
        }
        if buffer.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        stream.await_bytes(cx);
        Poll::Pending
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let aborted = self.stream.borrow().aborted;
        match aborted {
            // Whoever reads gets to know it.
            Some(Abort::Refused) => return Poll::Pending,
            Some(why) => return Poll::Ready(Err(error(why))),
            None => {}
        }
        let mut total = 0;
        for part in parts {
            let count = self.take(part, cx)?;
            total += count;
            self.stream.borrow_mut().remember_sent(part.get(..count).unwrap_or_default());
            if count < part.len() {
                break;
            }
        }
        if total == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamIo {
    fn drop(&mut self) {
        self.forget();
        let is_ours = self.stream.borrow().is_ours;
        match is_ours {
            true => self.core.borrow_mut().keep(&self.stream),
            false => self.stream.borrow_mut().dismiss(),
        }
    }
}
