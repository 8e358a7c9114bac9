//! The state of one HTTP/2 stream: its request as HTTP/1, its windows, and who waits for it. Must not know frames.

mod io;

pub(super) use io::StreamIo;

use super::request::{Builder, Malformed, Request};
use std::task::{Context, Waker};
use tokio::io::ReadBuf;

/// Room that a chunk's size and its line ends take.
const CHUNK_FRAMING_BYTES: usize = 12;
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
    /// Whom to wake: the task stays the same, so that it is cloned once.
    task: Option<Waker>,
    /// It waits for the client's next bytes, or for a stream.
    reads: bool,
    /// It waits for room.
    writes: bool,
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
        self.left = self.request.length;
        self.client_ended = ended;
        (self.send_window, self.recv_window, self.used) = (send_window, recv_window, 0);
        (self.aborted, self.answered, self.ended) = (false, false, false);
        self.stage = Stage::Open;
        self.wake_reader();
        Ok(())
    }

    /// Its exchange is over: nothing of it may reach the next one.
    fn close(&mut self) {
        self.request.clear();
        self.head_read = 0;
        self.body.clear();
        self.body.shrink_to(BODY_BYTES_KEPT);
        self.body_read = 0;
        self.tail = Vec::new();
        self.tail_read = 0;
        self.wanted = 0;
        (self.reads, self.writes) = (false, false);
        self.stage = Stage::Waiting;
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// No stream will have its place.
    pub(super) fn dismiss(&mut self) {
        self.stage = Stage::Dismissed;
        self.wake_reader();
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
        self.wake_reader();
        true
    }

    pub(super) fn take_trailers(&mut self, section: &[u8]) -> bool {
        let sound = self.left.is_none_or(|left| left == 0);
        self.end(section);
        self.wake_reader();
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
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn unread(&self) -> u32 {
        (self.body.len() - self.body_read) as u32
    }

    /// None if the window gets larger than it may be.
    pub(super) fn widen(&mut self, more: i64, max: i64) -> Option<()> {
        self.send_window += more;
        if self.send_window > 0 {
            self.wake_writer();
        }
        (self.send_window <= max).then_some(())
    }

    pub(super) fn await_room(&mut self, cx: &Context<'_>) {
        self.writes = true;
        self.remember(cx);
    }

    fn await_bytes(&mut self, cx: &Context<'_>) {
        self.reads = true;
        self.remember(cx);
    }

    fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            None => self.task = Some(cx.waker().clone()),
        }
    }

    fn wake_reader(&mut self) {
        if std::mem::take(&mut self.reads)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    fn wake_writer(&mut self) {
        if std::mem::take(&mut self.writes)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
    }

    /// There is room for what it wanted to send: how much that was.
    pub(super) fn admit(&mut self) -> usize {
        self.queued = false;
        self.wake_writer();
        self.wanted
    }

    /// Whether there are any for `read`.
    fn has_bytes(&self) -> bool {
        let left = [self.request.bytes.len() - self.head_read, self.body.len(), self.tail.len() - self.tail_read];
        left != [0, 0, 0]
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

fn copy(read: &mut usize, bytes: &[u8], buffer: &mut ReadBuf<'_>) {
    let rest = bytes.get(*read..).unwrap_or_default();
    let count = rest.len().min(buffer.remaining());
    buffer.put_slice(rest.get(..count).unwrap_or_default());
    *read += count;
}
