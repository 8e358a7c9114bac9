//! A downstream HTTP/2 connection: each stream is decided and forwarded like an HTTP/1 request. Must not know sockets.

use super::super::forward::{Lease, lease};
use super::super::framing::Framing;
use super::super::headers as names;
use super::super::mirror;
use super::super::path::Spelling;
use super::super::respond::Answer;
use super::super::timer::Timer;
use super::super::traffic::{Action, Context, Decision, End, Headers, Outcome, Plan, RequestView, Settings, Traffic};
use super::endpoint::Leg;
use super::headers::{self, Target};
use super::shared::{self, Progress, Upload};
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, LOCAL_RESETS_MAX, LocalExecutor, PENDING_RESETS_MAX, SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES,
};
use crate::error::{ConnError, Reason};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use snapshot::{Filters, Timeouts};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves an HTTP/2 connection from its preface on.
pub(in super::super) async fn serve<S, T>(io: S, context: Context<T>, mut drain: watch::Receiver<bool>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    T: Traffic,
{
    let settings = Arc::clone(&context.settings);
    let seen = Rc::new(Cell::new(0u64));
    let active = Rc::new(());
    let (count, held) = (Rc::clone(&seen), Rc::clone(&active));
    let service = service_fn(move |request| {
        count.set(count.get() + 1);
        let (context, held) = (context.clone(), Rc::clone(&held));
        async move { Ok::<_, Infallible>(handle(context, request, held).await) }
    });
    let connection = builder(&settings).serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(async move {
        if drain.wait_for(|drain| *drain).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let (mut told, mut last) = (false, 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return if ended.is_ok() { End::Closed } else { End::Broken },
            () = draining.as_mut(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(settings.idle_timeout), if !told => {
                // Two holders are this function and the service: no stream is alive, and none came meanwhile.
                if Rc::strong_count(&active) <= 2 && seen.get() == last {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                last = seen.get();
            }
        }
    }
}

fn builder(settings: &Settings) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_header_list_size(super::super::head::HEAD_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .auto_date_header(false);
    builder
}

/// One request under way: reported when it is dropped, so however it ends.
struct Report<T: Traffic> {
    context: Context<T>,
    plan: Option<Plan<T::Target>>,
    filters: Option<Arc<Filters>>,
    endpoint: Option<T::Endpoint>,
    _load: Option<T::Load>,
    _held: Rc<()>,
    method: http::Method,
    host: String,
    path: String,
    began: Instant,
    status: u16,
    reason: Option<Reason>,
    detail: String,
    received: u64,
    upload: Option<Rc<Progress>>,
    sent: u64,
    complete: bool,
}

impl<T: Traffic> Report<T> {
    fn new(context: Context<T>, method: http::Method, held: Rc<()>) -> Self {
        Self {
            context,
            plan: None,
            filters: None,
            endpoint: None,
            _load: None,
            _held: held,
            method,
            host: String::new(),
            path: String::new(),
            began: Instant::now(),
            status: 0,
            reason: None,
            detail: String::new(),
            received: 0,
            upload: None,
            sent: 0,
            complete: false,
        }
    }

    fn failed(&mut self, error: &ConnError) {
        self.reason = Some(error.reason);
        self.detail.clone_from(&error.detail);
        self.complete = true;
    }
}

impl<T: Traffic> Drop for Report<T> {
    fn drop(&mut self) {
        if !self.complete && self.reason.is_none() {
            self.reason = Some(Reason::DownstreamReset);
            "the client reset the stream or closed".clone_into(&mut self.detail);
        }
        let outcome = Outcome {
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            status: self.status,
            reason: self.reason,
            detail: &self.detail,
            endpoint: self.endpoint.as_ref(),
            received: self.upload.as_ref().map_or(self.received, |upload| upload.bytes.get()),
            sent: self.sent,
            elapsed: self.began.elapsed(),
        };
        self.context.traffic.finished(self.plan.as_ref(), &outcome);
    }
}

async fn handle<T: Traffic>(context: Context<T>, request: Request<Incoming>, held: Rc<()>) -> Response<Download<T>> {
    let (mut parts, body) = request.into_parts();
    let mut report = Report::new(context, parts.method.clone(), held);
    let target = match headers::check(&parts, &report.context.settings) {
        Ok(target) => target,
        Err(fault) => return answer(Answer::fault(fault), report),
    };
    report.host.clone_from(&target.host);
    report.path.clone_from(&target.path);
    if target.spelling == Spelling::Redirect {
        let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
        let location = Some(format!("{}{query}", target.path));
        return answer(Answer { status: 307, location, ..Answer::default() }, report);
    }
    let Decision { action, filters } = report.context.traffic.decide(&RequestView {
        method: parts.method.as_str(),
        path: &target.path,
        query: target.query.as_deref(),
        host: &target.host,
        authority: &target.authority,
        headers: Headers::Two(&parts.headers),
    });
    report.filters = filters;
    let mut plan = match action {
        Action::Forward(plan) => plan,
        Action::Redirect { status, location } => {
            return answer(Answer { status, location: Some(location), ..Answer::default() }, report);
        }
        Action::Respond { status, body, reason } => {
            return answer(Answer { status, body, reason, ..Answer::default() }, report);
        }
    };
    let ops = report.filters.as_deref().map(|filters| &filters.request);
    headers::for_endpoint(&mut parts.headers, ops, &report.context.settings, report.context.peer);
    if let Some(mirror) = plan.mirror.take()
        && body.is_end_stream()
    {
        copy(&report, (&parts, &target), (&plan, mirror));
    }
    let (h2, timeouts) = (plan.h2, plan.timeouts.clone());
    report.plan = Some(plan);
    let forwarded = match h2 {
        true => forward_two(&mut report, (parts, target, body), &timeouts).await,
        false => forward_one(&mut report, (parts, target, body), &timeouts).await,
    };
    match forwarded {
        Ok((response, source)) => respond(response, source, report, &timeouts),
        Err(error) => {
            report.failed(&error);
            let error = Answer::error(error, &report.context.settings);
            answer(error, report)
        }
    }
}

/// A request without body, to a mirror.
fn copy<T: Traffic>(
    report: &Report<T>,
    (parts, target): (&Parts, &Target),
    (plan, mirror): (&Plan<T::Target>, T::Target),
) {
    let authority = names::authority(report.filters.as_deref(), None).unwrap_or(&target.authority);
    let authority = String::from_utf8(mirror::authority(authority.as_bytes())).unwrap_or_default();
    let path = plan.path.as_deref().unwrap_or(&target.path);
    let mut out = Vec::with_capacity(512);
    let line = (authority.as_str(), path, target.query.as_deref());
    headers::write_one((&parts.method, &parts.headers), line, Framing::Empty, &mut out);
    mirror::send(&report.context, mirror, out, parts.method == http::Method::HEAD);
}

type Forwarded<T> = Result<(Response<()>, Source<T>), ConnError>;

/// To an HTTP/1 endpoint.
async fn forward_one<T: Traffic>(
    report: &mut Report<T>,
    (parts, target, body): (Parts, Target, Incoming),
    timeouts: &Timeouts,
) -> Forwarded<T> {
    let Some(plan) = &report.plan else { return Err(ConnError::new(Reason::NoRoute, "no plan")) };
    let Lease { picked, io, reused } = lease(&report.context, &plan.target).await?;
    report.endpoint = Some(picked.endpoint.clone());
    report._load = Some(picked.load);
    let filters = report.filters.as_deref();
    let authority = names::authority(filters, picked.host.as_deref()).unwrap_or(&target.authority);
    let path = plan.path.as_deref().unwrap_or(&target.path);
    let framing = match content_length(&parts) {
        _ if body.is_end_stream() => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let mut out = Vec::with_capacity(512);
    let target = (authority, path, target.query.as_deref());
    headers::write_one((&parts.method, &parts.headers), target, framing, &mut out);
    let replayable = framing == Framing::Empty && parts.method.is_idempotent();
    let mut leg = Box::new(Leg::new(io, out, (framing, body), parts.method == http::Method::HEAD));
    let mut timer = Timer::new();
    let mut head = wait_head(&mut leg, &mut timer, timeouts).await;
    let stale = |head: &Result<_, ConnError>| head.as_ref().is_err_and(|error| error.reason == Reason::UpstreamReset);
    if reused && replayable && !leg.answered && stale(&head) {
        leg.restart(Box::pin(report.context.traffic.connect(&plan.target, &picked.endpoint)).await?);
        head = wait_head(&mut leg, &mut timer, timeouts).await;
    }
    Ok((head?, Source::One(leg)))
}

async fn wait_head<Io: AsyncRead + AsyncWrite + Unpin>(
    leg: &mut Leg<Io>,
    timer: &mut Timer,
    timeouts: &Timeouts,
) -> Result<Response<()>, ConnError> {
    poll_fn(|cx| {
        if let Poll::Ready(head) = leg.poll_head(cx) {
            return Poll::Ready(head);
        }
        match leg.sent_at.and_then(|sent| after(sent, timeouts.request_ms)) {
            Some(at) => timer.poll(cx, at).map(|()| Err(late())),
            None => Poll::Pending,
        }
    })
    .await
}

/// To an HTTP/2 endpoint.
async fn forward_two<T: Traffic>(
    report: &mut Report<T>,
    (mut parts, target, body): (Parts, Target, Incoming),
    timeouts: &Timeouts,
) -> Forwarded<T> {
    let Some(plan) = &report.plan else { return Err(ConnError::new(Reason::NoRoute, "no plan")) };
    let picked = report.context.traffic.pick(&plan.target, None)?;
    let (mut sender, reused) = shared::sender(&report.context, &plan.target, &picked.endpoint).await?;
    let authority = names::authority(report.filters.as_deref(), picked.host.as_deref()).unwrap_or(&target.authority);
    let path = plan.path.as_deref().unwrap_or(&target.path);
    parts.uri = uri(authority, path, target.query.as_deref(), &report.context.settings)?;
    let (upload, progress) = Upload::new(body);
    report.upload = Some(Rc::clone(&progress));
    report.endpoint = Some(picked.endpoint.clone());
    let mut timer = Timer::new();
    let mut request = Request::from_parts(parts, upload);
    let mut fresh = !reused;
    let response = loop {
        let mut sending = pin!(sender.try_send_request(request));
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(sent));
            }
            match progress.ended(cx).and_then(|at| after(at, timeouts.request_ms)) {
                Some(at) => timer.poll(cx, at).map(|()| Err(late())),
                None => Poll::Pending,
            }
        });
        let mut error = match sent.await? {
            Ok(response) => break response,
            Err(error) => error,
        };
        match error.take_message() {
            // Nothing of it was sent: the connection was just ending.
            Some(unsent) if !fresh => (request, fresh) = (unsent, true),
            _ => return Err(ConnError::new(Reason::UpstreamReset, format!("endpoint: {}", error.error()))),
        }
        (sender, _) = shared::sender(&report.context, &plan.target, &picked.endpoint).await?;
    };
    report._load = Some(picked.load);
    let (parts, body) = response.into_parts();
    Ok((Response::from_parts(parts, ()), Source::Two(body)))
}

fn uri(authority: &str, path: &str, query: Option<&str>, settings: &Settings) -> Result<Uri, ConnError> {
    let mut bytes = Vec::with_capacity(path.len() + 64);
    names::push_visible(&mut bytes, path.as_bytes());
    if let Some(query) = query {
        bytes.push(b'?');
        names::push_visible(&mut bytes, query.as_bytes());
    }
    let built = Uri::builder().scheme(names::scheme(settings)).authority(authority).path_and_query(bytes).build();
    built.map_err(|error| ConnError::new(Reason::DownstreamProtocol, format!("the target can't be forwarded: {error}")))
}

fn content_length(parts: &Parts) -> Option<u64> {
    parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn after(at: Instant, ms: u64) -> Option<Instant> {
    (ms > 0).then(|| at.checked_add(Duration::from_millis(ms))).flatten()
}

fn late() -> ConnError {
    ConnError::new(Reason::ResponseTimeout, "the endpoint didn't complete its answer in time")
}

fn respond<T: Traffic>(
    response: Response<()>,
    source: Source<T>,
    mut report: Report<T>,
    timeouts: &Timeouts,
) -> Response<Download<T>> {
    report.status = response.status().as_u16();
    let (mut parts, ()) = response.into_parts();
    parts.version = http::Version::HTTP_2;
    let ops = report.filters.as_deref().map(|filters| &filters.response);
    headers::for_client(&mut parts.headers, ops, &report.context.settings);
    let deadline = after(Instant::now(), timeouts.request_ms);
    let body = Download { source, report: Some(report), timer: Timer::new(), deadline };
    Response::from_parts(parts, body)
}

fn answer<T: Traffic>(answer: Answer, mut report: Report<T>) -> Response<Download<T>> {
    report.status = answer.status;
    report.reason = report.reason.or(answer.reason);
    report.complete = true;
    if report.detail.is_empty() {
        report.detail = answer.detail;
    }
    let body = Bytes::from(answer.body.into_owned());
    report.sent = body.len() as u64;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = response.headers_mut();
    if !body.is_empty() {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if let Some(location) = &answer.location {
        let mut bytes = Vec::new();
        names::push_visible(&mut bytes, location.as_bytes());
        if let Ok(location) = HeaderValue::from_bytes(&bytes) {
            fields.insert(header::LOCATION, location);
        }
    }
    respond(response, Source::Own(Some(body)), report, &Timeouts { request_ms: 0, stream_idle_ms: 0 })
}

/// Where a response's body comes from.
enum Source<T: Traffic> {
    Own(Option<Bytes>),
    One(Box<Leg<T::Io>>),
    Two(Incoming),
}

/// A response's body on its way to the client.
struct Download<T: Traffic> {
    source: Source<T>,
    report: Option<Report<T>>,
    timer: Timer,
    deadline: Option<Instant>,
}

impl<T: Traffic> Unpin for Download<T> {}

impl<T: Traffic> Download<T> {
    fn poll_source(&mut self, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, ConnError>>> {
        let frame = match &mut self.source {
            Source::Own(body) => {
                Poll::Ready(body.take().filter(|body| !body.is_empty()).map(|body| Ok(Frame::data(body))))
            }
            Source::One(leg) => leg.poll_frame(cx),
            Source::Two(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                frame.map(|frame| {
                    frame.map_err(|error| ConnError::new(Reason::UpstreamReset, format!("endpoint: {error}")))
                })
            }),
        };
        match (frame, self.deadline) {
            (Poll::Pending, Some(at)) => self.timer.poll(cx, at).map(|()| Some(Err(late()))),
            (frame, _) => frame,
        }
    }

    /// Everything was passed on.
    fn complete(&mut self) {
        let Some(mut report) = self.report.take() else { return };
        report.complete = true;
        if let Source::One(leg) = std::mem::replace(&mut self.source, Source::Own(None)) {
            report.received = leg.received;
            if let (Some(endpoint), Some(io)) = (report.endpoint.clone(), leg.into_reusable()) {
                report.context.pools.put(endpoint, io);
            }
        }
    }
}

impl<T: Traffic> Drop for Download<T> {
    fn drop(&mut self) {
        // A body whose end is known beforehand isn't polled to its end.
        if self.is_end_stream() {
            self.complete();
        }
    }
}

impl<T: Traffic> Body for Download<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        match std::task::ready!(this.poll_source(cx)) {
            None => {
                this.complete();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                if let Some(report) = &mut this.report {
                    report.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
                if frame.is_trailers() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(mut report) = this.report.take() {
                    report.failed(&error);
                }
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Source::One(leg) => leg.is_end(),
            Source::Two(body) => body.is_end_stream(),
        }
    }
}
