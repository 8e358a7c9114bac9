//! What integration tests stand on: kernel isolation, small networks, programs with their logs, little servers, patience.
//! Must not know weir: it gets programs and addresses.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't be set up fails, with the reason")]

mod fuzz;
mod isolation;
mod network;
mod process;
mod servers;
#[cfg(test)]
mod tests;

pub use fuzz::Fuzz;
pub use isolation::isolated;
pub use network::{Network, Node, command, try_command};
pub use process::Process;
pub use servers::{HttpServer, echo_server, http_get};

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Declares tests that run alone in their own network, mount and pid namespace.
#[macro_export]
macro_rules! isolated_tests {
    ($(fn $name:ident() $body:block)*) => {$(
        #[test]
        fn $name() {
            $crate::isolated(concat!(module_path!(), "::", stringify!($name)), || $body);
        }
    )*};
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `look` finds what it looks for. `what` completes "gave up waiting for".
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < within, "gave up waiting for {what} after {within:?}");
        std::thread::sleep(POLL);
    }
}

/// An address with a port that nobody uses now. Prefer letting the program under test bind port 0 and say what it got.
pub fn free_address(ip: IpAddr) -> SocketAddr {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // It never listens: a child that another test forks meanwhile may hold it for a moment, which keeps nobody else out.
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    let any = SockaddrStorage::from(SocketAddr::new(ip, 0));
    socket::bind(socket.as_raw_fd(), &any).expect("binding any port");
    let bound: SockaddrStorage = socket::getsockname(socket.as_raw_fd()).expect("the bound address");
    let port = bound.as_sockaddr_in().map(|a| a.port()).or(bound.as_sockaddr_in6().map(|a| a.port()));
    SocketAddr::new(ip, port.expect("a port"))
}
