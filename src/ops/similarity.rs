//! Room: primitives. The similarity matrix itself, for sizes at which it fits.

use super::check_dimension;
use crate::{Element, Engine, Error, Matrix, MatrixMut, Result};

/// S = X·Yᵀ in `f32`: n×m dot products of the rows of `x` (n×d) and `y` (m×d), in a new buffer.
/// Asynchronous on CUDA. The one call of the crate that allocates n·m numbers.
///
/// # Errors
/// If the dimensions differ, or the matrix does not fit in memory.
pub fn similarity<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    y: Matrix<'_, E::Device, T>,
) -> Result<E::Buffer> {
    check_dimension(x, y)?;
    let elements = x.rows().checked_mul(y.rows()).ok_or_else(|| {
        Error::argument("y", format!("{} × {} pairs", x.rows(), y.rows()), "a matrix that fits")
    })?;
    let mut out = engine.buffer(elements)?;
    similarity_into(engine, x, y, MatrixMut::new(&mut out, x.rows(), y.rows())?)?;
    Ok(out)
}

/// [`similarity`] into the caller's n×m buffer.
///
/// # Errors
/// If the dimensions differ, or `out` is not n×m; nothing has been written then.
pub fn similarity_into<E: Engine, T: Element>(
    engine: &mut E,
    x: Matrix<'_, E::Device, T>,
    y: Matrix<'_, E::Device, T>,
    out: MatrixMut<'_, E::Device, f32>,
) -> Result<()> {
    engine.similarity(x, y, out)
}
