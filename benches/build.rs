//! From rows to a snapshot: all of them, and after one endpoint changed; and the same change on the channel.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must end")]

mod common;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use snapshot::{FORMAT, Incoming, Part, Snapshot, Tables};
use std::hint::black_box;

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for size in common::SIZES {
        let tables = common::sidecar(size);
        let changed = common::one_endpoint_moved(&tables);
        let before = Snapshot::build(tables.clone(), common::generation(1)).expect("sound tables");
        let full = |tables: Tables| Snapshot::build(tables, common::generation(1)).expect("sound tables");
        let after =
            |tables: Tables| Snapshot::build_after(Some(&before), tables, common::generation(2)).expect("sound");
        group.bench_function(BenchmarkId::new("all", size), |b| {
            b.iter_batched(|| tables.clone(), full, BatchSize::LargeInput)
        });
        group.bench_function(BenchmarkId::new("one endpoint", size), |b| {
            b.iter_batched(|| changed.clone(), after, BatchSize::LargeInput)
        });
    }
    group.finish();
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.sample_size(10);
    for size in common::SIZES {
        let tables = common::sidecar(size);
        let changed = common::one_endpoint_moved(&tables);
        let all: Vec<Part> = snapshot::parts(None, &tables).collect();
        let one: Vec<Part> = snapshot::parts(Some(&tables), &changed).collect();
        let nothing = Tables::default();
        let apply = |base: &Tables, parts: &[Part]| {
            let mut incoming = Incoming::new(FORMAT).expect("our own format");
            parts.iter().for_each(|part| incoming.take(part).expect("our own rows"));
            incoming.apply(base)
        };
        group.bench_function(BenchmarkId::new("encode all", size), |b| {
            b.iter(|| snapshot::parts(None, black_box(&tables)).map(|part| part.upserts.len()).sum::<usize>())
        });
        group.bench_function(BenchmarkId::new("decode all", size), |b| b.iter(|| apply(&nothing, black_box(&all))));
        group.bench_function(BenchmarkId::new("diff one endpoint", size), |b| {
            b.iter(|| snapshot::parts(Some(&tables), black_box(&changed)).count())
        });
        group.bench_function(BenchmarkId::new("apply one endpoint", size), |b| {
            b.iter(|| apply(&tables, black_box(&one)))
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = build, wire }
criterion_main!(benches);
