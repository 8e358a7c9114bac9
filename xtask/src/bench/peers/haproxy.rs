//! HAProxy's slot: one thread, no log. Knows HAProxy's configuration and nothing of a load.

use super::Ports;
use crate::bench::certs::Certificates;
use std::fmt::Write;

const HEAD: &str = "  log /dev/null local0\n  ssl-server-verify none\n  tune.ssl.default-dh-param 2048\n\
     defaults\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n";

fn head(connections: usize) -> String {
    format!("global\n  nbthread 1\n  maxconn {connections}\n{HEAD}")
}

/// `splice-auto` decides only when the stream is looked at, which on a single one never happens: bulk asks for it always, and
/// messages, which it makes dearer, never.
pub(crate) fn tcp(pairs: &[(u16, u16, bool)]) -> String {
    let mut text = head(4000);
    for (port, backend, is_bulk) in pairs {
        let splice = if *is_bulk { "option splice-request\n  option splice-response" } else { "" };
        let _ok = write!(
            text,
            "frontend f{port}\n  mode tcp\n  bind 127.0.0.1:{port}\n  {splice}\n  default_backend b{port}\n\
             backend b{port}\n  mode tcp\n  {splice}\n  server s 127.0.0.1:{backend}\n"
        );
    }
    text
}

/// `map` is the file that `sni_map` fills.
pub(crate) fn sni(port: u16, backend: u16, names: usize, map: &str) -> String {
    let mut text = head(9000);
    let _ok = write!(
        text,
        "frontend f\n  mode tcp\n  bind 127.0.0.1:{port}\n  tcp-request inspect-delay 5s\n\
         \x20 tcp-request content accept if {{ req.ssl_hello_type 1 }}\n\
         \x20 use_backend %[req.ssl_sni,lower,map({map})]\n"
    );
    for name in 0..names {
        let _ok = write!(text, "backend b{name}\n  mode tcp\n  server s 127.0.0.1:{backend}\n");
    }
    text
}

pub(crate) fn sni_map(names: usize) -> String {
    (0..names).map(|name| format!("h{name}.mesh b{name}\n")).collect()
}

pub(crate) fn http(ports: Ports, backend: u16, certificates: &Certificates, map: &str) -> String {
    let mut text = head(9_000);
    let pem = certificates.file("web.pem");
    let _ok = write!(
        text,
        "frontend one\n  mode http\n  bind 127.0.0.1:{}\n  bind 127.0.0.1:{}\n\
         \x20 bind 127.0.0.1:{} ssl crt {pem} alpn h2,http/1.1 ssl-min-ver TLSv1.2\n  default_backend b\n\
         backend b\n  mode http\n  http-reuse always\n  server s 127.0.0.1:{backend}\n\
         frontend many\n  mode http\n  bind 127.0.0.1:{}\n  use_backend %[base,map_beg({map})]\n",
        ports.http, ports.http2, ports.tls, ports.routes
    );
    for host in 0..super::HOSTS {
        let _ok = write!(text, "backend b{host}\n  mode http\n  http-reuse always\n  server s 127.0.0.1:{backend}\n");
    }
    text
}

/// HTTP/2 on both sides.
pub(crate) fn http2(port: u16, backend: u16) -> String {
    format!(
        "{}frontend one\n  mode http\n  bind 127.0.0.1:{port}\n  default_backend b\n\
         backend b\n  mode http\n  http-reuse always\n  server s 127.0.0.1:{backend} proto h2\n",
        head(9_000)
    )
}

pub(crate) fn http_map() -> String {
    let line = |host: usize| (0..super::PREFIXES).map(move |prefix| format!("h{host}.mesh/p{prefix} b{host}\n"));
    (0..super::HOSTS).flat_map(line).collect()
}
