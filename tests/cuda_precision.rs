//! What multiplies f32 embeddings on the CUDA engine: two IEEE binary16 numbers for one, one, or f32
//! itself.

mod common;

use common::cases::{Part, part};
use common::cuda::Cuda;
use common::edge_cases::assert_as_oracle;
use common::oracle;
use common::problem::{Named, Problem, Random};
use common::run::{forward_backward, loss_and_gradients, run_cases};
use metric_kernels::DType;
use metric_kernels::engine::cuda::{Precision, TileEngine};

fn sm80(test: &str, precision: Precision) -> Option<Cuda> {
    Some(Cuda::open(test)?.with_tile_engine(TileEngine::Sm80).with_precision(precision))
}

/// Unit rows.
fn normalised(loss: Named, scale: f32) -> Problem {
    let (n, m, d) = (70, 67, 96);
    let mut problem = Problem::new(loss, scale, (n, m, d));
    if loss == Named::InstanceCrossEntropy {
        let mut random = Random::new(9);
        let (rows, cols) = (random.labels(n, 12), random.labels(m, 12));
        problem = problem.with_labels(&rows, &cols);
    }
    Random::new(3).embeddings(&mut problem);
    let unit = |rows: &mut [f32]| {
        for row in rows.chunks_exact_mut(d) {
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= norm);
        }
    };
    unit(&mut problem.x);
    unit(problem.y.as_mut().unwrap());
    problem
}

#[test]
fn split_losses_are_within_a_millionth_of_float64() {
    let Some(mut cuda) = sm80("split_losses_are_within_a_millionth_of_float64", Precision::Split)
    else {
        return;
    };
    for loss in Named::ALL {
        for scale in [10.0, 30.0] {
            let problem = normalised(loss, scale);
            let exact = oracle::exact(&problem);
            let got = forward_backward(&mut cuda, &problem, 1.0).unwrap();
            let error = (f64::from(got.loss) - exact.loss).abs() / exact.loss;
            assert!(error < 1e-6, "{loss:?} at scale {scale}: off by {error:e}");
            // And gradients within a hundred thousandth of their largest element.
            let largest = exact.dx.iter().fold(0.0, |top: f64, g| top.max(g.abs()));
            for (got, exact) in got.dx.iter().zip(&exact.dx) {
                let error = (f64::from(*got) - exact).abs() / largest;
                assert!(error < 1e-5, "{loss:?} at scale {scale}: dX off by {error:e}");
            }
        }
    }
}

#[test]
fn single_is_as_exact_as_it_says() {
    let Some(mut cuda) = sm80("single_is_as_exact_as_it_says", Precision::Single) else { return };
    let mut cases = part(Part::Strides);
    cases.retain(|case| case.problem.dtype == DType::F32 && case.cost() <= 65 * 65 * 64);
    run_cases(&mut cuda, &cases);
    // And not more: what is asked for is what runs.
    let problem = normalised(Named::InBatchSoftmax, 30.0);
    let got = forward_backward(&mut cuda, &problem, 1.0).unwrap();
    let exact = oracle::exact(&problem);
    let error = (f64::from(got.loss) - exact.loss).abs() / exact.loss;
    assert!((1e-8..1e-3).contains(&error), "{error:e}");
}

#[test]
fn full_is_the_simt_engine_to_the_bit() {
    let test = "full_is_the_simt_engine_to_the_bit";
    let Some(mut full) = sm80(test, Precision::Full) else { return };
    let mut simt = full.another().with_tile_engine(TileEngine::Simt);
    for loss in Named::ALL {
        let problem = normalised(loss, 10.0);
        let [a, b] = [&mut full, &mut simt].map(|cuda| loss_and_gradients(cuda, &problem).unwrap());
        assert_eq!(a.bits(), b.bits());
    }
}

/// Rows of very different sizes in one tile: a row's gradient keeps its digits.
#[test]
fn rows_of_any_size_keep_their_gradients() {
    let test = "rows_of_any_size_keep_their_gradients";
    let Some(mut cuda) = sm80(test, Precision::Split) else { return };
    for loss in Named::ALL {
        let mut problem = normalised(loss, 5.0);
        let d = problem.d;
        let resize = |rows: &mut [f32]| {
            for (i, row) in rows.chunks_exact_mut(d).enumerate() {
                let size = if i % 11 == 10 { 0.0 } else { 2f32.powi(-((i % 11) as i32)) };
                row.iter_mut().for_each(|value| *value *= size);
            }
        };
        resize(&mut problem.x);
        resize(problem.y.as_mut().unwrap());
        assert_as_oracle(&mut cuda, &problem);
    }
}
