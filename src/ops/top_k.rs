//! Room: primitives. The most similar pairs of a matrix that is never held.

use crate::{Element, Engine, Matrix, Result, Scope};

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
    engine.top_k(x, y, k, scope)
}
