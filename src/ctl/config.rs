//! kumactl's configuration file: which control plane the commands talk to. Readable and writable by kumactl itself.

use super::client::{Api, Trust};
use crate::cli::Reach;
use crate::failure::Failure;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

const DEFAULT_URL: &str = "http://localhost:5681";
const REMEDY: &str = "; start a control plane with `weir cp run` or `weir up`, \
                      or name another with `weir config control-planes add`";

/// The file as JSON; empty when there is none.
pub(crate) fn load(reach: &Reach) -> Result<Value, Failure> {
    let path = path(reach);
    match std::fs::read_to_string(&path) {
        Ok(text) => control::resource::yaml_to_json(&text)
            .map_err(|e| Failure::config(format!("{}: {e}", path.display())))
            .map(|value| if value.is_null() { json!({}) } else { value }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(json!({})),
        Err(e) => Err(Failure::config(format!("{}: {e}", path.display()))),
    }
}

/// Tokens may stand in it: only its owner reads it.
pub(crate) fn save(reach: &Reach, config: &Value) -> Result<(), Failure> {
    let path = path(reach);
    let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let scratch = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&scratch);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch).map_err(failed)?;
    file.write_all(control::resource::to_yaml(config).as_bytes()).map_err(failed)?;
    std::fs::rename(&scratch, &path).map_err(failed)
}

/// `--config-file`, else `~/.kumactl/config`, else kumactl's place among other configurations when there is one.
fn path(reach: &Reach) -> PathBuf {
    if let Some(path) = &reach.config_file {
        return path.clone();
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".kumactl").join("config");
    let other = std::env::var_os("XDG_CONFIG_HOME").map(|dir| PathBuf::from(dir).join("kumactl").join("config"));
    match other {
        Some(other) if !home.exists() && other.exists() => other,
        _ => home,
    }
}

/// The API of the current context.
pub(crate) fn api(reach: &Reach) -> Result<Api, Failure> {
    let timeout = control::time::parse_go_duration(&reach.api_timeout)
        .map_err(|e| Failure::usage(format!("--api-timeout: {e}")))?;
    let plain = Api { remedy: REMEDY, ..Api::new(DEFAULT_URL, timeout) };
    if reach.no_config {
        return Ok(plain);
    }
    let config = load(reach)?;
    if let Some(file) = reach.config_file.as_ref().filter(|f| !f.exists()) {
        return Err(Failure::config(format!("--config-file {}: there is no such file", file.display())));
    }
    let current = config.get("currentContext").and_then(Value::as_str).unwrap_or_default();
    if current.is_empty() {
        return Ok(plain);
    }
    let missing = |what: &str, name: &str| {
        let at = path(reach);
        Failure::config(format!("{}: {what} {name} isn't in it; see `weir config control-planes list`", at.display()))
    };
    let context = named(&config, "contexts", current).ok_or_else(|| missing("context", current))?;
    let name = context.get("controlPlane").and_then(Value::as_str).unwrap_or(current);
    let entry = named(&config, "controlPlanes", name).ok_or_else(|| missing("control plane", name))?;
    let server = entry.pointer("/coordinates/apiServer").cloned().unwrap_or_default();
    of_server(&server, plain)
}

/// One `apiServer` of the file.
pub(crate) fn of_server(server: &Value, plain: Api) -> Result<Api, Failure> {
    let text = |key: &str| server.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let pem = |key: &str| match text(key) {
        file if file.is_empty() => Ok(None),
        file => std::fs::read_to_string(&file).map(Some).map_err(|e| Failure::config(format!("{file}: {e}"))),
    };
    let trust = match pem("caCertFile")? {
        _ if server.get("skipVerify").and_then(Value::as_bool).unwrap_or(false) => Trust::Anybody,
        Some(pem) => Trust::Pem(pem),
        None => Trust::System,
    };
    let client = pem("clientCertFile")?.zip(pem("clientKeyFile")?);
    let mut headers = Vec::new();
    for header in server.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let part = |key: &str| header.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        headers.push((part("key"), part("value")));
    }
    if let Some(token) = server.pointer("/authConf/token").and_then(Value::as_str) {
        headers.push(("authorization".into(), format!("Bearer {token}")));
    }
    Ok(Api { url: text("url"), headers, trust, client, ..plain })
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
