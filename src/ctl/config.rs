//! kumactl's configuration file: which control plane the commands talk to. Readable and writable by kumactl itself.

use super::client::Api;
use crate::cli::Reach;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

const DEFAULT_URL: &str = "http://localhost:5681";

/// The file as JSON; empty when there is none.
pub(crate) fn load(reach: &Reach) -> Result<Value, String> {
    let path = path(reach);
    match std::fs::read_to_string(&path) {
        Ok(text) => control::resource::yaml_to_json(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(json!({})),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

pub(crate) fn save(reach: &Reach, config: &Value) -> Result<(), String> {
    let path = path(reach);
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let scratch = path.with_extension("new");
    std::fs::write(&scratch, control::resource::json_to_yaml(config)).map_err(failed)?;
    std::fs::rename(&scratch, &path).map_err(failed)
}

fn path(reach: &Reach) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".kumactl").join("config");
    reach.config_file.clone().unwrap_or_else(home)
}

/// The API of the current context.
pub(crate) fn api(reach: &Reach) -> Result<Api, String> {
    let timeout = control::time::parse_go_duration(&reach.api_timeout).map_err(|e| format!("--api-timeout: {e}"))?;
    let plain = Api { url: DEFAULT_URL.into(), headers: Vec::new(), ca_pem: None, skip_verify: false, timeout };
    if reach.no_config {
        return Ok(plain);
    }
    let config = load(reach)?;
    let current = config.get("currentContext").and_then(Value::as_str).unwrap_or_default();
    if current.is_empty() {
        return Ok(plain);
    }
    let context = named(&config, "contexts", current).ok_or_else(|| format!("context {current} isn't in the configuration"))?;
    let name = context.get("controlPlane").and_then(Value::as_str).unwrap_or(current);
    let entry = named(&config, "controlPlanes", name).ok_or_else(|| format!("control plane {name} isn't in the configuration"))?;
    let server = entry.pointer("/coordinates/apiServer").cloned().unwrap_or_default();
    let text = |key: &str| server.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ca_pem = match text("caCertFile") {
        file if file.is_empty() => None,
        file => Some(std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?),
    };
    let mut headers = Vec::new();
    if let Some(token) = server.pointer("/authConf/token").and_then(Value::as_str) {
        headers.push(("authorization".into(), format!("Bearer {token}")));
    }
    let skip_verify = server.get("skipVerify").and_then(Value::as_bool).unwrap_or(false);
    Ok(Api { url: text("url"), headers, ca_pem, skip_verify, timeout })
}

pub(crate) fn named<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    config.get(list)?.as_array()?.iter().find(|e| e.get("name").and_then(Value::as_str) == Some(name))
}

/// Puts an entry in place of the one of the same name.
pub(crate) fn put(config: &mut Value, list: &str, name: &str, entry: Value) {
    remove(config, list, name);
    let object = as_object(config);
    let entries = object.entry(list).or_insert_with(|| json!([]));
    if let Some(entries) = entries.as_array_mut() {
        entries.push(entry);
    }
}

pub(crate) fn remove(config: &mut Value, list: &str, name: &str) -> bool {
    let Some(entries) = config.get_mut(list).and_then(Value::as_array_mut) else { return false };
    let before = entries.len();
    entries.retain(|e| e.get("name").and_then(Value::as_str) != Some(name));
    entries.len() != before
}

pub(crate) fn as_object(config: &mut Value) -> &mut Map<String, Value> {
    if !config.is_object() {
        *config = json!({});
    }
    match config {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}
