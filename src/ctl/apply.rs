//! `apply` and `delete`: what changes resources.

use super::client::{Answer, Api};
use super::files::read_all;
use super::{Done, config, item_path, known};
use crate::cli::{Apply, Delete};
use crate::failure::Failure;
use crate::print::note;
use control::resource::Resource;
use http::{Method, StatusCode};
use serde_json::Value;
use std::fmt::Write as _;

/// One that is refused doesn't keep the others from being applied; the command has failed all the same.
pub(crate) async fn apply(args: Apply) -> Done {
    let api = config::api(&args.reach)?;
    let resources = read_all(&args.files, &args.vars, &args.reach.mesh).await?;
    let mut out = String::new();
    let mut refused = Vec::new();
    for resource in resources {
        match apply_one(&api, &resource, args.dry_run).await {
            Ok(Ok(verb)) => {
                let _ = writeln!(out, "{} {verb}", resource.key());
            }
            Ok(Err(answer)) => refused.push(format!("{}: {}", resource.key(), answer.refusal().text)),
            // No answer: the others wouldn't get one either.
            Err(failure) => return Err(Failure { printed: out, ..failure }),
        }
    }
    if refused.is_empty() { Ok(out) } else { Err(Failure { printed: out, ..Failure::failed(refused.join("\n")) }) }
}

async fn apply_one(api: &Api, resource: &Resource, dry_run: bool) -> Result<Result<&'static str, Answer>, Failure> {
    let info = known(resource.kind())?;
    let path = item_path(info, &resource.meta.mesh, &resource.meta.name);
    let wanted = resource.to_json();
    let current = api.send(Method::GET, &path, None).await?;
    let (done, would) = match current.status {
        StatusCode::OK if as_written(current.json()?) == as_written(wanted.clone()) => return Ok(Ok("unchanged")),
        StatusCode::OK => ("updated", "would be updated"),
        StatusCode::NOT_FOUND => ("created", "would be created"),
        _ => return Ok(Err(current)),
    };
    if dry_run {
        return Ok(Ok(would));
    }
    let answer = api.send(Method::PUT, &path, Some(wanted.to_string())).await?;
    if !answer.status.is_success() {
        return Ok(Err(answer));
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    for warning in body.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        note(&format!("Warning: {}: {warning}", resource.key()));
    }
    Ok(Ok(done))
}

/// Without what the server adds to a resource.
fn as_written(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        for key in ["creationTime", "modificationTime", "kri", "status"] {
            object.remove(key);
        }
    }
    value
}

pub(crate) async fn delete(args: Delete) -> Done {
    let api = config::api(&args.reach)?;
    let mut targets = Vec::new();
    match (&args.kind, &args.name) {
        (Some(kind), Some(name)) if args.files.is_empty() => {
            targets.push((known(kind)?, args.reach.mesh.clone(), name.clone()))
        }
        (None, None) if !args.files.is_empty() => {
            // What a mesh holds before the mesh.
            for resource in read_all(&args.files, &args.vars, &args.reach.mesh).await?.into_iter().rev() {
                targets.push((known(resource.kind())?, resource.meta.mesh, resource.meta.name));
            }
        }
        _ => return Err(Failure::usage("say what to delete: a kind and a name, or -f FILE")),
    }
    let mut out = String::new();
    let mut refused = Vec::new();
    for (info, mesh, name) in targets {
        let answer = match api.send(Method::DELETE, &item_path(info, &mesh, &name), None).await {
            Ok(answer) => answer,
            Err(failure) => return Err(Failure { printed: out, ..failure }),
        };
        match answer.status {
            s if s.is_success() => {
                let _ = writeln!(out, "deleted {} \"{name}\"", info.kind);
            }
            StatusCode::NOT_FOUND => refused.push(format!("there is no {} with name \"{name}\"", info.kind)),
            _ => refused.push(answer.refusal().text),
        }
    }
    if refused.is_empty() { Ok(out) } else { Err(Failure { printed: out, ..Failure::failed(refused.join("\n")) }) }
}
