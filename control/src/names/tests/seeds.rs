//! What the users' own pages say about names, one test a sentence (spec/naming.md §14).

use super::*;
use crate::resource::read;
use crate::settings::Settings;

/// Resources as the pages write them, in mesh `mesh`.
fn written(yaml: &str) -> Vec<Resource> {
    let intake = read(yaml, "seed.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources
}

/// A document of the pages, in mesh `mesh`.
macro_rules! seed {
    ($name:literal) => {
        written(
            &include_str!(concat!("../../../testdata/intake/seeds/", $name, ".yaml"))
                .replace("mesh: default", "mesh: mesh"),
        )
    };
}

fn names_of(resources: &[Resource]) -> Vec<String> {
    let served = serve(&view_of(resources)).0;
    served.names.iter().map(|row| row.name.clone()).collect()
}

#[test]
fn seed_hostnames_are_kept_when_migrating_and_a_service_has_several() {
    let all = [
        vo("old", &["kuma.io/service=billing"], "billing.prod.example.com", "8443", "s:kuma.io/service"),
        vo("short", &["kuma.io/service=billing"], "{{.s}}", "80", "s:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=billing"]),
    ];
    let served = serve(&view_of(&all)).0;
    assert_eq!(show_served(&served).0.len(), 3);
    assert!(served.outbounds.iter().all(|outbound| outbound.tags[SERVICE_TAG] == "billing"));
    assert_eq!(names_of(&all), ["billing", "billing.mesh", "billing.prod.example.com"]);
}

#[test]
fn seed_several_inbounds_on_different_ports_have_routes_of_their_own() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.s}}.mesh", "{{.port}}", "s:kuma.io/service port:k8s.kuma.io/service-port"),
        dp(
            "mesh",
            "a",
            &[
                "kuma.io/service=es_ns_svc_9200 k8s.kuma.io/service-port=9200",
                "kuma.io/service=es_ns_svc_9300 k8s.kuma.io/service-port=9300",
            ],
        ),
    ];
    let ports: Vec<u16> = serve(&view_of(&all)).0.outbounds.iter().map(|outbound| outbound.port).collect();
    assert_eq!(ports, [80, 80, 9200, 9300]);
}

#[test]
fn seed_of_duplicates_the_one_with_the_highest_priority_takes_over_and_all_are_told() {
    let all = [
        vo("low", &["kuma.io/service=*"], "x.mesh", "80", "s:kuma.io/service"),
        vo("high", &["kuma.io/service=* version=v1"], "x.mesh", "80", "s:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=a"]),
        dp("mesh", "b", &["kuma.io/service=b version=v1"]),
        dp("mesh", "c", &["kuma.io/service=c"]),
    ];
    let view = view_of(&all);
    assert_eq!(view.entries[&Key::new(EntryKind::Fqdn, "x.mesh")][0].origin.name, "high");
    let losers: Vec<String> =
        view.conflicts.iter().map(|c| format!("{} {}", c.loser.origin.name, c.loser.source)).collect();
    assert_eq!(losers, ["low Dataplane mesh/a", "low Dataplane mesh/b", "low Dataplane mesh/c"]);
}

#[test]
fn seed_host_and_port_are_templates_over_parameters_and_selectors_choose_the_proxies() {
    let yaml = "type: VirtualOutbound\nmesh: mesh\nname: v\nselectors: [{match: {kuma.io/service: '*', version: '*'}}]\nconf:\n  host: \
                '{{.v}}.{{.service}}.mesh'\n  port: '{{.port}}'\n  parameters:\n  - {name: service, tag_key: kuma.io/service}\n  - {name: \
                v, tagKey: version}\n  - {name: port}\n";
    let dataplane = "type: Dataplane\nmesh: mesh\nname: d\nnetworking: {address: 10.0.0.1, inbound: [{port: 1, tags: {kuma.io/service: \
                     backend, version: v1, port: 1800}}, {port: 2, tags: {kuma.io/service: other, port: 1}}]}\n";
    let all = written(&format!("{yaml}---\n{dataplane}"));
    assert_eq!(names_of(&all), ["backend.mesh", "other.mesh", "v1.backend.mesh"]);
    let outbounds = serve(&view_of(&all)).0.outbounds;
    assert_eq!(outbounds.last().map(|outbound| outbound.port), Some(1800));
}

#[test]
fn seed_the_documented_documents_give_the_documented_names() {
    let workload = |tags: &str| dp("mesh", "w", &[&format!("kuma.io/service=backend {tags}")]);
    let first = [seed!("virtual-outbound-doc-01"), seed!("virtual-outbound-doc-02")].concat();
    let served = serve(&view_of(&first)).0;
    assert_eq!(show_served(&served).0, ["backend.mesh=240.0.0.0", "v1.backend.mesh=240.0.0.1"]);
    assert_eq!(served.outbounds[1].port, 1800);
    for (policy, tags, name, port) in [
        (seed!("virtual-outbound-2.4-02"), "version=v1 k8s.kuma.io/service-port=1800", "v1.backend.mesh", 1800),
        (seed!("virtual-outbound-2.4-04"), "", "backend.mesh", 80),
        (seed!("virtual-outbound-2.4-05"), "", "backend.mesh", 80),
        (seed!("virtual-outbound-2.4-06"), "kuma.io/version=v2", "backend.v2.mesh", 80),
        (seed!("virtual-outbound-2.4-07"), "kuma.io/version=v2", "backend.v2.mesh", 80),
        (seed!("virtual-outbound-2.4-08"), "my.mesh/hostname=kafka.corp my.mesh/port=9092", "kafka.corp", 9092),
        (seed!("virtual-outbound-2.4-09"), "my.mesh/hostname=kafka.corp my.mesh/port=9092", "kafka.corp", 9092),
        (seed!("virtual-outbound-2.4-10"), "statefulset.kubernetes.io/pod-name=zk-0", "backend.zk-0.mesh", 8080),
        (seed!("virtual-outbound-2.4-11"), "kuma.io/instance=0", "inst-0.backend.mesh", 8080),
    ] {
        let view = view_of(&[policy, vec![workload(tags)]].concat());
        let wishes = view.entries.get(&Key::new(EntryKind::Fqdn, name)).unwrap_or_else(|| panic!("{name}: {view:?}"));
        assert_eq!(wishes.iter().map(|wish| wish.port).collect::<Vec<_>>(), [port], "{name}");
    }
}

#[test]
fn seed_the_default_of_a_tag_key_is_the_name_and_names_are_alphanumeric_and_unique() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.version}}.{{.s}}.mesh", "80", "s:kuma.io/service version"),
        dp("mesh", "a", &["kuma.io/service=web version=v1"]),
    ];
    assert_eq!(names_of(&all), ["v1.web.mesh", "web.mesh"]);
    let refused = |parameters: &str| {
        let yaml = format!(
            "type: VirtualOutbound\nmesh: mesh\nname: v\nselectors: [{{match: {{a: b}}}}]\nconf: {{host: a.mesh, port: '80', \
             parameters: [{{name: s, tagKey: kuma.io/service}}, {parameters}]}}"
        );
        read(&yaml, "seed.yaml").has_errors()
    };
    assert!(refused("{name: my-version, tagKey: version}") && refused("{name: s, tagKey: version}"));
    assert!(!refused("{name: v2, tagKey: version}"));
}

#[test]
fn seed_a_host_need_not_end_with_the_domain() {
    let vo = |host| vo("vo", &["kuma.io/service=*"], host, "80", "s:kuma.io/service");
    let all = [vo("{{.s}}.prod.example.com"), dp("mesh", "a", &["kuma.io/service=web"])];
    assert_eq!(names_of(&all), ["web.mesh", "web.prod.example.com"]);
}

#[test]
fn seed_virtual_outbounds_with_more_than_the_service_work_across_zones() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.v}}.{{.s}}.mesh", "80", "s:kuma.io/service v:version"),
        ingress("zone2", &[("mesh", "kuma.io/service=web kuma.io/zone=zone2 version=v7")]),
    ];
    let served = serve(&view_of(&all)).0;
    assert_eq!(show_served(&served).0, ["v7.web.mesh=240.0.0.1", "web.mesh=240.0.0.0"]);
    assert_eq!(served.outbounds[1].tags, tags("kuma.io/service=web version=v7"));
}

#[test]
fn seed_vips_are_of_the_services_of_all_meshes() {
    let all = [dp("one", "a", &["kuma.io/service=a"]), dp("two", "b", &["kuma.io/service=b"])];
    let list: Vec<&Resource> = all.iter().collect();
    for (mesh, name) in [("one", "a.mesh"), ("two", "b.mesh")] {
        let served = serve(&view(&NamesInput { mesh, resources: &list, settings: &settings() })).0;
        assert_eq!(show_served(&served).0, [format!("{name}=240.0.0.0")]);
    }
}

#[test]
fn seed_the_service_parameter_is_mandatory_even_if_no_template_uses_it() {
    let vo = |parameters: &str| {
        let yaml = format!(
            "type: VirtualOutbound\nmesh: mesh\nname: v\nselectors: [{{match: {{a: b}}}}]\nconf: {{host: a.mesh, port: '80', \
             parameters: [{parameters}]}}"
        );
        read(&yaml, "seed.yaml").has_errors()
    };
    assert!(vo("{name: version}") && !vo("{name: version}, {name: unused, tagKey: kuma.io/service}"));
}

#[test]
fn seed_every_hostname_has_a_vip_of_its_own() {
    let all = [
        vo("vo", &["kuma.io/service=* v=*"], "{{.v}}.{{.s}}.mesh", "80", "s:kuma.io/service v"),
        dp("mesh", "a", &["kuma.io/service=s v=1"]),
        dp("mesh", "b", &["kuma.io/service=s v=2"]),
        dp("mesh", "c", &["kuma.io/service=s v=2"]),
    ];
    assert_eq!(
        show_served(&serve(&view_of(&all)).0).0,
        ["1.s.mesh=240.0.0.1", "2.s.mesh=240.0.0.2", "s.mesh=240.0.0.0"]
    );
}

#[test]
fn seed_the_same_as_the_default_shadows_it_with_the_same_endpoints() {
    let all = [
        vo("default", &["kuma.io/service=*"], "{{.service}}.mesh", "80", "service:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=web"]),
    ];
    let served = serve(&view_of(&all)).0;
    assert_eq!(
        show_served(&served),
        (vec!["web.mesh=240.0.0.1".into()], vec!["240.0.0.0:80->web".into(), "240.0.0.1:80->web".into()])
    );
    assert_eq!(served.outbounds[0].tags, served.outbounds[1].tags);
}

#[test]
fn seed_names_by_version_by_custom_tag_and_by_instance() {
    let all = [
        vo(
            "version",
            &["kuma.io/service=* kuma.io/version=*"],
            "{{.s}}.{{.v}}.mesh",
            "80",
            "s:kuma.io/service v:kuma.io/version",
        ),
        vo(
            "custom",
            &["my.mesh/hostname=* my.mesh/port=*"],
            "{{.hostname}}",
            "{{.port}}",
            "hostname:my.mesh/hostname port:my.mesh/port service",
        ),
        vo(
            "instance",
            &["kuma.io/service=* statefulset.kubernetes.io/pod-name=*"],
            "{{.svc}}.{{.inst}}.mesh",
            "8080",
            "svc:kuma.io/service inst:statefulset.kubernetes.io/pod-name",
        ),
        dp("mesh", "a", &["kuma.io/service=web kuma.io/version=v1"]),
        dp("mesh", "b", &["kuma.io/service=web my.mesh/hostname=shop.example.com my.mesh/port=8443"]),
        dp("mesh", "c", &["kuma.io/service=db statefulset.kubernetes.io/pod-name=db-0"]),
    ];
    assert_eq!(names_of(&all), ["db.db-0.mesh", "db.mesh", "shop.example.com", "web.mesh", "web.v1.mesh"]);
}

#[test]
fn seed_a_service_that_is_removed_frees_its_vip_and_has_no_name() {
    let ranges = Ranges { v4: Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 24), v6: None };
    let all = [dp("mesh", "a", &["kuma.io/service=a"]), dp("mesh", "b", &["kuma.io/service=b"])];
    let (before, _) = allocate(&VipTable::default(), &view_of(&all).keys(), &ranges, 0);
    let left = view_of(&all[1..]);
    let (after, _) = allocate(&before, &left.keys(), &ranges, 1);
    let served = names_and_outbounds(&left, &after, &settings()).0;
    assert_eq!(show_served(&served), (vec!["b.mesh=240.0.0.1".into()], vec!["240.0.0.1:80->b".into()]));
    assert_eq!(after.quarantine.len(), 1);
}

#[test]
fn seed_vips_stay_whatever_the_order_and_wherever_they_are_computed() {
    let all: Vec<Resource> =
        (0..20).map(|i| dp("mesh", &format!("d{i}"), &[&format!("kuma.io/service=s{i}")])).collect();
    let mut list: Vec<&Resource> = all.iter().collect();
    let table = |list: &[&Resource]| {
        let view = view(&NamesInput { mesh: "mesh", resources: list, settings: &settings() });
        allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0).0
    };
    let one = table(&list);
    list.rotate_left(7);
    list.swap(0, 9);
    assert_eq!(one, table(&list));
    // Another control plane, or a later start, has only what was written down.
    let stored: VipTable = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
    let view = view(&NamesInput { mesh: "mesh", resources: &list[3..], settings: &settings() });
    let (again, _) = allocate(&stored, &view.keys(), &Ranges::default(), 1);
    assert!(again.entries.iter().all(|(key, vip)| one.entries[key] == *vip));
}

#[test]
fn seed_there_is_one_vip_a_service_whatever_its_instances_and_underscores_are_dots_too() {
    let all = [
        dp("mesh", "a", &["kuma.io/service=backend_ns_svc_80"]),
        dp("mesh", "b", &["kuma.io/service=backend_ns_svc_80"]),
    ];
    let (names, outbounds) = show_served(&serve(&view_of(&all)).0);
    assert_eq!(names, ["backend.ns.svc.80.mesh=240.0.0.0", "backend_ns_svc_80.mesh=240.0.0.0"]);
    assert_eq!(outbounds, ["240.0.0.0:80->backend_ns_svc_80"]);
}

#[test]
fn seed_range_domain_and_default_names_are_settings_with_their_variables() {
    let variables = |name: &str| {
        let value = match name {
            "KUMA_DNS_SERVER_CIDR" => "fd00:fd00::/64",
            "KUMA_DNS_SERVER_DOMAIN" => "corp",
            "KUMA_DNS_SERVER_SERVICE_VIP_ENABLED" => "false",
            "KUMA_DNS_SERVER_SERVICE_VIP_PORT" => "8080",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let (set, _) = Settings::new("/data".into()).load(&serde_json::Value::Null, &variables).unwrap();
    assert_eq!(set.cidr_v6.map(|cidr| cidr.to_string()).as_deref(), Some("fd00:fd00::/64"));
    assert_eq!((set.domain.as_str(), set.service_vip_enabled, set.service_vip_port), ("corp", false, 8080));
    let defaults = Settings::new("/data".into());
    assert_eq!((defaults.cidr.to_string().as_str(), defaults.domain.as_str()), ("240.0.0.0/4", "mesh"));
    assert_eq!((defaults.service_vip_enabled, defaults.service_vip_port, defaults.dns_ttl_s), (true, 80, 60));
}

#[test]
fn seed_an_ipv6_range_gives_every_name_an_ipv6_address() {
    let all = [dp("mesh", "a", &["kuma.io/service=a"])];
    let view = view_of(&all);
    let (table, _) = allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0);
    let served = names_and_outbounds(&view, &table, &settings()).0;
    assert_eq!(served.names[0].v6.map(|ip| ip.to_string()).as_deref(), Some("fd00:fd00::"));
    assert_eq!(served.outbounds[0].v6, served.names[0].v6);
}
