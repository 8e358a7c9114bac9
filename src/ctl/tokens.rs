//! `generate`: asks the control plane for tokens.

use super::{Done, config};
use crate::cli::Generate;
use crate::failure::Failure;
use crate::print::note;
use http::Method;
use serde_json::{Map, Value, json};

pub(crate) async fn generate(args: Generate) -> Done {
    let (reach, path, body) = match args {
        Generate::DataplaneToken { reach, name, tag, proxy_type, valid_for } => {
            let tags = tags(&tag)?;
            let body =
                json!({"name": name, "mesh": reach.mesh, "tags": tags, "type": proxy_type, "validFor": valid_for});
            (reach, "/tokens/dataplane", body)
        }
        Generate::ZoneToken { reach, zone, scope, valid_for } => {
            let odd: Vec<&str> =
                scope.iter().map(String::as_str).filter(|s| !matches!(*s, "ingress" | "egress")).collect();
            if !odd.is_empty() {
                let text = format!("invalid --scope values: [{}] (supported scopes: [ingress egress])", odd.join(" "));
                return Err(Failure::usage(text));
            }
            if zone.is_empty() {
                note("Warning: no --zone: the token is good for zone proxies of any zone");
            }
            (reach, "/tokens/zone", json!({"zone": zone, "scope": scope, "validFor": valid_for}))
        }
        Generate::UserToken { reach, name, group, valid_for } => {
            (reach, "/tokens/user", json!({"name": name, "groups": group, "validFor": valid_for}))
        }
    };
    let answer = config::api(&reach)?.send(Method::POST, path, Some(body.to_string())).await?;
    if !answer.status.is_success() {
        return Err(answer.refusal());
    }
    Ok(answer.body)
}

/// `tag=a,b`, repeatable; a tag that is given twice has the values of both.
fn tags(pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut tags = Map::new();
    for pair in pairs {
        let (key, values) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--tag {pair}: write it as tag=value")))?;
        if let Value::Array(all) = tags.entry(key).or_insert_with(|| json!([])) {
            all.extend(values.split(',').map(Value::from));
        }
    }
    Ok(tags)
}
