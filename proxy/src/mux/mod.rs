//! Tunnels between our own proxies: many streams on one mTLS connection, so that a new stream costs no handshake and
//! the bytes of many streams share a system call and a record. Both sides agree on it by ALPN; with any other peer a
//! connection stays its own. Must not know services, permissions or HTTP.

mod conn;
mod driver;
mod frame;
mod pool;
mod slot;
mod stream;

pub(crate) use conn::Failed;
pub(crate) use driver::{Tunnel, run};
pub(crate) use pool::{Begun, Pool};
#[expect(unreachable_pub, reason = "a variant of the public Stream")]
pub use stream::MuxStream;

/// The protocol name; the number is the wire format's, see [`frame`].
pub(crate) const ALPN: &[u8] = b"weir-mux/1";
