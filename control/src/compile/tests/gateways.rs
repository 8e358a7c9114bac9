//! Builtin gateways and cross-mesh calls.

use super::make::*;
use super::*;
use crate::resource::{
    Backend, Gateway, GatewayListener, GatewayProtocol, GatewayType, HttpRule, MatcherKind, MeshGateway,
    MeshGatewayRoute, Modifier, Resource, RouteConf, RouteMatch, Spec,
};
use snapshot::{GatewayTls, HostPattern, PathMatch, RouteAction, VirtualHost};

fn edge(mesh: &str) -> Resource {
    change(dataplane(mesh, "edge-1", "10.0.0.7", vec![]), |d| {
        d.networking.gateway = Some(Gateway { kind: GatewayType::Builtin, tags: tags("service=edge") });
    })
}

fn listener_of(port: u16, hostname: &str, protocol: GatewayProtocol) -> GatewayListener {
    GatewayListener { port, hostname: hostname.into(), protocol, ..GatewayListener::default() }
}

fn gateway(mesh: &str, listeners: Vec<GatewayListener>) -> Resource {
    let spec = MeshGateway { selectors: vec![tags("service=edge")], listeners, ..MeshGateway::default() };
    resource(mesh, "edge", Spec::MeshGateway(spec))
}

fn path(kind: MatcherKind, value: &str) -> RouteMatch {
    RouteMatch { path: Some(Modifier { kind, name: String::new(), value: value.into() }), ..RouteMatch::default() }
}

fn to(service: &str, weight: Option<u32>) -> Backend {
    Backend { weight, destination: tags(&format!("service={service}")) }
}

fn rule(matching: RouteMatch, service: &str) -> HttpRule {
    HttpRule { matches: vec![matching], backends: vec![to(service, None)], ..HttpRule::default() }
}

fn route(name: &str, hostnames: &[&str], rules: Vec<HttpRule>) -> Resource {
    let hostnames = hostnames.iter().map(|h| (*h).to_owned()).collect();
    let conf = RouteConf::Http { hostnames, rules };
    resource("default", name, Spec::MeshGatewayRoute(MeshGatewayRoute { selectors: vec![tags("service=edge")], conf }))
}

fn compiled(resources: Vec<Resource>) -> Compiled {
    let mut all = vec![mesh("default", ""), edge("default")];
    all.extend(resources);
    sidecar(&world("", all), "edge-1")
}

fn hosts<'a>(compiled: &'a Compiled, address: &str) -> &'a [std::sync::Arc<VirtualHost>] {
    match &listener(compiled, address).role {
        Role::Gateway { handler: Handler::Http { hosts }, .. } => hosts,
        other => panic!("{other:?}"),
    }
}

/// What a request for a plain path gets: the first service, or the status.
fn ask(hosts: &[std::sync::Arc<VirtualHost>], host: &str, wanted: &str) -> String {
    let best = |h: &&std::sync::Arc<VirtualHost>| match &h.host {
        HostPattern::Exact(_) => 1000,
        HostPattern::Suffix(s) => s.len(),
        HostPattern::Any => 0,
    };
    let Some(found) = hosts.iter().filter(|h| h.host.matches(host)).max_by_key(best) else { return "404".into() };
    let route = found.routes.iter().find(|r| match &r.matches.path {
        PathMatch::Exact(path) => path == wanted,
        PathMatch::Prefix(p) => wanted.strip_prefix(p.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/')),
        PathMatch::Regex(_) => false,
    });
    match route.map(|r| &r.action) {
        Some(RouteAction::Forward(forward)) => forward.backends[0].service.clone(),
        Some(RouteAction::Respond { status, .. }) => format!("{status}p"),
        Some(RouteAction::Redirect(r)) => r.status.to_string(),
        None => "404".into(),
    }
}

const HTTP: GatewayProtocol = GatewayProtocol::Http;
use MatcherKind::{Exact, Prefix, Regex};

#[test]
fn the_example_gateway_routes_its_host_to_the_application() {
    let compiled = compiled(vec![
        gateway("default", vec![listener_of(8080, "foo.example.com", HTTP)]),
        route("r", &[], vec![rule(path(Prefix, "/"), "demo-app_kuma-demo_svc_5000")]),
        app("demo", "10.0.1.1", "service=demo-app_kuma-demo_svc_5000,protocol=http"),
    ]);
    let hosts = hosts(&compiled, "10.0.0.7:8080");
    assert_eq!(ask(hosts, "foo.example.com", "/x"), "demo-app_kuma-demo_svc_5000");
    assert_eq!(ask(hosts, "example.com", "/x"), "404");
    assert_eq!(endpoints(service(&compiled, "demo-app_kuma-demo_svc_5000")), ["10.0.1.1:8080 1/0"]);
    assert_eq!(compiled.tables.proxy.services, ["edge"]);
}

#[test]
fn hostnames_of_routes_make_hosts_of_their_own() {
    let any = || gateway("default", vec![listener_of(8080, "", HTTP)]);
    let one = compiled(vec![
        any(),
        route("r", &["foo.example.com", "bar.example.com", "*.example.com"], vec![rule(path(Exact, "/"), "echo")]),
    ]);
    let one = hosts(&one, "10.0.0.7:8080");
    for host in ["foo.example.com", "bar.example.com", "baz.example.com", "a.b.example.com"] {
        assert_eq!(ask(one, host, "/"), "echo");
    }
    assert_eq!(ask(one, "foo.example.com", "/x"), "404");
    assert_eq!((ask(one, "example.com", "/"), ask(one, "other.org", "/")), ("404p".into(), "404p".into()));

    let two = compiled(vec![
        any(),
        route("a", &[], vec![rule(path(Exact, "/"), "echo"), rule(path(Prefix, "/all"), "echo")]),
        route("b", &["extra.example.com"], vec![rule(path(Exact, "/"), "echo2")]),
    ]);
    let two = hosts(&two, "10.0.0.7:8080");
    assert_eq!((ask(two, "any.org", "/"), ask(two, "extra.example.com", "/")), ("echo".into(), "echo2".into()));
    assert_eq!(ask(two, "extra.example.com", "/all"), "404");
}

#[test]
fn a_wildcard_route_joins_the_specific_hosts_whatever_its_name() {
    let check = |list: Vec<Resource>| {
        let compiled = compiled(list);
        let hosts = hosts(&compiled, "10.0.0.7:8080");
        assert_eq!((ask(hosts, "example.com", "/"), ask(hosts, "example.com", "/v2")), ("echo".into(), "api".into()));
        assert_eq!((ask(hosts, "other.com", "/"), ask(hosts, "other.com", "/v2")), ("echo".into(), "404".into()));
        assert_eq!(ask(hosts, "x.org", "/"), "404p");
    };
    let any = listener_of(8080, "", HTTP);
    for (a, b) in [("a", "b"), ("b", "a")] {
        check(vec![
            gateway("default", vec![any.clone()]),
            route(a, &["example.com"], vec![rule(path(Exact, "/v2"), "api")]),
            route(b, &["*.com"], vec![rule(path(Exact, "/"), "echo")]),
        ]);
    }
    let mut named = listener_of(8080, "example.com", HTTP);
    named.tags = tags("l=named");
    let mut open = any;
    open.tags = tags("l=open");
    let select = |mut r: Resource, text: &str| {
        if let Spec::MeshGatewayRoute(route) = &mut r.spec {
            route.selectors = vec![tags(text)];
        }
        r
    };
    check(vec![
        gateway("default", vec![open, named]),
        select(route("a", &[], vec![rule(path(Exact, "/v2"), "api")]), "service=edge,l=named"),
        select(route("b", &["*.com"], vec![rule(path(Exact, "/"), "echo")]), "service=edge,l=open"),
    ]);
}

#[test]
fn a_wildcard_listener_limits_a_narrower_route_to_its_host() {
    let compiled = compiled(vec![
        gateway("default", vec![listener_of(8080, "*.s.com", HTTP)]),
        route("r", &["a.s.com", "b.other.com"], vec![rule(path(Prefix, "/"), "echo")]),
    ]);
    let hosts = hosts(&compiled, "10.0.0.7:8080");
    assert_eq!((ask(hosts, "a.s.com", "/"), ask(hosts, "b.s.com", "/")), ("echo".into(), "404p".into()));
    assert_eq!(ask(hosts, "b.other.com", "/"), "404");
}

#[test]
fn routes_are_ordered_by_kind_length_method_headers_queries_and_text() {
    let with = |mut m: RouteMatch, method: &str, headers: usize| {
        m.method = method.into();
        m.headers = vec![Modifier { kind: MatcherKind::Present, name: "X".into(), value: String::new() }; headers];
        m
    };
    let compiled = compiled(vec![
        gateway("default", vec![listener_of(8080, "h", HTTP)]),
        route(
            "r",
            &[],
            vec![
                rule(path(Regex, "/v[0-9]+"), "regex"),
                rule(path(Regex, "/w[0-9]+"), "regex-tie"),
                rule(with(path(Regex, "/x[0-9]+"), "", 1), "regex-header"),
                rule(path(Prefix, "/"), "all"),
                rule(path(Prefix, "/a/"), "a"),
                rule(path(Prefix, "/a"), "a-again"),
                rule(with(path(Prefix, "/a"), "GET", 0), "a-get"),
                rule(with(path(Prefix, "/a"), "", 2), "a-headers"),
                rule(path(Prefix, "/a/b"), "ab"),
                rule(path(Exact, "/a"), "exact"),
                rule(with(path(Exact, "/"), "", 0), "root"),
            ],
        ),
    ]);
    let order: Vec<String> = hosts(&compiled, "10.0.0.7:8080")[0]
        .routes
        .iter()
        .map(|r| match &r.action {
            RouteAction::Forward(f) => f.backends[0].service.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    let expected =
        ["exact", "root", "ab", "a-get", "a-headers", "a", "a-again", "all", "regex-header", "regex", "regex-tie"];
    assert_eq!(order, expected);
    assert!(compiled.problems.iter().any(|p| p.text.contains("is never reached: prefix / of")));
}

#[test]
fn weights_follow_the_rules() {
    let weights = |list: Vec<Backend>| {
        let rule = HttpRule { matches: vec![path(Prefix, "/")], backends: list, ..HttpRule::default() };
        let compiled = compiled(vec![gateway("default", vec![listener_of(80, "", HTTP)]), route("r", &[], vec![rule])]);
        match &hosts(&compiled, "10.0.0.7:80")[0].routes[0].action {
            RouteAction::Forward(f) => f.backends.iter().map(|b| format!("{} {}", b.service, b.weight)).collect(),
            RouteAction::Respond { status, .. } => vec![status.to_string()],
            RouteAction::Redirect(_) => vec![],
        }
    };
    assert_eq!(weights(vec![to("a", Some(90)), to("b", Some(10))]), ["a 90", "b 10"]);
    assert_eq!(weights(vec![to("a", None), to("b", None)]), ["a 1", "b 1"]);
    assert_eq!(weights(vec![to("a", Some(3)), to("b", None)]), ["a 3", "b 0"]);
    assert_eq!(weights(vec![to("a", Some(3)), to("a", Some(4))]), ["a 7"]);
    assert_eq!(weights(vec![to("a", Some(0))]), ["a 1"]);
    assert_eq!(weights(vec![to("a", Some(0)), to("b", Some(0))]), ["500"]);
    assert_eq!(weights(vec![to("kuma.io/unresolved-backend", None)]), ["500"]);
}

#[test]
fn a_bad_regex_leaves_out_its_rule_alone() {
    let compiled = compiled(vec![
        gateway("default", vec![listener_of(80, "", HTTP)]),
        route("r", &[], vec![rule(path(Regex, "/("), "bad"), rule(path(Exact, "/x"), "good")]),
    ]);
    assert_eq!(ask(hosts(&compiled, "10.0.0.7:80"), "h", "/x"), "good");
    let text = compiled.problems[0].to_string();
    assert!(
        text.starts_with("MeshGatewayRoute default/r: rule 0 is left out: `/(` isn't a regular expression"),
        "{text}"
    );
}

#[test]
fn the_tcp_gateway_pools_its_backends_and_http_rules_do_not_fit() {
    let tcp = MeshGatewayRoute {
        selectors: vec![tags("service=edge")],
        conf: RouteConf::Tcp(vec![vec![to("redis", None)], vec![to("redis", None), to("other", None)]]),
    };
    let compiled = compiled(vec![
        gateway("default", vec![listener_of(6379, "", GatewayProtocol::Tcp)]),
        resource("default", "t", Spec::MeshGatewayRoute(tcp)),
        route("h", &[], vec![rule(path(Prefix, "/"), "echo")]),
        app("redis-1", "10.0.1.1", "service=redis,protocol=tcp"),
    ]);
    let Role::Gateway { handler: Handler::Tcp { backends, .. }, .. } = &listener(&compiled, "10.0.0.7:6379").role
    else {
        panic!()
    };
    let text: Vec<String> = backends.iter().map(|b| format!("{} {}", b.service, b.weight)).collect();
    assert_eq!(text, ["redis 2", "other 1"]);
    assert!(compiled.problems.iter().any(|p| p.origin.name == "h" && p.text.contains("don't fit the protocol")));
}

#[test]
fn the_gateway_that_selects_best_is_used_alone() {
    let special = |created_ms: u64| {
        let mut r = gateway("default", vec![listener_of(9000, "", HTTP)]);
        r.meta.name = "special".into();
        r.meta.created_ms = created_ms;
        r
    };
    let plain = gateway("default", vec![listener_of(8000, "", HTTP)]);
    let ports = |list| compiled(list).tables.listeners.iter().map(|l| l.address.port()).collect::<Vec<_>>();
    assert_eq!(ports(vec![plain.clone(), special(5)]), [9000]);
    assert_eq!(ports(vec![plain.clone(), special(0)]), [8000]);
    assert_eq!(ports(vec![plain]), [8000]);
}

fn crossing(words: &str) -> World {
    let mut listener = listener_of(8080, "default.mesh", HTTP);
    listener.cross_mesh = true;
    let client = change(dataplane("other", "web", "10.0.3.1", vec![inbound(8080, "service=web")]), |d| {
        d.networking.outbound = vec![outbound(8080, "service=edge,mesh=default")];
    });
    world(
        "",
        vec![
            mesh("default", "mtls"),
            mesh("other", words),
            edge("default"),
            gateway("default", vec![listener]),
            route("r", &[], vec![rule(path(Prefix, "/"), "backend")]),
            client,
        ],
    )
}

#[test]
fn a_cross_mesh_gateway_is_reached_with_the_clients_own_identity() {
    let world = crossing("mtls");
    let compiled = checked(&world, &ProxyKey::dataplane("other", "web"));
    let row = service(&compiled, target(listener(&compiled, "127.0.0.1:8080")));
    assert_eq!((row.name.as_str(), row.mesh.as_str()), ("edge_default", "default"));
    assert_eq!(endpoints(row), ["10.0.0.7:8080 1/0"]);
    let UpstreamTls::Mesh { identity_mesh, mesh, peers, .. } = &row.tls else { panic!() };
    assert_eq!((identity_mesh.as_str(), mesh.as_str()), ("other", "default"));
    assert_eq!(*peers, ["spiffe://default/edge"]);
    let gateway = sidecar(&world, "edge-1");
    let Role::Gateway { tls: GatewayTls::Mesh { mesh, client_meshes }, .. } = &listener(&gateway, "10.0.0.7:8080").role
    else {
        panic!()
    };
    assert_eq!((mesh.as_str(), client_meshes.as_slice()), ("default", &["default".to_owned(), "other".into()][..]));
}

#[test]
fn a_client_in_a_mesh_without_mtls_reaches_no_other_mesh() {
    let compiled = checked(&crossing(""), &ProxyKey::dataplane("other", "web"));
    let row = service(&compiled, "edge_default");
    assert!(row.endpoints.is_empty());
    assert_eq!(row.hint, "calls from mesh other to mesh default need mTLS in both meshes");
}

#[test]
fn a_listener_without_usable_certificate_is_left_out_alone() {
    use crate::resource::{DataSource, ListenerTls, TlsMode};
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
    let secure = |host: &str, source| {
        let mut listener = listener_of(443, host, GatewayProtocol::Https);
        listener.tls = Some(ListenerTls { mode: TlsMode::Terminate, certificates: vec![source], ..Default::default() });
        listener
    };
    let compiled = compiled(vec![
        gateway(
            "default",
            vec![
                secure("a.com", DataSource::InlineString(pem.into())),
                secure("b.com", DataSource::Secret("missing".into())),
            ],
        ),
        route("r", &[], vec![rule(path(Prefix, "/"), "echo")]),
    ]);
    let Role::Gateway { tls: GatewayTls::Terminate { secrets }, .. } = &listener(&compiled, "10.0.0.7:443").role else {
        panic!()
    };
    assert_eq!(secrets.len(), 1);
    assert_eq!(compiled.secrets[0].name, secrets[0].secret);
    assert!(compiled.secrets[0].key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    let hosts = hosts(&compiled, "10.0.0.7:443");
    assert_eq!(hosts.len(), 1);
    let RouteAction::Forward(forward) = &hosts[0].routes[0].action else { panic!() };
    assert_eq!(forward.filters.response.set[0].0, "strict-transport-security");
    assert!(compiled.problems.iter().any(|p| p.text.contains("there is no Secret missing")));
}

#[test]
fn https_listeners_keep_their_hosts_apart() {
    use crate::resource::{DataSource, ListenerTls, TlsMode};
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
    let secure = |host: &str| {
        let mut listener = listener_of(443, host, GatewayProtocol::Https);
        let certificates = vec![DataSource::InlineString(pem.into())];
        listener.tls = Some(ListenerTls { mode: TlsMode::Terminate, certificates, ..Default::default() });
        listener.tags = tags(if host.is_empty() { "l=any" } else { "l=one" });
        listener
    };
    let mut any = route("any", &["one.com", "two.com"], vec![rule(path(Prefix, "/"), "any")]);
    let mut one = route("one", &[], vec![rule(path(Exact, "/one"), "one")]);
    for (resource, text) in [(&mut any, "service=edge,l=any"), (&mut one, "service=edge,l=one")] {
        if let Spec::MeshGatewayRoute(route) = &mut resource.spec {
            route.selectors = vec![tags(text)];
        }
    }
    let compiled = compiled(vec![gateway("default", vec![secure(""), secure("one.com")]), any, one]);
    let hosts = hosts(&compiled, "10.0.0.7:443");
    assert_eq!((ask(hosts, "one.com", "/one"), ask(hosts, "one.com", "/x")), ("one".into(), "404".into()));
    assert_eq!((ask(hosts, "two.com", "/x"), ask(hosts, "other.com", "/")), ("any".into(), "404p".into()));
}
