//! Knot DNS' slot: one UDP worker, a zone from a file. Knows its configuration and nothing of a load.

use std::path::Path;

pub(crate) fn config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "server:\n    listen: 127.0.0.1@{port}\n    rundir: {folder}\n    udp-workers: 1\n    tcp-workers: 1\n    \
         background-workers: 1\ndatabase:\n    storage: {folder}/db\nlog:\n  - target: stderr\n    any: error\n\
         zone:\n  - domain: mesh\n    storage: {folder}\n    file: mesh.zone\n    zonefile-load: whole\n    \
         zonefile-sync: -1\n    journal-content: none\n    semantic-checks: off\n"
    )
}

pub(crate) fn zone(names: usize) -> String {
    let head = "$ORIGIN mesh.\n$TTL 60\n@ SOA ns.mesh. a.mesh. 1 3600 600 86400 60\n@ NS ns.mesh.\nns A 127.0.0.1\n";
    let names = (0..names).map(|name| format!("svc{name} A {}\n", super::vip(name)));
    head.to_owned() + &names.collect::<String>()
}
