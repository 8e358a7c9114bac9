//! Envoy's slot: static bootstraps, one worker, no access log. Knows Envoy's API and nothing of a load.

use crate::bench::certs::Certificates;
use serde_json::{Value, json};

const API: &str = "type.googleapis.com/envoy";

pub(crate) fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// A cluster of one endpoint on loopback, with limits that no load here reaches.
pub(crate) fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000,
            "max_requests": 100_000, "max_retries": 1000}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address("127.0.0.1", port)}}]}]}})
}

/// `cluster`, spoken to over HTTP/2.
pub(crate) fn over_http2(mut cluster: Value) -> Value {
    let options = format!("{API}.extensions.upstreams.http.v3.HttpProtocolOptions");
    cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": options, "explicit_http_config": {"http2_protocol_options": {}}}});
    cluster
}

/// `cluster` over mutual TLS.
pub(crate) fn over_mtls(mut cluster: Value, certificates: &Certificates, alpn: &str) -> Value {
    cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{API}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"), "sni": "h0.mesh",
        "common_tls_context": {"alpn_protocols": [alpn], "tls_certificates": [pair(certificates, "client")],
            "validation_context": {"trusted_ca": {"filename": certificates.file("ca.crt")}}}}});
    cluster
}

fn pair(certificates: &Certificates, name: &str) -> Value {
    json!({"certificate_chain": {"filename": certificates.file(&format!("{name}.crt"))},
        "private_key": {"filename": certificates.file(&format!("{name}.key"))}})
}

pub(crate) fn tls(certificates: &Certificates, is_mutual: bool) -> Value {
    let mut common = json!({"alpn_protocols": ["h2", "http/1.1", "mesh"],
        "tls_certificates": [pair(certificates, "web")]});
    if is_mutual {
        common["validation_context"] = json!({"trusted_ca": {"filename": certificates.file("ca.crt")}});
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{API}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": is_mutual, "common_tls_context": common}})
}

pub(crate) fn tcp_proxy(cluster: &str, statistics: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{API}.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": statistics, "cluster": cluster}})
}

/// `tcp_proxy` whose connections become CONNECT requests on a shared HTTP/2 connection.
pub(crate) fn tcp_over_http2(cluster: &str, statistics: &str) -> Value {
    let mut filter = tcp_proxy(cluster, statistics);
    filter["typed_config"]["tunneling_config"] = json!({"hostname": "tunnel.mesh:80"});
    filter
}

/// The other end of [`tcp_over_http2`].
pub(crate) fn http2_to_tcp(cluster: &str, statistics: &str) -> Value {
    let route = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster,
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}});
    let mut filter = http(json!([{"name": "all", "domains": ["*"], "routes": [route]}]), statistics);
    filter["typed_config"]["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    filter["typed_config"]["http2_protocol_options"] = json!({"allow_connect": true});
    filter
}

/// One route for all, or ten prefixes on each of `count / 10` hosts.
pub(crate) fn hosts(count: usize, cluster: &str) -> Value {
    let route = |prefix: String| json!({"match": {"prefix": prefix}, "route": {"cluster": cluster}});
    if count <= 1 {
        return json!([{"name": "all", "domains": ["*"], "routes": [route("/".into())]}]);
    }
    let host = |host: usize| {
        let routes: Vec<Value> = (0..10).map(|prefix| route(format!("/p{prefix}"))).collect();
        json!({"name": format!("h{host}"), "routes": routes,
            "domains": [format!("h{host}.mesh"), format!("h{host}.mesh:*")]})
    };
    (0..count / 10).map(host).collect()
}

pub(crate) fn http(routes: Value, statistics: &str) -> Value {
    let mut config = json!({"@type": format!(
            "{API}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": statistics, "codec_type": "AUTO",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
            {"@type": format!("{API}.extensions.filters.http.router.v3.Router")}}]});
    if routes.is_array() {
        config["route_config"] = json!({"name": "routes", "virtual_hosts": routes});
    } else {
        config["rds"] = routes;
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

pub(crate) fn listener(port: u16, filter: Value, tls: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": format!("l{port}"), "address": address("127.0.0.1", port), "filter_chains": [chain]})
}

/// A listener that sends each of `h0.mesh..` to `cluster` by SNI.
pub(crate) fn sni(port: u16, count: usize, cluster: &str) -> Value {
    let chain = |name: usize| {
        json!({"filter_chain_match": {"server_names": [format!("h{name}.mesh")], "transport_protocol": "tls"},
            "filters": [tcp_proxy(cluster, &format!("sni{name}"))]})
    };
    let chains: Vec<Value> = (0..count).map(chain).collect();
    json!({"name": "sni", "address": address("127.0.0.1", port), "filter_chains": chains,
        "listener_filters": [{"name": "tls_inspector", "typed_config":
            {"@type": format!("{API}.extensions.filters.listener.tls_inspector.v3.TlsInspector")}}]})
}

/// A UDP listener that answers for `svc0.mesh..` itself.
pub(crate) fn dns(port: u16, names: usize) -> Value {
    let name = |number: usize| {
        json!({"name": format!("svc{number}.mesh"),
            "endpoint": {"address_list": {"address": [super::vip(number).to_string()]}}})
    };
    let table: Vec<Value> = (0..names).map(name).collect();
    json!({"name": "dns", "address": {"socket_address":
            {"protocol": "UDP", "address": "127.0.0.1", "port_value": port}},
        "listener_filters": [{"name": "envoy.filters.udp.dns_filter", "typed_config": {
            "@type": format!("{API}.extensions.filters.udp.dns_filter.v3.DnsFilterConfig"),
            "stat_prefix": "dns", "server_config": {"inline_dns_table": {"virtual_domains": table}}}}]})
}

/// A VIP's listener below one that gets redirected connections.
pub(crate) fn vip_listener(number: usize, filter: Value) -> Value {
    let address = address(&super::vip(number).to_string(), 80);
    json!({"@type": format!("{API}.config.listener.v3.Listener"), "name": format!("vip{number}"),
        "address": address, "bind_to_port": false, "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [filter]}]})
}

/// The listener that gets redirected connections.
pub(crate) fn original_destination(port: u16) -> Value {
    json!({"@type": format!("{API}.config.listener.v3.Listener"), "name": "redirected",
        "address": address("127.0.0.1", port), "use_original_dst": true,
        "filter_chains": [{"filters": [tcp_proxy("blackhole", "blackhole")]}]})
}

pub(crate) fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>, admin: u16) -> Value {
    json!({"node": {"id": "bench", "cluster": "bench"}, "admin": {"address": address("127.0.0.1", admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters}, "layered_runtime": {"layers": [
            {"name": "s", "static_layer": {"overload": {"global_downstream_max_connections": 1_000_000}}}]}})
}

/// A bootstrap whose listeners and clusters are read from files in `folder`, and read again when they are replaced.
pub(crate) fn from_files(folder: &std::path::Path, admin: u16) -> Value {
    let source = |file: &str| json!({"path_config_source": {"path": folder.join(file)}});
    let mut all = bootstrap(Vec::new(), Vec::new(), admin);
    all["static_resources"] = json!({});
    all["dynamic_resources"] = json!({"lds_config": source("lds.json"), "cds_config": source("cds.json")});
    all
}

/// What such a file holds.
pub(crate) fn resources(kind: &str, all: Vec<Value>) -> Value {
    let typed = all.into_iter().map(|mut one| {
        one["@type"] = json!(format!("{API}.config.{kind}"));
        one
    });
    json!({"version_info": "1", "resources": typed.collect::<Vec<_>>()})
}
