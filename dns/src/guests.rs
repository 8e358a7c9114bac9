//! Containers on this machine: install's rules send their questions to our own address in their network, which may come up
//! after us. What is answered there is `server`'s matter.

use crate::server::Core;
use crate::{bind_pair, tcp, udp};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use snapshot::lookup::passthrough::is_in;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How often it is looked for addresses that have come up.
const CHECK: Duration = Duration::from_secs(2);
/// Each has a thread.
const ADDRESSES_MAX: usize = 16;

/// Serves our addresses in the guests' networks until `stopped` changes. An address that is gone keeps its sockets: it may
/// come back.
pub(crate) async fn serve(core: Arc<Core>, guests: Vec<(IpAddr, u8)>, port: u16, mut stopped: watch::Receiver<bool>) {
    let mut loops = JoinSet::new();
    let (mut served, mut refused) = (HashSet::new(), HashSet::new());
    let mut ticks = tokio::time::interval(CHECK);
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            _ = ticks.tick() => {}
        }
        for ip in own_addresses(&guests) {
            if served.len() >= ADDRESSES_MAX || served.contains(&ip) {
                continue;
            }
            let address = SocketAddr::new(ip, port);
            let bound = match bind_pair(address).await {
                Ok((udp, tcp)) => udp::Udp::new(core.clone(), udp).map(|udp| (udp, tcp)),
                Err(error) => Err(error),
            };
            match bound {
                Ok((udp, tcp)) => {
                    info!(%address, "DNS for containers");
                    served.insert(ip);
                    loops.spawn(udp.serve(stopped.clone()));
                    loops.spawn(tcp::serve_tcp(core.clone(), tcp, stopped.clone()));
                }
                Err(error) if refused.insert(ip) => {
                    warn!(%address, %error, "containers get no DNS there yet; trying again");
                }
                Err(_) => {}
            }
        }
    }
    while loops.join_next().await.is_some() {}
}

fn own_addresses(guests: &[(IpAddr, u8)]) -> Vec<IpAddr> {
    let ip = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let is_guests = |own: &IpAddr| guests.iter().any(|(first, bits)| is_in(*own, *first, *bits));
    getifaddrs().into_iter().flatten().filter_map(|i| i.address).filter_map(ip).filter(is_guests).collect()
}
