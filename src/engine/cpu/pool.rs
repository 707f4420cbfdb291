//! Room: engines, CPU. How a call uses rayon's pool: by one of its own threads, and with the others
//! kept awake from the first parallel loop of the call to the last.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long a thread looks for a share in vain before it goes back to the pool: longer than one takes
/// that others are still at when there is no more.
const PATIENCE: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether a call of this thread's is under way, further up its stack.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Has a thread of the current pool do the work, a sequence of parallel loops, while the pool's other
/// threads look for shares of them without falling asleep in between.
///
/// A loop is a few milliseconds. Threads that sleep between two of them are woken for each, and the
/// system often puts them on the processor that the one which wakes them runs on, beside an idle one:
/// on two processors a step then takes up to twice as long. `brief` work is not worth waking threads
/// that it has no share for.
pub(super) fn in_pool<R: Send>(brief: bool, work: impl FnOnce() -> R + Send) -> R {
    let under_way = Arc::new(AtomicBool::new(true));
    rayon::scope(|_| {
        if !brief && rayon::current_num_threads() > 1 {
            let under_way = under_way.clone();
            // Nobody waits for them: some may be at something else for long.
            rayon::spawn_broadcast(move |_| help(&under_way));
        }
        let _end = End { under_way: &under_way, led_before: LEADS.replace(true) };
        work()
    })
}

/// The end of a call, also by a panic.
struct End<'a> {
    under_way: &'a AtomicBool,
    led_before: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.under_way.store(false, Ordering::Release);
        LEADS.set(self.led_before);
    }
}

/// Does shares of whatever loops there are while that call is under way.
///
/// This may run while another job of this thread waits for the end of a loop, even for one of that
/// very call. So it must end by itself where nothing is to be done, or neither would.
fn help(under_way: &AtomicBool) {
    // Who leads a call has its own loops to come back to.
    if LEADS.get() {
        return;
    }
    let mut busy = Instant::now();
    while under_way.load(Ordering::Acquire) && busy.elapsed() < PATIENCE {
        match rayon::yield_now() {
            Some(Yield::Executed) => busy = Instant::now(),
            _ => thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    /// Loops in a row, some of them nested.
    fn sums(brief: bool) -> Vec<u64> {
        in_pool(brief, || {
            let inner = |i: u64| {
                (0..200u32).into_par_iter().with_max_len(8).map(|j| i * u64::from(j)).sum()
            };
            (0..30u32)
                .into_par_iter()
                .with_max_len(1)
                .map(|i| inner(u64::from(i)))
                .collect::<Vec<u64>>()
        })
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn calls_beside_and_within_one_another_come_to_their_ends() {
        let expected: Vec<u64> = (0..30).map(|i| i * 199 * 100).collect();
        for threads in [1, 2, 3] {
            let pool = pool(threads);
            pool.install(|| {
                for turn in 0..200 {
                    // From outside of any loop, from several shares of one, and one in another.
                    assert_eq!(sums(turn % 3 == 0), expected);
                    let of = |k: usize| (sums(k == 1), in_pool(false, || sums(false)));
                    for (one, other) in (0..4).into_par_iter().map(of).collect::<Vec<_>>() {
                        assert_eq!((one, other), (expected.clone(), expected.clone()));
                    }
                }
            });
            // Threads that are none of the pool's.
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        (0..50).for_each(|_| assert_eq!(pool.install(|| sums(false)), expected))
                    });
                }
            });
        }
    }

    #[test]
    fn a_call_does_not_wait_for_what_others_do() {
        let pool = pool(2);
        let (let_go, held) = std::sync::mpsc::channel();
        let (holds, holding) = std::sync::mpsc::channel();
        pool.spawn(move || {
            holds.send(()).unwrap();
            held.recv().unwrap();
        });
        holding.recv().unwrap();
        // One of the two threads is held until this has come to its end.
        assert_eq!(pool.install(|| sums(false))[2], 2 * 19_900);
        let_go.send(()).unwrap();
    }

    #[test]
    fn a_panic_ends_a_call_and_nothing_else() {
        let pool = pool(2);
        pool.install(|| {
            let call = || in_pool(false, || (0..8).into_par_iter().for_each(|i| assert!(i != 5)));
            assert!(std::panic::catch_unwind(call).is_err());
            assert!(!LEADS.get());
            assert_eq!(sums(false)[3], 3 * 19_900);
        });
    }
}
