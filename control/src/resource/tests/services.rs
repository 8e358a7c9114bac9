//! MeshServices and their kin, and HostnameGenerator (spec/naming.md §6): messages and forms.

use super::super::{ServiceKind, Spec, TargetPort};
use super::{errors, good, warnings};

fn generator(spec: &str) -> Vec<String> {
    errors(&format!("type: HostnameGenerator\nname: g\nspec: {spec}\n"))
}

#[test]
fn a_generator_has_one_selector_and_a_template_that_parses() {
    let one = "exact one selector (meshService, meshExternalService) must be defined";
    assert_eq!(generator("{}"), [format!("spec.selector: {one}"), "spec.template: must not be empty".to_owned()]);
    assert_eq!(
        generator("{selector: {meshService: {}, meshExternalService: {}}, template: a}"),
        [format!("spec.selector: {one}")]
    );
    let template = |text: &str| generator(&format!("{{selector: {{meshMultiZoneService: {{}}}}, template: '{text}'}}"));
    assert_eq!(template(r#"{{ .DisplayName }}.{{ label "team" }}.corp"#), [""; 0]);
    let bad = template("{{ upper .Name }}");
    assert!(
        bad[0].starts_with("spec.template: couldn't parse template: template: :1: function \"upper\" not defined"),
        "{bad:?}"
    );
    assert_eq!(
        generator("{selector: {meshService: {}}, template: a, extension: {config: {}}}"),
        ["spec.extension.type: must not be empty"]
    );
}

#[test]
fn a_mesh_service_has_ports_that_differ_and_one_way_to_select() {
    let service = |spec: &str| errors(&format!("type: MeshService\nmesh: m\nname: s\nspec: {spec}\n"));
    let text =
        "{selector: {dataplaneTags: {kuma.io/service: a}}, ports: [{port: 80, targetPort: main, appProtocol: HTTP}]}";
    assert_eq!(service(text), [""; 0]);
    assert_eq!(
        service("{selector: {dataplaneTags: {a: b}, dataplaneRef: {name: c}}}"),
        ["spec.selector: only one of dataplaneTags and dataplaneRef can be defined"]
    );
    assert_eq!(
        service("{identities: [{}]}"),
        ["spec.identities[0].type: must not be empty", "spec.identities[0].value: must not be empty"]
    );
    assert_eq!(service("{ports: [{port: 0}]}"), ["spec.ports[0].port: port must be in the range [1, 65535]"]);
    assert_eq!(service("{ports: [{port: 1}, {port: 1}]}"), ["spec.ports[1].port: port 1 is already used"]);
    assert_eq!(
        service("{ports: [{port: 1, appProtocol: smtp}]}"),
        ["spec.ports[0].appProtocol: \"smtp\" is not one of tcp, http, http2, grpc, kafka, tls"]
    );
}

#[test]
fn a_target_port_is_a_number_or_a_name() {
    let target = |text: &str| {
        let yaml =
            format!("type: MeshService\nmesh: m\nname: s\nspec: {{ports: [{{port: 80, targetPort: {text}}}]}}\n");
        match good(&yaml).spec {
            Spec::MeshService(service) => service.spec.ports.into_iter().next().and_then(|port| port.target_port),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(target("8080"), Some(TargetPort::Number(8080)));
    assert_eq!(target("'8080'"), Some(TargetPort::Number(8080)));
    assert_eq!(target("main"), Some(TargetPort::Name("main".into())));
}

#[test]
fn a_multi_zone_service_selects_by_labels_and_names_its_ports() {
    let service = |spec: &str| errors(&format!("type: MeshMultiZoneService\nmesh: m\nname: s\nspec: {spec}\n"));
    assert_eq!(
        service("{}"),
        ["spec.selector.meshService.matchLabels: cannot be empty", "spec.ports: must have at least one element"]
    );
    let text = "{selector: {meshService: {matchLabels: {a: b}}}, ports: [{port: 80}]}";
    assert_eq!(service(text), ["spec.ports[0].name: must not be empty"]);
}

#[test]
fn a_mesh_external_service_says_what_it_is_matched_by_and_where_it_is() {
    let service = |spec: &str| errors(&format!("type: MeshExternalService\nmesh: m\nname: s\nspec: {spec}\n"));
    assert_eq!(service("{}"), ["spec.match.port: port must be in the range [1, 65535]"]);
    let rest =
        |rest: &str| service(&format!("{{match: {{type: HostnameGenerator, port: 80, protocol: http}}, {rest}}}"));
    assert_eq!(rest("endpoints: [{address: a.com, port: 443}, {address: 1.2.3.4, port: 80}]"), [""; 0]);
    assert_eq!(
        rest("endpoints: [{address: a b, port: 443}]"),
        ["spec.endpoints[0].address: address has to be valid IP address or domain name"]
    );
    let unix = rest("endpoints: [{address: 'unix:///a.sock', port: 1}]");
    assert!(unix[0].contains("sockets of the file system"), "{unix:?}");
    assert_eq!(
        rest("tls: {enabled: true, verification: {clientCert: {inlineString: a}}}"),
        ["spec.tls.verification.clientKey: clientKey must be defined, when clientCert is"]
    );
    assert_eq!(
        rest("tls: {verification: {mode: Never}}"),
        ["spec.tls.verification.mode: \"Never\" is not one of Secured, SkipSAN, SkipCA, SkipAll"]
    );
}

#[test]
fn what_stands_beside_spec_is_unknown_and_status_is_the_servers() {
    let yaml = "type: MeshService\nmesh: m\nname: s\nstatus: {vips: []}\nselector: {}\nspec: {ports: [{port: 80}], prots: 1}\n";
    assert_eq!(warnings(yaml), ["selector: unknown field, ignored", "spec.prots: unknown field, ignored"]);
}

#[test]
fn both_forms_are_read_and_given_back_under_spec() {
    let kubernetes = "apiVersion: kuma.io/v1alpha1\nkind: MeshService\nmetadata: {name: s, namespace: ns, labels: {kuma.io/mesh: m}}\nspec: \
                      {ports: [{port: 80}]}\n";
    let resource = good(kubernetes);
    assert_eq!((resource.meta.mesh.as_str(), resource.meta.labels["k8s.kuma.io/namespace"].as_str()), ("m", "ns"));
    assert_eq!(resource.to_json()["spec"], serde_json::json!({"ports": [{"port": 80}]}));
    assert_eq!(ServiceKind::of_name(resource.kind()), Some(ServiceKind::MeshService));
    let bad = kubernetes.replace("port: 80", "port: 0");
    assert_eq!(errors(&bad), ["spec.ports[0].port: port must be in the range [1, 65535]"]);
}
