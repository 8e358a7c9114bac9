//! The messages of spec/naming.md §2.3, each row by its number there, and the acceptance cases of §13.5 about them.

use super::super::{InboundState, Spec};
use super::{errors, good, warnings};

const TAGS: &str = "tags: {kuma.io/service: a}";
const RANGE: &str = "port must be in the range [1, 65535]";

fn document(networking: &str) -> String {
    format!("type: Dataplane\nmesh: m\nname: d\nnetworking: {networking}\n")
}

fn dataplane(networking: &str) -> Vec<String> {
    errors(&document(networking))
}

/// A Dataplane with one inbound of these fields.
fn inbound(fields: &str) -> Vec<String> {
    dataplane(&format!("{{address: 1.1.1.1, inbound: [{{{fields}}}]}}"))
}

/// A Dataplane with a good inbound and one outbound of these fields.
fn outbound(fields: &str) -> Vec<String> {
    dataplane(&format!("{{address: 1.1.1.1, inbound: [{{port: 80, {TAGS}}}], outbound: [{{{fields}}}]}}"))
}

fn address(text: &str) -> Vec<String> {
    dataplane(&format!("{{address: '{text}', inbound: [{{port: 80, {TAGS}}}]}}"))
}

#[test]
fn k56_v1_networking_must_be_there() {
    assert_eq!(errors("type: Dataplane\nmesh: m\nname: d\n"), ["networking: must be defined"]);
}

#[test]
fn k57_v2_to_v5_addresses_are_ips_or_names_of_one_machine() {
    assert_eq!(address(""), ["networking.address: address can't be empty"]);
    for any in ["0.0.0.0", "::"] {
        assert_eq!(address(any), ["networking.address: must not be 0.0.0.0 or ::"], "{any}");
    }
    for bad in ["..", "a b", "-a", "10.0.0.1/24"] {
        let why = "networking.address: address has to be valid IP address or domain name";
        assert_eq!(address(bad), [why], "{bad}");
    }
    for ok in ["10.0.0.1", "::1", "db.example.com", "db_1"] {
        assert_eq!(address(ok), [""; 0], "{ok}");
    }
    let advertised =
        dataplane(&format!("{{address: 1.1.1.1, advertisedAddress: '::', inbound: [{{port: 1, {TAGS}}}]}}"));
    assert_eq!(advertised, ["networking.advertisedAddress: must not be 0.0.0.0 or ::"]);
}

#[test]
fn k58_v6_to_v12_a_gateway_has_no_inbounds_and_speaks_tcp() {
    assert_eq!(
        dataplane("{address: 1.1.1.1}"),
        ["networking: has to contain at least one inbound interface or gateway"]
    );
    let with = |kind: &str, rest: &str| {
        dataplane(&format!("{{address: 1.1.1.1, gateway: {{type: {kind}, {TAGS}}}, {rest}: [{{port: 1, {TAGS}}}]}}"))
    };
    assert_eq!(with("DELEGATED", "inbound"), ["networking.inbound: inbound cannot be defined for delegated gateways"]);
    assert_eq!(with("DELEGATED", "outbound"), [""; 0]);
    assert_eq!(with("BUILTIN", "inbound"), ["networking.inbound: inbound cannot be defined for builtin gateways"]);
    assert_eq!(with("BUILTIN", "outbound"), ["networking.outbound: outbound cannot be defined for builtin gateways"]);
    let probes =
        document(&format!("{{address: 1.1.1.1, gateway: {{type: BUILTIN, {TAGS}}}}}")) + "probes: {port: 9000}\n";
    assert_eq!(errors(&probes), ["networking.probes: probes cannot be defined for builtin gateways"]);
    let tags = |tags: &str| dataplane(&format!("{{address: 1.1.1.1, gateway: {{type: BUILTIN, tags: {{{tags}}}}}}}"));
    assert_eq!(tags("a: b"), ["networking.gateway.tags: mandatory tag \"kuma.io/service\" is missing"]);
    assert_eq!(
        tags("kuma.io/service: a, kuma.io/protocol: http"),
        [
            "networking.gateway.tags[\"kuma.io/protocol\"]: other values than tcp are not allowed, provided value \"http\""
        ]
    );
}

#[test]
fn v13_to_v15_and_v17_ports_and_addresses_of_inbounds_are_in_range() {
    let port = format!("networking.inbound[0].port: {RANGE}");
    for bad in ["0", "65536", "-1"] {
        assert_eq!(inbound(&format!("port: {bad}, {TAGS}")), std::slice::from_ref(&port), "{bad}");
    }
    assert_eq!(inbound(TAGS), [port]);
    assert_eq!(
        inbound(&format!("port: 1, servicePort: 65536, {TAGS}")),
        [format!("networking.inbound[0].servicePort: {RANGE}")]
    );
    assert_eq!(
        inbound(&format!("port: 1, serviceAddress: a.b, {TAGS}")),
        ["networking.inbound[0].serviceAddress: serviceAddress has to be valid IP address"]
    );
    assert_eq!(
        inbound(&format!("port: 1, address: a.b, {TAGS}")),
        ["networking.inbound[0].address: address has to be valid IP address"]
    );
}

#[test]
fn k61_v16_the_application_cannot_have_the_proxys_address_and_port() {
    const WHY: &str =
        "networking.inbound[0].serviceAddress: serviceAddress and servicePort has to differ from address and port";
    assert_eq!(inbound(&format!("port: 80, serviceAddress: 1.1.1.1, {TAGS}")), [WHY]);
    assert_eq!(inbound(&format!("port: 80, servicePort: 80, serviceAddress: 1.1.1.1, {TAGS}")), [WHY]);
    assert_eq!(inbound(&format!("port: 80, address: 2.2.2.2, serviceAddress: 2.2.2.2, {TAGS}")), [WHY]);
    // Both matches are reported, as in Kuma.
    assert_eq!(inbound(&format!("port: 80, address: 1.1.1.1, serviceAddress: 1.1.1.1, {TAGS}")), [WHY, WHY]);
    assert_eq!(inbound(&format!("port: 80, servicePort: 81, serviceAddress: 1.1.1.1, {TAGS}")), [""; 0]);
    assert_eq!(inbound(&format!("port: 80, servicePort: 80, {TAGS}")), [""; 0]);
}

#[test]
fn k59_v18_an_inbound_has_a_service() {
    let want = ["networking.inbound[0].tags[\"kuma.io/service\"]: tag has to exist"];
    assert_eq!(inbound("port: 80, tags: {version: v1}"), want);
    assert_eq!(inbound("port: 80"), want);
}

#[test]
fn k60_v19_tags_have_their_characters_and_protocols_are_known() {
    let tag = |tag: &str| inbound(&format!("port: 80, tags: {{kuma.io/service: a, {tag}}}"));
    assert_eq!(
        tag("kuma.io/protocol: not-yet-supported"),
        ["networking.inbound[0].tags[\"kuma.io/protocol\"]: tag \"kuma.io/protocol\" has an invalid value \
             \"not-yet-supported\". Allowed values: grpc, http, http2, kafka, tcp"]
    );
    for known in ["http", "HTTP", "Grpc", "tls", "mysql", "kafka"] {
        assert_eq!(tag(&format!("kuma.io/protocol: {known}")), [""; 0], "{known}");
    }
    let at = |key: &str, why: &str| [format!("networking.inbound[0].tags[\"{key}\"]: {why}")];
    assert_eq!(tag("v: ''"), at("v", "tag value must be non-empty"));
    assert_eq!(tag("v: "), at("v", "tag value must be non-empty"));
    assert_eq!(
        tag("v: a/b"),
        at("v", "tag value must consist of alphanumeric characters, dots, dashes and underscores")
    );
    assert_eq!(
        tag("'v w': a"),
        at("v w", "tag name must consist of alphanumeric characters, dots, dashes, slashes and underscores")
    );
    assert_eq!(tag("'': a"), at("", "tag name must be non-empty"));
    let fields: Vec<String> =
        tag("z: '', b: '', c: ''").iter().filter_map(|error| Some(error.split_once(':')?.0.to_owned())).collect();
    assert_eq!(fields, ["b", "c", "z"].map(|key| format!("networking.inbound[0].tags[\"{key}\"]")));
}

#[test]
fn v20_service_probes_are_positive() {
    let probe = |text: &str| inbound(&format!("port: 80, {TAGS}, serviceProbe: {{{text}}}"));
    let at = |field: &str, why: &str| [format!("networking.inbound[0].serviceProbe.{field}: {why}")];
    for field in ["interval", "timeout"] {
        for zero in ["0s", "-1s"] {
            assert_eq!(probe(&format!("{field}: {zero}")), at(field, "must have a positive value"), "{zero}");
        }
        assert_eq!(probe(&format!("{field}: often")), at(field, "must have a valid value"));
    }
    for field in ["unhealthyThreshold", "healthyThreshold"] {
        assert_eq!(probe(&format!("{field}: 0")), at(field, "must have a positive value"));
    }
    assert_eq!(probe("interval: 1m30s, timeout: 500ms, healthyThreshold: 1, tcp: {}"), [""; 0]);
}

#[test]
fn k62_v21_to_v27_an_outbound_leads_to_one_thing() {
    assert_eq!(outbound(&format!("port: 0, {TAGS}")), [format!("networking.outbound[0].port: {RANGE}")]);
    assert_eq!(
        outbound(&format!("port: 1, address: a, {TAGS}")),
        ["networking.outbound[0].address: address has to be valid IP address"]
    );
    let missing = ["networking.outbound[0].tags: mandatory tag \"kuma.io/service\" is missing"];
    assert_eq!(outbound("port: 1"), missing);
    assert_eq!(outbound("port: 1, tags: {v: a}"), missing);
    let reference = |text: &str| outbound(&format!("port: 1, backendRef: {{{text}}}"));
    assert_eq!(
        outbound(&format!("port: 1, {TAGS}, backendRef: {{kind: MeshService, name: a, port: 1}}")),
        ["networking.outbound[0]: both backendRef and tags/service cannot be defined"]
    );
    assert_eq!(
        reference("kind: Service, name: a, port: 1"),
        ["networking.outbound[0].backendRef.kind: invalid value. Available values are: \
             MeshExternalService,MeshMultiZoneService,MeshService"]
    );
    assert_eq!(
        reference("kind: MeshService, port: 1"),
        ["networking.outbound[0].backendRef: either 'name' or 'labels' should be specified"]
    );
    assert_eq!(reference("kind: MeshService, name: a"), [format!("networking.outbound[0].backendRef.port: {RANGE}")]);
    assert_eq!(reference("kind: MeshExternalService, name: a"), [""; 0]);
    assert_eq!(reference("kind: MeshService, name: a, labels: {x: y}, port: 1"), [""; 0]);
}

#[test]
fn v28_and_v29_transparent_proxying_is_checked() {
    let tp = |text: &str| {
        dataplane(&format!("{{address: 1.1.1.1, inbound: [{{port: 80, {TAGS}}}], transparentProxying: {{{text}}}}}"))
    };
    assert_eq!(
        tp("redirectPortInbound: 65536"),
        [format!("networking.transparentProxying.redirectPortInbound: {RANGE}")]
    );
    let at =
        |field: &str, why: &str| [format!("networking.transparentProxying.reachableBackends.refs[0]{field}: {why}")];
    let reference = |text: &str| tp(&format!("reachableBackends: {{refs: [{{{text}}}]}}"));
    let kinds = "invalid value. Available values are: MeshExternalService,MeshMultiZoneService,MeshService";
    assert_eq!(reference("kind: Mesh, name: a"), at(".kind", kinds));
    assert_eq!(reference("kind: MeshService"), at("", "name or labels are required"));
    assert_eq!(
        reference("kind: MeshService, namespace: n"),
        at(".name", "name is required, when namespace is defined")
    );
    assert_eq!(
        reference("kind: MeshService, name: a, labels: {x: y}"),
        at(".labels", "labels cannot be defined when name is specified")
    );
    let slash = reference("kind: MeshService, name: a/b");
    assert!(slash.len() == 1 && slash[0].contains("refs[0].name: invalid characters"), "{slash:?}");
    assert_eq!(reference("kind: MeshService, name: a, namespace: n, port: 80"), [""; 0]);
    assert_eq!(
        reference("kind: MeshService, name: a, port: 65536"),
        at(".port", "port must be in the range [1, 65535]")
    );
    assert_eq!(tp("reachableBackends: {}"), [""; 0]);
    assert_eq!(tp("ipFamilyMode: IPv4, reachableServices: [a], directAccessServices: ['*']"), [""; 0]);
}

#[test]
fn v30_to_v32_admin_probes_and_metrics_are_checked() {
    let admin = |inbound: &str, outbound: &str| {
        dataplane(&format!("{{address: 127.0.0.1, admin: {{port: 80}}, inbound: [{inbound}], outbound: [{outbound}]}}"))
    };
    let (there, elsewhere) = (format!("{{port: 80, {TAGS}}}"), format!("{{port: 81, {TAGS}}}"));
    assert_eq!(admin(&there, &elsewhere), ["networking.admin.port: must differ from inbound"]);
    assert_eq!(admin(&elsewhere, &there), ["networking.admin.port: must differ from outbound"]);
    let more = |text: &str| errors(&(document(&format!("{{address: 1.1.1.1, inbound: [{there}]}}")) + text + "\n"));
    assert_eq!(more("probes: {port: 0}"), [format!("probes.port: {RANGE}")]);
    assert_eq!(
        more("probes: {port: 1, endpoints: [{inboundPort: 0, inboundPath: a, path: /b}]}"),
        [
            format!("probes.endpoints[0].inboundPort: {RANGE}"),
            "probes.endpoints[0].inboundPath: should be a valid URL Path".to_owned(),
        ]
    );
    assert_eq!(
        more("metrics: {type: statsd}"),
        ["metrics.type: unknown backend type. Available backends: \"prometheus\""]
    );
    assert_eq!(more("metrics: {type: prometheus, conf: {port: 1234}}"), [""; 0]);
}

#[test]
fn states_are_read_by_name_or_number_and_decide_readiness() {
    let read = |fields: &str| {
        let Spec::Dataplane(dp) =
            good(&document(&format!("{{address: 1.1.1.1, inbound: [{{port: 80, {TAGS}, {fields}}}]}}"))).spec
        else {
            panic!()
        };
        (dp.networking.inbound[0].state, dp.networking.inbound[0].is_ready())
    };
    assert_eq!(read("name: http"), (InboundState::Ready, true));
    assert_eq!(read("state: NotReady"), (InboundState::NotReady, false));
    assert_eq!(read("state: 2"), (InboundState::Ignored, false));
    assert_eq!(read("health: {ready: true}"), (InboundState::Ready, true));
    assert_eq!(read("health: {ready: false}"), (InboundState::Ready, false));
    assert_eq!(read("health: {}"), (InboundState::Ready, false));
}

#[test]
fn the_protocol_of_kuma_3_is_the_tag_unless_there_is_one() {
    let read = |fields: &str| {
        let text = format!(
            "{{address: 1.1.1.1, inbound: [{{port: 80, {fields}}}], transparentProxying: {{redirectPortInbound: 15006}}}}"
        );
        let Spec::Dataplane(dp) = good(&document(&text)).spec else { panic!() };
        dp.networking.inbound[0].tags["kuma.io/protocol"].clone()
    };
    assert_eq!(read(&format!("{TAGS}, protocol: http")), "http");
    assert_eq!(read("protocol: http, tags: {kuma.io/service: a, kuma.io/protocol: grpc}"), "grpc");
    assert!(inbound(&format!("port: 80, {TAGS}, protocol: smtp"))[0].contains("has an invalid value \"smtp\""));
}

#[test]
fn what_a_dataplane_says_without_effect_is_told() {
    let text = document(&format!("{{address: 1.1.1.1, inbound: [{{port: 80, {TAGS}}}]}}"));
    let told = warnings(&(text + "metrics: {type: prometheus, conf: {port: 1234}}\nprobes: {port: 9000}\n"));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|warning| warning.contains("no effect")), "{told:?}");
}

#[test]
fn n2_numbers_in_tags_are_read_as_they_are_written() {
    let text = document("{address: 1.1.1.1, inbound: [{port: 80, tags: {kuma.io/service: a, port: 1800, on: true}}]}");
    assert_eq!(warnings(&text).len(), 2);
    let Spec::Dataplane(dp) = good(&text).spec else { panic!() };
    let tags = &dp.networking.inbound[0].tags;
    assert_eq!((tags["port"].as_str(), tags["on"].as_str()), ("1800", "true"));
}
