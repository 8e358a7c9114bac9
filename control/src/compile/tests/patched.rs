//! A world made after another is the world made from nothing, whatever changed between them.

use super::make::*;
use super::*;
use crate::dice::Dice;
use crate::names::{
    MeshNames, NameSettings, NamesInput, ServiceNames, names_and_outbounds, service_keys, service_names, view,
};
use crate::resource::{
    Gateway, GatewayType, MeshServicesMode, Resource, Secret, ServiceKind, Spec, TransparentProxying, VirtualOutbound,
};
use crate::vip::{Ranges, VipTable, allocate};
use snapshot::Origin;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn some_dataplane(dice: &mut Dice) -> Resource {
    let name = format!("dp-{}", dice.below(8));
    let service = dice.one_of(&["a", "b", "c", "d_e"]);
    let text =
        format!("service={service},zone={},protocol={}", dice.one_of(&["east", "west"]), dice.one_of(&["http", "tcp"]));
    let (address, with) = (format!("10.0.0.{}", 1 + dice.below(9)), dice.below(6));
    let address = if with == 5 { "nowhere.example".to_owned() } else { address };
    change(app(&name, &address, &text), |d| {
        if with < 3 {
            let tp = TransparentProxying {
                redirect_port_outbound: 15001,
                reachable_services: if with == 2 { vec!["b".into()] } else { Vec::new() },
                ip_family_mode: if with == 1 { "IPv4".into() } else { String::new() },
                ..Default::default()
            };
            d.networking.transparent_proxying = Some(tp);
        }
        if with == 3 {
            d.networking.outbound = vec![outbound(10001, "service=b"), outbound(10002, "service=x")];
        }
        if with == 4 {
            d.networking.inbound.clear();
            d.networking.gateway = Some(Gateway { kind: GatewayType::Builtin, tags: tags("service=edge") });
        }
    })
}

fn some_gateway(dice: &mut Dice) -> Resource {
    let hosts = [("h: one", "one.example"), ("h: two", "two.example")];
    let listener = |(tag, host): (&str, &str)| {
        format!("{{port: 8080, protocol: HTTP, hostname: {host}, tags: {{{tag}}}, crossMesh: {}}}", dice_cross(dice.0))
    };
    let text = format!(
        "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{{match: {{kuma.io/service: edge}}}}]\nconf: {{listeners: [{}, {}]}}\n",
        listener(hosts[0]),
        listener(hosts[1])
    );
    parsed(&text)
}

fn dice_cross(state: u64) -> bool {
    (state >> 40).is_multiple_of(3)
}

fn parsed(text: &str) -> Resource {
    let intake = crate::resource::read(text, "test.yaml");
    assert!(!intake.has_errors(), "{:?}", intake.problems);
    intake.resources.into_iter().next().unwrap()
}

fn some_route(dice: &mut Dice) -> Resource {
    let selectors = [
        "kuma.io/service: edge",
        "h: one, kuma.io/service: edge",
        "h: two, kuma.io/service: '*'",
        "h: '*', kuma.io/service: '*'",
    ];
    let hostnames = ["", "hostnames: [one.example], ", "hostnames: ['*.example'], "];
    let number = dice.below(5);
    // Most keep their hosts when they change.
    let (selector, hostnames) = match dice.below(3) {
        0 => (dice.one_of(&selectors), dice.one_of(&hostnames)),
        _ => (selectors[number % 4], hostnames[number % 3]),
    };
    parsed(&format!(
        "type: MeshGatewayRoute\nmesh: default\nname: r{}\nselectors: [{{match: {{{selector}}}}}]\nconf: {{http: {{{hostnames}rules: \
         [{{matches: [{{path: {{match: {}, value: /{}}}}}], backends: [{{destination: {{kuma.io/service: {}}}, weight: 1}}]}}]}}}}\n",
        number,
        dice.one_of(&["PREFIX", "EXACT", "REGEX"]),
        dice.one_of(&["", "x", "x("]),
        dice.one_of(&["a", "b", "ext", "x"])
    ))
}

fn some_virtual_outbound(dice: &mut Dice) -> Resource {
    let host = dice.one_of(&["{{.s}}.mesh", "all.mesh", "{{.s}}.virtual.mesh"]);
    let text = format!(
        "type: VirtualOutbound\nmesh: default\nname: vo{}\nselectors: [{{match: {{kuma.io/service: '*'}}}}]\nconf: {{host: '{host}', \
         port: '{}', parameters: [{{name: s, tagKey: kuma.io/service}}]}}\n",
        dice.below(2),
        dice.one_of(&["80", "8080"])
    );
    let made = parsed(&text);
    assert!(matches!(made.spec, Spec::VirtualOutbound(VirtualOutbound { .. })));
    made
}

/// A policy about what is beyond the mesh.
fn some_passthrough(dice: &mut Dice) -> Resource {
    parsed(&format!(
        "type: MeshPassthrough\nmesh: default\nname: mp\nspec: {{default: {{passthroughMode: {}, appendMatch: [{{type: IP, value: \
         10.7.7.{}}}]}}}}\n",
        dice.one_of(&["Matched", "All", "None"]),
        dice.below(3)
    ))
}

fn some_service(dice: &mut Dice) -> Resource {
    let (number, service, port) = (dice.below(2), dice.one_of(&["a", "b"]), 80 + dice.below(2));
    let text = match dice.below(3) {
        0 => format!(
            "type: MeshMultiZoneService\nmesh: default\nname: mz{number}\nlabels: {{l: x}}\nspec: {{selector: {{meshService: \
             {{matchLabels: {{kuma.io/display-name: ms{number}}}}}}}, ports: [{{port: {port}, name: p}}]}}\n"
        ),
        _ => format!(
            "type: MeshService\nmesh: default\nname: ms{number}\nspec: {{selector: {{dataplaneTags: {{kuma.io/service: {service}}}}}, \
             ports: [{{port: {port}, targetPort: 8080}}]}}\n"
        ),
    };
    parsed(&text)
}

/// Something of a mesh that others may reach, or a sidecar there.
fn elsewhere(dice: &mut Dice) -> Resource {
    match dice.below(3) {
        0 => mesh("other", ["", "mtls"][dice.below(2)]),
        _ => dataplane("other", "there", &format!("10.2.0.{}", dice.below(3)), vec![inbound(80, "service=far")]),
    }
}

fn some_resource(dice: &mut Dice) -> Resource {
    match dice.below(20) {
        0 => mesh("default", ["", "mtls", "mtls egress"][dice.below(3)]),
        1 => permission("p", dice.one_of(&["service=a", "service=*"]), dice.one_of(&["service=*", "service=ext"])),
        2 => external("ext", &format!("10.9.9.{}:443", dice.below(3)), dice.one_of(&["service=ext", "service=a"])),
        3 => egress("ze", "east", "10.3.0.1"),
        4 => ingress("zi", "west", dice.one_of(&["", "1.2.3.4:10001"])),
        5 => some_gateway(dice),
        6 | 7 => some_route(dice),
        8 => some_virtual_outbound(dice),
        9 => resource("default", "s", Spec::Secret(Secret { data: dice.below(9).to_string() })),
        10 => some_passthrough(dice),
        11 | 12 => some_service(dice),
        13 => elsewhere(dice),
        _ => some_dataplane(dice),
    }
}

#[derive(Default)]
struct Names {
    vips: VipTable,
    of_services: BTreeMap<ServiceKind, VipTable>,
}

impl Names {
    fn of(&mut self, resources: &[Arc<Resource>]) -> BTreeMap<String, Arc<MeshNames>> {
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        let settings = NameSettings { own_zone: "east".into(), ..NameSettings::default() };
        let view = view(&NamesInput { mesh: "default", resources: &plain, settings: &settings });
        self.vips = allocate(&self.vips, &view.keys(), &Ranges::default(), 0).0;
        BTreeMap::from([("default".to_owned(), Arc::new(names_and_outbounds(&view, &self.vips, &settings).0))])
    }

    fn of_services(&mut self, resources: &[Arc<Resource>]) -> BTreeMap<String, Arc<ServiceNames>> {
        let plain: Vec<&Resource> = resources.iter().map(AsRef::as_ref).collect();
        for kind in ServiceKind::ALL {
            let table = self.of_services.entry(kind).or_default();
            *table = allocate(table, &service_keys(&plain, kind), &Ranges::default(), 0).0;
        }
        let mesh = ("default", MeshServicesMode::Everywhere);
        let names = service_names(mesh, &plain, &BTreeMap::new(), &self.of_services);
        BTreeMap::from([("default".to_owned(), Arc::new(names))])
    }
}

fn shown(world: &World) -> Vec<String> {
    let mut all: Vec<String> = world.problems().map(ToString::to_string).collect();
    for proxy in world.proxies() {
        let Compiled { tables, secrets, problems } = compile(world, &proxy);
        all.push(format!("{proxy:?}\n{tables:#?}\n{secrets:?}\n{problems:?}"));
    }
    all
}

/// Says only the lines that differ.
fn assert_same(patched: &[String], fresh: &[String], place: &str) {
    if let Some((patched, fresh)) = patched.iter().zip(fresh).find(|(a, b)| a != b) {
        let lines = |a: &str, b: &str| {
            let others: BTreeSet<&str> = b.lines().collect();
            a.lines().filter(|line| !others.contains(line)).take(20).collect::<Vec<_>>().join("\n")
        };
        let head = patched.lines().next().unwrap_or_default();
        panic!("{place}: {head}\npatched:\n{}\nfresh:\n{}", lines(patched, fresh), lines(fresh, patched));
    }
    assert_eq!(patched.len(), fresh.len(), "{place}");
}

#[test]
fn a_world_after_any_edits_is_the_world_from_nothing() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut held: BTreeMap<crate::resource::Key, Arc<Resource>> = BTreeMap::new();
        let first = Arc::new(mesh("default", ""));
        held.insert(first.key(), first);
        let mut names = Names::default();
        let mut last_names = BTreeMap::new();
        let mut withdrawn = BTreeSet::new();
        let mut world = World::new(Vec::new(), settings("east"), BTreeMap::new());
        for step in 0..40 {
            for _ in 0..=dice.below(3) {
                let made = Arc::new(some_resource(&mut dice));
                match dice.below(4) {
                    0 => drop(held.remove(&made.key())),
                    _ => drop(held.insert(made.key(), made)),
                }
            }
            if dice.below(4) == 0 {
                let origin = Origin::new("Dataplane", "default", &format!("dp-{}", dice.below(8)));
                if !withdrawn.remove(&origin) {
                    withdrawn.insert(origin);
                }
            }
            let resources: Arc<Vec<Arc<Resource>>> = Arc::new(held.values().cloned().collect());
            let now = names.of(&resources);
            if last_names != now {
                last_names = now;
            }
            let services = names.of_services(&resources);
            let settings = super::super::Settings { withdrawn: withdrawn.clone(), services, ..settings("east") };
            world = World::after(Some(&world), resources.clone(), settings.clone(), last_names.clone());
            let fresh = World::after(None, resources, settings, last_names.clone());
            if dice.below(3) == 0 {
                super::super::prepare(&world);
            }
            // What isn't asked for in one world must be right in a later one all the same.
            if dice.below(3) > 0 {
                assert_same(&shown(&world), &shown(&fresh), &format!("seed {seed}, step {step}"));
            }
        }
    }
}

#[test]
fn rows_of_what_did_not_change_are_the_same_allocations() {
    let transparent = |name: &str, address: &str, text: &str| {
        change(app(name, address, text), |d| {
            d.networking.transparent_proxying =
                Some(TransparentProxying { redirect_port_outbound: 15001, ..Default::default() });
        })
    };
    let mut names = Names::default();
    let mut list = vec![mesh("default", ""), transparent("web", "10.0.0.1", "service=web")];
    list.extend((1..5).map(|n| transparent(&format!("b{n}"), &format!("10.0.1.{n}"), &format!("service=b{n}"))));
    let mut list: Vec<Arc<Resource>> = list.into_iter().map(Arc::new).collect();
    list.sort_by_key(|r| r.key());
    let world = World::after(None, Arc::new(list.clone()), settings("east"), names.of(&list));
    let key = ProxyKey::dataplane("default", "web");
    let before = compile(&world, &key).tables;
    let other = compile(&world, &ProxyKey::dataplane("default", "b1")).tables;
    assert!(before.services.iter().zip(&other.services).all(|(a, b)| Arc::ptr_eq(a, b)));
    list.push(Arc::new(transparent("b9", "10.0.1.9", "service=b9")));
    list.sort_by_key(|r| r.key());
    let next = World::after(Some(&world), Arc::new(list.clone()), settings("east"), names.of(&list));
    let after = compile(&next, &key).tables;
    let is_held = |row: &&Arc<ServiceRow>| before.services.iter().any(|b| Arc::ptr_eq(b, row));
    assert_eq!(after.services.iter().filter(|row| !is_held(row)).map(|r| r.name.as_str()).collect::<Vec<_>>(), ["b9"]);
    let is_held = |row: &&Arc<ListenerRow>| before.listeners.iter().any(|b| Arc::ptr_eq(b, row));
    // The new one, and the proxy's own inbound.
    assert_eq!(after.listeners.iter().filter(|row| !is_held(row)).count(), 3);
    assert_eq!(after.names.len(), before.names.len() + 1);
}
