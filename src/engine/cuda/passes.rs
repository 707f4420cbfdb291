//! Room: engines, CUDA. The passes: how large tiles, splits and panels are, where everything lies in
//! scratch memory, and the order of launches.
//!
//! Sizes are decided by shapes, options, the device and the workspace bound alone, and everything is
//! merged in a fixed order: the same call gives the same bits.

use super::launch::{
    Address, Coefficients, Groups, IDS, INDEXED, LABELED, Launcher, Operand, Output, Pairs,
    Product, Ranges, Splits, TERMS_BYTES, TOTALS_BYTES, Tile, Walk, weight_blocks,
};
use super::mining::{
    self, CutsPlan, GradientPlan, ListsPlan, SavedList, Targets, TopKPlan, Weights,
};
use super::workspace::{Layout, Region};
use crate::loss::formula::{Mining, Reduction, Scope, Weighting};
use crate::ops::NORM_EPS;
use crate::{DType, Error, Result};

/// Bytes of the panel of weights where the caller sets no bound that asks for fewer.
const PANEL_BYTES: usize = 128 << 20;

/// Rows that one block of a summing kernel takes, unless there are very many.
const CHUNK: usize = 1024;

/// A slice of the sum of a product, at least: shorter ones are not worth a split.
const SPLIT_DEPTH: usize = 256;

/// Sizes and options, all that plans depend on. Rows and columns fit 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub n: usize,
    pub m: usize,
    pub d: usize,
    pub shared: bool,
    pub flags: u32,
    pub scope: Scope,
    pub mining: Mining,
    pub normalize: bool,
    /// Whether the mined pairs are kept as a list.
    pub list: bool,
}

impl Shape {
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Groups of negatives.
    fn groups(&self) -> usize {
        match self.scope {
            Scope::Row => self.n,
            Scope::Matrix => 1,
        }
    }
}

/// A problem with its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub shape: Shape,
    pub x: Operand,
    /// The same as `x` in the shared case.
    pub y: Operand,
    /// Without ranges.
    pub pairs: Pairs,
    pub scale: (f32, Address),
    pub weighting: Weighting,
    pub reduction: Reduction,
}

/// Where gradients go; 0 where one is not wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradients {
    pub x: Output,
    pub y: Output,
    pub scale: Address,
}

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub x: bool,
    pub y: bool,
    pub scale: bool,
}

/// Chooses tiles and splits for a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planner {
    pub multiprocessors: usize,
    /// A tile to be used whatever the size.
    pub tile: Option<Tile>,
    /// Bytes of scratch memory that the caller allows.
    pub bound: usize,
}

impl Planner {
    /// The one place that chooses: large tiles as soon as there is one for every multiprocessor.
    fn tile(&self, n: usize, m: usize) -> Tile {
        let side = Tile::Large.side();
        let fills = n.div_ceil(side) * m.div_ceil(side) >= self.multiprocessors;
        self.tile.unwrap_or(if fills { Tile::Large } else { Tile::Small })
    }

    /// For a product with so many rows and columns: a narrow one would fill half a large tile.
    fn product_tile(&self, tile: Tile, columns: usize) -> Tile {
        match self.tile {
            Some(tile) => tile,
            None if columns <= Tile::Large.side() / 2 => Tile::Small,
            None => tile,
        }
    }

    /// Splits that give every multiprocessor its fill of blocks, for `tiles` blocks without.
    fn splits(&self, tile: Tile, tiles: usize) -> usize {
        (self.multiprocessors * tile.resident()).div_ceil(tiles)
    }

    fn walk(&self, tile: Tile, n: usize, m: usize) -> Walk {
        let across = m.div_ceil(tile.side());
        let splits = self.splits(tile, n.div_ceil(tile.side())).clamp(1, across);
        let each = across.div_ceil(splits);
        Walk { splits: across.div_ceil(each) as u32, tiles_per_split: each as u32 }
    }

    /// Splits of a sum of `depth` for a rows × columns result. `lean`: as little memory as can be.
    fn product(&self, tile: Tile, rows: usize, columns: usize, depth: usize, lean: bool) -> Splits {
        let tiles = rows.div_ceil(tile.side()) * columns.div_ceil(tile.side());
        let most = if lean { 1 } else { depth.div_ceil(SPLIT_DEPTH) };
        split(depth, self.splits(tile, tiles).clamp(1, most))
    }
}

/// At most `count` slices of a sum, multiples of 16 long.
fn split(depth: usize, count: usize) -> Splits {
    let each = depth.div_ceil(count).next_multiple_of(16);
    Splits { count: depth.div_ceil(each), depth: each }
}

/// A row length that keeps rows of f32 aligned for wide loads.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(4)
}

fn chunk(count: usize) -> usize {
    CHUNK.max(count.div_ceil(CHUNK))
}

/// Unit rows in f32.
#[derive(Clone, Copy, Debug)]
struct Units {
    x: Region,
    y: Region,
}

impl Units {
    fn plan(layout: &mut Layout, shape: &Shape) -> Result<Self> {
        let mut rows = |wanted: bool, rows: usize| {
            layout.take::<f32>(if wanted { rows * padded(shape.d) } else { 0 })
        };
        Ok(Self {
            x: rows(shape.normalize, shape.n)?,
            y: rows(shape.normalize && !shape.shared, shape.m)?,
        })
    }
}

/// Smallest and largest keys of every tile's rows and columns.
#[derive(Clone, Copy, Debug)]
struct KeyRanges {
    tile: Tile,
    row_labels: Region,
    column_labels: Region,
    row_ids: Region,
    column_ids: Region,
}

impl KeyRanges {
    fn plan(layout: &mut Layout, shape: &Shape, tile: Tile) -> Result<Self> {
        let mut ranges = |wanted: bool, count: usize| {
            layout.take::<[u32; 2]>(if wanted { count.div_ceil(tile.side()) } else { 0 })
        };
        let (labels, ids) = (shape.has(LABELED), shape.has(IDS));
        Ok(Self {
            tile,
            row_labels: ranges(labels, shape.n)?,
            column_labels: ranges(labels, shape.m)?,
            row_ids: ranges(ids, shape.n)?,
            column_ids: ranges(ids, shape.m)?,
        })
    }
}

/// What backward needs of a forward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    scale: Region,
    total: Region,
    maximum: Region,
    sum: Region,
    log2_sum: Region,
    terms: Region,
    cuts: Region,
    list: Option<SavedList>,
}

impl Saved {
    /// Its places, and its size in bytes.
    pub fn plan(planner: &Planner, shape: &Shape) -> Result<(Self, usize)> {
        let mut layout = Layout::default();
        let stages = planner.stages(shape);
        let groups = shape.groups();
        let saved = Self {
            scale: layout.take::<f32>(1)?,
            total: layout.take::<u8>(TOTALS_BYTES)?,
            maximum: layout.take::<f32>(groups)?,
            sum: layout.take::<f32>(groups)?,
            log2_sum: layout.take::<f32>(groups)?,
            terms: layout.take::<[u8; TERMS_BYTES]>(shape.n)?,
            cuts: layout.take::<[u8; mining::CUT_BYTES]>(mining::groups(shape))?,
            list: stages.map(|stages| SavedList::plan(&mut layout, stages)).transpose()?,
        };
        Ok((saved, layout.bytes()))
    }

    fn groups(&self, base: Address, shape: &Shape) -> Groups {
        Groups {
            maximum: self.maximum.at(base),
            sum: self.sum.at(base),
            log2_sum: self.log2_sum.at(base),
            stride: i32::from(shape.scope == Scope::Row),
        }
    }
}

/// Row groups and what they are merged from.
#[derive(Clone, Copy, Debug)]
struct RowGroups {
    tile: Tile,
    walk: Walk,
    partial_maximum: Region,
    partial_sum: Region,
    maximum: Region,
    sum: Region,
    chunk_maximum: Region,
    chunk_sum: Region,
}

impl RowGroups {
    fn plan(layout: &mut Layout, planner: &Planner, shape: &Shape) -> Result<Self> {
        let Shape { n, m, .. } = *shape;
        let tile = planner.tile(n, m);
        let walk = planner.walk(tile, n, m);
        let partial = if shape.list { 0 } else { n * walk.splits as usize };
        let matrix = shape.scope == Scope::Matrix;
        let rows = if matrix { n } else { 0 };
        let chunks = if matrix { n.div_ceil(chunk(n)) } else { 0 };
        Ok(Self {
            tile,
            walk,
            partial_maximum: layout.take::<f32>(partial)?,
            partial_sum: layout.take::<f32>(partial)?,
            maximum: layout.take::<f32>(rows)?,
            sum: layout.take::<f32>(rows)?,
            chunk_maximum: layout.take::<f32>(chunks)?,
            chunk_sum: layout.take::<f32>(chunks)?,
        })
    }
}

impl RowGroups {
    /// The groups of the rows, where they are put together into one.
    fn each(&self, base: Address) -> Groups {
        let (maximum, sum) = (self.maximum.at(base), self.sum.at(base));
        Groups { maximum, sum, log2_sum: 0, stride: 1 }
    }
}

/// The forward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardPlan {
    groups: RowGroups,
    ranges: KeyRanges,
    cuts: Option<CutsPlan>,
    lists: Option<ListsPlan>,
    terms_ranges: KeyRanges,
    positive: Region,
    terms_walk: Walk,
    terms_partial: Region,
    totals: Region,
}

impl ForwardPlan {
    fn plan(layout: &mut Layout, planner: &Planner, shape: &Shape, lean: bool) -> Result<Self> {
        let Shape { n, m, .. } = *shape;
        let labels = shape.has(LABELED);
        let groups = RowGroups::plan(layout, planner, shape)?;
        let ranges = KeyRanges::plan(layout, shape, groups.tile)?;
        let cuts = CutsPlan::plan(layout, shape, groups.tile, lean)?;
        let stages = planner.stages(shape);
        let lists = stages.map(|stages| ListsPlan::plan(layout, shape, stages)).transpose()?;
        let terms_ranges = match groups.tile {
            Tile::Small => ranges,
            Tile::Large => {
                let labels = Shape { flags: shape.flags & LABELED, ..*shape };
                KeyRanges::plan(layout, &labels, Tile::Small)?
            }
        };
        let terms_walk = planner.walk(Tile::Small, n, m);
        let terms = if labels { n * terms_walk.splits as usize } else { 0 };
        Ok(Self {
            groups,
            ranges,
            cuts,
            lists,
            terms_ranges,
            positive: layout.take::<f32>(if shape.has(INDEXED) { n } else { 0 })?,
            terms_walk,
            terms_partial: layout.take::<[u8; TERMS_BYTES]>(terms)?,
            totals: layout.take::<[u8; TOTALS_BYTES]>(n.div_ceil(chunk(n)))?,
        })
    }
}

/// The gradient in panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackwardPlan {
    tile: Tile,
    product_tile: Tile,
    upstream: Region,
    ranges: KeyRanges,
    coefficients: [Region; 6],
    x: Region,
    y: Region,
    /// Rows of a panel.
    rows: usize,
    panel: Region,
    /// Instead of panels.
    list: Option<GradientPlan>,
    moments: Region,
    moment: Region,
    x_splits: Splits,
    y_splits: Splits,
    parts: Region,
}

impl BackwardPlan {
    fn plan(
        layout: &mut Layout,
        planner: &Planner,
        shape: &Shape,
        wanted: Wanted,
        tile: Tile,
        rows: usize,
        lean: bool,
    ) -> Result<Self> {
        let Shape { n, m, d, .. } = *shape;
        let upstream = layout.take::<f32>(1)?;
        let ranges = KeyRanges::plan(layout, shape, tile)?;
        let mut coefficients = [Region::default(); 6];
        for region in &mut coefficients {
            *region = layout.take::<f32>(n)?;
        }
        let embeddings = |wanted: bool, rows: usize| {
            if wanted && shape.normalize { rows * padded(d) } else { 0 }
        };
        let x = layout.take::<f32>(embeddings(wanted.x, n))?;
        let y = layout.take::<f32>(embeddings(wanted.y, m))?;
        // With labels, positives are too many for a list.
        let stages = planner.stages(shape).filter(|_| !shape.has(LABELED));
        let list = stages.map(|stages| GradientPlan::plan(layout, shape, stages)).transpose()?;
        let products = (wanted.x || wanted.y) && list.is_none();
        let panel = if products {
            rows.checked_mul(padded(m))
                .ok_or(Error::WorkspaceTooSmall { needed: usize::MAX, bound: planner.bound })?
        } else {
            0
        };
        let moments = if wanted.scale && list.is_none() { weight_blocks(tile, rows, m) } else { 0 };
        let product_tile = planner.product_tile(tile, d);
        let x_splits = planner.product(product_tile, rows, d, m, lean);
        let y_splits = planner.product(product_tile, m, d, rows, lean);
        let part = |wanted: bool, splits: Splits, rows: usize| {
            if wanted && products && splits.count > 1 { splits.count * rows * d } else { 0 }
        };
        // In the shared case both products go into the one gradient.
        let parts = part(wanted.x, x_splits, rows).max(part(
            wanted.y || (wanted.x && shape.shared),
            y_splits,
            m,
        ));
        Ok(Self {
            tile,
            product_tile,
            upstream,
            ranges,
            coefficients,
            x,
            y,
            rows,
            list,
            panel: layout.take::<f32>(panel)?,
            moments: layout.take::<f64>(moments)?,
            moment: layout.take::<f64>(1)?,
            x_splits,
            y_splits,
            parts: layout.take::<f32>(parts)?,
        })
    }
}

/// A whole call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    units: Units,
    forward: Option<ForwardPlan>,
    backward: Option<BackwardPlan>,
    /// Bytes of scratch memory.
    pub bytes: usize,
}

impl Planner {
    /// Plans a forward pass, a backward pass, or both, within the bound.
    pub fn plan(&self, shape: &Shape, forward: bool, backward: Option<Wanted>) -> Result<Plan> {
        let plan = |tile: Tile, rows: usize, lean: bool| -> Result<Plan> {
            let mut layout = Layout::default();
            let units = Units::plan(&mut layout, shape)?;
            let mark = layout;
            let forward = match forward {
                true => Some(ForwardPlan::plan(&mut layout, self, shape, lean)?),
                false => None,
            };
            layout.rewind(mark);
            let backward = match backward {
                Some(wanted) => {
                    let layout = &mut layout;
                    Some(BackwardPlan::plan(layout, self, shape, wanted, tile, rows, lean)?)
                }
                None => None,
            };
            Ok(Plan { units, forward, backward, bytes: layout.bytes() })
        };
        let fits = |plan: &Plan| plan.bytes <= self.bound;
        let tile = self.tile(shape.n, shape.m);
        let all = shape.n.next_multiple_of(tile.side());
        let row = padded(shape.m) * 4;
        // As large a panel as is useful; then the largest that fits; then the smallest tile.
        let useful = (PANEL_BYTES / row / tile.side()).max(1) * tile.side();
        let best = plan(tile, useful.min(all), false)?;
        if fits(&best) {
            return Ok(best);
        }
        let least = plan(tile, tile.side(), true)?;
        if fits(&least) {
            let spare = (self.bound - least.bytes) / (row * tile.side() + 2 * shape.m.div_ceil(4));
            let more = plan(tile, ((1 + spare) * tile.side()).min(useful).min(all), true)?;
            return Ok(if fits(&more) { more } else { least });
        }
        let smallest = plan(Tile::Small, Tile::Small.side(), true)?;
        if self.tile.is_none() && fits(&smallest) {
            return Ok(smallest);
        }
        let needed =
            if self.tile.is_none() { smallest.bytes.min(least.bytes) } else { least.bytes };
        Err(Error::WorkspaceTooSmall { needed, bound: self.bound })
    }

    /// The shape with mined pairs in a list, where they are few and the bound allows it.
    pub fn with_list(&self, shape: Shape) -> Shape {
        let list = Shape { list: true, ..shape };
        if self.stages(&list).is_none() {
            return shape;
        }
        let wanted = Wanted { x: true, y: true, scale: true };
        let fits = self.plan(&list, true, Some(wanted)).is_ok_and(|plan| plan.bytes <= self.bound);
        if fits { list } else { shape }
    }

    fn stages(&self, shape: &Shape) -> Option<mining::Stages> {
        if shape.list { mining::stages(shape, self.tile(shape.n, shape.m)) } else { None }
    }

    /// Plans a selection of so many pairs, of a shape without positives.
    pub fn top_k(&self, shape: &Shape, pairs: usize) -> Result<TopKPlan> {
        if pairs > i32::MAX as usize {
            let given = format!("{pairs} pairs in all");
            return Err(Error::argument("k", given, format!("at most {}", i32::MAX)));
        }
        let tile = self.tile(shape.n, shape.m);
        let plan = TopKPlan::plan(shape, tile, pairs, false)?;
        if plan.bytes <= self.bound {
            return Ok(plan);
        }
        let plan = TopKPlan::plan(shape, tile, pairs, true)?;
        if plan.bytes > self.bound {
            return Err(Error::WorkspaceTooSmall { needed: plan.bytes, bound: self.bound });
        }
        Ok(plan)
    }

    /// Plans a log-sum-exp over all pairs.
    pub fn log_sum_exp(&self, shape: &Shape) -> Result<LogSumExpPlan> {
        let mut layout = Layout::default();
        let scale = layout.take::<f32>(1)?;
        let groups = RowGroups::plan(&mut layout, self, shape)?;
        let all = shape.groups();
        let result = [layout.take::<f32>(all)?, layout.take::<f32>(all)?];
        let plan = LogSumExpPlan { scale, groups, result, bytes: layout.bytes() };
        if plan.bytes > self.bound {
            return Err(Error::WorkspaceTooSmall { needed: plan.bytes, bound: self.bound });
        }
        Ok(plan)
    }
}

/// The log-sum-exp of all pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSumExpPlan {
    scale: Region,
    groups: RowGroups,
    result: [Region; 2],
    pub bytes: usize,
}

/// Embeddings as the passes see them: the caller's, or unit rows.
#[derive(Clone, Copy)]
struct Rows {
    x: Operand,
    y: Operand,
}

/// The passes of one call. `base` is the scratch memory's address, `saved_base` that of what a
/// forward pass saves.
///
/// # Safety of all its functions
/// As for [`Launcher`]: the addresses of [`Input`] and [`Gradients`] are those of the caller's
/// buffers, checked against `shape`; `base` and `saved_base` are as long as the plans say, and used
/// by this stream alone.
pub(super) struct Pass<'a> {
    pub launch: Launcher<'a>,
    pub input: Input,
    pub plan: Plan,
    pub base: Address,
    pub saved: Saved,
    pub saved_base: Address,
}

impl Pass<'_> {
    /// The loss, and what backward needs.
    pub unsafe fn forward(&self, loss: Address) -> Result<()> {
        let Some(plan) = &self.plan.forward else { return Ok(()) };
        let (shape, base) = (&self.input.shape, self.base);
        let (n, d) = (shape.n as u32, shape.d as u32);
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let terms = self.saved.terms.at(self.saved_base);
        let total = self.saved.total.at(self.saved_base);
        let positive = plan.positive.at(base);
        // SAFETY: regions of the plan hold what their names say, for this shape; every kernel reads
        // what one before it wrote.
        unsafe {
            self.launch.scalar(self.input.scale.0, self.input.scale.1, true, scale)?;
            let rows = self.units()?;
            let pairs = self.ranges(&plan.ranges)?;
            let row_sum = self.groups(plan, rows, pairs, positive, groups)?;
            if pairs.has(LABELED) {
                let pairs = match plan.groups.tile {
                    Tile::Small => pairs,
                    Tile::Large => self.ranges(&plan.terms_ranges)?,
                };
                let (walk, partial) = (plan.terms_walk, plan.terms_partial.at(base));
                self.launch.terms(rows.x, rows.y, d, &pairs, walk, scale, groups, partial)?;
                self.launch.merge_terms(partial, walk.splits, n, groups, scale, terms)?;
            } else {
                self.launch.index_terms(&pairs, positive, groups, scale, terms)?;
            }
            let (chunk, partial) = (chunk(shape.n) as u32, plan.totals.at(base));
            self.launch.totals(terms, n, chunk, row_sum, groups, scale, partial)?;
            let mean = self.input.reduction == Reduction::Mean;
            self.launch.finish(partial, n.div_ceil(chunk), mean, scale, total, loss)
        }
    }

    /// The groups of negatives; gives the address of every row's Z.
    unsafe fn groups(
        &self,
        plan: &ForwardPlan,
        rows: Rows,
        pairs: Pairs,
        positive: Address,
        groups: Groups,
    ) -> Result<Address> {
        let (shape, base) = (&self.input.shape, self.base);
        let scale = self.saved.scale.at(self.saved_base);
        let to = self.saved.cuts.at(self.saved_base);
        let (launch, Rows { x, y }) = (&self.launch, rows);
        // SAFETY: as in `forward`.
        unsafe {
            if let (Some(lists), Some(cuts), Some(saved)) =
                (&plan.lists, &plan.cuts, &self.saved.list)
            {
                let each = if groups.stride == 1 { groups } else { plan.groups.each(base) };
                let targets = Targets { cuts: to, saved: self.saved_base, positive, rows: each };
                lists.run(launch, shape, x, y, &pairs, scale, cuts, saved, targets, base)?;
                if groups.stride == 0 {
                    matrix_group(launch, &plan.groups, pairs.rows, scale, each, groups, base)?;
                }
                return Ok(each.sum);
            }
            if let Some(cuts) = &plan.cuts {
                cuts.find(launch, shape, x, y, &pairs, to, base)?;
            }
            let pairs = &mining::mined(pairs, shape, to);
            let depth = shape.d as u32;
            row_groups(launch, &plan.groups, rows, depth, pairs, scale, positive, groups, base)
        }
    }

    /// The gradients, from what a forward pass saved. `upstream`: a number, or an address.
    pub unsafe fn backward(&self, upstream: (f32, Address), out: &Gradients) -> Result<()> {
        let Some(plan) = &self.plan.backward else { return Ok(()) };
        let (shape, base) = (&self.input.shape, self.base);
        let Shape { n, m, d, .. } = *shape;
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let factor = plan.upstream.at(base);
        let address = |index: usize| plan.coefficients[index].at(base);
        let coefficients = Coefficients {
            maximum: address(0),
            negative: address(1),
            log2_sum: address(2),
            base: address(3),
            offset: address(4),
            positive: address(5),
        };
        let (want_x, want_y) = (out.x.data != 0, out.y.data != 0);
        let unit = |region: Region, out: Output, rows: usize| {
            if shape.normalize { Output::new(region.at(base), padded(d), rows, d) } else { out }
        };
        let to_x = unit(plan.x, out.x, n);
        let to_y = unit(plan.y, out.y, m);
        // SAFETY: as in `forward`; a panel is written before the products read it, and read before
        // the next panel overwrites it.
        unsafe {
            self.launch.scalar(upstream.0, upstream.1, false, factor)?;
            // After a forward pass of the same call the unit rows are still there.
            let rows = if self.plan.forward.is_some() { self.unit_rows() } else { self.units()? };
            let pairs = self.ranges(&plan.ranges)?;
            let pairs = mining::mined(pairs, shape, self.saved.cuts.at(self.saved_base));
            self.launch.coefficients(
                self.saved.terms.at(self.saved_base),
                n as u32,
                groups,
                self.saved.total.at(self.saved_base),
                self.input.weighting == Weighting::AnchorNormalized,
                self.input.reduction == Reduction::Mean,
                scale,
                coefficients,
            )?;
            let moments = if out.scale != 0 { plan.moments.at(base) } else { 0 };
            let moment = plan.moment.at(base);
            let list = plan.list.as_ref().zip(self.saved.list.as_ref());
            if let Some((list, saved)) = list {
                let terms = self.saved.terms.at(self.saved_base);
                let weights = Weights { terms, coefficients, scale, factor };
                let to = [want_x.then_some(to_x), want_y.then_some(to_y)];
                let moment = if out.scale != 0 { moment } else { 0 };
                let (launch, Rows { x, y }) = (&self.launch, rows);
                let saved = saved.at(self.saved_base);
                list.run(launch, shape, x, y, &pairs, weights, saved, to, moment, base)?;
            }
            let panels = if list.is_some() { 0..0 } else { 0..n };
            for first in panels.step_by(plan.rows) {
                let end = (first + plan.rows).min(n);
                let rest = first > 0;
                let count = end - first;
                let data = if want_x || want_y { plan.panel.at(base) } else { 0 };
                let panel = Output::new(data, padded(m), count, m);
                self.launch.weights(
                    plan.tile,
                    rows.x,
                    rows.y,
                    d as u32,
                    &pairs,
                    first as u32,
                    end as u32,
                    coefficients,
                    scale,
                    panel,
                    moments,
                )?;
                if moments != 0 {
                    let blocks = weight_blocks(plan.tile, count, m);
                    self.launch.sum_moments(moments, blocks as u32, rest, moment)?;
                }
                let g = Operand::new(data, padded(m), DType::F32);
                let parts = plan.parts.at(base);
                // G^T X of the panel's rows: into dY, or into the one gradient of a shared set,
                // whose rows all get their first value here.
                let whole = if shape.shared { to_x } else { to_y };
                if want_y || (shape.shared && want_x) {
                    let splits = split(count, plan.y_splits.count);
                    self.launch.product(
                        plan.product_tile,
                        Product::ColumnsColumns,
                        g,
                        rows.x.starting_at(first),
                        count as u32,
                        splits,
                        parts,
                        factor,
                        rest,
                        whole,
                    )?;
                }
                if want_x {
                    self.launch.product(
                        plan.product_tile,
                        Product::RowsColumns,
                        g,
                        rows.y,
                        m as u32,
                        plan.x_splits,
                        parts,
                        factor,
                        shape.shared,
                        to_x.rows(first, count),
                    )?;
                }
            }
            if out.scale != 0 {
                self.launch.scale_gradient(moment, scale, factor, out.scale)?;
            }
            if shape.normalize {
                let operand = |from: Output| Operand::new(from.data, padded(d), DType::F32);
                if want_x {
                    let g = operand(to_x);
                    self.launch.normalize_backward(self.input.x, g, NORM_EPS, out.x)?;
                }
                if want_y {
                    let g = operand(to_y);
                    self.launch.normalize_backward(self.input.y, g, NORM_EPS, out.y)?;
                }
            }
        }
        Ok(())
    }

    fn unit_rows(&self) -> Rows {
        let Input { shape, x, y, .. } = &self.input;
        if !shape.normalize {
            return Rows { x: *x, y: *y };
        }
        let unit = |region: Region| Operand::new(region.at(self.base), padded(shape.d), DType::F32);
        let x = unit(self.plan.units.x);
        Rows { x, y: if shape.shared { x } else { unit(self.plan.units.y) } }
    }

    /// Normalises the rows, where that is asked for.
    unsafe fn units(&self) -> Result<Rows> {
        let Shape { n, m, d, shared, normalize, .. } = self.input.shape;
        let rows = self.unit_rows();
        if normalize {
            let out = |rows: Operand, count| Output::new(rows.data, padded(d), count, d);
            // SAFETY: as in `forward`.
            unsafe {
                self.launch.normalize(self.input.x, NORM_EPS, out(rows.x, n))?;
                if !shared {
                    self.launch.normalize(self.input.y, NORM_EPS, out(rows.y, m))?;
                }
            }
        }
        Ok(rows)
    }

    /// The pairs, with the key ranges of a tile size.
    unsafe fn ranges(&self, plan: &KeyRanges) -> Result<Pairs> {
        let mut pairs = self.input.pairs;
        pairs.ranges = Ranges {
            row_labels: plan.row_labels.at(self.base),
            column_labels: plan.column_labels.at(self.base),
            row_ids: plan.row_ids.at(self.base),
            column_ids: plan.column_ids.at(self.base),
        };
        let Pairs { rows, columns, ranges, .. } = pairs;
        // SAFETY: as in `forward`.
        let fill = |keys: Address, count: u32, to: Address| unsafe {
            self.launch.key_ranges(keys, count, plan.tile, to)
        };
        if pairs.has(LABELED) {
            fill(pairs.row_labels, rows, ranges.row_labels)?;
            fill(pairs.column_labels, columns, ranges.column_labels)?;
        }
        if pairs.has(IDS) {
            fill(pairs.row_ids, rows, ranges.row_ids)?;
            fill(pairs.column_ids, columns, ranges.column_ids)?;
        }
        Ok(pairs)
    }
}

/// The groups of negatives, one a row or one in all as `groups` says; gives the address of every
/// row's Z. Safety as for [`Pass`].
#[allow(clippy::too_many_arguments)] // the operands and results of a pass
unsafe fn row_groups(
    launch: &Launcher<'_>,
    plan: &RowGroups,
    rows: Rows,
    depth: u32,
    pairs: &Pairs,
    scale: Address,
    positive: Address,
    groups: Groups,
    base: Address,
) -> Result<Address> {
    let n = pairs.rows;
    let (maximum, sum) = (plan.partial_maximum.at(base), plan.partial_sum.at(base));
    // SAFETY: as in `Pass::forward`.
    unsafe {
        let Rows { x, y } = rows;
        launch.stats(plan.tile, x, y, depth, pairs, plan.walk, scale, maximum, sum, positive)?;
        if groups.stride == 1 {
            launch.merge_groups(maximum, sum, plan.walk.splits, n, scale, groups)?;
            return Ok(groups.sum);
        }
        let each = plan.each(base);
        launch.merge_groups(maximum, sum, plan.walk.splits, n, scale, each)?;
        matrix_group(launch, plan, n, scale, each, groups, base)?;
        Ok(each.sum)
    }
}

/// The groups of all rows into one. Safety as for [`Pass`].
unsafe fn matrix_group(
    launch: &Launcher<'_>,
    plan: &RowGroups,
    rows: u32,
    scale: Address,
    each: Groups,
    to: Groups,
    base: Address,
) -> Result<()> {
    let chunk = chunk(rows as usize) as u32;
    let chunks =
        Groups { maximum: plan.chunk_maximum.at(base), sum: plan.chunk_sum.at(base), ..each };
    let count = rows.div_ceil(chunk);
    // SAFETY: the caller's.
    unsafe {
        launch.reduce_groups(each, rows, chunk, scale, chunks)?;
        launch.reduce_groups(chunks, count, count, scale, to)
    }
}

impl LogSumExpPlan {
    /// log Σ exp(s·S) of every row, or of all: into `out`. Safety as for [`Pass`].
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        input: &Input,
        base: Address,
        out: Address,
    ) -> Result<()> {
        let shape = &input.shape;
        let scale = self.scale.at(base);
        let groups = Groups {
            maximum: self.result[0].at(base),
            sum: self.result[1].at(base),
            log2_sum: 0,
            stride: i32::from(shape.scope == Scope::Row),
        };
        let rows = Rows { x: input.x, y: input.y };
        // SAFETY: as in `Pass::forward`.
        unsafe {
            launch.scalar(input.scale.0, input.scale.1, true, scale)?;
            let pairs = &input.pairs;
            row_groups(launch, &self.groups, rows, shape.d as u32, pairs, scale, 0, groups, base)?;
            launch.log_sum_exp(groups, shape.groups() as u32, scale, out)
        }
    }
}

/// S = X·Yᵀ into `out`. Safety as for [`Pass`].
pub(super) unsafe fn similarity(
    launch: &Launcher<'_>,
    planner: &Planner,
    x: Operand,
    y: Operand,
    depth: usize,
    out: Output,
) -> Result<()> {
    let tile = planner.tile(out.rows as usize, out.columns as usize);
    let splits = split(depth, 1);
    let product = Product::RowsRows;
    // SAFETY: the caller's.
    unsafe { launch.product(tile, product, x, y, depth as u32, splits, 0, 0, false, out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(n: usize, m: usize, d: usize) -> Shape {
        let flags = LABELED | IDS;
        Shape {
            n,
            m,
            d,
            shared: false,
            flags,
            scope: Scope::Matrix,
            mining: Mining::All,
            normalize: true,
            list: false,
        }
    }

    fn planner(bound: usize) -> Planner {
        Planner { multiprocessors: 132, tile: None, bound }
    }

    const ALL: Wanted = Wanted { x: true, y: true, scale: true };

    #[test]
    fn memory_stays_far_below_the_matrix() {
        let n = 65_536;
        let plan = planner(usize::MAX).plan(&shape(n, n, 256), true, Some(ALL)).unwrap();
        let embeddings = 4 * n * 256 * 4;
        assert!(plan.bytes < embeddings + (256 << 20), "{}", plan.bytes);
    }

    #[test]
    fn a_million_rows_can_be_planned() {
        let n = 1_000_000;
        let plan = planner(usize::MAX).plan(&shape(n, n, 64), true, Some(ALL)).unwrap();
        assert!(plan.bytes < 4 * n * 64 * 4 + (2 << 30), "{}", plan.bytes);
    }

    #[test]
    fn panels_shrink_to_the_bound() {
        let shape = shape(5000, 5000, 64);
        let free = planner(usize::MAX).plan(&shape, false, Some(ALL)).unwrap();
        let needed = match planner(0).plan(&shape, false, Some(ALL)) {
            Err(Error::WorkspaceTooSmall { needed, bound: 0 }) => needed,
            other => panic!("{other:?}"),
        };
        assert!(needed < free.bytes);
        for bound in [needed, needed + 1, (needed + free.bytes) / 2, free.bytes - 1, free.bytes] {
            let plan = planner(bound).plan(&shape, false, Some(ALL)).unwrap();
            assert!(plan.bytes <= bound);
        }
        assert!(planner(needed - 1).plan(&shape, false, Some(ALL)).is_err());
    }

    #[test]
    fn walks_cover_every_tile_once() {
        for (n, m) in [(1, 1), (33, 1000), (5000, 70), (100_000, 100_000)] {
            let planner = planner(usize::MAX);
            let tile = planner.tile(n, m);
            let walk = planner.walk(tile, n, m);
            let (splits, each) = (walk.splits as usize, walk.tiles_per_split as usize);
            let across = m.div_ceil(tile.side());
            assert!(splits * each >= across && (splits - 1) * each < across);
        }
        for (depth, count) in [(1, 1), (1, 5), (1000, 3), (4096, 16), (17, 2)] {
            let Splits { count, depth: each } = split(depth, count);
            assert!(count * each >= depth && (count - 1) * each < depth && each % 16 == 0);
        }
    }
}
