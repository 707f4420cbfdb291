//! Room: metrics. Recall at k, from the rank of every row's best positive.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::sweep::key;
use super::{Evaluation, Pair};
use crate::{Error, Result};

impl Evaluation<'_> {
    /// For every row, the rank (1 = first) of its best positive among all candidates that are not
    /// excluded; `None` for a row without positives. n entries.
    ///
    /// Equal similarities rank by column, the smaller first. O(n) memory; at most two products.
    pub fn best_positive_ranks(&self) -> Vec<Option<u64>> {
        let n = self.x.n;
        // A row's best positive as one integer whose maximum is the best: its key, then the
        // complement of its column. 0 where there is none, since columns are below 2³¹.
        let pack = |value: f32, j: usize| u64::from(key(value)) << 32 | u64::from(!(j as u32));
        let best: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
        self.sweep_positives(|tile| {
            for (i, values) in tile.iter() {
                let row = self.row(i);
                let here = tile.cols.clone().zip(values);
                let positive = here.filter(|&(j, _)| row.pair(j) == Pair::Positive);
                if let Some(packed) = positive.map(|(j, &value)| pack(value, j)).max() {
                    best[i].fetch_max(packed, Relaxed);
                }
            }
        });
        // No other positive ranks before the best one, so only negatives are left to count.
        let ahead: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
        self.sweep(|tile| {
            for (i, values) in tile.iter() {
                let (row, best) = (self.row(i), best[i].load(Relaxed));
                if best == 0 {
                    continue;
                }
                let here = tile.cols.clone().zip(values);
                let before =
                    here.filter(|&(j, &s)| pack(s, j) > best && row.pair(j) == Pair::Negative);
                ahead[i].fetch_add(before.count() as u64, Relaxed);
            }
        });
        let rank = |(best, ahead): (AtomicU64, AtomicU64)| {
            (best.into_inner() != 0).then(|| ahead.into_inner() + 1)
        };
        best.into_iter().zip(ahead).map(rank).collect()
    }

    /// Recall@k for every k of `ks`: the share of rows whose best positive is among the first k
    /// candidates, of the rows that have a positive. All `ks` in one go; see
    /// [`best_positive_ranks`](Self::best_positive_ranks) for ties, memory and cost.
    ///
    /// With one positive a row, or class labels, this is the Recall@k of the retrieval
    /// literature (Jégou, Douze & Schmid 2011; Song et al. 2016, arXiv 1511.06452): did the
    /// first k hold a match?
    ///
    /// # Errors
    /// If a k is 0.
    pub fn recall_at_k(&self, ks: &[usize]) -> Result<Vec<f64>> {
        if let Some(position) = ks.iter().position(|&k| k == 0) {
            return Err(Error::argument("ks", format!("0 at position {position}"), "at least 1"));
        }
        let ranks: Vec<u64> = self.best_positive_ranks().into_iter().flatten().collect();
        let share = |&k: &usize| {
            ranks.iter().filter(|&&rank| rank <= k as u64).count() as f64 / ranks.len() as f64
        };
        Ok(ks.iter().map(share).collect())
    }
}
