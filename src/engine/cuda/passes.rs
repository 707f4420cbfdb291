//! Room: engines, CUDA. The passes: how large tiles, splits and panels are, where everything lies in
//! scratch memory, and the order of launches.
//!
//! Sizes are decided by shapes, options, the device and the workspace bound alone, and everything is
//! merged in a fixed order: the same call gives the same bits.

use super::launch::{
    Address, Arithmetic, Coefficients, Destination, Groups, IDS, INDEXED, Kind, LABELED,
    LEVEL_BYTES, Launcher, Levels, Mix, Operand, Output, Pairs, Panel, Prepared, Product, Ranges,
    Splits, TERMS_BYTES, TOTALS_BYTES, Tile, TileSums, Walk, weight_blocks,
};
use super::mining::{
    self, CutsPlan, GradientPlan, ListsPlan, SavedList, Stages, Targets, TopKPlan, Weights,
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
    /// Whether the positives are the diagonal: [`INDEXED`] without an index.
    pub diagonal: bool,
    pub flags: u32,
    pub scope: Scope,
    pub mining: Mining,
    pub normalize: bool,
    /// The stages of a list, where the mined pairs are few.
    pub list: Option<Stages>,
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

/// How the embeddings are multiplied, and what they have to be turned into for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operands {
    pub arithmetic: Arithmetic,
    /// Whether every element is two 16-bit ones.
    pub split: bool,
    /// Whether rows have factors, which prepared rows take out of them.
    pub factors: bool,
    /// Whether the rows of either side have to be prepared: normalised, converted, or aligned.
    pub prepare_x: bool,
    pub prepare_y: bool,
}

impl Operands {
    /// Columns of a prepared row or of a panel, so that every row is aligned.
    fn padded(columns: usize) -> usize {
        columns.next_multiple_of(8)
    }

    /// Bytes of an element of prepared rows and of panels.
    fn bytes(&self) -> usize {
        if self.split || self.arithmetic == Arithmetic::F32 { 4 } else { 2 }
    }

    /// Where the second parts of `rows` rows lie, in elements.
    fn low(&self, rows: usize, columns: usize) -> usize {
        if self.split { rows * Self::padded(columns) } else { 0 }
    }

    /// Whether panels have levels even where their weights are known.
    fn levels(&self) -> bool {
        self.arithmetic == Arithmetic::F16
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
    pub x: Destination,
    pub y: Destination,
    pub scale: Address,
}

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub x: bool,
    pub y: bool,
    pub scale: bool,
    /// Whether dX and dY end in another type than `f32`, in which they are summed.
    pub converted: bool,
}

/// Chooses tiles and splits for a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planner {
    pub multiprocessors: usize,
    pub operands: Operands,
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

    fn kind(&self, tile: Tile) -> Kind {
        Kind { arithmetic: self.operands.arithmetic, tile }
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

/// At most `count` slices of a sum, multiples of 32 long.
fn split(depth: usize, count: usize) -> Splits {
    let each = depth.div_ceil(count).next_multiple_of(32);
    Splits { count: depth.div_ceil(each), depth: each }
}

/// A row length that keeps rows of f32 aligned for wide loads.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(4)
}

fn chunk(count: usize) -> usize {
    CHUNK.max(count.div_ceil(CHUNK))
}

/// Prepared rows, and the factors of all rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embeddings {
    x: Region,
    y: Region,
    x_factor: Region,
    y_factor: Region,
    top: Region,
}

impl Embeddings {
    pub fn plan(layout: &mut Layout, operands: &Operands, shape: &Shape) -> Result<Self> {
        let row = Operands::padded(shape.d)
            .checked_mul(operands.bytes())
            .ok_or(Error::WorkspaceTooSmall { needed: usize::MAX, bound: usize::MAX })?;
        let mut rows = |wanted: bool, rows: usize| match rows.checked_mul(row) {
            _ if !wanted => layout.take::<u8>(0),
            Some(bytes) => layout.take::<u8>(bytes),
            None => layout.take::<u8>(usize::MAX),
        };
        let own_y = !shape.shared;
        let (x, y) =
            (rows(operands.prepare_x, shape.n)?, rows(operands.prepare_y && own_y, shape.m)?);
        let mut factors =
            |wanted: bool, rows: usize| layout.take::<f32>(if wanted { rows } else { 0 });
        Ok(Self {
            x,
            y,
            x_factor: factors(operands.factors, shape.n)?,
            y_factor: factors(operands.factors && own_y, shape.m)?,
            top: layout.take::<u32>(1)?,
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
    pub fn plan(shape: &Shape) -> Result<(Self, usize)> {
        let mut layout = Layout::default();
        let stages = shape.list;
        let groups = shape.groups();
        let saved = Self {
            scale: layout.take::<f32>(1)?,
            total: layout.take::<u8>(TOTALS_BYTES)?,
            maximum: layout.take::<f32>(groups)?,
            sum: layout.take::<f32>(groups)?,
            log2_sum: layout.take::<f32>(groups)?,
            terms: layout.take::<[u8; TERMS_BYTES]>(shape.n)?,
            cuts: layout.take::<[u8; mining::CUT_BYTES]>(mining::groups(shape))?,
            list: stages
                .filter(|stages| stages.kept)
                .map(|stages| SavedList::plan(&mut layout, stages))
                .transpose()?,
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
    kind: Kind,
    walk: Walk,
    /// Partial results of every row.
    partials: u32,
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
        let kind = planner.kind(planner.tile(n, m));
        let walk = planner.walk(kind.tile, n, m);
        let partials = walk.splits * kind.parts();
        let partial = if shape.list.is_some() { 0 } else { n * partials as usize };
        let matrix = shape.scope == Scope::Matrix;
        let rows = if matrix { n } else { 0 };
        let chunks = if matrix { n.div_ceil(chunk(n)) } else { 0 };
        Ok(Self {
            kind,
            walk,
            partials,
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
        let kind = groups.kind;
        let ranges = KeyRanges::plan(layout, shape, kind.tile)?;
        let cuts = CutsPlan::plan(layout, shape, kind, lean)?;
        let stages = shape.list;
        let lists = stages.map(|stages| ListsPlan::plan(layout, shape, stages)).transpose()?;
        let terms_ranges = match kind.tile {
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
    kind: Kind,
    product_kind: Kind,
    upstream: Region,
    ranges: KeyRanges,
    coefficients: [Region; 6],
    x: Region,
    y: Region,
    /// Rows of a panel.
    rows: usize,
    panel: Region,
    /// Levels of a panel's tiles.
    levels: Region,
    /// The highest of every row of tiles: of a panel, or in one pass of all.
    row_levels: Region,
    /// The highest of every column of tiles; two sets in turn.
    column_levels: [Region; 2],
    /// Instead of panels.
    list: Option<GradientPlan>,
    moments: Region,
    moment: Region,
    x_splits: Splits,
    y_splits: Splits,
    parts: Region,
}

impl BackwardPlan {
    #[allow(clippy::too_many_arguments)] // all that decides about sizes
    fn plan(
        layout: &mut Layout,
        planner: &Planner,
        shape: &Shape,
        wanted: Wanted,
        tile: Tile,
        rows: usize,
        lean: bool,
        one_pass: bool,
    ) -> Result<Self> {
        let Shape { n, m, d, .. } = *shape;
        let operands = &planner.operands;
        let upstream = layout.take::<f32>(1)?;
        let ranges = KeyRanges::plan(layout, shape, tile)?;
        let mut coefficients = [Region::default(); 6];
        for region in &mut coefficients {
            *region = layout.take::<f32>(n)?;
        }
        let embeddings = |asked: bool, rows: usize| {
            let scratch = shape.normalize || wanted.converted;
            if asked && scratch { rows * padded(d) } else { 0 }
        };
        let x = layout.take::<f32>(embeddings(wanted.x, n))?;
        let y = layout.take::<f32>(embeddings(wanted.y, m))?;
        let stages = shape.list.filter(|stages| stages.kept);
        let list = stages.map(|stages| GradientPlan::plan(layout, shape, stages)).transpose()?;
        let products = (wanted.x || wanted.y) && list.is_none();
        let panel = if products {
            Operands::padded(m)
                .checked_mul(operands.bytes())
                .and_then(|row| row.checked_mul(rows))
                .ok_or(Error::WorkspaceTooSmall { needed: usize::MAX, bound: planner.bound })?
        } else {
            0
        };
        let (down, across) = (rows.div_ceil(tile.side()), m.div_ceil(tile.side()));
        let leveled = one_pass || (products && operands.levels());
        let mut levels = |wanted: bool, count: usize| {
            layout.take::<[u8; LEVEL_BYTES]>(if wanted { count } else { 0 })
        };
        let (levels, row_levels, column_levels) = (
            levels(leveled, down * across)?,
            levels(leveled, if one_pass { n.div_ceil(tile.side()) } else { down })?,
            [levels(leveled, across)?, levels(one_pass, across)?],
        );
        let by_tile = wanted.scale && !one_pass && list.is_none();
        let moments = if by_tile { weight_blocks(tile, rows, m) } else { 0 };
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
            kind: planner.kind(tile),
            product_kind: planner.kind(product_tile),
            upstream,
            ranges,
            coefficients,
            x,
            y,
            rows,
            list,
            panel: layout.take::<u8>(panel)?,
            levels,
            row_levels,
            column_levels,
            moments: layout.take::<f64>(moments)?,
            moment: layout.take::<f64>(1)?,
            x_splits,
            y_splits,
            parts: layout.take::<f32>(parts)?,
        })
    }

    fn coefficients(&self, base: Address) -> Coefficients {
        let address = |index: usize| self.coefficients[index].at(base);
        Coefficients {
            maximum: address(0),
            negative: address(1),
            log2_sum: address(2),
            base: address(3),
            offset: address(4),
            positive: address(5),
        }
    }
}

/// Loss and gradients in one pass over the matrix: what it has besides the panels of
/// [`BackwardPlan`].
#[derive(Clone, Copy, Debug)]
struct OnePassPlan {
    unit: Region,
    /// Of a panel's tiles: largest similarity, sum, moment.
    tiles: [Region; 3],
    /// Of all rows of tiles.
    groups: [Region; 3],
    chunks: [Region; 2],
    positive: Region,
    totals: Region,
}

impl OnePassPlan {
    fn plan(layout: &mut Layout, shape: &Shape, tile: Tile, rows: usize) -> Result<Self> {
        let Shape { n, m, .. } = *shape;
        let mut sums = |count: usize| -> Result<[Region; 3]> {
            Ok([layout.take::<f32>(count)?, layout.take::<f32>(count)?, layout.take::<f64>(count)?])
        };
        let all = n.div_ceil(tile.side());
        let (tiles, groups) = (sums(weight_blocks(tile, rows, m))?, sums(all)?);
        let chunks = all.div_ceil(chunk(all));
        Ok(Self {
            unit: layout.take::<f32>(1)?,
            tiles,
            groups,
            chunks: [layout.take::<f32>(chunks)?, layout.take::<f32>(chunks)?],
            positive: layout.take::<f32>(n)?,
            totals: layout.take::<[u8; TOTALS_BYTES]>(n.div_ceil(chunk(n)))?,
        })
    }

    fn sums(regions: [Region; 3], base: Address) -> TileSums {
        let [maximum, sum, moment] = regions.map(|region| region.at(base));
        TileSums { maximum, sum, moment }
    }
}

/// A whole call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    operands: Operands,
    embeddings: Embeddings,
    forward: Option<ForwardPlan>,
    backward: Option<BackwardPlan>,
    /// Instead of `forward`.
    one_pass: Option<OnePassPlan>,
    /// Bytes of scratch memory.
    pub bytes: usize,
}

impl Plan {
    /// Whether loss and gradients are to be had by [`Pass::one_pass`].
    pub fn is_one_pass(&self) -> bool {
        self.one_pass.is_some()
    }
}

impl Planner {
    /// Whether loss and gradients can be had in one pass over the matrix, three products in all: all
    /// negatives in one group, so that its log-sum-exp is one factor for all of them, and positives
    /// that are few enough to be added afterwards.
    fn one_pass(&self, shape: &Shape, forward: bool, backward: Option<Wanted>) -> bool {
        forward
            && backward.is_some_and(|wanted| wanted.x || wanted.y)
            && shape.scope == Scope::Matrix
            && shape.diagonal
            && shape.mining == Mining::All
            && !shape.shared
            && self.operands.arithmetic != Arithmetic::F32
    }

    /// Plans a forward pass, a backward pass, or both, within the bound.
    pub fn plan(&self, shape: &Shape, forward: bool, backward: Option<Wanted>) -> Result<Plan> {
        let one_pass = self.one_pass(shape, forward, backward);
        let plan = |tile: Tile, rows: usize, lean: bool| -> Result<Plan> {
            let mut layout = Layout::default();
            let embeddings = Embeddings::plan(&mut layout, &self.operands, shape)?;
            let mark = layout;
            let forward = if forward && !one_pass {
                Some(ForwardPlan::plan(&mut layout, self, shape, lean)?)
            } else {
                None
            };
            layout.rewind(mark);
            let layout = &mut layout;
            let backward = match backward {
                Some(wanted) => Some(BackwardPlan::plan(
                    layout, self, shape, wanted, tile, rows, lean, one_pass,
                )?),
                None => None,
            };
            let one_pass =
                if one_pass { Some(OnePassPlan::plan(layout, shape, tile, rows)?) } else { None };
            let bytes = layout.bytes();
            Ok(Plan { operands: self.operands, embeddings, forward, backward, one_pass, bytes })
        };
        let fits = |plan: &Plan| plan.bytes <= self.bound;
        let tile = self.tile(shape.n, shape.m);
        let all = shape.n.next_multiple_of(tile.side());
        let row = Operands::padded(shape.m) * self.operands.bytes();
        // As large a panel as is useful; then the largest that fits; then the smallest tile.
        let useful = (PANEL_BYTES / row / tile.side()).max(1) * tile.side();
        let best = plan(tile, useful.min(all), false)?;
        if fits(&best) {
            return Ok(best);
        }
        let least = plan(tile, tile.side(), true)?;
        if fits(&least) {
            // A row of tiles more is so many rows of the panel, and at most 48 bytes a tile.
            let each = row * tile.side() + 48 * shape.m.div_ceil(tile.side());
            let spare = (self.bound - least.bytes) / each;
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
        let list = Shape { list: self.stages(&shape), ..shape };
        let wanted = Wanted { x: true, y: true, scale: true, converted: true };
        let fits = list.list.is_some() && self.plan(&list, true, Some(wanted)).is_ok();
        if fits { list } else { shape }
    }

    /// The stages by which the pairs are mined, where they are few.
    pub fn stages(&self, shape: &Shape) -> Option<Stages> {
        let bytes = mining::LIST_BYTES.min(self.bound / 8);
        mining::stages(shape, self.tile(shape.n, shape.m), bytes)
    }

    /// Plans a selection of so many pairs, of a shape without positives.
    pub fn top_k(&self, shape: &Shape, pairs: usize) -> Result<TopKPlan> {
        if pairs > i32::MAX as usize {
            let given = format!("{pairs} pairs in all");
            return Err(Error::argument("k", given, format!("at most {}", i32::MAX)));
        }
        let (operands, kind) = (self.operands, self.kind(self.tile(shape.n, shape.m)));
        let plan = TopKPlan::plan(operands, shape, kind, pairs, false)?;
        if plan.bytes <= self.bound {
            return Ok(plan);
        }
        let shape = &Shape { list: None, ..*shape };
        let plan = TopKPlan::plan(operands, shape, kind, pairs, true)?;
        self.within_bound(plan.bytes)?;
        Ok(plan)
    }

    /// Whether the caller allows so many bytes.
    fn within_bound(&self, needed: usize) -> Result<()> {
        match needed <= self.bound {
            true => Ok(()),
            false => Err(Error::WorkspaceTooSmall { needed, bound: self.bound }),
        }
    }

    /// Plans a log-sum-exp over all pairs.
    pub fn log_sum_exp(&self, shape: &Shape) -> Result<LogSumExpPlan> {
        let mut layout = Layout::default();
        let embeddings = Embeddings::plan(&mut layout, &self.operands, shape)?;
        let scale = layout.take::<f32>(1)?;
        let groups = RowGroups::plan(&mut layout, self, shape)?;
        let all = shape.groups();
        let result = [layout.take::<f32>(all)?, layout.take::<f32>(all)?];
        let operands = self.operands;
        let plan =
            LogSumExpPlan { operands, embeddings, scale, groups, result, bytes: layout.bytes() };
        self.within_bound(plan.bytes)?;
        Ok(plan)
    }

    /// Plans the similarity matrix itself.
    pub fn similarity(&self, shape: &Shape) -> Result<SimilarityPlan> {
        let mut layout = Layout::default();
        let embeddings = Embeddings::plan(&mut layout, &self.operands, shape)?;
        let kind = self.kind(self.tile(shape.n, shape.m));
        let plan =
            SimilarityPlan { operands: self.operands, embeddings, kind, bytes: layout.bytes() };
        self.within_bound(plan.bytes)?;
        Ok(plan)
    }
}

/// The log-sum-exp of all pairs.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSumExpPlan {
    operands: Operands,
    embeddings: Embeddings,
    scale: Region,
    groups: RowGroups,
    result: [Region; 2],
    pub bytes: usize,
}

/// The similarity matrix itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimilarityPlan {
    operands: Operands,
    embeddings: Embeddings,
    kind: Kind,
    pub bytes: usize,
}

/// Embeddings as the passes see them: the caller's, or prepared ones.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub x: Operand,
    pub y: Operand,
}

impl Rows {
    /// Those of a call; what they are prepared from is in `input`, what they are prepared as at
    /// `base`.
    fn new(operands: &Operands, embeddings: &Embeddings, input: &Input, base: Address) -> Self {
        let Input { shape, x, y, .. } = input;
        let side = |own: Operand, rows: usize, prepared: bool, place: Region, factor: Region| {
            if prepared {
                Self::prepared(operands, shape, rows, place.at(base), factor.at(base))
            } else {
                own
            }
        };
        let at = embeddings;
        let x = side(*x, shape.n, operands.prepare_x, at.x, at.x_factor);
        let y = match shape.shared {
            true => x,
            false => side(*y, shape.m, operands.prepare_y, at.y, at.y_factor),
        };
        Self { x, y }
    }

    /// A prepared side.
    fn prepared(
        operands: &Operands,
        shape: &Shape,
        rows: usize,
        place: Address,
        factor: Address,
    ) -> Operand {
        match operands.arithmetic {
            Arithmetic::F32 => Operand::new(place, Operands::padded(shape.d), DType::F32),
            _ => Self::target(operands, shape, rows, place, factor).operand(),
        }
    }

    fn target(
        operands: &Operands,
        shape: &Shape,
        rows: usize,
        place: Address,
        factor: Address,
    ) -> Prepared {
        Prepared::new(
            place,
            Operands::padded(shape.d),
            operands.low(rows, shape.d),
            operands.arithmetic.dtype(),
            shape.normalize,
            if operands.factors { factor } else { 0 },
        )
    }

    /// Prepares what has to be. Safety as for [`Pass`].
    pub unsafe fn prepare(
        operands: &Operands,
        embeddings: &Embeddings,
        launch: &Launcher<'_>,
        input: &Input,
        base: Address,
    ) -> Result<Self> {
        let shape = &input.shape;
        let all = Self::new(operands, embeddings, input, base);
        let side = |from: Operand, rows: usize, place: Region, factor: Region| -> Result<()> {
            let (place, factor) = (place.at(base), factor.at(base));
            // SAFETY: as for `Pass::forward`.
            unsafe {
                match operands.arithmetic {
                    Arithmetic::F32 => {
                        let out = Output::new(place, Operands::padded(shape.d), rows, shape.d);
                        launch.normalize(from, NORM_EPS, out)
                    }
                    _ => {
                        let out = Self::target(operands, shape, rows, place, factor);
                        let (rows, depth) = (rows as u32, shape.d as u32);
                        let top = embeddings.top.at(base);
                        if operands.factors && !shape.normalize {
                            launch.clear_words(top, 1)?;
                            launch.matrix_top(from, rows, depth, top)?;
                        }
                        launch.prepare(from, rows, depth, NORM_EPS, top, out)
                    }
                }
            }
        };
        if operands.prepare_x {
            side(input.x, shape.n, embeddings.x, embeddings.x_factor)?;
        }
        if operands.prepare_y && !shape.shared {
            side(input.y, shape.m, embeddings.y, embeddings.y_factor)?;
        }
        Ok(all)
    }
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
        let arithmetic = self.plan.operands.arithmetic;
        let (shape, base) = (&self.input.shape, self.base);
        let (n, d) = (shape.n as u32, shape.d as u32);
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let terms = self.saved.terms.at(self.saved_base);
        let positive = plan.positive.at(base);
        // SAFETY: regions of the plan hold what their names say, for this shape; every kernel reads
        // what one before it wrote.
        unsafe {
            self.launch.scalar(self.input.scale.0, self.input.scale.1, true, scale)?;
            let rows = self.embeddings()?;
            let pairs = self.ranges(&plan.ranges)?;
            let row_sum = self.groups(plan, rows, pairs, positive, groups)?;
            if pairs.has(LABELED) {
                let pairs = match plan.groups.kind.tile {
                    Tile::Small => pairs,
                    Tile::Large => self.ranges(&plan.terms_ranges)?,
                };
                let (walk, partial) = (plan.terms_walk, plan.terms_partial.at(base));
                let Rows { x, y } = rows;
                self.launch.terms(arithmetic, x, y, d, &pairs, walk, scale, groups, partial)?;
                self.launch.merge_terms(partial, walk.splits, n, groups, scale, terms)?;
            } else {
                self.launch.index_terms(&pairs, positive, groups, scale, terms)?;
            }
            self.totals(plan.totals, groups, (row_sum, 1), loss)
        }
    }

    /// The loss from the rows' terms. Safety as for [`Pass`].
    unsafe fn totals(
        &self,
        partial: Region,
        groups: Groups,
        row_sum: (Address, i32),
        loss: Address,
    ) -> Result<()> {
        let n = self.input.shape.n;
        let (chunk, partial) = (chunk(n) as u32, partial.at(self.base));
        let n = n as u32;
        let scale = self.saved.scale.at(self.saved_base);
        let terms = self.saved.terms.at(self.saved_base);
        let total = self.saved.total.at(self.saved_base);
        let mean = self.input.reduction == Reduction::Mean;
        // SAFETY: as in `forward`.
        unsafe {
            self.launch.totals(terms, n, chunk, row_sum, groups, scale, partial)?;
            self.launch.finish(partial, n.div_ceil(chunk), mean, scale, total, loss)
        }
    }

    /// The coefficients of all rows. Safety as for [`Pass`].
    unsafe fn coefficients(&self, groups: Groups, out: Coefficients) -> Result<()> {
        // SAFETY: as in `forward`.
        unsafe {
            self.launch.coefficients(
                self.saved.terms.at(self.saved_base),
                self.input.shape.n as u32,
                groups,
                self.saved.total.at(self.saved_base),
                self.input.weighting == Weighting::AnchorNormalized,
                self.input.reduction == Reduction::Mean,
                self.saved.scale.at(self.saved_base),
                out,
            )
        }
    }

    /// Where gradients are summed: in scratch memory, if they have to go through the normalisation
    /// or into another type from there.
    fn sums(&self, plan: &BackwardPlan, out: &Gradients) -> (Output, Output) {
        let Shape { n, m, d, normalize, .. } = self.input.shape;
        let sums = |region: Region, out: Destination, rows: usize| match out.as_output() {
            Some(out) if !normalize => out,
            _ => Output::new(region.at(self.base), padded(d), rows, d),
        };
        (sums(plan.x, out.x, n), sums(plan.y, out.y, m))
    }

    /// Takes what [`sums`](Self::sums) holds to where the gradients go. Safety as for [`Pass`].
    unsafe fn finish(&self, to_x: Output, to_y: Output, out: &Gradients) -> Result<()> {
        let Shape { normalize, .. } = self.input.shape;
        let sides = [(to_x, self.input.x, out.x), (to_y, self.input.y, out.y)];
        for (sums, embeddings, out) in sides.into_iter().filter(|(.., out)| out.data != 0) {
            let gradient = Operand::new(sums.data, sums.stride as usize, DType::F32);
            // SAFETY: as in `forward`.
            unsafe {
                if normalize {
                    self.launch.normalize_backward(embeddings, gradient, NORM_EPS, out)?;
                } else if out.as_output().is_none() {
                    self.launch.convert(gradient, out)?;
                }
            }
        }
        Ok(())
    }

    /// A panel of `rows` rows; `data` 0 where it is not wanted.
    fn panel(&self, plan: &BackwardPlan, rows: usize, wanted: bool, levels: bool) -> Panel {
        let m = self.input.shape.m;
        Panel {
            data: if wanted { plan.panel.at(self.base) } else { 0 },
            stride: Operands::padded(m) as i64,
            low: self.plan.operands.low(plan.rows, m) as i64,
            levels: if levels { plan.levels.at(self.base) } else { 0 },
            rows: rows as u32,
            columns: m as u32,
        }
    }

    /// A panel as an operand of the products.
    fn panel_operand(&self, panel: &Panel) -> Operand {
        let dtype = self.plan.operands.arithmetic.dtype();
        let mut operand = Operand::new(panel.data, panel.stride as usize, dtype);
        operand.low = panel.low;
        operand
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
            if let (Some(lists), Some(cuts)) = (&plan.lists, &plan.cuts) {
                let saved = self.saved.list.as_ref();
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
        let coefficients = plan.coefficients(base);
        let (want_x, want_y) = (out.x.data != 0, out.y.data != 0);
        let products = want_x || want_y;
        let (to_x, to_y) = self.sums(plan, out);
        let side = plan.kind.tile.side();
        let across = m.div_ceil(side) as u32;
        let leveled = products && self.plan.operands.levels();
        // SAFETY: as in `forward`; a panel is written before the products read it, and read before
        // the next panel overwrites it.
        unsafe {
            self.launch.scalar(upstream.0, upstream.1, false, factor)?;
            // After a forward pass of the same call the prepared rows are still there.
            let rows = if self.plan.forward.is_some() { self.rows() } else { self.embeddings()? };
            let pairs = self.ranges(&plan.ranges)?;
            self.coefficients(groups, coefficients)?;
            let pairs = mining::mined(pairs, shape, self.saved.cuts.at(self.saved_base));
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
                let panel = self.panel(plan, count, products, leveled);
                self.launch.weights(
                    plan.kind,
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
                    let blocks = weight_blocks(plan.kind.tile, count, m);
                    self.launch.sum_moments(moments, blocks as u32, rest, moment)?;
                }
                let (mut row_levels, mut column_levels) = (Levels::default(), Levels::default());
                if leveled {
                    let down = count.div_ceil(side) as u32;
                    let levels = Levels {
                        tiles: panel.levels,
                        side: side as u32,
                        row_step: across,
                        depth_step: 1,
                        ..Levels::default()
                    };
                    row_levels = Levels { results: plan.row_levels.at(base), ..levels };
                    column_levels = Levels {
                        results: plan.column_levels[0].at(base),
                        row_step: 1,
                        depth_step: across,
                        ..levels
                    };
                    let (tiles, results) = (panel.levels, column_levels.results);
                    self.launch.row_levels(tiles, down, across, 0, row_levels.results)?;
                    self.launch.column_levels(tiles, down, across, 0, 0, results)?;
                }
                let g = self.panel_operand(&panel);
                let parts = plan.parts.at(base);
                // G^T X of the panel's rows: into dY, or into the one gradient of a shared set,
                // whose rows all get their first value here.
                let whole = if shape.shared { to_x } else { to_y };
                if want_y || (shape.shared && want_x) {
                    let splits = split(count, plan.y_splits.count);
                    self.launch.product(
                        plan.product_kind,
                        Product::ColumnsColumns,
                        g,
                        rows.x.starting_at(first),
                        count as u32,
                        splits,
                        parts,
                        Mix::new(factor, rows.y.factor, column_levels, rest),
                        whole,
                    )?;
                }
                if want_x {
                    let divisor = match rows.x.factor {
                        0 => 0,
                        factors => factors + 4 * first as u64,
                    };
                    self.launch.product(
                        plan.product_kind,
                        Product::RowsColumns,
                        g,
                        rows.y.starting_at(0),
                        m as u32,
                        plan.x_splits,
                        parts,
                        Mix::new(factor, divisor, row_levels, shape.shared),
                        to_x.rows(first, count),
                    )?;
                }
            }
            if out.scale != 0 {
                self.launch.scale_gradient(moment, scale, factor, out.scale)?;
            }
            self.finish(to_x, to_y, out)
        }
    }

    /// Loss and gradients in three products, for plans that say so ([`Planner::one_pass`]).
    ///
    /// The weights of all negatives are taken relative to the largest similarity of their tile, for
    /// want of the log-sum-exp of all; the products go from tile to tile by the difference, and once
    /// the log-sum-exp is known one factor a row makes gradients of their sums.
    pub unsafe fn one_pass(
        &self,
        loss: Address,
        upstream: (f32, Address),
        out: &Gradients,
    ) -> Result<()> {
        let (Some(plan), Some(pass)) = (&self.plan.backward, &self.plan.one_pass) else {
            return Ok(());
        };
        let (shape, base) = (&self.input.shape, self.base);
        let Shape { n, m, d, .. } = *shape;
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let terms = self.saved.terms.at(self.saved_base);
        let factor = plan.upstream.at(base);
        let unit = pass.unit.at(base);
        let positive = pass.positive.at(base);
        let coefficients = plan.coefficients(base);
        let (want_x, want_y) = (out.x.data != 0, out.y.data != 0);
        let (to_x, to_y) = self.sums(plan, out);
        let side = plan.kind.tile.side();
        let across = m.div_ceil(side) as u32;
        let tiles = OnePassPlan::sums(pass.tiles, base);
        let rows_of_tiles = OnePassPlan::sums(pass.groups, base);
        let row_levels = plan.row_levels.at(base);
        let column_levels = plan.column_levels.map(|region| region.at(base));
        // Where the column's levels are after the last panel.
        let mut newest = 0;
        // SAFETY: as in `backward`.
        unsafe {
            self.launch.scalar(self.input.scale.0, self.input.scale.1, true, scale)?;
            self.launch.scalar(upstream.0, upstream.1, false, factor)?;
            self.launch.level_unit(scale, unit)?;
            let rows = self.embeddings()?;
            let pairs = self.ranges(&plan.ranges)?;
            for (index, first) in (0..n).step_by(plan.rows).enumerate() {
                let end = (first + plan.rows).min(n);
                let count = end - first;
                let down = count.div_ceil(side) as u32;
                let above = (first / side) as u64;
                let panel = self.panel(plan, count, true, true);
                self.launch.exponentials(
                    plan.kind,
                    rows.x,
                    rows.y,
                    d as u32,
                    &pairs,
                    first as u32,
                    end as u32,
                    scale,
                    panel,
                    tiles,
                    positive,
                )?;
                let here = TileSums {
                    maximum: rows_of_tiles.maximum + 4 * above,
                    sum: rows_of_tiles.sum + 4 * above,
                    moment: rows_of_tiles.moment + 8 * above,
                };
                self.launch.tile_groups(tiles, down, across, scale, here)?;
                newest = index % 2;
                let levels = Levels {
                    tiles: panel.levels,
                    unit,
                    side: side as u32,
                    relative: 1,
                    ..Levels::default()
                };
                let g = self.panel_operand(&panel);
                let parts = plan.parts.at(base);
                if want_y {
                    let before = if index == 0 { 0 } else { column_levels[1 - newest] };
                    let levels = Levels {
                        results: column_levels[newest],
                        before,
                        row_step: 1,
                        depth_step: across,
                        ..levels
                    };
                    let results = levels.results;
                    self.launch.column_levels(panel.levels, down, across, unit, before, results)?;
                    self.launch.product(
                        plan.product_kind,
                        Product::ColumnsColumns,
                        g,
                        rows.x.starting_at(first),
                        count as u32,
                        split(count, plan.y_splits.count),
                        parts,
                        Mix::new(0, 0, levels, index > 0),
                        to_y,
                    )?;
                }
                if want_x {
                    let results = row_levels + LEVEL_BYTES as u64 * above;
                    let levels = Levels { results, row_step: across, depth_step: 1, ..levels };
                    self.launch.row_levels(panel.levels, down, across, unit, results)?;
                    self.launch.product(
                        plan.product_kind,
                        Product::RowsColumns,
                        g,
                        rows.y.starting_at(0),
                        m as u32,
                        plan.x_splits,
                        parts,
                        Mix::new(0, 0, levels, false),
                        to_x.rows(first, count),
                    )?;
                }
            }
            // The one group of all rows of tiles, in two steps.
            let count = n.div_ceil(side);
            let chunk = chunk(count) as u32;
            let count = count as u32;
            let group = |maximum, sum| Groups { maximum, sum, log2_sum: 0, stride: 1 };
            let each = group(rows_of_tiles.maximum, rows_of_tiles.sum);
            let chunks = group(pass.chunks[0].at(base), pass.chunks[1].at(base));
            self.launch.reduce_groups(each, count, chunk, scale, chunks)?;
            let chunk_count = count.div_ceil(chunk);
            self.launch.reduce_groups(chunks, chunk_count, chunk_count, scale, groups)?;
            self.launch.index_terms(&pairs, positive, groups, scale, terms)?;
            self.totals(pass.totals, groups, (groups.sum, 0), loss)?;
            self.coefficients(groups, coefficients)?;
            let finish = |to: Output, levels: Address, own: Operand, other: Operand| {
                self.launch.one_pass_gradient(
                    to,
                    levels,
                    side as u32,
                    own.factor,
                    other,
                    n.min(m) as u32,
                    positive,
                    coefficients,
                    scale,
                    factor,
                )
            };
            if want_x {
                finish(to_x, row_levels, rows.x, rows.y)?;
            }
            if want_y {
                finish(to_y, column_levels[newest], rows.y, rows.x)?;
            }
            if out.scale != 0 {
                let moment = plan.moment.at(base);
                self.launch.one_pass_moment(
                    rows_of_tiles,
                    count,
                    &pairs,
                    positive,
                    coefficients,
                    scale,
                    moment,
                )?;
                self.launch.scale_gradient(moment, scale, factor, out.scale)?;
            }
            self.finish(to_x, to_y, out)
        }
    }

    fn rows(&self) -> Rows {
        Rows::new(&self.plan.operands, &self.plan.embeddings, &self.input, self.base)
    }

    /// Prepares the embeddings, where they have to be. Safety as for [`Pass`].
    unsafe fn embeddings(&self) -> Result<Rows> {
        let Plan { operands, embeddings, .. } = &self.plan;
        // SAFETY: as in `forward`.
        unsafe { Rows::prepare(operands, embeddings, &self.launch, &self.input, self.base) }
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
        launch.stats(plan.kind, x, y, depth, pairs, plan.walk, scale, maximum, sum, positive)?;
        if groups.stride == 1 {
            launch.merge_groups(maximum, sum, plan.partials, n, scale, groups)?;
            return Ok(groups.sum);
        }
        let each = plan.each(base);
        launch.merge_groups(maximum, sum, plan.partials, n, scale, each)?;
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
        // SAFETY: as in `Pass::forward`.
        unsafe {
            let rows = Rows::prepare(&self.operands, &self.embeddings, launch, input, base)?;
            launch.scalar(input.scale.0, input.scale.1, true, scale)?;
            let pairs = &input.pairs;
            row_groups(launch, &self.groups, rows, shape.d as u32, pairs, scale, 0, groups, base)?;
            launch.log_sum_exp(groups, shape.groups() as u32, scale, out)
        }
    }
}

impl SimilarityPlan {
    /// S = X·Yᵀ into `out`. Safety as for [`Pass`].
    pub unsafe fn run(
        &self,
        launch: &Launcher<'_>,
        input: &Input,
        base: Address,
        out: Output,
    ) -> Result<()> {
        let depth = input.shape.d;
        let (product, splits) = (Product::RowsRows, split(depth, 1));
        // SAFETY: as in `Pass::forward`.
        unsafe {
            let Rows { x, y } =
                Rows::prepare(&self.operands, &self.embeddings, launch, input, base)?;
            let depth = depth as u32;
            launch.product(self.kind, product, x, y, depth, splits, 0, Mix::default(), out)
        }
    }
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
            diagonal: false,
            flags,
            scope: Scope::Matrix,
            mining: Mining::All,
            normalize: true,
            list: None,
        }
    }

    fn planner(bound: usize) -> Planner {
        let operands = Operands {
            arithmetic: Arithmetic::F16,
            split: true,
            factors: true,
            prepare_x: true,
            prepare_y: true,
        };
        Planner { multiprocessors: 132, operands, tile: None, bound }
    }

    const ALL: Wanted = Wanted { x: true, y: true, scale: true, converted: false };

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
    fn lists_are_cut_to_the_bound() {
        let mined = Shape { mining: Mining::HardestPerRow(2), flags: IDS, ..shape(140, 139, 6) };
        let planner = |bound| Planner { multiprocessors: 108, ..planner(bound) };
        for (bound, list, kept) in
            [(usize::MAX, true, true), (PANELS, true, false), (1, false, false)]
        {
            let planner = planner(bound);
            let given = planner.with_list(mined);
            assert_eq!(given.list.is_some(), list);
            assert_eq!(given.list.is_some_and(|stages| stages.kept), kept);
        }
    }

    /// The bound of the test of panels in tests/cuda_mining.rs.
    const PANELS: usize = 400_000;

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
            assert!(count * each >= depth && (count - 1) * each < depth && each % 32 == 0);
        }
    }
}
