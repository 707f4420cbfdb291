//! Bad input: each an error that names the argument, what was given and what was expected, with
//! nothing written. The CPU engine and what no engine is needed for.

mod common;

use common::edge_cases::assert_names;
use common::run::SENTINEL;
use metric_kernels::{
    Batch, CpuEngine, CrossExampleSoftmax, GradientsMut, Host, InBatchSoftmax,
    InstanceCrossEntropy, Loss, Matrix, MatrixMut, NO_POSITIVE, Scope, Weighting, ops,
};

const N: usize = 4;
const M: usize = 5;
const D: usize = 3;

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|at| ((at * 7 + 3) % 11) as f32 / 11.0 - 0.4).collect()
}

fn matrix(data: &[f32], rows: usize) -> Matrix<'_, Host, f32> {
    Matrix::new(data, rows, D).unwrap()
}

/// The gradients' buffers, which must not be written.
struct Untouched {
    x: Vec<f32>,
    y: Vec<f32>,
    scale: Vec<f32>,
}

impl Untouched {
    fn new() -> Self {
        Self { x: vec![SENTINEL; N * D], y: vec![SENTINEL; M * D], scale: vec![SENTINEL] }
    }
    fn outputs(&mut self, with_y: bool) -> GradientsMut<'_, Host> {
        GradientsMut {
            x: Some(MatrixMut::new(&mut self.x, N, D).unwrap()),
            y: with_y.then(|| MatrixMut::new(&mut self.y, M, D).unwrap()),
            scale: Some(&mut self.scale),
        }
    }
    #[track_caller]
    fn check(&self) {
        let all = self.x.iter().chain(&self.y).chain(&self.scale);
        assert!(
            all.into_iter().all(|v| v.to_bits() == SENTINEL.to_bits()),
            "something was written"
        );
    }
}

/// Every call refuses the batch, names `argument`, and writes nothing.
#[track_caller]
fn refused(loss: impl Loss + Copy, batch: Batch<'_, Host, f32>, with_y: bool, argument: &str) {
    let mut engine = CpuEngine::new();
    assert_names(&loss.forward(&mut engine, batch).map(drop).unwrap_err(), argument);
    assert_names(&loss.loss_and_gradients(&mut engine, batch).map(drop).unwrap_err(), argument);
    assert_names(&loss.check(&mut engine, batch).unwrap_err(), argument);
    let mut buffers = Untouched::new();
    let result = loss.loss_and_gradients_into(&mut engine, batch, buffers.outputs(with_y));
    assert_names(&result.map(drop).unwrap_err(), argument);
    buffers.check();
}

/// The same batch is accepted when the one thing is put right: the refusals above are for it.
#[track_caller]
fn accepted(loss: impl Loss + Copy, batch: Batch<'_, Host, f32>) {
    let mut engine = CpuEngine::new();
    let (value, _) = loss.loss_and_gradients(&mut engine, batch).unwrap();
    assert!(value[0].is_finite());
    loss.check(&mut engine, batch).unwrap();
}

const LOSS: fn(f32) -> CrossExampleSoftmax = CrossExampleSoftmax::new;

#[test]
fn a_matrix_of_the_wrong_length() {
    let data = numbers(12);
    assert!(Matrix::<Host, f32>::new(&data, 4, 3).is_ok());
    for (rows, cols) in [(4, 4), (3, 3), (5, 3), (1, 11), (usize::MAX, 3), (usize::MAX / 2, 4)] {
        assert_names(&Matrix::<Host, f32>::new(&data, rows, cols).unwrap_err(), "matrix");
    }
}

#[test]
fn a_matrix_of_size_zero() {
    let data: Vec<f32> = Vec::new();
    for (rows, cols) in [(0, 3), (3, 0), (0, 0)] {
        let error = Matrix::<Host, f32>::new(&data, rows, cols).unwrap_err();
        assert_names(&error, "matrix");
        let message = error.to_string();
        assert!(message.contains(&format!("{rows} × {cols}")), "{message}");
        let error = Matrix::<Host, f32>::with_stride(&data, rows, cols, 8).unwrap_err();
        assert_names(&error, "matrix");
    }
}

#[test]
fn a_stride_below_the_columns_or_beyond_the_end() {
    let mut data = numbers(20);
    assert!(Matrix::<Host, f32>::with_stride(&data, 4, 3, 5).is_ok());
    // The last row needs no gap after it: (4 − 1)·5 + 3 = 18 elements.
    assert!(Matrix::<Host, f32>::with_stride(&data[..18], 4, 3, 5).is_ok());
    let too_short = Matrix::<Host, f32>::with_stride(&data[..17], 4, 3, 5).unwrap_err();
    assert_names(&too_short, "matrix");
    for stride in [0, 1, 2, 6, usize::MAX, usize::MAX / 3] {
        let error = Matrix::<Host, f32>::with_stride(&data, 4, 3, stride).unwrap_err();
        assert_names(&error, "matrix");
        let error = MatrixMut::<Host, f32>::with_stride(&mut data, 4, 3, stride).unwrap_err();
        assert_names(&error, "output matrix");
    }
}

#[test]
fn too_small_an_output() {
    let mut data = vec![SENTINEL; 12];
    assert!(MatrixMut::<Host, f32>::new(&mut data, 4, 3).is_ok());
    for (rows, cols) in [(4, 4), (5, 3), (0, 3), (3, 0), (usize::MAX, 2)] {
        let error = MatrixMut::<Host, f32>::new(&mut data, rows, cols).unwrap_err();
        assert_names(&error, "output matrix");
    }
    // An output may be longer than needed.
    assert!(MatrixMut::<Host, f32>::new(&mut data, 2, 3).is_ok());
}

#[test]
fn embeddings_of_two_dimensions() {
    let (x, y) = (numbers(N * D), numbers(M * (D + 1)));
    let batch = Batch::new(matrix(&x, N), Matrix::new(&y, M, D + 1).unwrap());
    refused(LOSS(1.0), batch, true, "y");
    accepted(LOSS(1.0), Batch::new(matrix(&x, N), matrix(&y[..M * D], M)));
}

#[test]
fn labels_of_the_wrong_length() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let labels: Vec<u32> = (0..9).map(|at| at % 2).collect();
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    accepted(LOSS(1.0), batch.labels(&labels[..N], &labels[..M]));
    for (rows, cols) in [(N - 1, M), (N + 1, M), (N, M - 1), (N, M + 1), (0, M), (N, 0), (M, N)] {
        let batch = batch.labels(&labels[..rows], &labels[..cols]);
        refused(LOSS(1.0), batch, true, "labels");
    }
    // One set: both sides have n.
    let shared = Batch::shared(matrix(&x, N));
    accepted(LOSS(1.0), shared.labels(&labels[..N], &labels[..N]));
    refused(LOSS(1.0), shared.labels(&labels[..N], &labels[..M]), false, "labels");
}

#[test]
fn ids_of_the_wrong_length() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let ids: Vec<u32> = (0..9).collect();
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    accepted(LOSS(1.0), batch.ids(&ids[..N], &ids[..M]));
    for (rows, cols) in [(N - 1, M), (N + 1, M), (N, M - 1), (N, M + 1), (0, M), (N, 0)] {
        refused(LOSS(1.0), batch.ids(&ids[..rows], &ids[..cols]), true, "ids");
    }
}

#[test]
fn an_index_of_the_wrong_length() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let index = [4_u32, 0, 1, 2, 3];
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    accepted(LOSS(1.0), batch.positives(&index[..N]));
    for len in [0, N - 1, N + 1] {
        refused(LOSS(1.0), batch.positives(&index[..len]), true, "positives");
    }
}

#[test]
fn an_index_out_of_range() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let good = [0, 4, NO_POSITIVE, 2];
    accepted(LOSS(1.0), Batch::new(matrix(&x, N), matrix(&y, M)).positives(&good));
    for bad in [M as u32, M as u32 + 1, 1 << 31, NO_POSITIVE - 1] {
        for at in [0, N - 1] {
            let mut index = good;
            index[at] = bad;
            let batch = Batch::new(matrix(&x, N), matrix(&y, M));
            refused(LOSS(1.0), batch.positives(&index), true, "positives");
            refused(InBatchSoftmax::new(1.0), batch.positives(&index), true, "positives");
            let error = LOSS(1.0).check(&mut CpuEngine::new(), batch.positives(&index));
            let message = error.unwrap_err().to_string();
            assert!(message.contains(&bad.to_string()), "which index is it? {message}");
        }
    }
}

#[test]
fn no_positive_pair() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    refused(LOSS(1.0), batch.positives(&[NO_POSITIVE; N]), true, "positives");
    refused(LOSS(1.0), batch.labels(&[1; N][..], &[2; M][..]), true, "labels");
    let labels = [1, 2, 3, 4];
    refused(LOSS(1.0), Batch::shared(matrix(&x, N)).labels(&labels, &labels), false, "labels");
}

#[test]
fn a_scale_that_is_not_finite_and_positive() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    for bad in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        refused(CrossExampleSoftmax::new(bad), batch, true, "scale");
        refused(InBatchSoftmax::new(bad), batch, true, "scale");
        refused(InstanceCrossEntropy::new(bad), batch, true, "scale");
        refused(CrossExampleSoftmax::new(1.0), batch.scale(bad), true, "scale");
        let result =
            ops::log_sum_exp(&mut CpuEngine::new(), matrix(&x, N), matrix(&y, M), bad, Scope::Row);
        assert_names(&result.unwrap_err(), "scale");
    }
    // The batch's own scale is used instead of the loss's.
    accepted(CrossExampleSoftmax::new(-1.0), batch.scale(1.0));
    for good in [f32::MIN_POSITIVE, f32::MAX] {
        let value = LOSS(good).forward(&mut CpuEngine::new(), batch);
        assert!(value.is_ok(), "a scale of {good:e} is finite and above 0");
    }
}

#[test]
fn an_empty_device_scalar() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    let empty: [f32; 0] = [];
    refused(LOSS(1.0), batch.scale(&empty), true, "scale");
    let mut engine = CpuEngine::new();
    let forward = LOSS(1.0).forward(&mut engine, batch).unwrap();
    assert_names(
        &LOSS(1.0).backward(&mut engine, &forward, &empty).map(drop).unwrap_err(),
        "upstream",
    );
    let mut buffers = Untouched::new();
    let result = LOSS(1.0).backward_into(&mut engine, &forward, &empty, buffers.outputs(true));
    assert_names(&result.unwrap_err(), "upstream");
    buffers.check();
}

#[test]
fn anchor_normalised_weights_over_the_whole_matrix() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    let weighting = Weighting::AnchorNormalized;
    refused(CrossExampleSoftmax::new(1.0).weighting(weighting), batch, true, "weighting");
    accepted(InBatchSoftmax::new(1.0).weighting(weighting), batch);
    accepted(InstanceCrossEntropy::new(1.0).weighting(weighting), batch);
}

#[test]
fn the_diagonal_of_one_shared_set() {
    let x = numbers(N * D);
    refused(LOSS(1.0), Batch::shared(matrix(&x, N)), false, "positives");
    refused(InBatchSoftmax::new(1.0), Batch::shared(matrix(&x, N)), false, "positives");
    accepted(LOSS(1.0), Batch::shared(matrix(&x, N)).positives(&[1, 0, 3, 2]));
}

#[test]
fn outputs_of_the_wrong_shape() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    let mut engine = CpuEngine::new();
    let loss = LOSS(1.0);
    let forward = loss.forward(&mut engine, batch).unwrap();
    for (rows, cols) in [(N - 1, D), (N + 1, D), (N, D - 1), (N, D + 1), (D, N), (1, N * D)] {
        let mut buffers = Untouched::new();
        let mut wrong = vec![SENTINEL; 100];
        for into_backward in [true, false] {
            let mut out = buffers.outputs(true);
            out.x = Some(MatrixMut::new(&mut wrong, rows, cols).unwrap());
            let result = if into_backward {
                loss.backward_into(&mut engine, &forward, 1.0, out)
            } else {
                loss.loss_and_gradients_into(&mut engine, batch, out).map(drop)
            };
            assert_names(&result.unwrap_err(), "gradient x");
            buffers.check();
            assert!(wrong.iter().all(|value| value.to_bits() == SENTINEL.to_bits()));
        }
    }
    for (rows, cols) in [(M - 1, D), (M + 1, D), (M, D + 1), (N, D)] {
        let mut buffers = Untouched::new();
        let mut wrong = vec![SENTINEL; 100];
        for into_backward in [true, false] {
            let mut out = buffers.outputs(true);
            out.y = Some(MatrixMut::new(&mut wrong, rows, cols).unwrap());
            let result = if into_backward {
                loss.backward_into(&mut engine, &forward, 1.0, out)
            } else {
                loss.loss_and_gradients_into(&mut engine, batch, out).map(drop)
            };
            assert_names(&result.unwrap_err(), "gradient y");
            buffers.check();
            assert!(wrong.iter().all(|value| value.to_bits() == SENTINEL.to_bits()));
        }
    }
    let mut buffers = Untouched::new();
    let mut empty: [f32; 0] = [];
    let mut out = buffers.outputs(true);
    out.scale = Some(&mut empty);
    let error = loss.backward_into(&mut engine, &forward, 1.0, out).unwrap_err();
    assert_names(&error, "gradient scale");
    buffers.check();
}

#[test]
fn a_gradient_of_y_in_the_shared_case() {
    let x = numbers(N * D);
    let labels = [1_u32, 1, 2, 2];
    let batch = Batch::shared(matrix(&x, N)).labels(&labels, &labels);
    let mut engine = CpuEngine::new();
    let forward = LOSS(1.0).forward(&mut engine, batch).unwrap();
    let mut buffers = Untouched::new();
    let error = LOSS(1.0).backward_into(&mut engine, &forward, 1.0, buffers.outputs(true));
    assert_names(&error.unwrap_err(), "gradient y");
    let error = LOSS(1.0).loss_and_gradients_into(&mut engine, batch, buffers.outputs(true));
    assert_names(&error.map(drop).unwrap_err(), "gradient y");
    buffers.check();
}

#[test]
fn primitives_of_the_wrong_shape() {
    let (x, y) = (numbers(N * D), numbers(M * (D + 1)));
    let (a, b) = (matrix(&x, N), Matrix::new(&y, M, D + 1).unwrap());
    let good = matrix(&y[..M * D], M);
    let mut engine = CpuEngine::new();
    let mut buffer = vec![SENTINEL; 200];
    assert_names(&ops::similarity(&mut engine, a, b).unwrap_err(), "y");
    assert_names(&ops::log_sum_exp(&mut engine, a, b, 1.0, Scope::Matrix).unwrap_err(), "y");
    let out = MatrixMut::new(&mut buffer, M, N).unwrap();
    assert_names(&ops::similarity_into(&mut engine, a, good, out).unwrap_err(), "out");
    let out = MatrixMut::new(&mut buffer, N, D + 1).unwrap();
    assert_names(&ops::normalize_into(&mut engine, a, out).unwrap_err(), "out");
    assert_names(&ops::normalize_backward(&mut engine, a, good).unwrap_err(), "gradient");
    let out = MatrixMut::new(&mut buffer, M, D).unwrap();
    assert_names(&ops::normalize_backward_into(&mut engine, a, a, out).unwrap_err(), "out");
    let empty: [f32; 0] = [];
    let error = ops::log_sum_exp(&mut engine, a, good, &empty, Scope::Row).unwrap_err();
    assert_names(&error, "scale");
    assert!(buffer.iter().all(|value| value.to_bits() == SENTINEL.to_bits()));
}

#[test]
fn no_hardest_negative_at_all() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M));
    refused(LOSS(1.0).hardest(0), batch, true, "k");
    refused(InBatchSoftmax::new(1.0).hardest_per_row(0), batch, true, "k");
    let labels = [1_u32, 1, 2, 2];
    let shared = Batch::shared(matrix(&x, N)).labels(&labels, &labels);
    refused(InstanceCrossEntropy::new(1.0).hardest(0), shared, false, "k");
    accepted(LOSS(1.0).hardest(0).hardest(1), batch);
    accepted(InBatchSoftmax::new(1.0).hardest_per_row(1), batch);
    for many in [N * M, N * M + 1, usize::MAX] {
        accepted(LOSS(1.0).hardest(many), batch);
        accepted(LOSS(1.0).hardest_per_row(many), batch);
    }
}

#[test]
fn the_top_none_and_the_top_of_two_dimensions() {
    let (x, y) = (numbers(N * D), numbers(M * (D + 1)));
    let (a, b) = (matrix(&x, N), Matrix::new(&y, M, D + 1).unwrap());
    let good = matrix(&y[..M * D], M);
    let mut engine = CpuEngine::new();
    for scope in [Scope::Row, Scope::Matrix] {
        let refused = ops::top_k(&mut engine, a, good, 0, scope).map(drop).unwrap_err();
        assert_names(&refused, "k");
        assert_names(&ops::top_k(&mut engine, a, b, 1, scope).map(drop).unwrap_err(), "y");
        // More than there are gives all.
        let all = ops::top_k(&mut engine, a, good, usize::MAX, scope).unwrap();
        assert_eq!((all.values.len(), all.columns.len()), (N * M, N * M));
    }
}

#[test]
fn buffers_for_the_top_that_do_not_fit() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let (a, b) = (matrix(&x, N), matrix(&y, M));
    let mut engine = CpuEngine::new();
    for (scope, pairs) in [(Scope::Row, 2 * N), (Scope::Matrix, 2)] {
        let matrix = scope == Scope::Matrix;
        // Elements of values, rows and columns; who is named.
        for (lengths, wrong) in [
            ((pairs - 1, Some(pairs), pairs), "values"),
            ((pairs, Some(pairs), pairs - 1), "columns"),
            ((pairs, if matrix { Some(pairs - 1) } else { Some(pairs) }, pairs), "rows"),
            ((pairs, if matrix { None } else { Some(0) }, pairs), "rows"),
        ] {
            let mut values = vec![7.0; lengths.0];
            let mut rows = lengths.1.map(|len| vec![7; len]);
            let mut columns = vec![7; lengths.2];
            let out = ops::TopKMut {
                values: values.as_mut_slice(),
                rows: rows.as_deref_mut(),
                columns: columns.as_mut_slice(),
            };
            let refused = ops::top_k_into(&mut engine, a, b, 2, scope, out).unwrap_err();
            assert_names(&refused, wrong);
            assert!(values.iter().all(|&value| value == 7.0));
            assert!(columns.iter().all(|&column| column == 7));
        }
    }
}

/// An error says in one line what to change.
#[test]
fn the_message_reads() {
    let (x, y) = (numbers(N * D), numbers(M * D));
    let batch = Batch::new(matrix(&x, N), matrix(&y, M)).positives(&[0, 1]);
    let Err(error) = LOSS(1.0).forward(&mut CpuEngine::new(), batch) else { panic!("accepted") };
    assert_eq!(error.to_string(), "positives: got 2 entries, expected 4, one per row of x");
}
