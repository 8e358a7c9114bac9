//! `inspect names`: what sidecars of a mesh resolve and where it leads, and what asked for a name and has none.

use super::show::{encode, list, text};
use super::table::Table;
use super::{Done, config, segment};
use crate::cli::Inspect;
use crate::failure::Failure;
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// What the control plane tells of, with the words before each.
const PROBLEMS: [(&str, &str); 4] =
    [("conflicts", "Lost"), ("skipped", "Skipped"), ("addresses", "Without address"), ("warnings", "Warning")];

pub(super) async fn inspect(args: Inspect) -> Done {
    let api = config::api(&args.reach)?;
    let path = format!("/meshes/{}/_names", segment(&args.reach.mesh));
    let page = list(&api, &path, None, None).await?;
    let answer = api.send(Method::GET, &format!("{path}/problems"), None).await?;
    if answer.status != StatusCode::OK {
        return Err(answer.refusal());
    }
    let problems = answer.json()?;
    let wanted = args.name.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let is_wanted = |item: &&Value| wanted.as_ref().is_none_or(|name| *name == text(item, "/name"));
    let items: Vec<&Value> = page.items.iter().filter(is_wanted).collect();
    if let Some(whole) = encode(&json!({"total": items.len(), "items": items, "problems": problems}), args.output) {
        return Ok(whole);
    }
    let told = told(&problems, wanted.as_deref(), items.is_empty());
    match wanted {
        Some(name) if items.is_empty() => {
            let why = if told.is_empty() {
                "; weir inspect names shows those that are".to_owned()
            } else {
                format!("\n{told}")
            };
            Err(Failure::failed(format!("mesh {} has no name {name}{why}", args.reach.mesh)))
        }
        _ => Ok(table(&items) + &told),
    }
}

fn table(items: &[&Value]) -> String {
    let mut table = Table::new(&["NAME", "PORTS", "IPV4", "IPV6", "FROM"]);
    for item in items {
        let ports = item.get("ports").and_then(Value::as_array).into_iter().flatten();
        let ports: Vec<String> = ports.map(ToString::to_string).collect();
        let address = |pointer: &str| match text(item, pointer) {
            none if none.is_empty() => "-".to_owned(),
            address => address,
        };
        table.row(vec![text(item, "/name"), ports.join(","), address("/v4"), address("/v6"), text(item, "/origin")]);
    }
    table.render()
}

/// A line each; of one name those that speak of it, and where it isn't served an exhausted range, which lists but few.
fn told(problems: &Value, name: Option<&str>, is_absent: bool) -> String {
    let mut out = String::new();
    for (field, word) in PROBLEMS {
        for problem in problems.get(field).and_then(Value::as_array).into_iter().flatten() {
            let line = problem.as_str().map_or_else(|| text(problem, "/message"), str::to_owned);
            if name.is_none_or(|name| line.contains(name)) || (is_absent && field == "addresses") {
                out.push_str(&format!("{word}: {line}\n"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_row_each_and_what_went_wrong_a_line_each() {
        let item = json!({"name": "v1.backend.mesh", "v4": "240.0.0.1", "v6": null, "ports": [80, 1800], "origin": "VirtualOutbound default/by-version"});
        let shown = table(&[&item]);
        let row = shown.lines().nth(1).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["v1.backend.mesh", "80,1800", "240.0.0.1", "-", "VirtualOutbound", "default/by-version"]
        );
        let problems = json!({
            "conflicts": [{"message": "can't add x.mesh:80"}], "skipped": ["VirtualOutbound default/v gives no name"], "warnings": [],
        });
        let all = "Lost: can't add x.mesh:80\nSkipped: VirtualOutbound default/v gives no name\n";
        assert_eq!(
            (told(&problems, None, false).as_str(), told(&problems, Some("x.mesh"), false).lines().count()),
            (all, 1)
        );
        let problems = json!({"addresses": ["failed to allocate new VIPs: No addresses left (a.mesh…)"]});
        let counts = [true, false].map(|is_absent| told(&problems, Some("z.mesh"), is_absent).lines().count());
        assert_eq!(counts, [1, 0]);
    }
}
