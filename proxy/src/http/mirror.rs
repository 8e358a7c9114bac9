//! Copies of requests to a mirror: fire and forget, what it answers is dropped. Must not know why a request is mirrored.

use super::exchange::{Exchange, Terms};
use super::forward::lease;
use super::head::{Head, Version};
use super::pump::Pipe;
use super::target::split_host;
use super::timer::Timer;
use super::traffic::{Context, Traffic};
use snapshot::Timeouts;
use tokio::sync::watch;
use tokio::time::Instant;

/// Mirrored requests under way on a worker's thread; more aren't copied.
const MIRRORED_MAX: u32 = 256;

thread_local! {
    static MIRRORED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

struct Slot;

impl Slot {
    fn take() -> Option<Self> {
        MIRRORED.with(|count| (count.get() < MIRRORED_MAX).then(|| count.set(count.get() + 1))).map(|()| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        MIRRORED.with(|count| count.set(count.get().saturating_sub(1)));
    }
}

/// The mirror's Host: the request's, with `-shadow` before the port.
pub(super) fn authority(authority: &[u8]) -> Vec<u8> {
    let at = split_host(authority).map_or(authority.len(), |(host, _)| host.len());
    let (host, port) = authority.split_at_checked(at).unwrap_or((authority, b""));
    [host, b"-shadow", port].concat()
}

/// Sends `request`, a whole HTTP/1 message, and reads the answer away.
pub(super) fn send<T: Traffic>(context: &Context<T>, target: T::Target, request: Vec<u8>, to_head: bool) {
    let Some(slot) = Slot::take() else { return };
    let context = context.clone();
    tokio::task::spawn_local(async move {
        let _slot = slot;
        let Ok(mut lease) = lease(&context, (&target, false), Instant::now()).await else { return };
        let (_drain, drain) = watch::channel(false);
        let (mut nobody, mut head, timeouts) = (tokio::io::empty(), Head::default(), Timeouts::default());
        let terms = Terms {
            version: Version::Http11,
            to_head,
            keep: false,
            upgrade: false,
            filters: None,
            settings: &context.settings,
            timeouts: &timeouts,
            drain: &drain,
        };
        let (mut up, mut down) = (Pipe::default(), Pipe::default());
        up.out = request;
        let pipes = (&mut up, &mut down);
        let mut exchange = Exchange::new((&mut nobody, &mut lease.io), terms, &mut head, pipes, Instant::now());
        let done = exchange.run(&mut Timer::new()).await;
        if done.is_ok() && exchange.keeps_upstream() {
            lease.give_back(&context, Instant::now());
        }
    });
}
