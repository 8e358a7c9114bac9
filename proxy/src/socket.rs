//! Linux sockets: how listeners are bound, how upstream connections are made, where an intercepted connection was headed.
//! Owns every socket option of the proxy. Must not know snapshots, TLS or HTTP.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{ConnError, Reason};

/// Connections the kernel may hold before a worker accepts them (the kernel clamps it to `net.core.somaxconn`).
pub const BACKLOG: i32 = 4096;
/// What the kernel holds for us unread (it doubles the figure, for its own overhead). Left alone it tunes itself up to
/// `net.ipv4.tcp_rmem`'s maximum, 32 MiB here and there, for each connection whose other side doesn't read.
pub const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// First probe of a silent connection, then one every [`KEEPALIVE_INTERVAL_S`], dead after [`KEEPALIVE_PROBES`] unanswered.
pub const KEEPALIVE_IDLE_S: u64 = 300;
pub const KEEPALIVE_INTERVAL_S: u64 = 30;
pub const KEEPALIVE_PROBES: u32 = 5;
/// Pause after a failed `accept`, doubled up to the maximum while it keeps failing.
const ACCEPT_PAUSE_MS_MIN: u64 = 5;
const ACCEPT_PAUSE_MS_MAX: u64 = 1_000;

/// How a connection reached a listener; tells where its original destination is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The listener's own address is the destination (VIP:port or 127.0.0.1:port).
    Bind,
    /// nftables `tproxy` to one wildcard socket: the local address stays the destination.
    Tproxy,
    /// NAT redirect: connection tracking remembers the destination.
    Redirect,
}

/// What a listening socket may do beyond the ordinary. Every one is `SO_REUSEPORT`, so that each worker binds its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindOptions {
    /// Accept connections to addresses that aren't this machine's (needs CAP_NET_ADMIN or CAP_NET_RAW).
    pub transparent: bool,
    /// Bind an address that doesn't exist yet.
    pub freebind: bool,
}

/// What an outgoing connection carries beyond the ordinary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Source address, e.g. 127.0.0.6 from the proxy to its own application.
    pub source: Option<IpAddr>,
    /// `SO_MARK` (needs CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// `TCP_CONGESTION`; set as far as the kernel permits it, since it only costs speed.
    pub congestion: Option<&'static str>,
    /// Leaves `TCP_NODELAY`, keepalive and the receive buffer to [`settle`], for a connection that may end before they matter.
    pub unsettled: bool,
}

/// A socket that couldn't be set up: what was tried, on which address, and what the operator can do.
#[derive(Debug)]
pub struct SocketError {
    action: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl SocketError {
    fn new(action: &'static str, address: SocketAddr, source: io::Error) -> Self {
        Self { action, address, source }
    }

    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    fn hint(&self) -> &'static str {
        match self.source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES) if self.address.port() != 0 && self.address.port() < 1024 => {
                "; a port below 1024 needs CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
            }
            Some(Errno::EACCES) => "; a security module forbids it to this user",
            Some(Errno::EPERM) => {
                "; it needs CAP_NET_ADMIN (setcap cap_net_admin+ep, or AmbientCapabilities= of the unit)"
            }
            Some(Errno::EADDRINUSE) => {
                "; another process holds the address (ss -ltnp shows which), stop it or choose another port"
            }
            Some(Errno::EADDRNOTAVAIL) => {
                "; the address isn't on this machine, add it (ip addr) or the local route of its range (ip route add local)"
            }
            Some(Errno::EMFILE | Errno::ENFILE) => "; file descriptors are exhausted, raise LimitNOFILE= or ulimit -n",
            Some(Errno::EAFNOSUPPORT) => "; this machine has no IPv6, choose an IPv4 address",
            _ => "",
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}{}", self.action, self.address, self.source, self.hint())
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A listening TCP socket, non-blocking. Accepted connections inherit its `TCP_NODELAY` and keepalive.
pub fn listen_tcp(address: SocketAddr, options: BindOptions) -> Result<std::net::TcpListener, SocketError> {
    let failed = |action| move |error| SocketError::new(action, address, error);
    let socket = new_socket(address, Type::STREAM, Protocol::TCP).map_err(failed("open a TCP socket for"))?;
    prepare(&socket, Type::STREAM, address, options).map_err(failed("prepare the TCP listener"))?;
    prepare_tcp(&socket).map_err(failed("prepare the TCP listener"))?;
    socket.bind(&address.into()).map_err(failed("bind the TCP listener"))?;
    socket.listen(BACKLOG).map_err(failed("listen on"))?;
    Ok(socket.into())
}

/// Whether somebody listens there already. `SO_REUSEPORT` lets processes of one user share an address without a word.
pub fn is_taken(address: SocketAddr) -> bool {
    let Ok(socket) = new_socket(address, Type::STREAM, Protocol::TCP) else { return false };
    let options =
        socket.set_reuse_address(true).and_then(|()| if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) });
    let bound = options.and_then(|()| socket.bind(&address.into()));
    bound.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// A bound UDP socket, non-blocking.
pub fn bind_udp(address: SocketAddr, options: BindOptions) -> Result<std::net::UdpSocket, SocketError> {
    let failed = |action| move |error| SocketError::new(action, address, error);
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP).map_err(failed("open a UDP socket for"))?;
    prepare(&socket, Type::DGRAM, address, options).map_err(failed("prepare the UDP socket"))?;
    socket.bind(&address.into()).map_err(failed("bind the UDP socket"))?;
    Ok(socket.into())
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))
}

fn prepare(socket: &Socket, kind: Type, address: SocketAddr, options: BindOptions) -> io::Result<()> {
    if kind == Type::STREAM {
        // Restart while old connections are in TIME_WAIT. On UDP it would let two programs share a port silently.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    if options.freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    Ok(())
}

/// What every connection has; accepted ones inherit it.
fn prepare_tcp(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(KEEPALIVE_IDLE_S))
        .with_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    // Only with CAP_NET_ADMIN; else the kernel's own limit holds.
    let _ = nix::sys::socket::setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
    Ok(())
}

/// What [`ConnectOptions::unsettled`] left out. Due before a second write (the first waits for nobody, Nagle or not), before
/// bulk, and when the connection has lasted: six system calls that most short connections never need.
pub(crate) fn settle(stream: &TcpStream) {
    // A socket that refuses is dead already, which its next read or write will tell.
    let _ = prepare_tcp(&SockRef::from(stream));
}

/// Where the client meant to go. A connection that was aimed at the redirect port itself is a [`Reason::Loop`].
pub fn original_destination(stream: &TcpStream, mode: Mode) -> Result<SocketAddr, ConnError> {
    let gone = |error: io::Error| {
        ConnError::new(Reason::DownstreamReset, format!("the client's socket has no address: {error}"))
    };
    let local = stream.local_addr().map_err(gone)?;
    if mode != Mode::Redirect {
        return Ok(local);
    }
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let looped = |why: &dyn fmt::Display| {
        let detail = format!(
            "the connection was aimed at the interception port {local} itself ({why}); dial the service instead"
        );
        Err(ConnError::new(Reason::Loop, detail))
    };
    match original.map(|address| address.as_socket()) {
        Ok(Some(original)) if original != local => Ok(original),
        Ok(_) => looped(&"its original destination is this listener"),
        Err(error) => looped(&error),
    }
}

/// A connection to `address`, `TCP_NODELAY` and keepalive set, or the reason why there is none after `timeout`.
pub async fn connect(address: SocketAddr, options: &ConnectOptions, timeout: Duration) -> Result<TcpStream, ConnError> {
    Ok(connect_saying(address, options, &[], timeout).await?.0)
}

/// The same for who has something to say at once, and how much of it is on its way: none if the connection took its time.
/// Bytes that wait already save a packet and the question whether the connection is there.
pub(crate) async fn connect_saying(
    address: SocketAddr,
    options: &ConnectOptions,
    first: &[u8],
    timeout: Duration,
) -> Result<(TcpStream, usize), ConnError> {
    begin(address, options, first)?.there(timeout).await
}

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct Begun {
    stream: TcpStream,
    address: SocketAddr,
    sent: usize,
    is_there: bool,
}

/// As [`connect_saying`], without waiting.
pub(crate) fn begin(address: SocketAddr, options: &ConnectOptions, first: &[u8]) -> Result<Begun, ConnError> {
    let socket =
        outgoing(address, options).map_err(|error| ConnError::new(Reason::ConnectFailed, error.to_string()))?;
    if !first.is_empty() {
        acknowledge_with_data(&socket);
    }
    begin_connect(&socket, address).map_err(|error| refused(address, error))?;
    // On this machine the handshake is over before connect(2) returns, though it says EINPROGRESS: no waiting, no timer.
    let (is_there, sent) = match first {
        [] => (socket.peer_addr().is_ok(), 0),
        first => match socket.send(first) {
            Ok(sent) => (true, sent),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => (false, 0),
            Err(error) => return Err(refused(address, error)),
        },
    };
    let stream = TcpStream::from_std(socket.into()).map_err(|error| refused(address, error))?;
    Ok(Begun { stream, address, sent, is_there })
}

fn refused(address: SocketAddr, error: io::Error) -> ConnError {
    ConnError::new(Reason::ConnectFailed, SocketError::new("connect to", address, error).to_string())
}

impl Begun {
    /// The connection and how many of its first bytes it took, if there is nothing to wait for.
    pub(crate) fn now(self) -> Result<(TcpStream, usize), Self> {
        if self.is_there { Ok((self.stream, self.sent)) } else { Err(self) }
    }

    /// The same, as soon as it is there.
    pub(crate) async fn there(self, timeout: Duration) -> Result<(TcpStream, usize), ConnError> {
        let address = self.address;
        let stream = match self.now() {
            Ok(there) => return Ok(there),
            Err(begun) => begun.stream,
        };
        match tokio::time::timeout(timeout, stream.writable()).await {
            Ok(Ok(())) => match stream.take_error() {
                Ok(None) => Ok((stream, 0)),
                Ok(Some(error)) | Err(error) => Err(refused(address, error)),
            },
            Ok(Err(error)) => Err(refused(address, error)),
            Err(_) => {
                let ms = timeout.as_millis();
                let detail = format!("no answer from {address} within {ms} ms; is it up and reachable?");
                Err(ConnError::new(Reason::ConnectTimeout, detail))
            }
        }
    }
}

/// Lets the first bytes carry the acknowledgement that ends the handshake: a packet less, and the peer is woken once. (On a
/// connecting socket that is what this option does, and nothing else. Without bytes the kernel would wait 200 ms for them.)
#[expect(unsafe_code, reason = "no library has this option")]
fn acknowledge_with_data(socket: &Socket) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads an int, of the size given, from a
    // live variable. A kernel that refuses sends the packet.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Sends the SYN.
fn begin_connect(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(()),
    }
}

fn outgoing(address: SocketAddr, options: &ConnectOptions) -> Result<Socket, SocketError> {
    let failed = |action| move |error| SocketError::new(action, address, error);
    let socket = new_socket(address, Type::STREAM, Protocol::TCP).map_err(failed("open a TCP socket for"))?;
    if !options.unsettled {
        prepare_tcp(&socket).map_err(failed("prepare the connection to"))?;
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark).map_err(failed("mark the connection to"))?;
    }
    if let Some(algorithm) = options.congestion {
        // Refused in a child namespace for algorithms the host restricts: slower, not wrong.
        let _ = socket.set_tcp_congestion(algorithm.as_bytes());
    }
    if let Some(source) = options.source {
        // The port is chosen at connect, by 4-tuple, so that one source address isn't limited to 28,000 connections.
        let _ = nix::sys::socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        let source = SocketAddr::new(source, 0);
        socket.bind(&source.into()).map_err(|error| SocketError::new("bind the source address", source, error))?;
    }
    Ok(socket)
}

/// Makes the kernel send RST instead of FIN when the connection is dropped.
pub fn reset_on_drop(stream: &TcpStream) {
    // A socket that refuses is dead already.
    let _ = stream.set_zero_linger();
}

/// Takes as many file descriptors as the machine's administrator permits: the usual soft limit of 1024 is for programs that
/// use select(2), and would end a proxy at some 500 connections.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of file descriptors stays as it is");
    }
}

/// Accepts connections, and stays calm when the kernel can't give any.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    pause: Duration,
}

impl Acceptor {
    /// Needs a runtime, as it registers the socket with its poller.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, pause: Duration::ZERO })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Cancel-safe. Out of descriptors or memory it waits and tries again, so that live
    /// connections keep the core and accepting resumes by itself.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if !self.pause.is_zero() {
                // Boxed: there may be thousands of listeners, and they hardly ever pause.
                Box::pin(tokio::time::sleep(self.pause)).await;
            }
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = Duration::ZERO;
                    return accepted;
                }
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => self.lengthen_pause(&error),
            }
        }
    }

    fn lengthen_pause(&mut self, error: &io::Error) {
        if self.pause.is_zero() {
            let address = self.listener.local_addr().ok();
            tracing::warn!(?address, %error, "cannot accept, pausing; raise the file descriptor limit if it is reached");
        }
        let next = (self.pause * 2).as_millis() as u64;
        self.pause = Duration::from_millis(next.clamp(ACCEPT_PAUSE_MS_MIN, ACCEPT_PAUSE_MS_MAX));
    }
}

/// The pending connection died before we took it (accept(2): these are to be treated like "try again").
fn is_clients_fault(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ECONNABORTED
                | Errno::EINTR
                | Errno::EPROTO
                | Errno::ENETDOWN
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::ENONET
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
        )
    )
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
