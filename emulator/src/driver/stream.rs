//! Streams: creation, waiting, asking, host functions.

use std::ffi::c_void;

use super::error::{CUresult, Result};
use super::ffi::{Out, api};
use super::queue::{Action, HostFunction, Until};
use super::state::{Handle, driver};

/// Stream priorities, least and greatest: smaller is more urgent.
pub const PRIORITIES: (i32, i32) = (0, -5);

/// A question about unfinished work is answered "not ready" this many times before the work runs:
/// a program that polls must make progress, one that asks only once learns nothing from it.
pub const POLLS: u32 = 4;

/// Creates a stream in the current context.
fn create(stream: Out<Handle>, flags: u32, priority: i32) -> Result {
    let (mut state, context) = driver()?.healthy()?;
    if stream.is_null() || flags > 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    let handle = state.create_stream(context, flags, priority.clamp(PRIORITIES.1, PRIORITIES.0));
    stream.set(handle)
}

/// Waits until all that is in `stream` now has run. Every path by which the host waits for a
/// stream comes here.
pub fn synchronise(raw: Handle) -> Result {
    let driver = driver()?;
    let point = {
        let mut state = driver.lock();
        let stream = state.stream_for_work(raw)?;
        state.no_capture_on(stream)?;
        let context = state.streams[&stream].context;
        if state.contexts.get(&context).is_some_and(|c| c.legacy == stream)
            && let Some(id) = state.blocking_capture(context)
        {
            state.invalidate(id);
            return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        state.unsafe_call()?;
        state.end_of(stream)
    };
    driver.recorder.host_sync();
    driver.run_until(Until::Point(point))
}

/// Puts a host function into a stream.
fn call_host(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> Result {
    let driver = driver()?;
    let function = function.ok_or(CUresult::INVALID_VALUE)?;
    let mut state = driver.lock();
    let stream = state.stream_for_work(stream)?;
    driver.submit(
        state,
        stream,
        Action::Host(HostFunction { function, argument: argument as usize }),
    )
}

api! {
    /// Creates a stream.
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) { create(stream, flags, 0) }

    /// Creates a stream with a priority, which is kept and changes nothing.
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) { create(stream, flags, priority) }

    /// Destroys a stream; its work still runs.
    fn cuStreamDestroy_v2(stream: Handle) {
        let mut state = driver()?.lock();
        if stream <= 2 {
            return Err(CUresult::INVALID_HANDLE);
        }
        let stream = state.stream(stream)?;
        let context = state.streams[&stream].context;
        if state.contexts.get(&context).is_some_and(|c| c.legacy == stream || c.per_thread.values().any(|&s| s == stream)) {
            return Err(CUresult::INVALID_HANDLE);
        }
        if let Some(id) = state.streams[&stream].capture.as_ref().map(|c| c.id) {
            state.invalidate(id);
        }
        let error = state.error_of(context);
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.destroyed = true;
            entry.capture = None;
            if entry.queue.is_empty() && !entry.busy {
                state.streams.remove(&stream);
            }
        }
        error
    }

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: Handle) { synchronise(stream) }

    /// Whether a stream has finished.
    fn cuStreamQuery(stream: Handle) {
        let driver = driver()?;
        let point = {
            let mut state = driver.lock();
            let stream = state.stream_for_work(stream)?;
            state.no_capture_on(stream)?;
            let point = state.end_of(stream);
            if state.passed(point) {
                return Ok(());
            }
            let entry = state.streams.get_mut(&stream).ok_or(CUresult::INVALID_HANDLE)?;
            entry.polls += 1;
            if entry.polls < POLLS {
                return Err(CUresult::NOT_READY);
            }
            entry.polls = 0;
            point
        };
        driver.run_until(Until::Point(point))
    }

    /// Makes a stream wait for what an event was last recorded after.
    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: u32) { super::event::wait(stream, event) }

    /// Calls a function of the host when the stream gets there.
    fn cuLaunchHostFunc(stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, argument: *mut c_void) {
        call_host(stream, function, argument)
    }

    /// As the version before, with a synchronisation mode, which changes nothing here.
    fn cuLaunchHostFunc_v2(
        stream: Handle,
        function: Option<unsafe extern "C" fn(*mut c_void)>,
        argument: *mut c_void,
        _mode: u32,
    ) {
        call_host(stream, function, argument)
    }

    /// A stream's flags.
    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let mut state = driver()?.lock();
        let stream = state.stream(stream)?;
        flags.set(state.streams[&stream].flags)
    }

    /// A stream's priority.
    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let mut state = driver()?.lock();
        let stream = state.stream(stream)?;
        priority.set(state.streams[&stream].priority)
    }

    /// A stream's context.
    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let mut state = driver()?.lock();
        let stream = state.stream(stream)?;
        context.set(state.streams[&stream].context)
    }

    /// A number that no other stream has.
    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        let mut state = driver()?.lock();
        id.set(state.stream(stream)? as u64)
    }

    /// A stream's device.
    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        driver()?.lock().stream(stream)?;
        device.set(0)
    }
}
