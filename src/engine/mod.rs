//! Room: engines. What a loss asks for (a [`Problem`]) and who performs it ([`Engine`]).
//!
//! A loss describes itself as data: scope × positives × exclusions × mining × weighting × reduction. An
//! engine turns that into passes over tiles of the similarity matrix. Neither knows the other's
//! business: no grid or pointer above this line, no loss's name below it.

pub mod cpu;
pub mod cuda;

use crate::loss::formula::{Mining, Reduction, Scope, Weighting};
use crate::matrix::{Device, Matrix, MatrixMut, Scalar, StorageMut};
use crate::ops::TopKMut;
use crate::{Element, Result};

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// In an explicit index, the mark of a row that has no positive.
pub const NO_POSITIVE: u32 = u32::MAX;

/// Which pairs match.
pub enum Positives<'a, D: Device> {
    /// Pair (i, i) for every i below both n and m.
    Diagonal,
    /// Pairs with equal labels; only equality counts. `rows` has n labels, `cols` has m.
    Labels {
        /// Labels of the anchors.
        rows: D::View<'a, u32>,
        /// Labels of the candidates.
        cols: D::View<'a, u32>,
    },
    /// Pair (i, index\[i\]) for every i; [`NO_POSITIVE`] where there is none. n indices below m.
    Index(D::View<'a, u32>),
}

impl<D: Device> Clone for Positives<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Positives<'_, D> {}

/// Ids on both sides: a pair with equal ids that is not a positive is neither positive nor
/// negative (known duplicates).
pub struct Ids<'a, D: Device> {
    /// n ids of the anchors.
    pub rows: D::View<'a, u32>,
    /// m ids of the candidates.
    pub cols: D::View<'a, u32>,
}

impl<D: Device> Clone for Ids<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Ids<'_, D> {}

/// One evaluation of the family, what an engine performs. Only [`crate::Loss`]'s calls make one, of
/// options and shapes that they have checked: engines rely on it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Problem<'a, D: Device, T: 'static> {
    /// Anchors, n×d.
    pub x: Matrix<'a, D, T>,
    /// Candidates, m×d. `None` in the shared case: the anchors are the candidates, and the
    /// self-pairs (i, i) are excluded.
    pub y: Option<Matrix<'a, D, T>>,
    /// The pairs that match.
    pub positives: Positives<'a, D>,
    /// Known duplicates.
    pub ids: Option<Ids<'a, D>>,
    /// Inverse temperature.
    pub scale: Scalar<'a, D>,
    /// Which negatives a positive is compared with.
    pub scope: Scope,
    /// Which of these negatives count. A count is above 0 and below that of all pairs.
    pub mining: Mining,
    /// How pairs weigh in the gradient.
    pub weighting: Weighting,
    /// How positive pairs are put together.
    pub reduction: Reduction,
    /// Whether rows are L2-normalised first.
    pub normalize: bool,
}

impl<'a, D: Device, T: 'static> Problem<'a, D, T> {
    /// The candidates, also in the shared case.
    pub fn candidates(&self) -> Matrix<'a, D, T> {
        self.y.unwrap_or(self.x)
    }

    /// Whether anchors and candidates are one set.
    pub fn shared(&self) -> bool {
        self.y.is_none()
    }
}

/// Where gradients go; what is `None` is not computed where that saves work. Overwritten, not
/// added to.
///
/// `G` is the element type of dX and dY, whatever that of the embeddings. They are summed in `f32`
/// and rounded once at the end, to nearest; what lies beyond the range of `G` becomes infinite.
/// Another type than `f32` takes scratch memory of the size of the `f32` gradients.
pub struct GradientsMut<'g, D: Device, G: 'static = f32> {
    /// n×d. In the shared case the whole gradient of the one set.
    pub x: Option<MatrixMut<'g, D, G>>,
    /// m×d; must be `None` in the shared case.
    pub y: Option<MatrixMut<'g, D, G>>,
    /// One element: the gradient with respect to the scale.
    pub scale: Option<D::ViewMut<'g, f32>>,
}

impl<D: Device, G: 'static> Default for GradientsMut<'_, D, G> {
    fn default() -> Self {
        Self { x: None, y: None, scale: None }
    }
}

/// Performs passes on one device. Implemented by [`cpu::CpuEngine`] and [`cuda::CudaEngine`];
/// sealed, so that methods can be added.
///
/// Everything a CUDA engine does is asynchronous and ordered on its stream, except
/// [`Engine::read`] and [`Engine::read_indices`].
pub trait Engine: sealed::Sealed + Sized {
    /// Where its data lives.
    type Device: Device;
    /// Result memory: `f32` on the engine's device, returned to its workspace when dropped.
    type Buffer: StorageMut<Device = Self::Device, Element = f32>;
    /// Result memory as [`Engine::Buffer`], of `u32`: rows and columns.
    type Indices: StorageMut<Device = Self::Device, Element = u32>;
    /// What a backward pass needs of a forward pass: O(n) numbers, and with mining O(K) where K
    /// is small.
    type Statistics;

    /// The engine's name for reports: `cpu`, or `cuda` with the device's name.
    fn name(&self) -> String;

    /// Result memory of `len` elements, not initialised to anything in particular.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn buffer(&mut self, len: usize) -> Result<Self::Buffer>;

    /// [`Engine::buffer`] of indices.
    ///
    /// # Errors
    /// If the memory cannot be had.
    fn indices(&mut self, len: usize) -> Result<Self::Indices>;

    /// Copies a result to the host. On CUDA this waits for the stream.
    ///
    /// # Errors
    /// If the device reports an error.
    fn read(&mut self, buffer: &Self::Buffer) -> Result<Vec<f32>>;

    /// [`Engine::read`] for indices.
    ///
    /// # Errors
    /// If the device reports an error.
    fn read_indices(&mut self, indices: &Self::Indices) -> Result<Vec<u32>>;

    /// What only the data can tell: that an explicit index is in range and that there is a
    /// positive pair. The CPU engine checks it in every call; a CUDA engine only here, where it
    /// copies labels or index to the host and waits for the stream.
    ///
    /// # Errors
    /// If an index is out of range, or no pair is positive.
    fn check<T: Element>(&mut self, problem: &Problem<'_, Self::Device, T>) -> Result<()>;

    /// The loss (one element) and what backward needs.
    ///
    /// # Errors
    /// If the problem does not fit the engine; see [`crate::Error`].
    fn forward<T: Element>(
        &mut self,
        problem: &Problem<'_, Self::Device, T>,
    ) -> Result<(Self::Buffer, Self::Statistics)>;

    /// Gradients times `upstream`, from the statistics of a forward pass over the same problem.
    ///
    /// # Errors
    /// If the problem or the outputs do not fit; see [`crate::Error`].
    fn backward<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Self::Device, T>,
        statistics: &Self::Statistics,
        upstream: Scalar<'_, Self::Device>,
        out: GradientsMut<'_, Self::Device, G>,
    ) -> Result<()>;

    /// Loss and gradients in the fewest products the engine knows.
    ///
    /// # Errors
    /// If the problem or the outputs do not fit; see [`crate::Error`].
    fn loss_and_gradients<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Self::Device, T>,
        out: GradientsMut<'_, Self::Device, G>,
    ) -> Result<Self::Buffer>;

    /// S = X·Yᵀ, n×m, for those who want the matrix itself. See [`crate::ops::similarity`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn similarity<T: Element>(
        &mut self,
        x: Matrix<'_, Self::Device, T>,
        y: Matrix<'_, Self::Device, T>,
        out: MatrixMut<'_, Self::Device, f32>,
    ) -> Result<()>;

    /// log Σ exp(s·S) over each row (n results) or over the whole matrix (one result), every pair
    /// counted. See [`crate::ops::log_sum_exp`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn log_sum_exp<T: Element>(
        &mut self,
        x: Matrix<'_, Self::Device, T>,
        y: Matrix<'_, Self::Device, T>,
        scale: Scalar<'_, Self::Device>,
        scope: Scope,
    ) -> Result<Self::Buffer>;

    /// The `k` largest elements of each row of S = X·Yᵀ, or of all of it. See
    /// [`crate::ops::top_k_into`].
    ///
    /// # Errors
    /// If shapes or buffers do not fit, `k` is 0, or memory cannot be had.
    fn top_k<T: Element>(
        &mut self,
        x: Matrix<'_, Self::Device, T>,
        y: Matrix<'_, Self::Device, T>,
        k: usize,
        scope: Scope,
        out: TopKMut<'_, Self::Device>,
    ) -> Result<()>;

    /// Rows divided by their L2 norms. See [`crate::ops::normalize`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn normalize<T: Element>(
        &mut self,
        x: Matrix<'_, Self::Device, T>,
        out: MatrixMut<'_, Self::Device, f32>,
    ) -> Result<()>;

    /// The gradient of [`Engine::normalize`] with respect to `x`, given that of its result. See
    /// [`crate::ops::normalize_backward`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn normalize_backward<T: Element>(
        &mut self,
        x: Matrix<'_, Self::Device, T>,
        gradient: Matrix<'_, Self::Device, f32>,
        out: MatrixMut<'_, Self::Device, f32>,
    ) -> Result<()>;
}
