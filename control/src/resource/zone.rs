//! Zone, ZoneIngress and ZoneEgress: reading and checking (spec/zones.md §3, §8.1).

use super::common::{self, SERVICE};
use super::dataplane;
use super::decode::{Cursor, Fields};
use super::{AvailableService, Zone, ZoneEgress, ZoneIngress, ZoneNetworking};
use std::net::IpAddr;

pub(super) fn decode_zone(f: &mut Fields<'_>) -> Zone {
    Zone { enabled: f.boolean("enabled") }
}

pub(super) fn decode_egress(f: &mut Fields<'_>) -> ZoneEgress {
    ZoneEgress { zone: f.text("zone"), networking: networking(f, false) }
}

pub(super) fn decode_ingress(f: &mut Fields<'_>) -> ZoneIngress {
    let (zone, networking) = (f.text("zone"), networking(f, true));
    let available_services = f.items("availableServices").iter().filter_map(available).collect();
    ZoneIngress { zone, networking, available_services }
}

fn networking(f: &mut Fields<'_>, advertised: bool) -> ZoneNetworking {
    let mut out = ZoneNetworking::default();
    let Some(cursor) = f.get("networking") else {
        f.spot("networking").member("port").error(common::PORT_MESSAGE);
        return out;
    };
    let Some(mut n) = cursor.fields() else { return out };
    out.address = n.text("address");
    if !out.address.is_empty() {
        // The doubled path is Kuma's.
        common::address(&out.address, &n.spot("address").member("address"));
    }
    out.port = common::required_port(&mut n, "port");
    out.admin = n.get("admin").and_then(|c| dataplane::admin(&c));
    let local = out.address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    if local && out.port != 0 && out.admin.as_ref().is_some_and(|a| a.port == out.port) {
        n.spot("admin").member("port").error("must differ from port");
    }
    if advertised {
        out.advertised_address = n.text("advertisedAddress");
        out.advertised_port = common::optional_port(&mut n, "advertisedPort");
        if !out.advertised_address.is_empty() {
            common::address(&out.advertised_address, &n.spot("advertisedAddress").member("address"));
        }
        match (out.advertised_address.is_empty(), out.advertised_port.is_none()) {
            (true, false) => n.spot("advertisedAddress").error("has to be defined with advertisedPort"),
            (false, true) if !n.has("advertisedPort") => {
                n.spot("advertisedPort").error("has to be defined with advertisedAddress");
            }
            _ => {}
        }
    }
    n.done();
    out
}

fn available(cursor: &Cursor<'_>) -> Option<AvailableService> {
    let mut f = cursor.fields()?;
    // The singular is Kuma's.
    f.spot.path = f.spot.path.replace("availableServices[", "availableService[");
    let tags = f.get("tags").map(|c| common::own_tags(&c)).unwrap_or_default();
    if !tags.contains_key(SERVICE) {
        f.spot("tags").error(common::missing_tag(SERVICE));
    }
    let range = 0..=i128::from(u32::MAX);
    let instances = f.get("instances").and_then(|c| c.in_range(range, "must be a whole number, 0 or more"));
    let service = AvailableService {
        tags,
        instances: instances.unwrap_or_default(),
        mesh: f.text("mesh"),
        external_service: f.flag("externalService"),
    };
    f.done();
    Some(service)
}
