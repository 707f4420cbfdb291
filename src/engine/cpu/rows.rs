//! Room: engines, CPU. Embeddings as `f32` rows: borrowed where they are already, converted or
//! L2-normalised where not.

use std::borrow::Cow;

use rayon::prelude::*;

use super::product::Block;
use super::row;
use crate::matrix::{Host, Matrix, MatrixMut};
use crate::ops::NORM_EPS;
use crate::{DType, Element};

/// n rows of d `f32`.
pub(crate) struct Rows<'a> {
    data: Cow<'a, [f32]>,
    stride: usize,
    pub n: usize,
    pub d: usize,
    /// 1/‖row‖ of the rows before normalisation, 0 for rows that count as zero; empty if the rows
    /// are as they came.
    pub inverse_norms: Vec<f32>,
    /// Whether every element is finite.
    pub finite: bool,
}

impl<'a> Rows<'a> {
    pub fn new<T: Element>(matrix: Matrix<'a, Host, T>, normalize: bool) -> Self {
        let Matrix { data, rows: n, cols: d, row_stride } = matrix;
        if T::DTYPE == DType::F32 && !normalize {
            let data: &[f32] = bytemuck::cast_slice(data);
            let finite =
                data.par_chunks(row_stride).with_min_len(64).all(|row| row::is_finite(&row[..d]));
            return Self {
                data: Cow::Borrowed(data),
                stride: row_stride,
                n,
                d,
                inverse_norms: Vec::new(),
                finite,
            };
        }
        let mut out = vec![0.0f32; n * d];
        let mut inverse_norms = vec![0.0f32; if normalize { n } else { 0 }];
        let convert = |(row, out): (&[T], &mut [f32])| {
            out.iter_mut().zip(row).for_each(|(out, value)| *out = value.to_f32());
            row::is_finite(out)
        };
        let rows = data.par_chunks(row_stride).zip(out.par_chunks_mut(d)).with_min_len(64);
        let finite = if normalize {
            rows.zip(&mut inverse_norms)
                .map(|(pair, inverse)| {
                    let (row, out) = pair;
                    let finite = convert((row, &mut *out));
                    *inverse = unit(out);
                    finite
                })
                .reduce(|| true, |a, b| a & b)
        } else {
            rows.map(convert).reduce(|| true, |a, b| a & b)
        };
        Self { data: Cow::Owned(out), stride: d, n, d, inverse_norms, finite }
    }

    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.stride..][..self.d]
    }

    /// Rows `first..first + count` as a matrix.
    pub fn block(&self, first: usize, count: usize) -> Block<'_> {
        Block::new(&self.data[first * self.stride..], count, self.d, self.stride)
    }

    /// Turns row i's gradient with respect to the row as it is here into that with respect to the
    /// row as it came, times `factor`.
    pub fn finish_gradient(&self, i: usize, gradient: &mut [f32], factor: f32) {
        let factor = match self.inverse_norms.get(i) {
            None => factor,
            Some(&inverse) => {
                let along = row::dot(self.row(i), gradient);
                row::add_scaled(gradient, -along as f32, self.row(i));
                if inverse == 0.0 {
                    gradient.fill(0.0);
                    return;
                }
                factor * inverse
            }
        };
        if factor != 1.0 {
            row::multiply(gradient, factor);
        }
    }

    /// Copies the rows out.
    pub fn write(&self, out: &mut MatrixMut<'_, Host, f32>) {
        let stride = out.row_stride;
        for (i, out) in out.data.chunks_mut(stride).take(self.n).enumerate() {
            out[..self.d].copy_from_slice(self.row(i));
        }
    }
}

/// Divides a row by its norm; returns 1/‖row‖, or 0 for a row that counts as zero and is made so.
fn unit(row: &mut [f32]) -> f32 {
    // f64 holds the square of any f32, so nothing overflows or vanishes on the way.
    let norm = row::dot(row, row).sqrt();
    if norm <= f64::from(NORM_EPS) {
        row.fill(0.0);
        return 0.0;
    }
    let inverse = 1.0 / norm;
    row.iter_mut().for_each(|value| *value = (f64::from(*value) * inverse) as f32);
    inverse as f32
}
