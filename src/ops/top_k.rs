//! Room: primitives. The most similar pairs of a matrix that is never held.

use super::{check_dimension, pairs_of_top_k};
use crate::matrix::{Device, StorageMut};
use crate::{Element, Engine, Error, Matrix, Result, Scope};

/// The most similar pairs, in result memory of the engine: sorted by similarity, descending, then
/// by row, then by column, all ascending.
pub struct TopK<E: Engine> {
    /// Pairs of each row ([`Scope::Row`]), or in all ([`Scope::Matrix`]): k, or as many as there
    /// are.
    pub k: usize,
    /// Similarities: n×k, one row of results for each row of S, or k.
    pub values: E::Buffer,
    /// The row of each pair, k in all; `None` for [`Scope::Row`], where the place tells.
    pub rows: Option<E::Indices>,
    /// The column of each pair, as many as there are values.
    pub columns: E::Indices,
}

/// Where [`top_k_into`] puts pairs, in the order of [`TopK`]. Buffers may be longer than what is
/// written.
pub struct TopKMut<'o, D: Device> {
    /// Similarities.
    pub values: D::ViewMut<'o, f32>,
    /// The row of each pair; `None` for [`Scope::Row`], where the place tells.
    pub rows: Option<D::ViewMut<'o, u32>>,
    /// The column of each pair.
    pub columns: D::ViewMut<'o, u32>,
}

impl<D: Device> TopKMut<'_, D> {
    /// Whether there is room for so many pairs, of this scope.
    pub(crate) fn check(&self, pairs: usize, scope: Scope) -> Result<()> {
        let room = |argument, given: usize| match given >= pairs {
            true => Ok(()),
            false => Err(Error::argument(
                argument,
                format!("a buffer of {given} elements"),
                format!("room for {pairs} pairs"),
            )),
        };
        room("values", D::len_mut(&self.values))?;
        room("columns", D::len_mut(&self.columns))?;
        match (scope, &self.rows) {
            (Scope::Matrix, Some(rows)) => room("rows", D::len_mut(rows)),
            (Scope::Row, None) => Ok(()),
            (Scope::Matrix, None) => {
                Err(Error::argument("rows", "None", "a buffer: pairs are of the whole matrix"))
            }
            (Scope::Row, Some(_)) => {
                Err(Error::argument("rows", "a buffer", "None: pairs lie at their rows' places"))
            }
        }
    }
}

/// The `k` largest elements of each row of S = X·Yᵀ (n×m, in `f32`), or of all of it, with their
/// places. Every pair counts. Exact: what sorting all of S would give first, equal similarities in
/// the order of row, then column (−0 equals 0), NaN after every number. More than there are gives
/// all. Asynchronous on CUDA.
///
/// # Errors
/// If the dimensions differ, `k` is 0, or memory for the pairs cannot be had;
/// [`Error::WorkspaceTooSmall`](crate::Error::WorkspaceTooSmall) above an engine's bound.
pub fn top_k<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    y: Matrix<'_, E::Device, T>,
    k: usize,
    scope: Scope,
) -> Result<TopK<E>> {
    check_dimension(x, y)?;
    let pairs = pairs_of_top_k(x.rows(), y.rows(), k, scope)?;
    let mut result = TopK::<E> {
        k: match scope {
            Scope::Row => k.min(y.rows()),
            Scope::Matrix => pairs,
        },
        values: engine.buffer(pairs)?,
        rows: (scope == Scope::Matrix).then(|| engine.indices(pairs)).transpose()?,
        columns: engine.indices(pairs)?,
    };
    let out = TopKMut {
        values: result.values.view_mut(),
        rows: result.rows.as_mut().map(StorageMut::view_mut),
        columns: result.columns.view_mut(),
    };
    engine.top_k(x, y, k, scope, out)?;
    Ok(result)
}

/// [`top_k`] into the caller's buffers.
///
/// # Errors
/// As [`top_k`]; and if a buffer is too short, or `rows` is there for [`Scope::Row`] or not there
/// for [`Scope::Matrix`]. Nothing has been written then.
pub fn top_k_into<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    y: Matrix<'_, E::Device, T>,
    k: usize,
    scope: Scope,
    out: TopKMut<'_, E::Device>,
) -> Result<()> {
    engine.top_k(x, y, k, scope, out)
}
