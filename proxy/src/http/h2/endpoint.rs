//! An HTTP/1 endpoint behind an HTTP/2 stream: our codec on its side, hyper's bodies on the client's. Must not know how
//! the endpoint was chosen.

use super::super::buffer::Buffer;
use super::super::fault::Fault;
use super::super::framing::{self, Decoder, Framing};
use super::super::head::{Head, Kind, Known};
use super::super::headers::Options;
use crate::error::{ConnError, Reason};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::{Body, Bytes, Frame, Incoming};
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// What is gathered for one write.
const GATHER_BYTES_MAX: usize = 16 * 1024;
const INTERIM_MAX: u8 = 16;

pub(super) struct Leg<Io> {
    io: Io,
    out: Vec<u8>,
    written: usize,
    upload: Option<Incoming>,
    chunked: bool,
    /// The endpoint has the whole request.
    pub(super) sent_at: Option<Instant>,
    input: Buffer,
    decoder: Decoder,
    head: Head,
    to_head: bool,
    reuse: bool,
    ended: bool,
    /// The endpoint has sent something.
    pub(super) answered: bool,
    /// Body bytes from the client.
    pub(super) received: u64,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Leg<Io> {
    /// `out` holds the request's head.
    pub(super) fn new(io: Io, out: Vec<u8>, (framing, upload): (Framing, Incoming), to_head: bool) -> Self {
        Self {
            io,
            out,
            written: 0,
            upload: (framing != Framing::Empty).then_some(upload),
            chunked: framing == Framing::Chunked,
            sent_at: None,
            input: Buffer::default(),
            decoder: Decoder::new(Framing::Empty),
            head: Head::default(),
            to_head,
            reuse: false,
            ended: false,
            answered: false,
            received: 0,
        }
    }

    /// The connection, if it can serve another request.
    pub(super) fn into_reusable(self) -> Option<Io> {
        (self.is_end() && self.reuse && self.sent_at.is_some() && self.input.is_empty()).then_some(self.io)
    }

    /// Sends a request without body once more.
    pub(super) fn restart(&mut self, io: Io) {
        self.io = io;
        self.written = 0;
        self.sent_at = None;
        self.head.clear();
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        while self.sent_at.is_none() {
            let more = match self.gather(cx) {
                Poll::Ready(result) => {
                    result?;
                    true
                }
                Poll::Pending => false,
            };
            while self.written < self.out.len() {
                let rest = self.out.get(self.written..).unwrap_or_default();
                match ready!(Pin::new(&mut self.io).poll_write(cx, rest)) {
                    Ok(count) if count > 0 => self.written += count,
                    // It may have answered early; if it hasn't, reading tells.
                    _ => {
                        self.upload = None;
                        return Poll::Pending;
                    }
                }
            }
            let _ = ready!(Pin::new(&mut self.io).poll_flush(cx));
            match (&self.upload, more) {
                (None, _) => self.sent_at = Some(Instant::now()),
                (Some(_), false) => return Poll::Pending,
                (Some(_), true) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Lines up what the client has sent: pending if it has to be waited for.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnError>> {
        while let Some(upload) = &mut self.upload {
            if self.out.len() - self.written >= GATHER_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
            let frame = ready!(Pin::new(upload).poll_frame(cx)).transpose();
            let frame = frame.map_err(|error| ConnError::new(Reason::DownstreamReset, format!("client: {error}")))?;
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
            }
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => self.line_up(&data),
                Some(Err(frame)) => self.finish(frame.trailers_ref()),
                None => self.finish(None),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn line_up(&mut self, data: &Bytes) {
        self.received += data.len() as u64;
        if data.is_empty() {
            return;
        }
        if self.chunked {
            // Writing to a vector can't fail.
            let _ = write!(self.out, "{:x}\r\n", data.len());
        }
        self.out.extend_from_slice(data);
        if self.chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.upload = None;
        if !self.chunked {
            return;
        }
        self.out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            if !Known::of(name.as_str().as_bytes()).is_forbidden_in_trailers() {
                super::super::headers::push_field(&mut self.out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// The final response's head, while the request is still being sent.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, ConnError>> {
        if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Err(error));
        }
        let mut interim = 0;
        loop {
            while !self.input.is_empty() && self.head.parse(self.input.data(), Kind::Response).map_err(fault)? {
                let response = self.take_head()?;
                if !response.status().is_informational() {
                    return Poll::Ready(Ok(response));
                }
                interim += 1;
                if interim > INTERIM_MAX {
                    return Poll::Ready(Err(reset("the endpoint sends informational responses without end")));
                }
            }
            match ready!(self.input.poll_fill(&mut self.io, cx)) {
                Ok(0) => return Poll::Ready(Err(reset("the endpoint closed before its answer"))),
                Ok(_) => self.answered = true,
                Err(error) => return Poll::Ready(Err(reset(&format!("endpoint: {error}")))),
            }
        }
    }

    fn take_head(&mut self) -> Result<Response<()>, ConnError> {
        let buffer = self.input.data();
        let framing = framing::of_response(&self.head, buffer, self.to_head).map_err(fault)?;
        let options = Options::read(&self.head, buffer);
        if self.head.status == 101 {
            return Err(fault(Fault::Upgrade));
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.head.status).map_err(|_| fault(Fault::StatusLine))?;
        for field in &self.head.fields {
            let name = field.name.of(buffer);
            if field.known.is_hop_by_hop() || options.ends(name) {
                continue;
            }
            let pair = HeaderName::from_bytes(name).ok().zip(HeaderValue::from_bytes(field.value.of(buffer)).ok());
            let (name, value) = pair.ok_or_else(|| fault(Fault::HeaderValue))?;
            response.headers_mut().append(name, value);
        }
        if framing == Framing::Empty && !self.to_head && self.head.status != 304 {
            response.headers_mut().remove(http::header::CONTENT_LENGTH);
        }
        self.reuse = options.persists(self.head.version) && framing != Framing::UntilClose;
        self.decoder = Decoder::new(framing);
        self.input.consume(self.head.len);
        self.head.clear();
        Ok(response)
    }

    pub(super) fn is_end(&self) -> bool {
        self.ended || (self.decoder.is_done() && self.decoder.trailers().next().is_none())
    }

    /// The next piece of the response's body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ConnError>>> {
        if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let step = match self.decoder.step(self.input.data()) {
                Ok(step) => step,
                Err(broken) => return Poll::Ready(Some(Err(fault(broken)))),
            };
            self.input.consume(step.skip);
            if step.data > 0 {
                let data = Bytes::copy_from_slice(self.input.data().get(..step.data).unwrap_or_default());
                self.input.consume(step.data);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if step.done {
                self.ended = true;
                return Poll::Ready(self.trailers().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            match ready!(self.input.poll_fill(&mut self.io, cx)) {
                Ok(0) => {
                    if self.decoder.end_of_input().is_err() {
                        return Poll::Ready(Some(Err(reset("the endpoint closed in the middle of its answer"))));
                    }
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(reset(&format!("endpoint: {error}"))))),
            }
        }
    }

    fn trailers(&self) -> Option<HeaderMap> {
        let mut trailers = HeaderMap::new();
        for (name, value) in self.decoder.trailers() {
            let pair = HeaderName::from_bytes(name).ok().zip(HeaderValue::from_bytes(value).ok());
            if let Some((name, value)) = pair {
                trailers.append(name, value);
            }
        }
        (!trailers.is_empty()).then_some(trailers)
    }
}

fn reset(detail: &str) -> ConnError {
    ConnError::new(Reason::UpstreamReset, detail)
}

fn fault(fault: Fault) -> ConnError {
    ConnError::new(Reason::UpstreamProtocol, format!("the endpoint's answer breaks HTTP: {}", fault.text()))
}
