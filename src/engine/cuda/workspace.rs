//! Room: engines, CUDA. Memory: results and statistics that outlive a call come from a pool and go
//! back to it; scratch memory is one slab, as large as the largest call so far.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, SyncOnDrop,
    sys,
};

use crate::matrix::{Cuda, Storage, StorageMut};
use crate::{Error, Result};

/// An allocation and its address. Who asks cudarc for the address also asks it to order streams by
/// events; memory that nobody else ever sees needs no more than the engine's own stream.
#[derive(Debug)]
struct Piece {
    slice: CudaSlice<f32>,
    address: u64,
}

impl Piece {
    fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self> {
        // SAFETY: every bit pattern is an f32; kernels write before they read.
        let slice = unsafe { stream.alloc::<f32>(len) }?;
        let (address, guard) = slice.device_ptr(stream);
        drop(guard);
        Ok(Self { address, slice })
    }
}

/// Memory that is not in use now, ready to be used again.
#[derive(Debug)]
pub(super) struct Pool {
    stream: Arc<CudaStream>,
    free: Mutex<Vec<Piece>>,
}

impl Pool {
    pub fn new(stream: Arc<CudaStream>) -> Arc<Self> {
        Arc::new(Self { stream, free: Mutex::new(Vec::new()) })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Piece>> {
        // A vector of buffers is whole whatever panicked.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the waiting memory back to the driver.
    pub fn release(&self) {
        self.free().clear();
    }

    /// Memory of `len` elements: the smallest waiting piece that wastes little, or a new one.
    pub fn take<T: Word>(self: &Arc<Self>, len: usize) -> Result<Buffer<T>> {
        let class = size_class(len);
        let found = {
            let mut free = self.free();
            let best = (0..free.len())
                .filter(|&i| (class..=class + class / 4).contains(&free[i].slice.len()))
                .min_by_key(|&i| free[i].slice.len());
            best.map(|i| free.swap_remove(i))
        };
        let piece = match found {
            Some(piece) => piece,
            None => Piece::new(&self.stream, class)?,
        };
        Ok(Buffer { piece: Some(piece), len, pool: self.clone(), element: PhantomData })
    }
}

/// Lengths are rounded up, so that batches of nearly one size share their memory.
fn size_class(len: usize) -> usize {
    // An eighth of the power of two below: at most 12.5% more than asked for.
    let step = (len.max(1).next_power_of_two() / 16).max(64);
    len.max(1).div_ceil(step) * step
}

/// What result memory consists of: `f32` or `u32`.
pub trait Word: sealed::Sealed + DeviceRepr + 'static {}

mod sealed {
    /// Four bytes of which every pattern is a value.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

impl Word for f32 {}
impl Word for u32 {}

/// Result memory of a [`CudaEngine`](super::CudaEngine): `f32` (or `u32`, for indices) on its
/// device, given back to the engine's pool when dropped. It can be read wherever cudarc's own slices
/// can: it is a [`DevicePtr`], and [`as_view`](Buffer::as_view) gives a [`CudaView`].
#[derive(Debug)]
pub struct Buffer<T: Word = f32> {
    /// Some until dropped.
    piece: Option<Piece>,
    len: usize,
    pool: Arc<Pool>,
    element: PhantomData<T>,
}

impl<T: Word> Buffer<T> {
    /// The buffer as cudarc sees it.
    pub fn as_view(&self) -> CudaView<'_, T> {
        let view = self.piece().slice.slice(..self.len);
        // SAFETY: a T has the size and alignment of an f32, and any bit pattern.
        unsafe { view.transmute(self.len) }.expect("as many elements of the same size")
    }

    fn piece(&self) -> &Piece {
        self.piece.as_ref().expect("a buffer holds its memory until it is dropped")
    }

    /// The address, for memory that never leaves the engine.
    pub(super) fn private_address(&self) -> u64 {
        self.piece().address
    }

    pub(super) fn is_from(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl<T: Word> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take() {
            self.pool.free().push(piece);
        }
    }
}

impl<T: Word> DeviceSlice<T> for Buffer<T> {
    fn len(&self) -> usize {
        self.len
    }
    fn stream(&self) -> &Arc<CudaStream> {
        self.piece().slice.stream()
    }
}

impl<T: Word> DevicePtr<T> for Buffer<T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        self.piece().slice.device_ptr(stream)
    }
}

impl<T: Word> DevicePtrMut<T> for Buffer<T> {
    fn device_ptr_mut<'a>(
        &'a mut self,
        stream: &'a CudaStream,
    ) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        let piece = self.piece.as_mut().expect("a buffer holds its memory until it is dropped");
        piece.slice.device_ptr_mut(stream)
    }
}

impl<T: Word> Storage for Buffer<T> {
    type Device = Cuda;
    type Element = T;
    fn view(&self) -> &dyn DevicePtr<T> {
        self
    }
}

impl<T: Word> StorageMut for Buffer<T> {
    fn view_mut(&mut self) -> &mut dyn DevicePtrMut<T> {
        self
    }
}

/// Where things lie in memory that is shared out front to back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    end: usize,
    peak: usize,
}

impl Layout {
    /// Everything starts on such a boundary: enough for the widest loads and for whole sectors.
    const ALIGNMENT: usize = 256;

    /// Room for `len` values of T; its offset in bytes.
    pub fn take<T>(&mut self, len: usize) -> Result<Region> {
        let end = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(Self::ALIGNMENT))
            .and_then(|bytes| self.end.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= isize::MAX as usize) else {
            return Err(Error::WorkspaceTooSmall { needed: usize::MAX, bound: usize::MAX });
        };
        let region = Region { offset: self.end as u64 };
        self.end = end;
        self.peak = self.peak.max(end);
        Ok(region)
    }

    /// Forgets what was taken after `mark`: its memory is shared with what comes next.
    pub fn rewind(&mut self, mark: Self) {
        self.end = mark.end;
    }

    /// Bytes needed in all.
    pub fn bytes(&self) -> usize {
        self.peak
    }
}

/// A part of a [`Layout`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Region {
    offset: u64,
}

impl Region {
    /// Its address, where the layout starts at `base`.
    pub fn at(self, base: u64) -> u64 {
        base + self.offset
    }
}

/// Scratch memory of one engine, used by one call at a time, in stream order.
#[derive(Debug, Default)]
pub(super) struct Slab {
    memory: Option<Piece>,
    /// Outgrown slabs that a captured graph may still use.
    retired: Vec<Piece>,
    captured: bool,
}

impl Slab {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.memory.iter().chain(&self.retired).map(|piece| piece.slice.num_bytes()).sum()
    }

    /// The address of `bytes` bytes of scratch memory. Allocates only where no call before needed
    /// as much.
    pub fn reserve(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<u64> {
        let none = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        self.captured |= stream.capture_status()? != none;
        if let Some(piece) = &self.memory
            && piece.slice.num_bytes() >= bytes
        {
            return Ok(piece.address);
        }
        match self.memory.take() {
            Some(outgrown) if self.captured => self.retired.push(outgrown),
            // Freed in stream order, after the launches that use it.
            outgrown => drop(outgrown),
        }
        let piece = Piece::new(stream, bytes.div_ceil(4).max(64))?;
        let address = piece.address;
        self.memory = Some(piece);
        Ok(address)
    }

    /// Gives the memory back to the driver.
    pub fn release(&mut self) {
        if !self.captured {
            self.memory = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_little() {
        for len in [1, 63, 64, 65, 1000, 4096, 4097, 1_000_003] {
            let class = size_class(len);
            assert!(class >= len && class <= (len + len / 7).max(len + 63), "{len}: {class}");
            assert_eq!(size_class(class), class);
        }
        assert_eq!(size_class(0), 64);
    }

    #[test]
    fn layouts_share_what_was_rewound() {
        let mut layout = Layout::default();
        assert_eq!(layout.take::<f32>(1).unwrap().at(0), 0);
        let mark = layout;
        assert_eq!(layout.take::<f64>(100).unwrap().at(0), 256);
        layout.rewind(mark);
        assert_eq!(layout.take::<f32>(1).unwrap().at(1000), 1256);
        assert_eq!(layout.bytes(), 256 + 1024);
        assert!(layout.take::<f64>(usize::MAX / 4).is_err());
    }
}
