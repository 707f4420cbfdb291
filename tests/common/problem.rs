//! A problem as plain data: what the oracle and every engine are asked to compute.

use half::{bf16, f16};
use metric_kernels::{DType, Mining, NO_POSITIVE, Reduction, Scope, Weighting};

/// The named losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    InBatchSoftmax,
    CrossExampleSoftmax,
    InstanceCrossEntropy,
}

impl Named {
    pub const ALL: [Self; 3] =
        [Self::InBatchSoftmax, Self::CrossExampleSoftmax, Self::InstanceCrossEntropy];

    pub fn scope(self) -> Scope {
        match self {
            Self::CrossExampleSoftmax => Scope::Matrix,
            Self::InBatchSoftmax | Self::InstanceCrossEntropy => Scope::Row,
        }
    }
}

/// Which pairs match.
#[derive(Clone, Debug, PartialEq)]
pub enum Positives {
    Diagonal,
    Labels { rows: Vec<u32>, cols: Vec<u32> },
    Index(Vec<u32>),
}

/// What a pair is. Every pair is exactly one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    Positive,
    Negative,
    Excluded,
}

/// One evaluation of the family, on plain numbers. Rows lie back to back.
#[derive(Clone, Debug)]
pub struct Problem {
    pub loss: Named,
    pub n: usize,
    pub m: usize,
    pub d: usize,
    /// n×d, already values of `dtype`.
    pub x: Vec<f32>,
    /// m×d, already values of `dtype`; `None` in the shared case.
    pub y: Option<Vec<f32>>,
    pub positives: Positives,
    pub ids: Option<(Vec<u32>, Vec<u32>)>,
    pub scale: f32,
    pub mining: Mining,
    pub weighting: Weighting,
    pub reduction: Reduction,
    pub normalize: bool,
    pub dtype: DType,
}

impl Problem {
    /// x against y, the diagonal positive, default options.
    pub fn new(loss: Named, scale: f32, (n, m, d): (usize, usize, usize)) -> Self {
        Self {
            loss,
            n,
            m,
            d,
            x: vec![0.0; n * d],
            y: Some(vec![0.0; m * d]),
            positives: Positives::Diagonal,
            ids: None,
            scale,
            mining: Mining::All,
            weighting: Weighting::Analytic,
            reduction: Reduction::Mean,
            normalize: false,
            dtype: DType::F32,
        }
    }

    /// The similarities themselves as the problem: x = S and y = I, so that dX is G.
    pub fn of_similarities(loss: Named, scale: f32, n: usize, m: usize, s: &[f32]) -> Self {
        let mut problem = Self::new(loss, scale, (n, m, m));
        problem.x = s.to_vec();
        problem.y = Some((0..m * m).map(|at| f32::from(at % (m + 1) == 0)).collect());
        problem
    }

    pub fn with_labels(mut self, rows: &[u32], cols: &[u32]) -> Self {
        self.positives = Positives::Labels { rows: rows.to_vec(), cols: cols.to_vec() };
        self
    }

    pub fn with_index(mut self, index: &[u32]) -> Self {
        self.positives = Positives::Index(index.to_vec());
        self
    }

    pub fn with_ids(mut self, rows: &[u32], cols: &[u32]) -> Self {
        self.ids = Some((rows.to_vec(), cols.to_vec()));
        self
    }

    pub fn with_mining(mut self, mining: Mining) -> Self {
        self.mining = mining;
        self
    }

    pub fn shared(&self) -> bool {
        self.y.is_none()
    }

    /// The candidates, also in the shared case.
    pub fn candidates(&self) -> &[f32] {
        self.y.as_deref().unwrap_or(&self.x)
    }

    fn matches(&self, i: usize, j: usize) -> bool {
        match &self.positives {
            Positives::Diagonal => i == j,
            Positives::Labels { rows, cols } => rows[i] == cols[j],
            Positives::Index(index) => index[i] != NO_POSITIVE && index[i] as usize == j,
        }
    }

    /// The three masks, explicitly.
    pub fn pair(&self, i: usize, j: usize) -> Pair {
        let duplicate = self.ids.as_ref().is_some_and(|(rows, cols)| rows[i] == cols[j]);
        if self.shared() && i == j {
            Pair::Excluded
        } else if self.matches(i, j) {
            Pair::Positive
        } else if duplicate {
            Pair::Excluded
        } else {
            Pair::Negative
        }
    }

    /// How many pairs of a kind there are.
    pub fn count(&self, kind: Pair) -> usize {
        let pairs = (0..self.n).flat_map(|i| (0..self.m).map(move |j| (i, j)));
        pairs.filter(|&(i, j)| self.pair(i, j) == kind).count()
    }

    /// The group of negatives that row i's positives are compared with.
    pub fn group(&self, i: usize) -> usize {
        match self.loss.scope() {
            Scope::Row => i,
            Scope::Matrix => 0,
        }
    }

    /// Rounds the embeddings to `dtype`: what the engine is going to see.
    pub fn rounded_to(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        let round = |values: &mut Vec<f32>| {
            for value in values {
                *value = round_to(dtype, *value);
            }
        };
        round(&mut self.x);
        self.y.as_mut().map(round);
        self
    }

    /// Anchors and candidates in each other's place.
    pub fn transposed(&self) -> Self {
        let mut other = self.clone();
        let y = self.y.clone().expect("not shared");
        assert!(!matches!(self.mining, Mining::HardestPerRow(_)), "rows become columns");
        (other.n, other.m) = (self.m, self.n);
        other.y = Some(std::mem::replace(&mut other.x, y));
        other.positives = match &self.positives {
            Positives::Diagonal => Positives::Diagonal,
            Positives::Labels { rows, cols } => {
                Positives::Labels { rows: cols.clone(), cols: rows.clone() }
            }
            Positives::Index(_) => panic!("an index has a direction"),
        };
        other.ids = self.ids.clone().map(|(rows, cols)| (cols, rows));
        other
    }
}

/// The nearest value of `dtype`.
pub fn round_to(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// Seeded random numbers for tests.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    /// Uniform in (−1, 1).
    pub fn signed(&mut self) -> f32 {
        2.0 * self.0.f32() - 1.0
    }

    /// Uniform in (−bound, bound).
    pub fn values(&mut self, count: usize, bound: f32) -> Vec<f32> {
        (0..count).map(|_| bound * self.signed()).collect()
    }

    /// Whole numbers from −bound to bound: their dot products are exact in f32.
    pub fn whole(&mut self, count: usize, bound: i32) -> Vec<f32> {
        (0..count).map(|_| self.0.i32(-bound..=bound) as f32).collect()
    }

    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.0.shuffle(&mut order);
        order
    }

    /// Fills in embeddings of norm about 1 of which those that match are alike: candidates are
    /// noisy copies of an anchor that they match, or noise.
    pub fn embeddings(&mut self, problem: &mut Problem) {
        let (n, m, d) = (problem.n, problem.m, problem.d);
        let unit = (3.0 / d as f32).sqrt();
        problem.x = self.values(n * d, unit);
        if problem.shared() {
            for i in 1..n {
                let Some(j) = (0..i).find(|&j| problem.pair(i, j) == Pair::Positive) else {
                    continue;
                };
                for k in 0..d {
                    problem.x[i * d + k] = 0.7 * problem.x[i * d + k] + 0.5 * problem.x[j * d + k];
                }
            }
            return;
        }
        let mut y = self.values(m * d, unit);
        for j in 0..m {
            let Some(i) = (0..n).find(|&i| problem.pair(i, j) == Pair::Positive) else { continue };
            for k in 0..d {
                y[j * d + k] = 0.7 * y[j * d + k] + 0.6 * problem.x[i * d + k];
            }
        }
        problem.y = Some(y);
    }

    /// Multiplies every row by a number between 1/4 and 4: raw embeddings.
    pub fn stretch(&mut self, values: &mut [f32], d: usize) {
        for row in values.chunks_exact_mut(d) {
            let factor = (2.0 * self.signed()).exp2();
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// `count` labels of `classes` classes.
    pub fn labels(&mut self, count: usize, classes: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.u32(..classes as u32)).collect()
    }
}
