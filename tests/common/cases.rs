//! The one table of cases that every engine goes through.

use super::problem::{Named, Pair, Positives, Problem, Random};
use metric_kernels::{DType, NO_POSITIVE, Reduction, Weighting};

/// Which part of the table a case belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Sizes around every boundary an engine may have, all losses.
    Sizes,
    /// Scales from 1e-3 to 1e4, all losses.
    Scales,
    /// The product of all options, at a small size.
    Options,
    /// Rows that do not lie back to back.
    Strides,
}

/// A problem and the way in which it is handed over.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub part: Part,
    pub problem: Problem,
    /// Elements between the rows of x and of y.
    pub gaps: (usize, usize),
    /// Elements between the rows of the caller's gradients.
    pub output_gap: usize,
    /// Whether scale and upstream gradient are device scalars.
    pub scalars_on_device: bool,
    pub upstream: f32,
    /// Whether every output is also asked for alone.
    pub parts: bool,
}

impl Case {
    /// Similarities times dimensions: what a case costs.
    pub fn cost(&self) -> usize {
        self.problem.n * self.problem.m * self.problem.d
    }
}

/// n, m, d, and why.
pub const SIZES: &[(usize, usize, usize, &str)] = &[
    (1, 1, 1, "the smallest there is: a positive without negatives"),
    (1, 7, 3, "one anchor"),
    (7, 1, 3, "one candidate: all rows but one have no positive"),
    (2, 2, 1, "one negative a row; rows of 4 bytes"),
    (3, 3, 3, "rows of 6 and 12 bytes: no wide loads"),
    (7, 7, 16, "less than a register tile of 8"),
    (31, 31, 16, "one less than a warp"),
    (32, 32, 16, "a warp"),
    (33, 33, 16, "one more than a warp"),
    (63, 63, 64, "one less than a tile of 64"),
    (64, 64, 64, "a tile of 64; d a whole number of slices"),
    (65, 65, 64, "one more than a tile of 64"),
    (64, 64, 1, "one dimension: all of a slice but one element is padding"),
    (33, 65, 257, "d one more than 256, more columns than rows"),
    (65, 33, 257, "d one more than 256, more rows than columns"),
    (31, 129, 3, "wide and short: several column tiles, part of a row tile"),
    (129, 31, 3, "tall and narrow: several row tiles, part of a column tile"),
    (127, 127, 100, "one less than a tile of 128; d no multiple of 8"),
    (128, 128, 100, "a tile of 128"),
    (129, 129, 100, "one more than a tile of 128"),
    (1, 1000, 16, "one anchor against a memory bank"),
    (1000, 1, 16, "many anchors, one candidate"),
    (129, 1000, 16, "a memory bank"),
    (1000, 129, 16, "more anchors than candidates"),
    (1000, 1000, 64, "many tiles on both sides, none of them whole at the end"),
];

/// From all negatives alike to the hardest alone.
pub const SCALES: [f32; 8] = [1e-3, 1e-2, 0.1, 1.0, 20.0, 100.0, 1e3, 1e4];

/// The whole table: the same cases in the same order every time.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    sizes(&mut cases);
    scales(&mut cases);
    options(&mut cases);
    strides(&mut cases);
    for (seed, case) in cases.iter_mut().enumerate() {
        let mut random = Random::new(seed as u64);
        random.embeddings(&mut case.problem);
        if case.problem.normalize {
            let d = case.problem.d;
            random.stretch(&mut case.problem.x, d);
            if let Some(y) = &mut case.problem.y {
                random.stretch(y, d);
            }
        }
        let dtype = case.problem.dtype;
        case.problem = case.problem.clone().rounded_to(dtype);
    }
    cases
}

/// The cases of one part.
pub fn part(part: Part) -> Vec<Case> {
    table().into_iter().filter(|case| case.part == part).collect()
}

/// Problems for tests of determinism: every loss at each of three shapes (n, m, shared), with
/// embeddings of `d`, labels of `classes`, options and element types by turns; and every `step`th
/// combination of options of the table.
pub fn assorted(
    shapes: [(usize, usize, bool); 3],
    d: usize,
    classes: usize,
    step: usize,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for loss in Named::ALL {
        for (n, m, shared) in shapes {
            let mut random = Random::new(problems.len() as u64);
            let (labels, cols) = (random.labels(n, classes), random.labels(m, classes));
            let mut problem = Problem::new(loss, 10.0, (n, m, d));
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
    problems.extend(part(Part::Options).into_iter().step_by(step).map(|case| case.problem));
    problems
}

fn case(part: Part, problem: Problem, why: &str) -> Case {
    let &Problem { loss, n, m, d, scale, weighting, reduction, normalize, dtype, .. } = &problem;
    let name = format!(
        "{part:?}: {loss:?} {n}×{m}×{d} {}{}{} s={scale:e} {weighting:?} {reduction:?}{} {} ({why})",
        match problem.positives {
            Positives::Diagonal => "diagonal",
            Positives::Labels { .. } => "labels",
            Positives::Index(_) => "index",
        },
        if problem.shared() { " shared" } else { "" },
        if problem.ids.is_some() { " ids" } else { "" },
        if normalize { " normalized" } else { "" },
        dtype.name(),
    );
    Case {
        name,
        part,
        problem,
        gaps: (0, 0),
        output_gap: 0,
        scalars_on_device: false,
        upstream: 1.0,
        parts: false,
    }
}

fn sizes(cases: &mut Vec<Case>) {
    for (at, &(n, m, d, why)) in SIZES.iter().enumerate() {
        for loss in Named::ALL {
            let mut problem = Problem::new(loss, 8.0, (n, m, d));
            if loss == Named::InstanceCrossEntropy {
                // Four instances a class; on square sizes one shared set, but for n = 1, which
                // would have no pair at all.
                let rows: Vec<u32> = (0..n as u32).map(|i| i / 4).collect();
                let cols: Vec<u32> = (0..m as u32).map(|j| j / 4).collect();
                problem = problem.with_labels(&rows, &cols);
                if n == m && n > 1 {
                    problem.y = None;
                }
            }
            let mut case = case(Part::Sizes, problem, why);
            case.upstream = if at % 2 == 0 { -2.5 } else { 0.75 };
            case.parts = n * m <= 1000;
            cases.push(case);
        }
    }
}

fn scales(cases: &mut Vec<Case>) {
    for scale in SCALES {
        for loss in Named::ALL {
            for normalize in [false, true] {
                let mut problem = Problem::new(loss, scale, (20, 28, 12));
                problem.normalize = normalize;
                if loss == Named::InstanceCrossEntropy {
                    let rows: Vec<u32> = (0..20).map(|i| i / 3).collect();
                    let cols: Vec<u32> = (0..28).map(|j| j / 4).collect();
                    problem = problem.with_labels(&rows, &cols);
                }
                let mut case = case(Part::Scales, problem, "scales");
                case.scalars_on_device = normalize;
                case.upstream = 3.0;
                cases.push(case);
            }
        }
    }
}

/// Scope and weighting: the combinations that exist.
const WEIGHTED: [(Named, Weighting); 5] = [
    (Named::InBatchSoftmax, Weighting::Analytic),
    (Named::InBatchSoftmax, Weighting::AnchorNormalized),
    (Named::CrossExampleSoftmax, Weighting::Analytic),
    (Named::InstanceCrossEntropy, Weighting::Analytic),
    (Named::InstanceCrossEntropy, Weighting::AnchorNormalized),
];

fn options(cases: &mut Vec<Case>) {
    let positives = ["diagonal", "labels", "index", "shared labels", "shared index"];
    let mut seed = 1000;
    for (loss, weighting) in WEIGHTED {
        for kind in positives {
            for ids in [false, true] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    for normalize in [false, true] {
                        for dtype in [DType::F32, DType::F16, DType::Bf16] {
                            seed += 1;
                            // What is not part of the product is drawn, so that nothing goes
                            // hand in hand with anything else.
                            let mut random = Random::new(seed);
                            let mut problem = matched(loss, kind, &mut random);
                            problem.weighting = weighting;
                            problem.reduction = reduction;
                            problem.normalize = normalize;
                            problem.dtype = dtype;
                            if ids {
                                add_ids(&mut problem, &mut random);
                            }
                            let mut case = case(Part::Options, problem, "options");
                            case.scalars_on_device = random.below(2) == 0;
                            case.upstream = [-0.5, 2.0, 1.0, -3.0][random.below(4)];
                            case.gaps = (random.below(3), random.below(4));
                            case.output_gap = random.below(5);
                            case.parts = random.below(7) == 0;
                            cases.push(case);
                        }
                    }
                }
            }
        }
    }
}

/// A small problem with some kind of positives: rows without, with one and with many.
fn matched(loss: Named, kind: &str, random: &mut Random) -> Problem {
    let shared = kind.starts_with("shared");
    let (n, m) = if shared { (13, 13) } else { [(9, 14), (14, 9), (11, 11)][random.below(3)] };
    let scale = [0.5, 4.0, 30.0][random.below(3)];
    let mut problem = Problem::new(loss, scale, (n, m, 5));
    if shared {
        problem.y = None;
    }
    match kind {
        "diagonal" => problem,
        "labels" | "shared labels" => loop {
            let rows = random.labels(n, 4);
            let cols = if shared { rows.clone() } else { random.labels(m, 5) };
            let problem = problem.clone().with_labels(&rows, &cols);
            if problem.count(Pair::Positive) > 0 && problem.count(Pair::Negative) > 0 {
                return problem;
            }
        },
        "index" | "shared index" => {
            let index = (0..n).map(|i| match random.below(4) {
                0 if i > 0 => NO_POSITIVE,
                _ => loop {
                    let j = random.below(m);
                    if !shared || i != j {
                        return j as u32;
                    }
                },
            });
            let index: Vec<u32> = index.collect();
            problem.with_index(&index)
        }
        other => panic!("no such positives: {other}"),
    }
}

/// Ids of which a few agree.
fn add_ids(problem: &mut Problem, random: &mut Random) {
    let rows = random.labels(problem.n, 6);
    let cols = if problem.shared() { rows.clone() } else { random.labels(problem.m, 6) };
    problem.ids = Some((rows, cols));
}

fn strides(cases: &mut Vec<Case>) {
    // Gaps that keep rows aligned to 16 bytes and gaps that do not.
    for gaps in [(1, 0), (0, 1), (4, 8), (3, 5), (64, 0)] {
        for loss in Named::ALL {
            for dtype in [DType::F32, DType::Bf16] {
                let mut problem = Problem::new(loss, 6.0, (37, 41, 24));
                problem.dtype = dtype;
                if loss == Named::InstanceCrossEntropy {
                    let rows: Vec<u32> = (0..37).map(|i| i % 9).collect();
                    let cols: Vec<u32> = (0..41).map(|j| j % 9).collect();
                    problem = problem.with_labels(&rows, &cols);
                }
                let mut case = case(Part::Strides, problem, &format!("gaps {gaps:?}"));
                case.gaps = gaps;
                case.output_gap = gaps.0 + gaps.1;
                case.upstream = 0.5;
                cases.push(case);
            }
        }
    }
}
