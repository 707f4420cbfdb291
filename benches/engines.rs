//! Room: benches. The engines over sizes and element types: `cargo bench --bench engines`.
//!
//! Groups: `similarity`, `log_sum_exp`, `loss`, `loss_and_gradients`, `mining`, `normalize`, for
//! each engine that is there; names are `group/engine/what/dtype/n x d`, and an argument selects by
//! substring.
//! On CUDA times are those between two events, inputs are rotated so that none waits in the L2, and
//! rates stand beside cuBLAS's for S = X·Yᵀ of the same type and size, where there is a cuBLAS. On
//! the CPU the last lines are ratios to plain products of the `gemm` crate, measured in turn.
//!
//! With `METRIC_KERNELS_BENCH_OUT` the last table is also written there, as engines.json.

mod common;

use std::cell::RefCell;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use half::{bf16, f16};
use metric_kernels::{
    Batch, CrossExampleSoftmax, Element, Family, GradientsMut, InBatchSoftmax,
    InstanceCrossEntropy, Loss, Matrix, MatrixMut, Scope, ops,
};
use serde_json::json;

use common::cublas::Cublas;
use common::place::{Cpu, Cuda, Data, Device, Place};
use common::plain::Products;
use common::{labels, median, unit_rows};

/// What is measured.
#[derive(Clone, Copy)]
enum Work {
    Similarity,
    LogSumExp,
    Normalize,
    Loss(&'static str),
    LossAndGradients(&'static str),
    Mining(&'static str),
}

const LOSSES: [&str; 3] = ["cross-example", "in-batch", "ice"];

/// Loss and gradients with the hardest n or 10·n pairs of the matrix, with 64 of each row; and the
/// 64 most similar candidates of each row themselves.
const MINED: [&str; 4] = ["matrix-n", "matrix-10n", "rows-64", "top-64"];

impl Work {
    fn all() -> impl Iterator<Item = Self> {
        let losses = LOSSES.into_iter();
        [Self::Similarity, Self::LogSumExp, Self::Normalize]
            .into_iter()
            .chain(losses.clone().map(Self::Loss))
            .chain(losses.map(Self::LossAndGradients))
            .chain(MINED.into_iter().map(Self::Mining))
    }

    fn group(self) -> &'static str {
        match self {
            Self::Similarity => "similarity",
            Self::LogSumExp => "log_sum_exp",
            Self::Normalize => "normalize",
            Self::Loss(_) => "loss",
            Self::LossAndGradients(_) => "loss_and_gradients",
            Self::Mining(_) => "mining",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Loss(name) | Self::LossAndGradients(name) | Self::Mining(name) => name,
            Self::Similarity => "matrix",
            Self::LogSumExp => "rows",
            Self::Normalize => "rows",
        }
    }

    /// What it counts as, in flop, whatever is really computed: products of 2·n·n·d.
    fn flop(self, n: usize, d: usize) -> f64 {
        let product = 2.0 * n as f64 * n as f64 * d as f64;
        match self {
            Self::Similarity | Self::LogSumExp | Self::Loss(_) | Self::Mining(_) => product,
            Self::LossAndGradients("cross-example") => 3.0 * product,
            // On a GPU the log-sum-exp of a row must be complete before dY: S twice.
            Self::LossAndGradients(_) => 4.0 * product,
            Self::Normalize => 5.0 * n as f64 * d as f64,
        }
    }
}

fn family(name: &str, n: usize) -> Family {
    const SCALE: f32 = 20.0;
    match name {
        "matrix-n" => *CrossExampleSoftmax::new(SCALE).hardest(n).family(),
        "matrix-10n" => *CrossExampleSoftmax::new(SCALE).hardest(10 * n).family(),
        "rows-64" => *InBatchSoftmax::new(SCALE).hardest_per_row(64).family(),
        "cross-example" => *CrossExampleSoftmax::new(SCALE).family(),
        "in-batch" => *InBatchSoftmax::new(SCALE).family(),
        _ => *InstanceCrossEntropy::new(SCALE).family(),
    }
}

/// One size on a device: inputs, as many copies as are gone through in turn, and room for results.
struct Inputs<P: Place, T: Data> {
    n: usize,
    d: usize,
    sides: Vec<(P::Vector<T>, P::Vector<T>)>,
    labels: P::Vector<u32>,
    gradients: [P::Vector<f32>; 2],
    /// n×n, where the matrix itself is measured.
    matrix: Option<P::Vector<f32>>,
    next: usize,
}

impl<P: Place, T: Data + Element> Inputs<P, T> {
    fn new(place: &mut P, n: usize, d: usize, work: Work) -> Self {
        let copies = place.copies(2 * n * d * size_of::<T>());
        let (x, y) = (unit_rows(n, d, 1), unit_rows(n, d, 2));
        let mut sides = Vec::new();
        for _ in 0..copies {
            sides.push((place.upload_rows::<T>(&x), place.upload_rows::<T>(&y)));
        }
        let matrix = matches!(work, Work::Similarity).then(|| place.upload(&vec![0.0; n * n]));
        let gradients = [place.upload(&vec![0.0; n * d]), place.upload(&vec![0.0; n * d])];
        Self { n, d, sides, labels: place.upload(&labels(n)), gradients, matrix, next: 0 }
    }

    fn run(&mut self, engine: &mut P::Engine, work: Work) -> metric_kernels::Result<()> {
        let (n, d) = (self.n, self.d);
        self.next = (self.next + 1) % self.sides.len();
        let (x, y) = &self.sides[self.next];
        let (x, y) = (Matrix::new(x, n, d)?, Matrix::new(y, n, d)?);
        let batch = |name: &str| -> Batch<'_, Device<P>, T> {
            match name {
                "ice" => Batch::shared(x).labels(&self.labels, &self.labels),
                _ => Batch::new(x, y),
            }
        };
        match work {
            Work::Similarity => {
                let matrix = self.matrix.as_mut().expect("made for this");
                ops::similarity_into(engine, x, y, MatrixMut::new(matrix, n, n)?)?;
            }
            Work::LogSumExp => {
                ops::log_sum_exp(engine, x, y, 20.0, Scope::Row)?;
            }
            Work::Normalize => {
                ops::normalize_into(engine, x, MatrixMut::new(&mut self.gradients[0], n, d)?)?;
            }
            Work::Loss(name) => {
                family(name, n).forward(engine, batch(name))?;
            }
            Work::Mining("top-64") => {
                ops::top_k(engine, x, y, 64, Scope::Row)?;
            }
            Work::LossAndGradients(name) | Work::Mining(name) => {
                let [dx, dy] = &mut self.gradients;
                let out = GradientsMut {
                    x: Some(MatrixMut::new(dx, n, d)?),
                    y: if name == "ice" { None } else { Some(MatrixMut::new(dy, n, d)?) },
                    scale: None,
                };
                family(name, n).loss_and_gradients_into(engine, batch(name), out)?;
            }
        }
        Ok(())
    }
}

/// One line of the last table.
struct Line {
    id: String,
    seconds: f64,
    flop: f64,
    bytes: Option<usize>,
    /// cuBLAS's flop/s for the same product.
    cublas: Option<f64>,
}

/// Everything on one engine, for one element type.
fn engine<P: Place, T: Data + Element>(
    criterion: &mut Criterion,
    place: &mut P,
    (name, sizes): (&str, &[(usize, usize)]),
    cublas: &mut dyn FnMut(&mut P, usize, usize) -> Option<f64>,
    lines: &mut Vec<Line>,
) {
    for &(n, d) in sizes {
        let mut rate = None;
        for work in Work::all() {
            let what = format!("{name}/{}/{}", work.name(), T::DTYPE.name());
            let id = BenchmarkId::new(what, format!("{n}x{d}"));
            let label =
                format!("{}/{name}/{}/{}/{n}x{d}", work.group(), work.name(), T::DTYPE.name());
            let times = RefCell::new(Vec::new());
            let mut bytes = None;
            let mut inputs = None;
            let mut group = criterion.benchmark_group(work.group());
            // Steps are long: as many in every sample.
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::ElementsAndBytes {
                elements: work.flop(n, d) as u64,
                bytes: (2 * n * d * size_of::<T>()) as u64,
            });
            group.bench_function(id, |bencher| {
                let inputs = inputs.get_or_insert_with(|| {
                    let mut inputs = Inputs::<P, T>::new(place, n, d, work);
                    place.release();
                    let before = place.device_bytes();
                    inputs.run(place.engine(), work).expect("a first step");
                    bytes = place.device_bytes().zip(before).map(|(a, b)| a.saturating_sub(b));
                    inputs
                });
                bencher.iter_custom(|iterations| {
                    let seconds = place.seconds(&mut |engine| {
                        for _ in 0..iterations {
                            inputs.run(engine, work).expect("a step");
                        }
                    });
                    times.borrow_mut().push(seconds / iterations as f64);
                    Duration::from_secs_f64(seconds)
                });
            });
            group.finish();
            drop(inputs);
            let times = times.into_inner();
            if times.is_empty() {
                continue; // Not selected.
            }
            let cublas = *rate.get_or_insert_with(|| cublas(place, n, d));
            let flop = work.flop(n, d);
            lines.push(Line { id: label, seconds: median(&times), flop, bytes, cublas });
        }
    }
}

/// cuBLAS's flop/s for S of this size.
fn cublas_rate<T: Data + Element>(place: &mut Cuda, n: usize, d: usize) -> Option<f64> {
    let cublas = Cublas::open(place.stream())?;
    let x = place.upload_rows::<T>(&unit_rows(n, d, 1));
    let y = place.upload_rows::<T>(&unit_rows(n, d, 2));
    let mut out = place.upload(&vec![T::from_f32(0.0); n * n]);
    let times: Vec<f64> =
        (0..12).map(|_| place.seconds(&mut |_| cublas.product(&x, &y, &mut out, (n, d)))).collect();
    Some(2.0 * (n * n * d) as f64 / median(&times[2..]))
}

/// Sizes n = m and d, every pair.
fn sizes(rows: &[usize], dimensions: &[usize]) -> Vec<(usize, usize)> {
    rows.iter().flat_map(|&n| dimensions.iter().map(move |&d| (n, d))).collect()
}

fn print(lines: &[Line]) {
    println!(
        "\n{:<58} {:>11} {:>12} {:>14} {:>12}",
        "", "seconds", "Gflop/s", "of cuBLAS", "scratch"
    );
    for line in lines {
        let rate = line.flop / line.seconds;
        let share = line.cublas.map_or("–".into(), |c| format!("{:.1}%", 100.0 * rate / c));
        let bytes = line.bytes.map_or("–".into(), |b| format!("{:.1} MiB", b as f64 / 1048576.0));
        println!(
            "{:<58} {:>11.3e} {:>12.1} {share:>14} {bytes:>12}",
            line.id,
            line.seconds,
            rate / 1e9
        );
    }
    let Some(folder) = std::env::var_os("METRIC_KERNELS_BENCH_OUT") else { return };
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "id": line.id, "seconds": line.seconds, "flop": line.flop,
                "device_bytes": line.bytes, "cublas_flop_per_second": line.cublas,
            })
        })
        .collect();
    let report = json!({
        "machine": common::machine::cpu(), "date": common::machine::date(), "rows": rows,
    });
    let path = std::path::Path::new(&folder).join("engines.json");
    std::fs::write(&path, format!("{report:#}\n")).expect("engines.json");
}

/// The time of each loss over that of the products it consists of, in turn: medians.
fn ratios() {
    println!("\nCPU: time over that of plain products by the gemm crate, measured in turn");
    for (n, d) in [(1024, 256), (4096, 128), (4096, 256)] {
        let mut place = Cpu::default();
        let mut products = Products::new(n, d);
        let losses = LOSSES.into_iter().map(Work::LossAndGradients);
        for work in [Work::Similarity, Work::Loss("in-batch")].into_iter().chain(losses) {
            let mut inputs = Inputs::<Cpu, f32>::new(&mut place, n, d, work);
            let all = matches!(work, Work::LossAndGradients(_));
            let mut ratios = Vec::new();
            for _ in 0..9 {
                let ours = place.seconds(&mut |engine| inputs.run(engine, work).expect("a step"));
                let plain = place.seconds(&mut |_| products.run(all));
                ratios.push(ours / plain);
            }
            let count = if all { "three" } else { "one" };
            println!("{n}x{d} {}/{}: {:.2} of {count}", work.group(), work.name(), median(&ratios));
        }
    }
}

fn main() {
    let benchmarking = std::env::args().any(|argument| argument == "--bench");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut lines = Vec::new();

    let mut cpu = Cpu::default();
    let on_cpu = ("cpu", &*sizes(&[1024, 4096], &[128, 512]));
    let small = ("cpu", &*sizes(&[1024], &[256]));
    engine::<_, f32>(&mut criterion, &mut cpu, on_cpu, &mut |_, _, _| None, &mut lines);
    engine::<_, f16>(&mut criterion, &mut cpu, small, &mut |_, _, _| None, &mut lines);
    engine::<_, bf16>(&mut criterion, &mut cpu, small, &mut |_, _, _| None, &mut lines);
    let measured_cpu = !lines.is_empty();

    // `cargo test --benches` comes without --bench: there the CPU is enough.
    match if benchmarking { Cuda::open() } else { Err("not asked for".into()) } {
        Err(why) => println!("no CUDA: {why}"),
        Ok(mut cuda) => {
            // An interpreter of kernels shows that the benchmark works; its times mean nothing.
            let (rows, dimensions): (&[usize], &[usize]) = if cuda.emulated() {
                println!("an emulated driver: one small size, times without meaning");
                (&[64], &[64])
            } else {
                (&[1024, 8192, 32_768], &[128, 256, 512, 1024])
            };
            let sizes = sizes(rows, dimensions);
            let on = ("cuda", &*sizes);
            engine::<_, f32>(&mut criterion, &mut cuda, on, &mut cublas_rate::<f32>, &mut lines);
            engine::<_, bf16>(&mut criterion, &mut cuda, on, &mut cublas_rate::<bf16>, &mut lines);
            engine::<_, f16>(&mut criterion, &mut cuda, on, &mut cublas_rate::<f16>, &mut lines);
        }
    }
    criterion.final_summary();
    if benchmarking {
        print(&lines);
        if measured_cpu {
            ratios();
        }
    }
}
