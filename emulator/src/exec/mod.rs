//! Execution of kernels: launches, blocks, warps and the faults they run into.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::memory::Allocation;
use crate::report::Counters;
use crate::{Config, Kernel, Memory};

pub(crate) mod alu;
mod atomics;
mod block;
mod convert;
mod float;
pub(crate) mod matrix;
mod print;
pub(crate) mod program;
pub(crate) mod race;
pub(crate) mod regs;
pub(crate) mod shared;
mod warp;
mod wide;

use block::{Block, Random, Visit};
use program::{Function, Initial, Program, Reg, Special};
use race::Releases;
use shared::Layout;

/// Shape of a launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Cluster shape, where one is asked for.
    pub cluster: Option<[u32; 3]>,
    /// Whether all blocks must be resident together (`cuLaunchCooperativeKernel`).
    pub cooperative: bool,
}

impl Launch {
    /// A launch without dynamic shared memory, cluster or cooperation.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Launch {
        Launch { grid, block, dynamic_shared: 0, cluster: None, cooperative: false }
    }
}

/// What kind of fault stopped a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access outside every allocation, or outside shared, local or parameter memory.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// An access to memory that was freed.
    UseAfterFree,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// Two unordered accesses to shared memory of which one writes.
    SharedRace,
    /// Two unordered plain accesses to global memory by different blocks of which one writes.
    GlobalRace,
    /// A barrier that not all its threads reach.
    BarrierDivergence,
    /// A `.sync` instruction whose mask is not that of the lanes that execute it.
    MaskMismatch,
    /// The kernel executed `trap` or `brkpt`.
    Trap,
    /// A store to read-only memory, an operand out of its range, and the like.
    IllegalInstruction,
    /// The launch ran longer than [`Config::timeout`], or can never end.
    Timeout,
    /// The launch itself is not possible: too many threads, too much shared memory, parameters of the wrong size.
    InvalidLaunch,
    /// More nested calls or local memory than a thread may have.
    StackOverflow,
}

/// A fault: what, and where.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What kind it is.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// Line in the PTX text, from 1; 0 where no instruction is to blame.
    pub line: u32,
    /// The instruction as written in the PTX.
    pub instruction: String,
    /// Index of the block.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
    /// The address, where one is to blame.
    pub address: Option<u64>,
    /// The fault in words.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel {}", self.kind, self.kernel)?;
        if self.line > 0 {
            write!(f, ", PTX line {} `{}`", self.line, self.instruction)?;
        }
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, ", block ({bx},{by},{bz}), thread ({tx},{ty},{tz})")?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}

/// What all blocks of a launch share.
struct Run<'a> {
    launch: &'a Launch,
    config: &'a Config,
    memory: &'a Memory,
    program: &'a Program,
    kernel: &'a Kernel,
    name: &'a str,
    entry: u32,
    kernel_frame: u32,
    layout: Layout,
    complex: bool,
    threads: u32,
    /// Sizes of the register files.
    rows: [u32; 3],
    /// Special registers that differ from block to block.
    varying: Vec<(Reg, Special)>,
    params: &'a [u8],
    allocations: Vec<Arc<Allocation>>,
    /// Marks this launch's records in the race shadow.
    tag: u32,
    releases: Releases,
    /// Whether there is another block to race with.
    racing: bool,
    wide_atomics: Mutex<()>,
    started: Instant,
}

impl Run<'_> {
    /// The kernel and the functions it may call.
    fn reachable(&self) -> impl Iterator<Item = &Function> {
        let functions = self.kernel.reached.iter().map(|&id| &self.program.functions[id as usize]);
        functions.chain([&self.kernel.function])
    }

    fn shared_address(&self, id: u32) -> u64 {
        let at = self.kernel.shared.iter().position(|&s| s == id);
        at.map_or(0, |i| self.layout.addresses[i] as u64)
    }

    /// The allocation that holds a range, and the range's offset in it.
    fn find(&self, address: u64, bytes: usize) -> Option<(usize, usize)> {
        let i = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let offset = (address - self.allocations[i].base) as usize;
        let size = self.allocations[i].size;
        (offset < size && bytes <= size - offset).then_some((i, offset))
    }

    fn special(&self, special: Special, block: [u32; 3], warp: u32, lane: u32) -> u64 {
        let ([bx, by, _], grid) = (self.launch.block, self.launch.grid);
        let thread = 32 * warp + lane;
        let tid = [thread % bx, thread / bx % by, thread / bx / by];
        let linear = block[0] + grid[0] * (block[1] + grid[1] * block[2]);
        let cluster = self.launch.cluster.or(self.kernel.required_cluster()).unwrap_or([1; 3]);
        let lane_bit = 1u32 << lane;
        let value = match special {
            Special::Tid(c) => tid[c as usize],
            Special::Ntid(c) => self.launch.block[c as usize],
            Special::Ctaid(c) => block[c as usize],
            Special::Nctaid(c) => grid[c as usize],
            Special::LaneId => lane,
            Special::WarpId => warp,
            Special::NWarpId => self.threads.div_ceil(32),
            Special::WarpSize => 32,
            Special::SmId => linear % self.config.sm_count,
            Special::NSmId => self.config.sm_count,
            Special::GridId => self.tag,
            Special::LaneMaskEq => lane_bit,
            Special::LaneMaskLe => lane_bit | (lane_bit - 1),
            Special::LaneMaskLt => lane_bit - 1,
            Special::LaneMaskGe => !(lane_bit - 1),
            Special::LaneMaskGt => !(lane_bit | (lane_bit - 1)),
            Special::DynamicShared => self.launch.dynamic_shared,
            Special::TotalShared => self.launch.dynamic_shared + self.layout.static_size as u32,
            Special::ClusterId(c) => block[c as usize] / cluster[c as usize],
            Special::NClusterId(c) => grid[c as usize] / cluster[c as usize],
            Special::ClusterCtaId(c) => block[c as usize] % cluster[c as usize],
            Special::ClusterNCtaId(c) => cluster[c as usize],
            Special::ClusterCtaRank => {
                let at = |c: usize| block[c] % cluster[c];
                at(0) + cluster[0] * (at(1) + cluster[1] * at(2))
            }
            Special::ClusterNCtaRank => cluster.iter().product(),
            Special::Zero => 0,
        };
        value as u64
    }
}

/// Numbers the launches of the process.
static LAUNCHES: AtomicU32 = AtomicU32::new(1);

/// Warp instructions that a block runs before another may have its turn.
const TURN: u32 = 1 << 16;

/// Blocks that a worker may hold unfinished. A launch that asks for all its blocks to be resident has no bound.
const RESIDENT: usize = 256;

fn invalid(kernel: &Kernel, message: String) -> Fault {
    Fault {
        kind: FaultKind::InvalidLaunch,
        kernel: kernel.name().to_string(),
        line: 0,
        instruction: String::new(),
        block: [0; 3],
        thread: [0; 3],
        address: None,
        message,
    }
}

/// Whether the launch is possible at all; answers the number of blocks.
fn check(kernel: &Kernel, launch: &Launch, params: &[u8], config: &Config) -> Result<u32, String> {
    let blocks = launch.grid.iter().try_fold(1u32, |n, &g| n.checked_mul(g)).filter(|&n| n > 0);
    let Some(blocks) = blocks else { return Err(format!("grid {:?}", launch.grid)) };
    let threads: u64 = launch.block.iter().map(|&b| b as u64).product();
    if threads == 0 || threads > kernel.max_threads_per_block() as u64 {
        return Err(format!(
            "blocks of {:?}, the kernel allows {} threads",
            launch.block,
            kernel.max_threads_per_block()
        ));
    }
    if let Some(required) = kernel.required_threads
        && required != launch.block
    {
        return Err(format!("blocks of {:?}, the kernel requires {required:?}", launch.block));
    }
    let shared = kernel.static_shared() + launch.dynamic_shared as usize;
    if shared > config.shared_per_block_optin {
        return Err(format!(
            "{shared} bytes of shared memory, the device has {}",
            config.shared_per_block_optin
        ));
    }
    let cluster = launch.cluster.or(kernel.required_cluster()).unwrap_or([1; 3]);
    if cluster.iter().product::<u32>() != 1 {
        return Err(format!("clusters of {cluster:?} blocks are not supported"));
    }
    let wanted = kernel.params().last().map_or(0, |p| p.offset + p.size);
    if params.len() < wanted {
        return Err(format!("{} bytes of parameters, the kernel takes {wanted}", params.len()));
    }
    Ok(blocks)
}

/// Runs a kernel over its grid. `params` holds the parameters at the offsets of [`Kernel::params`].
///
/// Returns when every block has ended, or at the first fault.
pub fn launch(
    memory: &Memory,
    kernel: &Kernel,
    launch: &Launch,
    params: &[u8],
    config: &Config,
) -> Result<Counters, Fault> {
    let blocks =
        check(kernel, launch, params, config).map_err(|message| invalid(kernel, message))?;
    let program = &*kernel.program;
    let function = &kernel.function;
    let variables: Vec<_> = kernel.shared.iter().map(|&s| &program.shared[s as usize]).collect();
    let mut run = Run {
        launch,
        config,
        memory,
        program,
        kernel,
        name: kernel.name(),
        entry: function.entry,
        kernel_frame: function.frame,
        layout: Layout::new(&variables, launch.dynamic_shared as usize),
        complex: kernel.complex,
        threads: launch.block.iter().product(),
        rows: [function.rows[0].end, function.rows[1].end, function.rows[2].end],
        varying: Vec::new(),
        params,
        allocations: memory.snapshot(),
        tag: LAUNCHES.fetch_add(1, Ordering::Relaxed),
        releases: Releases::default(),
        racing: blocks > 1,
        wide_atomics: Mutex::new(()),
        started: Instant::now(),
    };
    let varying =
        run.reachable().flat_map(|f| &f.initial).filter_map(|&(reg, initial)| match initial {
            Initial::Special(s) => {
                let varies = matches!(
                    s,
                    Special::Ctaid(_)
                        | Special::SmId
                        | Special::ClusterId(_)
                        | Special::ClusterCtaId(_)
                        | Special::ClusterCtaRank
                );
                varies.then_some((reg, s))
            }
            _ => None,
        });
    run.varying = varying.collect();
    let run = run;
    let next = AtomicU32::new(0);
    let failed = AtomicBool::new(false);
    let fault: Mutex<Option<Box<Fault>>> = Mutex::new(None);
    let total = Mutex::new(Counters::default());
    let order = Order::new(blocks, config.seed);
    let worker = || match work(&run, &next, &failed, &order) {
        Ok(counters) => total.lock().unwrap_or_else(|e| e.into_inner()).add(&counters),
        Err(found) => {
            failed.store(true, Ordering::Relaxed);
            fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(found);
        }
    };
    let workers = config.threads.clamp(1, 256).min(blocks as usize);
    if workers == 1 {
        worker();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(worker);
            }
        });
    }
    memory.settle();
    match fault.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(fault) => Err(*fault),
        None => Ok(total.into_inner().unwrap_or_else(|e| e.into_inner())),
    }
}

/// The order in which blocks start: by number, or, under a seed, by an affine walk over the numbers.
struct Order {
    blocks: u64,
    step: u64,
    first: u64,
}

impl Order {
    fn new(blocks: u32, seed: u64) -> Order {
        let blocks = blocks as u64;
        if seed == 0 {
            return Order { blocks, step: 1, first: 0 };
        }
        let mut random = Random(seed);
        let coprime = |a: u64| {
            let (mut a, mut b) = (a, blocks);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let mut step = random.next() % blocks + 1;
        while !coprime(step) {
            step += 1;
        }
        Order { blocks, step, first: random.next() % blocks }
    }

    fn nth(&self, n: u32) -> u32 {
        ((self.first as u128 + self.step as u128 * n as u128) % self.blocks as u128) as u32
    }
}

/// One worker: takes blocks until there are none left. A block that seems to wait for others is set aside.
fn work(
    run: &Run,
    next: &AtomicU32,
    failed: &AtomicBool,
    order: &Order,
) -> Result<Counters, Box<Fault>> {
    let mut counters = Counters::default();
    let mut resident: VecDeque<Block> = VecDeque::new();
    let mut spare: Vec<Block> = Vec::new();
    let limit = if run.launch.cooperative { usize::MAX } else { RESIDENT };
    loop {
        let mut block = None;
        if resident.len() < limit {
            let n = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                ((n as u64) < order.blocks).then_some(n + 1)
            });
            if let Ok(n) = n {
                let mut fresh = spare.pop().unwrap_or_else(|| Block::new(run));
                fresh.start(order.nth(n));
                block = Some(fresh);
            }
        }
        let Some(mut block) = block.or_else(|| resident.pop_front()) else { break };
        loop {
            if failed.load(Ordering::Relaxed) {
                return Ok(counters);
            }
            match block.visit(TURN)? {
                Visit::Done => {
                    spare.push(block);
                    break;
                }
                Visit::Paused => {
                    if run.started.elapsed() > run.config.timeout {
                        return Err(block.timeout());
                    }
                    if block.strong {
                        resident.push_back(block);
                        break;
                    }
                }
            }
        }
    }
    for block in spare {
        counters.add(&block.counters);
    }
    Ok(counters)
}
