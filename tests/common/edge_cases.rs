//! Every decided edge case, each a function over an engine.

use super::compare::{Expected, TINY, U, compare, compare_number};
use super::oracle::{self, dot, widen};
use super::problem::{Named, Pair, Positives, Problem, Random};
use super::run::{
    AnyLoss, Data, Device, Harness, Outputs, Uploaded, forward_backward, loss_and_gradients,
    loss_only,
};
use crate::with_dtype;
use metric_kernels::{DType, Engine, Error, Loss, NO_POSITIVE, Reduction, Weighting};

/// Both ways to loss and gradients.
pub fn both_ways<H: Harness>(harness: &mut H, problem: &Problem) -> [Outputs; 2] {
    [
        forward_backward(harness, problem, 1.0).expect("a good problem"),
        loss_and_gradients(harness, problem).expect("a good problem"),
    ]
}

/// Both ways give what the oracle gives.
#[track_caller]
pub fn assert_as_oracle<H: Harness>(harness: &mut H, problem: &Problem) {
    let expected = Expected::of(problem, harness.accuracy(problem.dtype));
    for got in both_ways(harness, problem) {
        if let Err(message) = check(problem, &expected, &got) {
            panic!("{message}\n{problem:?}");
        }
    }
}

/// One result against what is expected.
pub fn check(problem: &Problem, expected: &Expected, got: &Outputs) -> Result<(), String> {
    let (exact, d) = (&expected.exact, problem.d);
    compare_number("loss", got.loss, exact.loss, expected.loss, 1.0)?;
    compare("dX", d, &got.dx, &exact.dx, &expected.dx, 1.0)?;
    match (&got.dy, &exact.dy, &expected.dy) {
        (Some(got), Some(dy), Some(tolerance)) => {
            compare("dY", d, got, dy, tolerance, 1.0)?;
        }
        (None, None, _) => {}
        _ => return Err("dY: there and not expected, or the reverse".into()),
    }
    compare_number("dscale", got.dscale, exact.dscale, expected.dscale, 1.0)?;
    Ok(())
}

/// For similarities that f32 holds exactly: nothing but the last rounding steps may be off,
/// whatever the size of s·S. An engine may keep the factor s of a weight as a logarithm, in the
/// exponent, where its rounding counts |ln s| times.
#[track_caller]
fn assert_exact<H: Harness>(harness: &mut H, problem: &Problem) {
    let exact = oracle::exact(problem);
    let (n, m, d) = (problem.n, problem.m, problem.d);
    let accuracy = harness.accuracy(problem.dtype);
    let part = (32.0 + 2.0 * f64::from(problem.scale).ln().abs()) * U + accuracy.weights;
    let floor = accuracy.floor * exact.weights.iter().fold(0.0, |top: f64, g| top.max(g.abs()));
    let terms = |rows: usize, cols: usize, of: &dyn Fn(usize, usize) -> f64, other: &[f64]| {
        let mut sizes = vec![0.0; rows * d];
        for i in 0..rows {
            for j in 0..cols {
                for k in 0..d {
                    sizes[i * d + k] += (part * of(i, j).abs() + floor) * other[j * d + k].abs();
                }
            }
        }
        sizes
    };
    let mut of_x = terms(n, m, &|i, j| exact.weights[i * m + j], &exact.y);
    let of_y = terms(m, n, &|j, i| exact.weights[i * m + j], &exact.x);
    if problem.shared() {
        of_x.iter_mut().zip(&of_y).for_each(|(x, y)| *x += y);
    }
    let scale: f64 =
        exact.weights.iter().zip(&exact.similarities).map(|(g, s)| (g * s).abs()).sum();
    let expected = Expected {
        loss: part * exact.loss.abs() + TINY,
        dx: of_x,
        dy: exact.dy.is_some().then_some(of_y),
        dscale: part * scale / f64::from(problem.scale),
        exact,
    };
    for got in both_ways(harness, problem) {
        if let Err(message) = check(problem, &expected, &got) {
            panic!("{message}\n{problem:?}");
        }
    }
}

pub fn rows_without_positives_contribute_no_term_and_still_supply_negatives<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        for kind in 0..3 {
            let mut problem = Problem::new(loss, 2.0, (6, 4, 3));
            problem = match kind {
                0 => problem,
                1 => problem.with_labels(&[1, 2, 3, 1, 8, 9], &[1, 2, 3, 1]),
                _ => problem.with_index(&[2, 0, 1, 3, NO_POSITIVE, NO_POSITIVE]),
            };
            Random::new(1).embeddings(&mut problem);
            assert!((0..4).all(|j| problem.pair(4, j) == Pair::Negative));
            assert_as_oracle(h, &problem);

            // Moving a row without positives matters exactly where its negatives count.
            let mut moved = problem.clone();
            moved.x[5 * 3] += 1.0;
            let [before, ..] = both_ways(h, &problem);
            let [after, ..] = both_ways(h, &moved);
            if loss == Named::CrossExampleSoftmax {
                assert!((after.loss - before.loss).abs() > 1e-3);
                assert!(before.dx[5 * 3..].iter().any(|&value| value.abs() > 1e-3));
            } else {
                assert_eq!(after.loss, before.loss);
                assert_eq!(before.dx[4 * 3..], [0.0; 6]);
            }
        }
    }
}

pub fn a_positive_whose_group_has_no_negatives_has_term_and_gradient_zero<H: Harness>(h: &mut H) {
    for loss in [Named::InBatchSoftmax, Named::InstanceCrossEntropy] {
        for weighting in [Weighting::Analytic, Weighting::AnchorNormalized] {
            // Row 0 matches two candidates and its ids exclude the third; row 1 is ordinary.
            let mut problem = Problem::new(loss, 2.0, (2, 3, 4))
                .with_labels(&[5, 6], &[5, 5, 6])
                .with_ids(&[9, 8], &[1, 2, 9]);
            problem.weighting = weighting;
            Random::new(2).embeddings(&mut problem);
            assert!((0..3).all(|j| problem.pair(0, j) != Pair::Negative));
            assert_as_oracle(h, &problem);
            for got in both_ways(h, &problem) {
                assert_eq!(got.dx[..4], [0.0; 4]);
            }
            // Its two terms of zero count in the mean: three positives, one with a term.
            let sum = Problem { reduction: Reduction::Sum, ..problem.clone() };
            let (mean, sum) = (loss_only(h, &problem).unwrap(), loss_only(h, &sum).unwrap());
            assert!((mean - sum / 3.0).abs() <= 1e-6 * sum, "{mean} {sum}");
        }
    }
}

pub fn all_labels_the_same_have_no_negatives_at_all<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        for shared in [false, true] {
            let mut problem = Problem::new(loss, 4.0, (7, 7, 3)).with_labels(&[3; 7], &[3; 7]);
            if shared {
                problem.y = None;
            }
            Random::new(3).embeddings(&mut problem);
            for got in both_ways(h, &problem) {
                assert_eq!((got.loss, got.dscale), (0.0, 0.0));
                let all = got.dx.iter().chain(got.dy.iter().flatten());
                assert!(all.clone().count() >= 21 && all.clone().all(|&value| value == 0.0));
            }
        }
    }
}

pub fn one_anchor<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        for m in [1, 2, 5, 70] {
            let mut problem = Problem::new(loss, 4.0, (1, m, 3)).with_index(&[m as u32 / 2]);
            Random::new(4).embeddings(&mut problem);
            assert_as_oracle(h, &problem);
            if m == 1 {
                assert_eq!(loss_only(h, &problem).unwrap(), 0.0);
            }
        }
    }
}

pub fn huge_classes<H: Harness>(h: &mut H) {
    for n in [40, 150] {
        for loss in Named::ALL {
            for weighting in [Weighting::Analytic, Weighting::AnchorNormalized] {
                if loss == Named::CrossExampleSoftmax && weighting == Weighting::AnchorNormalized {
                    continue;
                }
                let labels: Vec<u32> =
                    (0..n as u32).map(|i| u32::from(i >= n as u32 / 2)).collect();
                let mut problem = Problem::new(loss, 6.0, (n, n, 4)).with_labels(&labels, &labels);
                problem.y = None;
                problem.weighting = weighting;
                Random::new(5).embeddings(&mut problem);
                assert_as_oracle(h, &problem);
            }
        }
    }
}

/// Labels and ids are compared whole: all 32 bits, and no value is special.
pub fn labels_and_ids_of_any_value<H: Harness>(h: &mut H) {
    let values = [0, u32::MAX, 1 << 31, 1 << 16, 1 << 24, (1 << 24) + 1];
    for loss in Named::ALL {
        let mut problem = Problem::new(loss, 3.0, (6, 6, 3)).with_labels(&values, &values);
        Random::new(6).embeddings(&mut problem);
        assert_eq!(problem.count(Pair::Positive), 6);
        assert_as_oracle(h, &problem);
        let mut problem = Problem::new(loss, 3.0, (6, 6, 3));
        let mut turned = values;
        turned.rotate_left(1);
        problem = problem.with_ids(&values, &turned);
        Random::new(7).embeddings(&mut problem);
        assert_eq!(problem.count(Pair::Excluded), 6);
        assert_as_oracle(h, &problem);
    }
}

/// Equal ids never turn a positive into anything else.
pub fn a_positive_with_equal_ids_stays_positive<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        let mut plain = Problem::new(loss, 3.0, (5, 5, 3));
        Random::new(8).embeddings(&mut plain);
        let with_ids = plain.clone().with_ids(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
        assert_eq!(with_ids.count(Pair::Excluded), 0);
        let (a, b) = (both_ways(h, &plain), both_ways(h, &with_ids));
        assert_eq!(a, b);
        assert_as_oracle(h, &with_ids);
    }
}

/// Checks that a problem has no positive pair: `check` says so, and the loss alone either says so
/// too or is NaN (an engine that does not read labels back).
#[track_caller]
fn assert_no_pair<H: Harness>(h: &mut H, problem: &Problem, argument: &str) {
    let uploaded = Uploaded::<H, f32>::new(h, problem, (0, 0), false);
    let error = AnyLoss::of(problem).check(h.engine(), uploaded.batch()).expect_err("no pair");
    assert_names(&error, argument);
    match loss_only(h, problem) {
        Ok(loss) => assert!(loss.is_nan(), "{loss}"),
        Err(error) => assert_names(&error, argument),
    }
    match loss_and_gradients(h, problem) {
        Ok(outputs) => assert!(outputs.loss.is_nan(), "{outputs:?}"),
        Err(error) => assert_names(&error, argument),
    }
}

/// An invalid argument of this name, with something given and something expected.
#[track_caller]
pub fn assert_names(error: &Error, name: &str) {
    match error {
        Error::InvalidArgument { argument, given, expected } => {
            assert_eq!(*argument, name, "{error}");
            assert!(!given.is_empty() && !expected.is_empty(), "{error}");
            assert_ne!(given, expected, "{error}");
        }
        other => panic!("expected an invalid {name}, got {other:?}"),
    }
}

pub fn no_positive_pair_is_an_error_that_names_the_argument<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        let mut plain = Problem::new(loss, 3.0, (3, 4, 2));
        Random::new(9).embeddings(&mut plain);
        assert_no_pair(h, &plain.clone().with_labels(&[1, 2, 3], &[4, 5, 6, 7]), "labels");
        assert_no_pair(h, &plain.with_index(&[NO_POSITIVE; 3]), "positives");
        // A set of singletons: what matches is each row with itself, which is excluded.
        let mut shared =
            Problem::new(loss, 3.0, (4, 4, 2)).with_labels(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        shared.y = None;
        assert_no_pair(h, &shared, "labels");
        let mut one = Problem::new(loss, 3.0, (1, 1, 2)).with_labels(&[1], &[1]);
        one.y = None;
        assert_no_pair(h, &one, "labels");
    }
}

pub fn nan_or_infinity_in_an_embedding_makes_the_loss_nan_and_nothing_else<H: Harness>(h: &mut H) {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for loss in Named::ALL {
        for normalize in [false, true] {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let mut good = Problem::new(loss, 3.0, (5, 4, 3));
                good.normalize = normalize;
                Random::new(10).embeddings(&mut good);
                // One sign, so that −∞ on one side makes similarities of −∞: weights of 0 that no
                // arithmetic would notice.
                let all = good.x.iter_mut().chain(good.y.as_mut().unwrap());
                all.for_each(|value| *value = value.abs().max(0.125));
                let good = good.rounded_to(dtype);
                let before = both_ways(h, &good);
                for value in values {
                    // The first number of x, the last, one of y, and of a row without a positive.
                    for place in [(0, 0), (0, 3 * 3 + 2), (1, 5), (0, 4 * 3 + 1), (1, 11)] {
                        let mut bad = good.clone();
                        match place {
                            (0, at) => bad.x[at] = value,
                            (_, at) => bad.y.as_mut().unwrap()[at] = value,
                        }
                        let alone = loss_only(h, &bad).expect("not an error");
                        assert!(alone.is_nan(), "{value} at {place:?}: {alone} {good:?}");
                        for got in both_ways(h, &bad) {
                            assert!(got.loss.is_nan(), "{value} at {place:?}: {}", got.loss);
                        }
                    }
                    let after = both_ways(h, &good);
                    for (before, after) in before.iter().zip(&after) {
                        assert_eq!(before.bits(), after.bits(), "another call has changed");
                    }
                }
            }
        }
    }
}

/// Also where nothing but positives reads it: in tiles of positives, and in others.
pub fn nan_or_infinity_among_positives_makes_the_loss_nan<H: Harness>(h: &mut H) {
    // Of one class as many as fit what a pass keeps for another, and more.
    let of = |loss| [(loss, DType::F32, 65), (loss, DType::Bf16, 65), (loss, DType::Bf16, 130)];
    for (loss, dtype, positives) in Named::ALL.into_iter().flat_map(of) {
        let (n, m, d) = (32, positives + 5, 3);
        let columns: Vec<u32> = (0..m).map(|j| if j < positives { 7 } else { 8 }).collect();
        let mut good = Problem::new(loss, 3.0, (n, m, d)).with_labels(&[7; 32], &columns);
        Random::new(13).embeddings(&mut good);
        let good = good.rounded_to(dtype);
        assert!(both_ways(h, &good).iter().all(|got| got.loss.is_finite()));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for column in [40, positives - 1] {
                let mut bad = good.clone();
                bad.y.as_mut().unwrap()[column * d] = value;
                let alone = loss_only(h, &bad).expect("not an error");
                assert!(alone.is_nan(), "{loss:?} {dtype:?} {value} {column}: {alone}");
                for got in both_ways(h, &bad) {
                    assert!(got.loss.is_nan(), "{loss:?} {dtype:?} {value} {column}: {got:?}");
                }
            }
        }
    }
}

pub fn a_zero_row_normalises_to_zero_with_zero_gradient<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        // Exactly zero, and of a norm of at most 1e-12.
        for tiny in [0.0, -0.0, 1e-13] {
            let mut problem = Problem::new(loss, 5.0, (6, 7, 3));
            problem.normalize = true;
            Random::new(11).embeddings(&mut problem);
            problem.x[3..6].copy_from_slice(&[tiny, 0.0, tiny]);
            problem.y.as_mut().unwrap()[12..15].copy_from_slice(&[0.0, tiny, 0.0]);
            assert_as_oracle(h, &problem);
            for got in both_ways(h, &problem) {
                assert_eq!(got.dx[3..6], [0.0; 3]);
                assert_eq!(got.dy.unwrap()[12..15], [0.0; 3]);
                assert!(got.dx[..3].iter().any(|&value| value != 0.0));
            }
        }
    }
}

/// Powers of two change nothing in a direction, even where the squared norm leaves f32.
pub fn rows_of_any_norm_normalise<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        let mut problem = Problem::new(loss, 5.0, (6, 7, 3));
        problem.normalize = true;
        Random::new(12).embeddings(&mut problem);
        let [plain, ..] = both_ways(h, &problem);
        for exponent in [-30, 20, 60, 66, 100] {
            let factor = (exponent as f32).exp2();
            let mut other = problem.clone();
            other.x[6..9].iter_mut().for_each(|value| *value *= factor);
            for got in both_ways(h, &other) {
                assert!(
                    (got.loss - plain.loss).abs() <= 1e-5 * plain.loss,
                    "a row 2^{exponent} as long: loss {} instead of {}",
                    got.loss,
                    plain.loss
                );
                let largest = plain.dx.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                for (at, (got, plain)) in got.dx.iter().zip(&plain.dx).enumerate() {
                    let back = if (6..9).contains(&at) { factor } else { 1.0 };
                    assert!(
                        (got * back - plain).abs() <= 1e-4 * largest,
                        "a row 2^{exponent} as long: dX[{at}] × {back:e} is {} instead of {plain}",
                        got * back
                    );
                }
            }
        }
    }
}

/// s·S of any size: embeddings are whole numbers, so that every S is exact in f32 and the answer
/// is known however far s·S lies outside the range of exp.
pub fn logits_far_outside_the_exponent_range_are_exact<H: Harness>(h: &mut H) {
    for scale in [1e4, 1e8, 1e30, 1e-30] {
        for loss in Named::ALL {
            for weighting in [Weighting::Analytic, Weighting::AnchorNormalized] {
                if loss == Named::CrossExampleSoftmax && weighting == Weighting::AnchorNormalized {
                    continue;
                }
                for seed in 0..3 {
                    let mut random = Random::new(seed);
                    let mut problem = Problem::new(loss, scale, (9, 11, 4));
                    problem.weighting = weighting;
                    let labels = random.labels(9, 4);
                    let cols = random.labels(11, 4);
                    if loss == Named::InstanceCrossEntropy || seed > 0 {
                        problem = problem.with_labels(&labels, &cols);
                    }
                    // |S| up to 4·18² = 1,296.
                    problem.x = random.whole(9 * 4, 18);
                    problem.y = Some(random.whole(11 * 4, 18));
                    assert_exact(h, &problem);
                }
            }
        }
    }
    // All similarities equal and huge: the groups are uniform, whatever the scale.
    for scale in [1e4, 1e30] {
        for loss in [Named::InBatchSoftmax, Named::CrossExampleSoftmax] {
            let mut problem = Problem::new(loss, scale, (4, 4, 1));
            problem.x = vec![-32.0; 4];
            problem.y = Some(vec![32.0; 4]);
            assert_exact(h, &problem);
            let log = if loss == Named::InBatchSoftmax { 4.0_f32 } else { 13.0 }.ln();
            assert!((loss_only(h, &problem).unwrap() - log).abs() < 1e-6);
        }
    }
    // And in 16 bits.
    for dtype in [DType::F16, DType::Bf16] {
        let mut problem = Problem::new(Named::CrossExampleSoftmax, 1e4, (9, 9, 4));
        problem.x = Random::new(20).whole(36, 18);
        problem.y = Some(Random::new(21).whole(36, 18));
        assert_exact(h, &problem.rounded_to(dtype));
    }
}

/// Rows come in panels and tiles, to whose largest similarity so far sums are relative: the hardest
/// negatives may come first, last or in the middle, and whole panels may have none.
pub fn the_hardest_negatives_may_lie_anywhere<H: Harness>(h: &mut H) {
    let (n, m, d) = (1300, 9, 2);
    for loss in Named::ALL {
        for order in 0..4 {
            let mut problem = Problem::new(loss, 50.0, (n, m, d)).with_index(&vec![4; n]);
            Random::new(order).embeddings(&mut problem);
            for (i, row) in problem.x.chunks_exact_mut(d).enumerate() {
                let size = match order {
                    0 => i as f32 / n as f32,
                    1 => 1.0 - i as f32 / n as f32,
                    2 => 1.0 - (i as f32 / n as f32 - 0.5).abs(),
                    _ => 1.0,
                };
                row.iter_mut().for_each(|value| *value *= 4.0 * size);
            }
            if order == 3 {
                // Ids exclude all negatives of the first 700 rows.
                let ids: Vec<u32> = (0..n).map(|i| u32::from(i >= 700)).collect();
                problem = problem.with_ids(&ids, &[0; 9]);
            }
            assert_as_oracle(h, &problem);
        }
    }
}

/// Weights of positives and of negatives may be of any size beside each other, in one tile or apart:
/// classes whose candidates are where their anchors are, and classes whose candidates are opposite.
pub fn easy_and_hard_classes_side_by_side<H: Harness>(h: &mut H) {
    // Of 20 candidates, and of more than one pass keeps for another, where one does.
    let many = [Named::InBatchSoftmax, Named::InstanceCrossEntropy].map(|loss| (loss, 700));
    for (loss, m) in Named::ALL.into_iter().map(|loss| (loss, 140)).chain(many) {
        let (n, d) = (70, 8);
        let classes = |count: usize| (0..count as u32).map(|i| i * 7 / count as u32).collect();
        let (rows, columns): (Vec<u32>, Vec<u32>) = (classes(n), classes(m));
        // Which classes are hard, all easy, or all hard.
        for (hard, scale) in [(0b0010010u32, 20.0), (0, 20.0), (0, 60.0), (!0, 20.0)] {
            let mut problem = Problem::new(loss, scale, (n, m, d)).with_labels(&rows, &columns);
            Random::new(22).embeddings(&mut problem);
            let near = |data: &mut [f32], classes: &[u32], hard: u32| {
                for (row, &class) in data.chunks_exact_mut(d).zip(classes) {
                    row.iter_mut().for_each(|value| *value *= 0.1);
                    row[class as usize] += if hard >> class & 1 == 1 { -1.0 } else { 1.0 };
                }
            };
            near(&mut problem.x, &rows, 0);
            near(problem.y.as_mut().unwrap(), &columns, hard);
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                assert_as_oracle(h, &problem.clone().rounded_to(dtype));
            }
        }
    }
}

/// δ/W is 0/0 in every number type when all positives of an anchor are easy: the anchor's weights
/// are halves all the same.
pub fn anchor_normalized_with_all_positives_easy<H: Harness>(h: &mut H) {
    for scale in [1.0, 10.0, 1e4] {
        // Positives have S = 900 and 898, negatives 0 and −30.
        let mut problem = Problem::new(Named::InstanceCrossEntropy, scale, (2, 4, 2))
            .with_labels(&[1, 2], &[1, 1, 2, 2]);
        problem.weighting = Weighting::AnchorNormalized;
        problem.x = vec![30.0, 0.0, 0.0, 30.0];
        problem.y = Some(vec![30.0, 0.0, 29.0, -1.0, 0.0, 30.0, -1.0, 29.0]);
        assert_exact(h, &problem);
        for got in both_ways(h, &problem) {
            assert!(got.loss.abs() < 1e-30 && got.dx[0] < -7.0 / 4.0 * 4.0, "{got:?}");
        }
    }
}

/// An upstream gradient of zero is zero everywhere, not NaN; and one of −1 is exactly the other way.
pub fn upstream_of_zero_and_of_minus_one<H: Harness>(h: &mut H) {
    for loss in Named::ALL {
        let mut problem = Problem::new(loss, 20.0, (9, 9, 4));
        problem.normalize = true;
        Random::new(13).embeddings(&mut problem);
        let zero = forward_backward(h, &problem, 0.0).unwrap();
        assert!(zero.loss > 0.0 && zero.dscale == 0.0);
        assert!(zero.dx.iter().chain(zero.dy.iter().flatten()).all(|&value| value == 0.0));
        let one = forward_backward(h, &problem, 1.0).unwrap();
        let minus = forward_backward(h, &problem, -1.0).unwrap();
        assert!(one.dx.iter().zip(&minus.dx).all(|(a, b)| *a == -b && *a != 0.0));
        assert_eq!(one.dscale, -minus.dscale);
    }
}

/// A scale on the device is the same as a number; one that is not finite and positive makes the
/// loss NaN.
pub fn a_scale_on_the_device<H: Harness>(h: &mut H) {
    let mut problem = Problem::new(Named::CrossExampleSoftmax, 7.0, (6, 6, 3));
    Random::new(14).embeddings(&mut problem);
    let number = forward_backward(h, &problem, 1.0).unwrap();
    // The loss's own scale is ignored then, even a bad one.
    let mut loss_of = |scale: f32| {
        let at = Problem { scale, ..problem.clone() };
        let uploaded = Uploaded::<H, f32>::new(h, &at, (0, 0), true);
        let loss = metric_kernels::CrossExampleSoftmax::new(f32::NAN);
        let forward = loss.forward(h.engine(), uploaded.batch()).unwrap();
        h.engine().read(&forward.loss).unwrap()[0]
    };
    assert_eq!(loss_of(7.0), number.loss);
    assert_ne!(loss_of(6.0), number.loss);
    for bad in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let loss = loss_of(bad);
        assert!(loss.is_nan(), "a device scale of {bad} gives {loss}");
    }
    assert_eq!(loss_of(7.0), number.loss);
}

/// One #[test] per edge case, on the harness that `$make` gives (`None` skips, having said so).
#[macro_export]
macro_rules! edge_case_tests {
    ($make:expr) => {
        $crate::edge_case_tests!($make =>
            rows_without_positives_contribute_no_term_and_still_supply_negatives,
            a_positive_whose_group_has_no_negatives_has_term_and_gradient_zero,
            all_labels_the_same_have_no_negatives_at_all,
            one_anchor,
            huge_classes,
            labels_and_ids_of_any_value,
            a_positive_with_equal_ids_stays_positive,
            no_positive_pair_is_an_error_that_names_the_argument,
            nan_or_infinity_in_an_embedding_makes_the_loss_nan_and_nothing_else,
            nan_or_infinity_among_positives_makes_the_loss_nan,
            a_zero_row_normalises_to_zero_with_zero_gradient,
            rows_of_any_norm_normalise,
            logits_far_outside_the_exponent_range_are_exact,
            the_hardest_negatives_may_lie_anywhere,
            easy_and_hard_classes_side_by_side,
            anchor_normalized_with_all_positives_easy,
            upstream_of_zero_and_of_minus_one,
            a_scale_on_the_device,
        );
    };
    ($make:expr => $($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            if let Some(mut harness) = $make(stringify!($name)) {
                $crate::common::edge_cases::$name(&mut harness);
            }
        }
    )*};
}
