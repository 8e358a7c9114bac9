//! The state of one HTTP/2 stream: what the peer sends as HTTP/1 (a client its request, an endpoint its response), its
//! windows, and who waits for it. Must not know frames.

mod io;

pub(super) use io::StreamIo;

use super::message::{Builder, Malformed, Message};
use crate::http::head::HEAD_BYTES_MAX;
use std::task::{Context, Waker};
use tokio::io::ReadBuf;

/// Room that a chunk's size and its line ends take.
const CHUNK_FRAMING_BYTES: usize = 12;
/// A larger body's memory isn't kept for the next stream.
const BODY_BYTES_KEPT: usize = 4096;
/// Informational responses before one final response.
const INTERIM_MAX: u8 = 16;
/// What may be sent once more, to another endpoint.
const SENT_BYTES_KEPT_MAX: usize = 16 * 1024;
/// A larger memory of that isn't kept for the next stream.
const SENT_BYTES_KEPT: usize = 1024;

/// A stream, or the place that one had and the next one gets.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// Bytes of HTTP/1 before the body.
    message: Message,
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
    /// All that the peer sends is here.
    pub(super) peer_ended: bool,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Used, and not yet given back to the peer.
    pub(super) used: u32,
    aborted: Option<Abort>,
    /// We opened it, for a request of this scheme.
    is_ours: bool,
    scheme: &'static str,
    interim: u8,
    /// What was written to a stream of ours, from its beginning on; None if that became too much.
    sent: Option<Vec<u8>>,
    /// The final response's head has been sent, or received.
    pub(super) answered: bool,
    /// All that we send has been sent.
    pub(super) ended: bool,
    /// It waits among others for room, for so many bytes.
    pub(super) queued: bool,
    pub(super) wanted: usize,
    /// Whom to wake: the task stays the same, so that it is cloned once.
    task: Option<Waker>,
    /// It waits for the peer's next bytes, or for a stream.
    reads: bool,
    /// It waits for room.
    writes: bool,
}

/// Why a stream ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abort {
    /// The peer ended it, or is gone.
    Reset,
    /// The endpoint hasn't begun with it and won't.
    Refused,
    /// The peer broke the rules.
    Broken,
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
        builder.request(ended, &mut self.message)?;
        self.id = id;
        self.chunked = !ended && self.message.length.is_none();
        self.left = self.message.length;
        self.peer_ended = ended;
        (self.send_window, self.recv_window, self.used) = (send_window, recv_window, 0);
        (self.aborted, self.answered, self.ended) = (None, false, false);
        self.stage = Stage::Open;
        self.wake_reader();
        Ok(())
    }

    /// For a stream that we are about to open.
    pub(super) fn reserve(&mut self, scheme: &'static str) {
        self.id = 0;
        (self.is_ours, self.scheme, self.interim) = (true, scheme, 0);
        (self.chunked, self.left, self.peer_ended) = (false, None, false);
        (self.aborted, self.answered, self.ended) = (None, false, false);
        self.sent.get_or_insert_default().clear();
        self.stage = Stage::Open;
    }

    /// Its request leaves.
    pub(super) fn start(&mut self, id: u32, to_head: bool, (send_window, recv_window): (i64, i64)) {
        self.id = id;
        self.message.to_head = to_head;
        (self.send_window, self.recv_window, self.used) = (send_window, recv_window, 0);
    }

    /// A response's head, which `builder` has gathered.
    pub(super) fn take_response(&mut self, ended: bool, builder: &mut Builder) -> Result<(), Malformed> {
        if self.interim >= INTERIM_MAX || self.message.bytes.len() - self.head_read > HEAD_BYTES_MAX {
            return Err(Malformed("informational responses without end"));
        }
        if self.head_read == self.message.bytes.len() {
            self.message.bytes.clear();
            self.head_read = 0;
        }
        let (status, length) = builder.response((ended, self.message.to_head), &mut self.message.bytes)?;
        if status < 200 {
            self.interim += 1;
        } else {
            self.answered = true;
            self.chunked = !ended && length.is_none();
            self.left = length;
            self.peer_ended = ended;
        }
        self.wake_reader();
        Ok(())
    }

    /// Remembers what was written, as long as nothing was answered to it.
    fn remember_sent(&mut self, bytes: &[u8]) {
        if let Some(sent) = self.sent.as_mut().filter(|_| self.is_ours && !self.answered) {
            match sent.len() + bytes.len() <= SENT_BYTES_KEPT_MAX {
                true => sent.extend_from_slice(bytes),
                false => self.sent = None,
            }
        }
    }

    /// Its exchange is over: nothing of it may reach the next one.
    fn close(&mut self) {
        self.message.clear();
        self.head_read = 0;
        self.sent.iter_mut().for_each(|sent| sent.shrink_to(SENT_BYTES_KEPT));
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
        if self.is_ours && !self.answered {
            return false;
        }
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
        self.peer_ended = true;
        if self.chunked {
            self.tail = [b"0\r\n", trailers, b"\r\n"].concat();
        }
    }

    /// Nothing that comes for it is of use.
    pub(super) fn is_deaf(&self) -> bool {
        self.aborted.is_some() || (self.ended && !self.is_ours)
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.is_some()
    }

    pub(super) fn is_to_head(&self) -> bool {
        self.message.to_head
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }

    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    pub(super) fn abort(&mut self, why: Abort) {
        // Where an answer has begun nobody begins anew.
        let why = if why == Abort::Refused && self.answered { Abort::Reset } else { why };
        self.aborted = self.aborted.or(Some(why));
        self.wake_reader();
        self.wake_writer();
    }

    /// Why there is nothing more to read: of what an endpoint has answered all is passed on first.
    fn broken_off(&self) -> Option<Abort> {
        self.aborted.filter(|_| !self.is_ours || (!self.has_bytes() && !self.peer_ended))
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
        let left = [self.message.bytes.len() - self.head_read, self.body.len(), self.tail.len() - self.tail_read];
        left != [0, 0, 0]
    }

    /// Moves bytes of HTTP/1 into `buffer`: how many of them were the peer's data.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> u32 {
        copy(&mut self.head_read, &self.message.bytes, buffer);
        if self.head_read < self.message.bytes.len() {
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
