//! Acceptance cases of spec/naming.md §13.2 that are about reading a VirtualOutbound, and the messages of §4.2.

use super::super::Spec;
use super::{errors, good};

fn vo(rest: &str) -> Vec<String> {
    errors(&format!("type: VirtualOutbound\nmesh: m\nname: v\n{rest}"))
}

fn conf(host: &str, port: &str, parameters: &str) -> Vec<String> {
    vo(&format!(
        "selectors: [{{match: {{a: b}}}}]\nconf: {{host: '{host}', port: '{port}', parameters: [{parameters}]}}"
    ))
}

const SERVICE: &str = "{name: s, tagKey: kuma.io/service}";

fn parameter(text: &str) -> Vec<String> {
    conf("a.mesh", "80", &format!("{SERVICE}, {text}"))
}

#[test]
fn k29_an_empty_spec_lacks_selectors_and_conf() {
    let want = ["selectors: must have at least one element", "conf: has to be defined"];
    assert_eq!(vo(""), want);
    assert_eq!(vo("selectors: []\nconf: null"), want);
}

#[test]
fn k30_nulls_and_empty_matches_are_all_told() {
    let selectors = "selectors: [{match: {kuma.io/service: , region: }}, {match: {}}]";
    let rest = format!("{selectors}\nconf: {{host: a.mesh, port: '80', parameters: [{SERVICE}]}}");
    let want = [
        "selectors[0].match[\"kuma.io/service\"]: tag value must be non-empty",
        "selectors[0].match[\"region\"]: tag value must be non-empty",
        "selectors[1].match: must have at least one tag",
    ];
    assert_eq!(vo(&rest), want);
}

#[test]
fn selectors_take_any_value_or_a_star_and_no_globs() {
    let selector = |value: &str| {
        vo(&format!(
            "selectors: [{{match: {{a: '{value}'}}}}]\nconf: {{host: a.mesh, port: '80', parameters: [{SERVICE}]}}"
        ))
    };
    for good in ["*", "v1.2_3-4:5", "a/b"] {
        assert_eq!(selector(good), [""; 0], "{good}");
    }
    let why = "tag value must consist of alphanumeric characters, dots, dashes, slashes and underscores or be \"*\"";
    for bad in ["a*", "**", "a b", "ä"] {
        assert_eq!(selector(bad), [format!("selectors[0].match[\"a\"]: {why}")], "{bad}");
    }
}

#[test]
fn k31_a_host_that_does_not_parse_is_refused_in_gos_words() {
    assert_eq!(
        conf("foo.{{mesh", "80", SERVICE),
        [
            r#"conf.host: template pre evaluation failed with error="failed compiling gotemplate error=\"template: :1: function \\\"mesh\\\" not defined\"""#
        ]
    );
}

#[test]
fn k32_a_port_that_is_no_number_is_refused() {
    assert_eq!(
        conf("a.mesh", "{{.port}}a", &format!("{SERVICE}, {{name: port}}")),
        [
            r#"conf.port: template pre evaluation failed with error="evaluation of template with parameters didn't evaluate to a parsable number result=\"1a\"""#
        ]
    );
    let outside = conf("a.mesh", "{{.s}}00000", SERVICE);
    assert!(outside[0].contains("a port outside of the range [1..65535] result=100000"), "{outside:?}");
}

#[test]
fn a_template_that_names_no_declared_parameter_is_refused() {
    assert!(conf("{{.x}}.mesh", "80", SERVICE)[0].contains(r#"valid dns name result=\"<no value>.mesh\""#));
    assert!(conf("a.mesh", "{{.x}}", SERVICE)[0].contains(r#"parsable number result=\"<no value>\""#));
    assert_eq!(conf("a.mesh", "{{or .x \"80\"}}", SERVICE), [""; 0]);
}

#[test]
fn host_and_port_have_to_be_there() {
    let want = ["conf.host: has to be defined", "conf.port: has to be defined"];
    let rest = |conf: &str| vo(&format!("selectors: [{{match: {{a: b}}}}]\nconf: {{{conf}parameters: [{SERVICE}]}}"));
    assert_eq!(rest(""), want);
    assert_eq!(rest("host: '', port: '', "), want);
}

#[test]
fn k33_parameters_have_names_of_their_own() {
    let parameters = "{name: srv, tagKey: kuma.io/service}, {name: srv}";
    assert_eq!(conf("a.mesh", "80", parameters), ["conf.parameters[1].name: name is already used"]);
}

#[test]
fn k34_names_of_parameters_are_alphanumeric() {
    let why = "must consist of alphanumeric characters to be used as a gotemplate key";
    for name in ["_", "a.b", "kuma.io/port"] {
        assert_eq!(parameter(&format!("{{name: {name}}}")), [format!("conf.parameters[1].name: {why}")], "{name}");
    }
    let tagless = "must be a valid tag name if you are not setting tagKey";
    assert_eq!(
        parameter("{name: ''}"),
        [format!("conf.parameters[1].name: {tagless}"), format!("conf.parameters[1].name: {why}")]
    );
    assert_eq!(parameter("{name: '', tagKey: a}"), [format!("conf.parameters[1].name: {why}")]);
}

#[test]
fn k35_a_tag_key_is_a_tag_name() {
    for key in ["***", "a b"] {
        let errors = parameter(&format!("{{name: x, tagKey: '{key}'}}"));
        assert_eq!(errors, ["conf.parameters[1].tagKey: must be a valid tag name"], "{key}");
    }
    assert_eq!(parameter("{name: x, tagKey: k8s.kuma.io/service-port}"), [""; 0]);
}

#[test]
fn k36_one_parameter_stands_for_the_service() {
    let why = "conf.parameters: must contain a parameter with kuma.io/service as a tagKey";
    assert_eq!(conf("a.mesh", "80", "{name: s}"), [why]);
    assert_eq!(conf("a.mesh", "80", ""), [why]);
}

#[test]
fn two_parameters_may_share_a_tag_and_snake_case_is_read() {
    let text = "type: VirtualOutbound\nmesh: m\nname: v\nselectors: [{match: {a: b}}]\nconf: {host: '{{.a}}.{{.b}}', port: '80', \
                parameters: [{name: a, tag_key: kuma.io/service}, {name: b, tagKey: kuma.io/service}]}";
    let Spec::VirtualOutbound(vo) = good(text).spec else { panic!() };
    assert!(vo.conf.parameters.iter().all(|p| p.tag() == "kuma.io/service"));
}
