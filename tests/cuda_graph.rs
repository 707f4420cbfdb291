//! A training step captured in a CUDA graph: replayed, it gives the same bits, and follows the
//! contents of its buffers.

mod common;

use common::cuda::{Cuda, kernels};
use common::problem::{Named, Problem, Random};
use common::run::{AnyLoss, Harness, Outputs, loss_and_gradients};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use metric_kernels::{Engine, GradientsMut, Loss, Matrix, MatrixMut, Mining, Scalar};

// The one test of this file: event tracking is a setting of the whole context.
#[test]
fn a_captured_step_replays_with_the_same_bits() {
    let test = "a_captured_step_replays_with_the_same_bits";
    if Cuda::open(test).is_none() {
        return;
    }
    let kernels = kernels().unwrap();
    // SAFETY: one stream does everything below, in order.
    unsafe { kernels.context().disable_event_tracking() };
    let stream = kernels.context().new_stream().unwrap();
    let plain = Named::ALL.map(|loss| (loss, Mining::All, (40, 37, 9)));
    let mined = [
        // A list, and cuts of the rows.
        (Named::CrossExampleSoftmax, Mining::Hardest(50), (140, 139, 3)),
        (Named::InBatchSoftmax, Mining::HardestPerRow(5), (40, 37, 9)),
    ];
    for (loss, mining, size) in plain.into_iter().chain(mined) {
        let mut cuda = Cuda::on(kernels, &stream);
        let [first, second] = [1, 2].map(|seed| {
            let mut problem = Problem::new(loss, 7.0, size).with_mining(mining);
            problem.normalize = true;
            Random::new(seed).embeddings(&mut problem);
            problem
        });
        let expected = [&first, &second].map(|p| loss_and_gradients(&mut cuda, p).unwrap());
        let (n, m, d) = (first.n, first.m, first.d);

        let (mut x, mut y) = (cuda.upload(&first.x), cuda.upload(first.candidates()));
        let scale = cuda.upload(&[first.scale]);
        let (mut dx, mut dy) = (cuda.upload(&vec![0.0; n * d]), cuda.upload(&vec![0.0; m * d]));
        let mut dscale = cuda.upload(&[0.0_f32]);
        let mut step = |cuda: &mut Cuda, x: &_, y: &_| {
            let x = Matrix::new(x, n, d).unwrap();
            let y = Matrix::new(y, m, d).unwrap();
            let batch = metric_kernels::Batch::new(x, y).scale(Scalar::from(&scale));
            let out = GradientsMut {
                x: Some(MatrixMut::new(&mut dx, n, d).unwrap()),
                y: Some(MatrixMut::new(&mut dy, m, d).unwrap()),
                scale: Some(&mut dscale),
            };
            AnyLoss::of(&first).loss_and_gradients_into(cuda.engine(), batch, out).unwrap()
        };
        // The first step sizes the workspace; the second is captured.
        drop(step(&mut cuda, &x, &y));
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let value = step(&mut cuda, &x, &y);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph");

        assert_ne!(expected[0].bits(), expected[1].bits());
        for (round, at) in [0, 1, 0].into_iter().enumerate() {
            let problem = [&first, &second][at];
            stream.memcpy_htod(&problem.x, &mut x).unwrap();
            stream.memcpy_htod(problem.candidates(), &mut y).unwrap();
            graph.launch().unwrap();
            let got = Outputs {
                loss: cuda.0.read(&value).unwrap()[0],
                dx: cuda.download(&dx),
                dy: Some(cuda.download(&dy)),
                dscale: cuda.download(&dscale)[0],
            };
            assert_eq!(got.bits(), expected[at].bits(), "{loss:?}, replay {round}");
        }
    }
}
