//! Room: engines, CPU. Threads and products on host memory; the engine of machines without a GPU.

mod mining;
mod pairs;
mod passes;
mod pool;
mod product;
mod row;
mod rows;
mod sparse;
mod sweep;

use rayon::prelude::*;

pub(crate) use self::pairs::Pairs;
pub(crate) use self::product::product;
pub(crate) use self::rows::Rows;

use self::mining::{
    Hardest, HardestOfRows, List, Mine, Mined, OfferEverything, Sweeper, out_of_memory,
};
use self::passes::{LogSumExp, MatrixTerms, Negatives, RowTerms, RowWeights, Weights};
use self::product::product_in_tiles;
use self::sparse::Sparse;
use self::sweep::{Pass, sweep};
use crate::engine::{Engine, GradientsMut, Problem, sealed};
use crate::loss::formula::{self, Group, Mining, Scope, Terms};
use crate::matrix::{Host, Matrix, MatrixMut, Scalar};
use crate::ops::{TopKMut, check_dimension, check_shape, pairs_of_top_k};
use crate::{DType, Element, Error, Result};

/// Performs the passes on the CPU: rayon's current thread pool, products of its own with AVX-512 and
/// by the `gemm` crate elsewhere.
///
/// While a pass of more than about a millisecond is under way, the pool's other threads look for
/// shares of it without going to sleep, for up to 10 ms each time they find none.
///
/// Besides inputs and outputs it holds `f32` copies of embeddings that are not `f32` already, O(n)
/// statistics, and a panel of at most 512 rows of S (64 MiB, or 8 rows where those take more).
/// Mining adds a list of pairs no larger than the embeddings, or 512 KiB of counts a thread where
/// the set is larger. Results do not depend on the number of threads. An embedding that is not finite
/// makes the loss and every gradient NaN.
#[derive(Debug, Default)]
pub struct CpuEngine {
    /// Scratch of [`sweep`], kept from call to call.
    panel: Vec<f32>,
}

impl CpuEngine {
    /// An engine without any memory yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// What backward needs of a forward pass on the CPU.
#[derive(Debug)]
pub struct Statistics {
    /// One group a row, or one for all.
    groups: Vec<Group>,
    /// ln W of each group.
    log_weights: Vec<f64>,
    totals: Terms,
    chosen: Chosen,
}

/// The negatives that count: a mask on every row, or few enough for a list.
#[derive(Debug)]
enum Chosen {
    Masked(Mined),
    Listed(Sparse),
}

/// A problem with its rows made ready and its pairs sorted.
struct Prepared<'a> {
    x: Rows<'a>,
    y: Option<Rows<'a>>,
    pairs: Pairs<'a>,
    /// NaN if the problem has no finite answer.
    scale: f32,
}

impl<'a> Prepared<'a> {
    fn new<T: Element>(problem: &Problem<'a, Host, T>) -> Result<Self> {
        let pairs = Pairs::new(problem)?;
        let x = Rows::new(problem.x, problem.normalize);
        let y = problem.y.map(|y| Rows::new(y, problem.normalize));
        let scale = read(problem.scale);
        let finite = x.finite && y.as_ref().is_none_or(|y| y.finite);
        let valid = finite && scale > 0.0 && scale.is_finite();
        Ok(Self { x, y, pairs, scale: if valid { scale } else { f32::NAN } })
    }

    fn y(&self) -> &Rows<'a> {
        self.y.as_ref().unwrap_or(&self.x)
    }
}

fn read(scalar: Scalar<'_, Host>) -> f32 {
    match scalar {
        Scalar::Value(value) => value,
        Scalar::Device(view) => view[0],
    }
}

/// dX and dY while they grow: the caller's buffers, or scratch where a sum is needed first.
struct Growing<'g> {
    out: GradientsMut<'g, Host>,
    /// dX where only dScale is asked for.
    x: Vec<f32>,
    /// dY of the shared case, to be added to dX.
    y: Vec<f32>,
    d: usize,
}

impl<'g> Growing<'g> {
    fn new(prepared: &Prepared<'_>, out: GradientsMut<'g, Host>) -> Self {
        let size = prepared.x.n * prepared.x.d;
        let alone = out.x.is_none() && out.scale.is_some();
        let shared = out.x.is_some() && prepared.y.is_none();
        Self {
            x: vec![0.0; if alone { size } else { 0 }],
            y: vec![0.0; if shared { size } else { 0 }],
            d: prepared.x.d,
            out,
        }
    }

    fn x(&mut self) -> Option<MatrixMut<'_, Host, f32>> {
        growing(self.out.x.as_mut(), &mut self.x, self.d)
    }

    fn both(&mut self) -> [Option<MatrixMut<'_, Host, f32>>; 2] {
        [
            growing(self.out.x.as_mut(), &mut self.x, self.d),
            growing(self.out.y.as_mut(), &mut self.y, self.d),
        ]
    }

    /// dX and dY are complete but for `factor`: takes dScale off them, adds the two sides of the
    /// shared case, and goes back through the normalisation.
    fn finish(mut self, prepared: &Prepared<'_>, factor: f64) {
        let scale = f64::from(prepared.scale);
        if self.out.scale.is_some()
            && let Some(x) = self.x()
        {
            let dots: Vec<f64> = x
                .data
                .par_chunks(x.row_stride)
                .take(x.rows)
                .enumerate()
                .map(|(i, row)| row::dot(prepared.x.row(i), row))
                .collect();
            if let Some(out) = &mut self.out.scale {
                out[0] = (factor / scale * dots.iter().sum::<f64>()) as f32;
            }
        }
        let d = self.d;
        if let Some(out) = &mut self.out.x {
            if prepared.y.is_none() {
                out.data
                    .par_chunks_mut(out.row_stride)
                    .zip(self.y.par_chunks(d))
                    .for_each(|(x, y)| row::add_scaled(&mut x[..d], 1.0, y));
            }
            finish_rows(&prepared.x, out, factor as f32);
        }
        if let (Some(out), Some(y)) = (&mut self.out.y, &prepared.y) {
            finish_rows(y, out, factor as f32);
        }
    }

    /// No finite answer: NaN wherever something was asked for.
    fn poison(mut self) {
        let d = self.d;
        for out in [&mut self.out.x, &mut self.out.y].into_iter().flatten() {
            let rows = out.data.chunks_mut(out.row_stride).take(out.rows);
            rows.for_each(|row| row[..d].fill(f32::NAN));
        }
        if let Some(out) = &mut self.out.scale {
            out[0] = f32::NAN;
        }
    }
}

fn growing<'v>(
    out: Option<&'v mut MatrixMut<'_, Host, f32>>,
    scratch: &'v mut [f32],
    d: usize,
) -> Option<MatrixMut<'v, Host, f32>> {
    match out {
        Some(MatrixMut { data, rows, cols, row_stride }) => {
            Some(MatrixMut { data, rows: *rows, cols: *cols, row_stride: *row_stride })
        }
        None if scratch.is_empty() => None,
        None => {
            let rows = scratch.len() / d;
            Some(MatrixMut { data: scratch, rows, cols: d, row_stride: d })
        }
    }
}

fn finish_rows(rows: &Rows<'_>, out: &mut MatrixMut<'_, Host, f32>, factor: f32) {
    let (stride, d) = (out.row_stride, rows.d);
    out.data
        .par_chunks_mut(stride)
        .take(rows.n)
        .enumerate()
        .for_each(|(i, row)| rows.finish_gradient(i, &mut row[..d], factor));
}

/// Looks at S for which negatives count.
struct Choosing<'a> {
    engine: &'a mut CpuEngine,
    prepared: &'a Prepared<'a>,
}

impl Sweeper for Choosing<'_> {
    fn sweep<P: Pass>(&mut self, pass: &mut P) -> Vec<P::Row> {
        self.engine.sweep(self.prepared, pass, None)
    }

    fn sample(&mut self, rows: usize) -> impl Iterator<Item = (usize, Vec<f32>)> {
        let (x, y) = (&self.prepared.x, self.prepared.y());
        (0..rows).map(move |at| {
            let i = at * x.n / rows;
            let mut row = vec![0.0; y.n];
            product(&mut row, y.n, x.block(i, 1), y.block(0, y.n).transposed(), false);
            (i, row)
        })
    }
}

impl CpuEngine {
    /// Which negatives count. A list takes no more memory than the embeddings, and is no longer
    /// than what it saves: gathering rows is slower than a product of as many pairs.
    fn choose<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
    ) -> Chosen {
        let (n, m, d) = (prepared.x.n, prepared.y().n, prepared.x.d);
        let pairs = &prepared.pairs;
        let most = (n * (m / 8)).min((n + m) * d / 4).min(Sparse::MOST);
        let (mine, mined) = match problem.mining {
            Mining::All => return Chosen::Masked(Mined::All),
            Mining::Hardest(k) => (Mine::hardest(k), k),
            Mining::HardestPerRow(k) => (Mine::PerRow(k), n.saturating_mul(k)),
        };
        let positives: usize = (0..n).map(|i| pairs.positive_count(i)).sum();
        if mined.saturating_add(positives) <= most {
            let listed = self.sweep(prepared, &mut List { pairs, mine: &mine }, None);
            if listed.iter().any(|row| row.nan) {
                // No number answers; with all negatives the answer is NaN.
                return Chosen::Masked(Mined::All);
            }
            return Chosen::Listed(Sparse::new(listed, mine.take(), m));
        }
        Chosen::Masked(match problem.mining {
            Mining::All => Mined::All,
            Mining::HardestPerRow(k) => Mined::PerRow(k),
            Mining::Hardest(k) => {
                mining::hardest(&mut Choosing { engine: self, prepared }, pairs, n, k, most)
            }
        })
    }

    fn sweep<P: Pass>(
        &mut self,
        prepared: &Prepared<'_>,
        pass: &mut P,
        growing: Option<&mut Growing<'_>>,
    ) -> Vec<P::Row> {
        let [mut dx, mut dy] = growing.map_or([None, None], Growing::both);
        sweep(&prepared.x, prepared.y(), &mut self.panel, pass, dx.as_mut(), dy.as_mut())
    }

    /// Positives against one group of the whole matrix.
    fn matrix_terms(
        &mut self,
        prepared: &Prepared<'_>,
        rows: &[(Group, f32)],
        group: Group,
    ) -> Terms {
        let (pairs, scale) = (&prepared.pairs, prepared.scale);
        if !pairs.are_single() {
            let mut pass = MatrixTerms { pairs, scale, group };
            let rows = self.sweep(prepared, &mut pass, None);
            return rows.into_iter().fold(Terms::NONE, Terms::merge);
        }
        let mut terms = Terms::NONE;
        for (i, &(_, similarity)) in rows.iter().enumerate() {
            if pairs.single(i).is_some() {
                terms.add(group.margin(similarity, f64::from(scale)));
            }
        }
        terms
    }

    fn statistics<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
        chosen: Chosen,
    ) -> Statistics {
        let (pairs, scale) = (&prepared.pairs, prepared.scale);
        let mined = match &chosen {
            Chosen::Masked(mined) => *mined,
            Chosen::Listed(sparse) => {
                let groups = sparse.groups(problem.scope, scale);
                let terms = sparse.terms(&groups, scale);
                let totals = terms.iter().fold(Terms::NONE, |sum, &terms| sum.merge(terms));
                let log_weights = match problem.scope {
                    Scope::Row => terms.iter().map(|terms| terms.log_weight).collect(),
                    Scope::Matrix => vec![totals.log_weight],
                };
                return Statistics { groups, log_weights, totals, chosen };
            }
        };
        match problem.scope {
            Scope::Row => {
                let rows = self.sweep(prepared, &mut RowTerms { pairs, mined, scale }, None);
                Statistics {
                    totals: rows.iter().fold(Terms::NONE, |sum, &(_, terms)| sum.merge(terms)),
                    groups: rows.iter().map(|&(group, _)| group).collect(),
                    log_weights: rows.iter().map(|(_, terms)| terms.log_weight).collect(),
                    chosen,
                }
            }
            Scope::Matrix => {
                let mut pass = Negatives { pairs, mined, scale, reference: f32::NEG_INFINITY };
                let rows = self.sweep(prepared, &mut pass, None);
                let group = merge(rows.iter().map(|&(group, _)| group), scale);
                let totals = self.matrix_terms(prepared, &rows, group);
                Statistics {
                    groups: vec![group],
                    log_weights: vec![totals.log_weight],
                    totals,
                    chosen,
                }
            }
        }
    }

    fn gradients<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
        statistics: &Statistics,
        upstream: f32,
        out: GradientsMut<'_, Host>,
    ) {
        let mut growing = Growing::new(prepared, out);
        if prepared.scale.is_nan() {
            return growing.poison();
        }
        let Statistics { groups, log_weights, chosen, .. } = statistics;
        let weighting = problem.weighting;
        match chosen {
            Chosen::Listed(sparse) => {
                sparse.gradients(prepared, weighting, groups, log_weights, &mut growing);
            }
            &Chosen::Masked(mined) => {
                let (pairs, scale) = (&prepared.pairs, prepared.scale);
                let mut pass = Weights { pairs, mined, scale, weighting, groups, log_weights };
                self.sweep(prepared, &mut pass, Some(&mut growing));
            }
        }
        growing.finish(prepared, f64::from(upstream) / divisor(problem, &statistics.totals));
    }

    /// Loss and gradients.
    fn step<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
        out: GradientsMut<'_, Host>,
    ) -> f64 {
        let growing = Growing::new(prepared, out);
        if prepared.scale.is_nan() {
            growing.poison();
            return f64::NAN;
        }
        match (problem.scope, self.choose(problem, prepared)) {
            (Scope::Row, Chosen::Masked(mined)) => self.row_step(problem, prepared, mined, growing),
            (Scope::Matrix, Chosen::Masked(mined)) if prepared.pairs.are_single() => {
                self.matrix_step(problem, prepared, mined, growing)
            }
            // With labels, the weight of a negative waits for positives all over the matrix.
            (_, chosen) => {
                let statistics = self.statistics(problem, prepared, chosen);
                self.gradients(problem, prepared, &statistics, 1.0, growing.out);
                loss(problem, &statistics.totals)
            }
        }
    }

    /// Row scope, in 3 products: a strip holds whole rows, so their weights are final at once.
    fn row_step<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
        mined: Mined,
        mut growing: Growing<'_>,
    ) -> f64 {
        let mut pass = RowWeights {
            pairs: &prepared.pairs,
            mined,
            scale: prepared.scale,
            weighting: problem.weighting,
        };
        let rows = self.sweep(prepared, &mut pass, Some(&mut growing));
        let totals = rows.into_iter().fold(Terms::NONE, Terms::merge);
        growing.finish(prepared, 1.0 / divisor(problem, &totals));
        loss(problem, &totals)
    }

    /// Matrix scope with at most one positive a row, in 3 products: weights relative to each row's
    /// maximum, completed by one number when the log-sum-exp is known.
    fn matrix_step<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        prepared: &Prepared<'_>,
        mined: Mined,
        mut growing: Growing<'_>,
    ) -> f64 {
        let (pairs, scale) = (&prepared.pairs, prepared.scale);
        let mut pass = Negatives { pairs, mined, scale, reference: f32::NEG_INFINITY };
        let rows = self.sweep(prepared, &mut pass, Some(&mut growing));
        let s = f64::from(scale);
        let group = merge(rows.iter().map(|&(group, _)| group), scale);
        let totals = self.matrix_terms(prepared, &rows, group);
        let coefficients = formula::coefficients(group, totals.log_weight, s, problem.weighting);
        let negative = |max: f32| {
            if group.sum == 0.0 || max == f32::NEG_INFINITY {
                return 0.0;
            }
            (s * (f64::from(max) - f64::from(group.max)) + coefficients.negative).exp() as f32
        };
        let positive = |i: usize| coefficients.positive_weight(group.margin(rows[i].1, s)) as f32;

        let (x, y) = (&prepared.x, prepared.y());
        let d = x.d;
        let [dx, dy] = growing.both();
        if let Some(MatrixMut { data, row_stride, .. }) = dx {
            data.par_chunks_mut(row_stride).take(x.n).enumerate().for_each(|(i, gradient)| {
                let gradient = &mut gradient[..d];
                row::multiply(gradient, negative(rows[i].0.max));
                if let Some(j) = pairs.single(i) {
                    row::add_scaled(gradient, positive(i), y.row(j));
                }
            });
        }
        if let Some(MatrixMut { data, row_stride, .. }) = dy {
            let factor = negative(pass.reference);
            data.par_chunks_mut(row_stride)
                .take(y.n)
                .for_each(|gradient| row::multiply(&mut gradient[..d], factor));
            // In order of rows: several may have the same positive.
            for i in 0..x.n {
                if let Some(j) = pairs.single(i) {
                    let gradient = &mut data[j * row_stride..][..d];
                    row::add_scaled(gradient, positive(i), x.row(i));
                }
            }
        }
        growing.finish(prepared, 1.0 / divisor(problem, &totals));
        loss(problem, &totals)
    }
}

/// Has gradients of any type computed in `f32`, and rounds them.
fn in_f32<G: Element, R>(
    out: GradientsMut<'_, Host, G>,
    compute: impl FnOnce(GradientsMut<'_, Host>) -> R,
) -> R {
    let GradientsMut { mut x, mut y, scale } = out;
    if G::DTYPE == DType::F32 {
        return compute(GradientsMut { x: x.map(cast), y: y.map(cast), scale });
    }
    let scratch = |out: &Option<MatrixMut<'_, Host, G>>| {
        out.as_ref().map(|out| (vec![0.0f32; out.rows * out.cols], out.rows, out.cols))
    };
    let (mut dx, mut dy) = (scratch(&x), scratch(&y));
    let result = compute(GradientsMut { x: view(&mut dx), y: view(&mut dy), scale });
    for (out, sums) in [(&mut x, dx), (&mut y, dy)] {
        let (Some(out), Some((sums, _, d))) = (out, sums) else { continue };
        let rows = out.data.par_chunks_mut(out.row_stride).zip(sums.par_chunks(d));
        rows.with_min_len(64).for_each(|(out, sums)| {
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = G::from_f32(sum));
        });
    }
    result
}

type Sums = Option<(Vec<f32>, usize, usize)>;

fn view(sums: &mut Sums) -> Option<MatrixMut<'_, Host, f32>> {
    let (data, rows, cols) = sums.as_mut()?;
    let (rows, cols) = (*rows, *cols);
    Some(MatrixMut { data: data.as_mut_slice(), rows, cols, row_stride: cols })
}

/// A matrix of `f32`, whatever its type is called.
fn cast<G: Element>(out: MatrixMut<'_, Host, G>) -> MatrixMut<'_, Host, f32> {
    let MatrixMut { data, rows, cols, row_stride } = out;
    MatrixMut { data: bytemuck::cast_slice_mut(data), rows, cols, row_stride }
}

/// That an explicit index is in range and that some pair is positive, for any engine that has
/// brought them to the host.
pub(in crate::engine) fn check_positives<T: 'static>(problem: &Problem<'_, Host, T>) -> Result<()> {
    Pairs::new(problem).map(|_| ())
}

/// So many zeros.
fn zeros<V: Clone + Default>(len: usize) -> Result<Vec<V>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(len).map_err(|_| out_of_memory(len))?;
    vector.resize(len, V::default());
    Ok(vector)
}

fn merge(groups: impl Iterator<Item = Group>, scale: f32) -> Group {
    groups.fold(Group::EMPTY, |sum, group| sum.merge(group, f64::from(scale)))
}

fn loss<T: 'static>(problem: &Problem<'_, Host, T>, totals: &Terms) -> f64 {
    totals.loss / formula::loss_divisor(problem.reduction, totals)
}

fn divisor<T: 'static>(problem: &Problem<'_, Host, T>, totals: &Terms) -> f64 {
    formula::gradient_divisor(problem.weighting, problem.reduction, totals)
}

impl sealed::Sealed for CpuEngine {}

impl Engine for CpuEngine {
    type Device = Host;
    type Buffer = Vec<f32>;
    type Indices = Vec<u32>;
    type Statistics = Statistics;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        zeros(len)
    }

    fn indices(&mut self, len: usize) -> Result<Vec<u32>> {
        zeros(len)
    }

    fn read(&mut self, buffer: &Vec<f32>) -> Result<Vec<f32>> {
        Ok(buffer.clone())
    }

    fn read_indices(&mut self, indices: &Vec<u32>) -> Result<Vec<u32>> {
        Ok(indices.clone())
    }

    fn check<T: Element>(&mut self, problem: &Problem<'_, Host, T>) -> Result<()> {
        check_positives(problem)
    }

    fn forward<T: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
    ) -> Result<(Vec<f32>, Statistics)> {
        let prepared = Prepared::new(problem)?;
        if prepared.scale.is_nan() {
            let statistics = Statistics {
                groups: Vec::new(),
                log_weights: Vec::new(),
                totals: Terms::NONE,
                chosen: Chosen::Masked(Mined::All),
            };
            return Ok((vec![f32::NAN], statistics));
        }
        let chosen = self.choose(problem, &prepared);
        let statistics = self.statistics(problem, &prepared, chosen);
        Ok((vec![loss(problem, &statistics.totals) as f32], statistics))
    }

    fn backward<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        statistics: &Statistics,
        upstream: Scalar<'_, Host>,
        out: GradientsMut<'_, Host, G>,
    ) -> Result<()> {
        let prepared = Prepared::new(problem)?;
        in_f32(out, |out| self.gradients(problem, &prepared, statistics, read(upstream), out));
        Ok(())
    }

    fn loss_and_gradients<T: Element, G: Element>(
        &mut self,
        problem: &Problem<'_, Host, T>,
        out: GradientsMut<'_, Host, G>,
    ) -> Result<Vec<f32>> {
        let prepared = Prepared::new(problem)?;
        let value = in_f32(out, |out| self.step(problem, &prepared, out));
        Ok(vec![value as f32])
    }

    fn similarity<T: Element>(
        &mut self,
        x: Matrix<'_, Host, T>,
        y: Matrix<'_, Host, T>,
        out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        const TILE: (usize, usize) = (512, 256);
        check_dimension(x, y)?;
        check_shape("out", (out.rows, out.cols), (x.rows, y.rows))?;
        let (x, y) = (Rows::new(x, false), Rows::new(y, false));
        let candidates = y.block(0, y.n).transposed();
        product_in_tiles(out.data, out.row_stride, x.block(0, x.n), candidates, false, TILE);
        Ok(())
    }

    fn log_sum_exp<T: Element>(
        &mut self,
        x: Matrix<'_, Host, T>,
        y: Matrix<'_, Host, T>,
        scale: Scalar<'_, Host>,
        scope: Scope,
    ) -> Result<Vec<f32>> {
        check_dimension(x, y)?;
        scale.check_scale()?;
        let (x, y) = (Rows::new(x, false), Rows::new(y, false));
        let scale = read(scale);
        let valid = x.finite && y.finite && scale > 0.0 && scale.is_finite();
        if !valid {
            let results = match scope {
                Scope::Row => x.n,
                Scope::Matrix => 1,
            };
            return Ok(vec![f32::NAN; results]);
        }
        let rows = sweep(&x, &y, &mut self.panel, &mut LogSumExp { scale }, None, None);
        let result = |group: Group| group.log_sum_exp(f64::from(scale)) as f32;
        Ok(match scope {
            Scope::Row => rows.into_iter().map(result).collect(),
            Scope::Matrix => vec![result(merge(rows.into_iter(), scale))],
        })
    }

    fn top_k<T: Element>(
        &mut self,
        x: Matrix<'_, Host, T>,
        y: Matrix<'_, Host, T>,
        k: usize,
        scope: Scope,
        out: TopKMut<'_, Host>,
    ) -> Result<()> {
        check_dimension(x, y)?;
        for (argument, rows) in [("x", x.rows), ("y", y.rows)] {
            if rows > i32::MAX as usize {
                let most = format!("at most {}", i32::MAX);
                return Err(Error::argument(argument, format!("a side of {rows}"), most));
            }
        }
        let pairs = pairs_of_top_k(x.rows, y.rows, k, scope)?;
        out.check(pairs, scope)?;
        let k = if scope == Scope::Row { k.min(y.rows) } else { pairs };
        let TopKMut { values, mut rows, columns } = out;
        let (x, y) = (Rows::new(x, false), Rows::new(y, false));
        let mut put = |(at, pair): (usize, mining::Candidate)| {
            values[at] = pair.similarity();
            columns[at] = pair.column;
            if let Some(rows) = &mut rows {
                rows[at] = pair.row;
            }
        };
        match scope {
            Scope::Row => {
                let mut pass = HardestOfRows { k };
                let rows = sweep(&x, &y, &mut self.panel, &mut pass, None, None);
                rows.into_iter().flatten().enumerate().for_each(&mut put);
            }
            Scope::Matrix => {
                let hardest = Hardest::of_everything(pairs)?;
                let mut pass = OfferEverything(&hardest);
                sweep(&x, &y, &mut self.panel, &mut pass, None, None);
                hardest.sorted().into_iter().enumerate().for_each(&mut put);
            }
        }
        Ok(())
    }

    fn normalize<T: Element>(
        &mut self,
        x: Matrix<'_, Host, T>,
        mut out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        check_shape("out", (out.rows, out.cols), (x.rows, x.cols))?;
        Rows::new(x, true).write(&mut out);
        Ok(())
    }

    fn normalize_backward<T: Element>(
        &mut self,
        x: Matrix<'_, Host, T>,
        gradient: Matrix<'_, Host, f32>,
        mut out: MatrixMut<'_, Host, f32>,
    ) -> Result<()> {
        check_shape("gradient", (gradient.rows, gradient.cols), (x.rows, x.cols))?;
        check_shape("out", (out.rows, out.cols), (x.rows, x.cols))?;
        let rows = Rows::new(x, true);
        Rows::new(gradient, false).write(&mut out);
        finish_rows(&rows, &mut out, 1.0);
        Ok(())
    }
}
