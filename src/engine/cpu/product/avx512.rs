//! Room: engines, CPU. Matrix products for processors with AVX-512.
//!
//! A tile of 6 × 64 sums stays in 24 registers while it walks along the shared dimension: 4 loads
//! and 6 broadcasts for 24 fused multiply-adds. The right matrix is copied a strip of 64 columns at
//! a time, so that a tile reads it in order, and asked for while the strip before is worked on; the
//! left one is read where it lies if its rows are contiguous, and copied in groups of 6 rows
//! otherwise.
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

/// Columns of a strip, those of a tile.
const WIDTH: usize = VECTORS * LANES;

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
    /// `groups[g * group_stride(depth) + k]`: rows 6 g to 6 g + 5 of column k of the left matrix.
    groups: Vec<[f32; ROWS]>,
}

/// Whether this processor and these operands are ones for [`part`]. Fewer rows than a tile has would
/// not repay a copy of the right matrix.
pub(super) fn suits(left: Block<'_>) -> bool {
    left.rows >= ROWS && is_x86_feature_detected!("avx512f")
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
    let across = right.cols.div_ceil(WIDTH);
    let strips = left.cols.div_ceil(DEPTH) * across;
    let place = |index: usize| {
        let (start, first) = (index / across * DEPTH, index % across * WIDTH);
        (start, DEPTH.min(left.cols - start), first, WIDTH.min(right.cols - first))
    };
    let in_place = left.col_stride == 1;
    SCRATCH.with_borrow_mut(|Scratch { strip, groups }| {
        for index in 0..strips {
            let (start, depth, first, columns) = place(index);
            let add = add || start > 0;
            if !in_place && first == 0 {
                copy_groups(groups, left, start, depth);
            }
            let vectors = columns.div_ceil(LANES);
            // SAFETY: the processor has AVX-512; the strip is inside, as `place` has it.
            unsafe { copy_strip(strip, right, (start, depth), (first, columns)) };
            let next = (index + 1 < strips).then(|| place(index + 1));
            let mut ahead = Ahead::new(right, next, left.rows.div_ceil(ROWS));
            for row in (0..left.rows).step_by(ROWS) {
                ahead.fetch();
                let rows = ROWS.min(left.rows - row);
                // SAFETY: within `left`, as `row` and `start` are; `groups` has all its rows.
                let (from, between) = unsafe {
                    if in_place {
                        (left.data.as_ptr().add(row * left.row_stride + start), left.row_stride)
                    } else {
                        (groups.as_ptr().add(row / ROWS * group_stride(depth)).cast(), 0)
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
    });
}

/// Where the next strip comes from: its cache lines are asked for a few at a time, while tiles of the
/// strip before it are computed.
struct Ahead {
    from: *const f32,
    /// Pieces of adjacent elements that are left.
    pieces: usize,
    /// From one piece to the next.
    between: usize,
    /// Elements of a piece.
    length: usize,
    /// Pieces to ask for at a time.
    share: usize,
}

impl Ahead {
    /// For the strip at `next`, asked for in so many `times`; nothing if there is none.
    fn new(right: Block<'_>, next: Option<(usize, usize, usize, usize)>, times: usize) -> Self {
        let (start, depth, first, columns) = next.unwrap_or_default();
        let from = right.data[start * right.row_stride + first * right.col_stride..].as_ptr();
        let (pieces, between, length) = match right.col_stride {
            1 => (depth, right.row_stride, columns),
            _ => (columns, right.col_stride, depth),
        };
        Self { from, pieces, between, length, share: pieces.div_ceil(times) }
    }

    fn fetch(&mut self) {
        let pieces = self.share.min(self.pieces);
        for piece in 0..pieces {
            for at in (0..self.length).step_by(LANES) {
                // SAFETY: a prefetch touches nothing; the processor has it.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T1>(
                        self.from.wrapping_add(piece * self.between + at).cast(),
                    );
                }
            }
        }
        self.from = self.from.wrapping_add(pieces * self.between);
        self.pieces -= pieces;
    }
}

/// Copies columns `start` and following of the left matrix, each group of rows together; rows that
/// it does not have are zeros.
fn copy_groups(groups: &mut Vec<[f32; ROWS]>, left: Block<'_>, start: usize, depth: usize) {
    let stride = group_stride(depth);
    groups.resize(left.rows.div_ceil(ROWS) * stride, [0.0; ROWS]);
    // Column by column: its rows are what lies together.
    for k in 0..depth {
        let column = &left.data[(start + k) * left.col_stride..][..left.rows];
        let to = groups[k..].iter_mut().step_by(stride);
        let (whole, rest) = column.as_chunks();
        for (to, group) in to.zip(whole) {
            *to = *group;
        }
        if !rest.is_empty() {
            let to = &mut groups[left.rows / ROWS * stride + k];
            *to = from_fn(|r| rest.get(r).copied().unwrap_or(0.0));
        }
    }
}

/// Columns that a group of rows has room for: an odd number of cache lines, since groups a power of
/// two apart, written side by side, would share a few sets of the cache.
fn group_stride(depth: usize) -> usize {
    // 3 lines hold 8 columns.
    (depth.div_ceil(8) | 1) * 8
}

/// Copies a strip of the right matrix: `depth` rows from `start` on of `columns` columns from
/// `first` on; columns that it does not have are zeros.
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
    let from = right.data[start * right.row_stride + first * right.col_stride..].as_ptr();
    if right.col_stride == 1 {
        for (k, to) in strip.chunks_exact_mut(vectors).enumerate() {
            for (v, to) in to.iter_mut().enumerate() {
                let mask = mask(columns - v * LANES);
                // SAFETY: row k and what the mask allows of its columns are inside.
                unsafe {
                    *to = _mm512_maskz_loadu_ps(mask, from.add(k * right.row_stride + v * LANES));
                }
            }
        }
        return;
    }
    for v in 0..vectors {
        for k in (0..depth).step_by(LANES) {
            let mask = mask(depth - k);
            let rows = from_fn(|lane| {
                let column = v * LANES + lane;
                if column >= columns {
                    return _mm512_setzero_ps();
                }
                // SAFETY: the column and what the mask allows of its rows are inside.
                unsafe { _mm512_maskz_loadu_ps(mask, from.add(column * right.col_stride + k)) }
            });
            let to = strip[k * vectors + v..].iter_mut().step_by(vectors);
            to.zip(transpose(rows)).for_each(|(to, row)| *to = row);
        }
    }
}

/// The first `count` lanes.
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count.min(LANES)) - 1) as __mmask16
}

/// Sixteen rows of sixteen, turned.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
    // Blocks of four lanes: in block q, afterwards, rows 4 g to 4 g + 3 of column 4 q + c.
    let mut fours = [_mm512_setzero_ps(); LANES];
    for g in (0..LANES).step_by(4) {
        let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(rows[g + a], rows[g + b]));
        let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(rows[g + a], rows[g + b]));
        fours[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low(0, 1), low(2, 3)));
        fours[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low(0, 1), low(2, 3)));
        fours[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high(0, 1), high(2, 3)));
        fours[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high(0, 1), high(2, 3)));
    }
    // Then the blocks themselves.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    let mut columns = [_mm512_setzero_ps(); LANES];
    for c in 0..4 {
        let [a, b, e, f] = from_fn(|g| fours[4 * g + c]);
        let (low, high) = (_mm512_shuffle_f32x4::<EVEN>(a, b), _mm512_shuffle_f32x4::<EVEN>(e, f));
        columns[c] = _mm512_shuffle_f32x4::<EVEN>(low, high);
        columns[8 + c] = _mm512_shuffle_f32x4::<ODD>(low, high);
        let (low, high) = (_mm512_shuffle_f32x4::<ODD>(a, b), _mm512_shuffle_f32x4::<ODD>(e, f));
        columns[4 + c] = _mm512_shuffle_f32x4::<EVEN>(low, high);
        columns[12 + c] = _mm512_shuffle_f32x4::<ODD>(low, high);
    }
    columns
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
    if add {
        // Read at the very end: on their way meanwhile.
        for at in (0..R * V).map(|at| at / V * row_stride + at % V * LANES) {
            _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(at).cast());
        }
    }
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
            let mask = mask(columns - v * LANES);
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
