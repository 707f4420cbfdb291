//! The same bits on CUDA: on every run, on every engine, on every stream, whatever ran before.

mod common;

use common::cases::assorted;
use common::cuda::Cuda;
use common::problem::Problem;
use common::run::{Outputs, forward_backward, loss_and_gradients};

fn problems() -> Vec<Problem> {
    assorted([(150, 100, false), (60, 260, false), (133, 133, true)], 12, 9, 31)
}

fn all(cuda: &mut Cuda, problems: &[Problem]) -> Vec<Vec<u32>> {
    let mut both = |problem: &Problem| {
        [forward_backward(cuda, problem, 0.3), loss_and_gradients(cuda, problem)]
    };
    let results = problems.iter().flat_map(&mut both);
    results.map(|outputs| Outputs::bits(&outputs.unwrap())).collect()
}

#[test]
fn repeated_runs_and_fresh_engines_give_the_same_bits() {
    let test = "repeated_runs_and_fresh_engines_give_the_same_bits";
    let Some(mut cuda) = Cuda::open(test) else { return };
    let problems = problems();
    let first = all(&mut cuda, &problems);
    assert!(first.iter().flatten().any(|&bits| bits != 0));
    assert_eq!(first, all(&mut cuda, &problems), "on the same engine");
    assert_eq!(first, all(&mut cuda.another(), &problems), "on another engine and stream");
    let default = cuda.stream().context().default_stream();
    let kernels = common::cuda::kernels().unwrap();
    assert_eq!(first, all(&mut Cuda::on(kernels, &default), &problems), "on the default stream");
}

/// What lay in the workspace before does not matter.
#[test]
fn memory_of_other_problems_does_not_matter() {
    let Some(mut cuda) = Cuda::open("memory_of_other_problems_does_not_matter") else { return };
    let problems = &problems()[..9];
    let first = all(&mut cuda, problems);
    let mut backwards = problems.to_vec();
    backwards.reverse();
    let mut fresh = cuda.another();
    let mut second = all(&mut fresh, &backwards);
    // Two results a problem, in the order of the problems.
    second.reverse();
    for (at, pair) in first.chunks(2).enumerate() {
        assert_eq!(pair[0], second[2 * at + 1], "problem {at}, forward and backward");
        assert_eq!(pair[1], second[2 * at], "problem {at}, in one call");
    }
}
