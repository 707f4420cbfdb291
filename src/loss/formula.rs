//! Room: losses. The family's arithmetic, in one place: options, softplus and sigmoid in their
//! stable forms, and the coefficients of the gradient. kernels/epilogue/terms.cuh is its twin.
//!
//! For a group g of negatives, M is their largest similarity and Z = Σ exp(s·(S − M)), so that
//! l = s·M + ln Z. Keeping M apart keeps s·(S − M) exact where s·S is huge.

/// Which negatives one positive is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those of its own row.
    Row,
    /// Those of the whole matrix: one group for the batch.
    Matrix,
}

/// Which of the negatives that a scope names count. Others have no part in loss or gradients.
///
/// Harder is more similar. Equally hard negatives are taken by the smaller row, then the smaller
/// column, so that the set is the same in forward and backward, on every run. Positives and
/// excluded pairs are never mined; where there are fewer negatives, all count. Sets come from the
/// similarities as the engine computes them, in `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mining {
    /// All.
    #[default]
    All,
    /// The K hardest of the whole matrix, whatever the scope: a row may be left with none.
    Hardest(usize),
    /// The k hardest of each row.
    HardestPerRow(usize),
}

/// How pairs weigh in the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Weighting {
    /// The gradient of the loss.
    #[default]
    Analytic,
    /// Gradients rescaled so that every anchor's positives sum to 1/2 and its negatives to 1/2,
    /// each anchor weighing 1/A, A being the number of anchors with a positive and a negative.
    /// Not the gradient of the loss value, by design. Needs [`Scope::Row`].
    ///
    /// This is the sample reweighting of Wang et al. 2019 (arXiv 1911.09976) as recalled, in
    /// agreement with the first author's public code; the paper's text could not be compared.
    AnchorNormalized,
}

/// How the terms of positive pairs are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Mean over positive pairs (anchor-normalised gradients: over anchors).
    #[default]
    Mean,
    /// Sum.
    Sum,
}

/// ln(1 + e^u), without overflow or cancellation.
pub(crate) fn softplus(u: f64) -> f64 {
    if u.is_nan() { u } else { u.max(0.0) + (-u.abs()).exp().ln_1p() }
}

/// ln σ(u) = −softplus(−u).
pub(crate) fn log_sigmoid(u: f64) -> f64 {
    -softplus(-u)
}

/// The log-sum-exp of one group of negatives, kept as maximum and sum: l = s·max + ln sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    /// M, the largest similarity; −∞ where the group is empty.
    pub max: f32,
    /// Z = Σ exp(s·(S − M)); 0 where the group is empty.
    pub sum: f64,
}

impl Group {
    pub const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Both groups together. NaN in either stays.
    pub fn merge(self, other: Self, scale: f64) -> Self {
        let max = self.max.max(other.max);
        let part = |group: Self| {
            if group.max == max {
                group.sum
            } else if group.sum == 0.0 {
                0.0
            } else {
                group.sum * (scale * (f64::from(group.max) - f64::from(max))).exp()
            }
        };
        Self { max, sum: part(self) + part(other) }
    }

    /// l − s·S for a positive of similarity S: softplus of it is the pair's term.
    pub fn margin(self, similarity: f32, scale: f64) -> f64 {
        if self.sum == 0.0 {
            // An empty group: l = −∞ whatever S is, except that NaN stays NaN.
            return f64::NEG_INFINITY + 0.0 * f64::from(similarity);
        }
        scale * (f64::from(self.max) - f64::from(similarity)) + self.sum.ln()
    }

    /// l itself.
    pub fn log_sum_exp(self, scale: f64) -> f64 {
        if self.sum == 0.0 {
            f64::NEG_INFINITY
        } else {
            scale * f64::from(self.max) + self.sum.ln()
        }
    }
}

/// What the positives of one anchor, or of many, add up to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Σ softplus(l − s·S) over positives.
    pub loss: f64,
    /// ln Σ δ, δ = σ(l − s·S): kept as a logarithm, since all positives may be easy.
    pub log_weight: f64,
    /// Positive pairs.
    pub positives: u64,
    /// Anchors that have a positive and a negative.
    pub anchors: u64,
}

impl Terms {
    pub const NONE: Self =
        Self { loss: 0.0, log_weight: f64::NEG_INFINITY, positives: 0, anchors: 0 };

    /// Adds a positive of margin u = l − s·S.
    pub fn add(&mut self, margin: f64) {
        self.loss += softplus(margin);
        self.log_weight = log_add_exp(self.log_weight, log_sigmoid(margin));
        self.positives += 1;
    }

    /// Both together.
    pub fn merge(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            log_weight: log_add_exp(self.log_weight, other.log_weight),
            positives: self.positives + other.positives,
            anchors: self.anchors + other.anchors,
        }
    }
}

/// ln(e^a + e^b).
pub(crate) fn log_add_exp(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY {
        return b;
    }
    if b == f64::NEG_INFINITY {
        return a;
    }
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

/// Gradient coefficients of one anchor, before [`gradient_divisor`]: a negative weighs
/// exp(s·(S − M) + negative), a positive −exp((ln δ − share_of) + positive). The difference comes
/// first: where all positives are easy, both its sides are huge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub negative: f64,
    pub positive: f64,
    pub share_of: f64,
}

impl Coefficients {
    /// Neither side has a gradient.
    const NONE: Self =
        Self { negative: f64::NEG_INFINITY, positive: f64::NEG_INFINITY, share_of: 0.0 };

    /// The weight of a positive of margin u = l − s·S.
    pub fn positive_weight(&self, margin: f64) -> f64 {
        if self.positive == f64::NEG_INFINITY {
            return 0.0;
        }
        -((log_sigmoid(margin) - self.share_of) + self.positive).exp()
    }
}

/// The coefficients of an anchor whose negatives are `group` and whose group's positives weigh
/// ln W = `log_weight` together.
pub(crate) fn coefficients(
    group: Group,
    log_weight: f64,
    scale: f64,
    weighting: Weighting,
) -> Coefficients {
    // Without negatives l = −∞, without positives W = 0.
    if group.sum == 0.0 || log_weight == f64::NEG_INFINITY {
        return Coefficients::NONE;
    }
    let log_sum = group.sum.ln();
    match weighting {
        Weighting::Analytic => {
            let positive = scale.ln();
            Coefficients { negative: positive + log_weight - log_sum, positive, share_of: 0.0 }
        }
        Weighting::AnchorNormalized => {
            let half = -std::f64::consts::LN_2;
            Coefficients { negative: half - log_sum, positive: half, share_of: log_weight }
        }
    }
}

/// What the sum over positive pairs is divided by.
pub(crate) fn loss_divisor(reduction: Reduction, terms: &Terms) -> f64 {
    match reduction {
        Reduction::Mean => terms.positives as f64,
        Reduction::Sum => 1.0,
    }
}

/// What the gradient is divided by.
pub(crate) fn gradient_divisor(weighting: Weighting, reduction: Reduction, terms: &Terms) -> f64 {
    match (weighting, reduction) {
        (_, Reduction::Sum) => 1.0,
        (Weighting::Analytic, Reduction::Mean) => terms.positives as f64,
        // Without any such anchor there is no gradient either.
        (Weighting::AnchorNormalized, Reduction::Mean) => terms.anchors.max(1) as f64,
    }
}
