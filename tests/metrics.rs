//! Recall at k, average precision and histograms against brute force in f64, and against values
//! worked out by hand.
//!
//! Random embeddings hold small integers, so similarities are exact, often equal, and the same in
//! f32 and f64.

use std::cmp::Ordering;

use half::{bf16, f16};
use metric_kernels::metrics::Evaluation;
use metric_kernels::{Batch, Element, Error, Host, Matrix, NO_POSITIVE};
use proptest::prelude::*;

/// Which pairs match, owned.
#[derive(Clone, Debug)]
enum Positives {
    Diagonal,
    Labels(Vec<u32>, Vec<u32>),
    Index(Vec<u32>),
}

/// A test set, owned.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    m: usize,
    d: usize,
    x: Vec<f32>,
    /// `None` in the shared case.
    y: Option<Vec<f32>>,
    positives: Positives,
    ids: Option<(Vec<u32>, Vec<u32>)>,
}

impl Case {
    fn batch<'a, T: Element>(&'a self, x: &'a [T], y: &'a [T]) -> Batch<'a, Host, T> {
        let x = Matrix::new(x, self.n, self.d).unwrap();
        let batch = match self.y {
            Some(_) => Batch::new(x, Matrix::new(y, self.m, self.d).unwrap()),
            None => Batch::shared(x),
        };
        let batch = match &self.positives {
            Positives::Diagonal => batch,
            Positives::Labels(rows, cols) => batch.labels(rows, cols),
            Positives::Index(index) => batch.positives(index),
        };
        match &self.ids {
            Some((rows, cols)) => batch.ids(rows, cols),
            None => batch,
        }
    }

    fn evaluation(&self) -> Result<Evaluation<'_>, Error> {
        Evaluation::new(self.batch(&self.x, self.y.as_deref().unwrap_or(&[])))
    }

    /// The matrix: similarity, and Some(positive?) where the pair is not excluded.
    fn pairs(&self) -> Vec<Vec<(f64, Option<bool>)>> {
        let y = self.y.as_ref().unwrap_or(&self.x);
        let pair = |i: usize, j: usize| {
            let dot = |c: usize| f64::from(self.x[i * self.d + c]) * f64::from(y[j * self.d + c]);
            let similarity = (0..self.d).map(dot).sum();
            let positive = match &self.positives {
                Positives::Diagonal => i == j,
                Positives::Labels(rows, cols) => rows[i] == cols[j],
                Positives::Index(index) => index[i] as usize == j,
            };
            let same = self.ids.as_ref().is_some_and(|(rows, cols)| rows[i] == cols[j]);
            let kind = if (self.y.is_none() && i == j) || (same && !positive) {
                None
            } else {
                Some(positive)
            };
            (similarity, kind)
        };
        (0..self.n).map(|i| (0..self.m).map(|j| pair(i, j)).collect()).collect()
    }
}

/// NaN last, as if it were below −∞.
fn falling(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).unwrap(),
        (a, b) => a.cmp(&b),
    }
}

/// Sorts a whole row.
fn brute_rank(row: &[(f64, Option<bool>)]) -> Option<u64> {
    let mut order: Vec<usize> = (0..row.len()).filter(|&j| row[j].1.is_some()).collect();
    order.sort_by(|&a, &b| falling(row[a].0, row[b].0).then(a.cmp(&b)));
    order.iter().position(|&j| row[j].1 == Some(true)).map(|place| place as u64 + 1)
}

/// Sorts all pairs; (average precision, thresholds).
fn brute_average_precision(pairs: &[Vec<(f64, Option<bool>)>]) -> (f64, usize) {
    let mut all: Vec<(f64, bool)> =
        pairs.iter().flatten().filter_map(|&(s, kind)| Some((s, kind?))).collect();
    all.sort_by(|a, b| falling(a.0, b.0));
    let total = all.iter().filter(|pair| pair.1).count() as f64;
    let (mut sum, mut hits, mut seen, mut thresholds) = (0.0, 0, 0, 0);
    for ties in all.chunk_by(|a, b| falling(a.0, b.0).is_eq()) {
        let here = ties.iter().filter(|pair| pair.1).count();
        hits += here;
        seen += ties.len();
        thresholds += usize::from(here > 0);
        sum += here as f64 / total * (hits as f64 / seen as f64);
    }
    (sum, thresholds)
}

fn agrees_with_brute_force(case: &Case) {
    let pairs = case.pairs();
    let ranks: Vec<Option<u64>> = pairs.iter().map(|row| brute_rank(row)).collect();
    let count = pairs.iter().flatten().filter(|pair| pair.1 == Some(true)).count();
    let test = match case.evaluation() {
        Ok(test) => test,
        Err(error) => {
            assert_eq!(count, 0, "{error}");
            return;
        }
    };
    assert_eq!(test.positive_pairs(), count as u64);
    assert_eq!(test.best_positive_ranks(), ranks);

    let ks = [1, 2, 5, 10, 100_000];
    let counted: Vec<u64> = ranks.into_iter().flatten().collect();
    let recall = test.recall_at_k(&ks).unwrap();
    for (&k, recall) in ks.iter().zip(&recall) {
        let hits = counted.iter().filter(|&&rank| rank <= k as u64).count();
        assert_eq!(*recall, hits as f64 / counted.len() as f64, "k = {k}");
    }

    let (expected, thresholds) = brute_average_precision(&pairs);
    let curve = test.precision_recall().unwrap();
    let given = curve.average_precision();
    assert!((given - expected).abs() < 1e-12, "{given}, expected {expected}");
    assert_eq!(test.average_precision().unwrap(), given);
    assert_eq!(curve.threshold.len(), thresholds);
    assert_eq!(curve.recall.last(), Some(&1.0));

    let histogram = test.histogram(-4.0..=4.0, 8).unwrap();
    let mut bins = [vec![0; 8], vec![0; 8]];
    for &(similarity, kind) in pairs.iter().flatten() {
        if let Some(positive) = kind {
            let bin = if similarity.is_nan() { 0.0 } else { (similarity + 4.0).clamp(0.0, 7.0) };
            bins[usize::from(!positive)][bin as usize] += 1;
        }
    }
    assert_eq!([histogram.positives, histogram.negatives], bins);
}

fn integers(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-3i8..=3).prop_map(f32::from), len)
}

/// Small sizes and sizes around the edges of a tile, 128 × 512.
fn cases() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![1usize..12, 127usize..130];
    let cols = prop_oneof![1usize..12, 510usize..515];
    (rows, cols, 1usize..6, any::<bool>(), 0..3, any::<bool>()).prop_flat_map(
        |(n, m, d, shared, kind, with_ids)| {
            let m = if shared { n } else { m };
            let codes = |len| prop::collection::vec(0u32..6, len);
            let index = move || {
                let row = prop_oneof![3 => 0..m as u32, 1 => Just(NO_POSITIVE)];
                prop::collection::vec(row, n).prop_map(move |mut index| {
                    for (i, j) in index.iter_mut().enumerate() {
                        if shared && i == *j as usize {
                            *j = NO_POSITIVE;
                        }
                    }
                    Positives::Index(index)
                })
            };
            let labels = move || {
                (codes(n), codes(m)).prop_map(move |(rows, cols)| {
                    let cols = if shared { rows.clone() } else { cols };
                    Positives::Labels(rows, cols)
                })
            };
            let positives = match kind {
                0 if !shared => Just(Positives::Diagonal).boxed(),
                1 => index().boxed(),
                _ => labels().boxed(),
            };
            let ids = if with_ids {
                (codes(n), codes(m)).prop_map(Some).boxed()
            } else {
                Just(None).boxed()
            };
            let y =
                if shared { Just(None).boxed() } else { integers(m * d).prop_map(Some).boxed() };
            (integers(n * d), y, positives, ids).prop_map(move |(x, y, positives, ids)| Case {
                n,
                m,
                d,
                x,
                y,
                positives,
                ids,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_test_set(case in cases()) {
        agrees_with_brute_force(&case);
    }
}

/// Similarities given outright: queries are unit vectors, so that S is the candidates' transpose.
fn from_similarities(similarities: &[&[f32]], positives: Positives) -> Case {
    let (n, m) = (similarities.len(), similarities[0].len());
    let mut x = vec![0.0; n * n];
    let mut y = vec![0.0; m * n];
    for i in 0..n {
        x[i * n + i] = 1.0;
        for j in 0..m {
            y[j * n + i] = similarities[i][j];
        }
    }
    Case { n, m, d: n, x, y: Some(y), positives, ids: None }
}

/// By hand: row 0 finds its positive third, row 1 first, row 2 second. Ranked together the
/// positives stand at 0.9 (1 of 1), 0.5 (2 of 5) and 0.3 (3 of 7, as a tied negative enters with
/// it): (1 + 2/5 + 3/7)/3 = 64/105, as scikit-learn's average_precision_score says too.
#[test]
fn three_queries_by_hand() {
    let case = from_similarities(
        &[&[0.3, 0.6, 0.7], &[0.2, 0.9, 0.1], &[0.55, 0.3, 0.5]],
        Positives::Diagonal,
    );
    let test = case.evaluation().unwrap();
    assert_eq!(test.best_positive_ranks(), [Some(3), Some(1), Some(2)]);
    assert_eq!(test.recall_at_k(&[1, 2, 3]).unwrap(), [1.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert_eq!(test.recall_at_k(&[]).unwrap(), []);
    let curve = test.precision_recall().unwrap();
    assert_eq!(curve.threshold, [0.9, 0.5, 0.3]);
    assert_eq!(curve.precision, [1.0, 2.0 / 5.0, 3.0 / 7.0]);
    assert_eq!(curve.recall, [1.0 / 3.0, 2.0 / 3.0, 1.0]);
    assert!((curve.average_precision() - 64.0 / 105.0).abs() < 1e-15);
    let histogram = test.histogram(0.0..=1.0, 2).unwrap();
    assert_eq!((histogram.positives, histogram.negatives), (vec![1, 2], vec![3, 3]));
}

/// By hand: the similarities between different rows are 2 (positive), 0, 1, 1, 1 and −1
/// (positive), each twice. AP = 1/2·2/2 + 1/2·4/12 = 2/3. Rows 0 and 1 find each other first, rows
/// 2 and 3 last of three.
#[test]
fn one_labelled_set_by_hand() {
    let case = Case {
        n: 4,
        m: 4,
        d: 2,
        x: vec![1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, -1.0],
        y: None,
        positives: Positives::Labels(vec![8, 8, 3, 3], vec![8, 8, 3, 3]),
        ids: None,
    };
    let test = case.evaluation().unwrap();
    assert_eq!(test.positive_pairs(), 4);
    assert_eq!(test.best_positive_ranks(), [Some(1), Some(1), Some(3), Some(3)]);
    assert_eq!(test.recall_at_k(&[1, 2, 3]).unwrap(), [0.5, 0.5, 1.0]);
    assert!((test.average_precision().unwrap() - 2.0 / 3.0).abs() < 1e-15);
    agrees_with_brute_force(&case);

    // Rows 0 and 2 show the same thing: their pair no longer counts.
    let case = Case { ids: Some((vec![1, 2, 1, 3], vec![1, 2, 1, 3])), ..case };
    let test = case.evaluation().unwrap();
    assert_eq!(test.best_positive_ranks(), [Some(1), Some(1), Some(2), Some(3)]);
    assert!((test.average_precision().unwrap() - (0.5 + 0.5 * 4.0 / 10.0)).abs() < 1e-15);
    agrees_with_brute_force(&case);
}

/// 40 × 60 labelled pairs with many ties. Expected values: scikit-learn 1.9's
/// average_precision_score over all pairs, and NumPy's stable argsort of every row.
#[test]
fn labels_on_both_sides_with_ties() {
    let similarities: Vec<Vec<f32>> = (0..40)
        .map(|i| (0..60).map(|j| ((i * 7 + j * 11 + i * j) % 23) as f32).collect())
        .collect();
    let rows: Vec<&[f32]> = similarities.iter().map(Vec::as_slice).collect();
    let labels =
        Positives::Labels((0..40).map(|i| i % 5).collect(), (0..60).map(|j| (j * 3) % 7).collect());
    let case = from_similarities(&rows, labels);
    let test = case.evaluation().unwrap();
    assert_eq!(test.positive_pairs(), 344);
    assert_eq!(test.recall_at_k(&[1, 2, 5, 10]).unwrap(), [0.2, 0.325, 0.6, 0.875]);
    assert!((test.average_precision().unwrap() - 0.135_593_405_560_260_34).abs() < 1e-14);
}

#[test]
fn equal_similarities_rank_by_column() {
    let all = Positives::Index(vec![0, 1, 2, NO_POSITIVE]);
    let case = from_similarities(&[[0.5, 0.5, 0.5].as_slice(); 4], all);
    let test = case.evaluation().unwrap();
    assert_eq!(test.best_positive_ranks(), [Some(1), Some(2), Some(3), None]);
    assert_eq!(test.recall_at_k(&[1]).unwrap(), [1.0 / 3.0]);
    // One threshold holds everything: precision is the share of positives.
    assert_eq!(test.average_precision().unwrap(), 3.0 / 12.0);
    agrees_with_brute_force(&case);
}

#[test]
fn nan_ranks_below_everything() {
    let mut case = Case {
        n: 3,
        m: 3,
        d: 1,
        x: vec![1.0; 3],
        y: Some(vec![f32::NAN, f32::NEG_INFINITY, 2.0]),
        positives: Positives::Diagonal,
        ids: None,
    };
    let test = case.evaluation().unwrap();
    assert_eq!(test.best_positive_ranks(), [Some(3), Some(2), Some(1)]);
    let curve = test.precision_recall().unwrap();
    assert_eq!(curve.threshold[..2], [2.0, f32::NEG_INFINITY]);
    assert!(curve.threshold[2].is_nan());
    assert_eq!(curve.precision, [1.0 / 3.0; 3]);
    agrees_with_brute_force(&case);
    case.x[1] = f32::NAN;
    agrees_with_brute_force(&case);
}

#[test]
fn half_precision_rows_and_strides() {
    let case = Case {
        n: 3,
        m: 4,
        d: 2,
        x: vec![1.0, 2.0, -1.0, 0.5, 3.0, 1.0],
        y: Some(vec![1.0, 1.0, -2.0, 1.0, 0.0, 4.0, 1.0, 0.0]),
        positives: Positives::Diagonal,
        ids: None,
    };
    let expected = case.evaluation().unwrap();
    fn check<T: Element>(case: &Case, expected: &Evaluation<'_>) {
        let convert =
            |values: &[f32]| values.iter().map(|&value| T::from_f32(value)).collect::<Vec<T>>();
        let (x, y) = (convert(&case.x), convert(case.y.as_ref().unwrap()));
        let test = Evaluation::new(case.batch(&x, &y)).unwrap();
        assert_eq!(test.best_positive_ranks(), expected.best_positive_ranks());
        assert_eq!(test.precision_recall().unwrap(), expected.precision_recall().unwrap());

        // The same rows, each followed by something else.
        let spread: Vec<T> =
            x.chunks(2).flat_map(|row| [row[0], row[1], T::from_f32(f32::NAN)]).collect();
        let x = Matrix::with_stride(&spread[..8], 3, 2, 3).unwrap();
        let test = Evaluation::new((x, Matrix::new(&y, 4, 2).unwrap())).unwrap();
        assert_eq!(test.precision_recall().unwrap(), expected.precision_recall().unwrap());
    }
    check::<f32>(&case, &expected);
    check::<f16>(&case, &expected);
    check::<bf16>(&case, &expected);
}

#[test]
fn cosine_ignores_lengths() {
    // By dot product the long candidate 1 wins; by cosine everyone finds their own.
    let (x, y) = ([1.0f32, 0.0, 0.0, 1.0], [1.0f32, 0.1, 50.0, 60.0]);
    let pairs = (Matrix::new(&x, 2, 2).unwrap(), Matrix::new(&y, 2, 2).unwrap());
    assert_eq!(Evaluation::new(pairs).unwrap().recall_at_k(&[1]).unwrap(), [0.5]);
    assert_eq!(Evaluation::cosine(pairs).unwrap().recall_at_k(&[1]).unwrap(), [1.0]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut rows = |n: usize| (0..n * 24).map(|_| random.f32() - 0.5).collect::<Vec<f32>>();
    let (x, y) = (rows(700), rows(1300));
    let labels = |n: u32| (0..n).map(|i| i % 37).collect::<Vec<u32>>();
    let (rows, cols) = (labels(700), labels(1300));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let batch =
                Batch::new(Matrix::new(&x, 700, 24).unwrap(), Matrix::new(&y, 1300, 24).unwrap());
            let test = Evaluation::cosine(batch.labels(&rows, &cols)).unwrap();
            (
                test.best_positive_ranks(),
                test.precision_recall().unwrap(),
                test.histogram(-1.0..=1.0, 50).unwrap(),
            )
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn bad_input_is_named() {
    let (x, y) = ([1.0f32; 6], [1.0f32; 8]);
    let (three, four) = (Matrix::new(&x, 3, 2).unwrap(), Matrix::new(&y, 4, 2).unwrap());
    let argument = |result: Result<Evaluation<'_>, Error>| match result {
        Err(Error::InvalidArgument { argument, .. }) => argument,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    };
    let (few, rows, cols) = (vec![0u32; 2], vec![0u32; 3], vec![1u32; 4]);
    let wide = Matrix::new(&y, 2, 4).unwrap();
    assert_eq!(argument(Evaluation::new((three, wide))), "y");
    assert_eq!(argument(Evaluation::new(Batch::shared(three))), "positives");
    let batch = Batch::new(three, four);
    assert_eq!(argument(Evaluation::new(batch.labels(&few, &cols))), "labels");
    assert_eq!(argument(Evaluation::new(batch.labels(&rows, &few))), "labels");
    assert_eq!(argument(Evaluation::new(batch.labels(&rows, &cols))), "labels");
    assert_eq!(argument(Evaluation::new(batch.ids(&rows, &rows))), "ids");
    assert_eq!(argument(Evaluation::new(batch.positives(&few))), "positives");
    assert_eq!(argument(Evaluation::new(batch.positives(&[0u32, 4, 0]))), "positives");
    assert_eq!(argument(Evaluation::new(batch.positives(&[NO_POSITIVE; 3]))), "positives");
    assert_eq!(
        argument(Evaluation::new(Batch::shared(three).positives(&[1u32, 1, 0]))),
        "positives"
    );

    let test = Evaluation::new(batch).unwrap();
    let refused = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::InvalidArgument { argument, .. }) => assert_eq!(argument, expected),
        other => panic!("{other:?}"),
    };
    refused(test.recall_at_k(&[1, 0]).map(drop), "ks");
    refused(test.histogram(0.0..=1.0, 0).map(drop), "bins");
    refused(test.histogram(1.0..=1.0, 4).map(drop), "range");
    refused(test.histogram(0.0..=f32::INFINITY, 4).map(drop), "range");
    refused(test.histogram(f32::NAN..=1.0, 4).map(drop), "range");
}
