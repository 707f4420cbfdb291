//! Races between the blocks of a grid.
//!
//! Every word of global memory remembers, for the current launch, the block that last wrote it plainly and the block
//! (or "several") that read it. A plain access that meets another block's is a race, unless the two are ordered:
//!
//! * a block *releases* when it performs an atomic (or another strong access) after a fence, or one with release
//!   semantics; its plain accesses before that are then published at that moment of the launch's clock;
//! * a block *acquires* when it performs an atomic or strong load: it is ordered after everything published before.
//!
//! This takes any release to be seen by any later acquire, whichever the address: the "last block done" and flag
//! patterns pass, a missing fence is found, a synchronisation through the wrong variable is not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

const PAGE: usize = 1024;
const SEVERAL: u32 = u32::MAX;
/// Releases beyond this are taken for this one: a record cannot count further.
const MOST_RELEASES: u32 = 1023;

/// The last plain writer and the readers of a word (or byte).
#[derive(Default)]
struct Record {
    writer: AtomicU64,
    reader: AtomicU64,
}

/// launch tag (22 bits) | releases of the block so far (10 bits) | block (32 bits)
fn record(tag: u32, releases: u32, block: u32) -> u64 {
    ((tag & 0x3f_ffff) as u64) << 42 | (releases.min(MOST_RELEASES) as u64) << 32 | block as u64
}

struct Page {
    words: Box<[Record]>,
    /// Records by the byte, for accesses narrower than a word.
    bytes: OnceLock<Box<[Record]>>,
}

fn records(n: usize) -> Box<[Record]> {
    (0..n).map(|_| Record::default()).collect()
}

/// Race records of one global allocation, made as pages are touched.
pub(crate) struct GlobalShadow {
    pages: Box<[OnceLock<Page>]>,
}

/// The block that accesses, as the records need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accessor<'a> {
    pub tag: u32,
    pub block: u32,
    pub releases: u32,
    pub acquired: u64,
    pub launch: &'a Releases,
}

/// When the blocks of a launch released.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    clock: AtomicU64,
    times: Mutex<HashMap<u32, Vec<u64>>>,
}

impl Releases {
    /// The block publishes what it did so far.
    pub fn release(&self, block: u32) {
        let now = self.clock.fetch_add(1, SeqCst) + 1;
        self.times.lock().unwrap_or_else(|e| e.into_inner()).entry(block).or_default().push(now);
    }

    /// The moment up to which a block that acquires now sees what was published.
    pub fn now(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    fn ordered(&self, record: u64, acquired: u64) -> bool {
        let (block, releases) = (record as u32, (record >> 32) as u32 & MOST_RELEASES);
        if acquired == 0 {
            return false;
        }
        if block == SEVERAL {
            return true;
        }
        let times = self.times.lock().unwrap_or_else(|e| e.into_inner());
        times.get(&block).and_then(|t| t.get(releases as usize)).is_some_and(|&t| t <= acquired)
    }
}

/// The other block of a race, if it is one block, and whether it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub block: Option<u32>,
    pub wrote: bool,
}

impl Record {
    fn access(&self, who: &Accessor, write: bool) -> Option<Conflict> {
        let mine = record(who.tag, who.releases, who.block);
        let foreign = |r: u64| r >> 42 == mine >> 42 && r as u32 != who.block;
        let conflict = |r: u64, wrote: bool| {
            (foreign(r) && !who.launch.ordered(r, who.acquired))
                .then_some(Conflict { block: (r as u32 != SEVERAL).then_some(r as u32), wrote })
        };
        if write {
            if self.writer.load(Relaxed) != mine {
                let old = self.writer.swap(mine, SeqCst);
                if let Some(c) = conflict(old, true) {
                    return Some(c);
                }
            }
            conflict(self.reader.load(SeqCst), false)
        } else {
            let old = self.reader.load(Relaxed);
            if old != mine {
                let new = if foreign(old) { mine | SEVERAL as u64 } else { mine };
                if new != old {
                    self.reader.store(new, SeqCst);
                }
            }
            conflict(self.writer.load(SeqCst), true)
        }
    }
}

impl GlobalShadow {
    pub fn new(size: usize) -> GlobalShadow {
        GlobalShadow { pages: (0..size.div_ceil(4 * PAGE)).map(|_| OnceLock::new()).collect() }
    }

    /// A plain access to `bytes` bytes at an offset of the allocation.
    pub fn access(
        &self,
        offset: usize,
        bytes: usize,
        who: &Accessor,
        write: bool,
    ) -> Option<Conflict> {
        let mut at = offset;
        while at < offset + bytes {
            let page = self.pages[at / (4 * PAGE)]
                .get_or_init(|| Page { words: records(PAGE), bytes: OnceLock::new() });
            let word = &page.words[at / 4 % PAGE];
            let first = at % (4 * PAGE);
            if at.is_multiple_of(4) && offset + bytes - at >= 4 {
                let found = word.access(who, write);
                if found.is_some() {
                    return found;
                }
                if let Some(records) = page.bytes.get() {
                    for r in &records[first..first + 4] {
                        if let Some(c) = r.peek(who, write) {
                            return Some(c);
                        }
                    }
                }
                at += 4;
            } else {
                let records = page.bytes.get_or_init(|| records(4 * PAGE));
                let found = records[first].access(who, write).or_else(|| word.peek(who, write));
                if found.is_some() {
                    return found;
                }
                at += 1;
            }
        }
        None
    }
}

impl Record {
    /// As `access`, but leaves no trace: the access is recorded at the other granularity.
    fn peek(&self, who: &Accessor, write: bool) -> Option<Conflict> {
        let tag = record(who.tag, 0, 0) >> 42;
        let check = |r: u64, wrote: bool| {
            let foreign = r >> 42 == tag && r as u32 != who.block;
            (foreign && !who.launch.ordered(r, who.acquired))
                .then_some(Conflict { block: (r as u32 != SEVERAL).then_some(r as u32), wrote })
        };
        let found = check(self.writer.load(SeqCst), true);
        if write { found.or_else(|| check(self.reader.load(SeqCst), false)) } else { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(launch: &Releases, block: u32) -> Accessor<'_> {
        Accessor { tag: 7, block, releases: 0, acquired: 0, launch }
    }

    #[test]
    fn conflicts_between_blocks() {
        let (launch, shadow) = (Releases::default(), GlobalShadow::new(10_000));
        let (a, b) = (who(&launch, 0), who(&launch, 1));
        assert_eq!(shadow.access(0, 16, &a, true), None);
        assert_eq!(shadow.access(0, 16, &a, false), None);
        assert_eq!(shadow.access(12, 4, &b, false), Some(Conflict { block: Some(0), wrote: true }));
        assert_eq!(shadow.access(16, 4, &b, true), None);
        assert_eq!(shadow.access(100, 4, &a, false), None);
        assert_eq!(shadow.access(100, 4, &b, false), None);
        assert_eq!(shadow.access(100, 4, &b, true), Some(Conflict { block: None, wrote: false }));
        let later = Accessor { tag: 8, ..b };
        assert_eq!(shadow.access(0, 16, &later, true), None);
    }

    #[test]
    fn neighbouring_halves_do_not_conflict() {
        let (launch, shadow) = (Releases::default(), GlobalShadow::new(64));
        let (a, b) = (who(&launch, 0), who(&launch, 1));
        assert_eq!(shadow.access(4, 2, &a, true), None);
        assert_eq!(shadow.access(6, 2, &b, true), None);
        assert_eq!(shadow.access(6, 2, &a, false), Some(Conflict { block: Some(1), wrote: true }));
        assert_eq!(shadow.access(4, 4, &b, false), Some(Conflict { block: Some(0), wrote: true }));
    }

    #[test]
    fn release_and_acquire_order() {
        let (launch, shadow) = (Releases::default(), GlobalShadow::new(64));
        let (a, mut b) = (who(&launch, 0), who(&launch, 1));
        assert_eq!(shadow.access(0, 4, &a, true), None);
        launch.release(0);
        b.acquired = launch.now();
        assert_eq!(shadow.access(0, 4, &b, false), None);
        let again = Accessor { releases: 1, ..a };
        assert_eq!(shadow.access(4, 4, &again, true), None);
        assert!(shadow.access(4, 4, &b, false).is_some());
    }
}
