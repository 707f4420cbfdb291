//! The hardest negatives alone: on the oracle and on the CPU engine.

mod common;

use common::cases::{Case, Part};
use common::mining::the_hardest_may_lie_anywhere;
use common::oracle;
use common::problem::{Named, Pair, Problem, Random};
use common::run::{Cpu, Outputs, forward_backward, loss_and_gradients, run_case};
use metric_kernels::{DType, Engine, Matrix, Mining, Reduction, Scope, Weighting, ops};
use proptest::prelude::*;

mod on_the_oracle {
    use crate::common::identities::Oracle;
    crate::mining_identity_tests!(|_| Some(Oracle));
}

mod on_the_cpu {
    use crate::common::run::Cpu;
    crate::mining_identity_tests!(|_| Some(Cpu::default()));
    crate::mining_tests!(|_| Some(Cpu::default()));
}

/// Several panels of rows; lists, and sets that no list holds.
#[test]
fn the_hardest_may_lie_anywhere_on_the_cpu() {
    the_hardest_may_lie_anywhere(&mut Cpu::default(), (1030, 30, 6));
}

/// Sets of every kind, with many ties and without.
fn problems() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (n, m, d) in [(530, 150, 12), (70, 700, 8)] {
        for ties in [false, true] {
            for mining in [
                Mining::Hardest(n / 2),
                Mining::Hardest(n * m / 9),
                Mining::HardestPerRow(2),
                Mining::HardestPerRow(m / 5),
            ] {
                let loss = Named::ALL[problems.len() % 3];
                let mut random = Random::new(problems.len() as u64);
                let mut problem = Problem::new(loss, 3.0, (n, m, d)).with_mining(mining);
                if problems.len() % 2 == 0 {
                    problem = problem.with_labels(&random.labels(n, 200), &random.labels(m, 200));
                }
                if ties {
                    problem.x = random.whole(n * d, 1);
                    problem.y = Some(random.whole(m * d, 1));
                } else {
                    random.embeddings(&mut problem);
                }
                problems.push(problem);
            }
        }
    }
    problems
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let problems = problems();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut cpu = Cpu::default();
            let mut bits = Vec::new();
            for problem in &problems {
                let results: [Outputs; 2] = [
                    forward_backward(&mut cpu, problem, 0.3).unwrap(),
                    loss_and_gradients(&mut cpu, problem).unwrap(),
                ];
                bits.extend(results.iter().flat_map(Outputs::bits));
                for (k, scope) in [(9, Scope::Row), (5000, Scope::Matrix)] {
                    let x = Matrix::new(&problem.x, problem.n, problem.d).unwrap();
                    let y = Matrix::new(problem.candidates(), problem.m, problem.d).unwrap();
                    let top = ops::top_k(&mut cpu.0, x, y, k, scope).unwrap();
                    bits.extend(top.values.iter().map(|value| value.to_bits()));
                    bits.extend(top.rows.into_iter().flatten().chain(top.columns));
                }
            }
            bits
        })
    };
    let one = with(1);
    for threads in [2, 3, 8] {
        assert!(one == with(threads), "{threads} threads");
    }
}

/// The set does not depend on what the rest of the batch is: the loss of the mined pairs alone.
#[test]
fn top_k_names_the_pairs_that_a_loss_mines() {
    let (n, m, d, k) = (60, 50, 7, 40);
    let mut problem = Problem::new(Named::CrossExampleSoftmax, 2.0, (n, m, d));
    Random::new(3).embeddings(&mut problem);
    // No pair is positive but (0, 0), which is made the least similar of all.
    let mut index = vec![metric_kernels::NO_POSITIVE; n];
    index[0] = 0;
    problem = problem.with_index(&index);
    problem.x[..d].fill(-5.0);
    problem.y.as_mut().unwrap()[..d].fill(5.0);
    let mut cpu = Cpu::default();
    let x = Matrix::new(&problem.x, n, d).unwrap();
    let y = Matrix::new(problem.candidates(), m, d).unwrap();
    let top = ops::top_k(&mut cpu.0, x, y, k, Scope::Matrix).unwrap();
    let counted = oracle::exact(&problem.clone().with_mining(Mining::Hardest(k))).counted;
    let mut places: Vec<usize> = top
        .rows
        .unwrap()
        .iter()
        .zip(&top.columns)
        .map(|(&i, &j)| i as usize * m + j as usize)
        .collect();
    places.sort_unstable();
    assert_eq!(places, (0..n * m).filter(|&at| counted[at]).collect::<Vec<_>>());
    assert_eq!(cpu.0.read(&top.values).unwrap().len(), k);
}

prop_compose! {
    /// Whole numbers, so that ties are true ties and every engine mines the same.
    fn cases()(
        loss in prop::sample::select(&Named::ALL[..]),
        weighting in prop::sample::select(vec![Weighting::Analytic, Weighting::AnchorNormalized]),
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::Bf16]),
        (shared, labels, ids, parts, per_row) in any::<(bool, bool, bool, bool, bool)>(),
        (n, m, d) in (1_usize..50, 1_usize..50, 1_usize..16),
        bound in 0..5,
        part in 0.0_f64..1.1,
        seed in any::<u64>(),
    ) -> Case {
        let mut random = Random::new(seed);
        let (n, m) = if shared { (n.max(2), n.max(2)) } else { (n, m) };
        let mut problem = Problem::new(loss, 0.2, (n, m, d));
        if labels || shared {
            let rows = random.labels(n, 5);
            let mut cols = if shared { rows.clone() } else { random.labels(m, 5) };
            if !shared {
                cols[0] = rows[0];
            }
            problem = problem.with_labels(&rows, &cols);
        }
        if ids {
            let rows = random.labels(n, 9);
            let cols = if shared { rows.clone() } else { random.labels(m, 9) };
            problem = problem.with_ids(&rows, &cols);
        }
        problem.x = random.whole(n * d, bound);
        problem.y = (!shared).then(|| random.whole(m * d, bound));
        // Few more often than many.
        let some = |count: usize| 1 + (part.powi(4) * count as f64) as usize;
        problem.mining =
            if per_row { Mining::HardestPerRow(some(m)) } else { Mining::Hardest(some(n * m)) };
        problem.weighting =
            if loss == Named::CrossExampleSoftmax { Weighting::Analytic } else { weighting };
        problem.reduction = if parts { Reduction::Sum } else { Reduction::Mean };
        problem.dtype = dtype;
        Case {
            name: "random".into(),
            part: Part::Mining,
            problem,
            gaps: (0, 1),
            output_gap: 0,
            scalars_on_device: false,
            upstream: 1.0,
            parts,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_set_is_what_sorting_gives(case in cases()) {
        prop_assume!(case.problem.count(Pair::Positive) > 0);
        prop_assert!(oracle::mines_the_same_in_f32(&case.problem));
        if let Err(failures) = run_case(&mut Cpu::default(), &case) {
            prop_assert!(false, "{}", failures.join("\n"));
        }
    }
}
