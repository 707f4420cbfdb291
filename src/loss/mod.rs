//! Room: losses. One file per loss; here what they share: the batch, the options, the calls.
//!
//! Every loss is one member of a family. For a positive pair (i, j) with g the group of negatives
//! its scope names, s the scale and S = X·Yᵀ:
//!
//! ```text
//! l_g = log Σ_{(a,b) ∈ negatives of g} exp(s·S_ab)
//! L   = mean over positive pairs of softplus(l_g − s·S_ij)
//! ```
//!
//! With [`Mining`], the negatives of g are the mined ones alone.

mod cross_example;
pub(crate) mod formula;
mod in_batch;
mod instance_cross_entropy;

pub use cross_example::CrossExampleSoftmax;
pub use formula::{Mining, Reduction, Scope, Weighting};
pub use in_batch::InBatchSoftmax;
pub use instance_cross_entropy::InstanceCrossEntropy;

use crate::engine::{Engine, GradientsMut, Ids, Positives, Problem};
use crate::matrix::{Device, Matrix, MatrixMut, Scalar, Storage, StorageMut};
use crate::ops::check_k;
use crate::{Element, Error, Result};

/// A loss's options, as data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// s, the inverse temperature; a batch may bring a learnable one instead.
    pub scale: f32,
    /// Which negatives a positive is compared with.
    pub scope: Scope,
    /// Which of these negatives count.
    pub mining: Mining,
    /// How pairs weigh in the gradient.
    pub weighting: Weighting,
    /// How the terms of positive pairs are put together.
    pub reduction: Reduction,
    /// Whether rows are divided by their L2 norms first, forward and backward.
    pub normalize: bool,
}

impl Family {
    /// The defaults: all negatives, analytic weights, mean, no normalisation.
    pub fn new(scale: f32, scope: Scope) -> Self {
        Self {
            scale,
            scope,
            mining: Mining::default(),
            weighting: Weighting::default(),
            reduction: Reduction::default(),
            normalize: false,
        }
    }
}

/// The options are a loss themselves: for a loss that is chosen at run time.
impl Loss for Family {
    fn family(&self) -> &Family {
        self
    }
    fn family_mut(&mut self) -> &mut Family {
        self
    }
}

/// The embeddings of a step and what is known of their pairs. Views only; cheap to copy.
pub struct Batch<'a, D: Device, T: 'static> {
    x: Matrix<'a, D, T>,
    y: Option<Matrix<'a, D, T>>,
    positives: Positives<'a, D>,
    ids: Option<Ids<'a, D>>,
    scale: Option<Scalar<'a, D>>,
}

impl<D: Device, T: 'static> Clone for Batch<'_, D, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device, T: 'static> Copy for Batch<'_, D, T> {}

impl<'a, D: Device, T: 'static> Batch<'a, D, T> {
    /// Anchors n×d against candidates m×d. Pair (i, i) is the positive of row i, unless
    /// [`labels`](Self::labels) or [`positives`](Self::positives) say otherwise; a row beyond the
    /// last candidate has none and still supplies negatives.
    pub fn new(x: Matrix<'a, D, T>, y: Matrix<'a, D, T>) -> Self {
        Self { x, y: Some(y), positives: Positives::Diagonal, ids: None, scale: None }
    }

    /// One set of embeddings against itself, self-pairs excluded. Needs
    /// [`labels`](Self::labels) or [`positives`](Self::positives).
    pub fn shared(embeddings: Matrix<'a, D, T>) -> Self {
        Self { x: embeddings, y: None, positives: Positives::Diagonal, ids: None, scale: None }
    }

    /// Pairs with equal labels are positive: n labels of the anchors, m of the candidates (the
    /// same buffer twice in the shared case).
    #[must_use]
    pub fn labels<S>(mut self, rows: &'a S, cols: &'a S) -> Self
    where
        S: Storage<Device = D, Element = u32> + ?Sized,
    {
        self.positives = Positives::Labels { rows: rows.view(), cols: cols.view() };
        self
    }

    /// Pair (i, index\[i\]) is the positive of row i, [`crate::NO_POSITIVE`] for none: n indices
    /// below m.
    ///
    /// A CUDA engine does not read them back: an index out of range makes its loss NaN, and
    /// [`Loss::check`] tells why.
    #[must_use]
    pub fn positives<S>(mut self, index: &'a S) -> Self
    where
        S: Storage<Device = D, Element = u32> + ?Sized,
    {
        self.positives = Positives::Index(index.view());
        self
    }

    /// Pairs with equal ids that are not positive are excluded: n ids of the anchors, m of the
    /// candidates.
    #[must_use]
    pub fn ids<S>(mut self, rows: &'a S, cols: &'a S) -> Self
    where
        S: Storage<Device = D, Element = u32> + ?Sized,
    {
        self.ids = Some(Ids { rows: rows.view(), cols: cols.view() });
        self
    }

    /// The scale of this batch instead of the loss's own: a number, or a device scalar that
    /// training changes. A device scalar that is not finite and positive makes the loss NaN.
    #[must_use]
    pub fn scale(mut self, scale: impl Into<Scalar<'a, D>>) -> Self {
        self.scale = Some(scale.into());
        self
    }
}

impl<'a, D: Device, T: 'static> From<(Matrix<'a, D, T>, Matrix<'a, D, T>)> for Batch<'a, D, T> {
    fn from((x, y): (Matrix<'a, D, T>, Matrix<'a, D, T>)) -> Self {
        Self::new(x, y)
    }
}

/// A loss value and what backward needs of it. Borrows the batch it came from.
pub struct Forward<'a, E: Engine, T: 'static> {
    /// The loss, one element on the engine's device; [`Engine::read`] fetches it.
    pub loss: E::Buffer,
    statistics: E::Statistics,
    problem: Problem<'a, E::Device, T>,
}

/// Gradients in new buffers of the engine's workspace, in `f32`; for other types there are the calls
/// that end in `_into`.
pub struct Gradients<E: Engine> {
    /// n×d; in the shared case the whole gradient of the one set.
    pub x: E::Buffer,
    /// m×d; `None` in the shared case.
    pub y: Option<E::Buffer>,
    /// One element: the gradient with respect to the scale, (1/s)·Σ S·G over all pairs, G being
    /// the weights of the chosen [`Weighting`].
    pub scale: E::Buffer,
}

impl<E: Engine> Gradients<E> {
    fn new<T: 'static>(engine: &mut E, problem: &Problem<'_, E::Device, T>) -> Result<Self> {
        let d = problem.x.cols;
        Ok(Self {
            x: engine.buffer(problem.x.rows * d)?,
            y: problem.y.map(|y| engine.buffer(y.rows * d)).transpose()?,
            scale: engine.buffer(1)?,
        })
    }

    fn as_mut<T: 'static>(
        &mut self,
        problem: &Problem<'_, E::Device, T>,
    ) -> Result<GradientsMut<'_, E::Device>> {
        let d = problem.x.cols;
        Ok(GradientsMut {
            x: Some(MatrixMut::new(&mut self.x, problem.x.rows, d)?),
            y: match (&mut self.y, problem.y) {
                (Some(buffer), Some(y)) => Some(MatrixMut::new(buffer, y.rows, d)?),
                _ => None,
            },
            scale: Some(self.scale.view_mut()),
        })
    }
}

/// What every loss of the family can do, on every engine. Bring it into scope to call a loss.
pub trait Loss: Sized {
    /// The options.
    fn family(&self) -> &Family;

    /// The options, to be changed.
    fn family_mut(&mut self) -> &mut Family;

    /// L2-normalises the rows of both sides first, forward and backward: embeddings may be raw. A
    /// row of norm at most [`crate::ops::NORM_EPS`] counts as zero, with a gradient of zero.
    #[must_use]
    fn normalize(mut self) -> Self {
        self.family_mut().normalize = true;
        self
    }

    /// Counts the `k` hardest negatives of the whole matrix alone ([`Mining::Hardest`]): with
    /// negatives of matrix scope this is cross-example negative mining (Veit & Wilber 2020).
    ///
    /// Mining from the first step can collapse training: warm up without it, and keep `k` a fair
    /// part of the pairs (a tenth of them trained well in trials, eight a row did not).
    #[must_use]
    fn hardest(mut self, k: usize) -> Self {
        self.family_mut().mining = Mining::Hardest(k);
        self
    }

    /// Counts the `k` hardest negatives of each row alone ([`Mining::HardestPerRow`]): with
    /// negatives of row scope this is stochastic negative mining (Reddi et al. 2019, arXiv
    /// 1810.07076). Warm up without it, as with [`hardest`](Self::hardest).
    #[must_use]
    fn hardest_per_row(mut self, k: usize) -> Self {
        self.family_mut().mining = Mining::HardestPerRow(k);
        self
    }

    /// Mean over positive pairs (the default) or sum.
    #[must_use]
    fn reduction(mut self, reduction: Reduction) -> Self {
        self.family_mut().reduction = reduction;
        self
    }

    /// How pairs weigh in the gradient; analytic by default.
    #[must_use]
    fn weighting(mut self, weighting: Weighting) -> Self {
        self.family_mut().weighting = weighting;
        self
    }

    /// The loss alone, and what [`backward`](Self::backward) needs. Asynchronous on CUDA.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names `x`, `y`, `labels`, `positives`, `ids`, `scale`, `k` or
    /// `weighting`; nothing has been launched then.
    fn forward<'a, E: Engine, T: Element>(
        &self,
        engine: &mut E,
        batch: impl Into<Batch<'a, E::Device, T>>,
    ) -> Result<Forward<'a, E, T>> {
        let problem = problem(self.family(), batch.into())?;
        let (loss, statistics) = engine.forward(&problem)?;
        Ok(Forward { loss, statistics, problem })
    }

    /// The gradients of `upstream` × loss, in new buffers. Asynchronous on CUDA.
    ///
    /// # Errors
    /// If `upstream` lives elsewhere, or memory runs out.
    fn backward<'u, E: Engine, T: Element>(
        &self,
        engine: &mut E,
        forward: &Forward<'_, E, T>,
        upstream: impl Into<Scalar<'u, E::Device>>,
    ) -> Result<Gradients<E>> {
        let mut gradients = Gradients::new(engine, &forward.problem)?;
        let out = gradients.as_mut(&forward.problem)?;
        self.backward_into(engine, forward, upstream, out)?;
        Ok(gradients)
    }

    /// [`backward`](Self::backward) into the caller's buffers, in `f32`, `f16` or `bf16`; what is
    /// `None` is left out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names `gradient x`, `gradient y` or `gradient scale`; nothing
    /// has been written then.
    fn backward_into<'u, E: Engine, T: Element, G: Element>(
        &self,
        engine: &mut E,
        forward: &Forward<'_, E, T>,
        upstream: impl Into<Scalar<'u, E::Device>>,
        out: GradientsMut<'_, E::Device, G>,
    ) -> Result<()> {
        check_outputs(&forward.problem, &out)?;
        let upstream = upstream.into();
        upstream.check("upstream")?;
        engine.backward(&forward.problem, &forward.statistics, upstream, out)
    }

    /// Loss and gradients together: what a trainer calls, in the fewest matrix products.
    /// Asynchronous on CUDA.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn loss_and_gradients<'a, E: Engine, T: Element>(
        &self,
        engine: &mut E,
        batch: impl Into<Batch<'a, E::Device, T>>,
    ) -> Result<(E::Buffer, Gradients<E>)>
    where
        E::Device: 'a,
    {
        let problem = problem(self.family(), batch.into())?;
        let mut gradients = Gradients::new(engine, &problem)?;
        let loss = engine.loss_and_gradients(&problem, gradients.as_mut(&problem)?)?;
        Ok((loss, gradients))
    }

    /// [`loss_and_gradients`](Self::loss_and_gradients) with the gradients in the caller's
    /// buffers, in `f32`, `f16` or `bf16`; what is `None` is left out.
    ///
    /// # Errors
    /// As [`forward`](Self::forward) and [`backward_into`](Self::backward_into).
    fn loss_and_gradients_into<'a, E: Engine, T: Element, G: Element>(
        &self,
        engine: &mut E,
        batch: impl Into<Batch<'a, E::Device, T>>,
        out: GradientsMut<'_, E::Device, G>,
    ) -> Result<E::Buffer>
    where
        E::Device: 'a,
    {
        let problem = problem(self.family(), batch.into())?;
        check_outputs(&problem, &out)?;
        engine.loss_and_gradients(&problem, out)
    }

    /// Checks what only the data can tell: that an explicit index is in range, that there is a
    /// positive pair. The CPU engine does so in every call; on CUDA this call waits for the
    /// stream, and without it such a batch gives a NaN loss.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] as described.
    fn check<'a, E: Engine, T: Element>(
        &self,
        engine: &mut E,
        batch: impl Into<Batch<'a, E::Device, T>>,
    ) -> Result<()>
    where
        E::Device: 'a,
    {
        engine.check(&problem(self.family(), batch.into())?)
    }
}

/// Checks options and shapes.
pub(crate) fn problem<'a, D: Device, T: 'static>(
    family: &Family,
    batch: Batch<'a, D, T>,
) -> Result<Problem<'a, D, T>> {
    let Batch { x, y, positives, ids, scale } = batch;
    let m = y.map_or(x.rows, |y| y.rows);
    if let Some(y) = y
        && y.cols != x.cols
    {
        return Err(Error::argument(
            "y",
            format!("embeddings of dimension {}", y.cols),
            format!("{}, the dimension of x", x.cols),
        ));
    }
    // Rows and columns are indexed by 31 bits inside kernels; their product is not.
    for (argument, count) in [("x", x.rows), ("y", m), ("x", x.cols)] {
        if count > i32::MAX as usize {
            return Err(Error::argument(
                argument,
                format!("a side of {count}"),
                format!("at most {}", i32::MAX),
            ));
        }
    }
    let length = |argument, view: D::View<'a, u32>, expected: usize, what: &str| {
        let given = D::len(view);
        if given == expected {
            return Ok(());
        }
        Err(Error::argument(
            argument,
            format!("{given} entries"),
            format!("{expected}, one {what}"),
        ))
    };
    match positives {
        Positives::Diagonal if y.is_none() => {
            return Err(Error::argument(
                "positives",
                "the diagonal of one shared set, where self-pairs are excluded",
                "labels, or an explicit index",
            ));
        }
        Positives::Diagonal => {}
        Positives::Labels { rows, cols } => {
            length("labels", rows, x.rows, "per row of x")?;
            length("labels", cols, m, "per row of y")?;
        }
        Positives::Index(index) => length("positives", index, x.rows, "per row of x")?,
    }
    if let Some(Ids { rows, cols }) = ids {
        length("ids", rows, x.rows, "per row of x")?;
        length("ids", cols, m, "per row of y")?;
    }
    let scale = scale.unwrap_or(Scalar::Value(family.scale));
    scale.check_scale()?;
    if family.weighting == Weighting::AnchorNormalized && family.scope == Scope::Matrix {
        return Err(Error::argument(
            "weighting",
            "anchor-normalised, with negatives of the whole matrix",
            "a loss of row scope: the weights are normalised per anchor",
        ));
    }
    Ok(Problem {
        x,
        y,
        positives,
        ids,
        scale,
        scope: family.scope,
        mining: mining(family.mining, x.rows, m)?,
        weighting: family.weighting,
        reduction: family.reduction,
        normalize: family.normalize,
    })
}

/// A count must be one; as many as there are pairs are all.
fn mining(mining: Mining, n: usize, m: usize) -> Result<Mining> {
    let (k, pairs) = match mining {
        Mining::All => return Ok(Mining::All),
        Mining::Hardest(k) => (k, n as u128 * m as u128),
        Mining::HardestPerRow(k) => (k, m as u128),
    };
    check_k(k)?;
    Ok(if k as u128 >= pairs { Mining::All } else { mining })
}

fn check_outputs<D: Device, T: 'static, G: 'static>(
    problem: &Problem<'_, D, T>,
    out: &GradientsMut<'_, D, G>,
) -> Result<()> {
    let shape = |argument, out: &Option<MatrixMut<'_, D, G>>, rows: usize| match out {
        Some(out) if (out.rows, out.cols) != (rows, problem.x.cols) => Err(Error::argument(
            argument,
            format!("{} × {}", out.rows, out.cols),
            format!("{rows} × {}", problem.x.cols),
        )),
        _ => Ok(()),
    };
    shape("gradient x", &out.x, problem.x.rows)?;
    match problem.y {
        Some(y) => shape("gradient y", &out.y, y.rows)?,
        None if out.y.is_some() => {
            return Err(Error::argument(
                "gradient y",
                "a buffer",
                "None: in the shared case the gradient of x is the whole gradient",
            ));
        }
        None => {}
    }
    if out.scale.as_ref().is_some_and(|scale| D::len_mut(scale) == 0) {
        return Err(Error::argument("gradient scale", "an empty buffer", "one element"));
    }
    Ok(())
}
