//! A block's shared memory: its bytes, which of them exist and were written, and who touched them since the last
//! barrier.
//!
//! Two accesses by different threads of which one writes are a race unless something orders them:
//!
//! * a barrier of the whole block orders everything: records carry its number and fade with it;
//! * a warp-wide `.sync` instruction orders the lanes of its mask with one another;
//! * named barriers of some warps, mbarriers, and atomics or strong accesses after a fence order the warps that meet.
//!   Only kernels that use these (*complex* ones) pay for the vector clocks that tell.
//!
//! Two lanes that store the same value to a word in one instruction are no race, different values are.

use std::collections::HashMap;

use super::program::SharedVariable;
use super::regs::LANES;

/// Distance kept between two variables. A multiple of every alignment and of the banks, so that neither changes.
const GAP: usize = 1024;

const ALLOCATED: u8 = 1;
const WRITTEN: u8 = 2;
const IN_FLIGHT: u8 = 4;

const NOBODY: u8 = 255;
const SEVERAL: u8 = 254;

/// Where the variables of a kernel lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Address of each variable, in the order given.
    pub addresses: Vec<u32>,
    /// Bytes that the kernel's static variables take on a GPU.
    pub static_size: usize,
    ranges: Vec<(usize, usize)>,
    end: usize,
}

impl Layout {
    /// Places the variables as a compiler would, but with a gap after each.
    pub fn new(variables: &[&SharedVariable], dynamic: usize) -> Layout {
        let mut layout = Layout { addresses: vec![0; variables.len()], ..Layout::default() };
        let mut at = 0usize;
        let mut gaps = 0;
        for (i, v) in variables.iter().enumerate().filter(|(_, v)| !v.dynamic) {
            at = at.next_multiple_of(v.align.max(1));
            let start = at + gaps * GAP;
            layout.addresses[i] = start as u32;
            layout.ranges.push((start, v.size));
            at += v.size;
            gaps += 1;
        }
        layout.static_size = at;
        let align =
            variables.iter().filter(|v| v.dynamic).map(|v| v.align).max().unwrap_or(1).max(16);
        let start = at.next_multiple_of(align) + gaps * GAP;
        for (i, _) in variables.iter().enumerate().filter(|(_, v)| v.dynamic) {
            layout.addresses[i] = start as u32;
        }
        layout.ranges.push((start, dynamic));
        layout.end = start + dynamic;
        layout
    }
}

/// Who touched a word (or byte) since the last barrier of the block.
#[derive(Clone, Copy, Debug)]
struct Record {
    epoch: u32,
    writer_warp: u8,
    writer_lane: u8,
    writer_atomic: bool,
    /// Narrow accesses were made: the truth is in the byte records.
    split: bool,
    writer_tick: u32,
    writer_serial: u32,
    writer_time: u32,
    writer_line: u32,
    reader_warps: u32,
    /// Lanes of the one warp that read, and when the last did.
    reader_lanes: u32,
    reader_tick: u32,
    /// Earlier readers that the later ones did not come after, and when the first of them read.
    open_lanes: u32,
    open_tick: u32,
    reader_line: u32,
}

const FRESH: Record = Record {
    epoch: 0,
    writer_warp: NOBODY,
    writer_lane: 0,
    writer_atomic: false,
    split: false,
    writer_tick: 0,
    writer_serial: 0,
    writer_time: 0,
    writer_line: 0,
    reader_warps: 0,
    reader_lanes: 0,
    reader_tick: 0,
    open_lanes: 0,
    open_tick: 0,
    reader_line: 0,
};

/// How the lanes of one warp have met.
#[derive(Clone, Debug, Default)]
struct LaneClock {
    tick: u32,
    all: u32,
    pairs: Option<Box<[[u32; LANES]; LANES]>>,
}

impl LaneClock {
    fn ordered(&self, me: usize, other: usize, tick: u32) -> bool {
        self.all > tick || self.pairs.as_ref().is_some_and(|p| p[me][other] > tick)
    }
}

/// What each warp knows of the others' progress.
type Knowledge = [u32; 32];

/// How an access takes part in races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    Write,
    /// Atomics and strong accesses: no races among themselves.
    StrongRead,
    StrongWrite,
}

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toucher {
    pub warp: usize,
    pub lane: usize,
    /// Number of the instruction in the warp's run.
    pub serial: u32,
    /// Its PTX line.
    pub line: u32,
}

/// Why an access is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    OutOfBounds,
    Unwritten(u32),
    InFlight,
    Race { warp: u8, lane: u8, wrote: bool, line: u32 },
}

/// Shared memory of one block.
pub(crate) struct Shared {
    data: Vec<u8>,
    state: Vec<u8>,
    words: Vec<Record>,
    bytes: Vec<Record>,
    epoch: u32,
    lanes: Vec<LaneClock>,
    complex: bool,
    now: u32,
    known: Vec<Knowledge>,
    /// Times of reads by each warp, for complex kernels.
    read_times: HashMap<usize, Box<Knowledge>>,
    /// Ticks of reads by each lane, for warps of which parts have met.
    read_ticks: HashMap<usize, Box<[u32; LANES]>>,
    /// What was released through an address.
    published: HashMap<u32, Knowledge>,
    fenced: u32,
}

impl Shared {
    /// Memory for blocks of this layout and number of warps.
    pub fn new(layout: &Layout, warps: usize, complex: bool) -> Shared {
        let size = layout.end.next_multiple_of(16);
        Shared {
            data: vec![0; size],
            state: vec![0; size],
            words: vec![FRESH; size / 4],
            bytes: Vec::new(),
            epoch: 0,
            lanes: vec![LaneClock::default(); warps],
            complex,
            now: 1,
            known: vec![[0; 32]; warps],
            read_times: HashMap::new(),
            read_ticks: HashMap::new(),
            published: HashMap::new(),
            fenced: 0,
        }
    }

    /// Makes it the fresh memory of a new block.
    pub fn reset(&mut self, layout: &Layout) {
        for &(start, size) in &layout.ranges {
            self.state[start..start + size].fill(ALLOCATED);
        }
        self.advance();
        self.lanes.iter_mut().for_each(|l| *l = LaneClock::default());
        self.now = 1;
        self.known.iter_mut().for_each(|k| *k = [0; 32]);
        self.published.clear();
        self.fenced = 0;
    }

    fn advance(&mut self) {
        self.epoch += 1;
        self.read_times.clear();
        self.read_ticks.clear();
    }

    /// All threads of the block have met.
    pub fn barrier(&mut self) {
        self.advance();
        for lane in &mut self.lanes {
            lane.tick += 1;
            lane.all = lane.tick;
        }
    }

    /// The lanes of `mask` of a warp have met; `all` if these are all that live.
    pub fn meet(&mut self, warp: usize, mask: u32, all: bool) {
        let clock = &mut self.lanes[warp];
        clock.tick += 1;
        if all {
            clock.all = clock.tick;
            return;
        }
        let (floor, tick) = (clock.all, clock.tick);
        let pairs = clock.pairs.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let mut joined = [floor; LANES];
        for l in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            for (j, p) in joined.iter_mut().zip(&pairs[l]) {
                *j = (*j).max(*p);
            }
        }
        for l in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            joined[l] = tick;
        }
        for l in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            pairs[l] = joined;
        }
    }

    /// The warps of `warps` have met at a barrier that is not the whole block's.
    pub fn meet_warps(&mut self, warps: u32) {
        let mut joined = [0; 32];
        for w in (0..self.known.len()).filter(|w| warps >> w & 1 == 1) {
            for (j, k) in joined.iter_mut().zip(&self.known[w]) {
                *j = (*j).max(*k);
            }
        }
        for w in (0..self.known.len()).filter(|w| warps >> w & 1 == 1) {
            joined[w] = self.now;
            self.lanes[w].tick += 1;
            self.lanes[w].all = self.lanes[w].tick;
        }
        for w in (0..self.known.len()).filter(|w| warps >> w & 1 == 1) {
            self.known[w] = joined;
        }
        self.now += 1;
    }

    /// A fence by some lane of the warp.
    pub fn fence(&mut self, warp: usize) {
        self.fenced |= 1 << warp;
    }

    /// Publishes what the warp knows at an address, if it has fenced or `always`.
    pub fn publish(&mut self, warp: usize, address: u32, always: bool) {
        if !self.complex || !(always || self.fenced >> warp & 1 == 1) {
            return;
        }
        // Whoever acquires may be a lane of the same warp.
        let clock = &mut self.lanes[warp];
        clock.tick += 1;
        clock.all = clock.tick;
        let mut mine = self.known[warp];
        mine[warp] = self.now;
        self.now += 1;
        let at = self.published.entry(address).or_insert([0; 32]);
        for (a, m) in at.iter_mut().zip(&mine) {
            *a = (*a).max(*m);
        }
    }

    /// Learns what was published at an address.
    pub fn learn(&mut self, warp: usize, address: u32) {
        if let Some(published) = self.published.get(&address) {
            for (k, p) in self.known[warp].iter_mut().zip(published) {
                *k = (*k).max(*p);
            }
        }
    }

    /// Drops what was published through an address.
    pub fn forget(&mut self, address: u32) {
        self.published.remove(&address);
    }

    /// Checks existence and, for reads, that the bytes were written; marks writes.
    pub fn check(&mut self, address: u32, bytes: usize, write: bool) -> Result<(), Wrong> {
        let start = address as usize;
        let Some(state) = self.state.get_mut(start..start + bytes) else {
            return Err(Wrong::OutOfBounds);
        };
        // The usual case, four bytes at a time.
        let whole = u32::from_ne_bytes([ALLOCATED | WRITTEN; 4]);
        let mut words = state.chunks_exact(4);
        if words.all(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]) == whole)
            && words.remainder().is_empty()
        {
            return Ok(());
        }
        for (i, s) in state.iter_mut().enumerate() {
            if *s & ALLOCATED == 0 {
                return Err(Wrong::OutOfBounds);
            }
            if !write && *s & WRITTEN == 0 {
                return Err(Wrong::Unwritten(i as u32));
            }
            if *s & IN_FLIGHT != 0 {
                return Err(Wrong::InFlight);
            }
            if write {
                *s |= WRITTEN;
            }
        }
        Ok(())
    }

    /// Marks bytes as the target of a copy that has not landed, or as landed and written.
    pub fn fly(&mut self, address: u32, bytes: usize, flying: bool) {
        for s in &mut self.state[address as usize..address as usize + bytes] {
            *s = if flying { *s | IN_FLIGHT } else { *s & !IN_FLIGHT | WRITTEN };
        }
    }

    /// Whether the bytes exist.
    pub fn exists(&self, address: u32, bytes: usize) -> bool {
        let start = address as usize;
        self.state.get(start..start + bytes).is_some_and(|s| s.iter().all(|s| s & ALLOCATED != 0))
    }

    /// Looks for a race and remembers the access. `value` is what a write of at most 8 bytes stores.
    pub fn touch(
        &mut self,
        address: u32,
        bytes: usize,
        mode: Mode,
        who: Toucher,
        value: Option<u64>,
    ) -> Result<(), Wrong> {
        let (mut at, end) = (address as usize, address as usize + bytes);
        let same = value.is_some_and(|v| self.load(address, bytes) == v);
        while at < end {
            let word = at / 4;
            if self.words[word].epoch != self.epoch {
                self.words[word] = Record { epoch: self.epoch, ..FRESH };
            }
            let whole = at.is_multiple_of(4) && end - at >= 4;
            if whole && !self.words[word].split {
                self.record(word, false, mode, who, same)?;
                at += 4;
                continue;
            }
            if !self.words[word].split {
                self.bytes.resize(self.data.len(), FRESH);
                self.words[word].split = true;
                let record = self.words[word];
                self.bytes[4 * word..4 * word + 4].fill(record);
                if self.complex
                    && let Some(times) = self.read_times.get(&((4 * word) << 1)).cloned()
                {
                    for b in 0..4 {
                        self.read_times.insert((4 * word + b) << 1 | 1, times.clone());
                    }
                }
            }
            self.record(at, true, mode, who, same)?;
            at += 1;
        }
        Ok(())
    }

    fn record(
        &mut self,
        index: usize,
        byte: bool,
        mode: Mode,
        who: Toucher,
        same: bool,
    ) -> Result<(), Wrong> {
        let clock = &self.lanes[who.warp];
        let (tick, now) = (clock.tick, self.now);
        let key = if byte { index << 1 | 1 } else { (4 * index) << 1 };
        let record = if byte { &mut self.bytes[index] } else { &mut self.words[index] };
        let write = matches!(mode, Mode::Write | Mode::StrongWrite);
        let strong = matches!(mode, Mode::StrongRead | Mode::StrongWrite);
        let me = who.lane;
        let known = &self.known[who.warp];
        // Against the last writer.
        if record.writer_warp != NOBODY && !(strong && record.writer_atomic) {
            let warp = record.writer_warp;
            let ordered = if warp == SEVERAL {
                self.complex
            } else if warp as usize == who.warp {
                record.writer_lane as usize == me
                    || clock.ordered(me, record.writer_lane as usize % LANES, record.writer_tick)
                    || write && same && record.writer_serial == who.serial
            } else {
                self.complex && known[warp as usize] >= record.writer_time
            };
            if !ordered {
                return Err(Wrong::Race {
                    warp,
                    lane: record.writer_lane,
                    wrote: true,
                    line: record.writer_line,
                });
            }
        }
        // A write against the readers.
        if write && record.reader_warps != 0 {
            let others = record.reader_warps & !(1 << who.warp);
            if others != 0 {
                let times = self.read_times.get(&key);
                let ordered = self.complex
                    && times
                        .is_some_and(|t| (0..32).all(|w| others >> w & 1 == 0 || known[w] >= t[w]));
                if !ordered {
                    return Err(Wrong::Race {
                        warp: others.trailing_zeros() as u8,
                        lane: SEVERAL,
                        wrote: false,
                        line: record.reader_line,
                    });
                }
            }
            if record.reader_warps >> who.warp & 1 == 1 && others == 0 {
                let find = |lanes: u32, tick: u32| {
                    (0..LANES)
                        .find(|&l| lanes & !(1 << me) & 1 << l != 0 && !clock.ordered(me, l, tick))
                };
                let open = find(record.reader_lanes, record.reader_tick)
                    .or_else(|| find(record.open_lanes, record.open_tick));
                if let Some(lane) = open {
                    return Err(Wrong::Race {
                        warp: who.warp as u8,
                        lane: lane as u8,
                        wrote: false,
                        line: record.reader_line,
                    });
                }
            }
        }
        if write {
            let again = strong && record.writer_atomic && record.writer_warp != NOBODY;
            record.writer_warp = if again && record.writer_warp as usize != who.warp {
                SEVERAL
            } else {
                who.warp as u8
            };
            record.writer_lane = me as u8;
            record.writer_atomic = strong;
            record.writer_tick = tick;
            record.writer_serial = who.serial;
            record.writer_time = now;
            record.writer_line = who.line;
        } else if !strong {
            if record.reader_warps != 1 << who.warp {
                (record.reader_lanes, record.open_lanes) = (0, 0);
            }
            record.reader_warps |= 1 << who.warp;
            record.reader_line = who.line;
            if record.reader_lanes != 0 && record.reader_tick != tick {
                // Whoever comes after this read comes after those before it; the others stay open.
                let still = lanes_where(record.reader_lanes, |l| {
                    l != me && !clock.ordered(me, l, record.reader_tick)
                });
                if record.open_lanes == 0 {
                    record.open_tick = record.reader_tick;
                }
                record.open_lanes |= still;
                record.reader_lanes = 0;
            }
            record.open_lanes =
                lanes_where(record.open_lanes, |l| !clock.ordered(me, l, record.open_tick));
            record.reader_tick = tick;
            record.reader_lanes |= 1 << me;
            if self.complex {
                self.read_times.entry(key).or_insert_with(|| Box::new([0; 32]))[who.warp] = now;
            }
        }
        Ok(())
    }

    /// Reads up to 8 bytes that exist.
    pub fn load(&self, address: u32, bytes: usize) -> u64 {
        get(&self.data[address as usize..address as usize + bytes])
    }

    /// Writes up to 8 bytes that exist.
    pub fn store(&mut self, address: u32, bytes: usize, value: u64) {
        put(&mut self.data[address as usize..address as usize + bytes], value);
    }

    /// Reads bytes that exist.
    pub fn bytes(&self, address: u32, n: usize) -> &[u8] {
        &self.data[address as usize..address as usize + n]
    }

    /// Writes bytes that exist.
    pub fn set_bytes(&mut self, address: u32, data: &[u8]) {
        self.data[address as usize..address as usize + data.len()].copy_from_slice(data);
    }
}

/// The little-endian value of up to 8 bytes. The usual lengths are told apart, or each would be a call of `memcpy`.
pub(crate) fn get(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as u64,
        [a, b] => u16::from_le_bytes([a, b]) as u64,
        [a] => a as u64,
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => bytes.iter().rev().fold(0, |v, &b| v << 8 | b as u64),
    }
}

/// The inverse of [`get`].
pub(crate) fn put(bytes: &mut [u8], value: u64) {
    match bytes {
        [_, _, _, _] => bytes.copy_from_slice(&(value as u32).to_le_bytes()),
        [_, _] => bytes.copy_from_slice(&(value as u16).to_le_bytes()),
        [a] => *a = value as u8,
        [_, _, _, _, _, _, _, _] => bytes.copy_from_slice(&value.to_le_bytes()),
        _ => bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (value >> (8 * i)) as u8),
    }
}

fn lanes_where(mask: u32, keep: impl Fn(usize) -> bool) -> u32 {
    if mask == 0 {
        return 0;
    }
    (0..LANES).filter(|&l| mask >> l & 1 == 1 && keep(l)).map(|l| 1 << l).sum()
}

/// Passes over the banks for an access of `bytes` bytes by each lane, and the fewest that any addresses would need.
///
/// Lanes are served 32, 16 or 8 at a time, as 4, 8 or 16 bytes each fill the 32 banks.
pub(crate) fn bank_passes(addresses: &[u64; LANES], mask: u32, bytes: usize) -> (u64, u64) {
    let group = (LANES * 4 / bytes.max(4)).max(1);
    let words = bytes.div_ceil(4);
    let (mut passes, mut ideal) = (0, 0);
    for first in (0..LANES).step_by(group) {
        if mask >> first & (if group == 32 { !0 } else { (1 << group) - 1 }) == 0 {
            continue;
        }
        ideal += 1;
        let mut seen = [0u32; 32];
        let mut conflicts = false;
        let lanes = (first..first + group).filter(|l| mask >> l & 1 == 1);
        for lane in lanes.clone() {
            for w in 0..words {
                let word = (addresses[lane] / 4) as u32 + w as u32;
                let bank = &mut seen[word as usize % 32];
                if *bank == 0 {
                    *bank = word + 1;
                } else if *bank != word + 1 {
                    conflicts = true;
                }
            }
        }
        if !conflicts {
            passes += 1;
            continue;
        }
        let mut all: Vec<u32> = lanes
            .flat_map(|l| (0..words).map(move |w| (addresses[l] / 4) as u32 + w as u32))
            .collect();
        all.sort_unstable();
        all.dedup();
        let mut counts = [0u64; 32];
        for word in all {
            counts[word as usize % 32] += 1;
        }
        passes += counts.into_iter().max().unwrap_or(1);
    }
    (passes, ideal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(complex: bool) -> Shared {
        let v = SharedVariable { size: 256, align: 4, dynamic: false };
        let layout = Layout::new(&[&v], 0);
        let mut shared = Shared::new(&layout, 4, complex);
        shared.reset(&layout);
        shared
    }

    fn who(warp: usize, lane: usize) -> Toucher {
        Toucher { warp, lane, serial: 1, line: 0 }
    }

    #[test]
    fn variables_keep_their_distance_and_their_banks() {
        let v = |size, align, dynamic| SharedVariable { size, align, dynamic };
        let (a, b, c) = (v(12, 4, false), v(100, 16, false), v(0, 16, true));
        let layout = Layout::new(&[&a, &c, &b], 64);
        assert_eq!(layout.static_size, 116);
        assert_eq!(layout.addresses, [0, 128 + 2048, 16 + 1024]);
        let mut shared = Shared::new(&layout, 1, false);
        shared.reset(&layout);
        assert_eq!(shared.check(8, 4, true), Ok(()));
        assert_eq!(shared.check(12, 4, true), Err(Wrong::OutOfBounds));
        assert_eq!(shared.check(1040, 4, false), Err(Wrong::Unwritten(0)));
        assert_eq!(shared.check(128 + 2048 + 60, 4, true), Ok(()));
        assert_eq!(shared.check(128 + 2048 + 61, 4, true), Err(Wrong::OutOfBounds));
    }

    #[test]
    fn barriers_order_the_block() {
        let mut s = memory(false);
        assert!(s.touch(0, 4, Mode::Write, who(0, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(0, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(1, 0), None).is_err());
        s.barrier();
        assert!(s.touch(0, 4, Mode::Read, who(1, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(2, 5), None).is_ok());
        assert!(s.touch(0, 4, Mode::Write, who(2, 5), None).is_err());
    }

    #[test]
    fn warp_meetings_order_their_lanes_only() {
        let mut s = memory(false);
        assert!(s.touch(0, 4, Mode::Write, who(0, 0), None).is_ok());
        s.meet(0, 0b011, false);
        assert!(s.touch(0, 4, Mode::Read, who(0, 1), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(0, 2), None).is_err());
        s.meet(0, 0b110, false);
        assert!(
            s.touch(0, 4, Mode::Read, who(0, 2), None).is_ok(),
            "order passes on through lane 1"
        );
        s.meet(0, !0, true);
        assert!(s.touch(0, 4, Mode::Write, who(0, 9), None).is_ok());
    }

    #[test]
    fn bytes_of_a_word_are_apart() {
        let mut s = memory(false);
        assert!(s.touch(0, 2, Mode::Write, who(0, 0), None).is_ok());
        assert!(s.touch(2, 2, Mode::Write, who(1, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(1, 0), None).is_err());
    }

    #[test]
    fn named_barriers_order_their_warps() {
        let mut s = memory(true);
        assert!(s.touch(0, 4, Mode::Write, who(0, 0), None).is_ok());
        s.meet_warps(0b011);
        assert!(s.touch(0, 4, Mode::Read, who(1, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(2, 0), None).is_err());
        s.meet_warps(0b110);
        assert!(s.touch(0, 4, Mode::Write, who(2, 0), None).is_ok());
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let mut s = memory(false);
        assert!(s.touch(0, 4, Mode::StrongWrite, who(0, 0), None).is_ok());
        assert!(s.touch(0, 4, Mode::StrongWrite, who(1, 3), None).is_ok());
        assert!(s.touch(0, 4, Mode::Read, who(1, 3), None).is_err());
        s.barrier();
        assert!(s.touch(0, 4, Mode::Read, who(1, 3), None).is_ok());
    }

    #[test]
    fn one_instruction_may_store_one_value() {
        let mut s = memory(false);
        assert!(s.touch(0, 4, Mode::Write, who(0, 0), Some(7)).is_ok());
        s.store(0, 4, 7);
        assert!(s.touch(0, 4, Mode::Write, who(0, 1), Some(7)).is_ok());
        assert!(s.touch(0, 4, Mode::Write, who(0, 2), Some(8)).is_err());
    }

    #[test]
    fn passes_over_the_banks() {
        let row: [u64; 32] = std::array::from_fn(|l| 4 * l as u64);
        assert_eq!(bank_passes(&row, !0, 4), (1, 1));
        let stride2: [u64; 32] = std::array::from_fn(|l| 8 * l as u64);
        assert_eq!(bank_passes(&stride2, !0, 4), (2, 1));
        let column: [u64; 32] = std::array::from_fn(|l| 128 * l as u64);
        assert_eq!(bank_passes(&column, !0, 4), (32, 1));
        let one = [64; 32];
        assert_eq!(bank_passes(&one, !0, 4), (1, 1));
        let vectors: [u64; 32] = std::array::from_fn(|l| 16 * l as u64);
        assert_eq!(bank_passes(&vectors, !0, 16), (4, 4));
        assert_eq!(bank_passes(&vectors, 0xff, 16), (1, 1));
    }
}
