//! What mining promises, each a function over whatever evaluates problems, or over an engine.
//!
//! Where similarities are given outright, x = S and y = I, so that dX is G itself.

use super::edge_cases::{assert_as_oracle, both_ways};
use super::identities::{Evaluator, all_near, central_difference, near};
use super::oracle::{self, widen};
use super::problem::{Named, Pair, Problem, Random};
use super::run::{Harness, forward_backward, loss_and_gradients, loss_only};
use metric_kernels::{DType, Mining, Reduction, Scope, Weighting};

/// Problems of every loss, with similarities far enough apart for any engine to mine the same.
fn assorted(seed: u64) -> Vec<Problem> {
    let mut random = Random::new(seed);
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for (n, m, d) in [(6, 6, 3), (9, 7, 4), (7, 24, 12), (30, 28, 16)] {
            let mut problem = Problem::new(loss, 3.0, (n, m, d));
            if loss == Named::InstanceCrossEntropy {
                let rows: Vec<u32> = (0..n as u32).map(|i| i % 5).collect();
                let cols: Vec<u32> = (0..m as u32).map(|j| j % 5).collect();
                problem = problem.with_labels(&rows, &cols);
            }
            random.embeddings(&mut problem);
            problems.push(problem);
        }
    }
    problems
}

/// As many as there are, or more: the loss without mining.
pub fn mining_all_negatives_is_no_mining(e: &mut dyn Evaluator) {
    for problem in assorted(1) {
        let (plain, slack) = (e.evaluate(&problem), e.slack(&problem));
        let negatives = problem.count(Pair::Negative);
        let most = problem.m;
        for mining in [
            Mining::Hardest(negatives),
            Mining::Hardest(problem.n * problem.m - 1),
            Mining::Hardest(usize::MAX),
            // On the diagonal, m − 1 negatives a row: stochastic mining of all is the softmax.
            Mining::HardestPerRow(most - usize::from(problem.loss != Named::InstanceCrossEntropy)),
            Mining::HardestPerRow(most),
            Mining::HardestPerRow(usize::MAX),
        ] {
            // Rows beyond the last candidate have m negatives.
            if problem.n > problem.m && mining == Mining::HardestPerRow(most - 1) {
                continue;
            }
            let mined = e.evaluate(&problem.clone().with_mining(mining));
            near("L", mined.loss, plain.loss, 2.0 * slack.loss);
            near("dscale", mined.dscale, plain.dscale, 2.0 * slack.dscale);
            let twice = |slack: &[f64]| slack.iter().map(|slack| 2.0 * slack).collect::<Vec<_>>();
            all_near("dX", &mined.dx, &plain.dx, &twice(&slack.dx));
            all_near("dY", &mined.dy, &plain.dy, &twice(&slack.dy));
        }
    }
}

/// More negatives, more loss: L_mined ≤ L, and the more the larger the set.
pub fn the_loss_grows_with_the_set(e: &mut dyn Evaluator) {
    for problem in assorted(2) {
        let (all, slack) = (e.evaluate(&problem).loss, e.slack(&problem).loss);
        let pairs = problem.n * problem.m;
        let whole = [1, 4, pairs / 6, pairs / 2, pairs].map(Mining::Hardest);
        let each = [1, 2, problem.m / 2, problem.m].map(Mining::HardestPerRow);
        for minings in [&whole[..], &each[..]] {
            let mut before = 0.0;
            for &mining in minings {
                let loss = e.evaluate(&problem.clone().with_mining(mining)).loss;
                assert!(loss >= before - slack, "{mining:?}: {loss} after {before}");
                assert!(loss <= all + slack, "{mining:?}: {loss} of {all}");
                before = loss;
            }
            near("L", before, all, 2.0 * slack);
        }
        // It is not the same loss.
        let one = e.evaluate(&problem.with_mining(Mining::Hardest(1))).loss;
        assert!(one < all - 1e-3, "{one} {all}");
    }
}

/// The hardest of the matrix have no direction either: L(S) = L(Sᵀ) over the matrix.
pub fn mined_cross_example_is_the_same_on_the_transpose(e: &mut dyn Evaluator) {
    for problem in assorted(3) {
        if problem.loss != Named::CrossExampleSoftmax {
            continue;
        }
        for k in [1, 5, problem.n * problem.m / 3] {
            let problem = problem.clone().with_mining(Mining::Hardest(k));
            assert!(oracle::mines_the_same_in_f32(&problem));
            let other = problem.transposed();
            let (a, b, slack) = (e.evaluate(&problem), e.evaluate(&other), e.slack(&problem));
            near("L(S), L(Sᵀ)", a.loss, b.loss, 2.0 * slack.loss);
            let twice = |slack: &[f64]| slack.iter().map(|slack| 2.0 * slack).collect::<Vec<_>>();
            all_near("dX and the transpose's dY", &a.dx, &b.dy, &twice(&slack.dx));
            all_near("dY and the transpose's dX", &a.dy, &b.dx, &twice(&slack.dy));
        }
    }
}

/// Only mined negatives have a weight, all of them do, and with their positives weights sum to zero.
pub fn weights_are_those_of_the_mined_set(e: &mut dyn Evaluator) {
    let (n, m) = (9, 14);
    for loss in Named::ALL {
        for mining in [1, 6, 40].map(Mining::Hardest).into_iter().chain([
            Mining::HardestPerRow(1),
            Mining::HardestPerRow(3),
            Mining::HardestPerRow(9),
        ]) {
            // Whole numbers: of equals, the smaller row and column are mined.
            let similarities = Random::new(4).whole(n * m, 3);
            let problem = Problem::of_similarities(loss, 0.4, n, m, &similarities);
            let problem = problem.with_mining(mining);
            let counted = oracle::exact(&problem).counted;
            let (got, slack) = (e.evaluate(&problem), e.slack(&problem));
            let mut sums = vec![(0.0, 0.0); if loss.scope() == Scope::Row { n } else { 1 }];
            for i in 0..n {
                for j in 0..m {
                    let at = i * m + j;
                    let weight = got.dx[at];
                    match problem.pair(i, j) {
                        Pair::Negative if counted[at] => assert!(weight > 0.0, "{i}, {j}"),
                        Pair::Negative => assert_eq!(weight, 0.0, "{i}, {j} is not mined"),
                        _ => {}
                    }
                    let sum = &mut sums[problem.group(i)];
                    *sum = (sum.0 + weight, sum.1 + slack.dx[at]);
                }
            }
            sums.into_iter().for_each(|(sum, slack)| near("ΣG of a group", sum, 0.0, slack));
        }
    }
}

/// Anchor-normalised: anchors whose negatives others' harder ones leave out have no weights, and
/// the rest share them.
pub fn anchors_without_a_mined_negative_do_not_count(e: &mut dyn Evaluator) {
    let (n, m) = (8, 11);
    for k in [1, 5, 17] {
        let similarities = Random::new(5).values(n * m, 1.0);
        let problem = Problem::of_similarities(Named::InBatchSoftmax, 4.0, n, m, &similarities);
        let mut problem = problem.with_mining(Mining::Hardest(k));
        problem.weighting = Weighting::AnchorNormalized;
        assert!(oracle::mines_the_same_in_f32(&problem));
        let counted = oracle::exact(&problem).counted;
        let (got, slack) = (e.evaluate(&problem), e.slack(&problem));
        let counts = |i: usize| (0..m).any(|j| counted[i * m + j]);
        let anchors = (0..n).filter(|&i| counts(i)).count();
        assert!(anchors > 0 && (k > 5 || anchors < n));
        for i in 0..n {
            let row = i * m..(i + 1) * m;
            let half = if counts(i) { 0.5 / anchors as f64 } else { 0.0 };
            let positives: f64 = got.dx[row.clone()].iter().filter(|&&g| g < 0.0).sum();
            let negatives: f64 = got.dx[row.clone()].iter().filter(|&&g| g > 0.0).sum();
            let slack: f64 = slack.dx[row].iter().sum::<f64>() + 1e-9;
            near("positives of an anchor", positives, -half, slack);
            near("negatives of an anchor", negatives, half, slack);
        }
    }
}

/// Gradients are the derivatives of the loss, the set being the same nearby.
pub fn mined_gradients_are_finite_differences(e: &mut dyn Evaluator) {
    let mut turn = 0;
    for loss in Named::ALL {
        for mining in [
            Mining::Hardest(2),
            Mining::Hardest(11),
            Mining::HardestPerRow(1),
            Mining::HardestPerRow(3),
        ] {
            turn += 1;
            let problem = (0..).map(|seed| {
                let mut problem = Problem::new(loss, 1.7, (6, 7, 3)).with_mining(mining);
                if turn % 2 == 0 {
                    problem = problem.with_labels(&[0, 1, 0, 2, 1, 0], &[1, 1, 0, 2, 4, 0, 4]);
                }
                problem.normalize = turn % 3 == 0;
                problem.reduction = [Reduction::Mean, Reduction::Sum][turn / 2 % 2];
                Random::new(100 + seed).embeddings(&mut problem);
                problem
            });
            let problem = problem.into_iter().find(|p| oracle::mining_gap(p) > 2e-3).unwrap();
            let (got, slack) = (e.evaluate(&problem), e.slack(&problem));
            let (x, y) = (widen(&problem.x), widen(problem.candidates()));
            let s = f64::from(problem.scale);
            let error = 2e-7 * if problem.reduction == Reduction::Sum { 20.0 } else { 1.0 };
            for k in 0..x.len() {
                let derivative =
                    central_difference(&x, k, 1e-5, |x| oracle::loss_at(&problem, x, &y, s));
                near(
                    &format!("dX[{k}] of {problem:?}"),
                    got.dx[k],
                    derivative,
                    slack.dx[k] + error,
                );
            }
            for k in 0..y.len() {
                let derivative =
                    central_difference(&y, k, 1e-5, |y| oracle::loss_at(&problem, &x, y, s));
                near(
                    &format!("dY[{k}] of {problem:?}"),
                    got.dy[k],
                    derivative,
                    slack.dy[k] + error,
                );
            }
            let derivative =
                central_difference(&[s], 0, 1e-5, |s| oracle::loss_at(&problem, &x, &y, s[0]));
            near(&format!("dscale of {problem:?}"), got.dscale, derivative, slack.dscale + error);
        }
    }
}

/// As many as there are pairs: the bits of the loss without mining.
pub fn more_than_there_are_is_the_same_to_the_bit<H: Harness>(h: &mut H) {
    for problem in assorted(6) {
        let plain = both_ways(h, &problem);
        for mining in [
            Mining::Hardest(problem.n * problem.m),
            Mining::Hardest(usize::MAX),
            Mining::HardestPerRow(problem.m),
        ] {
            let mined = both_ways(h, &problem.clone().with_mining(mining));
            for (mined, plain) in mined.iter().zip(&plain) {
                assert_eq!(mined.bits(), plain.bits(), "{mining:?}");
            }
        }
    }
}

/// A similarity that is NaN is never mined before numbers, and makes the loss NaN all the same; so
/// does an embedding that is not finite.
pub fn nan_is_never_mined_and_never_missed<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        for mining in [
            Mining::Hardest(1),
            Mining::Hardest(20),
            Mining::HardestPerRow(1),
            Mining::HardestPerRow(4),
        ] {
            let mut good = Problem::new(loss, 1.0, (6, 7, 2)).with_mining(mining);
            Random::new(7).embeddings(&mut good);
            let before = both_ways(h, &good);
            assert!(before.iter().all(|got| got.loss.is_finite()));
            // x·y = ∞ − ∞ where both rows meet: pair (4, 1), a negative of the diagonal.
            let mut overflow = good.clone();
            overflow.x[8..10].copy_from_slice(&[2e38, 2e38]);
            overflow.y.as_mut().unwrap()[2..4].copy_from_slice(&[2.0, -2.0]);
            let mut nan = good.clone();
            nan.x[5 * 2] = f32::NAN;
            let mut infinite = good.clone();
            infinite.y.as_mut().unwrap()[0] = f32::NEG_INFINITY;
            for bad in [overflow, nan, infinite] {
                assert!(loss_only(h, &bad).unwrap().is_nan(), "{mining:?} {bad:?}");
                for got in both_ways(h, &bad) {
                    assert!(got.loss.is_nan(), "{mining:?} {bad:?}");
                }
            }
            for (before, after) in before.iter().zip(both_ways(h, &good)) {
                assert_eq!(before.bits(), after.bits(), "another call has changed");
            }
        }
    }
}

/// Rows none of whose negatives are mined: their positives' terms are 0, and so are gradients.
pub fn rows_without_a_mined_negative_have_no_gradient<H: Harness>(h: &mut H) {
    let (n, m) = (6, 8);
    // Row 2 has all hard negatives.
    let similarities: Vec<f32> =
        (0..n * m).map(|at| if at / m == 2 { 5.0 } else { -((at % 5) as f32) }).collect();
    for weighting in [Weighting::Analytic, Weighting::AnchorNormalized] {
        let mut problem = Problem::of_similarities(Named::InBatchSoftmax, 1.0, n, m, &similarities)
            .with_mining(Mining::Hardest(4));
        problem.weighting = weighting;
        assert_as_oracle(h, &problem);
        for got in both_ways(h, &problem) {
            for (i, row) in got.dx.chunks(m).enumerate() {
                let zero = row.iter().all(|&weight| weight == 0.0);
                assert_eq!(zero, i != 2, "row {i}: {row:?}");
            }
            // Of equally hard ones the first columns: 0, 1, 3, 4; 2 is the positive.
            let negatives: Vec<bool> = got.dx[2 * m..3 * m].iter().map(|&w| w > 0.0).collect();
            assert_eq!(negatives, [true, true, false, true, true, false, false, false]);
            // log(1 + 4), one sixth of it.
            assert!((got.loss - 5.0_f32.ln() / 6.0).abs() < 1e-6, "{}", got.loss);
        }
    }
}

/// The hardest negatives anywhere in a matrix of many tiles and panels; few, and a fair part.
pub fn the_hardest_may_lie_anywhere<H: Harness>(h: &mut H, (n, m, d): (usize, usize, usize)) {
    for order in 0..5 {
        let mut random = Random::new(order);
        let mut problem = Problem::new(Named::ALL[order as usize % 3], 0.05, (n, m, d));
        if problem.loss == Named::InstanceCrossEntropy {
            problem = problem.with_labels(&random.labels(n, 9), &random.labels(m, 9));
        }
        problem.x = random.whole(n * d, 3);
        problem.y = Some(random.whole(m * d, 3));
        // Longer rows have harder negatives.
        for (i, row) in problem.x.chunks_exact_mut(d).enumerate() {
            let size = match order {
                0 => 8 * i / n,
                1 => 8 - 8 * i / n,
                2 => 8 * usize::from(i + 3 > n),
                3 => 0,
                _ => 1,
            };
            row.iter_mut().for_each(|value| *value *= size as f32);
        }
        for mining in [
            Mining::Hardest(n / 4),
            Mining::Hardest(n * m / 10),
            Mining::HardestPerRow(2),
            Mining::HardestPerRow(m / 3),
        ] {
            let problem = problem.clone().with_mining(mining);
            assert!(oracle::mines_the_same_in_f32(&problem));
            assert_as_oracle(h, &problem.rounded_to(DType::Bf16));
        }
    }
}

/// Every call again, on the same engine: the same bits.
pub fn mining_gives_the_same_bits_again<H: Harness>(h: &mut H) {
    let ties = |mining| {
        let mut problem = Problem::new(Named::CrossExampleSoftmax, 0.3, (70, 66, 5));
        (problem.x, problem.y) = (vec![1.0; 70 * 5], Some(Random::new(8).whole(66 * 5, 1)));
        problem.with_mining(mining)
    };
    let problems = assorted(9).into_iter().flat_map(|problem| {
        [Mining::Hardest(7), Mining::Hardest(problem.n * problem.m / 4), Mining::HardestPerRow(2)]
            .map(|mining| problem.clone().with_mining(mining))
    });
    let ties = [Mining::Hardest(9), Mining::Hardest(900), Mining::HardestPerRow(4)].map(ties);
    for problem in problems.chain(ties) {
        let first = forward_backward(h, &problem, 1.0).unwrap();
        assert_eq!(first.bits(), forward_backward(h, &problem, 1.0).unwrap().bits());
        let both = loss_and_gradients(h, &problem).unwrap();
        assert_eq!(both.bits(), loss_and_gradients(h, &problem).unwrap().bits());
    }
}

/// One #[test] per promise about problems, on the evaluator that `$make` gives.
#[macro_export]
macro_rules! mining_identity_tests {
    ($make:expr) => {
        $crate::mining_identity_tests!($make =>
            mining_all_negatives_is_no_mining,
            the_loss_grows_with_the_set,
            mined_cross_example_is_the_same_on_the_transpose,
            weights_are_those_of_the_mined_set,
            anchors_without_a_mined_negative_do_not_count,
            mined_gradients_are_finite_differences,
        );
    };
    ($make:expr => $($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            if let Some(mut evaluator) = $make(stringify!($name)) {
                $crate::common::mining::$name(&mut evaluator);
            }
        }
    )*};
}

/// One #[test] per promise about engines, on the harness that `$make` gives.
#[macro_export]
macro_rules! mining_tests {
    ($make:expr) => {
        $crate::mining_identity_tests!($make =>
            more_than_there_are_is_the_same_to_the_bit,
            nan_is_never_mined_and_never_missed,
            rows_without_a_mined_negative_have_no_gradient,
            mining_gives_the_same_bits_again,
        );
    };
}
