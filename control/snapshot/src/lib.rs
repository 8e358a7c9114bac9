//! The contract the control plane publishes and every proxy executes: [`Tables`] are plain sorted rows, a
//! [`Snapshot`] is their checked and indexed form, and holding one is the proof that the tables are sound.
//!
//! Three crates depend on it: `control` makes tables and asks them questions in its tests, `proxy` and `dns` execute
//! them. It must not know YAML, sockets, clocks, tokio or private keys: a snapshot is dumped, logged and compared.
#![forbid(unsafe_code)]

mod build;
mod cell;
mod changed;
mod host;
mod index;
pub mod limits;
pub mod lookup;
mod name;
mod tables;
mod text;
mod upstream;
mod wire;

pub use build::{Listener, Snapshot, Sni, Violation};
pub use cell::{CachedReader, Publisher, Reader, Stale, cell};
pub use changed::{Change, changed};
pub use host::HostPattern;
pub use name::{Generation, Origin, Protocol, ProxyKind, spiffe_id};
pub use tables::{
    Access, Address, Backend, Balance, Client, DnsSettings, Endpoint, Filters, Forward, GatewayTls, Handler,
    HeaderMatch, HeaderOps, InboundTls, Interception, ListenerRow, Match, Mirror, NameRow, PassthroughProtocol,
    PassthroughRow, PassthroughTo, PathMatch, PathRewrite, PermissionRow, Principal, ProbeRow, ProxyRow, QueryMatch,
    Redirect, Role, RouteAction, RouteRow, ServerName, ServiceRow, SniRow, SniTarget, Tables, TextMatch, Timeouts,
    UpstreamTls, VirtualHost,
};
pub use upstream::DnsUpstream;
pub use wire::{FORMAT, Incoming, Part, RowId, Rows, WireError, load, parts, save, share};
