//! Memory: allocation on the device, plain, stream-ordered and from pools; page-locked memory of
//! the host; questions about pointers.

use std::alloc::Layout;
use std::ffi::c_void;

use crate::memory::MemoryError;

use super::device::check_device;
use super::error::{CUresult, Result};
use super::ffi::{In, Out, api, current_call, say};
use super::queue::{Action, Until};
use super::state::{Allocation, Driver, Handle, HostRange, Pool, State, driver, release_host};

impl Driver {
    /// Allocates device memory for a context.
    fn allocate(
        &self,
        state: &mut State,
        context: Handle,
        bytes: usize,
        pool: Option<Handle>,
    ) -> Result<u64> {
        let address = self.memory.alloc(bytes).map_err(|error| {
            say(&format!("{}: {error}", current_call()));
            match error {
                MemoryError::OutOfMemory { .. } => CUresult::OUT_OF_MEMORY,
                _ => CUresult::UNKNOWN,
            }
        })?;
        self.recorder.allocation(bytes);
        if let Some(pool) = pool.and_then(|p| state.pools.get_mut(&p)) {
            pool.used += bytes as u64;
            pool.high = pool.high.max(pool.used);
        }
        let call = current_call();
        state.allocations.insert(
            address,
            Allocation { context, bytes, call, pool, freeing: false, graph: None },
        );
        Ok(address)
    }
}

/// Allocates at once.
fn allocate(address: Out<u64>, bytes: usize) -> Result {
    let driver = driver()?;
    let (mut state, context) = driver.healthy()?;
    if address.is_null() || bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    state.unsafe_call()?;
    address.set(driver.allocate(&mut state, context, bytes, None)?)
}

/// Allocates in stream order. The address is valid at once, but only in that order.
fn allocate_async(address: Out<u64>, bytes: usize, pool: Option<Handle>, stream: Handle) -> Result {
    let driver = driver()?;
    let mut state = driver.lock();
    let stream = state.stream_for_work(stream)?;
    if address.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if bytes == 0 {
        return address.set(0);
    }
    let context = state.streams[&stream].context;
    let pool = match pool {
        Some(pool) if state.pools.contains_key(&pool) => pool,
        Some(_) => return Err(CUresult::INVALID_HANDLE),
        None => current_pool(&mut state),
    };
    let pointer = driver.allocate(&mut state, context, bytes, Some(pool))?;
    if let Some(part) = &state.streams[&stream].capture {
        let graph = state.captures.get(&part.id).map(|c| c.graph);
        if let Some(entry) = state.allocations.get_mut(&pointer) {
            entry.graph = graph;
        }
    }
    address.set(pointer)?;
    if let Err(code) = driver.submit(state, stream, Action::Allocate(pointer)) {
        driver.release(&mut driver.lock(), pointer);
        return Err(code);
    }
    Ok(())
}

/// Frees at once, after all work of the context, as the driver does.
fn free(address: u64) -> Result {
    let driver = driver()?;
    {
        let (mut state, context) = driver.healthy()?;
        if address == 0 {
            return Ok(());
        }
        known(&state, address)?;
        state.unsafe_call()?;
        state.no_capture_in(context)?;
        driver.recorder.host_sync();
    }
    let context = driver
        .lock()
        .allocations
        .get(&address)
        .map(|a| a.context)
        .ok_or(CUresult::INVALID_VALUE)?;
    driver.run_until(Until::Context(context))?;
    driver.release(&mut driver.lock(), address);
    Ok(())
}

/// Whether `address` is the start of an allocation that may be freed; says what is wrong if not.
fn known(state: &State, address: u64) -> Result {
    match state.allocations.get(&address) {
        Some(allocation) if !allocation.freeing => Ok(()),
        Some(_) => {
            say(&format!("{}: {address:#x} is freed twice", current_call()));
            Err(CUresult::INVALID_VALUE)
        }
        None => {
            say(&format!("{}: {address:#x} is not the start of an allocation", current_call()));
            Err(CUresult::INVALID_VALUE)
        }
    }
}

/// Frees in stream order.
fn free_async(address: u64, stream: Handle) -> Result {
    let driver = driver()?;
    let mut state = driver.lock();
    let stream = state.stream_for_work(stream)?;
    if address == 0 {
        return Ok(());
    }
    known(&state, address)?;
    let capturing = state.streams[&stream].capture.is_some();
    let graph = state.allocations[&address].graph;
    if capturing && graph.is_none() {
        // A graph can only free what it, or another graph, has allocated.
        say(&format!(
            "{}: a capture cannot free {address:#x}, which no graph allocated",
            current_call()
        ));
        return Err(CUresult::INVALID_VALUE);
    }
    if graph.is_some() {
        // The address belongs to the graph, which is launched again: it stays.
        return driver.submit(state, stream, Action::Nothing);
    }
    if let Some(entry) = state.allocations.get_mut(&address) {
        entry.freeing = true;
    }
    driver.submit(state, stream, Action::Free(address))
}

/// The device's default pool.
fn default_pool(state: &mut State) -> Handle {
    if let Some(pool) = state.default_pool {
        return pool;
    }
    let pool = state.new_handle();
    state.pools.insert(pool, Pool::default());
    state.default_pool = Some(pool);
    pool
}

/// The pool that stream-ordered allocation draws from.
fn current_pool(state: &mut State) -> Handle {
    match state.current_pool {
        Some(pool) => pool,
        None => default_pool(state),
    }
}

/// Page-locked host memory of the driver's own.
fn allocate_host(pointer: Out<*mut c_void>, bytes: usize, flags: u32) -> Result {
    let (mut state, context) = driver()?.healthy()?;
    if pointer.is_null() || bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    state.unsafe_call()?;
    let layout = Layout::from_size_align(bytes, 4096).map_err(|_| CUresult::INVALID_VALUE)?;
    // SAFETY: the size is not zero. The bytes are zeroed: a program may read them through a slice
    // before writing, and must not meet another allocation's remains.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    state.host.insert(memory as usize, HostRange { context, bytes, flags, owned: Some(layout) });
    pointer.set(memory.cast())
}

/// Frees page-locked host memory, after all work that may use it.
fn free_host(pointer: usize) -> Result {
    let driver = driver()?;
    let context = {
        let state = driver.lock();
        let range = state
            .host
            .get(&pointer)
            .filter(|h| h.owned.is_some())
            .ok_or(CUresult::INVALID_VALUE)?;
        range.context
    };
    let outcome = driver.run_until(Until::Context(context));
    release_host(&mut driver.lock(), pointer);
    outcome
}

/// `CUpointer_attribute`: what is asked for, written to `data`.
fn pointer_attribute(data: *mut c_void, attribute: u32, pointer: u64) -> Result {
    let driver = driver()?;
    let state = driver.lock();
    let device = driver.memory.range_of(pointer);
    let host = state
        .host
        .range(..=pointer as usize)
        .next_back()
        .filter(|(start, range)| (pointer as usize) < *start + range.bytes)
        .map(|(&start, range)| (start, range.bytes, range.context));
    let owner = device.and_then(|(base, _)| state.allocations.get(&base));
    let context = owner.map(|a| a.context).or(host.map(|h| h.2)).or_else(|| state.current().ok());
    if device.is_none() && host.is_none() {
        return Err(CUresult::INVALID_VALUE);
    }
    match attribute {
        1 => Out(data.cast::<Handle>()).set(context.ok_or(CUresult::INVALID_VALUE)?),
        2 => Out(data.cast::<u32>()).set(if device.is_some() { 2 } else { 1 }),
        3 if device.is_some() => Out(data.cast::<u64>()).set(pointer),
        4 if host.is_some() => Out(data.cast::<u64>()).set(pointer),
        6 => Out(data.cast::<u32>()).set(0),
        7 | 20 => Out(data.cast::<u64>()).set(device.map_or(0, |d| d.0)),
        8 | 10 | 15 | 21 => Out(data.cast::<u32>()).set(0),
        9 => Out(data.cast::<i32>()).set(0),
        11 | 19 => Out(data.cast::<u64>())
            .set(device.map(|d| d.0).or(host.map(|h| h.0 as u64)).unwrap_or(0)),
        12 | 18 => {
            Out(data.cast::<usize>()).set(device.map(|d| d.1).or(host.map(|h| h.1)).unwrap_or(0))
        }
        13 => Out(data.cast::<u32>()).set(1),
        16 => Out(data.cast::<u32>()).set(3),
        17 => Out(data.cast::<Handle>()).set(owner.and_then(|a| a.pool).unwrap_or(0)),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

api! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) { allocate(address, bytes) }

    /// Allocates rows of device memory, each starting at a multiple of 512 bytes.
    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, rows: usize, element: u32) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(CUresult::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(512).ok_or(CUresult::INVALID_VALUE)?;
        allocate(address, row.checked_mul(rows).ok_or(CUresult::INVALID_VALUE)?)?;
        pitch.set(row)
    }

    /// Frees device memory, once all work is done.
    fn cuMemFree_v2(address: u64) { free(address) }

    /// Allocates device memory in stream order. Zero bytes give a null pointer.
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) { allocate_async(address, bytes, None, stream) }

    /// Allocates device memory of a pool in stream order.
    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        allocate_async(address, bytes, Some(pool), stream)
    }

    /// Frees device memory in stream order.
    fn cuMemFreeAsync(address: u64, stream: Handle) { free_async(address, stream) }

    /// Free and total device memory.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let driver = driver()?;
        driver.healthy().map(drop)?;
        free.set(driver.memory.total() - driver.memory.used())?;
        total.set(driver.memory.total())
    }

    /// The allocation that a pointer lies in.
    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, pointer: u64) {
        let driver = driver()?;
        driver.healthy().map(drop)?;
        let (start, size) = driver.memory.range_of(pointer).ok_or(CUresult::NOT_FOUND)?;
        base.set_if(start);
        bytes.set_if(size);
        Ok(())
    }

    /// Something about a pointer.
    fn cuPointerGetAttribute(data: *mut c_void, attribute: u32, pointer: u64) {
        pointer_attribute(data, attribute, pointer)
    }

    /// Several things about a pointer; what does not apply becomes null.
    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, data: In<*mut c_void>, pointer: u64) {
        for i in 0..count as usize {
            let place = data.at(i)?;
            if pointer_attribute(place, attributes.at(i)?, pointer).is_err() {
                // Every attribute is at least 32 bits wide.
                Out(place.cast::<u32>()).set(0)?;
            }
        }
        Ok(())
    }

    /// Allocates page-locked host memory. The device cannot reach it: it is for copies.
    fn cuMemHostAlloc(pointer: Out<*mut c_void>, bytes: usize, flags: u32) { allocate_host(pointer, bytes, flags) }

    /// Allocates page-locked host memory.
    fn cuMemAllocHost_v2(pointer: Out<*mut c_void>, bytes: usize) { allocate_host(pointer, bytes, 0) }

    /// Frees page-locked host memory.
    fn cuMemFreeHost(pointer: *mut c_void) { free_host(pointer as usize) }

    /// The flags of page-locked host memory.
    fn cuMemHostGetFlags(flags: Out<u32>, pointer: *mut c_void) {
        let state = driver()?.lock();
        let range = state.host.range(..=pointer as usize).next_back().ok_or(CUresult::INVALID_VALUE)?;
        if pointer as usize >= range.0 + range.1.bytes {
            return Err(CUresult::INVALID_VALUE);
        }
        flags.set(range.1.flags)
    }

    /// Page-locks memory of the program's.
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: u32) {
        let (mut state, context) = driver()?.healthy()?;
        if pointer.is_null() || bytes == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let start = pointer as usize;
        let overlaps = state.host.range(..start.saturating_add(bytes)).next_back().is_some_and(|(&s, r)| s + r.bytes > start);
        if overlaps {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        state.host.insert(start, HostRange { context, bytes, flags, owned: None });
        Ok(())
    }

    /// Ends the page-locking of memory of the program's.
    fn cuMemHostUnregister(pointer: *mut c_void) {
        let driver = driver()?;
        let context = {
            let state = driver.lock();
            let range = state.host.get(&(pointer as usize)).filter(|h| h.owned.is_none());
            range.ok_or(CUresult::HOST_MEMORY_NOT_REGISTERED)?.context
        };
        driver.run_until(Until::Context(context))?;
        release_host(&mut driver.lock(), pointer as usize);
        Ok(())
    }

    /// The device's default pool.
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        check_device(device)?;
        pool.set(default_pool(&mut driver()?.lock()))
    }

    /// The pool that stream-ordered allocation draws from.
    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        check_device(device)?;
        pool.set(current_pool(&mut driver()?.lock()))
    }

    /// Sets the pool that stream-ordered allocation draws from.
    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        check_device(device)?;
        let mut state = driver()?.lock();
        if !state.pools.contains_key(&pool) {
            return Err(CUresult::INVALID_VALUE);
        }
        state.current_pool = Some(pool);
        Ok(())
    }

    /// Creates a pool. Its properties are not looked at: there is one device and one memory.
    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<u64>) {
        let mut state = driver()?.lock();
        if pool.is_null() || properties.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let handle = state.new_handle();
        state.pools.insert(handle, Pool::default());
        pool.set(handle)
    }

    /// Destroys a pool; its allocations stay.
    fn cuMemPoolDestroy(pool: Handle) {
        let mut state = driver()?.lock();
        if state.default_pool == Some(pool) {
            return Err(CUresult::INVALID_VALUE);
        }
        state.pools.remove(&pool).ok_or(CUresult::INVALID_VALUE)?;
        if state.current_pool == Some(pool) {
            state.current_pool = None;
        }
        Ok(())
    }

    /// Gives unused memory of a pool back: a pool keeps none.
    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        let state = driver()?.lock();
        if state.pools.contains_key(&pool) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
    }

    /// An attribute of a pool.
    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut c_void) {
        let state = driver()?.lock();
        let entry = state.pools.get(&pool).ok_or(CUresult::INVALID_VALUE)?;
        let kept = entry.attributes.get(&attribute).copied();
        match attribute {
            // The reuse switches are on until set otherwise, and 32 bits wide.
            1..=3 => Out(value.cast::<u32>()).set(kept.unwrap_or(1) as u32),
            4 => Out(value.cast::<u64>()).set(kept.unwrap_or(0)),
            5 | 7 => Out(value.cast::<u64>()).set(entry.used),
            6 | 8 => Out(value.cast::<u64>()).set(entry.high),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Sets an attribute of a pool. The reuse switches and the threshold are kept and change
    /// nothing; the high-water marks can be reset.
    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: *mut c_void) {
        let mut state = driver()?.lock();
        let entry = state.pools.get_mut(&pool).ok_or(CUresult::INVALID_VALUE)?;
        let wanted = match attribute {
            1..=3 => u64::from(In(value.cast::<u32>()).get()?),
            4 | 6 | 8 => In(value.cast::<u64>()).get()?,
            _ => return Err(CUresult::INVALID_VALUE),
        };
        if matches!(attribute, 6 | 8) {
            if wanted != 0 {
                return Err(CUresult::INVALID_VALUE);
            }
            entry.high = entry.used;
        } else {
            entry.attributes.insert(attribute, wanted);
        }
        Ok(())
    }
}
