//! What a launch cost: the counters, and the recorder that gathers them and writes them as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

/// The class under which an executed instruction is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Class {
    F32,
    F64,
    Half,
    Integer,
    Conversion,
    Special,
    Move,
    Predicate,
    LoadGlobal,
    StoreGlobal,
    LoadShared,
    StoreShared,
    LoadLocal,
    StoreLocal,
    LoadConstant,
    Atomic,
    CpAsync,
    LdMatrix,
    Mma,
    Shuffle,
    Vote,
    Barrier,
    Fence,
    Control,
    Other,
}

impl Class {
    /// Every class, in the order of their numbers.
    pub const ALL: [Class; 25] = [
        Class::F32,
        Class::F64,
        Class::Half,
        Class::Integer,
        Class::Conversion,
        Class::Special,
        Class::Move,
        Class::Predicate,
        Class::LoadGlobal,
        Class::StoreGlobal,
        Class::LoadShared,
        Class::StoreShared,
        Class::LoadLocal,
        Class::StoreLocal,
        Class::LoadConstant,
        Class::Atomic,
        Class::CpAsync,
        Class::LdMatrix,
        Class::Mma,
        Class::Shuffle,
        Class::Vote,
        Class::Barrier,
        Class::Fence,
        Class::Control,
        Class::Other,
    ];

    /// The key of the class in the JSON file.
    pub fn name(self) -> &'static str {
        match self {
            Class::F32 => "f32",
            Class::F64 => "f64",
            Class::Half => "half",
            Class::Integer => "integer",
            Class::Conversion => "conversion",
            Class::Special => "special",
            Class::Move => "move",
            Class::Predicate => "predicate",
            Class::LoadGlobal => "load_global",
            Class::StoreGlobal => "store_global",
            Class::LoadShared => "load_shared",
            Class::StoreShared => "store_shared",
            Class::LoadLocal => "load_local",
            Class::StoreLocal => "store_local",
            Class::LoadConstant => "load_constant",
            Class::Atomic => "atomic",
            Class::CpAsync => "cp_async",
            Class::LdMatrix => "ldmatrix",
            Class::Mma => "mma",
            Class::Shuffle => "shuffle",
            Class::Vote => "vote",
            Class::Barrier => "barrier",
            Class::Fence => "fence",
            Class::Control => "control",
            Class::Other => "other",
        }
    }
}

/// Instructions executed in one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// Instructions issued, one for a warp however many of its lanes take part.
    pub warp: u64,
    /// Instructions executed, one for every lane that takes part.
    pub thread: u64,
}

/// What one launch executed. Sums of launches are made with [`Counters::add`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Executed instructions by class, in the order of [`Class::ALL`].
    pub classes: [ClassCount; Class::ALL.len()],
    /// Warp-wide loads, stores, atomics and asynchronous copies that touched global memory.
    pub global_requests: u64,
    /// Distinct 32-byte sectors that global loads asked for, summed over warp instructions.
    pub global_sectors_read: u64,
    /// Distinct 32-byte sectors that global stores and atomics touched, summed over warp instructions.
    pub global_sectors_written: u64,
    /// Distinct bytes that global loads asked for, summed over warp instructions.
    pub bytes_read: u64,
    /// Distinct bytes that global stores and atomics touched, summed over warp instructions.
    pub bytes_written: u64,
    /// Warp-wide accesses to shared memory.
    pub shared_requests: u64,
    /// Passes over the 32 banks that those accesses took.
    pub shared_transactions: u64,
    /// Passes beyond those that the same bytes need without bank conflicts.
    pub bank_conflicts: u64,
    /// Multiplications and additions of the matrix instructions.
    pub mma_flops: u64,
    /// Exponentials (`ex2`), one for each lane and, in packed forms, each element.
    pub exponentials: u64,
    /// Blocks that ran.
    pub blocks: u64,
}

impl Counters {
    /// Executed instructions of one class.
    pub fn class(&self, class: Class) -> ClassCount {
        self.classes[class as usize]
    }

    /// Instructions of every class, one for a warp.
    pub fn warp_instructions(&self) -> u64 {
        self.classes.iter().map(|c| c.warp).sum()
    }

    /// Instructions of every class, one for each lane that took part.
    pub fn thread_instructions(&self) -> u64 {
        self.classes.iter().map(|c| c.thread).sum()
    }

    /// Sectors of both directions: 32-byte pieces of global memory asked for.
    pub fn global_sectors_requested(&self) -> u64 {
        self.global_sectors_read + self.global_sectors_written
    }

    /// Bytes of those sectors that were used.
    pub fn global_bytes_used(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }

    /// Adds another launch's (or another worker's) counts to these.
    pub fn add(&mut self, other: &Counters) {
        for (a, b) in self.classes.iter_mut().zip(&other.classes) {
            a.warp += b.warp;
            a.thread += b.thread;
        }
        self.global_requests += other.global_requests;
        self.global_sectors_read += other.global_sectors_read;
        self.global_sectors_written += other.global_sectors_written;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.shared_requests += other.shared_requests;
        self.shared_transactions += other.shared_transactions;
        self.bank_conflicts += other.bank_conflicts;
        self.mma_flops += other.mma_flops;
        self.exponentials += other.exponentials;
        self.blocks += other.blocks;
    }

    /// The counters as one JSON object.
    pub fn to_json(&self) -> String {
        let mut out = String::from("{");
        self.write_fields(&mut out);
        out.push('}');
        out
    }

    fn write_fields(&self, out: &mut String) {
        let numbers = [
            ("blocks", self.blocks),
            ("warp_instructions", self.warp_instructions()),
            ("thread_instructions", self.thread_instructions()),
            ("global_requests", self.global_requests),
            ("global_sectors_read", self.global_sectors_read),
            ("global_sectors_written", self.global_sectors_written),
            ("global_sectors_requested", self.global_sectors_requested()),
            ("global_bytes_used", self.global_bytes_used()),
            ("bytes_read", self.bytes_read),
            ("bytes_written", self.bytes_written),
            ("shared_requests", self.shared_requests),
            ("shared_transactions", self.shared_transactions),
            ("bank_conflicts", self.bank_conflicts),
            ("mma_instructions", self.class(Class::Mma).warp),
            ("mma_flops", self.mma_flops),
            ("exponentials", self.exponentials),
        ];
        for (name, value) in numbers {
            let _ = write!(out, "\"{name}\":{value},");
        }
        out.push_str("\"instructions\":{");
        let mut first = true;
        for class in Class::ALL {
            let count = self.class(class);
            if count.warp == 0 {
                continue;
            }
            let comma = if first { "" } else { "," };
            first = false;
            let _ = write!(
                out,
                "{comma}\"{}\":{{\"warp\":{},\"thread\":{}}}",
                class.name(),
                count.warp,
                count.thread
            );
        }
        out.push('}');
    }
}

/// One launch as the recorder keeps it.
struct Recorded {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    host_syncs_before: u64,
    allocations_before: u64,
    counters: Counters,
}

#[derive(Default)]
struct Log {
    launches: Vec<Recorded>,
    host_syncs: u64,
    allocations: u64,
    allocated_bytes: u64,
    host_syncs_since: u64,
    allocations_since: u64,
}

/// Gathers the counters of a process's launches, with the host synchronisations and allocations between them, and
/// writes them to the file that `CUDA_EMULATOR_COUNTERS` names. Without a file nothing is kept.
pub struct Recorder {
    path: Option<PathBuf>,
    log: Mutex<Log>,
}

impl Recorder {
    /// A recorder that writes to `path`, or keeps nothing.
    pub fn new(path: Option<PathBuf>) -> Recorder {
        Recorder { path, log: Mutex::default() }
    }

    /// Whether anything is kept.
    pub fn is_active(&self) -> bool {
        self.path.is_some()
    }

    fn with(&self, change: impl FnOnce(&mut Log)) {
        if self.path.is_some() {
            change(&mut self.log.lock().unwrap_or_else(|e| e.into_inner()));
        }
    }

    /// The host waited for the device (a stream, event or context synchronisation, or a blocking copy).
    pub fn host_sync(&self) {
        self.with(|log| {
            log.host_syncs += 1;
            log.host_syncs_since += 1;
        });
    }

    /// The program allocated device memory.
    pub fn allocation(&self, bytes: usize) {
        self.with(|log| {
            log.allocations += 1;
            log.allocations_since += 1;
            log.allocated_bytes += bytes as u64;
        });
    }

    /// A launch ended with these counters; what the host did since the last one comes before it.
    pub fn launch(&self, kernel: &str, grid: [u32; 3], block: [u32; 3], counters: &Counters) {
        let before = self.take_between();
        self.launch_after(before, kernel, (grid, block, 0), counters);
    }

    /// Host synchronisations and allocations since the last launch. A driver that runs launches later than they are
    /// enqueued takes this when it enqueues one, and gives it back through [`Recorder::launch_after`].
    pub fn take_between(&self) -> (u64, u64) {
        let mut between = (0, 0);
        self.with(|log| {
            between = (
                std::mem::take(&mut log.host_syncs_since),
                std::mem::take(&mut log.allocations_since),
            );
        });
        between
    }

    /// A launch ended with these counters; `between` are the synchronisations and allocations before it, its shape
    /// grid, block and bytes of dynamic shared memory.
    pub fn launch_after(
        &self,
        between: (u64, u64),
        kernel: &str,
        (grid, block, dynamic_shared): ([u32; 3], [u32; 3], u32),
        counters: &Counters,
    ) {
        self.with(|log| {
            let recorded = Recorded {
                kernel: kernel.to_string(),
                grid,
                block,
                dynamic_shared,
                host_syncs_before: between.0,
                allocations_before: between.1,
                counters: counters.clone(),
            };
            log.launches.push(recorded);
        });
    }

    /// Everything gathered so far, as one JSON document.
    pub fn to_json(&self) -> String {
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        let mut kernels: BTreeMap<&str, (u64, Counters)> = BTreeMap::new();
        let mut out = String::from("{\n\"launches\":[");
        for (i, l) in log.launches.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(
                out,
                "{comma}\n{{\"index\":{i},\"kernel\":{},\"grid\":{:?},\"block\":{:?},\"dynamic_shared\":{},\"host_syncs_before\":{},\"allocations_before\":{},",
                quote(&l.kernel),
                l.grid,
                l.block,
                l.dynamic_shared,
                l.host_syncs_before,
                l.allocations_before
            );
            l.counters.write_fields(&mut out);
            out.push('}');
            let total = kernels.entry(&l.kernel).or_default();
            total.0 += 1;
            total.1.add(&l.counters);
        }
        out.push_str("\n],\n\"kernels\":{");
        for (i, (name, (launches, counters))) in kernels.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(out, "{comma}\n{}:{{\"launches\":{launches},", quote(name));
            counters.write_fields(&mut out);
            out.push('}');
        }
        let _ = write!(
            out,
            "\n}},\n\"host_syncs\":{},\"allocations\":{},\"allocated_bytes\":{},\"host_syncs_after_last_launch\":{},\"allocations_after_last_launch\":{}\n}}\n",
            log.host_syncs,
            log.allocations,
            log.allocated_bytes,
            log.host_syncs_since,
            log.allocations_since
        );
        out
    }

    /// Writes the file. Called whenever the caller deems the moment right (the driver does at context destruction
    /// and at process exit); each call writes everything since the beginning.
    pub fn flush(&self) -> std::io::Result<()> {
        match &self.path {
            Some(path) => std::fs::write(path, self.to_json()),
            None => Ok(()),
        }
    }
}

fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_in_order() {
        for (i, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, i);
        }
    }

    #[test]
    fn json_names_launches_and_totals() {
        let recorder = Recorder::new(Some("unused".into()));
        let counters = Counters { bytes_read: 7, ..Counters::default() };
        recorder.allocation(64);
        recorder.launch("k\"1", [2, 1, 1], [32, 1, 1], &counters);
        recorder.host_sync();
        recorder.launch("k\"1", [2, 1, 1], [32, 1, 1], &counters);
        let json = recorder.to_json();
        assert!(json.contains("\"kernel\":\"k\\\"1\",\"grid\":[2, 1, 1]"));
        assert!(json.contains("\"launches\":2,\"blocks\":0"));
        assert!(json.contains("\"bytes_read\":14"));
        assert!(json.contains("\"host_syncs_before\":1,\"allocations_before\":0"));
    }
}
