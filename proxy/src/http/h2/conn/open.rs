//! Our side of a connection to an endpoint: the streams that we open there, as many as it allows and as long as it does.
//! Must not know who asks.

use super::{Core, Shared, Side};
use crate::http::h2::frame::{self, Code};
use crate::http::h2::stream::Abort;
use crate::http::h2::{ENDPOINT_STREAMS_MAX, STREAM_WINDOW_BYTES};
use std::rc::Rc;

/// What all streams together may have sent before it is read: a client that reads slowly must hold up no other's.
const WINDOW_BYTES: u32 = ENDPOINT_STREAMS_MAX * STREAM_WINDOW_BYTES;
/// A connection that opened so many streams takes no more; there are not many more numbers.
const LAST_STREAM: u32 = 1 << 30;

pub(super) struct Opener {
    /// What the endpoint allows at the same time, and we.
    streams_max: u32,
    /// Streams that have a place here, opened or about to be.
    taken: u32,
    /// No stream is opened any more.
    closed: bool,
    /// A stream was opened.
    used: bool,
}

impl Opener {
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_over(&self) -> bool {
        self.closed && self.taken == 0
    }
}

impl Core {
    /// Of a connection to an endpoint.
    pub(in super::super) fn client() -> Self {
        let opener = Opener { streams_max: ENDPOINT_STREAMS_MAX, taken: 0, closed: false, used: false };
        Self::new(Side::Client(opener), frame::PREFACE.to_vec(), &[(frame::SET_PUSH, 0)], WINDOW_BYTES)
    }

    pub(in super::super) fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    fn opener(&mut self) -> Option<&mut Opener> {
        match &mut self.side {
            Side::Client(opener) => Some(opener),
            Side::Server(_) => None,
        }
    }

    /// A place for a stream that is opened with its head, and whether the connection served others before; None if there
    /// is no room, or the endpoint hasn't said yet how much.
    pub(in super::super) fn take_place(&mut self, scheme: &'static str) -> Option<(Shared, bool)> {
        let ready = self.greeted && !self.gone;
        let opener = self.opener().filter(|opener| ready && !opener.closed && opener.taken < opener.streams_max)?;
        opener.taken += 1;
        let used = opener.used;
        let place = self.free.pop().unwrap_or_default();
        place.borrow_mut().reserve(scheme);
        Some((place, used))
    }

    /// Whether it may open streams, now or later.
    pub(in super::super) fn is_open(&self) -> bool {
        !self.gone && !self.is_leaving()
    }

    /// Nobody needs it any more: it ends with its streams.
    pub(in super::super) fn retire(&mut self) {
        self.leave();
        self.wake();
    }

    /// Numbers a stream whose head is next to go out; None if the endpoint wouldn't serve it.
    pub(super) fn open(&mut self, stream: &Shared, to_head: bool) -> Option<u32> {
        let (gone, id) = (self.gone, if self.last == 0 { 1 } else { self.last + 2 });
        let opener = self.opener().filter(|opener| !gone && !opener.closed);
        let Some(opener) = opener else {
            stream.borrow_mut().abort(Abort::Refused);
            return None;
        };
        (opener.used, opener.closed) = (true, id >= LAST_STREAM);
        self.last = id;
        self.streams.push((id, Rc::clone(stream)));
        stream.borrow_mut().start(id, to_head, (self.initial_window, i64::from(STREAM_WINDOW_BYTES)));
        Some(id)
    }

    /// A place is free again.
    pub(super) fn free_place(&mut self) {
        if let Some(opener) = self.opener() {
            opener.taken = opener.taken.saturating_sub(1);
        }
    }

    /// The endpoint allows so many streams at the same time.
    pub(super) fn allow(&mut self, streams: u32) {
        if let Some(opener) = self.opener() {
            opener.streams_max = streams.min(ENDPOINT_STREAMS_MAX);
        }
    }

    /// A response's head, informational or final, that was gathered.
    pub(super) fn response(&mut self, id: u32, ended: bool) -> Result<(), Code> {
        if id > self.last {
            return Err(Code::Protocol);
        }
        let Some(stream) = self.stream(id).map(Rc::clone).filter(|stream| !stream.borrow().is_deaf()) else {
            return self.unexpected(id);
        };
        let mut stream = stream.borrow_mut();
        let taken = stream.take_response(ended, &mut self.builder);
        drop(stream);
        if taken.is_ok() { Ok(()) } else { self.fail(id, Code::Protocol) }
    }

    /// The peer leaves. An endpoint says which streams it hasn't begun with; a client ends its connection when it likes.
    pub(super) fn goaway(&mut self, payload: &[u8]) -> Result<(), Code> {
        let last = frame::number(payload).unwrap_or(0) & super::STREAM_ID_MAX;
        if let Some(opener) = self.opener() {
            opener.close();
            for (_, stream) in self.streams.iter().filter(|(id, _)| *id > last) {
                stream.borrow_mut().abort(Abort::Refused);
            }
        }
        self.budget.noise()
    }
}
