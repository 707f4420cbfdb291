//! Room: engines, CUDA. Launches: one function a kernel, and the structures kernels take. Addresses
//! are device addresses; what each must be is the contract of the function, which the kernel's file
//! states in full. The only place that launches anything.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};

use super::kernels::{ArithmeticKernels, Table, TileKernels};
use crate::{DType, Error, Result};

/// A device address; 0 where a kernel is to do without.
pub(super) type Address = u64;

/// Twin of tile::Operand (kernels/tile/operand.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub data: Address,
    pub stride: i64,
    dtype: i32,
    aligned: i32,
    /// One f32 a row, by which products are multiplied; 0 for none.
    pub factor: Address,
    /// Where the second part of every element lies, in elements; 0 for none.
    pub low: i64,
}

impl Operand {
    pub fn new(data: Address, stride: usize, dtype: DType) -> Self {
        let (number, size) = element(dtype);
        let aligned = i32::from(aligned(data, stride * size));
        Self { data, stride: stride as i64, dtype: number, aligned, factor: 0, low: 0 }
    }

    /// A copy of its elements in aligned rows of this stride, without factors.
    pub fn copied(self, data: Address, stride: usize) -> Self {
        Self { data, stride: stride as i64, aligned: 1, factor: 0, low: 0, ..self }
    }

    /// Whether every row starts at a multiple of 16 bytes.
    pub fn is_aligned(&self) -> bool {
        self.aligned != 0
    }

    /// The same matrix from this row on, as an operand whose rows have no factors.
    pub fn starting_at(self, row: usize) -> Self {
        let size = if self.dtype == element(DType::F32).0 { 4 } else { 2 };
        Self { data: self.data + row as u64 * self.stride as u64 * size, factor: 0, ..self }
    }
}

/// Whether rows `bytes` apart all start at multiples of 16.
fn aligned(data: Address, bytes: usize) -> bool {
    data.is_multiple_of(16) && bytes.is_multiple_of(16)
}

/// Twin of Prepared (kernels/rows.cu): embeddings as 16-bit operands.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    pub data: Address,
    pub stride: i64,
    pub low: i64,
    dtype: i32,
    normalize: i32,
    pub factor: Address,
}

impl Prepared {
    pub fn new(
        data: Address,
        stride: usize,
        low: usize,
        dtype: DType,
        normalize: bool,
        factor: Address,
    ) -> Self {
        let (stride, low) = (stride as i64, low as i64);
        Self { data, stride, low, dtype: element(dtype).0, normalize: i32::from(normalize), factor }
    }

    /// As an operand.
    pub fn operand(&self) -> Operand {
        let Self { data, stride, low, dtype, factor, .. } = *self;
        Operand { data, stride, dtype, aligned: 1, factor, low }
    }
}

/// Twin of epilogue::Panel (kernels/epilogue/panel.cuh); for simt `data` is f32, for sm80 16-bit.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    pub data: Address,
    pub stride: i64,
    pub low: i64,
    pub levels: Address,
    pub rows: u32,
    pub columns: u32,
}

impl Panel {
    /// None.
    pub const NONE: Self = Self { data: 0, stride: 0, low: 0, levels: 0, rows: 0, columns: 0 };
}

/// Bytes of epilogue::Level.
pub(super) const LEVEL_BYTES: usize = 8;

/// Of kernels/gradient.cu.
const JOIN_THREADS: u32 = 64;
const JOIN_SPLITS: usize = 4;

/// Of one `ShareFactors` of kernels/epilogue/levels.cuh.
pub(super) const SHARE_FACTOR_BYTES: usize = 12;

/// Twin of epilogue::Levels (kernels/epilogue/levels.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Levels {
    pub tiles: Address,
    pub results: Address,
    pub before: Address,
    pub unit: Address,
    pub side: u32,
    pub row_step: u32,
    pub depth_step: u32,
    pub relative: i32,
}

/// Twin of Mix (kernels/product.cu): what becomes of the sums of a product.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix {
    pub factor: Address,
    pub divisor: Address,
    pub levels: Levels,
    accumulate: i32,
    padding: u32,
}

impl Mix {
    pub fn new(factor: Address, divisor: Address, levels: Levels, accumulate: bool) -> Self {
        let accumulate = i32::from(accumulate);
        Self { factor, divisor, levels, accumulate, padding: 0 }
    }
}

/// Twin of Band (kernels/product.cu): where along the sum the first operand has anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Band {
    /// For every 2^bits rows of the result; 0: everywhere.
    tiles: Address,
    bits: u32,
    start: u32,
}

impl Band {
    /// That of result rows from tile `first` on, of a sum that begins at `start`.
    pub fn new(bands: Address, tile: Tile, first: usize, start: usize) -> Self {
        let (tiles, bits) = (bands + 8 * first as u64, tile.side().ilog2());
        Self { tiles, bits, start: start as u32 }
    }
}

/// Twin of Sums (kernels/rows.cu): f32 rows of a gradient's width, and their levels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    data: Address,
    stride: i64,
    levels: Address,
}

impl Sums {
    pub fn new(of: Output, levels: Address) -> Self {
        Self { data: of.data, stride: of.stride, levels }
    }
}

/// Twin of Matches (kernels/rows.cu): the positive pairs that the rows of a gradient are in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Matches {
    /// Of every row of the matrix; 0 for no such pairs.
    pub weights: Address,
    /// The rows by the columns of their positives, and where each column's begin; 0: the diagonal.
    pub order: Address,
    pub starts: Address,
    anchors: i32,
    candidates: i32,
}

impl Matches {
    /// Those of the diagonal.
    pub fn new(weights: Address) -> Self {
        Self { weights, ..Self::default() }
    }

    /// The same pairs, for the gradient of the anchors, of the candidates, or of both.
    pub fn of(self, anchors: bool, candidates: bool) -> Self {
        Self { anchors: i32::from(anchors), candidates: i32::from(candidates), ..self }
    }
}

/// Twin of TileSums (kernels/gradient.cu): f32, f32 and f64, one a tile.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct TileSums {
    pub maximum: Address,
    pub sum: Address,
    pub moment: Address,
}

/// A type's number in kernels, and its size.
fn element(dtype: DType) -> (i32, usize) {
    match dtype {
        DType::F32 => (0, 4),
        DType::F16 => (1, 2),
        DType::Bf16 => (2, 2),
    }
}

/// Twin of epilogue::Output (kernels/epilogue/store.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub data: Address,
    pub stride: i64,
    pub rows: u32,
    pub columns: u32,
}

impl Output {
    pub fn new(data: Address, stride: usize, rows: usize, columns: usize) -> Self {
        Self { data, stride: stride as i64, rows: rows as u32, columns: columns as u32 }
    }

    /// `rows` rows of the same matrix, from this one on.
    pub fn rows(self, first: usize, rows: usize) -> Self {
        let offset = first as u64 * self.stride as u64 * 4;
        Self { data: self.data + offset, rows: rows as u32, ..self }
    }
}

/// Twin of tile::Destination (kernels/tile/element.cuh): a matrix to be written in any element type.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    pub data: Address,
    stride: i64,
    rows: u32,
    columns: u32,
    dtype: i32,
    padding: u32,
}

impl Destination {
    pub fn new(data: Address, stride: usize, rows: usize, columns: usize, dtype: DType) -> Self {
        Self {
            data,
            stride: stride as i64,
            rows: rows as u32,
            columns: columns as u32,
            dtype: element(dtype).0,
            padding: 0,
        }
    }

    /// The same matrix for kernels that write `f32`, if it is one of `f32`.
    pub fn as_output(self) -> Option<Output> {
        let Self { data, stride, rows, columns, dtype, .. } = self;
        (dtype == element(DType::F32).0).then_some(Output { data, stride, rows, columns })
    }
}

/// Bits of [`Pairs::flags`].
pub(super) const INDEXED: u32 = 1;
pub(super) const LABELED: u32 = 2;
pub(super) const SHARED: u32 = 4;
pub(super) const IDS: u32 = 8;
pub(super) const MINED: u32 = 16;
/// Of a sweep for the positives of labels alone, within their bands.
pub(super) const POSITIVES: u32 = 32;

/// Twin of epilogue::Pairs (kernels/epilogue/pairs.cuh).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pairs {
    pub rows: u32,
    pub columns: u32,
    pub flags: u32,
    /// 1 for a cut a row, 0 for one cut.
    pub cut_stride: u32,
    pub index: Address,
    pub row_labels: Address,
    pub column_labels: Address,
    pub row_ids: Address,
    pub column_ids: Address,
    pub row_matches: Address,
    pub ranges: Ranges,
    pub cuts: Address,
}

impl Pairs {
    /// Every pair of a rows × columns matrix a negative one.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self { rows: rows as u32, columns: columns as u32, ..Self::default() }
    }

    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The smallest and largest key of every tile's rows and columns, and which tiles of the other side
/// may hold equal labels; a part of `Pairs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ranges {
    pub row_labels: Address,
    pub column_labels: Address,
    pub row_ids: Address,
    pub column_ids: Address,
    pub row_bands: Address,
    pub column_bands: Address,
}

/// Twin of Walk (kernels/stats.cu): which column tiles a block walks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub splits: u32,
    pub tiles_per_split: u32,
}

impl Walk {
    /// Blocks that walk so many rows.
    pub fn blocks(self, tile: Tile, rows: usize) -> usize {
        rows.div_ceil(tile.side()) * self.splits as usize
    }
}

/// Twin of Kept (kernels/stats.cu): similarities of positives that one pass keeps for another,
/// `width` `f32` a row.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub data: Address,
    pub width: u32,
}

impl Kept {
    /// None are kept.
    pub const NONE: Self = Self { data: 0, width: 0 };
    /// A row's, at most: two threads of `terms` take 48 each.
    pub const WIDTH: u32 = 96;
}

/// Twin of epilogue::Coefficients (kernels/epilogue/terms.cuh): n `f32` each.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
    pub maximum: Address,
    pub negative: Address,
    pub log2_sum: Address,
    pub base: Address,
    pub offset: Address,
    pub positive: Address,
}

/// Bytes of epilogue::Terms, of one row.
pub(super) const TERMS_BYTES: usize = 16;
/// Bytes of Totals (kernels/rows.cu).
pub(super) const TOTALS_BYTES: usize = 40;

/// Groups of negatives: M, Z and log2 Z, one for each row (stride 1) or one for all (stride 0).
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub maximum: Address,
    pub sum: Address,
    pub log2_sum: Address,
    pub stride: i32,
}

// SAFETY: plain data laid out as C lays it out, field by field as in the kernels' headers.
unsafe impl DeviceRepr for Operand {}
// SAFETY: as above.
unsafe impl DeviceRepr for Output {}
// SAFETY: as above.
unsafe impl DeviceRepr for Destination {}
// SAFETY: as above.
unsafe impl DeviceRepr for Pairs {}
// SAFETY: as above.
unsafe impl DeviceRepr for Walk {}
// SAFETY: as above.
unsafe impl DeviceRepr for Kept {}
// SAFETY: as above.
unsafe impl DeviceRepr for Coefficients {}
// SAFETY: as above.
unsafe impl DeviceRepr for Prepared {}
// SAFETY: as above.
unsafe impl DeviceRepr for Panel {}
// SAFETY: as above.
unsafe impl DeviceRepr for Mix {}
// SAFETY: as above.
unsafe impl DeviceRepr for TileSums {}
// SAFETY: as above.
unsafe impl DeviceRepr for Band {}
// SAFETY: as above.
unsafe impl DeviceRepr for Sums {}
// SAFETY: as above.
unsafe impl DeviceRepr for Matches {}

/// What multiplies (kernels/tile/): chosen by [`CudaEngine`](super::CudaEngine) unless it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileEngine {
    /// `f32` fused multiply-adds: the readable specification, and the one that computes `f32` in
    /// full.
    Simt,
    /// Tensor cores, by `mma.sync` on 16-bit elements with `f32` sums.
    Sm80,
}

/// A tile engine and the elements it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Arithmetic {
    /// simt: whatever the elements, in f32.
    F32,
    /// sm80 on IEEE binary16; f32 comes as one or two of them.
    F16,
    /// sm80 on bfloat16.
    Bf16,
}

impl Arithmetic {
    /// The type of its operands, of panels too.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
        }
    }

    fn kernels(self, table: &Table) -> &ArithmeticKernels {
        match self {
            Self::F32 => &table.simt,
            Self::F16 => &table.sm80_f16,
            Self::Bf16 => &table.sm80_bf16,
        }
    }
}

/// A tile engine with its elements, and a size: what kernels are instantiated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub arithmetic: Arithmetic,
    pub tile: Tile,
}

impl Kind {
    fn kernels(self, table: &Table) -> &TileKernels {
        let kernels = self.arithmetic.kernels(table);
        match self.tile {
            Tile::Large => &kernels.large,
            Tile::Small => &kernels.small,
        }
    }

    /// Into how many parts a row's statistics come (PARTS of the tile engine).
    pub const fn parts(self) -> u32 {
        match (self.arithmetic, self.tile) {
            (Arithmetic::F16 | Arithmetic::Bf16, Tile::Large) => 2,
            _ => 1,
        }
    }
}

/// A size of tile, of every tile engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// 128 × 128 elements, 256 threads: for full chips.
    Large,
    /// 32 × 32 elements, 64 threads: for batches that would leave most of a chip idle.
    Small,
}

impl Tile {
    /// Rows and columns of a tile.
    pub(super) const fn side(self) -> usize {
        match self {
            Self::Large => 128,
            Self::Small => 32,
        }
    }

    const fn threads(self) -> u32 {
        match self {
            Self::Large => 256,
            Self::Small => 64,
        }
    }

    /// Blocks that one multiprocessor can hold, by the kernels' launch bounds.
    pub(super) const fn resident(self) -> usize {
        match self {
            Self::Large => 2,
            Self::Small => 8,
        }
    }
}

/// Which operands of a product lie by rows and which by columns (kernels/product.cu).
#[derive(Clone, Copy, Debug)]
pub(super) enum Product {
    RowsRows,
    RowsColumns,
    ColumnsColumns,
}

/// How the sum of a product is split among blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Splits {
    pub count: usize,
    pub depth: usize,
}

/// Threads of a block of the small kernels, and rows of one where a warp takes a row.
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Threads of a block whose threads have a row each and much to do for it (kernels/rows.cu).
const ROW_THREADS: u32 = 64;

/// Launches kernels on a stream.
///
/// # Safety of all its functions
/// Every address must be that of device memory of the stream's context, valid for everything
/// enqueued on the stream up to the launch's end, of the length that the kernel's file states for
/// the sizes given with it, aligned to its element, initialised where the kernel reads; what it
/// writes must not be in use by anyone else in between.
pub(super) struct Launcher<'a> {
    pub stream: &'a Arc<CudaStream>,
    pub table: &'a Table,
}

macro_rules! launch {
    ($self:ident, $function:expr, $grid:expr, $threads:expr, $($argument:expr),+ $(,)?) => {{
        let configuration = configuration($grid, $threads)?;
        let function: &CudaFunction = $function;
        let mut builder = $self.stream.launch_builder(function);
        $(builder.arg($argument);)+
        // SAFETY: the arguments are those of the kernel's signature, in order and type; the
        // addresses among them are the caller's promise.
        unsafe { builder.launch(configuration) }?;
        crate::Result::<(), crate::Error>::Ok(())
    }};
}

/// One-dimensional grids throughout.
fn configuration(blocks: usize, threads: u32) -> Result<LaunchConfig> {
    let grid = u32::try_from(blocks).ok().filter(|&grid| grid <= i32::MAX as u32);
    let grid = grid.ok_or_else(|| {
        Error::argument("x", format!("a grid of {blocks} blocks"), "at most 2147483647")
    })?;
    Ok(LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 })
}

/// Blocks of 256 for `count` elements.
fn blocks(count: usize) -> usize {
    count.div_ceil(THREADS as usize)
}

/// Blocks of [`ROW_THREADS`] threads, a row each.
fn row_blocks(rows: u32) -> usize {
    (rows as usize).div_ceil(ROW_THREADS as usize)
}

#[allow(clippy::too_many_arguments)] // one for each of a kernel's
impl Launcher<'_> {
    /// `out` = the value, or what stands at `device` if that is not 0; NaN where it should be
    /// `positive` and is not.
    pub unsafe fn scalar(
        &self,
        value: f32,
        device: Address,
        positive: bool,
        out: Address,
    ) -> Result<()> {
        let positive = i32::from(positive);
        launch!(self, &self.table.rows.scalar, 1, 1, &value, &device, &positive, &out)
    }

    /// `out` = the unit rows of `x` (out.rows × out.columns) in this order, or 0 for their own.
    pub unsafe fn normalize(
        &self,
        x: Operand,
        eps: f32,
        order: Address,
        out: Output,
    ) -> Result<()> {
        let (function, grid) = (&self.table.rows.normalize, (out.rows as usize).div_ceil(WARPS));
        launch!(self, function, grid, THREADS, &x, &out.columns, &eps, &order, &out)
    }

    /// `out` = the gradient with respect to `x` given `g`, that of its unit rows; all of out's
    /// shape, `g` f32, its rows in this order; 0 for that of `x`, and then `g` may be `out` where that
    /// is f32.
    pub unsafe fn normalize_backward(
        &self,
        x: Operand,
        g: Operand,
        eps: f32,
        order: Address,
        out: Destination,
    ) -> Result<()> {
        let function = &self.table.rows.normalize_backward;
        let grid = (out.rows as usize).div_ceil(WARPS);
        launch!(self, function, grid, THREADS, &x, &g, &out.columns, &eps, &order, &out)
    }

    /// `ranges`: ceil(count / side) pairs of u32, of `count` keys.
    pub unsafe fn key_ranges(
        &self,
        keys: Address,
        count: u32,
        tile: Tile,
        ranges: Address,
    ) -> Result<()> {
        let side = tile.side() as u32;
        let grid = (count.div_ceil(side) as usize).div_ceil(WARPS);
        let function = &self.table.rows.key_ranges;
        launch!(self, function, grid, THREADS, &keys, &count, &side, &ranges)
    }

    /// `maximum`, `sum`: [splits][parts][rows] f32; `positive`: rows f32, or 0 without
    /// [`INDEXED`]; `kept`: with `pairs.row_matches` alone. Ranges per side of the tile.
    pub unsafe fn stats(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        walk: Walk,
        scale: Address,
        maximum: Address,
        sum: Address,
        positive: Address,
        kept: Kept,
    ) -> Result<()> {
        let function = &kind.kernels(self.table).stats;
        let grid = walk.blocks(kind.tile, pairs.rows as usize);
        launch!(
            self,
            function,
            grid,
            kind.tile.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &walk,
            &scale,
            &maximum,
            &sum,
            &positive,
            &kept,
        )
    }

    /// `partial`: [splits][rows] terms; [`LABELED`], ranges and bands per side of [`Tile::Small`];
    /// `panel`: rows × columns shares, or [`Panel::NONE`]; sm80 alone; `moments`: as many f64 as
    /// there are row tiles times splits, or 0; `kept`: what [`stats`](Self::stats) has left, without
    /// a panel and moments.
    pub unsafe fn terms(
        &self,
        arithmetic: Arithmetic,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        walk: Walk,
        scale: Address,
        groups: Groups,
        partial: Address,
        panel: Panel,
        moments: Address,
        kept: Kept,
    ) -> Result<()> {
        let grid = walk.blocks(Tile::Small, pairs.rows as usize);
        launch!(
            self,
            &arithmetic.kernels(self.table).terms,
            grid,
            Tile::Small.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &walk,
            &scale,
            &groups.maximum,
            &groups.log2_sum,
            &groups.stride,
            &partial,
            &panel,
            &moments,
            &kept,
        )
    }

    /// [splits][rows] f32 each into rows f32 each; `groups.log2_sum` may be 0.
    pub unsafe fn merge_groups(
        &self,
        partial_maximum: Address,
        partial_sum: Address,
        splits: u32,
        rows: u32,
        scale: Address,
        groups: Groups,
    ) -> Result<()> {
        let grid = row_blocks(rows);
        launch!(
            self,
            &self.table.rows.merge_groups,
            grid,
            ROW_THREADS,
            &partial_maximum,
            &partial_sum,
            &splits,
            &rows,
            &scale,
            &groups.maximum,
            &groups.sum,
            &groups.log2_sum,
        )
    }

    /// `count` groups into ceil(count / chunk); `log2_sum` of the result may be 0.
    pub unsafe fn reduce_groups(
        &self,
        from: Groups,
        count: u32,
        chunk: u32,
        scale: Address,
        to: Groups,
    ) -> Result<()> {
        let grid = count.div_ceil(chunk) as usize;
        launch!(
            self,
            &self.table.rows.reduce_groups,
            grid,
            THREADS,
            &from.maximum,
            &from.sum,
            &count,
            &chunk,
            &scale,
            &to.maximum,
            &to.sum,
            &to.log2_sum,
        )
    }

    /// `out`: one f32 for each of `count` groups.
    pub unsafe fn log_sum_exp(
        &self,
        groups: Groups,
        count: u32,
        scale: Address,
        out: Address,
    ) -> Result<()> {
        let function = &self.table.rows.log_sum_exp;
        let grid = row_blocks(count);
        launch!(
            self,
            function,
            grid,
            ROW_THREADS,
            &groups.maximum,
            &groups.sum,
            &count,
            &scale,
            &out
        )
    }

    /// `positive`: rows f32 as [`Launcher::stats`] left them; `terms`: rows terms.
    pub unsafe fn index_terms(
        &self,
        pairs: &Pairs,
        positive: Address,
        groups: Groups,
        scale: Address,
        terms: Address,
    ) -> Result<()> {
        let grid = row_blocks(pairs.rows);
        launch!(
            self,
            &self.table.rows.index_terms,
            grid,
            ROW_THREADS,
            pairs,
            &positive,
            &groups.maximum,
            &groups.sum,
            &groups.stride,
            &scale,
            &terms,
        )
    }

    /// [splits][rows] terms into rows terms.
    pub unsafe fn merge_terms(
        &self,
        partial: Address,
        splits: u32,
        pairs: &Pairs,
        groups: Groups,
        scale: Address,
        terms: Address,
    ) -> Result<()> {
        let Pairs { rows, ranges: Ranges { row_bands, .. }, .. } = *pairs;
        let (grid, side) = (row_blocks(rows), Tile::Small.side() as u32);
        launch!(
            self,
            &self.table.rows.merge_terms,
            grid,
            ROW_THREADS,
            &partial,
            &splits,
            &rows,
            &row_bands,
            &side,
            &groups.maximum,
            &groups.log2_sum,
            &groups.stride,
            &scale,
            &terms,
        )
    }

    /// `partial`: ceil(rows / chunk) totals; `row_sum`: rows f32, or one with stride 0.
    pub unsafe fn totals(
        &self,
        terms: Address,
        rows: u32,
        chunk: u32,
        (row_sum, row_stride): (Address, i32),
        groups: Groups,
        scale: Address,
        partial: Address,
    ) -> Result<()> {
        let grid = rows.div_ceil(chunk) as usize;
        launch!(
            self,
            &self.table.rows.totals,
            grid,
            THREADS,
            &terms,
            &rows,
            &chunk,
            &row_sum,
            &row_stride,
            &groups.maximum,
            &groups.sum,
            &groups.stride,
            &scale,
            &partial,
        )
    }

    /// `count` totals into one, and the loss.
    pub unsafe fn finish(
        &self,
        partial: Address,
        count: u32,
        mean: bool,
        scale: Address,
        total: Address,
        loss: Address,
    ) -> Result<()> {
        let mean = i32::from(mean);
        let function = &self.table.rows.finish;
        launch!(self, function, 1, THREADS, &partial, &count, &mean, &scale, &total, &loss)
    }

    /// `out`: rows f32 each.
    pub unsafe fn coefficients(
        &self,
        terms: Address,
        rows: u32,
        groups: Groups,
        total: Address,
        normalized: bool,
        mean: bool,
        scale: Address,
        out: Coefficients,
    ) -> Result<()> {
        let (normalized, mean) = (i32::from(normalized), i32::from(mean));
        let matrix = i32::from(groups.stride == 0);
        let grid = row_blocks(rows);
        launch!(
            self,
            &self.table.rows.coefficients,
            grid,
            ROW_THREADS,
            &terms,
            &rows,
            &groups.maximum,
            &groups.sum,
            &groups.stride,
            &total,
            &matrix,
            &normalized,
            &mean,
            &scale,
            &out,
        )
    }

    /// Rows `first` to `end` of G into `panel` (end − first rows, or data 0); `moments`: one f64 a
    /// tile, see [`weight_tiles`], or 0. `first` is a multiple of the tile's side.
    pub unsafe fn weights(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        first: u32,
        end: u32,
        coefficients: Coefficients,
        scale: Address,
        panel: Panel,
        moments: Address,
    ) -> Result<()> {
        let function = &kind.kernels(self.table).weights;
        let tiles = weight_tiles(kind.tile, (end - first) as usize, pairs.columns as usize);
        let grid = tiles.min(self.resident(kind.tile));
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
            &coefficients,
            &scale,
            &panel,
            &moments,
        )
    }

    /// Rows `first` to `end` of the negatives' weights into `panel`, each tile in its level; `sums`
    /// and panel.levels one a tile, see [`weight_tiles`]; `positive`: rows f32. sm80 alone.
    pub unsafe fn exponentials(
        &self,
        kind: Kind,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        first: u32,
        end: u32,
        scale: Address,
        panel: Panel,
        sums: TileSums,
        positive: Address,
    ) -> Result<()> {
        let Some(function) = &kind.kernels(self.table).exponentials else {
            unreachable!("planned for sm80 alone")
        };
        // A block each: a loop over them has no registers left.
        let grid = weight_tiles(kind.tile, (end - first) as usize, pairs.columns as usize);
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
            &scale,
            &panel,
            &sums,
            &positive,
        )
    }

    /// `out` from A·Bᵀ as `mix` says; A is out.rows × depth, B is out.columns × depth, lying as
    /// `product` says. With more than one split, `parts` holds splits × out.rows × out.columns f32.
    /// With a band, its tiles are what counts, and not the splits' depth.
    pub unsafe fn product(
        &self,
        kind: Kind,
        product: Product,
        a: Operand,
        b: Operand,
        depth: u32,
        splits: Splits,
        parts: Address,
        mix: Mix,
        band: Band,
        out: Output,
    ) -> Result<()> {
        let kernels = kind.kernels(self.table);
        let function = match product {
            Product::RowsRows => &kernels.rows_rows,
            Product::RowsColumns => &kernels.rows_columns,
            Product::ColumnsColumns => &kernels.columns_columns,
        };
        let (rows, columns) = (out.rows as usize, out.columns as usize);
        let side = kind.tile.side();
        let grid = rows.div_ceil(side) * columns.div_ceil(side) * splits.count;
        let (count, split_depth) = (splits.count as u32, splits.depth as u32);
        launch!(
            self,
            function,
            grid,
            kind.tile.threads(),
            &a,
            &b,
            &depth,
            &count,
            &split_depth,
            &parts,
            &mix,
            &band,
            &out,
        )?;
        if splits.count == 1 {
            return Ok(());
        }
        // Enough blocks for any chip; each takes its rows in turn.
        let grid = rows.div_ceil(2 * WARPS).min(4096);
        let function = &self.table.add_splits;
        launch!(self, function, grid, THREADS, &parts, &count, &depth, &mix, &band, &out)
    }

    /// `out` = the rows of `x` as 16-bit operands: rows × depth elements in each part, and rows f32
    /// factors, in this order (0: as they lie); `top`: [`Launcher::matrix_top`]'s, where there are
    /// factors without normalisation.
    pub unsafe fn prepare(
        &self,
        x: Operand,
        rows: u32,
        depth: u32,
        eps: f32,
        top: Address,
        order: Address,
        out: Prepared,
    ) -> Result<()> {
        let grid = (rows as usize).div_ceil(WARPS);
        let function = &self.table.rows.prepare;
        launch!(self, function, grid, THREADS, &x, &rows, &depth, &eps, &top, &order, &out)
    }

    /// `top` (one u32) = the bits of the largest magnitude of `x`, rows × depth; it was 0.
    pub unsafe fn matrix_top(&self, x: Operand, rows: u32, depth: u32, top: Address) -> Result<()> {
        // Enough blocks for any chip; each takes its rows in turn.
        let grid = (rows as usize).div_ceil(WARPS).min(4096);
        launch!(self, &self.table.rows.matrix_top, grid, THREADS, &x, &rows, &depth, &top)
    }

    /// `rows`: `down` levels, the highest of each row of the down × across ones in `tiles`; `unit`
    /// one f32, or 0.
    pub unsafe fn row_levels(
        &self,
        tiles: Address,
        down: u32,
        across: u32,
        unit: Address,
        rows: Address,
    ) -> Result<()> {
        let grid = (down as usize).div_ceil(WARPS);
        let function = &self.table.rows.row_levels;
        launch!(self, function, grid, THREADS, &tiles, &down, &across, &unit, &rows)
    }

    /// `after`: `across` levels, the highest of each column of `tiles` and of `before` (or 0).
    pub unsafe fn column_levels(
        &self,
        tiles: Address,
        down: u32,
        across: u32,
        unit: Address,
        before: Address,
        after: Address,
    ) -> Result<()> {
        let grid = blocks(across as usize);
        let function = &self.table.rows.column_levels;
        launch!(self, function, grid, THREADS, &tiles, &down, &across, &unit, &before, &after)
    }

    /// `unit` = scale · log2 e; one f32 each.
    pub unsafe fn level_unit(&self, scale: Address, unit: Address) -> Result<()> {
        launch!(self, &self.table.rows.level_unit, 1, 1, &scale, &unit)
    }

    /// `tiles`, down × across of each, into `down` groups.
    pub unsafe fn tile_groups(
        &self,
        tiles: TileSums,
        down: u32,
        across: u32,
        scale: Address,
        groups: TileSums,
    ) -> Result<()> {
        launch!(
            self,
            &self.table.rows.tile_groups,
            down as usize,
            THREADS,
            &tiles.maximum,
            &tiles.sum,
            &tiles.moment,
            &across,
            &scale,
            &groups.maximum,
            &groups.sum,
            &groups.moment,
        )
    }

    /// `total` (one f64) = Σ (S − M)·G over the negatives of `count` groups, and over the positives
    /// where a row has one.
    pub unsafe fn one_pass_moment(
        &self,
        groups: TileSums,
        count: u32,
        pairs: &Pairs,
        positive: Address,
        rows: Coefficients,
        scale: Address,
        total: Address,
    ) -> Result<()> {
        launch!(
            self,
            &self.table.rows.one_pass_moment,
            1,
            THREADS,
            &groups.maximum,
            &groups.sum,
            &groups.moment,
            &count,
            pairs,
            &positive,
            &rows,
            &scale,
            &total,
        )
    }

    /// `weights`: G of every row's one positive, from their similarities; rows f32 each.
    pub unsafe fn positive_weights(
        &self,
        pairs: &Pairs,
        positive: Address,
        rows: Coefficients,
        scale: Address,
        weights: Address,
    ) -> Result<()> {
        let function = &self.table.rows.positive_weights;
        let grid = blocks(pairs.rows as usize);
        launch!(self, function, grid, THREADS, pairs, &positive, &rows, &scale, &weights)
    }

    /// `out`, the gradient, from sums over negatives (`more.data` 0 for none of these; `own` may be
    /// `out`), whose rows share levels by `side`, and the pairs of `matches` with rows of `other`.
    pub unsafe fn one_pass_gradient(
        &self,
        out: Output,
        own: Sums,
        more: Sums,
        side: u32,
        divisor: Address,
        other: Operand,
        pairs: &Pairs,
        matches: Matches,
        rows: Coefficients,
        scale: Address,
        upstream: Address,
    ) -> Result<()> {
        let grid = (out.rows as usize).div_ceil(WARPS);
        launch!(
            self,
            &self.table.rows.one_pass_gradient,
            grid,
            THREADS,
            &out,
            &own,
            &more,
            &side,
            &divisor,
            &other,
            pairs,
            &matches,
            &rows,
            &scale,
            &upstream,
        )
    }

    /// `total` (one f64) = the sum of `count` f64, added to it where `accumulate`.
    pub unsafe fn sum_moments(
        &self,
        values: Address,
        count: u32,
        accumulate: bool,
        total: Address,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.sum_scaled_moments(values, count, 0, accumulate, total) }
    }

    /// The same of the sum times `factor` (one f32, or 0 for 1).
    pub unsafe fn sum_scaled_moments(
        &self,
        values: Address,
        count: u32,
        factor: Address,
        accumulate: bool,
        total: Address,
    ) -> Result<()> {
        let accumulate = i32::from(accumulate);
        let function = &self.table.rows.sum_moments;
        launch!(self, function, 1, THREADS, &values, &count, &factor, &accumulate, &total)
    }

    /// `factors`: [`SHARE_FACTOR_BYTES`], what shares of positives are multiplied by, all rows having
    /// the same coefficients; `sum`: Z.
    pub unsafe fn share_factors(
        &self,
        rows: Coefficients,
        total: Address,
        sum: Address,
        factors: Address,
    ) -> Result<()> {
        launch!(self, &self.table.rows.share_factors, 1, 1, &rows, &total, &sum, &factors)
    }

    /// Shares among the weights of `panel`, whose tiles have levels and are `tile`'s, become weights
    /// of the same unit. `share_levels`: theirs, in small tiles; `bands`: where small tiles may
    /// have some; `maximum`, `unit`: one f32 each. sm80 alone.
    pub unsafe fn join(
        &self,
        kind: Kind,
        panel: Panel,
        share_levels: Address,
        bands: Address,
        factors: Address,
        maximum: Address,
        unit: Address,
    ) -> Result<()> {
        let Some(function) = &kind.arithmetic.kernels(self.table).join else {
            unreachable!("planned for sm80 alone")
        };
        let side = kind.tile.side() as u32;
        let grid = panel.rows.div_ceil(side) as usize * JOIN_SPLITS;
        launch!(
            self,
            function,
            grid,
            JOIN_THREADS,
            &panel,
            &side,
            &share_levels,
            &bands,
            &factors,
            &maximum,
            &unit,
        )
    }

    /// `out` (one f32) = upstream · total / scale.
    pub unsafe fn scale_gradient(
        &self,
        total: Address,
        scale: Address,
        upstream: Address,
        out: Address,
    ) -> Result<()> {
        let function = &self.table.rows.scale_gradient;
        launch!(self, function, 1, 1, &total, &scale, &upstream, &out)
    }
}

/// Tiles of [`Launcher::weights`] for a panel of so many rows.
pub(super) fn weight_tiles(tile: Tile, rows: usize, columns: usize) -> usize {
    rows.div_ceil(tile.side()) * columns.div_ceil(tile.side())
}

/// Launches of kernels/mining.cu and kernels/lists.cu.
pub(super) mod mining;
/// Launches of kernels/order.cu.
pub(super) mod order;
