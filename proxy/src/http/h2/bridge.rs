//! An HTTP/2 endpoint behind an HTTP/1 client: the exchange speaks HTTP/1 to hyper in this process, which speaks HTTP/2
//! to the endpoint. Rare, so simple before fast. Must not know the client.

use super::super::traffic::{Context, Traffic};
use super::LocalExecutor;
use super::shared::{self, Upload};
use crate::error::ConnError;
use http::{Request, Uri, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// What one side may be ahead of the other.
const BRIDGE_BYTES: usize = 64 * 1024;

/// What an HTTP/1 exchange speaks to: the endpoint's own connection, or a bridge.
pub(in super::super) enum Upstream<Io> {
    Own(Io),
    Bridge(DuplexStream),
}

impl<Io> Upstream<Io> {
    /// A bridge to the endpoint's shared connection.
    pub(in super::super) async fn bridge<T: Traffic<Io = Io>>(
        context: &Context<T>,
        target: &T::Target,
        endpoint: &T::Endpoint,
    ) -> Result<Self, ConnError> {
        let (sender, _) = shared::sender(context, target, endpoint).await?;
        let (ours, theirs) = duplex(BRIDGE_BYTES);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut sender = sender.clone();
            async move {
                let (mut parts, body) = request.into_parts();
                parts.version = Version::HTTP_2;
                parts.uri = absolute(&parts);
                for name in
                    [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::EXPECT, header::UPGRADE]
                {
                    parts.headers.remove(name);
                }
                let response = sender.send_request(Request::from_parts(parts, Upload::new(body).0)).await;
                response.map(|mut response| {
                    *response.version_mut() = Version::HTTP_11;
                    response
                })
            }
        });
        let mut builder = http1::Builder::new();
        builder.auto_date_header(false).keep_alive(false).half_close(true);
        let connection = builder.serve_connection(TokioIo::new(theirs), service);
        hyper::rt::Executor::execute(&LocalExecutor, async move {
            // Its end shows on our side of the bridge.
            let _ = connection.await;
        });
        Ok(Self::Bridge(ours))
    }
}

/// `Host` and path as one URI, as HTTP/2 wants it.
fn absolute(parts: &http::request::Parts) -> Uri {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let built = Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    built.unwrap_or_else(|_| parts.uri.clone())
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
