//! Table tests of the spelling of paths.

use super::*;
use proptest::prelude::*;

fn at(path: &str, edge: bool) -> (Spelling, String) {
    let mut out = Vec::new();
    let spelling = normalise(path.as_bytes(), edge, &mut out).unwrap();
    let result = if spelling == Spelling::AsSent { path.as_bytes().to_vec() } else { out };
    (spelling, String::from_utf8(result).unwrap())
}

#[test]
fn edge_paths_have_one_spelling() {
    let cases = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("//a/../b", "/b"),
        ("/a//b///c", "/a/b/c"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a/b/../../c", "/c"),
        ("/..", "/"),
        ("/.", "/"),
        ("/a/...", "/a/..."),
        ("/.a/..b", "/.a/..b"),
        ("/%61%7e%2D", "/a~-"),
        ("/%2e%2e/a", "/a"),
        ("/a/%2E./b", "/b"),
        ("/a\\b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/%20%zz%", "/%20%zz%"),
        ("/%3f%23", "/%3f%23"),
        ("/%252e%252e/a", "/%252e%252e/a"),
        ("/a%2", "/a%2"),
    ];
    for (sent, normal) in cases {
        let (spelling, path) = at(sent, true);
        assert_eq!(path, normal, "{sent}");
        assert_eq!(spelling == Spelling::AsSent, sent == normal, "{sent}");
    }
}

#[test]
fn escaped_slashes_redirect_at_the_edge_and_pass_sidecars() {
    for (sent, normal) in
        [("/a%2Fb", "/a/b"), ("/a%5cb", "/a/b"), ("/a%2f%2e%2e%2fb", "/b"), ("/%2F%2fevil.example", "/evil.example")]
    {
        assert_eq!(at(sent, true), (Spelling::Redirect, normal.to_owned()), "{sent}");
    }
    for kept in ["/a%2Fb", "/a%5cb", "/a\\b", "/a//b", "/a/..%2fb"] {
        assert_eq!(at(kept, false), (Spelling::AsSent, kept.to_owned()));
    }
    assert_eq!(at("/a//../%62", false), (Spelling::Rewritten, "/a/b".to_owned()));
}

#[test]
fn escaped_nul_is_refused() {
    assert_eq!(normalise(b"/a%00b", true, &mut Vec::new()), Err(Fault::Target));
    assert_eq!(normalise(b"/a%00b", false, &mut Vec::new()), Err(Fault::Target));
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing(path in "/([/.a%25\\\\]|%2[eEfF]|%5c|%4[01]){0,12}", edge in any::<bool>()) {
        let mut out = Vec::new();
        if let Ok(spelling) = normalise(path.as_bytes(), edge, &mut out) {
            let once = if spelling == Spelling::AsSent { path.into_bytes() } else { out };
            prop_assert_eq!(once.first(), Some(&b'/'));
            let text = String::from_utf8(once.clone()).unwrap();
            prop_assert!(!format!("{text}/").contains("/../") && !format!("{text}/").contains("/./"), "{}", text);
        }
    }
}
