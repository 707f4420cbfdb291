//! Room: engines, CPU. The one loop over the similarity matrix: strips of rows, computed, visited
//! and multiplied on while they are in a core's cache.
//!
//! A panel of at most 512 rows of S exists at a time. Each strip of a panel belongs to one thread,
//! which computes it, lets the pass turn it into weights G, and multiplies it into its rows of dX.
//! Then the panel's columns are shared out, and dY += Gᵀ·X. S is computed once, also for losses of
//! row scope, since a strip holds whole rows: 3 products where tiles of a GPU need 4.
//!
//! Strips and column blocks depend on shapes alone, so results do not depend on the thread count.

use rayon::prelude::*;

use super::product::{Block, product};
use super::row;
use super::rows::Rows;
use crate::matrix::{Host, MatrixMut};

/// What happens to a row of similarities.
pub(super) trait Pass: Sync {
    /// What is kept of a row.
    type Row: Clone + Send + Sync;

    /// Before a row has been visited.
    const EMPTY: Self::Row;

    /// Reads row i of S and replaces it by weights, if the pass has any.
    fn visit(&self, i: usize, row: &mut [f32]) -> Self::Row;

    /// How the rows of a visited panel count towards dY; `None` where weights are final.
    fn rescale(&mut self, _panel: &[Self::Row]) -> Option<Rescale> {
        None
    }
}

/// dY ← before·dY + Gᵀ·diag(rows)·X.
pub(super) struct Rescale {
    pub before: f32,
    pub rows: Vec<f32>,
}

/// Rows of a panel at most: no more memory than the embeddings from d = 256 on.
const MOST_ROWS: usize = 512;

/// Panel elements beyond which a panel has fewer rows: 64 MiB.
const PANEL_ELEMENTS: usize = 1 << 24;

/// Rows of a strip. A product packs its right operand anew for every strip: 128 rows make that small
/// beside the product itself; fewer where that leaves threads without work.
fn strip_rows(n: usize) -> usize {
    (n / 16).next_multiple_of(8).clamp(8, 128)
}

fn panel_rows(n: usize, m: usize) -> usize {
    let strip = strip_rows(n);
    (PANEL_ELEMENTS / m / strip * strip).clamp(strip, MOST_ROWS).min(n)
}

fn column_block(m: usize) -> usize {
    (m / 16).next_multiple_of(16).clamp(16, 512)
}

/// Runs `pass` over every row of X·Yᵀ; writes G·Y to `dx` and Gᵀ·X to `dy` where asked. `panel` is
/// scratch, kept by the caller for the next call.
pub(super) fn sweep<P: Pass>(
    x: &Rows<'_>,
    y: &Rows<'_>,
    panel: &mut Vec<f32>,
    pass: &mut P,
    mut dx: Option<&mut MatrixMut<'_, Host, f32>>,
    mut dy: Option<&mut MatrixMut<'_, Host, f32>>,
) -> Vec<P::Row> {
    let (n, m, d) = (x.n, y.n, x.d);
    let (strip, panel_rows) = (strip_rows(n), panel_rows(n, m));
    if panel.len() < panel_rows * m {
        panel.resize(panel_rows * m, 0.0);
    }
    let mut results = vec![P::EMPTY; n];
    let mut weighted = Vec::new();
    for first in (0..n).step_by(panel_rows) {
        let count = panel_rows.min(n - first);
        let panel = &mut panel[..count * m];

        let gradients: Vec<Option<(&mut [f32], usize)>> = match &mut dx {
            None => (0..count.div_ceil(strip)).map(|_| None).collect(),
            Some(MatrixMut { data, row_stride, .. }) => data[first * *row_stride..]
                .chunks_mut(strip * *row_stride)
                .take(count.div_ceil(strip))
                .map(|rows| Some((rows, *row_stride)))
                .collect(),
        };
        panel
            .par_chunks_mut(strip * m)
            .zip(results[first..first + count].par_chunks_mut(strip))
            .zip(gradients)
            .enumerate()
            .for_each(|(index, ((similarities, results), gradient))| {
                let start = first + index * strip;
                let rows = results.len();
                let candidates = y.block(0, m);
                product(similarities, m, x.block(start, rows), candidates.transposed(), false);
                for (k, (row, result)) in similarities.chunks_mut(m).zip(results).enumerate() {
                    *result = pass.visit(start + k, row);
                }
                if let Some((gradient, stride)) = gradient {
                    let weights = Block::new(similarities, rows, m, m);
                    product(gradient, stride, weights, candidates, false);
                }
            });

        let Some(dy) = &mut dy else { continue };
        let rescale = pass.rescale(&results[first..first + count]);
        let anchors = match &rescale {
            None => x.block(first, count),
            Some(rescale) => {
                weighted.resize(count * d, 0.0);
                for (k, (out, &weight)) in weighted.chunks_mut(d).zip(&rescale.rows).enumerate() {
                    out.copy_from_slice(x.row(first + k));
                    row::multiply(out, weight);
                }
                Block::new(&weighted, count, d, d)
            }
        };
        let before = rescale.as_ref().map_or(1.0, |rescale| rescale.before);
        let (block, stride) = (column_block(m), dy.row_stride);
        let panel = &*panel;
        dy.data.par_chunks_mut(block * stride).take(m.div_ceil(block)).enumerate().for_each(
            |(index, out)| {
                let start = index * block;
                let cols = block.min(m - start);
                if first > 0 && before != 1.0 {
                    out.chunks_mut(stride).take(cols).for_each(|row| {
                        row::multiply(&mut row[..d], before);
                    });
                }
                let weights = Block::new(&panel[start..], count, cols, m).transposed();
                product(out, stride, weights, anchors, first > 0);
            },
        );
    }
    results
}
