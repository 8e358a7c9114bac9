//! One tunnel's streams: who may send how much, what has arrived, what waits to be written. Sans I/O: frames come in by
//! `receive`, bytes to write go out by `out`. Must not know sockets, TLS, or what streams carry.

use super::frame::{self, Code, Frame, PAYLOAD_BYTES_MAX};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::task::{Context, Poll, Waker};

/// What a side may send on a stream before it hears more: part of the wire format.
pub(crate) const WINDOW_BYTES: u32 = 64 << 10;
/// What a stream gets beyond that once its reader has shown that it reads, for throughput.
const WIDER_BYTES: u32 = 192 << 10;
/// All streams of a tunnel together are given this much beyond their first window: with it a tunnel holds
/// [`STREAMS_MAX`] × [`WINDOW_BYTES`] + this at most (24 MiB), however slow its readers are, and none has to wait for another.
const WIDER_BYTES_MAX: u32 = 8 << 20;
/// Streams at a time.
pub(crate) const STREAMS_MAX: usize = 256;
/// Writers wait while this much waits for the socket.
const OUT_BYTES_MAX: usize = 256 << 10;
/// A peer that doesn't read while it makes us answer (PONG, CREDIT, RESET) is cut off here.
const OUT_BYTES_ABUSE: usize = 2 << 20;
/// Receive buffers kept for the next stream.
const SPARE_MAX: usize = 64;
/// Larger receive buffers aren't kept.
const SPARE_BYTES_MAX: usize = 64 << 10;
/// Read bytes are moved off the front of a buffer once there are so many.
const COMPACT_BYTES: usize = 64 << 10;

/// Ids rise by one: any spread is good enough, and it is looked up for each frame.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }
    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Opens streams.
    Dialled,
    /// Takes them.
    Accepted,
}

#[derive(Default)]
struct Slot {
    /// Arrived and unread: from `start`.
    arrived: Vec<u8>,
    start: usize,
    /// The peer's half is over.
    ended: bool,
    /// Ours is.
    finished: bool,
    /// The peer reads no more.
    stopped: bool,
    broken: Option<Code>,
    /// What we may send.
    credit: u32,
    /// What the peer may send.
    granted: u32,
    /// Read, and not told to the peer yet.
    owed: u32,
    widened: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl Slot {
    fn wake(&mut self) {
        for waker in [&mut self.reader, &mut self.writer, &mut self.watcher] {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

pub(crate) struct Conn {
    side: Side,
    slots: HashMap<u32, Slot, BuildHasherDefault<IdHasher>>,
    /// The next id of ours to open, or the lowest that the peer may open.
    next: u32,
    accepted: VecDeque<u32>,
    acceptor: Option<Waker>,
    out: Vec<u8>,
    /// Streams whose writers wait for room in `out`.
    crowded: Vec<u32>,
    spare: Vec<Vec<u8>>,
    wider: u32,
    /// Wakes who writes `out` to the socket.
    driver: Option<Waker>,
    closing: bool,
    /// Why the tunnel is no more.
    dead: Option<String>,
}

fn set(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

fn broken(dead: Option<&str>, code: Code) -> io::Error {
    let what = match (dead, code) {
        (Some(why), _) => why,
        (None, Code::Refused) => "the peer refused the stream",
        (None, _) => "the peer reset the stream",
    };
    io::Error::new(io::ErrorKind::ConnectionReset, what.to_owned())
}

impl Conn {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            slots: HashMap::default(),
            next: 1,
            accepted: VecDeque::new(),
            acceptor: None,
            out: Vec::new(),
            crowded: Vec::new(),
            spare: Vec::new(),
            wider: 0,
            driver: None,
            closing: false,
            dead: None,
        }
    }

    fn slot(&self) -> Slot {
        Slot { credit: WINDOW_BYTES, granted: WINDOW_BYTES, ..Slot::default() }
    }

    /// Streams at this moment.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether another stream may be opened here.
    pub(crate) fn is_open(&self) -> bool {
        self.dead.is_none() && !self.closing && self.slots.len() < STREAMS_MAX && self.next < u32::MAX
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// Nothing goes on and nothing will.
    pub(crate) fn is_over(&self) -> bool {
        // Only who opens streams knows that none is on its way.
        self.side == Side::Dialled && self.closing && self.slots.is_empty() && self.out.is_empty()
    }

    /// A new stream of ours.
    pub(crate) fn open(&mut self) -> Option<u32> {
        if self.side != Side::Dialled || !self.is_open() {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let slot = self.slot();
        self.slots.insert(id, slot);
        // At once, and in order: a server that speaks first must hear of it. It goes in one write with what follows.
        self.send(Frame::Open { id, bytes: b"", fin: false });
        self.drive();
        Some(id)
    }

    /// A new stream of the peer's; `None` when the tunnel is no more.
    pub(crate) fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Option<u32>> {
        match self.accepted.pop_front() {
            Some(id) => Poll::Ready(Some(id)),
            None if self.dead.is_some() => Poll::Ready(None),
            None => {
                set(&mut self.acceptor, cx);
                Poll::Pending
            }
        }
    }

    /// No new streams: ours aren't opened any more, and the peer is asked for none.
    pub(crate) fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.send(Frame::GoAway);
            self.drive();
        }
    }

    /// Ends all streams with the tunnel.
    pub(crate) fn die(&mut self, why: String) {
        if self.dead.is_none() {
            self.dead = Some(why);
        }
        self.out = Vec::new();
        self.slots.values_mut().for_each(Slot::wake);
        self.acceptor.take().into_iter().chain(self.driver.take()).for_each(Waker::wake);
    }

    fn send(&mut self, frame: Frame<'_>) {
        frame::encode(frame, &mut self.out);
    }

    fn drive(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Bytes for the peer, and who is to be woken when there are more.
    pub(crate) fn take_out(&mut self, cx: &Context<'_>, spent: Vec<u8>) -> Vec<u8> {
        set(&mut self.driver, cx);
        std::mem::replace(&mut self.out, spent)
    }

    /// All of `out` is written: writers go on.
    pub(crate) fn written(&mut self) {
        for id in std::mem::take(&mut self.crowded) {
            if let Some(waker) = self.slots.get_mut(&id).and_then(|slot| slot.writer.take()) {
                waker.wake();
            }
        }
    }

    pub(crate) fn poll_read(&mut self, id: u32, cx: &Context<'_>, room: usize) -> Poll<io::Result<(&[u8], usize)>> {
        let dead = self.dead.as_deref();
        let Some(slot) = self.slots.get_mut(&id) else { return Poll::Ready(Ok((&[], 0))) };
        let count = (slot.arrived.len() - slot.start).min(room);
        if let Some(code) = slot.broken {
            return Poll::Ready(Err(broken(dead, code)));
        }
        if count == 0 {
            if slot.ended || room == 0 {
                return Poll::Ready(Ok((&[], 0)));
            }
            if dead.is_some() {
                return Poll::Ready(Err(broken(dead, Code::Broken)));
            }
            set(&mut slot.reader, cx);
            return Poll::Pending;
        }
        let bytes = slot.arrived.get(slot.start..slot.start + count).unwrap_or_default();
        Poll::Ready(Ok((bytes, count)))
    }

    /// `count` bytes that `poll_read` showed are the reader's now.
    pub(crate) fn consume(&mut self, id: u32, count: usize) {
        let Some(slot) = self.slots.get_mut(&id).filter(|_| count > 0) else { return };
        slot.start += count;
        slot.owed = slot.owed.saturating_add(count as u32);
        if slot.start >= slot.arrived.len() {
            slot.start = 0;
            let mut bytes = std::mem::take(&mut slot.arrived);
            bytes.clear();
            if self.spare.len() < SPARE_MAX && bytes.capacity() <= SPARE_BYTES_MAX {
                self.spare.push(bytes);
            }
        }
        if slot.ended || slot.owed < WINDOW_BYTES / 4 {
            return;
        }
        if !slot.widened && self.wider + WIDER_BYTES <= WIDER_BYTES_MAX {
            slot.widened = true;
            self.wider += WIDER_BYTES;
            slot.owed += WIDER_BYTES;
        }
        let bytes = std::mem::take(&mut slot.owed);
        slot.granted += bytes;
        self.send(Frame::Credit { id, bytes });
        self.drive();
    }

    pub(crate) fn poll_write(&mut self, id: u32, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let dead = self.dead.as_deref();
        let Some(slot) = self.slots.get_mut(&id) else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        if let Some(code) = slot.broken.or(dead.map(|_| Code::Broken)) {
            return Poll::Ready(Err(broken(dead, code)));
        }
        if slot.stopped || slot.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let crowded = self.out.len() >= OUT_BYTES_MAX;
        if crowded || slot.credit == 0 {
            set(&mut slot.writer, cx);
            if crowded {
                self.crowded.push(id);
            }
            self.drive();
            return Poll::Pending;
        }
        let count = bytes.len().min(slot.credit as usize).min(PAYLOAD_BYTES_MAX);
        let bytes = bytes.get(..count).unwrap_or_default();
        slot.credit -= count as u32;
        frame::encode(Frame::Data { id, bytes, fin: false }, &mut self.out);
        self.drive();
        Poll::Ready(Ok(count))
    }

    /// Our half is over.
    pub(crate) fn finish(&mut self, id: u32) -> io::Result<()> {
        let dead = self.dead.as_deref();
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if let Some(code) = slot.broken.or(dead.map(|_| Code::Broken)) {
            return Err(broken(dead, code));
        }
        if !std::mem::replace(&mut slot.finished, true) && !slot.stopped {
            self.send(Frame::Data { id, bytes: b"", fin: true });
            self.drive();
        }
        Ok(())
    }

    /// Ready when the stream broke.
    pub(crate) fn poll_broken(&mut self, id: u32, cx: &Context<'_>) -> Poll<()> {
        if self.dead.is_some() {
            return Poll::Ready(());
        }
        match self.slots.get_mut(&id) {
            Some(slot) if slot.broken.is_none() => {
                set(&mut slot.watcher, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The stream's owner has left, in peace (what was written counts) or not.
    pub(crate) fn leave(&mut self, id: u32, torn: bool) {
        let Some(slot) = self.remove(id) else { return };
        if self.dead.is_some() || slot.broken.is_some() {
            return self.drive();
        }
        if torn {
            self.send(Frame::Reset { id, code: Code::Broken });
        } else {
            if !slot.finished && !slot.stopped {
                self.send(Frame::Data { id, bytes: b"", fin: true });
            }
            if !slot.ended {
                self.send(Frame::Reset { id, code: Code::Stopped });
            }
        }
        self.drive();
    }

    fn remove(&mut self, id: u32) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        if slot.widened {
            self.wider -= WIDER_BYTES;
        }
        Some(slot)
    }

    /// Takes in all whole frames of `input`; says how much of it they were.
    ///
    /// # Errors
    /// The peer breaks the protocol: how. The tunnel must end.
    pub(crate) fn receive(&mut self, input: &[u8]) -> Result<usize, String> {
        let mut done = 0;
        while let Some((frame, length)) = frame::decode(input.get(done..).unwrap_or_default())? {
            self.take(frame)?;
            done += length;
            if self.out.len() > OUT_BYTES_ABUSE {
                return Err(format!("it reads nothing while {OUT_BYTES_ABUSE} bytes wait for it"));
            }
        }
        Ok(done)
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), String> {
        match frame {
            Frame::Open { id, bytes, fin } => self.opened(id, bytes, fin),
            Frame::Data { id, bytes, fin } => self.arrived(id, bytes, fin),
            Frame::Reset { id, code } => {
                self.known(id)?;
                if let Some(slot) = self.slots.get_mut(&id) {
                    match code {
                        Code::Stopped => slot.stopped = true,
                        code => slot.broken = Some(code),
                    }
                    slot.wake();
                }
                Ok(())
            }
            Frame::Credit { id, bytes } => {
                self.known(id)?;
                if let Some(slot) = self.slots.get_mut(&id) {
                    let sum = slot.credit.checked_add(bytes).filter(|sum| *sum <= 1 << 30);
                    slot.credit = sum.ok_or_else(|| format!("stream {id} is given more than 1 GiB of credit"))?;
                    if let Some(writer) = slot.writer.take() {
                        writer.wake();
                    }
                }
                Ok(())
            }
            Frame::Ping(what) => {
                self.send(Frame::Pong(what));
                Ok(())
            }
            Frame::Pong(_) => Ok(()),
            Frame::GoAway => {
                self.closing = true;
                Ok(())
            }
        }
    }

    /// Streams that ended here may still be spoken of; those that never were may not.
    fn known(&self, id: u32) -> Result<(), String> {
        if id < self.next { Ok(()) } else { Err(format!("stream {id} was never opened")) }
    }

    fn opened(&mut self, id: u32, bytes: &[u8], fin: bool) -> Result<(), String> {
        if self.side == Side::Dialled {
            return Err(format!("it opens stream {id}, which only the side that dialled may"));
        }
        if id < self.next {
            return Err(format!("stream {id} is opened after {}", self.next - 1));
        }
        self.next = id.checked_add(1).ok_or("stream ids are used up")?;
        if self.slots.len() >= STREAMS_MAX {
            self.send(Frame::Reset { id, code: Code::Refused });
            return Ok(());
        }
        let slot = self.slot();
        self.slots.insert(id, slot);
        self.accepted.push_back(id);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
        self.arrived(id, bytes, fin)
    }

    fn arrived(&mut self, id: u32, bytes: &[u8], fin: bool) -> Result<(), String> {
        self.known(id)?;
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if slot.ended {
            return Err(format!("stream {id} goes on after its end"));
        }
        slot.granted = slot
            .granted
            .checked_sub(bytes.len() as u32)
            .ok_or_else(|| format!("stream {id} sends more than it was given credit for"))?;
        if slot.arrived.capacity() == 0 && !bytes.is_empty() {
            slot.arrived = self.spare.pop().unwrap_or_default();
        }
        if slot.start >= COMPACT_BYTES {
            slot.arrived.drain(..slot.start);
            slot.start = 0;
        }
        slot.arrived.extend_from_slice(bytes);
        slot.ended = fin;
        if let Some(reader) = slot.reader.take() {
            reader.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
