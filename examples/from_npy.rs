//! Computes a loss of this crate and its gradients for embeddings stored as `.npy`, to be checked
//! against any other framework:
//!
//! ```text
//! cargo run --release --example from_npy -- --loss softmax --x x.npy --y y.npy --scale 20 \
//!     --normalize --grad-x dx.npy --grad-y dy.npy
//! ```
//!
//! Prints one line of JSON, `{"loss": …, "dscale": …, "engine": …}`; a number that is not finite
//! is `null`. Numbers are `f32`, written so that reading them back gives the same bits. Gradients
//! are written as float32 in C order. Whatever cannot be used ends in exit code 2 and one line on
//! standard error.

#[path = "common/engine.rs"]
mod engine;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};
use metric_kernels::{
    CrossExampleSoftmax, Element, InBatchSoftmax, InstanceCrossEntropy, Loss, Reduction, Weighting,
};
use npyz::{DType, Endianness, NpyFile, NpyHeader, Order, TypeChar, WriterBuilder};

use engine::{AnyEngine, Choice, Input, Output};

/// Computes a loss of metric-kernels and its gradients for embeddings stored as .npy.
#[derive(Parser)]
struct Options {
    /// The loss.
    #[arg(long, value_enum)]
    loss: LossChoice,
    /// Anchors, n×d: float16, float32 or float64.
    #[arg(long)]
    x: PathBuf,
    /// Candidates, m×d. Absent: the anchors are the candidates, self-pairs excluded.
    #[arg(long)]
    y: Option<PathBuf>,
    /// Labels of the rows (and of the columns, unless --labels-y is given): integers. Absent: row i
    /// matches column i.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Labels of the columns.
    #[arg(long, requires = "labels", requires = "y")]
    labels_y: Option<PathBuf>,
    /// Ids of the rows (and of the columns, unless --ids-y is given): integers. Pairs of equal ids
    /// that do not match are left out.
    #[arg(long)]
    ids: Option<PathBuf>,
    /// Ids of the columns.
    #[arg(long, requires = "ids", requires = "y")]
    ids_y: Option<PathBuf>,
    /// Inverse temperature.
    #[arg(long, default_value = "1", allow_negative_numbers = true)]
    scale: f32,
    /// How pairs weigh in the gradient.
    #[arg(long, value_enum, default_value = "analytic")]
    weighting: WeightingChoice,
    /// How positive pairs are put together.
    #[arg(long, value_enum, default_value = "mean")]
    reduction: ReductionChoice,
    /// Count the K hardest negatives of the whole matrix alone.
    #[arg(long, value_name = "K", conflicts_with = "hardest_per_row")]
    hardest: Option<usize>,
    /// Count the k hardest negatives of each row alone.
    #[arg(long, value_name = "K")]
    hardest_per_row: Option<usize>,
    /// Divide rows by their L2 norms first.
    #[arg(long)]
    normalize: bool,
    /// What the engine is given; embeddings are rounded to it.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DTypeChoice,
    /// Who computes.
    #[arg(long, value_enum, default_value = "cpu")]
    engine: Choice,
    /// Where to write the gradient of the anchors.
    #[arg(long, value_name = "OUT")]
    grad_x: Option<PathBuf>,
    /// Where to write the gradient of the candidates.
    #[arg(long, value_name = "OUT", requires = "y")]
    grad_y: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LossChoice {
    Softmax,
    CrossExample,
    Ice,
}

#[derive(Clone, Copy, ValueEnum)]
enum WeightingChoice {
    Analytic,
    AnchorNormalized,
}

#[derive(Clone, Copy, ValueEnum)]
enum ReductionChoice {
    Mean,
    Sum,
}

#[derive(Clone, Copy, ValueEnum)]
enum DTypeChoice {
    F32,
    F16,
    Bf16,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        // --help is no mistake.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return refuse(&usage_error(&error.to_string())),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => refuse(&message),
    }
}

fn refuse(message: &str) -> ExitCode {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // Nothing is left to be done where even standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {line}");
    ExitCode::from(2)
}

/// The first paragraph of clap's report, without its heading.
fn usage_error(report: &str) -> String {
    let paragraph: Vec<&str> = report.lines().take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    format!("{} (--help lists all flags)", text.strip_prefix("error: ").unwrap_or(&text))
}

fn run(options: &Options) -> Result<(), String> {
    let x = Embeddings::read("--x", &options.x)?;
    let y = options.y.as_deref().map(|path| Embeddings::read("--y", path)).transpose()?;
    let labels = codes(
        ["--labels", "--labels-y"],
        [options.labels.as_deref(), options.labels_y.as_deref()],
        [x.rows, y.as_ref().unwrap_or(&x).rows],
    )?;
    let ids = codes(
        ["--ids", "--ids-y"],
        [options.ids.as_deref(), options.ids_y.as_deref()],
        [x.rows, y.as_ref().unwrap_or(&x).rows],
    )?;
    let problem = Problem { x, y, labels, ids };
    let mut engine = AnyEngine::open(options.engine).map_err(|error| error.to_string())?;
    let output = match options.dtype {
        DTypeChoice::F32 => problem.solve::<f32>(&mut engine, options),
        DTypeChoice::F16 => problem.solve::<f16>(&mut engine, options),
        DTypeChoice::Bf16 => problem.solve::<bf16>(&mut engine, options),
    }
    .map_err(|error| error.to_string())?;

    let width = problem.x.cols;
    if let Some(path) = &options.grad_x {
        write_npy("--grad-x", path, &output.x_gradient, width)?;
    }
    if let (Some(path), Some(gradient)) = (&options.grad_y, &output.y_gradient) {
        write_npy("--grad-y", path, gradient, width)?;
    }
    writeln!(
        std::io::stdout(),
        r#"{{"loss": {}, "dscale": {}, "engine": "{}"}}"#,
        json_number(output.loss),
        json_number(output.scale_gradient),
        engine.name().replace(['"', '\\'], " "),
    )
    .map_err(|error| format!("standard output: {error}"))
}

/// The shortest text that reads back as the same `f32`. JSON knows no NaN and no infinity.
fn json_number(value: f32) -> String {
    if value.is_finite() { format!("{value:?}") } else { "null".into() }
}

/// What the files hold.
struct Problem {
    x: Embeddings,
    y: Option<Embeddings>,
    labels: Option<[Vec<u32>; 2]>,
    ids: Option<[Vec<u32>; 2]>,
}

impl Problem {
    fn solve<T: Element + DeviceRepr>(
        &self,
        engine: &mut AnyEngine,
        options: &Options,
    ) -> metric_kernels::Result<Output> {
        let x = self.x.to::<T>();
        let y = self.y.as_ref().map(Embeddings::to::<T>);
        let candidates = self.y.as_ref().unwrap_or(&self.x);
        if candidates.cols != self.x.cols {
            return Err(metric_kernels::Error::InvalidArgument {
                argument: "--y",
                given: format!("embeddings of dimension {}", candidates.cols),
                expected: format!("{}, the dimension of --x", self.x.cols),
            });
        }
        let input = Input {
            x: &x[..],
            y: y.as_deref(),
            shape: [self.x.rows, candidates.rows, self.x.cols],
            labels: self.labels.as_ref().map(views),
            ids: self.ids.as_ref().map(views),
        };
        match options.loss {
            LossChoice::Softmax => {
                step(engine, InBatchSoftmax::new(options.scale), options, &input)
            }
            LossChoice::CrossExample => {
                step(engine, CrossExampleSoftmax::new(options.scale), options, &input)
            }
            LossChoice::Ice => {
                step(engine, InstanceCrossEntropy::new(options.scale), options, &input)
            }
        }
    }
}

fn views([rows, cols]: &[Vec<u32>; 2]) -> [&[u32]; 2] {
    [rows, cols]
}

fn step<T: Element + DeviceRepr>(
    engine: &mut AnyEngine,
    loss: impl Loss,
    options: &Options,
    input: &Input<'_, [T], [u32]>,
) -> metric_kernels::Result<Output> {
    let loss = loss
        .weighting(match options.weighting {
            WeightingChoice::Analytic => Weighting::Analytic,
            WeightingChoice::AnchorNormalized => Weighting::AnchorNormalized,
        })
        .reduction(match options.reduction {
            ReductionChoice::Mean => Reduction::Mean,
            ReductionChoice::Sum => Reduction::Sum,
        });
    let loss = match (options.hardest, options.hardest_per_row) {
        (Some(k), _) => loss.hardest(k),
        (None, Some(k)) => loss.hardest_per_row(k),
        (None, None) => loss,
    };
    let loss = if options.normalize { loss.normalize() } else { loss };
    engine.step(&loss, input)
}

/// A matrix as its file has it: `f64` holds every float type exactly.
struct Embeddings {
    values: Vec<f64>,
    rows: usize,
    cols: usize,
}

impl Embeddings {
    fn read(flag: &str, path: &Path) -> Result<Self, String> {
        let npy = open(flag, path)?;
        let &[rows, cols] = npy.shape() else {
            return Err(expected(flag, path, &npy, "a matrix, one embedding a row"));
        };
        if rows == 0 || cols == 0 {
            return Err(expected(flag, path, &npy, "at least one row and one column"));
        }
        if npy.order() == Order::Fortran && rows > 1 && cols > 1 {
            return Err(expected(flag, path, &npy, "C order (numpy.ascontiguousarray)"));
        }
        let (rows, cols) = (rows as usize, cols as usize);
        let values = match element(&npy) {
            Some((TypeChar::Float, 2)) => values::<f16, _>(npy, |value| value.to_f64()),
            Some((TypeChar::Float, 4)) => values::<f32, _>(npy, f64::from),
            Some((TypeChar::Float, 8)) => values::<f64, _>(npy, |value| value),
            _ => return Err(expected(flag, path, &npy, "float16, float32 or float64")),
        };
        let values = values.map_err(|error| unreadable(flag, path, &error))?;
        Ok(Self { values, rows, cols })
    }

    /// Rounded once to the type that the engine is given.
    fn to<T: Element>(&self) -> Vec<T> {
        self.values.iter().map(|&value| round(value)).collect()
    }
}

/// The nearest value of type T. Rounding to the nearest `f32` first would round twice.
fn round<T: Element>(value: f64) -> T {
    T::from_f32(if T::DTYPE == metric_kernels::DType::F32 { value as f32 } else { odd(value) })
}

/// `value` rounded to odd: of the two `f32` around it, the one whose last bit is set. Rounding that
/// to a type at least two bits shorter gives what rounding `value` itself would.
fn odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if value.is_nan() || back == value {
        return nearest;
    }
    let away = u32::from(back.abs() > value.abs());
    f32::from_bits((nearest.to_bits() - away) | 1)
}

/// Labels or ids of both sides as codes: equal integers have equal codes.
fn codes(
    flags: [&str; 2],
    paths: [Option<&Path>; 2],
    lengths: [usize; 2],
) -> Result<Option<[Vec<u32>; 2]>, String> {
    let Some(rows) = paths[0] else { return Ok(None) };
    let mut known = HashMap::new();
    let mut side = |flag: &str, path: &Path, length: usize, axis: &str| {
        let integers = integers(flag, path)?;
        if integers.len() != length {
            return Err(format!(
                "{flag} {}: got {} integers, expected {length}, one per {axis}",
                path.display(),
                integers.len(),
            ));
        }
        let code = |integer| {
            // There are fewer integers than u32 has values, or they would not have been read.
            let next = known.len() as u32;
            *known.entry(integer).or_insert(next)
        };
        Ok(integers.into_iter().map(code).collect())
    };
    let of_rows = side(flags[0], rows, lengths[0], "row of --x")?;
    let of_cols = match paths[1] {
        Some(cols) => side(flags[1], cols, lengths[1], "row of --y")?,
        None => side(flags[0], rows, lengths[1], "row of --y (or give the flag for the columns)")?,
    };
    Ok(Some([of_rows, of_cols]))
}

/// A vector of any integer type.
fn integers(flag: &str, path: &Path) -> Result<Vec<i128>, String> {
    let npy = open(flag, path)?;
    if npy.shape().len() != 1 {
        return Err(expected(flag, path, &npy, "a vector"));
    }
    let integers = match element(&npy) {
        Some((TypeChar::Int, 1)) => values::<i8, _>(npy, i128::from),
        Some((TypeChar::Int, 2)) => values::<i16, _>(npy, i128::from),
        Some((TypeChar::Int, 4)) => values::<i32, _>(npy, i128::from),
        Some((TypeChar::Int, 8)) => values::<i64, _>(npy, i128::from),
        Some((TypeChar::Uint, 1)) => values::<u8, _>(npy, i128::from),
        Some((TypeChar::Uint, 2)) => values::<u16, _>(npy, i128::from),
        Some((TypeChar::Uint, 4)) => values::<u32, _>(npy, i128::from),
        Some((TypeChar::Uint, 8)) => values::<u64, _>(npy, i128::from),
        _ => return Err(expected(flag, path, &npy, "integers")),
    };
    integers.map_err(|error| unreadable(flag, path, &error))
}

type Npy = NpyFile<BufReader<File>>;

fn open(flag: &str, path: &Path) -> Result<Npy, String> {
    let unreadable = |error| unreadable(flag, path, &error);
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut reader = BufReader::new(file);
    let header = NpyHeader::from_reader(&mut reader).map_err(unreadable)?;
    let content = size.saturating_sub(reader.stream_position().map_err(unreadable)?);
    let npy = NpyFile::with_header(header, reader);
    let DType::Plain(element) = npy.dtype() else {
        return Err(expected(flag, path, &npy, "plain numbers"));
    };
    if element.endianness() == Endianness::Big {
        return Err(expected(flag, path, &npy, "little-endian numbers"));
    }
    // A header may promise more than memory holds; the file's size tells before anything is read.
    let elements = npy.shape().iter().try_fold(1u64, |product, &side| product.checked_mul(side));
    let bytes = elements.and_then(|elements| elements.checked_mul(element.size_field()));
    if bytes.is_none_or(|bytes| bytes > content) {
        return Err(expected(flag, path, &npy, "as many numbers; the file is cut short"));
    }
    Ok(npy)
}

/// What kind of number and of how many bytes.
fn element(npy: &Npy) -> Option<(TypeChar, u64)> {
    match npy.dtype() {
        DType::Plain(element) => Some((element.type_char(), element.size_field())),
        _ => None,
    }
}

fn values<T: npyz::Deserialize, V>(npy: Npy, convert: impl Fn(T) -> V) -> std::io::Result<Vec<V>> {
    npy.data::<T>()
        .map_err(|error| std::io::Error::other(error.to_string()))?
        .map(|value| value.map(&convert))
        .collect()
}

fn unreadable(flag: &str, path: &Path, error: &std::io::Error) -> String {
    format!("{flag} {}: {error}", path.display())
}

fn expected(flag: &str, path: &Path, npy: &Npy, expected: &str) -> String {
    let order = if npy.order() == Order::Fortran { ", Fortran order" } else { "" };
    format!(
        "{flag} {}: got {} of shape {:?}{order}, expected {expected}",
        path.display(),
        npy.dtype().descr(),
        npy.shape(),
    )
}

fn write_npy(flag: &str, path: &Path, values: &[f32], cols: usize) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[(values.len() / cols) as u64, cols as u64])
            .writer(&mut file)
            .begin_nd()?;
        writer.extend(values.iter().copied())?;
        writer.finish()?;
        file.flush()
    };
    write().map_err(|error| unreadable(flag, path, &error))
}
