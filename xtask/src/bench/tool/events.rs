//! One thread's readiness loop over sockets that have a number each. Knows no protocol.

use crate::bench::Res;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

const AT_ONCE: usize = 256;
const WAIT_MS: u8 = 100;
/// The token of a listener; connections count from 0.
pub(super) const LISTENER: u64 = u64::MAX;

pub(super) struct Events {
    epoll: Epoll,
    ready: Vec<EpollEvent>,
}

impl Events {
    pub(super) fn new() -> Res<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self { epoll, ready: vec![EpollEvent::empty(); AT_ONCE] })
    }

    pub(super) fn add(&self, socket: impl AsFd, flags: EpollFlags, token: u64) -> Res<()> {
        self.epoll.add(socket, EpollEvent::new(flags, token)).map_err(|error| format!("epoll: {error}"))
    }

    pub(super) fn change(&self, socket: impl AsFd, flags: EpollFlags, token: u64) -> Res<()> {
        let mut event = EpollEvent::new(flags, token);
        self.epoll.modify(socket, &mut event).map_err(|error| format!("epoll: {error}"))
    }

    /// The ready ones; none after a while without.
    pub(super) fn wait(&mut self) -> &[EpollEvent] {
        let count = self.epoll.wait(&mut self.ready, EpollTimeout::from(WAIT_MS)).unwrap_or(0);
        self.ready.get(..count).unwrap_or_default()
    }
}

pub(super) fn listen(port: u16) -> Res<TcpListener> {
    let of = |error| format!("port {port}: {error}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(of)?;
    socket.set_reuse_address(true).map_err(of)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).map_err(of)?;
    socket.listen(4096).map_err(of)?;
    socket.set_nonblocking(true).map_err(of)?;
    Ok(socket.into())
}

/// A backend: connections that `open` makes of what is accepted, each until its `turn` says that it is over.
pub(super) fn serve<T: AsFd>(
    port: u16,
    flags: EpollFlags,
    open: impl Fn(TcpStream) -> T,
    mut turn: impl FnMut(&mut T) -> bool,
) -> Res<()> {
    let listener = listen(port)?;
    let mut events = Events::new()?;
    events.add(&listener, EpollFlags::EPOLLIN, LISTENER)?;
    let mut connections: Slots<T> = Slots::new();
    let mut fresh = Vec::new();
    loop {
        for event in events.wait() {
            if event.data() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    fresh.push(stream);
                }
            } else if let Some(connection) = connections.get(event.data())
                && !turn(connection)
            {
                connections.end(event.data());
            }
        }
        for stream in fresh.drain(..) {
            stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(|error| error.to_string())?;
            let token = connections.put(open(stream));
            if let Some(connection) = connections.get(token) {
                events.add(&*connection, flags, token)?;
            }
        }
    }
}

/// A connection on its way: writable when it is there.
pub(super) fn connect(address: SocketAddr) -> Res<TcpStream> {
    let of = |error| format!("{address}: {error}");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(of)?;
    socket.set_nonblocking(true).map_err(of)?;
    socket.set_tcp_nodelay(true).map_err(of)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(of(error)),
    }
    Ok(socket.into())
}

/// Connections under numbers that are used again.
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn put(&mut self, value: T) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(value);
        }
        at as u64
    }

    pub(super) fn get(&mut self, token: u64) -> Option<&mut T> {
        self.slots.get_mut(usize::try_from(token).ok()?)?.as_mut()
    }

    pub(super) fn end(&mut self, token: u64) {
        let Ok(at) = usize::try_from(token) else { return };
        if self.slots.get_mut(at).and_then(Option::take).is_some() {
            self.free.push(at);
        }
    }
}
