//! Room: engines, CUDA. Launches: one function a kernel, and the structures kernels take. Addresses
//! are device addresses; what each must be is the contract of the function, which the kernel's file
//! states in full. The only place that launches anything.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg};

use super::kernels::{Table, TileKernels};
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
}

impl Operand {
    pub fn new(data: Address, stride: usize, dtype: DType) -> Self {
        let (number, size) = element(dtype);
        let aligned = data.is_multiple_of(16) && (stride * size).is_multiple_of(16);
        Self { data, stride: stride as i64, dtype: number, aligned: i32::from(aligned) }
    }

    /// The same matrix from this row on.
    pub fn starting_at(self, row: usize) -> Self {
        let size = if self.dtype == element(DType::F32).0 { 4 } else { 2 };
        Self { data: self.data + row as u64 * self.stride as u64 * size, ..self }
    }
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

/// Bits of [`Pairs::flags`].
pub(super) const INDEXED: u32 = 1;
pub(super) const LABELED: u32 = 2;
pub(super) const SHARED: u32 = 4;
pub(super) const IDS: u32 = 8;
pub(super) const MINED: u32 = 16;

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

/// The smallest and largest key of every tile's rows and columns; a part of `Pairs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ranges {
    pub row_labels: Address,
    pub column_labels: Address,
    pub row_ids: Address,
    pub column_ids: Address,
}

/// Twin of Walk (kernels/stats.cu): which column tiles a block walks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub splits: u32,
    pub tiles_per_split: u32,
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
unsafe impl DeviceRepr for Pairs {}
// SAFETY: as above.
unsafe impl DeviceRepr for Walk {}
// SAFETY: as above.
unsafe impl DeviceRepr for Coefficients {}

/// A size of the simt tile engine (kernels/tile/simt.cuh).
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

    fn kernels(self, table: &Table) -> &TileKernels {
        match self {
            Self::Large => &table.large,
            Self::Small => &table.small,
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

    /// `out` = the unit rows of `x` (out.rows × out.columns).
    pub unsafe fn normalize(&self, x: Operand, eps: f32, out: Output) -> Result<()> {
        let grid = (out.rows as usize).div_ceil(WARPS);
        launch!(self, &self.table.rows.normalize, grid, THREADS, &x, &out.columns, &eps, &out)
    }

    /// `out` = the gradient with respect to `x` given `g`, that of its unit rows; all of out's
    /// shape, `g` f32; `g` may be `out`.
    pub unsafe fn normalize_backward(
        &self,
        x: Operand,
        g: Operand,
        eps: f32,
        out: Output,
    ) -> Result<()> {
        let function = &self.table.rows.normalize_backward;
        let grid = (out.rows as usize).div_ceil(WARPS);
        launch!(self, function, grid, THREADS, &x, &g, &out.columns, &eps, &out)
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

    /// `maximum`, `sum`: [splits][rows] f32; `positive`: rows f32, or 0 without [`INDEXED`].
    /// Ranges per side of `tile`.
    pub unsafe fn stats(
        &self,
        tile: Tile,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        walk: Walk,
        scale: Address,
        maximum: Address,
        sum: Address,
        positive: Address,
    ) -> Result<()> {
        let function = &tile.kernels(self.table).stats;
        let grid = (pairs.rows as usize).div_ceil(tile.side()) * walk.splits as usize;
        launch!(
            self,
            function,
            grid,
            tile.threads(),
            &x,
            &y,
            &depth,
            pairs,
            &walk,
            &scale,
            &maximum,
            &sum,
            &positive,
        )
    }

    /// `partial`: [splits][rows] terms; [`LABELED`], ranges per side of [`Tile::Small`].
    pub unsafe fn terms(
        &self,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        walk: Walk,
        scale: Address,
        groups: Groups,
        partial: Address,
    ) -> Result<()> {
        let grid = (pairs.rows as usize).div_ceil(Tile::Small.side()) * walk.splits as usize;
        launch!(
            self,
            &self.table.terms,
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
        let grid = blocks(rows as usize);
        launch!(
            self,
            &self.table.rows.merge_groups,
            grid,
            THREADS,
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
        let grid = blocks(count as usize);
        launch!(self, function, grid, THREADS, &groups.maximum, &groups.sum, &count, &scale, &out)
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
        let grid = blocks(pairs.rows as usize);
        launch!(
            self,
            &self.table.rows.index_terms,
            grid,
            THREADS,
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
        rows: u32,
        groups: Groups,
        scale: Address,
        terms: Address,
    ) -> Result<()> {
        let grid = blocks(rows as usize);
        launch!(
            self,
            &self.table.rows.merge_terms,
            grid,
            THREADS,
            &partial,
            &splits,
            &rows,
            &groups.maximum,
            &groups.log2_sum,
            &groups.stride,
            &scale,
            &terms,
        )
    }

    /// `partial`: ceil(rows / chunk) totals; `row_sum`: rows f32.
    pub unsafe fn totals(
        &self,
        terms: Address,
        rows: u32,
        chunk: u32,
        row_sum: Address,
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
        let grid = blocks(rows as usize);
        launch!(
            self,
            &self.table.rows.coefficients,
            grid,
            THREADS,
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
    /// block, see [`weight_blocks`], or 0. `first` is a multiple of the tile's side.
    pub unsafe fn weights(
        &self,
        tile: Tile,
        x: Operand,
        y: Operand,
        depth: u32,
        pairs: &Pairs,
        first: u32,
        end: u32,
        coefficients: Coefficients,
        scale: Address,
        panel: Output,
        moments: Address,
    ) -> Result<()> {
        let function = &tile.kernels(self.table).weights;
        let grid = weight_blocks(tile, (end - first) as usize, pairs.columns as usize);
        launch!(
            self,
            function,
            grid,
            tile.threads(),
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

    /// `out` = factor · A·Bᵀ, added to it where `accumulate`; A is out.rows × depth, B is
    /// out.columns × depth, lying as `product` says; `factor` one f32, or 0 for 1. With more than
    /// one split, `parts` holds splits × out.rows × out.columns f32.
    pub unsafe fn product(
        &self,
        tile: Tile,
        product: Product,
        a: Operand,
        b: Operand,
        depth: u32,
        splits: Splits,
        parts: Address,
        factor: Address,
        accumulate: bool,
        out: Output,
    ) -> Result<()> {
        let kernels = tile.kernels(self.table);
        let function = match product {
            Product::RowsRows => &kernels.rows_rows,
            Product::RowsColumns => &kernels.rows_columns,
            Product::ColumnsColumns => &kernels.columns_columns,
        };
        let (rows, columns) = (out.rows as usize, out.columns as usize);
        let tiles = rows.div_ceil(tile.side()) * columns.div_ceil(tile.side());
        let grid = tiles * splits.count;
        let (count, split_depth) = (splits.count as u32, splits.depth as u32);
        let accumulate = i32::from(accumulate);
        let part = (rows * columns) as i64;
        let launch = |factor: Address, accumulate: i32, out: Output| -> Result<()> {
            launch!(
                self,
                function,
                grid,
                tile.threads(),
                &a,
                &b,
                &depth,
                &count,
                &split_depth,
                &part,
                &factor,
                &accumulate,
                &out,
            )
        };
        if splits.count == 1 {
            return launch(factor, accumulate, out);
        }
        launch(0, 0, Output { data: parts, stride: i64::from(out.columns), ..out })?;
        // Enough blocks for any chip; each takes its elements in turn.
        let grid = blocks(rows * columns).min(4096);
        launch!(
            self,
            &self.table.add_splits,
            grid,
            THREADS,
            &parts,
            &count,
            &part,
            &factor,
            &accumulate,
            &out,
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
        let accumulate = i32::from(accumulate);
        let function = &self.table.rows.sum_moments;
        launch!(self, function, 1, THREADS, &values, &count, &accumulate, &total)
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

/// Blocks of [`Launcher::weights`] for a panel of so many rows.
pub(super) fn weight_blocks(tile: Tile, rows: usize, columns: usize) -> usize {
    rows.div_ceil(tile.side()) * columns.div_ceil(tile.side())
}

/// Launches of kernels/mining.cu and kernels/lists.cu.
pub(super) mod mining;
