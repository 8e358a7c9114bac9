//! From resources to one sidecar's tables: the world that all compilations share, and one compilation.

mod common;

use control::compile::compile;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

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

criterion_group! { name = benches; config = common::criterion(); targets = compiler }
criterion_main!(benches);
