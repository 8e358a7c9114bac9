//! What streams send on their connection: heads, data, trailers, windows given back. Must not know what clients send.

use super::{Core, PLACES_KEPT_MAX, Shared, Stream};
use crate::http::h2::answer::{self, Answer};
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
        }
        self.send_window -= data.len() as i64;
        stream.send_window -= data.len() as i64;
        self.wake();
    }

    /// A response's head, which is at the start of `bytes` in HTTP/1; None while it isn't whole.
    pub(in super::super) fn push_head(
        &mut self,
        (id, to_head): (u32, bool),
        bytes: &[u8],
    ) -> io::Result<Option<Answer>> {
        let start = self.out.len();
        let answer = answer::push(bytes, to_head, &mut self.out)?;
        if let Some(answer) = &answer {
            frame::seal_headers(&mut self.out, start, (id, answer.is_end()), self.frame_max);
            self.wake();
        }
        Ok(answer)
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

    /// `count` bytes were used: the client may send as many more.
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
        if stream.used >= STREAM_WINDOW_BYTES / 2 && !stream.client_ended {
            frame::push_window(&mut self.out, stream.id, stream.used);
            stream.recv_window += i64::from(stream.used);
            stream.used = 0;
            self.wake();
        }
    }

    /// The stream's exchange is over.
    pub(in super::super) fn forget(&mut self, stream: &Stream) {
        if let Ok(at) = self.at(stream.id) {
            self.streams.remove(at);
        }
        self.give_back(stream.unread());
        if !stream.is_aborted() {
            let code = if stream.ended { Code::NoError } else { Code::Internal };
            if !stream.ended || !stream.client_ended {
                frame::push_reset(&mut self.out, stream.id, code);
                self.remember(stream.id);
            }
        }
        if stream.ended {
            self.budget.served();
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
