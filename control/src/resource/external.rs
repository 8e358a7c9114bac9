//! ExternalService: reading and checking (spec/zones.md §7.1).

use super::common::{self, PORT_MESSAGE, SERVICE};
use super::decode::{Cursor, Fields, Spot};
use super::{ExternalNetworking, ExternalService, ExternalTls};

pub(super) fn decode(f: &mut Fields<'_>) -> ExternalService {
    let networking = match f.get("networking") {
        Some(cursor) => cursor.fields().map(networking).unwrap_or_default(),
        None => {
            f.spot("networking").error("should have networking");
            ExternalNetworking::default()
        }
    };
    let tags = f.get("tags").map(|c| common::own_tags(&c)).unwrap_or_default();
    match tags.get(SERVICE) {
        None => f.spot("tags").error(common::missing_tag(SERVICE)),
        Some(service) if host_port(&networking.address).is_some_and(|(host, _)| host == service) => {
            f.spot("tags").key(SERVICE).error("cannot be the same as networking.address");
        }
        Some(_) => {}
    }
    ExternalService { tags, networking }
}

/// `host:port` or `[v6]:port`.
fn host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

fn networking(mut f: Fields<'_>) -> ExternalNetworking {
    let address = f.text("address");
    check_address(&address, &f.spot("address"));
    let tls = f.get("tls").and_then(|c| tls(&c));
    let disable_host_dns_entry = match f.boolean("disableHostDNSEntry") {
        Some(value) => value,
        None => f.flag("disableHostDnsEntry"),
    };
    f.done();
    ExternalNetworking { address, tls, disable_host_dns_entry }
}

fn check_address(address: &str, spot: &Spot<'_>) {
    if address.is_empty() {
        spot.error("address can't be empty");
        return;
    }
    let Some((host, port)) = host_port(address) else {
        spot.error_with("unable to parse address", "write host:port");
        return;
    };
    if host.parse::<std::net::IpAddr>().is_err() && !common::is_dns_name(host) {
        spot.error("address has to be a valid IP address or a domain name");
    }
    match port.parse::<u32>() {
        Err(_) => spot.error("unable to parse port in address"),
        Ok(1..=65535) => {}
        Ok(_) => spot.error(PORT_MESSAGE),
    }
}

fn tls(cursor: &Cursor<'_>) -> Option<ExternalTls> {
    let mut f = cursor.fields()?;
    let server_name = f.get("serverName").and_then(|c| c.text());
    if server_name.as_ref().is_some_and(String::is_empty) {
        f.spot("serverName").error(common::EMPTY);
    }
    let tls = ExternalTls {
        enabled: f.flag("enabled"),
        ca_cert: f.get("caCert").and_then(|c| common::data_source(&c)),
        client_cert: f.get("clientCert").and_then(|c| common::data_source(&c)),
        client_key: f.get("clientKey").and_then(|c| common::data_source(&c)),
        allow_renegotiation: f.flag("allowRenegotiation"),
        server_name: server_name.unwrap_or_default(),
        skip_hostname_verification: f.flag("skipHostnameVerification"),
    };
    f.done();
    Some(tls)
}
