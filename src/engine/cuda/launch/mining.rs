//! Room: engines, CUDA. Launches of the kernels of mining; as launch.rs, of which it is a part.

use cudarc::driver::{CudaFunction, DeviceRepr, PushKernelArg};

use super::{
    Address, Coefficients, Groups, Kind, Launcher, Operand, Output, Pairs, THREADS, Tile, WARPS,
    blocks, configuration,
};
use crate::Result;
use crate::engine::cuda::kernels::MiningTileKernels;

/// Bytes of epilogue::Cut (kernels/epilogue/select.cuh).
pub(in crate::engine::cuda) const CUT_BYTES: usize = 16;
/// Bytes of epilogue::Search.
pub(in crate::engine::cuda) const SEARCH_BYTES: usize = 24;
/// Bits of a digit, at most, for a search in the whole matrix and in each row (kernels/mining.cu).
pub(in crate::engine::cuda) const MATRIX_BITS: u32 = 11;
pub(in crate::engine::cuda) const ROW_BITS: u32 = 8;

/// Twin of epilogue::Step (kernels/epilogue/select.cuh): a digit of a pair.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::cuda) struct Step {
    /// 0: the similarity's key, 1: ~row, 2: ~column.
    pub word: u32,
    pub shift: u32,
    pub bits: u32,
}

/// Twin of epilogue::List (kernels/epilogue/select.cuh): `capacity` pairs, and a u64 that counts
/// them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct List {
    pub similarity: Address,
    pub row: Address,
    pub column: Address,
    pub capacity: u64,
    pub count: Address,
}

/// Twin of Sample (kernels/mining.cu): which tiles a pass takes, of lines of tiles.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Sample {
    stride: u32,
    skip: u32,
    line: u32,
    taken: u32,
}

impl Sample {
    /// Of every `line` tiles each `stride`th, but for each `skip`th of these; `skip` 0 for all.
    pub fn new(line: usize, stride: usize, skip: usize) -> Self {
        let multiples = line.div_ceil(stride);
        let taken = if skip == 0 { multiples } else { multiples - multiples.div_ceil(skip) };
        Self { stride: stride as u32, skip: skip as u32, line: line as u32, taken: taken as u32 }
    }

    /// How many of so many tiles it takes.
    pub fn count(self, tiles: usize) -> usize {
        tiles / self.line as usize * self.taken as usize
    }
}

// SAFETY: plain data laid out as C lays it out, field by field as in the kernels' headers.
unsafe impl DeviceRepr for Step {}
/// Twin of Above (kernels/mining.cu): a cut, or 0, and a u64 that counts what it includes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine::cuda) struct Above {
    pub cut: Address,
    pub count: Address,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Above {}
// SAFETY: as above.
unsafe impl DeviceRepr for List {}
// SAFETY: as above.
unsafe impl DeviceRepr for Sample {}

/// Blocks of a kernel that goes through a list: 32 pairs a thread, so that a block's counters are
/// worth their clearing; not more than any chip holds.
fn list_blocks(list: &List) -> usize {
    blocks((list.capacity as usize).div_ceil(32)).min(2048)
}

/// Pairs that a block of the sort takes (kernels/lists.cu).
const SORT_CHUNK: usize = 2048;
/// Threads of a block that sums a list.
const SUM_THREADS: u32 = 128;
/// Bits of a digit of the sort.
pub(in crate::engine::cuda) const SORT_BITS: u32 = 8;

/// Counters of a sort of so many pairs.
pub(in crate::engine::cuda) fn sort_counters(capacity: usize) -> usize {
    capacity.div_ceil(SORT_CHUNK) << SORT_BITS
}

/// Groups of a search: the places of their searches and cuts.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Searches {
    pub searches: Address,
    pub cuts: Address,
    pub by_row: bool,
}

impl Searches {
    /// From this row on, where there is one for each.
    pub fn starting_at(self, row: usize) -> Self {
        let row = if self.by_row { row as u64 } else { 0 };
        Self {
            searches: self.searches + row * SEARCH_BYTES as u64,
            cuts: self.cuts + row * CUT_BYTES as u64,
            ..self
        }
    }
}

#[allow(clippy::too_many_arguments)] // one for each of a kernel's
impl Launcher<'_> {
    fn mining(&self, kind: Kind) -> &MiningTileKernels {
        &kind.kernels(self.table).mining
    }

    /// Begins searches for the k hardest of `count` groups, rows from `first` on. `above`: the bits
    /// of ~row and ~column
    /// that no digit covers. Nothing is done where `gate` is not 0 and a 0 stands there.
    pub unsafe fn begin_search(
        &self,
        k: u64,
        first: u32,
        count: u32,
        above: (u32, u32),
        gate: Address,
        to: Searches,
    ) -> Result<()> {
        let by_row = i32::from(to.by_row);
        let function = &self.table.mining.begin_search;
        let grid = blocks(count as usize);
        let (row, column) = above;
        let Searches { searches, cuts, .. } = to;
        launch!(
            self, function, grid, THREADS, &k, &first, &count, &by_row, &row, &column, &gate,
            &searches, &cuts
        )
    }

    /// Sets `count` words to 0.
    pub unsafe fn clear_words(&self, words: Address, count: u64) -> Result<()> {
        let function = &self.table.mining.clear_words;
        launch!(self, function, blocks(count as usize), THREADS, &words, &count)
    }

    /// Counts the negatives with each digit that follows those found. `counters`: 2^MATRIX_BITS u64.
    /// Ranges per side of the tile.
    pub unsafe fn count_matrix(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        step: Step,
        search: Searches,
        counters: Address,
    ) -> Result<()> {
        let function = &self.mining(kind).count_matrix;
        let grid = tiles(kind.tile, pairs.rows, pairs.columns);
        let search = search.searches;
        launch!(
            self,
            function,
            grid,
            kind.tile.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &step,
            &search,
            &counters
        )
    }

    /// The same for the rows `first` to `end`, each for itself. `search`: of all rows; `counters`:
    /// (end − first) × 2^ROW_BITS u32. `first` is a multiple of the tile's side.
    pub unsafe fn count_rows(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        first: u32,
        end: u32,
        step: Step,
        search: Searches,
        counters: Address,
    ) -> Result<()> {
        let function = &self.mining(kind).count_rows;
        let grid = tiles(kind.tile, end - first, pairs.columns);
        let searches = search.searches;
        launch!(
            self,
            function,
            grid,
            kind.tile.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &first,
            &end,
            &step,
            &searches,
            &counters
        )
    }

    /// Chooses the digit of `count` groups from the counters, clears these and moves the cuts.
    pub unsafe fn choose(
        &self,
        step: Step,
        count: u32,
        counters: Address,
        search: Searches,
    ) -> Result<()> {
        let kernels = &self.table.mining;
        let (function, threads) = match search.by_row {
            true => (&kernels.choose_rows, 32),
            false => (&kernels.choose_matrix, THREADS),
        };
        let Searches { searches, cuts, .. } = search;
        launch!(self, function, count as usize, threads, &step, &counters, &searches, &cuts)
    }

    /// Adds the negatives of some rows that their cuts include to a list, in any order: those of the
    /// sample's tiles, whose lines are rows of tiles or all of them. The first row is a multiple of
    /// the tile's side, the end another, or the last row's. What `above` includes is counted
    /// and not added. Nothing is done where `gate` is not 0 and a 0 stands there. `pairs` with cuts,
    /// not MINED, ranges per side of the tile. `poison`: rows u32, NaN's bits set where a row is not finite;
    /// `positive`: rows f32, as [`Launcher::stats`] leaves them; either may be 0.
    pub unsafe fn collect(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        (first, end): (u32, u32),
        sample: Sample,
        gate: Address,
        above: Above,
        list: List,
        poison: Address,
        positive: Address,
    ) -> Result<()> {
        let function = &self.mining(kind).collect;
        let grid = sample.count(tiles(kind.tile, end - first, pairs.columns));
        launch!(
            self,
            function,
            grid,
            kind.tile.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &first,
            &sample,
            &gate,
            &above,
            &list,
            &poison,
            &positive
        )
    }

    /// One digit of a stable sort: `from` into `to`, which count alike. `counters`: as many u32 as
    /// [`sort_counters`] says.
    pub unsafe fn sort(&self, from: List, to: List, step: Step, counters: Address) -> Result<()> {
        let kernels = &self.table.mining;
        let chunks = (from.capacity as usize).div_ceil(SORT_CHUNK);
        let blocks = chunks as u32;
        // SAFETY: the caller's; each kernel reads what the one before it wrote.
        launch!(self, &kernels.sort_count, chunks, THREADS, &from, &step, &counters)?;
        launch!(self, &kernels.sort_places, 1, THREADS, &counters, &blocks)?;
        launch!(self, &kernels.sort_move, chunks, THREADS, &from, &to, &step, &counters)
    }

    /// As [`Launcher::count_matrix`] and [`Launcher::count_rows`], of the pairs of a list;
    /// `counters` of rows from `first` on.
    pub unsafe fn count_list(
        &self,
        list: List,
        step: Step,
        search: Searches,
        first: u32,
        counters: Address,
    ) -> Result<()> {
        let (kernels, searches) = (&self.table.mining, search.searches);
        let grid = list_blocks(&list);
        if !search.by_row {
            let function = &kernels.count_list_matrix;
            return launch!(self, function, grid, THREADS, &list, &step, &searches, &counters);
        }
        let function = &kernels.count_list_rows;
        launch!(self, function, grid, THREADS, &list, &step, &searches, &first, &counters)
    }

    /// `lost` (one u32) = whether the list has lost pairs; it begins anew then.
    pub unsafe fn judge_list(&self, list: List, lost: Address) -> Result<()> {
        launch!(self, &self.table.mining.judge_list, 1, 1, &list, &lost)
    }

    /// Begins the search in a list for the k-th pair, `above` (one u64) being harder than all of it;
    /// or, where it is not there, says so in `lost`, with no search open and the list begun anew.
    pub unsafe fn judge_window(
        &self,
        list: List,
        above: Address,
        k: u64,
        bits: (u32, u32),
        lost: Address,
        search: Searches,
    ) -> Result<()> {
        let function = &self.table.mining.judge_window;
        let ((row, column), Searches { searches, cuts, .. }) = (bits, search);
        launch!(self, function, 1, 1, &list, &above, &k, &row, &column, &lost, &searches, &cuts)
    }

    /// Adds the pairs that their cuts include to `to`, in any order.
    pub unsafe fn keep_mined(&self, from: List, search: Searches, to: List) -> Result<()> {
        let (cuts, stride) = (search.cuts, u32::from(search.by_row));
        let function = &self.table.mining.keep_mined;
        launch!(self, function, list_blocks(&from), THREADS, &from, &cuts, &stride, &to)
    }

    /// `starts`: groups + 1 u32, of a list sorted by row or by column; groups from `first` on.
    pub unsafe fn list_starts(
        &self,
        list: List,
        by_row: bool,
        first: u32,
        groups: u32,
        starts: Address,
    ) -> Result<()> {
        let function = &self.table.mining.list_starts;
        let (grid, by_row) = (blocks(groups as usize + 1), i32::from(by_row));
        launch!(self, function, grid, THREADS, &list, &by_row, &first, &groups, &starts)
    }

    /// The groups of every row, of a list sorted by rows; `groups.log2_sum` may be 0.
    pub unsafe fn list_groups(
        &self,
        list: List,
        starts: Address,
        rows: u32,
        poison: Address,
        scale: Address,
        groups: Groups,
    ) -> Result<()> {
        launch!(
            self,
            &self.table.mining.list_groups,
            (rows as usize).div_ceil(WARPS),
            THREADS,
            &list,
            &starts,
            &rows,
            &poison,
            &scale,
            &groups.maximum,
            &groups.sum,
            &groups.log2_sum
        )
    }

    /// Adds a list and every row's one positive to `to`, in any order. `terms`: rows terms.
    pub unsafe fn with_positives(
        &self,
        from: List,
        pairs: &Pairs,
        terms: Address,
        to: List,
    ) -> Result<()> {
        let grid = blocks((from.capacity as usize).max(pairs.rows as usize));
        launch!(self, &self.table.mining.with_positives, grid, THREADS, &from, pairs, &terms, &to)
    }

    /// `out` = factor · G·other, added to it where `accumulate`; G the weights of a list with
    /// positives, sorted by rows, or Gᵀ where it is sorted by columns. `other` has out.columns
    /// columns; `factor` one f32.
    pub unsafe fn sum_list(
        &self,
        list: List,
        starts: Address,
        by_row: bool,
        pairs: &Pairs,
        coefficients: Coefficients,
        scale: Address,
        other: Operand,
        factor: Address,
        accumulate: bool,
        out: Output,
    ) -> Result<()> {
        let (by_row, accumulate) = (i32::from(by_row), i32::from(accumulate));
        launch!(
            self,
            &self.table.mining.sum_list,
            out.rows as usize,
            SUM_THREADS,
            &list,
            &starts,
            &by_row,
            pairs,
            &coefficients,
            &scale,
            &other,
            &factor,
            &accumulate,
            &out
        )
    }

    /// `moments`: rows f64, of a list with positives sorted by rows.
    pub unsafe fn list_moments(
        &self,
        list: List,
        starts: Address,
        pairs: &Pairs,
        coefficients: Coefficients,
        scale: Address,
        moments: Address,
    ) -> Result<()> {
        launch!(
            self,
            &self.table.mining.list_moments,
            (pairs.rows as usize).div_ceil(WARPS),
            THREADS,
            &list,
            &starts,
            pairs,
            &coefficients,
            &scale,
            &moments
        )
    }
}

/// Tiles of so many rows and columns.
pub(in crate::engine::cuda) fn tiles(tile: Tile, rows: u32, columns: u32) -> usize {
    (rows as usize).div_ceil(tile.side()) * (columns as usize).div_ceil(tile.side())
}
