//! Every document of the users' own documentation, read as it stands there.

use super::super::read;
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
