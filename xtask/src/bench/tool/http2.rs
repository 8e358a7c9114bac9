//! The HTTP/2 backend: 1 KiB for every stream, over clear connections; it minds the connection's window. Requests without a
//! body; what they say isn't read.

use super::events;
use crate::bench::Res;
use nix::sys::epoll::EpollFlags;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

const READ_MAX: usize = 64 << 10;
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const BODY_BYTES: u16 = 1024;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

struct Connection {
    stream: TcpStream,
    /// The start of a frame whose end hasn't come.
    partial: Vec<u8>,
    is_greeted: bool,
    /// What the peer takes of all streams' data.
    window: i64,
    /// Streams that wait for it.
    waiting: VecDeque<[u8; 4]>,
    unsent: Vec<u8>,
}

pub(super) fn serve(port: u16) -> Res<()> {
    let mut buffer = vec![0; READ_MAX];
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    events::serve(port, flags, Connection::new, |connection| connection.turn(&mut buffer))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn push(out: &mut Vec<u8>, (kind, flags, stream): (u8, u8, [u8; 4]), payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    for part in [&length[..], &[kind, flags], &stream, payload] {
        out.extend_from_slice(part);
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let mut unsent = Vec::new();
        push(&mut unsent, (SETTINGS, 0, [0; 4]), &[]);
        let (partial, waiting) = (Vec::new(), VecDeque::new());
        Self { stream, partial, is_greeted: false, window: 65_535, waiting, unsent }
    }

    /// Whether the connection goes on. All that is answered at once leaves at once.
    fn turn(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(_) => return false,
            };
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let taken = self.frames(&all);
            all.drain(..taken);
            self.partial = all;
            // Less than asked for: the rest, if any, is announced by another event.
            if count < buffer.len() {
                return self.flush();
            }
        }
    }

    fn frames(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if !self.is_greeted {
            if bytes.len() < PREFACE_BYTES {
                return 0;
            }
            (self.is_greeted, at) = (true, PREFACE_BYTES);
        }
        while let Some([a, b, c, kind, flags, stream @ ..]) =
            bytes.get(at..).and_then(<[u8]>::first_chunk::<HEAD_BYTES>)
            && let length = u32::from_be_bytes([0, *a, *b, *c]) as usize
            && let Some(payload) = bytes.get(at + HEAD_BYTES..at + HEAD_BYTES + length)
        {
            self.frame((*kind, *flags, *stream), payload);
            at += HEAD_BYTES + length;
        }
        self.answer();
        at
    }

    fn frame(&mut self, (kind, flags, stream): (u8, u8, [u8; 4]), payload: &[u8]) {
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => self.waiting.push_back(stream),
            SETTINGS | PING if flags & ACK == 0 => {
                let echoed = if kind == PING { payload } else { &[] };
                push(&mut self.unsent, (kind, ACK, [0; 4]), echoed);
            }
            WINDOW_UPDATE if stream == [0; 4] => {
                let more = payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                self.window += i64::from(more);
            }
            _ => {}
        }
    }

    fn answer(&mut self) {
        // :status 200, content-type, content-length.
        const HEAD: &[u8] = b"\x88\x0f\x10\x0atext/plain\x0f\x0d\x041024";
        while self.window >= i64::from(BODY_BYTES)
            && let Some(stream) = self.waiting.pop_front()
        {
            self.window -= i64::from(BODY_BYTES);
            push(&mut self.unsent, (HEADERS, END_HEADERS, stream), HEAD);
            push(&mut self.unsent, (DATA, END_STREAM, stream), &[b'x'; BODY_BYTES as usize]);
        }
    }

    fn flush(&mut self) -> bool {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.unsent.drain(..sent);
        true
    }
}
