//! Functions: their attributes, and how many blocks of them an SM holds.

use std::ffi::c_char;

use crate::exec::Launch;
use crate::ptx::Kernel;

use super::device::{Limits, check_device, limits};
use super::error::{CUresult, Result};
use super::ffi::{In, Out, api};
use super::launch::{LaunchConfiguration, shape_of};
use super::state::{Driver, Function, Handle, State, driver};

/// Shared memory that a block may have without asking for more.
const SHARED_BY_DEFAULT: usize = 48 << 10;

impl Function {
    /// Most dynamic shared memory that a launch may ask for.
    pub fn dynamic_shared_limit(&self) -> usize {
        self.max_dynamic_shared
            .unwrap_or_else(|| SHARED_BY_DEFAULT.saturating_sub(self.kernel.static_shared()))
    }
}

/// An attribute of a function.
fn attribute(driver: &Driver, state: &State, function: Handle, number: u32) -> Result<i32> {
    let entry = driver.function(state, function)?;
    let kernel = &entry.kernel;
    let (major, minor) = driver.config.compute_capability;
    let cluster = kernel.required_cluster();
    Ok(match number {
        0 => kernel.max_threads_per_block() as i32,
        1 => kernel.static_shared() as i32,
        2 => kernel.const_size() as i32,
        3 => kernel.local_size() as i32,
        4 => kernel.registers() as i32,
        5 => state.modules.get(&entry.module).map_or(0, |m| m.architecture),
        6 => (major * 10 + minor) as i32,
        7 => 0,
        8 => entry.dynamic_shared_limit() as i32,
        9 => entry.attributes.get(&9).copied().unwrap_or(-1),
        10 => i32::from(cluster.is_some()),
        11..=13 => cluster.map_or(0, |c| c[number as usize - 11] as i32),
        14..=17 => entry.attributes.get(&number).copied().unwrap_or(0),
        _ => return Err(CUresult::INVALID_VALUE),
    })
}

/// Sets an attribute of a function.
fn set_attribute(function: Handle, number: u32, value: i32) -> Result {
    let driver = driver()?;
    let mut state = driver.lock();
    driver.function(&state, function)?;
    let entry = state.functions.get_mut(&function).ok_or(CUresult::INVALID_HANDLE)?;
    match number {
        8 => {
            let wanted = usize::try_from(value).map_err(|_| CUresult::INVALID_VALUE)?;
            if wanted + entry.kernel.static_shared() > driver.config.shared_per_block_optin {
                return Err(CUresult::INVALID_VALUE);
            }
            entry.max_dynamic_shared = Some(wanted);
        }
        9 if (-1..=100).contains(&value) => {
            entry.attributes.insert(number, value);
        }
        14 | 15 => {
            entry.attributes.insert(number, value);
        }
        _ => return Err(CUresult::INVALID_VALUE),
    }
    Ok(())
}

/// How many blocks of a kernel an SM holds, by the rules of the occupancy calculator: registers
/// are given to warps in units of 256 and warps are spread over four schedulers, shared memory is
/// given in units of 128 bytes.
pub fn blocks_per_sm(
    limits: &Limits,
    optin: usize,
    kernel: &Kernel,
    threads: u32,
    dynamic_shared: usize,
) -> u32 {
    if threads == 0 || threads > kernel.max_threads_per_block() {
        return 0;
    }
    let shared = kernel.static_shared() + dynamic_shared;
    if shared > optin {
        return 0;
    }
    blocks_for(limits, kernel.registers(), threads, shared)
}

fn blocks_for(limits: &Limits, registers: u32, threads: u32, shared: usize) -> u32 {
    let warps = threads.div_ceil(32);
    let by_threads = limits.threads / 32 / warps;
    let of_warp = (registers.clamp(1, 255) * 32).next_multiple_of(256);
    let by_registers = limits.registers / 4 / of_warp * 4 / warps;
    let of_block = (shared + limits.reserved_shared).next_multiple_of(128);
    let by_shared = limits.shared.checked_div(of_block).map_or(u32::MAX, |n| n as u32);
    by_threads.min(by_registers).min(by_shared).min(limits.blocks)
}

/// Blocks per SM, for a handle.
fn occupancy(function: Handle, threads: i32, dynamic_shared: usize) -> Result<u32> {
    let driver = driver()?;
    let state = driver.lock();
    let entry = driver.function(&state, function)?;
    let threads = u32::try_from(threads).ok().filter(|&t| t > 0).ok_or(CUresult::INVALID_VALUE)?;
    let limits = limits(driver.config.compute_capability);
    Ok(blocks_per_sm(
        &limits,
        driver.config.shared_per_block_optin,
        &entry.kernel,
        threads,
        dynamic_shared,
    ))
}

/// The block size that keeps most threads resident, largest first, and the blocks that fill the device.
fn best_block(
    least_grid: Out<i32>,
    block: Out<i32>,
    function: Handle,
    shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
    dynamic_shared: usize,
    limit: i32,
) -> Result {
    let driver = driver()?;
    let most = {
        let state = driver.lock();
        driver.function(&state, function)?.kernel.max_threads_per_block()
    };
    let most = if limit > 0 { most.min(limit as u32) } else { most };
    let mut best = (0, 0, 0);
    for threads in (1..=most.div_ceil(32)).rev().map(|w| (w * 32).min(most)) {
        let shared = match shared_of {
            // SAFETY: the program's function from block size to shared memory, called with one.
            Some(f) => unsafe { f(threads as i32) },
            None => dynamic_shared,
        };
        let blocks = occupancy(function, threads as i32, shared)?;
        if blocks * threads > best.0 {
            best = (blocks * threads, threads, blocks);
        }
    }
    if best.0 == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    block.set(best.1 as i32)?;
    least_grid.set((best.2 * driver.config.sm_count) as i32)
}

/// How many clusters of a launch the device holds at once.
fn clusters(function: Handle, configuration: In<LaunchConfiguration>) -> Result<u32> {
    let driver = driver()?;
    if driver.config.compute_capability.0 < 9 {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let launch: Launch = shape_of(configuration)?.0;
    let threads = launch.block.iter().product::<u32>();
    let blocks = occupancy(function, threads as i32, launch.dynamic_shared as usize)?;
    let cluster = launch.cluster.unwrap_or([1; 3]).iter().product::<u32>().max(1);
    Ok(blocks * driver.config.sm_count / cluster)
}

api! {
    /// An attribute of a function.
    fn cuFuncGetAttribute(value: Out<i32>, number: u32, function: Handle) {
        let driver = driver()?;
        let state = driver.lock();
        value.set(attribute(driver, &state, function, number)?)
    }

    /// Sets an attribute of a function.
    fn cuFuncSetAttribute(function: Handle, number: u32, value: i32) { set_attribute(function, number, value) }

    /// An attribute of a kernel.
    fn cuKernelGetAttribute(value: Out<i32>, number: u32, kernel: Handle, device: i32) {
        check_device(device)?;
        let driver = driver()?;
        let state = driver.lock();
        value.set(attribute(driver, &state, kernel, number)?)
    }

    /// Sets an attribute of a kernel.
    fn cuKernelSetAttribute(number: u32, value: i32, kernel: Handle, device: i32) {
        check_device(device)?;
        set_attribute(kernel, number, value)
    }

    /// Sets the cache preference of a function, which changes nothing.
    fn cuFuncSetCacheConfig(function: Handle, _config: u32) {
        let driver = driver()?;
        driver.function(&driver.lock(), function).map(drop)
    }

    /// Sets the bank size preference of a function, which changes nothing.
    fn cuFuncSetSharedMemConfig(function: Handle, _config: u32) {
        let driver = driver()?;
        driver.function(&driver.lock(), function).map(drop)
    }

    /// The module of a function.
    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        let driver = driver()?;
        let state = driver.lock();
        module.set(driver.function(&state, function)?.module)
    }

    /// The name of a function. The text lives as long as the process.
    fn cuFuncGetName(name: Out<*const c_char>, function: Handle) {
        use std::collections::HashMap;
        use std::ffi::CString;
        use std::sync::{LazyLock, Mutex, PoisonError};
        static NAMES: LazyLock<Mutex<HashMap<String, CString>>> = LazyLock::new(Default::default);
        let driver = driver()?;
        let text = driver.function(&driver.lock(), function)?.kernel.name().to_owned();
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let c_text = CString::new(text.clone()).map_err(|_| CUresult::UNKNOWN)?;
        // Entries are never removed, and a CString's bytes do not move with it.
        name.set(names.entry(text).or_insert(c_text).as_ptr())
    }

    /// Offset and size of a parameter of a function.
    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) {
        let driver = driver()?;
        let state = driver.lock();
        let parameter = *driver.function(&state, function)?.kernel.params().get(index).ok_or(CUresult::INVALID_VALUE)?;
        offset.set(parameter.offset)?;
        size.set_if(parameter.size);
        Ok(())
    }

    /// Whether a function is loaded: all are.
    fn cuFuncIsLoaded(loaded: Out<u32>, function: Handle) {
        let driver = driver()?;
        driver.function(&driver.lock(), function)?;
        loaded.set(1)
    }

    /// Loads a function: it is.
    fn cuFuncLoad(function: Handle) {
        let driver = driver()?;
        driver.function(&driver.lock(), function).map(drop)
    }

    /// Blocks of a function that an SM holds.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, function: Handle, threads: i32, shared: usize) {
        blocks.set(occupancy(function, threads, shared)? as i32)
    }

    /// Blocks of a function that an SM holds.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        function: Handle,
        threads: i32,
        shared: usize,
        _flags: u32,
    ) {
        blocks.set(occupancy(function, threads, shared)? as i32)
    }

    /// The block size with the highest occupancy.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
        shared: usize,
        limit: i32,
    ) {
        best_block(grid, block, function, shared_of, shared, limit)
    }

    /// The block size with the highest occupancy.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
        shared: usize,
        limit: i32,
        _flags: u32,
    ) {
        best_block(grid, block, function, shared_of, shared, limit)
    }

    /// Dynamic shared memory that a block can have when an SM is to hold so many.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, blocks: i32, threads: i32) {
        let driver = driver()?;
        let state = driver.lock();
        let entry = driver.function(&state, function)?;
        if blocks <= 0 || threads <= 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let limits = limits(driver.config.compute_capability);
        let fixed = entry.kernel.static_shared();
        let share = (limits.shared / blocks as usize / 128 * 128).saturating_sub(limits.reserved_shared);
        bytes.set(share.min(driver.config.shared_per_block_optin).saturating_sub(fixed))
    }

    /// Clusters of a launch that the device holds.
    fn cuOccupancyMaxActiveClusters(count: Out<i32>, function: Handle, configuration: In<LaunchConfiguration>) {
        count.set(clusters(function, configuration)? as i32)
    }

    /// The largest cluster of a function: 8 everywhere, 16 where it allows that.
    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, function: Handle, _configuration: In<LaunchConfiguration>) {
        let driver = driver()?;
        let state = driver.lock();
        let entry = driver.function(&state, function)?;
        if driver.config.compute_capability.0 < 9 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        size.set(if entry.attributes.get(&14).is_some_and(|&v| v != 0) { 16 } else { 8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_follows_each_limit() {
        let a100 = limits((8, 0));
        // 2048 threads: eight blocks of 256, if nothing else binds.
        assert_eq!(blocks_for(&a100, 32, 256, 0), 8);
        // Never more than 32 blocks.
        assert_eq!(blocks_for(&a100, 16, 32, 0), 32);
        // 64 registers × 32 = 2048 a warp, 32 warps an SM, 8 a block: four blocks.
        assert_eq!(blocks_for(&a100, 64, 256, 0), 4);
        // 100 registers × 32 = 3200 → 3328 a warp; 16384 / 3328 = 4 a scheduler, 16 warps: two blocks.
        assert_eq!(blocks_for(&a100, 100, 256, 0), 2);
        // 48 KiB and the system's 1 KiB: three in 164 KiB.
        assert_eq!(blocks_for(&a100, 32, 128, 48 << 10), 3);
        assert_eq!(blocks_for(&limits((9, 0)), 32, 128, 227 << 10), 1);
        // A part of a warp takes a whole one.
        assert_eq!(blocks_for(&a100, 32, 33, 0), 32);
    }
}
