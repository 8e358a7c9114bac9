//! What becomes of a request: a synchronous function of a listener's routes and the request's facts. Picks no endpoint,
//! opens nothing. Where a route is *matched* is `snapshot::lookup`.

use snapshot::lookup::Routed;
use snapshot::{Backend, Filters, Forward, PathMatch, PathRewrite, Redirect, RouteAction, RouteRow, Timeouts};
use std::sync::Arc;

/// A decision, still in the snapshot's words.
#[derive(Debug, PartialEq)]
pub(crate) enum Decided<'a> {
    /// To the service of this name.
    Forward {
        service: &'a str,
        path: Option<String>,
        filters: Option<&'a Arc<Filters>>,
        timeouts: Timeouts,
        route: &'a RouteRow,
    },
    Redirect {
        status: u16,
        location: String,
    },
    Respond {
        status: u16,
        body: &'a str,
    },
    /// The best host has no route at all: a page that says so.
    EmptyHost,
    /// No host or no route takes it.
    NotFound,
}

/// Facts of the original request that a redirect repeats.
pub(crate) struct Seen<'a> {
    pub scheme: &'a str,
    /// Host without port.
    pub host: &'a str,
    pub path: &'a str,
    pub listener_port: u16,
}

/// `draw` gives a number below its argument, for weights.
pub(crate) fn decide<'a>(routed: Routed<'a>, seen: &Seen<'_>, draw: &mut dyn FnMut(u64) -> u64) -> Decided<'a> {
    let row = match routed {
        Routed::Route(row) => row,
        Routed::EmptyHost => return Decided::EmptyHost,
        Routed::NoHost | Routed::NoRoute | Routed::NotHttp => return Decided::NotFound,
    };
    match &row.action {
        RouteAction::Respond { status, body } => Decided::Respond { status: *status, body },
        RouteAction::Redirect(redirect) => {
            Decided::Redirect { status: redirect.status, location: location(redirect, row, seen) }
        }
        RouteAction::Forward(forward) => forward_to(forward, row, seen, draw),
    }
}

fn forward_to<'a>(
    forward: &'a Forward,
    row: &'a RouteRow,
    seen: &Seen<'_>,
    draw: &mut dyn FnMut(u64) -> u64,
) -> Decided<'a> {
    let Some(service) = choose(&forward.backends, draw) else {
        return Decided::Respond { status: 500, body: "no backend of this route has a weight above 0\n" };
    };
    let path = forward.filters.path.as_ref().map(|rewrite| rewritten(rewrite, &row.matches.path, seen.path));
    let filters = Some(&forward.filters).filter(|filters| !filters.is_empty());
    Decided::Forward { service, path, filters, timeouts: forward.timeouts.clone(), route: row }
}

/// By weight.
pub(crate) fn choose<'a>(backends: &'a [Backend], draw: &mut dyn FnMut(u64) -> u64) -> Option<&'a str> {
    if let [only] = backends {
        return Some(&only.service);
    }
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = draw(total);
    for backend in backends {
        let weight = u64::from(backend.weight);
        if ticket < weight {
            return Some(&backend.service);
        }
        ticket -= weight;
    }
    None
}

/// The path that goes upstream or into a redirect.
fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, path: &str) -> String {
    let replacement = match rewrite {
        PathRewrite::Full(full) => return full.clone(),
        PathRewrite::Prefix(replacement) => replacement.trim_end_matches('/'),
    };
    // An exact match is a prefix with nothing after it.
    let rest = match matched {
        PathMatch::Prefix(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or_default(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => "",
    };
    match (replacement, rest) {
        ("", "") => "/".into(),
        (replacement, "/") if matches!(matched, PathMatch::Prefix(p) if p.is_empty()) && !replacement.is_empty() => {
            replacement.into()
        }
        (replacement, rest) => format!("{replacement}{rest}"),
    }
}

fn location(redirect: &Redirect, row: &RouteRow, seen: &Seen<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(seen.scheme);
    let host = redirect.host.as_deref().unwrap_or(seen.host);
    let port = redirect.port.unwrap_or(seen.listener_port);
    let path =
        redirect.path.as_ref().map_or_else(|| seen.path.to_owned(), |p| rewritten(p, &row.matches.path, seen.path));
    format!("{scheme}://{host}:{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::{Backend, Decided, PathMatch, PathRewrite, Seen, choose, decide, rewritten};
    use snapshot::lookup::Routed;
    use snapshot::{Match, Origin, Redirect, RouteAction, RouteRow};

    #[test]
    fn prefix_replacement_follows_the_table_of_the_reference() {
        let cases = [
            ("/prefix", "/x", "/prefix", "/x"),
            ("/prefix", "/x", "/prefix/", "/x/"),
            ("/prefix", "/x/", "/prefix/t", "/x/t"),
            ("/prefix", "/", "/prefix", "/"),
            ("/prefix", "", "/prefix/t", "/t"),
            ("", "/a/b", "/", "/a/b"),
            ("", "/a/b", "/t", "/a/b/t"),
        ];
        for (prefix, replacement, path, expected) in cases {
            let rewrite = PathRewrite::Prefix(replacement.into());
            assert_eq!(rewritten(&rewrite, &PathMatch::Prefix(prefix.into()), path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn weights_share_the_tickets_and_zero_gets_none() {
        let backends = [("a", 1), ("b", 0), ("c", 3)].map(|(s, weight)| Backend { service: s.into(), weight });
        let chosen: Vec<&str> = (0..4).filter_map(|n| choose(&backends, &mut |_| n)).collect();
        assert_eq!(chosen, ["a", "c", "c", "c"]);
        let none = [("a", 0), ("b", 0)].map(|(s, weight)| Backend { service: s.into(), weight });
        assert_eq!(choose(&none, &mut |_| 0), None);
    }

    #[test]
    fn a_redirect_always_writes_the_port() {
        let redirect = Redirect { scheme: Some("https".into()), status: 301, ..Redirect::default() };
        let row =
            RouteRow { matches: Match::default(), action: RouteAction::Redirect(redirect), origin: Origin::default() };
        let seen = Seen { scheme: "http", host: "foo.example.com", path: "/a", listener_port: 8080 };
        let Decided::Redirect { status, location } = decide(Routed::Route(&row), &seen, &mut |_| 0) else { panic!() };
        assert_eq!((status, location.as_str()), (301, "https://foo.example.com:8080/a"));
    }
}
