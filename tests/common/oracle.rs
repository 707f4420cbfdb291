//! The oracle: the formulas of the family in float64, with S, G and the masks written out. Mining
//! sorts everything.
//!
//! Written once over a number type: in `f64` it is the truth, in `f32` it is "the same computation
//! done naively in the input precision", against which tolerances are set (see `compare`).

use super::problem::{Pair, Problem};
use metric_kernels::ops::NORM_EPS;
use metric_kernels::{Mining, Reduction, Weighting};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A number: `f64` or `f32`.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::iter::Sum
{
    const ZERO: Self;
    const ONE: Self;
    const INFINITY: Self;
    fn of(value: f64) -> Self;
    fn f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sqrt(self) -> Self;
    fn max(self, other: Self) -> Self;
}

macro_rules! real {
    ($($type:ty),*) => {$(
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const INFINITY: Self = Self::INFINITY;
            fn of(value: f64) -> Self { value as $type }
            fn f64(self) -> f64 { self.into() }
            fn exp(self) -> Self { self.exp() }
            fn ln(self) -> Self { self.ln() }
            fn ln_1p(self) -> Self { self.ln_1p() }
            fn sqrt(self) -> Self { self.sqrt() }
            fn max(self, other: Self) -> Self { self.max(other) }
        }
    )*};
}

real!(f32, f64);

/// ln(1 + e^u).
pub fn softplus<R: Real>(u: R) -> R {
    if u > R::ZERO { u + (-u).exp().ln_1p() } else { u.exp().ln_1p() }
}

/// 1/(1 + e^−u).
pub fn sigmoid<R: Real>(u: R) -> R {
    if u > R::ZERO { R::ONE / (R::ONE + (-u).exp()) } else { u.exp() / (R::ONE + u.exp()) }
}

/// l_g, the log-sum-exp of a group of negatives, as s·max + ln sum.
#[derive(Clone, Copy, Debug)]
pub struct Group<R> {
    pub max: R,
    pub sum: R,
}

/// Everything there is to know about a problem.
#[derive(Clone, Debug)]
pub struct Answer<R> {
    pub loss: R,
    /// n×d; in the shared case the whole gradient.
    pub dx: Vec<R>,
    /// m×d; `None` in the shared case.
    pub dy: Option<Vec<R>>,
    pub dscale: R,
    /// S, n×m.
    pub similarities: Vec<R>,
    /// Which pairs are negatives that count: all, or the mined ones; n×m.
    pub counted: Vec<bool>,
    /// G = ∂L/∂S (or the anchor-normalised weights), n×m.
    pub weights: Vec<R>,
    /// One per row, or one in all.
    pub groups: Vec<Group<R>>,
    /// x and y as S sees them: normalised where the problem says so.
    pub x: Vec<R>,
    pub y: Vec<R>,
}

/// The truth.
pub fn exact(problem: &Problem) -> Answer<f64> {
    evaluate(problem, &widen(&problem.x), &widen(problem.candidates()), problem.scale.into())
}

/// The same, done naively in `f32`.
pub fn naive(problem: &Problem) -> Answer<f32> {
    evaluate(problem, &problem.x, problem.candidates(), problem.scale)
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// The oracle at any embeddings and scale, so that they may be varied (finite differences). In the
/// shared case `y` repeats `x`.
pub fn evaluate<R: Real>(problem: &Problem, x: &[R], y: &[R], s: R) -> Answer<R> {
    let &Problem { n, m, d, .. } = problem;
    let (x_hat, y_hat) = match problem.normalize {
        true => (normalize(x, d), normalize(y, d)),
        false => (x.to_vec(), y.to_vec()),
    };
    let similarities = similarities(&x_hat, &y_hat, d);
    let counted = counted(problem, &similarities);
    let groups = groups(problem, &similarities, &counted, s);
    let loss = loss(problem, &similarities, &groups, s);
    let weights = match problem.weighting {
        Weighting::Analytic => analytic(problem, &similarities, &counted, &groups, s),
        Weighting::AnchorNormalized => {
            anchor_normalized(problem, &similarities, &counted, &groups, s)
        }
    };

    // ∂L/∂s = (1/s)·Σ S·G; dX = G·Y, dY = Gᵀ·X; shared: dF = (G + Gᵀ)·F
    let rows = similarities.chunks_exact(m).zip(weights.chunks_exact(m));
    let dscale = rows.map(|(s_row, g_row)| dot(s_row, g_row)).sum::<R>() / s;
    let mut dx_hat = vec![R::ZERO; n * d];
    let mut dy_hat = vec![R::ZERO; m * d];
    for i in 0..n {
        for j in 0..m {
            let g = weights[i * m + j];
            for k in 0..d {
                dx_hat[i * d + k] += g * y_hat[j * d + k];
                dy_hat[j * d + k] += g * x_hat[i * d + k];
            }
        }
    }
    if problem.shared() {
        for (dx, dy) in dx_hat.iter_mut().zip(&dy_hat) {
            *dx += *dy;
        }
    }
    let (dx, dy) = match problem.normalize {
        true => (normalize_backward(x, &dx_hat, d), normalize_backward(y, &dy_hat, d)),
        false => (dx_hat, dy_hat),
    };
    let dy = (!problem.shared()).then_some(dy);
    Answer { loss, dx, dy, dscale, similarities, counted, weights, groups, x: x_hat, y: y_hat }
}

/// The loss alone.
pub fn loss_at<R: Real>(problem: &Problem, x: &[R], y: &[R], s: R) -> R {
    let d = problem.d;
    let similarities = match problem.normalize {
        true => similarities(&normalize(x, d), &normalize(y, d), d),
        false => similarities(x, y, d),
    };
    let counted = counted(problem, &similarities);
    loss(problem, &similarities, &groups(problem, &similarities, &counted, s), s)
}

pub fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// S_ij = x_i · y_j.
fn similarities<R: Real>(x: &[R], y: &[R], d: usize) -> Vec<R> {
    let row = |x: &'_ [R]| y.chunks_exact(d).map(|y| dot(x, y)).collect::<Vec<R>>();
    x.chunks_exact(d).flat_map(row).collect()
}

/// x/‖x‖, or 0 where ‖x‖ is at most NORM_EPS.
pub fn normalize<R: Real>(x: &[R], d: usize) -> Vec<R> {
    let row = |row: &'_ [R]| {
        let norm = dot(row, row).sqrt();
        let counts = norm.f64() > f64::from(NORM_EPS) || norm.f64().is_nan();
        row.iter().map(move |&v| if counts { v / norm } else { R::ZERO }).collect::<Vec<R>>()
    };
    x.chunks_exact(d).flat_map(row).collect()
}

/// (g − x̂·(x̂·g))/‖x‖, or 0 where ‖x‖ is at most NORM_EPS.
pub fn normalize_backward<R: Real>(x: &[R], gradient: &[R], d: usize) -> Vec<R> {
    let row = |(row, g): (&'_ [R], &'_ [R])| {
        let norm = dot(row, row).sqrt();
        if norm.f64() <= f64::from(NORM_EPS) {
            return vec![R::ZERO; d];
        }
        let hat: Vec<R> = row.iter().map(|&v| v / norm).collect();
        let along = dot(&hat, g);
        g.iter().zip(&hat).map(|(&g, &hat)| (g - hat * along) / norm).collect()
    };
    x.chunks_exact(d).zip(gradient.chunks_exact(d)).flat_map(row).collect()
}

/// Sorts pairs by similarity, descending, then by row, then by column; pairs are numbered row by
/// row.
fn sort_by_hardness<R: Real>(pairs: &mut [usize], similarities: &[R]) {
    pairs.sort_by(|&a, &b| {
        let order = similarities[b].partial_cmp(&similarities[a]).expect("numbers");
        order.then(a.cmp(&b))
    });
}

/// The pairs among which mining chooses, and how many of them it takes: the matrix, or every row.
fn pools(problem: &Problem) -> Vec<(Vec<usize>, usize)> {
    let &Problem { n, m, mining, .. } = problem;
    let negatives = |pairs: std::ops::Range<usize>| -> Vec<usize> {
        pairs.filter(|at| problem.pair(at / m, at % m) == Pair::Negative).collect()
    };
    match mining {
        Mining::All => vec![(negatives(0..n * m), n * m)],
        Mining::Hardest(k) => vec![(negatives(0..n * m), k)],
        Mining::HardestPerRow(k) => (0..n).map(|i| (negatives(i * m..(i + 1) * m), k)).collect(),
    }
}

/// Which pairs are negatives that count.
fn counted<R: Real>(problem: &Problem, similarities: &[R]) -> Vec<bool> {
    let mut counted = vec![false; similarities.len()];
    for (mut pairs, k) in pools(problem) {
        sort_by_hardness(&mut pairs, similarities);
        pairs.iter().take(k).for_each(|&at| counted[at] = true);
    }
    counted
}

/// How much harder the last pair that is mined is than the first that is not.
pub fn mining_gap(problem: &Problem) -> f64 {
    let similarities = exact(problem).similarities;
    let gap = |(mut pairs, k): (Vec<usize>, usize)| {
        sort_by_hardness(&mut pairs, &similarities);
        let at = |place: usize| pairs.get(place).map(|&at| similarities[at]);
        at(k - 1).zip(at(k)).map_or(f64::INFINITY, |(last, next)| last - next)
    };
    pools(problem).into_iter().map(gap).fold(f64::INFINITY, f64::min)
}

/// Whether an engine that sums in f32 in any order must mine the same pairs: at the place where a
/// list ends, similarities are further apart than rounding, or there is no rounding at all.
pub fn mines_the_same_in_f32(problem: &Problem) -> bool {
    let &Problem { m, d, .. } = problem;
    let Answer { similarities, x, y, .. } = exact(problem);
    // All values are whole multiples of a unit: sums of their products are exact up to 2²⁴ units.
    let unit = |values: &[f64]| {
        let units = values.iter().filter(|&&value| value != 0.0).map(|&value| {
            let zeros = (value.to_bits() | 1 << 52).trailing_zeros();
            value.abs().log2().floor() - 52.0 + f64::from(zeros)
        });
        units.fold(f64::INFINITY, f64::min).exp2()
    };
    let units = unit(&x) * unit(&y);
    let error = |at: usize| {
        let (x, y) = (&x[at / m * d..][..d], &y[at % m * d..][..d]);
        let size: f64 = x.iter().zip(y).map(|(x, y)| (x * y).abs()).sum();
        let exact = !problem.normalize && size <= units * f64::from(1 << 24);
        if exact { 0.0 } else { size * (d + 8) as f64 / f64::from(1 << 23) }
    };
    pools(problem).into_iter().all(|(mut pairs, k)| {
        sort_by_hardness(&mut pairs, &similarities);
        let (mined, rest) = pairs.split_at(k.min(pairs.len()));
        let low = mined.iter().map(|&at| similarities[at] - error(at));
        let high = rest.iter().map(|&at| similarities[at] + error(at));
        pairs.iter().all(|&at| error(at) == 0.0)
            || low.fold(f64::INFINITY, f64::min) > high.fold(f64::NEG_INFINITY, f64::max)
    })
}

/// l_g = log Σ_{(a,b) ∈ negatives of g} exp(s·S_ab), with the largest S of the group kept apart so
/// that differences of similarities are taken before they are scaled: s·S may be any size.
fn groups<R: Real>(problem: &Problem, similarities: &[R], counted: &[bool], s: R) -> Vec<Group<R>> {
    let &Problem { n, m, .. } = problem;
    let count = (0..n).map(|i| problem.group(i) + 1).max().unwrap_or(0);
    let mut groups = vec![Group { max: -R::INFINITY, sum: R::ZERO }; count];
    let negatives = |i: usize| {
        let row = &similarities[i * m..][..m];
        (0..m).filter(move |&j| counted[i * m + j]).map(move |j| row[j])
    };
    for i in 0..n {
        let group = &mut groups[problem.group(i)];
        group.max = negatives(i).fold(group.max, R::max);
    }
    for i in 0..n {
        let group = &mut groups[problem.group(i)];
        group.sum += negatives(i).map(|similarity| (s * (similarity - group.max)).exp()).sum();
    }
    groups
}

impl<R: Real> Group<R> {
    /// l_g − s·S, −∞ for an empty group.
    pub fn margin(&self, similarity: R, s: R) -> R {
        if self.sum == R::ZERO {
            return -R::INFINITY;
        }
        s * (self.max - similarity) + self.sum.ln()
    }

    /// exp(s·S − l_g), the share of one negative in its group.
    pub fn share(&self, similarity: R, s: R) -> R {
        (s * (similarity - self.max)).exp() / self.sum
    }
}

/// Positive pairs with their margins l_g − s·S_ij.
fn margins<'a, R: Real>(
    problem: &'a Problem,
    similarities: &'a [R],
    groups: &'a [Group<R>],
    s: R,
) -> impl Iterator<Item = (usize, usize, R)> + 'a {
    let m = problem.m;
    let pairs = (0..problem.n).flat_map(move |i| (0..m).map(move |j| (i, j)));
    pairs
        .filter(|&(i, j)| problem.pair(i, j) == Pair::Positive)
        .map(move |(i, j)| (i, j, groups[problem.group(i)].margin(similarities[i * m + j], s)))
}

/// L = mean over positive pairs of softplus(l_g − s·S_ij), or their sum.
fn loss<R: Real>(problem: &Problem, similarities: &[R], groups: &[Group<R>], s: R) -> R {
    let sum: R = margins(problem, similarities, groups, s).map(|(.., u)| softplus(u)).sum();
    match problem.reduction {
        Reduction::Mean => sum / R::of(problem.count(Pair::Positive) as f64),
        Reduction::Sum => sum,
    }
}

/// G of the loss itself:
/// ∂L/∂S_ij = −(s/P)·δ_ij for positives, +(s/P)·W_g·exp(s·S_ab − l_g) for negatives.
fn analytic<R: Real>(
    problem: &Problem,
    similarities: &[R],
    counted: &[bool],
    groups: &[Group<R>],
    s: R,
) -> Vec<R> {
    let &Problem { n, m, .. } = problem;
    let factor = match problem.reduction {
        Reduction::Mean => s / R::of(problem.count(Pair::Positive) as f64),
        Reduction::Sum => s,
    };
    let mut weights = vec![R::ZERO; n * m];
    let mut w = vec![R::ZERO; groups.len()];
    for (i, j, margin) in margins(problem, similarities, groups, s) {
        let delta = sigmoid(margin);
        weights[i * m + j] = -factor * delta;
        w[problem.group(i)] += delta;
    }
    for i in 0..n {
        let g = problem.group(i);
        for j in (0..m).filter(|&j| counted[i * m + j]) {
            weights[i * m + j] = factor * w[g] * groups[g].share(similarities[i * m + j], s);
        }
    }
    weights
}

/// G_ai = −δ_ai/(2·A·W_a) for positives, +exp(s·S_aj − l_a)/(2·A) for negatives, with δ/W as a
/// softmax of log-sigmoids. Anchors without a positive or without a negative have no weights.
fn anchor_normalized<R: Real>(
    problem: &Problem,
    similarities: &[R],
    counted: &[bool],
    groups: &[Group<R>],
    s: R,
) -> Vec<R> {
    let &Problem { n, m, .. } = problem;
    let mut weights = vec![R::ZERO; n * m];
    let mut anchors = 0;
    for a in 0..n {
        let positives = || (0..m).filter(move |&j| problem.pair(a, j) == Pair::Positive);
        let negatives = || (0..m).filter(move |&j| counted[a * m + j]);
        if positives().count() == 0 || negatives().count() == 0 {
            continue;
        }
        anchors += 1;
        // log δ = log-sigmoid(u) = −softplus(−u)
        let log_delta = |i: usize| -softplus(-groups[a].margin(similarities[a * m + i], s));
        let top = positives().map(log_delta).fold(-R::INFINITY, R::max);
        let total: R = positives().map(|i| (log_delta(i) - top).exp()).sum();
        for i in positives() {
            weights[a * m + i] = -(log_delta(i) - top).exp() / total;
        }
        for j in negatives() {
            weights[a * m + j] = groups[a].share(similarities[a * m + j], s);
        }
    }
    let factor = match problem.reduction {
        Reduction::Mean if anchors > 0 => R::ONE / R::of(2.0 * f64::from(anchors)),
        _ => R::of(0.5),
    };
    weights.iter_mut().for_each(|weight| *weight = *weight * factor);
    weights
}

/// The functional whose gradient the anchor-normalised weights are, with u = δ/W held constant:
/// (1/2A)·Σ_a [ −Σ_i u_ai·S_ai + (1/s)·l_a ]. `frozen` are the anchor-normalised weights at the
/// point of departure, whose positive entries are −u/(2A).
pub fn anchor_normalized_functional(
    problem: &Problem,
    x: &[f64],
    y: &[f64],
    frozen: &[f64],
) -> f64 {
    let (s, m) = (f64::from(problem.scale), problem.m);
    let at = evaluate(problem, x, y, s);
    let rows = 0..problem.n;
    rows.map(|a| {
        let positives = (0..m).filter(|&i| problem.pair(a, i) == Pair::Positive);
        let pull: f64 = positives.map(|i| frozen[a * m + i] * at.similarities[a * m + i]).sum();
        // The share 1/(2A) of this anchor: its positives' |weights| together; 0 where it has none.
        let positives = (0..m).filter(|&i| problem.pair(a, i) == Pair::Positive);
        let share: f64 = positives.map(|i| -frozen[a * m + i]).sum();
        let log_sum_exp = at.groups[a].margin(0.0, s);
        pull + if share > 0.0 { share * log_sum_exp / s } else { 0.0 }
    })
    .sum()
}
