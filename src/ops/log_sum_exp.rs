//! Room: primitives. Log-sum-exp of the similarity matrix, which is never held.

use crate::{Element, Engine, Matrix, Result, Scalar, Scope};

/// log Σ exp(s·S_ij) with S = X·Yᵀ, every pair counted: over each row (n results) or over the whole
/// matrix (one result). Asynchronous on CUDA.
///
/// # Errors
/// If the dimensions differ, or `scale` is a number that is not finite and above 0.
pub fn log_sum_exp<'s, E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    y: Matrix<'_, E::Device, T>,
    scale: impl Into<Scalar<'s, E::Device>>,
    scope: Scope,
) -> Result<E::Buffer> {
    engine.log_sum_exp(x, y, scale.into(), scope)
}
