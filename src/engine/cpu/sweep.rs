//! Room: engines, CPU. The one loop over the similarity matrix, a panel of rows at a time: computed,
//! turned into weights, multiplied on.
//!
//! A panel of at most 512 rows of S exists at a time. Its columns are shared out for S itself, its
//! rows for the pass that turns S into weights G, tiles of dX for dX = G·Y and of dY for
//! dY += Gᵀ·X. S is computed once, also for losses of row scope, since a panel holds whole rows:
//! 3 products where tiles of a GPU need 4.
//!
//! All of these shares depend on shapes alone, so results do not depend on the thread count.

use rayon::prelude::*;

use super::pool;
use super::product::{Block, product_in_tiles};
use super::row;
use super::rows::Rows;
use crate::matrix::{Host, MatrixMut};

/// What happens to a row of similarities.
pub(super) trait Pass: Send + Sync {
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

/// Rows that a panel has wherever there are enough: S packs its candidates anew for every panel, and
/// fewer rows would make that cost show.
const USUAL_ROWS: usize = 256;

/// Panel elements beyond which a panel has fewer rows: 64 MiB.
const PANEL_ELEMENTS: usize = 1 << 24;

/// Flop of a product that takes less than a millisecond.
const BRIEF: f64 = 1e8;

/// Between an eighth and a sixteenth of the rows, within the limits above.
fn panel_rows(n: usize, m: usize) -> usize {
    let rows = (n / 8).clamp(128, USUAL_ROWS).max(n / 16).next_multiple_of(8).min(MOST_ROWS);
    rows.min((PANEL_ELEMENTS / m).max(8)).min(n)
}

/// Elements from one row of a panel to the next: whole cache lines, and an odd number of them. Rows
/// a power of two apart would share a few sets of the caches, and products walk down columns.
fn panel_stride(m: usize) -> usize {
    const LINE: usize = 16;
    let lines = m.div_ceil(LINE);
    // 3 more than a multiple of 8.
    ((lines + 4) / 8 * 8 + 3) * LINE
}

/// Columns of a panel that are one thread's: whole strips of a product.
fn column_block(m: usize) -> usize {
    (m / 16).next_multiple_of(64).clamp(64, 256)
}

/// Rows and columns of dX that are one thread's.
fn gradient_tile(d: usize) -> (usize, usize) {
    (256, (d / 2).next_multiple_of(64).clamp(64, 128))
}

/// Runs `pass` over every row of X·Yᵀ; writes G·Y to `dx` and Gᵀ·X to `dy` where asked. `panel` is
/// scratch, kept by the caller for the next call.
pub(super) fn sweep<P: Pass>(
    x: &Rows<'_>,
    y: &Rows<'_>,
    panel: &mut Vec<f32>,
    pass: &mut P,
    dx: Option<&mut MatrixMut<'_, Host, f32>>,
    dy: Option<&mut MatrixMut<'_, Host, f32>>,
) -> Vec<P::Row> {
    // Flop of one product; in f64, since usize may have 32 bits.
    let flop = 2.0 * x.n as f64 * y.n as f64 * x.d as f64;
    pool::in_pool(flop < BRIEF, || by_panels(x, y, panel, pass, dx, dy))
}

fn by_panels<P: Pass>(
    x: &Rows<'_>,
    y: &Rows<'_>,
    panel: &mut Vec<f32>,
    pass: &mut P,
    mut dx: Option<&mut MatrixMut<'_, Host, f32>>,
    mut dy: Option<&mut MatrixMut<'_, Host, f32>>,
) -> Vec<P::Row> {
    let (n, m, d) = (x.n, y.n, x.d);
    let (panel_rows, width) = (panel_rows(n, m), panel_stride(m));
    if panel.len() < panel_rows * width {
        panel.resize(panel_rows * width, 0.0);
    }
    let mut results = vec![P::EMPTY; n];
    let mut weighted = Vec::new();
    let (block, candidates) = (column_block(m), y.block(0, m));
    for first in (0..n).step_by(panel_rows) {
        let count = panel_rows.min(n - first);
        let panel = &mut panel[..count * width];
        let (rows, results) = (x.block(first, count), &mut results[first..first + count]);
        product_in_tiles(panel, width, rows, candidates.transposed(), false, (count, block));
        panel
            .par_chunks_mut(width)
            .zip(&mut *results)
            .enumerate()
            .with_min_len(4)
            .for_each(|(k, (row, result))| *result = pass.visit(first + k, &mut row[..m]));

        let weights = Block::new(panel, count, m, width);
        let rescale = if dy.is_some() { pass.rescale(results) } else { None };
        let anchors = match &rescale {
            None => rows,
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
        let x_gradient = || {
            if let Some(MatrixMut { data, row_stride, .. }) = &mut dx {
                let out = &mut data[first * *row_stride..];
                product_in_tiles(out, *row_stride, weights, candidates, false, gradient_tile(d));
            }
        };
        let y_gradient = || {
            if let Some(MatrixMut { data, row_stride, .. }) = &mut dy {
                let (stride, add) = (*row_stride, first > 0);
                if add && before != 1.0 {
                    data.par_chunks_mut(stride)
                        .take(m)
                        .with_min_len(64)
                        .for_each(|row| row::multiply(&mut row[..d], before));
                }
                // Wider than those of S: each copies all the anchors.
                let tile = (2 * block, d);
                product_in_tiles(data, stride, weights.transposed(), anchors, add, tile);
            }
        };
        // Together: neither alone has work for many threads.
        rayon::join(x_gradient, y_gradient);
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_bounded_and_its_rows_are_an_odd_number_of_lines_apart() {
        for m in (1..400).chain([2048, 8192, 1 << 20, 1 << 26]) {
            let stride = panel_stride(m);
            assert!(stride >= m && stride < m + 9 * 16 && stride % 32 == 16, "{m}: {stride}");
            for n in [1, 7, 64, 1000, 2048, 8192, 1 << 20] {
                let rows = panel_rows(n, m);
                assert!((1..=n.min(MOST_ROWS)).contains(&rows), "{n} × {m}: {rows}");
                assert!(rows <= 8 || rows * m <= PANEL_ELEMENTS, "{n} × {m}: {rows}");
            }
        }
    }
}
