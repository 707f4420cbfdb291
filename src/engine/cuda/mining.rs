//! Room: engines, CUDA. Mining: which negatives count, found without the matrix.
//!
//! The mined set is everything up to one cut in the order of mining (similarity descending, then
//! row, then column; kernels/epilogue/select.cuh): one cut for the whole matrix, or one a row. The
//! passes of a loss run as ever, with one more mask.
//!
//! A cut is found digit by digit, as in a radix sort: a pass over the tiles counts how many negatives
//! there are of each digit, among those whose digits before are the cut's own, and the digit that
//! holds the k-th is the next. Three passes tell the similarity of a whole matrix's cut, four that of
//! the rows'; where equal similarities stand on both sides of it, rows and columns are searched the
//! same way. A search that is over skips its passes: on the device, so that the launches are always
//! the same and nothing waits for the host.

use super::launch::mining::{
    List, MATRIX_BITS, ROW_BITS, SEARCH_BYTES, SORT_BITS, Sample, Searches, Step, sort_counters,
};
use super::launch::{Address, Launcher, MINED, Operand, Pairs, Tile};
use super::passes::Shape;
use super::workspace::{Layout, Region};
use crate::Result;
use crate::loss::formula::Mining;

pub(super) use super::launch::mining::CUT_BYTES;

/// Bytes of the counters where the caller sets no bound that asks for fewer.
const COUNTER_BYTES: usize = 32 << 20;

/// Cuts of a problem.
pub(super) fn groups(shape: &Shape) -> usize {
    match shape.mining {
        Mining::All => 0,
        Mining::Hardest(_) => 1,
        Mining::HardestPerRow(_) => shape.n,
    }
}

/// The pairs with their cuts, where there is mining.
pub(super) fn mined(mut pairs: Pairs, shape: &Shape, cuts: Address) -> Pairs {
    let stride = match shape.mining {
        Mining::All => return pairs,
        Mining::Hardest(_) => 0,
        Mining::HardestPerRow(_) => 1,
    };
    pairs.flags |= MINED;
    (pairs.cuts, pairs.cut_stride) = (cuts, stride);
    pairs
}

/// The digits of a pair, first to last.
#[derive(Clone, Copy, Debug)]
struct Digits {
    /// Bits of one, at most.
    bits: u32,
    rows: u32,
    columns: u32,
}

impl Digits {
    fn new(by_row: bool, n: usize, m: usize) -> Self {
        let bits = if by_row { ROW_BITS } else { MATRIX_BITS };
        let digits = |count: usize| (usize::BITS - (count - 1).leading_zeros()).div_ceil(bits);
        Self { bits, rows: if by_row { 0 } else { digits(n) }, columns: digits(m) }
    }

    /// The bits of ~row and ~column above their digits.
    fn above(self) -> (u32, u32) {
        let above = |digits: u32| u32::MAX.checked_shl(digits * self.bits).unwrap_or(0);
        (above(self.rows), above(self.columns))
    }

    fn steps(self) -> impl Iterator<Item = Step> {
        let bits = self.bits;
        let word = move |word: u32, digits: u32| {
            (0..digits).rev().map(move |digit| {
                let shift = digit * bits;
                Step { word, shift, bits: bits.min(32 - shift) }
            })
        };
        let key = word(0, u32::BITS.div_ceil(bits));
        key.chain(word(1, self.rows)).chain(word(2, self.columns))
    }
}

/// The search for the cuts of a problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutsPlan {
    tile: Tile,
    searches: Region,
    counters: Region,
    /// Rows that are counted at a time.
    rows: usize,
}

impl CutsPlan {
    /// `lean`: as little memory as can be. `None` where nothing is mined.
    pub fn plan(
        layout: &mut Layout,
        shape: &Shape,
        tile: Tile,
        lean: bool,
    ) -> Result<Option<Self>> {
        let side = tile.side();
        let per_row = 4 << ROW_BITS;
        let (rows, counters) = match shape.mining {
            Mining::All => return Ok(None),
            Mining::Hardest(_) => (shape.n, 8 << MATRIX_BITS),
            Mining::HardestPerRow(_) => {
                let most = if lean { 1 } else { COUNTER_BYTES / per_row / side };
                let rows = (most * side).min(shape.n.next_multiple_of(side));
                (rows, rows * per_row)
            }
        };
        Ok(Some(Self {
            tile,
            searches: layout.take::<[u8; SEARCH_BYTES]>(groups(shape))?,
            counters: layout.take::<u8>(counters)?,
            rows,
        }))
    }

    /// Finds the cuts and puts them at `cuts`.
    ///
    /// # Safety
    /// As for [`super::passes::Pass`]; `pairs` with the key ranges of the plan's tile.
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    pub unsafe fn find(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        cuts: Address,
        base: Address,
    ) -> Result<()> {
        let (by_row, k) = match shape.mining {
            Mining::All => return Ok(()),
            Mining::Hardest(k) => (false, k),
            Mining::HardestPerRow(k) => (true, k),
        };
        let Shape { n, m, .. } = *shape;
        let depth = shape.d as u32;
        let digits = Digits::new(by_row, n, m);
        let counters = self.counters.at(base);
        let all = Searches { searches: self.searches.at(base), cuts, by_row };
        // SAFETY: regions of the plan are as large as its sizes say; counters are 0 before every
        // count, because what reads them clears them.
        unsafe {
            launch.begin_search(k as u64, groups(shape) as u32, digits.above(), 0, all)?;
            if by_row {
                launch.clear_words(counters, (self.rows as u64) << ROW_BITS)?;
                for first in (0..n).step_by(self.rows) {
                    let end = (first + self.rows).min(n);
                    let (rows, part) = ((first as u32, end as u32), all.starting_at(first));
                    for step in digits.steps() {
                        launch.count_rows(
                            self.tile, x, y, depth, pairs, rows.0, rows.1, step, all, counters,
                        )?;
                        launch.choose(step, rows.1 - rows.0, counters, part)?;
                    }
                }
            } else {
                launch.clear_words(counters, 2 << MATRIX_BITS)?;
                for step in digits.steps() {
                    launch.count_matrix(self.tile, x, y, depth, pairs, step, all, counters)?;
                    launch.choose(step, 1, counters, all)?;
                }
            }
        }
        Ok(())
    }
}

/// Places of a list of pairs.
#[derive(Clone, Copy, Debug)]
struct ListPlan {
    similarity: Region,
    row: Region,
    column: Region,
    capacity: usize,
}

impl ListPlan {
    fn plan(layout: &mut Layout, capacity: usize) -> Result<Self> {
        Ok(Self {
            similarity: layout.take::<f32>(capacity)?,
            row: layout.take::<u32>(capacity)?,
            column: layout.take::<u32>(capacity)?,
            capacity,
        })
    }

    fn at(&self, base: Address, count: Address) -> List {
        List {
            similarity: self.similarity.at(base),
            row: self.row.at(base),
            column: self.column.at(base),
            capacity: self.capacity as u64,
            count,
        }
    }
}

/// What a list is sorted by, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Similarity,
    Row,
    Column,
}

/// The digits of a sort, the last one first. n, m: rows and columns.
fn sort_steps(by: &[By], n: usize, m: usize) -> impl Iterator<Item = Step> {
    let bits = |count: usize| usize::BITS - (count - 1).leading_zeros();
    by.iter().rev().flat_map(move |by| {
        let (word, bits) = match by {
            By::Similarity => (0, u32::BITS),
            By::Row => (1, bits(n)),
            By::Column => (2, bits(m)),
        };
        (0..bits.div_ceil(SORT_BITS)).map(move |digit| Step {
            word,
            shift: digit * SORT_BITS,
            bits: SORT_BITS,
        })
    })
}

/// Sorts `list`, going back and forth between it and `other`; the result goes into `to`.
///
/// # Safety
/// As for [`super::passes::Pass`]; `counters` are as many as a sort of the list takes.
unsafe fn sort(
    launch: &Launcher<'_>,
    mut list: List,
    mut other: List,
    to: List,
    steps: impl Iterator<Item = Step>,
    counters: Address,
) -> Result<()> {
    let mut steps = steps.peekable();
    while let Some(step) = steps.next() {
        let target = if steps.peek().is_some() { other } else { to };
        // SAFETY: the caller's.
        unsafe { launch.sort(list, target, step, counters) }?;
        (list, other) = (other, list);
    }
    Ok(())
}

/// The most similar pairs, sorted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopKPlan {
    cuts: CutsPlan,
    cut: Region,
    lists: [ListPlan; 2],
    count: Region,
    counters: Region,
    pub bytes: usize,
}

impl TopKPlan {
    /// Of a shape without positives; `pairs` in all, at most 2³¹.
    pub fn plan(shape: &Shape, tile: Tile, pairs: usize, lean: bool) -> Result<Self> {
        let mut layout = Layout::default();
        let cut = layout.take::<[u8; CUT_BYTES]>(groups(shape))?;
        let lists = [ListPlan::plan(&mut layout, pairs)?, ListPlan::plan(&mut layout, pairs)?];
        let count = layout.take::<u64>(1)?;
        let counters = layout.take::<u32>(sort_counters(pairs))?;
        let cuts = CutsPlan::plan(&mut layout, shape, tile, lean)?;
        let cuts = cuts.expect("a shape with mining");
        Ok(Self { cuts, cut, lists, count, counters, bytes: layout.bytes() })
    }

    /// `values`, `rows`, `columns`: of all pairs; `rows` may be 0 where each row has its own.
    ///
    /// # Safety
    /// As for [`super::passes::Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        base: Address,
        values: Address,
        rows: Address,
        columns: Address,
    ) -> Result<()> {
        let Shape { n, m, d, .. } = *shape;
        let count = self.count.at(base);
        let [list, other] = self.lists.map(|list| list.at(base, count));
        let by: &[By] = match shape.mining {
            Mining::HardestPerRow(_) => &[By::Row, By::Similarity, By::Column],
            _ => &[By::Similarity, By::Row, By::Column],
        };
        let steps = sort_steps(by, n, m);
        // What is not asked for goes where nothing is read from any more.
        let row = if rows == 0 { None } else { Some(rows) };
        let moves = sort_steps(by, n, m).count();
        let last = if moves % 2 == 1 { other } else { list };
        let to = List { similarity: values, row: row.unwrap_or(last.row), column: columns, ..list };
        let pairs = Pairs::new(n, m);
        let cut = self.cut.at(base);
        // SAFETY: regions of the plan are as large as its sizes say; the cuts include exactly as
        // many pairs as the lists hold.
        unsafe {
            self.cuts.find(launch, shape, x, y, &pairs, cut, base)?;
            let mut pairs = mined(pairs, shape, cut);
            pairs.flags &= !MINED;
            launch.clear_words(count, 2)?;
            let (tile, depth) = (self.cuts.tile, d as u32);
            launch.collect(tile, x, y, depth, &pairs, Sample::ALL, 0, list, 0, 0)?;
            sort(launch, list, other, to, steps, self.counters.at(base))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_cover_every_bit_once() {
        for (by_row, n, m) in
            [(false, 1, 1), (false, 2, 3000), (true, 5, 256), (true, 5, 257), (false, 1 << 30, 2049)]
        {
            let digits = Digits::new(by_row, n, m);
            let mut covered = [0u32; 3];
            for step in digits.steps() {
                let bits = (((1u64 << step.bits) - 1) << step.shift) as u32;
                assert_eq!(covered[step.word as usize] & bits, 0);
                covered[step.word as usize] |= bits;
            }
            let (row, column) = digits.above();
            assert_eq!(covered[0], u32::MAX);
            assert_eq!(covered[2], !column);
            assert!((m - 1) as u32 & column == 0);
            if !by_row {
                assert_eq!(covered[1], !row);
                assert!((n - 1) as u32 & row == 0);
            }
        }
    }
}
