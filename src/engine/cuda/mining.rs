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
//!
//! Few pairs are kept as a list instead, and found in one pass over the tiles (lists.rs).

mod lists;

use super::launch::mining::{
    List, MATRIX_BITS, ROW_BITS, SEARCH_BYTES, SORT_BITS, Sample, Searches, Step, sort_counters,
    tiles,
};
use super::launch::{Address, Kind, Launcher, MINED, Operand, Pairs};
use super::passes::{Embeddings, Input, Operands, Rows, Shape};
use super::workspace::{Layout, Region};
use crate::Result;
use crate::loss::formula::Mining;

pub(super) use super::launch::mining::CUT_BYTES;
pub(super) use lists::{GradientPlan, ListsPlan, SavedList, Stages, Targets, Weights, stages};

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
fn with_cuts(mut pairs: Pairs, shape: &Shape, cuts: Address) -> Pairs {
    if shape.mining != Mining::All {
        pairs.cuts = cuts;
        pairs.cut_stride = u32::from(matches!(shape.mining, Mining::HardestPerRow(_)));
    }
    pairs
}

/// The pairs, of which negatives below the cuts do not count.
pub(super) fn mined(pairs: Pairs, shape: &Shape, cuts: Address) -> Pairs {
    let mut pairs = with_cuts(pairs, shape, cuts);
    if shape.mining != Mining::All {
        pairs.flags |= MINED;
    }
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

    fn of(shape: &Shape) -> Self {
        Self::new(matches!(shape.mining, Mining::HardestPerRow(_)), shape.n, shape.m)
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
    kind: Kind,
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
        kind: Kind,
        lean: bool,
    ) -> Result<Option<Self>> {
        let side = kind.tile.side();
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
            kind,
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
        let search = self.search(shape, cuts, base);
        // SAFETY: the caller's.
        unsafe {
            begin(launch, shape, 0, search)?;
            self.clear(launch, shape, base)?;
            self.search_tiles(launch, shape, x, y, pairs, search, base)
        }
    }

    fn search(&self, shape: &Shape, cuts: Address, base: Address) -> Searches {
        let by_row = matches!(shape.mining, Mining::HardestPerRow(_));
        Searches { searches: self.searches.at(base), cuts, by_row }
    }

    /// Clears the counters: what reads them clears them again. Safety as for
    /// [`find`](Self::find).
    unsafe fn clear(&self, launch: &Launcher<'_>, shape: &Shape, base: Address) -> Result<()> {
        let words = match shape.mining {
            Mining::HardestPerRow(_) => (self.rows as u64) << ROW_BITS,
            _ => 2 << MATRIX_BITS,
        };
        // SAFETY: the counters of the plan.
        unsafe { launch.clear_words(self.counters.at(base), words) }
    }

    /// The searches that are not over, by passes over the tiles. Safety as for
    /// [`find`](Self::find).
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    unsafe fn search_tiles(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        search: Searches,
        base: Address,
    ) -> Result<()> {
        let (kind, counters, depth) = (self.kind, self.counters.at(base), shape.d as u32);
        let steps = || Digits::of(shape).steps();
        // SAFETY: regions of the plan are as large as its sizes say; counters are 0 before every
        // count.
        unsafe {
            if !search.by_row {
                for step in steps() {
                    launch.count_matrix(kind, x, y, depth, pairs, step, search, counters)?;
                    launch.choose(step, 1, counters, search)?;
                }
                return Ok(());
            }
            for first in (0..shape.n).step_by(self.rows) {
                let end = (first + self.rows).min(shape.n);
                let part = search.starting_at(first);
                let (first, end) = (first as u32, end as u32);
                for step in steps() {
                    launch
                        .count_rows(kind, x, y, depth, pairs, first, end, step, search, counters)?;
                    launch.choose(step, end - first, counters, part)?;
                }
            }
        }
        Ok(())
    }
}

/// Begins the searches. Safety as for [`CutsPlan::find`].
unsafe fn begin(
    launch: &Launcher<'_>,
    shape: &Shape,
    gate: Address,
    search: Searches,
) -> Result<()> {
    let k = match shape.mining {
        Mining::All => return Ok(()),
        Mining::Hardest(k) | Mining::HardestPerRow(k) => k as u64,
    };
    let above = Digits::of(shape).above();
    // SAFETY: the caller's.
    unsafe { launch.begin_search(k, groups(shape) as u32, above, gate, search) }
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
    // One digit at least: somebody waits for the result.
    let bits = |count: usize| (usize::BITS - (count - 1).leading_zeros()).max(1);
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

/// Sorts `list` by way of `others` in turn, of which the second may be `list` itself; the result
/// goes into `to`.
///
/// # Safety
/// As for [`super::passes::Pass`]; `counters` are as many as a sort of the list takes.
unsafe fn sort(
    launch: &Launcher<'_>,
    list: List,
    others: [List; 2],
    to: List,
    steps: impl Iterator<Item = Step>,
    counters: Address,
) -> Result<()> {
    let (mut from, mut steps, mut turn) = (list, steps.peekable(), 0);
    while let Some(step) = steps.next() {
        let target = if steps.peek().is_some() { others[turn] } else { to };
        // SAFETY: the caller's.
        unsafe { launch.sort(from, target, step, counters) }?;
        (from, turn) = (target, 1 - turn);
    }
    Ok(())
}

/// The most similar pairs, sorted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopKPlan {
    operands: Operands,
    embeddings: Embeddings,
    cuts: CutsPlan,
    cut: Region,
    lists: [ListPlan; 2],
    count: Region,
    counters: Region,
    pub bytes: usize,
}

impl TopKPlan {
    /// Of a shape without positives; `pairs` in all, at most 2³¹.
    pub fn plan(
        operands: Operands,
        shape: &Shape,
        kind: Kind,
        pairs: usize,
        lean: bool,
    ) -> Result<Self> {
        let mut layout = Layout::default();
        let embeddings = Embeddings::plan(&mut layout, &operands, shape)?;
        let cut = layout.take::<[u8; CUT_BYTES]>(groups(shape))?;
        let lists = [ListPlan::plan(&mut layout, pairs)?, ListPlan::plan(&mut layout, pairs)?];
        let count = layout.take::<u64>(1)?;
        let counters = layout.take::<u32>(sort_counters(pairs))?;
        let cuts = CutsPlan::plan(&mut layout, shape, kind, lean)?;
        let cuts = cuts.expect("a shape with mining");
        let bytes = layout.bytes();
        Ok(Self { operands, embeddings, cuts, cut, lists, count, counters, bytes })
    }

    /// `values`, `rows`, `columns`: of all pairs; `rows` may be 0 where each row has its own.
    ///
    /// # Safety
    /// As for [`super::passes::Pass`].
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        input: &Input,
        base: Address,
        values: Address,
        rows: Address,
        columns: Address,
    ) -> Result<()> {
        let shape = &input.shape;
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
            let Rows { x, y } =
                Rows::prepare(&self.operands, &self.embeddings, launch, input, base)?;
            self.cuts.find(launch, shape, x, y, &pairs, cut, base)?;
            let pairs = with_cuts(pairs, shape, cut);
            launch.clear_words(count, 2)?;
            let (kind, depth) = (self.cuts.kind, d as u32);
            let all = Sample::new(tiles(kind.tile, n as u32, m as u32), 1, 0);
            launch.collect(kind, x, y, depth, &pairs, all, 0, list, 0, 0)?;
            sort(launch, list, [other, list], to, steps, self.counters.at(base))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_cover_every_bit_once() {
        for (by_row, n, m) in [
            (false, 1, 1),
            (false, 2, 3000),
            (true, 5, 256),
            (true, 5, 257),
            (false, 1 << 30, 2049),
        ] {
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
