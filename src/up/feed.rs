//! Feeds one proxy of this process from the publishing loop: the control channel's work without a network.

use control::channel::Insight;
use control::compile::{Options, ProxyKey, SecretMaterial};
use control::core::Core;
use control::publish::{Published, Subscription};
use control::session::{self, Session};
use control::store::Key;
use proxy::channel::Status;
use proxy::identity::{Bundle, IdentityMaterial, Material};
use proxy::source::{Update, Updates};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

const RENEWAL_CHECK: Duration = Duration::from_secs(10);

/// The proxy is gone.
struct Gone;

struct Feed {
    core: Arc<Core>,
    session: Session,
    /// As the control channel would tell of it.
    insight: Insight,
    updates: Updates,
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
    let insight = Insight::connected(core.clone(), &proxy, 0, env!("CARGO_PKG_VERSION"));
    let mut feed = Feed { core, session: Session::new(proxy, options), insight, updates };
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
            return feed.insight.disconnected();
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
        let ProxyKey::Dataplane { mesh, name } = self.session.proxy() else { return };
        if let Err(error) = self.core.report_health(&Key::new("Dataplane", mesh, name), &found).await {
            tracing::warn!(proxy = %self.session.proxy().origin(), %error, "the health of its inbounds isn't stored");
        }
    }

    async fn follow(&mut self, published: &Published) -> Result<(), Gone> {
        let origin = self.session.proxy().origin();
        let owed = match self.session.owed(published) {
            None => return Ok(()),
            Some(Err(violations)) => {
                let reasons: Vec<String> = violations.iter().map(ToString::to_string).collect();
                tracing::error!(proxy = %origin, ?reasons, "tables can't be built; the last good ones keep serving");
                return Ok(());
            }
            Some(Ok(owed)) => owed,
        };
        for problem in self.insight.problems(owed.problems.iter().map(ToString::to_string).collect()) {
            tracing::debug!(proxy = %origin, "{problem}");
        }
        if owed.material.is_some() {
            self.send(Update::Material(self.material(Vec::new()))).await?;
        }
        if !owed.wanted.is_empty() {
            self.certify(published, owed.wanted).await?;
        }
        let Some(offer) = owed.offer else { return Ok(()) };
        let (verdict, answer) = oneshot::channel();
        let (tables, generation) = (offer.tables, offer.generation);
        self.send(Update::Offer { tables, generation, verdict }).await?;
        self.insight.sent();
        match answer.await.map_err(|_| Gone)? {
            Ok(()) => {
                self.session.accepted();
                self.insight.acked();
            }
            Err(reasons) => {
                self.session.rejected();
                self.insight.rejected(&reasons);
                tracing::error!(proxy = %origin, ?reasons, "snapshot refused; the last good one keeps serving")
            }
        }
        Ok(())
    }

    /// Has the proxy's keys signed; those that are due when `meshes` is empty.
    async fn certify(&mut self, published: &Published, meshes: Vec<String>) -> Result<(), Gone> {
        let (reply, made) = oneshot::channel();
        self.send(Update::Csrs { meshes, reply }).await?;
        let now_ms = self.core.clock().now_ms();
        let mut identities = Vec::new();
        for csr in made.await.map_err(|_| Gone)? {
            match session::issue(published, self.session.proxy(), &csr.mesh, csr.pem.as_bytes(), now_ms) {
                Ok(cert) => {
                    let backend = published.authorities.get(&csr.mesh).map_or("", |a| a.backend.as_str());
                    self.insight.certified(backend, cert.not_after_ms);
                    identities.push(IdentityMaterial {
                        mesh: csr.mesh,
                        chain_pem: cert.chain_pem,
                        not_after_ms: cert.not_after_ms,
                    });
                }
                Err(error) => {
                    tracing::error!(proxy = %self.session.proxy().origin(), mesh = csr.mesh, error, "no certificate issued");
                    self.session.not_certified(&csr.mesh);
                }
            }
        }
        if identities.is_empty() { Ok(()) } else { self.send(Update::Material(self.material(identities))).await }
    }

    fn material(&self, identities: Vec<IdentityMaterial>) -> Material {
        let session::Material { bundles, secrets } = self.session.material().clone();
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
