//! Contexts: the primary one and others, what is current on a thread, limits.

use super::device::check_device;
use super::error::{CUresult, Result};
use super::ffi::{Out, api};
use super::leaks::flush;
use super::queue::Until;
use super::state::{CURRENT, Handle, driver};

/// The limits that can be asked for, with their first values, by `CUlimit`.
const LIMITS: [(u32, usize); 7] = [
    (0, 1024),    // STACK_SIZE
    (1, 1 << 20), // PRINTF_FIFO_SIZE
    (2, 8 << 20), // MALLOC_HEAP_SIZE
    (3, 2),       // DEV_RUNTIME_SYNC_DEPTH
    (4, 2048),    // DEV_RUNTIME_PENDING_LAUNCH_COUNT
    (5, 64),      // MAX_L2_FETCH_GRANULARITY
    (6, 0),       // PERSISTING_L2_CACHE_SIZE
];

/// Releases the primary context once; the last release destroys it.
fn release_primary(device: i32) -> Result {
    check_device(device)?;
    let driver = driver()?;
    let mut state = driver.lock();
    if state.primary.references == 0 {
        return Err(CUresult::INVALID_CONTEXT);
    }
    state.primary.references -= 1;
    if state.primary.references > 0 {
        return Ok(());
    }
    let context = state.primary.context.take();
    drop(state);
    if let Some(context) = context {
        driver.destroy_context(context)?;
    }
    flush(driver);
    Ok(())
}

/// Creates a context and makes it current.
fn create(context: Out<Handle>, flags: u32, device: i32) -> Result {
    check_device(device)?;
    if context.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut state = driver()?.lock();
    let handle = state.create_context(flags);
    CURRENT.with_borrow_mut(|stack| stack.push(handle));
    context.set(handle)
}

/// Waits for all work of a context.
fn synchronise(context: Handle) -> Result {
    let driver = driver()?;
    {
        let mut state = driver.lock();
        state.living(context)?;
        state.error_of(context)?;
        state.no_capture_in(context)?;
    }
    driver.recorder.host_sync();
    driver.run_until(Until::Context(context))
}

/// The context that a handle argument means: null is the current one.
fn named(context: Handle) -> Result<Handle> {
    let state = driver()?.lock();
    if context == 0 { state.current() } else { state.living(context) }
}

api! {
    /// Takes a share in the primary context, creating it if need be.
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        check_device(device)?;
        if context.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut state = driver()?.lock();
        let handle = match state.primary.context {
            Some(handle) => handle,
            None => {
                let flags = state.primary.flags;
                let handle = state.create_context(flags);
                state.primary.context = Some(handle);
                handle
            }
        };
        state.primary.references += 1;
        context.set(handle)
    }

    /// Gives a share in the primary context back.
    fn cuDevicePrimaryCtxRelease_v2(device: i32) { release_primary(device) }

    /// Destroys the primary context whoever still holds it; its shares remain theirs to release.
    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        check_device(device)?;
        let driver = driver()?;
        let context = {
            let mut state = driver.lock();
            let Some(context) = state.primary.context.take() else { return Ok(()) };
            // The holders keep their shares of a new, empty context.
            if state.primary.references > 0 {
                let flags = state.primary.flags;
                let fresh = state.create_context(flags);
                state.primary.context = Some(fresh);
            }
            context
        };
        driver.destroy_context(context)?;
        flush(driver);
        Ok(())
    }

    /// Flags of the primary context, and whether it exists.
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        check_device(device)?;
        let state = driver()?.lock();
        flags.set(state.primary.flags)?;
        active.set(i32::from(state.primary.context.is_some()))
    }

    /// Sets the flags of the primary context.
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        check_device(device)?;
        let mut state = driver()?.lock();
        state.primary.flags = flags;
        if let Some(context) = state.primary.context {
            state.context_mut(context)?.flags = flags;
        }
        Ok(())
    }

    /// Creates a context.
    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) { create(context, flags, device) }

    /// Creates a context; execution affinity is not supported.
    fn cuCtxCreate_v3(context: Out<Handle>, affinities: usize, count: i32, flags: u32, device: i32) {
        if count != 0 && affinities != 0 {
            return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device)
    }

    /// Creates a context; its parameters (affinity, graphics) must be null.
    fn cuCtxCreate_v4(context: Out<Handle>, parameters: usize, flags: u32, device: i32) {
        if parameters != 0 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    /// Destroys a context that `cuCtxCreate` made.
    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        if driver.lock().primary.context == Some(context) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        driver.lock().living(context)?;
        driver.destroy_context(context)?;
        CURRENT.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        flush(driver);
        Ok(())
    }

    /// Makes a context current on this thread, in place of the one that was.
    fn cuCtxSetCurrent(context: Handle) {
        if context != 0 {
            driver()?.lock().living(context)?;
        } else {
            driver()?;
        }
        CURRENT.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    /// The context that is current on this thread, or null.
    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(CURRENT.with_borrow(|stack| stack.last().copied()).unwrap_or(0))
    }

    /// Makes a context current on this thread, above the one that was.
    fn cuCtxPushCurrent_v2(context: Handle) {
        driver()?.lock().living(context)?;
        CURRENT.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    /// Takes the current context off this thread.
    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = CURRENT.with_borrow_mut(Vec::pop).ok_or(CUresult::INVALID_CONTEXT)?;
        context.set_if(popped);
        Ok(())
    }

    /// The device of the current context.
    fn cuCtxGetDevice(device: Out<i32>) {
        driver()?.lock().current()?;
        device.set(0)
    }

    /// The device of a context.
    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        named(context)?;
        device.set(0)
    }

    /// Waits for all work of the current context.
    fn cuCtxSynchronize() {
        let context = driver()?.lock().current()?;
        synchronise(context)
    }

    /// Waits for all work of a context.
    fn cuCtxSynchronize_v2(context: Handle) { synchronise(named(context)?) }

    /// Flags of the current context.
    fn cuCtxGetFlags(flags: Out<u32>) {
        let state = driver()?.lock();
        let context = state.current()?;
        flags.set(state.contexts[&context].flags)
    }

    /// Sets flags of the current context.
    fn cuCtxSetFlags(flags: u32) {
        let mut state = driver()?.lock();
        let context = state.current()?;
        state.context_mut(context)?.flags = flags;
        Ok(())
    }

    /// A number that no other context has.
    fn cuCtxGetId(context: Handle, id: Out<u64>) { id.set(named(context)? as u64) }

    /// The API version of a context.
    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        named(context)?;
        version.set(3020)
    }

    /// A limit of the current context.
    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let state = driver()?.lock();
        let context = state.current()?;
        let first = LIMITS.iter().find(|l| l.0 == limit).ok_or(CUresult::UNSUPPORTED_LIMIT)?.1;
        value.set(state.contexts[&context].limits.get(&limit).copied().unwrap_or(first))
    }

    /// Sets a limit of the current context. It is kept, and changes nothing else.
    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (mut state, context) = driver()?.healthy()?;
        if !LIMITS.iter().any(|l| l.0 == limit) {
            return Err(CUresult::UNSUPPORTED_LIMIT);
        }
        state.context_mut(context)?.limits.insert(limit, value);
        Ok(())
    }

    /// The cache preference of the current context.
    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let (state, context) = driver()?.healthy()?;
        config.set(state.contexts[&context].cache_config)
    }

    /// Sets the cache preference.
    fn cuCtxSetCacheConfig(config: u32) {
        let (mut state, context) = driver()?.healthy()?;
        state.context_mut(context)?.cache_config = config;
        Ok(())
    }

    /// The bank size preference of the current context.
    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        let (state, context) = driver()?.healthy()?;
        config.set(state.contexts[&context].shared_config)
    }

    /// Sets the bank size preference.
    fn cuCtxSetSharedMemConfig(config: u32) {
        let (mut state, context) = driver()?.healthy()?;
        state.context_mut(context)?.shared_config = config;
        Ok(())
    }

    /// The range of stream priorities, least first.
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        driver()?.healthy().map(drop)?;
        least.set_if(super::stream::PRIORITIES.0);
        greatest.set_if(super::stream::PRIORITIES.1);
        Ok(())
    }

    /// Resets persisting lines of the L2 cache: there is none.
    fn cuCtxResetPersistingL2Cache() { driver()?.healthy().map(drop) }
}
