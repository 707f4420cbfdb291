//! The lowered form of a module: a flat list of instructions whose registers, addresses and targets are resolved.

use super::regs::{AluFn, Slots};
use crate::report::Class;

/// Slot that stands for "none".
pub(crate) const NONE: u32 = u32::MAX;

/// Base of the generic window on shared memory. A block of a cluster would see its peers' windows after its own.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Base of the generic window on a thread's local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Base of the generic window on the kernel's parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// "Addresses" of device functions.
pub(crate) const FUNCTION_WINDOW: u64 = 0x0400_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 1 << 24;

/// A register of either file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg {
    pub slot: u32,
    pub wide: bool,
}

/// Where an address begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    None,
    Reg(Reg),
    /// The current function's frame in local memory.
    Frame,
}

/// The address of a memory instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub space: Space,
    pub base: Base,
    pub offset: i64,
}

/// State spaces as the interpreter tells them apart. Constants live in global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// How strong an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Not a plain access: volatile, relaxed or stronger.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
}

/// A load or store of one or several registers.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub address: Address,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub width: u8,
    pub signed: bool,
    /// Registers; one with slot [`NONE`] is not wanted (`_`).
    pub regs: Vec<Reg>,
    /// Whether a register of the destination is a 16-bit one, so that signs are extended to 16 bits only.
    pub short: bool,
    pub order: Order,
}

/// What an atomic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// The type an atomic computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum AtomType {
    U16, U32, S32, U64, S64, B128, F16, F16x2, Bf16, Bf16x2, F32, F64,
}

/// `atom` and `red`.
#[derive(Clone, Debug)]
pub(crate) struct Atomic {
    pub address: Address,
    pub op: AtomOp,
    pub ty: AtomType,
    pub ftz: bool,
    /// Old values; empty for `red`.
    pub dst: Vec<Reg>,
    pub src: Vec<Reg>,
    pub swap: Vec<Reg>,
    /// Elements of a vector form.
    pub count: u8,
    pub order: Order,
}

/// `shfl` modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// Instructions whose lanes meet: with a mask of the lanes that take part.
#[derive(Clone, Debug)]
pub(crate) enum Sync {
    Shuffle {
        mode: Shuffle,
        dst: u32,
        pred: u32,
        src: u32,
        lane: u32,
        clamp: u32,
    },
    VoteAll {
        dst: u32,
        src: u32,
    },
    VoteAny {
        dst: u32,
        src: u32,
    },
    VoteUniform {
        dst: u32,
        src: u32,
    },
    Ballot {
        dst: u32,
        src: u32,
    },
    MatchAny {
        dst: u32,
        src: Reg,
    },
    MatchAll {
        dst: u32,
        pred: u32,
        src: Reg,
    },
    Reduce {
        op: AtomOp,
        signed: bool,
        float: bool,
        abs: bool,
        nan: bool,
        dst: u32,
        src: u32,
    },
    Elect {
        dst: u32,
        pred: u32,
    },
    Barrier,
    /// Matrix instructions and the like, executed by whole warps.
    Matrix(Box<super::matrix::Matrix>),
}

/// Joins of `bar.red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarOp {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

/// A barrier of the block.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub op: BarOp,
    pub id: u32,
    /// Slot of the thread count, or [`NONE`] for the whole block.
    pub count: u32,
    /// All threads of a warp must execute it together.
    pub aligned: bool,
    /// Predicate slot and result (a register for `popc`, else a predicate).
    pub src: u32,
    pub dst: u32,
}

/// `cp.async` of shared from global memory.
#[derive(Clone, Debug)]
pub(crate) struct AsyncCopy {
    pub dst: Address,
    pub src: Address,
    pub bytes: u8,
    /// Slot of the number of bytes to take from the source, or [`NONE`] for all; the rest is zero.
    pub src_bytes: u32,
    /// Predicate slot under which the source is ignored, or [`NONE`].
    pub ignore: u32,
}

/// `mbarrier` operations on a 64-bit object in shared memory.
#[derive(Clone, Debug)]
pub(crate) enum MBarrier {
    Init {
        count: u32,
    },
    Invalidate,
    /// Slot of the count or [`NONE`]; register of the state or [`NONE`]; bytes to expect, or [`NONE`].
    Arrive {
        count: u32,
        state: u32,
        expect: u32,
        drop: bool,
        arrive: bool,
    },
    /// Predicate; state register (wide) or parity (narrow).
    Test {
        dst: u32,
        state: Reg,
    },
    PendingCount {
        dst: u32,
        state: u32,
    },
    /// An arrival when the lane's copies so far have landed.
    AsyncArrive {
        increment: bool,
    },
}

/// External functions that the machine provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    Printf,
    AssertFail,
}

/// The callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callee {
    Function(u32),
    Builtin(Builtin),
    /// A wide register with a function's address.
    Indirect(u32),
}

/// A call with the places of its arguments and results in the caller's frame.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub callee: Callee,
    pub args: Vec<Place>,
    pub returns: Vec<Place>,
}

/// A piece of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: u32,
    pub size: u32,
}

/// Values that change while a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Cycles,
    CyclesHigh,
    Cycles64,
    Nanoseconds,
    NanosecondsLow,
    NanosecondsHigh,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Alu(AluFn, Slots),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    /// Slot of the mask, or [`NONE`] for the whole warp.
    Sync(Box<Sync>, u32),
    ActiveMask(u32),
    Bar(Box<Bar>),
    /// Whether it reaches beyond the block.
    Fence(bool),
    AsyncCopy(Box<AsyncCopy>),
    AsyncCommit,
    /// Groups that may stay in flight; [`NONE`]: wait for all copies, committed or not.
    AsyncWait(u32),
    MBarrier(Box<MBarrier>, Address),
    Bra(u32),
    /// Slot of the index and the targets.
    BraIndexed(u32, Box<[u32]>),
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Clock(Clock, Reg),
    /// Address of a place in the frame.
    FrameAddress(Reg, u32),
    /// Whether an address lies in a window: predicate, register, space.
    IsSpace(u32, u32, Space),
    Nop,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instr {
    pub kind: Kind,
    /// Predicate slot, or [`NONE`].
    pub guard: u32,
    pub class: Class,
    /// Counted once for the PTX instruction it belongs to.
    pub counted: bool,
    pub exponentials: u8,
}

/// What a row holds before a block starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Initial {
    Bits(u64),
    /// Address of a shared variable (by number in [`Program::shared`]) plus an offset.
    Shared(u32, i64),
    Special(Special),
}

/// Special registers that do not change while a block runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Special {
    Tid(u8), Ntid(u8), Ctaid(u8), Nctaid(u8),
    LaneId, WarpId, NWarpId, WarpSize, SmId, NSmId, GridId,
    LaneMaskEq, LaneMaskLe, LaneMaskLt, LaneMaskGe, LaneMaskGt,
    DynamicShared, TotalShared,
    ClusterId(u8), NClusterId(u8), ClusterCtaId(u8), ClusterNCtaId(u8), ClusterCtaRank, ClusterNCtaRank,
    Zero,
}

/// A shared variable.
#[derive(Clone, Debug)]
pub(crate) struct SharedVariable {
    pub size: usize,
    pub align: usize,
    /// Its size is that of the launch's dynamic shared memory.
    pub dynamic: bool,
}

/// A function (or kernel) in the code.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub entry: u32,
    /// Where its code ends.
    pub end: u32,
    pub frame: u32,
    pub params: Vec<Place>,
    pub returns: Vec<Place>,
    /// Rows of each file that belong to the function: (r32, r64, predicates).
    pub rows: [std::ops::Range<u32>; 3],
    pub initial: Vec<(Reg, Initial)>,
    pub initial_predicates: Vec<(u32, bool)>,
    /// Functions it calls, and shared variables it names.
    pub calls: Vec<u32>,
    pub shared: Vec<u32>,
    /// Calls through pointers.
    pub indirect: bool,
    /// May be entered again before it returned: its rows are saved at each call.
    pub recursive: bool,
}

/// A module's code.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub code: Vec<Instr>,
    /// PTX line and text of each instruction.
    pub source: Vec<(u32, Box<str>)>,
    /// Device functions; kernels are kept apart.
    pub functions: Vec<Function>,
    pub shared: Vec<SharedVariable>,
}
