//! Routes of a gateway's HTTP port: which virtual hosts there are, which routes each one has and in which order, and
//! what a route does. It knows no socket and no certificate.

use super::gateway::Builtin;
use super::sni::service;
use crate::resource::{
    self, GatewayListener, GatewayProtocol, HeaderFilter, HttpRule, MatcherKind, MeshGatewayRoute, Meta, PathReplace,
    RouteConf, RouteFilter, RouteMatch,
};
use snapshot::{
    Backend, Filters, Forward, HeaderMatch, HeaderOps, HostPattern, Match, Mirror, Origin, PathMatch, PathRewrite,
    QueryMatch, Redirect, RouteAction, RouteRow, TextMatch, Timeouts, VirtualHost, limits,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host without any route answers this with 404.
const PAGE: &str = "This is a Kuma MeshGateway. No routes match this MeshGateway!\n";
/// A destination that is meant not to exist: 500.
const UNRESOLVED: &str = "kuma.io/unresolved-backend";
const HSTS: (&str, &str) = ("strict-transport-security", "max-age=31536000; includeSubDomains");

/// One listener of a MeshGateway, with the routes that its tags select.
pub(super) struct Sub<'a> {
    pub host: HostPattern,
    pub listener: &'a GatewayListener,
    /// Sorted by name.
    pub routes: Vec<(&'a Meta, &'a MeshGatewayRoute)>,
}

/// Routes of a virtual host by name: attached twice counts once.
type Attached<'a> = BTreeMap<&'a str, &'a MeshGatewayRoute>;
type Hosts<'a> = BTreeMap<String, (HostPattern, Attached<'a>)>;

/// The virtual hosts of a port.
pub(super) fn hosts(gateway: &mut Builtin<'_>, subs: &[Sub<'_>], first: &GatewayListener) -> Vec<Arc<VirtualHost>> {
    let is_https = first.protocol == GatewayProtocol::Https;
    let distributed = if is_https { distribute_apart(subs) } else { distribute(subs) };
    distributed
        .into_values()
        .map(|(host, attached)| {
            let mut entries = Vec::new();
            for (name, route) in attached {
                entries.extend(entries_of(gateway, name, route, first));
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let mut routes: Vec<RouteRow> = entries.into_iter().map(|(_, row)| row).collect();
            note_shadowed(gateway, &host, &routes);
            if is_https {
                routes.iter_mut().for_each(demand_tls);
            }
            if routes.is_empty() {
                let action = RouteAction::Respond { status: 404, body: PAGE.into() };
                routes.push(RouteRow { matches: Match::default(), action, origin: gateway.origin.clone() });
            }
            Arc::new(VirtualHost { host, routes })
        })
        .collect()
}

/// All listeners of an HTTP port share one table.
fn distribute<'a>(subs: &[Sub<'a>]) -> Hosts<'a> {
    let mut hosts = Hosts::new();
    let mut regions: Vec<(HostPattern, &'a str, &'a MeshGatewayRoute)> = Vec::new();
    for sub in subs {
        hosts.entry(sub.host.to_string()).or_insert_with(|| (sub.host.clone(), Attached::new()));
        for (meta, route) in &sub.routes {
            let RouteConf::Http { hostnames, .. } = &route.conf else { continue };
            if hostnames.is_empty() {
                let own = hosts.entry(sub.host.to_string()).or_insert_with(|| (sub.host.clone(), Attached::new()));
                own.1.insert(&meta.name, route);
            }
            for wanted in hostnames.iter().map(|h| HostPattern::parse(h)) {
                if sub.host.intersects(&wanted) {
                    let region = if sub.host.contains(&wanted) { wanted } else { sub.host.clone() };
                    regions.push((region, &meta.name, route));
                }
            }
        }
    }
    for (region, ..) in &regions {
        hosts.entry(region.to_string()).or_insert_with(|| (region.clone(), Attached::new()));
    }
    // Only now all hosts are known, so that the order of routes doesn't matter.
    for (region, name, route) in regions {
        for (host, attached) in hosts.values_mut() {
            if *host == region || (region != HostPattern::Any && region.contains(host)) {
                attached.insert(name, route);
            }
        }
    }
    hosts
}

/// Each HTTPS listener has a table of its own. They fit into one when a host is kept only in the listener that its SNI
/// chooses; the proxy refuses a Host whose best certificate name isn't the connection's.
fn distribute_apart<'a>(subs: &[Sub<'a>]) -> Hosts<'a> {
    let mut all = Hosts::new();
    for sub in subs {
        let own = distribute(std::slice::from_ref(sub));
        let kept = own.into_iter().filter(|(_, (host, _))| {
            subs.iter().find(|s| s.host.contains(host)).is_some_and(|best| best.host == sub.host)
        });
        all.extend(kept);
    }
    all
}

/// Who comes first within a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    kind: PathKind,
    path_bytes: Reverse<usize>,
    has_method: Reverse<bool>,
    headers: Reverse<usize>,
    queries: Reverse<usize>,
    path: String,
    route: String,
    rule: usize,
    matching: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

impl Precedence {
    fn new(matches: &Match, route: &str, rule: usize, matching: usize) -> Self {
        let (kind, path) = match &matches.path {
            PathMatch::Exact(path) => (PathKind::Exact, path),
            PathMatch::Prefix(path) => (PathKind::Prefix, path),
            PathMatch::Regex(path) => (PathKind::Regex, path),
        };
        Self {
            kind,
            path_bytes: Reverse(path.len()),
            has_method: Reverse(matches.method.is_some()),
            headers: Reverse(matches.headers.len()),
            queries: Reverse(matches.queries.len()),
            path: path.clone(),
            route: route.to_owned(),
            rule,
            matching,
        }
    }
}

fn entries_of(
    gateway: &mut Builtin<'_>,
    name: &str,
    route: &MeshGatewayRoute,
    first: &GatewayListener,
) -> Vec<(Precedence, RouteRow)> {
    let RouteConf::Http { rules, .. } = &route.conf else { return Vec::new() };
    let origin = Origin::new("MeshGatewayRoute", &gateway.input.mesh.name, name);
    let mut entries = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let matches: Result<Vec<Match>, String> = rule.matches.iter().map(match_of).collect();
        let action = matches.and_then(|matches| Ok((matches, action_of(gateway, &origin, at, rule, first.port)?)));
        match action {
            Ok((matches, action)) => {
                for (index, matches) in matches.into_iter().enumerate() {
                    let precedence = Precedence::new(&matches, name, at, index);
                    entries.push((precedence, RouteRow { matches, action: action.clone(), origin: origin.clone() }));
                }
            }
            Err(text) => gateway.rows.note(origin.clone(), format!("rule {at} is left out: {text}")),
        }
    }
    entries
}

fn match_of(matching: &RouteMatch) -> Result<Match, String> {
    let path = match &matching.path {
        None => PathMatch::default(),
        Some(path) => match path.kind {
            MatcherKind::Exact => PathMatch::Exact(path.value.clone()),
            MatcherKind::Prefix => PathMatch::Prefix(path.value.trim_end_matches('/').to_owned()),
            MatcherKind::Regex => PathMatch::Regex(regex(&path.value)?),
            MatcherKind::Absent | MatcherKind::Present => return Err("a path is matched EXACT, PREFIX or REGEX".into()),
        },
    };
    let headers: Result<Vec<HeaderMatch>, String> = matching
        .headers
        .iter()
        .map(|h| Ok(HeaderMatch { name: h.name.to_ascii_lowercase(), value: text(h)? }))
        .collect();
    let queries: Result<Vec<QueryMatch>, String> =
        matching.query_parameters.iter().map(|q| Ok(QueryMatch { name: q.name.clone(), value: text(q)? })).collect();
    let method = Some(matching.method.clone()).filter(|m| !m.is_empty() && m != "NONE");
    Ok(Match { path, method, headers: headers?, queries: queries? })
}

fn text(modifier: &resource::Modifier) -> Result<TextMatch, String> {
    Ok(match modifier.kind {
        MatcherKind::Exact => TextMatch::Exact(modifier.value.clone()),
        MatcherKind::Prefix => TextMatch::Prefix(modifier.value.clone()),
        MatcherKind::Regex => TextMatch::Regex(regex(&modifier.value)?),
        MatcherKind::Absent => TextMatch::Absent,
        MatcherKind::Present => TextMatch::Present,
    })
}

fn regex(text: &str) -> Result<String, String> {
    let whole = format!("^(?:{text})$");
    match regex::RegexBuilder::new(&whole).size_limit(limits::REGEX_BYTES_MAX).build() {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err(format!("regex `{text}` is too large")),
        Err(_) => Err(format!("`{text}` isn't a regular expression (RE2 syntax)")),
    }
}

fn action_of(
    gateway: &mut Builtin<'_>,
    origin: &Origin,
    at: usize,
    rule: &HttpRule,
    port: u16,
) -> Result<RouteAction, String> {
    // Of mirror, rewrite and redirect only the last one counts; header filters add up.
    let redirect = rule.filters.iter().rev().find_map(|f| match f {
        RouteFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    if let Some(redirect) = redirect {
        return redirect_of(redirect, port).map(RouteAction::Redirect);
    }
    let filters = filters_of(gateway, rule)?.into();
    if rule.backends.is_empty() {
        return Err("it has no backends".into());
    }
    match backends(gateway, origin, &format!("rule {at}"), &rule.backends) {
        Ok(backends) => Ok(RouteAction::Forward(Forward { backends, filters, timeouts: Timeouts::default() })),
        Err(body) => Ok(RouteAction::Respond { status: 500, body }),
    }
}

/// Weighted references, or why there is none: no weight at all means equal shares; an error is answered with 500.
pub(super) fn backends(
    gateway: &mut Builtin<'_>,
    origin: &Origin,
    place: &str,
    list: &[resource::Backend],
) -> Result<Vec<Backend>, String> {
    let unweighted = list.iter().all(|b| b.weight.is_none());
    if unweighted && list.len() > 1 {
        gateway.rows.note(origin.clone(), format!("{place}: no backend has a weight: equal shares"));
    }
    let mut out: Vec<Backend> = Vec::new();
    for backend in list {
        if service(&backend.destination) == UNRESOLVED {
            if list.len() > 1 {
                gateway.rows.note(origin.clone(), format!("{place}: an unresolved backend gets no traffic"));
            }
            continue;
        }
        let weight = if unweighted || list.len() == 1 { 1 } else { backend.weight.unwrap_or(0) };
        let service = gateway.upstreams.reach(&mut gateway.rows, &backend.destination).name;
        pool(&mut out, vec![Backend { service, weight }]);
    }
    if out.iter().all(|b| b.weight == 0) {
        let text = if out.is_empty() { "no backend can be resolved" } else { "all backends have weight 0" };
        gateway.rows.note(origin.clone(), format!("{place}: {text}: answered with 500"));
        return Err(String::new());
    }
    Ok(out)
}

/// The same service twice counts with the sum.
pub(super) fn pool(into: &mut Vec<Backend>, list: Vec<Backend>) {
    for backend in list {
        match into.iter_mut().find(|b| b.service == backend.service) {
            Some(known) => known.weight = known.weight.saturating_add(backend.weight),
            None => into.push(backend),
        }
    }
}

fn redirect_of(redirect: &resource::Redirect, port: u16) -> Result<Redirect, String> {
    let status = redirect.status_code;
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("a redirect's status is 301, 302, 303, 307 or 308, not {status}"));
    }
    let given = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    Ok(Redirect {
        scheme: given(&redirect.scheme),
        host: given(&redirect.hostname),
        port: Some(redirect.port.unwrap_or(port)),
        path: redirect.path.as_ref().map(rewrite_of),
        status,
    })
}

fn rewrite_of(path: &PathReplace) -> PathRewrite {
    match path {
        PathReplace::ReplaceFull(text) => PathRewrite::Full(text.clone()),
        PathReplace::ReplacePrefixMatch(text) => PathRewrite::Prefix(text.clone()),
    }
}

fn filters_of(gateway: &mut Builtin<'_>, rule: &HttpRule) -> Result<Filters, String> {
    let mut filters = Filters::default();
    for filter in &rule.filters {
        match filter {
            RouteFilter::RequestHeader(ops) => {
                headers(&mut filters.request, ops);
                let mut hosts = ops.set.iter().chain(&ops.add).filter(|h| is_host(&h.name));
                if let Some(host) = hosts.next_back() {
                    filters.host = Some(host.value.clone());
                }
            }
            RouteFilter::ResponseHeader(ops) => headers(&mut filters.response, ops),
            RouteFilter::Rewrite(rewrite) => {
                filters.path = rewrite.path.as_ref().map(rewrite_of);
                filters.host_of_endpoint = rewrite.host_to_backend_hostname;
            }
            RouteFilter::Mirror(mirror) => {
                if !(0.0..=100.0).contains(&mirror.percentage) {
                    return Err(format!("mirror.percentage {} isn't in 0..100", mirror.percentage));
                }
                let service = gateway.upstreams.reach(&mut gateway.rows, &mirror.backend.destination).name;
                // In range, so the cast is exact enough.
                let per_million = (mirror.percentage * 10_000.0).round() as u32;
                filters.mirror = Some(Mirror { service, per_million }).filter(|m| m.per_million > 0);
            }
            RouteFilter::Redirect(_) => {}
        }
    }
    Ok(filters)
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

fn headers(ops: &mut HeaderOps, filter: &HeaderFilter) {
    let pair = |h: &resource::NameValue| (h.name.to_ascii_lowercase(), h.value.clone());
    ops.remove.extend(filter.remove.iter().map(|name| name.to_ascii_lowercase()));
    ops.set.extend(filter.set.iter().filter(|h| !is_host(&h.name)).map(pair));
    ops.add.extend(filter.add.iter().filter(|h| !is_host(&h.name)).map(pair));
}

/// Responses of HTTPS listeners tell browsers to stay with TLS.
fn demand_tls(route: &mut RouteRow) {
    if let RouteAction::Forward(forward) = &mut route.action {
        Arc::make_mut(&mut forward.filters).response.set.push((HSTS.0.into(), HSTS.1.into()));
    }
}

/// A catch-all prefix comes before every regex, as in the reference; hardly anybody means that.
fn note_shadowed(gateway: &mut Builtin<'_>, host: &HostPattern, routes: &[RouteRow]) {
    let is_catch_all = |row: &&RouteRow| row.matches == Match::default();
    let Some(all) = routes.iter().find(is_catch_all) else { return };
    for row in routes {
        if let PathMatch::Regex(text) = &row.matches.path {
            let text =
                format!("regex `{text}` on host {host} is never reached: prefix / of {} comes first", all.origin);
            gateway.rows.note(row.origin.clone(), text);
        }
    }
}
