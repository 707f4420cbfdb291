//! Stream capture: the rules of what may be called while a stream is captured, and the recording
//! of nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{CUresult, Result};
use super::ffi::{In, Out, api};
use super::queue::Action;
use super::state::{
    CAPTURE_MODE, Capture, Graph, Handle, Node, State, StreamCapture, capture_mode, driver,
};

/// `CUstreamCaptureStatus`.
mod status {
    pub const NONE: u32 = 0;
    pub const ACTIVE: u32 = 1;
    pub const INVALIDATED: u32 = 2;
}

impl State {
    /// Adds a node to the capture that `stream` takes part in.
    pub fn capture_node(&mut self, stream: Handle, action: Action) -> Result {
        let handle = self.new_handle();
        let part = self
            .streams
            .get_mut(&stream)
            .and_then(|s| s.capture.as_mut())
            .ok_or(CUresult::INVALID_HANDLE)?;
        let capture =
            self.captures.get_mut(&part.id).ok_or(CUresult::STREAM_CAPTURE_INVALIDATED)?;
        if capture.invalidated {
            return Err(CUresult::STREAM_CAPTURE_INVALIDATED);
        }
        let index = capture.nodes.len();
        let after = std::mem::replace(&mut part.frontier, BTreeSet::from([index]));
        capture.nodes.push(Node { handle, action, after });
        Ok(())
    }

    /// A capture in which a blocking stream of `context` takes part: the legacy stream cannot be
    /// used meanwhile.
    pub fn blocking_capture(&self, context: Handle) -> Option<u64> {
        self.streams
            .values()
            .find(|s| s.context == context && !s.non_blocking && s.capture.is_some())
            .and_then(|s| s.capture.as_ref().map(|c| c.id))
    }

    /// Marks a capture as spoilt: it can only be ended, with an error.
    pub fn invalidate(&mut self, id: u64) {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.invalidated = true;
        }
    }

    /// To be called before anything that a capture forbids because it may wait or may act outside
    /// the capture: allocation, synchronous copies, queries, loading of modules.
    pub fn unsafe_call(&mut self) -> Result {
        let mode = CAPTURE_MODE.get();
        let me = std::thread::current().id();
        let hit: Vec<u64> = self
            .captures
            .iter()
            .filter(|(_, c)| match c.mode {
                capture_mode::RELAXED => false,
                _ if mode == capture_mode::RELAXED => false,
                capture_mode::GLOBAL => c.thread == me || mode == capture_mode::GLOBAL,
                _ => c.thread == me,
            })
            .map(|(&id, _)| id)
            .collect();
        if hit.is_empty() {
            return Ok(());
        }
        hit.into_iter().for_each(|id| self.invalidate(id));
        Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// To be called before waiting for, or asking about, a whole stream.
    pub fn no_capture_on(&mut self, stream: Handle) -> Result {
        match self.streams.get(&stream).and_then(|s| s.capture.as_ref()).map(|c| c.id) {
            Some(id) => {
                self.invalidate(id);
                Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// To be called before waiting for a whole context.
    pub fn no_capture_in(&mut self, context: Handle) -> Result {
        let streams: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context && s.capture.is_some())
            .map(|(&h, _)| h)
            .collect();
        let mut outcome = Ok(());
        for stream in streams {
            outcome = outcome.and(self.no_capture_on(stream));
        }
        outcome
    }

    /// Ends the capture `id` and takes it out of all its streams.
    fn close(&mut self, id: u64) -> Option<Capture> {
        for stream in self.streams.values_mut() {
            if stream.capture.as_ref().is_some_and(|c| c.id == id) {
                stream.capture = None;
            }
        }
        self.captures.remove(&id)
    }
}

/// Whether every other stream of the capture was joined to the stream it began on: all it did is
/// among what the origin's last nodes depend on.
fn joined(state: &State, capture: &Capture, id: u64) -> bool {
    let frontier = |stream: &Handle| {
        state
            .streams
            .get(stream)
            .and_then(|s| s.capture.as_ref())
            .filter(|c| c.id == id)
            .map(|c| c.frontier.clone())
    };
    let mut reached = BTreeSet::new();
    let mut pending: Vec<usize> =
        frontier(&capture.origin).unwrap_or_default().into_iter().collect();
    while let Some(node) = pending.pop() {
        if reached.insert(node) {
            pending.extend(capture.nodes[node].after.iter().copied());
        }
    }
    capture.streams.iter().filter_map(frontier).all(|f| f.is_subset(&reached))
}

/// Begins a capture on a stream.
fn begin(raw: Handle, mode: u32) -> Result {
    if mode > capture_mode::RELAXED {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut state = driver()?.lock();
    let stream = state.stream_for_work(raw)?;
    let context = state.streams[&stream].context;
    if state.contexts[&context].legacy == stream {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    if state.streams[&stream].capture.is_some() {
        return Err(CUresult::ILLEGAL_STATE);
    }
    let graph = state.new_handle();
    let id = graph as u64;
    state.captures.insert(
        id,
        Capture {
            mode,
            thread: std::thread::current().id(),
            origin: stream,
            streams: BTreeSet::from([stream]),
            nodes: Vec::new(),
            invalidated: false,
            graph,
        },
    );
    if let Some(entry) = state.streams.get_mut(&stream) {
        entry.capture = Some(StreamCapture { id, frontier: BTreeSet::new() });
    }
    Ok(())
}

/// Status, id and graph of the capture that a stream takes part in.
fn information(raw: Handle) -> Result<(u32, u64, Handle, Vec<Handle>)> {
    let mut state = driver()?.lock();
    let stream = state.stream(raw)?;
    let context = state.streams[&stream].context;
    if state.contexts.get(&context).is_some_and(|c| c.legacy == stream)
        && let Some(id) = state.blocking_capture(context)
    {
        state.invalidate(id);
        return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
    }
    let Some(part) = &state.streams[&stream].capture else {
        return Ok((status::NONE, 0, 0, Vec::new()));
    };
    match state.captures.get(&part.id) {
        Some(capture) if !capture.invalidated => {
            let nodes = part.frontier.iter().map(|&n| capture.nodes[n].handle).collect();
            Ok((status::ACTIVE, part.id, capture.graph, nodes))
        }
        _ => Ok((status::INVALIDATED, part.id, 0, Vec::new())),
    }
}

thread_local! {
    /// Backs the array that `cuStreamGetCaptureInfo` points at: valid until this thread's next call.
    static FRONTIER: std::cell::RefCell<Vec<Handle>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The common part of the capture-info calls.
fn write_information(
    stream: Handle,
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Handle>,
    nodes: Out<*const Handle>,
    count: Out<usize>,
) -> Result {
    let (value, number, handle, frontier) = information(stream)?;
    status.set(value)?;
    if value == status::ACTIVE {
        id.set_if(number);
        graph.set_if(handle);
        count.set_if(frontier.len());
        FRONTIER.with_borrow_mut(|kept| {
            *kept = frontier;
            nodes.set_if(kept.as_ptr());
        });
    }
    Ok(())
}

api! {
    /// Begins the capture of a stream.
    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) { begin(stream, mode) }

    /// Ends a capture; the answer is a graph.
    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        graph.set(0)?;
        let mut state = driver()?.lock();
        let stream = state.stream(stream)?;
        let Some(id) = state.streams[&stream].capture.as_ref().map(|c| c.id) else {
            return Err(CUresult::ILLEGAL_STATE);
        };
        let Some(capture) = state.captures.get(&id) else {
            state.close(id);
            return Err(CUresult::STREAM_CAPTURE_INVALIDATED);
        };
        if capture.mode != capture_mode::RELAXED && capture.thread != std::thread::current().id() {
            return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            state.invalidate(id);
            return Err(CUresult::STREAM_CAPTURE_UNMATCHED);
        }
        let error = if capture.invalidated {
            Some(CUresult::STREAM_CAPTURE_INVALIDATED)
        } else if !joined(&state, capture, id) {
            Some(CUresult::STREAM_CAPTURE_UNJOINED)
        } else {
            None
        };
        let closed = state.close(id).ok_or(CUresult::UNKNOWN)?;
        if let Some(code) = error {
            return Err(code);
        }
        state.graphs.insert(closed.graph, Graph { nodes: Arc::new(closed.nodes) });
        graph.set(closed.graph)
    }

    /// Whether a stream is being captured.
    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        let (value, ..) = information(stream)?;
        status.set(value)
    }

    /// Status and id of a stream's capture.
    fn cuStreamGetCaptureInfo(stream: Handle, status: Out<u32>, id: Out<u64>) {
        write_information(stream, status, id, Out(std::ptr::null_mut()), Out(std::ptr::null_mut()), Out(std::ptr::null_mut()))
    }

    /// Status, id, graph and last nodes of a stream's capture.
    fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle>,
        nodes: Out<*const Handle>,
        count: Out<usize>,
    ) {
        write_information(stream, status, id, graph, nodes, count)
    }

    /// As the version before, with edge data, of which there is none.
    fn cuStreamGetCaptureInfo_v3(
        stream: Handle,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle>,
        nodes: Out<*const Handle>,
        edges: Out<usize>,
        count: Out<usize>,
    ) {
        edges.set_if(0);
        write_information(stream, status, id, graph, nodes, count)
    }

    /// Sets how this thread's unsafe calls interact with captures; gives back the former mode.
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let wanted = In(mode.0 as *const u32).get()?;
        if wanted > capture_mode::RELAXED {
            return Err(CUresult::INVALID_VALUE);
        }
        mode.set(CAPTURE_MODE.replace(wanted))
    }
}
