//! A warp: its registers, its groups of lanes and their stacks.
//!
//! Lanes that stand at the same instruction with the same calls behind them form a group and run together. A branch
//! splits a group, meeting again merges two; otherwise groups are independent, as threads are since Volta.

use std::collections::VecDeque;
use std::rc::Rc;

use super::program::{Function, NONE, Place};
use super::regs::{LANES, Regs};
use super::shared::{get, put};

/// Bytes of local memory that a thread may have.
pub(crate) const MOST_LOCAL: u32 = 512 << 10;

/// What keeps a group from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Ready,
    /// For the other lanes of this mask.
    Lanes(u32),
    /// For a barrier of the block.
    Barrier(u32),
    /// For the rest of the warp, before it ends.
    Leaving,
}

/// Rows of a function that may be entered again, as they were before this call.
#[derive(Debug)]
pub(crate) struct Saved {
    pub r32: Vec<[u32; LANES]>,
    pub r64: Vec<[u64; LANES]>,
    pub pred: Vec<u32>,
}

/// One call that has not returned.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The call instruction.
    pub call: u32,
    /// Function that was called.
    pub function: u32,
    /// The caller's frame.
    pub base: u32,
    pub top: u32,
    pub saved: Option<Rc<Saved>>,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        let same_rows = match (&self.saved, &other.saved) {
            (None, None) => true,
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            _ => false,
        };
        (self.call, self.function, self.base) == (other.call, other.function, other.base)
            && same_rows
    }
}

/// Lanes that run together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    pub frames: Vec<Frame>,
    /// The current frame in local memory: start and end.
    pub base: u32,
    pub top: u32,
    pub wait: Wait,
}

/// A copy that was issued and has not landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub lane: u8,
    /// Commit groups of the lane before it.
    pub group: u32,
    pub address: u32,
    pub bytes: u8,
    pub data: [u8; 16],
}

/// One warp.
#[derive(Default)]
pub(crate) struct Warp {
    pub regs: Regs,
    pub groups: Vec<Group>,
    /// Lanes that exist, and lanes that have ended.
    pub lanes: u32,
    pub exited: u32,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    pub local_size: u32,
    pub copies: VecDeque<Copy>,
    /// Commit groups of each lane.
    pub commits: [u32; LANES],
    /// Instructions run so far.
    pub serial: u32,
    /// How long the groups have not changed: one that spins must not starve the others.
    pub patience: u32,
}

impl Warp {
    /// Lanes that still run.
    pub fn live(&self) -> u32 {
        self.lanes & !self.exited
    }

    /// Whether some group can run.
    pub fn runnable(&self) -> bool {
        self.groups.iter().any(|g| g.wait == Wait::Ready)
    }

    /// Adds a group, merging it with one that stands at the same place.
    pub fn add(&mut self, group: Group) {
        if group.mask == 0 {
            return;
        }
        if group.wait == Wait::Ready {
            let twin = self.groups.iter_mut().find(|g| {
                g.wait == Wait::Ready
                    && g.pc == group.pc
                    && g.base == group.base
                    && g.frames == group.frames
            });
            if let Some(twin) = twin {
                twin.mask |= group.mask;
                self.patience = 0;
                return;
            }
        }
        self.groups.push(group);
    }

    /// Makes room for `size` bytes of local memory a lane.
    pub fn reserve(&mut self, size: u32) {
        if size <= self.local_size {
            return;
        }
        let new = size.next_power_of_two().max(256);
        let mut local = vec![0; new as usize * LANES];
        for lane in 0..LANES {
            let (from, to) = (lane * self.local_size as usize, lane * new as usize);
            local[to..to + self.local_size as usize]
                .copy_from_slice(&self.local[from..from + self.local_size as usize]);
        }
        self.local = local;
        self.local_size = new;
    }

    /// Reads up to 8 bytes of a lane's local memory.
    pub fn local_load(&self, lane: usize, address: u32, bytes: usize) -> u64 {
        let at = lane * self.local_size as usize + address as usize;
        get(&self.local[at..at + bytes])
    }

    /// Writes up to 8 bytes of a lane's local memory.
    pub fn local_store(&mut self, lane: usize, address: u32, bytes: usize, value: u64) {
        let at = lane * self.local_size as usize + address as usize;
        put(&mut self.local[at..at + bytes], value);
    }

    /// Copies places of one frame to places of another, for the lanes of a mask.
    pub fn copy_places(
        &mut self,
        mask: u32,
        from: (u32, &[Place]),
        to: (u32, &[Place]),
        sizes: &[Place],
    ) {
        for ((f, t), size) in from.1.iter().zip(to.1).zip(sizes) {
            for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
                let row = lane * self.local_size as usize;
                let source = row + (from.0 + f.offset) as usize;
                let target = row + (to.0 + t.offset) as usize;
                self.local.copy_within(source..source + size.size as usize, target);
            }
        }
    }

    /// Keeps the rows of a function that is entered.
    pub fn save(&self, f: &Function) -> Rc<Saved> {
        let range = |i: usize| f.rows[i].start as usize..f.rows[i].end as usize;
        Rc::new(Saved {
            r32: self.regs.r32[range(0)].to_vec(),
            r64: self.regs.r64[range(1)].to_vec(),
            pred: self.regs.pred[range(2)].to_vec(),
        })
    }

    /// Puts them back for the lanes that return.
    pub fn restore(&mut self, f: &Function, saved: &Saved, mask: u32) {
        for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            for (row, old) in self.regs.r32[f.rows[0].start as usize..].iter_mut().zip(&saved.r32) {
                row[lane] = old[lane];
            }
            for (row, old) in self.regs.r64[f.rows[1].start as usize..].iter_mut().zip(&saved.r64) {
                row[lane] = old[lane];
            }
        }
        for (row, old) in self.regs.pred[f.rows[2].start as usize..].iter_mut().zip(&saved.pred) {
            *row = *row & !mask | old & mask;
        }
    }

    /// The word of a lane in a row, or `default` where there is none.
    pub fn word(&self, slot: u32, lane: usize, default: u32) -> u32 {
        if slot == NONE { default } else { self.regs.r32[slot as usize][lane] }
    }
}
