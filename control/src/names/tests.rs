//! Acceptance cases of spec/naming.md §13.1 to §13.3, each named after its number there.

mod seeds;

use super::*;
use crate::resource::{
    AvailableService, Dataplane, ExternalNetworking, ExternalService, GatewayListener, GatewayProtocol, Meta,
    Networking, Parameter, VirtualOutbound, VirtualOutboundConf, ZoneIngress,
};
use crate::vip::{Cidr, Ranges, Vip, VipTable, allocate};

/// `kuma.io/service=web version=v1`
fn tags(text: &str) -> Tags {
    text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn svc(name: &str) -> Tags {
    tags(&format!("kuma.io/service={name}"))
}

fn meta(mesh: &str, name: &str) -> Meta {
    Meta { mesh: mesh.into(), name: name.into(), created_ms: 1, ..Meta::default() }
}

fn dp(mesh: &str, name: &str, inbounds: &[&str]) -> Resource {
    let inbound = |tags_: &&str| Inbound { port: 8080, tags: tags(tags_), ..Inbound::default() };
    let networking = Networking { inbound: inbounds.iter().map(inbound).collect(), ..Networking::default() };
    Resource { meta: meta(mesh, name), spec: Spec::Dataplane(Dataplane { networking, ..Dataplane::default() }) }
}

fn es(name: &str, address: &str, service: &str, disabled: bool) -> Resource {
    let networking = ExternalNetworking {
        address: address.into(),
        disable_host_dns_entry: disabled,
        ..ExternalNetworking::default()
    };
    let spec = ExternalService { tags: tags(&format!("kuma.io/service={service} kuma.io/protocol=http")), networking };
    Resource { meta: meta("mesh", name), spec: Spec::ExternalService(spec) }
}

fn ingress(zone: &str, services: &[(&str, &str)]) -> Resource {
    let one = |(mesh, t): &(&str, &str)| AvailableService {
        tags: tags(t),
        instances: 1,
        mesh: mesh.to_string(),
        ..AvailableService::default()
    };
    let spec = ZoneIngress {
        zone: zone.into(),
        available_services: services.iter().map(one).collect(),
        ..ZoneIngress::default()
    };
    Resource { meta: meta("", &format!("ingress-{zone}")), spec: Spec::ZoneIngress(spec) }
}

/// Parameters as `name:tagKey`.
fn vo(name: &str, selectors: &[&str], host: &str, port: &str, parameters: &str) -> Resource {
    let parameter = |text: &str| {
        let (name, tag_key) = text.split_once(':').unwrap_or((text, ""));
        Parameter { name: name.into(), tag_key: tag_key.into() }
    };
    let parameters = parameters.split_whitespace().map(parameter).collect();
    let conf = VirtualOutboundConf { host: host.into(), port: port.into(), parameters };
    let spec = VirtualOutbound { selectors: selectors.iter().map(|s| tags(s)).collect(), conf };
    Resource { meta: meta("mesh", name), spec: Spec::VirtualOutbound(spec) }
}

fn listener(hostname: &str, port: u16, cross_mesh: bool, tags_: &str) -> GatewayListener {
    let protocol = GatewayProtocol::Http;
    GatewayListener {
        hostname: hostname.into(),
        port,
        protocol,
        tags: tags(tags_),
        cross_mesh,
        ..GatewayListener::default()
    }
}

fn gateway(mesh: &str, name: &str, selector: &str, tags_: &str, listeners: Vec<GatewayListener>) -> Resource {
    let spec = MeshGateway { selectors: vec![tags(selector)], tags: tags(tags_), listeners };
    Resource { meta: meta(mesh, name), spec: Spec::MeshGateway(spec) }
}

fn created(mut resource: Resource, at_ms: u64) -> Resource {
    resource.meta.created_ms = at_ms;
    resource
}

fn settings() -> NameSettings {
    NameSettings { own_zone: "zone1".into(), ..NameSettings::default() }
}

/// The same in both orders, since the order of the store is no matter.
fn view_with(resources: &[Resource], settings: &NameSettings) -> View {
    let mut list: Vec<&Resource> = resources.iter().collect();
    let one = view(&NamesInput { mesh: "mesh", resources: &list, settings });
    list.reverse();
    assert_eq!(one, view(&NamesInput { mesh: "mesh", resources: &list, settings }));
    one
}

fn view_of(resources: &[Resource]) -> View {
    view_with(resources, &settings())
}

/// `0:web 0{kuma.io/service=web}<default mesh/web>`
fn show(view: &View) -> Vec<String> {
    let text = |tags: &Tags| tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    let wish = |wish: &Wish| format!(" {}{{{}}}<{}>", wish.port, text(&wish.tags), wish.origin);
    view.entries.iter().map(|(key, wishes)| key.to_string() + &wishes.iter().map(wish).collect::<String>()).collect()
}

fn serve(view: &View) -> (MeshNames, Vec<NameWarning>) {
    let ranges = Ranges { v4: Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 24), v6: None };
    let (vips, problems) = allocate(&VipTable::default(), &view.keys(), &ranges, 0);
    assert_eq!(problems, []);
    names_and_outbounds(view, &vips, &settings())
}

/// `web.mesh=240.0.0.0`, and `240.0.0.0:80->web`.
fn show_served(names: &MeshNames) -> (Vec<String>, Vec<String>) {
    let ip = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
        v4.map(|ip| ip.to_string()).or(v6.map(|ip| ip.to_string())).unwrap()
    };
    (
        names.names.iter().map(|row| format!("{}={}", row.name, ip(row.v4, row.v6))).collect(),
        names.outbounds.iter().map(|o| format!("{}:{}->{}", ip(o.v4, o.v6), o.port, o.tags[SERVICE_TAG])).collect(),
    )
}

fn entries(list: &[(EntryKind, &str, &[u16])]) -> View {
    let mut view = View::default();
    for (kind, name, ports) in list {
        for port in *ports {
            let origin = Origin::new("test", "mesh", name);
            view.add(
                Key::new(*kind, *name),
                Wish { port: *port, tags: svc(name), origin: origin.clone(), source: origin },
            );
        }
    }
    view
}

#[test]
fn k1_an_empty_mesh_has_no_entries() {
    assert_eq!(show(&view_of(&[])), [""; 0]);
}

#[test]
fn k2_every_inbound_gives_a_service_entry() {
    let view = view_of(&[dp("mesh", "dp", &["kuma.io/service=service1", "kuma.io/service=service2"])]);
    assert_eq!(
        show(&view),
        [
            "0:service1 0{kuma.io/service=service1}<default mesh/service1>",
            "0:service2 0{kuma.io/service=service2}<default mesh/service2>"
        ]
    );
    let (_, outbounds) = show_served(&serve(&view).0);
    assert_eq!(outbounds, ["240.0.0.0:80->service1", "240.0.0.1:80->service2"]);
}

#[test]
fn k3_every_mesh_has_the_entries_of_its_own_dataplanes() {
    let all = [
        dp("mesh-1", "b", &["kuma.io/service=backend"]),
        dp("mesh-1", "f", &["kuma.io/service=frontend"]),
        dp("mesh-2", "w", &["kuma.io/service=web"]),
    ];
    let list: Vec<&Resource> = all.iter().collect();
    let keys = |mesh| {
        let view = view(&NamesInput { mesh, resources: &list, settings: &settings() });
        view.entries.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(keys("mesh-1"), ["0:backend", "0:frontend"]);
    assert_eq!(keys("mesh-2"), ["0:web"]);
}

#[test]
fn k8_an_external_service_has_a_service_and_a_host_entry() {
    assert_eq!(
        show(&view_of(&[es("es-1", "external.service.com:8080", "my-external-service-1", false)])),
        [
            "0:my-external-service-1 8080{kuma.io/service=my-external-service-1}<default mesh/my-external-service-1>",
            "1:external.service.com 8080{kuma.io/service=my-external-service-1}<ExternalService mesh/es-1>",
        ]
    );
}

#[test]
fn k9_disable_host_dns_entry_leaves_the_service_entry() {
    let view = view_of(&[es("es-1", "external.service.com:8080", "s", true)]);
    assert_eq!(show(&view), ["0:s 8080{kuma.io/service=s}<default mesh/s>"]);
}

#[test]
fn k10_a_disabled_host_entry_does_not_conflict() {
    let all =
        [es("es-1", "external.service.com:8080", "one", false), es("es-2", "external.service.com:8080", "two", true)];
    let view = view_of(&all);
    assert_eq!(
        show(&view),
        [
            "0:one 8080{kuma.io/service=one}<default mesh/one>",
            "0:two 8080{kuma.io/service=two}<default mesh/two>",
            "1:external.service.com 8080{kuma.io/service=one}<ExternalService mesh/es-1>",
        ]
    );
    assert_eq!(view.conflicts, []);
}

#[test]
fn k11_the_first_external_service_by_name_has_the_host() {
    let all =
        [es("es-1", "external.service.com:8080", "one", false), es("es-2", "external.service.com:8080", "two", false)];
    let view = view_of(&all);
    assert!(show(&view)[2].ends_with("<ExternalService mesh/es-1>"));
    assert_eq!(
        view.conflicts[0].to_string(),
        "autogenerated DNS entry external.service.com:8080 from ExternalService mesh/es-2 conflicts with existing entry \
         ExternalService mesh/es-1: set networking.disableHostDNSEntry=true on one of them"
    );
}

#[test]
fn two_external_services_of_one_service_do_not_conflict() {
    let view =
        view_of(&[es("es-1", "API.example.com.:443", "api", false), es("es-2", "api.example.com:443", "api", false)]);
    assert_eq!((view.entries.len(), view.conflicts.len()), (2, 0));
}

#[test]
fn k12_a_host_with_two_ports_is_one_entry() {
    let view = view_of(&[es("es-1", "e.com:8081", "one", false), es("es-2", "e.com:8080", "two", false)]);
    assert_eq!(
        show(&view)[2],
        "1:e.com 8080{kuma.io/service=two}<ExternalService mesh/es-2> 8081{kuma.io/service=one}<ExternalService mesh/es-1>"
    );
}

#[test]
fn k13_a_remote_ingress_gives_the_services_of_this_mesh() {
    let listed =
        [("other-mesh", "kuma.io/service=srv1"), ("mesh", "kuma.io/service=srv1"), ("mesh", "kuma.io/service=srv2")];
    let view = view_of(&[ingress("zone2", &listed)]);
    assert_eq!(view.entries.keys().map(|k| k.to_string()).collect::<Vec<_>>(), ["0:srv1", "0:srv2"]);
}

#[test]
fn k14_an_ingress_of_our_own_zone_is_ignored() {
    assert_eq!(show(&view_of(&[ingress("zone1", &[("mesh", "kuma.io/service=srv1")])])), [""; 0]);
}

#[test]
fn k15_cross_mesh_listeners_have_names_in_every_mesh() {
    let listeners = vec![
        listener("gateway2.mesh", 80, true, "listener=one"),
        listener("", 81, true, "listener=two"),
        listener("*", 82, false, "listener=three"),
    ];
    let all = [
        gateway("mesh", "gateway", "kuma.io/service=gw1", "gateway=g1", vec![listener("a.mesh", 80, false, "")]),
        gateway("mesh2", "gateway", "kuma.io/service=gw2", "gateway=g2", listeners),
    ];
    let rest = "gateway=g2 kuma.io/mesh=mesh2 kuma.io/service=gw2 listener";
    assert_eq!(
        show(&view_of(&all)),
        [
            format!("2:gateway2.mesh 80{{{rest}=one}}<MeshGateway mesh2/gateway>"),
            format!("2:internal.gateway.mesh2.mesh 81{{{rest}=two}}<MeshGateway mesh2/gateway>"),
        ]
    );
}

#[test]
fn the_oldest_gateway_has_a_hostname_that_two_meshes_want() {
    let one =
        |mesh, at| created(gateway(mesh, "g", "kuma.io/service=gw", "", vec![listener("x.mesh", 80, true, "")]), at);
    let view = view_of(&[one("a", 9), one("b", 8)]);
    assert!(show(&view)[0].ends_with("<MeshGateway b/g>"));
    assert_eq!(view.conflicts.len(), 1);
}

#[test]
fn k16_without_service_vips_hosts_and_virtual_outbounds_remain() {
    let all = [
        dp("mesh", "dp", &["kuma.io/service=service1"]),
        es("es-1", "external.service.com:8080", "x", false),
        vo("vo", &["kuma.io/service=service1"], "{{.s}}.v", "80", "s:kuma.io/service"),
    ];
    let view = view_with(&all, &NameSettings { service_vip_enabled: false, ..settings() });
    assert_eq!(
        view.entries.keys().map(|k| k.to_string()).collect::<Vec<_>>(),
        ["1:external.service.com", "2:service1.v"]
    );
}

#[test]
fn k17_ignored_and_marker_inbounds_give_nothing() {
    let mut ignored = dp("mesh", "a", &["kuma.io/service=a"]);
    let mut marker = dp("mesh", "b", &["kuma.io/service=b"]);
    if let (Spec::Dataplane(a), Spec::Dataplane(b)) = (&mut ignored.spec, &mut marker.spec) {
        a.networking.inbound[0].state = InboundState::Ignored;
        b.networking.inbound[0].port = Inbound::MARKER_PORT;
    }
    let all = vo("vo", &["kuma.io/service=*"], "{{.s}}.v", "80", "s:kuma.io/service");
    let view = view_of(&[ignored, marker, all]);
    assert_eq!((view.entries.len(), view.skipped.len()), (0, 0));
}

const OR_8080: &str = "{{if .port}}{{.port}}{{else}}8080{{end}}";

#[test]
fn k22_a_virtual_outbound_makes_a_name_per_instance() {
    let all = [
        vo(
            "vo",
            &["kuma.io/service=* instance=*"],
            "{{.srv}}.{{.instance}}.mesh",
            OR_8080,
            "srv:kuma.io/service instance port",
        ),
        dp("mesh", "a", &["kuma.io/service=service1 instance=a port=9000"]),
        dp("mesh", "b", &["kuma.io/service=service1 instance=b"]),
        dp("mesh", "c", &["kuma.io/service=service2"]),
    ];
    assert_eq!(
        show(&view_of(&all))[2..],
        [
            "2:service1.a.mesh 9000{instance=a kuma.io/service=service1 port=9000}<VirtualOutbound mesh/vo>",
            "2:service1.b.mesh 8080{instance=b kuma.io/service=service1}<VirtualOutbound mesh/vo>",
        ]
    );
}

#[test]
fn k23_ports_of_one_name_share_its_vip() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.srv}}.mesh", OR_8080, "srv:kuma.io/service port"),
        dp("mesh", "a", &["kuma.io/service=service1 port=9000"]),
        dp("mesh", "b", &["kuma.io/service=service1 port=8000"]),
        dp("mesh", "c", &["kuma.io/service=service2"]),
    ];
    let view = view_of(&all);
    let ports: Vec<_> = view.entries.values().map(|w| w.iter().map(|w| w.port).collect::<Vec<_>>()).collect();
    assert_eq!(ports, [vec![0], vec![0], vec![8000, 9000], vec![8080]]);
    let (names, outbounds) = show_served(&serve(&view).0);
    assert_eq!(names, ["service1.mesh=240.0.0.2", "service2.mesh=240.0.0.3"]);
    assert_eq!(
        outbounds,
        [
            "240.0.0.0:80->service1",
            "240.0.0.1:80->service2",
            "240.0.0.2:8000->service1",
            "240.0.0.2:9000->service1",
            "240.0.0.3:8080->service2"
        ]
    );
}

#[test]
fn k24_the_more_specific_virtual_outbound_has_the_name() {
    let params = "srv:kuma.io/service";
    let all = [
        created(vo("vob-1", &["kuma.io/service=*"], "{{.srv}}.mesh", "8080", params), 9),
        vo("vob-2", &["kuma.io/service=* instance=*"], "{{.srv}}.mesh", "8080", params),
        dp("mesh", "a", &["kuma.io/service=s instance=1"]),
    ];
    let view = view_of(&all);
    assert!(show(&view)[1].ends_with("<VirtualOutbound mesh/vob-2>"));
    assert_eq!(
        view.conflicts[0].to_string(),
        "can't add s.mesh:8080 from VirtualOutbound mesh/vob-1 (for Dataplane mesh/a) because it's already used by \
         entity defined in:'VirtualOutbound mesh/vob-2' (for Dataplane mesh/a)"
    );
}

/// The VirtualOutbound that has x.mesh:80 of a service `b-service` with `foo=bar`.
fn winner(first: (&[&str], u64), second: (&[&str], u64)) -> String {
    let one =
        |name, (selectors, at): (&[&str], u64)| created(vo(name, selectors, "x.mesh", "80", "s:kuma.io/service"), at);
    let all = [one("vo0", first), one("vo1", second), dp("mesh", "a", &["kuma.io/service=b-service foo=bar"])];
    view_of(&all)
        .entries
        .get(&Key::new(EntryKind::Fqdn, "x.mesh"))
        .map(|w| w[0].origin.name.clone())
        .unwrap_or_default()
}

const ANY: &str = "kuma.io/service=*";
const ANY_FOO: &str = "kuma.io/service=* foo=bar";

#[test]
fn k25_the_selector_with_more_tags_comes_first() {
    assert_eq!(winner((&[ANY], 1), (&[ANY_FOO], 1)), "vo1");
    assert_eq!(winner((&[ANY_FOO], 1), (&[ANY], 9)), "vo0", "whatever the age");
    let exact = "kuma.io/service=b-service foo=*";
    assert_eq!(winner((&["kuma.io/service=* foo=*"], 9), (&[exact], 1)), "vo1", "then that with more exact values");
}

#[test]
fn k26_a_selector_that_does_not_match_gives_no_rank() {
    assert_eq!(winner((&[ANY, "kuma.io/service=* no=1 nope=2"], 9), (&[ANY_FOO], 1)), "vo1");
}

#[test]
fn k27_of_equal_ranks_the_newer_comes_first_and_of_equal_ages_the_first_by_name() {
    assert_eq!(winner((&[ANY], 1), (&[ANY], 2)), "vo1");
    assert_eq!(winner((&[ANY], 2), (&[ANY], 2)), "vo0");
}

#[test]
fn k28_a_virtual_outbound_of_another_service_does_not_match() {
    assert_eq!(winner((&["kuma.io/service=other"], 1), (&["kuma.io/service=third"], 1)), "");
}

#[test]
fn k40_a_service_that_gives_no_dns_name_is_skipped() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.s}}", "80", "s:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=foo()bar"]),
    ];
    let view = view_of(&all);
    assert_eq!(view.entries.len(), 1);
    assert_eq!(
        view.skipped[0].to_string(),
        r#"VirtualOutbound mesh/vo gives no name for Dataplane mesh/a: Failed evaluating host template: evaluation of template with parameters didn't return a valid dns name result="foo()bar""#
    );
}

#[test]
fn n2_the_seed_example_gives_v1_backend_mesh_1800() {
    let all = [
        vo(
            "vo",
            &["kuma.io/service=*"],
            "{{.v}}.{{.service}}.mesh",
            "{{.port}}",
            "v:version service:kuma.io/service port",
        ),
        dp("mesh", "a", &["kuma.io/service=backend version=v1 port=1800 team=x"]),
    ];
    let view = view_of(&all);
    assert_eq!(
        show(&view)[1],
        "2:v1.backend.mesh 1800{kuma.io/service=backend port=1800 version=v1}<VirtualOutbound mesh/vo>"
    );
    let (served, warnings) = serve(&view);
    assert_eq!(show_served(&served).0, ["backend.mesh=240.0.0.0", "v1.backend.mesh=240.0.0.1"]);
    let outbound = &served.outbounds[1];
    assert_eq!((outbound.port, &outbound.tags), (1800, &tags("kuma.io/service=backend port=1800 version=v1")));
    assert_eq!((outbound.v4, warnings), (Some(Ipv4Addr::new(240, 0, 0, 1)), vec![]));
}

#[test]
fn a_parameter_called_service_without_tag_key_is_the_service() {
    let conf = |text: &str| match vo("vo", &[], "", "", text).spec {
        Spec::VirtualOutbound(vo) => vo.conf,
        _ => unreachable!(),
    };
    let seed = conf("hostname:my.mesh/hostname port:my.mesh/port service");
    let pairs = [("hostname", "my.mesh/hostname"), ("port", "my.mesh/port"), ("service", SERVICE_TAG)];
    assert_eq!(parameters(&seed).collect::<Vec<_>>(), pairs);
    let both = conf("service s:kuma.io/service");
    assert_eq!(parameters(&both).collect::<Vec<_>>(), [("service", "service"), ("s", SERVICE_TAG)]);
}

#[test]
fn n3_the_better_virtual_outbound_wins_across_dataplanes() {
    for (a, b) in [("dp-a", "dp-b"), ("dp-b", "dp-a")] {
        let all = [
            vo("vo1", &["kuma.io/service=a"], "x.mesh", "80", "s:kuma.io/service"),
            vo("vo2", &["kuma.io/service=b rank=2"], "x.mesh", "80", "s:kuma.io/service"),
            dp("mesh", a, &["kuma.io/service=a"]),
            dp("mesh", b, &["kuma.io/service=b rank=2"]),
        ];
        let view = view_of(&all);
        assert_eq!(show(&view)[2], "2:x.mesh 80{kuma.io/service=b}<VirtualOutbound mesh/vo2>");
        assert_eq!(view.conflicts.len(), 1);
        assert_eq!(view.conflicts[0].loser.source.name, a);
    }
}

#[test]
fn equal_virtual_outbounds_give_the_name_to_the_first_source() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "x.mesh", "80", "s:kuma.io/service v"),
        ingress("zone2", &[("mesh", "kuma.io/service=a v=0")]),
        dp("mesh", "b", &["kuma.io/service=a v=1"]),
        dp("mesh", "a", &["kuma.io/service=a v=3", "kuma.io/service=a v=2"]),
        es("aa", "h.com:1", "a", false),
    ];
    let view = view_of(&all);
    let key = Key::new(EntryKind::Fqdn, "x.mesh");
    assert_eq!(view.entries[&key][0].tags, tags("kuma.io/service=a v=3"));
    let losers: Vec<_> = view.conflicts.iter().map(|c| c.loser.source.to_string()).collect();
    assert_eq!(
        losers,
        ["Dataplane mesh/a", "Dataplane mesh/b", "ZoneIngress ingress-zone2", "ExternalService mesh/aa"]
    );
}

#[test]
fn hosts_that_differ_in_case_are_one_name() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.s}}.Mesh.", "80", "s:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=Web"]),
        dp("mesh", "b", &["kuma.io/service=web"]),
    ];
    let view = view_of(&all);
    assert!(view.entries.contains_key(&Key::new(EntryKind::Fqdn, "web.mesh")));
    assert_eq!(view.conflicts.len(), 1);
}

#[test]
fn n4_a_virtual_outbound_takes_the_default_name_with_it() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.service}}.mesh", "8080", "service:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=svc"]),
    ];
    let (served, warnings) = serve(&view_of(&all));
    let (names, outbounds) = show_served(&served);
    assert_eq!(names, ["svc.mesh=240.0.0.1"]);
    assert_eq!(outbounds, ["240.0.0.0:80->svc", "240.0.0.1:8080->svc"]);
    assert_eq!(served.names[0].origin, Origin::new("VirtualOutbound", "mesh", "vo"));
    assert_eq!(warnings, []);
}

#[test]
fn n5_an_absent_parameter_skips_only_its_dataplane() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.v}}.{{.s}}", "80", "s:kuma.io/service v"),
        dp("mesh", "a", &["kuma.io/service=svc"]),
        dp("mesh", "b", &["kuma.io/service=svc v=1"]),
    ];
    let view = view_of(&all);
    assert!(view.entries.contains_key(&Key::new(EntryKind::Fqdn, "1.svc")));
    assert_eq!(view.skipped.len(), 1);
    assert!(view.skipped[0].reason.contains(r#"result="<no value>.svc""#), "{}", view.skipped[0]);
}

#[test]
fn a_zone_that_a_dataplane_leaves_out_is_a_parameter_all_the_same() {
    let all = [
        vo("vo", &["kuma.io/service=*"], "{{.z}}.{{.s}}.mesh", "80", "s:kuma.io/service z:kuma.io/zone"),
        dp("mesh", "a", &["kuma.io/service=svc"]),
    ];
    assert_eq!(
        show(&view_of(&all))[1],
        "2:zone1.svc.mesh 80{kuma.io/service=svc kuma.io/zone=zone1}<VirtualOutbound mesh/vo>"
    );
}

#[test]
fn a_freed_address_is_known_where_it_was_served_until_its_quarantine_ends() {
    let ranges = Ranges { v4: Cidr::new(Ipv4Addr::new(240, 0, 0, 0), 24), v6: None };
    let all = [es("es", "e.com:443", "ext", false), dp("mesh", "a", &["kuma.io/service=svc"])];
    let (both, one) = (view_of(&all), view_of(&all[1..]));
    let (before, _) = allocate(&VipTable::default(), &both.keys(), &ranges, 0);
    let (served, _) = names_and_outbounds(&both, &before, &settings());
    assert_eq!(served.freed, []);
    let (mut after, _) = allocate(&before, &one.keys(), &ranges, 5);
    remember_ports(&before, &served, &mut after);
    let show = |table: &VipTable| -> Vec<String> {
        let freed = names_and_outbounds(&one, table, &settings()).0.freed;
        freed.iter().map(|f| format!("{}:{} {}", f.v4.unwrap(), f.port, f.origin)).collect()
    };
    let want = [
        "240.0.0.0:80 freed mesh/ext",
        "240.0.0.0:443 freed mesh/ext",
        "240.0.0.2:80 freed mesh/e.com",
        "240.0.0.2:443 freed mesh/e.com",
    ];
    assert_eq!(show(&after), want);
    let (again, _) = allocate(&after, &one.keys(), &ranges, 6);
    assert_eq!(show(&again), want);
    let (over, _) = allocate(&again, &one.keys(), &ranges, 5 + crate::vip::QUARANTINE_MS);
    assert_eq!(show(&over), [""; 0]);
}

#[test]
fn n6_other_zones_give_names_through_ingress_and_as_dataplanes() {
    for parameters in ["s:kuma.io/service version", "s:kuma.io/service version:version"] {
        let all = [
            vo("vo", &["kuma.io/service=*"], "{{.version}}.{{.s}}.mesh", "80", parameters),
            ingress(
                "zone2",
                &[
                    ("mesh", "kuma.io/service=svc version=v1 kuma.io/zone=zone2"),
                    ("other", "kuma.io/service=no version=v1"),
                ],
            ),
            dp("mesh", "a", &["kuma.io/service=svc version=v2 kuma.io/zone=zone3"]),
        ];
        let names = show_served(&serve(&view_of(&all)).0).0;
        assert_eq!(names, ["svc.mesh=240.0.0.0", "v1.svc.mesh=240.0.0.1", "v2.svc.mesh=240.0.0.2"]);
    }
}

#[test]
fn a_template_that_does_not_parse_stops_only_its_virtual_outbound() {
    let all = [
        vo("bad", &["kuma.io/service=*"], "{{nope}}", "80", "s:kuma.io/service"),
        vo("good", &["kuma.io/service=*"], "{{.s}}.good", "80", "s:kuma.io/service"),
        dp("mesh", "a", &["kuma.io/service=svc"]),
    ];
    let view = view_of(&all);
    assert_eq!((view.entries.len(), view.skipped.len()), (2, 1));
    assert!(view.skipped[0].to_string().contains("failed compiling gotemplate"));
}

#[test]
fn an_external_service_matches_by_its_service_only() {
    let all = [
        es("es", "h.com:443", "ext", false),
        vo("vo", &["kuma.io/protocol=http"], "{{.s}}.no", "80", "s:kuma.io/service"),
        vo("vo2", &["kuma.io/service=ext"], "{{.s}}.yes", "80", "s:kuma.io/service p:kuma.io/protocol"),
    ];
    assert_eq!(show(&view_of(&all))[2], "2:ext.yes 80{kuma.io/service=ext}<VirtualOutbound mesh/vo2>");
}

#[test]
fn an_external_service_without_port_is_skipped_with_the_reason() {
    let view = view_of(&[es("es", "h.com", "ext", false)]);
    assert_eq!(view.entries.len(), 0);
    assert!(view.skipped[0].reason.contains(r#""h.com" must be host:port"#));
}

#[test]
fn k42_a_host_is_served_on_its_port_and_the_vip_port() {
    let (names, outbounds) = show_served(&serve(&entries(&[(EntryKind::Host, "example.com", &[1234])])).0);
    assert_eq!(names, ["example.com=240.0.0.0"]);
    assert_eq!(outbounds, ["240.0.0.0:80->example.com", "240.0.0.0:1234->example.com"]);
}

#[test]
fn hosts_need_not_have_the_vip_port() {
    let view = view_of(&[es("es", "example.com:443", "ext", false)]);
    let (vips, _) = allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0);
    let served = names_and_outbounds(&view, &vips, &NameSettings { host_vip_port: false, ..settings() }).0;
    let (names, outbounds) = show_served(&served);
    assert_eq!(names, ["example.com=240.0.0.1", "ext.mesh=240.0.0.0"]);
    assert_eq!(outbounds, ["240.0.0.0:80->ext", "240.0.0.0:443->ext", "240.0.0.1:443->ext"]);
}

#[test]
fn k43_a_host_that_has_the_vip_port_gets_no_other() {
    let (_, outbounds) = show_served(&serve(&entries(&[(EntryKind::Host, "e.com", &[81, 80])])).0);
    assert_eq!(outbounds, ["240.0.0.0:80->e.com", "240.0.0.0:81->e.com"]);
}

#[test]
fn k44_an_entry_without_address_gives_nothing() {
    let view = entries(&[(EntryKind::Service, "a", &[0])]);
    let vips =
        VipTable { entries: [(Key::new(EntryKind::Service, "a"), Vip::default())].into(), ..VipTable::default() };
    for vips in [vips, VipTable::default()] {
        let mut served = names_and_outbounds(&view, &vips, &settings()).0;
        let refused = served.unplaced.pop().map(|(service, row)| (service, row.name.clone(), row.v4, row.v6));
        assert_eq!(refused, Some(("a".into(), "a.mesh".into(), None, None)), "proxies say why they don't know it");
        assert_eq!(served, MeshNames::default());
    }
}

fn example(ports: &[u16]) -> (Vec<String>, Vec<String>) {
    show_served(&serve(&entries(&[(EntryKind::Service, "example", ports)])).0)
}

#[test]
fn k45_a_service_is_served_on_the_vip_port() {
    assert_eq!(example(&[0]), (vec!["example.mesh=240.0.0.0".into()], vec!["240.0.0.0:80->example".into()]));
}

#[test]
fn k46_an_external_service_is_served_on_its_port_and_the_vip_port() {
    assert_eq!(example(&[1234]).1, ["240.0.0.0:80->example", "240.0.0.0:1234->example"]);
    assert_eq!(example(&[0, 1234]).1, ["240.0.0.0:80->example"], "only the first port counts");
    assert_eq!(example(&[80]).1, ["240.0.0.0:80->example"]);
}

#[test]
fn k47_underscores_are_dots_in_a_second_name() {
    let (names, outbounds) = show_served(&serve(&entries(&[(EntryKind::Service, "example_svc_80", &[0])])).0);
    assert_eq!(names, ["example.svc.80.mesh=240.0.0.0", "example_svc_80.mesh=240.0.0.0"]);
    assert_eq!(outbounds.len(), 1);
}

#[test]
fn k48_names_of_virtual_outbounds_have_their_ports_only() {
    let (names, outbounds) = show_served(
        &serve(&entries(&[(EntryKind::Fqdn, "b.mesh", &[1235, 1234]), (EntryKind::Fqdn, "a.mesh", &[1234, 1235])])).0,
    );
    assert_eq!(names, ["a.mesh=240.0.0.0", "b.mesh=240.0.0.1"]);
    assert_eq!(
        outbounds,
        ["240.0.0.0:1234->a.mesh", "240.0.0.0:1235->a.mesh", "240.0.0.1:1234->b.mesh", "240.0.0.1:1235->b.mesh"]
    );
}

#[test]
fn an_exact_name_beats_an_alias_and_warns() {
    let (served, warnings) = serve(&entries(&[(EntryKind::Service, "a.b", &[0]), (EntryKind::Service, "a_b", &[0])]));
    assert_eq!(show_served(&served).0, ["a.b.mesh=240.0.0.0", "a_b.mesh=240.0.0.1"]);
    let text: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(text, [r#"a.b.mesh leads to service "a.b" and not to "a_b": rename one of them"#]);
}

#[test]
fn names_are_served_in_lower_case_and_the_exact_one_wins() {
    let (served, warnings) = serve(&entries(&[(EntryKind::Service, "Web", &[0]), (EntryKind::Service, "web", &[0])]));
    assert_eq!(show_served(&served).0, ["web.mesh=240.0.0.1"]);
    assert_eq!(warnings.len(), 1);
    let (served, _) = serve(&entries(&[(EntryKind::Service, "Web_Svc", &[0])]));
    assert_eq!(show_served(&served).0, ["web.svc.mesh=240.0.0.0", "web_svc.mesh=240.0.0.0"]);
}

#[test]
fn a_service_that_is_no_dns_name_is_dialled_by_address_and_warned_of() {
    let (served, warnings) = serve(&entries(&[(EntryKind::Service, "a:b", &[0])]));
    assert_eq!((served.names.len(), served.outbounds.len()), (0, 1));
    assert!(warnings[0].to_string().starts_with(r#"service "a:b" has no name"#), "{}", warnings[0]);
}

#[test]
fn a_host_written_as_address_has_no_name_and_its_own_ports() {
    let view = view_of(&[es("es", "192.0.2.7:443", "ext", false), es("es6", "[2001:db8:0::7]:443", "ext6", false)]);
    let served = serve(&view).0;
    let (names, outbounds) = show_served(&served);
    assert_eq!(names, ["ext.mesh=240.0.0.0", "ext6.mesh=240.0.0.1"]);
    assert!(outbounds.contains(&"192.0.2.7:443->ext".into()) && outbounds.contains(&"2001:db8::7:443->ext6".into()));
    assert_eq!(outbounds.len(), 6);
}

#[test]
fn an_address_and_port_is_served_once() {
    let view = entries(&[(EntryKind::Service, "a", &[0]), (EntryKind::Host, "240.0.0.0", &[80])]);
    let (served, warnings) = serve(&view);
    assert_eq!(show_served(&served).1, ["240.0.0.0:80->a"]);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn twenty_thousand_dataplanes_give_their_names() {
    let dps: Vec<_> = (0..20_000)
        .map(|i| dp("mesh", &format!("dp-{i}"), &[&format!("kuma.io/service=s{} v=v{}", i % 5000, i % 7)]))
        .collect();
    let vo = vo("vo", &["kuma.io/service=* v=*"], "{{.v}}.{{.s}}.mesh", "80", "s:kuma.io/service v");
    let list: Vec<_> = dps.iter().chain([&vo]).collect();
    let view = view(&NamesInput { mesh: "mesh", resources: &list, settings: &settings() });
    let (vips, _) = allocate(&VipTable::default(), &view.keys(), &Ranges::default(), 0);
    let (served, warnings) = names_and_outbounds(&view, &vips, &settings());
    assert_eq!((served.names.len(), served.outbounds.len(), warnings.len()), (25_000, 25_000, 0));
}

/// `control/testdata/names/<case>/names.txt`; `UPDATE_GOLDEN=1` writes it anew.
fn golden(case: &str, resources: &[Resource]) {
    let view = view_of(resources);
    let (served, warnings) = serve(&view);
    let (names, outbounds) = show_served(&served);
    let notes = view.conflicts.iter().map(ToString::to_string).chain(view.skipped.iter().map(ToString::to_string));
    let notes: Vec<_> = notes.chain(warnings.iter().map(ToString::to_string)).collect();
    let sections = [("entries", show(&view)), ("names", names), ("outbounds", outbounds), ("notes", notes)];
    let text: String = sections.iter().map(|(title, lines)| format!("{title}\n  {}\n", lines.join("\n  "))).collect();
    let path = format!("{}/testdata/names/{case}/names.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{path}: UPDATE_GOLDEN=1 accepts the change");
}

#[test]
fn a_mesh_with_everything_gives_the_recorded_names() {
    let all = [
        dp("mesh", "web-1", &["kuma.io/service=web kuma.io/zone=zone1 version=v1"]),
        dp("mesh", "web-2", &["kuma.io/service=web kuma.io/zone=zone3 version=v2"]),
        dp("mesh", "db-0", &["kuma.io/service=db_prod_svc_5432 kuma.io/zone=zone1 pod=db-0"]),
        ingress(
            "zone2",
            &[("mesh", "kuma.io/service=web kuma.io/zone=zone2 version=v3"), ("other", "kuma.io/service=x")],
        ),
        es("vendor", "api.vendor.io:443", "vendor", false),
        gateway("edge", "gw", "kuma.io/service=edge-gw", "", vec![listener("", 8080, true, "port=http/8080")]),
        vo("by-version", &["kuma.io/service=* version=*"], "{{.v}}.{{.s}}.mesh", "7000", "s:kuma.io/service v:version"),
        vo("same", &["kuma.io/service=*"], "{{.service}}.mesh", "80", "service:kuma.io/service"),
        vo("clash", &["kuma.io/service=*"], "any.mesh", "80", "s:kuma.io/service"),
        vo("pods", &["kuma.io/service=*"], "{{.pod}}.pods.mesh", "{{or .port \"5432\"}}", "s:kuma.io/service pod port"),
    ];
    golden("everything", &all);
}
