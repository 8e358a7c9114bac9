//! The measured table of spec/naming.md §4.4 and the bounds.

use super::*;
use proptest::prelude::*;

fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// What a template prints, before any check of the result; errors as they are.
fn print(template: &str) -> String {
    let data = data(&[("svc", "backend"), ("v", "v1"), ("e", "")]);
    Compiled::new(template).and_then(|t| t.run(&data)).unwrap_or_else(|error| error)
}

#[test]
fn templates_print_what_go_prints() {
    for (template, want) in [
        ("{{.svc}}.{{.v}}", "backend.v1"),
        ("{{.x}}", "<no value>"),
        ("{{.Svc}}", "<no value>"),
        ("{{.x.y}}", "<no value>"),
        (r#"{{index . "svc"}}"#, "backend"),
        (r#"[{{index . "nope"}}]"#, "[]"),
        (r#"[{{"nope" | index .}}]"#, "[]"),
        ("{{if .x}}a{{else}}b{{end}}", "b"),
        ("{{if .e}}a{{else}}b{{end}}", "b"),
        ("{{with .x}}a{{else}}b{{end}}", "b"),
        ("{{with .v}}{{.}}{{else}}b{{end}}", "v1"),
        (r#"{{or .x "8080"}}"#, "8080"),
        (r#"{{or .e "8080"}}"#, "8080"),
        ("{{and .x .v}}", "<no value>"),
        ("{{not .x}}", "true"),
        (r#"{{eq .x "a"}}"#, "false"),
        (r#"{{ne .x "a"}}"#, "true"),
        ("{{eq .x .y}}", "true"),
        (r#"{{if eq .v "v1"}}yes{{end}}"#, "yes"),
        (r#"{{if not (eq .v "v1")}}a{{else if .svc}}c{{end}}"#, "c"),
        (r#"{{lt .v "v2"}}"#, "true"),
        (r#"{{printf "%s-x" .x}}"#, "%!s(<nil>)-x"),
        ("{{print .x .v}}", "<nil>v1"),
        (r#"{{.svc | printf "%s-x"}}"#, "backend-x"),
        (r#"{{printf "%d %v %q" 3 .v .svc}}"#, r#"3 v1 "backend""#),
        ("{{println .v}}", "v1\n"),
        ("{{slice .svc 0 3}}", "bac"),
        ("{{len .svc}}", "7"),
        ("{{index .svc 0}}", "98"),
        ("{{$t := .svc}}{{$t}}", "backend"),
        ("{{$.svc}}", "backend"),
        ("{{- .svc -}} y", "backendy"),
        ("a {{- /* c */ -}} y", "ay"),
        ("{{range .}}{{.}},{{end}}", ",backend,v1,"),
        ("{{.}}", "map[e: svc:backend v:v1]"),
        ("{{html .svc}}", "backend"),
        ("{{html .x}}", "&lt;no value&gt;"),
        ("{{urlquery .x}}", "%3Cno+value%3E"),
        ("{{js .x}}", r"\u003Cno value\u003E"),
        (r#"{{define "a"}}q{{end}}{{template "a"}}"#, "q"),
        (r#"{{block "b" .}}{{.v}}{{end}}"#, "v1"),
        ("{{/* c */}}", ""),
        ("{{range .}}{{break}}{{end}}", ""),
        ("{{range $k, $x := .}}{{if eq $k \"v\"}}{{continue}}{{end}}{{$k}}{{end}}", "esvc"),
    ] {
        assert_eq!(print(template), want, "{template}");
    }
}

#[test]
fn what_go_refuses_while_executing_is_refused() {
    for template in ["{{len .x}}", "{{index .x 0}}", "{{slice .x 1}}", "{{.svc.y}}", "{{call .svc}}", "{{$x}}"] {
        let error = print(template);
        assert!(error.starts_with("pre evaluation of template with parameters failed with error=\""), "{error}");
    }
}

#[test]
fn what_go_refuses_while_parsing_is_refused_with_gos_words() {
    for (template, want) in [
        ("{{x}}", r#"template: :1: function \"x\" not defined"#),
        (r#"{{label "a"}}"#, r#"template: :1: function \"label\" not defined"#),
        ("{{if false}}{{.svc | upper}}{{end}}", r#"template: :1: function \"upper\" not defined"#),
        ("{{port}}", r#"template: :1: function \"port\" not defined"#),
        ("{{.svc", "template: :1: unclosed action"),
        ("a{{if .v}}b", "template: :1: unexpected EOF"),
        ("a{{end}}b", "template: :1: unexpected {{end}}"),
    ] {
        let error = print(template);
        assert_eq!(error, format!("failed compiling gotemplate error=\"{want}\""), "{template}");
    }
}

#[test]
fn k31_an_unclosed_action_with_an_unknown_function_names_the_function() {
    let error = eval_host("foo.{{mesh", &data(&[])).unwrap_err();
    assert_eq!(error, r#"failed compiling gotemplate error="template: :1: function \"mesh\" not defined""#);
}

#[test]
fn k32_a_port_that_is_no_number_is_refused() {
    assert_eq!(
        eval_port("{{.port}}a", &data(&[("port", "1")])).unwrap_err(),
        r#"evaluation of template with parameters didn't evaluate to a parsable number result="1a""#
    );
}

#[test]
fn k37_parameters_of_a_port_are_put_together_as_text() {
    assert_eq!(eval_port("{{.port}}{{.offset}}", &data(&[("port", "80"), ("offset", "81")])), Ok(8081));
    for (text, want) in [("+80", Some(80)), ("080", Some(80)), (" 80", None), ("-1", None), ("0", None), ("", None)] {
        assert_eq!(eval_port(text, &data(&[])).ok(), want, "{text}");
    }
}

#[test]
fn k38_a_port_outside_the_range_is_refused_with_its_number() {
    for number in ["80000", "65536", "0", "-1"] {
        assert_eq!(
            eval_port("{{.port}}", &data(&[("port", number)])).unwrap_err(),
            format!("evaluation of template returned a port outside of the range [1..65535] result={number}")
        );
    }
    assert_eq!(eval_port("{{.port}}", &data(&[("port", "65535")])), Ok(65535));
}

#[test]
fn k39_a_port_that_is_a_word_is_not_parsable() {
    let why = |result: &str| {
        format!("evaluation of template with parameters didn't evaluate to a parsable number result=\"{result}\"")
    };
    assert_eq!(eval_port("{{.port}}", &data(&[("port", "hello")])).unwrap_err(), why("hello"));
    assert_eq!(eval_port("{{.port}}", &data(&[])).unwrap_err(), why("<no value>"));
}

#[test]
fn k40_a_service_with_parentheses_gives_no_host() {
    assert_eq!(
        eval_host("{{.service}}", &data(&[("service", "foo()bar")])).unwrap_err(),
        r#"evaluation of template with parameters didn't return a valid dns name result="foo()bar""#
    );
}

#[test]
fn k41_hosts_are_evaluated() {
    let data = data(&[("host", "foo-bar"), ("instance", "2")]);
    assert_eq!(eval_host("{{.host}}.{{.instance}}", &data), Ok("foo-bar.2".into()));
    assert!(eval_host("{{.absent}}.mesh", &data).unwrap_err().contains("<no value>.mesh"));
}

#[test]
fn n7_or_gives_a_default_port() {
    assert_eq!(eval_port(r#"{{or .port "8080"}}"#, &data(&[])), Ok(8080));
    assert_eq!(eval_port("{{if .port}}{{.port}}{{else}}8080{{end}}", &data(&[("port", "9000")])), Ok(9000));
}

#[test]
fn dns_names_follow_the_loose_rule() {
    let long = "a".repeat(63);
    for good in ["a", "a.b", "A_b.c-", "backend_ns_svc_80.mesh", "foo.mesh.", "foo_", "_x", "9.9", &long] {
        assert!(is_dns_name(good), "{good}");
    }
    let (label, name) = ("a".repeat(64) + ".mesh", vec![long; 5].join("."));
    for bad in ["", ".", "a..b", "-a", "a.-b", "*.a", "1.2.3.4", "::1", "a b", "ä", "<no value>", &label, &name] {
        assert!(!is_dns_name(bad), "{bad}");
    }
}

#[test]
fn growing_templates_are_stopped() {
    let doubling = r#"{{$x := "aaaaaaaa"}}"#.to_string() + &"{{$x = print $x $x}}".repeat(60) + "{{$x}}";
    assert!(print(&doubling).contains("longer than 4096 bytes"), "{}", print(&doubling));
    assert!(print(r#"{{$x := "a"}}{{range 99}}{{$x = printf "%s%s" $x $x}}{{end}}"#).contains("longer than"));
    assert!(print("{{range 200}}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{{end}}").contains("longer than"));
    assert!(print("{{range 10000000}}{{end}}").contains("budget"));
    assert!(print(r#"{{printf "%99999999d" 1}}"#).contains("longer than"));
    assert!(print(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).contains("longer than 2048 bytes"));
}

#[test]
fn templates_that_call_templates_are_bounded() {
    assert!(print(r#"{{define "a"}}{{template "a"}}{{end}}{{template "a"}}"#).contains("too many nested"));
    let chain: String = (0..30)
        .map(|i| format!(r#"{{{{define "{i}"}}}}{{{{template "{0}"}}}}{{{{template "{0}"}}}}{{{{end}}}}"#, i + 1))
        .collect();
    assert!(print(&format!(r#"{chain}{{{{template "0"}}}}"#)).contains("too many nested"));
    let deep = "{{if .v}}".repeat(150) + &"{{end}}".repeat(150);
    assert!(print(&deep).starts_with("failed compiling"));
}

proptest! {
    #[test]
    fn no_template_panics(pieces in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", ".svc", "if ", "else", "end", "range ", "printf \"%", "d", "s", "v\"", "$x", ":=", "|", "(", ")",
        "index . ", "slice ", "3", "-1", "{{end}}", "{{else}}", "é", "\"", "`", "with ", "template \"a\"", "define \"a\"", " ", "-", "'",
        "break", "1e9", "0x", "\\", "/*", "*/", "nil", "call ", "len ", "\u{1}", "[9]*"
    ]), 0..24)) {
        let source = pieces.concat();
        let error = print(&source);
        prop_assert!(!error.contains("engine failed"), "{source}");
    }
}

/// `[template, data, what Go printed]` or `[template, data, null, "parse" or "exec"]`: recorded with Go 1.26.
const CORPUS: &str = include_str!("../testdata/templates/go.jsonl");

/// What the engine refuses and Go prints.
fn is_refused_here(template: &str) -> bool {
    ["%T", "% x", "%#", "1i}}", "slice .v", ".svc | }}"].iter().any(|part| template.contains(part))
}

/// The engine may differ from Go where neither gives a host or port; else the text is the same.
#[test]
fn the_recorded_corpus_prints_what_go_prints() {
    let is_used = |text: &str| is_dns_name(text) || text.parse::<i64>().is_ok();
    let (mut equal, mut harmless) = (0, 0);
    for line in CORPUS.lines() {
        let row: Vec<serde_json::Value> = serde_json::from_str(line).unwrap();
        let template = row[0].as_str().unwrap();
        let data: BTreeMap<String, String> = serde_json::from_value(row[1].clone()).unwrap();
        let got = Compiled::new(template).and_then(|compiled| compiled.run(&data)).ok();
        let want = row[2].as_str();
        if got.as_deref() == want {
            equal += 1;
            continue;
        }
        harmless += 1;
        assert!(got.is_none_or(|text| !is_used(&text)), "{template} with {data:?}");
        assert!(want.is_none_or(|text| !is_used(text)) || is_refused_here(template), "{template} with {data:?}");
    }
    assert!(equal > 3_100 && harmless < 400, "{equal} equal, {harmless} not");
}
