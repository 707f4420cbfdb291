//! The same bits on the CPU: on every run, on every engine, whatever ran before, whatever the
//! number of threads.

mod common;

use common::cases::assorted;
use common::problem::Problem;
use common::run::{Cpu, Outputs, forward_backward, loss_and_gradients};

/// Problems large enough for many tiles and threads, and some of the table.
fn problems() -> Vec<Problem> {
    assorted([(700, 300, false), (300, 1100, false), (600, 600, true)], 24, 30, 11)
}

fn both(cpu: &mut Cpu, problem: &Problem) -> [Outputs; 2] {
    [forward_backward(cpu, problem, 0.3).unwrap(), loss_and_gradients(cpu, problem).unwrap()]
}

fn bits(results: &[[Outputs; 2]]) -> Vec<Vec<u32>> {
    results.iter().flatten().map(Outputs::bits).collect()
}

#[test]
fn repeated_runs_and_fresh_engines_give_the_same_bits() {
    let problems = problems();
    let run = |cpu: &mut Cpu| problems.iter().map(|p| both(cpu, p)).collect::<Vec<_>>();
    let mut cpu = Cpu::default();
    let first = bits(&run(&mut cpu));
    assert!(first.iter().flatten().any(|&bits| bits != 0));
    assert_eq!(first, bits(&run(&mut cpu)), "on the same engine");
    assert_eq!(first, bits(&run(&mut Cpu::default())), "on a fresh engine");
    let alone: Vec<_> = problems.iter().map(|p| both(&mut Cpu::default(), p)).collect();
    assert_eq!(first, bits(&alone), "on an engine each");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let problems = problems();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut cpu = Cpu::default();
            bits(&problems.iter().map(|p| both(&mut cpu, p)).collect::<Vec<_>>())
        })
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, with(threads), "{threads} threads");
    }
}

/// Engines on two threads of the caller's at once.
#[test]
fn engines_side_by_side_give_the_same_bits() {
    let problems = problems();
    let run = || bits(&problems.iter().map(|p| both(&mut Cpu::default(), p)).collect::<Vec<_>>());
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().unwrap())
    });
    assert_eq!(a, b);
}
