//! The one swap: publishing, and what a worker's load costs while nothing changes.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must end")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use snapshot::{Snapshot, cell};
use std::hint::black_box;
use std::sync::Arc;

fn swap(c: &mut Criterion) {
    let tables = common::sidecar(1_000);
    let snapshot =
        |sequence| Arc::new(Snapshot::build(tables.clone(), common::generation(sequence)).expect("sound tables"));
    let mut group = c.benchmark_group("swap");
    let (mut publisher, reader) = cell();
    publisher.publish(snapshot(1)).expect("the first");
    let mut cached = reader.cached();
    group.bench_function("load", |b| b.iter(|| black_box(reader.load().generation())));
    group.bench_function("cached load", |b| b.iter(|| black_box(cached.load().generation())));
    let mut sequence = 1;
    // Each publish also frees the snapshot before the last one, as in the proxy.
    group.sample_size(10).bench_function("publish and see it", |b| {
        b.iter_custom(|rounds| {
            let rounds = usize::try_from(rounds).unwrap_or(1);
            let next: Vec<_> = (0..rounds.min(64))
                .map(|_| {
                    sequence += 1;
                    snapshot(sequence)
                })
                .collect();
            let count = next.len();
            let began = std::time::Instant::now();
            for snapshot in next {
                publisher.publish(snapshot).expect("newer");
                black_box(cached.load().generation());
            }
            began.elapsed().mul_f64(rounds as f64 / count as f64)
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = swap }
criterion_main!(benches);
