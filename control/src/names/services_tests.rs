//! Hostnames and addresses of MeshServices and their kin (spec/naming.md §6).

use super::*;
use crate::resource::read;
use crate::vip::{Cidr, Ranges, allocate};

fn resources(yaml: &str) -> Vec<Resource> {
    let intake = read(yaml, "t.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources
}

fn generator(name: &str, kind: &str, labels: &str, template: &str) -> String {
    format!(
        "type: HostnameGenerator\nname: {name}\nspec: {{selector: {{{kind}: {{matchLabels: {{{labels}}}}}}}, template: \
         '{template}'}}\n---\n"
    )
}

fn service(name: &str, labels: &str) -> String {
    format!(
        "type: MeshService\nmesh: default\nname: {name}\nlabels: {{{labels}}}\nspec: {{selector: {{dataplaneTags: \
         {{kuma.io/service: {name}}}}}, ports: [{{port: 80}}, {{port: 443}}]}}\n---\n"
    )
}

fn external(name: &str) -> String {
    format!(
        "type: MeshExternalService\nmesh: default\nname: {name}\nspec: {{match: {{type: HostnameGenerator, port: 9000}}, \
         endpoints: [{{address: a.com, port: 443}}]}}\n---\n"
    )
}

/// `3:default/web: web.svc by gen`, and `!reason message` of what was refused; the same in both orders.
fn show(yaml: &str) -> Vec<String> {
    let all = resources(yaml);
    let mut list: Vec<&Resource> = all.iter().collect();
    let found = hostnames(&list, "east");
    list.reverse();
    assert_eq!(found, hostnames(&list, "east"));
    let mut lines = Vec::new();
    for (key, hostnames) in &found {
        lines.extend(hostnames.given.iter().map(|(host, by)| format!("{key}: {host} by {by}")));
        lines
            .extend(hostnames.refused.iter().map(|r| format!("{key}: !{} {} by {}", r.reason, r.message, r.generator)));
    }
    lines
}

#[test]
fn a_generator_names_what_its_labels_select() {
    let yaml = generator(
        "own",
        "meshService",
        "team: a",
        r#"{{ .DisplayName }}.{{ label "team" }}.{{ .Zone }}.{{ .Mesh }}.corp"#,
    ) + &service("web", "team: a")
        + &service("db", "team: b");
    assert_eq!(show(&yaml), ["3:default/web: web.a.east.default.corp by own"]);
}

#[test]
fn the_default_generators_name_local_and_synced_services() {
    let yaml = generator(
        "local",
        "meshService",
        "kuma.io/origin: zone, kuma.io/env: universal",
        "{{ .DisplayName }}.svc.mesh.local",
    ) + &generator(
        "synced",
        "meshService",
        "kuma.io/origin: global",
        "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local",
    ) + &service("web", "")
        + &service("far", "kuma.io/zone: west, kuma.io/display-name: db");
    assert_eq!(
        show(&yaml),
        ["3:default/far: db.svc.west.mesh.local by synced", "3:default/web: web.svc.mesh.local by local"]
    );
}

#[test]
fn one_name_is_given_once_in_a_mesh_over_all_kinds() {
    let yaml = generator("a", "meshService", "", "one.mesh")
        + &generator("b", "meshExternalService", "", "one.mesh")
        + &service("web", "")
        + &service("db", "")
        + &external("ext");
    assert_eq!(
        show(&yaml),
        [
            "3:default/db: one.mesh by a",
            "3:default/web: !Collision Hostname collision with MeshService: db by a",
            "4:default/ext: !Collision Hostname collision with MeshService: db by b",
        ]
    );
}

#[test]
fn generators_of_the_zone_come_first_then_the_older() {
    let text =
        generator("global", "meshService", "", "x.mesh") + &generator("local", "meshExternalService", "", "x.mesh");
    let mut all = resources(&(text + &service("web", "") + &external("ext")));
    all[0].meta.labels.insert(ORIGIN_LABEL.into(), "global".into());
    (all[0].meta.created_ms, all[1].meta.created_ms) = (1, 2);
    let list: Vec<&Resource> = all.iter().collect();
    let given = |key: &str| hostnames(&list, "")[&key.parse::<Key>().unwrap()].given.len();
    assert_eq!((given("3:default/web"), given("4:default/ext")), (0, 1));
    all[0].meta.labels.clear();
    let list: Vec<&Resource> = all.iter().collect();
    let given = |key: &str| hostnames(&list, "")[&key.parse::<Key>().unwrap()].given.len();
    assert_eq!((given("3:default/web"), given("4:default/ext")), (1, 0));
}

#[test]
fn a_template_that_fails_for_a_service_says_so_and_stops_nothing_else() {
    let yaml = generator("t", "meshService", "", r#"{{ label "team" }}.corp"#)
        + &service("web", "team: a")
        + &service("db", "");
    let lines = show(&yaml);
    assert!(lines[0].starts_with("3:default/db: !TemplateError") && lines[0].contains("team"), "{lines:?}");
    assert_eq!(lines[1], "3:default/web: a.corp by t");
}

#[test]
fn a_hostname_that_dns_cannot_hold_is_refused_alone() {
    let long = vec!["a".repeat(50); 5].join(".");
    let yaml = generator("t", "meshService", "", "{{ .Name }}.LONG").replace("LONG", &long)
        + &generator("u", "meshService", "", "{{ .Name }}.Corp.")
        + &service("web", "");
    let lines = show(&yaml);
    assert_eq!((lines.len(), lines[0].as_str()), (2, "3:default/web: web.corp by u"));
    assert!(lines[1].contains("!TemplateError") && lines[1].contains("no DNS name of at most 253 bytes"), "{lines:?}");
}

#[test]
fn seed_names_of_mesh_services_and_their_kin_come_from_hostname_generators() {
    let yaml = generator("g", "meshService", "", "{{ .Name }}.svc") + &service("web", "") + &service("db", "");
    assert_eq!(show(&yaml), ["3:default/db: db.svc by g", "3:default/web: web.svc by g"]);
    assert_eq!(show(&service("web", "")), [""; 0], "without a generator there is no name");
}

fn named(yaml: &str, mode: MeshServicesMode) -> ServiceNames {
    let all = resources(yaml);
    let list: Vec<&Resource> = all.iter().collect();
    let ranges = Ranges { v4: Cidr::new(Ipv4Addr::new(241, 0, 0, 0), 24), v6: None };
    let table = |kind| (kind, allocate(&VipTable::default(), &service_keys(&list, kind), &ranges, 0).0);
    service_names(("default", mode), &list, &hostnames(&list, ""), &ServiceKind::ALL.map(table).into())
}

#[test]
fn a_service_is_dialled_at_its_address_on_each_of_its_ports() {
    let yaml = generator("g", "meshService", "", "{{ .Name }}.svc") + &service("web", "") + &external("ext");
    let names = named(&yaml, MeshServicesMode::Everywhere);
    let rows: Vec<String> = names.names.iter().map(|row| format!("{} {}", row.name, row.v4.unwrap())).collect();
    assert_eq!(rows, ["web.svc 241.0.0.0"]);
    let outbounds: Vec<String> =
        names.outbounds.iter().map(|o| format!("{}:{} {} {}", o.v4.unwrap(), o.port, o.kind.name(), o.name)).collect();
    let want =
        ["241.0.0.0:80 MeshService web", "241.0.0.0:443 MeshService web", "241.0.0.0:9000 MeshExternalService ext"];
    assert_eq!(outbounds, want);
    let disabled = named(&yaml, MeshServicesMode::Disabled);
    assert_eq!((disabled.names.len(), disabled.outbounds.len()), (0, 1));
}
