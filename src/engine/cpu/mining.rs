//! Room: engines, CPU. The hardest pairs: exact sets in the order of similarity (descending), row,
//! column, without the matrix.
//!
//! A few pairs are a list, kept while S streams by: what is harder than the k-th so far is added,
//! and now and then all but k are dropped. Many pairs are described by where their order ends
//! ([`Cut`]): a few rows tell about where that is, and one look at S counts what lies above and lists
//! what lies near. Where they mislead, similarities are counted by their leading bits, in two looks
//! or three.
//! Sets do not depend on the order in which rows are visited, since no two pairs are equal.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pairs::Pairs;
use super::passes::{Positive, take_positives};
use super::sweep::Pass;
use crate::{Error, Result};

/// The place of a similarity in descending order: 0 is the hardest there could be. −0 equals 0; NaN
/// comes last.
fn rank(similarity: f32) -> u32 {
    if similarity.is_nan() {
        return u32::MAX;
    }
    let bits = (similarity + 0.0).to_bits();
    // Negative numbers descend with their bits, positive ones ascend and lie above.
    if bits >> 31 == 1 { bits } else { !(bits | 1 << 31) }
}

/// The similarity of a rank.
fn similarity(rank: u32) -> f32 {
    f32::from_bits(if rank >> 31 == 1 { rank } else { !rank & !(1 << 31) })
}

/// A pair; the harder one is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    rank: u32,
    pub row: u32,
    pub column: u32,
}

impl Candidate {
    pub fn similarity(self) -> f32 {
        similarity(self.rank)
    }
}

/// Leaves the `k` hardest, in no order; whether that has dropped any.
fn shrink(found: &mut Vec<Candidate>, k: usize) -> bool {
    let drops = found.len() > k;
    if drops {
        found.select_nth_unstable(k - 1);
        found.truncate(k);
    }
    drops
}

/// Which elements of a row are candidates at all.
#[derive(Clone, Copy)]
enum Among {
    /// All, NaN too.
    Everything,
    /// Those of at least this similarity.
    AtLeast(f32),
}

/// Where the mask of passes leaves −∞, there is no negative.
const NEGATIVES: Among = Among::AtLeast(f32::MIN);

impl Among {
    /// Calls `visit` with column and similarity.
    fn scan(self, row: &[f32], mut visit: impl FnMut(usize, f32)) {
        const CHUNK: usize = 64;
        let low = match self {
            Self::Everything => {
                return row.iter().enumerate().for_each(|(j, &value)| visit(j, value));
            }
            Self::AtLeast(low) => low,
        };
        for (at, chunk) in row.chunks(CHUNK).enumerate() {
            // Most chunks hold none: without branches, that is told for several values at once.
            if !chunk.iter().fold(false, |any, &value| any | (value >= low)) {
                continue;
            }
            for (j, &value) in chunk.iter().enumerate() {
                if value >= low {
                    visit(at * CHUNK + j, value);
                }
            }
        }
    }

    /// Those that can still be among the hardest, in row i, once pairs up to `cut` fill the list.
    fn below(self, cut: Option<(u32, u32)>, i: usize) -> Self {
        let Some((rank, row)) = cut else { return self };
        let last = similarity(rank);
        if last.is_nan() {
            return self;
        }
        // Equally hard pairs of later rows come too late.
        let low = if i > row as usize { last.next_up() } else { last };
        match self {
            Self::AtLeast(least) => Self::AtLeast(low.max(least)),
            Self::Everything => Self::AtLeast(low),
        }
    }
}

/// The `k` hardest candidates of row i, in no order.
fn hardest_of_row(i: usize, row: &[f32], k: usize, among: Among) -> Vec<Candidate> {
    // Parts so long that dropping costs no more than finding.
    let part = k.max(64).next_multiple_of(64);
    let mut found = Vec::new();
    let mut cut = None;
    for (at, values) in row.chunks(part).enumerate() {
        // Within a row, columns ascend: equally hard ones come too late.
        among.below(cut.map(|rank| (rank, 0)), 1).scan(values, |j, value| {
            let column = (at * part + j) as u32;
            found.push(Candidate { rank: rank(value), row: i as u32, column });
        });
        if shrink(&mut found, k) {
            cut = Some(found[k - 1].rank);
        }
    }
    found
}

/// The hardest pairs of the whole matrix, offered row by row from many threads.
pub(super) struct Hardest {
    k: usize,
    among: Among,
    /// Harder ones are counted elsewhere.
    hardest: u32,
    found: Mutex<Vec<Candidate>>,
    /// Rank and row of the k-th hardest so far: what comes after it is out.
    cut: AtomicU64,
}

impl Hardest {
    const OPEN: u64 = u64::MAX;

    fn new(k: usize, among: Among, hardest: u32) -> Self {
        Self { k, among, hardest, found: Mutex::default(), cut: AtomicU64::new(Self::OPEN) }
    }

    /// The `k` hardest of all pairs.
    ///
    /// # Errors
    /// If memory for them cannot be had.
    pub fn of_everything(k: usize) -> Result<Self> {
        let new = Self::new(k, Among::Everything, 0);
        new.found().try_reserve(k).map_err(|_| out_of_memory(k))?;
        Ok(new)
    }

    fn found(&self) -> MutexGuard<'_, Vec<Candidate>> {
        // Candidates are whole whatever panicked.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, i: usize, row: &[f32]) {
        let cut = match self.cut.load(Ordering::Relaxed) {
            Self::OPEN => None,
            cut => Some(((cut >> 32) as u32, cut as u32)),
        };
        let mut new = Vec::new();
        self.among.below(cut, i).scan(row, |j, value| {
            let rank = rank(value);
            if rank >= self.hardest {
                new.push(Candidate { rank, row: i as u32, column: j as u32 });
            }
        });
        if new.is_empty() {
            return;
        }
        shrink(&mut new, self.k);
        let mut found = self.found();
        found.append(&mut new);
        // Twice as many before all but k are dropped: each drop is paid for by what it drops.
        if found.len() / 2 >= self.k.max(1 << 12) && shrink(&mut found, self.k) {
            let last = found[self.k - 1];
            self.cut.store(u64::from(last.rank) << 32 | u64::from(last.row), Ordering::Relaxed);
        }
    }

    /// The k hardest, or all that were offered, in no order.
    fn take(self) -> Vec<Candidate> {
        let mut found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        shrink(&mut found, self.k);
        found
    }

    /// The same, hardest first.
    pub fn sorted(self) -> Vec<Candidate> {
        let mut found = self.take();
        found.sort_unstable();
        found
    }
}

pub(super) fn out_of_memory(k: usize) -> Error {
    let bytes = k as u128 * size_of::<Candidate>() as u128;
    Error::argument("k", format!("{k} pairs, {bytes} bytes"), "as many as memory holds")
}

/// All pairs of S are offered.
pub(super) struct OfferEverything<'a>(pub &'a Hardest);

impl Pass for OfferEverything<'_> {
    type Row = ();
    const EMPTY: () = ();

    fn visit(&self, i: usize, row: &mut [f32]) {
        self.0.offer(i, row);
    }
}

/// The k hardest of all pairs of each row, hardest first.
pub(super) struct HardestOfRows {
    pub k: usize,
}

impl Pass for HardestOfRows {
    type Row = Vec<Candidate>;
    const EMPTY: Vec<Candidate> = Vec::new();

    fn visit(&self, i: usize, row: &mut [f32]) -> Vec<Candidate> {
        let mut found = hardest_of_row(i, row, self.k, Among::Everything);
        found.sort_unstable();
        found
    }
}

/// Where a set of pairs ends: all similarities above `value` are in it; of those equal to it, rows
/// before `row` and the first `ties` of `row`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    value: f32,
    row: usize,
    ties: usize,
}

impl Cut {
    /// Where this list ends; `None` if it is not as long as `k`, and nothing is left out.
    fn of(found: &[Candidate], k: usize) -> Option<Self> {
        let last = *found.iter().max().filter(|_| found.len() >= k)?;
        let ties = found.iter().filter(|pair| (pair.rank, pair.row) == (last.rank, last.row));
        Some(Self { value: last.similarity(), row: last.row as usize, ties: ties.count() })
    }

    /// Leaves −∞ for what is not in the set. NaN stays: it makes the loss NaN, mined or not.
    fn keep(&self, i: usize, row: &mut [f32]) {
        let value = self.value;
        match i.cmp(&self.row) {
            std::cmp::Ordering::Less => mask(row, |similarity| similarity < value),
            std::cmp::Ordering::Greater => mask(row, |similarity| similarity <= value),
            std::cmp::Ordering::Equal => {
                let mut ties = self.ties;
                mask(row, |similarity| {
                    let tie = similarity == value;
                    let out = similarity < value || (tie && ties == 0);
                    ties -= usize::from(tie && ties > 0);
                    out
                });
            }
        }
    }
}

fn mask(row: &mut [f32], mut out: impl FnMut(f32) -> bool) {
    for similarity in row {
        *similarity = if out(*similarity) { f32::NEG_INFINITY } else { *similarity };
    }
}

/// Which negatives count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mined {
    All,
    /// So many of each row.
    PerRow(usize),
    UpTo(Cut),
}

impl Mined {
    /// Leaves −∞ for negatives of row i that do not count, as there is already for what is no
    /// negative.
    pub fn keep(&self, i: usize, row: &mut [f32]) {
        match self {
            Self::All => {}
            Self::PerRow(k) => {
                if let Some(cut) = Cut::of(&hardest_of_row(i, row, *k, NEGATIVES), *k) {
                    cut.keep(i, row);
                }
            }
            Self::UpTo(cut) => cut.keep(i, row),
        }
    }
}

/// What is mined of a row as a list, and its positives.
#[derive(Clone, Default)]
pub(super) struct Listed {
    pub positives: Vec<Positive>,
    /// Empty where negatives are chosen from the whole matrix.
    pub mined: Vec<Candidate>,
    /// Whether a negative is NaN.
    pub nan: bool,
}

/// Who gets the negatives of a row.
pub(super) enum Mine {
    /// The row keeps so many.
    PerRow(usize),
    Hardest(Hardest),
}

impl Mine {
    pub fn hardest(k: usize) -> Self {
        Self::Hardest(Hardest::new(k, NEGATIVES, 0))
    }

    /// Of the whole matrix, where it was those.
    pub fn take(self) -> Vec<Candidate> {
        match self {
            Self::PerRow(_) => Vec::new(),
            Self::Hardest(hardest) => hardest.take(),
        }
    }
}

/// Positives and mined negatives as lists.
pub(super) struct List<'a> {
    pub pairs: &'a Pairs<'a>,
    pub mine: &'a Mine,
}

impl Pass for List<'_> {
    type Row = Listed;
    const EMPTY: Listed = Listed { positives: Vec::new(), mined: Vec::new(), nan: false };

    fn visit(&self, i: usize, row: &mut [f32]) -> Listed {
        let positives = take_positives(self.pairs, i, row);
        let mined = match self.mine {
            Mine::PerRow(k) => hardest_of_row(i, row, *k, NEGATIVES),
            Mine::Hardest(hardest) => {
                hardest.offer(i, row);
                Vec::new()
            }
        };
        let nan = row.iter().fold(false, |nan, value| nan | value.is_nan());
        Listed { positives, mined, nan }
    }
}

/// What similarities are counted by: the upper half of their rank, or the lower one where the upper
/// is known.
#[derive(Clone, Copy)]
enum Half {
    Upper,
    Lower(u32),
}

/// Counts negatives by half of their rank.
struct Count<'a> {
    pairs: &'a Pairs<'a>,
    half: Half,
    /// Counts that no thread is adding to now; their sum is the answer.
    counts: Mutex<Vec<Vec<u64>>>,
}

impl<'a> Count<'a> {
    fn new(pairs: &'a Pairs<'a>, half: Half) -> Self {
        Self { pairs, half, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Vec<Vec<u64>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn total(&self) -> Vec<u64> {
        let mut total = vec![0; 1 << 16];
        for counts in self.counts().iter() {
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        total
    }
}

impl Pass for Count<'_> {
    type Row = ();
    const EMPTY: () = ();

    fn visit(&self, i: usize, row: &mut [f32]) {
        take_positives(self.pairs, i, row);
        let free = self.counts().pop();
        let mut counts = free.unwrap_or_else(|| vec![0; 1 << 16]);
        NEGATIVES.scan(row, |_, similarity| {
            let rank = rank(similarity);
            match self.half {
                Half::Upper => counts[(rank >> 16) as usize] += 1,
                Half::Lower(upper) if rank >> 16 == upper => {
                    counts[(rank & 0xffff) as usize] += 1;
                }
                Half::Lower(_) => {}
            }
        });
        self.counts().push(counts);
    }
}

/// Counts the negatives of each row that are equal to a value.
struct CountTies<'a> {
    pairs: &'a Pairs<'a>,
    value: f32,
}

impl Pass for CountTies<'_> {
    type Row = usize;
    const EMPTY: usize = 0;

    fn visit(&self, i: usize, row: &mut [f32]) -> usize {
        take_positives(self.pairs, i, row);
        row.iter().filter(|&&similarity| similarity == self.value).count()
    }
}

/// Offers negatives.
struct Offer<'a> {
    pairs: &'a Pairs<'a>,
    hardest: &'a Hardest,
}

impl Pass for Offer<'_> {
    type Row = ();
    const EMPTY: () = ();

    fn visit(&self, i: usize, row: &mut [f32]) {
        take_positives(self.pairs, i, row);
        self.hardest.offer(i, row);
    }
}

/// The first place at which counts add up to `k`, and what is left of `k` there; `None` if they
/// never do.
fn reach(counts: impl Iterator<Item = u64>, k: u64) -> Option<(usize, u64)> {
    let mut left = k;
    for (at, count) in counts.enumerate() {
        if count >= left {
            return Some((at, left));
        }
        left -= count;
    }
    None
}

/// Counts negatives above a range of similarities, and lists those in it, if they are few enough.
struct Near<'a> {
    pairs: &'a Pairs<'a>,
    low: f32,
    high: f32,
    most: usize,
    found: Mutex<Vec<Candidate>>,
    /// How many there are in the range, listed or not.
    count: AtomicUsize,
}

impl Pass for Near<'_> {
    type Row = u64;
    const EMPTY: u64 = 0;

    fn visit(&self, i: usize, row: &mut [f32]) -> u64 {
        take_positives(self.pairs, i, row);
        if self.count.load(Ordering::Relaxed) <= self.most {
            let mut new = Vec::new();
            Among::AtLeast(self.low).scan(row, |j, similarity| {
                if similarity <= self.high {
                    let rank = rank(similarity);
                    new.push(Candidate { rank, row: i as u32, column: j as u32 });
                }
            });
            let before = self.count.fetch_add(new.len(), Ordering::Relaxed);
            if before + new.len() <= self.most {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut new);
            }
        }
        row.iter().filter(|&&similarity| similarity > self.high).count() as u64
    }
}

/// Looks at S.
pub(super) trait Sweeper {
    /// Runs a pass over all rows.
    fn sweep<P: Pass>(&mut self, pass: &mut P) -> Vec<P::Row>;

    /// So many rows of S, evenly spread, and their numbers; bits may be others than in a sweep.
    fn sample(&mut self, rows: usize) -> impl Iterator<Item = (usize, Vec<f32>)>;
}

/// Rows of a sample.
const SAMPLE: usize = 32;

/// Similarities between which the `k`-th hardest negative probably lies, with about `most`/2 pairs
/// between them.
fn estimate(
    sweeper: &mut impl Sweeper,
    pairs: &Pairs<'_>,
    n: usize,
    k: usize,
    most: usize,
) -> (f32, f32) {
    let mut sample = Vec::new();
    for (i, mut row) in sweeper.sample(SAMPLE) {
        take_positives(pairs, i, &mut row);
        sample.extend(row.into_iter().filter(|&similarity| similarity >= f32::MIN));
    }
    let part = SAMPLE as f64 / n as f64;
    let place = |pairs: f64| (pairs * part) as usize;
    let mut at = |place: usize| {
        let descending = |a: &f32, b: &f32| b.total_cmp(a);
        (place < sample.len()).then(|| *sample.select_nth_unstable_by(place, descending).1)
    };
    let (middle, side) = (k as f64, most as f64 / 4.0);
    let low = at(place(middle + side)).unwrap_or(f32::MIN);
    let high = if middle > side { at(place(middle - side)) } else { None };
    (low, high.unwrap_or(f32::INFINITY))
}

/// The `k` hardest negatives of the matrix, n rows of it, without a list of more than `most`.
pub(super) fn hardest(
    sweeper: &mut impl Sweeper,
    pairs: &Pairs<'_>,
    n: usize,
    k: usize,
    most: usize,
) -> Mined {
    if n >= 4 * SAMPLE {
        let (low, high) = estimate(sweeper, pairs, n, k, most);
        let (found, count) = Default::default();
        let mut near = Near { pairs, low, high, most, found, count };
        let above: u64 = sweeper.sweep(&mut near).into_iter().sum();
        let left = (k as u64).saturating_sub(above) as usize;
        let count = near.count.into_inner();
        if (1..=count).contains(&left) && count <= most {
            let mut found = near.found.into_inner().unwrap_or_else(PoisonError::into_inner);
            shrink(&mut found, left);
            return Cut::of(&found, left).map_or(Mined::All, Mined::UpTo);
        }
    }
    hardest_by_counting(sweeper, pairs, k as u64, most)
}

fn hardest_by_counting(
    sweeper: &mut impl Sweeper,
    pairs: &Pairs<'_>,
    k: u64,
    most: usize,
) -> Mined {
    let mut upper = Count::new(pairs, Half::Upper);
    sweeper.sweep(&mut upper);
    let counts = upper.total();
    let Some((upper, left)) = reach(counts.iter().copied(), k) else { return Mined::All };
    let (first, last) = ((upper as u32) << 16, (upper as u32) << 16 | 0xffff);

    if counts[upper] <= most as u64 {
        let among = Among::AtLeast(similarity(last));
        let hardest = Hardest::new(left as usize, among, first);
        sweeper.sweep(&mut Offer { pairs, hardest: &hardest });
        return Cut::of(&hardest.take(), left as usize).map_or(Mined::All, Mined::UpTo);
    }
    let mut lower = Count::new(pairs, Half::Lower(upper as u32));
    sweeper.sweep(&mut lower);
    let Some((lower, left)) = reach(lower.total().into_iter(), left) else { return Mined::All };
    let value = similarity(first | lower as u32);
    let ties = sweeper.sweep(&mut CountTies { pairs, value });
    match reach(ties.iter().map(|&ties| ties as u64), left) {
        Some((row, ties)) => Mined::UpTo(Cut { value, row, ties: ties as usize }),
        None => Mined::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_descend_with_similarities_and_lead_back() {
        let values = [
            f32::INFINITY,
            f32::MAX,
            1.0,
            1.0f32.next_down(),
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            0.0,
            -f32::from_bits(1),
            -1.0,
            f32::MIN,
            f32::NEG_INFINITY,
        ];
        for pair in values.windows(2) {
            assert!(rank(pair[0]) < rank(pair[1]), "{pair:?}");
        }
        for value in values {
            assert_eq!(similarity(rank(value)).to_bits(), value.to_bits());
        }
        assert_eq!(rank(-0.0), rank(0.0));
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert_eq!(rank(nan), u32::MAX);
        }
        assert!(similarity(u32::MAX).is_nan());
    }

    #[test]
    fn the_hardest_of_a_row_are_the_first_after_sorting() {
        let mut random = fastrand::Rng::with_seed(1);
        for len in [1usize, 2, 63, 64, 65, 300] {
            for values in [1, 3, 1000] {
                let mut row: Vec<f32> = (0..len).map(|_| random.i32(0..values) as f32).collect();
                if len > 64 {
                    row[3] = f32::NAN;
                    row[40] = f32::NEG_INFINITY;
                    row[41] = -0.0;
                }
                let mut sorted: Vec<Candidate> = row
                    .iter()
                    .enumerate()
                    .map(|(j, &v)| Candidate { rank: rank(v), row: 7, column: j as u32 })
                    .collect();
                sorted.sort_unstable();
                for k in [1, 2, len / 2, len - 1, len, len + 1] {
                    if k == 0 {
                        continue;
                    }
                    let mut found = hardest_of_row(7, &row, k, Among::Everything);
                    found.sort_unstable();
                    assert_eq!(found, sorted[..k.min(len)], "{len} {values} {k}");

                    let mut kept = row.clone();
                    Mined::PerRow(k).keep(7, &mut kept);
                    let numbers = |row: &[f32]| row.iter().filter(|v| **v >= f32::MIN).count();
                    assert_eq!(numbers(&kept), k.min(numbers(&row)));
                    for pair in sorted.iter().filter(|pair| pair.similarity() >= f32::MIN).take(k) {
                        assert_eq!(kept[pair.column as usize], pair.similarity());
                    }
                    assert!(len <= 64 || kept[3].is_nan());
                }
            }
        }
    }

    /// So many pairs that the list is cut short many times on the way.
    #[test]
    fn the_hardest_do_not_depend_on_the_order_of_rows() {
        let (n, m) = (150, 400);
        let mut random = fastrand::Rng::with_seed(2);
        for values in [1, 3, 100_000] {
            let s: Vec<f32> = (0..n * m).map(|_| random.i32(0..values) as f32 - 1.0).collect();
            let candidate = |at: usize| Candidate {
                rank: rank(s[at]),
                row: (at / m) as u32,
                column: (at % m) as u32,
            };
            let mut sorted: Vec<Candidate> = (0..n * m).map(candidate).collect();
            sorted.sort_unstable();
            let ascending: Vec<usize> = (0..n).collect();
            let descending: Vec<usize> = (0..n).rev().collect();
            let mut shuffled = ascending.clone();
            random.shuffle(&mut shuffled);
            for k in [1, 30, 5_000, n * m - 1, n * m, n * m + 1] {
                for order in [&ascending, &descending, &shuffled] {
                    let hardest = Hardest::of_everything(k).unwrap();
                    order.iter().for_each(|&i| hardest.offer(i, &s[i * m..][..m]));
                    let longest = hardest.found().capacity();
                    assert!(longest <= (k.max(1 << 12) * 4).max(16 * m), "{k}: {longest}");
                    assert!(hardest.sorted() == sorted[..k.min(n * m)], "{values} {k}");
                }
            }
        }
    }

    #[test]
    fn counts_are_reached_where_they_add_up() {
        assert_eq!(reach([0, 2, 0, 3].into_iter(), 1), Some((1, 1)));
        assert_eq!(reach([0, 2, 0, 3].into_iter(), 2), Some((1, 2)));
        assert_eq!(reach([0, 2, 0, 3].into_iter(), 3), Some((3, 1)));
        assert_eq!(reach([0, 2, 0, 3].into_iter(), 6), None);
    }
}
