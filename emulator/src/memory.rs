//! The device's global memory and its shadow.
//!
//! Addresses are invented: every allocation gets its own range, far from the next and never used again, so that a
//! stray access meets no neighbour and an access after `free` can be named. Each allocation carries a shadow with one
//! bit a byte, "somebody wrote this", and the records from which races between blocks are found.
//!
//! The bytes are reached through relaxed atomics of the access's width: a kernel that races is reported, not undefined
//! behaviour of the emulator.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::exec::race::GlobalShadow;

/// What uninitialised bytes read as when the host copies them: a NaN in every float format.
pub const POISON: u8 = 0xff;

/// The first address handed out.
const FIRST: u64 = 0x7000_0000_0000;
/// Distance kept between two allocations.
const GUARD: u64 = 16 << 20;
/// Alignment of every allocation, as `cuMemAlloc` promises at least 256.
const ALIGN: u64 = 512;

/// Why a host-side operation on device memory was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// The device has not enough memory left.
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes left.
        free: usize,
    },
    /// Nothing was ever allocated at this address.
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// The address lies in an allocation that was freed.
    Freed {
        /// The address.
        address: u64,
        /// Start of the freed allocation.
        base: u64,
        /// Its size in bytes.
        size: usize,
    },
    /// The range leaves its allocation.
    OutOfBounds {
        /// First address of the range.
        address: u64,
        /// Length of the range in bytes.
        bytes: usize,
        /// Start of the allocation.
        base: u64,
        /// Its size in bytes.
        size: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryError::OutOfMemory { requested, free } => {
                write!(f, "out of device memory: {requested} bytes asked for, {free} free")
            }
            MemoryError::NotAllocated { address } => write!(f, "no allocation at {address:#x}"),
            MemoryError::Freed { address, base, size } => {
                write!(f, "{address:#x} lies in a freed allocation ({size} bytes at {base:#x})")
            }
            MemoryError::OutOfBounds { address, bytes, base, size } => {
                write!(
                    f,
                    "{bytes} bytes at {address:#x} leave their allocation ({size} bytes at {base:#x})"
                )
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// One allocation: bytes and shadow.
pub(crate) struct Allocation {
    pub base: u64,
    pub size: usize,
    data: Box<[AtomicU64]>,
    /// One bit a byte.
    written: Box<[AtomicU64]>,
    /// Set once every bit of `written` is: the usual state, which spares the look at the bits.
    all_written: AtomicBool,
    warned: AtomicBool,
    /// Belongs to a module, so that it is no leak.
    owned: bool,
    /// Constant memory: kernels may not write it.
    pub read_only: bool,
    pub shadow: GlobalShadow,
}

fn zeroed(n: usize) -> Box<[AtomicU64]> {
    let words = vec![0u64; n].into_boxed_slice();
    // SAFETY: AtomicU64 has the size, alignment (on 64-bit targets) and bit validity of u64, and the box is unique.
    unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) }
}

impl Allocation {
    fn new(base: u64, size: usize, owned: bool, read_only: bool) -> Allocation {
        Allocation {
            base,
            size,
            data: zeroed(size.div_ceil(8)),
            written: zeroed(size.div_ceil(64)),
            all_written: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            owned,
            read_only,
            shadow: GlobalShadow::new(size),
        }
    }

    /// Reads `WIDTH` (1, 2, 4 or 8) bytes at an offset that is in range and a multiple of the width.
    #[inline(always)]
    pub fn load(&self, offset: usize, width: usize) -> u64 {
        debug_assert!(offset + width <= self.size && offset.is_multiple_of(width));
        assert!(offset + width <= self.data.len() * 8);
        // SAFETY: the range was just checked against the buffer, which is 8-byte aligned, and the offset is a
        // multiple of the width; all accesses to the buffer are relaxed atomics.
        unsafe {
            let p = (self.data.as_ptr() as *mut u8).add(offset);
            match width {
                1 => AtomicU8::from_ptr(p).load(Relaxed) as u64,
                2 => AtomicU16::from_ptr(p.cast()).load(Relaxed) as u64,
                4 => AtomicU32::from_ptr(p.cast()).load(Relaxed) as u64,
                _ => AtomicU64::from_ptr(p.cast()).load(Relaxed),
            }
        }
    }

    /// Writes as [`Allocation::load`] reads.
    #[inline(always)]
    pub fn store(&self, offset: usize, width: usize, value: u64) {
        debug_assert!(offset + width <= self.size && offset.is_multiple_of(width));
        assert!(offset + width <= self.data.len() * 8);
        // SAFETY: as in `load`.
        unsafe {
            let p = (self.data.as_ptr() as *mut u8).add(offset);
            match width {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(value, Relaxed),
            }
        }
    }

    /// Replaces a value atomically: `change` answers the new value for the old. Returns the old one.
    pub fn update(&self, offset: usize, width: usize, mut change: impl FnMut(u64) -> u64) -> u64 {
        assert!(offset + width <= self.data.len() * 8 && offset.is_multiple_of(width));
        // SAFETY: as in `load`.
        unsafe {
            let p = (self.data.as_ptr() as *mut u8).add(offset);
            macro_rules! exchange {
                ($atomic:ty, $int:ty) => {
                    <$atomic>::from_ptr(p.cast())
                        .fetch_update(Relaxed, Relaxed, |old| Some(change(old as u64) as $int))
                        .unwrap_or_else(|old| old) as u64
                };
            }
            match width {
                1 => exchange!(AtomicU8, u8),
                2 => exchange!(AtomicU16, u16),
                4 => exchange!(AtomicU32, u32),
                _ => exchange!(AtomicU64, u64),
            }
        }
    }

    /// The first offset in the range that nobody wrote.
    #[inline]
    pub fn unwritten(&self, offset: usize, bytes: usize) -> Option<usize> {
        if self.all_written.load(Relaxed) {
            return None;
        }
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let n = (64 - at % 64).min(end - at);
            let missing = !self.written[at / 64].load(Relaxed) & mask(at % 64, n);
            if missing != 0 {
                return Some(at / 64 * 64 + missing.trailing_zeros() as usize);
            }
            at += n;
        }
        None
    }

    /// Marks the range as written (or, after a copy of poison, as not).
    #[inline]
    pub fn mark(&self, offset: usize, bytes: usize, written: bool) {
        if written && self.all_written.load(Relaxed) {
            return;
        }
        if written && bytes == self.size {
            self.all_written.store(true, Relaxed);
        }
        if !written && self.all_written.swap(false, Relaxed) {
            for word in &self.written {
                word.store(!0, Relaxed);
            }
        }
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let n = (64 - at % 64).min(end - at);
            let word = &self.written[at / 64];
            let bits = mask(at % 64, n);
            if !written {
                word.fetch_and(!bits, Relaxed);
            } else if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
            at += n;
        }
    }

    /// After a launch: notices when every byte has been written, so that later launches need not look.
    fn settle(&self) {
        if self.all_written.load(Relaxed) {
            return;
        }
        let whole = self.size / 64;
        let full = self.written[..whole].iter().all(|w| w.load(Relaxed) == !0);
        let rest = self.size % 64;
        if full && (rest == 0 || self.written[whole].load(Relaxed) & mask(0, rest) == mask(0, rest))
        {
            self.all_written.store(true, Relaxed);
        }
    }

    fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() {
            let width = width_at(offset + at, out.len() - at);
            let value = self.load(offset + at, width).to_le_bytes();
            out[at..at + width].copy_from_slice(&value[..width]);
            at += width;
        }
    }

    fn write_bytes(&self, offset: usize, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let width = width_at(offset + at, data.len() - at);
            let mut value = [0; 8];
            value[..width].copy_from_slice(&data[at..at + width]);
            self.store(offset + at, width, u64::from_le_bytes(value));
            at += width;
        }
    }
}

/// Widest access that is aligned at `offset` and fits in `left` bytes: 8 or 1.
fn width_at(offset: usize, left: usize) -> usize {
    if offset.is_multiple_of(8) && left >= 8 { 8 } else { 1 }
}

fn mask(first: usize, n: usize) -> u64 {
    (if n == 64 { !0 } else { (1 << n) - 1 }) << first
}

struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: BTreeMap<u64, usize>,
    next: u64,
    used: usize,
    total: usize,
}

impl State {
    /// The allocation that holds the whole range, and the range's offset in it.
    fn find(&self, address: u64, bytes: usize) -> Result<(&Arc<Allocation>, usize), MemoryError> {
        if let Some((&base, a)) = self.live.range(..=address).next_back() {
            let offset = (address - base) as usize;
            if offset < a.size || (offset == a.size && bytes == 0) {
                if bytes <= a.size - offset {
                    return Ok((a, offset));
                }
                return Err(MemoryError::OutOfBounds { address, bytes, base, size: a.size });
            }
        }
        if let Some((&base, &size)) = self.freed.range(..=address).next_back()
            && address - base < size as u64
        {
            return Err(MemoryError::Freed { address, base, size });
        }
        if let Some((&base, a)) = self.live.range(..=address).next_back()
            && address - base < a.size as u64 + GUARD
        {
            return Err(MemoryError::OutOfBounds { address, bytes, base, size: a.size });
        }
        Err(MemoryError::NotAllocated { address })
    }
}

/// Device global memory. Clones are handles to the same memory.
#[derive(Clone)]
pub struct Memory {
    state: Arc<RwLock<State>>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    /// An empty memory of the default size.
    pub fn new() -> Memory {
        Memory::with_capacity(crate::Config::default().memory_bytes)
    }

    /// An empty memory that holds at most `total` bytes.
    pub fn with_capacity(total: usize) -> Memory {
        let state =
            State { live: BTreeMap::new(), freed: BTreeMap::new(), next: FIRST, used: 0, total };
        Memory { state: Arc::new(RwLock::new(state)) }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Allocates `bytes` uninitialised bytes, aligned to 512.
    pub fn alloc(&self, bytes: usize) -> Result<u64, MemoryError> {
        self.allocate(bytes, false, false)
    }

    /// Allocates for a module: not listed by [`Memory::live`].
    pub(crate) fn alloc_owned(&self, bytes: usize, read_only: bool) -> Result<u64, MemoryError> {
        self.allocate(bytes, true, read_only)
    }

    fn allocate(&self, bytes: usize, owned: bool, read_only: bool) -> Result<u64, MemoryError> {
        let mut state = self.state_mut();
        let free = state.total - state.used;
        if bytes > free {
            return Err(MemoryError::OutOfMemory { requested: bytes, free });
        }
        let base = state.next;
        state.next = (base + bytes as u64 + GUARD).next_multiple_of(ALIGN);
        state.used += bytes;
        state.live.insert(base, Arc::new(Allocation::new(base, bytes, owned, read_only)));
        Ok(base)
    }

    /// Frees the allocation that starts at `ptr`.
    pub fn free(&self, ptr: u64) -> Result<(), MemoryError> {
        let mut state = self.state_mut();
        match state.live.remove(&ptr) {
            Some(a) => {
                state.used -= a.size;
                state.freed.insert(ptr, a.size);
                Ok(())
            }
            None => Err(match state.find(ptr, 1) {
                Err(error) => error,
                Ok(_) => MemoryError::NotAllocated { address: ptr },
            }),
        }
    }

    /// Start and size of the allocation that holds `ptr`.
    pub fn range_of(&self, ptr: u64) -> Option<(u64, usize)> {
        self.state().find(ptr, 1).ok().map(|(a, _)| (a.base, a.size))
    }

    /// Copies device bytes to the host. Bytes that nobody wrote come back as [`POISON`], with one warning for each
    /// allocation on stderr.
    pub fn read(&self, ptr: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let state = self.state();
        let (a, offset) = state.find(ptr, out.len())?;
        a.read_bytes(offset, out);
        let mut next = a.unwritten(offset, out.len());
        if let Some(first) = next
            && !a.warned.swap(true, Relaxed)
        {
            eprintln!(
                "cuda-emulator: the host copies memory that nobody wrote: {:#x}, byte {first} of {} at {:#x}",
                a.base + first as u64,
                a.size,
                a.base
            );
        }
        while let Some(at) = next {
            out[at - offset] = POISON;
            next = a.unwritten(at + 1, offset + out.len() - at - 1);
        }
        Ok(())
    }

    /// Copies host bytes to the device.
    pub fn write(&self, ptr: u64, data: &[u8]) -> Result<(), MemoryError> {
        let state = self.state();
        let (a, offset) = state.find(ptr, data.len())?;
        a.write_bytes(offset, data);
        a.mark(offset, data.len(), true);
        Ok(())
    }

    /// Writes `pattern` `count` times in a row.
    pub fn fill(&self, ptr: u64, pattern: &[u8], count: usize) -> Result<(), MemoryError> {
        let state = self.state();
        let bytes = pattern.len() * count;
        let (a, offset) = state.find(ptr, bytes)?;
        let chunk = pattern.repeat(4096usize.min(count));
        let mut at = 0;
        while at < bytes {
            let n = chunk.len().min(bytes - at);
            a.write_bytes(offset + at, &chunk[..n]);
            at += n;
        }
        a.mark(offset, bytes, true);
        Ok(())
    }

    /// Copies within the device. A byte that nobody wrote stays one in the copy.
    pub fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<(), MemoryError> {
        let state = self.state();
        let (from, src_offset) = state.find(src, bytes)?;
        let (to, dst_offset) = state.find(dst, bytes)?;
        let mut data = vec![0; bytes];
        from.read_bytes(src_offset, &mut data);
        // Collected before anything is marked: the ranges may overlap.
        let mut holes = Vec::new();
        let mut next = from.unwritten(src_offset, bytes);
        while let Some(at) = next {
            holes.push(at - src_offset);
            next = from.unwritten(at + 1, src_offset + bytes - at - 1);
        }
        to.write_bytes(dst_offset, &data);
        to.mark(dst_offset, bytes, true);
        for hole in holes {
            to.mark(dst_offset + hole, 1, false);
        }
        Ok(())
    }

    /// The program's live allocations, oldest first (what modules own is not listed).
    pub fn live(&self) -> Vec<(u64, usize)> {
        self.state().live.values().filter(|a| !a.owned).map(|a| (a.base, a.size)).collect()
    }

    /// Size of the memory in bytes.
    pub fn total(&self) -> usize {
        self.state().total
    }

    /// Bytes allocated.
    pub fn used(&self) -> usize {
        self.state().used
    }

    /// The allocations as a launch sees them, ordered by address.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.state().live.values().cloned().collect()
    }

    /// Called when a launch has ended.
    pub(crate) fn settle(&self) {
        self.state().live.values().for_each(|a| a.settle());
    }

    /// Why an access of `bytes` bytes at `address` is wrong.
    pub(crate) fn explain(&self, address: u64, bytes: usize) -> Option<MemoryError> {
        self.state().find(address, bytes).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_errors() {
        let memory = Memory::new();
        let a = memory.alloc(100).unwrap();
        let b = memory.alloc(8).unwrap();
        assert_eq!(memory.range_of(a + 99), Some((a, 100)));
        assert_eq!(memory.range_of(a + 100), None);
        assert!(matches!(memory.write(a + 96, &[0; 5]), Err(MemoryError::OutOfBounds { .. })));
        assert!(matches!(memory.write(a + 100, &[0]), Err(MemoryError::OutOfBounds { .. })));
        memory.free(a).unwrap();
        assert!(matches!(memory.write(a + 4, &[0]), Err(MemoryError::Freed { .. })));
        assert!(matches!(memory.free(a), Err(MemoryError::Freed { .. })));
        assert!(matches!(memory.free(3), Err(MemoryError::NotAllocated { .. })));
        assert_eq!(memory.live(), vec![(b, 8)]);
        assert_eq!(memory.used(), 8);
    }

    #[test]
    fn poison_is_seen_and_travels() {
        let memory = Memory::new();
        let a = memory.alloc(200).unwrap();
        let b = memory.alloc(200).unwrap();
        memory.write(a + 3, &[1, 2, 3]).unwrap();
        let mut out = [0; 8];
        memory.read(a, &mut out).unwrap();
        assert_eq!(out, [255, 255, 255, 1, 2, 3, 255, 255]);
        memory.fill(b, &[7], 200).unwrap();
        memory.copy(b + 1, a, 8).unwrap();
        let mut out = [0; 10];
        memory.read(b, &mut out).unwrap();
        assert_eq!(out, [7, 255, 255, 255, 1, 2, 3, 255, 255, 7]);
        memory.fill(b, &[1, 2, 3, 4], 50).unwrap();
        let mut out = [0; 200];
        memory.read(b, &mut out).unwrap();
        assert!(out.chunks(4).all(|c| c == [1, 2, 3, 4]));
    }
}
