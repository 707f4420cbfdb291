//! Runs one case through any engine: every call a trainer may make, against the oracle.

use super::cases::Case;
use super::compare::{Accuracy, Expected, Worst, compare, compare_number, same_bits};
use super::oracle::Answer;
use super::problem::{Named, Positives, Problem};
use half::{bf16, f16};
use metric_kernels::{
    Batch, CpuEngine, CrossExampleSoftmax, DType, Element, Engine, Error, Family, GradientsMut,
    Host, InBatchSoftmax, InstanceCrossEntropy, Loss, Matrix, MatrixMut, Mining, Scalar, Storage,
    StorageMut,
};

/// An engine together with the way of getting data to its device and back.
pub trait Harness {
    type Engine: Engine;
    /// A buffer of the caller's on the engine's device.
    type Vector<T: Data>: StorageMut<Device = Device<Self>, Element = T>;

    fn engine(&mut self) -> &mut Self::Engine;
    fn upload<T: Data>(&mut self, data: &[T]) -> Self::Vector<T>;
    fn download<T: Data>(&mut self, vector: &Self::Vector<T>) -> Vec<T>;
    /// How the engine computes on such elements.
    fn accuracy(&self, _: DType) -> Accuracy {
        Accuracy::default()
    }
}

/// The device of a harness's engine.
pub type Device<H> = <<H as Harness>::Engine as Engine>::Device;

/// What can be uploaded.
pub trait Data:
    Copy + Default + Send + Sync + std::fmt::Debug + cudarc::driver::DeviceRepr + 'static
{
}
impl Data for f32 {}
impl Data for u32 {}
impl Data for f16 {}
impl Data for bf16 {}

/// The CPU engine; its device is the host.
#[derive(Default)]
pub struct Cpu(pub CpuEngine);

impl Harness for Cpu {
    type Engine = CpuEngine;
    type Vector<T: Data> = Vec<T>;

    fn engine(&mut self) -> &mut CpuEngine {
        &mut self.0
    }
    fn upload<T: Data>(&mut self, data: &[T]) -> Vec<T> {
        data.to_vec()
    }
    fn download<T: Data>(&mut self, vector: &Vec<T>) -> Vec<T> {
        vector.clone()
    }
}

/// A named loss with a problem's options.
#[derive(Clone, Copy, Debug)]
pub enum AnyLoss {
    InBatchSoftmax(InBatchSoftmax),
    CrossExampleSoftmax(CrossExampleSoftmax),
    InstanceCrossEntropy(InstanceCrossEntropy),
}

impl AnyLoss {
    pub fn of(problem: &Problem) -> Self {
        let scale = problem.scale;
        let plain = match problem.loss {
            Named::InBatchSoftmax => Self::InBatchSoftmax(InBatchSoftmax::new(scale)),
            Named::CrossExampleSoftmax => {
                Self::CrossExampleSoftmax(CrossExampleSoftmax::new(scale))
            }
            Named::InstanceCrossEntropy => {
                Self::InstanceCrossEntropy(InstanceCrossEntropy::new(scale))
            }
        };
        let loss = plain.weighting(problem.weighting).reduction(problem.reduction);
        let loss = match problem.mining {
            Mining::All => loss,
            Mining::Hardest(k) => loss.hardest(k),
            Mining::HardestPerRow(k) => loss.hardest_per_row(k),
        };
        if problem.normalize { loss.normalize() } else { loss }
    }
}

impl Loss for AnyLoss {
    fn family(&self) -> &Family {
        match self {
            Self::InBatchSoftmax(loss) => loss.family(),
            Self::CrossExampleSoftmax(loss) => loss.family(),
            Self::InstanceCrossEntropy(loss) => loss.family(),
        }
    }
    fn family_mut(&mut self) -> &mut Family {
        match self {
            Self::InBatchSoftmax(loss) => loss.family_mut(),
            Self::CrossExampleSoftmax(loss) => loss.family_mut(),
            Self::InstanceCrossEntropy(loss) => loss.family_mut(),
        }
    }
}

/// A problem on a device.
pub struct Uploaded<H: Harness + ?Sized, T: Data> {
    n: usize,
    m: usize,
    d: usize,
    x: (H::Vector<T>, usize),
    y: Option<(H::Vector<T>, usize)>,
    labels: Option<H::Vector<u32>>,
    /// None where those of the anchors are theirs too.
    column_labels: Option<H::Vector<u32>>,
    index: Option<H::Vector<u32>>,
    ids: Option<(H::Vector<u32>, H::Vector<u32>)>,
    scale: Option<H::Vector<f32>>,
}

impl<H: Harness, T: Data + Element> Uploaded<H, T> {
    /// Rows of x lie `gaps.0` elements apart from each other's ends, of y `gaps.1`; between them
    /// there is NaN. With `scale_on_device` the scale is a device scalar.
    pub fn new(
        harness: &mut H,
        problem: &Problem,
        gaps: (usize, usize),
        scale_on_device: bool,
    ) -> Self {
        let d = problem.d;
        let mut matrix = |values: &[f32], gap: usize| {
            let mut strided = Vec::new();
            for row in values.chunks_exact(d) {
                strided.extend(row.iter().map(|&value| T::from_f32(value)));
                strided.extend((0..gap).map(|_| T::from_f32(f32::NAN)));
            }
            strided.truncate(strided.len() - gap);
            (harness.upload(&strided), d + gap)
        };
        let x = matrix(&problem.x, gaps.0);
        let y = problem.y.as_ref().map(|y| matrix(y, gaps.1));
        let (mut labels, mut column_labels, mut index) = (None, None, None);
        match &problem.positives {
            Positives::Diagonal => {}
            Positives::Labels { rows, cols } => {
                // Of one set, as callers do: the same buffer twice.
                let one = problem.shared() && rows == cols;
                labels = Some(harness.upload(rows));
                column_labels = (!one).then(|| harness.upload(cols));
            }
            Positives::Index(positives) => index = Some(harness.upload(positives)),
        }
        let ids = problem.ids.as_ref();
        let ids = ids.map(|(rows, cols)| (harness.upload(rows), harness.upload(cols)));
        let scale = scale_on_device.then(|| harness.upload(&[problem.scale]));
        Self { n: problem.n, m: problem.m, d, x, y, labels, column_labels, index, ids, scale }
    }

    pub fn batch(&self) -> Batch<'_, Device<H>, T> {
        let x = Matrix::with_stride(&self.x.0, self.n, self.d, self.x.1).expect("anchors");
        let mut batch = match &self.y {
            None => Batch::shared(x),
            Some((y, stride)) => {
                let y = Matrix::with_stride(y, self.m, self.d, *stride).expect("candidates");
                Batch::new(x, y)
            }
        };
        if let Some(rows) = &self.labels {
            batch = batch.labels(rows, self.column_labels.as_ref().unwrap_or(rows));
        }
        if let Some(index) = &self.index {
            batch = batch.positives(index);
        }
        if let Some((rows, cols)) = &self.ids {
            batch = batch.ids(rows, cols);
        }
        if let Some(scale) = &self.scale {
            batch = batch.scale(scale);
        }
        batch
    }
}

/// A result on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    pub loss: f32,
    pub dx: Vec<f32>,
    pub dy: Option<Vec<f32>>,
    pub dscale: f32,
}

impl Outputs {
    pub fn bits(&self) -> Vec<u32> {
        let dy = self.dy.as_deref().unwrap_or(&[]);
        let numbers = [self.loss, self.dscale];
        numbers.iter().chain(&self.dx).chain(dy).map(|value| value.to_bits()).collect()
    }
}

/// Calls `$body` with `$t` as the element type of `$dtype`.
#[macro_export]
macro_rules! with_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            metric_kernels::DType::F32 => {
                type $t = f32;
                $body
            }
            metric_kernels::DType::F16 => {
                type $t = half::f16;
                $body
            }
            metric_kernels::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
        }
    };
}

/// forward, then backward into new buffers.
pub fn forward_backward<H: Harness>(
    harness: &mut H,
    problem: &Problem,
    upstream: f32,
) -> Result<Outputs, Error> {
    with_dtype!(problem.dtype, T => {
        let uploaded = Uploaded::<H, T>::new(harness, problem, (0, 0), false);
        let loss = AnyLoss::of(problem);
        let engine = harness.engine();
        let forward = loss.forward(engine, uploaded.batch())?;
        let gradients = loss.backward(engine, &forward, upstream)?;
        Ok(Outputs {
            loss: engine.read(&forward.loss)?[0],
            dx: engine.read(&gradients.x)?,
            dy: gradients.y.as_ref().map(|dy| engine.read(dy)).transpose()?,
            dscale: engine.read(&gradients.scale)?[0],
        })
    })
}

/// The loss alone.
pub fn loss_only<H: Harness>(harness: &mut H, problem: &Problem) -> Result<f32, Error> {
    with_dtype!(problem.dtype, T => {
        let uploaded = Uploaded::<H, T>::new(harness, problem, (0, 0), false);
        let engine = harness.engine();
        let forward = AnyLoss::of(problem).forward(engine, uploaded.batch())?;
        Ok(engine.read(&forward.loss)?[0])
    })
}

/// Loss and gradients in one call, into new buffers.
pub fn loss_and_gradients<H: Harness>(
    harness: &mut H,
    problem: &Problem,
) -> Result<Outputs, Error> {
    with_dtype!(problem.dtype, T => {
        let uploaded = Uploaded::<H, T>::new(harness, problem, (0, 0), false);
        let engine = harness.engine();
        let (loss, gradients) = AnyLoss::of(problem).loss_and_gradients(engine, uploaded.batch())?;
        Ok(Outputs {
            loss: engine.read(&loss)?[0],
            dx: engine.read(&gradients.x)?,
            dy: gradients.y.as_ref().map(|dy| engine.read(dy)).transpose()?,
            dscale: engine.read(&gradients.scale)?[0],
        })
    })
}

/// What fills the caller's buffers before a call, and their gaps after it: a NaN of its own, so that
/// a result which depends on what was there before is NaN too.
pub const SENTINEL: f32 = f32::from_bits(0x7fc1_2345);

/// Every call on one case. All differences, or the largest error as a part of its tolerance.
pub fn run_case<H: Harness>(harness: &mut H, case: &Case) -> Result<f64, Vec<String>> {
    let expected = Expected::of(&case.problem, harness.accuracy(case.problem.dtype));
    with_dtype!(case.problem.dtype, T => run_typed::<H, T>(harness, case, &expected))
}

struct Report<'e> {
    expected: &'e Expected,
    d: usize,
    worst: f64,
    failures: Vec<String>,
}

impl Report<'_> {
    fn note(&mut self, call: &str, result: Result<Worst, String>) {
        match result {
            Ok(Worst(ratio)) => self.worst = self.worst.max(ratio),
            Err(message) => self.failures.push(format!("{call}: {message}")),
        }
    }
    fn note_bits(&mut self, call: &str, result: Result<(), String>) {
        self.note(call, result.map(|()| Worst(0.0)));
    }
    fn loss(&mut self, call: &str, got: f32) {
        let expected = self.expected;
        self.note(call, compare_number("loss", got, expected.exact.loss, expected.loss, 1.0));
    }
    fn dx(&mut self, call: &str, got: &[f32], up: f64) {
        let (e, d) = (self.expected, self.d);
        self.note(call, compare("dX", d, got, &e.exact.dx, &e.dx, up));
    }
    fn dy(&mut self, call: &str, got: Option<&[f32]>, up: f64) {
        let (e, d) = (self.expected, self.d);
        match (got, &e.exact.dy, &e.dy) {
            (Some(got), Some(dy), Some(tolerance)) => {
                self.note(call, compare("dY", d, got, dy, tolerance, up));
            }
            (None, None, _) => {}
            (got, ..) => self.failures.push(format!("{call}: dY is {:?}", got.map(<[f32]>::len))),
        }
    }
    fn dscale(&mut self, call: &str, got: f32, up: f64) {
        let e = self.expected;
        self.note(call, compare_number("dscale", got, e.exact.dscale, e.dscale, up));
    }
}

/// The caller's own buffers, gradients in rows `d + gap` apart.
struct Own<H: Harness + ?Sized> {
    x: H::Vector<f32>,
    y: H::Vector<f32>,
    scale: H::Vector<f32>,
    shape: (usize, usize, usize, usize),
}

impl<H: Harness> Own<H> {
    fn new(harness: &mut H, problem: &Problem, gap: usize) -> Self {
        let &Problem { n, m, d, .. } = problem;
        let mut filled = |len: usize| harness.upload(&vec![SENTINEL; len]);
        let (x, y) = (filled(n * (d + gap) + 5), filled(m * (d + gap) + 5));
        Self { x, y, scale: filled(3), shape: (n, m, d, gap) }
    }

    /// As outputs; `parts` says which of x, y, scale.
    fn outputs(&mut self, parts: (bool, bool, bool)) -> GradientsMut<'_, Device<H>> {
        let (n, m, d, gap) = self.shape;
        let x = &mut self.x;
        let y = &mut self.y;
        GradientsMut {
            x: parts.0.then(|| MatrixMut::with_stride(x, n, d, d + gap).unwrap()),
            y: parts.1.then(|| MatrixMut::with_stride(y, m, d, d + gap).unwrap()),
            scale: parts.2.then(|| self.scale.view_mut()),
        }
    }

    /// The rows of x, y, and the scale; `Err` if anything else than asked for was written.
    #[allow(clippy::type_complexity)]
    fn read(
        &self,
        harness: &mut H,
        parts: (bool, bool, bool),
    ) -> Result<(Vec<f32>, Vec<f32>, f32), String> {
        let (_, _, d, gap) = self.shape;
        let mut rows = |vector: &H::Vector<f32>, rows: usize, written: bool, name: &str| {
            let all = harness.download(vector);
            let mut packed = Vec::new();
            for (at, &value) in all.iter().enumerate() {
                let (row, column) = (at / (d + gap), at % (d + gap));
                if written && row < rows && column < d {
                    packed.push(value);
                } else if value.to_bits() != SENTINEL.to_bits() {
                    return Err(format!("{name}: wrote {value:e} at element {at}, not its own"));
                }
            }
            Ok(packed)
        };
        let x = rows(&self.x, self.shape.0, parts.0, "dX")?;
        let y = rows(&self.y, self.shape.1, parts.1, "dY")?;
        let scale = harness.download(&self.scale);
        let rest = if parts.2 { &scale[1..] } else { &scale[..] };
        if rest.iter().any(|value| value.to_bits() != SENTINEL.to_bits()) {
            return Err(format!("dscale: wrote {scale:?}, not its own"));
        }
        Ok((x, y, scale[0]))
    }
}

fn run_typed<H: Harness, T: Data + Element>(
    harness: &mut H,
    case: &Case,
    expected: &Expected,
) -> Result<f64, Vec<String>> {
    let problem = &case.problem;
    let mut report = Report { expected, d: problem.d, worst: 0.0, failures: Vec::new() };
    if let Err(error) = calls::<H, T>(harness, case, &mut report) {
        report.failures.push(format!("refused: {error}"));
    }
    if report.failures.is_empty() { Ok(report.worst) } else { Err(report.failures) }
}

fn calls<H: Harness, T: Data + Element>(
    harness: &mut H,
    case: &Case,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let problem = &case.problem;
    let d = problem.d;
    let loss = AnyLoss::of(problem);
    let up = f64::from(case.upstream);
    let uploaded = Uploaded::<H, T>::new(harness, problem, case.gaps, case.scalars_on_device);
    let upstream_buffer = harness.upload(&[case.upstream]);
    let upstream = || -> Scalar<'_, Device<H>> {
        if case.scalars_on_device { (&upstream_buffer).into() } else { case.upstream.into() }
    };
    let with_y = !problem.shared();

    // Forward and backward, into new buffers.
    let call = "forward, backward";
    let forward = loss.forward(harness.engine(), uploaded.batch())?;
    let gradients = loss.backward(harness.engine(), &forward, upstream())?;
    let first_loss = harness.engine().read(&forward.loss)?;
    report.loss(call, first_loss[0]);
    let dx = harness.engine().read(&gradients.x)?;
    report.dx(call, &dx, up);
    let dy = match &gradients.y {
        Some(dy) => Some(harness.engine().read(dy)?),
        None => None,
    };
    report.dy(call, dy.as_deref(), up);
    let dscale = harness.engine().read(&gradients.scale)?[0];
    report.dscale(call, dscale, up);

    // The same into strided buffers of the caller's: the same bits, and nothing else written.
    let call = "backward_into";
    let mut own = Own::new(harness, problem, case.output_gap);
    let parts = (true, with_y, true);
    loss.backward_into(harness.engine(), &forward, upstream(), own.outputs(parts))?;
    match own.read(harness, parts) {
        Err(message) => report.failures.push(format!("{call}: {message}")),
        Ok((x, y, scale)) => {
            report.note_bits(call, same_bits("dX", d, &x, &dx));
            report.note_bits(call, same_bits("dY", d, &y, dy.as_deref().unwrap_or(&[])));
            report.note_bits(call, same_bits("dscale", 1, &[scale], &[dscale]));
        }
    }
    drop(forward);

    // Everything in one call.
    let call = "loss_and_gradients";
    let (value, gradients) = loss.loss_and_gradients(harness.engine(), uploaded.batch())?;
    let value = harness.engine().read(&value)?;
    report.loss(call, value[0]);
    let dx = harness.engine().read(&gradients.x)?;
    report.dx(call, &dx, 1.0);
    let dy = match &gradients.y {
        Some(dy) => Some(harness.engine().read(dy)?),
        None => None,
    };
    report.dy(call, dy.as_deref(), 1.0);
    let dscale = harness.engine().read(&gradients.scale)?[0];
    report.dscale(call, dscale, 1.0);
    if value.len() != 1 || first_loss.len() != 1 {
        report.failures.push("the loss is not one number".into());
    }

    // One output at a time, and none, into the caller's buffers.
    if !case.parts {
        return Ok(());
    }
    for parts in
        [(true, false, false), (false, true, false), (false, false, true), (false, false, false)]
    {
        if parts.1 && !with_y {
            continue;
        }
        let mut own = Own::new(harness, problem, case.output_gap);
        let call = format!("loss_and_gradients_into{parts:?}");
        let batch = uploaded.batch();
        let value = loss.loss_and_gradients_into(harness.engine(), batch, own.outputs(parts))?;
        let value = harness.engine().read(&value)?;
        report.loss(&call, value[0]);
        check_parts(harness, report, &call, &own, parts, 1.0);

        let mut own = Own::new(harness, problem, case.output_gap);
        let call = format!("backward_into{parts:?}");
        let forward = loss.forward(harness.engine(), uploaded.batch())?;
        loss.backward_into(harness.engine(), &forward, upstream(), own.outputs(parts))?;
        check_parts(harness, report, &call, &own, parts, up);
    }
    loss.check(harness.engine(), uploaded.batch())
}

fn check_parts<H: Harness>(
    harness: &mut H,
    report: &mut Report<'_>,
    call: &str,
    own: &Own<H>,
    parts: (bool, bool, bool),
    up: f64,
) {
    match own.read(harness, parts) {
        Err(message) => report.failures.push(format!("{call}: {message}")),
        Ok((x, y, scale)) => {
            if parts.0 {
                report.dx(call, &x, up);
            }
            if parts.1 {
                report.dy(call, Some(&y), up);
            }
            if parts.2 {
                report.dscale(call, scale, up);
            }
        }
    }
}

/// Runs cases one after another; panics at the end with everything that went wrong.
pub fn run_cases<'c, H: Harness>(harness: &mut H, cases: impl IntoIterator<Item = &'c Case>) {
    println!("{}:", harness.engine().name());
    run_cases_each(cases, |case| run_case(harness, case));
}

/// [`run_cases`] with a way of its own to run each.
pub fn run_cases_each<'c>(
    cases: impl IntoIterator<Item = &'c Case>,
    mut run: impl FnMut(&Case) -> Result<f64, Vec<String>>,
) {
    let (mut ran, mut worst, mut failed) = (0, (0.0, String::new()), Vec::new());
    for case in cases {
        ran += 1;
        match run(case) {
            Ok(ratio) if ratio > worst.0 => worst = (ratio, case.name.clone()),
            Ok(_) => {}
            Err(failures) => failed.push(format!("{}\n    {}", case.name, failures.join("\n    "))),
        }
    }
    assert!(ran > 0, "no case was selected");
    println!("{ran} cases, largest error {:.2} × its tolerance ({})", worst.0, worst.1);
    assert!(
        failed.is_empty(),
        "{} of {ran} cases failed:\n  {}",
        failed.len(),
        failed.join("\n  ")
    );
}
