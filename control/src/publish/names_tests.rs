//! Names that follow changes are the names found from nothing.

use super::super::addresses::Unsaved;
use super::*;
use crate::dice::Dice;
use crate::resource::read;

fn parsed(yaml: &str) -> Arc<Resource> {
    let intake = read(yaml, "test.yaml");
    assert!(!intake.has_errors(), "{yaml}: {:?}", intake.problems);
    Arc::new(intake.resources.into_iter().next().unwrap())
}

fn dataplane(dice: &mut Dice) -> Arc<Resource> {
    let services = ["a", "b", "a_b", "a.b", "c-1"];
    let inbound = |port: usize, dice: &mut Dice| {
        let service = dice.one_of(&services);
        let version = dice.one_of(&["", ", version: v1", ", version: v2"]);
        let state = dice.one_of(&["", ", state: NotReady", ", state: Ignored"]);
        format!("{{port: {port}, tags: {{kuma.io/service: {service}{version}}}{state}}}")
    };
    let inbounds = [inbound(80, dice), inbound(81, dice)];
    let shown = &inbounds[..=dice.below(2)];
    parsed(&format!(
        "type: Dataplane\nmesh: default\nname: dp-{}\nnetworking: {{address: 10.0.0.1, inbound: [{}]}}\n",
        dice.below(9),
        shown.join(", ")
    ))
}

fn external(dice: &mut Dice) -> Arc<Resource> {
    parsed(&format!(
        "type: ExternalService\nmesh: default\nname: es{}\ntags: {{kuma.io/service: {}}}\nnetworking: {{address: '{}'}}\n",
        dice.below(6),
        dice.one_of(&["a", "ext", "far", "near"]),
        dice.one_of(&["a.mesh:80", "api.example.com:443", "b.example.com:443", "c.example.com:80", "240.0.0.2:80"])
    ))
}

fn other(dice: &mut Dice) -> Arc<Resource> {
    let number = dice.below(2);
    match dice.below(4) {
        0 => external(dice),
        1 => parsed(&format!(
            "type: ZoneIngress\nname: zi{number}\nzone: west\nnetworking: {{address: 10.9.9.9, port: 10001}}\navailableServices: \
             [{{tags: {{kuma.io/service: {}}}, instances: 1, mesh: default}}]\n",
            dice.one_of(&["a", "far"])
        )),
        2 => parsed(&format!(
            "type: MeshGateway\nmesh: default\nname: gw\nselectors: [{{match: {{kuma.io/service: edge}}}}]\nconf: {{listeners: \
             [{{port: 8080, protocol: HTTP, hostname: {}, crossMesh: true}}]}}\n",
            dice.one_of(&["edge.mesh", "a.mesh"])
        )),
        _ => parsed(&format!(
            "type: VirtualOutbound\nmesh: default\nname: vo{number}\nselectors: [{{match: {{{}}}}}]\nconf: {{host: '{}', port: '{}', \
             parameters: [{{name: s, tagKey: kuma.io/service}}, {{name: v, tagKey: version}}]}}\n",
            dice.one_of(&["kuma.io/service: '*'", "kuma.io/service: '*', version: '*'", "kuma.io/service: a"]),
            dice.one_of(&["{{.s}}.mesh", "{{.s}}.{{.v}}.mesh", "one.mesh", "{{.s}}.virtual"]),
            dice.one_of(&["80", "8080"])
        )),
    }
}

#[test]
fn names_after_any_edits_are_the_names_found_from_nothing() {
    let ranges = Ranges { v4: crate::vip::Cidr::new("240.0.0.0".parse().unwrap(), 24), v6: Ranges::default().v6 };
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut held: BTreeMap<ResourceKey, Arc<Resource>> = BTreeMap::new();
        let mesh = parsed("type: Mesh\nname: default\n");
        held.insert(mesh.key(), mesh);
        let settings =
            NameSettings { service_vip_enabled: seed % 5 > 0, own_zone: "east".into(), ..NameSettings::default() };
        let mut fresh = Names::default();
        let (mut names, mut before, mut now_ms) = (Names::default(), Vec::new(), 0);
        for step in 0..60 {
            for _ in 0..=dice.below(2) {
                let made = match dice.below(12) {
                    0 => other(&mut dice),
                    1..=3 if seed % 2 == 0 => external(&mut dice),
                    _ => dataplane(&mut dice),
                };
                match dice.below(3) {
                    0 => drop(held.remove(&made.key())),
                    _ => drop(held.insert(made.key(), made)),
                }
            }
            now_ms += dice.below(100_000) as u64;
            let resources: Vec<Arc<Resource>> = held.values().cloned().collect();
            let given = Given { settings: &settings, ranges: &ranges, now_ms };
            let load = |_: &str| (VipTable::default(), None);
            fresh.find(&resources, &given, &load);
            fresh.show();
            names.follow(&changed::between(&before, &resources), &resources, &given, &load);
            let of = |names: &Names| names.by_mesh["default"].as_ref().clone();
            assert_eq!(of(&names), of(&fresh), "seed {seed}, step {step}");
            let sorted = |names: &Names| names.problems.iter().cloned().collect::<BTreeSet<_>>();
            assert_eq!(sorted(&names), sorted(&fresh), "seed {seed}, step {step}");
            let (kept, found) = (&names.kept["default"].view, &fresh.kept["default"].view);
            assert_eq!((&kept.entries, &kept.skipped), (&found.entries, &found.skipped), "seed {seed}, step {step}");
            assert_eq!(names.kept["default"].addresses.table(), fresh.kept["default"].addresses.table());
            if dice.below(2) == 0 {
                names.prepare(&resources, &settings);
            }
            before = resources;
        }
    }
}

#[test]
fn another_instance_of_a_service_leaves_the_names_as_they_are() {
    let (settings, ranges) = (NameSettings::default(), Ranges::default());
    let given = Given { settings: &settings, ranges: &ranges, now_ms: 0 };
    let instance_of = |name: &str, service: &str| {
        parsed(&format!(
            "type: Dataplane\nmesh: default\nname: {name}\nnetworking: {{address: 10.0.0.1, inbound: [{{port: 80, tags: \
             {{kuma.io/service: {service}}}}}]}}\n"
        ))
    };
    let instance = |name: &str| instance_of(name, "web");
    let load = |_: &str| (VipTable::default(), None);
    let one = vec![instance("a"), parsed("type: Mesh\nname: default\n")];
    let mut two = one.clone();
    two.insert(1, instance("b"));
    let mut names = Names::default();
    names.follow(&[], &one, &given, &load);
    assert!(matches!(names.unsaved().as_slice(), [(mesh, Unsaved::Table(_))] if mesh == "default"));
    let held = names.by_mesh["default"].clone();
    names.follow(&changed::between(&one, &two), &two, &given, &load);
    assert!(Arc::ptr_eq(&held, &names.by_mesh["default"]));
    assert!(names.unsaved().is_empty());
    let mut three = two.clone();
    three.insert(2, instance_of("c", "api"));
    names.follow(&changed::between(&two, &three), &three, &given, &load);
    assert!(matches!(names.unsaved().as_slice(), [(_, Unsaved::Journal(_))]));
    assert!(names.by_mesh["default"].names.iter().any(|row| row.name == "api.mesh"));
}
