//! Variables in resource files: `{{ name }}` of `--dataplane-var` and `apply --var` (spec/zones.md §17.3). It must not
//! know what the text means.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Asked for and not given, so replaced by nothing; sorted.
    pub unknown: Vec<String>,
}

/// Replaces `{{ name }}`, `{{.name}}`, `{{ a.b }}`, `{{{name}}}` and `{{&name}}`. Values go in as they are: the result is
/// YAML, where escaping for HTML would be a defect. Call it only if there are variables: the templates of a
/// VirtualOutbound look the same.
pub fn render_variables(text: &str, variables: &BTreeMap<String, String>) -> Result<Rendered, String> {
    let mut out = String::with_capacity(text.len());
    let mut unknown = BTreeSet::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, tail) = rest.split_at(start);
        out.push_str(before);
        let close = if tail.starts_with("{{{") { "}}}" } else { "}}" };
        let line = || 1 + text.get(..text.len() - tail.len()).unwrap_or_default().matches('\n').count();
        let body = tail.get(close.len()..).unwrap_or_default();
        let Some(end) = body.find(close) else {
            return Err(format!("line {}: {} has no {close} after it", line(), &close.replace('}', "{")));
        };
        let (tag, after) = body.split_at(end);
        if let Some(name) = name_of(tag, close == "}}").map_err(|e| format!("line {}: {e}", line()))? {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    unknown.insert(name.to_owned());
                }
            }
        }
        rest = after.get(close.len()..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(Rendered { text: out, unknown: unknown.into_iter().collect() })
}

/// The variable that a tag names; none for a comment.
fn name_of(tag: &str, marks: bool) -> Result<Option<&str>, String> {
    let tag = tag.trim();
    let name = match tag.chars().next().filter(|_| marks) {
        Some('!') => return Ok(None),
        Some('&') => tag.get(1..).unwrap_or_default().trim(),
        Some('#' | '^' | '/') => {
            return Err(format!(
                "{{{{{tag}}}}}: sections are not supported, only {{{{ name }}}} is: write the text out"
            ));
        }
        Some('>') => return Err(format!("{{{{{tag}}}}}: other files can't be included")),
        Some('=') => return Err(format!("{{{{{tag}}}}}: delimiters can't be changed")),
        _ => tag,
    };
    let name = name.strip_prefix('.').unwrap_or(name);
    let valid = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c));
    if valid { Ok(Some(name)) } else { Err(format!("{{{{{tag}}}}}: is not the name of a variable")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> Result<Rendered, String> {
        let pairs = [("name", "web"), ("a.b", "1 & <2>"), ("port", "80")];
        render_variables(text, &pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn every_way_to_write_a_variable_is_replaced_unescaped() {
        let text = "n: {{ name }}-{{name}}-{{.name}}\nv: {{a.b}} {{{ a.b }}} {{& a.b}}\n{{! note }}p: {{port}}";
        let want = "n: web-web-web\nv: 1 & <2> 1 & <2> 1 & <2>\np: 80";
        assert_eq!(render(text).unwrap(), Rendered { text: want.to_owned(), unknown: vec![] });
    }

    #[test]
    fn an_unknown_variable_is_empty_and_named() {
        let rendered = render("a{{ zone }}b{{x}}{{x}}c").unwrap();
        assert_eq!(rendered, Rendered { text: "abc".into(), unknown: vec!["x".into(), "zone".into()] });
    }

    #[test]
    fn what_is_not_supported_says_so_with_its_line() {
        assert!(render("a\n{{#x}}b{{/x}}").unwrap_err().starts_with("line 2: {{#x}}: sections are not supported"));
        assert!(render("a {{ name").unwrap_err().contains("has no }} after it"));
        assert!(render("{{ a b }}").unwrap_err().contains("is not the name of a variable"));
        assert!(render("{{}}").is_err());
    }
}
