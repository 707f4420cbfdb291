//! Room: engines, CUDA. Launches of the kernels that put rows in the order of their keys
//! (kernels/order.cu); as launch.rs, of which it is a part.

use cudarc::driver::{CudaFunction, DeviceRepr, PushKernelArg};

use super::{Address, Destination, Launcher, Operand, THREADS, WARPS, blocks, configuration};
use crate::Result;

/// Twin of Keys (kernels/order.cu): `count` u32 each, and twice as many of `other`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cuda) struct Keys {
    pub keys: Address,
    pub sorted: Address,
    /// Where the sorted keys come from.
    pub order: Address,
    /// Memory to sort by way of.
    pub other: Address,
    pub count: u32,
}

// SAFETY: plain data laid out as C lays it out, field by field as in the kernel's file.
unsafe impl DeviceRepr for Keys {}

/// Threads of the block that sorts: at least, at most, and keys of a thread up to there.
const SORT_THREADS: (u32, u32) = (64, 1024);
const SORT_KEYS: u32 = 4;
/// Rows of a block that copies.
const COPY_ROWS: usize = 64;

#[allow(clippy::too_many_arguments)] // one for each of a kernel's
impl Launcher<'_> {
    /// Sorts one set of keys, stably, or two.
    pub unsafe fn sort_keys(&self, one: Keys, other: Option<Keys>) -> Result<()> {
        let grid = if other.is_some() { 2 } else { 1 };
        let other = other.unwrap_or(one);
        let (least, most) = SORT_THREADS;
        let threads = one.count.max(other.count).div_ceil(SORT_KEYS).clamp(least, most);
        let threads = threads.next_power_of_two();
        launch!(self, &self.table.order.sort_keys, grid, threads, &one, &other)
    }

    /// `to` = the keys `from` in this order; `count` u32 each.
    pub unsafe fn gather_keys(
        &self,
        from: Address,
        order: Address,
        count: u32,
        to: Address,
    ) -> Result<()> {
        let grid = blocks(count as usize);
        let function = &self.table.order.gather_keys;
        launch!(self, function, grid, THREADS, &from, &order, &count, &to)
    }

    /// `starts`: groups + 1 u32, of `count` sorted keys.
    pub unsafe fn key_starts(
        &self,
        sorted: Address,
        count: u32,
        groups: u32,
        starts: Address,
    ) -> Result<()> {
        let grid = blocks(groups as usize + 1);
        let function = &self.table.order.key_starts;
        launch!(self, function, grid, THREADS, &sorted, &count, &groups, &starts)
    }

    /// `matches`: `count` pairs of u32, where those equal to each of `keys` begin and end among
    /// `others` sorted ones.
    pub unsafe fn key_matches(
        &self,
        keys: Address,
        count: u32,
        sorted: Address,
        others: u32,
        matches: Address,
    ) -> Result<()> {
        let grid = blocks(count as usize);
        let function = &self.table.order.key_matches;
        launch!(self, function, grid, THREADS, &keys, &count, &sorted, &others, &matches)
    }

    /// `bands`: `count` pairs of u32, of as many ranges in `own` and `others` in `other`; `back`:
    /// the others' bands, or 0.
    pub unsafe fn key_bands(
        &self,
        own: Address,
        count: u32,
        other: Address,
        others: u32,
        back: Address,
        bands: Address,
    ) -> Result<()> {
        let grid = (count as usize).div_ceil(WARPS);
        let function = &self.table.order.key_bands;
        launch!(self, function, grid, THREADS, &own, &count, &other, &others, &back, &bands)
    }

    /// `out` = the rows of `x` in this order (0: as they lie): rows × depth elements of x's type,
    /// in aligned rows.
    pub unsafe fn gather_rows(
        &self,
        x: Operand,
        order: Address,
        rows: u32,
        depth: u32,
        out: Operand,
    ) -> Result<()> {
        let grid = (rows as usize).div_ceil(COPY_ROWS);
        let function = &self.table.order.gather_rows;
        let Operand { data, stride, .. } = out;
        launch!(self, function, grid, THREADS, &x, &order, &rows, &depth, &data, &stride)
    }

    /// Rows of `out`, in its element type, from those of `from`, which are in this order (0: in that
    /// of `out`); f32 of out's shape in aligned rows.
    pub unsafe fn scatter_rows(
        &self,
        from: Operand,
        order: Address,
        out: Destination,
    ) -> Result<()> {
        let grid = (out.rows as usize).div_ceil(COPY_ROWS);
        let function = &self.table.order.scatter_rows;
        let Operand { data, stride, .. } = from;
        launch!(self, function, grid, THREADS, &data, &stride, &order, &out)
    }
}
