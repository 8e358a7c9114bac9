//! nginx's slot: one worker, access log off, keep-alive to the backend. Knows nginx's configuration and nothing of a load.

use super::Ports;
use crate::bench::certs::Certificates;
use std::fmt::Write;
use std::path::Path;

/// Where Debian and Ubuntu put it; of a package of its own.
pub(crate) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn main(folder: &Path, is_stream: bool) -> String {
    let module = if is_stream { format!("load_module {STREAM_MODULE};\n") } else { String::new() };
    let folder = folder.display();
    format!(
        "{module}daemon off;\nworker_processes 1;\nerror_log {folder}/nginx.err error;\npid {folder}/nginx.pid;\n\
         worker_rlimit_nofile 19900;\nevents {{ worker_connections 16384; }}\n"
    )
}

pub(crate) fn tcp(folder: &Path, pairs: &[(u16, u16)]) -> String {
    let mut text = main(folder, true) + "stream {\n";
    for (port, backend) in pairs {
        let _ok =
            writeln!(text, "  server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{backend}; }}");
    }
    text + "}\n"
}

pub(crate) fn sni(folder: &Path, port: u16, backend: u16, names: usize) -> String {
    let mut text = main(folder, true)
        + "stream {\n  map_hash_max_size 8192; map_hash_bucket_size 128;\n  map $ssl_preread_server_name $b {\n";
    for name in 0..names {
        let _ok = writeln!(text, "    h{name}.mesh 127.0.0.1:{backend};");
    }
    let _ok =
        writeln!(text, "  }}\n  server {{ listen 127.0.0.1:{port} backlog=4096; ssl_preread on; proxy_pass $b; }}\n}}");
    text
}

const PROXY: &str = "proxy_pass http://be; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
     proxy_set_header Host $host; proxy_buffers 16 16k; proxy_buffer_size 16k;";

/// One route on three ports (HTTP/1.1, HTTP/2 in clear, TLS), and a thousand on a fourth.
pub(crate) fn http(folder: &Path, ports: Ports, backend: u16, certificates: &Certificates) -> String {
    let mut text = main(folder, false);
    let place = folder.display();
    let _ok = write!(
        text,
        "http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n\
         \x20 server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
         \x20 client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;\n\
         \x20 uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;\n\
         \x20 ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets on;\n\
         \x20 upstream be {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 100000000; }}\n"
    );
    let one = format!("server_name _; location / {{ {PROXY} }}");
    let (crt, key) = (certificates.file("web.crt"), certificates.file("web.key"));
    let _ok = write!(
        text,
        "  server {{ listen 127.0.0.1:{} backlog=4096; {one} }}\n\
         \x20 server {{ listen 127.0.0.1:{} http2 backlog=4096; http2_max_requests 100000000; {one} }}\n\
         \x20 server {{ listen 127.0.0.1:{} ssl http2 backlog=4096; http2_max_requests 100000000;\n\
         \x20   ssl_certificate {crt}; ssl_certificate_key {key}; {one} }}\n",
        ports.http, ports.http2, ports.tls
    );
    for host in 0..super::HOSTS {
        let backlog = if host == 0 { " backlog=4096" } else { "" };
        let _ok = writeln!(text, "  server {{ listen 127.0.0.1:{}{backlog}; server_name h{host}.mesh;", ports.routes);
        for prefix in 0..super::PREFIXES {
            let _ok = writeln!(text, "    location /p{prefix} {{ {PROXY} }}");
        }
        text.push_str("  }\n");
    }
    text + "}\n"
}
