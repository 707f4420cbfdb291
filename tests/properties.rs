//! Random shapes, labels, ids, strides and options against the oracle.

mod common;

use common::cases::{Case, Part};
use common::problem::{Named, Pair, Problem, Random};
use common::run::{Cpu, run_case};
use metric_kernels::{DType, NO_POSITIVE, Reduction, Weighting};
use proptest::prelude::*;

prop_compose! {
    fn cases()(
        loss in prop::sample::select(&Named::ALL[..]),
        weighting in prop::sample::select(vec![Weighting::Analytic, Weighting::AnchorNormalized]),
        reduction in prop::sample::select(vec![Reduction::Mean, Reduction::Sum]),
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::Bf16]),
        (normalize, shared, ids, on_device, parts) in any::<(bool, bool, bool, bool, bool)>(),
        (n, m, d) in (1_usize..90, 1_usize..90, 1_usize..40),
        kind in 0..3,
        classes in 1_usize..12,
        log_scale in -2.0_f32..2.0,
        gaps in (0_usize..9, 0_usize..9),
        output_gap in 0_usize..9,
        upstream in -4.0_f32..4.0,
        seed in any::<u64>(),
    ) -> Case {
        let mut random = Random::new(seed);
        // One set has as many columns as rows, and needs a second one to have a pair.
        let (n, m) = if shared { (n.max(2), n.max(2)) } else { (n, m) };
        let mut problem = Problem::new(loss, 10_f32.powf(log_scale), (n, m, d));
        if shared {
            problem.y = None;
        }
        if kind == 0 || (kind == 2 && shared) {
            let rows = random.labels(n, classes);
            let mut cols = if shared { rows.clone() } else { random.labels(m, classes) };
            if !shared {
                cols[0] = rows[0];
            }
            problem = problem.with_labels(&rows, &cols);
        } else if kind == 1 {
            let index: Vec<u32> = (0..n).map(|i| match random.below(5) {
                0 => NO_POSITIVE,
                _ if shared => ((i + 1 + random.below(n - 1)) % n) as u32,
                _ => random.below(m) as u32,
            }).collect();
            problem = problem.with_index(&index);
        }
        if ids {
            let rows = random.labels(n, 2 * classes);
            let cols = if shared { rows.clone() } else { random.labels(m, 2 * classes) };
            problem = problem.with_ids(&rows, &cols);
        }
        problem.weighting =
            if loss == Named::CrossExampleSoftmax { Weighting::Analytic } else { weighting };
        problem.reduction = reduction;
        problem.normalize = normalize;
        random.embeddings(&mut problem);
        if normalize {
            random.stretch(&mut problem.x, d);
        }
        let name = String::from("random");
        let problem = problem.rounded_to(dtype);
        let (part, scalars_on_device) = (Part::Options, on_device);
        Case { name, part, problem, gaps, output_gap, scalars_on_device, upstream, parts }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        // A failure prints its case; nothing is written into the source tree.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_problem_is_as_the_oracle_says(case in cases()) {
        prop_assume!(case.problem.count(Pair::Positive) > 0);
        if let Err(failures) = run_case(&mut Cpu::default(), &case) {
            prop_assert!(false, "{}", failures.join("\n"));
        }
    }
}
