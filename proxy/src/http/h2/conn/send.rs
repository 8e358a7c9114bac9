//! What streams send on their connection: heads, data, trailers, windows given back. Must not know what peers send.

use super::{Core, PLACES_KEPT_MAX, Shared, Side, Stream};
use crate::http::h2::answer;
use crate::http::h2::ask::{self, Sent};
use crate::http::h2::frame::{self, Code};
use crate::http::h2::{CONNECTION_WINDOW_BYTES, OUT_BYTES_MAX, STREAM_WINDOW_BYTES, hpack};
use std::io;
use std::rc::Rc;
use std::task::Context;

impl Core {
    /// Has the connection's task write, once for all streams that are ready now.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Wakes streams that wait for room, in their order and as many as there is room for.
    pub(in super::super) fn unblock(&mut self) {
        let mut room = self.space();
        while room > 0
            && let Some(stream) = self.blocked.pop_front()
        {
            room = room.saturating_sub(stream.borrow_mut().admit());
        }
    }

    /// How much may be lined up for writing.
    fn space(&self) -> usize {
        let space = OUT_BYTES_MAX.saturating_sub(self.out.len() - self.written);
        space.min(self.send_window.max(0) as usize)
    }

    /// How much of what it wants a stream may send now; if nothing, it is woken when that changes.
    pub(in super::super) fn room(
        &mut self,
        (shared, stream): (&Shared, &mut Stream),
        wanted: usize,
        cx: &Context<'_>,
    ) -> usize {
        let own = stream.send_window.max(0) as usize;
        let room = own.min(self.space());
        if room == 0 {
            stream.await_room(cx);
            if own > 0 && !stream.queued {
                self.blocked.push_back(Rc::clone(shared));
                stream.queued = true;
            }
            stream.wanted = wanted.min(own);
        }
        room
    }

    pub(in super::super) fn push_data(&mut self, stream: &mut Stream, data: &[u8], end: bool) {
        let mut parts = data.chunks(self.frame_max).peekable();
        if data.is_empty() && end {
            frame::push(&mut self.out, (frame::DATA, frame::END_STREAM, stream.id), &[]);
        }
        while let Some(part) = parts.next() {
            let flags = if end && parts.peek().is_none() { frame::END_STREAM } else { 0 };
            frame::push(&mut self.out, (frame::DATA, flags, stream.id), part);
            self.budget.moved();
        }
        self.send_window -= data.len() as i64;
        stream.send_window -= data.len() as i64;
        self.wake();
    }

    /// A message's head, which is at the start of `bytes` in HTTP/1; None while it isn't whole. A request's opens its
    /// stream; if it can't, nothing is sent and the stream says so.
    pub(in super::super) fn push_head(&mut self, shared: &Shared, bytes: &[u8]) -> io::Result<Option<Sent>> {
        let start = self.out.len();
        let (id, sent) = if let Side::Client(_) = self.side {
            let scheme = shared.borrow().scheme();
            let Some((sent, to_head)) = ask::push(bytes, scheme, &mut self.out)? else { return Ok(None) };
            let Some(id) = self.open(shared, to_head) else {
                self.out.truncate(start);
                return Ok(None);
            };
            (id, sent)
        } else {
            let stream = shared.borrow();
            let Some(answer) = answer::push(bytes, stream.is_to_head(), &mut self.out)? else { return Ok(None) };
            (stream.id, answer.sent())
        };
        frame::seal_headers(&mut self.out, start, (id, sent.is_end()), self.frame_max);
        self.wake();
        Ok(Some(sent))
    }

    pub(in super::super) fn push_trailers<'a>(&mut self, id: u32, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEAD_BYTES]);
        for (name, value) in fields {
            hpack::push_field(&mut self.out, &name.to_ascii_lowercase(), value);
        }
        frame::seal_headers(&mut self.out, start, (id, true), self.frame_max);
        self.wake();
    }

    /// `count` bytes were used: the peer may send as many more.
    pub(in super::super) fn give_back(&mut self, count: u32) {
        self.used += count;
        if self.used >= CONNECTION_WINDOW_BYTES / 2 {
            frame::push_window(&mut self.out, 0, self.used);
            self.recv_window += i64::from(self.used);
            self.used = 0;
            self.wake();
        }
    }

    pub(in super::super) fn give_back_to(&mut self, stream: &mut Stream) {
        if stream.used >= STREAM_WINDOW_BYTES / 2 && !stream.peer_ended {
            frame::push_window(&mut self.out, stream.id, stream.used);
            stream.recv_window += i64::from(stream.used);
            stream.used = 0;
            self.wake();
        }
    }

    /// The stream's exchange is over.
    pub(in super::super) fn forget(&mut self, stream: &Stream) {
        let is_open = self.at(stream.id).map(|at| self.streams.remove(at)).is_ok();
        self.give_back(stream.unread());
        if is_open && !stream.is_aborted() && !(stream.ended && stream.peer_ended) {
            let code = match (stream.is_ours(), stream.ended, stream.peer_ended) {
                (true, _, false) => Code::Cancel,
                (false, false, _) => Code::Internal,
                _ => Code::NoError,
            };
            frame::push_reset(&mut self.out, stream.id, code);
            self.remember(stream.id);
        }
        if if stream.is_ours() { stream.answered } else { stream.ended } {
            self.budget.served();
        }
        if stream.is_ours() {
            self.free_place();
        }
        // Also when nothing is to be written: it may have been the last one.
        if self.streams.is_empty() || self.written < self.out.len() {
            self.wake();
        }
    }

    /// Keeps a stream's place for another one, if there may be one.
    pub(in super::super) fn keep(&mut self, place: &Shared) {
        if self.gone || self.free.len() >= PLACES_KEPT_MAX {
            place.borrow_mut().dismiss();
        } else {
            self.free.push(Rc::clone(place));
        }
    }

    pub(in super::super) fn dismiss_free(&mut self) {
        for place in self.free.drain(..) {
            place.borrow_mut().dismiss();
        }
    }
}
