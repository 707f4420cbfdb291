//! Room: engines, CPU. The passes: what a row of similarities becomes on its way to the loss and to
//! the gradients. The arithmetic is [`crate::loss::formula`]'s.

use super::mining::Mined;
use super::pairs::Pairs;
use super::row;
use super::sweep::{Pass, Rescale};
use crate::loss::formula::{self, Coefficients, Group, Terms, Weighting};

/// A positive of a row, taken out before the row's negatives are treated.
pub(super) type Positive = (u32, f32);

/// Takes the positives out of a row and leaves −∞ where there is no negative.
pub(super) fn take_positives(pairs: &Pairs<'_>, i: usize, row: &mut [f32]) -> Vec<Positive> {
    let mut positives = Vec::new();
    pairs.for_each_positive(i, |j| positives.push((j as u32, row[j])));
    pairs.for_each_excluded(i, |j| row[j] = f32::NEG_INFINITY);
    positives.iter().for_each(|&(j, _)| row[j as usize] = f32::NEG_INFINITY);
    positives
}

/// Replaces a row of negatives by exp(s·(S − M)) with M its maximum, 0 where there is no negative.
fn weigh_by_maximum(row: &mut [f32], scale: f32) -> Group {
    let max = row::max(row);
    if max == f32::NEG_INFINITY {
        let nan = row.iter().any(|value| value.is_nan());
        row.fill(0.0);
        return if nan { Group { max, sum: f64::NAN } } else { Group::EMPTY };
    }
    Group { max, sum: row::exponentials(row, scale, max) }
}

fn terms_of(positives: &[Positive], group: Group, scale: f32) -> Terms {
    let mut terms = Terms::NONE;
    for &(_, similarity) in positives {
        terms.add(group.margin(similarity, f64::from(scale)));
    }
    terms.anchors = u64::from(terms.positives > 0 && group.sum != 0.0);
    terms
}

/// Gradient weights in place of exp(s·(S − M)), positives put back.
fn weigh(
    row: &mut [f32],
    positives: &[Positive],
    group: Group,
    coefficients: Coefficients,
    scale: f32,
) {
    row::multiply(row, coefficients.negative.exp() as f32);
    for &(j, similarity) in positives {
        let margin = group.margin(similarity, f64::from(scale));
        row[j as usize] = coefficients.positive_weight(margin) as f32;
    }
}

/// All pairs of a row are negatives.
pub(super) struct LogSumExp {
    pub scale: f32,
}

impl Pass for LogSumExp {
    type Row = Group;
    const EMPTY: Group = Group::EMPTY;

    fn visit(&self, _: usize, row: &mut [f32]) -> Group {
        weigh_by_maximum(row, self.scale)
    }
}

/// Negatives and positives of each row, the row being its own group.
pub(super) struct RowTerms<'a> {
    pub pairs: &'a Pairs<'a>,
    pub mined: Mined,
    pub scale: f32,
}

impl Pass for RowTerms<'_> {
    type Row = (Group, Terms);
    const EMPTY: Self::Row = (Group::EMPTY, Terms::NONE);

    fn visit(&self, i: usize, row: &mut [f32]) -> Self::Row {
        let positives = take_positives(self.pairs, i, row);
        self.mined.keep(i, row);
        let group = weigh_by_maximum(row, self.scale);
        (group, terms_of(&positives, group, self.scale))
    }
}

/// [`RowTerms`] and the gradient weights in one go.
pub(super) struct RowWeights<'a> {
    pub pairs: &'a Pairs<'a>,
    pub mined: Mined,
    pub scale: f32,
    pub weighting: Weighting,
}

impl Pass for RowWeights<'_> {
    type Row = Terms;
    const EMPTY: Terms = Terms::NONE;

    fn visit(&self, i: usize, row: &mut [f32]) -> Terms {
        let positives = take_positives(self.pairs, i, row);
        self.mined.keep(i, row);
        let group = weigh_by_maximum(row, self.scale);
        let terms = terms_of(&positives, group, self.scale);
        let scale = f64::from(self.scale);
        let coefficients = formula::coefficients(group, terms.log_weight, scale, self.weighting);
        weigh(row, &positives, group, coefficients, self.scale);
        terms
    }
}

/// The negatives of each row, and the similarity of its positive where it has one at most.
pub(super) struct Negatives<'a> {
    pub pairs: &'a Pairs<'a>,
    pub mined: Mined,
    pub scale: f32,
    /// The largest maximum of the panels so far, to which dY is relative.
    pub reference: f32,
}

impl Pass for Negatives<'_> {
    type Row = (Group, f32);
    const EMPTY: Self::Row = (Group::EMPTY, f32::NAN);

    fn visit(&self, i: usize, row: &mut [f32]) -> Self::Row {
        let positives = take_positives(self.pairs, i, row);
        self.mined.keep(i, row);
        let similarity = positives.first().map_or(f32::NAN, |&(_, similarity)| similarity);
        (weigh_by_maximum(row, self.scale), similarity)
    }

    /// Each row is relative to its own maximum; dY to the largest so far. Loss and gradients then
    /// need no second look at S: one number completes them.
    fn rescale(&mut self, panel: &[Self::Row]) -> Option<Rescale> {
        let before = self.reference;
        let reference = panel.iter().fold(before, |a, (group, _)| a.max(group.max));
        self.reference = reference;
        let relative = |max: f32| {
            if max == f32::NEG_INFINITY {
                return 0.0;
            }
            (f64::from(self.scale) * (f64::from(max) - f64::from(reference))).exp() as f32
        };
        Some(Rescale {
            before: if before == reference { 1.0 } else { relative(before) },
            rows: panel.iter().map(|(group, _)| relative(group.max)).collect(),
        })
    }
}

/// The positives of each row against one group of the whole matrix.
pub(super) struct MatrixTerms<'a> {
    pub pairs: &'a Pairs<'a>,
    pub scale: f32,
    pub group: Group,
}

impl Pass for MatrixTerms<'_> {
    type Row = Terms;
    const EMPTY: Terms = Terms::NONE;

    fn visit(&self, i: usize, row: &mut [f32]) -> Terms {
        let mut terms = Terms::NONE;
        self.pairs.for_each_positive(i, |j| {
            terms.add(self.group.margin(row[j], f64::from(self.scale)));
        });
        terms
    }
}

/// Gradient weights from the statistics of a forward pass.
pub(super) struct Weights<'a> {
    pub pairs: &'a Pairs<'a>,
    pub mined: Mined,
    pub scale: f32,
    pub weighting: Weighting,
    /// One group a row, or one for all.
    pub groups: &'a [Group],
    /// ln W of each group.
    pub log_weights: &'a [f64],
}

impl Pass for Weights<'_> {
    type Row = ();
    const EMPTY: () = ();

    fn visit(&self, i: usize, row: &mut [f32]) {
        let index = if self.groups.len() == 1 { 0 } else { i };
        let (group, log_weight) = (self.groups[index], self.log_weights[index]);
        let positives = take_positives(self.pairs, i, row);
        self.mined.keep(i, row);
        if group.sum == 0.0 {
            row.fill(0.0);
            return;
        }
        row::exponentials(row, self.scale, group.max);
        let scale = f64::from(self.scale);
        let coefficients = formula::coefficients(group, log_weight, scale, self.weighting);
        weigh(row, &positives, group, coefficients, self.scale);
    }
}
