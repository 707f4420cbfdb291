//! Room: metrics. Evaluation without the matrix: every pair of a test set is ranked, none is kept.
//!
//! ```
//! use metric_kernels::{Matrix, metrics::Evaluation};
//!
//! let queries = [1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0];
//! let candidates = [2.0f32, 0.1, 0.3, 1.0, 1.0, 0.0];
//! let (x, y) = (Matrix::new(&queries, 3, 2)?, Matrix::new(&candidates, 3, 2)?);
//!
//! let test = Evaluation::cosine((x, y))?;
//! assert_eq!(test.recall_at_k(&[1, 2, 3])?, [1.0 / 3.0, 2.0 / 3.0, 1.0]);
//! assert!(test.average_precision()? < 0.7);
//! # Ok::<(), metric_kernels::Error>(())
//! ```
//!
//! Similarities are computed tile by tile in `f32` and only counted. Every result is made of
//! integer counts, so it does not depend on the number of threads.
//!
//! A NaN similarity ranks below every number, −∞ included; NaNs tie with each other.

mod precision;
mod rank;
mod sweep;

pub use precision::{Histogram, PrecisionRecall};

use std::borrow::Cow;
use std::collections::HashMap;

use crate::engine::{Ids, Positives};
use crate::loss::{self, Batch, Family, Reduction, Scope, Weighting};
use crate::matrix::Host;
use crate::{CpuEngine, Element, Error, Matrix, NO_POSITIVE, Result, ops};

/// A test set on the host: n queries against m candidates and which pairs match.
///
/// Positives and excluded pairs are those of the [`Batch`], as in training: the diagonal, labels
/// or an explicit index; self-pairs of a shared batch and pairs of equal ids do not count at all.
/// The batch's scale plays no part.
///
/// Rows of `f32` laid out back to back or strided are borrowed; other types, and rows to be
/// normalised, are copied once as `f32`: O((n+m)·d).
pub struct Evaluation<'a> {
    x: Rows<'a>,
    /// `None` in the shared case.
    y: Option<Rows<'a>>,
    positives: Positives<'a, Host>,
    ids: Option<Ids<'a, Host>>,
    /// Positive pairs in all; above 0.
    pairs: u64,
}

/// Embeddings in `f32`.
struct Rows<'a> {
    data: Cow<'a, [f32]>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    fn new<T: Element>(matrix: Matrix<'a, Host, T>, normalize: bool) -> Result<Self> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let dense = |data| Self { data: Cow::Owned(data), rows, cols, stride: cols };
        if normalize {
            return ops::normalize(&mut CpuEngine::new(), matrix).map(dense);
        }
        if let Ok(data) = bytemuck::try_cast_slice::<T, f32>(matrix.data)
            && T::DTYPE == crate::DType::F32
        {
            return Ok(Self { data: Cow::Borrowed(data), rows, cols, stride: matrix.row_stride() });
        }
        let row = |i: usize| &matrix.data[i * matrix.row_stride()..][..cols];
        Ok(dense((0..rows).flat_map(row).map(|value| value.to_f32()).collect()))
    }
}

impl<'a> Evaluation<'a> {
    /// Pairs ranked by dot product: for rows that are normalised already, or not meant to be.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names `y`, `labels`, `positives` or `ids` where lengths or
    /// dimensions do not fit, an index is out of range, or no pair is positive.
    pub fn new<T: Element>(batch: impl Into<Batch<'a, Host, T>>) -> Result<Self> {
        Self::build(batch.into(), false)
    }

    /// Pairs ranked by cosine: rows are L2-normalised first, as by [`crate::Loss::normalize`].
    ///
    /// # Errors
    /// As [`Evaluation::new`].
    pub fn cosine<T: Element>(batch: impl Into<Batch<'a, Host, T>>) -> Result<Self> {
        Self::build(batch.into(), true)
    }

    fn build<T: Element>(batch: Batch<'a, Host, T>, normalize: bool) -> Result<Self> {
        // The family brings the checks of shapes that training has.
        let family = Family {
            scale: 1.0,
            scope: Scope::Row,
            weighting: Weighting::Analytic,
            reduction: Reduction::Mean,
            normalize,
        };
        let problem = loss::problem(&family, batch)?;
        Ok(Self {
            x: Rows::new(problem.x, normalize)?,
            y: problem.y.map(|y| Rows::new(y, normalize)).transpose()?,
            positives: problem.positives,
            ids: problem.ids,
            pairs: count_positives(
                problem.positives,
                problem.x.rows(),
                problem.candidates().rows(),
                problem.shared(),
            )?,
        })
    }

    /// The number of positive pairs, P.
    pub fn positive_pairs(&self) -> u64 {
        self.pairs
    }

    fn candidates(&self) -> &Rows<'a> {
        self.y.as_ref().unwrap_or(&self.x)
    }

    fn shared(&self) -> bool {
        self.y.is_none()
    }

    /// How row `i` looks at its candidates.
    fn row(&self, i: usize) -> Row<'_> {
        Row {
            positives: match self.positives {
                Positives::Diagonal => RowPositives::At(i as u32),
                Positives::Index(index) if self.shared() && index[i] as usize == i => {
                    RowPositives::At(NO_POSITIVE)
                }
                Positives::Index(index) => RowPositives::At(index[i]),
                Positives::Labels { rows, cols } => RowPositives::Labelled(rows[i], cols),
            },
            ids: self.ids.map(|ids| (ids.rows[i], ids.cols)),
            own: if self.shared() { i as u32 } else { NO_POSITIVE },
        }
    }
}

/// What a pair is to the metrics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pair {
    Positive,
    Negative,
    Excluded,
}

/// One row's view of which candidates match.
#[derive(Clone, Copy)]
struct Row<'a> {
    positives: RowPositives<'a>,
    ids: Option<(u32, &'a [u32])>,
    /// The column of the self-pair; [`NO_POSITIVE`], which no column is, where there is none.
    own: u32,
}

#[derive(Clone, Copy)]
enum RowPositives<'a> {
    /// At most one, in this column.
    At(u32),
    /// The columns of this label.
    Labelled(u32, &'a [u32]),
}

impl Row<'_> {
    fn pair(&self, j: usize) -> Pair {
        let positive = match self.positives {
            RowPositives::At(column) => j as u32 == column,
            RowPositives::Labelled(label, columns) => columns[j] == label,
        };
        if j as u32 == self.own {
            Pair::Excluded
        } else if positive {
            Pair::Positive
        } else if self.ids.is_some_and(|(id, columns)| columns[j] == id) {
            Pair::Excluded
        } else {
            Pair::Negative
        }
    }

    /// Whether any column of `columns` may be positive.
    fn any_positive(&self, columns: &std::ops::Range<usize>) -> bool {
        match self.positives {
            RowPositives::At(column) => columns.contains(&(column as usize)),
            RowPositives::Labelled(label, labels) => labels[columns.clone()].contains(&label),
        }
    }
}

/// P, or an error if there is none or an index is out of range. O(n + m) time and memory.
fn count_positives(
    positives: Positives<'_, Host>,
    n: usize,
    m: usize,
    shared: bool,
) -> Result<u64> {
    let (argument, pairs) = match positives {
        Positives::Diagonal => ("positives", n.min(m) as u64),
        Positives::Index(index) => {
            let mut pairs = 0;
            for (i, &j) in index.iter().enumerate() {
                if j == NO_POSITIVE || (shared && i == j as usize) {
                    continue;
                }
                if j as usize >= m {
                    return Err(Error::argument(
                        "positives",
                        format!("index {j} in row {i}"),
                        format!("less than {m}, the number of candidates, or NO_POSITIVE"),
                    ));
                }
                pairs += 1;
            }
            ("positives", pairs)
        }
        Positives::Labels { rows, cols } => {
            let mut columns = HashMap::<u32, u64>::new();
            for &label in cols {
                *columns.entry(label).or_default() += 1;
            }
            let all: u64 = rows.iter().map(|label| columns.get(label).unwrap_or(&0)).sum();
            let own =
                if shared { rows.iter().zip(cols).filter(|(a, b)| a == b).count() } else { 0 };
            ("labels", all - own as u64)
        }
    };
    if pairs == 0 {
        return Err(Error::argument(argument, "no positive pair", "at least one"));
    }
    Ok(pairs)
}
