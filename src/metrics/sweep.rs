//! Room: metrics. The sweep: S = X·Yᵀ one tile at a time, in parallel, each handed to a visitor.

use std::ops::Range;

use rayon::prelude::*;

use super::Evaluation;
use crate::engine::cpu::product;

/// Rows and columns of a tile: 256 KiB of `f32`, at home in a core's second-level cache.
const TILE_ROWS: usize = 128;
const TILE_COLS: usize = 512;

/// A tile of S.
pub(super) struct Tile<'a> {
    /// Its number, row-major among tiles.
    pub number: usize,
    /// Its rows of S.
    pub rows: Range<usize>,
    /// Its columns of S.
    pub cols: Range<usize>,
    values: &'a [f32],
}

impl Tile<'_> {
    /// (row of S, its similarities at `cols`), for every row of the tile.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.rows.clone().zip(self.values.chunks_exact(self.cols.len()))
    }
}

impl Evaluation<'_> {
    /// Visits every tile of S, in any order and from many threads.
    ///
    /// A tile's values do not depend on who computes it, so two sweeps see the same bits.
    pub(super) fn sweep(&self, visit: impl Fn(&Tile<'_>) + Sync) {
        self.tiles(|_, _| true, visit);
    }

    /// [`sweep`](Self::sweep) over the tiles that hold a positive; the others are not computed.
    pub(super) fn sweep_positives(&self, visit: impl Fn(&Tile<'_>) + Sync) {
        self.tiles(|rows, cols| rows.clone().any(|i| self.row(i).any_positive(cols)), visit);
    }

    fn tiles(
        &self,
        wanted: impl Fn(&Range<usize>, &Range<usize>) -> bool + Sync,
        visit: impl Fn(&Tile<'_>) + Sync,
    ) {
        let (x, y) = (&self.x, self.candidates());
        let across = y.n.div_ceil(TILE_COLS);
        let down = x.n.div_ceil(TILE_ROWS);
        (0..down * across).into_par_iter().for_each_init(Vec::new, |values, number| {
            let side =
                |block: usize, size: usize, end: usize| block * size..((block + 1) * size).min(end);
            let rows = side(number / across, TILE_ROWS, x.n);
            let cols = side(number % across, TILE_COLS, y.n);
            if wanted(&rows, &cols) {
                values.resize(rows.len() * cols.len(), 0.0);
                let (left, right) =
                    (x.block(rows.start, rows.len()), y.block(cols.start, cols.len()));
                product(values, cols.len(), left, right.transposed(), false);
                visit(&Tile { number, rows, cols, values });
            }
        });
    }
}

/// An integer that orders as similarities rank: NaN is 0, below −∞; −0 and +0 are one.
pub(super) fn key(similarity: f32) -> u32 {
    if similarity.is_nan() {
        return 0;
    }
    // Adding +0 turns −0 into +0.
    let bits = (similarity + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The similarity of a [`key`].
pub(super) fn similarity(key: u32) -> f32 {
    match key {
        0 => f32::NAN,
        key if key >> 31 == 1 => f32::from_bits(key & !(1 << 31)),
        key => f32::from_bits(!key),
    }
}

#[cfg(test)]
mod tests {
    use super::{key, similarity};

    #[test]
    fn keys_order_as_similarities_rank() {
        let order = [
            f32::NAN,
            f32::NEG_INFINITY,
            -1.0,
            -f32::MIN_POSITIVE,
            0.0,
            1e-45,
            0.5,
            1.0,
            f32::INFINITY,
        ];
        assert!(order.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert!(order[1..].iter().all(|&value| similarity(key(value)) == value));
        assert!(similarity(key(-f32::NAN)).is_nan());
        assert_eq!(key(-0.0), key(0.0));
    }
}
