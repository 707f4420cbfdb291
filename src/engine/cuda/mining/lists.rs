//! Room: engines, CUDA. Mining where few pairs are mined: they are a sorted list, found in one pass
//! over the tiles, from which both the log-sum-exp and the gradient are computed.
//!
//! The pass comes in parts. A sample of the tiles, which lie evenly in the matrix, tells a cut that the
//! mined pairs lie above in all likelihood, and not many more; the pairs above it are collected: of
//! rows from the sample and from the rest of the tiles, of the matrix from all of them, its small
//! sample once more. Of a large matrix a seventh of the tiles comes first, a better sample than the few
//! ones: hard pairs may lie close together. No kernel of these has one block that goes through a
//! sample or a list for all: it would take longer than the pass.
//!
//! Where the guess was wrong (too few lie above it, or more than there is room for), that is seen on
//! the device. A row with too few has a lower cut guessed for it, by what it lacks, and is gone through
//! again with the other such rows; so a guess may be wrong now and then, and the candidates are the
//! fewer. What is still wrong, or wrong in many rows, is found without a guess: of rows, by one pass
//! over their tiles that keeps the hardest so far; of the matrix, by the search for its cut. These
//! launches are always made, and end at once where they are not needed.
//!
//! Each row of the matrix has its own candidates, and they come out of their selection sorted by
//! column; the hardest of the whole matrix are dealt to their rows first.
//!
//! Where each row has its own cut, rows are mined in panels if the candidates would be too many for
//! all; the mined pairs are not kept then, and the gradient is computed from the cuts. So it is where
//! the mined pairs are many: one in a list costs as much as dozens in a dense product.

use super::super::launch::mining::{
    Above, Again, Aside, Elements, Guess, List, ListSearch, RANGE_BYTES, RowLists, RowTotals,
    Sample, Values, sort_counters, tiles,
};
use super::super::launch::{
    Address, Arithmetic, Coefficients, Groups, Kind, LABELED, Launcher, Operand, Output, Pairs,
    Tile,
};
use super::super::passes::Shape;
use super::super::workspace::{Layout, Region};
use super::{By, CutsPlan, Digits, ListPlan, sort, sort_steps, stride, with_cuts};
use crate::Result;
use crate::loss::formula::Mining;

/// Bytes of the lists of candidates, at most; less where the caller sets a bound.
pub(in super::super) const LIST_BYTES: usize = 208 << 20;

/// The parts of a problem's pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Stages {
    /// The sample; and of rows, the rest of every row of tiles; of the matrix, all tiles, or those that
    /// are not in a part that is looked at before, and is a sample of them, with the rank there.
    sample: Sample,
    middle: Option<(Sample, usize)>,
    rest: Sample,
    by_row: bool,
    /// How many pairs are mined of a group, at most; and of the sample's, how many a cut is to
    /// include, and what an element of it is.
    k: usize,
    rank: usize,
    elements: Elements,
    /// The values of a row's sample that another cut is to include where the first proved too high.
    second: usize,
    /// Rows that are mined at a time: all, or some where each has its own cut.
    pub rows: usize,
    /// Pairs that are collected of a group, at most.
    capacity: usize,
    /// Pairs that are mined of these rows, at most.
    pub(super) mined: usize,
    /// Whether the mined pairs are kept for the gradient.
    pub kept: bool,
}

/// Of `k` pairs of the matrix, how many a share of them may hold: more in one case of a million, if
/// the share was chosen by chance; and some, since hard pairs may lie close together.
fn at_most(k: usize, share: f64) -> usize {
    let expected = k as f64 * share;
    ((expected + 4.5 * expected.sqrt() + 4.0).ceil() as usize).min(k)
}

/// How rarely a row's guess is wrong: by chance in so many cases; and by how many standard deviations
/// a normal distribution is off as rarely.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rarity {
    chance: f64,
    deviations: f64,
}

const RARITIES: [Rarity; 5] = [
    Rarity { chance: 1e-5, deviations: 4.265 },
    Rarity { chance: 1e-4, deviations: 3.719 },
    Rarity { chance: 1e-3, deviations: 3.090 },
    Rarity { chance: 3e-3, deviations: 2.748 },
    Rarity { chance: 1e-2, deviations: 2.326 },
];

/// Of the second guess, for the rows where the first was wrong.
const SECOND: Rarity = Rarity { chance: 1e-7, deviations: 5.199 };

/// Rows, of so many one, whose guess may be wrong before another is no use.
const AGAIN: u32 = 4;

/// How many of a row's first pairs are in its sample at most, each with this probability: so many or
/// more in cases so rare. A Chernoff bound on a binomial tail, and what its first term is short of it.
fn at_most_in_row(of: usize, share: f64, rarity: Rarity) -> usize {
    let pairs = of as f64;
    let rare = |&count: &usize| {
        let part = count as f64 / pairs;
        let rest = 1.0 - part;
        let distance = part * (part / share).ln() + rest * (rest / (1.0 - share)).ln();
        let first = (std::f64::consts::TAU * pairs * part * rest).sqrt();
        let ratio = rest * share / (part * (1.0 - share));
        (-pairs * distance).exp() <= rarity.chance * first * (1.0 - ratio)
    };
    // Nothing is rarer than all.
    let (mut few, mut many) = ((pairs * share) as usize, of);
    while many > few + 1 {
        let middle = few + (many - few) / 2;
        if rare(&middle) { many = middle } else { few = middle }
    }
    many
}

/// Of `pairs` that lie anywhere in a row of `columns`, how many of `cells` of so many columns `each`
/// have some of them, at most; in the same sense. Mean and variance, and the skewness of a binomial that
/// has the same, say as much of that as the exact distribution, give or take one.
fn at_most_of_cells(
    pairs: usize,
    columns: usize,
    each: usize,
    cells: usize,
    rarity: Rarity,
) -> usize {
    let Rarity { deviations, .. } = rarity;
    // That so many columns have none.
    let empty = |count: usize| -> f64 {
        let left = |i: usize| columns.saturating_sub(pairs + i) as f64 / (columns - i) as f64;
        (0..count.min(columns)).map(left).product()
    };
    let (one, two, count) = (empty(each), empty(2 * each), cells as f64);
    let mean = count * (1.0 - one);
    let variance = count * one * (1.0 - count * one) + count * (count - 1.0) * two;
    let skewness = 2.0 * variance / mean.max(f64::MIN_POSITIVE) - 1.0;
    let skew = (deviations * deviations - 1.0) / 6.0 * skewness + 0.5;
    let most = mean + deviations * variance.max(0.0).sqrt() + skew.max(1.0);
    (most.ceil() as usize).min(cells)
}

/// How many elements more than its rank a guess may include of a sample.
fn slack(rank: usize) -> usize {
    rank / 4
}

/// The same of a row's, whose every candidate costs.
fn row_slack(rank: usize) -> usize {
    1 + rank / 16
}

/// The share of pairs that lie above a cut which a share of the largest of so many each lie above.
fn share_of_tops(share: f64, each: usize) -> f64 {
    1.0 - (1.0 - share).powf(1.0 / each as f64)
}

/// How many pairs there may be by chance where so many are expected, as `found` of a sample say.
fn likely(expected: f64, found: usize) -> f64 {
    let found = found as f64;
    expected * (1.0 + 5.0 / found.sqrt() + 8.0 / found)
}

/// Instructions, about: of a pair of a row's sample, memory included, of one of the elements that its
/// guess goes through, and of a candidate.
const ROW_COSTS: (f64, f64, f64) = (6.0, 15.0, 60.0);
/// Of a candidate of the matrix.
const MATRIX_CANDIDATE: f64 = 150.0;
/// Of a pair that is gone through again besides its product, in small tiles.
const AGAIN_COST: f64 = 33.0;

/// Instructions of a pair's product, about.
fn product_cost(arithmetic: Arithmetic, d: usize) -> f64 {
    match arithmetic {
        Arithmetic::F32 => d as f64 * 1.5,
        Arithmetic::F16 | Arithmetic::Bf16 => d as f64 / 14.0 + 6.0,
    }
}

/// How few pairs are mined, with lists of so many bytes at most; `None` where there is no mining, or
/// of too many pairs. Of many pairs lists tell the cuts and the groups, and the gradient is dense.
pub(in super::super) fn stages(shape: &Shape, kind: Kind, list_bytes: usize) -> Option<Stages> {
    let stages = match shape.mining {
        Mining::All => None,
        Mining::Hardest(k) => of_matrix(shape, kind, k, list_bytes),
        Mining::HardestPerRow(k) => of_rows(shape, kind, k, list_bytes),
    }?;
    let most = shape.n.saturating_mul(shape.m) / dense_pairs(kind.arithmetic);
    // With labels, the gradient has positives too many for a list.
    let kept = stages.rows == shape.n && stages.mined <= most && shape.flags & LABELED == 0;
    Some(Stages { kept, ..stages })
}

/// How many pairs the products of a dense gradient take in the time that a listed pair's rows are
/// gathered in, for dX and for dY: about; between what bytes say and what instructions say
/// (kernels/NOTES.md).
fn dense_pairs(arithmetic: Arithmetic) -> usize {
    match arithmetic {
        Arithmetic::F32 => 16,
        Arithmetic::F16 | Arithmetic::Bf16 => 64,
    }
}

fn of_rows(shape: &Shape, kind: Kind, k: usize, list_bytes: usize) -> Option<Stages> {
    let Shape { n, m, .. } = *shape;
    let side = kind.tile.side();
    let line = m.div_ceil(side);
    // Of a sample of so many columns, the guess's rank and elements, how many pairs it is to include
    // of all, and what that costs. Pairs are missing only if so many of the first k - 1 are in the
    // sample: rows that do not have all are gone through again, a tile of them at least.
    let pair_again = product_cost(kind.arithmetic, shape.d) + AGAIN_COST;
    let again = |rarity: Rarity| {
        let (side, wrong) = (Tile::Small.side(), rarity.chance * n as f64);
        let tiles = wrong / side as f64 + 1.0 - (-wrong).exp();
        tiles * (side * m) as f64 / n as f64 * pair_again
    };
    let guess = |width: usize| {
        let share = width as f64 / m as f64;
        let of = |(elements, rarity): (Elements, Rarity)| {
            let (each, _) = kind.each(elements);
            let count = width / each;
            let rank = match elements {
                Elements::Values => at_most_in_row(k - 1, share, rarity),
                _ => at_most_of_cells(k - 1, m, each, count, rarity),
            };
            let rank = rank.max(1);
            let part = (rank + row_slack(rank) / 2) as f64 / count as f64;
            // Where all of them are above the cut, they say nothing.
            let part = if part < 0.97 { share_of_tops(part, each) } else { 1.0 };
            let candidates = part * m as f64;
            let (pair, element, candidate) = ROW_COSTS;
            let cost = width as f64 * pair + count as f64 * element + candidates * candidate;
            let cost = cost + again(rarity);
            (rank, elements, candidates, cost)
        };
        let elements = [Elements::Tops, Elements::Fours, Elements::Values];
        let ways = elements.into_iter().flat_map(|elements| RARITIES.map(|rare| (elements, rare)));
        ways.map(of).min_by(|a, b| a.3.total_cmp(&b.3)).expect("many ways")
    };
    let cost = |&taken: &usize| guess(taken * side).3;
    let choices = (0..).map(|power| 1 << power).take_while(|&taken| 2 * taken <= line);
    let taken = choices.min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    let stride = line / taken;
    let sample = Sample::new(line, stride, 0);
    let taken = sample.taken();
    // The last tile may be taken, and have few columns.
    let is_last = (taken - 1) * stride + 1 == line;
    let missing = if is_last { line * side - m } else { 0 };
    let (rank, elements, expected, _) = guess(taken * side - missing);
    let width = taken * side - missing;
    let second = at_most_in_row(k - 1, width as f64 / m as f64, SECOND).max(1);
    let capacity = (likely(expected, rank) as usize).max(second * m / width);
    let capacity = capacity.max(k.checked_add(side)?);
    if capacity > m / 2 {
        return None;
    }
    // Rows whose candidates there is room for.
    let rows = list_bytes / (8 * capacity + 5 * taken * side) / side * side;
    if rows == 0 {
        return None;
    }
    // In panels of like size.
    let rows = n.div_ceil(n.div_ceil(rows)).next_multiple_of(side).min(n);
    let rest = Sample::new(line, 1, stride);
    let mined = rows.checked_mul(k)?;
    Some(Stages {
        sample,
        middle: None,
        rest,
        by_row: true,
        k,
        rank,
        elements,
        second,
        rows,
        capacity,
        mined,
        kept: false,
    })
}

fn of_matrix(shape: &Shape, kind: Kind, k: usize, list_bytes: usize) -> Option<Stages> {
    let Shape { n, m, d, .. } = *shape;
    let side = kind.tile.side();
    let (across, cell) = (m.div_ceil(side), side * side);
    let line = across * n.div_ceil(side);
    let pairs = n.checked_mul(m)?;
    // What a list costs must stay small against the pass.
    if k > pairs / 32 {
        return None;
    }
    // Every seventh tile is a sample of the rest, and has one of its own; seven, if no row of tiles
    // is a multiple of it, else something near.
    let unit = [7, 9, 11, 13].into_iter().find(|unit| across % unit != 0).unwrap_or(5);
    let share = |taken: usize, of: usize| taken as f64 / of as f64;
    let least = (line / 64).clamp(1, 8);
    let choices = (0..).map(|power| least << power);
    // Of every few pairs the largest are stored.
    let (elements, most) = (Elements::Tops, list_bytes.max(cell));
    let (each, _) = kind.each(elements);
    let choices = choices.take_while(|&taken| 2 * taken <= line && taken * cell <= most);
    // Where few are mined, the seventh may have some times less of them than its share.
    let margin = (pairs / k.saturating_mul(256).max(1)).clamp(1, 4);
    // The rank of the guess, and the candidates: of the seventh with the sample's cut, and of the
    // rest with the seventh's; or without a seventh.
    let candidates = |taken: usize, middle: bool, slack: fn(usize) -> usize| {
        let seventh = if middle { line.div_ceil(unit) } else { taken };
        let rank = at_most(k, share(seventh, line));
        let found = (rank + slack(rank)) as f64;
        let margin = if middle { margin as f64 } else { 1.0 };
        (rank, found / share(taken, seventh) + margin * found / share(seventh, line))
    };
    let pair = product_cost(kind.arithmetic, d) + 1.0;
    let cost_of = |taken: usize, middle: bool| {
        let (_, candidates) = candidates(taken, middle, |_| 0);
        (taken * cell) as f64 * pair + candidates * MATRIX_CANDIDATE
    };
    // A thirtieth of the pass, on the fastest engine, is worth a better guess, if there is room.
    let is_large = |taken: usize| {
        let (_, candidates) = candidates(taken, true, slack);
        line >= 3 * unit * taken
            && cost_of(taken, true) <= pairs as f64
            && 36.0 * candidates <= list_bytes as f64
    };
    let cost = |&taken: &usize| cost_of(taken, is_large(taken));
    let taken = choices.min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
    let sample = Sample::new(line, stride(line, across, taken)?, 0);
    let (middle, rest) = if is_large(taken) {
        (Some(Sample::new(line, unit, 0)), Sample::new(line, 1, unit))
    } else {
        (None, Sample::new(line, 1, 0))
    };
    let (rank, expected) = candidates(sample.taken(), middle.is_some(), slack);
    // So many pairs lie in fewer of the elements.
    let number = sample.taken() * cell / each;
    let part = rank as f64 / (number * each) as f64;
    let rank_of_elements =
        (number as f64 * (1.0 - (1.0 - part.min(1.0)).powi(each as i32))).ceil() as usize;
    let room = k.checked_mul(2)? + 1024;
    let capacity = (2.0 * likely(expected, rank)) as usize;
    // Hard pairs may lie together, and the sample's tiles among them: some room, as memory goes.
    let spare = (pairs / 128).min(1 << 21).min(list_bytes / 24);
    let capacity = capacity.max(room).max(spare).min(pairs / 2);
    let fits = capacity >= room && capacity as f64 >= 1.5 * expected;
    if !fits || 8 * rank_of_elements > 7 * number || capacity.checked_mul(12)? > list_bytes {
        return None;
    }
    let middle = middle.map(|tiles| (tiles, (margin * rank).min(k)));
    let rank = rank_of_elements.max(1);
    let (by_row, rows, mined, kept) = (false, n, k, false);
    let second = 0;
    Some(Stages {
        sample,
        middle,
        rest,
        by_row,
        k,
        rank,
        elements,
        second,
        rows,
        capacity,
        mined,
        kept,
    })
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
    kind: Kind,
    stages: Stages,
    /// The similarities of the sample, and the largest of some each.
    values: Region,
    tops: Region,
    candidates: Candidates,
    /// What is 0 at first: the candidates' number, if there is one; and of every row, its poison
    /// and how many candidates it has.
    zeros: Region,
    lost: Region,
    /// The rows by how many candidates they have, and where their pairs start in the list.
    order: Region,
    starts: Region,
    /// The result, where it is one.
    sorted: Option<SavedList>,
}

/// Where candidates are collected.
#[derive(Clone, Copy, Debug)]
enum Candidates {
    /// Each row's for itself.
    Rows { words: Region },
    /// All in one list, the mined ones of which are then dealt to their rows.
    Matrix { list: ListPlan, few: ListPlan, words: Region },
}

/// u32 of [`ListsPlan::zeros`] before those of the rows: how many candidates there are, and of these a
/// few; and the range that the last of them is looked for in.
const HEAD: usize = 4 + RANGE_BYTES / 4;

/// How many pairs of a list have keys so close to one another that no bin parts them, at most; of more
/// equal ones the whole matrix is searched.
fn few(capacity: usize) -> usize {
    8192 + capacity / 64
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
    /// `sorted`: whether the sorted list is a result of its own, and not at most for [`SavedList`].
    pub fn plan(
        layout: &mut Layout,
        shape: &Shape,
        kind: Kind,
        stages: Stages,
        sorted: bool,
    ) -> Result<Self> {
        let side = kind.tile.side();
        let (rows, sampled) = (stages.rows.next_multiple_of(side), stages.sample.taken() * side);
        let (values, candidates, lost) = if stages.by_row {
            let words = layout.take::<u64>(stages.rows * stages.capacity)?;
            (rows * sampled, Candidates::Rows { words }, stages.rows)
        } else {
            let list = ListPlan::plan(layout, stages.capacity)?;
            let few = ListPlan::plan(layout, few(stages.capacity))?;
            let words = layout.take::<u64>(stages.mined)?;
            (side * sampled, Candidates::Matrix { list, few, words }, 1)
        };
        let sorted = sorted.then(|| SavedList::plan(layout, stages)).transpose()?;
        Ok(Self {
            kind,
            stages,
            values: layout.take::<f32>(if stages.by_row { values } else { 0 })?,
            tops: layout.take::<f32>(match stages.elements {
                Elements::Values => 0,
                elements => values / kind.each(elements).0,
            })?,
            candidates,
            zeros: layout.take::<u32>(HEAD + 2 * shape.n + shape.n.div_ceil(stages.rows))?,
            lost: layout.take::<u32>(lost)?,
            order: layout.take::<u32>(stages.rows)?,
            starts: layout.take::<u32>(stages.rows + 1)?,
            sorted,
        })
    }

    /// The list of the result, if it is wanted; `saved`: where it is kept.
    pub(super) fn sorted(&self, saved: Option<(&SavedList, Address)>, base: Address) -> List {
        match (saved, &self.sorted) {
            (_, Some(sorted)) => sorted.at(base),
            (Some((saved, at)), None) => saved.at(at),
            (None, None) => List::NONE,
        }
    }

    /// Mines: the cuts, the groups of the rows, and the sorted list where it is wanted.
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
        let list = self.sorted(saved.map(|saved| (saved, to.saved)), base);
        let Groups { maximum, sum, log2_sum, .. } = to.rows;
        let totals = RowTotals { maximum, sum, log2_sum, poison: self.poison(base), scale };
        let found = Found { cuts: to.cuts, list, positive: to.positive, totals };
        // SAFETY: the caller's.
        unsafe { self.mine(launch, shape, x, y, pairs, cuts, found, base, |_| Ok(())) }
    }

    fn poison(&self, base: Address) -> Address {
        self.zeros.at(base) + 4 * HEAD as u64
    }

    /// Mines the rows that belong together, one panel after the other, and says which rows' pairs
    /// the list holds: sorted by row, then column.
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
        mut then: impl FnMut((usize, usize)) -> Result<()>,
    ) -> Result<()> {
        let Shape { n, m, d, .. } = *shape;
        let (kind, depth) = (self.kind, d as u32);
        let Stages { sample, middle, rest, k, rank, elements, capacity, .. } = self.stages;
        let pairs = &with_cuts(*pairs, shape, to.cuts);
        let tops = if elements == Elements::Values { 0 } else { self.tops.at(base) };
        let values = Values { all: self.values.at(base), tops, elements };
        let (lost, order, starts) = (self.lost.at(base), self.order.at(base), self.starts.at(base));
        let counts = self.poison(base) + 4 * n as u64;
        let aside = Aside { poison: self.poison(base), positive: to.positive };
        // SAFETY: as in `run`.
        unsafe {
            let panels = n.div_ceil(self.stages.rows) as u64;
            let zeros = (self.zeros.at(base), (HEAD + 2 * n) as u64 + panels);
            let counters = match &self.candidates {
                Candidates::Matrix { .. } => cuts.all_counters(shape, base),
                Candidates::Rows { .. } => (0, 0),
            };
            launch.clear_words([zeros, counters])?;
            let (list, few, words) = match &self.candidates {
                Candidates::Matrix { list, few, words } => (list, few, words.at(base)),
                Candidates::Rows { words } => {
                    let guess = Guess::new(values, sample, kind, rank);
                    // Of few rows, and safe.
                    let all = Values { tops: 0, elements: Elements::Values, ..values };
                    let second = Guess::new(all, sample, kind, self.stages.second);
                    for (panel, first) in (0..n).step_by(self.stages.rows).enumerate() {
                        let end = (first + self.stages.rows).min(n);
                        let (rows, count) = ((first as u32, end as u32), (end - first) as u32);
                        let counts = counts + 4 * first as u64;
                        let lists =
                            RowLists { words: words.at(base), counts, capacity: capacity as u32 };
                        let slack = row_slack(rank) as u32;
                        launch.sample(kind, x, y, depth, pairs, rows, sample, values, aside)?;
                        launch.guess_rows(guess, slack, rows.0, count, lists, to.cuts)?;
                        launch.collect_rows(kind, x, y, depth, pairs, rows, rest, lists, aside)?;
                        // What the order's place is not needed for yet.
                        let again = Again {
                            number: self.poison(base) + 4 * (2 * n + panel) as u64,
                            rows: order,
                            most: count.div_ceil(AGAIN),
                        };
                        let k = k as u32;
                        let all = (rows.0, count);
                        launch.guess_again(second, slack, k, all, lists, to.cuts, again)?;
                        let arithmetic = kind.arithmetic;
                        launch
                            .collect_again(arithmetic, x, y, depth, pairs, rows.0, again, lists)?;
                        launch
                            .repeat_rows(kind, x, y, depth, pairs, rows, k, lists, lost, to.cuts)?;
                        let starts = if to.list.count != 0 { starts } else { 0 };
                        let most = (count, capacity as u32);
                        launch.order_rows(counts, most, order, k, starts, to.list.count)?;
                        let (rows, totals) = ((rows.0, count), to.totals.starting_at(first));
                        let (columns, cuts) = (m as u32, to.cuts);
                        launch.select_rows(
                            lists, k, columns, order, starts, rows, to.list, cuts, totals,
                        )?;
                        then((first, end))?;
                    }
                    return Ok(());
                }
            };
            let (rows, zeros) = ((0, n as u32), zeros.0);
            let (list, few) = (list.at(base, zeros), few.at(base, zeros + 8));
            let (search, none) = (cuts.search(shape, to.cuts, base), Above::default());
            let digits = Digits::of(shape);
            let (counters, range) = (counters.0, zeros + 16);
            let bins = ListSearch { few, range, counters, lost, searches: search };
            let values = Values { all: 0, ..values };
            launch.sample(kind, x, y, depth, pairs, rows, sample, values, Aside::default())?;
            let number = sample.taken() * kind.tile.side() * kind.tile.side();
            let number = (number / kind.each(elements).0) as u64;
            launch.guess_matrix(tops, number, rank as u32, bins)?;
            let above = digits.above();
            if let Some((middle, rank)) = middle {
                launch.collect(kind, x, y, depth, pairs, middle, 0, none, list, aside)?;
                launch.search_list(list, rank as u64, above, false, bins)?;
            }
            launch.collect(kind, x, y, depth, pairs, rest, 0, none, list, aside)?;
            let (k, further) = (k as u64, (digits.rows, digits.columns));
            launch.search_list(list, k, above, true, bins)?;
            launch.search_few(list, k, further, above, bins)?;
            cuts.search_tiles(launch, shape, x, y, pairs, search, base)?;
            let all = Sample::new(tiles(kind.tile, n as u32, m as u32), 1, 0);
            launch.collect(kind, x, y, depth, pairs, all, lost, none, list, Aside::default())?;
            launch.count_mined(list, to.cuts, counts)?;
            let most = (n as u32, m as u32);
            launch.order_rows(counts, most, order, u32::MAX, starts, to.list.count)?;
            launch.place_mined(list, to.cuts, starts, counts, words)?;
            let dealt = RowLists { words, counts, capacity: 0 };
            launch.select_rows(dealt, 0, m as u32, order, starts, rows, to.list, 0, to.totals)?;
            then((0, n))
        }
    }
}

/// Where [`ListsPlan::mine`] leaves what it finds.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub cuts: Address,
    pub list: List,
    /// n f32, as [`Launcher::stats`] leaves them; or 0.
    pub positive: Address,
    pub totals: RowTotals,
}

/// Where the gradient keeps its lists: the mined pairs and every row's one positive.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct GradientPlan {
    /// Sorted by row; sorted by column; one to sort by way of.
    lists: [ListPlan; 3],
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
            lists: [list()?, list()?, list()?],
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
        let [rows, columns, other] = self.lists.map(|list| list.at(base, self.count.at(base)));
        let (row_starts, column_starts) = (self.row_starts.at(base), self.column_starts.at(base));
        // SAFETY: as in `ListsPlan::run`.
        unsafe {
            launch.with_positives(saved, pairs, terms, rows, row_starts)?;
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
                let steps = || sort_steps(&[By::Column], n, m);
                // To and fro, so that the last goes where it is to go.
                let way =
                    if steps().count() % 2 == 0 { [other, columns] } else { [columns, other] };
                sort(launch, rows, way, columns, steps(), self.counters.at(base))?;
                launch.list_starts(columns, m as u32, column_starts)?;
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
        for (line, step) in [(2, 2), (4, 2), (5, 5), (6, 5), (24, 7), (1000, 31)] {
            let mut taken = vec![0; line];
            for (stride, skip) in [(step, 0), (1, step)] {
                Sample::new(line, stride, skip).tiles().for_each(|tile| taken[tile] += 1);
            }
            assert!(taken.iter().all(|&count| count == 1), "{line}: {taken:?}");
        }
    }

    #[test]
    fn so_many_cells_have_a_pair_at_most() {
        // From the exact distribution: so many or more in less than one case of 100,000.
        for (pairs, columns, each, cells, exact) in [
            (15, 16384, 16, 64, 8),
            (15, 4096, 16, 32, 9),
            (7, 8192, 16, 32, 6),
            (15, 640, 16, 16, 13),
            (15, 2048, 16, 32, 12),
            (31, 2048, 16, 64, 25),
            (63, 4096, 16, 64, 28),
            (255, 4096, 4, 256, 85),
            (255, 8192, 16, 128, 73),
            (127, 2048, 4, 128, 48),
        ] {
            let most = at_most_of_cells(pairs, columns, each, cells, RARITIES[0]);
            assert!((exact..=exact + 1).contains(&most), "{most}, {exact} are exact");
        }
        assert!(at_most_of_cells(0, 640, 16, 16, RARITIES[0]) <= 1);
        assert_eq!(at_most_of_cells(639, 640, 16, 16, RARITIES[0]), 16);
    }

    #[test]
    fn lists_are_kept_of_few_pairs() {
        let kind = |tile| Kind { arithmetic: Arithmetic::Bf16, tile };
        let of = |n, m, mining| stages(&shape(n, m, mining), kind(Tile::Large), LIST_BYTES);
        assert_eq!(of(8192, 8192, Mining::All), None);
        // A tenth of all pairs is too much for a list.
        assert_eq!(of(8192, 8192, Mining::Hardest(8192 * 819)), None);
        let few = of(8192, 8192, Mining::Hardest(100_000)).unwrap();
        assert!(few.capacity < 4_000_000 && few.mined == 100_000, "{few:?}");
        let parts = of(16384, 16384, Mining::Hardest(16384)).unwrap();
        let Stages { middle, rest, .. } = parts;
        let all = middle.unwrap().0.taken() + rest.taken();
        assert_eq!(all, 128 * 128, "{parts:?}");
        // The size of the test of three parts in tests/cuda_mining.rs.
        let parts = stages(&shape(500, 490, Mining::Hardest(20)), kind(Tile::Small), LIST_BYTES);
        let parts = parts.unwrap();
        assert!(parts.middle.is_some(), "{parts:?}");
        assert!(of(8192, 8192, Mining::HardestPerRow(16)).is_some());
        // The gradient of many is dense: of a 64th of all pairs on tensor cores.
        let kept = |mining| of(4096, 4096, mining).unwrap().kept;
        assert!(kept(Mining::Hardest(64 * 4096)) && !kept(Mining::Hardest(100 * 4096)));
        assert!(kept(Mining::HardestPerRow(64)) && !kept(Mining::HardestPerRow(65)));
        let full = Kind { arithmetic: Arithmetic::F32, tile: Tile::Large };
        let some = shape(4096, 4096, Mining::HardestPerRow(65));
        assert!(stages(&some, full, LIST_BYTES).unwrap().kept);
        let panels = of(1 << 20, 1 << 20, Mining::HardestPerRow(1024)).unwrap();
        assert!(!panels.kept && panels.rows.is_multiple_of(128), "{panels:?}");
        assert_eq!(of(8192, 8192, Mining::HardestPerRow(4096)), None);
        // A last tile of four columns is in the sample, but no share of a row.
        let [whole, more] = [4096, 4100].map(|m| of(m, m, Mining::HardestPerRow(250)).unwrap());
        assert_eq!(more.sample.taken(), whole.sample.taken() + 1);
        assert!(more.rank.abs_diff(whole.rank) <= 1, "{whole:?}, {more:?}");
        assert_eq!(of(10, 10, Mining::Hardest(usize::MAX)), None);
        for m in (1..80).map(|tiles| tiles * 64) {
            for mining in [Mining::Hardest(1), Mining::HardestPerRow(1), Mining::HardestPerRow(70)]
            {
                let Some(stages) = of(1000, m, mining) else { continue };
                let Stages { sample, rest, k, rank, capacity, .. } = stages;
                assert!(sample.taken() > 0 && rest.taken() > 0, "{stages:?}");
                assert!((1..=k).contains(&rank) && capacity >= k, "{stages:?}");
                // The smallest number that repeat_rows needs.
                assert!(!stages.by_row || capacity >= k + 128, "{stages:?}");
            }
        }
        assert!(of(1 << 20, 1 << 20, Mining::Hardest(100_000)).is_some());
    }

    /// The elements of a row's sample.
    fn tops(sample: &[f32], kind: Kind, elements: Elements) -> Vec<f32> {
        let (each, apart) = kind.each(elements);
        if each == 1 {
            return sample.to_vec();
        }
        let shared = sample.chunks(each * apart);
        let part = |part: &[f32], at: usize| {
            let fours = part.chunks(4).skip(at).step_by(apart);
            fours.flatten().copied().reduce(f32::max).unwrap()
        };
        shared.flat_map(|fours| (0..apart).map(move |at| part(fours, at))).collect()
    }

    /// The cut that guess_cut (kernels/lists.cu) takes from the elements of a row.
    fn guess(elements: &[f32], rank: usize) -> f32 {
        const LAST: usize = 126;
        // 2^23, from which on numbers are whole.
        const WHOLE: f32 = 8_388_608.0;
        let least = |part: &[f32]| part.iter().copied().fold(f32::INFINITY, f32::min);
        let mut high = elements.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut low = least(&elements[..elements.len().min(32)]);
        let (mut cut, mut whole, mut asks) = (f32::NEG_INFINITY, false, low >= high);
        for _ in 0..5 {
            if std::mem::take(&mut asks) {
                (low, whole) = (least(elements), true);
            }
            if low >= high {
                break;
            }
            let (range, scale) = (high - low, 1.0 / (high - low));
            let mut bins = [0; LAST + 1];
            for element in elements {
                // NaN becomes 0 as a whole number.
                let fraction = ((element - low) * scale).clamp(0.0, 1.0);
                bins[LAST - (fraction.mul_add(LAST as f32, WHOLE) - WHOLE) as usize] += 1;
            }
            let mut found = 0;
            let bin = bins.iter().position(|count| {
                found += count;
                found >= rank
            });
            let bin = bin.unwrap_or(LAST);
            let edge = |beyond: f32| {
                (((LAST - bin) as f32 + beyond) * (1.0 / LAST as f32)).mul_add(range, low)
            };
            let (below, above) = (edge(-0.51), edge(0.51));
            if bin == LAST {
                (asks, high) = (!whole, above);
                continue;
            }
            cut = below;
            if found <= rank + row_slack(rank) {
                break;
            }
            low = below;
            if bin != 0 {
                high = above;
            }
        }
        cut
    }

    /// Rows and columns of the data that guesses are shown with, and how many numbers a vector has.
    const N: usize = 16_384;
    const D: usize = 16;
    type Vector = [f32; D];

    fn data() -> Vec<(&'static str, Vec<Vector>, Vec<Vector>)> {
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut normal = move || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        let unit = |vector: Vector| {
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.map(|v| v / norm)
        };
        let mut random = |count: usize| -> Vec<Vector> {
            (0..count).map(|_| unit(std::array::from_fn(|_| normal()))).collect()
        };
        let (x, y, centers) = (random(N), random(N), random(128));
        let near = |points: &[Vector], center: &dyn Fn(usize) -> Vector| -> Vec<Vector> {
            let point = |(i, p): (usize, &Vector)| {
                let center = center(i);
                unit(std::array::from_fn(|e| center[e] + 0.2 * p[e]))
            };
            points.iter().enumerate().map(point).collect()
        };
        let ordered = |i: usize| centers[i / 128];
        let shuffled = |i: usize| centers[i * 5_003 % N / 128];
        let longer = |(j, v): (usize, &Vector)| v.map(|v| v * (1 + j) as f32);
        // 100 columns side by side are close to all rows.
        let hubs = |j: usize| if (5_000..5_100).contains(&j) { centers[0] } else { y[j] };
        vec![
            ("uniform", x.clone(), y.clone()),
            ("clusters in order", near(&x, &ordered), near(&y, &ordered)),
            ("clusters shuffled", near(&x, &shuffled), near(&y, &shuffled)),
            ("columns longer and longer", x.clone(), y.iter().enumerate().map(longer).collect()),
            ("hubs", near(&x, &|_| centers[0]), near(&y, &hubs)),
            ("all equal", vec![x[0]; N], vec![x[0]; N]),
        ]
    }

    fn similarity(anchor: &Vector, candidate: &Vector) -> f32 {
        anchor.iter().zip(candidate).map(|(a, b)| a * b).sum()
    }

    #[test]
    #[ignore = "figures for the notes; a minute"]
    fn how_the_cuts_of_rows_are_guessed() {
        let (side, k) = (Tile::Large.side(), 16);
        let kind = Kind { arithmetic: Arithmetic::Bf16, tile: Tile::Large };
        let stages = stages(&shape(N, N, Mining::HardestPerRow(k)), kind, LIST_BYTES);
        let stages = stages.unwrap();
        println!("{stages:?}");
        for (name, x, y) in data() {
            let (mut sum, mut most, mut again, mut wrong) = (0, 0, 0, 0);
            for (i, anchor) in x.iter().enumerate() {
                let mut row: Vec<f32> = y.iter().map(|y| similarity(anchor, y)).collect();
                row[i] = f32::NAN;
                let tiles = stages.sample.tiles().map(|tile| tile * side);
                let sample = tiles.flat_map(|at| row[at..at + side].iter().copied());
                let sample: Vec<f32> = sample.collect();
                let above = |cut: f32| row.iter().filter(|&&value| value >= cut).count();
                let mut found = above(guess(&tops(&sample, kind, stages.elements), stages.rank));
                sum += found;
                most = most.max(found);
                // As guess_again (kernels/lists.cu) does.
                if found < k {
                    again += 1;
                    let number = sample.len();
                    let rank = stages.second * k / (found + 1);
                    found = above(guess(&sample, rank.min(number - number / 16)));
                }
                wrong += usize::from(found < k || found > stages.capacity);
            }
            let mean = sum as f64 / N as f64;
            println!(
                "{name}: {mean:.1} candidates a row, {most} at most; {again} rows guessed again, \
                 {wrong} wrong for all that"
            );
        }
    }

    #[test]
    #[ignore = "figures for the notes; a minute"]
    fn how_the_cut_of_the_matrix_is_guessed() {
        let (side, k) = (Tile::Large.side(), N);
        let kind = Kind { arithmetic: Arithmetic::Bf16, tile: Tile::Large };
        let stages = stages(&shape(N, N, Mining::Hardest(k)), kind, LIST_BYTES).unwrap();
        println!("{stages:?}");
        let across = N / side;
        let (middle, rank) = stages.middle.unwrap();
        for (name, x, y) in data() {
            let tile = |at: usize| {
                let (i0, j0) = (at / across * side, at % across * side);
                let row = |i: usize| (j0..j0 + side).map(move |j| (i, j));
                let value = |(i, j): (usize, usize)| {
                    if i == j { f32::NAN } else { similarity(&x[i], &y[j]) }
                };
                (i0..i0 + side).flat_map(row).map(value).collect::<Vec<f32>>()
            };
            // The `rank`th largest, or that of all where there are fewer.
            let nth = |values: &mut Vec<f32>, rank: usize| {
                values.retain(|value| !value.is_nan());
                values.sort_by(|a, b| b.total_cmp(a));
                values.get(rank - 1).copied().unwrap_or(f32::NEG_INFINITY)
            };
            let sampled = stages.sample.tiles().flat_map(|at| {
                let values = tile(at);
                values
                    .chunks(side)
                    .flat_map(|row| tops(row, kind, stages.elements))
                    .collect::<Vec<_>>()
            });
            let mut cut = nth(&mut sampled.collect(), stages.rank);
            let collect = |list: &mut Vec<f32>,
                           cut: f32,
                           tiles: &mut dyn Iterator<Item = usize>| {
                tiles.for_each(|at| list.extend(tile(at).iter().filter(|value| **value >= cut)));
            };
            let mut list = Vec::new();
            collect(&mut list, cut, &mut middle.tiles());
            let first = list.len();
            if first > rank && first <= stages.capacity {
                cut = nth(&mut list.clone(), rank);
            }
            collect(&mut list, cut, &mut stages.rest.tiles());
            let above = list.iter().filter(|&&value| value >= cut).count();
            let wrong = list.len() > stages.capacity || above < k;
            println!(
                "{name}: {first} candidates of the seventh, {} of the rest; {}",
                list.len() - first,
                if wrong { "a search" } else { "no repeat" }
            );
        }
    }
}
