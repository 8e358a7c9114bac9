//! One request and its response on two connections: body up and answer down at the same time, each framed by us. Must
//! not know how the endpoint was chosen.

use super::fault::Fault;
use super::framing::{self, Framing};
use super::h2::{Again, Upstream};
use super::head::{Head, Kind, Version};
use super::headers::{self, Options, ResponseHead};
use super::pump::{Broken, Pipe, Waits};
use super::respond::connection_option;
use super::serve::is_draining;
use super::timer::Timer;
use super::traffic::Settings;
use crate::clock;
use crate::error::{ConnError, Reason};
use crate::stream::Wired;
use snapshot::{Filters, Timeouts};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The first read of a response between sockets: heads and small bodies are shorter, and large bodies' rest is spliced.
const HEAD_READ_BYTES: usize = 4 * 1024;
/// Informational responses before one final response.
const INTERIM_MAX: u8 = 16;

/// What the exchange must know of the request.
pub(super) struct Terms<'a> {
    pub(super) version: Version,
    pub(super) to_head: bool,
    /// The client keeps its connection open.
    pub(super) keep: bool,
    pub(super) upgrade: bool,
    pub(super) filters: Option<&'a Filters>,
    pub(super) settings: &'a Settings,
    pub(super) timeouts: &'a Timeouts,
    pub(super) drain: &'a watch::Receiver<bool>,
}

pub(super) enum Failure {
    /// The client is gone or can't be spoken to any more.
    Client(String),
    /// The client's body breaks HTTP.
    Request(Fault),
    Upstream(ConnError),
}

pub(super) struct Exchange<'a, S, U> {
    pub(super) client: &'a mut S,
    pub(super) upstream: &'a mut U,
    pub(super) terms: Terms<'a>,
    /// For the response's head.
    pub(super) head: &'a mut Head,
    pub(super) request: &'a mut Pipe,
    pub(super) response: &'a mut Pipe,
    state: State,
}

struct State {
    phase: Phase,
    request: Request,
    interim: u8,
    /// Of the response, once its head is on the way to the client.
    status: u16,
    /// The endpoint has sent something.
    answered: bool,
    /// The client keeps its connection after this response.
    keep: bool,
    /// So does the endpoint.
    reuse: bool,
    client_ended: bool,
    /// Time has passed since this was made.
    waited: bool,
    progress_at: Instant,
    request_over_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    Body,
    Tunnel,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Moving,
    Sent,
    /// The endpoint takes no more; it may have answered early.
    Refused,
}

impl<S: Wired, Io: Wired> Exchange<'_, S, Upstream<Io>> {
    /// Sends the request once more, to another connection; false if it can't be sent there at once.
    pub(super) fn restart(&mut self, to: Upstream<Io>, again: &Again) -> bool {
        *self.upstream = to;
        match again {
            Again::Rewound => {
                self.request.rewind();
                self.head.clear();
                self.state.request = Request::Moving;
                true
            }
            Again::Resent(bytes) => self.upstream.resend(bytes),
        }
    }
}

impl<'a, S, U> Exchange<'a, S, U>
where
    S: Wired,
    U: Wired,
{
    pub(super) fn new(
        (client, upstream): (&'a mut S, &'a mut U),
        terms: Terms<'a>,
        head: &'a mut Head,
        (request, response): (&'a mut Pipe, &'a mut Pipe),
        now: Instant,
    ) -> Self {
        head.clear();
        let state = State {
            phase: Phase::Head,
            request: Request::Moving,
            interim: 0,
            status: 0,
            answered: false,
            keep: false,
            reuse: false,
            client_ended: false,
            waited: false,
            progress_at: now,
            request_over_at: now,
        };
        Self { client, upstream, terms, head, request, response, state }
    }

    /// Until the response is with the client, or both sides of a tunnel have ended.
    pub(super) async fn run(&mut self, timer: &mut Timer) -> Result<(), Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = self.poll(cx) {
                return Poll::Ready(done);
            }
            self.state.waited = true;
            let progress = std::mem::take(&mut self.request.progress) | std::mem::take(&mut self.response.progress);
            if progress && self.minds_progress() {
                self.state.progress_at = clock::now();
            }
            match self.deadline() {
                Some((at, reason)) => timer.poll(cx, at).map(|()| Err(self.timed_out(reason))),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Whether a deadline depends on progress; mostly only the endpoint's answer is waited for.
    fn minds_progress(&self) -> bool {
        self.terms.timeouts.stream_idle_ms > 0
            || self.state.phase != Phase::Head
            || self.state.request == Request::Moving
    }

    /// Status that the client was sent, 0 if nothing yet.
    pub(super) fn status(&self) -> u16 {
        self.state.status
    }

    pub(super) fn keeps_client(&self) -> bool {
        self.state.keep && self.state.request == Request::Sent && self.state.phase == Phase::Body
    }

    pub(super) fn keeps_upstream(&self) -> bool {
        self.state.reuse && self.state.request == Request::Sent && self.response.input.is_empty()
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.state.phase == Phase::Tunnel
    }

    /// Nothing of an answer came.
    pub(super) fn is_unanswered(&self) -> bool {
        !self.state.answered
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if self.state.request == Request::Moving {
            self.poll_request(cx)?;
        }
        if self.state.phase == Phase::Head {
            ready!(self.poll_head(cx))?;
            if self.state.phase == Phase::Tunnel {
                self.poll_request(cx)?;
            }
        }
        ready!(self.response.poll(cx, self.upstream, self.client)).map_err(|broken| self.response_broken(broken))?;
        // A tunnel also waits for its other half.
        match self.state.phase == Phase::Tunnel && self.state.request == Request::Moving {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let over = match self.request.poll(cx, self.client, self.upstream) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => Request::Sent,
            Poll::Ready(Err(Broken::Sink(_))) => Request::Refused,
            Poll::Ready(Err(Broken::Source(error))) => return Err(Failure::Client(format!("client: {error}"))),
            Poll::Ready(Err(Broken::Fault(Fault::Truncated))) => {
                return Err(Failure::Client("the client closed in the middle of its request".to_owned()));
            }
            Poll::Ready(Err(Broken::Fault(fault))) => return Err(Failure::Request(fault)),
        };
        self.state.request = over;
        if self.state.waited {
            self.state.request_over_at = clock::now();
        }
        Ok(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            while self.take_head()? {
                if self.state.phase != Phase::Head {
                    return Poll::Ready(Ok(()));
                }
            }
            let gone = |error| Failure::Client(format!("client: {error}"));
            ready!(self.response.poll_write(cx, self.client)).map_err(gone)?;
            ready!(self.response.poll_flush(cx, self.client)).map_err(gone)?;
            self.response.waits = Waits::Source;
            // What may be moved past our memory isn't read with the head.
            let sockets = self.client.socket().is_some() && self.upstream.socket().is_some();
            let most = if sockets && self.response.input.is_empty() { HEAD_READ_BYTES } else { usize::MAX };
            match self.response.input.poll_fill_at_most(self.upstream, cx, most) {
                Poll::Pending => {
                    self.watch_client(cx)?;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(reset("the endpoint closed before its answer"))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(broken_off(&error))),
                Poll::Ready(Ok(_)) => (self.state.answered, self.response.progress) = (true, true),
            }
        }
    }

    /// Notices that the client is gone while nothing of its request is left to be read.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.state.request != Request::Sent || self.state.client_ended || !self.request.input.is_empty() {
            return Ok(());
        }
        match self.request.input.poll_fill_wired(self.client, cx) {
            // It may have closed its sending side only.
            Poll::Ready(Ok(0)) => self.state.client_ended = true,
            Poll::Ready(Err(error)) => return Err(Failure::Client(format!("client: {error}"))),
            _ => {}
        }
        Ok(())
    }

    /// Takes one head from the endpoint and lines it up for the client: false if more bytes are needed.
    fn take_head(&mut self) -> Result<bool, Failure> {
        let buffer = self.response.input.data();
        if buffer.is_empty() || !self.head.parse(buffer, Kind::Response).map_err(upstream_fault)? {
            return Ok(false);
        }
        let buffer = self.response.input.data();
        let options = Options::read(self.head, buffer);
        let framing = framing::of_response(self.head, buffer, self.terms.to_head).map_err(upstream_fault)?;
        match self.head.status {
            101 => self.take_upgrade(&options)?,
            100..=199 => self.take_interim(&options)?,
            _ => self.take_final(&options, framing),
        }
        self.response.input.consume(self.head.len);
        self.head.clear();
        Ok(true)
    }

    fn take_interim(&mut self, options: &Options) -> Result<(), Failure> {
        self.state.interim += 1;
        if self.state.interim > INTERIM_MAX {
            return Err(reset("the endpoint sends informational responses without end"));
        }
        if self.terms.version == Version::Http11 {
            self.compose(options, Framing::Empty, None, false);
        }
        Ok(())
    }

    fn take_upgrade(&mut self, options: &Options) -> Result<(), Failure> {
        let agreed = headers::is_websocket(self.head, self.response.input.data(), options);
        if !self.terms.upgrade || !agreed || self.state.request != Request::Sent {
            return Err(upstream_fault(Fault::Upgrade));
        }
        self.state.status = 101;
        self.compose(options, Framing::Empty, None, true);
        self.response.tunnel();
        self.request.tunnel();
        (self.state.phase, self.state.request) = (Phase::Tunnel, Request::Moving);
        Ok(())
    }

    fn take_final(&mut self, options: &Options, framing: Framing) {
        let buffer = self.response.input.data();
        let open = framing == Framing::UntilClose;
        self.state.reuse = options.persists(self.head.version) && !open;
        let down = match framing {
            Framing::Chunked | Framing::UntilClose if self.terms.version == Version::Http11 => Framing::Chunked,
            Framing::Chunked => Framing::UntilClose,
            framing => framing,
        };
        let bodiless = framing == Framing::Empty && self.head.status != 204;
        let announced = bodiless.then(|| framing::announced_length(self.head, buffer)).flatten();
        self.state.keep = self.terms.keep
            && down != Framing::UntilClose
            && self.state.request == Request::Sent
            && !is_draining(self.terms.drain);
        self.state.status = self.head.status;
        let option = connection_option(self.state.keep, self.terms.version);
        self.compose_with(options, (down, announced), option, false);
        self.response.frame(framing, down == Framing::Chunked);
        if let Framing::Length(length) = framing {
            self.response.input.expect(length);
        }
        self.state.phase = Phase::Body;
    }

    fn compose(&mut self, options: &Options, framing: Framing, announced: Option<u64>, upgrade: bool) {
        self.compose_with(options, (framing, announced), None, upgrade);
    }

    fn compose_with(
        &mut self,
        options: &Options,
        (framing, announced): (Framing, Option<u64>),
        connection: Option<&'static str>,
        upgrade: bool,
    ) {
        self.response.start_out();
        let response = ResponseHead {
            head: self.head,
            buffer: self.response.input.data(),
            options,
            framing,
            announced,
            connection,
            upgrade,
            filters: self.terms.filters,
            settings: self.terms.settings,
        };
        response.write(&mut self.response.out);
    }

    fn response_broken(&self, broken: Broken) -> Failure {
        match broken {
            Broken::Sink(error) => Failure::Client(format!("client: {error}")),
            Broken::Source(error) => broken_off(&error),
            Broken::Fault(Fault::Truncated) => reset("the endpoint closed in the middle of its answer"),
            Broken::Fault(fault) => upstream_fault(fault),
        }
    }

    /// The next deadline, and what is to blame when it passes.
    fn deadline(&self) -> Option<(Instant, Reason)> {
        let state = &self.state;
        let after = |at: Instant, ms: u64| (ms > 0).then(|| at.checked_add(Duration::from_millis(ms))).flatten();
        if state.phase == Phase::Head && state.request == Request::Sent && self.terms.timeouts.stream_idle_ms == 0 {
            // The usual wait: for the answer.
            return after(state.request_over_at, self.terms.timeouts.request_ms)
                .map(|at| (at, Reason::ResponseTimeout));
        }
        let sending = state.request == Request::Moving;
        let idle_reason = if sending { Reason::RequestTimeout } else { Reason::ResponseTimeout };
        let idle = after(state.progress_at, self.terms.timeouts.stream_idle_ms).map(|at| (at, idle_reason));
        if state.phase == Phase::Tunnel {
            return idle;
        }
        // The clock of the whole request starts once the endpoint has all of it: uploads may take their time.
        let since = if sending { state.progress_at } else { state.request_over_at };
        let endpoint_due = !sending || self.request.waits == Waits::Sink;
        let whole = after(since, self.terms.timeouts.request_ms).filter(|_| endpoint_due);
        let whole = whole.map(|at| (at, Reason::ResponseTimeout));
        let client_due = (sending && self.request.waits == Waits::Source)
            || (state.phase == Phase::Body && self.response.waits == Waits::Sink);
        let stall = client_due.then(|| state.progress_at.checked_add(self.terms.settings.body_timeout)).flatten();
        let stall = stall.map(|at| (at, Reason::RequestTimeout));
        [idle, whole, stall].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn timed_out(&self, reason: Reason) -> Failure {
        let what = match reason {
            Reason::RequestTimeout => "the client stalled in the middle of its request or of reading the answer",
            _ => "the endpoint didn't complete its answer in time",
        };
        Failure::Upstream(ConnError::new(reason, what))
    }
}

fn reset(detail: &str) -> Failure {
    Failure::Upstream(ConnError::new(Reason::UpstreamReset, detail))
}

/// Of reading from the endpoint. What breaks HTTP/2 is noticed below us.
fn broken_off(error: &std::io::Error) -> Failure {
    let is_fault = error.kind() == std::io::ErrorKind::InvalidData;
    let reason = if is_fault { Reason::UpstreamProtocol } else { Reason::UpstreamReset };
    Failure::Upstream(ConnError::new(reason, format!("endpoint: {error}")))
}

fn upstream_fault(fault: Fault) -> Failure {
    let detail = format!("the endpoint's answer breaks HTTP: {}", fault.text());
    Failure::Upstream(ConnError::new(Reason::UpstreamProtocol, detail))
}
