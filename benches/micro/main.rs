//! Times of the hot paths, by criterion: `make microbench`. For looking at one of them; what CI holds is `guard`.

#[path = "../paths/mod.rs"]
mod paths;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use paths::{HOT_PATHS, Material};

fn hot_paths(criterion: &mut Criterion) {
    let material = Material::new();
    for path in &HOT_PATHS {
        criterion.bench_function(path.name, |bencher| {
            bencher.iter_batched(|| (path.prepare)(&material), |run| run(), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
