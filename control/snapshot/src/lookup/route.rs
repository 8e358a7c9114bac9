//! Where a request is matched: host, then the first route whose every condition holds.

use crate::build::{Listener, Sni};
use crate::limits;
use crate::tables::{Handler, Match, PathMatch, Role, RouteRow, SniTarget, TextMatch};
use regex::Regex;
use std::borrow::Cow;

/// What a request is, for routing. The caller has normalised the path and lower-cased the host.
pub struct Facts<'a> {
    /// Lower case, without port or trailing dot; empty when the request has none.
    pub host: &'a str,
    pub method: &'a str,
    /// Without query.
    pub path: &'a str,
    /// Without `?`.
    pub query: &'a str,
    /// Value of a header by its lower-case name, repeated ones joined with `,`.
    pub header: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
}

/// The outcome of matching.
#[derive(Debug, PartialEq)]
pub enum Routed<'a> {
    Route(&'a RouteRow),
    /// No virtual host takes this Host.
    NoHost,
    /// The virtual host has no route at all.
    EmptyHost,
    /// The virtual host has routes, and none matches.
    NoRoute,
    /// The listener doesn't speak HTTP.
    NotHttp,
}

impl Listener {
    pub fn route(&self, facts: &Facts<'_>) -> Routed<'_> {
        match (&self.row.role, &self.hosts) {
            (
                Role::Outbound { handler: Handler::Http { hosts }, .. }
                | Role::Gateway { handler: Handler::Http { hosts }, .. },
                Some(table),
            ) => table.route(hosts, facts),
            _ => Routed::NotHttp,
        }
    }
}

impl Sni {
    pub fn route(&self, facts: &Facts<'_>) -> Routed<'_> {
        match (&self.row.target, &self.hosts) {
            (SniTarget::Terminate { handler: Handler::Http { hosts }, .. }, Some(table)) => table.route(hosts, facts),
            _ => Routed::NotHttp,
        }
    }
}

/// Regular expressions of one route, in the order of its conditions.
#[derive(Debug, Default)]
pub(crate) struct CompiledRoute {
    path: Option<Regex>,
    headers: Vec<Option<Regex>>,
    queries: Vec<Option<Regex>>,
}

impl CompiledRoute {
    pub(crate) fn build(row: &RouteRow) -> Result<Self, String> {
        let path = match &row.matches.path {
            PathMatch::Regex(text) => Some(whole(text)?),
            _ => None,
        };
        let compile = |value: &TextMatch| match value {
            TextMatch::Regex(text) => whole(text).map(Some),
            _ => Ok(None),
        };
        Ok(Self {
            path,
            headers: row.matches.headers.iter().map(|h| compile(&h.value)).collect::<Result<_, _>>()?,
            queries: row.matches.queries.iter().map(|q| compile(&q.value)).collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn matches(&self, conditions: &Match, facts: &Facts<'_>) -> bool {
        self.path_matches(&conditions.path, facts.path)
            && conditions.method.as_deref().is_none_or(|m| m == facts.method)
            && conditions.headers.iter().zip(&self.headers).all(|(h, regex)| {
                let value = (facts.header)(&h.name);
                text_matches(&h.value, regex.as_ref(), value.as_deref())
            })
            && conditions
                .queries
                .iter()
                .zip(&self.queries)
                .all(|(q, regex)| text_matches(&q.value, regex.as_ref(), query_value(facts.query, &q.name)))
    }

    fn path_matches(&self, path: &PathMatch, actual: &str) -> bool {
        match path {
            PathMatch::Exact(text) => text == actual,
            PathMatch::Prefix(prefix) => {
                actual.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(_) => self.path.as_ref().is_some_and(|r| r.is_match(actual)),
        }
    }
}

fn whole(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(limits::REGEX_BYTES_MAX)
        .build()
        .map_err(|e| format!("regular expression `{text}`: {e}"))
}

fn text_matches(wanted: &TextMatch, regex: Option<&Regex>, actual: Option<&str>) -> bool {
    match (wanted, actual) {
        (TextMatch::Absent, value) => value.is_none(),
        (_, None) => false,
        (TextMatch::Present, Some(_)) => true,
        (TextMatch::Exact(text), Some(value)) => text == value,
        (TextMatch::Prefix(text), Some(value)) => value.starts_with(text.as_str()),
        (TextMatch::Regex(_), Some(value)) => regex.is_some_and(|r| r.is_match(value)),
    }
}

/// The first value of a key, undecoded.
fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
