//! One HTTP/2 stream as the byte stream of an HTTP/1 client: its request reads as HTTP/1, and the HTTP/1 answer that is
//! written to it leaves as frames. So all that decides, forwards and times requests exists once. Must not know it.

use super::answer::{self, Answer};
use super::conn::{Core, Shared};
use super::request::{Builder, Malformed, Request};
use crate::http::buffer::Buffer;
use crate::http::framing::Framing;
use crate::http::head::{Cursor, Head, parse_fields};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room that a chunk's size and its line ends take.
const CHUNK_FRAMING_BYTES: usize = 12;
/// An answer's head in pieces: as large as one may be.
const PARTIAL_BYTES_MAX: usize = 2 * crate::http::head::HEAD_BYTES_MAX;
/// A larger body's memory isn't kept for the next stream.
const BODY_BYTES_KEPT: usize = 4096;

/// A stream, or the place that one had and the next one gets.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Bytes of HTTP/1 before the body.
    request: Request,
    head_read: usize,
    body: Vec<u8>,
    body_read: usize,
    /// Bytes of HTTP/1 after the body.
    tail: Vec<u8>,
    tail_read: usize,
    chunked: bool,
    /// What is left of the announced length.
    left: Option<u64>,
    stage: Stage,
    pub(super) client_ended: bool,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Used, and not yet given back to the client.
    pub(super) used: u32,
    aborted: bool,
    /// The final response's head has been sent.
    pub(super) answered: bool,
    /// All of the response has been sent.
    pub(super) ended: bool,
    /// It waits among others for room, for so many bytes.
    pub(super) queued: bool,
    pub(super) wanted: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// For a stream to open.
    #[default]
    Waiting,
    Open,
    /// Nobody will need it.
    Dismissed,
}

impl Stream {
    /// Opens with the request that `builder` has gathered.
    pub(super) fn open(
        &mut self,
        id: u32,
        ended: bool,
        (send_window, recv_window): (i64, i64),
        builder: &mut Builder,
    ) -> Result<(), Malformed> {
        builder.request(ended, &mut self.request)?;
        self.id = id;
        self.chunked = !ended && self.request.length.is_none();
        (self.left, self.client_ended) = (self.request.length, ended);
        (self.send_window, self.recv_window, self.used) = (send_window, recv_window, 0);
        (self.aborted, self.answered, self.ended) = (false, false, false);
        self.stage = Stage::Open;
        wake(&mut self.reader);
        Ok(())
    }

    /// Its exchange is over: nothing of it may reach the next one.
    fn close(&mut self) {
        self.request.clear();
        self.body.clear();
        self.body.shrink_to(BODY_BYTES_KEPT);
        self.tail = Vec::new();
        (self.head_read, self.body_read, self.tail_read, self.wanted) = (0, 0, 0, 0);
        (self.reader, self.writer) = (None, None);
        self.stage = Stage::Waiting;
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// No stream will have its place.
    pub(super) fn dismiss(&mut self) {
        self.stage = Stage::Dismissed;
        wake(&mut self.reader);
    }

    /// False if it isn't what was announced.
    pub(super) fn take_data(&mut self, data: &[u8], ended: bool) -> bool {
        if let Some(left) = &mut self.left {
            match left.checked_sub(data.len() as u64) {
                Some(rest) if !ended || rest == 0 => *left = rest,
                _ => return false,
            }
        }
        self.body.extend_from_slice(data);
        if ended {
            self.end(b"");
        }
        wake(&mut self.reader);
        true
    }

    pub(super) fn take_trailers(&mut self, section: &[u8]) -> bool {
        let sound = self.left.is_none_or(|left| left == 0);
        self.end(section);
        wake(&mut self.reader);
        sound
    }

    fn end(&mut self, trailers: &[u8]) {
        self.client_ended = true;
        if self.chunked {
            self.tail = [b"0\r\n", trailers, b"\r\n"].concat();
        }
    }

    /// Nothing that comes for it is of use.
    pub(super) fn is_deaf(&self) -> bool {
        self.aborted || self.ended
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted
    }

    pub(super) fn abort(&mut self) {
        self.aborted = true;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    pub(super) fn unread(&self) -> u32 {
        (self.body.len() - self.body_read) as u32
    }

    /// None if the window gets larger than it may be.
    pub(super) fn widen(&mut self, more: i64, max: i64) -> Option<()> {
        self.send_window += more;
        if self.send_window > 0 {
            wake(&mut self.writer);
        }
        (self.send_window <= max).then_some(())
    }

    pub(super) fn await_room(&mut self, cx: &Context<'_>) {
        self.writer = Some(cx.waker().clone());
    }

    /// There is room for what it wanted to send: how much that was.
    pub(super) fn admit(&mut self) -> usize {
        self.queued = false;
        wake(&mut self.writer);
        self.wanted
    }

    /// Moves bytes of HTTP/1 into `buffer`: how many of them were the client's data.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> u32 {
        copy(&mut self.head_read, &self.request.bytes, buffer);
        if self.head_read < self.request.bytes.len() {
            return 0;
        }
        let waiting = self.body.len() - self.body_read;
        let framing = if self.chunked { CHUNK_FRAMING_BYTES } else { 0 };
        let count = waiting.min(buffer.remaining().saturating_sub(framing));
        if count > 0 {
            if self.chunked {
                buffer.put_slice(format!("{count:x}\r\n").as_bytes());
            }
            buffer.put_slice(self.body.get(self.body_read..self.body_read + count).unwrap_or_default());
            if self.chunked {
                buffer.put_slice(b"\r\n");
            }
            self.body_read += count;
            if self.body_read == self.body.len() {
                self.body.clear();
                self.body_read = 0;
            }
        }
        if self.body.is_empty() {
            copy(&mut self.tail_read, &self.tail, buffer);
        }
        count as u32
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn copy(read: &mut usize, bytes: &[u8], buffer: &mut ReadBuf<'_>) {
    let rest = bytes.get(*read..).unwrap_or_default();
    let count = rest.len().min(buffer.remaining());
    buffer.put_slice(rest.get(..count).unwrap_or_default());
    *read += count;
}

/// What the answer's next bytes are. They come from our own side, so they are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
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

pub(super) struct StreamIo {
    core: Rc<RefCell<Core>>,
    stream: Shared,
    down: Down,
    /// The start of a head or trailer section whose end hasn't come.
    partial: Vec<u8>,
}

impl StreamIo {
    pub(super) fn new(core: Rc<RefCell<Core>>, stream: Shared) -> Self {
        Self { core, stream, down: Down::Head, partial: Vec::new() }
    }

    /// Ready once a stream is open here; false when there will be no other.
    pub(super) fn poll_open(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let mut stream = self.stream.borrow_mut();
        match stream.stage {
            Stage::Open => Poll::Ready(true),
            Stage::Dismissed => Poll::Ready(false),
            Stage::Waiting => {
                stream.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Gives the request's head as if it had been read and parsed; false if it is still to be.
    pub(super) fn take_head(&mut self, head: &mut Head, input: &mut Buffer) -> bool {
        let mut guard = self.stream.borrow_mut();
        let stream = &mut *guard;
        if stream.request.head.len == 0 || !input.put(&stream.request.bytes) {
            return false;
        }
        std::mem::swap(head, &mut stream.request.head);
        stream.head_read = stream.request.bytes.len();
        true
    }

    /// The exchange is over. The place is for the next stream.
    pub(super) fn close(&mut self) {
        self.forget();
        self.core.borrow_mut().keep(&self.stream);
        self.down = Down::Head;
        self.partial = Vec::new();
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
            let count = match self.down {
                Down::Head => self.send_head(rest)?,
                Down::Length(left) => {
                    let count = self.take_data(rest, left, true, cx);
                    let left = left - count as u64;
                    self.down = if left == 0 { Down::Done } else { Down::Length(left) };
                    count
                }
                Down::ChunkSize(size) => self.take_size(rest, size),
                Down::Chunk(left) => {
                    let count = self.take_data(rest, left, false, cx);
                    let left = left - count as u64;
                    self.down = if left == 0 { Down::ChunkEnd(2) } else { Down::Chunk(left) };
                    count
                }
                Down::ChunkEnd(left) => {
                    self.down = if left > 1 { Down::ChunkEnd(left - 1) } else { Down::ChunkSize(0) };
                    1
                }
                Down::Trailers => self.take_trailers(rest)?,
                Down::Done => rest.len(),
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
                    self.down = if size == 0 { Down::Trailers } else { Down::Chunk(size) };
                    return at + 1;
                }
                None => {}
            }
        }
        self.down = Down::ChunkSize(size);
        bytes.len()
    }

    fn send_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.partial.is_empty()
            && let Some(answer) = self.try_head(bytes)?
        {
            return self.sent_head(&answer);
        }
        let before = self.keep(bytes)?;
        let partial = std::mem::take(&mut self.partial);
        match self.try_head(&partial)? {
            Some(answer) => Ok(self.sent_head(&answer)?.saturating_sub(before)),
            None => {
                self.partial = partial;
                Ok(bytes.len())
            }
        }
    }

    fn try_head(&mut self, bytes: &[u8]) -> io::Result<Option<Answer>> {
        let stream = self.stream.borrow();
        self.core.borrow_mut().push_head((stream.id, stream.request.to_head), bytes)
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

    fn sent_head(&mut self, answer: &Answer) -> io::Result<usize> {
        let last = answer.is_final();
        let mut stream = self.stream.borrow_mut();
        (stream.answered, stream.ended) = (last, answer.is_end());
        self.down = match answer.framing {
            _ if !last => Down::Head,
            Framing::Empty | Framing::Length(0) => Down::Done,
            Framing::Length(length) => Down::Length(length),
            Framing::Chunked => Down::ChunkSize(0),
            // We always say how our answers end.
            Framing::UntilClose => return Err(answer::unsound("without an end")),
        };
        Ok(answer.len)
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
            let mut fields = Vec::new();
            parse_fields(&mut Cursor { head: kept, at: 0 }, &mut fields)
                .map_err(|fault| answer::unsound(fault.text()))?;
            core.push_trailers(stream.id, fields.iter().map(|f| (f.name.of(kept), f.value.of(kept))));
        }
        stream.ended = true;
        self.down = Down::Done;
        Ok(section.saturating_sub(before))
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset or its connection closed")
}

impl AsyncRead for StreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        if stream.aborted {
            return Poll::Ready(Err(reset()));
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
        stream.reader = Some(cx.waker().clone());
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
        if self.stream.borrow().aborted {
            return Poll::Ready(Err(reset()));
        }
        let mut total = 0;
        for part in parts {
            let count = self.take(part, cx)?;
            total += count;
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
        self.stream.borrow_mut().dismiss();
    }
}
