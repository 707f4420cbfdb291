//! Room: primitives. L2 normalisation of rows, forward and backward.

use super::check_shape;
use crate::{Element, Engine, Matrix, MatrixMut, Result};

/// A row whose L2 norm is at most this counts as zero: it normalises to zero, with a gradient of
/// zero.
pub const NORM_EPS: f32 = 1e-12;

/// x̂ = x/‖x‖ for every row of `x` (n×d), in `f32`, in a new buffer. Rows of norm at most
/// [`NORM_EPS`] become zero. Asynchronous on CUDA.
///
/// # Errors
/// If memory runs out.
pub fn normalize<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
) -> Result<E::Buffer> {
    let mut out = engine.buffer(x.rows() * x.cols())?;
    engine.normalize(x, MatrixMut::new(&mut out, x.rows(), x.cols())?)?;
    Ok(out)
}

/// [`normalize`] into the caller's n×d buffer.
///
/// # Errors
/// If `out` is not n×d; nothing has been written then.
pub fn normalize_into<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    out: MatrixMut<'_, E::Device, f32>,
) -> Result<()> {
    engine.normalize(x, out)
}

/// The gradient with respect to `x`, given `gradient` with respect to x̂ (both n×d), in a new
/// buffer: (g − x̂·(x̂·g))/‖x‖. Asynchronous on CUDA.
///
/// # Errors
/// If the shapes differ, or memory runs out.
pub fn normalize_backward<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    gradient: Matrix<'_, E::Device, f32>,
) -> Result<E::Buffer> {
    check_shape("gradient", (gradient.rows(), gradient.cols()), (x.rows(), x.cols()))?;
    let mut out = engine.buffer(x.rows() * x.cols())?;
    engine.normalize_backward(x, gradient, MatrixMut::new(&mut out, x.rows(), x.cols())?)?;
    Ok(out)
}

/// [`normalize_backward`] into the caller's n×d buffer.
///
/// # Errors
/// If the shapes differ; nothing has been written then.
pub fn normalize_backward_into<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    gradient: Matrix<'_, E::Device, f32>,
    out: MatrixMut<'_, E::Device, f32>,
) -> Result<()> {
    engine.normalize_backward(x, gradient, out)
}
