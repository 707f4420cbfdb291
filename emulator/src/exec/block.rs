//! A block: its warps, taken in pseudo-random turns, the barriers where they meet, and the instructions they run.

use std::collections::HashMap;

use super::atomics;
use super::program::*;
use super::race::Accessor;
use super::regs::LANES;
use super::shared::{Mode, Shared, Toucher, Wrong, bank_passes};
use super::warp::{Frame, Group, MOST_LOCAL, Wait, Warp};
use super::{Fault, FaultKind, Run, matrix, print};
use crate::MemoryError;
use crate::report::Counters;

/// Barriers of a block: the 16 named ones and the cluster's.
const BARRIERS: usize = 17;

/// A fault is large and rare.
pub(super) type Res<T> = Result<T, Box<Fault>>;

/// Lanes of a mask.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> + Clone {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            lane
        })
    })
}

#[derive(Clone, Debug, Default)]
struct Barrier {
    /// Lanes of each warp that wait.
    waiting: [u32; 32],
    /// Lanes of each warp that arrived without waiting, and arrivals complete so far.
    arrived: [u32; 32],
    arrivals: u32,
    /// Warps that took part without waiting.
    passers: u32,
    /// Threads expected; 0 for the whole block.
    expected: Option<u32>,
    /// Lanes whose predicate held, and whether any did not.
    held: u32,
    failed: bool,
}

/// An mbarrier object.
#[derive(Clone, Debug)]
struct MState {
    count: u32,
    pending: u32,
    bytes: i64,
    phase: u32,
}

/// Pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// How a visit to a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    Done,
    /// The budget was used up; the block may be waiting for another.
    Paused,
}

/// One block and the storage that its successors reuse.
pub(super) struct Block<'a> {
    run: &'a Run<'a>,
    index: [u32; 3],
    linear: u32,
    shared: Shared,
    warps: Vec<Warp>,
    barriers: Vec<Barrier>,
    mbarriers: HashMap<u32, MState>,
    pub counters: Counters,
    random: Random,
    releases: u32,
    fenced: bool,
    acquired: u64,
    /// The allocation that the last access met.
    cache: usize,
    /// A strong access was made since the last visit: the block may be spinning.
    pub strong: bool,
    cycles: u64,
}

impl<'a> Block<'a> {
    pub fn new(run: &'a Run<'a>) -> Block<'a> {
        let count = run.threads.div_ceil(LANES as u32) as usize;
        let mut warps = Vec::new();
        for w in 0..count {
            let mut warp = Warp::default();
            let [a, b, c] = run.rows;
            warp.regs.r32 = vec![[0; LANES]; a as usize];
            warp.regs.r64 = vec![[0; LANES]; b as usize];
            warp.regs.pred = vec![0; c as usize];
            let left = run.threads - 32 * w as u32;
            warp.lanes = if left >= 32 { !0 } else { (1 << left) - 1 };
            for f in run.reachable() {
                for &(reg, initial) in &f.initial {
                    let row: [u64; LANES] = std::array::from_fn(|lane| match initial {
                        Initial::Bits(bits) => bits,
                        Initial::Shared(id, offset) => {
                            run.shared_address(id).wrapping_add_signed(offset)
                        }
                        Initial::Special(s) => run.special(s, [0; 3], w as u32, lane as u32),
                    });
                    if reg.wide {
                        warp.regs.r64[reg.slot as usize] = row;
                    } else {
                        warp.regs.r32[reg.slot as usize] = row.map(|v| v as u32);
                    }
                }
                for &(slot, value) in &f.initial_predicates {
                    warp.regs.pred[slot as usize] = if value { !0 } else { 0 };
                }
            }
            warps.push(warp);
        }
        Block {
            run,
            index: [0; 3],
            linear: 0,
            shared: Shared::new(&run.layout, count, run.complex),
            warps,
            barriers: vec![Barrier::default(); BARRIERS],
            mbarriers: HashMap::new(),
            counters: Counters::default(),
            random: Random(0),
            releases: 0,
            fenced: false,
            acquired: 0,
            cache: 0,
            strong: false,
            cycles: 0,
        }
    }

    /// Makes it the block of that number.
    pub fn start(&mut self, linear: u32) {
        let run = self.run;
        let [gx, gy, _] = run.launch.grid;
        self.linear = linear;
        self.index = [linear % gx, linear / gx % gy, linear / gx / gy];
        self.shared.reset(&run.layout);
        self.random =
            Random(run.config.seed ^ (linear as u64 + 1).wrapping_mul(0xd129_42e1_6c57_f4a5));
        self.barriers.fill(Barrier::default());
        self.mbarriers.clear();
        (self.releases, self.fenced, self.acquired) = (0, false, 0);
        self.counters.blocks += 1;
        for warp in &mut self.warps {
            warp.exited = 0;
            warp.copies.clear();
            warp.commits = [0; LANES];
            warp.reserve(run.kernel_frame);
            warp.groups.clear();
            warp.groups.push(Group {
                pc: run.entry,
                mask: warp.lanes,
                frames: Vec::new(),
                base: 0,
                top: run.kernel_frame,
                wait: Wait::Ready,
            });
            for &(reg, special) in &run.varying {
                let v = run.special(special, self.index, 0, 0);
                if reg.wide {
                    warp.regs.r64[reg.slot as usize] = [v; LANES];
                } else {
                    warp.regs.r32[reg.slot as usize] = [v as u32; LANES];
                }
            }
        }
    }

    /// Runs until the block has ended or `budget` warp instructions are spent.
    pub fn visit(&mut self, mut budget: u32) -> Res<Visit> {
        let seed = self.run.config.seed;
        self.strong = false;
        loop {
            let mut runnable = 0u32;
            let mut live = false;
            for (w, warp) in self.warps.iter().enumerate() {
                let leaving = || warp.groups.iter().any(|g| g.wait == Wait::Leaving);
                runnable |= ((warp.runnable() || leaving()) as u32) << w;
                live |= !warp.groups.is_empty();
            }
            if runnable == 0 {
                if !live {
                    return Ok(Visit::Done);
                }
                return Err(self.deadlock());
            }
            if budget == 0 {
                return Ok(Visit::Paused);
            }
            let r = self.random.next();
            let nth = (r >> 32) as u32 % runnable.count_ones();
            let w = lanes(runnable).nth(nth as usize).unwrap_or(0);
            // Long and short slices both: a race must find its interleaving under some seed.
            let slice = if seed == 0 { 4096 } else { 1 << (r as u32 % 10) };
            let slice = slice.min(budget);
            budget -= slice;
            self.slice(w, slice)?;
        }
    }

    /// Takes the group of a warp that runs next.
    fn pick(&mut self, w: usize) -> Option<Group> {
        let seed = self.run.config.seed;
        let warp = &mut self.warps[w];
        let ready = || warp.groups.iter().enumerate().filter(|(_, g)| g.wait == Wait::Ready);
        let count = ready().count();
        if count == 0 {
            return None;
        }
        warp.patience += 1;
        // The lowest place first: so loops end before what follows them, and branches join again. But a group that
        // spins must let the others go on.
        let spinning = warp.patience > 64;
        let impatient =
            count > 1 && (spinning || seed != 0 && self.random.next().is_multiple_of(8));
        let chosen = if impatient {
            ready().nth(self.random.next() as usize % count)
        } else {
            ready().min_by_key(|(_, g)| g.pc)
        };
        let at = chosen.map(|(i, _)| i)?;
        if spinning {
            warp.patience = 0;
        }
        let mut group = warp.groups.swap_remove(at);
        if seed != 0 && group.mask.count_ones() > 1 && self.random.next().is_multiple_of(4) {
            // Threads owe each other no step: part of the group stays behind for a while.
            let part = group.mask & self.random.next() as u32;
            if part != 0 && part != group.mask {
                warp.groups.push(Group { mask: part, ..group.clone() });
                group.mask &= !part;
            }
        }
        Some(group)
    }

    /// Runs one warp for a while.
    fn slice(&mut self, w: usize, mut budget: u32) -> Res<()> {
        while budget > 0 {
            let Some(group) = self.pick(w) else { return self.settle_leavers(w) };
            self.group(w, group, &mut budget)?;
        }
        Ok(())
    }

    /// Runs a group until it blocks, ends, diverges, may meet another, or the budget is spent.
    fn group(&mut self, w: usize, mut group: Group, budget: &mut u32) -> Res<()> {
        let run = self.run;
        let code = &run.program.code;
        let alone = self.warps[w].groups.is_empty();
        let meeting = |group: &Group, warp: &Warp| {
            let above = warp.groups.iter().filter(|g| g.wait == Wait::Ready && g.pc > group.pc);
            above.map(|g| g.pc).min().unwrap_or(u32::MAX)
        };
        let mut limit = if alone { u32::MAX } else { meeting(&group, &self.warps[w]) };
        loop {
            if *budget == 0 || group.pc >= limit {
                self.warps[w].add(group);
                return Ok(());
            }
            *budget -= 1;
            let instr = &code[group.pc as usize];
            let warp = &mut self.warps[w];
            let mask = if instr.guard == NONE {
                group.mask
            } else {
                group.mask & warp.regs.predicate(instr.guard)
            };
            if instr.counted {
                let count = &mut self.counters.classes[instr.class as usize];
                count.warp += 1;
                // A branch is executed by every lane: its predicate is its condition.
                let branch = matches!(instr.kind, Kind::Bra(_));
                count.thread += if branch { group.mask } else { mask }.count_ones() as u64;
                self.cycles += 1;
                warp.serial = warp.serial.wrapping_add(1);
            }
            match &instr.kind {
                Kind::Alu(f, slots) => {
                    if mask != 0 {
                        // SAFETY: the lowering took the function from a table that asked what this machine can run.
                        unsafe { f(&mut warp.regs, slots, mask) };
                        if instr.exponentials != 0 {
                            self.counters.exponentials +=
                                (mask.count_ones() * instr.exponentials as u32) as u64;
                        }
                    }
                    group.pc += 1;
                }
                Kind::Bra(target) => {
                    if mask == group.mask {
                        group.pc = *target;
                    } else if mask == 0 {
                        group.pc += 1;
                    } else {
                        return self.split(w, group, &[(mask, *target)]);
                    }
                    if !alone {
                        limit = meeting(&group, &self.warps[w]);
                        if self.warps[w]
                            .groups
                            .iter()
                            .any(|g| g.wait == Wait::Ready && g.pc == group.pc)
                        {
                            self.warps[w].add(group);
                            return Ok(());
                        }
                    }
                }
                Kind::Load(access) => {
                    if mask != 0 {
                        self.load(w, &group, access, mask)?;
                    }
                    group.pc += 1;
                    if access.order.strong && !alone {
                        self.warps[w].patience += 8;
                        self.warps[w].add(group);
                        return Ok(());
                    }
                }
                Kind::Store(access) => {
                    if mask != 0 {
                        self.store(w, &group, access, mask)?;
                    }
                    group.pc += 1;
                }
                Kind::Nop => group.pc += 1,
                _ if mask == 0 => group.pc += 1,
                Kind::Atomic(a) => {
                    self.atomic(w, &group, a, mask)?;
                    group.pc += 1;
                    // It may be spinning for a lane that waits in another group.
                    if !alone {
                        self.warps[w].patience += 8;
                        self.warps[w].add(group);
                        return Ok(());
                    }
                }
                Kind::ActiveMask(d) => {
                    for lane in lanes(mask) {
                        warp.regs.r32[*d as usize][lane] = group.mask;
                    }
                    group.pc += 1;
                }
                Kind::Fence(wide) => {
                    self.fenced |= wide;
                    self.shared.fence(w);
                    group.pc += 1;
                }
                Kind::AsyncCopy(copy) => {
                    self.async_copy(w, &group, copy, mask)?;
                    group.pc += 1;
                }
                Kind::AsyncCommit => {
                    for lane in lanes(mask) {
                        warp.commits[lane] += 1;
                    }
                    group.pc += 1;
                }
                Kind::AsyncWait(n) => {
                    self.land(w, &group, mask, *n)?;
                    group.pc += 1;
                }
                Kind::FrameAddress(reg, offset) => {
                    let v = group.base + offset;
                    for lane in lanes(mask) {
                        if reg.wide {
                            warp.regs.r64[reg.slot as usize][lane] = v as u64;
                        } else {
                            warp.regs.r32[reg.slot as usize][lane] = v;
                        }
                    }
                    group.pc += 1;
                }
                Kind::IsSpace(d, a, space) => {
                    let mut bits = 0;
                    for lane in lanes(mask) {
                        let found = space_of(warp.regs.r64[*a as usize][lane]).0;
                        bits |= ((found == *space) as u32) << lane;
                    }
                    warp.regs.set_predicate(*d, bits, mask);
                    group.pc += 1;
                }
                Kind::Clock(clock, reg) => {
                    let nanoseconds = || run.started.elapsed().as_nanos() as u64;
                    let v = match clock {
                        Clock::Cycles | Clock::Cycles64 => self.cycles,
                        Clock::CyclesHigh => self.cycles >> 32,
                        Clock::Nanoseconds | Clock::NanosecondsLow => nanoseconds(),
                        Clock::NanosecondsHigh => nanoseconds() >> 32,
                    };
                    for lane in lanes(mask) {
                        if reg.wide {
                            warp.regs.r64[reg.slot as usize][lane] = v;
                        } else {
                            warp.regs.r32[reg.slot as usize][lane] = v as u32;
                        }
                    }
                    group.pc += 1;
                }
                Kind::Trap => {
                    let lane = mask.trailing_zeros() as usize;
                    return Err(self.fault(
                        FaultKind::Trap,
                        w,
                        lane,
                        group.pc,
                        None,
                        "the kernel stopped itself".into(),
                    ));
                }
                // From here on: what only the active lanes do, and what may change the group.
                _ if mask != group.mask => {
                    let rest =
                        Group { mask: group.mask & !mask, pc: group.pc + 1, ..group.clone() };
                    group.mask = mask;
                    // The count above was for both parts.
                    self.warps[w].add(rest);
                    let leaves = matches!(instr.kind, Kind::Exit)
                        || matches!(instr.kind, Kind::Ret) && group.frames.is_empty();
                    if leaves {
                        return self.leave(w, mask);
                    }
                    return self.control(w, group);
                }
                _ => {
                    let simple =
                        matches!(&instr.kind, Kind::Sync(..)) && self.together(w, &mut group)?;
                    if !simple {
                        return self.control(w, group);
                    }
                }
            }
        }
    }

    /// A `.sync` instruction whose lanes are all here: runs it, and answers whether it did.
    fn together(&mut self, w: usize, group: &mut Group) -> Res<bool> {
        let run = self.run;
        let Kind::Sync(sync, slot) = &run.program.code[group.pc as usize].kind else {
            return Ok(false);
        };
        let warp = &self.warps[w];
        let member = if *slot == NONE {
            !0
        } else {
            warp.regs.r32[*slot as usize][group.mask.trailing_zeros() as usize]
        };
        if *slot != NONE {
            let row = &warp.regs.r32[*slot as usize];
            if lanes(group.mask).any(|l| row[l] != member) {
                return Ok(false);
            }
        }
        if group.mask & !member != 0
            || group.mask != member & warp.live()
            || *slot == NONE && group.mask != !0
        {
            return Ok(false);
        }
        self.perform(w, group.pc, sync, group.mask, group)?;
        group.pc += 1;
        Ok(true)
    }

    /// Adds a group that just branched. One that only returns from the kernel does so at once.
    fn depart(&mut self, w: usize, group: Group) -> Res<()> {
        let instr = &self.run.program.code[group.pc as usize];
        let leaves = matches!(instr.kind, Kind::Exit)
            || matches!(instr.kind, Kind::Ret) && group.frames.is_empty();
        if group.mask != 0 && leaves && instr.guard == NONE {
            let count = &mut self.counters.classes[instr.class as usize];
            count.warp += instr.counted as u64;
            count.thread += if instr.counted { group.mask.count_ones() as u64 } else { 0 };
            return self.leave(w, group.mask);
        }
        self.warps[w].add(group);
        Ok(())
    }

    /// Splits a group: each (mask, target) goes its way, the rest goes on.
    fn split(&mut self, w: usize, mut group: Group, parts: &[(u32, u32)]) -> Res<()> {
        self.warps[w].patience = 0;
        for &(mask, target) in parts {
            group.mask &= !mask;
            let part = Group { mask, pc: target, ..group.clone() };
            self.depart(w, part)?;
        }
        group.pc += 1;
        self.depart(w, group)
    }

    /// Instructions after which the group may not be what it was. All its lanes take part.
    fn control(&mut self, w: usize, mut group: Group) -> Res<()> {
        let run = self.run;
        let instr = &run.program.code[group.pc as usize];
        match &instr.kind {
            Kind::Ret => self.ret(w, group),
            Kind::Exit => self.exit(w, group),
            Kind::BraIndexed(slot, targets) => {
                let row = self.warps[w].regs.r32[*slot as usize];
                let mut parts: Vec<(u32, u32)> = Vec::new();
                for lane in lanes(group.mask) {
                    let Some(&target) = targets.get(row[lane] as usize) else {
                        let message = format!("branch index {} of {}", row[lane], targets.len());
                        return Err(self.fault(
                            FaultKind::IllegalInstruction,
                            w,
                            lane,
                            group.pc,
                            None,
                            message,
                        ));
                    };
                    match parts.iter_mut().find(|(_, t)| *t == target) {
                        Some(part) => part.0 |= 1 << lane,
                        None => parts.push((1 << lane, target)),
                    }
                }
                self.split(w, group, &parts)
            }
            Kind::Call(call) => self.call(w, group, call),
            Kind::Sync(sync, slot) => self.sync(w, group, sync, *slot),
            Kind::Bar(bar) => self.bar(w, group, bar),
            Kind::MBarrier(op, address) => {
                let again = self.mbarrier(w, &group, op, address)?;
                // A wait that fails leaves the processor to others.
                if again {
                    self.strong = true;
                }
                group.pc += 1;
                self.warps[w].add(group);
                Ok(())
            }
            _ => {
                let lane = group.mask.trailing_zeros() as usize;
                let message = "the interpreter has no such instruction".to_string();
                Err(self.fault(FaultKind::IllegalInstruction, w, lane, group.pc, None, message))
            }
        }
    }

    fn ret(&mut self, w: usize, mut group: Group) -> Res<()> {
        let run = self.run;
        let Some(frame) = group.frames.pop() else { return self.exit(w, group) };
        let function = &run.program.functions[frame.function as usize];
        let warp = &mut self.warps[w];
        if let Kind::Call(call) = &run.program.code[frame.call as usize].kind {
            warp.copy_places(
                group.mask,
                (group.base, &function.returns),
                (frame.base, &call.returns),
                &function.returns,
            );
        }
        if let Some(saved) = &frame.saved {
            warp.restore(function, saved, group.mask);
        }
        group.pc = frame.call + 1;
        group.base = frame.base;
        group.top = frame.top;
        warp.add(group);
        Ok(())
    }

    fn call(&mut self, w: usize, mut group: Group, call: &Call) -> Res<()> {
        let run = self.run;
        let first = group.mask.trailing_zeros() as usize;
        let id = match call.callee {
            Callee::Builtin(builtin) => {
                self.builtin(w, &group, call, builtin)?;
                group.pc += 1;
                self.warps[w].add(group);
                return Ok(());
            }
            Callee::Function(id) => id,
            Callee::Indirect(slot) => {
                let row = self.warps[w].regs.r64[slot as usize];
                let same: u32 =
                    lanes(group.mask).filter(|&l| row[l] == row[first]).map(|l| 1 << l).sum();
                if same != group.mask {
                    self.warps[w].add(Group { mask: group.mask & !same, ..group.clone() });
                    group.mask = same;
                }
                let target = row[first].wrapping_sub(FUNCTION_WINDOW);
                if !target.is_multiple_of(16) || target / 16 >= run.program.functions.len() as u64 {
                    let message = "a call of something that is no function".to_string();
                    return Err(self.fault(
                        FaultKind::IllegalInstruction,
                        w,
                        first,
                        group.pc,
                        Some(row[first]),
                        message,
                    ));
                }
                (target / 16) as u32
            }
        };
        let function = &run.program.functions[id as usize];
        let base = group.top.next_multiple_of(16);
        let top = base + function.frame;
        if top > MOST_LOCAL || group.frames.len() > 4096 {
            let message = format!("{} calls deep in `{}`", group.frames.len(), function.name);
            return Err(self.fault(FaultKind::StackOverflow, w, first, group.pc, None, message));
        }
        if call.args.len() != function.params.len() || call.returns.len() != function.returns.len()
        {
            let message =
                format!("`{}` is called with the wrong number of arguments", function.name);
            return Err(self.fault(
                FaultKind::IllegalInstruction,
                w,
                first,
                group.pc,
                None,
                message,
            ));
        }
        let warp = &mut self.warps[w];
        warp.reserve(top);
        warp.copy_places(
            group.mask,
            (group.base, &call.args),
            (base, &function.params),
            &function.params,
        );
        let saved = function.recursive.then(|| warp.save(function));
        group.frames.push(Frame {
            call: group.pc,
            function: id,
            base: group.base,
            top: group.top,
            saved,
        });
        (group.base, group.top, group.pc) = (base, top, function.entry);
        warp.add(group);
        Ok(())
    }

    fn builtin(&mut self, w: usize, group: &Group, call: &Call, builtin: Builtin) -> Res<()> {
        for lane in lanes(group.mask) {
            let argument = |block: &Block, i: usize| {
                call.args
                    .get(i)
                    .map_or(0, |p| block.warps[w].local_load(lane, group.base + p.offset, 8))
            };
            match builtin {
                Builtin::Printf => {
                    let (format, list) = (argument(self, 0), argument(self, 1));
                    let format = self.text(w, lane, group, format)?;
                    let mut wrong = None;
                    let (text, count) = print::format(
                        &format,
                        |offset, size| {
                            if list == 0 {
                                return 0;
                            }
                            self.peek(w, lane, group, list + offset as u64, size).unwrap_or_else(
                                |fault| {
                                    wrong = Some(fault);
                                    0
                                },
                            )
                        },
                        |address| self.text(w, lane, group, address).unwrap_or_default(),
                    );
                    if let Some(fault) = wrong {
                        return Err(fault);
                    }
                    print::emit(&text);
                    if let Some(place) = call.returns.first() {
                        self.warps[w].local_store(lane, group.base + place.offset, 4, count as u64);
                    }
                }
                Builtin::AssertFail => {
                    let read = |i: usize| {
                        self.text(w, lane, group, argument(self, i))
                            .map(|t| String::from_utf8_lossy(&t).into_owned())
                    };
                    let (message, file, function) = (read(0)?, read(1)?, read(3)?);
                    let line = call
                        .args
                        .get(2)
                        .map_or(0, |p| self.warps[w].local_load(lane, group.base + p.offset, 4));
                    let message =
                        format!("{file}:{line}: {function}: assertion `{message}` failed");
                    return Err(self.fault(FaultKind::Trap, w, lane, group.pc, None, message));
                }
            }
        }
        Ok(())
    }

    /// A string in device memory.
    fn text(&self, w: usize, lane: usize, group: &Group, address: u64) -> Res<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < 65536 {
            match self.peek(w, lane, group, address + out.len() as u64, 1)? {
                0 => break,
                c => out.push(c as u8),
            }
        }
        Ok(out)
    }

    /// Reads through a generic address without being counted.
    fn peek(&self, w: usize, lane: usize, group: &Group, address: u64, bytes: usize) -> Res<u64> {
        let wrong = |message: &str| {
            self.fault(FaultKind::OutOfBounds, w, lane, group.pc, Some(address), message.into())
        };
        match space_of(address) {
            (Space::Local, at) if at + bytes as u64 <= group.top as u64 => {
                Ok(self.warps[w].local_load(lane, at as u32, bytes))
            }
            (Space::Shared, at) if self.shared.exists(at as u32, bytes) => {
                Ok(self.shared.load(at as u32, bytes))
            }
            (Space::Global, at) => {
                let Some((a, offset)) = self.run.find(at, bytes) else {
                    return Err(wrong("no allocation here"));
                };
                if !offset.is_multiple_of(bytes) {
                    return Err(wrong("misaligned argument"));
                }
                Ok(self.run.allocations[a].load(offset, bytes))
            }
            _ => Err(wrong("no memory here")),
        }
    }

    /// The lanes of a group end. While others of the warp can run, they are only about to: whether somebody waits for
    /// them must not depend on who was faster.
    fn exit(&mut self, w: usize, mut group: Group) -> Res<()> {
        if self.warps[w].runnable() {
            group.wait = Wait::Leaving;
            self.warps[w].groups.push(group);
            return Ok(());
        }
        self.leave(w, group.mask)
    }

    /// Ends lanes, unless others of the warp wait for them.
    fn leave(&mut self, w: usize, mask: u32) -> Res<()> {
        let missed = self.warps[w].groups.iter().find_map(|g| match g.wait {
            Wait::Lanes(member) if member & mask != 0 => Some((g.pc, g.mask, member)),
            _ => None,
        });
        if let Some((pc, waiting, member)) = missed {
            let lane = waiting.trailing_zeros() as usize;
            let message = format!(
                "lanes {:#010x} of the mask {member:#010x} end without coming here",
                member & mask
            );
            return Err(self.fault(FaultKind::MaskMismatch, w, lane, pc, None, message));
        }
        self.warps[w].exited |= mask;
        Ok(())
    }

    /// Lets the lanes of a warp end that are about to, as nobody else of it can run.
    fn settle_leavers(&mut self, w: usize) -> Res<()> {
        let leaving = self.warps[w].groups.iter().filter(|g| g.wait == Wait::Leaving);
        let mask: u32 = leaving.map(|g| g.mask).sum();
        self.warps[w].groups.retain(|g| g.wait != Wait::Leaving);
        if mask == 0 { Ok(()) } else { self.leave(w, mask) }
    }

    fn sync(&mut self, w: usize, mut group: Group, sync: &Sync, slot: u32) -> Res<()> {
        let warp = &mut self.warps[w];
        let first = group.mask.trailing_zeros() as usize;
        let mut member = !0;
        if slot != NONE {
            let row = warp.regs.r32[slot as usize];
            member = row[first];
            let same: u32 = lanes(group.mask).filter(|&l| row[l] == member).map(|l| 1 << l).sum();
            if same != group.mask {
                // Each part is ready to try by itself; pushed, not added, as they must stay apart.
                warp.groups.push(Group { mask: group.mask & !same, ..group.clone() });
                group.mask = same;
            }
            let strangers = group.mask & !member;
            if strangers != 0 {
                let message = format!(
                    "the thread executes the instruction but is not in its mask {member:#010x}"
                );
                let lane = strangers.trailing_zeros() as usize;
                return Err(self.fault(FaultKind::MaskMismatch, w, lane, group.pc, None, message));
            }
        }
        let live = warp.live();
        if slot == NONE && live != !0 {
            let message = format!(
                "a matrix instruction needs the whole warp, but only lanes {live:#010x} run"
            );
            return Err(self.fault(FaultKind::MaskMismatch, w, first, group.pc, None, message));
        }
        let required = member & live;
        // Lanes of the mask that wait here already. A plain warp barrier may be met at any place.
        let anywhere = matches!(sync, Sync::Barrier);
        let mut here = group.mask;
        for g in &warp.groups {
            let barrier = || matches!(&self.run.program.code[g.pc as usize].kind, Kind::Sync(s, _) if matches!(**s, Sync::Barrier));
            if g.wait == Wait::Lanes(member) && (g.pc == group.pc || anywhere && barrier()) {
                here |= g.mask;
            }
        }
        if here != required {
            group.wait = Wait::Lanes(member);
            warp.groups.push(group);
            return Ok(());
        }
        let mut others = Vec::new();
        warp.groups.retain(|g| {
            let meets = g.wait == Wait::Lanes(member) && g.mask & required != 0;
            if meets {
                others.push(g.clone());
            }
            !meets
        });
        warp.patience = 0;
        self.perform(w, group.pc, sync, required, &group)?;
        others.push(group);
        for mut g in others {
            g.wait = Wait::Ready;
            g.pc += 1;
            self.warps[w].add(g);
        }
        Ok(())
    }

    /// Runs a `.sync` instruction for the lanes of `mask`, all of which are here.
    fn perform(&mut self, w: usize, pc: u32, sync: &Sync, mask: u32, group: &Group) -> Res<()> {
        let all = mask == self.warps[w].live();
        if !matches!(sync, Sync::Matrix(_)) {
            self.shared.meet(w, mask, all);
        }
        let regs = &mut self.warps[w].regs;
        match sync {
            Sync::Barrier => {}
            Sync::Shuffle { mode, dst, pred, src, lane, clamp } => {
                let (a, b, c) =
                    (regs.r32[*src as usize], regs.r32[*lane as usize], regs.r32[*clamp as usize]);
                let mut inside = 0;
                let mut out = regs.r32[*dst as usize];
                for l in lanes(mask) {
                    let me = l as i32;
                    let (bound, segment) = ((c[l] & 31) as i32, (c[l] >> 8 & 31) as i32);
                    let most = me & segment | bound & !segment;
                    let least = me & segment;
                    let by = (b[l] & 31) as i32;
                    let (from, ok) = match mode {
                        Shuffle::Up => (me - by, me - by >= most),
                        Shuffle::Down => (me + by, me + by <= most),
                        Shuffle::Butterfly => (me ^ by, (me ^ by) <= most),
                        Shuffle::Index => (least | by & !segment, (least | by & !segment) <= most),
                    };
                    let from = if ok { from } else { me } as usize;
                    inside |= (ok as u32) << l;
                    // A lane that is not in the mask has nothing to give: its value is unpredictable.
                    out[l] = if mask >> from & 1 == 1 { a[from] } else { 0xdead_beef };
                }
                regs.r32[*dst as usize] = out;
                if *pred != NONE {
                    regs.set_predicate(*pred, inside, mask);
                }
            }
            Sync::VoteAll { dst, src } => {
                let all = regs.predicate(*src) & mask == mask;
                regs.set_predicate(*dst, if all { !0 } else { 0 }, mask);
            }
            Sync::VoteAny { dst, src } => {
                let any = regs.predicate(*src) & mask != 0;
                regs.set_predicate(*dst, if any { !0 } else { 0 }, mask);
            }
            Sync::VoteUniform { dst, src } => {
                let p = regs.predicate(*src) & mask;
                regs.set_predicate(*dst, if p == 0 || p == mask { !0 } else { 0 }, mask);
            }
            Sync::Ballot { dst, src } => {
                let p = regs.predicate(*src) & mask;
                for l in lanes(mask) {
                    regs.r32[*dst as usize][l] = p;
                }
            }
            Sync::MatchAny { dst, src } | Sync::MatchAll { dst, src, .. } => {
                let value = |l: usize| {
                    if src.wide {
                        regs.r64[src.slot as usize][l]
                    } else {
                        regs.r32[src.slot as usize][l] as u64
                    }
                };
                let equal = |l: usize| {
                    lanes(mask).filter(|&k| value(k) == value(l)).map(|k| 1u32 << k).sum::<u32>()
                };
                let found: Vec<(usize, u32)> = lanes(mask).map(|l| (l, equal(l))).collect();
                let every = found.iter().all(|&(_, m)| m == mask);
                let any = matches!(sync, Sync::MatchAny { .. });
                for (l, m) in found {
                    regs.r32[*dst as usize][l] = if any || every { m } else { 0 };
                }
                if let Sync::MatchAll { pred, .. } = sync
                    && *pred != NONE
                {
                    regs.set_predicate(*pred, if every { !0 } else { 0 }, mask);
                }
            }
            Sync::Reduce { op, signed, float, abs, nan, dst, src } => {
                let row = regs.r32[*src as usize];
                let clean = |v: u32| if *abs { v & 0x7fff_ffff } else { v };
                let mut values = lanes(mask).map(|l| if *float { clean(row[l]) } else { row[l] });
                let first = values.next().unwrap_or(0);
                let result = values.fold(first, |x, y| match (op, signed, float) {
                    (AtomOp::Min | AtomOp::Max, _, true) => {
                        let how = super::float::MinMax {
                            max: *op == AtomOp::Max,
                            nan: *nan,
                            xorsign: false,
                        };
                        super::float::min_max(
                            f32::from_bits(x) as f64,
                            f32::from_bits(y) as f64,
                            how,
                        )
                        .map_or(super::float::NAN32, |v| (v as f32).to_bits())
                    }
                    (AtomOp::Add, ..) => x.wrapping_add(y),
                    (AtomOp::Min, true, _) => (x as i32).min(y as i32) as u32,
                    (AtomOp::Max, true, _) => (x as i32).max(y as i32) as u32,
                    (AtomOp::Min, ..) => x.min(y),
                    (AtomOp::Max, ..) => x.max(y),
                    (AtomOp::And, ..) => x & y,
                    (AtomOp::Or, ..) => x | y,
                    _ => x ^ y,
                });
                for l in lanes(mask) {
                    regs.r32[*dst as usize][l] = result;
                }
            }
            Sync::Elect { dst, pred } => {
                let leader = mask.trailing_zeros();
                for l in lanes(mask) {
                    regs.r32[*dst as usize][l] = leader;
                }
                regs.set_predicate(*pred, 1 << leader, mask);
            }
            Sync::Matrix(m) => {
                self.counters.mma_flops += m.flops();
                match m.shape {
                    matrix::Shape::Load { count, transpose } => {
                        return self.load_matrix(w, pc, m, count, transpose, group);
                    }
                    matrix::Shape::Store { count, transpose } => {
                        return self.store_matrix(w, pc, m, count, transpose, group);
                    }
                    _ => m.compute(regs),
                }
            }
        }
        Ok(())
    }

    /// Addresses of matrix rows, checked to be in shared memory.
    fn row_addresses(
        &mut self,
        w: usize,
        pc: u32,
        m: &matrix::Matrix,
        count: usize,
        group: &Group,
    ) -> Res<[u64; LANES]> {
        let (mut addresses, _) = self.addresses(w, group, &m.address, !0);
        let shared = m.address.space == Space::Shared;
        for (lane, a) in addresses.iter_mut().enumerate().take(8 * count) {
            let (space, at) = if shared { (Space::Shared, *a) } else { space_of(*a) };
            if space != Space::Shared {
                return Err(self.fault(
                    FaultKind::OutOfBounds,
                    w,
                    lane,
                    pc,
                    Some(*a),
                    "a matrix row outside shared memory".into(),
                ));
            }
            *a = at;
        }
        for first in (0..8 * count).step_by(8) {
            let (passes, ideal) = bank_passes(&addresses, 0xff << first, 16);
            self.counters.shared_transactions += passes;
            self.counters.bank_conflicts += passes - ideal;
        }
        self.counters.shared_requests += 1;
        Ok(addresses)
    }

    fn load_matrix(
        &mut self,
        w: usize,
        pc: u32,
        m: &matrix::Matrix,
        count: usize,
        transpose: bool,
        group: &Group,
    ) -> Res<()> {
        let addresses = self.row_addresses(w, pc, m, count, group)?;
        for part in 0..count {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * part + r;
                let at = self.shared_range(w, lane, pc, addresses[lane], 16, 16, Mode::Read)?;
                for (e, v) in self.shared.bytes(at, 16).chunks_exact(2).zip(row) {
                    *v = u16::from_le_bytes([e[0], e[1]]);
                }
            }
            self.warps[w].regs.r32[m.groups[0][part] as usize] =
                std::array::from_fn(|lane| matrix::pick(&rows, lane, transpose));
        }
        Ok(())
    }

    fn store_matrix(
        &mut self,
        w: usize,
        pc: u32,
        m: &matrix::Matrix,
        count: usize,
        transpose: bool,
        group: &Group,
    ) -> Res<()> {
        let addresses = self.row_addresses(w, pc, m, count, group)?;
        for part in 0..count {
            let mut rows = [[0u16; 8]; 8];
            let values = self.warps[w].regs.r32[m.groups[0][part] as usize];
            for (lane, &v) in values.iter().enumerate() {
                matrix::put(&mut rows, lane, transpose, v);
            }
            for (r, row) in rows.iter().enumerate() {
                let lane = 8 * part + r;
                let at = self.shared_range(w, lane, pc, addresses[lane], 16, 16, Mode::Write)?;
                let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.shared.set_bytes(at, &bytes);
            }
        }
        Ok(())
    }

    fn bar(&mut self, w: usize, mut group: Group, bar: &Bar) -> Res<()> {
        let warp = &self.warps[w];
        let first = group.mask.trailing_zeros() as usize;
        let id = warp.regs.r32[bar.id as usize][first];
        let count = if bar.count == NONE { 0 } else { warp.regs.r32[bar.count as usize][first] };
        let same: u32 = lanes(group.mask)
            .filter(|&l| {
                warp.regs.r32[bar.id as usize][l] == id && warp.word(bar.count, l, 0) == count
            })
            .map(|l| 1 << l)
            .sum();
        if same != group.mask {
            self.warps[w].groups.push(Group { mask: group.mask & !same, ..group.clone() });
            group.mask = same;
        }
        if id as usize >= BARRIERS || count % 32 != 0 {
            let message = format!("barrier {id} with {count} threads");
            return Err(self.fault(
                FaultKind::IllegalInstruction,
                w,
                first,
                group.pc,
                None,
                message,
            ));
        }
        if bar.aligned
            && let Some(other) = self.warps[w]
                .groups
                .iter()
                .find(|g| g.wait == Wait::Barrier(id) && g.pc != group.pc)
        {
            let line = self.run.program.source[other.pc as usize].0;
            let message = format!("others of the warp wait at the barrier of PTX line {line}");
            return Err(self.fault(
                FaultKind::BarrierDivergence,
                w,
                first,
                group.pc,
                None,
                message,
            ));
        }
        let held =
            if bar.src == NONE { 0 } else { self.warps[w].regs.predicate(bar.src) & group.mask };
        let absent = !self.warps[w].lanes;
        let barrier = &mut self.barriers[id as usize];
        if *barrier.expected.get_or_insert(count) != count {
            let message = format!(
                "barrier {id} expects {} threads elsewhere, {count} here",
                barrier.expected.unwrap_or(0)
            );
            return Err(self.fault(
                FaultKind::BarrierDivergence,
                w,
                first,
                group.pc,
                None,
                message,
            ));
        }
        if bar.op == BarOp::Arrive {
            barrier.arrived[w] |= group.mask;
            barrier.passers |= 1 << w;
            self.shared.publish(w, u32::MAX - id, true);
            if barrier.arrived[w] | absent == !0 {
                barrier.arrivals += 32;
                barrier.arrived[w] = 0;
            }
            group.pc += 1;
            self.warps[w].add(group);
        } else {
            barrier.waiting[w] |= group.mask;
            barrier.held += held.count_ones();
            barrier.failed |= held != group.mask;
            group.wait = Wait::Barrier(id);
            self.warps[w].groups.push(group);
        }
        self.settle_barrier(id)
    }

    /// Lets the threads of a barrier go if all have come.
    fn settle_barrier(&mut self, id: u32) -> Res<()> {
        let barrier = &self.barriers[id as usize];
        let waiting: u32 =
            (0..self.warps.len()).filter(|&w| barrier.waiting[w] != 0).map(|w| 1 << w).sum();
        let complete = match barrier.expected {
            None => return Ok(()),
            // A thread that ended without it is one that did not reach it.
            Some(0) => self
                .warps
                .iter()
                .zip(&barrier.waiting)
                .all(|(warp, &waiting)| waiting == warp.lanes),
            Some(expected) => {
                let arrived: u32 = lanes(waiting)
                    .map(|w| {
                        let present = barrier.waiting[w] | !self.warps[w].lanes;
                        if present == !0 { 32 } else { barrier.waiting[w].count_ones() }
                    })
                    .sum();
                arrived + barrier.arrivals >= expected
            }
        };
        if !complete {
            return Ok(());
        }
        let barrier = std::mem::take(&mut self.barriers[id as usize]);
        let taking_part = waiting | barrier.passers;
        if barrier.passers == 0 && taking_part.count_ones() as usize == self.warps.len() {
            self.shared.barrier();
        } else {
            // Who only arrived is ordered up to there, and learns nothing.
            self.shared.meet_warps(waiting);
            lanes(waiting).for_each(|w| self.shared.learn(w, u32::MAX - id));
            self.shared.forget(u32::MAX - id);
        }
        let run = self.run;
        for w in lanes(waiting) {
            let warp = &mut self.warps[w];
            let (done, rest): (Vec<Group>, Vec<Group>) = std::mem::take(&mut warp.groups)
                .into_iter()
                .partition(|g| g.wait == Wait::Barrier(id));
            warp.groups = rest;
            for mut group in done {
                if let Kind::Bar(bar) = &run.program.code[group.pc as usize].kind {
                    match bar.op {
                        BarOp::Popc => {
                            for l in lanes(group.mask) {
                                warp.regs.r32[bar.dst as usize][l] = barrier.held;
                            }
                        }
                        BarOp::And => warp.regs.set_predicate(
                            bar.dst,
                            if barrier.failed { 0 } else { !0 },
                            group.mask,
                        ),
                        BarOp::Or => warp.regs.set_predicate(
                            bar.dst,
                            if barrier.held > 0 { !0 } else { 0 },
                            group.mask,
                        ),
                        _ => {}
                    }
                }
                group.wait = Wait::Ready;
                group.pc += 1;
                warp.add(group);
            }
        }
        Ok(())
    }

    /// Nothing can run, but not everything has ended.
    fn deadlock(&self) -> Box<Fault> {
        let mut barrier = None;
        for (w, warp) in self.warps.iter().enumerate() {
            for g in &warp.groups {
                let lane = g.mask.trailing_zeros() as usize;
                match g.wait {
                    Wait::Lanes(member) => {
                        let missing = member & warp.live() & !g.mask;
                        let message = format!(
                            "the lanes {:#010x} wait for {missing:#010x} of the mask {member:#010x}, which never come with the same mask",
                            g.mask
                        );
                        return self.fault(FaultKind::MaskMismatch, w, lane, g.pc, None, message);
                    }
                    Wait::Barrier(id) => barrier = barrier.or(Some((w, lane, g.pc, id))),
                    Wait::Ready | Wait::Leaving => {}
                }
            }
        }
        let (w, lane, pc, id) = barrier.unwrap_or((0, 0, self.run.entry, 0));
        let waiting: u32 = self.barriers[id as usize].waiting.iter().map(|m| m.count_ones()).sum();
        let live: u32 = self.warps.iter().map(|w| w.live().count_ones()).sum();
        let message = format!(
            "{waiting} threads wait at barrier {id}, {live} have not ended, and none can run"
        );
        self.fault(FaultKind::BarrierDivergence, w, lane, pc, None, message)
    }

    /// The launch has run for too long.
    pub(super) fn timeout(&self) -> Box<Fault> {
        let group =
            self.warps.iter().enumerate().find_map(|(w, warp)| warp.groups.first().map(|g| (w, g)));
        let (w, lane, pc) = group
            .map_or((0, 0, self.run.entry), |(w, g)| (w, g.mask.trailing_zeros() as usize, g.pc));
        let message = format!("the launch runs for more than {:?}", self.run.config.timeout);
        self.fault(FaultKind::Timeout, w, lane, pc, None, message)
    }

    pub(super) fn fault(
        &self,
        kind: FaultKind,
        w: usize,
        lane: usize,
        pc: u32,
        address: Option<u64>,
        message: String,
    ) -> Box<Fault> {
        let [x, y, _] = self.run.launch.block;
        let t = (32 * w + lane) as u32;
        let (line, text) = &self.run.program.source[pc as usize];
        Box::new(Fault {
            kind,
            kernel: self.run.name.to_string(),
            line: *line,
            instruction: text.to_string(),
            block: self.index,
            thread: [t % x, t / x % y, t / x / y],
            address,
            message,
        })
    }

    /// Which threads a wrong shared access is about.
    #[allow(clippy::too_many_arguments)]
    fn shared_fault(
        &self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u32,
        bytes: usize,
        mode: Mode,
        wrong: Wrong,
    ) -> Box<Fault> {
        let at = Some(address as u64);
        let verb = if matches!(mode, Mode::Read | Mode::StrongRead) { "read" } else { "write" };
        match wrong {
            Wrong::OutOfBounds => {
                let message = format!("{verb} of {bytes} bytes outside every shared variable");
                self.fault(FaultKind::OutOfBounds, w, lane, pc, at, message)
            }
            Wrong::Unwritten(first) => {
                let message =
                    format!("read of shared memory that nobody wrote (byte {first} of {bytes})");
                self.fault(FaultKind::Uninitialised, w, lane, pc, at, message)
            }
            Wrong::InFlight => {
                let message =
                    format!("{verb} of shared memory that an asynchronous copy is still to fill");
                self.fault(FaultKind::SharedRace, w, lane, pc, at, message)
            }
            Wrong::Race { warp, lane: other, wrote, line } => {
                let what = if wrote { "written" } else { "read" };
                let whom = if warp >= 32 {
                    "several warps".to_string()
                } else if other as usize >= LANES {
                    format!("warp {warp}")
                } else {
                    let [x, y, _] = self.run.launch.block;
                    let t = 32 * warp as u32 + other as u32;
                    format!("thread ({},{},{})", t % x, t / x % y, t / x / y)
                };
                let message = format!(
                    "{verb} of shared memory {what} by {whom} at PTX line {line} without a barrier between"
                );
                self.fault(FaultKind::SharedRace, w, lane, pc, at, message)
            }
        }
    }

    fn toucher(&self, w: usize, lane: usize, pc: u32) -> Toucher {
        let line = self.run.program.source[pc as usize].0;
        Toucher { warp: w, lane, serial: self.warps[w].serial, line }
    }

    /// Checks an access to shared memory: alignment, existence, initialisation, races. Answers the address.
    #[allow(clippy::too_many_arguments)]
    fn shared_range(
        &mut self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        bytes: usize,
        align: usize,
        mode: Mode,
    ) -> Res<u32> {
        if !address.is_multiple_of(align as u64) {
            let message = format!("shared address is not a multiple of {align}");
            return Err(self.fault(FaultKind::Misaligned, w, lane, pc, Some(address), message));
        }
        let at = address.min(u32::MAX as u64 - 64) as u32;
        let who = self.toucher(w, lane, pc);
        let write = matches!(mode, Mode::Write | Mode::StrongWrite);
        self.shared
            .check(at, bytes, write)
            .and_then(|()| self.shared.touch(at, bytes, mode, who, None))
            .map_err(|wrong| self.shared_fault(w, lane, pc, at, bytes, mode, wrong))?;
        Ok(at)
    }

    /// The address of each lane.
    fn addresses(&self, w: usize, group: &Group, a: &Address, mask: u32) -> ([u64; LANES], u32) {
        let regs = &self.warps[w].regs;
        let offset = a.offset as u64;
        let out = match a.base {
            Base::None => [offset; LANES],
            Base::Frame => [group.base as u64 + offset; LANES],
            Base::Reg(Reg { slot, wide: true }) => {
                regs.r64[slot as usize].map(|v| v.wrapping_add(offset))
            }
            Base::Reg(Reg { slot, wide: false }) => {
                regs.r32[slot as usize].map(|v| (v as u64).wrapping_add(offset))
            }
        };
        (out, mask)
    }

    /// Addresses sorted by the space they lie in: generic ones are looked at, the others are taken at their word.
    fn by_space(
        &self,
        w: usize,
        group: &Group,
        a: &Address,
        mask: u32,
    ) -> ([u64; LANES], [(Space, u32); 4]) {
        let (mut addresses, _) = self.addresses(w, group, a, mask);
        let mut parts =
            [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
        if a.space != Space::Generic {
            parts[0] = (a.space, mask);
            return (addresses, parts);
        }
        for lane in lanes(mask) {
            let (space, at) = space_of(addresses[lane]);
            addresses[lane] = at;
            for p in &mut parts {
                if p.0 == space {
                    p.1 |= 1 << lane;
                }
            }
        }
        (addresses, parts)
    }

    fn load(&mut self, w: usize, group: &Group, access: &Access, mask: u32) -> Res<()> {
        let (addresses, parts) = self.by_space(w, group, &access.address, mask);
        let (width, count) = (access.width as usize, access.regs.len());
        let mut values = [[0u64; LANES]; 8];
        for (space, part) in parts.into_iter().filter(|p| p.1 != 0) {
            self.read(
                w,
                group,
                space,
                &addresses,
                part,
                (width, count),
                access.order,
                &mut values,
            )?;
        }
        let regs = &mut self.warps[w].regs;
        for (reg, row) in access.regs.iter().zip(&mut values) {
            if reg.slot == NONE {
                continue;
            }
            if access.signed && width < 8 {
                let shift = 64 - 8 * width as u32;
                row.iter_mut().for_each(|v| *v = ((*v << shift) as i64 >> shift) as u64);
                if access.short {
                    row.iter_mut().for_each(|v| *v &= 0xffff);
                }
            }
            if reg.wide {
                let out = &mut regs.r64[reg.slot as usize];
                for lane in lanes(mask) {
                    out[lane] = row[lane];
                }
            } else {
                let out = &mut regs.r32[reg.slot as usize];
                for lane in lanes(mask) {
                    out[lane] = row[lane] as u32;
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, w: usize, group: &Group, access: &Access, mask: u32) -> Res<()> {
        let (addresses, parts) = self.by_space(w, group, &access.address, mask);
        let mut values = [[0u64; LANES]; 8];
        let regs = &self.warps[w].regs;
        for (reg, row) in access.regs.iter().zip(&mut values) {
            *row = if reg.wide {
                regs.r64[reg.slot as usize]
            } else {
                regs.r32[reg.slot as usize].map(u64::from)
            };
            if access.width < 8 {
                row.iter_mut().for_each(|v| *v &= (1 << (8 * access.width)) - 1);
            }
        }
        let shape = (access.width as usize, access.regs.len());
        for (space, part) in parts.into_iter().filter(|p| p.1 != 0) {
            self.write(w, group, space, &addresses, part, shape, access.order, &values)?;
        }
        Ok(())
    }

    /// Counts a global access: distinct sectors and bytes.
    fn count_global(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: usize,
        write: bool,
        read: bool,
    ) {
        let mut sectors: [(u64, u32); 64] = [(0, 0); 64];
        let mut n = 0;
        for lane in lanes(mask) {
            let sector = addresses[lane] / 32;
            let bits =
                (if bytes >= 32 { !0 } else { (1u32 << bytes) - 1 }) << (addresses[lane] % 32);
            let found = (0..n).rev().find(|&i| sectors[i].0 == sector);
            match found {
                Some(i) => sectors[i].1 |= bits,
                None => {
                    sectors[n] = (sector, bits);
                    n += 1;
                }
            }
        }
        let used: u64 = sectors[..n].iter().map(|s| s.1.count_ones() as u64).sum();
        let c = &mut self.counters;
        c.global_requests += 1;
        if write {
            c.global_sectors_written += n as u64;
            c.bytes_written += used;
        }
        if read {
            c.global_sectors_read += n as u64;
            c.bytes_read += used;
        }
    }

    fn count_shared(&mut self, addresses: &[u64; LANES], mask: u32, bytes: usize) {
        let (passes, ideal) = bank_passes(addresses, mask, bytes);
        self.counters.shared_requests += 1;
        self.counters.shared_transactions += passes;
        self.counters.bank_conflicts += passes - ideal;
    }

    fn accessor(&self) -> Accessor<'a> {
        Accessor {
            tag: self.run.tag,
            block: self.linear,
            releases: self.releases,
            acquired: self.acquired,
            launch: &self.run.releases,
        }
    }

    /// Checks a global access and finds its place: allocation and offset.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn global(
        &mut self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        bytes: usize,
        align: usize,
        write: bool,
    ) -> Res<(usize, usize)> {
        if !address.is_multiple_of(align as u64) {
            let message = format!("address is not a multiple of {align}");
            return Err(self.fault(FaultKind::Misaligned, w, lane, pc, Some(address), message));
        }
        let run = self.run;
        let cached = run.allocations.get(self.cache).and_then(|a| {
            let offset = address.wrapping_sub(a.base);
            (offset < a.size as u64 && bytes as u64 <= a.size as u64 - offset)
                .then_some(offset as usize)
        });
        if let Some(offset) = cached {
            return Ok((self.cache, offset));
        }
        match run.find(address, bytes) {
            Some((a, offset)) => {
                self.cache = a;
                Ok((a, offset))
            }
            None => {
                let verb = if write { "write" } else { "read" };
                let (kind, why) = match run.memory.explain(address, bytes) {
                    Some(e @ MemoryError::Freed { .. }) => (FaultKind::UseAfterFree, e.to_string()),
                    Some(e) => (FaultKind::OutOfBounds, e.to_string()),
                    None => (FaultKind::OutOfBounds, "allocated after the launch".into()),
                };
                let message = format!("{verb} of {bytes} bytes: {why}");
                Err(self.fault(kind, w, lane, pc, Some(address), message))
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn race(
        &self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        place: (usize, usize),
        bytes: usize,
        write: bool,
    ) -> Res<()> {
        let found =
            self.run.allocations[place.0].shadow.access(place.1, bytes, &self.accessor(), write);
        let Some(conflict) = found else { return Ok(()) };
        let verb = if write { "write" } else { "read" };
        let what = if conflict.wrote { "written" } else { "read" };
        let whom = match conflict.block {
            Some(b) => {
                let [gx, gy, _] = self.run.launch.grid;
                format!("block ({},{},{})", b % gx, b / gx % gy, b / gx / gy)
            }
            None => "several blocks".into(),
        };
        let message = format!(
            "{verb} of global memory {what} by {whom} in the same launch, with nothing to order the two"
        );
        Err(self.fault(FaultKind::GlobalRace, w, lane, pc, Some(address), message))
    }

    fn unwritten(
        &self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        place: (usize, usize),
        bytes: usize,
    ) -> Res<()> {
        match self.run.allocations[place.0].unwritten(place.1, bytes) {
            None => Ok(()),
            Some(at) => {
                let a = &self.run.allocations[place.0];
                let message = format!(
                    "read of global memory that nobody wrote: byte {at} of {} at {:#x}",
                    a.size, a.base
                );
                Err(self.fault(FaultKind::Uninitialised, w, lane, pc, Some(address), message))
            }
        }
    }

    fn strong_access(&mut self, order: Order, write: bool, read: bool) {
        self.strong = true;
        if write && (order.release || self.fenced) {
            self.run.releases.release(self.linear);
            self.releases += 1;
            self.fenced = false;
        }
        if read {
            self.acquired = self.run.releases.now();
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn read(
        &mut self,
        w: usize,
        group: &Group,
        space: Space,
        addresses: &[u64; LANES],
        mask: u32,
        (width, count): (usize, usize),
        order: Order,
        values: &mut [[u64; LANES]; 8],
    ) -> Res<()> {
        let run = self.run;
        let bytes = width * count;
        match space {
            Space::Global | Space::Generic => {
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    let place = self.global(w, lane, group.pc, address, bytes, bytes, false)?;
                    self.unwritten(w, lane, group.pc, address, place, bytes)?;
                    if !order.strong && run.racing {
                        self.race(w, lane, group.pc, address, place, bytes, false)?;
                    }
                    let a = &run.allocations[place.0];
                    for (i, row) in values.iter_mut().enumerate().take(count) {
                        row[lane] = a.load(place.1 + i * width, width);
                    }
                }
                self.count_global(addresses, mask, bytes, false, true);
                if order.strong {
                    self.strong_access(order, false, true);
                }
            }
            Space::Shared => {
                let mode = if order.strong { Mode::StrongRead } else { Mode::Read };
                for lane in lanes(mask) {
                    let at =
                        self.shared_range(w, lane, group.pc, addresses[lane], bytes, bytes, mode)?;
                    for (i, row) in values.iter_mut().enumerate().take(count) {
                        row[lane] = self.shared.load(at + (i * width) as u32, width);
                    }
                    if order.strong {
                        self.shared.learn(w, at);
                    }
                }
                self.count_shared(addresses, mask, bytes);
            }
            Space::Local => {
                for lane in lanes(mask) {
                    let at = self.local(w, lane, group, addresses[lane], bytes)?;
                    for (i, row) in values.iter_mut().enumerate().take(count) {
                        row[lane] = self.warps[w].local_load(lane, at + (i * width) as u32, width);
                    }
                }
            }
            Space::Param => {
                for lane in lanes(mask) {
                    let at = addresses[lane] as usize;
                    if !at.is_multiple_of(bytes)
                        || at.checked_add(bytes).is_none_or(|end| end > run.params.len())
                    {
                        let message = format!(
                            "read of {bytes} bytes of the kernel's {} of parameters",
                            run.params.len()
                        );
                        let kind = if at.is_multiple_of(bytes) {
                            FaultKind::OutOfBounds
                        } else {
                            FaultKind::Misaligned
                        };
                        return Err(self.fault(kind, w, lane, group.pc, Some(at as u64), message));
                    }
                    for (i, row) in values.iter_mut().enumerate().take(count) {
                        let mut v = [0; 8];
                        v[..width]
                            .copy_from_slice(&run.params[at + i * width..at + (i + 1) * width]);
                        row[lane] = u64::from_le_bytes(v);
                    }
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn write(
        &mut self,
        w: usize,
        group: &Group,
        space: Space,
        addresses: &[u64; LANES],
        mask: u32,
        (width, count): (usize, usize),
        order: Order,
        values: &[[u64; LANES]; 8],
    ) -> Res<()> {
        let run = self.run;
        let bytes = width * count;
        match space {
            Space::Global | Space::Generic => {
                if order.strong {
                    self.strong_access(order, true, false);
                }
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    let place = self.global(w, lane, group.pc, address, bytes, bytes, true)?;
                    let a = &run.allocations[place.0];
                    if a.read_only {
                        let message = "write to constant memory".to_string();
                        return Err(self.fault(
                            FaultKind::IllegalInstruction,
                            w,
                            lane,
                            group.pc,
                            Some(address),
                            message,
                        ));
                    }
                    if !order.strong && run.racing {
                        self.race(w, lane, group.pc, address, place, bytes, true)?;
                    }
                    for (i, row) in values.iter().enumerate().take(count) {
                        a.store(place.1 + i * width, width, row[lane]);
                    }
                    a.mark(place.1, bytes, true);
                }
                self.count_global(addresses, mask, bytes, true, false);
            }
            Space::Shared => {
                let mode = if order.strong { Mode::StrongWrite } else { Mode::Write };
                for lane in lanes(mask) {
                    let address = addresses[lane];
                    if !address.is_multiple_of(bytes as u64) {
                        let message = format!("shared address is not a multiple of {bytes}");
                        return Err(self.fault(
                            FaultKind::Misaligned,
                            w,
                            lane,
                            group.pc,
                            Some(address),
                            message,
                        ));
                    }
                    let at = address.min(u32::MAX as u64 - 64) as u32;
                    let who = self.toucher(w, lane, group.pc);
                    let mut result = self.shared.check(at, bytes, true);
                    for (i, row) in values.iter().enumerate().take(count) {
                        let piece = at + (i * width) as u32;
                        if result.is_ok() {
                            result = self.shared.touch(piece, width, mode, who, Some(row[lane]));
                        }
                        if result.is_ok() {
                            self.shared.store(piece, width, row[lane]);
                        }
                    }
                    result.map_err(|wrong| {
                        self.shared_fault(w, lane, group.pc, at, bytes, mode, wrong)
                    })?;
                    if order.strong {
                        self.shared.publish(w, at, order.release);
                    }
                }
                self.count_shared(addresses, mask, bytes);
            }
            Space::Local => {
                for lane in lanes(mask) {
                    let at = self.local(w, lane, group, addresses[lane], bytes)?;
                    for (i, row) in values.iter().enumerate().take(count) {
                        self.warps[w].local_store(lane, at + (i * width) as u32, width, row[lane]);
                    }
                }
            }
            Space::Param => {
                let lane = mask.trailing_zeros() as usize;
                let message = "write to the kernel's parameters".to_string();
                return Err(self.fault(
                    FaultKind::IllegalInstruction,
                    w,
                    lane,
                    group.pc,
                    Some(addresses[lane]),
                    message,
                ));
            }
        }
        Ok(())
    }

    /// Checks an access to local memory.
    fn local(&self, w: usize, lane: usize, group: &Group, address: u64, bytes: usize) -> Res<u32> {
        if !address.is_multiple_of(bytes as u64) {
            let message = format!("local address is not a multiple of {bytes}");
            return Err(self.fault(
                FaultKind::Misaligned,
                w,
                lane,
                group.pc,
                Some(address),
                message,
            ));
        }
        if address.checked_add(bytes as u64).is_none_or(|end| end > group.top as u64) {
            let message =
                format!("{bytes} bytes outside the thread's {} bytes of local memory", group.top);
            return Err(self.fault(
                FaultKind::OutOfBounds,
                w,
                lane,
                group.pc,
                Some(address),
                message,
            ));
        }
        Ok(address as u32)
    }

    fn atomic(&mut self, w: usize, group: &Group, a: &Atomic, mask: u32) -> Res<()> {
        let run = self.run;
        let (addresses, parts) = self.by_space(w, group, &a.address, mask);
        let width = atomics::width(a.ty);
        let bytes = width * a.count as usize;
        // The order of the lanes is nobody's to rely on.
        let start = if run.config.seed == 0 { 0 } else { self.random.next() as u32 % 32 };
        for (space, part) in parts.into_iter().filter(|p| p.1 != 0) {
            if matches!(space, Space::Global | Space::Generic) {
                self.strong_access(a.order, true, false);
            }
            let turned = part.rotate_right(start);
            for lane in lanes(turned).map(|l| (l + start as usize) % LANES) {
                let address = addresses[lane];
                match space {
                    Space::Global | Space::Generic => {
                        let place = self.global(w, lane, group.pc, address, bytes, bytes, true)?;
                        self.unwritten_atomic(w, lane, group.pc, address, place, bytes, a.op)?;
                        let target = &run.allocations[place.0];
                        if target.read_only {
                            let message = "atomic on constant memory".to_string();
                            return Err(self.fault(
                                FaultKind::IllegalInstruction,
                                w,
                                lane,
                                group.pc,
                                Some(address),
                                message,
                            ));
                        }
                        if a.ty == AtomType::B128 {
                            let _guard = run.wide_atomics.lock().unwrap_or_else(|e| e.into_inner());
                            let old = [target.load(place.1, 8), target.load(place.1 + 8, 8)];
                            if let Some(new) = self.quad(w, lane, a, old) {
                                target.store(place.1, 8, new[0]);
                                target.store(place.1 + 8, 8, new[1]);
                            }
                        } else {
                            for e in 0..a.count as usize {
                                let (src, swap) = self.atomic_operands(w, lane, a, e);
                                let old = target.update(place.1 + e * width, width, |old| {
                                    atomics::combine(a.op, a.ty, a.ftz, old, src, swap)
                                });
                                self.atomic_result(w, lane, a, e, old);
                            }
                        }
                        target.mark(place.1, bytes, true);
                    }
                    Space::Shared => {
                        let at = self.shared_atomic(w, lane, group.pc, address, bytes, a.op)?;
                        self.shared.publish(w, at, a.order.release);
                        self.shared.learn(w, at);
                        if a.ty == AtomType::B128 {
                            let old = [self.shared.load(at, 8), self.shared.load(at + 8, 8)];
                            if let Some(new) = self.quad(w, lane, a, old) {
                                self.shared.store(at, 8, new[0]);
                                self.shared.store(at + 8, 8, new[1]);
                            }
                        } else {
                            for e in 0..a.count as usize {
                                let (src, swap) = self.atomic_operands(w, lane, a, e);
                                let place = at + (e * width) as u32;
                                let old = self.shared.load(place, width);
                                let new = atomics::combine(a.op, a.ty, false, old, src, swap);
                                self.shared.store(place, width, new);
                                self.atomic_result(w, lane, a, e, old);
                            }
                        }
                    }
                    _ => {
                        let message = "atomic on local or parameter memory".to_string();
                        return Err(self.fault(
                            FaultKind::IllegalInstruction,
                            w,
                            lane,
                            group.pc,
                            Some(address),
                            message,
                        ));
                    }
                }
            }
            if space == Space::Shared {
                // Atomics on one word take turns.
                let mut turns = 0;
                for lane in lanes(part) {
                    turns =
                        turns
                            .max(lanes(part).filter(|&l| addresses[l] == addresses[lane]).count()
                                as u64);
                }
                let (passes, ideal) = bank_passes(&addresses, part, bytes);
                self.counters.shared_requests += 1;
                self.counters.shared_transactions += passes.max(turns);
                self.counters.bank_conflicts += passes.max(turns) - ideal;
            } else {
                self.count_global(&addresses, part, bytes, true, false);
                self.acquired = run.releases.now();
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn unwritten_atomic(
        &self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        place: (usize, usize),
        bytes: usize,
        op: AtomOp,
    ) -> Res<()> {
        // An exchange may initialise; everything else reads.
        if op == AtomOp::Exch { Ok(()) } else { self.unwritten(w, lane, pc, address, place, bytes) }
    }

    fn shared_atomic(
        &mut self,
        w: usize,
        lane: usize,
        pc: u32,
        address: u64,
        bytes: usize,
        op: AtomOp,
    ) -> Res<u32> {
        if op != AtomOp::Exch && address.is_multiple_of(bytes as u64) {
            let at = address.min(u32::MAX as u64 - 64) as u32;
            self.shared.check(at, bytes, false).map_err(|wrong| {
                self.shared_fault(w, lane, pc, at, bytes, Mode::StrongRead, wrong)
            })?;
        }
        self.shared_range(w, lane, pc, address, bytes, bytes, Mode::StrongWrite)
    }

    fn operand(&self, w: usize, lane: usize, regs: &[Reg], e: usize) -> u64 {
        match regs.get(e) {
            Some(&Reg { slot, wide: true }) => self.warps[w].regs.r64[slot as usize][lane],
            Some(&Reg { slot, wide: false }) => self.warps[w].regs.r32[slot as usize][lane] as u64,
            None => 0,
        }
    }

    fn atomic_operands(&self, w: usize, lane: usize, a: &Atomic, e: usize) -> (u64, u64) {
        (self.operand(w, lane, &a.src, e), self.operand(w, lane, &a.swap, e))
    }

    fn atomic_result(&mut self, w: usize, lane: usize, a: &Atomic, e: usize, old: u64) {
        let regs = &mut self.warps[w].regs;
        match a.dst.get(e) {
            Some(&Reg { slot: NONE, .. }) | None => {}
            Some(&Reg { slot, wide: true }) => regs.r64[slot as usize][lane] = old,
            Some(&Reg { slot, wide: false }) => regs.r32[slot as usize][lane] = old as u32,
        }
    }

    /// Exchange and compare-and-swap of 128 bits: delivers the old value and answers the new one, if it changes.
    fn quad(&mut self, w: usize, lane: usize, a: &Atomic, old: [u64; 2]) -> Option<[u64; 2]> {
        let src = [self.operand(w, lane, &a.src, 0), self.operand(w, lane, &a.src, 1)];
        let swap = [self.operand(w, lane, &a.swap, 0), self.operand(w, lane, &a.swap, 1)];
        self.atomic_result(w, lane, a, 0, old[0]);
        self.atomic_result(w, lane, a, 1, old[1]);
        match a.op {
            AtomOp::Exch => Some(src),
            _ => (old == src).then_some(swap),
        }
    }

    fn async_copy(&mut self, w: usize, group: &Group, copy: &AsyncCopy, mask: u32) -> Res<()> {
        let run = self.run;
        let (mut targets, _) = self.addresses(w, group, &copy.dst, mask);
        let (sources, _) = self.addresses(w, group, &copy.src, mask);
        let ignored =
            if copy.ignore == NONE { 0 } else { self.warps[w].regs.predicate(copy.ignore) };
        let bytes = copy.bytes as usize;
        let mut reading = 0;
        for lane in lanes(mask) {
            if copy.dst.space == Space::Generic || targets[lane] >= SHARED_WINDOW {
                targets[lane] = space_of(targets[lane]).1;
            }
            let taken = if ignored >> lane & 1 == 1 {
                0
            } else {
                self.warps[w].word(copy.src_bytes, lane, bytes as u32) as usize
            };
            if taken > bytes {
                let message = format!("a source of {taken} bytes for a copy of {bytes}");
                return Err(self.fault(
                    FaultKind::IllegalInstruction,
                    w,
                    lane,
                    group.pc,
                    Some(sources[lane]),
                    message,
                ));
            }
            let mut data = [0u8; 16];
            let address = sources[lane];
            if taken > 0 {
                let place = self.global(w, lane, group.pc, address, taken, bytes, false)?;
                self.unwritten(w, lane, group.pc, address, place, taken)?;
                if run.racing {
                    self.race(w, lane, group.pc, address, place, taken, false)?;
                }
                for (i, d) in data.iter_mut().enumerate().take(taken) {
                    *d = run.allocations[place.0].load(place.1 + i, 1) as u8;
                }
                reading |= 1 << lane;
            }
            let target = targets[lane];
            if !target.is_multiple_of(bytes as u64) {
                let message = format!("shared address is not a multiple of {bytes}");
                return Err(self.fault(
                    FaultKind::Misaligned,
                    w,
                    lane,
                    group.pc,
                    Some(target),
                    message,
                ));
            }
            let at = target.min(u32::MAX as u64 - 64) as u32;
            if !self.shared.exists(at, bytes) {
                return Err(self.shared_fault(
                    w,
                    lane,
                    group.pc,
                    at,
                    bytes,
                    Mode::Write,
                    Wrong::OutOfBounds,
                ));
            }
            // The copy may land at any moment from here on: it races with what came before, too.
            let who = self.toucher(w, lane, group.pc);
            self.shared.touch(at, bytes, Mode::Write, who, None).map_err(|wrong| {
                self.shared_fault(w, lane, group.pc, at, bytes, Mode::Write, wrong)
            })?;
            let warp = &mut self.warps[w];
            if run.config.late_copies {
                self.shared.fly(at, bytes, true);
                let group = warp.commits[lane];
                warp.copies.push_back(super::warp::Copy {
                    lane: lane as u8,
                    group,
                    address: at,
                    bytes: copy.bytes,
                    data,
                });
            } else {
                self.shared.set_bytes(at, &data[..bytes]);
                self.shared.fly(at, bytes, false);
            }
        }
        if reading != 0 {
            self.count_global(&sources, reading, bytes, false, true);
        }
        self.count_shared(&targets, mask, bytes);
        Ok(())
    }

    /// Lands the copies of the lanes that may not stay in flight: all but the last `keep` groups.
    fn land(&mut self, w: usize, group: &Group, mask: u32, keep: u32) -> Res<()> {
        let copies = std::mem::take(&mut self.warps[w].copies);
        for copy in copies {
            let lane = copy.lane as usize;
            let stays = keep != NONE && copy.group + keep >= self.warps[w].commits[lane];
            if mask >> lane & 1 == 0 || stays {
                self.warps[w].copies.push_back(copy);
                continue;
            }
            let bytes = copy.bytes as usize;
            self.shared.set_bytes(copy.address, &copy.data[..bytes]);
            self.shared.fly(copy.address, bytes, false);
            let who = self.toucher(w, lane, group.pc);
            self.shared.touch(copy.address, bytes, Mode::Write, who, None).map_err(|wrong| {
                self.shared_fault(w, lane, group.pc, copy.address, bytes, Mode::Write, wrong)
            })?;
        }
        Ok(())
    }

    /// An mbarrier operation; answers whether a wait did not succeed.
    fn mbarrier(&mut self, w: usize, group: &Group, op: &MBarrier, address: &Address) -> Res<bool> {
        let (addresses, _) = self.addresses(w, group, address, group.mask);
        let mut failed = false;
        for lane in lanes(group.mask) {
            if let MBarrier::PendingCount { dst, state } = op {
                let regs = &mut self.warps[w].regs;
                regs.r32[*dst as usize][lane] = (regs.r64[*state as usize][lane] >> 32) as u32;
                continue;
            }
            let (space, at) = if addresses[lane] >= SHARED_WINDOW {
                space_of(addresses[lane])
            } else {
                (Space::Shared, addresses[lane])
            };
            let at = at.min(u32::MAX as u64 - 64) as u32;
            if space != Space::Shared || !self.shared.exists(at, 8) || !at.is_multiple_of(8) {
                let message = "an mbarrier must be 8 aligned bytes of shared memory".to_string();
                return Err(self.fault(
                    FaultKind::OutOfBounds,
                    w,
                    lane,
                    group.pc,
                    Some(addresses[lane]),
                    message,
                ));
            }
            if let MBarrier::Init { count } = op {
                let count = self.warps[w].word(*count, lane, 0);
                self.mbarriers.insert(at, MState { count, pending: count, bytes: 0, phase: 0 });
                // The object itself is opaque: it counts as written.
                self.shared.fly(at, 8, false);
                continue;
            }
            let Some(mut state) = self.mbarriers.get(&at).cloned() else {
                let message = "an mbarrier that was not initialised".to_string();
                return Err(self.fault(
                    FaultKind::Uninitialised,
                    w,
                    lane,
                    group.pc,
                    Some(at as u64),
                    message,
                ));
            };
            let ticket = |s: &MState| (s.pending as u64) << 32 | s.phase as u64;
            match op {
                MBarrier::Invalidate => {
                    self.mbarriers.remove(&at);
                    continue;
                }
                MBarrier::Arrive { count, state: dst, expect, drop, arrive } => {
                    let warp = &mut self.warps[w];
                    if *dst != NONE {
                        warp.regs.r64[*dst as usize][lane] = ticket(&state);
                    }
                    state.bytes += warp.word(*expect, lane, 0) as i64;
                    let n = if *arrive { warp.word(*count, lane, 1) } else { 0 };
                    if n > state.pending {
                        let message = format!("{n} arrivals where {} are pending", state.pending);
                        return Err(self.fault(
                            FaultKind::IllegalInstruction,
                            w,
                            lane,
                            group.pc,
                            Some(at as u64),
                            message,
                        ));
                    }
                    state.pending -= n;
                    state.count -= if *drop { n } else { 0 };
                    self.shared.publish(w, at, true);
                }
                MBarrier::AsyncArrive { increment } => {
                    // The arrival comes when the copies have landed; here they land for it.
                    if *increment {
                        state.pending += 1;
                    }
                    self.land(w, group, 1 << lane, NONE)?;
                    state.pending = state.pending.saturating_sub(1);
                    self.shared.publish(w, at, true);
                }
                MBarrier::Test { dst, state: source, .. } => {
                    let warp = &mut self.warps[w];
                    let done = if source.wide {
                        warp.regs.r64[source.slot as usize][lane] as u32 != state.phase
                    } else {
                        warp.regs.r32[source.slot as usize][lane] & 1 != state.phase & 1
                    };
                    warp.regs.set_predicate(*dst, if done { !0 } else { 0 }, 1 << lane);
                    if done {
                        self.shared.learn(w, at);
                    }
                    failed |= !done;
                    continue;
                }
                _ => {}
            }
            if state.pending == 0 && state.bytes == 0 {
                state.phase = state.phase.wrapping_add(1);
                state.pending = state.count;
            }
            self.mbarriers.insert(at, state);
        }
        Ok(failed)
    }
}

/// The space that a generic address lies in, and the address there.
pub(super) fn space_of(address: u64) -> (Space, u64) {
    match address & !(WINDOW - 1) {
        SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
        LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
        PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
        _ => (Space::Global, address),
    }
}
