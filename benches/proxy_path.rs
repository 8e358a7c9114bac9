//! The part of a request's way that is computing: its head, its framing, its path and host, its route.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must end")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use proxy::http::head::{Head, Kind};
use proxy::http::{framing, path, target};
use snapshot::lookup::{Facts, Routed};
use std::hint::black_box;

const REQUEST: &[u8] = b"GET /p5/items/17?page=2 HTTP/1.1\r\nHost: h10.example.com:8080\r\nUser-Agent: bench/1.0\r\n\
    Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\
    X-Request-Id: 6f1c7c5e-6a0f-4d4e-9d1f-0a5a2f5f7f10\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: app\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\
    Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nCache-Control: no-store\r\n\r\n";

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (what, bytes, kind) in [("request", REQUEST, Kind::Request), ("response", RESPONSE, Kind::Response)] {
        let mut head = Head::default();
        group.bench_function(what, |b| {
            b.iter(|| {
                head.clear();
                head.parse(black_box(bytes), kind)
            });
        });
    }
    group.finish();
}

fn request(c: &mut Criterion) {
    let snapshot = common::gateway(1_000);
    let listener = snapshot.listener(common::GATEWAY).expect("the gateway's listener");
    let (mut head, mut normal, mut host) = (Head::default(), Vec::new(), String::new());
    c.bench_function("head to route", |b| {
        b.iter(|| {
            head.clear();
            head.parse(black_box(REQUEST), Kind::Request).expect("a sound head");
            framing::of_request(&head, REQUEST).expect("sound framing");
            let target = target::target(&head, REQUEST).expect("a sound target");
            path::normalise(target.path, true, &mut normal).expect("a sound path");
            target::matching_host(target.host, &mut host);
            let path = std::str::from_utf8(target.path).unwrap_or_default();
            let facts = Facts { host: &host, method: "GET", path, query: "", header: &|_| None };
            let routed = listener.route(&facts);
            assert!(matches!(routed, Routed::Route(_)));
        });
    });
}

criterion_group! { name = benches; config = common::criterion(); targets = heads, request }
criterion_main!(benches);
