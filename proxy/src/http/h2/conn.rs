//! The state of an HTTP/2 connection, a client's to us or ours to an endpoint: what the peer's frames do to streams, windows
//! and budgets, and the bytes that go back (RFC 9113). Without I/O: bytes come in through `receive`, and leave from `out`.
//! Must not know requests' way on.

mod accept;
mod open;
mod send;

use super::budget::Budget;
use super::frame::{self, Code, FrameHead};
use super::hpack;
use super::message::{Builder, Kind};
use super::stream::{Abort, Stream};
use super::{FRAME_BYTES_MAX, OUT_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::http::head::HEAD_BYTES_MAX;
use accept::Acceptor;
use open::Opener;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

/// CONTINUATION frames of one header block.
const CONTINUATIONS_MAX: u32 = 16;
/// Streams that we ended while the peer may still be sending.
const RECENT_MAX: usize = 128;
/// Places of streams that are kept for the next ones.
const PLACES_KEPT_MAX: usize = 128;
const WINDOW_MAX: i64 = 0x7fff_ffff;
const STREAM_ID_MAX: u32 = 0x7fff_ffff;

/// The connection is to end with this code.
pub(super) type Broken = Code;

pub(super) type Shared = Rc<RefCell<Stream>>;

/// A header block whose end hasn't come.
struct Block {
    stream: u32,
    ended: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

enum Side {
    /// We serve the streams that the peer opens.
    Server(Acceptor),
    /// The peer serves those that we open.
    Client(Opener),
}

pub(super) struct Core {
    /// Frames to be written.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Woken when there is something to write.
    waker: Option<Waker>,
    /// Streams that wait for the connection's window or for room in `out`.
    blocked: VecDeque<Shared>,
    /// In the order of their ids, which only rise.
    streams: Vec<(u32, Shared)>,
    /// Places for streams to come.
    free: Vec<Shared>,
    side: Side,
    /// The connection has ended.
    gone: bool,
    recent: VecDeque<u32>,
    /// The highest stream that was opened.
    last: u32,
    send_window: i64,
    recv_window: i64,
    /// Received, used, and not yet given back to the peer.
    used: u32,
    initial_window: i64,
    pub(super) frame_max: usize,
    decoder: hpack::Decoder,
    builder: Builder,
    block: Option<Block>,
    /// The peer's first settings are here.
    greeted: bool,
    budget: Budget,
}

impl Core {
    fn new(side: Side, mut out: Vec<u8>, settings: &[(u16, u32)], window: u32) -> Self {
        let common =
            [(frame::SET_INITIAL_WINDOW, STREAM_WINDOW_BYTES), (frame::SET_HEADER_LIST_MAX, HEAD_BYTES_MAX as u32)];
        frame::push_settings(&mut out, &[settings, &common].concat());
        frame::push_window(&mut out, 0, window - 65_535);
        Self {
            out,
            written: 0,
            waker: None,
            blocked: VecDeque::new(),
            streams: Vec::new(),
            free: Vec::new(),
            side,
            gone: false,
            recent: VecDeque::new(),
            last: 0,
            send_window: 65_535,
            recv_window: i64::from(window),
            used: 0,
            initial_window: 65_535,
            frame_max: FRAME_BYTES_MAX,
            decoder: hpack::Decoder::new(),
            builder: Builder::default(),
            block: None,
            greeted: false,
            budget: Budget::new(),
        }
    }

    /// Handles all whole frames at the start of `bytes`: how many bytes they were.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && self.out.len() - self.written < OUT_BYTES_MAX * 2
            && let Some(head) = FrameHead::read(rest)
        {
            if head.len > FRAME_BYTES_MAX {
                return Err(Code::FrameSize);
            }
            let Some(payload) = rest.get(frame::HEAD_BYTES..frame::HEAD_BYTES + head.len) else { break };
            self.frame(head, payload)?;
            at += frame::HEAD_BYTES + head.len;
        }
        Ok(at)
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if !self.greeted && (head.kind != frame::SETTINGS || head.is(frame::ACK)) {
            return Err(Code::Protocol);
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return Err(Code::Protocol);
        }
        match head.kind {
            frame::DATA => self.data(head, payload),
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::RST_STREAM => self.reset_by_peer(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PING => self.ping(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::GOAWAY if head.stream != 0 => Err(Code::Protocol),
            frame::GOAWAY if head.len < 8 => Err(Code::FrameSize),
            frame::GOAWAY => self.goaway(payload),
            frame::PUSH_PROMISE => Err(Code::Protocol),
            // Unknown ones are skipped.
            _ => self.budget.noise(),
        }
    }

    fn data(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        let data = frame::unpadded(head, payload).ok_or(Code::Protocol)?;
        if head.stream == 0 || head.stream > self.last {
            return Err(Code::Protocol);
        }
        let size = head.len as i64;
        self.recv_window -= size;
        if self.recv_window < 0 {
            return Err(Code::FlowControl);
        }
        let ended = head.is(frame::END_STREAM);
        if data.is_empty() && !ended {
            self.budget.noise()?;
        }
        let stream = self.stream(head.stream).map(Rc::clone);
        let Some(stream) = stream.filter(|stream| !stream.borrow().is_deaf()) else {
            self.give_back(head.len as u32);
            return self.unexpected(head.stream);
        };
        let mut stream = stream.borrow_mut();
        if stream.peer_ended {
            drop(stream);
            self.give_back(head.len as u32);
            return self.fail(head.stream, Code::StreamClosed);
        }
        stream.recv_window -= size;
        if stream.recv_window < 0 {
            drop(stream);
            self.give_back(head.len as u32);
            return self.fail(head.stream, Code::FlowControl);
        }
        let fits = stream.take_data(data, ended);
        // Padding is used as soon as it is here.
        let padding = (head.len - data.len()) as u32;
        stream.used += padding;
        drop(stream);
        self.give_back(padding);
        if fits { Ok(()) } else { self.fail(head.stream, Code::Protocol) }
    }

    fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        let mut block = frame::unpadded(head, payload).ok_or(Code::Protocol)?;
        if head.stream.is_multiple_of(2) {
            return Err(Code::Protocol);
        }
        if head.is(frame::WITH_PRIORITY) {
            let (priority, rest) = block.split_at_checked(5).ok_or(Code::FrameSize)?;
            if frame::number(priority).is_some_and(|on| on & STREAM_ID_MAX == head.stream) {
                return Err(Code::Protocol);
            }
            block = rest;
        }
        let ended = head.is(frame::END_STREAM);
        if head.is(frame::END_HEADERS) {
            return self.whole_block(head.stream, ended, block);
        }
        self.block = Some(Block { stream: head.stream, ended, bytes: block.to_vec(), continuations: 0 });
        Ok(())
    }

    fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        let mut block = self.block.take().ok_or(Code::Protocol)?;
        block.continuations += 1;
        if block.continuations > CONTINUATIONS_MAX || block.bytes.len() + payload.len() > HEAD_BYTES_MAX {
            return Err(Code::EnhanceYourCalm);
        }
        block.bytes.extend_from_slice(payload);
        if head.is(frame::END_HEADERS) {
            return self.whole_block(block.stream, block.ended, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// Whether a header block's end is waited for.
    pub(super) fn in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Decodes in any case: the table's state depends on it.
    fn whole_block(&mut self, id: u32, ended: bool, block: &[u8]) -> Result<(), Broken> {
        let kind = match self.side {
            Side::Server(_) if id > self.last => Kind::Request,
            Side::Client(_) if !self.stream(id).is_some_and(|stream| stream.borrow().answered) => Kind::Response,
            _ => Kind::Trailers,
        };
        self.builder.start(kind);
        let builder = &mut self.builder;
        self.decoder.decode(block, |name, value| builder.field(name, value)).map_err(|_| Code::Compression)?;
        match kind {
            Kind::Request => self.request(id, ended),
            Kind::Response => self.response(id, ended),
            Kind::Trailers => self.trailers(id, ended),
        }
    }

    fn at(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |(id, _)| *id)
    }

    fn stream(&self, id: u32) -> Option<&Shared> {
        self.streams.get(self.at(id).ok()?).map(|(_, stream)| stream)
    }

    fn knows(&self, id: u32) -> bool {
        self.recent.contains(&id) || self.stream(id).is_some()
    }

    fn trailers(&mut self, id: u32, ended: bool) -> Result<(), Broken> {
        let Some(stream) = self.stream(id).map(Rc::clone).filter(|stream| !stream.borrow().is_deaf()) else {
            return if self.knows(id) { self.budget.noise() } else { Err(Code::StreamClosed) };
        };
        let mut stream = stream.borrow_mut();
        if stream.peer_ended {
            drop(stream);
            return self.fail(id, Code::StreamClosed);
        }
        let fits = ended && self.builder.trailer_section().is_ok_and(|section| stream.take_trailers(section));
        drop(stream);
        if fits { Ok(()) } else { self.fail(id, Code::Protocol) }
    }

    /// A frame on a stream that is over.
    fn unexpected(&mut self, id: u32) -> Result<(), Broken> {
        if self.knows(id) {
            return self.budget.noise();
        }
        self.fail(id, Code::StreamClosed)
    }

    /// Ends a stream for what the peer did with it.
    fn fail(&mut self, id: u32, code: Code) -> Result<(), Broken> {
        self.budget.cancelled()?;
        frame::push_reset(&mut self.out, id, code);
        self.remember(id);
        if let Some(stream) = self.stream(id) {
            stream.borrow_mut().abort(Abort::Broken);
        }
        Ok(())
    }

    fn remember(&mut self, id: u32) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    fn reset_by_peer(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if payload.len() != 4 {
            return Err(Code::FrameSize);
        }
        if head.stream == 0 || head.stream > self.last {
            return Err(Code::Protocol);
        }
        let Some(stream) = self.stream(head.stream) else { return self.budget.noise() };
        let refused = frame::number(payload) == Some(Code::RefusedStream as u32);
        let mut stream = stream.borrow_mut();
        let (early, again) = (!stream.answered, stream.is_aborted());
        stream.abort(if refused { Abort::Refused } else { Abort::Reset });
        drop(stream);
        match self.side {
            Side::Server(_) if early => self.budget.cancelled(),
            // Whoever serves streams may end as many as we open.
            Side::Client(_) if !again => Ok(()),
            _ => self.budget.noise(),
        }
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if head.stream != 0 {
            return Err(Code::Protocol);
        }
        let (pairs, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() || (head.is(frame::ACK) && !payload.is_empty()) {
            return Err(Code::FrameSize);
        }
        self.greeted = true;
        if head.is(frame::ACK) {
            return self.budget.noise();
        }
        for [k0, k1, value @ ..] in pairs {
            self.setting(u16::from_be_bytes([*k0, *k1]), u32::from_be_bytes(*value))?;
        }
        frame::push(&mut self.out, (frame::SETTINGS, frame::ACK, 0), &[]);
        self.budget.noise()
    }

    fn setting(&mut self, key: u16, value: u32) -> Result<(), Broken> {
        match key {
            // An endpoint must not even say that it would (RFC 9113 §6.5.2).
            frame::SET_PUSH if value > u32::from(matches!(self.side, Side::Server(_))) => return Err(Code::Protocol),
            frame::SET_FRAME_MAX if !(16_384..=0xff_ffff).contains(&value) => return Err(Code::Protocol),
            frame::SET_INITIAL_WINDOW if i64::from(value) > WINDOW_MAX => return Err(Code::FlowControl),
            // Larger ones would only let one stream hold up others.
            frame::SET_FRAME_MAX => self.frame_max = (value as usize).min(FRAME_BYTES_MAX),
            frame::SET_INITIAL_WINDOW => {
                let change = i64::from(value) - self.initial_window;
                self.initial_window = i64::from(value);
                for (_, stream) in &self.streams {
                    stream.borrow_mut().widen(change, WINDOW_MAX).ok_or(Code::FlowControl)?;
                }
            }
            frame::SET_STREAMS_MAX => self.allow(value),
            // A table for our encoder, which has none; unknown ones.
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if head.stream != 0 {
            return Err(Code::Protocol);
        }
        if payload.len() != 8 {
            return Err(Code::FrameSize);
        }
        if !head.is(frame::ACK) {
            frame::push(&mut self.out, (frame::PING, frame::ACK, 0), payload);
        } else {
            self.heard_pong(payload);
        }
        self.budget.noise()
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if payload.len() != 4 {
            return Err(Code::FrameSize);
        }
        let more = i64::from(frame::number(payload).unwrap_or(0) & STREAM_ID_MAX);
        if head.stream == 0 {
            self.send_window += more;
            self.unblock();
            return match (more, self.send_window) {
                (0, _) => Err(Code::Protocol),
                (_, window) if window > WINDOW_MAX => Err(Code::FlowControl),
                _ => Ok(()),
            };
        }
        if head.stream > self.last {
            return Err(Code::Protocol);
        }
        let Some(stream) = self.stream(head.stream) else { return self.budget.noise() };
        if more == 0 {
            return self.fail(head.stream, Code::Protocol);
        }
        let widened = stream.borrow_mut().widen(more, WINDOW_MAX);
        if widened.is_some() { Ok(()) } else { self.fail(head.stream, Code::FlowControl) }
    }

    fn priority(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Broken> {
        if head.stream == 0 {
            return Err(Code::Protocol);
        }
        if payload.len() != 5 {
            return Err(Code::FrameSize);
        }
        if frame::number(payload).is_some_and(|on| on & STREAM_ID_MAX == head.stream) {
            return Err(Code::Protocol);
        }
        self.budget.noise()
    }

    pub(super) fn break_off(&mut self, code: Code) {
        frame::push_goaway(&mut self.out, self.last, code);
        self.abort(Abort::Broken);
    }

    /// The connection is gone: so are its streams.
    pub(super) fn abort(&mut self, why: Abort) {
        self.gone = true;
        for (_, stream) in &self.streams {
            stream.borrow_mut().abort(why);
        }
        self.dismiss_free();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether the peer's first settings are here.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn ask_for_pong(&mut self) {
        frame::push(&mut self.out, (frame::PING, 0, 0), &[0; 8]);
    }

    pub(super) fn listen(&mut self, cx: &Context<'_>) {
        self.waker = Some(cx.waker().clone());
    }
}
