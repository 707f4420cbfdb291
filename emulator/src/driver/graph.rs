//! Graphs: what a capture recorded, instantiated and launched again and again.

use std::sync::Arc;

use super::error::{CUresult, Result};
use super::ffi::{In, Out, api};
use super::queue::{Action, Until};
use super::state::{Executable, Graph, Handle, Node, driver};

/// Instantiation flags: free on launch what the last launch left, upload, launch from the device,
/// node priorities.
mod flag {
    pub const AUTO_FREE: u64 = 1;
    pub const DEVICE_LAUNCH: u64 = 4;
    pub const ALL: u64 = 15;
}

/// Makes a graph executable.
fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Result {
    let (mut state, context) = driver()?.healthy()?;
    let nodes = state.graphs.get(&graph).ok_or(CUresult::INVALID_VALUE)?.nodes.clone();
    let both = flag::AUTO_FREE | flag::DEVICE_LAUNCH;
    if out.is_null() || flags & !flag::ALL != 0 || flags & both == both {
        return Err(CUresult::INVALID_VALUE);
    }
    if flags & flag::DEVICE_LAUNCH != 0 {
        return Err(super::ffi::unsupported("launching a graph from the device"));
    }
    let handle = state.new_handle();
    state.executables.insert(handle, Executable { nodes, graph, flags, context });
    out.set(handle)
}

/// `CUgraphNodeType`.
fn kind(node: &Node) -> u32 {
    match node.action {
        Action::Kernel(_) => 0,
        Action::Copy(_) => 1,
        Action::Fill(_) => 2,
        Action::Host(_) => 3,
        Action::Graph(_) => 4,
        Action::Nothing => 5,
        Action::Record(..) => 7,
        Action::Allocate(_) => 10,
        Action::Free(_) => 11,
    }
}

/// Frees what a graph allocated, once neither it nor an executable of it exists.
fn collect(graph: Handle) -> Result {
    let driver = driver()?;
    let state = driver.lock();
    if state.graphs.contains_key(&graph) || state.executables.values().any(|e| e.graph == graph) {
        return Ok(());
    }
    let owned: Vec<(u64, Handle)> = state
        .allocations
        .iter()
        .filter(|(_, a)| a.graph == Some(graph))
        .map(|(&p, a)| (p, a.context))
        .collect();
    drop(state);
    for (address, context) in owned {
        // A launch of the graph may still be queued.
        let outcome = driver.run_until(Until::Context(context));
        driver.release(&mut driver.lock(), address);
        outcome?;
    }
    Ok(())
}

/// Replaces the nodes of an executable by those of a graph of the same shape.
fn update(executable: Handle, graph: Handle) -> Result<bool> {
    let (mut state, _) = driver()?.healthy()?;
    let nodes = state.graphs.get(&graph).ok_or(CUresult::INVALID_VALUE)?.nodes.clone();
    let entry = state.executables.get_mut(&executable).ok_or(CUresult::INVALID_VALUE)?;
    let same = entry.nodes.len() == nodes.len()
        && entry
            .nodes
            .iter()
            .zip(nodes.iter())
            .all(|(a, b)| kind(a) == kind(b) && a.after == b.after);
    if same {
        entry.nodes = nodes;
    }
    Ok(same)
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub struct UpdateResult {
    result: u32,
    node: Handle,
    from: Handle,
}

api! {
    /// Creates an empty graph.
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        let mut state = driver()?.lock();
        if graph.is_null() || flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let handle = state.new_handle();
        state.graphs.insert(handle, Graph::default());
        graph.set(handle)
    }

    /// Copies a graph.
    fn cuGraphClone(clone: Out<Handle>, graph: Handle) {
        let mut state = driver()?.lock();
        let copy = state.graphs.get(&graph).ok_or(CUresult::INVALID_VALUE)?.clone();
        let handle = state.new_handle();
        state.graphs.insert(handle, copy);
        clone.set(handle)
    }

    /// Destroys a graph; what was made of it lives on.
    fn cuGraphDestroy(graph: Handle) {
        driver()?.lock().graphs.remove(&graph).ok_or(CUresult::INVALID_VALUE)?;
        collect(graph)
    }

    /// The nodes of a graph.
    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let state = driver()?.lock();
        let all = &state.graphs.get(&graph).ok_or(CUresult::INVALID_VALUE)?.nodes;
        if nodes.is_null() {
            return count.set(all.len());
        }
        let room = In(count.0 as *const usize).get()?;
        for i in 0..room {
            Out(nodes.0.wrapping_add(i)).set(all.get(i).map_or(0, |n| n.handle))?;
        }
        count.set(all.len().min(room))
    }

    /// What a node does.
    fn cuGraphNodeGetType(node: Handle, out: Out<u32>) {
        let state = driver()?.lock();
        let found = state.graphs.values().flat_map(|g| g.nodes.iter()).find(|n| n.handle == node);
        out.set(kind(found.ok_or(CUresult::INVALID_VALUE)?))
    }

    /// Makes a graph executable.
    fn cuGraphInstantiateWithFlags(out: Out<Handle>, graph: Handle, flags: u64) { instantiate(out, graph, flags) }

    /// Makes a graph executable.
    fn cuGraphInstantiate_v2(out: Out<Handle>, graph: Handle, node: Out<Handle>, log: Out<u8>, size: usize) {
        node.set_if(0);
        if size > 0 {
            log.set_if(0);
        }
        instantiate(out, graph, 0)
    }

    /// Destroys an executable graph; launches of it that are queued still run.
    fn cuGraphExecDestroy(executable: Handle) {
        let gone = driver()?.lock().executables.remove(&executable).ok_or(CUresult::INVALID_VALUE)?;
        collect(gone.graph)
    }

    /// The flags of an executable graph.
    fn cuGraphExecGetFlags(executable: Handle, flags: Out<u64>) {
        let state = driver()?.lock();
        flags.set(state.executables.get(&executable).ok_or(CUresult::INVALID_VALUE)?.flags)
    }

    /// Replaces what an executable graph does.
    fn cuGraphExecUpdate(executable: Handle, graph: Handle, node: Out<Handle>, result: Out<u32>) {
        node.set_if(0);
        let same = update(executable, graph)?;
        result.set_if(u32::from(!same));
        if same { Ok(()) } else { Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    /// Replaces what an executable graph does.
    fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, result: Out<UpdateResult>) {
        let same = update(executable, graph)?;
        result.set_if(UpdateResult { result: u32::from(!same), node: 0, from: 0 });
        if same { Ok(()) } else { Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    /// Runs an executable graph in a stream; in a capture it becomes a node.
    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        let driver = driver()?;
        let mut state = driver.lock();
        let stream = state.stream_for_work(stream)?;
        let nodes: Arc<Vec<Node>> = state.executables.get(&executable).ok_or(CUresult::INVALID_VALUE)?.nodes.clone();
        driver.submit(state, stream, Action::Graph(nodes))
    }

    /// Prepares an executable graph: nothing to do.
    fn cuGraphUpload(executable: Handle, stream: Handle) {
        let mut state = driver()?.lock();
        state.stream_for_work(stream)?;
        state.executables.get(&executable).map(drop).ok_or(CUresult::INVALID_VALUE)
    }
}
