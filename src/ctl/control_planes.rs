//! `config`: which control planes are known, and which one the commands talk to.

use super::client::Api;
use super::table::Table;
use super::{Done, config};
use crate::cli::{Config, ControlPlanes, Reach};
use crate::failure::Failure;
use http::Method;
use serde_json::{Map, Value, json};

pub(crate) async fn configure(args: Config) -> Done {
    match args {
        Config::View { reach } => Ok(control::resource::to_yaml(&config::load(&reach)?)),
        Config::ControlPlanes(ControlPlanes::Add(args)) => {
            let server = server(&args)?;
            let mut file = config::load(&args.reach)?;
            let name = &args.name;
            if !args.overwrite && config::named(&file, "controlPlanes", name).is_some() {
                let text = format!(
                    "Control Plane with name \"{name}\" already exists. Use --overwrite to replace an existing one."
                );
                return Err(Failure::failed(text));
            }
            if !args.skip_check {
                check(&server, &args.reach).await?;
            }
            config::put(&mut file, "controlPlanes", name, json!({"name": name, "coordinates": {"apiServer": server}}));
            config::put(&mut file, "contexts", name, json!({"name": name, "controlPlane": name}));
            config::as_object(&mut file).insert("currentContext".into(), json!(name));
            config::save(&args.reach, &file)?;
            Ok(format!("added Control Plane \"{name}\"\nswitched active Control Plane to \"{name}\"\n"))
        }
        Config::ControlPlanes(ControlPlanes::List { reach }) => Ok(table(&config::load(&reach)?)),
        Config::ControlPlanes(ControlPlanes::Remove { reach, name }) => {
            let mut file = config::load(&reach)?;
            if !config::remove(&mut file, "controlPlanes", &name) {
                return Err(unknown(&name));
            }
            config::remove(&mut file, "contexts", &name);
            let was_current = file.get("currentContext").and_then(Value::as_str) == Some(name.as_str());
            if was_current {
                config::as_object(&mut file).remove("currentContext");
            }
            config::save(&reach, &file)?;
            let then = if was_current {
                "no Control Plane is active now: commands talk to http://localhost:5681\n"
            } else {
                ""
            };
            Ok(format!("removed Control Plane \"{name}\"\n{then}"))
        }
        Config::ControlPlanes(ControlPlanes::Switch { reach, name }) => {
            let mut file = config::load(&reach)?;
            if config::named(&file, "contexts", &name).is_none() {
                return Err(unknown(&name));
            }
            config::as_object(&mut file).insert("currentContext".into(), json!(name));
            config::save(&reach, &file)?;
            Ok(format!("switched active Control Plane to \"{name}\"\n"))
        }
    }
}

fn unknown(name: &str) -> Failure {
    Failure::failed(format!("there is no Control Plane with name \"{name}\""))
}

/// `apiServer` as kumactl writes it.
fn server(args: &crate::cli::AddControlPlane) -> Result<Value, Failure> {
    let mut server = Map::from_iter([("url".to_owned(), json!(args.address))]);
    let files = [
        ("caCertFile", &args.ca_cert_file),
        ("clientCertFile", &args.client_cert_file),
        ("clientKeyFile", &args.client_key_file),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            // The commands run in any folder.
            let file = std::path::absolute(file).map_err(|e| Failure::usage(format!("{file}: {e}")))?;
            server.insert(key.into(), json!(file));
        }
    }
    if args.skip_verify {
        server.insert("skipVerify".into(), json!(true));
    }
    let headers: Vec<Value> = pairs("--headers", &args.headers)?
        .into_iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    if !headers.is_empty() {
        server.insert("headers".into(), json!(headers));
    }
    if !args.auth_type.is_empty() {
        if args.auth_type != "tokens" {
            return Err(Failure::usage(format!("--auth-type {}: only tokens is available", args.auth_type)));
        }
        let conf: Map<String, Value> =
            pairs("--auth-conf", &args.auth_conf)?.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect();
        server.insert("authType".into(), json!(args.auth_type));
        server.insert("authConf".into(), Value::Object(conf));
    }
    Ok(Value::Object(server))
}

fn pairs<'a>(flag: &str, given: &'a [String]) -> Result<Vec<(&'a str, &'a str)>, Failure> {
    let split = |pair: &'a String| {
        pair.split_once('=').ok_or_else(|| Failure::usage(format!("{flag} {pair}: write it as name=value")))
    };
    given.iter().map(split).collect()
}

fn table(file: &Value) -> String {
    let mut table = Table::new(&["ACTIVE", "NAME", "ADDRESS"]);
    let current = file.get("currentContext").and_then(Value::as_str).unwrap_or_default();
    let text =
        |entry: &Value, pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    for entry in file.get("controlPlanes").and_then(Value::as_array).into_iter().flatten() {
        let name = text(entry, "/name");
        let mark = if name == current { "*" } else { "" };
        table.row(vec![mark.into(), name, text(entry, "/coordinates/apiServer/url")]);
    }
    table.render()
}

/// Whether a control plane answers there, before it is remembered.
async fn check(server: &Value, reach: &Reach) -> Result<(), Failure> {
    let nowhere = Reach { no_config: true, ..reach.clone() };
    let api: Api = config::of_server(server, config::api(&nowhere)?)?;
    let hint = "; nothing was changed (--skip-check adds it unasked)";
    let answer = api.send(Method::GET, "/", None).await;
    let answer = answer.map_err(|f| Failure { text: format!("{}{hint}", f.text), ..f })?;
    let product = answer.json().ok().and_then(|v| v.get("product").and_then(Value::as_str).map(str::to_owned));
    if product.as_deref() == Some("Kuma") {
        return Ok(());
    }
    if answer.status == http::StatusCode::UNAUTHORIZED {
        return Err(Failure::failed(format!("{}: {}{hint}", api.url, answer.refusal().text)));
    }
    Err(Failure::failed(format!("{}: what answers there isn't a control plane{hint}", api.url)))
}
