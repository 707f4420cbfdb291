//! Room: engines, CUDA. Mining: which negatives count, found without the matrix.
//!
//! The mined set is everything up to one cut in the order of mining (similarity descending, then
//! row, then column; kernels/epilogue/select.cuh): one cut for the whole matrix, or one a row. The
//! passes of a loss run as ever, with one more mask.
//!
//! The cut of a whole matrix is looked for in a sample first: a part of the tiles tells a window of
//! the order that holds it in all likelihood; one pass over all tiles collects the window and counts
//! what is harder, and if the cut is there it is found in that list. Else, and for cuts of rows, the
//! tiles themselves are searched.
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

use lists::Found;
use std::num::NonZero;

use super::launch::mining::{
    Above, Aside, List, MATRIX_BITS, ROW_BITS, RowTotals, SEARCH_BYTES, SORT_BITS, Sample,
    Searches, Step, sort_counters, tiles,
};
use super::launch::{Address, Kind, Launcher, MINED, Operand, Pairs, Tile};
use super::passes::{Embeddings, Input, Operands, Rows, Shape};
use super::workspace::{Layout, Region};
use crate::Result;
use crate::loss::formula::Mining;

pub(super) use super::launch::mining::CUT_BYTES;
pub(super) use lists::{
    GradientPlan, LIST_BYTES, ListsPlan, SavedList, Stages, Targets, Weights, stages,
};

/// Bytes of the counters where the caller sets no bound that asks for fewer.
const COUNTER_BYTES: usize = 32 << 20;

/// Pairs of the sample that tells where a cut may be, at most.
const SAMPLE: usize = 1 << 20;

/// Counters of a search of the matrix: one a digit, and one that tells the block that comes last.
const MATRIX_COUNTERS: usize = (1 << MATRIX_BITS) + 1;

/// Bytes of the list of a window, at most.
const WINDOW_BYTES: usize = 192 << 20;

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
    window: Option<WindowPlan>,
}

/// A window of the order of all pairs, told by a sample of the tiles.
#[derive(Clone, Copy, Debug)]
struct WindowPlan {
    sample: Sample,
    /// Ranks in the sample where the window begins and ends.
    ranks: [u64; 2],
    list: ListPlan,
    count: Region,
    lost: Region,
    above: Region,
    above_cut: Region,
}

impl WindowPlan {
    /// `None` where there are too few tiles for a sample.
    fn plan(layout: &mut Layout, shape: &Shape, tile: Tile, k: usize) -> Result<Option<Self>> {
        let side = tile.side();
        let across = shape.m.div_ceil(side);
        let line = shape.n.div_ceil(side) * across;
        let Some(stride) = stride(line, across, (SAMPLE / (side * side)).min(line / 16)) else {
            return Ok(None);
        };
        let taken = line.div_ceil(stride);
        // How far the rank in the sample may be off: chance, and a sixteenth for tiles that differ.
        let rank = (k as f64 * taken as f64 / line as f64).ceil();
        let off = rank / 16.0 + 4.0 * rank.sqrt() + 64.0;
        let ranks = [(rank - off).max(0.0), rank + off];
        let expected = (ranks[1] - ranks[0]) * stride as f64;
        let capacity = (2.0 * expected) as usize;
        if capacity.saturating_mul(12) > WINDOW_BYTES {
            return Ok(None);
        }
        Ok(Some(Self {
            sample: Sample::new(line, stride, 0),
            ranks: ranks.map(|rank| rank as u64),
            list: ListPlan::plan(layout, capacity.max(taken * side * side))?,
            count: layout.take::<u64>(1)?,
            lost: layout.take::<u32>(1)?,
            above: layout.take::<u64>(1)?,
            above_cut: layout.take::<[u8; CUT_BYTES]>(1)?,
        }))
    }

    /// Finds the cut if the window holds it; leaves the search open if not. Safety as for
    /// [`CutsPlan::find`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    unsafe fn search(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        plan: &CutsPlan,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        search: Searches,
        base: Address,
    ) -> Result<()> {
        let (kind, depth, counters) = (plan.kind, shape.d as u32, plan.counters.at(base));
        let digits = Digits::of(shape);
        let list = self.list.at(base, self.count.at(base));
        let Mining::Hardest(k) = shape.mining else { return Ok(()) };
        let (lost, above) = (self.lost.at(base), self.above.at(base));
        let above = Above { cut: self.above_cut.at(base), count: above };
        let pairs = &with_cuts(*pairs, shape, search.cuts);
        let harder = Searches { cuts: above.cut, ..search };
        let all = Sample::new(tiles(kind.tile, shape.n as u32, shape.m as u32), 1, 0);
        let aside = Aside::default();
        // SAFETY: as in `CutsPlan::search_tiles`.
        unsafe {
            let find = |search: Searches, words: u32| -> Result<()> {
                let mut steps = digits.steps().filter(|step| step.word < words);
                steps.try_for_each(|step| launch.count_list(list, step, search, counters))
            };
            launch.clear_words([(list.count, 2), (above.count, 2)])?;
            // The sample, and the similarities where the window begins and ends.
            launch.begin_search(k as u64, 0, 1, digits.above(), 0, search)?;
            let none = Above::default();
            launch.collect(kind, x, y, depth, pairs, self.sample, 0, none, list, aside)?;
            for (search, rank) in [harder, search].into_iter().zip(self.ranks) {
                launch.begin_search(rank, 0, 1, digits.above(), 0, search)?;
                find(search, 1)?;
            }
            launch.clear_words([(list.count, 2), (0, 0)])?;
            launch.collect(kind, x, y, depth, pairs, all, 0, above, list, aside)?;
            launch.judge_window(list, above.count, k as u64, digits.above(), lost, search)?;
            find(search, 3)?;
            begin(launch, shape, lost, search)
        }
    }
}

/// A stride that takes about so many of `line` tiles, spread over the columns of the matrix; `None`
/// where that is none.
fn stride(line: usize, across: usize, tiles: usize) -> Option<usize> {
    let least = line / NonZero::new(tiles)?;
    // A multiple of the rows' length would see a few columns alone, a little more a diagonal.
    let spread = |stride: &usize| {
        let rest = stride % across;
        across < 8 || (rest % 2 == 1 && (across / 4..across * 3 / 4).contains(&rest))
    };
    (least..least + 2 * across).find(spread).or(Some(least))
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
            Mining::Hardest(_) => (shape.n, 8 * MATRIX_COUNTERS),
            // Lists of rows are not searched by way of the tiles.
            Mining::HardestPerRow(_) if shape.list.is_some() => (0, 0),
            Mining::HardestPerRow(_) => {
                let most = if lean { 1 } else { COUNTER_BYTES / per_row / side };
                let rows = (most * side).min(shape.n.next_multiple_of(side));
                (rows, rows * per_row)
            }
        };
        let searches = if counters == 0 { 0 } else { groups(shape) };
        let window = match shape.mining {
            Mining::Hardest(k) if !lean && shape.list.is_none() => {
                WindowPlan::plan(layout, shape, kind.tile, k)?
            }
            _ => None,
        };
        Ok(Some(Self {
            kind,
            window,
            searches: layout.take::<[u8; SEARCH_BYTES]>(searches)?,
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
            launch.clear_words([self.all_counters(shape, base), (0, 0)])?;
            match &self.window {
                None => begin(launch, shape, 0, search)?,
                Some(window) => {
                    window.search(launch, shape, self, x, y, pairs, search, base)?;
                }
            }
            self.search_tiles(launch, shape, x, y, pairs, search, base)
        }
    }

    fn search(&self, shape: &Shape, cuts: Address, base: Address) -> Searches {
        let by_row = matches!(shape.mining, Mining::HardestPerRow(_));
        Searches { searches: self.searches.at(base), cuts, by_row }
    }

    /// The counters, so many words, which are to be 0 at first: what reads them clears them again.
    fn all_counters(&self, shape: &Shape, base: Address) -> (Address, u64) {
        let words = match shape.mining {
            Mining::HardestPerRow(_) => (self.rows as u64) << ROW_BITS,
            _ => 2 * MATRIX_COUNTERS as u64,
        };
        (self.counters.at(base), words)
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
                return steps().try_for_each(|step| {
                    launch.count_matrix(kind, x, y, depth, pairs, step, search, counters)
                });
            }
            for first in (0..shape.n).step_by(self.rows) {
                let end = (first + self.rows).min(shape.n);
                let part = search.starting_at(first);
                let (first, end) = (first as u32, end as u32);
                for step in steps() {
                    launch
                        .count_rows(kind, x, y, depth, pairs, first, end, step, search, counters)?;
                    launch.choose_rows(step, end - first, counters, part)?;
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
    unsafe { launch.begin_search(k, 0, groups(shape) as u32, above, gate, search) }
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
    way: Way,
    pub bytes: usize,
}

/// How the pairs are come by. One a call, on the stack.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant)]
enum Way {
    /// By a guess. Sorted by way of another list.
    Lists { lists: ListsPlan, other: ListPlan, counters: Region },
    /// From the cuts, by one pass more.
    Cuts { lists: [ListPlan; 2], count: Region, counters: Region },
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
        let way = match shape.list {
            Some(stages) => {
                let lists = ListsPlan::plan(&mut layout, shape, kind, stages, true)?;
                let counters = layout.take::<u32>(sort_counters(stages.mined))?;
                Way::Lists { lists, other: ListPlan::plan(&mut layout, stages.mined)?, counters }
            }
            None => Way::Cuts {
                lists: [ListPlan::plan(&mut layout, pairs)?, ListPlan::plan(&mut layout, pairs)?],
                count: layout.take::<u64>(1)?,
                counters: layout.take::<u32>(sort_counters(pairs))?,
            },
        };
        let cuts = CutsPlan::plan(&mut layout, shape, kind, lean)?;
        let cuts = cuts.expect("a shape with mining");
        Ok(Self { operands, embeddings, cuts, cut, way, bytes: layout.bytes() })
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
        let each = match shape.mining {
            Mining::HardestPerRow(k) => k,
            _ => 0,
        };
        // Sorts a list by way of another, into the results of the rows from `first` on.
        let finish = |by: &[By], first: usize, list, other: List, counters| -> Result<()> {
            let steps = sort_steps(by, n, m);
            // What is not asked for goes where nothing is read from any more.
            let moves = sort_steps(by, n, m).count();
            let last = if moves % 2 == 1 { other } else { list };
            let offset = (first * each) as u64 * 4;
            let to = List {
                similarity: values + offset,
                row: if rows == 0 { last.row } else { rows + offset },
                column: columns + offset,
                ..list
            };
            // SAFETY: the results are as long as the list.
            unsafe { sort(launch, list, [other, list], to, steps, counters) }
        };
        let pairs = Pairs::new(n, m);
        let cut = self.cut.at(base);
        // SAFETY: regions of the plan are as large as its sizes say; the cuts include exactly as
        // many pairs as the lists hold.
        unsafe {
            let Rows { x, y } =
                Rows::prepare(&self.operands, &self.embeddings, launch, input, base)?;
            match &self.way {
                Way::Lists { lists, other, counters } => {
                    let list = lists.sorted(None, base);
                    let (other, counters) = (other.at(base, list.count), counters.at(base));
                    let totals = RowTotals::default();
                    let found = Found { cuts: cut, list, positive: 0, totals };
                    // The lists are sorted by row and column.
                    let by: &[By] =
                        if each > 0 { &[By::Row, By::Similarity] } else { &[By::Similarity] };
                    lists.mine(launch, shape, x, y, &pairs, &self.cuts, found, base, |rows| {
                        finish(by, rows.0, list, other, counters)
                    })
                }
                Way::Cuts { lists, count, counters } => {
                    let count = count.at(base);
                    let [list, other] = lists.map(|list| list.at(base, count));
                    self.cuts.find(launch, shape, x, y, &pairs, cut, base)?;
                    let pairs = with_cuts(pairs, shape, cut);
                    launch.clear_words([(count, 2), (0, 0)])?;
                    let (kind, depth) = (self.cuts.kind, d as u32);
                    let all = Sample::new(tiles(kind.tile, n as u32, m as u32), 1, 0);
                    let (none, aside) = (Above::default(), Aside::default());
                    launch.collect(kind, x, y, depth, &pairs, all, 0, none, list, aside)?;
                    let by: &[By] = if each > 0 {
                        &[By::Row, By::Similarity, By::Column]
                    } else {
                        &[By::Similarity, By::Row, By::Column]
                    };
                    finish(by, 0, list, other, counters.at(base))
                }
            }
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
