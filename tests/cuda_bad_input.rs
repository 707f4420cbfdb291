//! Bad input on CUDA: each an error that names the argument, with nothing launched and nothing
//! written.

mod common;

use common::cuda::{Cuda, another_context};
use common::edge_cases::assert_names;
use common::run::{Harness, SENTINEL};
use cudarc::driver::CudaSlice;
use metric_kernels::{
    Batch, CrossExampleSoftmax, CudaEngine, Error, GradientsMut, InBatchSoftmax, Loss, Matrix,
    MatrixMut, Weighting, ops,
};

const N: usize = 4;
const M: usize = 5;
const D: usize = 3;
const LOSS: fn(f32) -> CrossExampleSoftmax = CrossExampleSoftmax::new;

struct Buffers {
    x: CudaSlice<f32>,
    y: CudaSlice<f32>,
    dx: CudaSlice<f32>,
    dy: CudaSlice<f32>,
    dscale: CudaSlice<f32>,
}

impl Buffers {
    fn new(cuda: &mut Cuda) -> Self {
        let numbers = |len: usize| (0..len).map(|at| (at % 5) as f32 / 5.0).collect::<Vec<f32>>();
        Self {
            x: cuda.upload(&numbers(N * D)),
            y: cuda.upload(&numbers(M * D)),
            dx: cuda.upload(&[SENTINEL; N * D]),
            dy: cuda.upload(&[SENTINEL; M * D]),
            dscale: cuda.upload(&[SENTINEL]),
        }
    }

    #[track_caller]
    fn check(&self, cuda: &mut Cuda) {
        for buffer in [&self.dx, &self.dy, &self.dscale] {
            let numbers = cuda.download(buffer);
            assert!(
                numbers.iter().all(|value| value.to_bits() == SENTINEL.to_bits()),
                "{numbers:?}"
            );
        }
    }
}

/// `$batch` of the buffers' x and y is refused by every call, naming `$argument`.
macro_rules! refused {
    ($cuda:expr, $buffers:expr, $loss:expr, |$x:ident, $y:ident| $batch:expr, $argument:expr) => {{
        let Buffers { x, y, dx, dy, dscale } = &mut $buffers;
        let $x = Matrix::new(&*x, N, D).unwrap();
        let $y = Matrix::new(&*y, M, D).unwrap();
        let batch = $batch;
        let engine: &mut CudaEngine = &mut $cuda.0;
        assert_names(&$loss.forward(engine, batch).map(drop).unwrap_err(), $argument);
        assert_names(&$loss.loss_and_gradients(engine, batch).map(drop).unwrap_err(), $argument);
        assert_names(&$loss.check(engine, batch).unwrap_err(), $argument);
        let out = GradientsMut {
            x: Some(MatrixMut::new(dx, N, D).unwrap()),
            y: Some(MatrixMut::new(dy, M, D).unwrap()),
            scale: Some(dscale),
        };
        let result = $loss.loss_and_gradients_into(engine, batch, out).map(drop);
        assert_names(&result.unwrap_err(), $argument);
        $buffers.check(&mut $cuda);
    }};
}

#[test]
fn lengths() {
    let Some(mut cuda) = Cuda::open("lengths") else { return };
    let mut buffers = Buffers::new(&mut cuda);
    let keys = cuda.upload(&[0_u32, 1, 0, 1, 0, 1]);
    let (three, four, five) = (keys.slice(..3), keys.slice(..4), keys.slice(..5));
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).labels(&three, &five), "labels");
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).labels(&four, &four), "labels");
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).ids(&three, &five), "ids");
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).ids(&four, &four), "ids");
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).positives(&five), "positives");
    let wide = cuda.upload(&[0.5_f32; M * (D + 1)]);
    let wide = Matrix::new(&wide, M, D + 1).unwrap();
    refused!(cuda, buffers, LOSS(1.0), |x, _y| Batch::new(x, wide), "y");
    let twelve = cuda.upload(&[0.0_f32; 12]);
    for (rows, cols) in [(0, 3), (3, 0), (4, 4), (usize::MAX, 2)] {
        assert_names(&Matrix::new(&twelve, rows, cols).unwrap_err(), "matrix");
    }
    assert_names(&Matrix::with_stride(&twelve, 4, 3, 2).unwrap_err(), "matrix");
    assert_names(&Matrix::with_stride(&twelve, 4, 3, 4).unwrap_err(), "matrix");
}

#[test]
fn options() {
    let Some(mut cuda) = Cuda::open("options") else { return };
    let mut buffers = Buffers::new(&mut cuda);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused!(cuda, buffers, LOSS(bad), |x, y| Batch::new(x, y), "scale");
        refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).scale(bad), "scale");
    }
    let odd = LOSS(1.0).weighting(Weighting::AnchorNormalized);
    refused!(cuda, buffers, odd, |x, y| Batch::new(x, y), "weighting");
    let engine = &mut cuda.0;
    let shared = Batch::shared(Matrix::new(&buffers.x, N, D).unwrap());
    let error = InBatchSoftmax::new(1.0).forward(engine, shared).map(drop).unwrap_err();
    assert_names(&error, "positives");
}

#[test]
fn an_empty_device_scalar() {
    let Some(mut cuda) = Cuda::open("an_empty_device_scalar") else { return };
    let mut buffers = Buffers::new(&mut cuda);
    let one = cuda.upload(&[1.0_f32]);
    let empty = one.slice(..0);
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).scale(&empty), "scale");
    let batch = (Matrix::new(&buffers.x, N, D).unwrap(), Matrix::new(&buffers.y, M, D).unwrap());
    let forward = LOSS(1.0).forward(&mut cuda.0, batch).unwrap();
    let error = LOSS(1.0).backward(&mut cuda.0, &forward, &empty).map(drop).unwrap_err();
    assert_names(&error, "upstream");
}

#[test]
fn outputs() {
    let Some(mut cuda) = Cuda::open("outputs") else { return };
    let buffers = Buffers::new(&mut cuda);
    let batch =
        Batch::new(Matrix::new(&buffers.x, N, D).unwrap(), Matrix::new(&buffers.y, M, D).unwrap());
    let forward = LOSS(1.0).forward(&mut cuda.0, batch).unwrap();
    let mut wrong = cuda.upload(&[SENTINEL; 40]);
    for (rows, cols) in [(N + 1, D), (N, D + 1), (N - 1, D), (1, N * D)] {
        let out = GradientsMut {
            x: Some(MatrixMut::new(&mut wrong, rows, cols).unwrap()),
            ..GradientsMut::default()
        };
        let error = LOSS(1.0).backward_into(&mut cuda.0, &forward, 1.0, out).unwrap_err();
        assert_names(&error, "gradient x");
    }
    let out = GradientsMut {
        y: Some(MatrixMut::new(&mut wrong, N, D).unwrap()),
        ..GradientsMut::default()
    };
    let error = LOSS(1.0).backward_into(&mut cuda.0, &forward, 1.0, out).unwrap_err();
    assert_names(&error, "gradient y");
    assert_names(&MatrixMut::new(&mut wrong, 10, 5).unwrap_err(), "output matrix");
    let keys = cuda.upload(&[0_u32, 0, 1, 1]);
    let shared = Batch::shared(Matrix::new(&buffers.x, N, D).unwrap()).labels(&keys, &keys);
    let out = GradientsMut {
        y: Some(MatrixMut::new(&mut wrong, N, D).unwrap()),
        ..GradientsMut::default()
    };
    let error = LOSS(1.0).loss_and_gradients_into(&mut cuda.0, shared, out).map(drop);
    assert_names(&error.unwrap_err(), "gradient y");
    let values = cuda.download(&wrong);
    assert!(values.iter().all(|value| value.to_bits() == SENTINEL.to_bits()), "{values:?}");
}

#[test]
fn a_buffer_of_another_context() {
    let Some(mut cuda) = Cuda::open("a_buffer_of_another_context") else { return };
    let mut buffers = Buffers::new(&mut cuda);
    let other = another_context();
    let stream = other.new_stream().unwrap();
    let elsewhere = stream.clone_htod(&[0.25_f32; M * D]).unwrap();
    let part = elsewhere.slice(..N * D);
    let keys_elsewhere = stream.clone_htod(&[0_u32, 1, 2, 3]).unwrap();
    let five_elsewhere = stream.clone_htod(&[0_u32, 1, 2, 3, 4]).unwrap();
    let one_elsewhere = stream.clone_htod(&[1.0_f32]).unwrap();
    let five = cuda.upload(&[0_u32, 1, 2, 3, 4]);
    let four = cuda.upload(&[0_u32, 1, 2, 3]);
    refused!(
        cuda,
        buffers,
        LOSS(1.0),
        |_x, y| Batch::new(Matrix::new(&part, N, D).unwrap(), y),
        "x"
    );
    refused!(
        cuda,
        buffers,
        LOSS(1.0),
        |x, _y| Batch::new(x, Matrix::new(&elsewhere, M, D).unwrap()),
        "y"
    );
    refused!(
        cuda,
        buffers,
        LOSS(1.0),
        |x, y| Batch::new(x, y).labels(&keys_elsewhere, &five),
        "labels"
    );
    refused!(
        cuda,
        buffers,
        LOSS(1.0),
        |x, y| Batch::new(x, y).labels(&four, &five_elsewhere),
        "labels"
    );
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).ids(&keys_elsewhere, &five), "ids");
    refused!(
        cuda,
        buffers,
        LOSS(1.0),
        |x, y| Batch::new(x, y).positives(&keys_elsewhere),
        "positives"
    );
    refused!(cuda, buffers, LOSS(1.0), |x, y| Batch::new(x, y).scale(&one_elsewhere), "scale");

    let batch = (Matrix::new(&buffers.x, N, D).unwrap(), Matrix::new(&buffers.y, M, D).unwrap());
    let forward = LOSS(1.0).forward(&mut cuda.0, batch).unwrap();
    let error = LOSS(1.0).backward(&mut cuda.0, &forward, &one_elsewhere).map(drop).unwrap_err();
    assert_names(&error, "upstream");
    let mut out_elsewhere = stream.clone_htod(&[SENTINEL; N * D]).unwrap();
    let out = GradientsMut {
        x: Some(MatrixMut::new(&mut out_elsewhere, N, D).unwrap()),
        ..GradientsMut::default()
    };
    let error = LOSS(1.0).backward_into(&mut cuda.0, &forward, 1.0, out).unwrap_err();
    assert_names(&error, "gradient x");
    let left = stream.clone_dtoh(&out_elsewhere).unwrap();
    assert!(left.iter().all(|value| value.to_bits() == SENTINEL.to_bits()));
    assert_names(
        &ops::normalize(&mut cuda.0, Matrix::new(&part, N, D).unwrap()).map(drop).unwrap_err(),
        "x",
    );

    let kernels = common::cuda::kernels().unwrap();
    assert_names(&CudaEngine::new(kernels, stream).map(drop).unwrap_err(), "stream");
}

#[test]
fn a_workspace_bound_too_small() {
    let Some(cuda) = Cuda::open("a_workspace_bound_too_small") else { return };
    let mut bounded = cuda.another().with_workspace_bound(16);
    let mut buffers = Buffers::new(&mut bounded);
    let x = Matrix::new(&buffers.x, N, D).unwrap();
    let y = Matrix::new(&buffers.y, M, D).unwrap();
    let out = GradientsMut {
        x: Some(MatrixMut::new(&mut buffers.dx, N, D).unwrap()),
        y: Some(MatrixMut::new(&mut buffers.dy, M, D).unwrap()),
        scale: Some(&mut buffers.dscale),
    };
    let loss = LOSS(1.0).normalize();
    let error = loss.loss_and_gradients_into(&mut bounded.0, (x, y), out).map(drop).unwrap_err();
    let Error::WorkspaceTooSmall { needed, bound } = error else { panic!("{error}") };
    assert_eq!(bound, 16);
    assert!(needed > 16);
    assert!(error.to_string().contains(&needed.to_string()));
    assert_eq!(bounded.0.workspace_bytes(), 0, "nothing was allocated");
    buffers.check(&mut bounded);

    // With what the error asks for, the same call works.
    let mut enough = cuda.another().with_workspace_bound(needed);
    let x = Matrix::new(&buffers.x, N, D).unwrap();
    let y = Matrix::new(&buffers.y, M, D).unwrap();
    loss.loss_and_gradients(&mut enough.0, (x, y)).unwrap();
    assert!(enough.0.workspace_bytes() <= needed);
    assert_eq!(enough.0.workspace_bound(), Some(needed));
}

/// No device of that number.
#[test]
fn a_device_that_is_not_there() {
    if Cuda::open("a_device_that_is_not_there").is_none() {
        return;
    }
    assert_names(&CudaEngine::open(10_000).map(drop).unwrap_err(), "ordinal");
}
