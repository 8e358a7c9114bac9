//! The floor: a forwarder that does nothing but move bytes, one connection to the backend for each that it accepts. No
//! protocol, no limits, no half-close, no metrics: what it costs is what the kernel asks for the job on this machine.

use super::events::{Events, LISTENER, Slots, connect, listen};
use crate::bench::Res;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::epoll::EpollFlags;
use nix::unistd::pipe2;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;

const BUFFER: usize = 64 << 10;
const PIPE: i32 = 1 << 20;

/// How bytes get from one socket to the other.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    Copy,
    Splice,
}

/// One direction of a connection; the other's token differs in the last bit.
struct Half {
    from: Rc<TcpStream>,
    to: Rc<TcpStream>,
    /// Read and not written yet.
    held: Vec<u8>,
    pipe: Option<Pipe>,
    is_blocked: bool,
}

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

pub(super) fn serve(port: u16, backend: SocketAddr, way: Way) -> Res<()> {
    let listener = listen(port)?;
    let mut events = Events::new()?;
    events.add(&listener, EpollFlags::EPOLLIN, LISTENER)?;
    let mut pairs: Slots<[Half; 2]> = Slots::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let ready: Vec<(u64, EpollFlags)> = events.wait().iter().map(|event| (event.data(), event.events())).collect();
        for (token, flags) in ready {
            if token == LISTENER {
                accept(&listener, backend, way, (&events, &mut pairs))?;
                continue;
            }
            let Some(pair) = pairs.get(token >> 1) else { continue };
            if !turn(pair, token, flags, (&events, &mut buffer)) {
                pairs.end(token >> 1);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    backend: SocketAddr,
    way: Way,
    (events, pairs): (&Events, &mut Slots<[Half; 2]>),
) -> Res<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(|error| error.to_string())?;
        let (client, server) = (Rc::new(stream), Rc::new(connect(backend)?));
        let half = |from: &Rc<TcpStream>, to: &Rc<TcpStream>| -> Res<Half> {
            let pipe = if way == Way::Splice { Some(Pipe::new()?) } else { None };
            Ok(Half { from: from.clone(), to: to.clone(), held: Vec::new(), pipe, is_blocked: false })
        };
        let token = pairs.put([half(&client, &server)?, half(&server, &client)?]) << 1;
        events.add(&*client, EpollFlags::EPOLLIN, token)?;
        events.add(&*server, EpollFlags::EPOLLIN, token | 1)?;
    }
    Ok(())
}

/// Whether the connection goes on.
fn turn(pair: &mut [Half; 2], token: u64, flags: EpollFlags, (events, buffer): (&Events, &mut [u8])) -> bool {
    let [ours, theirs] = pair;
    let (here, there) = if token & 1 == 0 { (ours, theirs) } else { (theirs, ours) };
    let was = (here.is_blocked, there.is_blocked);
    // What is readable here goes there; what waited to be written here comes from there.
    let is_alive =
        (here.is_blocked || !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP) || here.pump(buffer))
            && (!there.is_blocked || !flags.contains(EpollFlags::EPOLLOUT) || there.pump(buffer));
    if is_alive && was != (here.is_blocked, there.is_blocked) {
        let wanted = |reads: &Half, writes: &Half| {
            let out = if writes.is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            if reads.is_blocked { out } else { out | EpollFlags::EPOLLIN }
        };
        return events.change(&*here.from, wanted(here, there), token).is_ok()
            && events.change(&*there.from, wanted(there, here), token ^ 1).is_ok();
    }
    is_alive
}

impl Half {
    /// Moves what is there. False at the end of either side.
    fn pump(&mut self, buffer: &mut [u8]) -> bool {
        let moved = match &mut self.pipe {
            Some(pipe) => pipe.pump(&self.from, &self.to),
            None => copy(&self.from, &self.to, &mut self.held, buffer),
        };
        self.is_blocked = matches!(moved, Ok(Moved::Blocked));
        moved.is_ok_and(|moved| moved != Moved::End)
    }
}

#[derive(PartialEq)]
enum Moved {
    All,
    Blocked,
    End,
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, held: &mut Vec<u8>, buffer: &mut [u8]) -> Result<Moved, Error> {
    let fresh = held.is_empty();
    let count = if fresh { from.read(buffer)? } else { held.len() };
    if count == 0 {
        return Ok(Moved::End);
    }
    let bytes = if fresh { buffer.get(..count).unwrap_or_default() } else { held.as_slice() };
    let written = match to.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        other => other?,
    };
    let rest = bytes.get(written..).unwrap_or_default().to_vec();
    let moved = if rest.is_empty() { Moved::All } else { Moved::Blocked };
    *held = rest;
    Ok(moved)
}

impl Pipe {
    fn new() -> Res<Self> {
        let of = |error| format!("pipe: {error}");
        let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).map_err(of)?;
        fcntl(&into, FcntlArg::F_SETPIPE_SZ(PIPE)).map_err(of)?;
        Ok(Self { out, into, held: 0 })
    }

    fn pump(&mut self, from: &TcpStream, to: &TcpStream) -> Result<Moved, Error> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let most = PIPE.unsigned_abs() as usize;
        if self.held == 0 {
            self.held = splice(from, None, &self.into, None, most, flags)?;
            if self.held == 0 {
                return Ok(Moved::End);
            }
        }
        match splice(&self.out, None, to, None, self.held, flags) {
            Ok(count) => self.held -= count,
            Err(nix::Error::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(if self.held == 0 { Moved::All } else { Moved::Blocked })
    }
}
