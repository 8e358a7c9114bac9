//! What feeds a proxy: offers of tables to be acked or nacked, key material, and requests for CSRs. The control channel
//! and `weir up` (in the same process) both speak it. Knows no transport.

use snapshot::{Generation, Tables};
use tokio::sync::{mpsc, oneshot};

/// Offers wait here while the proxy is busy with an earlier one.
pub const QUEUE_MAX: usize = 8;

/// To the proxy's coordinator.
#[derive(Debug)]
pub enum Update {
    /// Put these tables in force, or say every reason why not.
    Offer { tables: Box<Tables>, generation: Generation, verdict: oneshot::Sender<Result<(), Vec<String>>> },
    Material(Material),
    /// Certificate requests for these meshes; for those that are due when empty.
    Csrs { meshes: Vec<String>, reply: oneshot::Sender<Vec<Csr>> },
}

pub type Updates = mpsc::Sender<Update>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    pub mesh: String,
    pub der: Vec<u8>,
}

/// Certificates, roots and users' secrets. Identities and bundles of meshes that aren't named stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    pub identities: Vec<IdentityMaterial>,
    pub bundles: Vec<Bundle>,
    pub secrets: Option<Vec<SecretMaterial>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityMaterial {
    pub mesh: String,
    pub chain_pem: String,
    pub not_before_ms: u64,
    pub not_after_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub mesh: String,
    pub ca_pem: String,
}

#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretMaterial {
    pub name: String,
    pub cert_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for SecretMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretMaterial").field("name", &self.name).finish_non_exhaustive()
    }
}
