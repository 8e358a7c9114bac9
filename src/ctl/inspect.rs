//! `inspect`: resources with their state, as the overviews of the API give it.

use super::show::{encode, list, tags_of, text};
use super::table::{Table, age};
use super::{Done, config, segment};
use crate::cli::{Inspect, Output, View};
use crate::failure::Failure;
use http::{Method, StatusCode};
use serde_json::Value;

/// What can be inspected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Dataplanes,
    Zones,
    Ingresses,
    Egresses,
    Meshes,
    Services,
}

impl What {
    fn named(word: &str) -> Result<Self, Failure> {
        Ok(match word.to_ascii_lowercase().as_str() {
            "dataplane" | "dataplanes" => Self::Dataplanes,
            "zone" | "zones" => Self::Zones,
            "zone-ingress" | "zone-ingresses" | "zoneingress" | "zoneingresses" => Self::Ingresses,
            "zone-egress" | "zone-egresses" | "zoneegress" | "zoneegresses" => Self::Egresses,
            "mesh" | "meshes" => Self::Meshes,
            "service" | "services" => Self::Services,
            _ => {
                let known = "dataplanes, names, zones, zone-ingresses, zoneegresses, meshes or services";
                return Err(Failure::usage(format!("there is nothing to inspect about {word}; try {known}")));
            }
        })
    }

    fn path(self, mesh: &str) -> String {
        match self {
            Self::Dataplanes => format!("/meshes/{mesh}/dataplanes"),
            Self::Zones => "/zones".into(),
            Self::Ingresses => "/zone-ingresses".into(),
            Self::Egresses => "/zoneegresses".into(),
            Self::Meshes => "/mesh-insights".into(),
            Self::Services => format!("/meshes/{mesh}/service-insights"),
        }
    }

    fn has_overview(self) -> bool {
        !matches!(self, Self::Meshes | Self::Services)
    }

    /// Where the resource and its insight stand in an overview.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Zones => ("zone", "zoneInsight"),
            Self::Ingresses => ("zoneIngress", "zoneIngressInsight"),
            Self::Egresses => ("zoneEgress", "zoneEgressInsight"),
            _ => ("dataplane", "dataplaneInsight"),
        }
    }
}

pub(crate) async fn inspect(args: Inspect) -> Done {
    if ["name", "names"].contains(&args.what.to_ascii_lowercase().as_str()) {
        return super::names::inspect(args).await;
    }
    let what = What::named(&args.what)?;
    let api = config::api(&args.reach)?;
    let path = what.path(&segment(&args.reach.mesh));
    if let Some(name) = &args.name {
        let part = match args.view {
            View::Overview if what.has_overview() => "/_overview",
            View::Overview => "",
            View::Policies => "/policies",
            View::Config => "/_snapshot",
        };
        if args.view == View::Policies {
            let text = "--type policies isn't available; --type config shows what the proxy executes, line by line with its resource";
            return Err(Failure::failed(text));
        }
        let answer = api.send(Method::GET, &format!("{path}/{}{part}", segment(name)), None).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal());
        }
        let Ok(value) = answer.json() else { return Ok(answer.body) };
        let table = || what.table(std::slice::from_ref(&value));
        return Ok(match args.view {
            View::Overview => encode(&value, args.output).unwrap_or_else(table),
            // No table can hold them.
            _ => encode(&value, args.output).or_else(|| encode(&value, Output::Yaml)).unwrap_or_default(),
        });
    }
    let mut query: Vec<String> = Vec::new();
    for tag in &args.tag {
        let (key, value) =
            tag.split_once('=').ok_or_else(|| Failure::usage(format!("--tag {tag}: write it as tag=value")))?;
        query.push(format!("tag={}", segment(&format!("{key}:{value}"))));
    }
    if args.gateway {
        query.push("gateway=true".into());
    }
    let overview = if what.has_overview() { "/_overview" } else { "" };
    let question = if query.is_empty() { "" } else { "?" };
    let page = list(&api, &format!("{path}{overview}{question}{}", query.join("&")), None, None).await?;
    Ok(encode(&page.to_json(), args.output).unwrap_or_else(|| what.table(&page.items)))
}

impl What {
    fn table(self, items: &[Value]) -> String {
        let now = control::time::Clock::system().now_ms();
        let count = |item: &Value, pointer: &str| item.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        match self {
            Self::Meshes => {
                let mut table = Table::new(&["NAME", "DATAPLANES", "SERVICES"]);
                for item in items {
                    let (online, total) = (count(item, "/dataplanes/online"), count(item, "/dataplanes/total"));
                    let services = count(item, "/services/total");
                    table.row(vec![text(item, "/name"), format!("{online}/{total}"), services.to_string()]);
                }
                table.render()
            }
            Self::Services => {
                let mut table = Table::new(&["SERVICE", "STATUS", "DATAPLANES"]);
                for item in items {
                    let (online, total) = (count(item, "/dataplanes/online"), count(item, "/dataplanes/total"));
                    let status = capitalised(&text(item, "/status").replace('_', " "));
                    table.row(vec![text(item, "/name"), status, format!("{online}/{total}")]);
                }
                table.render()
            }
            Self::Dataplanes => dataplanes(items, now),
            Self::Zones | Self::Ingresses | Self::Egresses => self.zone_table(items, now),
        }
    }

    fn zone_table(self, items: &[Value], now: u64) -> String {
        let (_, insight) = self.parts();
        let version = if self == Self::Zones { "ZONE-CP VERSION" } else { "KUMA-DP VERSION" };
        let mut headers =
            vec!["NAME", "STATUS", "LAST CONNECTED AGO", "LAST UPDATED AGO", "TOTAL UPDATES", "TOTAL ERRORS"];
        headers.push(version);
        headers.push(if self == Self::Zones { "BACKEND" } else { "ENVOY VERSION" });
        let mut table = Table::new(&headers);
        for item in items {
            let state = State::of(item.get(insight), now);
            let mut row = vec![text(item, "/name"), status(&state, None).to_owned()];
            row.extend(state.cells());
            row.extend([state.version, "-".into()]);
            table.row(row);
        }
        table.render()
    }
}

fn dataplanes(items: &[Value], now: u64) -> String {
    let (resource, insight) = What::Dataplanes.parts();
    let mut table = Table::new(&[
        "MESH",
        "NAME",
        "TAGS",
        "STATUS",
        "LAST CONNECTED AGO",
        "LAST UPDATED AGO",
        "TOTAL UPDATES",
        "TOTAL ERRORS",
        "CERT REGENERATED AGO",
        "CERT EXPIRATION",
        "CERT REGENERATIONS",
        "CERT BACKEND",
        "SUPPORTED CERT BACKENDS",
        "KUMA-DP VERSION",
        "ENVOY VERSION",
        "DEPENDENCIES VERSIONS",
        "NOTES",
    ]);
    for item in items {
        let inner = item.get(resource).unwrap_or(item);
        let insight = item.get(insight);
        let state = State::of(insight, now);
        let mut row =
            vec![text(item, "/mesh"), text(item, "/name"), tags_of(inner), status(&state, Some(inner)).to_owned()];
        row.extend(state.cells());
        row.extend(certificate(insight.and_then(|i| i.get("mTLS")), now));
        row.extend([state.version, "-".into(), "-".into(), notes(insight)]);
        table.row(row);
    }
    table.render()
}

/// Of the newest subscription, and the sums of all.
struct State {
    online: bool,
    connected: String,
    updated: String,
    updates: u64,
    errors: u64,
    version: String,
}

impl State {
    fn of(insight: Option<&Value>, now: u64) -> Self {
        let empty = Vec::new();
        let subscriptions = insight.and_then(|i| i.get("subscriptions")).and_then(Value::as_array).unwrap_or(&empty);
        let last = subscriptions.last();
        let ago = |pointer: &str| age(last.and_then(|s| control::time::from_rfc3339(&text(s, pointer))), now);
        let sum = |pointer: &str| subscriptions.iter().filter_map(|s| number(s.pointer(pointer)?)).sum();
        let version = last.map(|s| ["/version/kumaDp/version", "/version/kumaCp/version"].map(|p| text(s, p)));
        Self {
            online: subscriptions
                .iter()
                .any(|s| !text(s, "/connectTime").is_empty() && text(s, "/disconnectTime").is_empty()),
            connected: ago("/connectTime"),
            updated: ago("/status/lastUpdateTime"),
            updates: sum("/status/total/responsesSent"),
            errors: sum("/status/total/responsesRejected"),
            version: version.into_iter().flatten().find(|v| !v.is_empty()).unwrap_or_else(|| "-".into()),
        }
    }

    fn cells(&self) -> [String; 4] {
        [self.connected.clone(), self.updated.clone(), self.updates.to_string(), self.errors.to_string()]
    }
}

/// Kuma writes 64-bit numbers as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn status(state: &State, dataplane: Option<&Value>) -> &'static str {
    if !state.online {
        return "Offline";
    }
    let inbounds = dataplane.and_then(|d| d.pointer("/networking/inbound")).and_then(Value::as_array);
    let ready = |inbound: &Value| {
        let state = text(inbound, "/state");
        let health = inbound.pointer("/health/ready").and_then(Value::as_bool);
        state != "NotReady" && health != Some(false)
    };
    match inbounds.map(|all| (all.len(), all.iter().filter(|i| ready(i)).count())) {
        Some((1.., 0)) => "Offline",
        Some((all, ready)) if ready < all => "Partially degraded",
        _ => "Online",
    }
}

/// The first of what the proxy refused and what couldn't be compiled for it; `-o yaml` has all.
fn notes(insight: Option<&Value>) -> String {
    let texts = |name: &str| insight.and_then(|i| i.get(name)).and_then(Value::as_array).into_iter().flatten();
    let all: Vec<&str> = texts("rejected").chain(texts("problems")).filter_map(Value::as_str).collect();
    match all.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

fn certificate(mtls: Option<&Value>, now: u64) -> [String; 5] {
    let Some(mtls) = mtls.filter(|m| m.is_object()) else { return ["never", "-", "0", "-", "-"].map(str::to_owned) };
    let made = control::time::from_rfc3339(&text(mtls, "/lastCertificateRegeneration"));
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let supported = mtls.get("supportedBackends").and_then(Value::as_array).into_iter().flatten();
    let supported: Vec<&str> = supported.filter_map(Value::as_str).collect();
    [
        age(made, now),
        or_dash(text(mtls, "/certificateExpirationTime").replace('T', " ").trim_end_matches('Z').to_owned()),
        mtls.get("certificateRegenerations").and_then(number).unwrap_or(0).to_string(),
        or_dash(text(mtls, "/issuedBackend")),
        or_dash(supported.join(", ")),
    ]
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
