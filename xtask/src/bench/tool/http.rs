//! The HTTP/1.1 backend: 1 KiB, or 64 KiB for a path with `64k`. Pipelining and keep-alive; no body in a request.

use super::events;
use crate::bench::Res;
use nix::sys::epoll::EpollFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

const HEAD_MAX: usize = 16 << 10;
const END: &[u8] = b"\r\n\r\n";

struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    /// Of the answers, what the socket didn't take yet.
    unsent: Vec<u8>,
    is_last: bool,
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

pub(super) fn serve(port: u16) -> Res<()> {
    let answers = Answers { small: answer(1024), large: answer(65536) };
    let mut buffer = vec![0; HEAD_MAX];
    let open = |stream| Connection { stream, head: Vec::new(), unsent: Vec::new(), is_last: false };
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    events::serve(port, flags, open, |connection| connection.turn(&answers, &mut buffer))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn answer(body: usize) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body, b'x');
    answer
}

impl Connection {
    /// Whether the connection goes on.
    fn turn(&mut self, answers: &Answers, buffer: &mut [u8]) -> bool {
        if !self.flush() {
            return false;
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            let got = buffer.get(..count).unwrap_or_default();
            if !self.take(got, answers) {
                return false;
            }
            // Less than asked for: the rest, if any, is announced by another event.
            if count < buffer.len() {
                return !self.is_last || !self.unsent.is_empty();
            }
        }
    }

    fn take(&mut self, got: &[u8], answers: &Answers) -> bool {
        if self.head.is_empty() {
            let rest = self.requests(got, answers);
            self.head.extend_from_slice(got.get(rest..).unwrap_or_default());
        } else {
            self.head.extend_from_slice(got);
            let all = std::mem::take(&mut self.head);
            let rest = self.requests(&all, answers);
            self.head.extend_from_slice(all.get(rest..).unwrap_or_default());
        }
        self.head.len() < HEAD_MAX
    }

    /// Answers every complete request and says where the next one begins.
    fn requests(&mut self, bytes: &[u8], answers: &Answers) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && let Some(end) = rest.windows(END.len()).position(|window| window == END)
        {
            let head = rest.get(..end).unwrap_or_default();
            let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
            self.is_last |= head.windows(16).any(|window| window == b"onnection: close");
            let is_large = line.windows(3).any(|window| window == b"64k");
            self.send(if is_large { &answers.large } else { &answers.small });
            at += end + END.len();
        }
        at
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < bytes.len() {
            match self.stream.write(bytes.get(sent..).unwrap_or_default()) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        self.unsent.extend_from_slice(bytes.get(sent..).unwrap_or_default());
    }

    fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        !self.is_last
    }
}
