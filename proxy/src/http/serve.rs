//! A downstream HTTP/1 connection from its first byte to its end: read a head, decide, exchange, again. Must not know
//! sockets or TLS.

use super::buffer::Buffer;
use super::fault::Fault;
use super::forward;
use super::framing::{self, Framing};
use super::head::{Head, Kind, Known, Span, Version};
use super::headers::{self, Options};
use super::path::{self, Spelling};
use super::pool;
use super::pump::Pipe;
use super::respond::{self, Answer, Recipient};
use super::target;
use super::timer::Timer;
use super::traffic::{Action, Context, Decision, End, Headers, Outcome, RequestView, Settings, Traffic};
use crate::clock;
use crate::error::Reason;
use crate::stream::Wired;
use snapshot::Filters;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

/// After a response that ends the connection, the client's bytes are read away this long, so that it gets to see the
/// response before a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// Scratch space that a thread keeps: as much as the streams of a few HTTP/2 connections need.
const SCRATCH_SPARE_MAX: usize = 512;
/// Larger output buffers aren't kept.
const OUT_BYTES_KEPT: usize = 8 * 1024;

/// What a connection needs only while a request is under way.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) head: Head,
    pub(super) response: Head,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    host: String,
    /// Method and path for the log, as the head itself is gone by then.
    line: String,
    method_len: usize,
    /// The normalised path, if it isn't the one sent.
    pub(super) path: Vec<u8>,
}

thread_local! {
    #[expect(clippy::vec_box, reason = "it is the box that is taken and given, without moving what is in it")]
    static SCRATCH: RefCell<Vec<Box<Scratch>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    pub(super) fn take() -> Box<Self> {
        SCRATCH.with(|spare| spare.borrow_mut().pop()).unwrap_or_default()
    }

    /// What the log says of the request.
    pub(super) fn line(&self, began: Instant) -> Line<'_> {
        let (method, path) = self.line.split_at_checked(self.method_len).unwrap_or_default();
        Line { method, host: &self.host, path, began }
    }

    pub(super) fn give(mut self: Box<Self>) {
        self.head.clear();
        self.host.clear();
        self.line.clear();
        self.method_len = 0;
        self.up.clear(OUT_BYTES_KEPT);
        self.down.clear(OUT_BYTES_KEPT);
        SCRATCH.with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SCRATCH_SPARE_MAX {
                spare.push(self);
            }
        });
    }
}

/// A request for the log; empty if it wasn't understood.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) began: Instant,
}

/// What the rest of a request's way depends on.
pub(super) struct Facts {
    pub(super) version: Version,
    pub(super) framing: Framing,
    pub(super) options: Options,
    pub(super) authority: Span,
    /// The authority without port.
    pub(super) host: Span,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
    pub(super) spelling: Spelling,
    pub(super) to_head: bool,
    pub(super) idempotent: bool,
    pub(super) upgrade: bool,
    /// The client keeps its connection open.
    pub(super) keep: bool,
    pub(super) began: Instant,
}

pub(super) struct Session<S, T: Traffic> {
    pub(super) io: S,
    pub(super) input: Buffer,
    pub(super) timer: Timer,
    pub(super) context: Context<T>,
    pub(super) drain: watch::Receiver<bool>,
    /// When the last request was answered: with this and a request's own beginning, two looks at the clock suffice for one.
    pub(super) last: Instant,
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    /// Everything was sent; close so that the client gets it.
    Linger,
    Close,
    Broken,
}

/// Why there is no complete head.
enum NoHead {
    Fault(Fault),
    Timeout,
    Gone,
}

impl<S, T> Session<S, T>
where
    S: Wired,
    T: Traffic,
{
    /// Of a connection that was just accepted.
    pub(super) fn new(io: S, context: Context<T>, drain: watch::Receiver<bool>) -> Self {
        Self { io, input: Buffer::default(), timer: Timer::new(), context, drain, last: Instant::now() }
    }

    /// Serves requests until the connection's end; `input` may hold the first one's bytes.
    pub(super) async fn serve(&mut self) -> End {
        let mut told = self.drain.clone();
        let mut draining = pin!(async move {
            if told.wait_for(|drain| *drain).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let mut hears = None;
        while self.wait(draining.as_mut(), &mut hears).await {
            let mut scratch = Scratch::take();
            let next = self.request(&mut scratch).await;
            scratch.give();
            match next {
                Next::Keep if is_draining(&self.drain) => break,
                Next::Keep => {}
                Next::Linger => {
                    Box::pin(self.linger()).await;
                    return End::Closed;
                }
                Next::Close => return End::Closed,
                Next::Broken => return End::Broken,
            }
        }
        let _ = self.io.shutdown().await;
        End::Closed
    }

    /// Waits for the next request's first byte: false when the connection is to end. `hears`: whom `draining` wakes.
    async fn wait<D: Future<Output = ()>>(&mut self, mut draining: Pin<&mut D>, hears: &mut Option<Waker>) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        let idle = self.last.checked_add(self.context.settings.idle_timeout);
        let Self { io, input, timer, drain, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(read) = input.poll_fill_wired(io, cx) {
                return Poll::Ready(read.is_ok_and(|count| count > 0));
            }
            // Who waits already needn't ask until there is news.
            let known = hears.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            let draining = if known && matches!(drain.has_changed(), Ok(false)) {
                false
            } else {
                *hears = Some(cx.waker().clone());
                draining.as_mut().poll(cx).is_ready()
            };
            if draining || idle.is_some_and(|at| timer.poll(cx, at).is_ready()) {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Serves one request; `scratch` has its head if that was parsed already.
    pub(super) async fn request(&mut self, scratch: &mut Scratch) -> Next {
        let began = clock::now();
        match self.read_head(&mut scratch.head, began).await {
            Ok(()) => {}
            Err(NoHead::Gone) => return Next::Close,
            // Boxed, like all that is rare: an idle connection has room for what it may come to.
            Err(NoHead::Fault(fault)) => return Box::pin(self.refuse(Answer::fault(fault), began)).await,
            Err(NoHead::Timeout) => {
                let answer = Answer {
                    status: 408,
                    body: "request headers took too long".into(),
                    reason: Some(Reason::RequestTimeout),
                    detail: "the client didn't finish its request head in time".to_owned(),
                    location: None,
                };
                return Box::pin(self.refuse(answer, began)).await;
            }
        }
        let facts = match assess(scratch, self.input.data(), &self.context.settings, began) {
            Ok(facts) => facts,
            Err(fault) => return Box::pin(self.refuse(Answer::fault(fault), began)).await,
        };
        if facts.spelling == Spelling::Redirect {
            let location = redirect_location(&facts, scratch, self.input.data());
            let answer = Answer { status: 307, location: Some(location), ..Answer::default() };
            return Box::pin(self.answer(answer, &facts, None, scratch)).await;
        }
        let Decision { mut action, filters } = self.decide(&facts, scratch);
        let filters = filters.as_deref();
        // Taken apart where it is: a plan that is moved has room twice in what awaits its end.
        let answer = match &mut action {
            Action::Forward(plan) => {
                let mirror = plan.mirror.take();
                let plan = &*plan;
                if let Some(mirror) = mirror {
                    forward::mirror(self, &facts, (plan, filters, mirror), scratch);
                }
                let next = forward::forward(self, &facts, (plan, filters), scratch).await;
                return if next == Next::Linger && self.is_over(&facts) { Next::Close } else { next };
            }
            Action::Redirect { status, location } => {
                Answer { status: *status, location: Some(std::mem::take(location)), ..Answer::default() }
            }
            Action::Respond { status, body, reason } => {
                Answer { status: *status, body: std::mem::take(body), reason: *reason, ..Answer::default() }
            }
        };
        Box::pin(self.answer(answer, &facts, filters, scratch)).await
    }

    fn decide(&self, facts: &Facts, scratch: &mut Scratch) -> Decision<T::Target> {
        let data = self.input.data();
        target::matching_host(facts.host.of(data), &mut scratch.host);
        let path = match facts.spelling {
            Spelling::AsSent => facts.path.text(data),
            _ => std::str::from_utf8(&scratch.path).unwrap_or_default(),
        };
        let method = method_text(scratch.head.method.of(data));
        scratch.line.push_str(method);
        scratch.line.push_str(path);
        scratch.method_len = method.len();
        self.context.traffic.decide(&RequestView {
            method,
            path,
            query: facts.query.map(|query| query.text(data)),
            host: &scratch.host,
            headers: Headers { head: &scratch.head, buffer: data },
        })
    }

    async fn read_head(&mut self, head: &mut Head, began: Instant) -> Result<(), NoHead> {
        if head.len > 0 {
            return Ok(());
        }
        let due = began.checked_add(self.context.settings.head_timeout);
        let Self { io, input, timer, .. } = self;
        poll_fn(|cx| {
            loop {
                match head.parse(input.data(), Kind::Request) {
                    Ok(true) => return Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(fault) => return Poll::Ready(Err(NoHead::Fault(fault))),
                }
                match input.poll_fill_wired(io, cx) {
                    Poll::Ready(Ok(count)) if count > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(NoHead::Gone)),
                    Poll::Pending => break,
                }
            }
            match due {
                Some(at) => timer.poll(cx, at).map(|()| Err(NoHead::Timeout)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Answers what can't be understood; framing is lost, so the connection ends.
    async fn refuse(&mut self, answer: Answer, began: Instant) -> Next {
        let to = Recipient { version: Version::Http11, to_head: false, keep: false };
        self.send(&answer, &to, None, Line { method: "", host: "", path: "", began }).await
    }

    /// Answers an understood request without an endpoint. `scratch` has its head.
    pub(super) async fn answer(
        &mut self,
        answer: Answer,
        facts: &Facts,
        filters: Option<&Filters>,
        scratch: &Scratch,
    ) -> Next {
        self.input.consume(scratch.head.len);
        let keep = facts.keep && facts.framing == Framing::Empty && !is_draining(&self.drain);
        let to = Recipient { version: facts.version, to_head: facts.to_head, keep };
        self.send(&answer, &to, filters, scratch.line(facts.began)).await
    }

    /// Answers for an endpoint that failed; what is left of the request's body stays unread.
    pub(super) async fn late_answer(&mut self, answer: &Answer, facts: &Facts, filters: Option<&Filters>) -> Next {
        let keep = facts.keep && facts.framing == Framing::Empty && !is_draining(&self.drain);
        let to = Recipient { version: facts.version, to_head: facts.to_head, keep };
        self.write_answer(answer, &to, filters).await
    }

    async fn write_answer(&mut self, answer: &Answer, to: &Recipient, filters: Option<&Filters>) -> Next {
        let mut out = Vec::with_capacity(256 + answer.body.len());
        respond::write(answer, to, filters, &self.context.settings, &mut out);
        let written = self.write_all(&out).await;
        self.last = clock::now();
        match written {
            Err(_) => Next::Close,
            Ok(()) if to.keep => Next::Keep,
            Ok(()) => Next::Linger,
        }
    }

    async fn send(&mut self, answer: &Answer, to: &Recipient, filters: Option<&Filters>, line: Line<'_>) -> Next {
        let next = self.write_answer(answer, to, filters).await;
        self.context.traffic.finished(
            None,
            &Outcome {
                method: line.method,
                host: line.host,
                path: line.path,
                status: answer.status,
                reason: answer.reason,
                detail: &answer.detail,
                endpoint: None,
                received: 0,
                sent: if to.to_head { 0 } else { answer.body.len() as u64 },
                elapsed: self.last.saturating_duration_since(line.began),
            },
        );
        next
    }

    async fn write_all(&mut self, out: &[u8]) -> io::Result<()> {
        let write = async {
            self.io.write_all(out).await?;
            self.io.flush().await
        };
        tokio::time::timeout(self.context.settings.body_timeout, write)
            .await
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The client said that this was its last request, and all of it was read: closing can't cost it the response.
    fn is_over(&mut self, facts: &Facts) -> bool {
        let all_read = facts.framing == Framing::Empty && self.input.is_empty();
        !facts.keep && all_read && self.io.socket().is_some() && pool::is_quiet(&mut self.io)
    }

    /// Ends our side and reads the client's rest away, so that what was sent isn't lost in a reset.
    async fn linger(&mut self) {
        let due = Instant::now() + LINGER;
        let Self { io, input, timer, .. } = self;
        input.consume(usize::MAX);
        let mut shut = false;
        let mut left = LINGER_BYTES_MAX;
        poll_fn(|cx| {
            if !shut {
                shut = Pin::new(&mut *io).poll_shutdown(cx).is_ready();
            }
            while let Poll::Ready(read) = input.poll_fill(io, cx) {
                let count = read.unwrap_or(0);
                input.consume(count);
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return Poll::Ready(());
                }
            }
            timer.poll(cx, due)
        })
        .await;
    }
}

/// Without the lock, unless there is news.
pub(super) fn is_draining(drain: &watch::Receiver<bool>) -> bool {
    !matches!(drain.has_changed(), Ok(false)) && *drain.borrow()
}

/// The usual ones need no check that they are text.
fn method_text(method: &[u8]) -> &str {
    match method {
        b"GET" => "GET",
        b"POST" => "POST",
        b"PUT" => "PUT",
        other => std::str::from_utf8(other).unwrap_or_default(),
    }
}

/// Checks all of a request that its head alone shows.
fn assess(scratch: &mut Scratch, data: &[u8], settings: &Settings, began: Instant) -> Result<Facts, Fault> {
    let head = &scratch.head;
    let target = target::target(head, data)?;
    let framing = framing::of_request(head, data)?;
    if settings.edge && head.fields.iter().any(|field| field.name.of(data).contains(&b'_')) {
        return Err(Fault::Underscore);
    }
    let mut expectations = head.values(data, Known::Expect);
    if head.version == Version::Http11 && expectations.any(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Fault::Expectation);
    }
    let spelling = match target.path {
        b"*" => Spelling::AsSent,
        path => path::normalise(path, settings.edge, &mut scratch.path)?,
    };
    let options = Options::read(head, data);
    let method = head.method.of(data);
    let websocket = headers::is_websocket(head, data, &options);
    Ok(Facts {
        version: head.version,
        framing,
        authority: Span::within(target.authority, data),
        host: Span::within(target.host, data),
        path: Span::within(target.path, data),
        query: target.query.map(|query| Span::within(query, data)),
        spelling,
        to_head: method == b"HEAD",
        idempotent: matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE" | b"TRACE"),
        upgrade: websocket && method == b"GET" && head.version == Version::Http11 && framing == Framing::Empty,
        keep: options.persists(head.version),
        options,
        began,
    })
}

/// The same resource under its one spelling.
fn redirect_location(facts: &Facts, scratch: &Scratch, data: &[u8]) -> String {
    let mut location = String::from_utf8_lossy(&scratch.path).into_owned();
    if let Some(query) = facts.query {
        location.push('?');
        location.push_str(query.text(data));
    }
    location
}
