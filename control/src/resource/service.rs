//! MeshService, MeshExternalService, MeshMultiZoneService and HostnameGenerator: reading and checking
//! (spec/naming.md §6). Templates are tried by `crate::template`.

use super::common::{self, EMPTY, PORT_MESSAGE};
use super::decode::{Cursor, Fields, Spot};
use super::yaml::{Kind, Value};
use super::{
    ExternalEndpoint, ExternalMatch, GeneratorSelector, HostnameGenerator, LabelSelector, MeshExternalService,
    MeshExternalTls, MeshMultiZoneService, MeshService, NameRef, ServiceIdentity, ServicePort, ServiceSelector, Tags,
    TargetPort, Under, Verification,
};
use crate::template::HostnameTemplate;

const NOT_EMPTY: &str = "must not be empty";

fn choice(f: &mut Fields<'_>, name: &'static str, options: &[&'static str]) -> String {
    let Some(cursor) = f.get(name) else { return String::new() };
    let numbered: Vec<(&str, i128, &str)> = (0..).zip(options).map(|(n, option)| (*option, n, *option)).collect();
    cursor.one_of(&numbered).unwrap_or_default().to_owned()
}

pub(super) fn mesh_service(f: &mut Fields<'_>) -> Under<MeshService> {
    let selector = f.get("selector").and_then(|c| selector(&c)).unwrap_or_default();
    let ports = ports(f, false);
    let identities = f.items("identities").iter().filter_map(identity).collect();
    let state = choice(f, "state", &["Available", "Unavailable"]);
    Under { spec: MeshService { selector, ports, identities, state } }
}

fn selector(cursor: &Cursor<'_>) -> Option<ServiceSelector> {
    let mut f = cursor.fields()?;
    let dataplane_tags = f.get("dataplaneTags").map(|c| common::matching_tags(&c)).unwrap_or_default();
    let dataplane_ref = f.get("dataplaneRef").and_then(|c| {
        let mut r = c.fields()?;
        let name = r.text("name");
        if name.is_empty() {
            r.spot("name").error(NOT_EMPTY);
        }
        r.done();
        Some(NameRef { name })
    });
    if !dataplane_tags.is_empty() && dataplane_ref.is_some() {
        f.spot.error("only one of dataplaneTags and dataplaneRef can be defined");
    }
    f.done();
    Some(ServiceSelector { dataplane_tags, dataplane_ref })
}

fn ports(f: &mut Fields<'_>, are_named: bool) -> Vec<ServicePort> {
    let mut list: Vec<ServicePort> = Vec::new();
    for item in f.items("ports") {
        let Some(mut p) = item.fields() else { continue };
        let port = ServicePort {
            name: p.text("name"),
            port: common::required_port(&mut p, "port"),
            target_port: p.get("targetPort").and_then(|c| target_port(&c)),
            app_protocol: protocol(&mut p, "appProtocol", &["tcp", "http", "http2", "grpc", "kafka", "tls"]),
        };
        if are_named && port.name.is_empty() {
            p.spot("name").error(NOT_EMPTY);
        }
        if list.iter().any(|other| other.port == port.port) {
            p.spot("port").error(format!("port {} is already used", port.port));
        }
        p.done();
        list.push(port);
    }
    list
}

fn target_port(cursor: &Cursor<'_>) -> Option<TargetPort> {
    match &cursor.node.value {
        Value::Scalar(scalar) if scalar.kind == Kind::Text && scalar.text.parse::<u16>().is_err() => {
            Some(TargetPort::Name(scalar.text.clone()))
        }
        _ => common::port(cursor).map(TargetPort::Number),
    }
}

fn protocol(f: &mut Fields<'_>, name: &'static str, known: &[&str]) -> String {
    let Some(cursor) = f.get(name) else { return String::new() };
    let text = cursor.text().unwrap_or_default();
    if !text.is_empty() && !known.iter().any(|k| k.eq_ignore_ascii_case(&text)) {
        cursor.spot.error(format!("\"{text}\" is not one of {}", known.join(", ")));
    }
    text
}

fn identity(cursor: &Cursor<'_>) -> Option<ServiceIdentity> {
    let mut f = cursor.fields()?;
    let identity =
        ServiceIdentity { kind: choice(&mut f, "type", &["ServiceTag", "SpiffeID"]), value: f.text("value") };
    for name in ["type", "value"] {
        if !f.has(name) {
            f.spot(name).error(NOT_EMPTY);
        }
    }
    f.done();
    Some(identity)
}

pub(super) fn multi_zone(f: &mut Fields<'_>) -> Under<MeshMultiZoneService> {
    let mut spec = MeshMultiZoneService::default();
    if let Some(mut s) = f.get("selector").and_then(|c| c.fields()) {
        spec.selector.mesh_service = s.get("meshService").map(|c| labels(&c)).unwrap_or_default();
        s.done();
    }
    if spec.selector.mesh_service.match_labels.is_empty() {
        f.spot("selector").member("meshService").member("matchLabels").error(EMPTY);
    }
    spec.ports = ports(f, true);
    if spec.ports.is_empty() {
        f.spot("ports").error("must have at least one element");
    }
    Under { spec }
}

fn labels(cursor: &Cursor<'_>) -> LabelSelector {
    let Some(mut f) = cursor.fields() else { return LabelSelector::default() };
    let match_labels: Tags = f.get("matchLabels").map(|c| c.tags()).unwrap_or_default();
    f.done();
    LabelSelector { match_labels }
}

pub(super) fn external(f: &mut Fields<'_>) -> Under<MeshExternalService> {
    let mut spec = MeshExternalService::default();
    match f.get("match").and_then(|c| c.fields()) {
        Some(mut m) => {
            spec.r#match = ExternalMatch {
                kind: choice(&mut m, "type", &["HostnameGenerator"]),
                port: common::required_port(&mut m, "port"),
                protocol: protocol(&mut m, "protocol", &["tcp", "http", "http2", "grpc", "tls"]),
            };
            m.done();
        }
        None => f.spot("match").member("port").error(PORT_MESSAGE),
    }
    spec.endpoints = f.items("endpoints").iter().filter_map(endpoint).collect();
    spec.extension = extension(f);
    spec.tls = f.get("tls").and_then(|c| tls(&c));
    Under { spec }
}

fn endpoint(cursor: &Cursor<'_>) -> Option<ExternalEndpoint> {
    let mut f = cursor.fields()?;
    let address = f.text("address");
    if address.starts_with("unix:") {
        f.spot("address")
            .error("sockets of the file system can't be dialled here: give an IP address or a domain name");
    } else {
        common::address(&address, &f.spot("address"));
    }
    let port = common::required_port(&mut f, "port");
    f.done();
    Some(ExternalEndpoint { address, port })
}

fn extension(f: &mut Fields<'_>) -> serde_json::Value {
    let Some(cursor) = f.get("extension") else { return serde_json::Value::Null };
    if cursor.node.get("type").and_then(|t| t.as_text()).is_none_or(str::is_empty) {
        cursor.spot.member("type").error(NOT_EMPTY);
    }
    cursor.node.to_json()
}

fn tls(cursor: &Cursor<'_>) -> Option<MeshExternalTls> {
    let mut f = cursor.fields()?;
    let tls = MeshExternalTls {
        enabled: f.flag("enabled"),
        version: f.json("version").unwrap_or_default(),
        allow_renegotiation: f.flag("allowRenegotiation"),
        verification: f.get("verification").and_then(|c| verification(&c)),
    };
    f.done();
    Some(tls)
}

fn verification(cursor: &Cursor<'_>) -> Option<Verification> {
    let mut f = cursor.fields()?;
    let verification = Verification {
        mode: choice(&mut f, "mode", &["Secured", "SkipSAN", "SkipCA", "SkipAll"]),
        server_name: f.text("serverName"),
        subject_alt_names: f.json("subjectAltNames").unwrap_or_default(),
        ca_cert: f.get("caCert").and_then(|c| common::data_source(&c)),
        client_cert: f.get("clientCert").and_then(|c| common::data_source(&c)),
        client_key: f.get("clientKey").and_then(|c| common::data_source(&c)),
    };
    for (one, other) in [("clientCert", "clientKey"), ("clientKey", "clientCert")] {
        if f.has(one) && !f.has(other) {
            f.spot(other).error(format!("{other} must be defined, when {one} is"));
        }
    }
    f.done();
    Some(verification)
}

pub(super) fn generator(f: &mut Fields<'_>) -> Under<HostnameGenerator> {
    let selector = f.get("selector").and_then(|c| generator_selector(&c)).unwrap_or_default();
    let given = [&selector.mesh_service, &selector.mesh_external_service, &selector.mesh_multi_zone_service];
    if given.into_iter().flatten().count() != 1 {
        f.spot("selector").error("exact one selector (meshService, meshExternalService) must be defined");
    }
    let template = f.text("template");
    let spot: Spot<'_> = f.spot("template");
    if template.is_empty() {
        spot.error(NOT_EMPTY);
    } else if let Err(error) = HostnameTemplate::new(&template) {
        spot.error(format!("couldn't parse template: {error}"));
    }
    let extension = extension(f);
    Under { spec: HostnameGenerator { selector, template, extension } }
}

fn generator_selector(cursor: &Cursor<'_>) -> Option<GeneratorSelector> {
    let mut f = cursor.fields()?;
    let selector = GeneratorSelector {
        mesh_service: f.get("meshService").map(|c| labels(&c)),
        mesh_external_service: f.get("meshExternalService").map(|c| labels(&c)),
        mesh_multi_zone_service: f.get("meshMultiZoneService").map(|c| labels(&c)),
    };
    f.done();
    Some(selector)
}
