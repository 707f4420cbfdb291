//! Host data in, host data out, on the engine that the user chose. Shared by the examples.
//!
//! A trainer whose embeddings are on the device already needs none of this: it calls the loss on
//! its own buffers.

use cudarc::driver::DeviceRepr;
use metric_kernels::{
    Batch, CpuEngine, CudaEngine, Device, Element, Engine, Loss, Matrix, Result, Storage,
};

/// Which engine to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// All cores of this machine.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// The embeddings of a step and what is known of their pairs: slices, or buffers of a device.
pub struct Input<'a, S: ?Sized, U: ?Sized> {
    /// Anchors, n×d.
    pub x: &'a S,
    /// Candidates, m×d; `None` in the shared case.
    pub y: Option<&'a S>,
    /// n, m and d.
    pub shape: [usize; 3],
    /// Labels of rows and columns.
    pub labels: Option<[&'a U; 2]>,
    /// Ids of rows and columns.
    pub ids: Option<[&'a U; 2]>,
}

/// What a step gives.
pub struct Output {
    pub loss: f32,
    #[allow(dead_code, reason = "not every example learns its scale")]
    pub scale_gradient: f32,
    pub x_gradient: Vec<f32>,
    /// `None` in the shared case.
    pub y_gradient: Option<Vec<f32>>,
}

/// An engine, and how to bring data to it.
pub enum AnyEngine {
    Cpu(CpuEngine),
    Cuda(Box<CudaEngine>),
}

impl AnyEngine {
    /// Opens an engine.
    pub fn open(choice: Choice) -> Result<Self> {
        match choice {
            Choice::Cpu => Ok(Self::Cpu(CpuEngine::new())),
            Choice::Cuda => Ok(Self::Cuda(Box::new(CudaEngine::open(0)?))),
        }
    }

    /// `cpu`, or `cuda` with the device's name.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu(engine) => engine.name(),
            Self::Cuda(engine) => engine.name(),
        }
    }

    /// One step: the loss and all gradients.
    pub fn step<T: Element + DeviceRepr>(
        &mut self,
        loss: &impl Loss,
        input: &Input<'_, [T], [u32]>,
    ) -> Result<Output> {
        match self {
            Self::Cpu(engine) => step(engine, loss, input),
            Self::Cuda(engine) => {
                let stream = engine.stream().clone();
                let codes = |[rows, cols]: [&[u32]; 2]| -> Result<_> {
                    Ok([stream.clone_htod(rows)?, stream.clone_htod(cols)?])
                };
                let x = stream.clone_htod(input.x)?;
                let y = input.y.map(|y| stream.clone_htod(y)).transpose()?;
                let labels = input.labels.map(codes).transpose()?;
                let ids = input.ids.map(codes).transpose()?;
                let input = Input {
                    x: &x,
                    y: y.as_ref(),
                    shape: input.shape,
                    labels: labels.as_ref().map(|[rows, cols]| [rows, cols]),
                    ids: ids.as_ref().map(|[rows, cols]| [rows, cols]),
                };
                step(&mut **engine, loss, &input)
            }
        }
    }
}

/// The step itself: the same lines on every device.
fn step<E, T, S, U>(engine: &mut E, loss: &impl Loss, input: &Input<'_, S, U>) -> Result<Output>
where
    E: Engine,
    T: Element,
    S: Storage<Device = E::Device, Element = T> + ?Sized,
    U: Storage<Device = E::Device, Element = u32> + ?Sized,
{
    let (value, gradients) = loss.loss_and_gradients(engine, batch(input)?)?;
    Ok(Output {
        loss: engine.read(&value)?[0],
        scale_gradient: engine.read(&gradients.scale)?[0],
        x_gradient: engine.read(&gradients.x)?,
        y_gradient: gradients.y.map(|y| engine.read(&y)).transpose()?,
    })
}

/// The input as the library takes it.
fn batch<'a, D: Device, T: 'static, S, U>(input: &Input<'a, S, U>) -> Result<Batch<'a, D, T>>
where
    S: Storage<Device = D, Element = T> + ?Sized,
    U: Storage<Device = D, Element = u32> + ?Sized,
{
    let [n, m, d] = input.shape;
    let x = Matrix::new(input.x, n, d)?;
    let mut batch = match input.y {
        Some(y) => Batch::new(x, Matrix::new(y, m, d)?),
        None => Batch::shared(x),
    };
    if let Some([rows, cols]) = input.labels {
        batch = batch.labels(rows, cols);
    }
    if let Some([rows, cols]) = input.ids {
        batch = batch.ids(rows, cols);
    }
    Ok(batch)
}
