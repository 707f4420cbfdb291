//! The oracle against itself: its table covers what it should, its tolerances are tight, its
//! gradients are the derivatives of its loss.

mod common;

use common::cases::{Case, Part, SCALES, SIZES, table};
use common::compare::{Accuracy, Expected, compare};
use common::oracle;

use common::problem::{Named, Pair};
use metric_kernels::{DType, Mining, Reduction};

#[test]
fn the_table_has_every_size_scale_and_option() {
    let table = table();
    println!("{} cases", table.len());
    let any = |holds: &dyn Fn(&Case) -> bool| table.iter().any(holds);
    for side in [1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000] {
        assert!(any(&|case| case.problem.n == side), "no case of {side} rows");
        assert!(any(&|case| case.problem.m == side), "no case of {side} columns");
    }
    for d in [1, 3, 16, 64, 100, 257] {
        assert!(any(&|case| case.problem.d == d), "no case of dimension {d}");
    }
    for loss in Named::ALL {
        for scale in SCALES {
            assert!(any(&|case| case.problem.loss == loss && case.problem.scale == scale));
        }
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for normalize in [false, true] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    assert!(any(&|case| case.problem.loss == loss
                        && case.problem.dtype == dtype
                        && case.problem.normalize == normalize
                        && case.problem.reduction == reduction));
                }
            }
        }
    }
    assert!(SIZES.iter().any(|&(n, m, ..)| n < m) && SIZES.iter().any(|&(n, m, ..)| n > m));
}

#[test]
fn the_options_meet_every_kind_of_row() {
    let cases = common::cases::part(Part::Options);
    let (mut without, mut one, mut many, mut excluded) = (0, 0, 0, 0);
    for case in &cases {
        let problem = &case.problem;
        for i in 0..problem.n {
            let kind = |kind| (0..problem.m).filter(|&j| problem.pair(i, j) == kind).count();
            match kind(Pair::Positive) {
                0 => without += 1,
                1 => one += 1,
                _ => many += 1,
            }
            excluded += usize::from(kind(Pair::Excluded) > usize::from(problem.shared()));
        }
    }
    let least = without.min(one).min(many).min(excluded);
    assert!(
        least > 300,
        "{without} without, {one} with one, {many} with many, {excluded} excluded"
    );
}

/// Sets that an engine must agree on: exact similarities, or far apart where the choice ends.
#[test]
fn the_mined_sets_of_the_table_are_clear() {
    let cases = common::cases::part(Part::Mining);
    let (mut sparse, mut ties, mut empty) = (0, 0, 0);
    for case in &cases {
        let problem = &case.problem;
        assert!(oracle::mines_the_same_in_f32(problem), "{}", case.name);
        let (exact, naive) = (oracle::exact(problem), oracle::naive(problem));
        assert_eq!(exact.counted, naive.counted, "{}", case.name);
        let mined = |at: usize| exact.counted[at];
        let of_row = |i: usize| i * problem.m..(i + 1) * problem.m;
        let count = exact.counted.iter().filter(|&&counted| counted).count();
        sparse += usize::from(count * 8 <= problem.n * problem.m);
        empty += (0..problem.n).filter(|&i| !of_row(i).any(mined)).count();
        let negatives = (0..problem.n * problem.m)
            .filter(|at| problem.pair(at / problem.m, at % problem.m) == Pair::Negative);
        let (mined, rest): (Vec<usize>, Vec<usize>) = negatives.partition(|&at| mined(at));
        let is_tie = |&at: &usize| {
            rest.iter().any(|&other| exact.similarities[other] == exact.similarities[at])
        };
        ties += usize::from(mined.iter().any(is_tie));
        match problem.mining {
            Mining::Hardest(k) => assert_eq!(mined.len(), k.min(mined.len() + rest.len())),
            Mining::HardestPerRow(k) => {
                assert!(
                    (0..problem.n).all(|i| mined
                        .iter()
                        .filter(|&&at| of_row(i).contains(&at))
                        .count()
                        <= k)
                );
            }
            Mining::All => panic!("{}", case.name),
        }
    }
    println!("{} cases: {sparse} sparse, {ties} with ties, {empty} rows without", cases.len());
    assert!(cases.len() > 150 && sparse > 30 && ties > 30 && empty > 200);
}

/// A tolerance as large as the answer would let anything pass.
#[test]
fn tolerances_are_small_parts_of_the_answers() {
    let largest = |values: &[f64]| values.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    let mut parts: Vec<(f64, String)> = Vec::new();
    for case in table().iter().filter(|case| case.cost() < 10_000_000) {
        let expected = Expected::of(&case.problem, Accuracy::default());
        let exact = &expected.exact;
        if case.problem.count(Pair::Negative) == 0 {
            continue;
        }
        // One rounding of a cosine moves a logit by s·2⁻²⁴, and d of them by more.
        let limit = f64::from(case.problem.scale).mul_add(1e-5, 1e-3);
        let mut check = |what: &str, tolerance: f64, answer: f64| {
            assert!(tolerance.is_finite() && answer.is_finite(), "{}: {what}", case.name);
            // Answers of zero (row scope, none of whose positives has a negative) have no size.
            if answer > 0.0 {
                let part = tolerance / answer;
                assert!(part < limit, "{}: {what}: {tolerance:e} of {answer:e}", case.name);
                parts.push((part, format!("{what} of {}", case.name)));
            }
        };
        check("loss", expected.loss, exact.loss);
        check("dX", largest(&expected.dx), largest(&exact.dx));
        if let Some(dy) = &exact.dy {
            check("dY", largest(expected.dy.as_ref().unwrap()), largest(dy));
        }
        // Not relative to dscale itself, which cancels: to the sum of its terms' sizes.
        let terms = exact.similarities.iter().zip(&exact.weights).map(|(s, g)| (s * g).abs());
        let size = terms.sum::<f64>() / f64::from(case.problem.scale);
        check("dscale", expected.dscale, size);
    }
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("median {:.1e}, largest {:?}", parts[parts.len() / 2].0, parts.last());
    assert!(parts[parts.len() / 2].0 < 2e-5);
}

#[test]
fn the_comparator_names_the_first_and_the_worst_coordinate() {
    let message = compare("dX", 2, &[1.0, 2.5, 3.0, 9.0], &[1.0, 2.0, 3.0, 4.0], &[0.1; 4], 1.0);
    let message = message.unwrap_err();
    assert!(message.contains("2 of 4 differ"), "{message}");
    assert!(message.contains("first [0, 1] got 2.5e0, expected 2e0"), "{message}");
    assert!(message.contains("worst [1, 1] got 9e0, expected 4e0"), "{message}");
    assert!(compare("dX", 1, &[f32::NAN], &[1.0], &[1.0], 1.0).is_err());
    assert!(compare("dX", 1, &[1.0], &[f64::NAN], &[1.0], 1.0).is_err());
    assert!(compare("dX", 1, &[f32::INFINITY], &[1.0], &[1.0], 1.0).is_err());
    assert!(compare("dX", 1, &[1.0], &[1.0, 2.0], &[1.0; 2], 1.0).is_err());
    assert!(compare("dX", 1, &[-1.05], &[0.5], &[0.1], -2.0).is_ok());
}
