//! The identities of the family, each a function over whatever evaluates problems.
//!
//! Where similarities are given outright, x = S and y = I, so that dX is G itself.

use super::compare::{Accuracy, Expected, U, compare, compare_number};
use super::oracle::{self, sigmoid, softplus, widen};
use super::problem::{Named, Pair, Positives, Problem, Random};
use super::run::{self, Harness};
use metric_kernels::{Reduction, Weighting};

/// A result in float64, whoever computed it.
#[derive(Clone, Debug)]
pub struct Result {
    pub loss: f64,
    pub dx: Vec<f64>,
    /// Empty in the shared case.
    pub dy: Vec<f64>,
    pub dscale: f64,
}

/// Something that evaluates problems.
pub trait Evaluator {
    fn name(&mut self) -> String;
    fn evaluate(&mut self, problem: &Problem) -> Result;
    /// How far off its results may be.
    fn slack(&mut self, problem: &Problem) -> Result;
}

/// The oracle itself: exact to rounding in float64.
pub struct Oracle;

impl Evaluator for Oracle {
    fn name(&mut self) -> String {
        "oracle".into()
    }
    fn evaluate(&mut self, problem: &Problem) -> Result {
        let exact = oracle::exact(problem);
        let dy = exact.dy.unwrap_or_default();
        Result { loss: exact.loss, dx: exact.dx, dy, dscale: exact.dscale }
    }
    fn slack(&mut self, problem: &Problem) -> Result {
        // float64 carries 29 bits more than f32 does.
        let mut slack = slack_of(problem, Accuracy::default());
        let part = 1.0 / f64::from(1 << 24);
        for value in slack.dx.iter_mut().chain(&mut slack.dy) {
            *value *= part;
        }
        slack.loss *= part;
        slack.dscale *= part;
        slack
    }
}

fn slack_of(problem: &Problem, accuracy: Accuracy) -> Result {
    let Expected { loss, dx, dy, dscale, exact } = Expected::of(problem, accuracy);
    let plus = |tolerance: &[f64], exact: &[f64]| -> Vec<f64> {
        tolerance.iter().zip(exact).map(|(t, e)| t + U * e.abs()).collect()
    };
    Result {
        loss: loss + U * exact.loss.abs(),
        dx: plus(&dx, &exact.dx),
        dy: dy.map(|dy| plus(&dy, exact.dy.as_ref().unwrap())).unwrap_or_default(),
        dscale: dscale + U * exact.dscale.abs(),
    }
}

impl<H: Harness> Evaluator for H {
    fn name(&mut self) -> String {
        use metric_kernels::Engine;
        self.engine().name()
    }
    fn evaluate(&mut self, problem: &Problem) -> Result {
        let separate = run::forward_backward(self, problem, 1.0).expect("a good problem");
        Result {
            loss: separate.loss.into(),
            dx: widen(&separate.dx),
            dy: widen(separate.dy.as_deref().unwrap_or(&[])),
            dscale: separate.dscale.into(),
        }
    }
    fn slack(&mut self, problem: &Problem) -> Result {
        slack_of(problem, self.accuracy(problem.dtype))
    }
}

/// Asserts |a − b| ≤ slack.
#[track_caller]
pub fn near(what: &str, a: f64, b: f64, slack: f64) {
    assert!((a - b).abs() <= slack, "{what}: {a:e} and {b:e} are further apart than {slack:e}");
}

#[track_caller]
pub fn all_near(what: &str, a: &[f64], b: &[f64], slack: &[f64]) {
    assert_eq!((a.len(), b.len()), (slack.len(), slack.len()), "{what}");
    for (at, ((&a, &b), &slack)) in a.iter().zip(b).zip(slack).enumerate() {
        near(&format!("{what}[{at}]"), a, b, slack);
    }
}

/// Problems of many shapes, all losses; labels where the loss wants them.
fn assorted(seed: u64) -> Vec<Problem> {
    let mut random = Random::new(seed);
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for (n, m, d) in [(5, 5, 3), (9, 6, 4), (6, 13, 8), (40, 35, 16)] {
            let mut problem = Problem::new(loss, 3.0, (n, m, d));
            if loss == Named::InstanceCrossEntropy {
                let rows: Vec<u32> = (0..n as u32).map(|i| i % 4).collect();
                let cols: Vec<u32> = (0..m as u32).map(|j| j % 4).collect();
                problem = problem.with_labels(&rows, &cols);
            }
            random.embeddings(&mut problem);
            problems.push(problem);
        }
    }
    problems
}

/// Row scope, one positive a row, all negatives = cross entropy over the row of logits.
pub fn row_scope_with_one_positive_a_row_is_cross_entropy(e: &mut dyn Evaluator) {
    let (n, m, s) = (6, 9, 2.5);
    let mut random = Random::new(1);
    let similarities = random.values(n * m, 2.0);
    let index: Vec<u32> = (0..n).map(|_| random.below(m) as u32).collect();
    let problem =
        Problem::of_similarities(Named::InBatchSoftmax, s, n, m, &similarities).with_index(&index);
    let got = e.evaluate(&problem);
    let slack = e.slack(&problem);

    // −mean_i log softmax(s·S_i)[index_i] and its gradient (softmax − one-hot)·s/n, independently.
    let (mut loss, mut gradient) = (0.0, vec![0.0; n * m]);
    for i in 0..n {
        let logits: Vec<f64> =
            similarities[i * m..][..m].iter().map(|&v| f64::from(s) * f64::from(v)).collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        loss -= (logits[index[i] as usize].exp() / total).ln() / n as f64;
        for j in 0..m {
            let one_hot = f64::from(index[i] as usize == j);
            gradient[i * m + j] = f64::from(s) / n as f64 * (logits[j].exp() / total - one_hot);
        }
    }
    near("loss", got.loss, loss, slack.loss);
    all_near("G", &got.dx, &gradient, &slack.dx);
}

/// Cross-example softmax has no second direction: L(S) = L(Sᵀ), also where S is rectangular.
pub fn cross_example_is_the_same_on_the_transpose(e: &mut dyn Evaluator) {
    for problem in assorted(2) {
        if problem.loss != Named::CrossExampleSoftmax {
            continue;
        }
        let other = problem.transposed();
        let (a, b, slack) = (e.evaluate(&problem), e.evaluate(&other), e.slack(&problem));
        near("L(S), L(Sᵀ)", a.loss, b.loss, 2.0 * slack.loss);
        near("dscale", a.dscale, b.dscale, 2.0 * slack.dscale);
        let twice = |slack: &[f64]| slack.iter().map(|slack| 2.0 * slack).collect::<Vec<f64>>();
        all_near("dX and the transpose's dY", &a.dx, &b.dy, &twice(&slack.dx));
        all_near("dY and the transpose's dX", &a.dy, &b.dx, &twice(&slack.dy));
    }
    // And it is not so in row scope: the check above can fail.
    let of_row_scope = Problem { loss: Named::InBatchSoftmax, ..assorted(2).swap_remove(5) };
    let difference = e.evaluate(&of_row_scope).loss - e.evaluate(&of_row_scope.transposed()).loss;
    assert!(difference.abs() > 1e-3, "{difference:e}");
}

/// The same positives against more negatives: L_cross-example ≥ L_softmax on the same S.
pub fn cross_example_is_at_least_softmax(e: &mut dyn Evaluator) {
    for problem in assorted(3) {
        let softmax = Problem { loss: Named::InBatchSoftmax, ..problem.clone() };
        let cross = Problem { loss: Named::CrossExampleSoftmax, ..problem };
        let (row, matrix) = (e.evaluate(&softmax).loss, e.evaluate(&cross).loss);
        assert!(matrix >= row, "{matrix} < {row}");
        assert!(matrix > row + 0.1, "many rows of negatives weigh more than one: {matrix}, {row}");
    }
}

/// S ≡ 0 gives log(1 + n(m−1)) over the matrix and log m over a row.
pub fn similarities_of_zero_give_the_logarithm_of_the_pairs(e: &mut dyn Evaluator) {
    for (n, m, d) in [(1, 2, 1), (2, 2, 3), (5, 5, 2), (7, 9, 4), (33, 70, 5)] {
        for scale in [1e-3, 1.0, 1e4] {
            for normalize in [false, true] {
                let mut problem = Problem::new(Named::CrossExampleSoftmax, scale, (n, m, d));
                problem.normalize = normalize;
                let pairs = (n * (m - 1)) as f64;
                let got = e.evaluate(&problem);
                near(
                    "log(1 + n(m−1))",
                    got.loss,
                    (1.0 + pairs).ln(),
                    4.0 * U * pairs.ln().max(1.0),
                );
                assert_eq!(got.dscale, 0.0);
                assert!(got.dx.iter().chain(&got.dy).all(|&value| value == 0.0));

                let problem = Problem { loss: Named::InBatchSoftmax, ..problem };
                let got = e.evaluate(&problem);
                near("log m", got.loss, (m as f64).ln(), 4.0 * U * (m as f64).ln());
            }
        }
    }
}

/// G of a problem of similarities: dX where y = I.
fn similarity_problems(seed: u64) -> Vec<Problem> {
    let mut random = Random::new(seed);
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for (n, m) in [(4, 4), (6, 9), (12, 7), (33, 40)] {
            let similarities = random.values(n * m, 1.5);
            let mut problem = Problem::of_similarities(loss, 2.0, n, m, &similarities);
            if loss == Named::InstanceCrossEntropy {
                let (rows, cols) = (random.labels(n, 3), random.labels(m, 3));
                problem = problem.with_labels(&rows, &cols);
            }
            problems.push(problem);
        }
    }
    problems
}

/// Σ_ij G_ij = 0 within every group, for every loss but anchor-normalised.
pub fn weights_sum_to_zero_within_every_group(e: &mut dyn Evaluator) {
    for problem in similarity_problems(4) {
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let problem = Problem { reduction, ..problem.clone() };
            let (got, slack) = (e.evaluate(&problem), e.slack(&problem));
            let count = 1 + (0..problem.n).map(|i| problem.group(i)).max().unwrap();
            let mut sums = vec![(0.0, 0.0, 0.0_f64); count];
            for (at, (g, slack)) in got.dx.iter().zip(&slack.dx).enumerate() {
                let sum = &mut sums[problem.group(at / problem.m)];
                *sum = (sum.0 + g, sum.1 + slack, sum.2.max(g.abs()));
            }
            for (group, (sum, slack, largest)) in sums.into_iter().enumerate() {
                near(&format!("ΣG of group {group}"), sum, 0.0, slack);
                assert!(slack < 1e-3 * largest || largest == 0.0, "{slack:e} of {largest:e}");
            }
        }
    }
}

/// Anchor-normalised: every anchor's positives' and negatives' |weights| sum to 1/(2A) each.
pub fn anchor_normalized_weights_are_half_and_half(e: &mut dyn Evaluator) {
    for problem in similarity_problems(5) {
        if problem.loss == Named::CrossExampleSoftmax {
            continue;
        }
        // Any linear factor cancels: also at scales at which all positives are easy or hard.
        for (reduction, scale) in
            [(Reduction::Mean, 2.0), (Reduction::Sum, 0.01), (Reduction::Mean, 80.0)]
        {
            let weighting = Weighting::AnchorNormalized;
            let problem = Problem { reduction, scale, weighting, ..problem.clone() };
            let (n, m) = (problem.n, problem.m);
            let (got, slack) = (e.evaluate(&problem), e.slack(&problem));
            let has = |i: usize, kind| (0..m).any(|j| problem.pair(i, j) == kind);
            let counts = |i: usize| has(i, Pair::Positive) && has(i, Pair::Negative);
            let anchors = (0..n).filter(|&i| counts(i)).count() as f64;
            assert!(anchors > 0.0);
            let half = if reduction == Reduction::Mean { 0.5 / anchors } else { 0.5 };
            for i in 0..n {
                let sum = |kind| {
                    let pairs = (0..m).filter(|&j| problem.pair(i, j) == kind);
                    pairs.fold((0.0, 1e-9), |(sum, allowed), j| {
                        (sum + got.dx[i * m + j], allowed + slack.dx[i * m + j])
                    })
                };
                let share = if counts(i) { half } else { 0.0 };
                let (positives, allowed) = sum(Pair::Positive);
                near("positives of an anchor", positives, -share, allowed);
                let (negatives, allowed) = sum(Pair::Negative);
                near("negatives of an anchor", negatives, share, allowed);
            }
        }
    }
}

/// Instance cross entropy (analytic) = supervised NT-Xent at τ = 1/s, written here from its own
/// definition: cosine similarity over τ; for every positive pair, its logit against those of all
/// negatives of the anchor and itself.
pub fn instance_cross_entropy_is_supervised_nt_xent(e: &mut dyn Evaluator) {
    let (n, d, tau) = (14, 5, 0.2_f64);
    let mut random = Random::new(6);
    let labels = random.labels(n, 4);
    let mut problem = Problem::new(Named::InstanceCrossEntropy, (1.0 / tau) as f32, (n, n, d));
    problem = problem.with_labels(&labels, &labels);
    problem.y = None;
    problem.normalize = true;
    random.embeddings(&mut problem);
    random.stretch(&mut problem.x, d);

    let f = widen(&problem.x);
    let row = |i: usize| &f[i * d..][..d];
    let cosine = |i, j| {
        let product =
            |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(a, b)| a * b).sum::<f64>();
        product(i, j) / (product(i, i) * product(j, j)).sqrt()
    };
    let (mut sum, mut pairs) = (0.0, 0);
    for a in 0..n {
        for p in (0..n).filter(|&p| p != a && labels[p] == labels[a]) {
            let numerator = (cosine(a, p) / tau).exp();
            let negatives = (0..n).filter(|&k| labels[k] != labels[a]);
            let denominator =
                numerator + negatives.map(|k| (cosine(a, k) / tau).exp()).sum::<f64>();
            sum -= (numerator / denominator).ln();
            pairs += 1;
        }
    }
    let slack = e.slack(&problem);
    near("NT-Xent", e.evaluate(&problem).loss, sum / f64::from(pairs), slack.loss + 1e-7);
}

/// Scaling X by c and s by 1/c changes nothing in L; dX shrinks by c, dscale grows by c.
pub fn scaling_the_embeddings_is_dividing_the_scale(e: &mut dyn Evaluator) {
    for problem in assorted(7) {
        for c in [0.25_f32, 8.0] {
            // A power of two: exact in every number type, so nothing but exponents may change.
            let mut other = problem.clone();
            other.x.iter_mut().for_each(|value| *value *= c);
            other.scale /= c;
            let (a, b, slack) = (e.evaluate(&problem), e.evaluate(&other), e.slack(&problem));
            let c = f64::from(c);
            near("L", a.loss, b.loss, 2.0 * slack.loss);
            near("dscale", a.dscale * c, b.dscale, 2.0 * c * slack.dscale);
            let times = |values: &[f64], c: f64| values.iter().map(|v| v * c).collect::<Vec<f64>>();
            all_near("dX", &times(&a.dx, 1.0 / c), &b.dx, &times(&slack.dx, 2.0 / c));
            all_near("dY", &a.dy, &b.dy, &times(&slack.dy, 2.0));
        }
    }
}

/// Permuting the pairs changes nothing in L and permutes the gradients.
pub fn permuting_the_pairs_permutes_the_gradients(e: &mut dyn Evaluator) {
    for problem in assorted(8) {
        let (n, m, d) = (problem.n, problem.m, problem.d);
        let mut random = Random::new(9);
        let rows = random.permutation(n);
        let mut cols = random.permutation(m);
        let mut other = problem.clone();
        if let Positives::Labels { rows: of_rows, cols: of_cols } = &problem.positives {
            let of_rows: Vec<u32> = rows.iter().map(|&i| of_rows[i]).collect();
            let of_cols: Vec<u32> = cols.iter().map(|&j| of_cols[j]).collect();
            other = other.with_labels(&of_rows, &of_cols);
        } else if n == m {
            // The diagonal stays the diagonal where both sides are permuted alike.
            cols.clone_from(&rows);
        } else {
            let place = |j: usize| cols.iter().position(|&from| from == j).unwrap() as u32;
            let index: Vec<u32> =
                rows.iter().map(|&i| if i < m { place(i) } else { u32::MAX }).collect();
            other = other.with_index(&index);
        }
        fn permuted<T: Copy>(values: &[T], order: &[usize], d: usize) -> Vec<T> {
            order.iter().flat_map(|&i| values[i * d..][..d].iter().copied()).collect()
        }
        other.x = permuted(&problem.x, &rows, d);
        other.y = Some(permuted(problem.candidates(), &cols, d));
        let (a, b, slack) = (e.evaluate(&problem), e.evaluate(&other), e.slack(&problem));
        let twice = |slack: &[f64]| slack.iter().map(|slack| 2.0 * slack).collect::<Vec<f64>>();
        near("L", a.loss, b.loss, 2.0 * slack.loss);
        near("dscale", a.dscale, b.dscale, 2.0 * slack.dscale);
        all_near("dX", &permuted(&a.dx, &rows, d), &b.dx, &permuted(&twice(&slack.dx), &rows, d));
        all_near("dY", &permuted(&a.dy, &cols, d), &b.dy, &permuted(&twice(&slack.dy), &cols, d));
    }
}

/// The shared case is the pair case of the same set with self-pairs excluded: dF = dX + dY.
pub fn the_shared_gradient_is_the_sum_of_both_sides(e: &mut dyn Evaluator) {
    let (n, d) = (17, 6);
    for loss in Named::ALL {
        let index: Vec<u32> = (0..n as u32).map(|i| (i + 3) % n as u32).collect();
        let mut shared = Problem::new(loss, 3.0, (n, n, d)).with_index(&index);
        shared.y = None;
        Random::new(10).embeddings(&mut shared);
        // Ids that agree on the diagonal alone exclude the self-pairs.
        let ids: Vec<u32> = (0..n as u32).collect();
        let mut sides = shared.clone().with_ids(&ids, &ids);
        sides.y = Some(sides.x.clone());
        let (one, two, slack) = (e.evaluate(&shared), e.evaluate(&sides), e.slack(&shared));
        near("L", one.loss, two.loss, 2.0 * slack.loss);
        near("dscale", one.dscale, two.dscale, 2.0 * slack.dscale);
        let sum: Vec<f64> = two.dx.iter().zip(&two.dy).map(|(a, b)| a + b).collect();
        let sides_slack = e.slack(&sides);
        let slack: Vec<f64> =
            (0..n * d).map(|at| slack.dx[at] + sides_slack.dx[at] + sides_slack.dy[at]).collect();
        all_near("dF", &one.dx, &sum, &slack);
    }
}

/// With one positive an anchor, the anchor-normalised gradient is that of the decoupled
/// contrastive loss, −s·S_ap + log Σ_negatives exp(s·S_aj), divided by 2s.
pub fn anchor_normalized_with_one_positive_is_decoupled_contrastive_over_2s(e: &mut dyn Evaluator) {
    let (n, m, s) = (7, 10, 3.0_f32);
    let mut random = Random::new(11);
    let similarities = random.values(n * m, 1.0);
    let mut problem = Problem::of_similarities(Named::InBatchSoftmax, s, n, m, &similarities);
    problem.weighting = Weighting::AnchorNormalized;
    let got = e.evaluate(&problem);
    let s = f64::from(s);
    let decoupled = |similarities: &[f64]| {
        let rows = similarities.chunks_exact(m).enumerate();
        let terms = rows.map(|(a, row)| {
            let negatives = (0..m).filter(|&j| j != a).map(|j| (s * row[j]).exp());
            -s * row[a] + negatives.sum::<f64>().ln()
        });
        terms.sum::<f64>() / n as f64
    };
    let at = widen(&similarities);
    let slack = e.slack(&problem);
    for k in 0..n * m {
        let derivative = central_difference(&at, k, 1e-5, decoupled);
        near("G", got.dx[k], derivative / (2.0 * s), slack.dx[k] + 1e-9);
    }
}

/// (f(x + h·e_k) − f(x − h·e_k))/2h.
pub fn central_difference(x: &[f64], k: usize, h: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    let mut moved = x.to_vec();
    moved[k] = x[k] + h;
    let above = f(&moved);
    moved[k] = x[k] - h;
    (above - f(&moved)) / (2.0 * h)
}

/// Problems for finite differences: small, every option.
pub fn small_problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for kind in 0..4 {
            for normalize in [false, true] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    let mut random = Random::new(problems.len() as u64 + 20);
                    let (n, m, d) = if kind == 3 { (7, 7, 3) } else { (6, 7, 3) };
                    let mut problem = Problem::new(loss, 1.7, (n, m, d));
                    let labels = [0, 1, 0, 2, 1, 0, 3];
                    match kind {
                        0 => {}
                        1 => problem = problem.with_labels(&labels[..n], &[1, 1, 0, 2, 4, 0, 4]),
                        2 => {
                            problem = problem.with_index(&[3, u32::MAX, 0, 3, 6, 1]);
                            let (rows, cols) = (random.labels(n, 3), random.labels(m, 3));
                            problem = problem.with_ids(&rows, &cols);
                        }
                        _ => {
                            problem = problem.with_labels(&labels, &labels);
                            problem.y = None;
                        }
                    }
                    problem.normalize = normalize;
                    problem.reduction = reduction;
                    random.embeddings(&mut problem);
                    random.stretch(&mut problem.x, d);
                    problems.push(problem);
                }
            }
        }
    }
    problems
}

/// Every gradient is the derivative of the float64 loss.
pub fn gradients_are_finite_differences_of_the_loss(e: &mut dyn Evaluator) {
    for problem in small_problems() {
        let got = e.evaluate(&problem);
        let slack = e.slack(&problem);
        let (x, y) = (widen(&problem.x), widen(problem.candidates()));
        let s = f64::from(problem.scale);
        // Truncation h²·f‴ and cancellation 1e-16/h at h = 1e-5; f‴ grows with the third power
        // of 1/‖x‖ and s, both a few units here.
        let error = 2e-7 * if problem.reduction == Reduction::Sum { 20.0 } else { 1.0 };
        for k in 0..x.len() {
            let derivative = central_difference(&x, k, 1e-5, |x| {
                let y = if problem.shared() { x } else { &y };
                oracle::loss_at(&problem, x, y, s)
            });
            near(&format!("dX[{k}] of {problem:?}"), got.dx[k], derivative, slack.dx[k] + error);
        }
        for k in 0..got.dy.len() {
            let derivative =
                central_difference(&y, k, 1e-5, |y| oracle::loss_at(&problem, &x, y, s));
            near(&format!("dY[{k}] of {problem:?}"), got.dy[k], derivative, slack.dy[k] + error);
        }
        let derivative =
            central_difference(&[s], 0, 1e-5, |s| oracle::loss_at(&problem, &x, &y, s[0]));
        near(&format!("dscale of {problem:?}"), got.dscale, derivative, slack.dscale + error);
    }
}

/// Anchor-normalised weights are by design not the gradient of the loss: a finite-difference
/// check of them must fail. They are the gradient of a functional with u held constant.
pub fn anchor_normalized_is_the_gradient_of_its_functional_not_of_the_loss(e: &mut dyn Evaluator) {
    for mut problem in small_problems() {
        if problem.loss == Named::CrossExampleSoftmax || problem.reduction == Reduction::Sum {
            continue;
        }
        problem.weighting = Weighting::AnchorNormalized;
        let got = e.evaluate(&problem);
        let slack = e.slack(&problem);
        let frozen = oracle::exact(&problem).weights;
        let (x, y) = (widen(&problem.x), widen(problem.candidates()));
        let s = f64::from(problem.scale);
        let candidates = |x: &[f64]| if problem.shared() { x.to_vec() } else { y.clone() };
        let mut away_from_the_loss: f64 = 0.0;
        for k in 0..x.len() {
            let derivative = central_difference(&x, k, 1e-5, |x| {
                oracle::anchor_normalized_functional(&problem, x, &candidates(x), &frozen)
            });
            near(&format!("dX[{k}] of {problem:?}"), got.dx[k], derivative, slack.dx[k] + 2e-7);
            let of_the_loss = central_difference(&x, k, 1e-5, |x| {
                oracle::loss_at(&problem, x, &candidates(x), s)
            });
            away_from_the_loss = away_from_the_loss.max((got.dx[k] - of_the_loss).abs());
        }
        for k in 0..got.dy.len() {
            let derivative = central_difference(&y, k, 1e-5, |y| {
                oracle::anchor_normalized_functional(&problem, &x, y, &frozen)
            });
            near(&format!("dY[{k}] of {problem:?}"), got.dy[k], derivative, slack.dy[k] + 2e-7);
        }
        assert!(away_from_the_loss > 1e-2, "the weights are the loss's gradient: {problem:?}");
    }
}

/// One #[test] per identity, on the evaluator that `$make` gives (`None` skips, having said so).
#[macro_export]
macro_rules! identity_tests {
    ($make:expr => $($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            if let Some(mut evaluator) = $make(stringify!($name)) {
                $crate::common::identities::$name(&mut evaluator);
            }
        }
    )*};
    ($make:expr) => {
        $crate::identity_tests!($make =>
            row_scope_with_one_positive_a_row_is_cross_entropy,
            cross_example_is_the_same_on_the_transpose,
            cross_example_is_at_least_softmax,
            similarities_of_zero_give_the_logarithm_of_the_pairs,
            weights_sum_to_zero_within_every_group,
            anchor_normalized_weights_are_half_and_half,
            instance_cross_entropy_is_supervised_nt_xent,
            scaling_the_embeddings_is_dividing_the_scale,
            permuting_the_pairs_permutes_the_gradients,
            the_shared_gradient_is_the_sum_of_both_sides,
            anchor_normalized_with_one_positive_is_decoupled_contrastive_over_2s,
        );
    };
}
