//! An HTTP/2 endpoint behind an HTTP/1 exchange: a task reads the exchange's HTTP/1, has hyper speak HTTP/2 to the
//! endpoint, and writes the answer as HTTP/1, trailers included. Rare, so simple before fast. Must not know the client.

use super::super::buffer::Buffer;
use super::super::framing::{self, Decoder};
use super::super::head::{Head, Kind, Known};
use super::super::headers::push_field;
use super::super::traffic::{Context, Traffic};
use super::shared::{self, Upload};
use crate::error::ConnError;
use crate::stream::Wired;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf, duplex};
use tokio::sync::mpsc;

/// What one side may be ahead of the other.
const BRIDGE_BYTES: usize = 64 * 1024;

/// What an HTTP/1 exchange speaks to: the endpoint's own connection, or a bridge.
pub(in super::super) enum Upstream<Io> {
    Own(Io),
    Bridge(DuplexStream),
}

impl<Io: Wired> Wired for Upstream<Io> {
    fn poll_readable(&self, cx: &mut Task<'_>) -> Poll<()> {
        match self {
            Self::Own(io) => io.poll_readable(cx),
            Self::Bridge(_) => Poll::Ready(()),
        }
    }

    fn socket(&self) -> Option<&tokio::net::TcpStream> {
        match self {
            Self::Own(io) => io.socket(),
            Self::Bridge(_) => None,
        }
    }
}

impl<Io> Upstream<Io> {
    /// A bridge to the endpoint's shared connection, for one request.
    pub(in super::super) async fn bridge<T: Traffic<Io = Io>>(
        context: &Context<T>,
        target: &T::Target,
        endpoint: &T::Endpoint,
    ) -> Result<Self, ConnError> {
        let sender = shared::sender(context, target, endpoint).await?;
        let scheme = super::super::headers::scheme(&context.settings);
        let (ours, theirs) = duplex(BRIDGE_BYTES);
        tokio::task::spawn_local(async move {
            // Its end shows on our side of the bridge.
            let _ = Box::pin(cross(sender, theirs, scheme)).await;
        });
        Ok(Self::Bridge(ours))
    }
}

type Piece = Result<Frame<Bytes>, io::Error>;

/// Takes one request over and its answer back; an error or early end closes the bridge.
async fn cross(mut sender: SendRequest<Upload>, io: DuplexStream, scheme: &str) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(io);
    let mut input = Buffer::default();
    let mut head = Head::default();
    while !head.parse(input.data(), Kind::Request).map_err(broken)? {
        if fill(&mut input, &mut from).await? == 0 {
            return Ok(());
        }
    }
    let framing = framing::of_request(&head, input.data()).map_err(broken)?;
    let decoder = Decoder::new(framing);
    let ended = decoder.is_done();
    let (pieces, upload) = mpsc::channel(1);
    let to_head = head.method.of(input.data()) == b"HEAD";
    let request = request(&head, input.data(), (scheme, Upload::new((!ended).then_some(upload))))?;
    input.consume(head.len);
    let up = async {
        if !ended {
            gather(&mut from, &mut input, decoder, pieces).await?;
        }
        // The exchange says nothing more: what comes is its end.
        fill(&mut input, &mut from).await?;
        Err::<(), io::Error>(io::ErrorKind::BrokenPipe.into())
    };
    let down = async {
        sender.ready().await.map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        answer(&mut to, response, to_head).await
    };
    let (mut up, mut down) = (pin!(up), pin!(down));
    poll_fn(|cx| match down.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => up.as_mut().poll(cx),
    })
    .await
}

async fn fill(input: &mut Buffer, from: &mut ReadHalf<DuplexStream>) -> io::Result<usize> {
    poll_fn(|cx| input.poll_fill(from, cx)).await
}

fn broken(fault: super::super::fault::Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.text())
}

/// The head as HTTP/2 wants it: host and path as one URI, nothing of the connection.
fn request(head: &Head, buffer: &[u8], (scheme, upload): (&str, Upload)) -> io::Result<Request<Upload>> {
    let mut authority: &[u8] = b"";
    let mut request = Request::new(upload);
    for field in head.fields.iter() {
        let value = field.value.of(buffer);
        match field.known {
            Known::Host => authority = value,
            Known::Te if value == b"trailers" => push(request.headers_mut(), b"te", value),
            Known::Expect => {}
            known if known.is_hop_by_hop() => {}
            _ => push(request.headers_mut(), field.name.of(buffer), value),
        }
    }
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(head.target.of(buffer)).build();
    *request.uri_mut() = uri.map_err(io::Error::other)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = http::Method::from_bytes(head.method.of(buffer)).map_err(io::Error::other)?;
    Ok(request)
}

fn push(map: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        map.append(name, value);
    }
}

/// Hands the request's body on, piece by piece.
async fn gather(
    from: &mut ReadHalf<DuplexStream>,
    input: &mut Buffer,
    mut decoder: Decoder,
    pieces: mpsc::Sender<Piece>,
) -> io::Result<()> {
    loop {
        let step = decoder.step(input.data()).map_err(broken)?;
        input.consume(step.skip);
        if step.data > 0 {
            let data = Bytes::copy_from_slice(input.data().get(..step.data).unwrap_or_default());
            input.consume(step.data);
            // An endpoint that takes no more may have answered early.
            let _ = pieces.send(Ok(Frame::data(data))).await;
        } else if step.done {
            let mut trailers = HeaderMap::new();
            for (name, value) in decoder.trailers() {
                push(&mut trailers, name, value);
            }
            if !trailers.is_empty() {
                let _ = pieces.send(Ok(Frame::trailers(trailers))).await;
            }
            return Ok(());
        } else if fill(input, from).await? == 0 {
            let _ = pieces.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Writes the answer: with its own length if it has one, in chunks otherwise.
async fn answer(to: &mut WriteHalf<DuplexStream>, response: Response<Incoming>, to_head: bool) -> io::Result<()> {
    let (parts, mut body) = response.into_parts();
    let mut out = Vec::with_capacity(512);
    let phrase = parts.status.canonical_reason().unwrap_or_default();
    let _ = write!(out, "HTTP/1.1 {} {phrase}\r\n", parts.status.as_u16());
    let bodiless = to_head || matches!(parts.status.as_u16(), 204 | 304);
    let ended = body.is_end_stream();
    let announced = parts.headers.contains_key(http::header::CONTENT_LENGTH);
    for (name, value) in &parts.headers {
        if !Known::of(name.as_str().as_bytes()).is_hop_by_hop() {
            push_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let chunked = !bodiless && !announced && !ended;
    match (chunked, ended && !announced && !bodiless) {
        (true, _) => push_field(&mut out, b"transfer-encoding", b"chunked"),
        (_, true) => push_field(&mut out, b"content-length", b"0"),
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    while let Some(frame) = body.frame().await {
        match frame.map_err(io::Error::other)?.into_data() {
            Ok(data) if !data.is_empty() => {
                if chunked {
                    let _ = write!(out, "{:x}\r\n", data.len());
                }
                out.extend_from_slice(&data);
                if chunked {
                    out.extend_from_slice(b"\r\n");
                }
            }
            Ok(_) => {}
            Err(frame) => {
                let trailers = frame.trailers_ref().filter(|_| chunked);
                return finish(to, out, trailers).await;
            }
        }
        to.write_all(&out).await?;
        out.clear();
    }
    finish(to, out, chunked.then(HeaderMap::new).as_ref()).await
}

/// Ends the answer; `trailers` only if it is chunked.
async fn finish(to: &mut WriteHalf<DuplexStream>, mut out: Vec<u8>, trailers: Option<&HeaderMap>) -> io::Result<()> {
    if let Some(trailers) = trailers {
        out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            if !Known::of(name.as_str().as_bytes()).is_forbidden_in_trailers() {
                push_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    to.write_all(&out).await?;
    to.flush().await
}

impl<Io: AsyncRead + Unpin> AsyncRead for Upstream<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Bridge(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Upstream<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Bridge(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write_vectored(cx, parts),
            Self::Bridge(io) => Pin::new(io).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_flush(cx),
            Self::Bridge(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_shutdown(cx),
            Self::Bridge(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
