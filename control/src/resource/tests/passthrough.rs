//! MeshPassthrough: both forms, and every rule of spec/naming.md §7.6.

use super::super::{MatchType, MeshPassthrough, PassthroughMode, PassthroughProtocol, Spec, TargetKind};
use super::{errors, good};

fn policy(text: &str) -> MeshPassthrough {
    match good(text).spec {
        Spec::MeshPassthrough(policy) => policy,
        other => panic!("{other:?}"),
    }
}

/// Errors of a policy with these matches.
fn of_matches(matches: &[&str]) -> Vec<String> {
    let list = matches.join(", ");
    errors(&format!("type: MeshPassthrough\nmesh: default\nname: p\nspec: {{default: {{appendMatch: [{list}]}}}}\n"))
}

#[test]
fn a_policy_is_read_in_both_forms_and_given_back_under_spec() {
    let universal = "type: MeshPassthrough\nmesh: default\nname: p\nspec:\n  targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}, mesh: default, namespace: n, sectionName: s}\n  \
        default:\n    passthroughMode: Matched\n    appendMatch:\n    - {type: Domain, value: '*.example.com', port: 443, protocol: tls}\n    \
        - {type: CIDR, value: 10.0.0.0/8}\n";
    let read = policy(universal);
    assert_eq!(read.spec.default.passthrough_mode, Some(PassthroughMode::Matched));
    assert_eq!(read.spec.target_ref.as_ref().unwrap().kind, TargetKind::MeshSubset);
    let [tls, block] = read.spec.default.append_match.as_slice() else { panic!("{read:?}") };
    assert_eq!((tls.kind, tls.port, tls.protocol), (MatchType::Domain, Some(443), PassthroughProtocol::Tls));
    assert_eq!((block.kind, block.port, block.protocol), (MatchType::Cidr, None, PassthroughProtocol::Tcp));
    let json = good(universal).to_json();
    assert_eq!(json.pointer("/spec/default/appendMatch/0/type"), Some(&"Domain".into()));
    assert_eq!(policy(&good(universal).to_yaml()), read);
    for (field, value) in [("mesh", "default"), ("namespace", "n"), ("sectionName", "s")] {
        assert_eq!(json.pointer(&format!("/spec/targetRef/{field}")), Some(&value.into()));
    }
    let kubernetes = "apiVersion: kuma.io/v1alpha1\nkind: MeshPassthrough\nmetadata: {name: p, labels: {kuma.io/mesh: default}}\n\
        spec: {default: {passthroughMode: None}}\n";
    assert_eq!(policy(kubernetes).spec.default.passthrough_mode, Some(PassthroughMode::None));
}

#[test]
fn each_rule_of_a_match_has_kumas_message() {
    let at = "spec.default.appendMatch[0]";
    for (given, field, message) in [
        ("{type: IP, value: 1.1.1.1, protocol: mysql}", "port", "port must be defined for Mysql protocol"),
        ("{type: IP, value: 1.1.1.1, port: 0}", "port", "port must be a valid (1-65535)"),
        ("{type: IP, value: 1.1.1.1, port: 70000}", "port", "port must be a valid (1-65535)"),
        ("{type: IP, value: 1.1.1}", "value", "provided IP has incorrect value"),
        ("{type: CIDR, value: 1.1.1.1/40}", "value", "provided CIDR has incorrect value"),
        ("{type: Domain, value: a.b}", "protocol", "protocol tcp is not supported for a domain"),
        (
            "{type: Domain, value: a.b, port: 3306, protocol: mysql}",
            "protocol",
            "protocol mysql is not supported for a domain",
        ),
        (
            "{type: Domain, value: '*a.b', protocol: tls}",
            "value",
            "provided DNS has incorrect value, partial wildcard is currently not supported",
        ),
        (
            "{type: Domain, value: '*.a.b', protocol: http}",
            "port",
            "wildcard domains doesn't work for all ports and layer 7 protocol",
        ),
        ("{type: Domain, value: 'a b', protocol: tls}", "value", "provided DNS has incorrect value"),
        (
            "{type: Name, value: a.b}",
            "type",
            "provided type Name is not supported, one of Domain, IP, or CIDR is supported",
        ),
        (
            "{type: IP, value: 1.1.1.1, protocol: udp}",
            "protocol",
            "\"protocol\" must be one of [\"tcp\", \"tls\", \"grpc\", \"http\", \"http2\", \"mysql\"]",
        ),
    ] {
        assert_eq!(of_matches(&[given]), [format!("{at}.{field}: {message}")], "{given}");
    }
}

#[test]
fn matches_of_one_port_agree_on_an_http_protocol_and_none_is_given_twice() {
    let tls = "{type: IP, value: 1.1.1.1, port: 80, protocol: tls}";
    let http = "{type: IP, value: 2.2.2.2, port: 80, protocol: http}";
    let clash = "spec.default.appendMatch[1].port: using the same port in multiple matches requires the same protocol for the \
        following protocols: [grpc http http2]";
    assert_eq!(of_matches(&[tls, http]), [clash]);
    assert_eq!(of_matches(&[http, tls]), [] as [&str; 0], "only the later HTTP one is checked, as in Kuma");
    let again = "spec.default.appendMatch[1].value: value 1.1.1.1 is already defiend for this port and protocol";
    assert_eq!(of_matches(&[tls, tls]), [again]);
    let any = "{type: IP, value: 1.1.1.1}";
    assert_eq!(of_matches(&[any, any]), [] as [&str; 0]);
}
