//! External services: their endpoints, TLS towards them and the material they need. Who may reach them is asked in
//! `permissions`; whether a sidecar or an egress dials them is decided by the caller.

use super::endpoints::{self, Endpoints};
use super::sni::{PROTOCOL, ZONE};
use super::world::{MeshIndex, World, carries};
use super::{Problem, SecretMaterial, material, protocol};
use crate::resource::{ExternalService, ExternalTls, Meta, Tags};
use snapshot::{Address, Client, Endpoint, Origin, Protocol, UpstreamTls};
use std::sync::Arc;

/// External services that can be dialled under one name.
pub(super) struct Dialled {
    pub endpoints: Arc<Vec<Endpoint>>,
    pub tls: UpstreamTls,
    pub protocol: Protocol,
    pub origin: Origin,
}

/// Everything compiled on the way that isn't a row.
#[derive(Default)]
pub(super) struct Aside {
    pub problems: Vec<Problem>,
    pub secrets: Vec<SecretMaterial>,
}

pub(super) fn protocol_of(mesh: &MeshIndex, service: &str) -> Protocol {
    protocol::common(mesh.external(service).map(|(_, es)| es.tags.get(PROTOCOL).map(String::as_str)))
}

/// Whether it is tagged with no zone, or with this one.
pub(super) fn is_of_zone(es: &ExternalService, zone: &str) -> bool {
    es.tags.get(ZONE).is_none_or(|z| z == zone)
}

/// Endpoints of the external services of `list` with the tags. All share one row and so one TLS setting: those that
/// differ from the first are left out, with a note; so are those whose secrets can't be read.
pub(super) fn dial<'a>(
    world: &World,
    mesh: &MeshIndex,
    zone: &str,
    list: impl Iterator<Item = (&'a Meta, &'a ExternalService)>,
    aside: &mut Aside,
) -> Dialled {
    let far = u8::from(mesh.spec.routing.locality_aware_load_balancing);
    let mut all = Endpoints::default();
    let mut first: Option<(Origin, UpstreamTls)> = None;
    let mut tags: Vec<Option<&str>> = Vec::new();
    for (meta, es) in list {
        let origin = Origin::new("ExternalService", &mesh.name, &meta.name);
        let Some((address, port)) = endpoints::host_and_port(&es.networking.address) else {
            let text = format!("address `{}` isn't host:port: the external service is left out", es.networking.address);
            aside.problems.push(Problem::new(origin, text));
            continue;
        };
        let tls = match tls_of(world, mesh, meta, es, aside) {
            Ok(tls) => tls,
            Err(text) => {
                aside.problems.push(Problem::new(origin, format!("{text}; the external service is left out")));
                continue;
            }
        };
        match &first {
            Some((_, same)) if *same == tls => {}
            Some((other, _)) => {
                let text =
                    format!("TLS settings differ from those of {other}, which has the same kuma.io/service: left out");
                aside.problems.push(Problem::new(origin, text));
                continue;
            }
            None => first = Some((origin.clone(), tls)),
        }
        tags.push(es.tags.get(PROTOCOL).map(String::as_str));
        let priority = if is_of_zone(es, zone) { 0 } else { far };
        let own_zone = es.tags.get(ZONE).cloned().unwrap_or_default();
        all.push(Endpoint { address, port, weight: 1, priority, zone: own_zone, origin });
    }
    let (origin, tls) = first.unwrap_or_default();
    Dialled { endpoints: all.sorted(), tls, protocol: protocol::common(tags.into_iter()), origin }
}

pub(super) fn with_tags<'a>(
    mesh: &'a MeshIndex,
    service: &'a str,
    tags: &'a Tags,
) -> impl Iterator<Item = (&'a Meta, &'a ExternalService)> {
    mesh.external(service).filter(move |(_, es)| carries(&es.tags, tags))
}

fn tls_of(
    world: &World,
    mesh: &MeshIndex,
    meta: &Meta,
    es: &ExternalService,
    aside: &mut Aside,
) -> Result<UpstreamTls, String> {
    let Some(tls) = es.networking.tls.as_ref().filter(|tls| tls.enabled) else { return Ok(UpstreamTls::None) };
    let origin = Origin::new("ExternalService", &mesh.name, &meta.name);
    let read =
        |source, field: &str| material::read(world, mesh, source).map_err(|e| format!("networking.tls.{field}: {e}"));
    let ca_pem = tls.ca_cert.as_ref().map(|s| read(s, "caCert")).transpose()?.unwrap_or_default();
    if ca_pem.is_empty() {
        let text =
            "networking.tls has no caCert: the connection is encrypted, and the server is not verified".to_owned();
        aside.problems.push(Problem::new(origin, text));
    }
    let mut secret = String::new();
    if let ExternalTls { client_cert: Some(cert), client_key: Some(key), .. } = tls {
        let (cert_pem, key_pem) = (read(cert, "clientCert")?, read(key, "clientKey")?);
        secret = format!("external-service/{}/{}", mesh.name, meta.name);
        aside.secrets.push(SecretMaterial { name: secret.clone(), cert_pem, key_pem });
    }
    let client = Client {
        server_name: tls.server_name.clone(),
        ca_pem,
        skip_name_check: tls.skip_hostname_verification,
        secret,
    };
    Ok(UpstreamTls::External { client })
}

/// Whether requests to it carry the endpoint's own host name.
pub(super) fn is_named(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|e| matches!(e.address, Address::Name(_)))
}
