//! What streams send on their connection: heads, data, trailers, windows given back. Must not know what clients send.

use super::{Core, Stream};
use crate::http::h2::frame::{self, Code};
use crate::http::h2::{CONNECTION_WINDOW_BYTES, OUT_BYTES_MAX, STREAM_WINDOW_BYTES, hpack};
use crate::http::head::Head;
use std::task::Context;

impl Core {
    /// Has the connection's task write, once for all streams that are ready now.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(in super::super) fn unblock(&mut self) {
        for waker in self.blocked.drain(..) {
            waker.wake();
        }
    }

    /// How much a stream may send now; if nothing, it is woken when that changes.
    pub(in super::super) fn room(&mut self, stream: &mut Stream, cx: &Context<'_>) -> usize {
        let space = OUT_BYTES_MAX.saturating_sub(self.out.len() - self.written);
        let allowed = self.send_window.min(stream.send_window).max(0) as usize;
        let room = allowed.min(space);
        if room == 0 {
            if stream.send_window <= 0 {
                stream.await_window(cx);
            } else {
                self.blocked.push(cx.waker().clone());
            }
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

    /// A response's head, which is at the start of `buffer` in HTTP/1.
    pub(in super::super) fn push_head(&mut self, id: u32, head: &Head, buffer: &[u8], end: bool) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEAD_BYTES]);
        hpack::push_status(&mut self.out, head.status);
        for field in head.fields.iter().filter(|field| !field.known.is_hop_by_hop()) {
            hpack::push_field(&mut self.out, field.name.of(buffer), field.value.of(buffer));
        }
        frame::seal_headers(&mut self.out, start, (id, end), self.frame_max);
        self.wake();
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

    /// The stream's task is over.
    pub(in super::super) fn forget(&mut self, stream: &Stream) {
        self.streams.remove(&stream.id);
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
}
