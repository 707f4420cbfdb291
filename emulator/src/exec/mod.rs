//! Execution of kernels: launches, blocks, warps and the faults they run into.

use std::fmt;

use crate::report::Counters;
use crate::{Config, Kernel, Memory};

pub(crate) mod race;

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
    let _ = (memory, kernel, launch, params, config);
    todo!()
}
