//! The primitives of `ops` on any engine, against float64.

use super::run::{Data, Device, Harness};
use metric_kernels::{Element, Engine, Matrix, Scope, StorageMut, ops};

/// n, m, d: around tiles, and with a d that no wide load fits.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 5, 7), (33, 31, 16), (65, 129, 33)];

fn random<T: Element>(count: usize, seed: u64) -> Vec<T> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| T::from_f32(rng.f32() * 2.0 - 1.0)).collect()
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

fn matrix<'a, H: Harness, T: Data>(
    data: &'a H::Vector<T>,
    rows: usize,
    cols: usize,
) -> Matrix<'a, Device<H>, T> {
    Matrix::new(data, rows, cols).unwrap()
}

/// Every result within `tolerance` of what it should be.
fn close(what: &str, given: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(given.len(), expected.len(), "{what}");
    for (at, (&given, &expected)) in given.iter().zip(expected).enumerate() {
        let error = (f64::from(given) - expected).abs();
        assert!(error <= tolerance, "{what}[{at}]: {given}, expected {expected}");
    }
}

fn similarities(x: &[f64], y: &[f64], d: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.chunks(d).flat_map(|a| y.chunks(d).map(move |b| dot(a, b))).collect()
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln()
}

/// Elements are at most 1, so d products and their sum err by at most d² units of the last place.
fn rounding(d: usize) -> f64 {
    (d * d) as f64 * f64::from(f32::EPSILON)
}

pub fn similarity_is_every_dot_product<H: Harness, T: Element + Data>(harness: &mut H) {
    for (n, m, d) in SHAPES {
        let (x, y) = (random::<T>(n * d, 1), random::<T>(m * d, 2));
        let expected = similarities(&wide(&x), &wide(&y), d);
        let (x, y) = (harness.upload(&x), harness.upload(&y));
        let (x, y) = (matrix::<H, T>(&x, n, d), matrix::<H, T>(&y, m, d));
        let engine = harness.engine();
        let result = ops::similarity(engine, x, y).unwrap();
        close("similarity", &engine.read(&result).unwrap(), &expected, rounding(d));
    }
}

pub fn log_sum_exp_of_rows_and_of_the_matrix<H: Harness, T: Element + Data>(harness: &mut H) {
    for (n, m, d) in SHAPES {
        for scale in [1e-3f32, 1.0, 50.0] {
            let (x, y) = (random::<T>(n * d, 3), random::<T>(m * d, 4));
            let logits: Vec<f64> = similarities(&wide(&x), &wide(&y), d)
                .iter()
                .map(|s| f64::from(scale) * s)
                .collect();
            let rows: Vec<f64> = logits.chunks(m).map(log_sum_exp).collect();
            let all = log_sum_exp(&logits);
            let (x, y) = (harness.upload(&x), harness.upload(&y));
            let (x, y) = (matrix::<H, T>(&x, n, d), matrix::<H, T>(&y, m, d));
            let engine = harness.engine();
            // The logits' own error, that of the sum's logarithm, and the result's last place.
            let largest = rows.iter().fold(1.0f64, |a, b| a.max(b.abs()));
            let tolerance = f64::from(scale) * rounding(d) + 2e-6 + largest * 1.2e-7;
            let result = ops::log_sum_exp(engine, x, y, scale, Scope::Row).unwrap();
            close("rows", &engine.read(&result).unwrap(), &rows, tolerance);
            let result = ops::log_sum_exp(engine, x, y, scale, Scope::Matrix).unwrap();
            close("matrix", &engine.read(&result).unwrap(), &[all], tolerance);
        }
    }
}

pub fn normalize_and_back<H: Harness, T: Element + Data>(harness: &mut H) {
    for (n, _, d) in SHAPES {
        let (x, g) = (random::<T>(n * d, 5), random::<f32>(n * d, 6));
        let (mut unit, mut back) = (Vec::new(), Vec::new());
        for (row, g) in wide(&x).chunks(d).zip(wide(&g).chunks(d)) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            let along: f64 = row.iter().zip(g).map(|(v, g)| v / norm * g).sum();
            unit.extend(row.iter().map(|v| v / norm));
            back.extend(row.iter().zip(g).map(|(v, g)| (g - v / norm * along) / norm));
        }
        // Gradients grow with 1/‖x‖.
        let steepest = back.iter().fold(1.0f64, |a, b: &f64| a.max(b.abs()));
        let (x, g) = (harness.upload(&x), harness.upload(&g));
        let (x, g) = (matrix::<H, T>(&x, n, d), matrix::<H, f32>(&g, n, d));
        let engine = harness.engine();
        let result = ops::normalize(engine, x).unwrap();
        close("normalize", &engine.read(&result).unwrap(), &unit, 3e-7);
        let result = ops::normalize_backward(engine, x, g).unwrap();
        let tolerance = (d as f64 + 4.0) * 1.2e-7 * steepest.max(1.0) * 4.0;
        close("normalize_backward", &engine.read(&result).unwrap(), &back, tolerance);
    }
}

/// What `top_k` gave, on the host: similarity, row, column.
type Pairs = Vec<(f32, u32, u32)>;

fn top_k<H: Harness, T: Element + Data>(
    harness: &mut H,
    (n, m, d): (usize, usize, usize),
    (x, y): (&[T], &[T]),
    k: usize,
    scope: Scope,
) -> Pairs {
    let (x, y) = (harness.upload(x), harness.upload(y));
    let (x, y) = (matrix::<H, T>(&x, n, d), matrix::<H, T>(&y, m, d));
    let engine = harness.engine();
    let top = ops::top_k(engine, x, y, k, scope).unwrap();
    let values = engine.read(&top.values).unwrap();
    let columns = engine.read_indices(&top.columns).unwrap();
    let rows = match (&top.rows, scope) {
        (Some(rows), Scope::Matrix) => engine.read_indices(rows).unwrap(),
        (None, Scope::Row) => (0..values.len()).map(|at| (at / top.k) as u32).collect(),
        _ => panic!("rows belong to the matrix scope"),
    };
    let pairs = match scope {
        Scope::Row => n * k.min(m),
        Scope::Matrix => k.min(n * m),
    };
    assert_eq!((values.len(), rows.len(), columns.len()), (pairs, pairs, pairs));
    assert_eq!(top.k, if scope == Scope::Row { k.min(m) } else { pairs });
    // The largest shape takes the emulator long.
    if n * m <= 33 * 31 {
        into_buffers(harness, (x, y), (k, scope), (&values, &rows, &columns));
    }
    values.into_iter().zip(rows).zip(columns).map(|((v, i), j)| (v, i, j)).collect()
}

/// The same pairs in the caller's buffers, which are longer than they need be.
fn into_buffers<H: Harness, T: Element + Data>(
    harness: &mut H,
    (x, y): (Matrix<'_, Device<H>, T>, Matrix<'_, Device<H>, T>),
    (k, scope): (usize, Scope),
    (values, rows, columns): (&[f32], &[u32], &[u32]),
) {
    let long = values.len() + 2;
    let mut own = (
        harness.upload(&vec![77.0f32; long]),
        harness.upload(&vec![77u32; long]),
        harness.upload(&vec![77u32; long]),
    );
    let out = ops::TopKMut {
        values: own.0.view_mut(),
        rows: (scope == Scope::Matrix).then(|| own.1.view_mut()),
        columns: own.2.view_mut(),
    };
    ops::top_k_into(harness.engine(), x, y, k, scope, out).unwrap();
    let bits = |numbers: &[f32]| numbers.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let marked = |numbers: &[u32]| [numbers, &[77, 77]].concat();
    let got = harness.download(&own.0);
    assert_eq!(bits(&got), bits(&[values, &[77.0, 77.0]].concat()));
    let untouched = vec![77; long];
    let expected = if scope == Scope::Matrix { marked(rows) } else { untouched };
    assert_eq!(harness.download(&own.1), expected);
    assert_eq!(harness.download(&own.2), marked(columns));
}

/// All pairs, sorted: NaN last, then by similarity, row, column.
fn sorted(similarities: &[f64], m: usize) -> Vec<(f64, u32, u32)> {
    let pair = |(at, &s): (usize, &f64)| (s, (at / m) as u32, (at % m) as u32);
    let mut pairs: Vec<_> = similarities.iter().enumerate().map(pair).collect();
    pairs.sort_by(|a, b| {
        let numbers = b.0.partial_cmp(&a.0).unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan()));
        numbers.then((a.1, a.2).cmp(&(b.1, b.2)))
    });
    pairs
}

/// The first of all pairs, or of each row.
fn first(sorted: &[(f64, u32, u32)], n: usize, k: usize, scope: Scope) -> Vec<(f64, u32, u32)> {
    let of_row = |i: usize| sorted.iter().filter(move |pair| pair.1 == i as u32).take(k).copied();
    match scope {
        Scope::Row => (0..n).flat_map(of_row).collect(),
        Scope::Matrix => sorted.iter().take(k).copied().collect(),
    }
}

/// On small whole numbers, whose products are exact: many ties, −0, and NaN after all numbers.
pub fn top_k_is_the_first_after_sorting<H: Harness, T: Element + Data>(harness: &mut H) {
    for (n, m, d) in SHAPES {
        for (bound, nan) in [(0, false), (2, false), (2, true)] {
            let mut random = fastrand::Rng::with_seed((n + m + bound as usize) as u64);
            let mut whole = |count: usize| -> Vec<T> {
                (0..count).map(|_| T::from_f32(-(random.i32(-bound..=bound) as f32))).collect()
            };
            let (mut x, mut y) = (whole(n * d), whole(m * d));
            if nan {
                // A row and a column of NaN.
                x[n / 2 * d] = T::from_f32(f32::NAN);
                y[m / 3 * d + d - 1] = T::from_f32(f32::NAN);
            }
            let pairs = sorted(&similarities(&wide(&x), &wide(&y), d), m);
            for k in [1, 2, m, n * m / 3 + 1, n * m - 1, n * m, n * m + 5] {
                for scope in [Scope::Row, Scope::Matrix] {
                    if k == 0 {
                        continue;
                    }
                    let given = top_k(harness, (n, m, d), (&x, &y), k, scope);
                    let expected = first(&pairs, n, k, scope);
                    for (at, (given, expected)) in given.iter().zip(&expected).enumerate() {
                        let same = f64::from(given.0) == expected.0
                            || (given.0.is_nan() && expected.0.is_nan());
                        assert!(
                            same && (given.1, given.2) == (expected.1, expected.2),
                            "{n}×{m}×{d}, k = {k}, {scope:?}, place {at}: {given:?} {expected:?}"
                        );
                    }
                    assert_eq!(given.len(), expected.len());
                }
            }
        }
    }
}

/// On any numbers: in order, no pair twice, each with its own similarity, and none left out that is
/// larger by more than rounding.
pub fn top_k_of_any_numbers<H: Harness, T: Element + Data>(harness: &mut H) {
    for (n, m, d) in SHAPES {
        let (x, y) = (random::<T>(n * d, 7), random::<T>(m * d, 8));
        let exact = similarities(&wide(&x), &wide(&y), d);
        let all = sorted(&exact, m);
        for (k, scope) in [(3, Scope::Row), (m / 2 + 1, Scope::Row), (n * m / 7 + 1, Scope::Matrix)]
        {
            let given = top_k(harness, (n, m, d), (&x, &y), k, scope);
            let expected = first(&all, n, k, scope);
            let own: Vec<f64> =
                given.iter().map(|&(_, i, j)| exact[i as usize * m + j as usize]).collect();
            let values: Vec<f32> = given.iter().map(|pair| pair.0).collect();
            close("own similarity", &values, &own, rounding(d));
            let best: Vec<f64> = expected.iter().map(|pair| pair.0).collect();
            close("largest similarities", &values, &best, rounding(d));
            for pair in given.windows(2) {
                let ((a, i, j), (b, k, l)) = (pair[0], pair[1]);
                let ordered = a > b || (a == b && (i, j) < (k, l));
                assert!(ordered || (scope == Scope::Row && i < k), "{pair:?}");
            }
            let mut places: Vec<(u32, u32)> = given.iter().map(|pair| (pair.1, pair.2)).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), given.len());
        }
    }
}
