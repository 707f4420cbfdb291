//! Room: engines, CUDA. The passes: how large tiles, splits and panels are, where everything lies in
//! scratch memory, and the order of launches.
//!
//! Sizes are decided by shapes, options, the device and the workspace bound alone, and everything is
//! merged in a fixed order: the same call gives the same bits.

use super::launch::{
    Address, Arithmetic, Band, Coefficients, Destination, Groups, IDS, INDEXED, Kept, Kind,
    LABELED, LEVEL_BYTES, Launcher, Levels, Matches, Mix, Operand, Output, POSITIVES, Pairs, Panel,
    Prepared, Product, Ranges, SHARE_FACTOR_BYTES, Splits, Sums, TERMS_BYTES, TOTALS_BYTES, Tile,
    TileSums, Walk, weight_tiles,
};
use super::mining::{
    self, CutsPlan, GradientPlan, ListsPlan, SavedList, Stages, Targets, TopKPlan, Weights,
};
use super::order::{OrderPlan, SortedKeys};
use super::workspace::{Layout, Region};
use crate::loss::formula::{Mining, Reduction, Scope, Weighting};
use crate::ops::NORM_EPS;
use crate::{DType, Error, Result};

/// Bytes of the panel of weights where the caller sets no bound that asks for fewer.
const PANEL_BYTES: usize = 128 << 20;

/// Rows that one block of a summing kernel takes, unless there are very many.
const CHUNK: usize = 256;
const CHUNKS: usize = 1024;

/// Bytes of the similarities that are kept of positives, at most.
const KEPT_BYTES: usize = 32 << 20;

/// Rows and columns from which on the bands of labels are of large tiles.
const LARGE_BANDS: usize = 8192;

/// Tiles of a split of the pass for the terms of labels, at least. Twin of SPLIT_TILES
/// (kernels/epilogue/terms.cuh).
const TERMS_SPLIT_TILES: usize = 4;

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

    /// Whether rows and columns are put in the order of their labels. Mining keeps the caller's: it
    /// tells ties apart by row and column numbers.
    pub fn sorted(&self) -> bool {
        self.has(LABELED) && self.mining == Mining::All
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

    /// Into how many parts, `most` at most, each of `lines` tasks of a `length` is to be split. Blocks
    /// come in waves of as many as the device holds: a wave that is not full takes as long as any.
    /// `costs`: what a part takes besides its length, of its block; and of all later on, if it is not
    /// the only one.
    fn splits(
        &self,
        tile: Tile,
        lines: usize,
        length: usize,
        most: usize,
        costs: (f64, f64),
    ) -> usize {
        let slots = self.multiprocessors * tile.resident();
        let takes = |splits: usize| {
            let each = length.div_ceil(splits);
            let blocks = lines * length.div_ceil(each);
            let waves = blocks.div_ceil(slots) as f64;
            let later = if blocks == lines { 0.0 } else { blocks as f64 / slots as f64 * costs.1 };
            waves * (each as f64 + costs.0) + later
        };
        // Blocks of some waves even out what is left of the last. Where that is next to nothing, few
        // parts are less work.
        let choices = || 1..=most.min(WAVES * slots.div_ceil(lines));
        let least = choices().map(&takes).fold(f64::INFINITY, f64::min);
        choices().find(|splits| takes(*splits) <= 1.05 * least).unwrap_or(1)
    }

    fn walk(&self, tile: Tile, n: usize, m: usize) -> Walk {
        let across = m.div_ceil(tile.side());
        // A block's statistics cost a small part of a tile's.
        let splits = self.splits(tile, n.div_ceil(tile.side()), across, across, (0.3, 0.3));
        let each = across.div_ceil(splits);
        Walk { splits: across.div_ceil(each) as u32, tiles_per_split: each as u32 }
    }

    /// Splits of a sum of `depth` for a rows × columns result. `lean`: as little memory as can be.
    fn product(&self, tile: Tile, rows: usize, columns: usize, depth: usize, lean: bool) -> Splits {
        let tiles = rows.div_ceil(tile.side()) * columns.div_ceil(tile.side());
        let most = if lean { 1 } else { depth.div_ceil(SPLIT_DEPTH) };
        // To store a part takes some slices' time, to write and read it once more that of many.
        split(depth, self.splits(tile, tiles, depth, most, (64.0, 256.0)))
    }
}

/// Waves of blocks that a launch is split into, at most.
const WAVES: usize = 8;

/// At most `count` slices of a sum, multiples of 32 long.
fn split(depth: usize, count: usize) -> Splits {
    let each = depth.div_ceil(count).next_multiple_of(32);
    Splits { count: depth.div_ceil(each), depth: each }
}

/// A row length that keeps rows of f32 aligned for wide loads.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(4)
}

/// Groups that a block reduces: all threads of the blocks have some, and so have those of the one block
/// that reduces what these leave.
fn chunk(count: usize) -> usize {
    CHUNK.max(count.div_ceil(CHUNKS))
}

/// Prepared rows, the order they are in, and the factors of all rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embeddings {
    order: Option<OrderPlan>,
    prepare: [bool; 2],
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
        // Rows in another order are copies.
        let sorted = shape.sorted();
        let prepare = [operands.prepare_x || sorted, own_y && (operands.prepare_y || sorted)];
        let (x, y) = (rows(prepare[0], shape.n)?, rows(prepare[1], shape.m)?);
        let mut factors =
            |wanted: bool, rows: usize| layout.take::<f32>(if wanted { rows } else { 0 });
        Ok(Self {
            prepare,
            x,
            y,
            x_factor: factors(operands.factors, shape.n)?,
            y_factor: factors(operands.factors && own_y, shape.m)?,
            top: layout.take::<u32>(1)?,
            order: OrderPlan::plan(layout, shape)?,
        })
    }

    /// The orders of both sides; 0 for the caller's.
    fn orders(&self, base: Address) -> [Address; 2] {
        self.order.map_or([0; 2], |order| order.orders(base))
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
    /// Which tiles may hold equal labels, where that is asked.
    bands: Option<[Region; 2]>,
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
            bands: None,
        })
    }

    /// The same with bands, where there are labels.
    fn with_bands(self, layout: &mut Layout, shape: &Shape) -> Result<Self> {
        if !shape.has(LABELED) {
            return Ok(self);
        }
        let side = self.tile.side();
        let mut bands = |count: usize| layout.take::<[u32; 2]>(count.div_ceil(side));
        Ok(Self { bands: Some([bands(shape.n)?, bands(shape.m)?]), ..self })
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
    positive: Region,
    /// Similarities of the positives of labels, of one pass for the next.
    kept: Option<Region>,
    terms: Option<TermsPlan>,
    totals: Region,
}

/// What the positives of labels add up to: a pass over small tiles, where they may match.
#[derive(Clone, Copy, Debug)]
struct TermsPlan {
    /// Where those at hand are not of small tiles.
    ranges: Option<KeyRanges>,
    walk: Walk,
    partial: Region,
}

impl TermsPlan {
    /// `at_hand`: the tile whose ranges there are.
    fn plan(layout: &mut Layout, planner: &Planner, shape: &Shape, at_hand: Tile) -> Result<Self> {
        let Shape { n, m, .. } = *shape;
        let labels = Shape { flags: shape.flags & LABELED, ..*shape };
        let ranges = (at_hand != Tile::Small)
            .then(|| KeyRanges::plan(layout, &labels, Tile::Small)?.with_bands(layout, &labels));
        let mut walk = planner.walk(Tile::Small, n, m);
        let across = m.div_ceil(Tile::Small.side());
        walk.splits = walk.splits.min(across.div_ceil(TERMS_SPLIT_TILES) as u32);
        let partial = layout.take::<[u8; TERMS_BYTES]>(n * walk.splits as usize)?;
        Ok(Self { ranges: ranges.transpose()?, walk, partial })
    }
}

impl ForwardPlan {
    /// The ranges of keys of its tiles, which a backward pass may want too.
    fn ranges(layout: &mut Layout, planner: &Planner, shape: &Shape) -> Result<KeyRanges> {
        let tile = planner.tile(shape.n, shape.m);
        let ranges = KeyRanges::plan(layout, shape, tile)?;
        // Those of the terms too.
        if tile == Tile::Small { ranges.with_bands(layout, shape) } else { Ok(ranges) }
    }

    fn plan(
        layout: &mut Layout,
        planner: &Planner,
        shape: &Shape,
        ranges: KeyRanges,
        lean: bool,
    ) -> Result<Self> {
        let Shape { n, .. } = *shape;
        let groups = RowGroups::plan(layout, planner, shape)?;
        let kind = groups.kind;
        let cuts = CutsPlan::plan(layout, shape, kind, lean)?;
        let stages = shape.list;
        let lists =
            stages.map(|stages| ListsPlan::plan(layout, shape, kind, stages, false)).transpose()?;
        let terms = match shape.has(LABELED) {
            true => Some(TermsPlan::plan(layout, planner, shape, kind.tile)?),
            false => None,
        };
        let size = n * Kept::WIDTH as usize;
        let kept = (shape.sorted() && !lean && size * size_of::<f32>() <= KEPT_BYTES)
            .then(|| layout.take::<f32>(size))
            .transpose()?;
        Ok(Self {
            groups,
            ranges,
            cuts,
            lists,
            kept,
            positive: layout.take::<f32>(if shape.has(INDEXED) { n } else { 0 })?,
            terms,
            totals: layout.take::<[u8; TOTALS_BYTES]>(n.div_ceil(chunk(n)))?,
        })
    }
}

/// One way through the gradient, panel by panel.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    kind: Kind,
    product_kind: Kind,
    /// Rows of a panel.
    rows: usize,
    panel: Region,
    /// Levels of a panel's tiles.
    levels: Region,
    /// The highest of every row of tiles: of a panel, or in one pass of all.
    row_levels: Region,
    /// The highest of every column of tiles.
    column_levels: Region,
    moments: Region,
    x_splits: Splits,
    y_splits: Splits,
    parts: Region,
}

impl Sweep {
    /// Its sizes; it has no places yet.
    fn new(planner: &Planner, shape: &Shape, tile: Tile, rows: usize, lean: bool) -> Self {
        let Shape { m, d, .. } = *shape;
        let product_tile = planner.product_tile(tile, d);
        let none = Region::default();
        Self {
            kind: planner.kind(tile),
            product_kind: planner.kind(product_tile),
            rows,
            panel: none,
            levels: none,
            row_levels: none,
            column_levels: none,
            moments: none,
            x_splits: planner.product(product_tile, rows, d, m, lean),
            y_splits: planner.product(product_tile, m, d, rows, lean),
            parts: none,
        }
    }

    /// Bytes of its panel.
    fn panel_bytes(&self, planner: &Planner, shape: &Shape) -> Result<usize> {
        Operands::padded(shape.m)
            .checked_mul(planner.operands.bytes())
            .and_then(|row| row.checked_mul(self.rows))
            .ok_or(Error::WorkspaceTooSmall { needed: usize::MAX, bound: planner.bound })
    }

    /// How many f32 its products need to be put together.
    fn part_count(&self, shape: &Shape, wanted: Wanted) -> usize {
        let part = |wanted: bool, splits: Splits, rows: usize| {
            if wanted && splits.count > 1 { splits.count * rows * shape.d } else { 0 }
        };
        // In the shared case both products go into the one gradient.
        let y = wanted.y || (wanted.x && shape.shared);
        part(wanted.x, self.x_splits, self.rows).max(part(y, self.y_splits, shape.m))
    }

    /// Places for the levels, with those of so many rows of the matrix.
    fn place_levels(&mut self, layout: &mut Layout, shape: &Shape, rows: usize) -> Result<()> {
        let side = self.kind.tile.side();
        let across = shape.m.div_ceil(side);
        let mut levels = |count: usize| layout.take::<[u8; LEVEL_BYTES]>(count);
        self.levels = levels(self.rows.div_ceil(side) * across)?;
        self.row_levels = levels(rows.div_ceil(side))?;
        self.column_levels = levels(across)?;
        Ok(())
    }

    /// Places for what its tiles add to the gradient of the scale.
    fn place_moments(&mut self, layout: &mut Layout, shape: &Shape) -> Result<()> {
        self.moments = layout.take::<f64>(weight_tiles(self.kind.tile, self.rows, shape.m))?;
        Ok(())
    }
}

/// The gradient in panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackwardPlan {
    upstream: Region,
    ranges: KeyRanges,
    /// Whether a forward pass of the same call has found them.
    ranges_found: bool,
    coefficients: [Region; 6],
    x: Region,
    y: Region,
    sweep: Sweep,
    /// Instead of panels.
    list: Option<GradientPlan>,
    moment: Region,
    one_pass: Option<OnePassPlan>,
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
        found: Option<KeyRanges>,
    ) -> Result<Self> {
        let Shape { n, m, d, .. } = *shape;
        let upstream = layout.take::<f32>(1)?;
        let found = found.filter(|ranges| ranges.tile == tile);
        let mut ranges = match found {
            Some(ranges) => ranges,
            None => KeyRanges::plan(layout, shape, tile)?,
        };
        let mut coefficients = [Region::default(); 6];
        for region in &mut coefficients {
            *region = layout.take::<f32>(n)?;
        }
        let embeddings = |asked: bool, rows: usize| {
            let scratch = shape.normalize || shape.sorted() || wanted.converted;
            if asked && scratch { rows * padded(d) } else { 0 }
        };
        let x = layout.take::<f32>(embeddings(wanted.x, n))?;
        let y = layout.take::<f32>(embeddings(wanted.y, m))?;
        let stages = shape.list.filter(|stages| stages.kept);
        let list = stages.map(|stages| GradientPlan::plan(layout, shape, stages)).transpose()?;
        let mut sweep = Sweep::new(planner, shape, tile, rows, lean);
        let mut positives = None;
        if one_pass && shape.has(LABELED) {
            let tile = planner.band_tile(shape, tile);
            // Bands of small tiles are short sums.
            let lean = lean || tile == Tile::Small;
            positives = Some(Sweep::new(planner, shape, tile, rows, lean));
        }
        if (wanted.x || wanted.y) && list.is_none() {
            sweep.panel = layout.take::<u8>(sweep.panel_bytes(planner, shape)?)?;
            // The sweep for the positives comes after the other, in the same memory.
            let most = positives.map_or(0, |sweep| sweep.part_count(shape, wanted));
            sweep.parts = layout.take::<f32>(sweep.part_count(shape, wanted).max(most))?;
            if one_pass || planner.operands.levels() {
                sweep.place_levels(layout, shape, if one_pass { n } else { rows })?;
            }
        }
        if wanted.scale && !one_pass && list.is_none() {
            sweep.place_moments(layout, shape)?;
        }
        let one_pass = match one_pass {
            true => {
                let positives = positives.map(|positives| Sweep {
                    panel: sweep.panel,
                    parts: sweep.parts,
                    ..positives
                });
                let scale = wanted.scale;
                Some(OnePassPlan::plan(layout, planner, shape, &sweep, positives, scale)?)
            }
            false => None,
        };
        if one_pass.is_some_and(|plan| plan.band.is_some_and(|band| band.ranges.is_none())) {
            ranges = ranges.with_bands(layout, shape)?;
        }
        Ok(Self {
            upstream,
            ranges,
            ranges_found: found.is_some(),
            coefficients,
            x,
            y,
            sweep,
            list,
            moment: layout.take::<f64>(1)?,
            one_pass,
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
    /// Levels of the columns of tiles, in turn with those of the sweep.
    column_levels: Region,
    /// Of a panel's tiles: largest similarity, sum, moment.
    tiles: [Region; 3],
    /// Of all rows of tiles.
    groups: [Region; 3],
    chunks: [Region; 2],
    positive: Region,
    weights: Region,
    totals: Region,
    /// Of a shared set: the sums over columns, whose levels are not those of the rows.
    columns: Region,
    index: Option<IndexPlan>,
    band: Option<BandPlan>,
}

/// The rows of an explicit index by the columns that it names.
#[derive(Clone, Copy, Debug)]
struct IndexPlan {
    keys: SortedKeys,
    starts: Region,
}

/// The positives of labels after a pass over the negatives, within the bands where they lie: their
/// shares come into the panel of the negatives where it holds all rows, else a sweep of their own.
#[derive(Clone, Copy, Debug)]
struct BandPlan {
    sweep: Sweep,
    /// Where the sweep's tiles are not those of the pass over all pairs.
    ranges: Option<KeyRanges>,
    terms: TermsPlan,
    /// Whether one panel holds all rows: the pass for the terms leaves the shares in that of the
    /// negatives.
    at_once: bool,
    factors: Region,
}

impl BandPlan {
    /// `tile`: that of the pass over all pairs.
    fn plan(
        layout: &mut Layout,
        planner: &Planner,
        shape: &Shape,
        mut sweep: Sweep,
        tile: Tile,
        scale: bool,
    ) -> Result<Self> {
        let own = sweep.kind.tile;
        let ranges = (own != tile)
            .then(|| KeyRanges::plan(layout, shape, own)?.with_bands(layout, shape))
            .transpose()?;
        let at_once = own == Tile::Small && sweep.rows >= shape.n;
        if at_once || planner.operands.levels() {
            sweep.place_levels(layout, shape, sweep.rows)?;
        }
        if scale {
            sweep.place_moments(layout, shape)?;
        }
        Ok(Self {
            sweep,
            ranges,
            terms: TermsPlan::plan(layout, planner, shape, own)?,
            at_once,
            factors: layout.take::<[u8; SHARE_FACTOR_BYTES]>(1)?,
        })
    }
}

impl OnePassPlan {
    /// `sweep`: that over all pairs; `positives`: that for the positives of labels; `scale`: whether
    /// its gradient is wanted.
    fn plan(
        layout: &mut Layout,
        planner: &Planner,
        shape: &Shape,
        sweep: &Sweep,
        positives: Option<Sweep>,
        scale: bool,
    ) -> Result<Self> {
        let Shape { n, m, d, .. } = *shape;
        let tile = sweep.kind.tile;
        let mut sums = |count: usize| -> Result<[Region; 3]> {
            Ok([layout.take::<f32>(count)?, layout.take::<f32>(count)?, layout.take::<f64>(count)?])
        };
        let all = n.div_ceil(tile.side());
        let (tiles, groups) = (sums(weight_tiles(tile, sweep.rows, m))?, sums(all)?);
        let chunks = all.div_ceil(chunk(all));
        let anchors = if shape.has(INDEXED) { n } else { 0 };
        let index = match shape.has(INDEXED) && !shape.diagonal {
            true => Some(IndexPlan {
                keys: SortedKeys::plan(layout, n)?,
                starts: layout.take::<u32>(m + 1)?,
            }),
            false => None,
        };
        let band = match positives {
            Some(sweep) => Some(BandPlan::plan(layout, planner, shape, sweep, tile, scale)?),
            None => None,
        };
        Ok(Self {
            unit: layout.take::<f32>(1)?,
            column_levels: layout.take::<[u8; LEVEL_BYTES]>(m.div_ceil(tile.side()))?,
            tiles,
            groups,
            chunks: [layout.take::<f32>(chunks)?, layout.take::<f32>(chunks)?],
            positive: layout.take::<f32>(anchors)?,
            weights: layout.take::<f32>(anchors)?,
            totals: layout.take::<[u8; TOTALS_BYTES]>(n.div_ceil(chunk(n)))?,
            columns: layout.take::<f32>(if shape.shared { m * padded(d) } else { 0 })?,
            index,
            band,
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
    /// With all of the loss's own, where there is one pass for both.
    backward: Option<BackwardPlan>,
    /// Bytes of scratch memory.
    pub bytes: usize,
}

impl Plan {
    /// Whether loss and gradients are to be had by [`Pass::one_pass`].
    pub fn is_one_pass(&self) -> bool {
        self.backward.is_some_and(|plan| plan.one_pass.is_some())
    }
}

impl Planner {
    /// Whether loss and gradients can be had in one pass over the matrix, three products in all: all
    /// negatives in one group, so that its log-sum-exp is one factor for all of them. The positives
    /// come afterwards: one a row as they are, those of labels as [`BandPlan`] says.
    fn one_pass(&self, shape: &Shape, forward: bool, backward: Option<Wanted>) -> bool {
        forward
            && backward.is_some_and(|wanted| wanted.x || wanted.y)
            && shape.scope == Scope::Matrix
            && shape.mining == Mining::All
            && self.operands.arithmetic != Arithmetic::F32
    }

    /// The tile of a sweep within the bands of labels, after one over all pairs: small ones have
    /// narrower bands, which is worth more than a fast product until the matrix is large.
    fn band_tile(&self, shape: &Shape, tile: Tile) -> Tile {
        let large = shape.n.min(shape.m) >= LARGE_BANDS && tile == Tile::Large;
        self.tile.unwrap_or(if large { Tile::Large } else { Tile::Small })
    }

    /// Plans a forward pass, a backward pass, or both, within the bound.
    pub fn plan(&self, shape: &Shape, forward: bool, backward: Option<Wanted>) -> Result<Plan> {
        let one_pass = self.one_pass(shape, forward, backward);
        let plan = |tile: Tile, rows: usize, lean: bool| -> Result<Plan> {
            let mut layout = Layout::default();
            let embeddings = Embeddings::plan(&mut layout, &self.operands, shape)?;
            // What both passes use, and the forward pass alone.
            let ranges = match forward && !one_pass {
                true => Some(ForwardPlan::ranges(&mut layout, self, shape)?),
                false => None,
            };
            let mark = layout;
            let forward = match ranges {
                Some(ranges) => Some(ForwardPlan::plan(&mut layout, self, shape, ranges, lean)?),
                None => None,
            };
            layout.rewind(mark);
            let layout = &mut layout;
            let backward = match backward {
                Some(wanted) => Some(BackwardPlan::plan(
                    layout, self, shape, wanted, tile, rows, lean, one_pass, ranges,
                )?),
                None => None,
            };
            let bytes = layout.bytes();
            Ok(Plan { operands: self.operands, embeddings, forward, backward, bytes })
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
            // A row of tiles more is so many rows of the panel, and at most 48 bytes a tile, or 16
            // for each of the tiles of the bands.
            let bands = if shape.has(LABELED) { 16 * 16 } else { 0 };
            let each = row * tile.side() + (48 + bands) * shape.m.div_ceil(tile.side());
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
        mining::stages(shape, self.kind(self.tile(shape.n, shape.m)), bytes)
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
            let (place, factor) = (place.at(base), factor.at(base));
            match prepared {
                true => Self::prepared(operands, shape, own, rows, place, factor),
                false => own,
            }
        };
        let at = embeddings;
        let x = side(*x, shape.n, at.prepare[0], at.x, at.x_factor);
        let y = match shape.shared {
            true => x,
            false => side(*y, shape.m, at.prepare[1], at.y, at.y_factor),
        };
        Self { x, y }
    }

    /// A prepared side.
    fn prepared(
        operands: &Operands,
        shape: &Shape,
        from: Operand,
        rows: usize,
        place: Address,
        factor: Address,
    ) -> Operand {
        let stride = Operands::padded(shape.d);
        match operands.arithmetic {
            _ if Self::copied(operands, shape) => from.copied(place, stride),
            Arithmetic::F32 => Operand::new(place, stride, DType::F32),
            _ => Self::target(operands, shape, rows, place, factor).operand(),
        }
    }

    /// Whether prepared rows are copies of the caller's.
    fn copied(operands: &Operands, shape: &Shape) -> bool {
        !shape.normalize && !operands.factors
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
        let [x_order, y_order] = embeddings.orders(base);
        let side = |from: Operand, order: Address, to: Operand, rows: usize, factor: Region| {
            let depth = shape.d as u32;
            // SAFETY: as for `Pass::forward`.
            unsafe {
                match operands.arithmetic {
                    _ if Self::copied(operands, shape) => {
                        launch.gather_rows(from, order, rows as u32, depth, to)
                    }
                    Arithmetic::F32 => {
                        let out = Output::new(to.data, to.stride as usize, rows, shape.d);
                        launch.normalize(from, NORM_EPS, order, out)
                    }
                    _ => {
                        let out = Self::target(operands, shape, rows, to.data, factor.at(base));
                        let rows = rows as u32;
                        let top = embeddings.top.at(base);
                        if operands.factors && !shape.normalize {
                            launch.clear_words([(top, 1), (0, 0)])?;
                            launch.matrix_top(from, rows, depth, top)?;
                        }
                        launch.prepare(from, rows, depth, NORM_EPS, top, order, out)
                    }
                }
            }
        };
        if let Some(order) = &embeddings.order {
            // SAFETY: the caller's.
            unsafe { order.run(launch, &input.pairs, base) }?;
        }
        if embeddings.prepare[0] {
            side(input.x, x_order, all.x, shape.n, embeddings.x_factor)?;
        }
        if embeddings.prepare[1] {
            side(input.y, y_order, all.y, shape.m, embeddings.y_factor)?;
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
        let (shape, base) = (&self.input.shape, self.base);
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
            let kept = match plan.kept {
                Some(kept) if pairs.row_matches != 0 => {
                    Kept { data: kept.at(base), width: Kept::WIDTH }
                }
                _ => Kept::NONE,
            };
            let row_sum = self.groups(plan, rows, pairs, positive, kept, groups)?;
            match &plan.terms {
                Some(plan) => self.terms(plan, rows, pairs, groups, Panel::NONE, 0, kept)?,
                None => self.launch.index_terms(&pairs, positive, groups, scale, terms)?,
            }
            self.totals(plan.totals, groups, (row_sum, 1), loss)
        }
    }

    /// The terms of the positives of labels, and their shares where there is a panel. `pairs`: with
    /// ranges and bands of small tiles, unless the plan has its own. Safety as for [`Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    unsafe fn terms(
        &self,
        plan: &TermsPlan,
        rows: Rows,
        pairs: Pairs,
        groups: Groups,
        panel: Panel,
        moments: Address,
        kept: Kept,
    ) -> Result<()> {
        let TermsPlan { walk, .. } = *plan;
        let (arithmetic, depth) = (self.plan.operands.arithmetic, self.input.shape.d as u32);
        let scale = self.saved.scale.at(self.saved_base);
        let (partial, to) = (plan.partial.at(self.base), self.saved.terms.at(self.saved_base));
        let Rows { x, y } = rows;
        // SAFETY: as in `forward`.
        unsafe {
            let pairs = match &plan.ranges {
                Some(ranges) => self.ranges(ranges)?,
                None => pairs,
            };
            self.launch.terms(
                arithmetic, x, y, depth, &pairs, walk, scale, groups, partial, panel, moments, kept,
            )?;
            self.launch.merge_terms(partial, walk.splits, &pairs, groups, scale, to)
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

    /// Where gradients are summed: in scratch memory, if they have to go through the normalisation,
    /// back into the caller's order or into another type from there.
    fn sums(&self, plan: &BackwardPlan, out: &Gradients) -> (Output, Output) {
        let shape = &self.input.shape;
        let Shape { n, m, d, .. } = *shape;
        let apart = shape.normalize || shape.sorted();
        let sums = |region: Region, out: Destination, rows: usize| match out.as_output() {
            Some(out) if !apart => out,
            _ => Output::new(region.at(self.base), padded(d), rows, d),
        };
        (sums(plan.x, out.x, n), sums(plan.y, out.y, m))
    }

    /// Takes what [`sums`](Self::sums) holds to where the gradients go. Safety as for [`Pass`].
    unsafe fn finish(&self, to_x: Output, to_y: Output, out: &Gradients) -> Result<()> {
        let Input { shape, x, y, .. } = &self.input;
        let [x_order, y_order] = self.plan.embeddings.orders(self.base);
        let sides = [(to_x, *x, x_order, out.x), (to_y, *y, y_order, out.y)];
        for (sums, embeddings, order, out) in sides.into_iter().filter(|side| side.3.data != 0) {
            let gradient = Operand::new(sums.data, sums.stride as usize, DType::F32);
            // SAFETY: as in `forward`.
            unsafe {
                if shape.normalize {
                    self.launch.normalize_backward(embeddings, gradient, NORM_EPS, order, out)?;
                } else if order != 0 || out.as_output().is_none() {
                    self.launch.scatter_rows(gradient, order, out)?;
                }
            }
        }
        Ok(())
    }

    /// A panel of `rows` rows; `data` 0 where it is not wanted.
    fn panel(&self, sweep: &Sweep, rows: usize, wanted: bool, levels: bool) -> Panel {
        let m = self.input.shape.m;
        Panel {
            data: if wanted { sweep.panel.at(self.base) } else { 0 },
            stride: Operands::padded(m) as i64,
            low: self.plan.operands.low(sweep.rows, m) as i64,
            levels: if levels { sweep.levels.at(self.base) } else { 0 },
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
        kept: Kept,
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
            let plan = &plan.groups;
            row_groups(launch, plan, rows, depth, pairs, scale, positive, kept, groups, base)
        }
    }

    /// The gradients, from what a forward pass saved. `upstream`: a number, or an address.
    pub unsafe fn backward(&self, upstream: (f32, Address), out: &Gradients) -> Result<()> {
        let Some(plan) = &self.plan.backward else { return Ok(()) };
        let (shape, base) = (&self.input.shape, self.base);
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let factor = plan.upstream.at(base);
        let coefficients = plan.coefficients(base);
        let (to_x, to_y) = self.sums(plan, out);
        let to = [(out.x.data != 0).then_some(to_x), (out.y.data != 0).then_some(to_y)];
        let moment = if out.scale != 0 { plan.moment.at(base) } else { 0 };
        // SAFETY: as in `forward`.
        unsafe {
            self.launch.scalar(upstream.0, upstream.1, false, factor)?;
            // After a forward pass of the same call the prepared rows are still there.
            let rows = if self.plan.forward.is_some() { self.rows() } else { self.embeddings()? };
            let pairs = match plan.ranges_found {
                true => self.placed(&plan.ranges),
                false => self.ranges(&plan.ranges)?,
            };
            self.coefficients(groups, coefficients)?;
            let pairs = mining::mined(pairs, shape, self.saved.cuts.at(self.saved_base));
            if let Some((list, saved)) = plan.list.as_ref().zip(self.saved.list.as_ref()) {
                let terms = self.saved.terms.at(self.saved_base);
                let weights = Weights { terms, coefficients, scale, factor };
                let (launch, Rows { x, y }) = (&self.launch, rows);
                let saved = saved.at(self.saved_base);
                list.run(launch, shape, x, y, &pairs, weights, saved, to, moment, base)?;
            } else {
                self.sweep(&plan.sweep, rows, &pairs, coefficients, factor, to, moment)?;
            }
            if out.scale != 0 {
                self.launch.scale_gradient(moment, scale, factor, out.scale)?;
            }
            self.finish(to_x, to_y, out)
        }
    }

    /// The gradients, one panel of weights after the other: dX and dY (in the shared case all into
    /// dX), and Σ (S − M)·G where `moment` is not 0. With [`POSITIVES`] within the bands alone, and
    /// added to what is there. Safety as for [`Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    unsafe fn sweep(
        &self,
        sweep: &Sweep,
        rows: Rows,
        pairs: &Pairs,
        coefficients: Coefficients,
        factor: Address,
        to: [Option<Output>; 2],
        moment: Address,
    ) -> Result<()> {
        let (shape, base) = (&self.input.shape, self.base);
        let Shape { n, m, d, .. } = *shape;
        let scale = self.saved.scale.at(self.saved_base);
        let products = to.iter().any(Option::is_some);
        let leveled = products && self.plan.operands.levels();
        let moments = if moment != 0 { sweep.moments.at(base) } else { 0 };
        // SAFETY: as in `forward`; a panel is written before the products read it, and read before
        // the next panel overwrites it.
        unsafe {
            for first in (0..n).step_by(sweep.rows) {
                let end = (first + sweep.rows).min(n);
                let panel = self.panel(sweep, end - first, products, leveled);
                self.launch.weights(
                    sweep.kind,
                    rows.x,
                    rows.y,
                    d as u32,
                    pairs,
                    first as u32,
                    end as u32,
                    coefficients,
                    scale,
                    panel,
                    moments,
                )?;
                if moments != 0 {
                    let tiles = weight_tiles(sweep.kind.tile, end - first, m) as u32;
                    let rest = first > 0 || pairs.has(POSITIVES);
                    self.launch.sum_moments(moments, tiles, rest, moment)?;
                }
                self.products(sweep, rows, pairs, panel, first, factor, to)?;
            }
        }
        Ok(())
    }

    /// The products of the panel whose first row is `first`, times `factor`. Safety as for [`Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a pass
    unsafe fn products(
        &self,
        sweep: &Sweep,
        rows: Rows,
        pairs: &Pairs,
        panel: Panel,
        first: usize,
        factor: Address,
        [to_x, to_y]: [Option<Output>; 2],
    ) -> Result<()> {
        let (shape, base) = (&self.input.shape, self.base);
        let side = sweep.kind.tile.side();
        let (count, across) = (panel.rows as usize, shape.m.div_ceil(side) as u32);
        let added = pairs.has(POSITIVES);
        let band = |tiles: Address, above: usize, start: usize| match added {
            true => Band::new(tiles, sweep.kind.tile, above, start),
            false => Band::default(),
        };
        let (mut row_levels, mut column_levels) = (Levels::default(), Levels::default());
        let g = self.panel_operand(&panel);
        // SAFETY: as in `forward`.
        unsafe {
            if panel.levels != 0 {
                let down = count.div_ceil(side) as u32;
                let levels = Levels {
                    tiles: panel.levels,
                    side: side as u32,
                    row_step: across,
                    depth_step: 1,
                    ..Levels::default()
                };
                row_levels = Levels { results: sweep.row_levels.at(base), ..levels };
                column_levels = Levels {
                    results: sweep.column_levels.at(base),
                    row_step: 1,
                    depth_step: across,
                    ..levels
                };
                let (tiles, results) = (panel.levels, column_levels.results);
                self.launch.row_levels(tiles, down, across, 0, row_levels.results)?;
                self.launch.column_levels(tiles, down, across, 0, 0, results)?;
            }
            // G^T X of the panel's rows: into dY, or into the one gradient of a shared set, whose rows
            // all get their first value here.
            if let Some(whole) = if shape.shared { to_x } else { to_y } {
                let mix = Mix::new(factor, rows.y.factor, column_levels, added || first > 0);
                let band = band(pairs.ranges.column_bands, 0, first);
                self.product(
                    sweep,
                    Product::ColumnsColumns,
                    g,
                    rows,
                    (first, count),
                    mix,
                    band,
                    whole,
                )?;
            }
            if let Some(to_x) = to_x {
                let divisor = match rows.x.factor {
                    0 => 0,
                    factors => factors + 4 * first as u64,
                };
                let mix = Mix::new(factor, divisor, row_levels, added || shape.shared);
                let band = band(pairs.ranges.row_bands, first / side, 0);
                self.product(
                    sweep,
                    Product::RowsColumns,
                    g,
                    rows,
                    (first, count),
                    mix,
                    band,
                    to_x,
                )?;
            }
        }
        Ok(())
    }

    /// A panel's product: into all rows of `to` summed over the panel's rows, or into the panel's rows
    /// of `to` summed over all columns. `panel`: its first row, and how many. Safety as for [`Pass`].
    #[allow(clippy::too_many_arguments)] // the operands and results of a product
    unsafe fn product(
        &self,
        sweep: &Sweep,
        product: Product,
        g: Operand,
        rows: Rows,
        (first, count): (usize, usize),
        mix: Mix,
        band: Band,
        to: Output,
    ) -> Result<()> {
        let (other, depth, splits, to) = match product {
            Product::ColumnsColumns => {
                let splits = split(count, sweep.y_splits.count);
                (rows.x.starting_at(first), count, splits, to)
            }
            _ => {
                let (y, to) = (rows.y.starting_at(0), to.rows(first, count));
                (y, self.input.shape.m, sweep.x_splits, to)
            }
        };
        let (kind, parts) = (sweep.product_kind, sweep.parts.at(self.base));
        // SAFETY: the caller's.
        unsafe {
            self.launch.product(kind, product, g, other, depth as u32, splits, parts, mix, band, to)
        }
    }

    /// Loss and gradients in three products, for plans that say so ([`Planner::one_pass`]).
    ///
    /// The weights of all negatives are taken relative to the largest similarity of their tile, for
    /// want of the log-sum-exp of all; the products go from tile to tile by the difference, and once
    /// the log-sum-exp is known one factor a row makes gradients of their sums. The positives come
    /// then, to the sums, or to the panel before its products ([`BandPlan`]).
    pub unsafe fn one_pass(
        &self,
        loss: Address,
        upstream: (f32, Address),
        out: &Gradients,
    ) -> Result<()> {
        let Some(plan) = &self.plan.backward else { return Ok(()) };
        let Some(pass) = &plan.one_pass else { return Ok(()) };
        let sweep = &plan.sweep;
        let (shape, base) = (&self.input.shape, self.base);
        let Shape { n, m, d, .. } = *shape;
        let scale = self.saved.scale.at(self.saved_base);
        let groups = self.saved.groups(self.saved_base, shape);
        let terms = self.saved.terms.at(self.saved_base);
        let factor = plan.upstream.at(base);
        let unit = pass.unit.at(base);
        // Where a row has one positive, and no labels.
        let indexed = pass.band.is_none();
        let positive = if indexed { pass.positive.at(base) } else { 0 };
        let coefficients = plan.coefficients(base);
        let (want_x, want_y) = (out.x.data != 0, out.y.data != 0);
        let (to_x, to_y) = self.sums(plan, out);
        // Sums over columns: of a shared set apart from those over rows, until both have one level.
        let columns = match shape.shared {
            true => Output::new(pass.columns.at(base), padded(d), m, d),
            false => to_y,
        };
        let want_columns = want_y || shape.shared;
        let side = sweep.kind.tile.side();
        let across = m.div_ceil(side) as u32;
        let tiles = OnePassPlan::sums(pass.tiles, base);
        let rows_of_tiles = OnePassPlan::sums(pass.groups, base);
        let row_levels = sweep.row_levels.at(base);
        let column_levels = [sweep.column_levels.at(base), pass.column_levels.at(base)];
        // Where the column's levels are after the last panel.
        let newest = (n.div_ceil(sweep.rows) - 1) % 2;
        // The positives of labels, where they come into the one panel of the negatives.
        let joined = pass.band.as_ref().filter(|band| band.at_once);
        // SAFETY: as in `backward`.
        unsafe {
            self.launch.scalar(self.input.scale.0, self.input.scale.1, true, scale)?;
            self.launch.scalar(upstream.0, upstream.1, false, factor)?;
            self.launch.level_unit(scale, unit)?;
            let rows = self.embeddings()?;
            let pairs = self.ranges(&plan.ranges)?;
            // Both products of a panel, each tile in its level.
            let products = |panel: Panel, first: usize| -> Result<()> {
                let (index, count) = (first / sweep.rows, panel.rows as usize);
                let down = count.div_ceil(side) as u32;
                let levels = Levels {
                    tiles: panel.levels,
                    unit,
                    side: side as u32,
                    relative: 1,
                    ..Levels::default()
                };
                let g = self.panel_operand(&panel);
                if want_columns {
                    let before = if index == 0 { 0 } else { column_levels[1 - index % 2] };
                    let results = column_levels[index % 2];
                    let levels =
                        Levels { results, before, row_step: 1, depth_step: across, ..levels };
                    self.launch.column_levels(panel.levels, down, across, unit, before, results)?;
                    let mix = Mix::new(0, 0, levels, index > 0);
                    let (by, all) = (Product::ColumnsColumns, Band::default());
                    self.product(sweep, by, g, rows, (first, count), mix, all, columns)?;
                }
                if want_x {
                    let results = row_levels + (LEVEL_BYTES * (first / side)) as u64;
                    let levels = Levels { results, row_step: across, depth_step: 1, ..levels };
                    self.launch.row_levels(panel.levels, down, across, unit, results)?;
                    let mix = Mix::new(0, 0, levels, false);
                    let (by, all) = (Product::RowsColumns, Band::default());
                    self.product(sweep, by, g, rows, (first, count), mix, all, to_x)?;
                }
                Ok(())
            };
            for first in (0..n).step_by(sweep.rows) {
                let end = (first + sweep.rows).min(n);
                let down = (end - first).div_ceil(side) as u32;
                let above = (first / side) as u64;
                let panel = self.panel(sweep, end - first, true, true);
                self.launch.exponentials(
                    sweep.kind,
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
                if joined.is_none() {
                    products(panel, first)?;
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
            let moment = if out.scale != 0 { plan.moment.at(base) } else { 0 };
            let mut positives = pairs;
            if let Some(band) = &pass.band {
                if let Some(ranges) = &band.ranges {
                    positives = self.ranges(ranges)?;
                }
                positives.flags |= POSITIVES;
                let (mut shares, mut moments) = (Panel::NONE, 0);
                if let Some(BandPlan { sweep: own, .. }) = joined {
                    shares = self.panel(own, n, true, true);
                    moments = if moment != 0 { own.moments.at(base) } else { 0 };
                }
                let (terms, none) = (&band.terms, Kept::NONE);
                self.terms(terms, rows, positives, groups, shares, moments, none)?;
            } else {
                self.launch.index_terms(&pairs, positive, groups, scale, terms)?;
            }
            self.totals(pass.totals, groups, (groups.sum, 0), loss)?;
            self.coefficients(groups, coefficients)?;
            if moment != 0 {
                self.launch.one_pass_moment(
                    rows_of_tiles,
                    count,
                    &pairs,
                    positive,
                    coefficients,
                    scale,
                    moment,
                )?;
            }
            if let Some(BandPlan { sweep: own, terms, factors, .. }) = joined {
                let factors = factors.at(base);
                let total = self.saved.total.at(self.saved_base);
                self.launch.share_factors(coefficients, total, groups.sum, factors)?;
                if moment != 0 {
                    let moments = own.moments.at(base);
                    let blocks = terms.walk.blocks(Tile::Small, n) as u32;
                    self.launch.sum_scaled_moments(moments, blocks, factors, true, moment)?;
                }
                let panel = self.panel(sweep, n, true, true);
                let (levels, bands) = (own.levels.at(base), positives.ranges.row_bands);
                let maximum = coefficients.maximum;
                self.launch.join(sweep.kind, panel, levels, bands, factors, maximum, unit)?;
                products(panel, 0)?;
            }
            let matches = self.matches(pass, &pairs, coefficients)?;
            let finish = |to: Output, own: Sums, more: Sums, rows: [Operand; 2], matches| {
                let ([own_rows, other], side) = (rows, side as u32);
                self.launch.one_pass_gradient(
                    to,
                    own,
                    more,
                    side,
                    own_rows.factor,
                    other,
                    &pairs,
                    matches,
                    coefficients,
                    scale,
                    factor,
                )
            };
            let column_sums = Sums::new(columns, column_levels[newest]);
            let none = Sums::default();
            if want_x {
                let more = if shape.shared { column_sums } else { none };
                let matches = matches.of(true, shape.shared);
                finish(to_x, Sums::new(to_x, row_levels), more, [rows.x, rows.y], matches)?;
            }
            if want_y {
                finish(to_y, column_sums, none, [rows.y, rows.x], matches.of(false, true))?;
            }
            let to = [want_x.then_some(to_x), want_y.then_some(to_y)];
            if let Some(BandPlan { sweep, at_once: false, .. }) = &pass.band {
                self.sweep(sweep, rows, &positives, coefficients, factor, to, moment)?;
            }
            if moment != 0 {
                self.launch.scale_gradient(moment, scale, factor, out.scale)?;
            }
            self.finish(to_x, to_y, out)
        }
    }

    /// The positive pairs of a pass over the negatives, where a row has one. Safety as for [`Pass`].
    unsafe fn matches(
        &self,
        plan: &OnePassPlan,
        pairs: &Pairs,
        coefficients: Coefficients,
    ) -> Result<Matches> {
        if plan.band.is_some() {
            return Ok(Matches::default());
        }
        let base = self.base;
        let (positive, weights) = (plan.positive.at(base), plan.weights.at(base));
        let scale = self.saved.scale.at(self.saved_base);
        let mut matches = Matches::new(weights);
        // SAFETY: as in `forward`.
        unsafe {
            self.launch.positive_weights(pairs, positive, coefficients, scale, weights)?;
            if let Some(IndexPlan { keys, starts }) = &plan.index {
                let keys = keys.of(pairs.index, base);
                (matches.order, matches.starts) = (keys.order, starts.at(base));
                self.launch.sort_keys(keys, None)?;
                self.launch.key_starts(keys.sorted, keys.count, pairs.columns, matches.starts)?;
            }
        }
        Ok(matches)
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

    /// The pairs as the passes see them, with the key ranges of a tile size that lie there already.
    fn placed(&self, plan: &KeyRanges) -> Pairs {
        let base = self.base;
        let mut pairs = match &self.plan.embeddings.order {
            Some(order) => order.pairs(self.input.pairs, base),
            None => self.input.pairs,
        };
        let [row_bands, column_bands] =
            plan.bands.map_or([0; 2], |bands| bands.map(|b| b.at(base)));
        pairs.ranges = Ranges {
            row_labels: plan.row_labels.at(base),
            column_labels: plan.column_labels.at(base),
            row_ids: plan.row_ids.at(base),
            column_ids: plan.column_ids.at(base),
            row_bands,
            column_bands,
        };
        pairs
    }

    /// The same, finding them. Safety as for [`Pass`].
    unsafe fn ranges(&self, plan: &KeyRanges) -> Result<Pairs> {
        let pairs = self.placed(plan);
        let Ranges { row_bands, column_bands, .. } = pairs.ranges;
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
        if plan.bands.is_some() {
            let tiles = |count: u32| count.div_ceil(plan.tile.side() as u32);
            let (down, across) = (tiles(rows), tiles(columns));
            let Ranges { row_labels, column_labels, .. } = ranges;
            // SAFETY: as in `forward`.
            unsafe {
                let (rows, columns, launch) = (row_labels, column_labels, &self.launch);
                launch.key_bands(columns, across, rows, down, 0, column_bands)?;
                launch.key_bands(rows, down, columns, across, column_bands, row_bands)?;
            }
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
    kept: Kept,
    groups: Groups,
    base: Address,
) -> Result<Address> {
    let n = pairs.rows;
    let (maximum, sum) = (plan.partial_maximum.at(base), plan.partial_sum.at(base));
    // SAFETY: as in `Pass::forward`.
    unsafe {
        let Rows { x, y } = rows;
        let (kind, walk) = (plan.kind, plan.walk);
        launch.stats(kind, x, y, depth, pairs, walk, scale, maximum, sum, positive, kept)?;
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
            let (plan, depth, none) = (&self.groups, shape.d as u32, Kept::NONE);
            row_groups(launch, plan, rows, depth, pairs, scale, 0, none, groups, base)?;
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
            let (mix, band) = (Mix::default(), Band::default());
            launch.product(self.kind, product, x, y, depth, splits, 0, mix, band, out)
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
        for (n, m) in [(1, 1), (33, 1000), (5000, 70), (16_384, 16_384), (100_000, 100_000)] {
            let planner = planner(usize::MAX);
            let tile = planner.tile(n, m);
            let walk = planner.walk(tile, n, m);
            let (splits, each) = (walk.splits as usize, walk.tiles_per_split as usize);
            let across = m.div_ceil(tile.side());
            assert!(splits * each >= across && (splits - 1) * each < across);
            // No more than a tenth of the time goes to waves that are not full.
            let (blocks, slots) = (n.div_ceil(tile.side()) * splits, 132 * tile.resident());
            let (takes, least) = (blocks.div_ceil(slots) * each, n.div_ceil(tile.side()) * across);
            assert!(n < 10_000 || (takes * slots) as f64 <= 1.1 * least as f64, "{n}: {walk:?}");
        }
        for (depth, count) in [(1, 1), (1, 5), (1000, 3), (4096, 16), (17, 2)] {
            let Splits { count, depth: each } = split(depth, count);
            assert!(count * each >= depth && (count - 1) * each < depth && each % 32 == 0);
        }
    }
}
