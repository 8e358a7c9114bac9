//! From resources to one sidecar's tables: virtual IPs, the world that all compilations share, and one compilation.

mod common;

use control::compile::compile;
use control::vip::{EntryKind, Key, Ranges, VipTable, allocate};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;

/// Ten times the names may cost ten times as much.
fn vips(c: &mut Criterion) {
    let mut group = c.benchmark_group("vips");
    group.sample_size(10);
    let names = |count: usize| -> BTreeSet<Key> {
        (0..count).map(|i| Key::new(EntryKind::Service, format!("service-{i:06}"))).collect()
    };
    for size in [10_000, 100_000] {
        let (all, more) = (names(size), names(size + 1));
        let (nothing, ranges) = (VipTable::default(), Ranges::default());
        let (table, _) = allocate(&nothing, &all, &ranges, 0);
        group.bench_function(BenchmarkId::new("all", size), |b| {
            b.iter(|| allocate(black_box(&nothing), &all, &ranges, 0))
        });
        group.bench_function(BenchmarkId::new("one more", size), |b| {
            b.iter(|| allocate(black_box(&table), &more, &ranges, 0))
        });
    }
    group.finish();
}

fn compiler(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for size in common::SIZES {
        let resources = common::resources(size);
        let world = common::world(&resources);
        group.bench_function(BenchmarkId::new("world", size), |b| b.iter(|| common::world(black_box(&resources))));
        group.bench_function(BenchmarkId::new("sidecar", size), |b| {
            b.iter(|| compile(black_box(&world), &common::web()))
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = vips, compiler }
criterion_main!(benches);
