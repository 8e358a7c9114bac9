//! Every document of the users' own documentation, read as it stands there.

use super::super::{Intake, Spec, read};
use super::{errors, good, listing};
use std::fmt::Write;
use std::path::Path;

fn seeds_read() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/intake/seeds");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut out = String::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let intake = read(&std::fs::read_to_string(&file).unwrap(), name);
        let _ = writeln!(out, "== {name}");
        for resource in &intake.resources {
            let _ = writeln!(out, "{}", resource.key());
        }
        for problem in &intake.problems {
            let _ = writeln!(out, "{problem}");
        }
    }
    out
}

/// Golden: `UPDATE_GOLDEN=1 cargo test -p control seeds` writes it anew.
#[test]
fn the_documents_of_the_documentation_are_read_as_meant() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/intake/seeds.txt");
    let got = seeds_read();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &got).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(got, want, "see control/testdata/intake/seeds.txt");
}

fn seed(name: &str) -> Intake {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/intake/seeds").join(name);
    read(&std::fs::read_to_string(file).unwrap(), name)
}

/// The seeds that can't be taken: objects of Kubernetes, and parts of resources.
#[test]
fn every_whole_resource_of_the_documentation_is_accepted() {
    let read = seeds_read();
    let refused: Vec<&str> = read.lines().filter(|l| l.contains(": error: ")).collect();
    let expected = |l: &&&str| {
        l.contains("is an object of Kubernetes, which doesn't run here") || l.contains("this is a part of a resource")
    };
    assert_eq!(refused.iter().filter(|l| !expected(l)).count(), 0, "{refused:#?}");
    assert_eq!(refused.len(), 6, "{refused:#?}");
}

#[test]
fn virtual_outbound_host_port_of_kubernetes_gets_the_service_parameter_it_means() {
    let kubernetes = seed("virtual-outbound-2.4-08.yaml");
    let universal = seed("virtual-outbound-2.4-09.yaml");
    assert_eq!(kubernetes.problems.len(), 1);
    assert_eq!(
        kubernetes.problems[0].message,
        "must contain a parameter with kuma.io/service as a tagKey; read as if {name: service, tagKey: kuma.io/service} were there"
    );
    assert!(!kubernetes.has_errors());
    assert_eq!(kubernetes.resources[0].spec, universal.resources[0].spec);
    let stored = good(&kubernetes.resources[0].to_yaml());
    assert_eq!(stored.spec, universal.resources[0].spec);
}

#[test]
fn a_virtual_outbound_that_does_not_select_by_service_must_name_the_parameter() {
    let vo = |selectors: &str, parameters: &str| {
        errors(&format!(
            "type: VirtualOutbound\nmesh: m\nname: v\nselectors: [{selectors}]\nconf: {{host: a.mesh, port: '80', parameters: [{parameters}]}}"
        ))
    };
    let missing = ["conf.parameters: must contain a parameter with kuma.io/service as a tagKey"];
    assert_eq!(vo("{match: {kuma.io/service: a}}, {match: {b: c}}", "{name: b}"), missing);
    // The name that the parameter would have is another tag's.
    assert_eq!(vo("{match: {kuma.io/service: a}}", "{name: service, tagKey: b}"), missing);
    assert!(vo("{match: {kuma.io/service: a}}", "{name: b}").is_empty());
}

#[test]
fn the_ellipsis_under_mtls_in_the_zone_egress_pages_is_the_builtin_ca() {
    for name in ["zone-egress-2.10-02.yaml", "zone-egress-2.10-03.yaml"] {
        let intake = seed(name);
        assert!(!intake.has_errors(), "{}", listing(&intake));
        assert_eq!(intake.problems.len(), 1);
        assert!(
            intake.problems[0]
                .message
                .contains("it is read as {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}")
        );
        let Spec::Mesh(mesh) = &intake.resources[0].spec else { panic!() };
        let ca = mesh.ca().unwrap();
        assert_eq!((ca.name.as_str(), ca.kind.as_str(), mesh.routing.zone_egress), ("ca-1", "builtin", true));
        let written = "type: Mesh\nname: default\nrouting: {zoneEgress: true}\nmtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}\n";
        assert_eq!(intake.resources[0].spec, good(written).spec);
    }
}

#[test]
fn a_part_of_a_resource_as_the_gateway_page_shows_it_is_refused_as_such() {
    for name in ["gateway-2.5-14.yaml", "gateway-2.5-15.yaml"] {
        let intake = seed(name);
        assert!(intake.resources.is_empty());
        assert_eq!(intake.problems.len(), 1, "{}", listing(&intake));
        assert!(intake.problems[0].message.contains("this is a part of a resource"));
    }
}
