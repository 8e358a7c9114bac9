//! One HTTP/2 stream as the byte stream of an HTTP/1 client: its request reads as HTTP/1, and the HTTP/1 answer that is
//! written to it leaves as frames. So all that decides, forwards and times requests exists once. Must not know it.

use super::conn::{Core, Shared};
use super::request::Request;
use crate::http::framing::{self, Framing};
use crate::http::head::{Cursor, Head, Kind, parse_fields};
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

pub(super) struct Stream {
    pub(super) id: u32,
    /// Bytes of HTTP/1 before the body.
    head: Vec<u8>,
    head_read: usize,
    body: Vec<u8>,
    body_read: usize,
    /// Bytes of HTTP/1 after the body.
    tail: Vec<u8>,
    tail_read: usize,
    chunked: bool,
    /// What is left of the announced length.
    left: Option<u64>,
    to_head: bool,
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
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, request: Request, ended: bool, (send_window, recv_window): (i64, i64)) -> Self {
        Self {
            id,
            head: request.head,
            head_read: 0,
            body: Vec::new(),
            body_read: 0,
            tail: Vec::new(),
            tail_read: 0,
            chunked: !ended && request.length.is_none(),
            left: request.length,
            to_head: request.to_head,
            client_ended: ended,
            send_window,
            recv_window,
            used: 0,
            aborted: false,
            answered: false,
            ended: false,
            reader: None,
            writer: None,
        }
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

    pub(super) fn await_window(&mut self, cx: &Context<'_>) {
        self.writer = Some(cx.waker().clone());
    }

    /// Moves bytes of HTTP/1 into `buffer`: how many of them were the client's data.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> u32 {
        copy(&mut self.head_read, &mut self.head, buffer);
        if !self.head.is_empty() {
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
            copy(&mut self.tail_read, &mut self.tail, buffer);
        }
        count as u32
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn copy(read: &mut usize, bytes: &mut Vec<u8>, buffer: &mut ReadBuf<'_>) {
    let rest = bytes.get(*read..).unwrap_or_default();
    let count = rest.len().min(buffer.remaining());
    buffer.put_slice(rest.get(..count).unwrap_or_default());
    *read += count;
    if *read == bytes.len() {
        *bytes = Vec::new();
        *read = 0;
    }
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
    head: Head,
    /// A head or trailer section whose end hasn't come.
    partial: Vec<u8>,
}

impl StreamIo {
    pub(super) fn new(core: Rc<RefCell<Core>>, stream: Shared) -> Self {
        Self { core, stream, down: Down::Head, head: Head::default(), partial: Vec::new() }
    }

    /// Takes what it can of `bytes`; 0 if it has to wait.
    fn take(&mut self, bytes: &[u8], cx: &Context<'_>) -> io::Result<usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let count = match self.down {
                Down::Head => self.take_head(rest)?,
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
        let room = core.room(&mut stream, cx);
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

    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.partial.is_empty() && self.head.parse(bytes, Kind::Response).map_err(unsound)? {
            self.send_head(bytes)?;
            return Ok(self.head.len);
        }
        let before = self.keep(bytes)?;
        let partial = std::mem::take(&mut self.partial);
        self.head.clear();
        if !self.head.parse(&partial, Kind::Response).map_err(unsound)? {
            self.partial = partial;
            return Ok(bytes.len());
        }
        self.send_head(&partial)?;
        Ok(self.head.len.saturating_sub(before))
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

    fn send_head(&mut self, buffer: &[u8]) -> io::Result<()> {
        let mut stream = self.stream.borrow_mut();
        let framing = framing::of_response(&self.head, buffer, stream.to_head).map_err(unsound)?;
        let last = self.head.status >= 200;
        let end = last && matches!(framing, Framing::Empty | Framing::Length(0));
        self.core.borrow_mut().push_head(stream.id, &self.head, buffer, end);
        (stream.answered, stream.ended) = (last, end);
        self.down = match framing {
            _ if !last => Down::Head,
            Framing::Empty | Framing::Length(0) => Down::Done,
            Framing::Length(length) => Down::Length(length),
            Framing::Chunked => Down::ChunkSize(0),
            // We always say how our answers end.
            Framing::UntilClose => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(())
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
            parse_fields(&mut Cursor { head: kept, at: 0 }, &mut fields).map_err(unsound)?;
            core.push_trailers(stream.id, fields.iter().map(|f| (f.name.of(kept), f.value.of(kept))));
        }
        stream.ended = true;
        self.down = Down::Done;
        Ok(section.saturating_sub(before))
    }
}

fn unsound(fault: crate::http::fault::Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.text())
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset or its connection closed")
}

impl crate::stream::Wired for StreamIo {}

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
        self.core.borrow_mut().forget(&self.stream.borrow());
    }
}
