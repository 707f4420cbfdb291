//! Gradients in 16 bits, on any engine.

use super::problem::{Named, Problem, Random};
use super::run::{AnyLoss, Data, Device, Harness, Uploaded};
use half::{bf16, f16};
use metric_kernels::{DType, Element, Engine, GradientsMut, Loss, MatrixMut, StorageMut};

use crate::with_dtype;

/// Elements between a gradient's rows, and after the last.
const GAP: usize = 3;

fn problems() -> Vec<Problem> {
    let mut random = Random::new(77);
    let (n, m, d) = (37, 41, 11);
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for shared in [false, true] {
            for normalize in [false, true] {
                let mut problem = Problem::new(loss, 6.0, (n, if shared { n } else { m }, d));
                problem.normalize = normalize;
                if shared {
                    problem.y = None;
                }
                if shared || loss == Named::InstanceCrossEntropy {
                    let rows = random.labels(n, 9);
                    let cols = if shared { rows.clone() } else { random.labels(m, 9) };
                    problem = problem.with_labels(&rows, &cols);
                }
                random.embeddings(&mut problem);
                let dtype = [DType::F32, DType::Bf16, DType::F16][problems.len() % 3];
                problems.push(problem.rounded_to(dtype));
            }
        }
    }
    problems
}

/// dX, dY and dScale as bits, from one call and from two; the gaps as they were.
fn bits<H: Harness, T: Data + Element, G: Data + Element>(
    harness: &mut H,
    problem: &Problem,
    upstream: Option<f32>,
    to_bits: impl Fn(G) -> u32,
) -> (Vec<u32>, Vec<u32>, u32) {
    let &Problem { n, m, d, .. } = problem;
    let marker = G::from_f32(-77.0);
    let stride = d + GAP;
    let uploaded = Uploaded::<H, T>::new(harness, problem, (0, 0), false);
    let mut x = harness.upload(&vec![marker; n * stride]);
    let mut y = harness.upload(&vec![marker; m * stride]);
    let mut scale = harness.upload(&[0.0f32]);
    let with_y = !problem.shared();
    {
        let out: GradientsMut<'_, Device<H>, G> = GradientsMut {
            x: Some(MatrixMut::with_stride(&mut x, n, d, stride).unwrap()),
            y: with_y.then(|| MatrixMut::with_stride(&mut y, m, d, stride).unwrap()),
            scale: Some(scale.view_mut()),
        };
        let (loss, batch) = (AnyLoss::of(problem), uploaded.batch());
        let engine: &mut H::Engine = harness.engine();
        match upstream {
            None => {
                let loss = loss.loss_and_gradients_into(engine, batch, out).unwrap();
                assert!(engine.read(&loss).unwrap()[0].is_finite());
            }
            Some(upstream) => {
                let forward = loss.forward(engine, batch).unwrap();
                loss.backward_into(engine, &forward, upstream, out).unwrap();
            }
        }
    }
    let mut rows = |vector: &H::Vector<G>, written: bool| {
        let mut packed = Vec::new();
        for row in harness.download(vector).chunks_exact(stride) {
            let gap = if written { &row[d..] } else { row };
            assert!(gap.iter().all(|value| value.to_f32() == -77.0), "{problem:?}");
            packed.extend(row[..d].iter().map(|&value| to_bits(value)));
        }
        packed
    };
    let (x, y) = (rows(&x, true), rows(&y, with_y));
    (x, y, harness.download(&scale)[0].to_bits())
}

/// The bits of the `f32` gradients, rounded to another type.
fn rounded(bits: &[u32], round: impl Fn(f32) -> u32) -> Vec<u32> {
    bits.iter().map(|&bits| round(f32::from_bits(bits))).collect()
}

/// Gradients in 16 bits are those in `f32`, rounded to nearest.
pub fn gradients_in_16_bits_are_the_f32_ones_rounded<H: Harness>(harness: &mut H) {
    for problem in problems() {
        // One call, and two with an upstream that takes some out of IEEE binary16's range.
        for upstream in [None, Some(1e7)] {
            with_dtype!(problem.dtype, T => {
                let (x, y, scale) = bits::<H, T, f32>(harness, &problem, upstream, f32::to_bits);
                assert!(x.iter().any(|&bits| f32::from_bits(bits) != 0.0));
                let half = |v: f32| u32::from(f16::from_f32(v).to_bits());
                let brain = |v: f32| u32::from(bf16::from_f32(v).to_bits());
                let got = bits::<H, T, f16>(harness, &problem, upstream, |v| v.to_bits().into());
                assert_eq!(got.0, rounded(&x, half), "{problem:?}");
                assert_eq!(got.2, scale);
                let overflow = got.0.iter().any(|&bits| bits & 0x7fff == 0x7c00);
                assert_eq!(overflow, upstream == Some(1e7), "{upstream:?}");
                if !problem.shared() {
                    assert_eq!(got.1, rounded(&y, half), "{problem:?}");
                }
                let got = bits::<H, T, bf16>(harness, &problem, upstream, |v| v.to_bits().into());
                assert_eq!(got.0, rounded(&x, brain), "{problem:?}");
                assert_eq!(got.2, scale);
                if !problem.shared() {
                    assert_eq!(got.1, rounded(&y, brain), "{problem:?}");
                }
            });
        }
    }
}
