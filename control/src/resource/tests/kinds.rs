//! The messages of each kind's checks.

use super::super::Spec;
use super::{errors, good, warnings};

#[test]
fn snake_case_and_quoted_numbers_are_read() {
    let resource = good(
        "type: Dataplane\nmesh: m\nname: d\nnetworking: {address: a.b, inbound: [{port: '80', service_port: 81, \
         tags: {kuma.io/service: a}}], transparent_proxying: {redirect_port_outbound: 15001}}\n",
    );
    let Spec::Dataplane(dp) = resource.spec else { panic!() };
    assert_eq!((dp.networking.inbound[0].port, dp.networking.inbound[0].service_port), (80, Some(81)));
    assert_eq!(dp.networking.transparent_proxying.unwrap().redirect_port_outbound, 15001);
}

#[test]
fn an_unquoted_port_of_a_virtual_outbound_is_text_with_a_warning() {
    let text = "type: VirtualOutbound\nmesh: m\nname: v\nselectors: [{match: {a: b}}]\nconf: {host: a.mesh, port: 80, parameters: [{name: s, tagKey: kuma.io/service}]}";
    assert_eq!(warnings(text), ["conf.port: the number 80 is read as the text \"80\""]);
}

fn gateway(listeners: &str) -> Vec<String> {
    errors(&format!(
        "type: MeshGateway\nmesh: m\nname: g\nselectors: [{{match: {{kuma.io/service: e}}}}]\nconf: {{listeners: [{listeners}]}}\n"
    ))
}

#[test]
fn gateways_are_checked_as_in_kuma() {
    let cases = [
        ("", "conf.listeners: cannot be empty"),
        ("{port: 0, protocol: HTTP}", "conf.listeners[0].port: port must be in the range [1, 65535]"),
        ("{port: 80}", "conf.listeners[0].protocol: cannot be empty"),
        ("{port: 80, protocol: HTTP, hostname: '*a.b'}", "conf.listeners[0].hostname: invalid wildcard domain"),
        ("{port: 80, protocol: HTTP, hostname: A.b}", "conf.listeners[0].hostname: invalid hostname"),
        ("{port: 80, protocol: HTTPS}", "conf.listeners[0].tls: cannot be empty"),
        ("{port: 80, protocol: TLS}", "conf.listeners[0].tls: cannot be empty"),
        (
            "{port: 80, protocol: HTTPS, tls: {mode: PASSTHROUGH}}",
            "conf.listeners[0].tls.mode: mode is not supported on HTTPS listeners",
        ),
        (
            "{port: 80, protocol: HTTPS, tls: {mode: TERMINATE, certificate: {secret: a}}}",
            "conf.listeners[0].tls.certificates: cannot be empty in TLS termination mode",
        ),
        (
            "{port: 80, protocol: TCP, crossMesh: true}",
            "conf.listeners[0].protocol: protocol is not supported with crossMesh",
        ),
        (
            "{port: 80, protocol: HTTP, tags: {kuma.io/zone: a}}",
            "conf.listeners[0].tags[\"kuma.io/zone\"]: tag name must not be \"kuma.io/zone\"",
        ),
    ];
    for (listeners, error) in cases {
        assert_eq!(gateway(listeners), [error], "{listeners}");
    }
    let twice = "{port: 80, protocol: HTTP, hostname: '*'}, {port: 80, protocol: HTTP}";
    assert_eq!(gateway(twice).len(), 2);
    assert!(gateway(twice)[1].ends_with("multiple listeners for hostname on this port"));
}

fn route(rule: &str) -> Vec<String> {
    errors(&format!(
        "type: MeshGatewayRoute\nmesh: m\nname: r\nselectors: [{{match: {{kuma.io/service: e}}}}]\nconf: {{http: {{rules: [{rule}]}}}}\n"
    ))
}

#[test]
fn routes_are_checked_as_in_kuma() {
    const M: &str = "matches: [{path: {match: PREFIX, value: /}}]";
    const E: &str = "matches: [{path: {value: /}}]";
    const B: &str = "backends: [{destination: {kuma.io/service: a}}]";
    let cases = [
        (String::new(), "rules: cannot be empty"),
        (format!("{{{B}}}"), "rules[0].matches: cannot be empty"),
        (format!("{{matches: [{{}}], {B}}}"), "rules[0].matches[0]: cannot be empty"),
        (format!("{{matches: [{{path: {{value: a}}}}], {B}}}"), "rules[0].matches[0].value: must be an absolute path"),
        (
            format!("{{matches: [{{headers: [{{match: PRESENT, name: a, value: b}}]}}], {B}}}"),
            "rules[0].matches[0].headers[0].value: cannot be set",
        ),
        (
            format!("{{matches: [{{query_parameters: [{{name: a}}]}}], {B}}}"),
            "rules[0].matches[0].query_parameters[0].value: cannot be empty",
        ),
        (format!("{{{M}}}"), "rules[0].backends: cannot be empty"),
        (
            format!("{{{M}, {B}, filters: [{{redirect: {{statusCode: 302}}}}]}}"),
            "rules[0].backends: must be empty when using redirect filters",
        ),
        (
            format!("{{{M}, filters: [{{redirect: {{}}}}]}}"),
            "rules[0].filters[0].redirect.status_code: must be in the range [300, 308]",
        ),
        (
            format!("{{{M}, {B}, filters: [{{requestHeader: {{}}}}]}}"),
            "rules[0].filters[0].request_header: cannot be empty",
        ),
        (
            format!(
                "{{{M}, {B}, filters: [{{mirror: {{percentage: 101, backend: {{destination: {{kuma.io/service: a}}}}}}}}]}}"
            ),
            "rules[0].filters[0].mirror.percentage: has to be in [0.0 - 100.0] range",
        ),
        (
            format!("{{{E}, {B}, filters: [{{rewrite: {{replacePrefixMatch: /x}}}}]}}"),
            "rules[0].filters[0].rewrite.replacePrefixMatch: cannot be used without a match on path prefix",
        ),
        (
            format!(
                "{{{M}, {B}, filters: [{{rewrite: {{hostToBackendHostname: true}}}}, {{requestHeader: {{set: [{{name: Host, value: a}}]}}}}]}}"
            ),
            "rules[0].filters[1].request_header.set[0].name: cannot modify 'host' header, when route has set 'rewrite.host_to_backend_hostname' option",
        ),
        (
            format!("{{{M}, backends: [{{destination: {{a: b}}}}]}}"),
            "rules[0].backends[0].destination: mandatory tag \"kuma.io/service\" is missing",
        ),
    ];
    for (rule, error) in cases {
        assert_eq!(route(&rule), [format!("conf.http.{error}")], "{rule}");
    }
}

#[test]
fn zones_external_services_permissions_and_meshes_are_checked_as_in_kuma() {
    let cases = [
        (
            "type: ZoneEgress\nname: z\nnetworking: {address: '::', port: 1}",
            "networking.address.address: must not be 0.0.0.0 or ::",
        ),
        (
            "type: ZoneEgress\nname: z\nnetworking: {address: 127.0.0.1, port: 1, admin: {port: 1}}",
            "networking.admin.port: must differ from port",
        ),
        (
            "type: ZoneIngress\nname: z\nnetworking: {port: 1, advertisedPort: 2}",
            "networking.advertisedAddress: has to be defined with advertisedPort",
        ),
        (
            "type: ZoneIngress\nname: z\nnetworking: {port: 1, advertisedAddress: a.b}",
            "networking.advertisedPort: has to be defined with advertisedAddress",
        ),
        (
            "type: ExternalService\nmesh: m\nname: e\ntags: {kuma.io/service: a}\nnetworking: {address: 'a:80'}",
            "tags[\"kuma.io/service\"]: cannot be the same as networking.address",
        ),
        (
            "type: ExternalService\nmesh: m\nname: e\ntags: {kuma.io/service: a}\nnetworking: {address: b.c}",
            "networking.address: unable to parse address",
        ),
        (
            "type: ExternalService\nmesh: m\nname: e\ntags: {kuma.io/service: a}\nnetworking: {address: 'b.c:80', tls: {caCert: {}}}",
            "networking.tls.caCert: data source cannot be empty",
        ),
        (
            "type: TrafficPermission\nmesh: m\nname: t\nsources: [{match: {a: b}}]",
            "destinations: must have at least one element",
        ),
        ("type: Secret\nmesh: m\nname: s\ndata: '***'", "data: has to be base64"),
        ("type: Mesh\nname: m\nrouting: {zoneEgress: true}", "mtls: has to be set when zoneEgress enabled"),
        (
            "type: Mesh\nname: m\nmtls: {enabledBackend: x, backends: []}",
            "mtls.enabledBackend: has to be set to one of the backends in the mesh",
        ),
        (
            "type: Mesh\nname: m\nmtls: {backends: [{name: x, type: builtin, dpCert: {rotation: {expiration: 1d12h}}}]}",
            "mtls.dpcert.rotation.expiration: has to be a valid format",
        ),
        (
            "type: Mesh\nname: m\nmtls: {backends: [{name: x, type: vault}]}",
            "mtls.backends[0].type: could not find installed plugin for this type",
        ),
        (
            "type: Mesh\nname: m\nlogging: {backends: [{name: x, type: tcp, conf: {address: a}}]}",
            "logging.backends[0].conf.address: has to be in format of HOST:PORT",
        ),
        (
            "type: Mesh\nname: m\nconstraints: {dataplaneProxy: {requirements: [{}]}}",
            "constraints.dataplaneProxy.requirements[0].tags: must have at least one tag",
        ),
    ];
    for (text, error) in cases {
        assert_eq!(errors(text), [error], "{text}");
    }
}

#[test]
fn weights_left_out_everywhere_are_warned_of() {
    let text = "type: MeshGatewayRoute\nmesh: m\nname: r\nselectors: [{match: {kuma.io/service: e}}]\nconf: {tcp: {rules: [{backends: [{destination: {kuma.io/service: a}}, {destination: {kuma.io/service: b}}]}]}}\n";
    assert_eq!(warnings(text), ["conf.tcp.rules[0].backends: no backend has a weight; all get equal shares"]);
}
