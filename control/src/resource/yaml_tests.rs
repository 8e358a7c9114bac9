//! The reader of YAML: lines, types, limits, faults.

use super::*;

fn one(text: &str) -> Node {
    let mut all = parse(text);
    assert_eq!(all.len(), 1, "{all:?}");
    let document = all.remove(0);
    assert_eq!(document.faults, []);
    document.root.unwrap()
}

fn fault(text: &str) -> Fault {
    parse(text).into_iter().flat_map(|d| d.faults).next().unwrap()
}

#[test]
fn nodes_know_their_lines_across_documents() {
    let all = parse("# head\n---\na: 1\nb:\n  - x\n---\nc: 2\n...\nd: 3\n");
    assert_eq!(all.len(), 3);
    let lines = |d: &Document, k: &str| d.root.as_ref().unwrap().get(k).unwrap().line;
    assert_eq!(lines(&all[0], "a"), 3);
    assert_eq!(lines(&all[0], "b"), 5);
    assert_eq!(lines(&all[1], "c"), 7);
    assert_eq!(lines(&all[2], "d"), 9);
}

#[test]
fn a_broken_document_leaves_the_others_readable() {
    let all = parse("a: 1\n---\nb: [1, 2\n---\nc: 3\n");
    assert_eq!(all.len(), 3);
    assert!(all[0].root.is_some() && all[1].root.is_none() && all[2].root.is_some());
    assert_eq!(all[1].faults.len(), 1);
    assert!((2..=4).contains(&all[1].faults[0].line), "{:?}", all[1].faults);
}

#[test]
fn plain_text_gets_the_types_of_yaml_1_1() {
    let cases = [
        ("on", Kind::Bool(true)),
        ("No", Kind::Bool(false)),
        ("y", Kind::Text),
        ("~", Kind::Null),
        ("80", Kind::Int(80)),
        ("-3", Kind::Int(-3)),
        ("0x1F", Kind::Int(31)),
        ("010", Kind::Int(8)),
        ("1_000", Kind::Int(1000)),
        ("1.5", Kind::Float(1.5)),
        ("1e3", Kind::Float(1000.0)),
        ("1.2.3", Kind::Text),
        ("10.0.0.1", Kind::Text),
        ("v1", Kind::Text),
        ("-", Kind::Text),
        ("...", Kind::Text),
    ];
    for (text, kind) in cases {
        assert_eq!(kind_of(text), kind, "{text}");
    }
    assert_eq!(one("\"80\"").value, Value::Scalar(Scalar { text: "80".into(), kind: Kind::Text }));
    assert_eq!(one("!!str 80").value, Value::Scalar(Scalar { text: "80".into(), kind: Kind::Text }));
}

#[test]
fn json_is_read_as_yaml() {
    let node = one(r#"{"a": {"b": [1, true, null, "x\n"]}, "c": 1.5}"#);
    assert_eq!(node.to_json(), serde_json::json!({"a": {"b": [1, true, null, "x\n"]}, "c": 1.5}));
}

#[test]
fn long_json_lines_are_read() {
    let value = serde_json::json!({"items": (0..5000).map(|i| serde_json::json!({"n": i})).collect::<Vec<_>>()});
    assert_eq!(one(&value.to_string()).to_json(), value);
}

#[test]
fn a_duplicate_key_is_a_fault_at_its_line() {
    let all = parse("a: 1\nb: 2\na: 3\n");
    assert_eq!(all[0].faults[0].line, 3);
    assert!(all[0].faults[0].message.contains("\"a\" stands twice"));
    assert!(all[0].root.is_some());
}

#[test]
fn a_tab_in_the_indentation_is_named() {
    let fault = fault("a:\n\tb: 1\n");
    assert_eq!(fault.line, 2);
    assert!(fault.message.contains("tab"), "{fault:?}");
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(",");
        text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
    }
    assert!(fault(&text).message.contains("aliases expand"));
}

#[test]
fn an_alias_of_large_text_is_bounded_in_bytes() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1000].join(","));
    assert!(fault(&text).message.contains("aliases expand"));
}

#[test]
fn an_alias_inside_its_own_anchor_is_refused() {
    assert!(fault("a: &a [1, *a]\n").message.contains("alias"));
}

#[test]
fn deep_nesting_is_refused() {
    assert!(fault(&"[".repeat(1000)).message.contains("deeper than 64"));
    assert!(fault(&format!("{}1", "{a: ".repeat(100))).message.contains("deeper than 64"));
    let stairs: String = (0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(fault(&stairs).message.contains("deeper than 64"));
}

#[test]
fn too_many_values_are_refused() {
    assert!(fault(&format!("[{}]", "1,".repeat(300_000))).message.contains("more than 200000 values"));
}

#[test]
fn a_file_of_fifty_megabytes_is_refused_without_being_read() {
    let text = "a: 1\n---\n".repeat(50 << 17);
    let all = parse(&text);
    assert_eq!(all.len(), 1);
    assert!(all[0].faults[0].message.contains("more than the limit of 33554432"));
}

#[test]
fn a_document_over_the_limit_does_not_stop_its_neighbours() {
    let all = parse(&format!("a: {}\n---\nb: 1\n", "x".repeat(5 << 20)));
    assert!(all[0].root.is_none() && all[1].root.is_some());
}

#[test]
fn merge_keys_add_what_the_map_lacks() {
    let node = one("base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\n");
    assert_eq!(node.to_json()["mine"], serde_json::json!({"x": 1, "y": 3}));
}

#[test]
fn documentation_placeholders_are_recognised() {
    assert!(one("mtls: # required\n  [...]\n").get("mtls").unwrap().is_placeholder());
    assert!(one("metadata:\n  ...\n").get("metadata").unwrap().is_placeholder());
    assert!(!one("a: [x]").get("a").unwrap().is_placeholder());
}

#[test]
fn crlf_bom_and_directives_are_read() {
    let all = parse("\u{feff}%YAML 1.1\r\n---\r\na: 1\r\n---\r\nb: 2\r\n");
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|d| d.faults.is_empty() && d.root.is_some()), "{all:?}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(?s)[ \\n\\t:\\-a-c\\[\\]{}&*\"'|>#!%,0-9]{0,200}") {
        let _ = parse(&text);
    }
}
