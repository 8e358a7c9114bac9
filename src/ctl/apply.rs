//! `apply` and `delete`: what changes resources.

use super::client::{Answer, Api, Line};
use super::files::read_all;
use super::{Done, config, item_path, known};
use crate::cli::{Apply, Delete};
use crate::failure::Failure;
use crate::print::note;
use control::resource::{Key, Resource};
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;

/// Resources on their way at the same time: a durable store commits them together.
const LANES: usize = 32;

type Outcome = Result<Result<&'static str, Answer>, Failure>;

/// One that is refused doesn't keep the others from being applied; the command has failed all the same.
pub(crate) async fn apply(args: Apply) -> Done {
    let api = Arc::new(config::api(&args.reach)?);
    let mut resources = read_all(&args.files, &args.vars, &args.reach.mesh).await?;
    // Meshes come first, and what lives in them after them. Of a resource written twice the last one counts.
    let meshes = resources.iter().take_while(|r| r.kind() == "Mesh").count();
    let others = resources.split_off(meshes);
    let is_twice = others.iter().map(Resource::key).collect::<BTreeSet<_>>().len() < others.len();
    let mut outcomes = in_lanes(&api, resources, 1, args.dry_run).await;
    if outcomes.iter().all(|(_, outcome)| outcome.is_ok()) {
        outcomes.extend(in_lanes(&api, others, if is_twice { 1 } else { LANES }, args.dry_run).await);
    }
    let mut out = String::new();
    let mut refused = Vec::new();
    for (key, outcome) in outcomes {
        match outcome {
            Ok(Ok(verb)) => {
                let _ = writeln!(out, "{key} {verb}");
            }
            Ok(Err(answer)) => refused.push(format!("{key}: {}", answer.refusal().text)),
            // No answer: the others wouldn't get one either.
            Err(failure) => return Err(Failure { printed: out, ..failure }),
        }
    }
    if refused.is_empty() { Ok(out) } else { Err(Failure { printed: out, ..Failure::failed(refused.join("\n")) }) }
}

/// Outcomes in the order of `resources`, up to the first without an answer.
async fn in_lanes(api: &Arc<Api>, resources: Vec<Resource>, lanes: usize, dry_run: bool) -> Vec<(Key, Outcome)> {
    let (resources, next) = (Arc::new(resources), Arc::new(AtomicUsize::new(0)));
    let mut running = JoinSet::new();
    for _ in 0..lanes.min(resources.len()) {
        let (api, resources, next) = (api.clone(), resources.clone(), next.clone());
        running.spawn(async move {
            let mut line = Line::new(&api);
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(resource) = resources.get(at) else { return done };
                let outcome = apply_one(&mut line, resource, dry_run).await;
                if outcome.is_err() {
                    next.store(resources.len(), Ordering::Relaxed);
                }
                done.push((at, resource.key(), outcome));
            }
        });
    }
    let mut all: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    all.sort_by_key(|(at, ..)| *at);
    all.into_iter().map(|(_, key, outcome)| (key, outcome)).collect()
}

async fn apply_one(line: &mut Line<'_>, resource: &Resource, dry_run: bool) -> Outcome {
    let info = known(resource.kind())?;
    let path = item_path(info, &resource.meta.mesh, &resource.meta.name);
    let wanted = resource.to_json();
    if dry_run {
        let current = line.send(Method::GET, &path, None).await?;
        return Ok(match current.status {
            StatusCode::OK if as_written(current.json()?) == as_written(wanted) => Ok("unchanged"),
            StatusCode::OK => Ok("would be updated"),
            StatusCode::NOT_FOUND => Ok("would be created"),
            _ => Err(current),
        });
    }
    let answer = line.send(Method::PUT, &path, Some(wanted.to_string())).await?;
    if !answer.status.is_success() {
        return Ok(Err(answer));
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    for warning in body.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        note(&format!("Warning: {}: {warning}", resource.key()));
    }
    let is_unchanged = body.get("outcome").and_then(Value::as_str) == Some("unchanged");
    Ok(Ok(match answer.status {
        StatusCode::CREATED => "created",
        _ if is_unchanged => "unchanged",
        _ => "updated",
    }))
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
    let mut line = Line::new(&api);
    for (info, mesh, name) in targets {
        let answer = match line.send(Method::DELETE, &item_path(info, &mesh, &name), None).await {
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
