//! Events: points in streams that others can wait for, with the time they were reached.

use super::error::{CUresult, Result};
use super::ffi::{Out, api};
use super::queue::{Action, Until};
use super::state::{Event, Handle, Point, State, driver};
use super::stream::POLLS;

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// Records an event in a stream.
fn record(event: Handle, stream: Handle) -> Result {
    let driver = driver()?;
    let mut state = driver.lock();
    let stream = state.stream_for_work(stream)?;
    let part = state.streams[&stream].capture.clone();
    let context = state.streams[&stream].context;
    let point = state.end_of(stream);
    let entry = state.events.get_mut(&event).ok_or(CUresult::INVALID_HANDLE)?;
    if entry.context != context {
        return Err(CUresult::INVALID_HANDLE);
    }
    entry.polls = 0;
    if let Some(part) = part {
        // In a capture an event is only a mark between nodes.
        entry.captured = Some(part);
        return Ok(());
    }
    entry.captured = None;
    entry.generation += 1;
    entry.time = None;
    entry.point = Some(Point { stream, number: point.number + 1 });
    let generation = entry.generation;
    driver.submit(state, stream, Action::Record(event, generation))
}

/// Makes a stream wait for an event.
pub fn wait(raw: Handle, event: Handle) -> Result {
    let driver = driver()?;
    let mut state = driver.lock();
    let stream = state.stream_for_work(raw)?;
    let entry = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?;
    let (point, captured) = (entry.point, entry.captured.clone());
    let own = state.streams[&stream].capture.clone();
    match (own, captured) {
        (Some(own), Some(other)) => {
            if own.id != other.id {
                state.invalidate(own.id);
                state.invalidate(other.id);
                return Err(CUresult::STREAM_CAPTURE_MERGE);
            }
            if let Some(part) = state.streams.get_mut(&stream).and_then(|s| s.capture.as_mut()) {
                part.frontier.extend(other.frontier);
            }
            Ok(())
        }
        (None, Some(other)) => {
            let context = state.streams[&stream].context;
            if state.contexts.get(&context).is_some_and(|c| c.legacy == stream) {
                state.invalidate(other.id);
                return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
            }
            let Some(capture) = state.captures.get_mut(&other.id) else {
                return Err(CUresult::CAPTURED_EVENT);
            };
            if capture.invalidated {
                return Err(CUresult::STREAM_CAPTURE_INVALIDATED);
            }
            capture.streams.insert(stream);
            if let Some(entry) = state.streams.get_mut(&stream) {
                entry.capture = Some(other);
            }
            Ok(())
        }
        // An event that was never recorded is no dependency.
        (_, None) if point.is_none() => Ok(()),
        (Some(own), None) => {
            state.invalidate(own.id);
            Err(CUresult::STREAM_CAPTURE_ISOLATION)
        }
        (None, None) => match point {
            Some(point) if point.stream != stream && !state.passed(point) => {
                driver.submit_wait(state, stream, point)
            }
            _ => Ok(()),
        },
    }
}

/// The point that an event stands for, if it was recorded and has not been reached.
fn pending(state: &mut State, event: Handle) -> Result<Option<Point>> {
    let entry = state.events.get(&event).ok_or(CUresult::INVALID_HANDLE)?;
    let (context, point, captured) = (entry.context, entry.point, entry.captured.clone());
    state.error_of(context)?;
    if let Some(captured) = captured {
        state.invalidate(captured.id);
        return Err(CUresult::CAPTURED_EVENT);
    }
    state.unsafe_call()?;
    Ok(point.filter(|&p| !state.passed(p)))
}

/// Milliseconds between two events.
fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result {
    let state = driver()?.lock();
    let mut times = [None; 2];
    for (slot, handle) in times.iter_mut().zip([start, end]) {
        let event = state.events.get(&handle).ok_or(CUresult::INVALID_HANDLE)?;
        state.error_of(event.context)?;
        if !event.timing || event.point.is_none() {
            return Err(CUresult::INVALID_HANDLE);
        }
        *slot = event.time;
    }
    let [Some(start), Some(end)] = times else { return Err(CUresult::NOT_READY) };
    let forwards = end.saturating_duration_since(start).as_secs_f64();
    let backwards = start.saturating_duration_since(end).as_secs_f64();
    milliseconds.set(((forwards - backwards) * 1e3) as f32)
}

api! {
    /// Creates an event.
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let (mut state, context) = driver()?.healthy()?;
        if event.is_null() || flags > 7 {
            return Err(CUresult::INVALID_VALUE);
        }
        let handle = state.new_handle();
        let timing = flags & DISABLE_TIMING == 0;
        state.events.insert(
            handle,
            Event { context, timing, generation: 0, point: None, time: None, captured: None, polls: 0 },
        );
        event.set(handle)
    }

    /// Destroys an event; what waits for it still does.
    fn cuEventDestroy_v2(event: Handle) {
        let mut state = driver()?.lock();
        let gone = state.events.remove(&event).ok_or(CUresult::INVALID_HANDLE)?;
        state.error_of(gone.context)
    }

    /// Records an event in a stream.
    fn cuEventRecord(event: Handle, stream: Handle) { record(event, stream) }

    /// Records an event in a stream; flags are for graphs and not supported.
    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        if flags != 0 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        record(event, stream)
    }

    /// Waits for an event.
    fn cuEventSynchronize(event: Handle) {
        let driver = driver()?;
        let point = pending(&mut driver.lock(), event)?;
        driver.recorder.host_sync();
        match point {
            Some(point) => driver.run_until(Until::Point(point)),
            None => Ok(()),
        }
    }

    /// Whether an event has been reached.
    fn cuEventQuery(event: Handle) {
        let driver = driver()?;
        let point = {
            let mut state = driver.lock();
            let Some(point) = pending(&mut state, event)? else { return Ok(()) };
            let entry = state.events.get_mut(&event).ok_or(CUresult::INVALID_HANDLE)?;
            entry.polls += 1;
            if entry.polls < POLLS {
                return Err(CUresult::NOT_READY);
            }
            entry.polls = 0;
            point
        };
        driver.run_until(Until::Point(point))
    }

    /// Milliseconds from one event to another.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) { elapsed(milliseconds, start, end) }

    /// Milliseconds from one event to another.
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) { elapsed(milliseconds, start, end) }
}
