//! Captured connections to what the mesh doesn't know: whether they may go on, and whether as bytes or request by request. The rules
//! are the snapshot's (`lookup::passthrough`); this listens to the client only as long as they need it to.

use crate::connection::Serving;
use crate::error::{ConnError, Reason};
use crate::sni::{self, Hello};
use snapshot::lookup::passthrough::{Says, admitted, wanted};
use snapshot::{PassthroughProtocol, Snapshot};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Their name in logs and metrics.
pub(crate) const SERVICE: &str = "passthrough";
/// What a client reads whose request may not pass.
pub(crate) const NOT_LISTED: &str = "no MeshPassthrough lets requests for this host through\n";

pub(crate) enum Admitted {
    Bytes,
    Requests,
    Nothing(ConnError),
}

pub(crate) async fn admit(serving: &Serving, stream: &TcpStream) -> Admitted {
    let to = serving.destination;
    let snapshot = serving.worker.snapshot();
    let proxy = &snapshot.tables().proxy;
    if proxy.passthrough || admitted(&proxy.passthrough_rows, to, Says::Nothing).is_some() {
        return Admitted::Bytes;
    }
    let off = proxy.passthrough_rows.is_empty();
    let is_wanted = |some: &[PassthroughProtocol]| wanted(&proxy.passthrough_rows, to).any(|p| some.contains(&p));
    let tls = is_wanted(&[PassthroughProtocol::Tls]);
    let http = is_wanted(&[PassthroughProtocol::Http, PassthroughProtocol::Http2]);
    drop(snapshot);
    if !tls && !http {
        let why = if off { "the mesh forbids passthrough" } else { "no MeshPassthrough has it" };
        return refused(format!("{to} isn't in the mesh, and {why}"));
    }
    let timeout = Duration::from_millis(sni::HELLO_TIMEOUT_MS);
    let hello = match sni::read_hello(stream, timeout, sni::HELLO_BYTES_MAX).await {
        Ok(hello) => hello,
        Err(failure) => return Admitted::Nothing(failure),
    };
    let name = match &hello {
        Hello::Sni { name, .. } => Some(name.as_str()),
        Hello::NoSni { .. } => None,
        Hello::NotTls if http => return Admitted::Requests,
        _ => return refused(format!("{to} isn't in the mesh, and MeshPassthrough has it for another protocol")),
    };
    let snapshot = serving.worker.snapshot();
    match admitted(&snapshot.tables().proxy.passthrough_rows, to, Says::Tls(name)) {
        Some(_) => Admitted::Bytes,
        None => refused(format!("no MeshPassthrough has {} at {to}", name.unwrap_or("TLS without a server name"))),
    }
}

fn refused(detail: String) -> Admitted {
    Admitted::Nothing(ConnError::new(Reason::PassthroughOff, detail))
}

/// Whether a request may pass, and then whether it goes on as HTTP/2.
pub(crate) fn request(snapshot: &Snapshot, to: SocketAddr, host: &str) -> Option<bool> {
    let proxy = &snapshot.tables().proxy;
    if proxy.passthrough {
        return Some(false);
    }
    let row = admitted(&proxy.passthrough_rows, to, Says::Http(host))?;
    Some(row.protocol == PassthroughProtocol::Http2)
}
