//! Room: metrics. Average precision over all pairs ranked together, precision-recall curves,
//! histograms.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use rayon::slice::ParallelSliceMut;

use super::sweep::{Tile, key, similarity};
use super::{Evaluation, Pair};
use crate::{Error, Result};

/// Precision and recall of one threshold shared by all queries, at every similarity that a
/// positive pair has, from the highest threshold down. All three vectors are of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// The thresholds: the distinct similarities of positive pairs, falling; NaN last.
    pub threshold: Vec<f32>,
    /// Of the pairs at or above the threshold, the share that are positive.
    pub precision: Vec<f64>,
    /// Of the positive pairs, the share at or above the threshold. The last is 1.
    pub recall: Vec<f64>,
}

impl PrecisionRecall {
    /// Σ (R_b − R_{b−1})·P_b over the thresholds, with R before the first being 0.
    pub fn average_precision(&self) -> f64 {
        let mut before = 0.0;
        let steps = self.recall.iter().zip(&self.precision).map(|(&recall, precision)| {
            let step = (recall - before) * precision;
            before = recall;
            step
        });
        steps.sum()
    }
}

/// How similarities of positive and negative pairs are distributed.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Where the first bin begins.
    pub low: f32,
    /// Where the last bin ends.
    pub high: f32,
    /// Positive pairs per bin.
    pub positives: Vec<u64>,
    /// Negative pairs per bin.
    pub negatives: Vec<u64>,
}

impl Evaluation<'_> {
    /// Average precision over *all* pairs ranked together: the measure of calibration, since one
    /// threshold must serve every query.
    ///
    /// ```text
    /// AP = Σ_b (R_b − R_{b−1})·P_b
    /// ```
    ///
    /// over the distinct similarities b of positive pairs, falling; pairs of equal similarity
    /// enter together. Exact, and equal to scikit-learn's `average_precision_score` over the n×m
    /// similarities. Memory: see [`precision_recall`](Self::precision_recall).
    ///
    /// # Errors
    /// If the positives' similarities do not fit in memory.
    pub fn average_precision(&self) -> Result<f64> {
        Ok(self.precision_recall()?.average_precision())
    }

    /// The precision-recall curve over all pairs ranked together, exact.
    ///
    /// The positives' similarities are sorted, then every negative is counted between two of
    /// them. O(P + n + m) memory, P being the positive pairs; at most two products.
    ///
    /// # Errors
    /// If the positives' similarities do not fit in memory.
    pub fn precision_recall(&self) -> Result<PrecisionRecall> {
        let (keys, positives) = distinct(self.positive_keys()?);
        let negatives = self.negatives_at(&Thresholds::new(keys.clone()));

        let (mut hits, mut others) = (0, 0);
        let mut curve = PrecisionRecall {
            threshold: keys.iter().rev().map(|&key| similarity(key)).collect(),
            precision: Vec::with_capacity(keys.len()),
            recall: Vec::with_capacity(keys.len()),
        };
        for (positives, negatives) in positives.iter().zip(negatives).rev() {
            hits += positives;
            others += negatives;
            curve.precision.push(hits as f64 / (hits + others) as f64);
            curve.recall.push(hits as f64 / self.pairs as f64);
        }
        Ok(curve)
    }

    /// Counts positives and negatives in `bins` bins of equal width over `range`. What lies
    /// outside counts in the first or last bin, NaN in the first. One product, O(bins) memory.
    ///
    /// # Errors
    /// If `bins` is 0, or `range` is not finite and rising.
    pub fn histogram(&self, range: RangeInclusive<f32>, bins: usize) -> Result<Histogram> {
        let (low, high) = (*range.start(), *range.end());
        if !(low < high && (high - low).is_finite()) {
            return Err(Error::argument("range", format!("{low}..={high}"), "finite, rising"));
        }
        if bins == 0 {
            return Err(Error::argument("bins", "0", "at least 1"));
        }
        let count = || (0..bins).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (positives, negatives) = (count(), count());
        self.sweep(|tile| {
            let mut local = [vec![0u64; bins], vec![0u64; bins]];
            self.pairs_of(tile, |pair, value| {
                let side = match pair {
                    Pair::Positive => 0,
                    Pair::Negative => 1,
                    Pair::Excluded => return,
                };
                // The cast saturates, and takes NaN to 0.
                let bin = ((value - low) / (high - low) * bins as f32) as usize;
                local[side][bin.min(bins - 1)] += 1;
            });
            for (total, local) in [&positives, &negatives].into_iter().zip(local) {
                for (total, local) in total.iter().zip(local).filter(|(_, local)| *local != 0) {
                    total.fetch_add(local, Relaxed);
                }
            }
        });
        let plain = |bins: Vec<AtomicU64>| bins.into_iter().map(AtomicU64::into_inner).collect();
        Ok(Histogram { low, high, positives: plain(positives), negatives: plain(negatives) })
    }

    fn pairs_of(&self, tile: &Tile<'_>, mut visit: impl FnMut(Pair, f32)) {
        for (i, values) in tile.iter() {
            let row = self.row(i);
            for (j, &value) in tile.cols.clone().zip(values) {
                visit(row.pair(j), value);
            }
        }
    }

    /// The keys of all positives, rising.
    fn positive_keys(&self) -> Result<Vec<u32>> {
        let mut keys = Vec::<AtomicU32>::new();
        let pairs = usize::try_from(self.pairs).ok();
        if pairs.is_none_or(|pairs| keys.try_reserve_exact(pairs).is_err()) {
            return Err(Error::argument(
                "labels",
                format!("{} positive pairs", self.pairs),
                "as many as fit in memory, 4 bytes each",
            ));
        }
        keys.resize_with(self.pairs as usize, AtomicU32::default);
        let next = AtomicUsize::new(0);
        // Threads take places as they come; sorting makes the order theirs no more.
        self.sweep_positives(|tile| {
            self.pairs_of(tile, |pair, value| {
                if pair == Pair::Positive {
                    keys[next.fetch_add(1, Relaxed)].store(key(value), Relaxed);
                }
            });
        });
        let mut keys: Vec<u32> = keys.into_iter().map(AtomicU32::into_inner).collect();
        keys.par_sort_unstable();
        Ok(keys)
    }

    /// For every threshold, the negatives at or above it and below the next.
    fn negatives_at(&self, thresholds: &Thresholds) -> Vec<u64> {
        let bins = thresholds.keys.len();
        // A few bins would be fought over by all threads: they get several copies.
        let copies = ((1 << 16) / bins).clamp(1, 64);
        let counts: Vec<AtomicU64> = (0..bins * copies).map(|_| AtomicU64::new(0)).collect();
        self.sweep(|tile| {
            let counts = &counts[tile.number % copies * bins..][..bins];
            self.pairs_of(tile, |pair, value| {
                if pair == Pair::Negative
                    && let Some(bin) = thresholds.at_or_below(value)
                {
                    counts[bin].fetch_add(1, Relaxed);
                }
            });
        });
        let mut totals = vec![0; bins];
        for copy in counts.chunks_exact(bins) {
            for (total, count) in totals.iter_mut().zip(copy) {
                *total += count.load(Relaxed);
            }
        }
        totals
    }
}

/// Distinct keys and how often each occurs; `keys` are sorted.
fn distinct(mut keys: Vec<u32>) -> (Vec<u32>, Vec<u64>) {
    let counts = keys.chunk_by(|a, b| a == b).map(|run| run.len() as u64).collect();
    keys.dedup();
    (keys, counts)
}

/// Distinct similarities of positives, for finding where a negative falls among them.
///
/// A table of equal cells over their range narrows the search to a few: a binary search over
/// millions of thresholds would cost more than the matrix product.
struct Thresholds {
    /// Rising, distinct, at least one.
    keys: Vec<u32>,
    /// `starts[c]..starts[c + 1]` are the thresholds in cell c.
    starts: Vec<usize>,
    low: f32,
    cells_per_unit: f32,
}

impl Thresholds {
    fn new(keys: Vec<u32>) -> Self {
        let finite = || keys.iter().map(|&key| similarity(key)).filter(|value| value.is_finite());
        let low = finite().next().unwrap_or(0.0);
        let high = finite().next_back().unwrap_or(0.0);
        let cells = keys.len();
        let per_unit = cells as f32 / (high - low);
        let mut thresholds = Self {
            starts: Vec::new(),
            low,
            cells_per_unit: if per_unit.is_finite() { per_unit } else { 0.0 },
            keys,
        };
        let mut starts = vec![0; cells + 1];
        for &key in &thresholds.keys {
            starts[thresholds.cell(similarity(key), cells) + 1] += 1;
        }
        for cell in 0..cells {
            starts[cell + 1] += starts[cell];
        }
        thresholds.starts = starts;
        thresholds
    }

    /// Never falls as the value's key rises: each step of it is monotone, and NaN and −∞ give 0.
    fn cell(&self, value: f32, cells: usize) -> usize {
        if self.cells_per_unit == 0.0 {
            return 0;
        }
        // The cast saturates, and takes NaN to 0.
        (((value - self.low) * self.cells_per_unit) as usize).min(cells - 1)
    }

    /// The index of the highest threshold not above `value`.
    fn at_or_below(&self, value: f32) -> Option<usize> {
        let key = key(value);
        let cell = self.cell(value, self.keys.len());
        let (start, end) = (self.starts[cell], self.starts[cell + 1]);
        let below = self.keys[start..end].partition_point(|&threshold| threshold <= key);
        (start + below).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_find_every_place() {
        let sets: [&[f32]; 6] = [
            &[0.5],
            &[f32::NAN, f32::NEG_INFINITY, -3.0, 0.0, 1e-30, 0.25, 0.5, f32::INFINITY],
            &[f32::NAN],
            &[f32::MIN, f32::MAX],
            &[1.0, 1.0 + f32::EPSILON, 2.0, 1e30],
            &[f32::NEG_INFINITY, f32::INFINITY],
        ];
        let probes = sets.concat();
        for set in sets {
            let keys: Vec<u32> = set.iter().map(|&value| key(value)).collect();
            let thresholds = Thresholds::new(keys.clone());
            for &probe in probes.iter().chain(&[0.6, -1.0, 7.0, -0.0]) {
                let expected = keys.iter().rposition(|&threshold| threshold <= key(probe));
                assert_eq!(thresholds.at_or_below(probe), expected, "{probe} among {set:?}");
            }
        }
    }
}
