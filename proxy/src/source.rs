//! What feeds a proxy: offers of tables to be acked or nacked, key material, and requests for CSRs. The control channel
//! and `weir up` (in the same process) both speak it. Knows no transport.

use crate::identity::Material;
use snapshot::{Generation, ProxyRow, Tables};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Offers wait here while the proxy is busy with an earlier one.
pub const QUEUE_MAX: usize = 8;

/// To the proxy's coordinator.
#[derive(Debug)]
pub enum Update {
    /// Put these tables in force, or say every reason why not.
    Offer {
        tables: Arc<Tables>,
        generation: Generation,
        verdict: oneshot::Sender<Result<(), Vec<String>>>,
    },
    /// A first offer is on its way, of a proxy that captures what goes to these ranges: routes can be made meanwhile.
    Ahead(Box<ProxyRow>),
    Material(Material),
    /// Certificate requests for these meshes; for those that are due when empty.
    Csrs {
        meshes: Vec<String>,
        reply: oneshot::Sender<Vec<Csr>>,
    },
}

pub type Updates = mpsc::Sender<Update>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    pub mesh: String,
    pub pem: String,
}
