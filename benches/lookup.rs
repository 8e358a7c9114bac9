//! What a decision asks of a snapshot: by address, name and service, and the route of a request.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must end")]

mod common;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use snapshot::Snapshot;
use snapshot::lookup::{Facts, Routed};
use std::hint::black_box;

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for size in common::SIZES {
        let tables = common::sidecar(size);
        let listener = tables.listeners[tables.listeners.len() / 2].address;
        let row = tables.names[size / 2].clone();
        let service = tables.services[size / 2].name.clone();
        let snapshot = Snapshot::build(tables, common::generation(1)).expect("sound tables");
        let vip = row.v4.expect("a VIP").into();
        group.bench_function(BenchmarkId::new("listener", size), |b| b.iter(|| snapshot.listener(black_box(listener))));
        group.bench_function(BenchmarkId::new("vip", size), |b| b.iter(|| snapshot.vip_name(black_box(vip))));
        group.bench_function(BenchmarkId::new("name", size), |b| b.iter(|| snapshot.name(black_box(&row.name))));
        group.bench_function(BenchmarkId::new("service", size), |b| b.iter(|| snapshot.service(black_box(&service))));
    }
    group.finish();
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for size in common::SIZES {
        let snapshot = common::gateway(size);
        let listener = snapshot.listener(common::GATEWAY).expect("the gateway's listener");
        let exact = format!("h{}.example.com", (size / 2) & !1);
        let wildcard = format!("a.h{}.example.com", (size / 2) | 1);
        for (what, host) in [("exact", &exact), ("wildcard", &wildcard)] {
            let facts = Facts { host, method: "GET", path: "/p5/item", query: "", header: &|_| None };
            assert!(matches!(listener.route(&facts), Routed::Route(_)), "{host} has a route");
            group.bench_function(BenchmarkId::new(what, size), |b| b.iter(|| listener.route(black_box(&facts))));
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = rows, routes }
criterion_main!(benches);
