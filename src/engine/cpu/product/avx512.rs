//! Room: engines, CPU. Matrix products for processors with AVX-512.
//!
//! A tile of 6 × 64 sums stays in 24 registers while it walks along the shared dimension: 4 loads
//! and 6 broadcasts for 24 fused multiply-adds. The right matrix is copied a strip of 64 columns at
//! a time, so that a tile reads it in order; the left one is read where it lies if its rows are
//! contiguous, and copied in groups of 6 rows otherwise.
//!
//! Every element is the sum over k in ascending order, of [`DEPTH`] terms at a time: its bits depend
//! on neither the tile it is in nor the strides.

use std::arch::x86_64::*;
use std::array::from_fn;
use std::cell::RefCell;

use super::Block;

/// Rows of a tile.
const ROWS: usize = 6;

/// Elements of a register.
const LANES: usize = 16;

/// Registers that a row of a tile takes.
const VECTORS: usize = 4;

/// Elements of the shared dimension that are worked on at a time: a strip of the right matrix is at
/// most 128 KiB then and stays in the second-level cache.
const DEPTH: usize = 512;

thread_local! {
    /// Strips and groups, kept from product to product.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { strip: vec![], groups: vec![] }) };
}

struct Scratch {
    /// `strip[k * vectors + v]`: lanes 16 v to 16 v + 15 of row k of a strip of the right matrix.
    strip: Vec<__m512>,
    /// `groups[g * depth + k]`: rows 6 g to 6 g + 5 of column k of the left matrix.
    groups: Vec<[f32; ROWS]>,
}

/// Whether this processor and these operands are ones for [`part`]. Fewer rows than a tile has would
/// not repay a copy of the right matrix.
pub(super) fn suits(left: Block<'_>, right: Block<'_>) -> bool {
    let offsets_fit = right.col_stride <= i32::MAX as usize / LANES;
    left.rows >= ROWS && offsets_fit && is_x86_feature_detected!("avx512f")
}

/// # Safety
/// As for [`super::part`]; [`suits`] has said so.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn part(
    out: *mut f32,
    row_stride: usize,
    left: Block<'_>,
    right: Block<'_>,
    add: bool,
) {
    SCRATCH.with_borrow_mut(|Scratch { strip, groups }| {
        for start in (0..left.cols).step_by(DEPTH) {
            let depth = DEPTH.min(left.cols - start);
            let add = add || start > 0;
            let in_place = left.col_stride == 1;
            if !in_place {
                copy_groups(groups, left, start, depth);
            }
            for first in (0..right.cols).step_by(VECTORS * LANES) {
                let columns = (right.cols - first).min(VECTORS * LANES);
                let vectors = columns.div_ceil(LANES);
                // SAFETY: the processor has AVX-512.
                unsafe { copy_strip(strip, right, (start, depth), (first, columns)) };
                for row in (0..left.rows).step_by(ROWS) {
                    let rows = ROWS.min(left.rows - row);
                    // SAFETY: within `left`, as `row` and `start` are; `groups` has all its rows.
                    let (from, between) = unsafe {
                        if in_place {
                            let first = left.data.as_ptr().add(row * left.row_stride + start);
                            (first, left.row_stride)
                        } else {
                            (groups.as_ptr().add(row / ROWS * depth).cast(), 0)
                        }
                    };
                    // SAFETY: `rows` and `columns` are within the product's shape; the strip has
                    // `depth` rows of `vectors`.
                    unsafe {
                        let out = out.add(row * row_stride + first);
                        let run = tile_function(rows, vectors, in_place);
                        run(depth, from, between, strip.as_ptr(), out, row_stride, columns, add);
                    }
                }
            }
        }
    });
}

/// Copies columns `start` and following of the left matrix, each group of rows together; rows that
/// it does not have are zeros.
fn copy_groups(groups: &mut Vec<[f32; ROWS]>, left: Block<'_>, start: usize, depth: usize) {
    groups.clear();
    for row in (0..left.rows).step_by(ROWS) {
        let rows = ROWS.min(left.rows - row);
        let data = &left.data[row * left.row_stride + start * left.col_stride..];
        groups.extend((0..depth).map(|k| {
            let column = &data[k * left.col_stride..];
            match column.first_chunk() {
                Some(group) if rows == ROWS && left.row_stride == 1 => *group,
                _ => from_fn(|r| if r < rows { column[r * left.row_stride] } else { 0.0 }),
            }
        }));
    }
}

/// Copies a strip of the right matrix: `range.1` rows from `range.0` on of `columns.1` columns from
/// `columns.0` on; columns that it does not have are zeros.
///
/// # Safety
/// The strip is inside the matrix; the processor has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn copy_strip(
    strip: &mut Vec<__m512>,
    right: Block<'_>,
    (start, depth): (usize, usize),
    (first, columns): (usize, usize),
) {
    let vectors = columns.div_ceil(LANES);
    strip.resize(depth * vectors, _mm512_setzero_ps());
    for v in 0..vectors {
        let valid = LANES.min(columns - v * LANES);
        let mask = ((1u32 << valid) - 1) as __mmask16;
        // SAFETY: rows `start..start + depth` and columns from `first + 16 v` on, as many as the
        // mask allows, are inside.
        unsafe {
            let column = first + v * LANES;
            let from =
                right.data.as_ptr().add(start * right.row_stride + column * right.col_stride);
            let to = strip[v..].iter_mut().step_by(vectors).enumerate();
            if right.col_stride == 1 {
                for (k, to) in to {
                    *to = _mm512_maskz_loadu_ps(mask, from.add(k * right.row_stride));
                }
            } else {
                let offsets: [i32; LANES] = from_fn(|lane| (lane * right.col_stride) as i32);
                let (zero, offsets) = (_mm512_setzero_ps(), _mm512_loadu_epi32(offsets.as_ptr()));
                for (k, to) in to {
                    let row = from.add(k * right.row_stride);
                    *to = _mm512_mask_i32gather_ps::<4>(zero, mask, offsets, row);
                }
            }
        }
    }
}

/// [`tile`] for a shape.
type Tile = unsafe fn(usize, *const f32, usize, *const __m512, *mut f32, usize, usize, bool);

fn tile_function(rows: usize, vectors: usize, in_place: bool) -> Tile {
    macro_rules! table {
        ($($rows:literal)*) => {
            [$([
                [tile::<$rows, 1, false>, tile::<$rows, 1, true>],
                [tile::<$rows, 2, false>, tile::<$rows, 2, true>],
                [tile::<$rows, 3, false>, tile::<$rows, 3, true>],
                [tile::<$rows, 4, false>, tile::<$rows, 4, true>],
            ]),*]
        };
    }
    static TABLE: [[[Tile; 2]; VECTORS]; ROWS] = table!(1 2 3 4 5 6);
    TABLE[rows - 1][vectors - 1][usize::from(in_place)]
}

/// A tile of `R` rows and at most 16·`V` columns of the product. Row i of the left matrix is at
/// `left + i * between` if it is read `IN_PLACE`, and element i of its column k at `left + 6 k + i`
/// otherwise.
///
/// # Safety
/// `depth` elements of each of those rows, and `depth * V` vectors of the strip, may be read, and
/// `columns` elements of each of the rows of `out` be written; the processor has AVX-512.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<const R: usize, const V: usize, const IN_PLACE: bool>(
    depth: usize,
    left: *const f32,
    between: usize,
    strip: *const __m512,
    out: *mut f32,
    row_stride: usize,
    columns: usize,
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for k in 0..depth {
        // SAFETY: k is below `depth`.
        unsafe {
            let right: [__m512; V] = from_fn(|v| *strip.add(k * V + v));
            for (i, sums) in sums.iter_mut().enumerate() {
                let at = if IN_PLACE { i * between + k } else { k * ROWS + i };
                let value = _mm512_set1_ps(*left.add(at));
                for v in 0..V {
                    sums[v] = _mm512_fmadd_ps(value, right[v], sums[v]);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            let valid = LANES.min(columns - v * LANES);
            let mask = ((1u32 << valid) - 1) as __mmask16;
            // SAFETY: what the mask allows is inside the product.
            unsafe {
                let to = out.add(i * row_stride + v * LANES);
                let sum =
                    if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}
