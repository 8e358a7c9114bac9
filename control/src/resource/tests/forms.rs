//! The two forms, names, the URL's key, kinds that aren't taken.

use super::super::{Spec, read, read_as};
use super::{errors, good, listing, warnings};

const VO: &str = "selectors: [{match: {kuma.io/service: '*'}}]\nconf: {host: '{{.s}}.mesh', port: '80', \
    parameters: [{name: s, tagKey: kuma.io/service}]}\n";

#[test]
fn both_forms_give_the_same_resource() {
    let universal = good(&format!("type: VirtualOutbound\nmesh: default\nname: a\n{VO}"));
    let spec = VO.replace("selectors:", "  selectors:").replace("\nconf:", "\n  conf:");
    let kubernetes = good(&format!(
        "apiVersion: kuma.io/v1alpha1\nkind: VirtualOutbound\nmesh: default\nmetadata: {{name: a}}\nspec:\n{spec}"
    ));
    assert_eq!(universal.spec, kubernetes.spec);
    assert_eq!(universal.key(), kubernetes.key());
}

#[test]
fn all_problems_come_at_once_with_line_and_field() {
    let text = "type: Dataplane\nmesh: default\nname: backend-1\nnetworking:\n  address: 0.0.0.0\n  inbuond: []\n  \
        inbound:\n  - port: 70000\n    tags: {version: 1}\n";
    let intake = read(text, "mesh.yaml");
    let list = listing(&intake);
    for line in [
        "mesh.yaml:5: error: Dataplane default/backend-1: networking.address: must not be 0.0.0.0 or ::",
        "mesh.yaml:8: error: Dataplane default/backend-1: networking.inbound[0].port: port must be in the range [1, 65535]",
        "mesh.yaml:9: error: Dataplane default/backend-1: networking.inbound[0].tags[\"kuma.io/service\"]: tag has to exist",
        "mesh.yaml:6: warning: Dataplane default/backend-1: networking.inbuond: unknown field, ignored (did you mean inbound?)",
    ] {
        let found = list.lines().any(|l| l == line);
        assert!(found, "{line}\n--\n{list}");
    }
    assert!(intake.resources.is_empty());
}

#[test]
fn a_bad_resource_does_not_keep_its_neighbours_out() {
    let intake = read("type: Mesh\nname: a\n---\ntype: Mesh\nname: B\n---\n[x\n---\ntype: Zone\nname: z\n", "f");
    let keys: Vec<String> = intake.resources.iter().map(|r| r.key().to_string()).collect();
    assert_eq!(keys, ["Mesh a", "Zone z"]);
}

#[test]
fn unknown_kinds_name_the_nearest() {
    let list = listing(&read("type: VirtualOutbond\nmesh: default\nname: a\n", "f"));
    assert!(list.contains("type: \"VirtualOutbond\" is not a known kind (did you mean VirtualOutbound?)"), "{list}");
    let list = listing(&read("type: dataplane\nname: a\n", "f"));
    assert!(list.contains("did you mean Dataplane?"), "{list}");
}

#[test]
fn objects_of_kubernetes_are_refused_by_name() {
    for kind in ["Service", "Ingress", "Deployment", "ConfigMap", "Secret"] {
        let list = listing(&read(&format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n"), "f"));
        assert!(list.contains(&format!("{kind} is an object of Kubernetes")) && list.lines().count() == 1, "{list}");
    }
}

#[test]
fn secrets_of_kuma_in_kubernetes_are_read() {
    let secret = good(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: kuma-system, labels: {kuma.io/mesh: m}}\n\
         data: {value: aGk=}\ntype: system.kuma.io/secret\n",
    );
    assert_eq!(secret.key().to_string(), "Secret m/s");
    assert!(matches!(secret.spec, Spec::Secret(s) if s.data == "aGk="));
}

#[test]
fn stored_kinds_are_kept_as_written_with_a_warning() {
    let text =
        "type: MeshTimeout\nmesh: m\nname: t\nspec: {targetRef: {kind: Mesh}, to: [{default: {idleTimeout: 1h}}]}\n";
    assert_eq!(warnings(text), [": a MeshTimeout is stored and has no effect here"]);
    assert_eq!(good(text).to_json()["spec"]["to"][0]["default"]["idleTimeout"], "1h");
}

#[test]
fn insights_are_not_taken_from_users() {
    assert_eq!(
        errors("type: DataplaneInsight\nmesh: m\nname: a\n"),
        ["type: a DataplaneInsight is written by the control plane only"]
    );
}

#[test]
fn a_missing_mesh_is_default_with_a_warning() {
    let text = "type: Secret\nname: s\ndata: aGk=\n";
    assert_eq!(warnings(text), ["mesh: is missing, read as default"]);
    assert_eq!(good(text).meta.mesh, "default");
}

#[test]
fn names_that_are_paths_are_refused() {
    for name in ["../etc", "a/b", "A", "a_b", "''"] {
        assert_eq!(errors(&format!("type: Mesh\nname: {name}\n")).len(), 1, "{name}");
    }
    let long = "a".repeat(64);
    assert_eq!(errors(&format!("type: Mesh\nname: {long}\n")), ["name: cannot be longer than 63 characters"]);
    let service = format!("type: MeshService\nmesh: m\nname: {long}\nspec: {{ports: [{{port: 80}}]}}\n");
    assert_eq!(errors(&service), ["name: cannot be longer than 63 characters"]);
}

#[test]
fn a_body_must_be_what_its_url_says() {
    let body = r#"{"type": "Zone", "name": "a", "enabled": true, "creationTime": "2020-01-01T00:00:00Z"}"#;
    let intake = read_as(body, "Zone", "", "a");
    assert_eq!((intake.resources.len(), intake.problems.len()), (1, 0), "{}", listing(&intake));
    let said = |kind, mesh, name, body| {
        let intake = read_as(body, kind, mesh, name);
        assert!(intake.resources.is_empty() && intake.has_errors());
        listing(&intake)
    };
    assert!(said("Zone", "", "b", body).contains("name: name from the URL has to be the same as in body"));
    assert!(said("Mesh", "", "a", body).contains("type: type from the URL has to be the same as in body"));
    let secret = r#"{"type": "Secret", "mesh": "x", "name": "a", "data": "aGk="}"#;
    assert!(said("Secret", "default", "a", secret).contains("mesh: mesh from the URL has to be the same as in body"));
    for body in ["", "null", "[]", "{", "a: 1\n---\nb: 2"] {
        assert!(!said("Zone", "", "a", body).is_empty(), "{body:?}");
    }
}

#[test]
fn a_list_of_kubernetes_is_read_item_by_item() {
    let item = "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: a}}";
    assert_eq!(read(&format!("apiVersion: v1\nkind: List\nitems: [{item}]\n"), "f").resources.len(), 1);
}

proptest::proptest! {
    #[test]
    fn any_value_in_any_place_is_read_without_panic(
        kind in proptest::sample::select(vec!["Mesh", "Dataplane", "VirtualOutbound", "MeshGateway", "MeshGatewayRoute", "ZoneIngress", "ExternalService", "Secret", "MeshTimeout"]),
        key in proptest::sample::select(vec!["networking", "conf", "selectors", "tags", "mtls", "routing", "spec", "inbound", "logging", "labels", "data"]),
        value in proptest::sample::select(vec!["1", "x", "[]", "{}", "[1]", "[{}]", "~", "{inbound: [{}], gateway: 1}", "{http: {rules: [{}]}}", "{tcp: {rules: [1]}}", "{listeners: [{tls: {}}]}", "[...]", "{backends: [{}]}", "{parameters: [{}], host: 1, port: []}"]),
    ) {
        let _ = read(&format!("type: {kind}\nmesh: m\nname: n\n{key}: {value}\n"), "f");
    }
}
