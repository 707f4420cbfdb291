//! The same bits on CUDA: on every run, on every engine, on every stream, whatever ran before.

mod common;

use common::cases::{Part, table};
use common::cuda::Cuda;
use common::problem::{Named, Problem, Random};
use common::run::{Outputs, forward_backward, loss_and_gradients};
use metric_kernels::{DType, Weighting};

fn problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for (n, m, shared) in [(150, 100, false), (60, 260, false), (133, 133, true)] {
            let mut random = Random::new(problems.len() as u64);
            let (labels, cols) = (random.labels(n, 9), random.labels(m, 9));
            let mut problem = Problem::new(loss, 10.0, (n, m, 12));
            problem.normalize = true;
            problem.dtype = [DType::F32, DType::F16, DType::Bf16][problems.len() % 3];
            if shared {
                problem = problem.with_labels(&labels, &labels);
                problem.y = None;
            } else if loss == Named::InstanceCrossEntropy {
                problem = problem.with_labels(&labels, &cols);
                problem.weighting = Weighting::AnchorNormalized;
            }
            random.embeddings(&mut problem);
            let dtype = problem.dtype;
            problems.push(problem.rounded_to(dtype));
        }
    }
    let some = table().into_iter().filter(|case| case.part == Part::Options).step_by(31);
    problems.extend(some.map(|case| case.problem));
    problems
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
