//! The backend that gives bytes back, or drops them unread.

use super::events;
use crate::bench::Res;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

const BUFFER: usize = 256 << 10;
const DROPPED_AT_ONCE: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    Back,
    Nowhere,
}

pub(super) fn serve(port: u16, way: Way) -> Res<()> {
    let mut buffer = vec![0; if way == Way::Back { BUFFER } else { DROPPED_AT_ONCE }];
    events::serve(port, EpollFlags::EPOLLIN, |stream| stream, |stream| turn(stream, way, &mut buffer))
}

/// Whether the connection goes on.
fn turn(stream: &mut TcpStream, way: Way, buffer: &mut [u8]) -> bool {
    if way == Way::Nowhere {
        // MSG_TRUNC drops what TCP received without copying it.
        return !matches!(recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC), Ok(0));
    }
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(count) => stream.write_all(buffer.get(..count).unwrap_or_default()).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
