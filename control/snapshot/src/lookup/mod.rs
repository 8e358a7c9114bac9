//! Questions to a snapshot: which route, may this peer. Pure functions of (snapshot, facts); precedence is the order
//! of rows or an `Ord`, never a ladder.

mod authz;
pub(crate) mod host;
pub mod passthrough;
mod route;

pub use authz::authorize;
pub use route::{Facts, Routed};
