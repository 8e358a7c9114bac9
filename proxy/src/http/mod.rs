//! The HTTP data path: our own HTTP/1.1 codec and connection loop, and HTTP/2 through hyper. Must not know snapshots'
//! indexes, balancing or how connections are made: those come in through `traffic`.

mod buffer;
mod exchange;
pub mod fault;
mod forward;
pub mod framing;
mod h2;
pub mod head;
mod headers;
mod mirror;
pub mod path;
mod pool;
mod pump;
mod respond;
mod serve;
mod sniff;
pub mod target;
mod timer;
pub mod traffic;

pub use pool::Pools;
pub use sniff::{Wire, serve};

#[cfg(test)]
mod tests;

#[cfg(test)]
pub fn sizes<S: crate::stream::Wired, T: traffic::Traffic>() -> String {
    fn of<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }
    format!(
        "serve {} session {} facts {} plan {} decision {} exchange {} pipe {} buffer {} scratch {} lease {} outcome {} decoder {}",
        of(serve::serve::<S, T>),
        size_of::<serve::Session<S, T>>(),
        size_of::<serve::Facts>(),
        size_of::<traffic::Plan<T::Target>>(),
        size_of::<traffic::Decision<T::Target>>(),
        size_of::<exchange::Exchange<S, h2::Upstream<T::Io>>>(),
        size_of::<pump::Pipe>(),
        size_of::<buffer::Buffer>(),
        size_of::<serve::Scratch>(),
        size_of::<forward::Lease<T::Endpoint, T::Load, T::Io>>(),
        size_of::<traffic::Outcome<'static, T::Endpoint>>(),
        size_of::<framing::Decoder>(),
    )
}
