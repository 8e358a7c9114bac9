//! Feeds one proxy of this process from the publishing loop: the control channel's work without a network.

use control::compile::{Options, ProxyKey, SecretMaterial};
use control::core::Core;
use control::publish::{Published, Subscription};
use control::session::{self, Plan};
use control::store::Key;
use proxy::channel::Status;
use proxy::identity::{Bundle, IdentityMaterial, Material};
use proxy::source::{Update, Updates};
use snapshot::{Snapshot, Tables};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

const RENEWAL_CHECK: Duration = Duration::from_secs(10);

/// The proxy is gone.
struct Gone;

struct Feed {
    core: Arc<Core>,
    proxy: ProxyKey,
    options: Options,
    updates: Updates,
    sent: Option<Tables>,
    planned: Option<Arc<Snapshot>>,
    identities: BTreeMap<String, String>,
    material: Option<(BTreeMap<String, String>, Vec<SecretMaterial>)>,
}

/// Until the proxy or the publishing loop ends.
pub(super) async fn feed(
    core: Arc<Core>,
    mut subscription: Subscription,
    who: (ProxyKey, Options),
    updates: Updates,
    mut status: watch::Receiver<Status>,
) {
    let (proxy, options) = who;
    let mut feed =
        Feed { core, proxy, options, updates, sent: None, planned: None, identities: BTreeMap::new(), material: None };
    let mut renewal = tokio::time::interval(RENEWAL_CHECK);
    subscription.mark_changed();
    loop {
        let published = subscription.borrow().clone();
        let going = tokio::select! {
            changed = subscription.changed() => match changed {
                Ok(()) => {
                    let published = subscription.borrow_and_update().clone();
                    feed.follow(&published).await
                }
                Err(_) => Err(Gone),
            },
            changed = status.changed() => match changed {
                Ok(()) => {
                    let now = status.borrow_and_update().clone();
                    feed.report(now).await;
                    Ok(())
                }
                Err(_) => Err(Gone),
            },
            _ = renewal.tick() => {
                let now = status.borrow().clone();
                feed.report(now).await;
                feed.certify(&published, Vec::new()).await
            }
        };
        if going.is_err() {
            return;
        }
    }
}

impl Feed {
    /// What the proxy's probes found.
    async fn report(&self, status: Status) {
        if status.health.is_empty() || status.draining {
            return;
        }
        let found = status.health.into_iter().map(|(inbound, healthy)| (inbound, healthy && status.ready)).collect();
        let ProxyKey::Dataplane { mesh, name } = &self.proxy else { return };
        if let Err(error) = self.core.report_health(&Key::new("Dataplane", mesh, name), &found).await {
            tracing::warn!(proxy = %self.proxy.origin(), %error, "the health of its inbounds isn't stored");
        }
    }

    async fn follow(&mut self, published: &Published) -> Result<(), Gone> {
        let plan = match session::plan(published, &self.proxy, self.options, self.planned.as_deref()) {
            None => return Ok(()),
            Some(Err(violations)) => {
                let reasons: Vec<String> = violations.iter().map(ToString::to_string).collect();
                tracing::error!(proxy = %self.proxy.origin(), ?reasons, "tables can't be built; the last good ones keep serving");
                return Ok(());
            }
            Some(Ok(plan)) => plan,
        };
        self.planned = Some(plan.snapshot.clone());
        for problem in &plan.compiled.problems {
            tracing::debug!(proxy = %self.proxy.origin(), "{problem}");
        }
        self.offer_material(published, &plan).await?;
        let tables = plan.compiled.tables;
        if self.sent.as_ref() == Some(&tables) {
            return Ok(());
        }
        let (verdict, answer) = oneshot::channel();
        let offer = Update::Offer { tables: Box::new(tables.clone()), generation: published.generation, verdict };
        self.send(offer).await?;
        match answer.await.map_err(|_| Gone)? {
            Ok(()) => self.sent = Some(tables),
            Err(reasons) => {
                tracing::error!(proxy = %self.proxy.origin(), ?reasons, "snapshot refused; the last good one keeps serving")
            }
        }
        Ok(())
    }

    async fn offer_material(&mut self, published: &Published, plan: &Plan) -> Result<(), Gone> {
        let material = (plan.bundles.clone(), plan.compiled.secrets.clone());
        if self.material.as_ref() != Some(&material) {
            self.material = Some(material);
            self.send(Update::Material(self.material(Vec::new()))).await?;
        }
        let wanted = plan.identities.iter().filter(|(mesh, print)| self.identities.get(*mesh) != Some(print));
        let meshes: Vec<String> = wanted.map(|(mesh, _)| mesh.clone()).collect();
        self.identities.clone_from(&plan.identities);
        if meshes.is_empty() { Ok(()) } else { self.certify(published, meshes).await }
    }

    /// Has the proxy's keys signed; those that are due when `meshes` is empty.
    async fn certify(&mut self, published: &Published, meshes: Vec<String>) -> Result<(), Gone> {
        let (reply, made) = oneshot::channel();
        self.send(Update::Csrs { meshes, reply }).await?;
        let now_ms = self.core.clock().now_ms();
        let mut identities = Vec::new();
        for csr in made.await.map_err(|_| Gone)? {
            match session::issue(published, &self.proxy, &csr.mesh, csr.pem.as_bytes(), now_ms) {
                Ok(cert) => identities.push(IdentityMaterial {
                    mesh: csr.mesh,
                    chain_pem: cert.chain_pem,
                    not_after_ms: cert.not_after_ms,
                }),
                Err(error) => {
                    tracing::error!(proxy = %self.proxy.origin(), mesh = csr.mesh, error, "no certificate issued");
                    self.identities.remove(&csr.mesh);
                }
            }
        }
        if identities.is_empty() { Ok(()) } else { self.send(Update::Material(self.material(identities))).await }
    }

    fn material(&self, identities: Vec<IdentityMaterial>) -> Material {
        let (bundles, secrets) = self.material.clone().unwrap_or_default();
        let secret = |s: SecretMaterial| proxy::identity::SecretMaterial {
            name: s.name,
            cert_pem: s.cert_pem,
            key_pem: s.key_pem,
        };
        Material {
            identities,
            bundles: bundles.into_iter().map(|(mesh, ca_pem)| Bundle { mesh, ca_pem }).collect(),
            secrets: secrets.into_iter().map(secret).collect(),
        }
    }

    async fn send(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }
}
