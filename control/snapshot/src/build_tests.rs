//! A snapshot is refused with every reason, and a refused one can't exist.

use crate::tables::{Backend, Handler, ListenerRow, NameRow, Role, Tables};
use crate::{Generation, Origin, Snapshot, cell};
use std::net::Ipv4Addr;
use std::sync::Arc;

fn generation(sequence: u64) -> Generation {
    Generation { epoch: 1, sequence }
}

fn name(name: &str) -> Arc<NameRow> {
    let v4 = Some(Ipv4Addr::new(240, 0, 0, 1));
    Arc::new(NameRow { name: name.into(), v4, v6: None, origin: Origin::default() })
}

#[test]
fn all_violations_are_reported_at_once() {
    let handler = Handler::Tcp { backends: vec![Backend { service: "ghost".into(), weight: 1 }], idle_timeout_ms: 0 };
    let role = Role::Outbound { vip: true, handler };
    let row = Arc::new(ListenerRow { address: "240.0.0.1:80".parse().unwrap(), role, origin: Origin::default() });
    let tables = Tables {
        names: vec![name("Big.mesh"), name("a..mesh")],
        listeners: vec![row.clone(), row],
        ..Tables::default()
    };
    let violations = Snapshot::build(tables, generation(1)).unwrap_err();
    let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 5, "{text:#?}");
    assert!(text.iter().any(|t| t.contains("refers to service ghost")));
    assert!(text.iter().any(|t| t.contains("stands twice")));
}

#[test]
fn a_vip_leads_back_to_its_name() {
    let tables = Tables { names: vec![name("a.mesh")], ..Tables::default() };
    let snapshot = Snapshot::build(tables, generation(1)).unwrap();
    assert_eq!(snapshot.vip_name(Ipv4Addr::new(240, 0, 0, 1).into()).unwrap().name, "a.mesh");
    assert!(snapshot.name("b.mesh").is_none());
}

#[test]
fn another_epoch_supersedes_even_with_a_clock_that_is_behind() {
    let (mut publisher, reader) = cell();
    let build = |epoch, sequence| Arc::new(Snapshot::build(Tables::default(), Generation { epoch, sequence }).unwrap());
    publisher.publish(build(9, 5)).unwrap();
    publisher.publish(build(3, 1)).unwrap();
    assert!(publisher.publish(build(3, 1)).is_err());
    publisher.publish(build(3, 2)).unwrap();
    assert!(publisher.publish(build(0, 0)).is_err(), "no generation at all");
    assert_eq!(reader.load().generation(), Generation { epoch: 3, sequence: 2 });
}

#[test]
fn publishing_goes_only_forward_within_an_epoch() {
    let (mut publisher, reader) = cell();
    assert!(reader.load().is_empty());
    let build = |n| Arc::new(Snapshot::build(Tables::default(), generation(n)).unwrap());
    publisher.publish(build(2)).unwrap();
    assert!(publisher.publish(build(2)).is_err());
    assert!(publisher.publish(build(1)).is_err());
    assert_eq!(reader.load().generation(), generation(2));
    let mut cached = reader.cached();
    publisher.publish(build(3)).unwrap();
    assert_eq!(cached.load().generation(), generation(3));
}
