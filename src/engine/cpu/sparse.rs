//! Room: engines, CPU. Loss and gradients from a list of pairs: O(K·d) where few negatives count.

use rayon::prelude::*;

use super::mining::{Candidate, Listed};
use super::rows::Rows;
use super::{Growing, Prepared, merge, row};
use crate::loss::formula::{self, Coefficients, Group, Scope, Terms, Weighting};
use crate::matrix::{Host, MatrixMut};

/// A positive, or a negative that counts.
#[derive(Clone, Copy, Debug)]
struct Entry {
    row: u32,
    column: u32,
    similarity: f32,
    positive: bool,
}

/// The pairs that have a part in loss and gradients, and where the rows and columns begin.
#[derive(Debug)]
pub(super) struct Sparse {
    /// By row, then column.
    entries: Vec<Entry>,
    rows: Vec<usize>,
    /// Places in `entries`, by column, then row.
    by_column: Vec<u32>,
    columns: Vec<usize>,
}

/// Where each of `count` keys begins in a sorted list.
fn starts(count: usize, keys: impl Iterator<Item = u32>) -> Vec<usize> {
    let mut starts = vec![0; count + 1];
    keys.for_each(|key| starts[key as usize + 1] += 1);
    for i in 0..count {
        starts[i + 1] += starts[i];
    }
    starts
}

impl Sparse {
    /// From the lists of all rows, and what was mined of the whole matrix.
    pub fn new(listed: Vec<Listed>, mined: Vec<Candidate>, m: usize) -> Self {
        let n = listed.len();
        let negative = |pair: Candidate| Entry {
            row: pair.row,
            column: pair.column,
            similarity: pair.similarity(),
            positive: false,
        };
        let mut entries: Vec<Entry> = mined.into_iter().map(negative).collect();
        for (i, row) in listed.into_iter().enumerate() {
            entries.extend(row.mined.into_iter().map(negative));
            entries.extend(row.positives.into_iter().map(|(column, similarity)| Entry {
                row: i as u32,
                column,
                similarity,
                positive: true,
            }));
        }
        entries.par_sort_unstable_by_key(|entry| (entry.row, entry.column));
        let rows = starts(n, entries.iter().map(|entry| entry.row));
        let columns = starts(m, entries.iter().map(|entry| entry.column));
        let mut next = columns.clone();
        let mut by_column = vec![0; entries.len()];
        for (at, entry) in entries.iter().enumerate() {
            let place = &mut next[entry.column as usize];
            by_column[*place] = at as u32;
            *place += 1;
        }
        Self { entries, rows, by_column, columns }
    }

    /// What is needed of the list itself, at most: its places are counted in 32 bits.
    pub const MOST: usize = u32::MAX as usize;

    fn row(&self, i: usize) -> &[Entry] {
        &self.entries[self.rows[i]..self.rows[i + 1]]
    }

    fn rows(&self) -> impl Iterator<Item = &[Entry]> {
        (0..self.rows.len() - 1).map(|i| self.row(i))
    }

    /// One group a row, or one for all.
    pub fn groups(&self, scope: Scope, scale: f32) -> Vec<Group> {
        let groups = self.rows().map(|row| group(row, f64::from(scale)));
        match scope {
            Scope::Row => groups.collect(),
            Scope::Matrix => vec![merge(groups, scale)],
        }
    }

    /// The positives of each row against its group.
    pub fn terms(&self, groups: &[Group], scale: f32) -> Vec<Terms> {
        let term = |(i, row): (usize, &[Entry])| {
            let group = groups[if groups.len() == 1 { 0 } else { i }];
            let mut terms = Terms::NONE;
            for entry in row.iter().filter(|entry| entry.positive) {
                terms.add(group.margin(entry.similarity, f64::from(scale)));
            }
            terms.anchors = u64::from(terms.positives > 0 && group.sum != 0.0);
            terms
        };
        self.rows().enumerate().map(term).collect()
    }

    /// The gradients but for the factor of [`Growing::finish`].
    pub fn gradients(
        &self,
        prepared: &Prepared<'_>,
        weighting: Weighting,
        groups: &[Group],
        log_weights: &[f64],
        growing: &mut Growing<'_>,
    ) {
        let scale = f64::from(prepared.scale);
        let mut weights = Vec::with_capacity(self.entries.len());
        for (i, row) in self.rows().enumerate() {
            let of = if groups.len() == 1 { 0 } else { i };
            let group = groups[of];
            let coefficients = formula::coefficients(group, log_weights[of], scale, weighting);
            weights.extend(row.iter().map(|entry| weight(entry, group, coefficients, scale)));
        }
        let [dx, dy] = growing.both();
        gather(dx, prepared.y(), &self.rows, |at| (self.entries[at].column, weights[at]));
        gather(dy, &prepared.x, &self.columns, |at| {
            let at = self.by_column[at] as usize;
            (self.entries[at].row, weights[at])
        });
    }
}

fn group(row: &[Entry], scale: f64) -> Group {
    let negatives = || row.iter().filter(|entry| !entry.positive).map(|entry| entry.similarity);
    let max = negatives().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return Group::EMPTY;
    }
    let below = |similarity: f32| scale * (f64::from(similarity) - f64::from(max));
    Group { max, sum: negatives().map(|similarity| below(similarity).exp()).sum() }
}

fn weight(entry: &Entry, group: Group, coefficients: Coefficients, scale: f64) -> f32 {
    if entry.positive {
        return coefficients.positive_weight(group.margin(entry.similarity, scale)) as f32;
    }
    let below = scale * (f64::from(entry.similarity) - f64::from(group.max));
    (below + coefficients.negative).exp() as f32
}

/// out_i = Σ weight · other_j over the list of i, in its order.
fn gather(
    out: Option<MatrixMut<'_, Host, f32>>,
    other: &Rows<'_>,
    starts: &[usize],
    entry: impl Fn(usize) -> (u32, f32) + Sync,
) {
    let Some(MatrixMut { data, rows, cols, row_stride }) = out else { return };
    data.par_chunks_mut(row_stride).take(rows).enumerate().for_each(|(i, gradient)| {
        let gradient = &mut gradient[..cols];
        gradient.fill(0.0);
        for at in starts[i]..starts[i + 1] {
            let (j, weight) = entry(at);
            row::add_scaled(gradient, weight, other.row(j as usize));
        }
    });
}
