//! The codec gives back what it was given, and carries only what changed.

use super::{FORMAT, Incoming, Part, Rows, WireError, load, parts, save, share};
use crate::tables::{Backend, Endpoint, Handler, ListenerRow, Match, NameRow, Role, ServiceRow, Tables, VirtualHost};
use crate::{
    Address, Balance, GatewayTls, Generation, HostPattern, Origin, Protocol, RouteAction, RouteRow, RowId, Snapshot,
    UpstreamTls,
};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

fn name(n: u8) -> Arc<NameRow> {
    let v4 = Some(Ipv4Addr::new(240, 0, 0, n));
    Arc::new(NameRow { name: format!("s{n}.mesh"), v4, v6: None, origin: Origin::new("Dataplane", "default", "x") })
}

fn service(n: u8, weight: u32) -> Arc<ServiceRow> {
    let address = Address::Ip(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)));
    let endpoint = Endpoint { address, port: 80, weight, priority: 0, zone: "east".into(), origin: Origin::default() };
    Arc::new(ServiceRow {
        name: format!("s{n}"),
        service: format!("s{n}"),
        mesh: "default".into(),
        protocol: Protocol::Http,
        tls: UpstreamTls::None,
        balance: Balance::default(),
        connect_timeout_ms: 1,
        idle_timeout_ms: 1,
        hint: String::new(),
        endpoints: Arc::new(vec![endpoint]),
        origin: Origin::default(),
    })
}

fn tables(names: &[u8], services: &[(u8, u32)]) -> Tables {
    let mut t = Tables { names: names.iter().map(|n| name(*n)).collect(), ..Tables::default() };
    t.names.sort_by(|a, b| a.name.cmp(&b.name));
    t.services = services.iter().map(|(n, w)| service(*n, *w)).collect();
    t.services.sort_by(|a, b| a.name.cmp(&b.name));
    t
}

/// What arrives of these parts, on that base.
fn apply(base: &Tables, parts: &[Part]) -> Result<Tables, WireError> {
    let mut incoming = Incoming::new(FORMAT).unwrap();
    parts.iter().try_for_each(|part| incoming.take(part))?;
    incoming.apply(base)
}

fn diff(base: &Tables, next: &Tables) -> Vec<Part> {
    parts(Some(base), next).collect()
}

fn full(tables: &Tables) -> Vec<Part> {
    parts(None, tables).collect()
}

fn one(table: &str, count: usize, bodies: Vec<u8>) -> [Part; 1] {
    [Part { upserts: vec![Rows { table: table.into(), count, bodies }], removals: vec![], is_last: true }]
}

/// The rows that come and go.
fn count(parts: &[Part]) -> (usize, usize) {
    let mut incoming = Incoming::new(FORMAT).unwrap();
    parts.iter().for_each(|part| incoming.take(part).unwrap());
    let removals = parts.iter().map(|part| part.removals.len()).sum();
    (incoming.rows() - removals, removals)
}

#[test]
fn a_first_frame_rebuilds_the_tables() {
    let t = tables(&[1, 2, 30], &[(1, 1), (2, 5)]);
    assert_eq!(apply(&Tables::default(), &full(&t)), Ok(t));
}

#[test]
fn a_large_mesh_travels_in_parts_of_which_only_the_last_says_so() {
    let row = |n| NameRow { name: format!("s{n:04}.mesh"), v4: None, v6: None, origin: Origin::default() };
    let t = Tables { names: (0..9_999).map(row).map(Arc::new).collect(), ..Tables::default() };
    let parts = full(&t);
    assert!(parts.len() > 3 && parts.iter().rposition(|part| !part.is_last) == Some(parts.len() - 2));
    assert_eq!(apply(&Tables::default(), &parts), Ok(t));
    assert_eq!(diff(&Tables::default(), &Tables::default()), [Part { is_last: true, ..Part::default() }]);
}

#[test]
fn rows_of_another_format_are_refused_and_the_releases_named() {
    let refused = Incoming::new(FORMAT + 1).err().unwrap();
    assert!(refused.contains(&format!("format {}", FORMAT + 1)) && refused.contains("same release"), "{refused}");
}

#[test]
fn a_field_of_a_later_release_is_passed_over() {
    #[derive(serde::Serialize)]
    struct Later<'a> {
        novelty: (u8, &'a str),
        #[serde(flatten)]
        row: &'a NameRow,
    }
    let row = name(1);
    let mut bodies = Vec::new();
    rmp_serde::encode::write_named(&mut bodies, &Later { novelty: (1, "x"), row: &row }).unwrap();
    let applied = apply(&Tables::default(), &one("name", 1, bodies)).unwrap();
    assert_eq!(applied.names, [row]);
}

#[test]
fn a_file_gives_back_what_was_saved_also_one_of_an_earlier_release() {
    let t = tables(&[1, 2, 30], &[(1, 1), (2, 5)]);
    let generation = Generation { epoch: 7, sequence: 8 };
    let mut file = Vec::new();
    save(generation, &t, &mut file).unwrap();
    assert_eq!(load(&file), Ok((generation, t.clone())));
    let old = serde_json::json!({"generation": generation, "tables": t});
    assert_eq!(load(old.to_string().as_bytes()), Ok((generation, t)));
    let problem = load(&[FORMAT as u8 + 1]).unwrap_err();
    assert!(problem.contains(&format!("format {}", FORMAT + 1)), "{problem}");
    assert!(load(b"").is_err() && load(b"{").is_err() && load(&file[..file.len() - 1]).is_err());
}

#[test]
fn an_endpoint_change_carries_one_row_and_shares_the_others() {
    let old = tables(&[1], &[(1, 1), (2, 1)]);
    let mut new = old.clone();
    new.services[1] = service(2, 7);
    let delta = diff(&old, &new);
    assert_eq!(count(&delta), (1, 0));
    let applied = apply(&old, &delta).unwrap();
    assert_eq!(applied, new);
    assert!(Arc::ptr_eq(&applied.services[0], &old.services[0]));
}

#[test]
fn a_full_set_shares_the_rows_that_are_held_already() {
    let held = tables(&[1], &[(1, 1), (2, 1)]);
    let next = share(&held, apply(&Tables::default(), &full(&tables(&[1], &[(1, 1), (2, 7)]))).unwrap());
    assert_eq!(next, tables(&[1], &[(1, 1), (2, 7)]));
    assert!(Arc::ptr_eq(&next.names[0], &held.names[0]) && Arc::ptr_eq(&next.services[0], &held.services[0]));
    assert!(!Arc::ptr_eq(&next.services[1], &held.services[1]));
}

#[test]
fn a_row_that_cant_be_read_and_an_unknown_table_are_refused_and_named() {
    let mut bodies = Vec::new();
    rmp_serde::encode::write_named(&mut bodies, name(1).as_ref()).unwrap();
    rmp_serde::encode::write_named(&mut bodies, "no row").unwrap();
    let refused = apply(&Tables::default(), &one("name", 2, bodies)).unwrap_err();
    assert_eq!((refused.row.table.as_str(), refused.row.key.as_str()), ("name", "#2"));
    assert!(apply(&Tables::default(), &one("novelty", 0, vec![])).unwrap_err().to_string().contains("novelty"));
    let id = |table: &str, key: &str| RowId { table: table.into(), key: key.into() };
    for removal in [id("novelty", ""), id("host", "h.mesh"), id("host", "x h.mesh")] {
        let part = Part { removals: vec![removal.clone()], ..Part::default() };
        assert_eq!(apply(&Tables::default(), &[part]).unwrap_err().row, removal);
    }
}

proptest! {
    #[test]
    fn applying_the_difference_gives_the_next_tables(
        a in prop::collection::btree_set(0u8..20, 0..10),
        b in prop::collection::btree_set(0u8..20, 0..10),
        s in prop::collection::btree_map(0u8..10, 0u32..3, 0..8),
        t in prop::collection::btree_map(0u8..10, 0u32..3, 0..8),
    ) {
        let pairs = |m: &std::collections::BTreeMap<u8, u32>| m.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
        let old = tables(&a.into_iter().collect::<Vec<_>>(), &pairs(&s));
        let new = tables(&b.into_iter().collect::<Vec<_>>(), &pairs(&t));
        prop_assert_eq!(apply(&old, &diff(&old, &new)).unwrap(), new);
    }

    #[test]
    fn random_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..64), table in "[a-z]{0,10}|name|service|listener|host|proxy") {
        let _ = load(&body);
        let _ = apply(&Tables::default(), &one(&table, 3, body));
    }
}

fn gateway(hosts: &std::collections::BTreeMap<String, u16>) -> Tables {
    let route = |status: u16| RouteRow {
        matches: Match::default(),
        action: RouteAction::Respond { status, body: String::new() },
        origin: Origin::default(),
    };
    let host = |(name, status): (&String, &u16)| {
        Arc::new(VirtualHost { host: HostPattern::parse(name), routes: vec![route(*status)] })
    };
    let handler = Handler::Http { hosts: hosts.iter().map(host).collect() };
    let role = Role::Gateway { handler, tls: GatewayTls::None, connections_max: None };
    let row = ListenerRow { address: "127.0.0.1:80".parse().unwrap(), role, origin: Origin::default() };
    Tables { listeners: vec![Arc::new(row)], ..Tables::default() }
}

#[test]
fn a_changed_route_carries_its_host_only() {
    let mut hosts: std::collections::BTreeMap<_, _> = (0..100).map(|n| (format!("h{n}.mesh"), 200)).collect();
    let old = gateway(&hosts);
    hosts.insert("h7.mesh".into(), 404);
    let new = gateway(&hosts);
    let delta = diff(&old, &new);
    assert_eq!((delta[0].upserts[0].table.as_str(), count(&delta)), ("host", (1, 0)));
    assert_eq!(apply(&old, &delta), Ok(new));
}

#[test]
fn the_second_listener_of_a_name_is_a_few_bytes_and_shares_what_the_first_holds() {
    let action = RouteAction::Forward(crate::Forward {
        backends: vec![Backend { service: "a-service".into(), weight: 1 }],
        ..crate::Forward::default()
    });
    let route = RouteRow { matches: Match::default(), action, origin: Origin::default() };
    let hosts = vec![Arc::new(VirtualHost { host: HostPattern::Any, routes: vec![route] })];
    let role = Role::Outbound { vip: true, handler: Handler::Http { hosts } };
    let row = |address: &str, name: &str| {
        let origin = Origin::new("Dataplane", "default", name);
        Arc::new(ListenerRow { address: address.parse().unwrap(), role: role.clone(), origin })
    };
    let listeners = vec![row("240.0.0.1:80", "a"), row("240.0.0.2:80", "b"), row("[fd00::1]:80", "a")];
    let t = Tables { listeners, ..Tables::default() };
    let parts = full(&t);
    let rows: Vec<_> = parts[0].upserts.iter().map(|rows| (rows.table.as_str(), rows.count)).collect();
    assert_eq!(rows, [("proxy", 1), ("listener", 2), ("twin", 1)]);
    assert!(parts[0].upserts[2].bodies.len() < 50);
    let applied = apply(&Tables::default(), &parts).unwrap();
    assert_eq!(applied, t);
    let hosts = |n: usize| match &applied.listeners[n].role {
        Role::Outbound { handler: Handler::Http { hosts }, .. } => hosts[0].clone(),
        _ => panic!("no hosts"),
    };
    assert!(Arc::ptr_eq(&hosts(0), &hosts(2)));
    let orphan = Part { upserts: vec![parts[0].upserts[2].clone()], ..Part::default() };
    assert_eq!(apply(&t, &[orphan]).unwrap_err().row.table, "twin");
}

proptest! {
    #[test]
    fn hosts_travel_alone_and_arrive_in_place(
        a in prop::collection::btree_map("[a-c]{1,2}|\\*\\.[a-c]|\\*", 200u16..203, 0..6),
        b in prop::collection::btree_map("[a-c]{1,2}|\\*\\.[a-c]|\\*", 200u16..203, 0..6),
    ) {
        let (old, new) = (gateway(&a), gateway(&b));
        prop_assert_eq!(apply(&old, &diff(&old, &new)).unwrap(), new.clone());
        prop_assert_eq!(apply(&Tables::default(), &full(&new)).unwrap(), new.clone());
        prop_assert_eq!(share(&old, new.clone()), new);
    }

    #[test]
    fn building_after_another_snapshot_gives_what_building_anew_gives(
        a in prop::collection::btree_set(0u8..20, 0..10),
        b in prop::collection::vec(0u8..20, 0..10),
        s in prop::collection::btree_map(0u8..6, 0u32..3, 0..6),
        t in prop::collection::btree_map(0u8..6, 0u32..3, 0..6),
        wanted in (0u8..6, 0u8..6),
    ) {
        let pairs = |m: &std::collections::BTreeMap<u8, u32>| m.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
        let with_listener = |mut tables: Tables, service: u8| {
            let backend = Backend { service: format!("s{service}"), weight: 1 };
            let handler = Handler::Tcp { backends: vec![backend], idle_timeout_ms: 0 };
            let role = Role::Outbound { vip: true, handler };
            let address = "240.0.0.1:80".parse().unwrap();
            tables.listeners = vec![Arc::new(ListenerRow { address, role, origin: Origin::default() })];
            tables
        };
        let first = Generation { epoch: 1, sequence: 1 };
        let old = with_listener(tables(&a.into_iter().collect::<Vec<_>>(), &pairs(&s)), wanted.0);
        // Names may stand twice: that must be seen in either way.
        let new = share(&old, with_listener(tables(&b, &pairs(&t)), wanted.1));
        let Ok(old) = Snapshot::build(old, first) else { return Ok(()) };
        let (anew, after) = (Snapshot::build(new.clone(), first), Snapshot::build_after(Some(&old), new, first));
        prop_assert_eq!(anew.is_ok(), after.is_ok());
        if let (Ok(anew), Ok(after)) = (anew, after) {
            prop_assert_eq!(anew.tables(), after.tables());
            for n in 0..20u8 {
                prop_assert_eq!(anew.name(&format!("s{n}.mesh")), after.name(&format!("s{n}.mesh")));
                prop_assert_eq!(anew.service(&format!("s{n}")), after.service(&format!("s{n}")));
                let vip = IpAddr::V4(Ipv4Addr::new(240, 0, 0, n));
                prop_assert_eq!(anew.vip_name(vip), after.vip_name(vip));
            }
        }
    }
}
