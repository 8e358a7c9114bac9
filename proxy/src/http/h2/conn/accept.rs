//! Our side of a client's connection: streams that it opens, and how we leave. Must not know what becomes of requests.

use super::{Core, STREAM_ID_MAX, Shared, Side};
use crate::http::h2::frame::{self, Code};
use crate::http::h2::message::Malformed;
use crate::http::h2::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use std::rc::Rc;

/// Marks the ping whose answer shows that the client knows we are leaving.
const GOODBYE: [u8; 8] = *b"goodbye!";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Streams that come are still served.
    Told,
    Final,
}

pub(super) struct Acceptor {
    /// Streams in new places; the owner serves them.
    opened: Vec<Shared>,
    /// Malformed requests, which nobody else will report; the owner takes them.
    malformed: Vec<(u32, Malformed)>,
    streams_max: usize,
    leaving: Leaving,
}

impl Core {
    /// Of a connection that a client opened.
    pub(in super::super) fn server(streams_max: u32) -> Self {
        let acceptor = Acceptor {
            opened: Vec::new(),
            malformed: Vec::new(),
            streams_max: streams_max as usize,
            leaving: Leaving::No,
        };
        let settings = [(frame::SET_STREAMS_MAX, streams_max)];
        Self::new(Side::Server(acceptor), Vec::new(), &settings, CONNECTION_WINDOW_BYTES)
    }

    fn acceptor(&mut self) -> Option<&mut Acceptor> {
        match &mut self.side {
            Side::Server(acceptor) => Some(acceptor),
            Side::Client(_) => None,
        }
    }

    pub(in super::super) fn take_opened(&mut self) -> Vec<Shared> {
        self.acceptor().map(|acceptor| std::mem::take(&mut acceptor.opened)).unwrap_or_default()
    }

    pub(in super::super) fn take_malformed(&mut self) -> Vec<(u32, Malformed)> {
        self.acceptor().map(|acceptor| std::mem::take(&mut acceptor.malformed)).unwrap_or_default()
    }

    /// A stream that the client opens, with what was gathered of its head.
    pub(super) fn request(&mut self, id: u32, ended: bool) -> Result<(), Code> {
        let Side::Server(acceptor) = &mut self.side else { return Err(Code::Internal) };
        if acceptor.leaving == Leaving::Final {
            return Ok(());
        }
        self.last = id;
        if self.streams.len() >= acceptor.streams_max {
            return self.fail(id, Code::RefusedStream);
        }
        let windows = (self.initial_window, i64::from(STREAM_WINDOW_BYTES));
        let place = std::iter::from_fn(|| self.free.pop()).find(|place| place.borrow().is_waiting());
        let is_new = place.is_none();
        let stream = place.unwrap_or_default();
        if let Err(malformed) = stream.borrow_mut().open(id, ended, windows, &mut self.builder) {
            acceptor.malformed.push((id, malformed));
            if !is_new {
                self.free.push(Rc::clone(&stream));
            }
            return self.fail(id, Code::Protocol);
        }
        self.streams.push((id, Rc::clone(&stream)));
        if is_new {
            acceptor.opened.push(stream);
        }
        Ok(())
    }

    pub(super) fn heard_pong(&mut self, payload: &[u8]) {
        if payload == GOODBYE {
            self.leave();
        }
    }

    /// Says goodbye: at first without refusing streams that are on their way.
    pub(in super::super) fn tell_leaving(&mut self) {
        if let Some(acceptor) = self.acceptor()
            && acceptor.leaving == Leaving::No
        {
            acceptor.leaving = Leaving::Told;
            frame::push_goaway(&mut self.out, STREAM_ID_MAX, Code::NoError);
            frame::push(&mut self.out, (frame::PING, 0, 0), &GOODBYE);
        }
    }

    /// No stream that comes from now on is served, or opened.
    pub(in super::super) fn leave(&mut self) {
        let last = match &mut self.side {
            Side::Server(acceptor) if acceptor.leaving != Leaving::Final => {
                acceptor.leaving = Leaving::Final;
                self.last
            }
            Side::Server(_) => return,
            Side::Client(opener) if opener.is_closed() => return,
            Side::Client(opener) => {
                opener.close();
                // The endpoint opened none.
                0
            }
        };
        frame::push_goaway(&mut self.out, last, Code::NoError);
    }

    pub(in super::super) fn is_leaving(&self) -> bool {
        match &self.side {
            Side::Server(acceptor) => acceptor.leaving != Leaving::No,
            Side::Client(opener) => opener.is_closed(),
        }
    }

    /// There is no stream and there won't be one.
    pub(in super::super) fn is_over(&self) -> bool {
        self.streams.is_empty()
            && match &self.side {
                Side::Server(acceptor) => acceptor.leaving == Leaving::Final,
                Side::Client(opener) => opener.is_over(),
            }
    }

    /// Places with tasks that wait.
    pub(in super::super) fn has_free(&self) -> bool {
        matches!(self.side, Side::Server(_)) && !self.free.is_empty()
    }
}
