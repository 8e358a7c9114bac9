//! Which names a sidecar's DNS gets, by the numbers of spec/naming.md §13.4.

use super::make::*;
use super::*;
use crate::names::{MeshNames, NamedOutbound};
use crate::resource::TransparentProxying;
use crate::settings::Aaaa;
use snapshot::{NameRow, Origin};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROWS: [(&str, &str); 3] = [
    ("backend.test-ns.svc.8080.mesh", "240.0.0.0"),
    ("backend_test-ns_svc_8080.mesh", "240.0.0.0"),
    ("httpbin.mesh", "240.0.0.1"),
];

fn names() -> BTreeMap<String, MeshNames> {
    let row = |(name, v4): (&str, &str)| NameRow {
        name: name.into(),
        v4: v4.parse().ok(),
        v6: format!("fd00::{}", v4.rsplit_once('.').unwrap().1).parse().ok(),
        origin: Origin::default(),
    };
    let outbound = |service: &str, row: NameRow| NamedOutbound {
        v4: row.v4,
        v6: row.v6,
        port: 80,
        tags: tags(&format!("service={service}")),
        origin: Origin::default(),
    };
    let outbounds = [outbound("backend_test-ns_svc_8080", row(ROWS[0])), outbound("httpbin", row(ROWS[2]))];
    let outbounds = outbounds.map(Arc::new).into();
    BTreeMap::from([(
        "default".to_owned(),
        MeshNames { names: ROWS.map(row).map(Arc::new).into(), outbounds, ..MeshNames::default() },
    )])
}

fn client(family: &'static str, reachable: &[&str]) -> crate::resource::Resource {
    let reachable_services = reachable.iter().map(|s| (*s).to_owned()).collect();
    change(app("web", "10.0.0.1", "service=web"), move |d| {
        d.networking.transparent_proxying = Some(TransparentProxying {
            redirect_port_outbound: 15001,
            reachable_services,
            ip_family_mode: family.into(),
            ..Default::default()
        });
    })
}

/// `name v4 v6` of each, and the TTL.
fn served(aaaa: Aaaa, client: crate::resource::Resource) -> (Vec<String>, u32) {
    let settings = super::super::Settings { aaaa, dns_ttl_s: 30, ..settings("") };
    let resources = [mesh("default", ""), client].into_iter().map(Arc::new).collect();
    let tables = sidecar(&World::new(resources, settings, names()), "web").tables;
    let text = |row: &Arc<NameRow>| {
        let v6 = row.v6.map_or(String::from("-"), |v6| v6.to_string());
        format!("{} {} {v6}", row.name, row.v4.unwrap())
    };
    (tables.names.iter().map(text).collect(), tables.proxy.dns.ttl_s)
}

#[test]
fn k49_services_have_their_names_and_dotted_aliases_in_both_families() {
    let (native, ttl_s) = served(Aaaa::Native, client("", &[]));
    assert_eq!(ttl_s, 30);
    assert_eq!(
        native,
        [
            "backend.test-ns.svc.8080.mesh 240.0.0.0 fd00::",
            "backend_test-ns_svc_8080.mesh 240.0.0.0 fd00::",
            "httpbin.mesh 240.0.0.1 fd00::1"
        ]
    );
    let (mapped, _) = served(Aaaa::Mapped, client("DualStack", &[]));
    // ::ffff:f000:0 and ::ffff:f000:1, as Kuma has them.
    assert_eq!(
        mapped,
        [
            "backend.test-ns.svc.8080.mesh 240.0.0.0 ::ffff:240.0.0.0",
            "backend_test-ns_svc_8080.mesh 240.0.0.0 ::ffff:240.0.0.0",
            "httpbin.mesh 240.0.0.1 ::ffff:240.0.0.1"
        ]
    );
}

#[test]
fn k50_in_ipv4_mode_there_is_no_aaaa() {
    for aaaa in [Aaaa::Native, Aaaa::Mapped, Aaaa::Off] {
        let (rows, _) = served(aaaa, client("IPv4", &[]));
        assert!(rows.len() == 3 && rows.iter().all(|row| row.ends_with(" -")), "{rows:?}");
    }
}

#[test]
fn k51_without_transparent_proxy_there_are_no_names() {
    assert!(served(Aaaa::Native, app("web", "10.0.0.1", "service=web")).0.is_empty());
}

#[test]
fn seed_names_need_transparent_proxying() {
    assert_eq!(served(Aaaa::Native, app("web", "10.0.0.1", "service=web")).0, [""; 0]);
    assert_eq!(served(Aaaa::Native, client("", &[])).0.len(), 3);
}

/// The listener that the page's config dump shows: virtual, outbound, named and counted by its service.
#[test]
fn seed_a_service_is_a_virtual_outbound_listener_at_its_vip_on_port_80() {
    let resources = [mesh("default", ""), client("", &[])].into_iter().map(Arc::new).collect();
    let world = World::new(resources, settings(""), names());
    let compiled = sidecar(&world, "web");
    let row = listener(&compiled, "240.0.0.1:80");
    assert!(matches!(row.role, Role::Outbound { vip: true, .. }), "{row:?}");
    assert_eq!(target(row), "httpbin");
}

#[test]
fn k52_a_mapped_address_is_the_ipv4_one_behind_ffff() {
    let (rows, _) = served(Aaaa::Mapped, client("", &[]));
    let v6: std::net::Ipv6Addr = rows[0].rsplit_once(' ').unwrap().1.parse().unwrap();
    assert_eq!(v6.segments(), [0, 0, 0, 0, 0, 0xffff, 0xf000, 0]);
    // An address of the second range is nobody's form of another.
    let (rows, _) = served(Aaaa::Native, client("", &[]));
    assert!(rows[0].ends_with(" fd00::"), "{rows:?}");
}

#[test]
fn n11_a_service_that_is_not_reachable_has_no_name() {
    assert_eq!(served(Aaaa::Native, client("", &["httpbin"])).0, ["httpbin.mesh 240.0.0.1 fd00::1"]);
}

#[test]
fn seed_aaaa_can_be_answered_empty_without_a_corefile() {
    let (rows, _) = served(Aaaa::Off, client("", &[]));
    assert!(rows.len() == 3 && rows.iter().all(|row| row.ends_with(" -")), "{rows:?}");
}

#[test]
fn a_service_without_an_address_has_a_name_that_is_refused_where_it_could_be_reached() {
    let refused = |reachable: &[&str]| {
        let mut names = names();
        let row = NameRow { name: "late.mesh".into(), v4: None, v6: None, origin: Origin::default() };
        names.get_mut("default").unwrap().unplaced.push(("late".into(), Arc::new(row)));
        let resources = [mesh("default", ""), client("", reachable)].into_iter().map(Arc::new).collect();
        let tables = sidecar(&World::new(resources, settings(""), names), "web").tables;
        tables.names.iter().any(|row| &*row.name == "late.mesh" && row.v4.is_none() && row.v6.is_none())
    };
    assert!(refused(&[]) && refused(&["late"]) && !refused(&["httpbin"]));
}
