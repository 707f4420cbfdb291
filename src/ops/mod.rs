//! Room: primitives. The passes behind the losses, for those who build their own.

mod log_sum_exp;
mod normalize;
mod similarity;
mod top_k;

pub use log_sum_exp::log_sum_exp;
pub use normalize::{
    NORM_EPS, normalize, normalize_backward, normalize_backward_into, normalize_into,
};
pub use similarity::{similarity, similarity_into};
pub use top_k::{TopK, TopKMut, top_k, top_k_into};

use crate::matrix::Device;
use crate::{Error, Matrix, Result, Scope};

/// Two sets of embeddings must have one dimension. Engines check their own arguments with this and
/// the next: they can be called without the functions here.
pub(crate) fn check_dimension<D: Device, T: 'static>(
    x: Matrix<'_, D, T>,
    y: Matrix<'_, D, T>,
) -> Result<()> {
    if x.cols() == y.cols() {
        return Ok(());
    }
    Err(Error::argument(
        "y",
        format!("embeddings of dimension {}", y.cols()),
        format!("{}, the dimension of x", x.cols()),
    ))
}

/// A count of hardest pairs must be one.
pub(crate) fn check_k(k: usize) -> Result<()> {
    if k > 0 {
        return Ok(());
    }
    Err(Error::argument("k", "0", "at least 1"))
}

/// How many pairs a selection gives: `k`, or all there are.
pub(crate) fn pairs_of_top_k(n: usize, m: usize, k: usize, scope: Scope) -> Result<usize> {
    check_k(k)?;
    match scope {
        Scope::Row => n.checked_mul(k.min(m)).ok_or_else(|| {
            Error::argument("k", format!("{k} pairs in each of {n} rows"), "pairs that fit")
        }),
        Scope::Matrix => Ok(n.checked_mul(m).map_or(k, |pairs| k.min(pairs))),
    }
}

/// An output must have the shape that the operation gives.
pub(crate) fn check_shape(
    argument: &'static str,
    given: (usize, usize),
    expected: (usize, usize),
) -> Result<()> {
    if given == expected {
        return Ok(());
    }
    Err(Error::argument(
        argument,
        format!("{} × {}", given.0, given.1),
        format!("{} × {}", expected.0, expected.1),
    ))
}
