//! What a gateway's route does, whatever gateway it is: its rules as rows, the services that they send to. It knows no
//! host, no socket and no certificate.

use crate::compile::Problem;
use crate::compile::sni::{self, service};
use crate::resource::{
    self, HeaderFilter, HttpRule, MatcherKind, PathReplace, Resource, RouteConf, RouteFilter, RouteMatch, Spec, Tags,
};
use snapshot::{
    Backend, Filters, Forward, HeaderMatch, HeaderOps, Match, Mirror, Origin, PathMatch, PathRewrite, QueryMatch,
    Redirect, RouteAction, RouteRow, TextMatch, Timeouts, limits,
};
use std::cmp::Reverse;
use std::sync::Arc;

/// A destination that is meant not to exist: 500.
const UNRESOLVED: &str = "kuma.io/unresolved-backend";

/// Who comes first within a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
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

/// An HTTP route on a port. The same for every gateway of the mesh, and for as long as the resource is the same.
pub(super) struct Prepared {
    /// Held, so that no other is at its place in memory.
    pub resource: Arc<Resource>,
    pub entries: Vec<(Precedence, RouteRow)>,
    pub draft: Draft,
}

/// What is said and asked for while a route is read.
pub(super) struct Draft {
    pub origin: Origin,
    pub notes: Vec<Problem>,
    /// Of services that rows refer to; none twice.
    pub destinations: Vec<Tags>,
}

impl Draft {
    pub(super) fn new(mesh: &str, route: &str) -> Self {
        Self { origin: Origin::new("MeshGatewayRoute", mesh, route), notes: Vec::new(), destinations: Vec::new() }
    }

    pub(super) fn note(&mut self, text: String) {
        self.notes.push(Problem::new(self.origin.clone(), text));
    }

    /// The name of the row for `tags`.
    fn reach(&mut self, tags: &Tags) -> String {
        if !self.destinations.contains(tags) {
            self.destinations.push(tags.clone());
        }
        sni::row_name(tags)
    }
}

pub(super) fn prepare(resource: &Arc<Resource>, port: u16) -> Prepared {
    let name = &resource.meta.name;
    let mut draft = Draft::new(&resource.meta.mesh, name);
    let mut entries = Vec::new();
    let rules = match &resource.spec {
        Spec::MeshGatewayRoute(route) => match &route.conf {
            RouteConf::Http { rules, .. } => rules.as_slice(),
            RouteConf::Tcp(_) => &[],
        },
        _ => &[],
    };
    for (at, rule) in rules.iter().enumerate() {
        let matches: Result<Vec<Match>, String> = rule.matches.iter().map(match_of).collect();
        let action = matches.and_then(|matches| Ok((matches, action_of(&mut draft, at, rule, port)?)));
        match action {
            Ok((matches, action)) => {
                for (index, matches) in matches.into_iter().enumerate() {
                    let precedence = Precedence::new(&matches, name, at, index);
                    let row = RouteRow { matches, action: action.clone(), origin: draft.origin.clone() };
                    entries.push((precedence, row));
                }
            }
            Err(text) => draft.note(format!("rule {at} is left out: {text}")),
        }
    }
    Prepared { resource: resource.clone(), entries, draft }
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

fn action_of(draft: &mut Draft, at: usize, rule: &HttpRule, port: u16) -> Result<RouteAction, String> {
    // Of mirror, rewrite and redirect only the last one counts; header filters add up.
    let redirect = rule.filters.iter().rev().find_map(|f| match f {
        RouteFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    });
    if let Some(redirect) = redirect {
        return redirect_of(redirect, port).map(RouteAction::Redirect);
    }
    let filters = filters_of(draft, rule)?.into();
    if rule.backends.is_empty() {
        return Err("it has no backends".into());
    }
    match backends(draft, &format!("rule {at}"), &rule.backends) {
        Ok(backends) => Ok(RouteAction::Forward(Forward { backends, filters, timeouts: Timeouts::default() })),
        Err(body) => Ok(RouteAction::Respond { status: 500, body }),
    }
}

/// Weighted references, or why there is none: no weight at all means equal shares; an error is answered with 500.
pub(super) fn backends(draft: &mut Draft, place: &str, list: &[resource::Backend]) -> Result<Vec<Backend>, String> {
    let unweighted = list.iter().all(|b| b.weight.is_none());
    if unweighted && list.len() > 1 {
        draft.note(format!("{place}: no backend has a weight: equal shares"));
    }
    let mut out: Vec<Backend> = Vec::new();
    for backend in list {
        if service(&backend.destination) == UNRESOLVED {
            if list.len() > 1 {
                draft.note(format!("{place}: an unresolved backend gets no traffic"));
            }
            continue;
        }
        let weight = if unweighted || list.len() == 1 { 1 } else { backend.weight.unwrap_or(0) };
        let service = draft.reach(&backend.destination);
        pool(&mut out, vec![Backend { service, weight }]);
    }
    if out.iter().all(|b| b.weight == 0) {
        let text = if out.is_empty() { "no backend can be resolved" } else { "all backends have weight 0" };
        draft.note(format!("{place}: {text}: answered with 500"));
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

fn filters_of(draft: &mut Draft, rule: &HttpRule) -> Result<Filters, String> {
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
                let service = draft.reach(&mirror.backend.destination);
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
