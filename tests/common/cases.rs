//! The one table of cases that every engine goes through.

use super::oracle;
use super::problem::{Named, Pair, Positives, Problem, Random};
use metric_kernels::{DType, Mining, NO_POSITIVE, Reduction, Weighting};

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
    /// The hardest negatives alone: what makes a choice hard, and options at random.
    Mining,
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
    labels(&mut cases);
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
    // With embeddings of their own.
    mining(&mut cases);
    classes_of_many_sizes(&mut cases);
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
    let &Problem { loss, n, m, d, scale, mining, weighting, reduction, normalize, dtype, .. } =
        &problem;
    let name = format!(
        "{part:?}: {loss:?} {n}×{m}×{d} {}{}{}{} s={scale:e} {weighting:?} {reduction:?}{} {} ({why})",
        match problem.positives {
            Positives::Diagonal => "diagonal",
            Positives::Labels { .. } => "labels",
            Positives::Index(_) => "index",
        },
        if problem.shared() { " shared" } else { "" },
        if problem.ids.is_some() { " ids" } else { "" },
        if mining == Mining::All { String::new() } else { format!(" {mining:?}") },
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

/// Labels of classes of these sizes, in no order.
fn of_sizes(sizes: &[usize], random: &mut Random) -> Vec<u32> {
    let of = sizes.iter().enumerate();
    let mut labels: Vec<u32> = of.flat_map(|(class, &size)| vec![class as u32; size]).collect();
    for i in (1..labels.len()).rev() {
        labels.swap(i, random.below(i + 1));
    }
    labels
}

/// Classes of as many columns as the CUDA engine keeps similarities of from one pass for the next, and
/// of one more, side by side with small ones and such as have no columns, or no rows.
fn classes_of_many_sizes(cases: &mut Vec<Case>) {
    let mut random = Random::new(57);
    let of_rows = [40, 33, 5, 30, 7, 0, 16];
    let of_columns = [96, 97, 3, 0, 4, 1, 30];
    for (at, (loss, weighting)) in WEIGHTED.into_iter().cycle().take(15).enumerate() {
        let shape = (at + at / 5) % 5;
        let (rows, cols) = match shape {
            // Of a shared set, which has other labels as columns than as rows in the last.
            2 => {
                let labels = of_sizes(&[96, 64], &mut random);
                (labels.clone(), labels)
            }
            3 => {
                let labels = of_sizes(&[97, 33, 1], &mut random);
                (labels.clone(), labels)
            }
            4 => (of_sizes(&[40, 60], &mut random), of_sizes(&[70, 0, 30], &mut random)),
            _ => (of_sizes(&of_rows, &mut random), of_sizes(&of_columns, &mut random)),
        };
        let mut problem = Problem::new(loss, 6.0, (rows.len(), cols.len(), 8));
        problem = problem.with_labels(&rows, &cols);
        problem.weighting = weighting;
        problem.dtype = [DType::Bf16, DType::F32, DType::F16][at / 5];
        if shape >= 2 {
            problem.y = None;
        }
        if at % 4 == 3 {
            add_ids(&mut problem, &mut random);
        }
        random.embeddings(&mut problem);
        let problem = problem.clone().rounded_to(problem.dtype);
        cases.push(case(Part::Sizes, problem, "classes of many sizes"));
    }
}

/// Labels in no order, over several tiles: small classes, and two of half the batch each.
fn labels(cases: &mut Vec<Case>) {
    let mut random = Random::new(55);
    for (at, loss) in [Named::CrossExampleSoftmax, Named::InstanceCrossEntropy]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let (n, m, shared) = [(131, 70, false), (70, 131, false), (97, 97, true)][at / 2 % 3];
        let mut problem = Problem::new(loss, 9.0, (n, m, 24));
        let classes = if at < 6 { n / 4 } else { 2 };
        let rows = random.labels(n, classes);
        let cols = if shared { rows.clone() } else { random.labels(m, classes) };
        problem = problem.with_labels(&rows, &cols);
        problem.normalize = at % 4 < 2;
        problem.dtype = [DType::F32, DType::F16, DType::Bf16][(at + at / 3) % 3];
        if shared {
            problem.y = None;
        }
        if at % 3 == 0 {
            add_ids(&mut problem, &mut random);
        }
        let mut case = case(Part::Sizes, problem, "labels in no order");
        case.gaps = (at % 2 * 3, at % 3 * 5);
        case.upstream = 1.5;
        cases.push(case);
    }
}

/// A cross-example loss over two classes of about half the batch each.
pub fn two_classes(n: usize, d: usize) -> Case {
    let mut random = Random::new(56);
    let mut problem = Problem::new(Named::CrossExampleSoftmax, 3.0, (n, n, d));
    random.embeddings(&mut problem);
    let (rows, cols) = (random.labels(n, 2), random.labels(n, 2));
    problem.dtype = DType::F16;
    case(Part::Sizes, problem.with_labels(&rows, &cols).rounded_to(DType::F16), "two classes")
}

/// Anchors and candidates whose similarities are exact in f32 and all element types, and why.
fn hard_to_choose_from() -> Vec<(Problem, &'static str)> {
    let of = |(n, m, d), x: Vec<f32>, y: Vec<f32>, scale: f32| {
        let mut problem = Problem::new(Named::InBatchSoftmax, scale, (n, m, d));
        assert_eq!((x.len(), y.len()), (n * d, m * d));
        problem.x = x;
        problem.y = Some(y);
        problem
    };
    // S as x, the unit matrix as y.
    let similarities = |n, m, scale, s: &dyn Fn(usize, usize) -> f32| {
        let s: Vec<f32> = (0..n * m).map(|at| s(at / m, at % m)).collect();
        Problem::of_similarities(Named::InBatchSoftmax, scale, n, m, &s)
    };
    let mut random = Random::new(77);
    let three = [[3.0, 1.0], [-1.0, 2.0], [2.0, 2.0]];
    let mut copies =
        |count| -> Vec<f32> { (0..count).flat_map(|_| three[random.below(3)]).collect() };
    let (of_x, of_y) = (copies(12), copies(13));
    let mut random = Random::new(78);
    let (few, other_few) = (random.whole(21 * 3, 2), random.whole(17 * 3, 2));
    let (wide, other_wide) = (random.whole(43 * 8, 2), random.whole(40 * 8, 2));
    let (early, late) = (random.whole(67 * 3, 1), random.whole(66 * 3, 1));
    let last = |values: &[f32], from: usize| -> Vec<f32> {
        let add = |at| if at / 3 >= from { 4.0 } else { 0.0 };
        values.iter().enumerate().map(|(at, value)| value + add(at)).collect()
    };
    let tiny = (-60_f32).exp2();
    vec![
        (similarities(9, 11, 0.1, &|_, _| 3.0), "all similarities equal"),
        (of((9, 10, 3), vec![0.0; 27], vec![0.0; 30], 2.0), "all similarities zero"),
        (
            similarities(10, 9, 0.2, &|i, j| if i == 6 { 8.0 + j as f32 } else { 0.0 - j as f32 }),
            "one row has all hard negatives",
        ),
        (similarities(11, 10, 0.05, &|i, j| (10 * i + j) as f32), "sorted"),
        (similarities(10, 11, 0.05, &|i, j| 0.0 - (11 * i + j) as f32), "sorted in reverse"),
        (of((12, 13, 2), of_x, of_y, 0.3), "copies of three vectors"),
        (of((21, 17, 3), few, other_few, 0.4), "many ties"),
        (of((43, 40, 8), wide, other_wide, 0.2), "few of many"),
        (of((1, 23, 1), vec![2.0], (0..23).map(|j| (j % 5) as f32).collect(), 0.3), "one anchor"),
        (
            of((23, 2, 1), (0..23).map(|i| (i % 4) as f32).collect(), vec![1.0; 2], 0.3),
            "two candidates",
        ),
        (
            of((67, 66, 3), last(&early, 64), last(&late, 64), 0.1),
            "hard negatives in the last tile alone",
        ),
        (
            similarities(8, 9, tiny, &|i, j| ((5 * i + 3 * j) % 7) as f32 / tiny - 3.0 / tiny),
            "huge similarities, either sign",
        ),
        (
            similarities(8, 9, 1.0 / tiny, &|i, j| {
                ((5 * i + 3 * j) % 7) as f32 * tiny - 3.0 * tiny
            }),
            "tiny similarities, either sign",
        ),
    ]
}

fn mining(cases: &mut Vec<Case>) {
    let dtypes = [DType::F32, DType::F16, DType::Bf16];
    let mut turn = 0;
    for (problem, why) in hard_to_choose_from() {
        let (n, m) = (problem.n, problem.m);
        let pairs = n * m;
        // One, a few, so many that no list is kept, all but one, all, more than there are.
        let counts = [1, 3, m + 2, pairs / 3, pairs - n.min(m) - 1, pairs - n.min(m), pairs + 1];
        let whole = counts.map(Mining::Hardest);
        let each = [1, 2, m / 2, m - 1, m].map(Mining::HardestPerRow);
        for mining in whole.into_iter().chain(each) {
            let (Mining::Hardest(k) | Mining::HardestPerRow(k)) = mining else { continue };
            if k == 0 {
                continue;
            }
            turn += 1;
            let mut problem = problem.clone().with_mining(mining);
            problem.loss = Named::ALL[turn % 3];
            if problem.loss == Named::InstanceCrossEntropy {
                let rows: Vec<u32> = (0..n as u32).map(|i| i / 3).collect();
                let cols: Vec<u32> = (0..m as u32).map(|j| j / 3).collect();
                problem = problem.with_labels(&rows, &cols);
                problem.weighting =
                    [Weighting::Analytic, Weighting::AnchorNormalized][turn / 3 % 2];
            }
            // 2⁶⁰ is more than an f16 holds, 2⁻⁶⁰ less.
            let fits = problem.scale > 1e-6 && problem.scale < 1e6;
            problem.dtype = if fits { dtypes[turn / 2 % 3] } else { DType::F32 };
            assert_eq!(problem.clone().rounded_to(problem.dtype).x, problem.x, "{why}");
            let mut case = case(Part::Mining, problem, why);
            case.upstream = if turn % 2 == 0 { 1.0 } else { -1.5 };
            case.parts = turn % 5 == 0;
            cases.push(case);
        }
    }
    let positives = ["diagonal", "labels", "index", "shared labels", "shared index"];
    for (seed, (loss, weighting)) in (0..12).flat_map(|turn| WEIGHTED.map(|w| (turn, w))) {
        let mut random = Random::new(5000 + cases.len() as u64);
        // Where similarities happen to be close at the place that counts, another is drawn.
        let problem = loop {
            let mut problem = matched(loss, positives[seed % 5], &mut random);
            problem.weighting = weighting;
            problem.reduction = [Reduction::Mean, Reduction::Sum][random.below(2)];
            problem.normalize = random.below(2) == 0;
            problem.dtype = dtypes[random.below(3)];
            if random.below(3) == 0 {
                add_ids(&mut problem, &mut random);
            }
            let most = [9, 40, 190][random.below(3)];
            problem.mining = match random.below(2) {
                0 => Mining::Hardest(1 + random.below(most)),
                _ => Mining::HardestPerRow(1 + random.below(problem.m)),
            };
            random.embeddings(&mut problem);
            if problem.normalize {
                let d = problem.d;
                random.stretch(&mut problem.x, d);
            }
            let dtype = problem.dtype;
            let problem = problem.rounded_to(dtype);
            if oracle::mines_the_same_in_f32(&problem) {
                break problem;
            }
        };
        let mut case = case(Part::Mining, problem, "options");
        case.scalars_on_device = random.below(2) == 0;
        case.upstream = [-0.5, 2.0, 1.0][random.below(3)];
        case.gaps = (random.below(3), random.below(4));
        case.output_gap = random.below(5);
        case.parts = random.below(5) == 0;
        cases.push(case);
    }
}
