//! What the driver knows: contexts, streams, events, modules, allocations, captures and graphs,
//! behind one lock, each object under a handle that is never used twice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use crate::config::Config;
use crate::memory::Memory;
use crate::ptx::{Kernel, Module};
use crate::report::Recorder;

use super::error::{CUresult, Result};
use super::ffi::say;
use super::queue::{Action, QueuedOperation};

/// The number behind an opaque pointer of the driver API.
pub type Handle = usize;

/// The one emulated device and everything on it.
pub struct Driver {
    /// Settings, read from the environment when the driver was initialised.
    pub config: Config,
    /// Device memory, shared by all contexts: one address space, as unified addressing has it.
    pub memory: Memory,
    /// Counts what is launched.
    pub recorder: Recorder,
    state: Mutex<State>,
    /// Signalled whenever an operation of some stream has finished.
    pub changed: Condvar,
    /// Held while an operation runs on the device: one at a time.
    pub device: Mutex<()>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// The driver, once `cuInit` has been called.
pub fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or(CUresult::NOT_INITIALIZED)
}

/// Reads the settings and creates the device; later calls change nothing.
pub fn initialise() {
    DRIVER.get_or_init(|| {
        let config = Config::from_env();
        Driver {
            recorder: Recorder::new(config.counters.clone()),
            memory: Memory::with_capacity(config.memory_bytes),
            state: Mutex::new(State::new(config.seed)),
            changed: Condvar::new(),
            device: Mutex::new(()),
            config,
        }
    });
}

impl Driver {
    /// The state, locked. A panic elsewhere must not disable the driver, so poison is ignored.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state and the current context of this thread, if that context exists and no fault has
    /// struck it: what most calls need first.
    pub fn healthy(&self) -> Result<(MutexGuard<'_, State>, Handle)> {
        let state = self.lock();
        let context = state.current()?;
        state.error_of(context)?;
        Ok((state, context))
    }
}

thread_local! {
    /// The stack of current contexts of this thread.
    pub static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// How this thread's potentially unsafe calls interact with captures (`CUstreamCaptureMode`).
    pub static CAPTURE_MODE: Cell<u32> = const { Cell::new(capture_mode::GLOBAL) };
}

/// `CUstreamCaptureMode`.
pub mod capture_mode {
    /// No thread may make unsafe calls while the capture lasts.
    pub const GLOBAL: u32 = 0;
    /// The capturing thread may not make unsafe calls.
    pub const THREAD_LOCAL: u32 = 1;
    /// Unsafe calls are allowed.
    pub const RELAXED: u32 = 2;
}

/// All objects of the driver.
pub struct State {
    next: Handle,
    /// Decides the order in which streams run, and nothing else.
    pub random: Random,
    /// The primary context of the device.
    pub primary: Primary,
    /// Living contexts.
    pub contexts: BTreeMap<Handle, Context>,
    /// Handles of contexts that are gone, for the right error code.
    pub destroyed_contexts: BTreeSet<Handle>,
    /// Streams, destroyed ones too while they hold work.
    pub streams: BTreeMap<Handle, Stream>,
    /// Events.
    pub events: BTreeMap<Handle, Event>,
    /// Loaded modules.
    pub modules: BTreeMap<Handle, LoadedModule>,
    /// Functions that were asked for, by handle.
    pub functions: BTreeMap<Handle, Function>,
    /// Captures under way.
    pub captures: BTreeMap<u64, Capture>,
    /// Graphs.
    pub graphs: BTreeMap<Handle, Graph>,
    /// Instantiated graphs.
    pub executables: BTreeMap<Handle, Executable>,
    /// Device allocations by first address.
    pub allocations: BTreeMap<u64, Allocation>,
    /// Page-locked host memory by first address.
    pub host: BTreeMap<usize, HostRange>,
    /// Memory pools.
    pub pools: BTreeMap<Handle, Pool>,
    /// The device's default pool, once asked for.
    pub default_pool: Option<Handle>,
    /// The pool that `cuMemAllocAsync` draws from, where it is not the default one.
    pub current_pool: Option<Handle>,
}

/// The primary context of the device.
#[derive(Default)]
pub struct Primary {
    /// How many times it is retained.
    pub references: usize,
    /// The context, while retained.
    pub context: Option<Handle>,
    /// Its flags, which outlive it.
    pub flags: u32,
}

/// A context.
pub struct Context {
    /// Scheduling flags, stored only.
    pub flags: u32,
    /// The fault that struck it: every later call returns it.
    pub error: Option<CUresult>,
    /// The legacy default stream.
    pub legacy: Handle,
    /// The default streams of single threads.
    pub per_thread: HashMap<ThreadId, Handle>,
    /// `CUlimit` values.
    pub limits: BTreeMap<u32, usize>,
    /// Cache preference, stored only.
    pub cache_config: u32,
    /// Shared-memory bank preference, stored only.
    pub shared_config: u32,
}

/// A stream: operations in order.
pub struct Stream {
    /// Its context.
    pub context: Handle,
    /// Whether it ignores the legacy default stream.
    pub non_blocking: bool,
    /// Its flags as given.
    pub flags: u32,
    /// Its priority, stored only.
    pub priority: i32,
    /// What is still to run.
    pub queue: VecDeque<QueuedOperation>,
    /// Number of the last operation put in.
    pub submitted: u64,
    /// Number of the last operation that has finished.
    pub done: u64,
    /// Whether a thread is running its first operation right now.
    pub busy: bool,
    /// Whether its handle is already invalid.
    pub destroyed: bool,
    /// Its part in a capture.
    pub capture: Option<StreamCapture>,
    /// Queries that were answered "not ready" in a row.
    pub polls: u32,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub struct StreamCapture {
    /// Which capture.
    pub id: u64,
    /// The nodes on which the stream's next node depends.
    pub frontier: BTreeSet<usize>,
}

/// A point in a stream: the end of its operation number `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The stream.
    pub stream: Handle,
    /// The operation's number.
    pub number: u64,
}

/// An event.
pub struct Event {
    /// Its context.
    pub context: Handle,
    /// Whether it keeps a time.
    pub timing: bool,
    /// Counts records, so that a stale one does not complete a newer.
    pub generation: u64,
    /// Where it was last recorded.
    pub point: Option<Point>,
    /// When that record ran.
    pub time: Option<Instant>,
    /// Where in a capture it was last recorded.
    pub captured: Option<StreamCapture>,
    /// Queries that were answered "not ready" in a row.
    pub polls: u32,
}

/// A module with the context it belongs to.
pub struct LoadedModule {
    /// Its context.
    pub context: Handle,
    /// The module.
    pub module: Module,
    /// The virtual architecture its PTX is for.
    pub architecture: i32,
    /// Handles of its functions by name: asking twice gives the same function.
    pub functions: HashMap<String, Handle>,
}

/// A function with its settings.
pub struct Function {
    /// The module it is from.
    pub module: Handle,
    /// The code.
    pub kernel: Arc<Kernel>,
    /// The limit of dynamic shared memory, where its attribute was set.
    pub max_dynamic_shared: Option<usize>,
    /// Other attributes that were set.
    pub attributes: BTreeMap<u32, i32>,
}

/// A capture under way.
pub struct Capture {
    /// `CUstreamCaptureMode` of its begin.
    pub mode: u32,
    /// The thread that began it.
    pub thread: ThreadId,
    /// The stream it began on.
    pub origin: Handle,
    /// All streams in it.
    pub streams: BTreeSet<Handle>,
    /// What was captured.
    pub nodes: Vec<Node>,
    /// Whether a forbidden call has spoilt it.
    pub invalidated: bool,
    /// The graph it will become.
    pub graph: Handle,
}

/// One node of a graph.
#[derive(Clone)]
pub struct Node {
    /// Its handle.
    pub handle: Handle,
    /// What it does.
    pub action: Action,
    /// Earlier nodes that must have run.
    pub after: BTreeSet<usize>,
}

/// A graph.
#[derive(Clone, Default)]
pub struct Graph {
    /// Its nodes in an order that respects their dependencies.
    pub nodes: Arc<Vec<Node>>,
}

/// An instantiated graph.
pub struct Executable {
    /// Its nodes.
    pub nodes: Arc<Vec<Node>>,
    /// The graph it was made from.
    pub graph: Handle,
    /// Instantiation flags.
    pub flags: u64,
    /// The context it was instantiated in.
    pub context: Handle,
}

/// A device allocation.
pub struct Allocation {
    /// Its context.
    pub context: Handle,
    /// Bytes asked for.
    pub bytes: usize,
    /// The driver call that made it.
    pub call: &'static str,
    /// The pool it is from.
    pub pool: Option<Handle>,
    /// Whether a stream-ordered free is queued for it.
    pub freeing: bool,
    /// The graph that captured the allocation and keeps it.
    pub graph: Option<Handle>,
}

/// Page-locked host memory.
pub struct HostRange {
    /// Its context.
    pub context: Handle,
    /// Bytes.
    pub bytes: usize,
    /// Flags as given.
    pub flags: u32,
    /// Alignment of the allocation, where it is the driver's own.
    pub owned: Option<std::alloc::Layout>,
}

/// A memory pool: names and figures only, all memory comes from one place.
#[derive(Default)]
pub struct Pool {
    /// Attributes as set.
    pub attributes: BTreeMap<u32, u64>,
    /// Bytes in use.
    pub used: u64,
    /// Most bytes in use at once.
    pub high: u64,
}

impl State {
    fn new(seed: u64) -> State {
        State {
            // Far from null and from the small numbers that name the default streams.
            next: 0x0c0d_a000,
            random: Random(seed ^ 0x9e37_79b9_7f4a_7c15),
            primary: Primary::default(),
            contexts: BTreeMap::new(),
            destroyed_contexts: BTreeSet::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            allocations: BTreeMap::new(),
            host: BTreeMap::new(),
            pools: BTreeMap::new(),
            default_pool: None,
            current_pool: None,
        }
    }

    /// A handle that was never used before.
    pub fn new_handle(&mut self) -> Handle {
        self.next += 16;
        self.next
    }

    /// The current context of this thread.
    pub fn current(&self) -> Result<Handle> {
        let top = CURRENT.with_borrow(|stack| stack.last().copied()).unwrap_or(0);
        self.living(top)
    }

    /// `context` if it exists.
    pub fn living(&self, context: Handle) -> Result<Handle> {
        if self.contexts.contains_key(&context) {
            Ok(context)
        } else if self.destroyed_contexts.contains(&context) {
            Err(CUresult::CONTEXT_IS_DESTROYED)
        } else {
            Err(CUresult::INVALID_CONTEXT)
        }
    }

    /// The fault that struck `context`, as an error.
    pub fn error_of(&self, context: Handle) -> Result {
        match self.contexts.get(&context).and_then(|c| c.error) {
            Some(code) => Err(code),
            None => Ok(()),
        }
    }

    /// A context of this name, or CUDA's error for it.
    pub fn context_mut(&mut self, context: Handle) -> Result<&mut Context> {
        self.contexts.get_mut(&context).ok_or(CUresult::INVALID_CONTEXT)
    }

    /// Creates a context.
    pub fn create_context(&mut self, flags: u32) -> Handle {
        let handle = self.new_handle();
        let legacy = self.create_stream(handle, 0, 0);
        self.contexts.insert(
            handle,
            Context {
                flags,
                error: None,
                legacy,
                per_thread: HashMap::new(),
                limits: BTreeMap::new(),
                cache_config: 0,
                shared_config: 0,
            },
        );
        handle
    }

    /// Creates a stream.
    pub fn create_stream(&mut self, context: Handle, flags: u32, priority: i32) -> Handle {
        let handle = self.new_handle();
        self.streams.insert(
            handle,
            Stream {
                context,
                non_blocking: flags & 1 != 0,
                flags,
                priority,
                queue: VecDeque::new(),
                submitted: 0,
                done: 0,
                busy: false,
                destroyed: false,
                capture: None,
                polls: 0,
            },
        );
        handle
    }

    /// The stream that a program means by `raw`: null and 1 are the legacy default stream of the
    /// current context, 2 this thread's own default stream.
    pub fn stream(&mut self, raw: Handle) -> Result<Handle> {
        match raw {
            0 | 1 => {
                let context = self.current()?;
                Ok(self.contexts[&context].legacy)
            }
            2 => {
                let context = self.current()?;
                let thread = std::thread::current().id();
                if let Some(&stream) = self.contexts[&context].per_thread.get(&thread) {
                    return Ok(stream);
                }
                let stream = self.create_stream(context, 0, 0);
                self.context_mut(context)?.per_thread.insert(thread, stream);
                Ok(stream)
            }
            other => match self.streams.get(&other) {
                Some(stream) if !stream.destroyed => Ok(other),
                _ => Err(CUresult::INVALID_HANDLE),
            },
        }
    }

    /// The stream that a program means by `raw`, to put work into: its context must be healthy.
    pub fn stream_for_work(&mut self, raw: Handle) -> Result<Handle> {
        let stream = self.stream(raw)?;
        let context = self.streams[&stream].context;
        self.living(context)?;
        self.error_of(context)?;
        Ok(stream)
    }

    /// Whether the host bytes `address .. address + bytes` are all page-locked.
    pub fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        self.host.range(..=address).next_back().is_some_and(|(&start, range)| {
            address.saturating_add(bytes) <= start.saturating_add(range.bytes)
        })
    }

    /// Puts `context` into the state after a fault: what is queued is lost, and every later call
    /// returns `code`.
    pub fn fail(&mut self, context: Handle, code: CUresult) {
        if let Some(context) = self.contexts.get_mut(&context) {
            context.error.get_or_insert(code);
        }
        for stream in self.streams.values_mut().filter(|s| s.context == context) {
            stream.queue.clear();
            stream.done = stream.submitted;
        }
    }
}

impl Driver {
    /// Destroys a context: finishes its work, reports what it leaks, frees what it holds.
    pub fn destroy_context(&self, context: Handle) -> Result {
        // Work still queued runs: a program that destroys its context without waiting must not
        // have its faults hidden.
        let outcome = self.run_until(super::queue::Until::Context(context));
        let mut state = self.lock();
        while state.streams.values().any(|s| s.context == context && s.busy) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.contexts.contains_key(&context) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        let failed = state.error_of(context).is_err();
        let leaked = super::leaks::of_context(&state, context);

        let modules: Vec<Handle> =
            state.modules.iter().filter(|(_, m)| m.context == context).map(|(&h, _)| h).collect();
        for module in modules {
            if let Some(gone) = state.modules.remove(&module) {
                drop(gone);
            }
        }
        let State { modules, functions, .. } = &mut *state;
        functions.retain(|_, f| modules.contains_key(&f.module));
        let addresses: Vec<u64> = state
            .allocations
            .iter()
            .filter(|(_, a)| a.context == context)
            .map(|(&p, _)| p)
            .collect();
        for address in addresses {
            self.release(&mut state, address);
        }
        let host: Vec<usize> =
            state.host.iter().filter(|(_, h)| h.context == context).map(|(&p, _)| p).collect();
        for address in host {
            release_host(&mut state, address);
        }
        state.streams.retain(|_, s| s.context != context);
        state.events.retain(|_, e| e.context != context);
        state.executables.retain(|_, e| e.context != context);
        state.contexts.remove(&context);
        state.destroyed_contexts.insert(context);
        drop(state);
        self.changed.notify_all();

        // After a fault a program cannot free what it holds, so that is no leak.
        if !failed {
            super::leaks::report(&leaked);
        }
        let _ = outcome;
        Ok(())
    }

    /// Frees a device allocation at once.
    pub fn release(&self, state: &mut State, address: u64) {
        if let Some(allocation) = state.allocations.remove(&address) {
            if let Some(pool) = allocation.pool.and_then(|p| state.pools.get_mut(&p)) {
                pool.used = pool.used.saturating_sub(allocation.bytes as u64);
            }
            if let Err(error) = self.memory.free(address) {
                say(&format!("freeing {address:#x}: {error}"));
            }
        }
    }
}

/// Frees page-locked host memory, or forgets a registration. Says whether there was one.
pub fn release_host(state: &mut State, address: usize) -> Option<HostRange> {
    let range = state.host.remove(&address)?;
    if let Some(layout) = range.owned {
        // SAFETY: the range was allocated with this layout by cuMemHostAlloc, and leaving the map
        // above makes this its only free.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
    }
    Some(range)
}

/// A small generator (splitmix64): the same seed gives the same order.
pub struct Random(u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.bits() & 1 == 1
    }
}
