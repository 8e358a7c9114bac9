//! MeshGatewayRoute: rules, matches and backends (spec/gateway.md §3.1, §3.9). Filters are in `filter`.

use super::common::{self, EMPTY, SERVICE};
use super::decode::{Cursor, Fields, Spot};
use super::filter;
use super::{Backend, HttpRule, MatcherKind, MeshGatewayRoute, Modifier, RouteConf, RouteFilter, RouteMatch};

const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

pub(super) fn decode(f: &mut Fields<'_>) -> MeshGatewayRoute {
    let selectors = common::selectors(f, "selectors", true);
    let conf = match f.get("conf") {
        Some(cursor) => cursor.fields().map(conf).unwrap_or_default(),
        None => {
            f.spot("conf").error(EMPTY);
            RouteConf::default()
        }
    };
    MeshGatewayRoute { selectors, conf }
}

fn conf(mut f: Fields<'_>) -> RouteConf {
    let (http, tcp) = (f.get("http"), f.get("tcp"));
    if http.is_none() && tcp.is_none() {
        f.spot.error(EMPTY);
    }
    if http.is_some() && tcp.is_some() {
        f.spot.error("http and tcp exclude each other");
    }
    f.done();
    match (http, tcp) {
        (Some(cursor), _) => self::http(&cursor),
        (None, Some(cursor)) => self::tcp(&cursor),
        (None, None) => None,
    }
    .unwrap_or_default()
}

fn http(cursor: &Cursor<'_>) -> Option<RouteConf> {
    let mut f = cursor.fields()?;
    let names = f.items("hostnames");
    let hostnames = names.iter().filter_map(|c| {
        let name = c.text()?;
        if name.is_empty() {
            c.spot.error("invalid hostname");
        }
        common::hostname(&name, &c.spot);
        Some(name)
    });
    let hostnames = hostnames.collect();
    let items = f.items("rules");
    if items.is_empty() {
        f.spot("rules").error(EMPTY);
    }
    let rules = items.iter().filter_map(rule).collect();
    f.done();
    Some(RouteConf::Http { hostnames, rules })
}

fn tcp(cursor: &Cursor<'_>) -> Option<RouteConf> {
    let mut f = cursor.fields()?;
    let items = f.items("rules");
    if items.is_empty() {
        f.spot("rules").error(EMPTY);
    }
    let mut rules = Vec::new();
    for item in items {
        let Some(mut r) = item.fields() else { continue };
        let backends = backends(&mut r);
        if backends.is_empty() {
            r.spot("backends").error(EMPTY);
        }
        for name in ["matches", "filters"] {
            if r.has(name) {
                r.spot(name).warn("does not exist for TCP, ignored", "TCP can only be balanced over backends");
            }
        }
        r.also_known(&["matches", "filters"]);
        r.done();
        rules.push(backends);
    }
    f.done();
    Some(RouteConf::Tcp(rules))
}

fn rule(cursor: &Cursor<'_>) -> Option<HttpRule> {
    let mut f = cursor.fields()?;
    let items = f.items("matches");
    if items.is_empty() {
        f.spot("matches").error(EMPTY);
    }
    let matches: Vec<RouteMatch> = items.iter().filter_map(route_match).collect();
    let filters: Vec<_> = f.items("filters").into_iter().filter_map(|c| Some((filter::decode(&c)?, c.spot))).collect();
    let backends = backends(&mut f);
    filter::rules(&f.spot("filters"), &filters, &matches);
    let redirects = filters.iter().any(|(filter, _)| matches!(filter, RouteFilter::Redirect(_)));
    match (redirects, backends.is_empty()) {
        (false, true) if !f.has("backends") || items_empty(&mut f) => f.spot("backends").error(EMPTY),
        (true, false) => f.spot("backends").error("must be empty when using redirect filters"),
        _ => {}
    }
    f.done();
    Some(HttpRule { matches, filters: filters.into_iter().map(|(filter, _)| filter).collect(), backends })
}

/// Whether `backends` is an empty list, and not one whose items are broken.
fn items_empty(f: &mut Fields<'_>) -> bool {
    f.get("backends").is_some_and(|c| matches!(&c.node.value, super::yaml::Value::Seq(items) if items.is_empty()))
}

fn route_match(cursor: &Cursor<'_>) -> Option<RouteMatch> {
    let mut f = cursor.fields()?;
    let path = f.get("path").and_then(|c| path(&c));
    let method = f.get("method").and_then(|c| method(&c)).unwrap_or_default();
    let headers: Vec<_> = f.items("headers").iter().filter_map(header).collect();
    let query_parameters: Vec<_> = f.items("queryParameters").iter().filter_map(query).collect();
    let nothing = ["path", "method", "headers", "queryParameters"].iter().all(|name| !f.has(name));
    if nothing {
        f.spot.error_with(EMPTY, "to match everything write path: {match: PREFIX, value: /}");
    }
    f.done();
    Some(RouteMatch { path, method, headers, query_parameters })
}

fn method(cursor: &Cursor<'_>) -> Option<String> {
    let names: Vec<_> = std::iter::once(("NONE", 0, "")).chain((1..).zip(METHODS).map(|(n, m)| (m, n, m))).collect();
    cursor.one_of(&names).map(str::to_owned)
}

fn path(cursor: &Cursor<'_>) -> Option<Modifier> {
    let kinds =
        [("EXACT", 0, MatcherKind::Exact), ("PREFIX", 1, MatcherKind::Prefix), ("REGEX", 2, MatcherKind::Regex)];
    let mut f = cursor.fields()?;
    let kind = f.get("match").and_then(|c| c.one_of(&kinds)).unwrap_or_default();
    let value = f.text("value");
    let spot = value_spot(&f);
    if kind == MatcherKind::Regex {
        if value.is_empty() {
            spot.error(EMPTY);
        }
        regex(&value, &f.spot("value"));
    } else if !value.starts_with('/') {
        spot.error("must be an absolute path");
    }
    f.done();
    Some(Modifier { kind, name: String::new(), value })
}

/// Kuma reports a path's value one level up: `matches[i].value`.
fn value_spot<'a>(f: &Fields<'a>) -> Spot<'a> {
    let mut spot = f.spot("value");
    if let Some(parent) = f.spot.path.strip_suffix(".path") {
        spot.path = format!("{parent}.value");
    }
    spot
}

/// A broken regular expression disables its rule only, so it is a warning.
fn regex(value: &str, spot: &Spot<'_>) {
    if let Err(error) = regex::RegexBuilder::new(value).size_limit(1 << 20).build() {
        let cause = error.to_string();
        let cause = cause.lines().last().unwrap_or_default();
        spot.warn(format!("is not a valid regular expression, so this rule will not be served: {cause}"), "mend it");
    }
}

fn header(cursor: &Cursor<'_>) -> Option<Modifier> {
    let kinds = [
        ("EXACT", 0, MatcherKind::Exact),
        ("REGEX", 1, MatcherKind::Regex),
        ("ABSENT", 2, MatcherKind::Absent),
        ("PRESENT", 3, MatcherKind::Present),
    ];
    let mut f = cursor.fields()?;
    let kind = f.get("match").and_then(|c| c.one_of(&kinds)).unwrap_or_default();
    let (name, value) = (f.text("name"), f.text("value"));
    if name.is_empty() {
        f.spot("name").error(EMPTY);
    }
    match kind {
        MatcherKind::Absent | MatcherKind::Present if !value.is_empty() => f.spot("value").error("cannot be set"),
        MatcherKind::Absent | MatcherKind::Present => {}
        _ if value.is_empty() => f.spot("value").error(EMPTY),
        MatcherKind::Regex => regex(&value, &f.spot("value")),
        _ => {}
    }
    f.done();
    Some(Modifier { kind, name, value })
}

fn query(cursor: &Cursor<'_>) -> Option<Modifier> {
    let kinds = [("EXACT", 0, MatcherKind::Exact), ("REGEX", 1, MatcherKind::Regex)];
    let mut f = cursor.fields()?;
    // Kuma's paths have the field's original name.
    f.spot.path = f.spot.path.replace(".queryParameters[", ".query_parameters[");
    let kind = f.get("match").and_then(|c| c.one_of(&kinds)).unwrap_or_default();
    let (name, value) = (f.text("name"), f.text("value"));
    for (text, field) in [(&name, "name"), (&value, "value")] {
        if text.is_empty() {
            f.spot(field).error(EMPTY);
        }
    }
    if kind == MatcherKind::Regex && !value.is_empty() {
        regex(&value, &f.spot("value"));
    }
    f.done();
    Some(Modifier { kind, name, value })
}

fn backends(f: &mut Fields<'_>) -> Vec<Backend> {
    let all: Vec<Backend> = f.items("backends").iter().filter_map(backend).collect();
    let spot = f.spot("backends");
    if all.len() > 1 {
        if all.iter().all(|b| b.weight.is_none()) {
            spot.warn("no backend has a weight; all get equal shares", "write a weight for each backend");
        } else if all.iter().all(|b| b.weight.unwrap_or_default() == 0) {
            spot.warn("every weight is 0, so requests are answered with 500", "give at least one backend a weight");
        } else if all.iter().any(|b| b.weight.is_none()) {
            spot.warn(
                "a backend without a weight gets no traffic while others have one",
                "write a weight for each backend",
            );
        }
    }
    all
}

pub(super) fn backend(cursor: &Cursor<'_>) -> Option<Backend> {
    let mut f = cursor.fields()?;
    let range = 0..=i128::from(u32::MAX);
    let weight = f.get("weight").and_then(|c| c.in_range(range, "must be a whole number, 0 or more"));
    let destination = f.get("destination").map(|c| common::matching_tags(&c)).unwrap_or_default();
    if !destination.contains_key(SERVICE) {
        f.spot("destination").error(common::missing_tag(SERVICE));
    }
    f.done();
    Some(Backend { weight, destination })
}
