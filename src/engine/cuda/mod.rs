//! Room: engines, CUDA. Problems on device buffers: checked here, planned and launched by the
//! modules below.
//!
//! Everything is ordered on the engine's stream; nothing waits for the device except
//! [`Engine::read`] and [`Engine::check`]. Results are bitwise reproducible.
//!
//! # Memory
//! Scratch memory is one slab per engine, as large as the largest call so far; results and
//! statistics come from pools and go back when dropped. From the second step of a size on nothing is
//! allocated. [`CudaEngine::with_workspace_bound`] limits the scratch memory.
//!
//! # Products
//! Loss and gradients take three products of the size of the similarity matrix where negatives are
//! those of the whole matrix, on tensor cores and without mining; four otherwise. Labels cost the
//! same in any order: rows and columns are sorted by label on the device, so that positives lie near
//! the diagonal, and gradients put back. With b the share of the similarity matrix's tiles that hold
//! positives (about the size of a class over the batch), three products become 3 + b up to 8,192
//! rows, 3 + 4·b above, and four 4 + b: no more than 4 where the similarities of positives can be kept,
//! which takes 384 bytes a row, 32 MiB at most, and classes of at most 96.
//!
//! # Mining
//! Few mined pairs are a list, collected in the one pass over the n·m pairs that a loss makes anyway;
//! their gradient costs their number times d, with no pass at all, unless they are more than a 64th of
//! all pairs (a 16th without tensor cores), labels say what is positive, or the rows of
//! [`Mining::HardestPerRow`] had to be mined some at a time. A sample of the pairs tells
//! a threshold that the mined ones lie above in all likelihood. Few means at most a 32nd of all pairs,
//! or candidates for at most half of each row, and 208 MiB of them (of some rows at a time, where each
//! row is mined for itself). Of rows, that is up to about a fifth of the columns. Counted in
//! instructions of threads (bf16, d = 128, n = m from 2,048 on), the forward pass then takes at most 1.06
//! of the one without mining for the hardest of the matrix, up to 100,000 from n = 4,096 on, and less than
//! one of 16,384²; for the hardest of each row 1.13 up to a 32nd of it, 1.23 for a 16th (1.15 of 4,096,
//! 1.09 of 16,384), 1.31 for an eighth, more beyond. In instructions of warps: 1.17 for the matrix, 1.25 for a
//! 32nd of each row, 1.38 for a 16th.
//!
//! More pairs are told by a threshold, which costs passes of its own: one for the hardest of the whole
//! matrix, four for those of each row. Loss and gradients then run as without mining.
//!
//! A row here and there whose guess was wrong is gone through again by itself. Where data make a list
//! overflow or many guesses fail (many equal similarities at the place that counts, the hardest pairs
//! all together), one to nine more passes find the same set. That is decided on
//! the device, by launches that are always made and end at once where they are not needed: nothing
//! waits for the host, and a captured graph is right whatever data it is replayed on.
//!
//! # CUDA graphs
//! A step can be captured once a step of the same size has run. cudarc orders streams by events of
//! its own, which a capture refuses when they were recorded before it: call
//! `CudaContext::disable_event_tracking` before allocating the buffers of such a step. Keep the
//! engine and the step's results as long as the graph.

mod images;
mod kernels;
mod launch;
mod mining;
mod order;
mod passes;
mod probe;
mod workspace;

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop, sys,
};

use crate::engine::{Engine, GradientsMut, Ids, Positives, Problem, sealed};
use crate::loss::formula::{Mining, Scope};
use crate::matrix::{Cuda, Host, Matrix, MatrixMut, Scalar};
use crate::ops::{NORM_EPS, TopKMut, check_dimension, check_shape, pairs_of_top_k};
use crate::{DType, Element, Error, Result};
use launch::{Address, Arithmetic, Destination, Launcher, Operand, Output, Pairs};
use passes::{Gradients, Input, Operands, Pass, Planner, Saved, Shape, Wanted};
use workspace::{Pool, Slab};

pub use kernels::Kernels;
pub use launch::{Tile, TileEngine};
pub use probe::{available, device_count};
pub use workspace::{Buffer, Word};

/// How `f32` embeddings are multiplied. 16-bit ones always are as they are, with `f32` sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// On tensor cores, every number as the sum of two IEEE binary16 ones and every product as three
    /// of theirs: 22 bits, near `f32`'s own 24, relative to the largest element of a row. Rows are
    /// scaled by powers of two first, so that their range is `f32`'s. Weights of pairs more than
    /// 2⁻⁵⁰ below the largest of their 128 × 128 tile count as zero in the gradients.
    #[default]
    Split,
    /// On tensor cores, every number rounded to IEEE binary16 after scaling its row by a power of
    /// two: 11 bits, those of TF32, at a third of `Split`'s cost. For those who ask for it.
    Single,
    /// In `f32` throughout, without tensor cores.
    Full,
}

/// Performs losses and primitives on a CUDA device, in the order of one stream.
#[derive(Debug)]
pub struct CudaEngine {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    /// Memory that users see; streams are ordered by cudarc's events.
    results: Arc<Pool>,
    /// Memory that nobody but this engine sees.
    private: Arc<Pool>,
    slab: Slab,
    bound: usize,
    precision: Precision,
    tile_engine: TileEngine,
    tile: Option<Tile>,
}

/// What a backward pass needs of a forward pass: seven numbers a row at most; with mining four more
/// a row, and three a mined pair where these are kept as a list.
#[derive(Debug)]
pub struct Statistics {
    memory: Buffer,
    places: Saved,
    shape: Shape,
}

impl CudaEngine {
    /// An engine on this stream, which must be of the context that the kernels are loaded into.
    ///
    /// # Errors
    /// If the stream belongs to another context.
    pub fn new(kernels: &Kernels, stream: Arc<CudaStream>) -> Result<Self> {
        if stream.context() != kernels.context() {
            return Err(Error::argument(
                "stream",
                "a stream of another context",
                "one of the context that the kernels are loaded into",
            ));
        }
        Ok(Self {
            kernels: kernels.clone(),
            results: Pool::new(stream.clone()),
            private: Pool::new(stream.clone()),
            stream,
            slab: Slab::default(),
            bound: usize::MAX,
            precision: Precision::default(),
            tile_engine: TileEngine::Sm80,
            tile: None,
        })
    }

    /// An engine on the default stream of a device, for those who have no context yet: looks for
    /// the driver, retains the device's primary context and loads the kernels.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] without driver, device or kernels for it; see
    /// [`available`] and [`Kernels::load`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let devices = device_count()?;
        if ordinal >= devices {
            return Err(Error::argument(
                "ordinal",
                ordinal.to_string(),
                format!("a device below {devices}"),
            ));
        }
        let context = CudaContext::new(ordinal)?;
        Self::new(&Kernels::load(&context)?, context.default_stream())
    }

    /// Limits the scratch memory of a call, in bytes; calls make do with less where they can, and
    /// fail before anything is launched where they cannot. Statistics (28 bytes a row; with mining 16
    /// more a row, and 12 a mined pair where these are kept as a list) and results do not count.
    #[must_use]
    pub fn with_workspace_bound(mut self, bytes: usize) -> Self {
        self.bound = bytes;
        self
    }

    /// The limit set by [`with_workspace_bound`](Self::with_workspace_bound).
    pub fn workspace_bound(&self) -> Option<usize> {
        (self.bound != usize::MAX).then_some(self.bound)
    }

    /// Bytes of scratch memory held now.
    pub fn workspace_bytes(&self) -> usize {
        self.slab.bytes()
    }

    /// The smallest bound under which every call of the crate works for anchors n×d and candidates
    /// m×d, whatever the loss and its options; but for [`crate::ops::top_k`], which needs 24 bytes a
    /// pair of its result on top. More makes gradients faster, up to about 128 MiB above it, and
    /// mining, up to about 256 MiB.
    ///
    /// # Errors
    /// If no address space could hold it.
    pub fn workspace_needed(&self, n: usize, m: usize, d: usize) -> Result<usize> {
        let wanted = Wanted { x: true, y: true, scale: true, converted: true };
        let mut needed = 0;
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let operands = self.operands(dtype, true, false, false);
            let planner = Planner { bound: 0, ..self.planner(operands) };
            // Labels that are not mined are sorted, and one pass is for those alone.
            for mining in [Mining::All, Mining::HardestPerRow(1)] {
                let everything = Shape {
                    n,
                    m,
                    d,
                    shared: false,
                    diagonal: false,
                    // An index takes memory where labels do not, and the reverse.
                    flags: launch::INDEXED | launch::LABELED | launch::IDS,
                    scope: Scope::Matrix,
                    mining,
                    normalize: true,
                    list: None,
                };
                // Forward and backward together, and each alone.
                for (forward, backward) in
                    [(true, Some(wanted)), (true, None), (false, Some(wanted))]
                {
                    needed = needed.max(match planner.plan(&everything, forward, backward) {
                        Ok(plan) => plan.bytes,
                        Err(Error::WorkspaceTooSmall { needed, .. }) if needed < usize::MAX => {
                            needed
                        }
                        Err(error) => return Err(error),
                    });
                }
            }
        }
        Ok(needed)
    }

    /// How `f32` embeddings are multiplied; [`Precision::Split`] unless told otherwise.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Uses one tile engine; for tests and measurements. By default tensor cores wherever
    /// [`Precision`] allows.
    #[must_use]
    pub fn with_tile_engine(mut self, tile_engine: TileEngine) -> Self {
        self.tile_engine = tile_engine;
        self
    }

    /// Uses one tile size whatever the shapes; for tests and measurements. By default the engine
    /// chooses from the shapes and the device.
    #[must_use]
    pub fn with_tile(mut self, tile: Option<Tile>) -> Self {
        self.tile = tile;
        self
    }

    /// Gives all memory that is not in use back to the driver.
    pub fn release_memory(&mut self) {
        self.slab.release();
        self.results.release();
        self.private.release();
    }

    /// The stream that everything is ordered on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The one place that chooses a tile engine, and what embeddings have to become for it.
    /// `aligned_*`: whether every row of that side starts at a multiple of 16 bytes.
    fn operands(
        &self,
        dtype: DType,
        normalize: bool,
        aligned_x: bool,
        aligned_y: bool,
    ) -> Operands {
        let arithmetic = match (self.tile_engine, dtype, self.precision) {
            (TileEngine::Simt, ..) | (_, DType::F32, Precision::Full) => Arithmetic::F32,
            (_, DType::Bf16, _) => Arithmetic::Bf16,
            _ => Arithmetic::F16,
        };
        let full = arithmetic == Arithmetic::F32;
        let converted = !full && dtype == DType::F32;
        Operands {
            arithmetic,
            split: converted && self.precision == Precision::Split,
            factors: !full && (converted || normalize),
            prepare_x: normalize || converted || !(full || aligned_x),
            prepare_y: normalize || converted || !(full || aligned_y),
        }
    }

    fn planner(&self, operands: Operands) -> Planner {
        Planner {
            multiprocessors: self.kernels.table().multiprocessors,
            operands,
            tile: self.tile,
            bound: self.bound,
        }
    }

    /// Memory that is read or written must be of this context.
    fn check_context<T>(
        &self,
        argument: &'static str,
        view: &(impl DeviceSlice<T> + ?Sized),
    ) -> Result<()> {
        if view.stream().context() == self.stream.context() {
            return Ok(());
        }
        Err(Error::argument(argument, "a buffer of another context", "one of the engine's context"))
    }

    fn check_scalar(&self, argument: &'static str, scalar: Scalar<'_, Cuda>) -> Result<()> {
        match scalar {
            Scalar::Value(_) => Ok(()),
            Scalar::Device(view) => self.check_context(argument, view),
        }
    }

    fn check_matrix<T>(&self, argument: &'static str, matrix: &Matrix<'_, Cuda, T>) -> Result<()> {
        check_size(argument, matrix.rows.max(matrix.cols))?;
        self.check_context(argument, matrix.data)
    }

    fn check_output<G>(&self, argument: &'static str, out: &MatrixMut<'_, Cuda, G>) -> Result<()> {
        self.check_context(argument, &*out.data)
    }

    /// What a [`Problem`] does not promise: that its buffers are of this context.
    fn check_problem<T: Element>(&self, problem: &Problem<'_, Cuda, T>) -> Result<()> {
        self.check_matrix("x", &problem.x)?;
        self.check_matrix("y", &problem.candidates())?;
        match problem.positives {
            Positives::Diagonal => {}
            Positives::Labels { rows, cols } => {
                self.check_context("labels", rows)?;
                self.check_context("labels", cols)?;
            }
            Positives::Index(index) => self.check_context("positives", index)?,
        }
        if let Some(Ids { rows, cols }) = problem.ids {
            self.check_context("ids", rows)?;
            self.check_context("ids", cols)?;
        }
        self.check_scalar("scale", problem.scale)
    }

    fn check_gradients<G>(&self, out: &GradientsMut<'_, Cuda, G>) -> Result<()> {
        if let Some(x) = &out.x {
            self.check_output("gradient x", x)?;
        }
        if let Some(y) = &out.y {
            self.check_output("gradient y", y)?;
        }
        match &out.scale {
            Some(scale) => self.check_context("gradient scale", &**scale),
            None => Ok(()),
        }
    }

    /// Runs forward, backward or both. Checked before; nothing is launched before memory is had.
    fn run<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Cuda, T>,
        statistics: &Statistics,
        loss: Option<&mut Buffer>,
        backward: Option<(Scalar<'_, Cuda>, GradientsMut<'_, Cuda, G>)>,
    ) -> Result<()> {
        let shape = statistics.shape;
        let wanted = backward.as_ref().map(|(_, out)| Wanted {
            x: out.x.is_some(),
            y: out.y.is_some(),
            scale: out.scale.is_some(),
            converted: G::DTYPE != DType::F32,
        });
        let stream = self.stream.clone();
        let mut guards = Guards::new(&stream);
        let input = guards.input(problem, shape);
        let plan =
            self.planner(self.operands_of::<T>(&input)).plan(&shape, loss.is_some(), wanted)?;
        let base = self.slab.reserve(&stream, plan.bytes)?;
        let loss = loss.map(|loss| guards.write(loss));
        let backward = backward.map(|(upstream, out)| {
            let upstream = guards.scalar(upstream);
            (upstream, guards.gradients(out, shape.d))
        });
        let launch = Launcher { stream: &stream, table: self.kernels.table() };
        let saved_base = statistics.memory.private_address();
        let pass = Pass { launch, input, plan, base, saved: statistics.places, saved_base };
        // SAFETY: the guards hold the caller's buffers, whose contexts and lengths were checked;
        // scratch memory and statistics have the planned sizes and are used by this stream alone.
        unsafe {
            match (loss, &backward) {
                (Some(loss), Some((upstream, out))) if pass.plan.is_one_pass() => {
                    pass.one_pass(loss, *upstream, out)?;
                }
                (loss, backward) => {
                    if let Some(loss) = loss {
                        pass.forward(loss)?;
                    }
                    if let Some((upstream, out)) = backward {
                        pass.backward(*upstream, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn operands_of<T: Element>(&self, input: &Input) -> Operands {
        let (x, y) = (input.x.is_aligned(), input.y.is_aligned());
        self.operands(T::DTYPE, input.shape.normalize, x, y)
    }

    fn statistics<T: Element>(&self, problem: &Problem<'_, Cuda, T>) -> Result<Statistics> {
        // Whatever the alignment: only shapes decide about what is saved.
        let planner = self.planner(self.operands(T::DTYPE, problem.normalize, false, false));
        let shape = planner.with_list(shape(problem));
        let (places, bytes) = Saved::plan(&shape)?;
        Ok(Statistics { memory: self.private.take(bytes.div_ceil(4))?, places, shape })
    }
}

fn check_size(argument: &'static str, side: usize) -> Result<()> {
    // Kernels count rows, columns and depth in 32 bits, with room for a tile beyond.
    if side > i32::MAX as usize {
        return Err(Error::argument(
            argument,
            format!("a side of {side}"),
            format!("at most {}", i32::MAX),
        ));
    }
    Ok(())
}

fn shape<T: Element>(problem: &Problem<'_, Cuda, T>) -> Shape {
    let mut flags = match problem.positives {
        Positives::Diagonal | Positives::Index(_) => launch::INDEXED,
        Positives::Labels { .. } => launch::LABELED,
    };
    if problem.shared() {
        flags |= launch::SHARED;
    }
    if problem.ids.is_some() {
        flags |= launch::IDS;
    }
    Shape {
        n: problem.x.rows,
        m: problem.candidates().rows,
        d: problem.x.cols,
        shared: problem.shared(),
        diagonal: matches!(problem.positives, Positives::Diagonal),
        flags,
        scope: problem.scope,
        mining: problem.mining,
        normalize: problem.normalize,
        list: None,
    }
}

/// The caller's buffers during one call: their addresses, and cudarc's guards, which order streams
/// when they are dropped, after the launches.
struct Guards<'a> {
    stream: &'a CudaStream,
    held: Vec<SyncOnDrop<'a>>,
}

impl<'a> Guards<'a> {
    fn new(stream: &'a CudaStream) -> Self {
        Self { stream, held: Vec::with_capacity(12) }
    }

    fn read<'v: 'a, T: 'v>(&mut self, view: &'v dyn DevicePtr<T>) -> Address {
        let (address, guard) = view.device_ptr(self.stream);
        self.held.push(guard);
        address
    }

    fn write<'v: 'a, T: 'v>(&mut self, view: &'v mut dyn DevicePtrMut<T>) -> Address {
        let (address, guard) = view.device_ptr_mut(self.stream);
        self.held.push(guard);
        address
    }

    fn scalar<'v: 'a>(&mut self, scalar: Scalar<'v, Cuda>) -> (f32, Address) {
        match scalar {
            Scalar::Value(value) => (value, 0),
            Scalar::Device(view) => (0.0, self.read(view)),
        }
    }

    fn operand<'v: 'a, T: Element>(&mut self, matrix: Matrix<'v, Cuda, T>) -> Operand {
        Operand::new(self.read(matrix.data), matrix.row_stride, T::DTYPE)
    }

    fn output<'v: 'a>(&mut self, out: MatrixMut<'v, Cuda, f32>) -> Output {
        let MatrixMut { data, rows, cols, row_stride } = out;
        Output::new(self.write(data), row_stride, rows, cols)
    }

    fn destination<'v: 'a, G: Element>(&mut self, out: MatrixMut<'v, Cuda, G>) -> Destination {
        let MatrixMut { data, rows, cols, row_stride } = out;
        Destination::new(self.write(data), row_stride, rows, cols, G::DTYPE)
    }

    fn input<'v: 'a, T: Element>(&mut self, problem: &Problem<'v, Cuda, T>, shape: Shape) -> Input {
        let x = self.operand(problem.x);
        let y = problem.y.map_or(x, |y| self.operand(y));
        let mut pairs = Pairs::new(shape.n, shape.m);
        pairs.flags = shape.flags;
        match problem.positives {
            Positives::Diagonal => {}
            Positives::Index(index) => pairs.index = self.read(index),
            Positives::Labels { rows, cols } => {
                (pairs.row_labels, pairs.column_labels) = (self.read(rows), self.read(cols));
            }
        }
        if let Some(Ids { rows, cols }) = problem.ids {
            (pairs.row_ids, pairs.column_ids) = (self.read(rows), self.read(cols));
        }
        let scale = self.scalar(problem.scale);
        let (weighting, reduction) = (problem.weighting, problem.reduction);
        Input { shape, x, y, pairs, scale, weighting, reduction }
    }

    fn gradients<'v: 'a, G: Element>(
        &mut self,
        out: GradientsMut<'v, Cuda, G>,
        d: usize,
    ) -> Gradients {
        let none = Destination::new(0, 0, 0, d, G::DTYPE);
        Gradients {
            x: out.x.map_or(none, |out| self.destination(out)),
            y: out.y.map_or(none, |out| self.destination(out)),
            scale: out.scale.map_or(0, |scale| self.write(scale)),
        }
    }
}

/// Two sets of embeddings of so many dimensions, every pair of theirs a negative one.
fn every_pair(
    (x, n): (Operand, usize),
    (y, m): (Operand, usize),
    d: usize,
    scale: (f32, Address),
    scope: Scope,
) -> Input {
    let shape = Shape {
        n,
        m,
        d,
        shared: false,
        diagonal: false,
        flags: 0,
        scope,
        mining: Mining::All,
        normalize: false,
        list: None,
    };
    let (weighting, reduction) = (crate::Weighting::Analytic, crate::Reduction::Sum);
    Input { shape, x, y, pairs: Pairs::new(n, m), scale, weighting, reduction }
}

/// A view that can be handed to cudarc's generic functions.
struct View<'a, T>(&'a dyn DevicePtr<T>);

impl<T> DeviceSlice<T> for View<'_, T> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn stream(&self) -> &Arc<CudaStream> {
        self.0.stream()
    }
}

impl<T> DevicePtr<T> for View<'_, T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        self.0.device_ptr(stream)
    }
}

impl sealed::Sealed for CudaEngine {}

impl Engine for CudaEngine {
    type Device = Cuda;
    type Buffer = Buffer;
    type Indices = Buffer<u32>;
    type Statistics = Statistics;

    fn name(&self) -> String {
        format!("cuda ({})", self.kernels.table().device)
    }

    fn buffer(&mut self, len: usize) -> Result<Buffer> {
        self.results.take(len)
    }

    fn indices(&mut self, len: usize) -> Result<Buffer<u32>> {
        self.results.take(len)
    }

    fn read(&mut self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.check_context("buffer", buffer)?;
        Ok(self.stream.clone_dtoh(buffer)?)
    }

    fn read_indices(&mut self, indices: &Buffer<u32>) -> Result<Vec<u32>> {
        self.check_context("indices", indices)?;
        Ok(self.stream.clone_dtoh(indices)?)
    }

    fn check<T: Element>(&mut self, problem: &Problem<'_, Cuda, T>) -> Result<()> {
        self.check_problem(problem)?;
        let fetch = |view| -> Result<Vec<u32>> { Ok(self.stream.clone_dtoh(&View(view))?) };
        let (rows, cols) = match problem.positives {
            Positives::Diagonal => return Ok(()),
            Positives::Labels { rows, cols } => (fetch(rows)?, fetch(cols)?),
            Positives::Index(index) => (fetch(index)?, Vec::new()),
        };
        self.stream.synchronize()?;
        // The host's own check, on a problem with no embeddings in it: it reads none.
        let matrix = |matrix: Matrix<'_, Cuda, T>| Matrix::<Host, T> {
            data: &[],
            rows: matrix.rows,
            cols: matrix.cols,
            row_stride: matrix.row_stride,
        };
        super::cpu::Pairs::new(&Problem {
            x: matrix(problem.x),
            y: problem.y.map(matrix),
            positives: match problem.positives {
                Positives::Labels { .. } => Positives::Labels { rows: &rows, cols: &cols },
                _ => Positives::Index(rows.as_slice()),
            },
            ids: None,
            scale: Scalar::Value(1.0),
            scope: problem.scope,
            mining: problem.mining,
            weighting: problem.weighting,
            reduction: problem.reduction,
            normalize: problem.normalize,
        })
        .map(|_| ())
    }

    fn forward<T: Element>(
        &mut self,
        problem: &Problem<'_, Cuda, T>,
    ) -> Result<(Buffer, Statistics)> {
        self.check_problem(problem)?;
        let statistics = self.statistics(problem)?;
        let mut loss = self.buffer(1)?;
        self.run::<T, f32>(problem, &statistics, Some(&mut loss), None)?;
        Ok((loss, statistics))
    }

    fn backward<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Cuda, T>,
        statistics: &Statistics,
        upstream: Scalar<'_, Cuda>,
        out: GradientsMut<'_, Cuda, G>,
    ) -> Result<()> {
        self.check_problem(problem)?;
        self.check_scalar("upstream", upstream)?;
        self.check_gradients(&out)?;
        let given = Shape { list: statistics.shape.list, ..shape(problem) };
        if statistics.shape != given || !statistics.memory.is_from(&self.private) {
            return Err(Error::argument(
                "statistics",
                "those of another problem or another engine",
                "those of a forward pass of this engine over the same problem",
            ));
        }
        self.run(problem, statistics, None, Some((upstream, out)))
    }

    fn loss_and_gradients<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Cuda, T>,
        out: GradientsMut<'_, Cuda, G>,
    ) -> Result<Buffer> {
        self.check_problem(problem)?;
        self.check_gradients(&out)?;
        let statistics = self.statistics(problem)?;
        let mut loss = self.buffer(1)?;
        self.run(problem, &statistics, Some(&mut loss), Some((Scalar::Value(1.0), out)))?;
        Ok(loss)
    }

    fn similarity<T: Element>(
        &mut self,
        x: Matrix<'_, Cuda, T>,
        y: Matrix<'_, Cuda, T>,
        out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        self.check_pair(x, y)?;
        check_shape("out", (out.rows, out.cols), (x.rows, y.rows))?;
        self.check_output("out", &out)?;
        let stream = self.stream.clone();
        let mut guards = Guards::new(&stream);
        let (n, m, d) = (x.rows, y.rows, x.cols);
        let (x, y) = (guards.operand(x), guards.operand(y));
        let input = every_pair((x, n), (y, m), d, (1.0, 0), Scope::Matrix);
        let plan = self.planner(self.operands_of::<T>(&input)).similarity(&input.shape)?;
        let base = self.slab.reserve(&stream, plan.bytes)?;
        let out = guards.output(out);
        let launch = Launcher { stream: &stream, table: self.kernels.table() };
        // SAFETY: the guards hold the buffers, whose contexts and shapes were checked; scratch
        // memory has the planned size.
        unsafe { plan.run(&launch, &input, base, out) }
    }

    fn log_sum_exp<T: Element>(
        &mut self,
        x: Matrix<'_, Cuda, T>,
        y: Matrix<'_, Cuda, T>,
        scale: Scalar<'_, Cuda>,
        scope: Scope,
    ) -> Result<Buffer> {
        self.check_pair(x, y)?;
        scale.check_scale()?;
        self.check_scalar("scale", scale)?;
        let mut result = self.buffer(if scope == Scope::Row { x.rows } else { 1 })?;
        let stream = self.stream.clone();
        {
            let mut guards = Guards::new(&stream);
            let (n, m, d) = (x.rows, y.rows, x.cols);
            let (x, y, scale) = (guards.operand(x), guards.operand(y), guards.scalar(scale));
            let input = every_pair((x, n), (y, m), d, scale, scope);
            let plan = self.planner(self.operands_of::<T>(&input)).log_sum_exp(&input.shape)?;
            let base = self.slab.reserve(&stream, plan.bytes)?;
            let out = guards.write(&mut result);
            let launch = Launcher { stream: &stream, table: self.kernels.table() };
            // SAFETY: as in `similarity`.
            unsafe { plan.run(&launch, &input, base, out) }?;
        }
        Ok(result)
    }

    fn top_k<T: Element>(
        &mut self,
        x: Matrix<'_, Cuda, T>,
        y: Matrix<'_, Cuda, T>,
        k: usize,
        scope: Scope,
        out: TopKMut<'_, Cuda>,
    ) -> Result<()> {
        self.check_pair(x, y)?;
        let pairs = pairs_of_top_k(x.rows, y.rows, k, scope)?;
        out.check(pairs, scope)?;
        let TopKMut { values, rows, columns } = out;
        self.check_context("values", &*values)?;
        self.check_context("columns", &*columns)?;
        if let Some(rows) = &rows {
            self.check_context("rows", &**rows)?;
        }
        let mining = match scope {
            Scope::Row => Mining::HardestPerRow(k.min(y.rows)),
            Scope::Matrix => Mining::Hardest(pairs),
        };
        let stream = self.stream.clone();
        let mut guards = Guards::new(&stream);
        let (n, m, d) = (x.rows, y.rows, x.cols);
        let (x, y) = (guards.operand(x), guards.operand(y));
        let mut input = every_pair((x, n), (y, m), d, (1.0, 0), scope);
        input.shape.mining = mining;
        let planner = self.planner(self.operands_of::<T>(&input));
        input.shape.list = planner.stages(&input.shape);
        let plan = planner.top_k(&input.shape, pairs)?;
        let base = self.slab.reserve(&stream, plan.bytes)?;
        let (values, columns) = (guards.write(values), guards.write(columns));
        let rows = rows.map_or(0, |rows| guards.write(rows));
        let launch = Launcher { stream: &stream, table: self.kernels.table() };
        // SAFETY: the guards hold the buffers, whose contexts and lengths were checked; scratch memory
        // has the planned size.
        unsafe { plan.run(&launch, &input, base, values, rows, columns) }
    }

    fn normalize<T: Element>(
        &mut self,
        x: Matrix<'_, Cuda, T>,
        out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        self.check_matrix("x", &x)?;
        check_shape("out", (out.rows, out.cols), (x.rows, x.cols))?;
        self.check_output("out", &out)?;
        let stream = self.stream.clone();
        let mut guards = Guards::new(&stream);
        let (x, out) = (guards.operand(x), guards.output(out));
        let launch = Launcher { stream: &stream, table: self.kernels.table() };
        // SAFETY: as in `similarity`.
        unsafe { launch.normalize(x, NORM_EPS, 0, out) }
    }

    fn normalize_backward<T: Element>(
        &mut self,
        x: Matrix<'_, Cuda, T>,
        gradient: Matrix<'_, Cuda, f32>,
        out: MatrixMut<'_, Cuda, f32>,
    ) -> Result<()> {
        self.check_matrix("x", &x)?;
        self.check_matrix("gradient", &gradient)?;
        check_shape("gradient", (gradient.rows, gradient.cols), (x.rows, x.cols))?;
        check_shape("out", (out.rows, out.cols), (x.rows, x.cols))?;
        self.check_output("out", &out)?;
        let stream = self.stream.clone();
        let mut guards = Guards::new(&stream);
        let (x, g, out) = (guards.operand(x), guards.operand(gradient), guards.destination(out));
        let launch = Launcher { stream: &stream, table: self.kernels.table() };
        // SAFETY: as in `similarity`.
        unsafe { launch.normalize_backward(x, g, NORM_EPS, 0, out) }
    }
}

impl CudaEngine {
    /// Two sets of embeddings of one dimension.
    fn check_pair<T>(&self, x: Matrix<'_, Cuda, T>, y: Matrix<'_, Cuda, T>) -> Result<()> {
        self.check_matrix("x", &x)?;
        self.check_matrix("y", &y)?;
        check_dimension(x, y)
    }
}
