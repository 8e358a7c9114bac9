//! The mesh's answer to a question, by size of the mesh and kind of question.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must end")]

mod common;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dns::{Answer, Question, class, lookup, qtype};
use snapshot::Snapshot;
use std::hint::black_box;

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("dns");
    for size in common::SIZES {
        let tables = common::sidecar(size);
        let row = tables.names[size / 2].clone();
        let snapshot = Snapshot::build(tables, common::generation(1)).expect("sound tables");
        let [a, b, c, d] = row.v4.expect("a VIP").octets();
        let reverse = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        let cases =
            [("A", row.name.as_str(), qtype::A), ("PTR", &reverse, qtype::PTR), ("foreign", "example.com", qtype::A)];
        for (what, name, kind) in cases {
            let question = Question { name, qtype: kind, qclass: class::IN };
            assert_eq!(lookup(&snapshot, &question) == Answer::NotOurs, what == "foreign");
            group.bench_function(BenchmarkId::new(what, size), |b| b.iter(|| lookup(&snapshot, black_box(&question))));
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = answers }
criterion_main!(benches);
