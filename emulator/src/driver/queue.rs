//! Streams as queues: what they hold, how it is ordered, and when it runs.
//!
//! Under `Config::late_copies` an operation runs only when the program waits for it, or for
//! something that depends on it, and independent streams interleave in an order drawn from the
//! seed. Otherwise everything runs as soon as it is enqueued. Host functions are the exception:
//! they may block on the thread that enqueued them, so they always wait for a synchronisation.

use std::ffi::c_void;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use crate::exec::{self, Launch};
use crate::ptx::Kernel;

use super::error::{CUresult, Result};
use super::faults;
use super::ffi::{current_call, say};
use super::state::{Driver, Handle, Node, Point, State};

/// One operation in a stream.
pub struct QueuedOperation {
    /// Its number in the stream, from 1.
    pub number: u64,
    /// Points in other streams that must have been reached.
    pub after: Vec<Point>,
    /// What it does.
    pub action: Action,
    /// Synchronisations and allocations of the host before it, for the record of launches.
    pub between: (u64, u64),
    /// The driver call that enqueued it.
    pub call: &'static str,
}

/// What an operation or a graph node does.
#[derive(Clone)]
pub enum Action {
    /// Nothing: a place for dependencies.
    Nothing,
    /// Runs a kernel.
    Kernel(Arc<KernelCall>),
    /// Copies a rectangle of bytes.
    Copy(Arc<Copy2D>),
    /// Writes a pattern.
    Fill(Fill),
    /// A stream-ordered allocation: its address is valid from the call on, so nothing to do.
    Allocate(u64),
    /// Frees an allocation.
    Free(u64),
    /// Calls a function of the host.
    Host(HostFunction),
    /// Completes the record number `.1` of an event.
    Record(Handle, u64),
    /// Runs a graph.
    Graph(Arc<Vec<Node>>),
}

/// A kernel with its arguments.
pub struct KernelCall {
    /// The code.
    pub kernel: Arc<Kernel>,
    /// Grid, block, shared memory, cluster.
    pub launch: Launch,
    /// The bytes of the parameters.
    pub parameters: Vec<u8>,
}

/// One end of a copy.
#[derive(Clone)]
pub enum Place {
    /// Device memory.
    Device(u64),
    /// Host memory, accessed when the copy runs.
    Host(usize),
    /// Host memory as it was when the copy was enqueued.
    Staged(Arc<[u8]>),
}

/// A copy of `rows` rows of `width` bytes.
pub struct Copy2D {
    /// Where from.
    pub source: Place,
    /// Bytes from one row to the next in the source.
    pub source_pitch: usize,
    /// Where to.
    pub destination: Place,
    /// Bytes from one row to the next in the destination.
    pub destination_pitch: usize,
    /// Bytes in a row.
    pub width: usize,
    /// Rows.
    pub rows: usize,
}

/// A pattern written to `rows` rows of `count` elements.
#[derive(Clone)]
pub struct Fill {
    /// Where.
    pub address: u64,
    /// Bytes from one row to the next.
    pub pitch: usize,
    /// The element's value, little-endian.
    pub value: u32,
    /// The element's size: 1, 2 or 4.
    pub size: usize,
    /// Elements in a row.
    pub count: usize,
    /// Rows.
    pub rows: usize,
}

/// A function of the host, with its argument.
#[derive(Clone)]
pub struct HostFunction {
    /// The function.
    pub function: unsafe extern "C" fn(*mut c_void),
    /// The argument, as an address so that it can cross threads.
    pub argument: usize,
}

impl Action {
    /// Whether it runs a kernel.
    fn launches(&self) -> bool {
        match self {
            Action::Kernel(_) => true,
            Action::Graph(nodes) => nodes.iter().any(|n| n.action.launches()),
            _ => false,
        }
    }

    /// Whether it calls into the host program.
    fn calls_host(&self) -> bool {
        match self {
            Action::Host(_) => true,
            Action::Graph(nodes) => nodes.iter().any(|n| n.action.calls_host()),
            _ => false,
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// A point in a stream.
    Point(Point),
    /// All work of a context.
    Context(Handle),
}

impl State {
    /// Whether a point has been passed. A stream that no longer exists has finished.
    pub fn passed(&self, point: Point) -> bool {
        self.streams.get(&point.stream).is_none_or(|s| s.done >= point.number)
    }

    /// The end of what is in a stream now.
    pub fn end_of(&self, stream: Handle) -> Point {
        Point { stream, number: self.streams.get(&stream).map_or(0, |s| s.submitted) }
    }

    /// Whether the first operation of a stream can run now.
    fn ready(&self, stream: Handle) -> bool {
        let Some(stream) = self.streams.get(&stream) else { return false };
        !stream.busy
            && stream.queue.front().is_some_and(|op| op.after.iter().all(|&p| self.passed(p)))
    }

    /// Adds to `ready` the streams whose first operation must run, and can, before `point` is
    /// passed. Dependencies only point backwards in time, so this ends.
    fn blocking(&self, point: Point, ready: &mut Vec<Handle>) {
        if self.passed(point) || ready.contains(&point.stream) {
            return;
        }
        let stream = &self.streams[&point.stream];
        if stream.busy {
            return;
        }
        if self.ready(point.stream) {
            ready.push(point.stream);
        } else if let Some(first) = stream.queue.front() {
            for &dependency in &first.after {
                self.blocking(dependency, ready);
            }
        }
    }

    fn reached(&self, until: Until) -> bool {
        match until {
            Until::Point(point) => self.passed(point),
            Until::Context(context) => self
                .streams
                .values()
                .filter(|s| s.context == context)
                .all(|s| s.done == s.submitted),
        }
    }

    /// The context whose fault ends the wait.
    fn context_of(&self, until: Until) -> Option<Handle> {
        match until {
            Until::Point(point) => self.streams.get(&point.stream).map(|s| s.context),
            Until::Context(context) => Some(context),
        }
    }
}

impl Driver {
    /// Puts an operation into a stream, or into its capture.
    pub fn submit(
        &self,
        mut state: MutexGuard<'_, State>,
        stream: Handle,
        action: Action,
    ) -> Result {
        if state.streams[&stream].capture.is_some() {
            return state.capture_node(stream, action);
        }
        let context = state.streams[&stream].context;
        let legacy = state.contexts.get(&context).map(|c| c.legacy);
        let mut after = Vec::new();
        if Some(stream) == legacy {
            // The legacy stream waits for every blocking stream; it cannot wait for a capture.
            if let Some(id) = state.blocking_capture(context) {
                state.invalidate(id);
                return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
            }
            after.extend(
                state
                    .streams
                    .iter()
                    .filter(|(h, s)| {
                        s.context == context
                            && !s.non_blocking
                            && **h != stream
                            && s.done < s.submitted
                    })
                    .map(|(&h, s)| Point { stream: h, number: s.submitted }),
            );
        } else if let (false, Some(legacy)) = (state.streams[&stream].non_blocking, legacy) {
            after.push(state.end_of(legacy));
        }
        self.push(&mut state, stream, after, action);
        drop(state);
        if !self.config.late_copies {
            self.run_eagerly(context);
        }
        Ok(())
    }

    /// Makes a stream wait for a point of another.
    pub fn submit_wait(
        &self,
        mut state: MutexGuard<'_, State>,
        stream: Handle,
        point: Point,
    ) -> Result {
        let context = state.streams[&stream].context;
        self.push(&mut state, stream, vec![point], Action::Nothing);
        drop(state);
        if !self.config.late_copies {
            self.run_eagerly(context);
        }
        Ok(())
    }

    /// Runs queued work until `until` is reached, or a fault strikes its context.
    pub fn run_until(&self, until: Until) -> Result {
        let mut state = self.lock();
        // Half of the waits run nothing but what they wait for (as late as can be); the other
        // half let every stream make progress in between.
        let interleave = state.random.coin();
        let context = state.context_of(until);
        loop {
            if let Some(context) = context {
                state.error_of(context)?;
            }
            if state.reached(until) {
                return Ok(());
            }
            let mut ready = Vec::new();
            if let (Until::Point(point), false) = (until, interleave) {
                state.blocking(point, &mut ready);
            } else {
                ready.extend(state.streams.keys().copied().filter(|&s| state.ready(s)));
            }
            if ready.is_empty() {
                if !state.streams.values().any(|s| s.busy) {
                    say(&format!("internal error: nothing can run, waiting for {until:?}"));
                    return Err(CUresult::UNKNOWN);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let chosen = ready[state.random.below(ready.len())];
            state = self.step(state, chosen);
        }
    }

    /// Runs everything of a context that can run without calling into the host program.
    fn run_eagerly(&self, context: Handle) {
        let mut state = self.lock();
        loop {
            if state.error_of(context).is_err() {
                return;
            }
            let ready: Vec<Handle> = state
                .streams
                .iter()
                .filter(|(h, s)| {
                    s.context == context
                        && state.ready(**h)
                        && !s.queue.front().is_some_and(|op| op.action.calls_host())
                })
                .map(|(&h, _)| h)
                .collect();
            if ready.is_empty() {
                return;
            }
            let chosen = ready[state.random.below(ready.len())];
            state = self.step(state, chosen);
        }
    }

    /// Runs the first operation of `stream`, without the lock, and takes the lock again.
    fn step<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        stream: Handle,
    ) -> MutexGuard<'a, State> {
        let Some((operation, context)) = state.streams.get_mut(&stream).and_then(|s| {
            let operation = s.queue.pop_front()?;
            s.busy = true;
            Some((operation, s.context))
        }) else {
            return state;
        };
        drop(state);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Host functions may wait for other threads, which may need the device.
            let _device = (!operation.action.calls_host())
                .then(|| self.device.lock().unwrap_or_else(PoisonError::into_inner));
            self.perform(&operation.action, operation.between, operation.call)
        }))
        .unwrap_or_else(|_| {
            say(&format!("internal error while running what {} enqueued", operation.call));
            Err(CUresult::UNKNOWN)
        });
        let mut state = self.lock();
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.busy = false;
            entry.done = entry.done.max(operation.number);
            if entry.destroyed && entry.queue.is_empty() {
                state.streams.remove(&stream);
            }
        }
        if let Err(code) = outcome {
            state.fail(context, code);
        }
        self.changed.notify_all();
        state
    }

    /// Does what an action says.
    fn perform(&self, action: &Action, between: (u64, u64), call: &'static str) -> Result {
        match action {
            Action::Nothing | Action::Allocate(_) => Ok(()),
            Action::Kernel(kernel) => self.perform_kernel(kernel, between),
            Action::Copy(copy) => {
                self.perform_copy(copy).map_err(|error| faults::of_copy(call, &error))
            }
            Action::Fill(fill) => {
                self.perform_fill(fill).map_err(|error| faults::of_copy(call, &error))
            }
            Action::Free(address) => {
                let mut state = self.lock();
                self.release(&mut state, *address);
                Ok(())
            }
            Action::Host(host) => {
                // SAFETY: the caller of cuLaunchHostFunc promises that the function may be called
                // once with this argument when the stream gets there, from any thread.
                unsafe { (host.function)(host.argument as *mut c_void) };
                Ok(())
            }
            Action::Record(event, generation) => {
                let mut state = self.lock();
                if let Some(event) =
                    state.events.get_mut(event).filter(|e| e.generation == *generation)
                {
                    event.time = Some(Instant::now());
                }
                Ok(())
            }
            Action::Graph(nodes) => self.perform_graph(nodes, between, call),
        }
    }

    fn perform_kernel(&self, call: &KernelCall, between: (u64, u64)) -> Result {
        match exec::launch(&self.memory, &call.kernel, &call.launch, &call.parameters, &self.config)
        {
            Ok(counters) => {
                self.recorder.launch_after(
                    between,
                    call.kernel.name(),
                    (call.launch.grid, call.launch.block, call.launch.dynamic_shared),
                    &counters,
                );
                Ok(())
            }
            Err(fault) => Err(faults::of_launch(&fault)),
        }
    }

    /// Runs the nodes of a graph one after another, in an order that respects their dependencies
    /// and is otherwise drawn from the seed.
    fn perform_graph(&self, nodes: &[Node], mut between: (u64, u64), call: &'static str) -> Result {
        let mut pending: Vec<usize> = (0..nodes.len()).collect();
        let mut done = vec![false; nodes.len()];
        while !pending.is_empty() {
            let ready: Vec<usize> = (0..pending.len())
                .filter(|&i| nodes[pending[i]].after.iter().all(|&n| done[n]))
                .collect();
            let Some(&chosen) = ready.get(self.lock().random.below(ready.len().max(1))) else {
                say("internal error: a graph with a cycle");
                return Err(CUresult::UNKNOWN);
            };
            let node = pending.remove(chosen);
            self.perform(&nodes[node].action, between, call)?;
            if matches!(nodes[node].action, Action::Kernel(_)) {
                between = (0, 0);
            }
            done[node] = true;
        }
        Ok(())
    }

    fn perform_copy(&self, copy: &Copy2D) -> std::result::Result<(), crate::memory::MemoryError> {
        // Rows that touch are one row: one call, and one check.
        let (width, rows) =
            if copy.width == copy.source_pitch && copy.width == copy.destination_pitch {
                (copy.width * copy.rows, 1)
            } else {
                (copy.width, copy.rows)
            };
        if width == 0 {
            return Ok(());
        }
        for row in 0..rows {
            let (from, to) = (row * copy.source_pitch, row * copy.destination_pitch);
            match (&copy.source, &copy.destination) {
                (Place::Device(source), Place::Device(destination)) => {
                    self.memory.copy(destination + to as u64, source + from as u64, width)?;
                }
                (Place::Device(source), Place::Host(destination)) => {
                    // SAFETY: the program promised `width` writable bytes per row until the
                    // operation has completed.
                    let bytes = unsafe {
                        std::slice::from_raw_parts_mut((destination + to) as *mut u8, width)
                    };
                    self.memory.read(source + from as u64, bytes)?;
                }
                (Place::Host(source), Place::Device(destination)) => {
                    // SAFETY: the program promised `width` readable bytes per row until the
                    // operation has completed.
                    let bytes =
                        unsafe { std::slice::from_raw_parts((source + from) as *const u8, width) };
                    self.memory.write(destination + to as u64, bytes)?;
                }
                (Place::Staged(bytes), Place::Device(destination)) => {
                    self.memory.write(destination + to as u64, &bytes[from..from + width])?;
                }
                (Place::Host(source), Place::Host(destination)) => {
                    // SAFETY: as above, for both ends; they may overlap.
                    unsafe {
                        std::ptr::copy(
                            (source + from) as *const u8,
                            (destination + to) as *mut u8,
                            width,
                        )
                    };
                }
                (Place::Staged(bytes), Place::Host(destination)) => {
                    // SAFETY: as above; the staged bytes are the emulator's own.
                    unsafe {
                        std::ptr::copy(
                            bytes[from..from + width].as_ptr(),
                            (destination + to) as *mut u8,
                            width,
                        )
                    };
                }
                (_, Place::Staged(_)) => unreachable!("a staged buffer is never written"),
            }
        }
        Ok(())
    }

    fn perform_fill(&self, fill: &Fill) -> std::result::Result<(), crate::memory::MemoryError> {
        if fill.count == 0 {
            return Ok(());
        }
        let pattern = fill.value.to_le_bytes();
        for row in 0..fill.rows {
            self.memory.fill(
                fill.address + (row * fill.pitch) as u64,
                &pattern[..fill.size],
                fill.count,
            )?;
        }
        Ok(())
    }
}

impl Driver {
    /// Appends an operation to a stream's queue.
    fn push(&self, state: &mut State, stream: Handle, after: Vec<Point>, action: Action) {
        let after: Vec<Point> =
            after.into_iter().filter(|&p| p.stream != stream && !state.passed(p)).collect();
        let between = if action.launches() { self.recorder.take_between() } else { (0, 0) };
        if let Some(entry) = state.streams.get_mut(&stream) {
            entry.submitted += 1;
            entry.polls = 0;
            let number = entry.submitted;
            entry.queue.push_back(QueuedOperation {
                number,
                after,
                action,
                between,
                call: current_call(),
            });
        }
    }
}
