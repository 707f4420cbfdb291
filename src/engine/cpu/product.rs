//! Room: engines, CPU. Matrix products behind slices and checked shapes: our own for processors with
//! AVX-512, the `gemm` crate everywhere else.

#[cfg(target_arch = "x86_64")]
mod avx512;

use rayon::prelude::*;

/// A matrix inside a slice, whose rows or columns are contiguous.
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

    /// Its rows from `first` on, at most `count`.
    fn skip_rows(self, first: usize, count: usize) -> Self {
        let data = &self.data[first * self.row_stride..];
        Self { data, rows: count.min(self.rows - first), ..self }
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
    check(out, row_stride, left, right);
    // SAFETY: checked, and `out` is borrowed uniquely.
    unsafe { part(out.as_mut_ptr(), row_stride, left, right, add) };
}

/// [`product`], shared out as tiles of at most `tile` rows and columns of `out`. A tile belongs to
/// one thread, and tiles depend on the arguments alone: so do the bits.
pub(crate) fn product_in_tiles(
    out: &mut [f32],
    row_stride: usize,
    left: Block<'_>,
    right: Block<'_>,
    add: bool,
    tile: (usize, usize),
) {
    check(out, row_stride, left, right);
    if right.cols == 1 && (add || row_stride > 1) {
        // `gemm` has other ways for a column whose elements are adjacent than for one with gaps,
        // and the bits would depend on the stride.
        let mut sums = vec![0.0; left.rows];
        product_in_tiles(&mut sums, 1, left, right, false, tile);
        for (out, &sum) in out.iter_mut().step_by(row_stride).zip(&sums) {
            *out = if add { *out + sum } else { sum };
        }
        return;
    }
    let across = right.cols.div_ceil(tile.1);
    let tiles = left.rows.div_ceil(tile.0) * across;
    let out = Shared(out.as_mut_ptr());
    (0..tiles).into_par_iter().with_max_len(1).for_each(|index| {
        let (row, col) = (index / across * tile.0, index % across * tile.1);
        let left = left.skip_rows(row, tile.0);
        let right = right.transposed().skip_rows(col, tile.1).transposed();
        // SAFETY: the tile lies inside what was checked, `out` is borrowed uniquely, and no two
        // tiles share an element.
        unsafe { part(out.at(row * row_stride + col), row_stride, left, right, add) };
    });
}

/// A matrix whose tiles threads write at once.
struct Shared(*mut f32);

// SAFETY: only `product_in_tiles` makes one, and its threads write disjoint elements.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The element is inside the allocation.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

fn check(out: &[f32], row_stride: usize, left: Block<'_>, right: Block<'_>) {
    let (rows, cols) = (left.rows, right.cols);
    assert_eq!(left.cols, right.rows);
    assert!(row_stride >= cols && out.len() >= (rows - 1) * row_stride + cols);
}

/// # Safety
/// `out` is the first element of a matrix of the product's shape, with rows `row_stride` apart, that
/// may be written and that nobody else reads or writes meanwhile.
unsafe fn part(out: *mut f32, row_stride: usize, left: Block<'_>, right: Block<'_>, add: bool) {
    #[cfg(target_arch = "x86_64")]
    if avx512::suits(left) {
        // SAFETY: the caller's promise, and the processor has AVX-512.
        return unsafe { avx512::part(out, row_stride, left, right, add) };
    }
    // SAFETY: the caller's promise.
    unsafe { by_gemm(out, row_stride, left, right, add) };
}

/// # Safety
/// As for [`part`].
unsafe fn by_gemm(out: *mut f32, row_stride: usize, left: Block<'_>, right: Block<'_>, add: bool) {
    // SAFETY: the caller's promise for `out`; the assert in `Block::new` keeps every element that
    // is read inside its slice.
    unsafe {
        gemm::gemm(
            left.rows,
            right.cols,
            left.cols,
            out,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A rows × cols matrix of small integers, row-major or column-major.
    fn integers(rows: usize, cols: usize, transposed: bool) -> Vec<f32> {
        let value = |i: usize, j: usize| ((i * 31 + j * 37) % 19) as f32 - 9.0;
        match transposed {
            false => (0..rows * cols).map(|at| value(at / cols, at % cols)).collect(),
            true => (0..rows * cols).map(|at| value(at % rows, at / rows)).collect(),
        }
    }

    fn block(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Block<'_> {
        match transposed {
            false => Block::new(data, rows, cols, cols),
            true => Block::new(data, cols, rows, rows).transposed(),
        }
    }

    #[test]
    fn tiles_are_the_product() {
        let shapes = [
            (1, 1, 1, 1),
            (7, 5, 3, 5),
            (6, 64, 4, 64),
            (33, 50, 20, 64),
            (13, 129, 7, 130),
            (9, 70, 1030, 70),
        ];
        for (rows, cols, depth, stride) in shapes {
            for turned in [(false, false), (false, true), (true, false), (true, true)] {
                let left = integers(rows, depth, turned.0);
                let right = integers(depth, cols, turned.1);
                let (left, right) =
                    (block(&left, rows, depth, turned.0), block(&right, depth, cols, turned.1));
                let exact: Vec<f32> = (0..rows * cols)
                    .map(|at| {
                        let (i, j) = (at / cols, at % cols);
                        let term = |k: usize| {
                            left.data[i * left.row_stride + k * left.col_stride]
                                * right.data[k * right.row_stride + j * right.col_stride]
                        };
                        (0..depth).map(term).sum()
                    })
                    .collect();
                for (tile, add) in [(1, 1), (8, 16), (33, 7), (1000, 1000)]
                    .into_iter()
                    .flat_map(|tile| [(tile, false), (tile, true)])
                {
                    let expected: Vec<f32> = (0..rows * stride)
                        .map(|index| {
                            let (i, j) = (index / stride, index % stride);
                            let before = if add || j >= cols { 3.0 } else { 0.0 };
                            before + if j < cols { exact[i * cols + j] } else { 0.0 }
                        })
                        .collect();
                    // Small integers: exact in any order.
                    let what = format!("{rows}×{cols}×{depth}, {turned:?}, {tile:?}, {add}");
                    let mut out = vec![3.0; rows * stride];
                    product_in_tiles(&mut out, stride, left, right, add, tile);
                    assert_eq!(out, expected, "{what}");
                    // What processors without AVX-512 take.
                    out.fill(3.0);
                    // SAFETY: `out` has the product's rows.
                    unsafe { by_gemm(out.as_mut_ptr(), stride, left, right, add) };
                    assert_eq!(out, expected, "{what}");
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_stride() {
        let values = |len: usize, a: usize| {
            (0..len).map(|i| ((i * a) % 101) as f32 / 7.0).collect::<Vec<_>>()
        };
        for (rows, cols, depth) in [(1, 1, 9), (9, 1, 3), (9, 1, 64), (70, 2, 65), (1, 9, 65)] {
            let (left, right) = (values(rows * depth, 37), values(depth * cols, 53));
            for add in [false, true] {
                let run = |stride: usize| {
                    let mut out = vec![0.3; rows * stride];
                    // Both as they lie in dY = Gᵀ·X.
                    let left = Block::new(&left, depth, rows, rows).transposed();
                    let right = Block::new(&right, depth, cols, cols);
                    product_in_tiles(&mut out, stride, left, right, add, (32, 16));
                    let row = |row: &[f32]| row[..cols].iter().map(|v| v.to_bits()).collect();
                    out.chunks(stride).map(row).collect::<Vec<Vec<u32>>>()
                };
                let packed = run(cols);
                for stride in [cols + 1, cols + 8] {
                    assert_eq!(run(stride), packed, "{rows}×{cols}×{depth}, {stride}, {add}");
                }
            }
        }
    }
}
