//! Plain products on the CPU by the `gemm` crate: what the engine is measured against.

/// out = left·right over all threads; each operand with its row and column stride.
pub fn product(
    out: &mut [f32],
    (rows, cols, depth): (usize, usize, usize),
    (left, left_row, left_col): (&[f32], usize, usize),
    (right, right_row, right_col): (&[f32], usize, usize),
) {
    assert!(out.len() == rows * cols && left.len() == rows * depth && right.len() == depth * cols);
    // SAFETY: the slices hold exactly the elements that shapes and strides reach.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            out.as_mut_ptr(),
            1,
            cols as isize,
            false,
            left.as_ptr(),
            left_col as isize,
            left_row as isize,
            right.as_ptr(),
            right_col as isize,
            right_row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

/// The products that loss and gradients consist of.
pub struct Products {
    n: usize,
    d: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    similarities: Vec<f32>,
    dx: Vec<f32>,
    dy: Vec<f32>,
}

impl Products {
    pub fn new(n: usize, d: usize) -> Self {
        Self {
            n,
            d,
            x: super::unit_rows(n, d, 1),
            y: super::unit_rows(n, d, 2),
            similarities: vec![0.0; n * n],
            dx: vec![0.0; n * d],
            dy: vec![0.0; n * d],
        }
    }

    /// S = X·Yᵀ; with `all`, S·Y and Sᵀ·X too.
    pub fn run(&mut self, all: bool) {
        let Self { n, d, x, y, similarities: s, dx, dy } = self;
        product(s, (*n, *n, *d), (x, *d, 1), (y, 1, *d));
        if all {
            product(dx, (*n, *d, *n), (s, *n, 1), (y, *d, 1));
            product(dy, (*n, *d, *n), (s, 1, *n), (x, *d, 1));
        }
        std::hint::black_box((&self.similarities, &self.dx, &self.dy));
    }
}
