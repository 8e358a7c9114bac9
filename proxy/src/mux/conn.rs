//! One tunnel's streams: who may send how much, what has arrived, what waits to be written. Sans I/O: frames come in by
//! `receive`, bytes to write go out by `out`. Must not know sockets, TLS, or what streams carry.

use super::frame::{Code, Decoder, Event, Frame, Out, PAYLOAD_BYTES_MAX};
use super::slot::{IdHasher, Slot, WINDOW_BYTES, set, wake};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io;
use std::task::{Context, Poll, Waker, ready};

/// A stream's window grows fourfold up to this while its reader keeps up: one connection of TCP would, and over a long way it
/// decides how much is on it.
const WINDOW_BYTES_MAX: u32 = 4 << 20;
/// All streams of a tunnel together are given this much beyond their first window: with it a tunnel holds
/// [`STREAMS_MAX`] × [`WINDOW_BYTES`] + this at most (32 MiB), however slow its readers are, and none has to wait for another.
const WIDER_BYTES_MAX: u32 = 16 << 20;
/// The reader of a wide window tells what it read at least this often.
const OWED_BYTES_MAX: u32 = 64 << 10;
/// Streams at a time.
pub(crate) const STREAMS_MAX: usize = 256;
/// Writers wait while this much waits to be taken by the driver, so that it is sealed while the cache has it.
const OUT_BYTES_MAX: usize = 32 << 10;
/// With less credit than this a writer waits for more: small pieces at the end of a window would cost as much as full ones.
/// The reader gives new credit long before it has read all the rest.
const CREDIT_BYTES_MIN: u32 = 4 << 10;
/// A peer that doesn't read while it makes us answer (PONG, CREDIT, RESET) is cut off here.
const OUT_BYTES_ABUSE: usize = 2 << 20;
/// Most of a TLS record: there is more of the stream's to come.
const LARGE_BYTES_MIN: usize = 12 << 10;
/// From here on bytes are handed to a stream in the memory they were read into.
const GIVEN_BYTES_MIN: usize = 32 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Opens streams.
    Dialled,
    /// Takes them.
    Accepted,
}

/// Which end of a passage through a stream broke: that of the stream itself, or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Source,
    Sink,
}

pub(crate) struct Conn {
    side: Side,
    slots: HashMap<u32, Slot, BuildHasherDefault<IdHasher>>,
    /// The next id of ours to open, or the lowest that the peer may open.
    next: u32,
    accepted: VecDeque<u32>,
    acceptor: Option<Waker>,
    decoder: Decoder,
    out: Out,
    /// Streams whose writers wait for room in `out`.
    crowded: Vec<u32>,
    wider: u32,
    /// Wakes who writes `out` to the socket.
    driver: Option<Waker>,
    closing: bool,
    refusing: bool,
    /// Why the tunnel is no more.
    dead: Option<String>,
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
            decoder: Decoder::default(),
            out: Out::default(),
            crowded: Vec::new(),
            wider: 0,
            driver: None,
            closing: false,
            refusing: false,
            dead: None,
        }
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
        self.slots.insert(id, Slot::new());
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

    /// New streams of the peer's are refused.
    pub(crate) fn refuse(&mut self) {
        self.refusing = true;
    }

    /// Ends all streams with the tunnel.
    pub(crate) fn die(&mut self, why: String) {
        if self.dead.is_none() {
            self.dead = Some(why);
        }
        self.out = Out::default();
        self.slots.values_mut().for_each(Slot::wake);
        self.acceptor.take().into_iter().chain(self.driver.take()).for_each(Waker::wake);
    }

    fn send(&mut self, frame: Frame<'_>) {
        self.out.put(frame);
    }

    fn drive(&mut self) {
        wake(&mut self.driver);
    }

    /// Bytes for the peer, and who is to be woken when there are more.
    pub(crate) fn take_out(&mut self, cx: &Context<'_>) -> Out {
        set(&mut self.driver, cx);
        std::mem::take(&mut self.out)
    }

    /// All of `out` is written: writers go on.
    pub(crate) fn written(&mut self) {
        for id in std::mem::take(&mut self.crowded) {
            if let Some(slot) = self.slots.get_mut(&id) {
                wake(&mut slot.writer);
            }
        }
    }

    /// What has arrived and isn't read; nothing at the end.
    pub(crate) fn poll_arrived(&mut self, id: u32, cx: &Context<'_>) -> Poll<io::Result<&[u8]>> {
        let dead = self.dead.as_deref();
        let Some(slot) = self.slots.get_mut(&id) else { return Poll::Ready(Ok(&[])) };
        if let Some(code) = slot.broken {
            return Poll::Ready(Err(broken(dead, code)));
        }
        if !slot.arrived.unread().is_empty() || slot.ended {
            return Poll::Ready(Ok(slot.arrived.unread()));
        }
        if dead.is_some() {
            return Poll::Ready(Err(broken(dead, Code::Broken)));
        }
        set(&mut slot.reader, cx);
        Poll::Pending
    }

    /// Has `write` take what has arrived where it lies.
    pub(crate) fn poll_pass(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Failed>> {
        let bytes = ready!(self.poll_arrived(id, cx)).map_err(|_| Failed::Source)?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match ready!(write(cx, bytes)) {
            Err(_) | Ok(0) => Poll::Ready(Err(Failed::Sink)),
            Ok(count) => {
                self.consume(id, count);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// `count` bytes of what has arrived are the reader's now.
    pub(crate) fn consume(&mut self, id: u32, count: usize) {
        let Some(slot) = self.slots.get_mut(&id).filter(|_| count > 0) else { return };
        slot.arrived.consume(count);
        slot.owed = slot.owed.saturating_add(count as u32);
        slot.read = slot.read.saturating_add(count as u32);
        if slot.ended || slot.owed < (slot.window / 4).min(OWED_BYTES_MAX) {
            return;
        }
        // The first time soon, then after it has read several windows full.
        let proven = slot.read >= slot.window.saturating_mul(4) || slot.window == WINDOW_BYTES;
        let more = slot.window * 3;
        if proven && slot.window < WINDOW_BYTES_MAX && self.wider + more <= WIDER_BYTES_MAX {
            self.wider += more;
            slot.window += more;
            slot.owed += more;
            slot.read = 0;
        }
        let bytes = std::mem::take(&mut slot.owed);
        slot.granted += bytes;
        self.send(Frame::Credit { id, bytes });
        self.drive();
    }

    /// How much the stream may write now.
    fn poll_room(&mut self, id: u32, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let dead = self.dead.as_deref();
        let Some(slot) = self.slots.get_mut(&id) else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        if let Some(code) = slot.broken.or(dead.map(|_| Code::Broken)) {
            return Poll::Ready(Err(broken(dead, code)));
        }
        if slot.stopped || slot.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let crowded = self.out.len() >= OUT_BYTES_MAX;
        if !crowded && slot.credit >= CREDIT_BYTES_MIN {
            return Poll::Ready(Ok(PAYLOAD_BYTES_MAX.min(slot.credit as usize)));
        }
        set(&mut slot.writer, cx);
        if crowded {
            self.crowded.push(id);
        }
        self.drive();
        Poll::Pending
    }

    fn spend(&mut self, id: u32, count: usize) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.credit = slot.credit.saturating_sub(count as u32);
        }
        self.drive();
    }

    pub(crate) fn poll_write(&mut self, id: u32, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(id, cx))?;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        if !bytes.is_empty() {
            self.send(Frame::Data { id, bytes, fin: false });
            self.spend(id, bytes.len());
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Has `read` put bytes where they wait for the driver.
    pub(crate) fn poll_fill(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Failed>> {
        let room = ready!(self.poll_room(id, cx)).map_err(|_| Failed::Sink)?;
        let count = ready!(self.out.put_filled(id, room, |space| read(cx, space))).map_err(|_| Failed::Source)?;
        if count > 0 {
            self.spend(id, count);
        }
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
        self.wider -= slot.window - WINDOW_BYTES;
        Some(slot)
    }

    /// Takes in what the peer has sent. True when the end of it was much of one stream's.
    ///
    /// # Errors
    /// The peer breaks the protocol: how. The tunnel must end.
    pub(crate) fn receive(&mut self, mut input: &[u8]) -> Result<bool, String> {
        let mut large = false;
        while let Some(event) = self.decoder.next(&mut input)? {
            large = matches!(event, Event::Data { bytes, .. } if bytes.len() >= LARGE_BYTES_MIN);
            self.take(event)?;
        }
        self.check_flood()?;
        Ok(large)
    }

    /// The same for `count` bytes at the front of `chunk`. True when a stream got the chunk itself, and had better read before
    /// more comes.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub(crate) fn receive_chunk(&mut self, chunk: &mut Vec<u8>, count: usize) -> Result<bool, String> {
        let mut input = chunk.get(..count).unwrap_or_default();
        while let Some(event) = self.decoder.next(&mut input)? {
            match event {
                Event::Data { id, bytes, fin } if bytes.len() >= GIVEN_BYTES_MIN && input.is_empty() => {
                    let from = count - bytes.len();
                    if let Some(slot) = self.admit(id, count - from, fin)? {
                        slot.arrived.give(chunk, from..count);
                    }
                    return Ok(true);
                }
                event => self.take(event)?,
            }
        }
        self.check_flood()?;
        Ok(false)
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Open { id } => self.opened(id),
            Event::Data { id, bytes, fin } => {
                if let Some(slot) = self.admit(id, bytes.len(), fin)? {
                    slot.arrived.push(bytes);
                }
                Ok(())
            }
            Event::Reset { id, code } => {
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
            Event::Credit { id, bytes } => {
                self.known(id)?;
                if let Some(slot) = self.slots.get_mut(&id) {
                    let sum = slot.credit.checked_add(bytes).filter(|sum| *sum <= 1 << 30);
                    slot.credit = sum.ok_or_else(|| format!("stream {id} is given more than 1 GiB of credit"))?;
                    wake(&mut slot.writer);
                }
                Ok(())
            }
            Event::Ping(what) => {
                self.send(Frame::Pong(what));
                Ok(())
            }
            Event::Pong => Ok(()),
            Event::GoAway => {
                self.closing = true;
                Ok(())
            }
        }
    }

    /// What frames of the peer's make us answer must be read some time.
    fn check_flood(&self) -> Result<(), String> {
        match self.out.len() > OUT_BYTES_ABUSE {
            true => Err(format!("it reads nothing while {OUT_BYTES_ABUSE} bytes wait for it")),
            false => Ok(()),
        }
    }

    /// Streams that ended here may still be spoken of; those that never were may not.
    fn known(&self, id: u32) -> Result<(), String> {
        if id < self.next { Ok(()) } else { Err(format!("stream {id} was never opened")) }
    }

    fn opened(&mut self, id: u32) -> Result<(), String> {
        if self.side == Side::Dialled {
            return Err(format!("it opens stream {id}, which only the side that dialled may"));
        }
        if id < self.next {
            return Err(format!("stream {id} is opened after {}", self.next - 1));
        }
        self.next = id.checked_add(1).ok_or("stream ids are used up")?;
        if self.refusing || self.slots.len() >= STREAMS_MAX {
            self.send(Frame::Reset { id, code: Code::Refused });
            return Ok(());
        }
        self.slots.insert(id, Slot::new());
        self.accepted.push_back(id);
        wake(&mut self.acceptor);
        Ok(())
    }

    /// The slot that takes so many bytes of the peer's, as its reader is about to hear; none when it left.
    fn admit(&mut self, id: u32, count: usize, fin: bool) -> Result<Option<&mut Slot>, String> {
        self.known(id)?;
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(None) };
        if slot.ended {
            return Err(format!("stream {id} goes on after its end"));
        }
        slot.granted = slot
            .granted
            .checked_sub(count as u32)
            .ok_or_else(|| format!("stream {id} sends more than it was given credit for"))?;
        slot.ended = fin;
        wake(&mut slot.reader);
        Ok(Some(slot))
    }
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
