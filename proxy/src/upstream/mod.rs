//! The way to a service: choose an endpoint, connect, speak TLS, remember who failed. One `Upstreams` a worker; its
//! state outlives snapshots, keyed by service and address. Must not know listeners, routes or what the bytes mean.

pub(crate) mod balance;
pub(crate) mod connect;
pub(crate) mod outlier;
pub(crate) mod resolve;
mod tunnel;

pub(crate) use connect::{Connected, Dialled, Picked, no_endpoint};
use tunnel::TunnelKey;

use crate::mux;
use crate::socket::ConnectOptions;
use balance::{Rng, State};
use hashbrown::HashMap;
use resolve::Resolver;
use std::cell::RefCell;

/// One worker's upstream state.
#[derive(Debug)]
pub(crate) struct Upstreams {
    services: RefCell<HashMap<String, State>>,
    rng: RefCell<Rng>,
    resolver: Resolver,
    options: ConnectOptions,
    tunnels: mux::Pool<TunnelKey>,
}

impl Upstreams {
    /// `seed` should differ between workers and proxies, so that they don't choose in step.
    pub(crate) fn new(options: ConnectOptions, seed: u64) -> Self {
        Self {
            services: RefCell::default(),
            rng: RefCell::new(Rng::new(seed)),
            resolver: Resolver::default(),
            options,
            tunnels: mux::Pool::default(),
        }
    }

    /// Forgets services that the new snapshot doesn't have. `keep` gets the row's name.
    pub(crate) fn prune(&self, keep: impl Fn(&str) -> bool) {
        self.services.borrow_mut().retain(|name, _| keep(name));
        self.tunnels.prune();
    }
}
