//! Training steps on CUDA buffers: nothing is allocated after the first, 16-bit buffers, streams.

mod common;

use common::compare::Expected;
use common::cuda::Cuda;
use common::edge_cases::check;
use common::problem::{Named, Problem, Random};
use common::run::{AnyLoss, Harness, Uploaded, forward_backward, loss_and_gradients};
use half::{bf16, f16};
use metric_kernels::{
    Batch, CrossExampleSoftmax, CudaEngine, DType, Element, Engine, GradientsMut, Loss, Matrix,
    MatrixMut,
};

fn problem(loss: Named, dtype: DType) -> Problem {
    let mut problem = Problem::new(loss, 10.0, (70, 50, 20));
    problem.normalize = true;
    Random::new(1).embeddings(&mut problem);
    problem.rounded_to(dtype)
}

#[test]
fn the_second_step_allocates_nothing() {
    let Some(mut cuda) = Cuda::open("the_second_step_allocates_nothing") else { return };
    for loss in Named::ALL {
        let problem = problem(loss, DType::F32);
        let uploaded = Uploaded::<Cuda, f32>::new(&mut cuda, &problem, (0, 0), false);
        let loss = AnyLoss::of(&problem);
        let step = |engine: &mut CudaEngine| {
            let forward = loss.forward(engine, uploaded.batch()).unwrap();
            let gradients = loss.backward(engine, &forward, 1.0).unwrap();
            let (value, all) = loss.loss_and_gradients(engine, uploaded.batch()).unwrap();
            for buffer in [&forward.loss, &gradients.x, &gradients.scale, &value, &all.x] {
                assert!(engine.read(buffer).unwrap().iter().all(|value| value.is_finite()));
            }
            engine.workspace_bytes()
        };
        // What the driver is asked for is counted in cuda_emulated.rs.
        let first = step(&mut cuda.0);
        assert!(first > 0);
        for _ in 0..3 {
            assert_eq!(step(&mut cuda.0), first, "bytes of workspace");
        }
    }
}

#[test]
fn memory_can_be_given_back() {
    let Some(mut cuda) = Cuda::open("memory_can_be_given_back") else { return };
    let problem = problem(Named::CrossExampleSoftmax, DType::F32);
    let before = loss_and_gradients(&mut cuda, &problem).unwrap();
    assert!(cuda.0.workspace_bytes() > 0);
    cuda.0.release_memory();
    assert_eq!(cuda.0.workspace_bytes(), 0);
    assert_eq!(before.bits(), loss_and_gradients(&mut cuda, &problem).unwrap().bits());
}

fn sixteen_bits<T: Element + common::run::Data>(cuda: &mut Cuda) {
    let problem = problem(Named::InBatchSoftmax, T::DTYPE);
    let expected = Expected::of(&problem, cuda.accuracy(T::DTYPE));
    let got = forward_backward(cuda, &problem, 1.0).unwrap();
    check(&problem, &expected, &got).unwrap();

    // A view of a part of a larger buffer: one sequence of embeddings in a memory bank.
    let (n, m, d) = (problem.n, problem.m, problem.d);
    let mut bank = vec![T::from_f32(f32::NAN); 3 * d];
    bank.extend(problem.candidates().iter().map(|&value| T::from_f32(value)));
    bank.extend([T::from_f32(f32::NAN); 7]);
    let x: Vec<T> = problem.x.iter().map(|&value| T::from_f32(value)).collect();
    let (x, bank) = (cuda.upload(&x), cuda.upload(&bank));
    let part = bank.slice(3 * d..(3 + m) * d);
    let batch = Batch::new(Matrix::new(&x, n, d).unwrap(), Matrix::new(&part, m, d).unwrap());
    let (value, gradients) = AnyLoss::of(&problem).loss_and_gradients(&mut cuda.0, batch).unwrap();
    let got = common::run::Outputs {
        loss: cuda.0.read(&value).unwrap()[0],
        dx: cuda.0.read(&gradients.x).unwrap(),
        dy: gradients.y.as_ref().map(|dy| cuda.0.read(dy).unwrap()),
        dscale: cuda.0.read(&gradients.scale).unwrap()[0],
    };
    check(&problem, &expected, &got).unwrap();
}

#[test]
fn buffers_of_f16() {
    let Some(mut cuda) = Cuda::open("buffers_of_f16") else { return };
    sixteen_bits::<f16>(&mut cuda);
}

#[test]
fn buffers_of_bf16() {
    let Some(mut cuda) = Cuda::open("buffers_of_bf16") else { return };
    sixteen_bits::<bf16>(&mut cuda);
}

/// Results of one step are inputs of the next call, on the device throughout.
#[test]
fn results_are_inputs_without_a_copy() {
    let Some(mut cuda) = Cuda::open("results_are_inputs_without_a_copy") else { return };
    let problem = problem(Named::CrossExampleSoftmax, DType::F32);
    let (n, m, d) = (problem.n, problem.m, problem.d);
    let (x, y) = (cuda.upload(&problem.x), cuda.upload(problem.candidates()));
    let loss = CrossExampleSoftmax::new(problem.scale);
    let engine = &mut cuda.0;
    let x_hat = metric_kernels::ops::normalize(engine, Matrix::new(&x, n, d).unwrap()).unwrap();
    let y_hat = metric_kernels::ops::normalize(engine, Matrix::new(&y, m, d).unwrap()).unwrap();
    let batch = (Matrix::new(&x_hat, n, d).unwrap(), Matrix::new(&y_hat, m, d).unwrap());
    let forward = loss.forward(engine, batch).unwrap();
    let gradients = loss.backward(engine, &forward, &forward.loss).unwrap();
    let value = engine.read(&forward.loss).unwrap()[0];
    let dx = metric_kernels::ops::normalize_backward(
        engine,
        Matrix::new(&x, n, d).unwrap(),
        Matrix::new(&gradients.x, n, d).unwrap(),
    );
    let dx = engine.read(&dx.unwrap()).unwrap();
    // The same as the option, times the loss, which is what stood upstream.
    let whole = forward_backward(&mut cuda, &problem, value).unwrap();
    assert!((whole.loss - value).abs() <= 1e-6 * value);
    let largest = dx.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    assert!(largest > 1e-3);
    for (at, (a, b)) in dx.iter().zip(&whole.dx).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "[{at}]: {a} and {b}");
    }
}

/// What another stream of the context writes is waited for, and what is read is not overwritten.
#[test]
fn buffers_of_another_stream_are_waited_for() {
    let Some(mut cuda) = Cuda::open("buffers_of_another_stream_are_waited_for") else { return };
    let problem = problem(Named::CrossExampleSoftmax, DType::F32);
    let expected = forward_backward(&mut cuda, &problem, 1.0).unwrap();
    let other = cuda.stream().context().new_stream().unwrap();
    let (n, m, d) = (problem.n, problem.m, problem.d);
    for _ in 0..5 {
        let x = other.clone_htod(&problem.x).unwrap();
        let y = other.clone_htod(problem.candidates()).unwrap();
        let mut dx = other.alloc_zeros::<f32>(n * d).unwrap();
        let batch = (Matrix::new(&x, n, d).unwrap(), Matrix::new(&y, m, d).unwrap());
        let loss = AnyLoss::of(&problem);
        let forward = loss.forward(&mut cuda.0, batch).unwrap();
        let out = GradientsMut {
            x: Some(MatrixMut::new(&mut dx, n, d).unwrap()),
            ..GradientsMut::default()
        };
        loss.backward_into(&mut cuda.0, &forward, 1.0, out).unwrap();
        assert_eq!(other.clone_dtoh(&dx).unwrap(), expected.dx);
    }
}
