//! From text to resources: finds kind, mesh and name in universal or Kubernetes form and hands the rest to the kind's
//! own file. All problems come out at once, in the order of the text.

use super::decode::{Cursor, Fields, Sink, Spot, did_you_mean, nearest};
use super::problem::{Problem, Severity};
use super::registry::{self, KindInfo, Shape, Support};
use super::yaml::{self, MapKey, Node, Value};
use super::{
    Meta, Opaque, Place, Resource, Spec, dataplane, external, gateway, kubernetes, mesh, name, passthrough, permission,
    route, secret, service, virtual_outbound, zone,
};
use std::collections::BTreeMap;

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intake {
    /// Those without an error, in the order of the text.
    pub resources: Vec<Resource>,
    pub problems: Vec<Problem>,
}

impl Intake {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    fn refuse(&mut self, place: Place, resource: &str, message: &str, hint: Option<&str>) {
        self.problems.push(Problem {
            place,
            column: None,
            resource: resource.to_owned(),
            field: String::new(),
            message: message.to_owned(),
            severity: Severity::Error,
            hint: hint.map(str::to_owned),
        });
    }
}

/// The key that the URL of a request gives; `mesh` is empty for a global kind.
struct Expected<'a> {
    kind: &'a str,
    mesh: &'a str,
    name: &'a str,
}

/// Reads every document of a file: YAML or JSON, universal or Kubernetes form.
pub fn read(text: &str, file: &str) -> Intake {
    let mut intake = Intake::default();
    for document in yaml::parse(text) {
        take_document(document, file, None, &mut intake);
    }
    refuse_fragment(text, file, &mut intake);
    intake
}

/// Documentation shows parts of resources that begin with a line `...`: nothing but that is worth saying of them.
fn refuse_fragment(text: &str, file: &str, intake: &mut Intake) {
    let first = text.lines().enumerate().find(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    let Some((number, _)) = first.filter(|(_, line)| ["...", "…"].contains(&line.trim())) else { return };
    if intake.resources.is_empty() && intake.has_errors() {
        intake.problems.clear();
        let place = Place { file: file.to_owned(), line: number + 1 };
        let message = "`...` is a placeholder of the documentation: this is a part of a resource, not a whole one";
        intake.refuse(place, "", message, Some("write the whole resource, beginning with type, mesh and name"));
    }
}

/// Reads the body of a request: one resource, whose type, mesh and name must be those of the URL.
pub fn read_as(text: &str, kind: &str, mesh: &str, name: &str) -> Intake {
    let mut intake = Intake::default();
    let what =
        format!("{kind} {}", [mesh, name].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join("/"));
    let documents = yaml::parse(text);
    let place = Place { file: "body".to_owned(), line: 1 };
    if documents.len() != 1 {
        let message = format!("the body must be one resource, it has {} documents", documents.len());
        intake.refuse(place, &what, &message, None);
        return intake;
    }
    let expected = Expected { kind, mesh, name };
    for document in documents {
        if document.faults.is_empty() && document.root.as_ref().is_none_or(Node::is_null) {
            intake.refuse(place.clone(), &what, "the body is empty", None);
        }
        take_document(document, "body", Some(&expected), &mut intake);
    }
    intake
}

fn take_document(document: yaml::Document, file: &str, expected: Option<&Expected<'_>>, intake: &mut Intake) {
    let seen = document.root.as_ref().or(document.outline.as_ref());
    let resource = seen.map(|root| Head::of(root).title()).unwrap_or_default();
    if let Some(outline) = document.outline.filter(|o| o.get("apiVersion").is_some() && o.get("kind").is_some()) {
        let sink = Sink::new(file, resource.clone());
        if kubernetes::refused(&outline, &Spot { path: String::new(), line: outline.line, sink: &sink }) {
            intake.problems.extend(sink.into_problems());
            return;
        }
    }
    let broken = !document.faults.is_empty();
    intake.problems.extend(document.faults.into_iter().map(|fault| Problem {
        place: Place { file: file.to_owned(), line: fault.line },
        column: Some(fault.column),
        resource: resource.clone(),
        field: String::new(),
        message: fault.message,
        severity: Severity::Error,
        hint: None,
    }));
    let Some(root) = document.root.filter(|root| !root.is_null()) else { return };
    let items = match root.get("items").map(|n| &n.value) {
        Some(Value::Seq(items)) if expected.is_none() && Head::of(&root).kind.ends_with("List") => items.as_slice(),
        _ => std::slice::from_ref(&root),
    };
    for item in items {
        let sink = Sink::new(file, Head::of(item).title());
        let resource = take(item, &sink, expected);
        if !sink.has_errors() && !broken {
            intake.resources.extend(resource);
        }
        intake.problems.extend(sink.into_problems());
    }
}

/// What is said of a document before anything of it is checked.
#[derive(Default)]
struct Head<'a> {
    kind: &'a str,
    mesh: &'a str,
    name: &'a str,
    kubernetes: bool,
}

impl<'a> Head<'a> {
    fn of(root: &'a Node) -> Self {
        let text = |node: Option<&'a Node>| node.and_then(Node::as_text).unwrap_or_default();
        let metadata = root.get("metadata");
        let kubernetes = root.get("kind").is_some() || root.get("apiVersion").is_some();
        if !kubernetes {
            let (kind, mesh, name) = (text(root.get("type")), text(root.get("mesh")), text(root.get("name")));
            return Self { kind, mesh, name, kubernetes };
        }
        let label = metadata.and_then(|m| m.get("labels")).and_then(|l| l.get("kuma.io/mesh"));
        let mesh = text(root.get("mesh").or(label));
        Self { kind: text(root.get("kind")), mesh, name: text(metadata.and_then(|m| m.get("name"))), kubernetes }
    }

    /// `Dataplane default/backend-1`, as far as known.
    fn title(&self) -> String {
        let scoped = registry::kind(self.kind).is_some_and(KindInfo::is_mesh_scoped);
        let mesh = match (scoped, self.mesh) {
            (true, "") => "default",
            (true, mesh) => mesh,
            (false, _) => "",
        };
        let key: Vec<&str> = [mesh, self.name].into_iter().filter(|s| !s.is_empty()).collect();
        let title = format!("{} {}", self.kind, if self.name.is_empty() { String::new() } else { key.join("/") });
        title.trim().chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

fn take(root: &Node, sink: &Sink, expected: Option<&Expected<'_>>) -> Option<Resource> {
    let spot = Spot { path: String::new(), line: root.line, sink };
    let fields = Cursor { node: root, spot: spot.clone() }.fields()?;
    let head = Head::of(root);
    if head.kubernetes && kubernetes::refused(root, &spot) {
        return None;
    }
    let kind = known_kind(root, &head, &spot, expected)?;
    let mut parts = if head.kubernetes { kubernetes::parts(root, kind, fields) } else { universal(root, kind, fields) };
    let meta = meta(&mut parts, kind, &spot, expected)?;
    let mut spec_fields = parts.spec;
    let spec = decode(kind, &mut spec_fields, &meta, root);
    if kind.support == Support::Typed {
        spec_fields.also_known(&["type", "mesh", "name", "labels"]);
        spec_fields.done();
    } else if kind.shape == Shape::Spec && !head.kubernetes {
        spec_fields.also_known(&["type", "mesh", "name", "labels", "spec"]);
        spec_fields.done();
    }
    Some(Resource { meta, spec })
}

fn known_kind(
    root: &Node,
    head: &Head<'_>,
    spot: &Spot<'_>,
    expected: Option<&Expected<'_>>,
) -> Option<&'static KindInfo> {
    let field = if head.kubernetes { "kind" } else { "type" };
    let mut at = spot.member(field);
    if let Value::Map(entries) = &root.value {
        at.line = entries.iter().find(|(k, _)| k.text == field).map_or(root.line, |(k, _)| k.line);
    }
    if let Some(e) = expected
        && head.kind != e.kind
    {
        at.error(format!("{field} from the URL has to be the same as in body"));
        return None;
    }
    // The mark that Kubernetes secrets of Kuma's carry.
    let name = if head.kubernetes && head.kind == "Secret" { kubernetes::secret_kind(root) } else { head.kind };
    if name.is_empty() {
        at.error_with("cannot be empty", "a resource begins with type: Dataplane, or another kind");
        return None;
    }
    let Some(kind) = registry::kind(name) else {
        let names = registry::KINDS.iter().map(|k| k.kind);
        let hint = registry::kind_by_name(name).map(|k| k.kind).or_else(|| nearest(name, names));
        let message = format!("\"{name}\" is not a known kind");
        at.error_with(message, hint.map_or_else(|| "the kinds are those of Kuma 2".to_owned(), did_you_mean));
        return None;
    };
    if kind.support == Support::ReadOnly {
        at.error_with(format!("a {name} is written by the control plane only"), "remove this document");
        return None;
    }
    Some(kind)
}

/// A resource taken apart, whichever form it came in.
pub(super) struct Parts<'a> {
    pub(super) mesh: Option<Cursor<'a>>,
    pub(super) name: Option<Cursor<'a>>,
    pub(super) name_spot: Spot<'a>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) spec: Fields<'a>,
    /// Whether a missing mesh is worth a warning.
    pub(super) universal: bool,
}

/// What the server writes and clients may send back.
const SERVERS_OWN: [&str; 4] = ["creationTime", "modificationTime", "kri", "status"];

fn universal<'a>(root: &'a Node, kind: &KindInfo, mut f: Fields<'a>) -> Parts<'a> {
    let name = f.get("name");
    let mesh = f.get("mesh");
    let labels = f.get("labels").map(|c| c.tags()).unwrap_or_default();
    let own = |key: &str| ["type", "mesh", "name", "labels"].contains(&key) || SERVERS_OWN.contains(&key);
    let Value::Map(entries) = &root.value else {
        return Parts { mesh, name, name_spot: f.spot("name"), labels, spec: f, universal: true };
    };
    let mut rest: Vec<&(MapKey, Node)> = entries.iter().filter(|(key, _)| !own(&key.text)).collect();
    let wrapper = f.get("spec");
    if kind.shape == Shape::Flat
        && let Some(cursor) = &wrapper
        && let Value::Map(inner) = &cursor.node.value
    {
        cursor.spot.warn(
            format!(
                "a {} in universal form has no spec: what is under it is read as if it stood beside name",
                kind.kind
            ),
            "remove the line spec: and indent the rest by one step less",
        );
        rest.retain(|(key, _)| key.text != "spec");
        rest.extend(inner);
    }
    if kind.shape == Shape::Spec && kind.support == Support::Typed {
        rest.retain(|(key, _)| key.text != "spec");
        let mut beside = Fields::new(rest, f.spot.clone());
        beside.also_known(&["spec"]);
        beside.done();
        let spec = match wrapper.and_then(|cursor| cursor.fields()) {
            Some(spec) => spec,
            None => Fields::new(Vec::new(), f.spot.member("spec")),
        };
        return Parts { mesh, name, name_spot: f.spot("name"), labels, spec, universal: true };
    }
    let spec = Fields::new(rest, Spot { path: String::new(), ..f.spot.clone() });
    Parts { mesh, name, name_spot: f.spot("name"), labels, spec, universal: true }
}

fn meta(parts: &mut Parts<'_>, kind: &KindInfo, spot: &Spot<'_>, expected: Option<&Expected<'_>>) -> Option<Meta> {
    let mut good = true;
    let name = parts.name.as_ref().and_then(Cursor::text).unwrap_or_default();
    if let Some(e) = expected
        && e.name != name
    {
        parts.name_spot.error("name from the URL has to be the same as in body");
        good = false;
    }
    if !name::check(&name, kind, &parts.name_spot) {
        good = false;
    }
    let mesh = mesh_of(parts, kind, spot, expected)?;
    let place = Place { file: spot.sink.file().to_owned(), line: spot.line };
    let meta = Meta { mesh, name, labels: std::mem::take(&mut parts.labels), place: Some(place), ..Meta::default() };
    good.then_some(meta).or_else(|| {
        // The spec is read all the same, so that its problems are told too.
        Some(Meta { place: Some(Place { file: spot.sink.file().to_owned(), line: spot.line }), ..Meta::default() })
    })
}

fn mesh_of(parts: &Parts<'_>, kind: &KindInfo, spot: &Spot<'_>, expected: Option<&Expected<'_>>) -> Option<String> {
    let written = match &parts.mesh {
        Some(cursor) => Some((cursor.text()?, cursor.spot.clone())),
        None => None,
    };
    if !kind.is_mesh_scoped() {
        if let Some((_, at)) = written.filter(|(mesh, _)| !mesh.is_empty()) {
            at.warn(format!("a {} belongs to no mesh, ignored", kind.kind), "remove it");
        }
        return Some(String::new());
    }
    match (written.filter(|(mesh, _)| !mesh.is_empty()), expected) {
        (Some((mesh, at)), Some(e)) if mesh != e.mesh => {
            at.error("mesh from the URL has to be the same as in body");
            Some(mesh)
        }
        (Some((mesh, at)), _) => {
            name::check_label(&mesh, &at);
            Some(mesh)
        }
        (None, Some(e)) => Some(e.mesh.to_owned()),
        (None, None) => {
            if parts.universal {
                spot.member("mesh").warn("is missing, read as default", "write mesh: default");
            }
            Some("default".to_owned())
        }
    }
}

fn decode(kind: &KindInfo, f: &mut Fields<'_>, meta: &Meta, root: &Node) -> Spec {
    match kind.kind {
        "Mesh" => Spec::Mesh(mesh::decode(f)),
        "Dataplane" => Spec::Dataplane(dataplane::decode(f)),
        "VirtualOutbound" => Spec::VirtualOutbound(virtual_outbound::decode(f)),
        "MeshGateway" => Spec::MeshGateway(gateway::decode(f)),
        "MeshGatewayRoute" => Spec::MeshGatewayRoute(route::decode(f)),
        "ZoneEgress" => Spec::ZoneEgress(zone::decode_egress(f)),
        "ZoneIngress" => Spec::ZoneIngress(zone::decode_ingress(f)),
        "ExternalService" => Spec::ExternalService(external::decode(f)),
        "TrafficPermission" => Spec::TrafficPermission(permission::decode(f)),
        "Secret" => Spec::Secret(secret::decode(f)),
        "GlobalSecret" => Spec::GlobalSecret(secret::decode(f)),
        "Zone" => Spec::Zone(zone::decode_zone(f)),
        "MeshService" => Spec::MeshService(service::mesh_service(f)),
        "MeshExternalService" => Spec::MeshExternalService(service::external(f)),
        "MeshMultiZoneService" => Spec::MeshMultiZoneService(service::multi_zone(f)),
        "HostnameGenerator" => Spec::HostnameGenerator(service::generator(f)),
        "MeshPassthrough" => Spec::MeshPassthrough(passthrough::decode(f)),
        _ => Spec::Opaque(opaque(kind, f, meta, root)),
    }
}

fn opaque(kind: &KindInfo, f: &Fields<'_>, meta: &Meta, root: &Node) -> Opaque {
    let spot = Spot { path: String::new(), ..f.spot.clone() };
    if kind.kind == "MeshGatewayInstance" {
        kubernetes::gateway_instance(root, meta, &spot);
    } else {
        spot.warn(format!("a {} is stored and has no effect here", kind.kind), "it is given back as it was written");
    }
    let entries = f.entries().map(|(key, node)| (key.text.clone(), node.to_json()));
    let body = match (kind.shape, root.get("spec")) {
        (Shape::Spec, Some(spec)) => BTreeMap::from([("spec".to_owned(), spec.to_json())]),
        (Shape::Spec, None) => entries.filter(|(key, _)| key == "spec").collect(),
        (Shape::Flat, _) => entries.collect(),
    };
    Opaque { kind: kind.kind.to_owned(), body }
}
