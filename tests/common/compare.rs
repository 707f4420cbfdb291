//! The comparator: how far an engine may be from the oracle, and what is said when it is further.
//!
//! # Tolerances
//! An engine computes in f32 on inputs that the oracle sees exactly (16-bit inputs convert without
//! loss). It may be off by
//!
//! ```text
//! 2 × (the error of the same computation done naively in f32) + rounding
//! ```
//!
//! The first part is measured: `oracle::naive` runs the oracle's own code in f32, and its largest
//! error in a row counts for the row. The second is what f32 arithmetic in *another* order may do,
//! to first order, with u = 2⁻²⁴ and sums of k terms taken to be off by u·√k times the sum of
//! absolute terms (rounding errors are independent; blocked sums do better):
//!
//! ```text
//! similarity        ε_ij = u·(√d + 2)·Σ_k |x_ik·y_jk|          twice that on normalised rows
//! log-sum-exp       λ_g  = Σ_p p·(s·ε + 2u·|s·(S − M)|) + u·(√n + √m + 8)      p: shares in g
//! margin            μ_ij = λ_g + s·ε_ij + 2u·(|s·(M − S_ij)| + |ln Z|)
//! W_g, relative     ω_g  = Σ δ·μ / W_g + 8u
//! G, relative       positives μ_ij + 8u (anchor-normalised: + Σ u·μ),
//!                   negatives s·ε_ij + λ_g + 2u·|s·(S − M)| + ω_g + 8u
//! loss              Σ δ·μ + 4u·softplus over positives, reduced
//! dX, dY            |ΔG|·|Y| + u·(√m + √d + 8)·|G|·|Y|, then through the normalisation
//! dscale            (1/s)·Σ (|ΔG|·|S| + |G|·ε) + u·(√n + √m + 8)·|G·S|
//! ```
//!
//! An engine that does not compute in f32 throughout says so ([`Accuracy`]): ε then has
//! `products`·Σ_k |x_ik·y_jk| on top, and |ΔG| in dX and dY `weights`·|G| + `floor`·max |G|.
//!
//! Results below f32's normal range may be flushed to zero. `tests/oracle.rs` asserts that the
//! tolerance of every case of the table is a small part of the answer, so that a wrong formula
//! cannot hide in it.

use super::oracle::{self, Answer};
use super::problem::{Pair, Problem};
use metric_kernels::{Reduction, Weighting};

/// Half the distance from 1 to the next f32: the relative error of one rounding.
pub const U: f64 = 1.0 / (1u32 << 24) as f64;

/// The smallest normal f32.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// How an engine computes, where that is not f32: relative errors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accuracy {
    /// Of a product of two elements.
    pub products: f64,
    /// Of a weight as an operand of the gradients' products.
    pub weights: f64,
    /// The same, of the largest weight of all.
    pub floor: f64,
}

/// What is right, and how far one may be from it. For upstream = 1.
pub struct Expected {
    pub exact: Answer<f64>,
    pub loss: f64,
    pub dx: Vec<f64>,
    pub dy: Option<Vec<f64>>,
    pub dscale: f64,
}

impl Expected {
    pub fn of(problem: &Problem, accuracy: Accuracy) -> Self {
        let exact = oracle::exact(problem);
        let naive = oracle::naive(problem);
        let rounding = rounding(problem, &exact, accuracy);
        let d = problem.d;
        let rows = |exact: &[f64], naive: &[f32], rounding: &[f64]| {
            let mut tolerance = rounding.to_vec();
            for (i, row) in tolerance.chunks_exact_mut(d).enumerate() {
                let errors =
                    (i * d..(i + 1) * d).map(|at| (f64::from(naive[at]) - exact[at]).abs());
                let error = errors.fold(0.0, f64::max);
                row.iter_mut().for_each(|tolerance| *tolerance += 2.0 * error);
            }
            tolerance
        };
        Self {
            loss: 2.0 * (f64::from(naive.loss) - exact.loss).abs() + rounding.loss,
            dx: rows(&exact.dx, &naive.dx, &rounding.dx),
            dy: exact.dy.as_ref().map(|dy| rows(dy, naive.dy.as_ref().unwrap(), &rounding.dy)),
            dscale: 2.0 * (f64::from(naive.dscale) - exact.dscale).abs() + rounding.dscale,
            exact,
        }
    }
}

struct Rounding {
    loss: f64,
    dx: Vec<f64>,
    dy: Vec<f64>,
    dscale: f64,
}

/// The second part of the tolerance; see the head of this file.
fn rounding(problem: &Problem, exact: &Answer<f64>, accuracy: Accuracy) -> Rounding {
    let &Problem { n, m, d, .. } = problem;
    let s = f64::from(problem.scale);
    let (root_n, root_m, root_d) = ((n as f64).sqrt(), (m as f64).sqrt(), (d as f64).sqrt());
    let Answer { similarities, counted, weights, groups, x, y, .. } = exact;
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<f64>>();
    let (x_abs, y_abs) = (abs(x), abs(y));

    let per_product =
        U * (root_d + 2.0) * if problem.normalize { 2.0 } else { 1.0 } + accuracy.products;
    let mut epsilon = vec![0.0; n * m];
    for i in 0..n {
        for j in 0..m {
            epsilon[i * m + j] =
                per_product * oracle::dot(&x_abs[i * d..][..d], &y_abs[j * d..][..d]);
        }
    }
    let of_kind = |i: usize, kind| (0..m).filter(move |&j| problem.pair(i, j) == kind);

    let mut lambda = vec![U * (root_n + root_m + 8.0); groups.len()];
    for i in 0..n {
        let g = problem.group(i);
        for j in (0..m).filter(|&j| counted[i * m + j]) {
            let (at, below) = (i * m + j, (s * (similarities[i * m + j] - groups[g].max)).abs());
            lambda[g] += groups[g].share(similarities[at], s) * (s * epsilon[at] + 2.0 * U * below);
        }
    }

    // μ, δ of the positives, and from them ω and the error of the loss.
    let mut mu = vec![0.0; n * m];
    let mut delta = vec![0.0; n * m];
    let (mut w, mut omega) = (vec![0.0; groups.len()], vec![0.0; groups.len()]);
    let mut loss = 0.0;
    for i in 0..n {
        let g = problem.group(i);
        for j in of_kind(i, Pair::Positive) {
            let at = i * m + j;
            let margin = groups[g].margin(similarities[at], s);
            if margin == f64::NEG_INFINITY {
                continue;
            }
            let apart = (s * (groups[g].max - similarities[at])).abs() + groups[g].sum.ln().abs();
            mu[at] = lambda[g] + s * epsilon[at] + 2.0 * U * apart;
            delta[at] = oracle::sigmoid(margin);
            w[g] += delta[at];
            omega[g] += delta[at] * mu[at];
            loss += delta[at] * mu[at] + 4.0 * U * oracle::softplus(margin);
        }
    }
    if problem.reduction == Reduction::Mean {
        loss /= problem.count(Pair::Positive) as f64;
    }
    for (omega, w) in omega.iter_mut().zip(&w) {
        *omega = if *w > 0.0 { *omega / w } else { 0.0 } + 8.0 * U;
    }

    // |ΔG|. An exponential may be flushed to zero that a factor would have brought back: s, and where
    // positives are summed up as many of these as there are.
    let summed = match problem.reduction {
        Reduction::Mean => 1.0,
        Reduction::Sum => problem.count(Pair::Positive) as f64,
    };
    let largest = (s * summed).max(1.0);
    let mut gamma = vec![0.0; n * m];
    for i in 0..n {
        let g = problem.group(i);
        // Σ u·μ: what the softmax of log-sigmoids adds.
        let shares: f64 = of_kind(i, Pair::Positive).map(|j| weights[i * m + j]).sum();
        let drift: f64 = match problem.weighting {
            Weighting::AnchorNormalized if shares < 0.0 => {
                let parts = of_kind(i, Pair::Positive);
                parts.map(|j| weights[i * m + j] / shares * mu[i * m + j]).sum()
            }
            _ => 0.0,
        };
        for j in 0..m {
            let at = i * m + j;
            let relative = match problem.pair(i, j) {
                Pair::Excluded => continue,
                Pair::Positive => mu[at] + drift + 8.0 * U,
                Pair::Negative if !counted[at] => continue,
                Pair::Negative if weights[at] == 0.0 => 0.0,
                Pair::Negative => {
                    let below = (s * (similarities[at] - groups[g].max)).abs();
                    let omega = match problem.weighting {
                        Weighting::Analytic => omega[g],
                        Weighting::AnchorNormalized => 0.0,
                    };
                    s * epsilon[at] + lambda[g] + 2.0 * U * below + omega + 8.0 * U
                }
            };
            gamma[at] = weights[at].abs() * relative.exp_m1() + TINY * largest;
        }
    }

    // Through the products.
    let (mut dx, mut dy) = (vec![TINY; n * d], vec![TINY; m * d]);
    let (mut dx_abs, mut dy_abs) = (vec![0.0; n * d], vec![0.0; m * d]);
    let mut dscale = 0.0;
    let floor = accuracy.floor * weights.iter().fold(0.0, |top: f64, g| top.max(g.abs()));
    for i in 0..n {
        for j in 0..m {
            let at = i * m + j;
            let g = weights[at].abs();
            // What the products' operand is off by.
            let operand = gamma[at] + accuracy.weights * g + floor;
            dscale += gamma[at] * similarities[at].abs()
                + g * epsilon[at]
                + U * (root_n + root_m + 8.0) * g * similarities[at].abs();
            let of_x = operand + U * (root_m + root_d + 8.0) * g;
            let of_y = operand + U * (root_n + root_d + 8.0) * g;
            for k in 0..d {
                dx[i * d + k] += of_x * y_abs[j * d + k];
                dy[j * d + k] += of_y * x_abs[i * d + k];
                dx_abs[i * d + k] += g * y_abs[j * d + k];
                dy_abs[j * d + k] += g * x_abs[i * d + k];
            }
        }
    }
    if problem.shared() {
        for at in 0..n * d {
            dx[at] += dy[at];
            dx_abs[at] += dy_abs[at];
        }
    }
    if problem.normalize {
        through_normalisation(d, &problem.x, x, &mut dx, &dx_abs);
        through_normalisation(d, problem.candidates(), y, &mut dy, &dy_abs);
    }
    Rounding { loss: loss + TINY, dx, dy, dscale: dscale / s + TINY }
}

/// (g − x̂·(x̂·g))/‖x‖ of a g that is off by `error` and was summed from terms of `size`.
fn through_normalisation(d: usize, raw: &[f32], hat: &[f64], error: &mut [f64], size: &[f64]) {
    let rows = raw.chunks_exact(d).zip(hat.chunks_exact(d)).zip(size.chunks_exact(d));
    for (((raw, hat), size), error) in rows.zip(error.chunks_exact_mut(d)) {
        let norm = oracle::dot(&oracle::widen(raw), &oracle::widen(raw)).sqrt();
        let abs: Vec<f64> = hat.iter().map(|value| value.abs()).collect();
        let (along_error, along) = (oracle::dot(&abs, error), oracle::dot(&abs, size));
        for k in 0..d {
            let products = U * ((d as f64).sqrt() + 6.0) * (size[k] + abs[k] * along);
            error[k] = (error[k] + abs[k] * along_error + products) / norm.max(TINY);
        }
    }
}

/// The largest error met, as a part of its tolerance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Worst(pub f64);

/// Compares one tensor of `cols` columns; `factor` multiplies expectation and tolerance (the
/// upstream gradient). `Err` says where it differs first, and where most.
pub fn compare(
    what: &str,
    cols: usize,
    got: &[f32],
    expected: &[f64],
    tolerance: &[f64],
    factor: f64,
) -> Result<Worst, String> {
    if got.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), expected.len()));
    }
    let mut first = None;
    let mut worst: (f64, usize) = (0.0, 0);
    let mut wrong = 0;
    for (at, &got) in got.iter().enumerate() {
        let expected = expected[at] * factor;
        let allowed = tolerance[at] * factor.abs() + U * expected.abs() + TINY;
        let mut ratio = (f64::from(got) - expected).abs() / allowed;
        if ratio.is_nan() {
            // A NaN on either side is an error, unless both sides agree on it or on an infinity.
            let same = f64::from(got) == expected || (got.is_nan() && expected.is_nan());
            ratio = if same { 0.0 } else { f64::INFINITY };
        }
        if ratio > worst.0 {
            worst = (ratio, at);
        }
        if ratio > 1.0 {
            wrong += 1;
            first.get_or_insert(at);
        }
    }
    let Some(first) = first else { return Ok(Worst(worst.0)) };
    let show = |at: usize| {
        format!(
            "[{}, {}] got {:e}, expected {:e} ± {:e}",
            at / cols,
            at % cols,
            got[at],
            expected[at] * factor,
            tolerance[at] * factor.abs(),
        )
    };
    Err(format!(
        "{what}: {wrong} of {} differ; first {}; worst {} ({:.1} × the tolerance)",
        got.len(),
        show(first),
        show(worst.1),
        worst.0
    ))
}

/// [`compare`] for one number.
pub fn compare_number(
    what: &str,
    got: f32,
    expected: f64,
    tolerance: f64,
    factor: f64,
) -> Result<Worst, String> {
    compare(what, 1, &[got], &[expected], &[tolerance], factor)
}

/// Whether two results have the same bits; says the first coordinate in which they do not.
pub fn same_bits(what: &str, cols: usize, got: &[f32], expected: &[f32]) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), expected.len()));
    }
    match got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits()) {
        None => Ok(()),
        Some(at) => Err(format!(
            "{what}: bits differ first at [{}, {}]: {:e} ({:#010x}) and {:e} ({:#010x})",
            at / cols,
            at % cols,
            got[at],
            got[at].to_bits(),
            expected[at],
            expected[at].to_bits(),
        )),
    }
}
