//! Room: engines, CPU. Matrix products: the `gemm` crate behind slices and checked shapes.

/// A matrix inside a slice, with any strides.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Block<'a> {
    /// `rows` × `cols` from the start of `data`, rows `row_stride` apart.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && cols > 0 && data.len() >= (rows - 1) * row_stride + cols);
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// out = left·right, or out += left·right; `out` row-major with rows `row_stride` apart. Runs on
/// the calling thread: the same shapes give the same bits whatever the pool's size.
pub(crate) fn product(
    out: &mut [f32],
    row_stride: usize,
    left: Block<'_>,
    right: Block<'_>,
    add: bool,
) {
    let (rows, cols, depth) = (left.rows, right.cols, left.cols);
    assert_eq!(depth, right.rows);
    assert!(row_stride >= cols && out.len() >= (rows - 1) * row_stride + cols);
    // SAFETY: the asserts here and in `Block::new` keep every element that is read or written
    // inside its slice; `out` is borrowed uniquely and its rows do not overlap.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            add,
            left.data.as_ptr(),
            left.col_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.col_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
