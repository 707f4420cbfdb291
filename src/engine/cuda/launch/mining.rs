//! Room: engines, CUDA. Launches of the kernels of mining; as launch.rs, of which it is a part.

use cudarc::driver::{CudaFunction, DeviceRepr, PushKernelArg};

use super::{
    Address, Arithmetic, Coefficients, Kind, Launcher, Operand, Output, Pairs, THREADS, Tile,
    WARPS, blocks, configuration,
};
use crate::Result;
use crate::engine::cuda::kernels::MiningTileKernels;

/// Bytes of epilogue::Cut (kernels/epilogue/select.cuh).
pub(in crate::engine::cuda) const CUT_BYTES: usize = 16;
/// Bytes of search::Range (kernels/search.cuh).
pub(in crate::engine::cuda) const RANGE_BYTES: usize = 32;
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

impl List {
    /// No place for a list.
    pub const NONE: Self = Self { similarity: 0, row: 0, column: 0, capacity: 0, count: 0 };
}

/// Twin of Sample (kernels/mining.cu): which tiles a pass takes, of lines of tiles.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Tiles of a line that it takes.
    pub fn taken(self) -> usize {
        self.taken as usize
    }

    /// The tiles of a line that it takes: as Sample::tile_of_line (kernels/mining.cu).
    #[cfg(test)]
    pub fn tiles(self) -> impl Iterator<Item = usize> + Clone {
        let [stride, skip, taken] = [self.stride, self.skip, self.taken].map(|n| n as usize);
        let multiple =
            move |place: usize| if skip == 0 { place } else { place + place / (skip - 1) + 1 };
        (0..taken).map(move |place| multiple(place) * stride)
    }

    /// How many of so many tiles it takes.
    pub fn count(self, tiles: usize) -> usize {
        tiles / self.line as usize * self.taken as usize
    }
}

/// Twin of epilogue::RowLists (kernels/epilogue/select.cuh): `capacity` u64 a row, and a u32 that
/// counts them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct RowLists {
    pub words: Address,
    pub counts: Address,
    pub capacity: u32,
}

/// Twin of epilogue::Again (kernels/epilogue/select.cuh): a u32, 0 at first, that counts the rows to be
/// filled once more; which they are, a u32 each; and of how many at most.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Again {
    pub number: Address,
    pub rows: Address,
    pub most: u32,
}

/// Where the similarities of a sample go, and the largest of some of them each, if that is not 0.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Values {
    pub all: Address,
    pub tops: Address,
    pub elements: Elements,
}

/// What a guess goes through of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::cuda) enum Elements {
    /// The values themselves.
    Values,
    /// The largest of each four.
    Fours,
    /// The largest of each thread's in a row, as [`Kind::tops`] says.
    Tops,
}

/// Twin of Guess (kernels/lists.cu): a sample, and how many of its elements a cut is to include.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Guess {
    values: Address,
    tops: Address,
    width: u32,
    side: u32,
    stride: u32,
    rank: u32,
    each: u32,
}

impl Kind {
    /// Of how many values of a row a thread holds the largest, and how many such share their fours
    /// (kernels/mining.cu, store_sample).
    const fn tops(self) -> (usize, usize) {
        match (self.arithmetic, self.tile) {
            (Arithmetic::F32, Tile::Large) => (8, 16),
            (Arithmetic::F32, Tile::Small) => (4, 8),
            (_, Tile::Large) => (16, 4),
            (_, Tile::Small) => (8, 4),
        }
    }

    /// Of how many values an element is the largest, and how many elements share their fours.
    pub(in crate::engine::cuda) const fn each(self, elements: Elements) -> (usize, usize) {
        match elements {
            Elements::Values => (1, 1),
            Elements::Fours => (4, 1),
            Elements::Tops => self.tops(),
        }
    }
}

impl Guess {
    /// Of the tiles that a sample takes of each line.
    pub fn new(values: Values, sample: Sample, kind: Kind, rank: usize) -> Self {
        let side = kind.tile.side() as u32;
        let (each, _) = kind.each(values.elements);
        let (Values { all, tops, .. }, Sample { stride, taken, .. }) = (values, sample);
        let (rank, each) = (rank as u32, each as u32);
        Self { values: all, tops, width: taken * side, side, stride, rank, each }
    }
}

/// Twin of Aside (kernels/mining.cu): rows u32, NaN's bits to be set where a row is not finite; and
/// rows f32, as [`Launcher::stats`] leaves them. Either may be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine::cuda) struct Aside {
    pub poison: Address,
    pub positive: Address,
}

// SAFETY: plain data laid out as C lays it out, field by field as in the kernels' headers.
unsafe impl DeviceRepr for Step {}
// SAFETY: as above.
unsafe impl DeviceRepr for RowLists {}
// SAFETY: as above.
unsafe impl DeviceRepr for Again {}
// SAFETY: as above.
unsafe impl DeviceRepr for Guess {}
// SAFETY: as above.
unsafe impl DeviceRepr for Aside {}
/// Twin of RowTotals (kernels/lists.cu): what the mined pairs of rows add up to; all 0 where that is
/// not wanted. `poison`: as [`Aside`]'s; `scale`: one f32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine::cuda) struct RowTotals {
    pub maximum: Address,
    pub sum: Address,
    pub log2_sum: Address,
    pub poison: Address,
    pub scale: Address,
}

impl RowTotals {
    /// From this row on.
    pub fn starting_at(self, row: usize) -> Self {
        let at = |address: Address| if address == 0 { 0 } else { address + 4 * row as u64 };
        Self {
            maximum: at(self.maximum),
            sum: at(self.sum),
            log2_sum: at(self.log2_sum),
            poison: at(self.poison),
            ..self
        }
    }
}

// SAFETY: as above.
unsafe impl DeviceRepr for RowTotals {}
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

/// The same where blocks have nothing to clear.
fn pair_blocks(list: &List) -> usize {
    blocks((list.capacity as usize).div_ceil(8)).min(2048)
}

/// Blocks of a kernel that counts so many numbers into bins: 16 a thread, so that a block's counters
/// are worth their clearing, but for few numbers; not more than any chip holds.
fn bin_blocks(numbers: usize) -> usize {
    numbers.div_ceil(4 * THREADS as usize).clamp(1, 64).max(blocks(numbers.div_ceil(16)).min(2048))
}

/// Pairs that a block of the sort takes (kernels/lists.cu).
const SORT_CHUNK: usize = 2048;
/// Threads of a row's list (kernels/row_lists.cuh).
const ROW_LANES: u32 = 4;
/// Threads of the one block that searches a list, and of one that goes through rows' lists
/// (kernels/lists.cu).
const SEARCH_THREADS: u32 = 1024;
const ROW_THREADS: u32 = 64;
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

/// The search in a list of the whole matrix's: its range ([`RANGE_BYTES`]), counters as
/// [`Launcher::count_matrix`]'s, an empty list for a few, one u32 that says whether the list has lost
/// pairs, and the search that comes next then.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct ListSearch {
    pub few: List,
    pub range: Address,
    pub counters: Address,
    pub lost: Address,
    pub searches: Searches,
}

#[allow(clippy::too_many_arguments)] // one for each of a kernel's
impl Launcher<'_> {
    fn mining(&self, kind: Kind) -> &MiningTileKernels {
        &kind.kernels(self.table).mining
    }

    /// Begins searches for the k hardest of `count` groups, rows from `first` on. `above`: the bits
    /// of ~row and ~column that no digit covers. Nothing is done where `gate` is not 0 and a 0
    /// stands there.
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

    /// Sets words to 0: so many in one place and in another.
    pub unsafe fn clear_words(&self, places: [(Address, u64); 2]) -> Result<()> {
        let function = &self.table.mining.clear_words;
        let [(words, count), (others, other_count)] = places;
        let grid = blocks(count.max(other_count) as usize);
        launch!(self, function, grid, THREADS, &words, &count, &others, &other_count)
    }

    /// Counts the negatives with each digit that follows those found, and chooses one. `counters`:
    /// 2^MATRIX_BITS + 1 u64, 0 before and after. Ranges per side of the tile.
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
        let all = tiles(kind.tile, pairs.rows, pairs.columns);
        let (grid, threads) = (all.min(self.resident(kind.tile)), kind.tile.threads());
        let Searches { searches, cuts, .. } = search;
        launch!(
            self, function, grid, threads, &x, &y, &depth, pairs, &step, &searches, &cuts,
            &counters
        )
    }

    /// Blocks that the device holds at a time.
    pub(super) fn resident(&self, tile: Tile) -> usize {
        self.table.multiprocessors * tile.resident()
    }

    /// The same for the rows `first` to `end`, each for itself. `search`: of all rows; `counters`:
    /// (end − first) × 2^ROW_BITS u32, 0 before. `first` is a multiple of the tile's side.
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

    /// Chooses the digit of `count` rows from the counters, clears these and moves the cuts.
    pub unsafe fn choose_rows(
        &self,
        step: Step,
        count: u32,
        counters: Address,
        search: Searches,
    ) -> Result<()> {
        let function = &self.table.mining.choose_rows;
        let Searches { searches, cuts, .. } = search;
        launch!(self, function, count as usize, 32, &step, &counters, &searches, &cuts)
    }

    /// The similarities of the tiles of a sample, whose lines are rows of tiles or all of them, in the rows
    /// `first` to `end`; `first` a multiple of the tile's side. `values.all`: lines × side × taken ×
    /// side f32, lines being the rows of tiles or 1. `pairs` not MINED, ranges per side of the tile.
    pub unsafe fn sample(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        (first, end): (u32, u32),
        sample: Sample,
        values: Values,
        aside: Aside,
    ) -> Result<()> {
        let function = &self.mining(kind).sample;
        let count = sample.count(tiles(kind.tile, end - first, pairs.columns));
        let (grid, threads) = (count.min(self.resident(kind.tile)), kind.tile.threads());
        let (count, Values { all, tops, elements }) = (count as u32, values);
        let by_fours = i32::from(elements == Elements::Fours);
        launch!(
            self, function, grid, threads, &x, &y, &depth, pairs, &first, &sample, &count, &all,
            &tops, &by_fours, &aside
        )
    }

    /// Adds the negatives of the rows `first` to `end` that are not below their rows' cuts to the
    /// rows' lists: those of the sample's tiles, whose lines are rows of tiles. `lists`: from
    /// `first` on. `pairs` with a cut a row, not MINED, ranges per side of the tile.
    pub unsafe fn collect_rows(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        (first, end): (u32, u32),
        sample: Sample,
        lists: RowLists,
        aside: Aside,
    ) -> Result<()> {
        let function = &self.mining(kind).collect_rows;
        let count = sample.count(tiles(kind.tile, end - first, pairs.columns));
        let (grid, threads) = (count.min(self.resident(kind.tile)), kind.tile.threads());
        let count = count as u32;
        launch!(
            self, function, grid, threads, &x, &y, &depth, pairs, &first, &sample, &count, &lists,
            &aside
        )
    }

    /// Of the rows whose lists have fewer than k pairs above a guessed cut, of `count` from `first` on:
    /// a lower cut from another guess, an empty list, and a place in `again`. `slack`: as in
    /// [`guess_rows`](Self::guess_rows).
    pub unsafe fn guess_again(
        &self,
        guess: Guess,
        slack: u32,
        k: u32,
        (first, count): (u32, u32),
        lists: RowLists,
        cuts: Address,
        again: Again,
    ) -> Result<()> {
        let grid = (count as usize).div_ceil(ROW_THREADS as usize);
        let function = &self.table.mining.guess_again;
        launch!(
            self,
            function,
            grid,
            ROW_THREADS,
            &guess,
            &slack,
            &k,
            &first,
            &count,
            &lists,
            &cuts,
            &again
        )
    }

    /// As [`collect_rows`](Self::collect_rows), of the rows that `again` names, and all columns; of none
    /// where they are more than `again.most`. `lists`: of the rows from `first` on.
    pub unsafe fn collect_again(
        &self,
        arithmetic: Arithmetic,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        first: u32,
        again: Again,
        lists: RowLists,
    ) -> Result<()> {
        let function = &arithmetic.kernels(self.table).collect_again;
        // Mostly there is no row, and seldom more than a few tiles of them.
        let tile = Tile::Small;
        let grid = tiles(tile, 1, pairs.columns).min(self.resident(tile));
        let threads = tile.threads();
        launch!(self, function, grid, threads, &x, &y, &depth, pairs, &first, &again, &lists)
    }

    /// Where lists of these rows have lost pairs, fills them anew: then with the k hardest among
    /// others. Lists hold k + side at least. `lost`: a u32 a row; `cuts`: of all rows, those of
    /// `pairs`.
    pub unsafe fn repeat_rows(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        (first, end): (u32, u32),
        k: u32,
        lists: RowLists,
        lost: Address,
        cuts: Address,
    ) -> Result<()> {
        let function = &self.mining(kind).repeat_rows;
        let grid = ((end - first) as usize).div_ceil(kind.tile.side());
        let threads = kind.tile.threads();
        launch!(
            self, function, grid, threads, &x, &y, &depth, pairs, &first, &end, &k, &lists, &lost,
            &cuts
        )
    }

    /// Guesses the cuts of `count` rows from `first` on, and puts the sample's pairs that they
    /// include into lists. `slack`: elements more than the guess's rank that will do.
    pub unsafe fn guess_rows(
        &self,
        guess: Guess,
        slack: u32,
        first: u32,
        count: u32,
        lists: RowLists,
        cuts: Address,
    ) -> Result<()> {
        let grid = (count as usize).div_ceil((ROW_THREADS / ROW_LANES) as usize);
        let function = &self.table.mining.guess_rows;
        launch!(self, function, grid, ROW_THREADS, &guess, &slack, &first, &count, &lists, &cuts)
    }

    /// Guesses the cut of the whole matrix: `rank` of so many elements of a sample, f32, or a few more
    /// are not below it. `search.range`: all 0 before.
    pub unsafe fn guess_matrix(
        &self,
        elements: Address,
        number: u64,
        rank: u32,
        search: ListSearch,
    ) -> Result<()> {
        let function = &self.table.mining.guess_matrix;
        let grid = bin_blocks(number as usize);
        let ListSearch { range, counters, searches, .. } = search;
        for is_first in [1, 0] {
            launch!(
                self,
                function,
                grid,
                THREADS,
                &elements,
                &number,
                &rank,
                &is_first,
                &range,
                &counters,
                &searches.cuts
            )?;
        }
        Ok(())
    }

    /// Judges a list that was collected by a guess, and finds the bin that its k-th pair is in. Before
    /// the `last` time that makes a better guess. At last, where pairs are missing, `search.lost` is 1,
    /// the list begins anew, and so does the search, of all pairs.
    pub unsafe fn search_list(
        &self,
        list: List,
        k: u64,
        above: (u32, u32),
        last: bool,
        search: ListSearch,
    ) -> Result<()> {
        let function = &self.table.mining.search_list;
        let (grid, (row, column), is_last) =
            (bin_blocks(list.capacity as usize), above, i32::from(last));
        let ListSearch { range, counters, lost, searches: Searches { searches, cuts, .. }, .. } =
            search;
        launch!(
            self, function, grid, THREADS, &list, &k, &row, &column, &is_last, &range, &counters,
            &lost, &searches, &cuts
        )
    }

    /// After [`search_list`](Self::search_list), the last one: finds the k-th pair in its bin.
    pub unsafe fn search_few(
        &self,
        list: List,
        k: u64,
        digits: (u32, u32),
        above: (u32, u32),
        search: ListSearch,
    ) -> Result<()> {
        let function = &self.table.mining.search_few;
        let grid = bin_blocks(list.capacity as usize);
        let ((rows, columns), (row, column)) = (digits, above);
        let ListSearch { few, range, counters, lost, searches } = search;
        let Searches { searches, cuts, .. } = searches;
        let done = counters + (8 << MATRIX_BITS);
        launch!(
            self, function, grid, THREADS, &list, &k, &rows, &columns, &row, &column, &range, &few,
            &done, &lost, &searches, &cuts
        )
    }

    /// Adds to `counts` how many pairs of a list the cut includes of each row.
    pub unsafe fn count_mined(&self, list: List, cut: Address, counts: Address) -> Result<()> {
        let function = &self.table.mining.count_mined;
        launch!(self, function, pair_blocks(&list), THREADS, &list, &cut, &counts)
    }

    /// Orders rows, SEARCH_THREADS at a time, by their counts, which are at most `most`: so
    /// [`select_rows`](Self::select_rows) takes them. `order`: `count` u32. And `starts`, if it is not 0:
    /// where the rows begin of which no more than k count, `count` + 1 u32; the last of them is `total`
    /// (one u64, or 0), too.
    pub unsafe fn order_rows(
        &self,
        counts: Address,
        (count, most): (u32, u32),
        order: Address,
        k: u32,
        starts: Address,
        total: Address,
    ) -> Result<()> {
        let function = &self.table.mining.order_rows;
        let grid = (count as usize).div_ceil(SEARCH_THREADS as usize) + usize::from(starts != 0);
        let shift = (u32::BITS - most.leading_zeros()).saturating_sub(SEARCH_THREADS.ilog2());
        launch!(
            self,
            function,
            grid,
            SEARCH_THREADS,
            &counts,
            &count,
            &shift,
            &order,
            &k,
            &starts,
            &total
        )
    }

    /// Puts the pairs of a list that the cut includes where their rows begin: a u64 each. `counts`:
    /// as [`count_mined`](Self::count_mined) leaves them; 0 afterwards.
    pub unsafe fn place_mined(
        &self,
        list: List,
        cut: Address,
        starts: Address,
        counts: Address,
        words: Address,
    ) -> Result<()> {
        let function = &self.table.mining.place_mined;
        let grid = pair_blocks(&list);
        launch!(self, function, grid, THREADS, &list, &cut, &starts, &counts, &words)
    }

    /// Of the k hardest pairs of each of `count` rows from `first` on: their `cuts`, what they add up
    /// to, and they themselves, sorted by column, into a list where that has a place, rows from
    /// `starts` on. Or, with a capacity of 0, of all of the pairs that
    /// [`place_mined`](Self::place_mined) has left at `lists.words`, without cuts. `totals`: of the
    /// rows from `first` on.
    pub unsafe fn select_rows(
        &self,
        lists: RowLists,
        k: u32,
        columns: u32,
        order: Address,
        starts: Address,
        (first, count): (u32, u32),
        to: List,
        cuts: Address,
        totals: RowTotals,
    ) -> Result<()> {
        let grid = (count as usize).div_ceil((ROW_THREADS / ROW_LANES) as usize);
        let function = &self.table.mining.select_rows;
        launch!(
            self,
            function,
            grid,
            ROW_THREADS,
            &lists,
            &k,
            &columns,
            &order,
            &starts,
            &first,
            &count,
            &to,
            &cuts,
            &totals
        )
    }

    /// Adds the negatives that their cuts include to a list, in any order: those of the sample's
    /// tiles, of one line. What `above` includes is counted and not added. Nothing is done where
    /// `gate` is not 0 and a 0 stands there. `pairs` with cuts, not MINED, ranges per side of the
    /// tile.
    pub unsafe fn collect(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        sample: Sample,
        gate: Address,
        above: Above,
        list: List,
        aside: Aside,
    ) -> Result<()> {
        let function = &self.mining(kind).collect;
        let most = self.resident(kind.tile);
        let (grid, threads) = (sample.taken().min(most), kind.tile.threads());
        launch!(
            self, function, grid, threads, &x, &y, &depth, pairs, &sample, &gate, &above, &list,
            &aside
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
        launch!(self, &kernels.sort_places, 1, SEARCH_THREADS, &counters, &blocks)?;
        launch!(self, &kernels.sort_move, chunks, THREADS, &from, &to, &step, &counters)
    }

    /// As [`Launcher::count_matrix`], of the pairs of a list.
    pub unsafe fn count_list(
        &self,
        list: List,
        step: Step,
        search: Searches,
        counters: Address,
    ) -> Result<()> {
        let (function, grid) = (&self.table.mining.count_list, list_blocks(&list));
        let Searches { searches, cuts, .. } = search;
        launch!(self, function, grid, THREADS, &list, &step, &searches, &cuts, &counters)
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

    /// `starts`: columns + 1 u32, of a list sorted by columns.
    pub unsafe fn list_starts(&self, list: List, columns: u32, starts: Address) -> Result<()> {
        let (function, grid) = (&self.table.mining.list_starts, blocks(columns as usize + 1));
        launch!(self, function, grid, THREADS, &list, &columns, &starts)
    }

    /// A list sorted by rows with every row's one positive: rows more than `from` holds. `terms`:
    /// rows terms; `starts`: rows + 1 u32.
    pub unsafe fn with_positives(
        &self,
        from: List,
        pairs: &Pairs,
        terms: Address,
        to: List,
        starts: Address,
    ) -> Result<()> {
        let grid = blocks((from.capacity as usize).max(pairs.rows as usize + 1));
        let function = &self.table.mining.with_positives;
        launch!(self, function, grid, THREADS, &from, pairs, &terms, &to, &starts)
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
            (out.rows as usize).div_ceil(WARPS),
            THREADS,
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
