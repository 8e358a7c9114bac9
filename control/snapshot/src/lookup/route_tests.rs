//! Host and path precedence, asked of a built listener.

use super::{Facts, Routed};
use crate::tables::{
    HeaderMatch, ListenerRow, Match, PathMatch, QueryMatch, Role, RouteAction, RouteRow, Tables, TextMatch, VirtualHost,
};
use crate::{Generation, Handler, HostPattern, Origin, Snapshot};
use std::borrow::Cow;
use std::sync::Arc;

fn route(name: &str, matches: Match) -> RouteRow {
    let action = RouteAction::Respond { status: 200, body: name.into() };
    RouteRow { matches, action, origin: Origin::new("MeshGatewayRoute", "default", name) }
}

fn prefix(p: &str) -> Match {
    Match { path: PathMatch::Prefix(p.into()), ..Match::default() }
}

fn snapshot(hosts: Vec<VirtualHost>) -> Result<Snapshot, Vec<crate::Violation>> {
    let role =
        Role::Outbound { vip: true, handler: Handler::Http { hosts: hosts.into_iter().map(Arc::new).collect() } };
    let row = ListenerRow { address: "240.0.0.1:80".parse().unwrap(), role, origin: Origin::default() };
    let tables = Tables { listeners: vec![Arc::new(row)], ..Tables::default() };
    Snapshot::build(tables, Generation { epoch: 1, sequence: 1 })
}

fn ask(snapshot: &Snapshot, host: &str, path: &str) -> String {
    ask_with(snapshot, host, path, "", &|_| None)
}

fn ask_with<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    path: &'a str,
    query: &'a str,
    header: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
) -> String {
    let listener = snapshot.listener("240.0.0.1:80".parse().unwrap()).unwrap();
    match listener.route(&Facts { host, method: "GET", path, query, header }) {
        Routed::Route(row) => row.origin.name.clone(),
        other => format!("{other:?}"),
    }
}

fn vhost(host: &str, routes: Vec<RouteRow>) -> VirtualHost {
    VirtualHost { host: HostPattern::parse(host), routes }
}

#[test]
fn the_most_specific_host_is_consulted_and_no_other() {
    let hosts = vec![
        vhost("*", vec![route("any", prefix(""))]),
        vhost("*.example.com", vec![route("short", prefix(""))]),
        vhost("*.b.example.com", vec![route("long", prefix(""))]),
        vhost("a.b.example.com", vec![route("exact", prefix("/only"))]),
        vhost("empty.example.com", vec![]),
    ];
    let s = snapshot(hosts).unwrap();
    assert_eq!(ask(&s, "a.b.example.com", "/only/x"), "exact");
    assert_eq!(ask(&s, "a.b.example.com", "/other"), "NoRoute");
    assert_eq!(ask(&s, "z.b.example.com", "/"), "long");
    assert_eq!(ask(&s, "z.z.example.com", "/"), "short");
    assert_eq!(ask(&s, "example.com", "/"), "any");
    assert_eq!(ask(&s, "empty.example.com", "/"), "EmptyHost");
    assert_eq!(ask(&s, "", "/"), "any");
}

#[test]
fn a_prefix_ends_at_a_slash() {
    let s = snapshot(vec![vhost("*", vec![route("api", prefix("/api"))])]).unwrap();
    assert_eq!(ask(&s, "x", "/api"), "api");
    assert_eq!(ask(&s, "x", "/api/v1"), "api");
    assert_eq!(ask(&s, "x", "/apiv2"), "NoRoute");
}

#[test]
fn headers_queries_and_regexes_match_whole_values() {
    let matches = Match {
        path: PathMatch::Regex("/v[0-9]+".into()),
        headers: vec![HeaderMatch { name: "x-env".into(), value: TextMatch::Exact("prod".into()) }],
        queries: vec![QueryMatch { name: "q".into(), value: TextMatch::Regex("a+".into()) }],
        ..Match::default()
    };
    let s = snapshot(vec![vhost("*", vec![route("r", matches)])]).unwrap();
    let prod = |n: &str| (n == "x-env").then_some(Cow::Borrowed("prod"));
    assert_eq!(ask_with(&s, "x", "/v12", "p=1&q=aaa", &prod), "r");
    assert_eq!(ask_with(&s, "x", "/v12/more", "q=aaa", &prod), "NoRoute");
    assert_eq!(ask_with(&s, "x", "/v12", "q=aab", &prod), "NoRoute");
    assert_eq!(ask_with(&s, "x", "/v12", "q=a", &|_| None), "NoRoute");
}

#[test]
fn a_bad_expression_is_a_violation_that_names_its_resource() {
    let bad = Match { path: PathMatch::Regex("(".into()), ..Match::default() };
    let violations = snapshot(vec![vhost("*", vec![route("broken", bad)])]).unwrap_err();
    assert!(violations[0].to_string().contains("MeshGatewayRoute default/broken"));
}
