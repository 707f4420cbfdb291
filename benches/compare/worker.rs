//! Ours, as a process that is driven like a peer: the same lines in, the same lines out (see
//! benches/peers/peer.py).

use std::error::Error;
use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use clap::Args;
use half::{bf16, f16};
use metric_kernels::{
    Batch, CrossExampleSoftmax, Element, Engine, Family, GradientsMut, InBatchSoftmax,
    InstanceCrossEntropy, Loss, Matrix, MatrixMut,
};
use serde_json::{Value, json};

use crate::common::place::{Cpu, Cuda, Data, Device, Place};
use crate::common::{floats, labels, peak};
use crate::{DType, Kind, On};

/// A problem.
#[derive(Args)]
pub struct Options {
    #[arg(long)]
    loss: Kind,
    #[arg(long)]
    n: usize,
    #[arg(long)]
    d: usize,
    #[arg(long)]
    scale: f32,
    #[arg(long)]
    dtype: DType,
    #[arg(long)]
    device: On,
    #[arg(long)]
    threads: usize,
    /// Anchors, raw f32.
    #[arg(long)]
    x: PathBuf,
    /// Candidates, raw f32.
    #[arg(long)]
    y: PathBuf,
    /// No step of this size before the first command: for its memory.
    #[arg(long)]
    fresh: bool,
}

type Answer<T> = Result<T, Box<dyn Error>>;

/// Where an engine leaves a loss.
type Buffer<P> = <<P as Place>::Engine as Engine>::Buffer;

pub fn run(options: &Options) -> Answer<()> {
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    match options.device {
        On::Cpu => typed(Cpu::default(), options),
        On::Cuda => match Cuda::open() {
            Ok(place) => typed(place, options),
            Err(why) => answer(&json!({ "missing": why })),
        },
    }
}

fn typed<P: Place>(place: P, options: &Options) -> Answer<()> {
    match options.dtype {
        DType::F32 => serve::<P, f32>(place, options),
        DType::F16 => serve::<P, f16>(place, options),
        DType::Bf16 => serve::<P, bf16>(place, options),
    }
}

fn answer(value: &Value) -> Answer<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn serve<P: Place, T: Data + Element>(mut place: P, options: &Options) -> Answer<()> {
    // A first step at a small size, as the peers do.
    Step::<P, T>::new(&mut place, options, 64)?.run(place.engine())?;
    let mut step = Step::<P, T>::new(&mut place, options, options.n)?;
    if !options.fresh {
        step.run(place.engine())?;
    }
    let version = concat!("metric-kernels ", env!("CARGO_PKG_VERSION"));
    answer(&json!({ "ready": version, "engine": place.engine().name() }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["step", count] => {
                let count: usize = count.parse()?;
                let mut failure = None;
                let processor = processor_seconds();
                let seconds = place.seconds(&mut |engine| {
                    for _ in 0..count {
                        failure = failure.take().or_else(|| step.run(engine).err());
                    }
                });
                if let Some(failure) = failure {
                    return Err(failure);
                }
                let processor = (processor_seconds() - processor) / count as f64;
                let seconds = seconds / count as f64;
                answer(&json!({ "seconds": seconds, "processor": processor }))?;
            }
            // On a device there is cuBLAS to compare with.
            ["peak"] => {
                let rate = place.device_bytes().is_none().then(peak::flop_rate);
                answer(&json!({ "flop_rate": rate }))?;
            }
            ["values", path] => {
                let (loss, sides) = step.values(&mut place)?;
                for (name, values) in ["x", "y"].iter().zip(&sides) {
                    fs::write(format!("{path}.{name}"), bytemuck::cast_slice::<f32, u8>(values))?;
                }
                answer(&json!({ "loss": loss }))?;
            }
            ["memory"] => {
                let before = match place.device_bytes() {
                    Some(bytes) => bytes,
                    None => {
                        trim();
                        resident(true)?
                    }
                };
                step.run(place.engine())?;
                let after = match place.device_bytes() {
                    // The engine's memory is kept from step to step: what is held is the peak.
                    Some(bytes) => bytes,
                    None => resident(false)?,
                };
                answer(&json!({ "bytes": after.saturating_sub(before) }))?;
            }
            _ => return Err(format!("unknown command: {line}").into()),
        }
    }
    Ok(())
}

/// With `reset`, the resident bytes now; else the most there were since the last reset.
fn resident(reset: bool) -> Answer<usize> {
    if reset {
        fs::write("/proc/self/clear_refs", "5")?;
    }
    let key = if reset { "VmRSS:" } else { "VmHWM:" };
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no resident size")?;
    Ok(kib.parse::<usize>()? * 1024)
}

/// Gives freed memory back to the system, so that a step has to ask for its own.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

/// Seconds of all cores together that this process has used.
fn processor_seconds() -> f64 {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        unsafe extern "C" {
            fn clock_gettime(clock: std::ffi::c_int, time: *mut [i64; 2]) -> std::ffi::c_int;
        }
        const CLOCK_PROCESS_CPUTIME_ID: std::ffi::c_int = 2;
        let mut time = [0; 2];
        // SAFETY: `timespec` is two 64-bit numbers on 64-bit Linux.
        if unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut time) } == 0 {
            return time[0] as f64 + time[1] as f64 / 1e9;
        }
    }
    f64::NAN
}

/// One step of training as far as the loss goes: loss and both gradients, into kept buffers.
struct Step<P: Place, T: Data> {
    kind: Kind,
    scale: f32,
    n: usize,
    d: usize,
    x: P::Vector<T>,
    y: P::Vector<T>,
    labels: P::Vector<u32>,
    /// dX and dY, and of a symmetric loss those of its second direction.
    gradients: Vec<P::Vector<f32>>,
}

impl<P: Place, T: Data + Element> Step<P, T> {
    fn new(place: &mut P, options: &Options, n: usize) -> Answer<Self> {
        let d = options.d;
        let mut rows = |path: &PathBuf| -> Answer<_> {
            let bytes = fs::read(path)?;
            let bytes = bytes.get(..n * d * 4).ok_or("a file of rows is too short")?;
            Ok(place.upload_rows::<T>(&floats(bytes)))
        };
        let (x, y) = (rows(&options.x)?, rows(&options.y)?);
        let sides = match options.loss {
            Kind::Ice => 1,
            Kind::Clip => 4,
            Kind::CrossExample | Kind::InBatch => 2,
        };
        // Touched, so that a step is not charged for the memory of its results.
        let gradients = (0..sides).map(|_| place.upload(&vec![1.0f32; n * d])).collect();
        let labels = place.upload(&labels(n));
        Ok(Self { kind: options.loss, scale: options.scale, n, d, x, y, labels, gradients })
    }

    /// The step; the loss stays on the device.
    fn run(&mut self, engine: &mut P::Engine) -> Answer<Vec<Buffer<P>>> {
        let (n, d, scale) = (self.n, self.d, self.scale);
        let x = Matrix::new(&self.x, n, d)?;
        let y = Matrix::new(&self.y, n, d)?;
        let mut out: Vec<_> = Vec::new();
        for gradient in &mut self.gradients {
            out.push(MatrixMut::new(gradient, n, d)?);
        }
        let mut out = out.into_iter();
        let mut one = |family: &Family, batch: Batch<'_, Device<P>, T>, sides: usize| {
            let mut side = |wanted: bool| if wanted { out.next() } else { None };
            let out = GradientsMut { x: side(true), y: side(sides == 2), scale: None };
            family.loss_and_gradients_into(engine, batch, out)
        };
        let in_batch = *InBatchSoftmax::new(scale).family();
        let both = Batch::new(x, y);
        Ok(match self.kind {
            Kind::CrossExample => vec![one(CrossExampleSoftmax::new(scale).family(), both, 2)?],
            Kind::InBatch => vec![one(&in_batch, both, 2)?],
            Kind::Ice => {
                let loss = InstanceCrossEntropy::new(scale).normalize();
                let batch = Batch::shared(x).labels(&self.labels, &self.labels);
                vec![one(loss.family(), batch, 1)?]
            }
            // The mean of both directions. Their gradients stay apart: adding them is left to the
            // caller, as is what follows.
            Kind::Clip => vec![one(&in_batch, both, 2)?, one(&in_batch, Batch::new(y, x), 2)?],
        })
    }

    /// The loss on the host, and the gradients of both sides; of one in the shared case.
    fn values(&mut self, place: &mut P) -> Answer<(f32, Vec<Vec<f32>>)> {
        let losses = self.run(place.engine())?;
        let mut loss = 0.0;
        for value in &losses {
            loss += place.engine().read(value)?[0] / losses.len() as f32;
        }
        let mut sides: Vec<_> = self.gradients.iter().map(|g| place.download(g)).collect();
        if let Kind::Clip = self.kind {
            let mean = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect();
            sides = vec![mean(&sides[0], &sides[3]), mean(&sides[1], &sides[2])];
        }
        Ok((loss, sides))
    }
}
