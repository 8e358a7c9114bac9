//! A decided request's way to an endpoint and back: lease a connection, write the head, exchange, give back. Must not
//! know how endpoints are balanced or dialled.

use super::exchange::{Exchange, Failure, Terms};
use super::h2::Upstream;
use super::headers::{self, RequestHead};
use super::mirror;
use super::path::Spelling;
use super::respond::Answer;
use super::serve::{Facts, Next, Scratch, Session};
use super::traffic::{Context, Outcome, Picked, Plan, Traffic};
use super::{buffer::Buffer, framing::Framing};
use crate::clock;
use crate::error::{ConnError, Reason};
use crate::stream::Wired;
use snapshot::Filters;
use std::future::poll_fn;
use std::task::Poll;
use tokio::time::Instant;

/// Endpoints that are tried for one request while none could be connected to.
const CONNECTS_MAX: usize = 3;

/// A connection to an endpoint, for one request.
pub(super) struct Lease<T: Traffic> {
    pub(super) picked: PickedOf<T>,
    pub(super) io: Upstream<T::Io>,
    /// It served requests before, so its peer may just have closed it.
    pub(super) reused: bool,
}

type PickedOf<T> = Picked<<T as Traffic>::Endpoint, <T as Traffic>::Load>;

impl<T: Traffic> Lease<T> {
    /// For the next request.
    pub(super) fn give_back(self, context: &Context<T>, now: Instant) {
        if let Upstream::Own(io) = self.io {
            context.pools.put(self.picked.endpoint, io, now.into_std());
        }
    }
}

/// An idle connection to the endpoint picked, or a new one; other endpoints while connecting fails. `two`: a stream, of
/// HTTP/2.
pub(super) async fn lease<T: Traffic>(
    context: &Context<T>,
    (target, two): (&T::Target, bool),
    now: Instant,
) -> Result<Lease<T>, ConnError> {
    match pooled(context, (target, two), now)? {
        Ok(lease) => Ok(lease),
        Err(picked) => dial(context, (target, two), picked, now).await,
    }
}

/// An idle connection to the endpoint picked, or else that endpoint.
#[inline]
fn pooled<T: Traffic>(
    context: &Context<T>,
    (target, two): (&T::Target, bool),
    now: Instant,
) -> Result<Result<Lease<T>, PickedOf<T>>, ConnError> {
    let picked = context.traffic.pick(target, None)?;
    Ok(reuse(context, picked, two, now))
}

#[inline]
fn reuse<T: Traffic>(
    context: &Context<T>,
    picked: PickedOf<T>,
    two: bool,
    now: Instant,
) -> Result<Lease<T>, PickedOf<T>> {
    if two {
        return match context.pools.stream(&picked.endpoint, headers::scheme(&context.settings)) {
            Some((io, reused)) => Ok(Lease { picked, io: Upstream::Stream(io), reused }),
            None => Err(picked),
        };
    }
    match context.pools.take(&picked.endpoint, now.into_std()) {
        Some(io) => Ok(Lease { picked, io: Upstream::Own(io), reused: true }),
        None => Err(picked),
    }
}

/// A new connection, or a stream on one, and whether that was used before.
async fn connect<T: Traffic>(
    context: &Context<T>,
    (target, two): (&T::Target, bool),
    endpoint: &T::Endpoint,
) -> Result<(Upstream<T::Io>, bool), ConnError> {
    if two {
        return Upstream::stream(context, target, endpoint).await;
    }
    context.traffic.connect(target, endpoint).await.map(|io| (Upstream::Own(io), false))
}

/// A new connection to the endpoint picked; while connecting fails, any connection to another one.
async fn dial<T: Traffic>(
    context: &Context<T>,
    (target, two): (&T::Target, bool),
    mut picked: PickedOf<T>,
    now: Instant,
) -> Result<Lease<T>, ConnError> {
    for attempt in 1.. {
        match connect(context, (target, two), &picked.endpoint).await {
            Ok((io, reused)) => return Ok(Lease { picked, io, reused }),
            Err(error) if !error.reason.consequence().retryable || attempt == CONNECTS_MAX => return Err(error),
            Err(error) => match context.traffic.pick(target, Some(&picked.endpoint)) {
                Ok(other) => picked = other,
                Err(_) => return Err(error),
            },
        }
        match reuse(context, picked, two, now) {
            Ok(lease) => return Ok(lease),
            Err(other) => picked = other,
        }
    }
    Err(ConnError::new(Reason::ConnectFailed, "no endpoint could be connected to"))
}

/// A new connection in place of one that was closed just when it was taken, or of a stream that was refused. Its endpoint
/// may be about to leave: then to another one, as long as the head that is written already suits it.
async fn replacement<T: Traffic>(
    context: &Context<T>,
    (target, two): (&T::Target, bool),
    picked: &mut Picked<T::Endpoint, T::Load>,
) -> Result<Upstream<T::Io>, ConnError> {
    let error = match connect(context, (target, two), &picked.endpoint).await {
        Err(error) if error.reason.consequence().retryable => error,
        done => return done.map(|(io, _)| io),
    };
    match context.traffic.pick(target, Some(&picked.endpoint)) {
        Ok(other) if other.host == picked.host => *picked = other,
        _ => return Err(error),
    }
    connect(context, (target, two), &picked.endpoint).await.map(|(io, _)| io)
}

/// Once around the worker: connections that are ready too read their requests first. Then requests leave one right after
/// the other, and an endpoint on this machine is woken once for many.
async fn others_first() {
    let mut been_around = false;
    poll_fn(|cx| {
        if been_around {
            return Poll::Ready(());
        }
        been_around = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Forwards one request whose head is at the start of the session's input.
pub(super) async fn forward<S, T>(
    session: &mut Session<S, T>,
    facts: &Facts,
    (plan, filters): (&Plan<T::Target>, Option<&Filters>),
    scratch: &mut Scratch,
) -> Next
where
    S: Wired,
    T: Traffic,
{
    // What isn't pooled is boxed: a connection's future is large and rarely needed.
    let to = (&plan.target, plan.h2);
    let mut leased = match pooled(&session.context, to, facts.began) {
        Ok(Ok(lease)) => Ok(lease),
        Ok(Err(picked)) => Box::pin(dial(&session.context, to, picked, facts.began)).await,
        Err(error) => Err(error),
    };
    let lease = match &mut leased {
        Ok(lease) => lease,
        Err(error) => {
            let answer = Answer::error(error, &session.context.settings);
            return Box::pin(session.answer(answer, facts, filters, scratch)).await;
        }
    };
    compose(session, facts, (plan, filters), (&mut *scratch, lease.picked.host.as_deref()));
    session.input.consume(scratch.head.len);
    let Scratch { up, down, response, .. } = &mut *scratch;
    up.begin(std::mem::take(&mut session.input));
    up.frame(facts.framing, facts.framing == Framing::Chunked);
    down.begin(Buffer::default());
    let terms = Terms {
        version: facts.version,
        to_head: facts.to_head,
        keep: facts.keep,
        upgrade: facts.upgrade,
        filters,
        settings: &session.context.settings,
        timeouts: &plan.timeouts,
        drain: &session.drain,
    };
    let io = (&mut session.io, &mut lease.io);
    // Only connecting takes time.
    let now = if lease.reused { facts.began } else { Instant::now() };
    let mut exchange = Exchange::new(io, terms, response, (up, down), now);
    others_first().await;
    let mut done = exchange.run(&mut session.timer).await;
    let harmless = lease.reused && facts.idempotent && facts.framing == Framing::Empty;
    if is_stale(&done)
        && exchange.is_unanswered()
        && let Some(again) = exchange.upstream.again(harmless)
    {
        // The peer closed it just when it was taken: once more, on a connection of its own. Or it refused the stream.
        match Box::pin(replacement(&session.context, to, &mut lease.picked)).await {
            Ok(io) => {
                if exchange.restart(io, &again) {
                    done = exchange.run(&mut session.timer).await;
                }
            }
            Err(error) => done = Err(Failure::Upstream(error)),
        }
    }
    let ended = Ended::of(&exchange);
    session.last = clock::now();
    session.input = std::mem::take(&mut scratch.up.input);
    let reuse = done.is_ok() && ended.reuse;
    let finished = finish(session, facts, plan, (done, ended, &lease.picked.endpoint), scratch);
    if let Ok(lease) = leased
        && reuse
    {
        lease.give_back(&session.context, session.last);
    }
    match finished {
        Ok(next) => next,
        Err(answer) => Box::pin(session.late_answer(&answer, facts, filters)).await,
    }
}

struct Ended {
    status: u16,
    keep: bool,
    reuse: bool,
    tunnel: bool,
    /// The client has part of a head.
    torn: bool,
    received: u64,
    sent: u64,
}

impl Ended {
    fn of<S: Wired, U: Wired>(exchange: &Exchange<'_, S, U>) -> Self {
        Self {
            status: exchange.status(),
            keep: exchange.keeps_client(),
            reuse: exchange.keeps_upstream(),
            tunnel: exchange.is_tunnel(),
            torn: exchange.response.is_torn(),
            received: exchange.request.moved,
            sent: exchange.response.moved,
        }
    }
}

fn is_stale(done: &Result<(), Failure>) -> bool {
    matches!(done, Err(Failure::Upstream(error)) if error.reason == Reason::UpstreamReset)
}

fn compose<S, T: Traffic>(
    session: &Session<S, T>,
    facts: &Facts,
    (plan, filters): (&Plan<T::Target>, Option<&Filters>),
    (scratch, endpoint): (&mut Scratch, Option<&str>),
) {
    let mut up = std::mem::take(&mut scratch.up.out);
    up.clear();
    let authority = headers::authority(filters, endpoint);
    let authority = authority.map_or(facts.authority.of(session.input.data()), str::as_bytes);
    write_head(session, facts, (plan, filters), (scratch, authority), &mut up);
    scratch.up.out = up;
}

/// Copies a request to a mirror, if all of it is here: no body, or one that came with its head.
pub(super) fn mirror<S, T: Traffic>(
    session: &Session<S, T>,
    facts: &Facts,
    (plan, filters, mirror): (&Plan<T::Target>, Option<&Filters>, T::Target),
    scratch: &Scratch,
) {
    let buffer = session.input.data();
    let body = match facts.framing {
        Framing::Empty => Some(&b""[..]),
        Framing::Length(length) => usize::try_from(length)
            .ok()
            .and_then(|length| buffer.get(scratch.head.len..scratch.head.len.checked_add(length)?)),
        _ => None,
    };
    if let Some(body) = body
        && !facts.upgrade
    {
        let mut request = Vec::with_capacity(512 + body.len());
        let authority = headers::authority(filters, None).map_or(facts.authority.of(buffer), str::as_bytes);
        write_head(session, facts, (plan, filters), (scratch, &mirror::authority(authority)), &mut request);
        request.extend_from_slice(body);
        mirror::send(&session.context, mirror, request, facts.to_head);
    }
}

fn write_head<S, T: Traffic>(
    session: &Session<S, T>,
    facts: &Facts,
    (plan, filters): (&Plan<T::Target>, Option<&Filters>),
    (scratch, authority): (&Scratch, &[u8]),
    out: &mut Vec<u8>,
) {
    let buffer = session.input.data();
    let sent = match facts.spelling {
        Spelling::AsSent => facts.path.of(buffer),
        _ => &scratch.path,
    };
    let head = RequestHead {
        head: &scratch.head,
        buffer,
        options: &facts.options,
        authority,
        path: plan.path.as_ref().map_or(sent, |path| path.as_bytes()),
        query: facts.query.as_ref().map(|query| query.of(buffer)),
        framing: facts.framing,
        upgrade: facts.upgrade,
        two: plan.h2,
        filters,
        settings: &session.context.settings,
        peer: session.context.peer,
    };
    head.write(out);
}

/// Reports the outcome, and says what becomes of the connection, or what is to be answered for an endpoint that didn't.
fn finish<S, T>(
    session: &Session<S, T>,
    facts: &Facts,
    plan: &Plan<T::Target>,
    (done, ended, endpoint): (Result<(), Failure>, Ended, &T::Endpoint),
    scratch: &Scratch,
) -> Result<Next, Answer>
where
    S: Wired,
    T: Traffic,
{
    let answer = match done {
        Ok(()) => None,
        Err(Failure::Client(detail)) => {
            Some(Answer { reason: Some(Reason::DownstreamReset), detail, ..Answer::default() })
        }
        Err(Failure::Request(fault)) => Some(Answer::fault(fault)),
        Err(Failure::Upstream(error)) => Some(Answer::error(&error, &session.context.settings)),
    };
    let status = match &answer {
        Some(Answer { status: 0, reason: Some(reason), .. }) if ended.status == 0 => reason.consequence().status,
        Some(answer) if ended.status == 0 => answer.status,
        _ => ended.status,
    };
    let line = scratch.line(facts.began);
    let outcome = Outcome {
        method: line.method,
        host: line.host,
        path: line.path,
        status,
        reason: answer.as_ref().and_then(|answer| answer.reason),
        detail: answer.as_ref().map_or("", |answer| &answer.detail),
        endpoint: Some(endpoint),
        received: ended.received,
        sent: ended.sent,
        elapsed: session.last.saturating_duration_since(facts.began),
    };
    session.context.traffic.finished(Some(plan), &outcome);
    Ok(match answer {
        None if ended.tunnel => Next::Close,
        None if ended.keep => Next::Keep,
        None => Next::Linger,
        Some(answer) if answer.status != 0 && ended.status == 0 && !ended.torn => return Err(answer),
        Some(answer) if answer.reason == Some(Reason::DownstreamReset) => Next::Close,
        Some(_) => Next::Broken,
    })
}
