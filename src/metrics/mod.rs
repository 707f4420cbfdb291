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

use crate::engine::cpu::{Pairs, Rows};
use crate::engine::{Ids, Positives};
use crate::loss::{self, Batch, Family, Scope};
use crate::matrix::Host;
use crate::{Element, NO_POSITIVE, Result};

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

impl<'a> Evaluation<'a> {
    /// Pairs ranked by dot product: for rows that are normalised already, or not meant to be.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] names `y`, `labels`, `positives` or `ids` where lengths or
    /// dimensions do not fit, an index is out of range or names a self-pair, or no pair is
    /// positive.
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
        let family = Family { normalize, ..Family::new(1.0, Scope::Row) };
        let problem = loss::problem(&family, batch)?;
        let pairs = Pairs::new(&problem)?;
        Ok(Self {
            x: Rows::new(problem.x, normalize),
            y: problem.y.map(|y| Rows::new(y, normalize)),
            positives: problem.positives,
            ids: problem.ids,
            pairs: (0..problem.x.rows()).map(|i| pairs.positive_count(i) as u64).sum(),
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
