//! Table tests of request targets and Host.

use super::super::head::Kind;
use super::*;

fn check(line: &str, headers: &str) -> Result<(String, String, Option<String>), Fault> {
    let bytes = format!("{line}\r\n{headers}\r\n");
    let mut head = Head::default();
    assert!(head.parse(bytes.as_bytes(), Kind::Request)?, "{bytes}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    target(&head, bytes.as_bytes()).map(|t| (text(t.authority), text(t.path), t.query.map(text)))
}

#[test]
fn target_forms_by_rfc_9112() {
    let host = "Host: a.example:80\r\n";
    let ok = |line: &str| check(line, host).unwrap();
    assert_eq!(ok("GET /p?q=1?2 HTTP/1.1"), ("a.example:80".into(), "/p".into(), Some("q=1?2".into())));
    assert_eq!(ok("GET http://B.example/p HTTP/1.1"), ("B.example".into(), "/p".into(), None));
    assert_eq!(ok("GET HTTPS://b.example:8443?x HTTP/1.1"), ("b.example:8443".into(), "/".into(), Some("x".into())));
    assert_eq!(ok("GET http://b.example HTTP/1.1"), ("b.example".into(), "/".into(), None));
    assert_eq!(ok("OPTIONS * HTTP/1.1"), ("a.example:80".into(), "*".into(), None));
    for line in [
        "GET * HTTP/1.1",
        "GET a/b HTTP/1.1",
        "GET http://u@b/ HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET ftp://b/ HTTP/1.1",
    ] {
        assert_eq!(check(line, host).unwrap_err(), Fault::Target, "{line}");
    }
    assert_eq!(check("CONNECT a.example:443 HTTP/1.1", host).unwrap_err().status(), 405);
}

#[test]
fn host_is_exactly_one_and_valid() {
    for good in ["a", "a_b.c-d", "A.", "1.2.3.4:0", "[::1]:8080", "[::1]", "a:"] {
        assert!(check("GET / HTTP/1.1", &format!("Host: {good}\r\n")).is_ok(), "{good}");
    }
    let bad = [
        "", "a,b", "a b", "u@a", "a/b", "a:x", "a:+1", "a:123456", "a:65536", ":80", "a:80:80", "[::1", "[::1]x",
        "[x]", "::1", "a%41", "a?b", ".a", "http://a", "a\\b",
    ];
    for bad in bad {
        let got = check("GET / HTTP/1.1", &format!("Host: {bad}\r\n"));
        assert_eq!(got.unwrap_err(), Fault::Host, "{bad}");
    }
    assert_eq!(check("GET / HTTP/1.1", "").unwrap_err(), Fault::Host);
    assert_eq!(check("GET / HTTP/1.1", "Host: a\r\nhost: a\r\n").unwrap_err(), Fault::Host);
    assert_eq!(check("GET http://a/ HTTP/1.1", "").unwrap_err(), Fault::Host);
    assert_eq!(check("GET / HTTP/1.0", "").unwrap().0, "");
    assert_eq!(check("GET / HTTP/1.0", "Host: a\r\nHost: b\r\n").unwrap_err(), Fault::Host);
}

#[test]
fn dot_case_and_port_make_no_other_host() {
    let mut out = String::new();
    for same in ["Foo.Example", "foo.example.", "FOO.EXAMPLE:80", "foo.example.:8080"] {
        matching_host(split_host(same.as_bytes()).unwrap().0, &mut out);
        assert_eq!(out, "foo.example", "{same}");
    }
    matching_host(split_host(b"[::1]:80").unwrap().0, &mut out);
    assert_eq!(out, "[::1]");
}
