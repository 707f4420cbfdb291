//! Room: engines, CUDA. Mining where few pairs are mined: they are a sorted list, found in one pass
//! over the tiles, from which both the log-sum-exp and the gradient are computed.
//!
//! The pass comes in stages, each over five times as many tiles as all before it. After a stage the
//! k-th hardest pair so far is known, and the next stage collects those alone that are at least as
//! hard: about 4·k of them. Tiles of a stage lie evenly in the matrix. Where the pairs do not fit the
//! list (many equal similarities, or the hardest where no stage looked but the last), the cuts are
//! searched by passes over all tiles and the pairs collected anew: slower, and just as exact. All
//! these launches are always made, and end at once where they are not needed.

use super::super::launch::mining::{List, Sample, sort_counters, tiles};
use super::super::launch::{Address, Coefficients, Groups, Launcher, Operand, Output, Pairs, Tile};
use super::super::passes::Shape;
use super::super::workspace::{Layout, Region};
use super::{
    By, COUNTER_BYTES, CutsPlan, Digits, ListPlan, ROW_BITS, begin, sort, sort_steps, with_cuts,
};
use crate::Result;
use crate::loss::formula::Mining;

/// Bytes of the list that the stages collect, at most.
const LIST_BYTES: usize = 192 << 20;

/// Each stage sees so many times the tiles of all before it and itself together.
const RATIO: usize = 5;

/// The stages of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stages {
    /// Tiles of a line: all, or those of a row of tiles.
    line: usize,
    count: u32,
    /// Pairs that the stages may collect.
    capacity: usize,
    /// Pairs that are mined, at most.
    mined: usize,
}

/// The stages by which few pairs are mined; `None` where there is no mining, or of too many pairs.
pub(in super::super) fn stages(shape: &Shape, tile: Tile) -> Option<Stages> {
    let Shape { n, m, .. } = *shape;
    let side = tile.side();
    let across = m.div_ceil(side);
    let pairs = n.checked_mul(m)?;
    // Lines, pairs of a tile in one of their groups, groups.
    let (line, cell, groups, k, most) = match shape.mining {
        Mining::All => return None,
        Mining::Hardest(k) => (across * n.div_ceil(side), side * side, 1, k, pairs),
        Mining::HardestPerRow(k) => (across, side, n, k, m),
    };
    if groups > 1 && groups << (ROW_BITS + 2) > COUNTER_BYTES {
        return None;
    }
    // A first stage of twice as many pairs as are mined has a cut worth something.
    let (mut count, mut stride) = (1, 1);
    while stride * RATIO <= line
        && line.div_ceil(stride * RATIO).checked_mul(cell)? >= k.checked_mul(2)?
    {
        stride *= RATIO;
        count += 1;
    }
    let first = line.div_ceil(stride).checked_mul(cell)?.min(most);
    let later = (count as usize - 1).checked_mul(k.checked_mul(2 * (RATIO - 1))?)?;
    let slack = 1024 * (count as usize - 1);
    let capacity = groups.checked_mul(first.checked_add(later)?)?.checked_add(slack)?;
    let few = capacity.checked_mul(2)? <= pairs && capacity.checked_mul(12)? <= LIST_BYTES;
    let mined = groups.checked_mul(k.min(most))?;
    few.then_some(Stages { line, count, capacity, mined })
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
    kept: [ListPlan; 2],
    wide_count: Region,
    lost: Region,
    counters: Region,
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
        let kept = [ListPlan::plan(layout, stages.mined)?, ListPlan::plan(layout, stages.mined)?];
        Ok(Self {
            stages,
            wide: ListPlan::plan(layout, stages.capacity)?,
            kept,
            wide_count: layout.take::<u64>(1)?,
            lost: layout.take::<u32>(1)?,
            counters: layout.take::<u32>(sort_counters(stages.mined))?,
            starts: layout.take::<u32>(shape.n + 1)?,
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
        saved: &SavedList,
        to: Targets,
        base: Address,
    ) -> Result<()> {
        let Shape { n, m, d, .. } = *shape;
        let (kind, depth) = (cuts.kind, d as u32);
        let search = cuts.search(shape, to.cuts, base);
        let pairs = &with_cuts(*pairs, shape, to.cuts);
        let lost = self.lost.at(base);
        let wide = self.wide.at(base, self.wide_count.at(base));
        let sorted = saved.at(to.saved);
        let [kept, other] = self.kept.map(|list| list.at(base, sorted.count));
        let (poison, starts) = (self.poison.at(base), self.starts.at(base));
        // SAFETY: regions of the plans are as large as their sizes say; every kernel reads what one
        // before it wrote.
        unsafe {
            launch.clear_words(wide.count, 2)?;
            launch.clear_words(sorted.count, 2)?;
            launch.clear_words(poison, n as u64)?;
            cuts.clear(launch, shape, base)?;
            begin(launch, shape, 0, search)?;
            for stage in (0..self.stages.count).rev() {
                let first = stage + 1 == self.stages.count;
                let skip = if first { 0 } else { RATIO };
                let sample = Sample::new(self.stages.line, RATIO.pow(stage), skip);
                let positive = to.positive;
                launch.collect(kind, x, y, depth, pairs, sample, 0, wide, poison, positive)?;
                // Between stages the similarity will do.
                let steps = Digits::of(shape).steps().filter(|step| stage == 0 || step.word == 0);
                begin(launch, shape, 0, search)?;
                for step in steps {
                    launch.count_list(wide, step, search, cuts.counters.at(base))?;
                    launch.choose(
                        step,
                        super::groups(shape) as u32,
                        cuts.counters.at(base),
                        search,
                    )?;
                }
            }
            launch.judge_list(wide, lost)?;
            begin(launch, shape, lost, search)?;
            cuts.search_tiles(launch, shape, x, y, pairs, search, base)?;
            let all = Sample::new(tiles(kind.tile, n as u32, m as u32), 1, 0);
            launch.collect(kind, x, y, depth, pairs, all, lost, wide, 0, 0)?;
            launch.keep_mined(wide, search, kept)?;
            let steps = sort_steps(&[By::Row, By::Column], n, m);
            sort(launch, kept, [other, kept], sorted, steps, self.counters.at(base))?;
            launch.list_starts(sorted, true, n as u32, starts)?;
            launch.list_groups(sorted, starts, n as u32, poison, scale, to.rows)
        }
    }
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
            launch.list_starts(rows, true, n as u32, row_starts)?;
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
                launch.list_starts(columns, false, m as u32, column_starts)?;
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
            list: true,
        }
    }

    #[test]
    fn stages_take_every_tile_once() {
        for line in [1, 4, 5, 6, 24, 25, 26, 1000] {
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
        let of = |n, m, mining| stages(&shape(n, m, mining), Tile::Large);
        assert_eq!(of(8192, 8192, Mining::All), None);
        // A tenth of all pairs is too much for a list.
        assert_eq!(of(8192, 8192, Mining::Hardest(8192 * 819)), None);
        let few = of(8192, 8192, Mining::Hardest(100_000)).unwrap();
        assert!(few.count >= 3 && few.capacity < 4_000_000 && few.mined == 100_000, "{few:?}");
        assert!(of(8192, 8192, Mining::HardestPerRow(16)).is_some());
        assert_eq!(of(1 << 20, 1 << 20, Mining::HardestPerRow(1024)), None);
        assert_eq!(of(10, 10, Mining::Hardest(usize::MAX)), None);
        assert!(of(1 << 20, 1 << 20, Mining::Hardest(100_000)).is_some());
    }
}
