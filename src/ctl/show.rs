//! `get`: lists and single resources as a table, YAML or JSON.

use super::client::Api;
use super::table::{Table, age};
use super::{Done, config, item_path, known, list_path, segment};
use crate::cli::{Get, Output};
use crate::failure::Failure;
use control::resource::registry::KindInfo;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// Items of a page when all are wanted: the largest that Kuma's API gives.
const PAGE_ITEMS: u32 = 1000;

pub(crate) async fn get(args: Get) -> Done {
    let api = config::api(&args.reach)?;
    let info = known(&args.kind)?;
    let mesh = &args.reach.mesh;
    if let Some(name) = &args.name {
        let answer = api.send(Method::GET, &item_path(info, mesh, name), None).await?;
        return match answer.status {
            StatusCode::OK => {
                let item = answer.json()?;
                Ok(encode(&item, args.output).unwrap_or_else(|| resource_table(info, std::slice::from_ref(&item))))
            }
            StatusCode::NOT_FOUND if info.is_mesh_scoped() => {
                Err(Failure::failed(format!("No resources found in {mesh} mesh")))
            }
            StatusCode::NOT_FOUND => Err(Failure::failed("No resources found")),
            _ => Err(answer.refusal()),
        };
    }
    let page = list(&api, &list_path(info, mesh), args.size, args.offset.as_deref()).await?;
    if let Some(offset) = page.next.as_str().and_then(offset_of) {
        crate::print::note(&format!("Rerun command with `--offset={offset}` argument to retrieve more resources"));
    }
    Ok(encode(&page.to_json(), args.output).unwrap_or_else(|| resource_table(info, &page.items)))
}

/// YAML or JSON; none for a table.
pub(super) fn encode(value: &Value, output: Output) -> Option<String> {
    match output {
        Output::Json => Some(format!("{value:#}\n")),
        Output::Yaml => Some(resource_yaml(value)),
        Output::Table => None,
    }
}

/// What a resource is comes before what it says.
fn resource_yaml(value: &Value) -> String {
    let Some(all) = value.as_object() else { return control::resource::to_yaml(value) };
    let is_first = |key: &str| ["type", "mesh", "name", "labels"].contains(&key);
    let mut out = String::new();
    for key in ["type", "mesh", "name", "labels"] {
        if let Some(value) = all.get(key) {
            out.push_str(&control::resource::to_yaml(&json!({ key: value })));
        }
    }
    let rest: Map<String, Value> =
        all.iter().filter(|(key, _)| !is_first(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !rest.is_empty() || out.is_empty() {
        out.push_str(&control::resource::to_yaml(&Value::Object(rest)));
    }
    out
}

/// What a list gave.
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    total: Value,
    next: Value,
}

impl Page {
    pub(super) fn to_json(&self) -> Value {
        json!({"total": self.total, "items": self.items, "next": self.next})
    }
}

/// One page as asked; without a size, all of them.
pub(super) async fn list(api: &Api, path: &str, size: Option<u32>, offset: Option<&str>) -> Result<Page, Failure> {
    let mut items = Vec::new();
    let mut at = offset.map(segment);
    let question = if path.contains('?') { '&' } else { '?' };
    loop {
        let from = at.as_deref().map(|at| format!("&offset={at}")).unwrap_or_default();
        let url = format!("{path}{question}size={}{from}", size.unwrap_or(PAGE_ITEMS));
        let answer = api.send(Method::GET, &url, None).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal());
        }
        let page = answer.json()?;
        items.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        let next = page.get("next").cloned().unwrap_or_default();
        let further = next.as_str().and_then(offset_of);
        match further {
            // A server that points back would never end.
            Some(offset) if size.is_none() && at.as_ref() != Some(&offset) => at = Some(offset),
            _ => return Ok(Page { items, total: page.get("total").cloned().unwrap_or_default(), next }),
        }
    }
}

fn offset_of(url: &str) -> Option<String> {
    let query = url.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix("offset=")).map(str::to_owned)
}

fn resource_table(info: &KindInfo, items: &[Value]) -> String {
    let now = control::time::Clock::system().now_ms();
    let mut headers = if info.is_mesh_scoped() { vec!["MESH", "NAME"] } else { vec!["NAME"] };
    match info.kind {
        "Mesh" => headers.extend(["mTLS", "METRICS", "LOGGING", "TRACING", "LOCALITY", "ZONEEGRESS"]),
        "Dataplane" | "ExternalService" => headers.extend(["TAGS", "ADDRESS"]),
        _ => {}
    }
    headers.push("AGE");
    let mut table = Table::new(&headers);
    for item in items {
        let mut row = if info.is_mesh_scoped() { vec![text(item, "/mesh")] } else { Vec::new() };
        row.push(text(item, "/name"));
        match info.kind {
            "Mesh" => row.extend(mesh_cells(item)),
            "Dataplane" | "ExternalService" => row.extend([tags_of(item), text(item, "/networking/address")]),
            _ => {}
        }
        row.push(age(control::time::from_rfc3339(&text(item, "/creationTime")), now));
        table.row(row);
    }
    table.render()
}

fn mesh_cells(item: &Value) -> Vec<String> {
    let enabled = text(item, "/mtls/enabledBackend");
    let backends = item.pointer("/mtls/backends").and_then(Value::as_array);
    let backend = backends.into_iter().flatten().find(|b| !enabled.is_empty() && text(b, "/name") == enabled);
    let mtls = backend.map_or_else(|| "off".to_owned(), |b| format!("{}/{enabled}", text(b, "/type")));
    let on = |pointer: &str| if item.pointer(pointer).and_then(Value::as_bool).unwrap_or(false) { "on" } else { "off" };
    let named = |pointer: &str| match text(item, pointer) {
        name if name.is_empty() => "off".to_owned(),
        name => name,
    };
    vec![
        mtls,
        named("/metrics/enabledBackend"),
        named("/logging/defaultBackend"),
        named("/tracing/defaultBackend"),
        on("/routing/localityAwareLoadBalancing").to_owned(),
        on("/routing/zoneEgress").to_owned(),
    ]
}

/// The text at a JSON pointer; empty when there is none.
pub(super) fn text(item: &Value, pointer: &str) -> String {
    item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// All tags of a proxy or external service: `kuma.io/service=a version=v1`.
pub(super) fn tags_of(item: &Value) -> String {
    let inbounds = item.pointer("/networking/inbound").and_then(Value::as_array).into_iter().flatten();
    let sets =
        inbounds.filter_map(|i| i.get("tags")).chain(item.pointer("/networking/gateway/tags")).chain(item.get("tags"));
    let pairs = sets.filter_map(Value::as_object).flatten();
    let mut tags: Vec<String> = pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    tags.sort();
    tags.dedup();
    tags.join(" ")
}
