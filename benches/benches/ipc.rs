//! `Status` round trips to a live worker: over the bare socket, and through a supervisor with its threads; with both
//! sides on one CPU, and left to the scheduler. Each prints median, p99 and maximum first, then criterion's figures.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot run has nothing to say")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use selvedge_bench::{Figures, Live, Placement};

const COUNT: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn status(criterion: &mut Criterion) {
    let live = Live::new().unwrap();
    for placement in Placement::ALL {
        let name = placement.name();
        placement
            .run(|| {
                let mut worker = live.wire().unwrap();
                println!(
                    "Status over socket, {name}: {}",
                    Figures::measure(COUNT, || worker.status()).unwrap()
                );
                criterion.bench_function(&format!("status/socket/{name}"), |bencher| {
                    bencher.iter(|| worker.status().unwrap());
                });
            })
            .unwrap();
        placement
            .run(|| {
                let worker = live.supervised().unwrap();
                let figures = Figures::measure(COUNT, || worker.status(PATIENCE).map(drop)).unwrap();
                println!("Status over supervisor, {name}: {figures}");
                criterion.bench_function(&format!("status/supervisor/{name}"), |bencher| {
                    bencher.iter(|| worker.status(PATIENCE).unwrap());
                });
            })
            .unwrap();
    }
}

criterion_group!(benches, status);
criterion_main!(benches);
