//! From resources to the rows that one proxy executes. Pure: the same resources, in any order, give the same tables;
//! a piece that is wrong is left out with a note, and the rest is compiled. It knows no store, channel, socket or clock.

mod direct;
mod egress;
mod endpoints;
mod external;
mod gateway;
mod ingress;
mod material;
mod passthrough;
mod permissions;
mod protocol;
mod reachable;
mod rows;
mod services;
mod shared;
mod sidecar;
mod sni;
mod stale;
mod world;
mod zone;

pub use egress::SERVICE_NAME as ZONE_EGRESS;
pub use services::ServiceMembers;
pub use world::{Settings, World};

use crate::resource::{Dataplane, GatewayType};
use snapshot::{Origin, ProxyKind, Snapshot, Tables};
use std::fmt;
use std::sync::Arc;

/// Which proxy: the resource that describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKey {
    Dataplane { mesh: String, name: String },
    ZoneIngress { name: String },
    ZoneEgress { name: String },
}

impl ProxyKey {
    pub fn dataplane(mesh: &str, name: &str) -> Self {
        Self::Dataplane { mesh: mesh.into(), name: name.into() }
    }

    pub fn ingress(name: &str) -> Self {
        Self::ZoneIngress { name: name.into() }
    }

    pub fn egress(name: &str) -> Self {
        Self::ZoneEgress { name: name.into() }
    }

    pub fn origin(&self) -> Origin {
        match self {
            Self::Dataplane { mesh, name } => Origin::new("Dataplane", mesh, name),
            Self::ZoneIngress { name } => Origin::new("ZoneIngress", "", name),
            Self::ZoneEgress { name } => Origin::new("ZoneEgress", "", name),
        }
    }
}

/// Something that was left out, or isn't what its author seems to mean.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub origin: Origin,
    pub text: String,
}

impl Problem {
    pub(super) fn new(origin: Origin, text: impl Into<String>) -> Self {
        Self { origin, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// A certificate with its key. Tables name it; it travels beside them and rotates on its own clock.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretMaterial {
    pub name: String,
    pub cert_pem: String,
    pub key_pem: String,
}

/// Keys don't belong in logs.
impl fmt::Debug for SecretMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretMaterial").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What one proxy is to do, the material for it, and what couldn't be compiled. All lists are sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    pub tables: Tables,
    pub secrets: Vec<SecretMaterial>,
    pub problems: Vec<Problem>,
}

/// How a proxy is run, where that isn't said in its resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Virtual IPs and names for a Dataplane without `transparentProxying`, beside its `networking.outbound`.
    pub as_transparent: bool,
}

/// A proxy's tables, and a snapshot that most of their rows were checked in.
pub(crate) struct Made {
    pub(crate) compiled: Compiled,
    pub(crate) proven: Option<Arc<Snapshot>>,
}

/// Compiles a proxy. One whose resource isn't there gets empty tables and a problem that says so.
pub fn compile(world: &World, proxy: &ProxyKey) -> Compiled {
    compile_with(world, proxy, Options::default())
}

pub fn compile_with(world: &World, proxy: &ProxyKey, options: Options) -> Compiled {
    make(world, proxy, options).compiled
}

pub(crate) fn make(world: &World, proxy: &ProxyKey, options: Options) -> Made {
    let found = match proxy {
        ProxyKey::Dataplane { mesh, name } => world.meshes.get(mesh).and_then(|index| {
            let (_, dataplane) = index.dataplane(name)?;
            let input = rows::Input { world, mesh: index, name, dataplane };
            Some(match dataplane.gateway_type() {
                Some(GatewayType::Builtin) => gateway::compile(input),
                Some(GatewayType::Delegated) | None => sidecar::compile(input, options),
            })
        }),
        ProxyKey::ZoneIngress { name } => world.ingress(name).map(|spec| ingress::compile(world, name, spec)),
        ProxyKey::ZoneEgress { name } => world.egress(name).map(|spec| egress::compile(world, name, spec)),
    };
    found.unwrap_or_else(|| Made { compiled: missing(proxy), proven: None })
}

/// Gateways that are compiled ahead.
const GATEWAYS_AHEAD_MAX: usize = 16;

/// Makes what proxies have in common before one of them asks. No result depends on it.
pub(crate) fn prepare(world: &World) {
    for (mesh, index) in &world.meshes {
        let is_gateway = |(_, d): &(_, &Dataplane)| d.gateway_type() == Some(GatewayType::Builtin);
        // Any one stands for those whose resource comes with them.
        let sidecar = index.dataplanes().find(|dataplane| !is_gateway(dataplane));
        let gateways = index.dataplanes().filter(is_gateway).take(GATEWAYS_AHEAD_MAX);
        for (meta, _) in sidecar.into_iter().chain(gateways) {
            drop(make(world, &ProxyKey::dataplane(mesh, &meta.name), Options { as_transparent: true }));
        }
    }
}

fn missing(proxy: &ProxyKey) -> Compiled {
    let mut compiled = Compiled::default();
    compiled.tables.proxy.kind = match proxy {
        ProxyKey::Dataplane { .. } => ProxyKind::Sidecar,
        ProxyKey::ZoneIngress { .. } => ProxyKind::Ingress,
        ProxyKey::ZoneEgress { .. } => ProxyKind::Egress,
    };
    compiled
        .problems
        .push(Problem::new(proxy.origin(), "there is no such resource: apply it, or start the proxy with it"));
    compiled
}

#[cfg(test)]
mod tests;
