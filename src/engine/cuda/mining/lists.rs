//! Room: engines, CUDA. Mining where few pairs are mined: they are a sorted list, found in one pass
//! over the tiles, from which both the log-sum-exp and the gradient are computed.
//!
//! The pass comes in stages, each over five times as many tiles as all before it. After a stage the
//! k-th hardest pair so far is known, and the next stage collects those alone that are at least as
//! hard: about 4·k of them. Tiles of a stage lie evenly in the matrix. Where the pairs do not fit the
//! list (many equal similarities, or the hardest where no stage looked but the last), the cuts are
//! searched by passes over all tiles and the pairs collected anew: slower, and just as exact. All
//! these launches are always made, and end at once where they are not needed.
//!
//! Where each row has its own cut, rows are mined in panels if the list would be too long for all;
//! the mined pairs are not kept then, and the gradient is computed from the cuts.

use super::super::launch::mining::{Above, List, Sample, Step, sort_counters};
use super::super::launch::{
    Address, Coefficients, Groups, LABELED, Launcher, Operand, Output, Pairs, Tile,
};
use super::super::passes::Shape;
use super::super::workspace::{Layout, Region};
use super::{
    By, COUNTER_BYTES, CutsPlan, Digits, ListPlan, ROW_BITS, begin, sort, sort_steps, with_cuts,
};
use crate::Result;
use crate::loss::formula::Mining;

/// Bytes of the list that the stages collect, at most; less where the caller sets a bound.
pub(in super::super) const LIST_BYTES: usize = 192 << 20;

/// Each stage sees so many times the tiles of all before it and itself together.
const RATIO: usize = 5;

/// The stages of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stages {
    /// Tiles of a line: all, or those of a row of tiles.
    line: usize,
    count: u32,
    /// Rows that are mined at a time: all, or some where each has its own cut.
    pub rows: usize,
    /// Pairs that the stages may collect of these rows.
    capacity: usize,
    /// Pairs of them that are mined, at most.
    mined: usize,
    /// Whether the mined pairs are kept for the gradient.
    pub kept: bool,
}

/// The stages by which few pairs are mined, with a list of so many bytes at most; `None` where there
/// is no mining, or of too many pairs.
pub(in super::super) fn stages(shape: &Shape, tile: Tile, list_bytes: usize) -> Option<Stages> {
    let Shape { n, m, .. } = *shape;
    let side = tile.side();
    let across = m.div_ceil(side);
    let pairs = n.checked_mul(m)?;
    // Tiles of a line, pairs of a tile in one of their groups, the most pairs of a group.
    let (line, cell, k, most, by_row) = match shape.mining {
        Mining::All => return None,
        Mining::Hardest(k) => (across * n.div_ceil(side), side * side, k, pairs, false),
        Mining::HardestPerRow(k) => (across, side, k, m, true),
    };
    // A first stage of twice as many pairs as are mined has a cut worth something. Every later one
    // has a tile, since the one before has not all.
    let (mut count, mut stride) = (1, 1);
    while line.div_ceil(stride) > 1
        && line.div_ceil(stride * RATIO).checked_mul(cell)? >= k.checked_mul(2)?
    {
        stride *= RATIO;
        count += 1;
    }
    let first = line.div_ceil(stride).checked_mul(cell)?.min(most);
    let later = (count as usize - 1).checked_mul(k.checked_mul(2 * (RATIO - 1))?)?;
    let slack = 1024 * (count as usize - 1);
    let each = first.checked_add(later)?;
    // Rows whose pairs the list holds and whose counters there are.
    let rows = match by_row {
        false => n,
        true => {
            let most = (list_bytes / 12).checked_sub(slack)? / each;
            (most.min(COUNTER_BYTES >> (ROW_BITS + 2)) / side * side).min(n)
        }
    };
    if rows == 0 {
        return None;
    }
    let groups = if by_row { rows } else { 1 };
    let capacity = groups.checked_mul(each)?.checked_add(slack)?;
    let few = capacity.checked_mul(2)? <= rows * m && capacity.checked_mul(12)? <= list_bytes;
    let mined = groups.checked_mul(k.min(most))?;
    // With labels, the gradient has positives too many for a list.
    let kept = rows == n && shape.flags & LABELED == 0;
    few.then_some(Stages { line, count, rows, capacity, mined, kept })
}

/// The mined pairs, sorted by row, then column: what backward needs of them.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct SavedList {
    list: ListPlan,
    count: Region,
}

impl SavedList {
    pub fn plan(layout: &mut Layout, stages: Stages) -> Result<Self> {
        Ok(Self { list: ListPlan::plan(layout, stages.mined)?, count: layout.take::<u64>(1)? })
    }

    pub fn at(&self, base: Address) -> List {
        self.list.at(base, self.count.at(base))
    }
}

/// Where the forward pass keeps its lists.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct ListsPlan {
    stages: Stages,
    wide: ListPlan,
    /// Two to sort by way of, and one for the result where it is not kept.
    mined: [ListPlan; 2],
    sorted: Option<ListPlan>,
    pub(super) count: Region,
    wide_count: Region,
    lost: Region,
    pub(super) counters: Region,
    starts: Region,
    poison: Region,
}

/// What the forward pass of a list is given, and where its results go.
#[derive(Clone, Copy)]
pub(in super::super) struct Targets {
    pub cuts: Address,
    /// Where [`SavedList`] lies.
    pub saved: Address,
    /// n f32, where a row has one positive.
    pub positive: Address,
    /// The groups of the rows.
    pub rows: Groups,
}

impl ListsPlan {
    pub fn plan(layout: &mut Layout, shape: &Shape, stages: Stages) -> Result<Self> {
        let mut list = || ListPlan::plan(layout, stages.mined);
        let mined = [list()?, list()?];
        let sorted = if stages.kept { None } else { Some(list()?) };
        Ok(Self {
            stages,
            mined,
            sorted,
            count: layout.take::<u64>(1)?,
            wide: ListPlan::plan(layout, stages.capacity)?,
            wide_count: layout.take::<u64>(1)?,
            lost: layout.take::<u32>(1)?,
            counters: layout.take::<u32>(sort_counters(stages.mined))?,
            starts: layout.take::<u32>(stages.rows + 1)?,
            poison: layout.take::<u32>(shape.n)?,
        })
    }

    /// Mines: the cuts, the sorted list, the groups of the rows.
    ///
    /// # Safety
    /// As for [`super::super::passes::Pass`]; `pairs` with the key ranges of the cuts' tile, `scale`
    /// one f32.
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        scale: Address,
        cuts: &CutsPlan,
        saved: Option<&SavedList>,
        to: Targets,
        base: Address,
    ) -> Result<()> {
        let Shape { n, m, .. } = *shape;
        let sorted = match (saved, &self.sorted) {
            (Some(saved), None) => saved.at(to.saved),
            (_, sorted) => sorted.unwrap_or(self.mined[0]).at(base, self.count.at(base)),
        };
        let (poison, starts) = (self.poison.at(base), self.starts.at(base));
        let found = Found { cuts: to.cuts, count: sorted.count, poison, positive: to.positive };
        // SAFETY: regions of the plans are as large as their sizes say; every kernel reads what one
        // before it wrote.
        unsafe {
            launch.clear_words(poison, n as u64)?;
            self.mine(launch, shape, x, y, pairs, cuts, found, base, |rows, mined, other| {
                let (first, end) = rows;
                let (count, offset) = ((end - first) as u32, first as u64 * 4);
                let steps = sort_steps(&[By::Row, By::Column], n, m);
                sort(launch, mined, [other, mined], sorted, steps, self.counters.at(base))?;
                launch.list_starts(sorted, true, first as u32, count, starts)?;
                let Groups { maximum, sum, log2_sum, .. } = to.rows;
                let groups = Groups {
                    maximum: maximum + offset,
                    sum: sum + offset,
                    log2_sum: if log2_sum == 0 { 0 } else { log2_sum + offset },
                    ..to.rows
                };
                launch.list_groups(sorted, starts, count, poison + offset, scale, groups)
            })
        }
    }

    /// Mines the rows that belong together, one panel after the other, and hands each panel's pairs
    /// on, in any order: its rows, the list, and another of its length to sort by way of.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    pub(super) unsafe fn mine(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        cuts: &CutsPlan,
        to: Found,
        base: Address,
        mut then: impl FnMut((usize, usize), List, List) -> Result<()>,
    ) -> Result<()> {
        let Shape { n, m, d, .. } = *shape;
        let (kind, depth) = (cuts.kind, d as u32);
        let across = m.div_ceil(kind.tile.side());
        let search = cuts.search(shape, to.cuts, base);
        let pairs = &with_cuts(*pairs, shape, to.cuts);
        let lost = self.lost.at(base);
        let wide = self.wide.at(base, self.wide_count.at(base));
        let [mined, other] = self.mined.map(|list| list.at(base, to.count));
        let (counters, none) = (cuts.counters.at(base), Above::default());
        let collect = |rows: (usize, usize), sample, gate, poison, positive| {
            let rows = (rows.0 as u32, rows.1 as u32);
            // SAFETY: as below.
            unsafe {
                launch.collect(
                    kind, x, y, depth, pairs, rows, sample, gate, none, wide, poison, positive,
                )
            }
        };
        // SAFETY: as in `run`.
        unsafe {
            cuts.clear(launch, shape, base)?;
            for first in (0..n).step_by(self.stages.rows) {
                let rows = (first, (first + self.stages.rows).min(n));
                let groups = if search.by_row { (rows.1 - first) as u32 } else { 1 };
                let part = search.starting_at(first);
                launch.clear_words(wide.count, 2)?;
                launch.clear_words(to.count, 2)?;
                begin(launch, shape, rows, 0, search)?;
                for stage in (0..self.stages.count).rev() {
                    let skip = if stage + 1 == self.stages.count { 0 } else { RATIO };
                    let sample = Sample::new(self.stages.line, RATIO.pow(stage), skip);
                    collect(rows, sample, 0, to.poison, to.positive)?;
                    begin(launch, shape, rows, 0, search)?;
                    // Between stages the better part of the similarity will do.
                    let enough = |step: &Step| stage == 0 || (step.word == 0 && step.shift > 0);
                    for step in Digits::of(shape).steps().filter(enough) {
                        launch.count_list(wide, step, search, first as u32, counters)?;
                        launch.choose(step, groups, counters, part)?;
                    }
                }
                launch.judge_list(wide, lost)?;
                begin(launch, shape, rows, lost, search)?;
                cuts.search_tiles(launch, shape, rows, x, y, pairs, search, base)?;
                collect(rows, Sample::new(across, 1, 0), lost, 0, 0)?;
                launch.keep_mined(wide, search, mined)?;
                then(rows, mined, other)?;
            }
        }
        Ok(())
    }
}

/// Where [`ListsPlan::mine`] leaves what it finds.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub cuts: Address,
    /// One u64, of the mined list.
    pub count: Address,
    /// n u32 that are 0, and n f32, as [`Launcher::collect`] says; or 0.
    pub poison: Address,
    pub positive: Address,
}

/// Where the gradient keeps its lists: the mined pairs and every row's one positive.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct GradientPlan {
    /// Two to sort by way of; sorted by row; sorted by column.
    lists: [ListPlan; 4],
    count: Region,
    counters: Region,
    row_starts: Region,
    column_starts: Region,
    moments: Region,
}

/// What the gradient of a list is computed from.
#[derive(Clone, Copy)]
pub(in super::super) struct Weights {
    pub terms: Address,
    pub coefficients: Coefficients,
    pub scale: Address,
    pub factor: Address,
}

impl GradientPlan {
    pub fn plan(layout: &mut Layout, shape: &Shape, stages: Stages) -> Result<Self> {
        let length = stages.mined + shape.n;
        let mut list = || ListPlan::plan(layout, length);
        Ok(Self {
            lists: [list()?, list()?, list()?, list()?],
            count: layout.take::<u64>(1)?,
            counters: layout.take::<u32>(sort_counters(length))?,
            row_starts: layout.take::<u32>(shape.n + 1)?,
            column_starts: layout.take::<u32>(shape.m + 1)?,
            moments: layout.take::<f64>(shape.n)?,
        })
    }

    /// dX, dY (in the shared case all into `to_x`) and Σ (S − M)·G, the latter where `moment` is
    /// not 0.
    ///
    /// # Safety
    /// As for [`super::super::passes::Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        shape: &Shape,
        x: Operand,
        y: Operand,
        pairs: &Pairs,
        weights: Weights,
        saved: List,
        [to_x, to_y]: [Option<Output>; 2],
        moment: Address,
        base: Address,
    ) -> Result<()> {
        let Shape { n, m, .. } = *shape;
        let Weights { terms, coefficients, scale, factor } = weights;
        let [one, other, rows, columns] = self.lists.map(|list| list.at(base, self.count.at(base)));
        let counters = self.counters.at(base);
        let (row_starts, column_starts) = (self.row_starts.at(base), self.column_starts.at(base));
        // SAFETY: as in `ListsPlan::run`.
        unsafe {
            launch.clear_words(one.count, 2)?;
            launch.with_positives(saved, pairs, terms, one)?;
            let steps = sort_steps(&[By::Row, By::Column], n, m);
            sort(launch, one, [other, one], rows, steps, counters)?;
            launch.list_starts(rows, true, 0, n as u32, row_starts)?;
            if moment != 0 {
                let moments = self.moments.at(base);
                launch.list_moments(rows, row_starts, pairs, coefficients, scale, moments)?;
                launch.sum_moments(moments, n as u32, false, moment)?;
            }
            if let Some(out) = to_x {
                launch.sum_list(
                    rows,
                    row_starts,
                    true,
                    pairs,
                    coefficients,
                    scale,
                    y,
                    factor,
                    false,
                    out,
                )?;
            }
            if to_y.is_some() || (shape.shared && to_x.is_some()) {
                let steps = sort_steps(&[By::Column], n, m);
                sort(launch, rows, [one, other], columns, steps, counters)?;
                launch.list_starts(columns, false, 0, m as u32, column_starts)?;
            }
            // Of a shared set, what its rows are as candidates comes on top.
            let out = if shape.shared { to_x } else { to_y };
            if let Some(out) = out {
                launch.sum_list(
                    columns,
                    column_starts,
                    false,
                    pairs,
                    coefficients,
                    scale,
                    x,
                    factor,
                    shape.shared,
                    out,
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scope;

    fn shape(n: usize, m: usize, mining: Mining) -> Shape {
        let scope = Scope::Matrix;
        Shape {
            n,
            m,
            d: 64,
            shared: false,
            diagonal: true,
            flags: 0,
            scope,
            mining,
            normalize: false,
            list: None,
        }
    }

    #[test]
    fn stages_take_every_tile_once() {
        for line in [1, 2, 4, 5, 6, 24, 25, 26, 1000] {
            let mut taken = vec![0; line];
            for (stride, skip) in [(25, 0), (5, 5), (1, 5)] {
                let sample = Sample::new(line, stride, skip);
                for block in 0..sample.count(line) {
                    let multiple = if skip == 0 { block } else { block / 4 * 5 + block % 4 + 1 };
                    taken[multiple * stride] += 1;
                }
            }
            assert!(taken.iter().all(|&count| count == 1), "{line}: {taken:?}");
        }
    }

    #[test]
    fn lists_are_kept_of_few_pairs() {
        let of = |n, m, mining| stages(&shape(n, m, mining), Tile::Large, LIST_BYTES);
        assert_eq!(of(8192, 8192, Mining::All), None);
        // A tenth of all pairs is too much for a list.
        assert_eq!(of(8192, 8192, Mining::Hardest(8192 * 819)), None);
        let few = of(8192, 8192, Mining::Hardest(100_000)).unwrap();
        assert!(few.count >= 3 && few.capacity < 4_000_000 && few.mined == 100_000, "{few:?}");
        assert!(of(8192, 8192, Mining::HardestPerRow(16)).is_some());
        let panels = of(1 << 20, 1 << 20, Mining::HardestPerRow(1024)).unwrap();
        assert!(
            !panels.kept && panels.rows.is_multiple_of(128) && panels.rows < 1000,
            "{panels:?}"
        );
        assert_eq!(of(8192, 8192, Mining::HardestPerRow(1024)), None);
        assert_eq!(of(10, 10, Mining::Hardest(usize::MAX)), None);
        for m in (1..80).map(|tiles| tiles * 64) {
            for mining in [Mining::Hardest(1), Mining::HardestPerRow(1), Mining::HardestPerRow(70)]
            {
                let Some(stages) = of(1000, m, mining) else { continue };
                let stage = |j| {
                    let skip = if j + 1 == stages.count { 0 } else { RATIO };
                    Sample::new(stages.line, RATIO.pow(j), skip).count(stages.line)
                };
                let tiles: Vec<usize> = (0..stages.count).map(stage).collect();
                assert!(tiles.iter().all(|&count| count > 0), "{stages:?}");
                assert_eq!(tiles.iter().sum::<usize>(), stages.line);
            }
        }
        assert!(of(1 << 20, 1 << 20, Mining::Hardest(100_000)).is_some());
    }
}
