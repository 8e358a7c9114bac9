//! Work that the next proxy to connect doesn't have to wait for: what proxies of a mesh have in common is made when the mesh
//! has been quiet for a moment, as long as none is connected: with those that are, a change has it made anyway. It knows no frame.

use super::presence::Presence;
use crate::compile;
use crate::publish::Subscription;
use std::sync::Arc;
use std::time::Duration;

/// Of many changes one after the other, say at the first `apply`, only the last is worth it.
const QUIET: Duration = Duration::from_millis(100);

/// Follows what is published, until dropped.
pub(super) async fn prepare(mut published: Subscription, presence: Arc<Presence>) {
    published.mark_changed();
    while published.changed().await.is_ok() {
        while let Ok(Ok(())) = tokio::time::timeout(QUIET, published.changed()).await {}
        if presence.is_anybody_here() {
            continue;
        }
        let now = published.borrow_and_update().clone();
        if let Err(error) = tokio::task::spawn_blocking(move || compile::prepare(&now.world)).await {
            tracing::warn!(%error, "what proxies have in common wasn't made ahead; the next one waits for it");
        }
    }
}
