//! The control channel's client: dials, says hello, turns frames into offers, answers ack or nack, and comes back after
//! a loss. Keeps the last acked tables as the base of the next delta. Must not know what a proxy does with them.

mod dial;
#[rustfmt::skip]
#[expect(unreachable_pub, unused_qualifications, clippy::allow_attributes_without_reason, reason = "generated")]
mod proto;

use crate::identity::{Bundle, IdentityMaterial, Material, SecretMaterial};
use crate::source::{Update, Updates};
use proto::channel_client::ChannelClient;
use proto::from_proxy::Message as Say;
use proto::to_proxy::Message as Hear;
use snapshot::{FORMAT, Generation, Incoming, Part, RowId, Rows, Tables};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt;

/// How often certificates are checked for renewal.
const RENEWAL_CHECK: Duration = Duration::from_secs(10);
/// Messages to the control plane that wait to be sent.
const OUTBOX_MAX: usize = 16;
/// A frame of the channel. Rows come in parts of 64 KiB; one that is larger by itself must fit.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Who we are and whom we dial.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port`.
    pub address: String,
    /// PEM that verifies the control plane; none = its certificate isn't verified (a warning is logged).
    pub ca_pem: Option<String>,
    pub token: Token,
    /// `dataplane`, `ingress` or `egress`.
    pub proxy_type: String,
    pub mesh: String,
    pub name: String,
    /// The proxy's own resource as text; empty when the control plane has it.
    pub resource: String,
    pub ipv6: bool,
    pub backoff: Duration,
    /// Without a last good snapshot, give up after this long.
    pub give_up_after: Duration,
}

#[derive(Clone, Debug)]
pub enum Token {
    None,
    Inline(String),
    /// Read anew on each connect.
    File(PathBuf),
}

/// What the proxy reports: changes are sent as they happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub ready: bool,
    pub draining: bool,
    /// Of probed inbounds, by what the snapshot calls them.
    pub health: BTreeMap<String, bool>,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum ChannelError {
    /// The control plane said no; trying again without a change is pointless.
    Refused(String),
    /// It can't be reached, or the stream broke.
    Lost(String),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Lost(text) => f.write_str(text),
        }
    }
}

/// The last acked tables; survives reconnects.
#[derive(Debug, Default)]
pub struct Base {
    pub generation: Generation,
    pub tables: Arc<Tables>,
}

/// A generation whose last part isn't there yet.
struct Receiving {
    generation: Generation,
    base: Generation,
    /// Or why it is refused.
    rows: Result<Incoming, String>,
}

/// What one stream brings.
struct Feed<'a> {
    updates: &'a Updates,
    outbox: mpsc::Sender<proto::FromProxy>,
    base: &'a mut Base,
    receiving: Option<Receiving>,
}

/// Feeds `updates` until the proxy goes away. Returns only when the control plane refuses this proxy, or can't be
/// reached for `give_up_after`, and there is nothing to serve meanwhile.
///
/// # Errors
/// The reason, for the operator.
pub async fn run(
    config: Config,
    updates: Updates,
    status: watch::Receiver<Status>,
    mut base: Base,
) -> Result<(), ChannelError> {
    let mut since = Instant::now();
    loop {
        let ended = connect(&config, &updates, status.clone(), &mut base).await;
        if updates.is_closed() {
            return Ok(());
        }
        let serving = base.generation != Generation::default();
        match ended {
            Err(ChannelError::Refused(text)) if !serving => return Err(ChannelError::Refused(text)),
            Err(error) => {
                let state = if serving { "the last good snapshot keeps serving" } else { "nothing to serve yet" };
                tracing::warn!(control_plane = %config.address, %error, retry_s = config.backoff.as_secs_f32(), "control channel lost; {state}");
                if !serving && since.elapsed() > config.give_up_after {
                    return Err(error);
                }
            }
            Ok(()) => since = Instant::now(),
        }
        tokio::time::sleep(config.backoff).await;
    }
}

/// One stream, from hello to its end.
async fn connect(
    config: &Config,
    updates: &Updates,
    mut status: watch::Receiver<Status>,
    base: &mut Base,
) -> Result<(), ChannelError> {
    let token = read_token(&config.token).await?;
    let service = dial::dial(&config.address, config.ca_pem.as_deref()).await?;
    let mut client = ChannelClient::new(service).max_decoding_message_size(FRAME_BYTES_MAX);
    let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
    say(&outbox, Say::Hello(hello(config, token, base))).await?;
    let stream = tokio_stream::wrappers::ReceiverStream::new(inbox);
    let mut frames = client.connect(stream).await.map_err(refusal)?.into_inner();
    tracing::info!(control_plane = %config.address, "control channel open");
    let mut renewal = tokio::time::interval(RENEWAL_CHECK);
    let first = status.borrow_and_update().clone();
    say(&outbox, status_message(first)).await?;
    let mut feed = Feed { updates, outbox: outbox.clone(), base, receiving: None };
    loop {
        tokio::select! {
            frame = frames.next() => match frame {
                None => return Err(ChannelError::Lost("the control plane closed the channel".into())),
                Some(Err(error)) => return Err(refusal(error)),
                Some(Ok(frame)) => feed.hear(frame).await?,
            },
            _ = renewal.tick() => {
                csrs(Vec::new(), updates, &outbox).await?;
                // Somebody may have written over what was said before.
                let now = status.borrow().clone();
                if !now.health.is_empty() {
                    say(&outbox, status_message(now)).await?;
                }
            }
            changed = status.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = status.borrow_and_update().clone();
                say(&outbox, status_message(now)).await?;
            }
        }
    }
}

impl Feed<'_> {
    async fn hear(&mut self, frame: proto::ToProxy) -> Result<(), ChannelError> {
        match frame.message {
            None => Ok(()),
            Some(Hear::IdentityWanted(wanted)) => csrs(wanted.meshes, self.updates, &self.outbox).await,
            Some(Hear::Material(material)) => send(self.updates, Update::Material(from_wire(material))).await,
            Some(Hear::Delta(delta)) => {
                let is_last = !delta.more;
                let is_first = self.receiving.is_none() && self.base.generation == Generation::default();
                let received = self.receive(delta);
                if !is_last {
                    if is_first {
                        self.announce(&received).await?;
                    }
                    self.receiving = Some(received);
                    return Ok(());
                }
                let generation = received.generation;
                let answer = match self.take(received).await? {
                    Ok(()) => Say::Ack(proto::Ack { generation: Some(to_generation(generation)) }),
                    Err(reasons) => {
                        tracing::error!(%generation, ?reasons, serving = %self.base.generation, "snapshot refused; the last good one keeps serving");
                        Say::Nack(proto::Nack { generation: Some(to_generation(generation)), reasons })
                    }
                };
                say(&self.outbox, answer).await
            }
        }
    }

    /// What the proxy can get ready for while the rest of its first generation is on its way.
    async fn announce(&self, received: &Receiving) -> Result<(), ChannelError> {
        match received.rows.as_ref().ok().and_then(Incoming::proxy) {
            Some(proxy) => send(self.updates, Update::Ahead(Box::new(proxy.clone()))).await,
            None => Ok(()),
        }
    }

    /// Reads a part while the next is on its way.
    fn receive(&mut self, delta: proto::Delta) -> Receiving {
        let generation = from_generation(delta.generation);
        let fresh = || Receiving { generation, base: from_generation(delta.base), rows: Incoming::new(delta.format) };
        // Parts of what was given up are of no use.
        let mut receiving = self.receiving.take().filter(|r| r.generation == generation).unwrap_or_else(fresh);
        if let Ok(rows) = &mut receiving.rows {
            let of_table = |r: proto::Rows| Rows { table: r.table, count: r.count as usize, bodies: r.bodies };
            let row_id = |id: proto::RowId| RowId { table: id.table, key: id.key };
            let part = Part {
                upserts: delta.upserts.into_iter().map(of_table).collect(),
                removals: delta.removals.into_iter().map(row_id).collect(),
                is_last: !delta.more,
            };
            if let Err(error) = rows.take(&part) {
                receiving.rows = Err(error.to_string());
            }
        }
        receiving
    }

    /// Applies what came to the base and offers the result; the base moves on only when the proxy takes it.
    async fn take(&mut self, received: Receiving) -> Result<Result<(), Vec<String>>, ChannelError> {
        let Receiving { generation, base: wanted_base, rows } = received;
        let base = &mut *self.base;
        let empty = Tables::default();
        let on = if wanted_base == Generation::default() {
            &empty
        } else if wanted_base == base.generation {
            base.tables.as_ref()
        } else {
            let problem =
                format!("the delta is based on generation {wanted_base}, this proxy serves {}", base.generation);
            return Ok(Err(vec![problem]));
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(problem) => return Ok(Err(vec![problem])),
        };
        tracing::debug!(%generation, rows = rows.rows(), "delta received");
        let tables = match rows.apply(on) {
            Ok(tables) if std::ptr::eq(on, &empty) => Arc::new(snapshot::share(&base.tables, tables)),
            Ok(tables) => Arc::new(tables),
            Err(error) => return Ok(Err(vec![error.to_string()])),
        };
        if generation == base.generation && tables == base.tables {
            // After a reconnect: what is in force already, restored from disk perhaps.
            return Ok(Ok(()));
        }
        let (verdict, answer) = oneshot::channel();
        send(self.updates, Update::Offer { tables: tables.clone(), generation, verdict }).await?;
        let outcome = answer.await.map_err(|_| ChannelError::Lost("the proxy is stopping".into()))?;
        if outcome.is_ok() {
            *base = Base { generation, tables };
        }
        Ok(outcome)
    }
}

async fn csrs(
    meshes: Vec<String>,
    updates: &Updates,
    outbox: &mpsc::Sender<proto::FromProxy>,
) -> Result<(), ChannelError> {
    let (reply, made) = oneshot::channel();
    send(updates, Update::Csrs { meshes, reply }).await?;
    for csr in made.await.unwrap_or_default() {
        say(outbox, Say::Csr(proto::Csr { mesh: csr.mesh, pem: csr.pem })).await?;
    }
    Ok(())
}

async fn send(updates: &Updates, update: Update) -> Result<(), ChannelError> {
    updates.send(update).await.map_err(|_| ChannelError::Lost("the proxy is stopping".into()))
}

async fn say(outbox: &mpsc::Sender<proto::FromProxy>, message: Say) -> Result<(), ChannelError> {
    let message = proto::FromProxy { message: Some(message) };
    outbox.send(message).await.map_err(|_| ChannelError::Lost("the control plane closed the channel".into()))
}

fn status_message(status: Status) -> Say {
    let health = status.health.into_iter().map(|(inbound, healthy)| proto::InboundHealth { inbound, healthy });
    Say::Status(proto::Status { ready: status.ready, draining: status.draining, health: health.collect() })
}

fn hello(config: &Config, token: String, base: &Base) -> proto::Hello {
    proto::Hello {
        token,
        proxy_type: config.proxy_type.clone(),
        mesh: config.mesh.clone(),
        name: config.name.clone(),
        resource: config.resource.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        have: Some(to_generation(base.generation)),
        ipv6: config.ipv6,
        formats: vec![FORMAT],
    }
}

async fn read_token(token: &Token) -> Result<String, ChannelError> {
    match token {
        Token::None => Ok(String::new()),
        Token::Inline(text) => Ok(text.trim().to_owned()),
        Token::File(path) => {
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|e| ChannelError::Refused(format!("token file {}: {e}", path.display())))?;
            let token = text.trim();
            if token.is_empty() {
                return Err(ChannelError::Refused(format!("token under file {} is empty", path.display())));
            }
            if token.contains(['\n', '\r']) {
                let text = "Token shouldn't contain line breaks within the token, only at the start or end";
                return Err(ChannelError::Refused(text.into()));
            }
            Ok(token.to_owned())
        }
    }
}

/// What a status of the control plane means for trying again.
fn refusal(status: tonic::Status) -> ChannelError {
    use tonic::Code;
    let text = format!("control plane: {}", status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => ChannelError::Refused(text),
        _ => ChannelError::Lost(text),
    }
}

fn from_generation(g: Option<proto::Generation>) -> Generation {
    g.map_or(Generation::default(), |g| Generation { epoch: g.epoch, sequence: g.sequence })
}

fn to_generation(g: Generation) -> proto::Generation {
    proto::Generation { epoch: g.epoch, sequence: g.sequence }
}

fn from_wire(material: proto::Material) -> Material {
    let identity =
        |i: proto::Identity| IdentityMaterial { mesh: i.mesh, chain_pem: i.chain_pem, not_after_ms: i.not_after_ms };
    let secret = |s: proto::Secret| SecretMaterial { name: s.name, cert_pem: s.cert_pem, key_pem: s.key_pem };
    let bundle = |b: proto::Bundle| Bundle { mesh: b.mesh, ca_pem: b.ca_pem };
    Material {
        identities: material.identities.into_iter().map(identity).collect(),
        bundles: material.bundles.into_iter().map(bundle).collect(),
        secrets: material.secrets.into_iter().map(secret).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delta with one name, and what becomes of it on the way to the coordinator.
    fn delta(sequence: u64, name: &str, more: bool) -> proto::Delta {
        let (v4, v6, origin) = (None, None, snapshot::Origin::default());
        let row = snapshot::NameRow { name: name.into(), v4, v6, origin };
        let tables = Tables { names: vec![Arc::new(row)], ..Tables::default() };
        let rows = |r: Rows| proto::Rows { table: r.table, count: r.count as u32, bodies: r.bodies };
        let upserts = snapshot::parts(None, &tables).flat_map(|part| part.upserts).map(rows).collect();
        let generation = Some(to_generation(Generation { epoch: 1, sequence }));
        proto::Delta { generation, base: None, removals: vec![], upserts, format: FORMAT, more }
    }

    #[tokio::test]
    async fn rows_in_a_format_of_another_release_are_refused_by_name() {
        let (updates, mut offers) = mpsc::channel(1);
        let (outbox, mut said) = mpsc::channel(1);
        let mut feed = Feed { updates: &updates, outbox, base: &mut Base::default(), receiving: None };
        let message = Some(Hear::Delta(proto::Delta { format: FORMAT + 1, ..delta(1, "a.mesh", false) }));
        feed.hear(proto::ToProxy { message }).await.unwrap();
        let Some(Say::Nack(nack)) = said.recv().await.unwrap().message else { panic!("no nack") };
        assert!(nack.reasons.concat().contains("install the same release"), "{:?}", nack.reasons);
        assert!(offers.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_generation_takes_effect_with_its_last_part_and_without_those_of_one_that_was_given_up() {
        let (updates, mut offers) = mpsc::channel(1);
        let (outbox, mut said) = mpsc::channel(1);
        let mut feed = Feed { updates: &updates, outbox, base: &mut Base::default(), receiving: None };
        let coordinator = async {
            assert!(matches!(offers.recv().await, Some(Update::Ahead(_))));
            let Some(Update::Offer { tables, verdict, .. }) = offers.recv().await else { panic!("no offer") };
            let _ = verdict.send(Ok(()));
            tables
        };
        let channel = async {
            for delta in [delta(1, "a.mesh", true), delta(2, "b.mesh", true), delta(2, "c.mesh", false)] {
                feed.hear(proto::ToProxy { message: Some(Hear::Delta(delta)) }).await.unwrap();
            }
        };
        let (tables, ()) = tokio::join!(coordinator, channel);
        let names: Vec<&str> = tables.names.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["b.mesh", "c.mesh"]);
        assert!(matches!(said.recv().await.unwrap().message, Some(Say::Ack(_))));
    }
}
