//! kumactl's commands: each is a few REST calls and a rendering of the answers. Must not reach into a store.

mod client;
mod config;
mod files;
mod table;

use crate::cli::{Apply, ControlPlanes, Delete, Generate, Get, Inspect, Output, Reach};
use client::{Answer, Api};
use control::resource::registry::{KindInfo, kind_by_name};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::fmt::Write as _;
use table::{Table, age};

pub(crate) use files::{read_files, read_text};

/// What a command prints on stdout, or the text of its failure.
pub(crate) type Done = Result<String, String>;

fn item_path(info: &KindInfo, mesh: &str, name: &str) -> String {
    if info.is_mesh_scoped() { format!("/meshes/{mesh}/{}/{name}", info.path) } else { format!("/{}/{name}", info.path) }
}

fn list_path(info: &KindInfo, mesh: &str) -> String {
    if info.is_mesh_scoped() { format!("/meshes/{mesh}/{}", info.path) } else { format!("/{}", info.path) }
}

fn known(kind: &str) -> Result<&'static KindInfo, String> {
    kind_by_name(kind).ok_or_else(|| {
        let names: Vec<&str> = control::resource::registry::KINDS.iter().map(|k| k.plural).collect();
        format!("unknown kind {kind}; known are: {}", names.join(", "))
    })
}

/// What the server keeps of a resource that the user doesn't write.
fn without_times(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("creationTime");
        object.remove("modificationTime");
    }
    value
}

pub(crate) async fn apply(args: Apply) -> Done {
    let api = config::api(&args.reach)?;
    let resources = read_files(&args.files, &args.vars, &args.reach.mesh)?;
    let mut out = String::new();
    for resource in resources {
        let info = known(resource.kind())?;
        let path = item_path(info, &resource.meta.mesh, &resource.meta.name);
        let wanted = resource.to_json();
        let current = api.send(Method::GET, &path, None).await?;
        let verb = match current.status {
            StatusCode::OK if without_times(current.json()?) == without_times(wanted.clone()) => "unchanged",
            StatusCode::OK => "updated",
            StatusCode::NOT_FOUND => "created",
            _ => return Err(failed(&out, &path, &current)),
        };
        if !args.dry_run && verb != "unchanged" {
            let answer = api.send(Method::PUT, &path, Some(wanted.to_string())).await?;
            if !answer.status.is_success() {
                return Err(failed(&out, &path, &answer));
            }
            print_warnings(&answer);
        }
        let would = if args.dry_run && verb != "unchanged" { "would be " } else { "" };
        let _ = writeln!(out, "{} {would}{verb}", title(&resource));
    }
    Ok(out)
}

fn failed(before: &str, path: &str, answer: &Answer) -> String {
    // What was applied before the failure is said too: it stays applied.
    eprint!("{before}");
    format!("{path}: {}", answer.problem())
}

fn title(resource: &control::resource::Resource) -> String {
    let mesh = &resource.meta.mesh;
    let slash = if mesh.is_empty() { "" } else { "/" };
    format!("{} {mesh}{slash}{}", resource.kind(), resource.meta.name)
}

fn print_warnings(answer: &Answer) {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    for warning in body.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        eprintln!("Warning: {}", warning.as_str().unwrap_or_default());
    }
}

pub(crate) async fn get(args: Get) -> Done {
    let api = config::api(&args.reach)?;
    let info = known(&args.kind)?;
    let mesh = &args.reach.mesh;
    let nothing = || if info.is_mesh_scoped() { format!("No resources found in {mesh} mesh") } else { "No resources found".into() };
    if let Some(name) = &args.name {
        let answer = api.send(Method::GET, &item_path(info, mesh, name), None).await?;
        return match answer.status {
            StatusCode::OK => Ok(render(info, args.output, &answer.json()?, None)),
            StatusCode::NOT_FOUND => Err(nothing()),
            _ => Err(answer.problem()),
        };
    }
    let (items, total, next) = list(&api, &list_path(info, mesh), args.size, args.offset.as_deref()).await?;
    if args.output == Output::Table {
        return Ok(render(info, Output::Table, &Value::Null, Some(&items)));
    }
    let value = json!({"total": total, "items": items, "next": next});
    Ok(render(info, args.output, &value, None))
}

/// One page as asked; without a size, all of them.
async fn list(api: &Api, path: &str, size: Option<u32>, offset: Option<&str>) -> Result<(Vec<Value>, Value, Value), String> {
    let mut items = Vec::new();
    let mut at = offset.unwrap_or("0").to_owned();
    loop {
        let answer = api.send(Method::GET, &format!("{path}?size={}&offset={at}", size.unwrap_or(1000)), None).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.problem());
        }
        let page = answer.json()?;
        items.extend(page.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        let next = page.get("next").cloned().unwrap_or_default();
        let further = next.as_str().and_then(|n| n.split("offset=").nth(1)).map(|n| n.split('&').next().unwrap_or(n).to_owned());
        match further {
            Some(offset) if size.is_none() => at = offset,
            _ => return Ok((items, page.get("total").cloned().unwrap_or_default(), next)),
        }
    }
}

fn render(info: &KindInfo, output: Output, value: &Value, items: Option<&[Value]>) -> String {
    match output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()),
        Output::Yaml => control::resource::json_to_yaml(value),
        Output::Table => {
            let one = std::slice::from_ref(value);
            resource_table(info, items.unwrap_or(one))
        }
    }
}

fn resource_table(info: &KindInfo, items: &[Value]) -> String {
    let now = control::time::Clock::system().now_ms();
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut headers = if info.is_mesh_scoped() { vec!["MESH", "NAME"] } else { vec!["NAME"] };
    match info.kind {
        "Mesh" => headers.extend(["mTLS", "METRICS", "LOGGING", "TRACING", "LOCALITY", "ZONEEGRESS"]),
        "Dataplane" | "ExternalService" => headers.extend(["TAGS", "ADDRESS"]),
        _ => {}
    }
    headers.push("AGE");
    let mut table = Table::new(&headers);
    for item in items {
        let mut row = if info.is_mesh_scoped() { vec![text(item, "mesh")] } else { Vec::new() };
        row.push(text(item, "name"));
        match info.kind {
            "Mesh" => row.extend(mesh_cells(item)),
            "Dataplane" | "ExternalService" => row.extend([tags_of(item), address_of(item)]),
            _ => {}
        }
        row.push(age(control::time::from_rfc3339(&text(item, "creationTime")), now));
        table.row(row);
    }
    table.render()
}

fn mesh_cells(item: &Value) -> Vec<String> {
    let enabled = item.pointer("/mtls/enabledBackend").and_then(Value::as_str).unwrap_or_default();
    let backends = item.pointer("/mtls/backends").and_then(Value::as_array).cloned().unwrap_or_default();
    let backend = backends.iter().find(|b| b.get("name").and_then(Value::as_str) == Some(enabled) && !enabled.is_empty());
    let mtls = backend.map_or("off".into(), |b| format!("{}/{enabled}", b.get("type").and_then(Value::as_str).unwrap_or("?")));
    let on = |pointer: &str| if item.pointer(pointer).and_then(Value::as_bool).unwrap_or(false) { "on" } else { "off" };
    let named = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty()).unwrap_or("off").to_owned();
    vec![
        mtls,
        named("/metrics/enabledBackend"),
        named("/logging/defaultBackend"),
        named("/tracing/defaultBackend"),
        on("/routing/localityAwareLoadBalancing").into(),
        on("/routing/zoneEgress").into(),
    ]
}

/// All tags of a proxy or external service: `kuma.io/service=a version=v1`.
fn tags_of(item: &Value) -> String {
    let inbounds = item.pointer("/networking/inbound").and_then(Value::as_array).cloned().unwrap_or_default();
    let sets = inbounds.iter().filter_map(|i| i.get("tags")).chain(item.pointer("/networking/gateway/tags")).chain(item.get("tags"));
    let mut tags: Vec<String> = sets
        .filter_map(Value::as_object)
        .flat_map(|set| set.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    tags.sort();
    tags.dedup();
    tags.join(" ")
}

fn address_of(item: &Value) -> String {
    item.pointer("/networking/address").and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) async fn delete(args: Delete) -> Done {
    let api = config::api(&args.reach)?;
    let mut targets = Vec::new();
    match (&args.kind, &args.name) {
        (Some(kind), Some(name)) => targets.push((known(kind)?, args.reach.mesh.clone(), name.clone())),
        (None, None) if !args.files.is_empty() => {
            for resource in read_files(&args.files, &[], &args.reach.mesh)?.into_iter().rev() {
                targets.push((known(resource.kind())?, resource.meta.mesh.clone(), resource.meta.name.clone()));
            }
        }
        _ => return Err("say what to delete: a kind and a name, or -f FILE".into()),
    }
    let mut out = String::new();
    for (info, mesh, name) in targets {
        let answer = api.send(Method::DELETE, &item_path(info, &mesh, &name), None).await?;
        match answer.status {
            s if s.is_success() => {
                let _ = writeln!(out, "deleted {} \"{name}\"", info.kind);
            }
            StatusCode::NOT_FOUND => return Err(format!("there is no {} with name \"{name}\"", info.kind)),
            _ => return Err(answer.problem()),
        }
    }
    Ok(out)
}

pub(crate) async fn inspect(args: Inspect) -> Done {
    let api = config::api(&args.reach)?;
    let mesh = &args.reach.mesh;
    let path = match args.what.as_str() {
        "dataplane" | "dataplanes" => format!("/meshes/{mesh}/dataplanes/_overview"),
        "zoneegress" | "zoneegresses" => "/zoneegresses/_overview".into(),
        "zoneingress" | "zoneingresses" | "zone-ingress" | "zone-ingresses" => "/zone-ingresses/_overview".into(),
        "zone" | "zones" => "/zones/_overview".into(),
        "mesh" | "meshes" => "/meshes".into(),
        other => return Err(format!("nothing to inspect about {other}; try dataplanes, zoneegresses, zone-ingresses, zones, meshes")),
    };
    let (items, total, next) = list(&api, &path, None, None).await?;
    let value = json!({"total": total, "items": items, "next": next});
    if args.output != Output::Table {
        let info = known("dataplanes")?;
        return Ok(render(info, args.output, &value, None));
    }
    let mut table = Table::new(&["MESH", "NAME", "TAGS", "STATUS", "ADDRESS"]);
    for item in &items {
        let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let inner = ["dataplane", "zoneEgress", "zoneIngress", "zone"].iter().find_map(|k| item.get(k)).unwrap_or(item);
        let status = item.get("status").and_then(Value::as_str).unwrap_or("-").to_owned();
        table.row(vec![text("mesh"), text("name"), tags_of(inner), status, address_of(inner)]);
    }
    Ok(table.render())
}

pub(crate) async fn generate(args: Generate) -> Done {
    let (reach, path, body) = match args {
        Generate::DataplaneToken { reach, name, tag, proxy_type, valid_for } => {
            let mut tags = serde_json::Map::new();
            for pair in tag {
                let (key, values) = pair.split_once('=').ok_or_else(|| format!("--tag {pair}: write it as tag=value"))?;
                let values: Vec<&str> = values.split(',').collect();
                tags.insert(key.into(), json!(values));
            }
            let body = json!({"name": name, "mesh": reach.mesh, "tags": tags, "type": proxy_type, "validFor": valid_for});
            (reach, "/tokens/dataplane", body)
        }
        Generate::ZoneToken { reach, zone, scope, valid_for } => {
            let odd: Vec<&String> = scope.iter().filter(|s| !matches!(s.as_str(), "ingress" | "egress")).collect();
            if !odd.is_empty() {
                return Err(format!("invalid --scope values: {odd:?} (supported scopes: [ingress egress])"));
            }
            if zone.is_empty() {
                eprintln!("Warning: no --zone: the token is good for zone proxies of any zone");
            }
            (reach, "/tokens/zone", json!({"zone": zone, "scope": scope, "validFor": valid_for}))
        }
        Generate::UserToken { reach, name, group, valid_for } => {
            (reach, "/tokens/user", json!({"name": name, "groups": group, "validFor": valid_for}))
        }
    };
    let api = config::api(&reach)?;
    let answer = api.send(Method::POST, path, Some(body.to_string())).await?;
    if answer.status.is_success() { Ok(answer.body) } else { Err(answer.problem()) }
}

pub(crate) fn view(reach: &Reach) -> Done {
    Ok(control::resource::json_to_yaml(&config::load(reach)?))
}

pub(crate) async fn control_planes(args: ControlPlanes) -> Done {
    match args {
        ControlPlanes::Add { reach, name, address, ca_cert_file, skip_verify, overwrite, skip_check, auth_type, auth_conf } => {
            let mut file = config::load(&reach)?;
            if !overwrite && config::named(&file, "controlPlanes", &name).is_some() {
                return Err(format!("Control Plane with name \"{name}\" already exists. Use --overwrite to replace an existing one."));
            }
            let conf: serde_json::Map<String, Value> =
                auth_conf.iter().filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), json!(v))).collect();
            let mut server = json!({"url": address});
            let object = config::as_object(&mut server);
            if let Some(ca) = ca_cert_file {
                object.insert("caCertFile".into(), json!(ca));
            }
            if skip_verify {
                object.insert("skipVerify".into(), json!(true));
            }
            if !auth_type.is_empty() {
                object.insert("authType".into(), json!(auth_type));
                object.insert("authConf".into(), Value::Object(conf));
            }
            config::put(&mut file, "controlPlanes", &name, json!({"name": name, "coordinates": {"apiServer": server}}));
            config::put(&mut file, "contexts", &name, json!({"name": name, "controlPlane": name}));
            config::as_object(&mut file).insert("currentContext".into(), json!(name));
            config::save(&reach, &file)?;
            if !skip_check && let Err(problem) = check(&reach).await {
                return Err(format!("{problem} (the entry is saved; --skip-check doesn't ask)"));
            }
            Ok(format!("added Control Plane \"{name}\"\nswitched active Control Plane to \"{name}\"\n"))
        }
        ControlPlanes::List { reach } => {
            let file = config::load(&reach)?;
            let mut table = Table::new(&["ACTIVE", "NAME", "ADDRESS"]);
            let current = file.get("currentContext").and_then(Value::as_str).unwrap_or_default();
            for entry in file.get("controlPlanes").and_then(Value::as_array).into_iter().flatten() {
                let name = entry.get("name").and_then(Value::as_str).unwrap_or_default();
                let url = entry.pointer("/coordinates/apiServer/url").and_then(Value::as_str).unwrap_or_default();
                table.row(vec![if name == current { "*".into() } else { String::new() }, name.into(), url.into()]);
            }
            Ok(table.render())
        }
        ControlPlanes::Remove { reach, name } => {
            let mut file = config::load(&reach)?;
            if !config::remove(&mut file, "controlPlanes", &name) {
                return Err(format!("there is no Control Plane with name \"{name}\""));
            }
            config::remove(&mut file, "contexts", &name);
            config::save(&reach, &file)?;
            Ok(format!("removed Control Plane \"{name}\"\n"))
        }
        ControlPlanes::Switch { reach, name } => {
            let mut file = config::load(&reach)?;
            if config::named(&file, "contexts", &name).is_none() {
                return Err(format!("there is no Control Plane with name \"{name}\""));
            }
            config::as_object(&mut file).insert("currentContext".into(), json!(name));
            config::save(&reach, &file)?;
            Ok(format!("switched active Control Plane to \"{name}\"\n"))
        }
    }
}

async fn check(reach: &Reach) -> Result<(), String> {
    let answer = config::api(reach)?.send(Method::GET, "/", None).await?;
    if answer.json()?.get("product").and_then(Value::as_str) == Some("Kuma") {
        return Ok(());
    }
    Err("this address doesn't answer as a Kuma control plane does".into())
}
