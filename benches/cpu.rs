//! Room: benches. The CPU engine: loss and gradients against three plain products of the same size
//! by the same `gemm` crate, in the same process.
//!
//! `cargo bench --bench cpu` prints criterion's timings and then one line a loss with the ratio,
//! measured alternately so that a busy machine slows both sides alike.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use metric_kernels::{
    Batch, CpuEngine, CrossExampleSoftmax, GradientsMut, InBatchSoftmax, InstanceCrossEntropy,
    Loss, Matrix, MatrixMut,
};

const SIZES: [(usize, usize); 3] = [(1024, 256), (4096, 128), (4096, 256)];

/// Random unit rows, labels of eight to a class, and room for the gradients.
struct Data {
    n: usize,
    d: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    labels: Vec<u32>,
    dx: Vec<f32>,
    dy: Vec<f32>,
    similarities: Vec<f32>,
}

impl Data {
    fn new(n: usize, d: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut rows = || {
            let mut data: Vec<f32> = (0..n * d).map(|_| rng.f32() - 0.5).collect();
            for row in data.chunks_mut(d) {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter_mut().for_each(|v| *v /= norm);
            }
            data
        };
        Self {
            n,
            d,
            x: rows(),
            y: rows(),
            labels: (0..n as u32).map(|i| i / 8).collect(),
            dx: vec![0.0; n * d],
            dy: vec![0.0; n * d],
            similarities: vec![0.0; n * n],
        }
    }

    /// S = X·Yᵀ, S·Y and Sᵀ·X.
    fn three_products(&mut self) {
        let Self { n, d, x, y, dx, dy, similarities: s, .. } = self;
        plain(s, (*n, *n, *d), (x, *d, 1), (y, 1, *d));
        plain(dx, (*n, *d, *n), (s, *n, 1), (y, *d, 1));
        plain(dy, (*n, *d, *n), (s, 1, *n), (x, *d, 1));
        black_box((&self.dx, &self.dy));
    }

    fn step(&mut self, engine: &mut CpuEngine, loss: &impl Loss, labelled: bool) {
        let Self { n, d, x, y, labels, dx, dy, .. } = self;
        let (x, y) = (Matrix::new(x, *n, *d).unwrap(), Matrix::new(y, *n, *d).unwrap());
        let mut batch = Batch::new(x, y);
        if labelled {
            batch = batch.labels(&*labels, &*labels);
        }
        let out = GradientsMut {
            x: Some(MatrixMut::new(dx, *n, *d).unwrap()),
            y: Some(MatrixMut::new(dy, *n, *d).unwrap()),
            scale: None,
        };
        black_box(loss.loss_and_gradients_into(engine, batch, out).unwrap());
    }
}

/// out = left·right over all threads; each operand with its row and column stride.
fn plain(
    out: &mut [f32],
    (rows, cols, depth): (usize, usize, usize),
    (left, left_row, left_col): (&[f32], usize, usize),
    (right, right_row, right_col): (&[f32], usize, usize),
) {
    assert!(out.len() == rows * cols && left.len() == rows * depth && right.len() == depth * cols);
    // SAFETY: the slices hold exactly the elements that shapes and strides reach.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            out.as_mut_ptr(),
            1,
            cols as isize,
            false,
            left.as_ptr(),
            left_col as isize,
            left_row as isize,
            right.as_ptr(),
            right_col as isize,
            right_row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

fn loss_and_gradients(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loss_and_gradients");
    for (n, d) in SIZES {
        let mut data = Data::new(n, d);
        let mut engine = CpuEngine::new();
        let size = format!("{n}x{n}x{d}");
        group.throughput(Throughput::Elements((6 * n * n * d) as u64));
        group.bench_function(BenchmarkId::new("three plain products", &size), |b| {
            b.iter(|| data.three_products());
        });
        group.bench_function(BenchmarkId::new("cross-example softmax", &size), |b| {
            b.iter(|| data.step(&mut engine, &CrossExampleSoftmax::new(20.0), false));
        });
        group.bench_function(BenchmarkId::new("in-batch softmax", &size), |b| {
            b.iter(|| data.step(&mut engine, &InBatchSoftmax::new(20.0), false));
        });
        group.bench_function(BenchmarkId::new("instance cross entropy", &size), |b| {
            b.iter(|| data.step(&mut engine, &InstanceCrossEntropy::new(20.0), true));
        });
    }
    group.finish();
}

/// Times a loss and the products in turn; the ratio of the medians.
fn ratio(data: &mut Data, loss: &impl Loss, labelled: bool) -> f64 {
    const ROUNDS: usize = 9;
    let mut engine = CpuEngine::new();
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    data.three_products();
    data.step(&mut engine, loss, labelled);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(time(&mut || data.three_products()));
        ours.push(time(&mut || data.step(&mut engine, loss, labelled)));
    }
    median(ours) / median(plain)
}

criterion_group! {
    name = cpu;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = loss_and_gradients
}

fn main() {
    cpu();
    // Only when benchmarks run: `cargo test --benches` calls this with --test.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("time of loss and gradients over that of three plain products:");
    for (n, d) in SIZES {
        let mut data = Data::new(n, d);
        let cross = ratio(&mut data, &CrossExampleSoftmax::new(20.0), false);
        let row = ratio(&mut data, &InBatchSoftmax::new(20.0), false);
        let ice = ratio(&mut data, &InstanceCrossEntropy::new(20.0), true);
        println!(
            "{n} x {n} x {d}: cross-example softmax {cross:.2}, in-batch softmax {row:.2}, \
             instance cross entropy {ice:.2}"
        );
        let cross = CrossExampleSoftmax::new(20.0);
        let few = ratio(&mut data, &cross.hardest(8 * n), false);
        let many = ratio(&mut data, &cross.hardest(n * n / 10), false);
        let row = ratio(&mut data, &InBatchSoftmax::new(20.0).hardest_per_row(8), false);
        println!(
            "    mined: cross-example softmax 8·n {few:.2}, a tenth {many:.2}, in-batch softmax 8 \
             a row {row:.2}"
        );
    }
}
