//! The control channel's server: one stream a proxy. Authenticates, registers the proxy's own resource, sends what
//! changed in its tables, waits for ack or nack, signs its keys. Latest wins: a slow proxy skips generations.

mod ahead;
mod away;
mod insight;
mod presence;
#[expect(clippy::allow_attributes_without_reason, unused_qualifications, unreachable_pub, reason = "generated")]
mod proto;
mod register;
mod serve;

pub use away::Patience;
pub use insight::Insight;
pub use serve::serve;

use crate::compile::{Options, ProxyKey, SecretMaterial};
use crate::core::Core;
use crate::publish::Subscription;
use crate::session::{self, Material, Offer, Session};
use crate::settings::Auth;
use presence::Presence;
use proto::channel_server::{Channel, ChannelServer};
use proto::from_proxy::Message as Hear;
use proto::to_proxy::Message as Say;
use register::Registered;
use snapshot::{FORMAT, Generation, RowId, Rows};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A proxy that opens a stream says who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A new zone proxy that doesn't get ready, say for one mesh's sake, is used all the same after this time.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames to one proxy that wait to be sent.
const OUTBOX_MAX: usize = 8;

/// Of a proxy's message; the largest is a hello with its resource.
const FRAME_BYTES_MAX: usize = 1 << 20;

type Frame = Result<proto::ToProxy, Status>;

/// What every stream needs.
#[derive(Clone)]
pub struct Service {
    pub core: Arc<Core>,
    pub subscription: Subscription,
    /// Of dataplanes, of zone proxies.
    pub auth: (Auth, Auth),
    /// With dataplanes that were lost.
    pub patience: Patience,
}

/// The service with what it remembers of its proxies.
#[derive(Clone)]
struct Server {
    service: Service,
    presence: Arc<Presence>,
}

#[tonic::async_trait]
impl Channel for Server {
    type ConnectStream = ReceiverStream<Frame>;

    async fn connect(
        &self,
        request: Request<Streaming<proto::FromProxy>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut inbox = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbox.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))?;
        let Some(Hear::Hello(hello)) = first.transpose()?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let Service { core, subscription, auth, patience } = &self.service;
        let zone = subscription.borrow().world.zone().to_owned();
        let gate = register::Gate { auth: *auth, zone: &zone };
        let registered = match register::register(core, &self.presence, gate, &hello).await {
            Ok(registered) => registered,
            Err(status) => {
                let (kind, mesh, name) = (&hello.proxy_type, &hello.mesh, &hello.name);
                tracing::warn!(kind, mesh, name, why = status.message(), "proxy refused");
                return Err(status);
            }
        };
        tracing::info!(proxy = %registered.key.origin(), version = hello.version, "proxy connected");
        let (outbox, frames) = mpsc::channel(OUTBOX_MAX);
        let stream = Stream {
            core: core.clone(),
            subscription: subscription.clone(),
            presence: self.presence.clone(),
            offline_grace: patience.grace,
            insight: Insight::connected(core.clone(), &registered.key, registered.stream, &hello.version),
            session: Session::new(registered.key.clone(), Options::default()),
            proxy: registered,
            outbox,
        };
        tokio::spawn(stream.run(inbox));
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// The tonic service, for [`serve`].
fn server(server: Server) -> ChannelServer<Server> {
    ChannelServer::new(server).max_decoding_message_size(FRAME_BYTES_MAX)
}

/// One proxy's stream.
struct Stream {
    core: Arc<Core>,
    subscription: Subscription,
    presence: Arc<Presence>,
    offline_grace: Duration,
    insight: Insight,
    proxy: Registered,
    outbox: mpsc::Sender<Frame>,
    session: Session,
}

/// The stream is over.
struct Over;

impl Stream {
    async fn run(mut self, mut inbox: Streaming<proto::FromProxy>) {
        let origin = self.proxy.key.origin();
        self.subscription.mark_changed();
        let patience = tokio::time::sleep(READY_TIMEOUT);
        tokio::pin!(patience);
        loop {
            let going = tokio::select! {
                changed = self.subscription.changed() => match changed {
                    Ok(()) => self.offer().await,
                    Err(_) => Err(Over),
                },
                message = inbox.next() => match message {
                    Some(Ok(message)) => self.hear(message).await,
                    _ => Err(Over),
                },
                () = &mut patience, if self.proxy.withheld => {
                    self.admit();
                    Ok(())
                }
            };
            if going.is_err() {
                break;
            }
        }
        self.insight.disconnected();
        self.admit();
        let Registered { key, stream, brought, said_goodbye, .. } = self.proxy;
        let is_dataplane = matches!(key, ProxyKey::Dataplane { .. });
        let has_grace = !said_goodbye && if is_dataplane { !self.offline_grace.is_zero() } else { brought };
        self.presence.disconnected(&key, stream, has_grace);
        if is_dataplane && !said_goodbye {
            self.presence.expect([key.clone()], self.core.clock().now_ms());
        }
        if said_goodbye {
            return tracing::info!(proxy = %origin, "proxy disconnected");
        }
        tracing::warn!(proxy = %origin, "proxy lost without a word; its resource stays for now");
        match (has_grace, is_dataplane) {
            (false, _) => {}
            (true, true) => self.presence.withdraw_after(self.offline_grace, self.core, (key, stream)),
            (true, false) => self.presence.remove_after_grace(self.core, key, stream),
        }
    }

    async fn say(&self, message: Say) -> Result<(), Over> {
        self.outbox.send(Ok(proto::ToProxy { message: Some(message) })).await.map_err(|_| Over)
    }

    /// Sends what is new for this proxy; while an offer is unanswered, the answer brings us back here.
    async fn offer(&mut self) -> Result<(), Over> {
        if self.session.is_waiting() {
            return Ok(());
        }
        let published = self.subscription.borrow_and_update().clone();
        if published.revision() < self.proxy.revision {
            return Ok(());
        }
        let owed = match self.session.owed(&published) {
            // Deleted, or not there yet: what the proxy has keeps serving.
            None => return Ok(()),
            Some(Err(violations)) => {
                let reasons: Vec<String> = violations.iter().map(ToString::to_string).collect();
                self.report(
                    reasons.into_iter().map(|r| format!("nothing new is sent, the tables can't be built: {r}")),
                );
                return Ok(());
            }
            Some(Ok(owed)) => owed,
        };
        self.report(owed.problems.iter().map(ToString::to_string));
        if let Some(material) = &owed.material {
            self.say(Say::Material(to_material(material, Vec::new()))).await?;
        }
        if !owed.wanted.is_empty() {
            self.say(Say::IdentityWanted(proto::IdentityWanted { meshes: owed.wanted })).await?;
        }
        match owed.offer {
            Some(offer) => self.offer_tables(offer).await,
            None => Ok(()),
        }
    }

    /// Each problem is logged once, and shown while it lasts.
    fn report(&mut self, problems: impl Iterator<Item = String>) {
        for problem in self.insight.problems(problems.take(insight::PROBLEMS_MAX).collect()) {
            tracing::warn!(proxy = %self.proxy.key.origin(), "{problem}");
        }
    }

    async fn offer_tables(&mut self, offer: Offer) -> Result<(), Over> {
        let rows = |r: Rows| proto::Rows { table: r.table, count: r.count as u32, bodies: r.bodies };
        let id = |i: RowId| proto::RowId { table: i.table, key: i.key };
        self.insight.sent();
        for part in snapshot::parts(offer.base.as_ref().map(|(_, tables)| tables.as_ref()), &offer.tables) {
            let more = !part.is_last;
            self.say(Say::Delta(proto::Delta {
                generation: Some(to_generation(offer.generation)),
                base: offer.base.as_ref().map(|(generation, _)| to_generation(*generation)),
                removals: part.removals.into_iter().map(id).collect(),
                upserts: part.upserts.into_iter().map(rows).collect(),
                format: FORMAT,
                more,
            }))
            .await?;
            if more {
                // It leaves while the next is written.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn hear(&mut self, message: proto::FromProxy) -> Result<(), Over> {
        match message.message {
            Some(Hear::Ack(_)) => {
                self.session.accepted();
                self.insight.acked();
                self.offer().await
            }
            Some(Hear::Nack(nack)) => {
                self.session.rejected();
                self.insight.rejected(&nack.reasons);
                tracing::error!(proxy = %self.proxy.key.origin(), reasons = ?nack.reasons, "proxy refused a snapshot and keeps its last good one");
                self.offer().await
            }
            Some(Hear::Csr(csr)) => self.sign(csr).await,
            Some(Hear::Status(status)) => {
                if status.draining {
                    self.leave().await;
                } else if status.ready {
                    self.admit();
                }
                self.health(status).await;
                Ok(())
            }
            Some(Hear::Hello(_)) | None => Ok(()),
        }
    }

    /// Nobody is served by an application whose proxy doesn't serve.
    async fn health(&self, status: proto::Status) {
        let Registered { key, stream, said_goodbye, .. } = &self.proxy;
        if status.health.is_empty() || *said_goodbye || !self.presence.is_newest(key, *stream) {
            return;
        }
        let found = status.health.into_iter().map(|one| (one.inbound, one.healthy && status.ready)).collect();
        if let Err(error) = self.core.report_health(&presence::key(key), &found).await {
            tracing::warn!(proxy = %key.origin(), %error, "the health of its inbounds isn't stored");
        }
    }

    /// Others may be sent to this proxy from now on.
    fn admit(&mut self) {
        if std::mem::take(&mut self.proxy.withheld) {
            self.core.withdraw(&presence::key(&self.proxy.key), false);
        }
    }

    /// The proxy is leaving: others stop sending to it now, not when its stream ends.
    async fn leave(&mut self) {
        if std::mem::replace(&mut self.proxy.said_goodbye, true) {
            return;
        }
        let Registered { key, stream, brought, .. } = &self.proxy;
        if *brought {
            self.presence.remove(&self.core, key, *stream).await;
        } else if self.presence.is_newest(key, *stream) {
            self.core.withdraw(&presence::key(key), true);
        }
    }

    async fn sign(&mut self, csr: proto::Csr) -> Result<(), Over> {
        let published = self.subscription.borrow().clone();
        let now_ms = self.core.clock().now_ms();
        let issued = session::issue(&published, &self.proxy.key, &csr.mesh, csr.pem.as_bytes(), now_ms);
        match issued {
            Ok(cert) => {
                let backend = published.authorities.get(&csr.mesh).map_or("", |a| a.backend.as_str());
                if matches!(self.proxy.key, ProxyKey::Dataplane { .. }) {
                    self.insight.certified(backend, cert.not_after_ms);
                }
                let identity =
                    proto::Identity { mesh: csr.mesh, chain_pem: cert.chain_pem, not_after_ms: cert.not_after_ms };
                self.say(Say::Material(to_material(self.session.material(), vec![identity]))).await
            }
            Err(error) => {
                tracing::error!(proxy = %self.proxy.key.origin(), mesh = csr.mesh, error, "no certificate issued");
                self.session.not_certified(&csr.mesh);
                Ok(())
            }
        }
    }
}

fn to_generation(g: Generation) -> proto::Generation {
    proto::Generation { epoch: g.epoch, sequence: g.sequence }
}

fn to_material(material: &Material, identities: Vec<proto::Identity>) -> proto::Material {
    let secret = |s: &SecretMaterial| proto::Secret {
        name: s.name.clone(),
        cert_pem: s.cert_pem.clone(),
        key_pem: s.key_pem.clone(),
    };
    let bundle = |(mesh, ca): (&String, &String)| proto::Bundle { mesh: mesh.clone(), ca_pem: ca.clone() };
    proto::Material {
        identities,
        bundles: material.bundles.iter().map(bundle).collect(),
        secrets: material.secrets.iter().map(secret).collect(),
    }
}
