//! Mining on the CUDA engine: what every engine promises, and sizes of which the mined pairs are kept as a list: found in one pass
//! over the tiles, or, where the list overflows, by searching. The table of cases (`cuda_table`) has
//! the sizes at which cuts are searched from the first.

mod common;

use common::cuda::Cuda;
use common::edge_cases::assert_as_oracle;
use common::mining::the_hardest_may_lie_anywhere;
use common::oracle;
use common::problem::{Named, Problem, Random};
use common::run::{Harness, loss_and_gradients, loss_only};
use metric_kernels::engine::cuda::Tile;
use metric_kernels::{
    DType, Engine, Error, Matrix, Mining, NO_POSITIVE, Reduction, Scope, Weighting, ops,
};

/// Tiles of 32: 5 × 5, some of which are a sample; of a row of them too.
const SIZE: (usize, usize, usize) = (140, 139, 6);

const COUNTS: [Mining; 7] = [
    Mining::Hardest(1),
    Mining::Hardest(33),
    Mining::Hardest(400),
    Mining::HardestPerRow(1),
    Mining::HardestPerRow(2),
    // Too many for a list: by way of a sample, and by searching every row.
    Mining::Hardest(5000),
    Mining::HardestPerRow(60),
];

mining_identity_tests!(Cuda::open);
mining_tests!(Cuda::open);

#[test]
fn the_hardest_may_lie_anywhere_on_cuda() {
    let Some(mut cuda) = Cuda::open("the_hardest_may_lie_anywhere_on_cuda") else { return };
    the_hardest_may_lie_anywhere(&mut cuda, SIZE);
}

/// Embeddings of which it is plain which pairs are mined.
fn fill(problem: Problem, seed: u64) -> Problem {
    let mut random = Random::new(seed);
    loop {
        let mut filled = problem.clone();
        random.embeddings(&mut filled);
        let dtype = filled.dtype;
        let filled = filled.rounded_to(dtype);
        if oracle::mines_the_same_in_f32(&filled) {
            return filled;
        }
    }
}

#[test]
fn every_kind_of_positive() {
    let Some(mut cuda) = Cuda::open("every_kind_of_positive") else { return };
    let (n, m, _) = SIZE;
    let labels = |count: usize| (0..count as u32).map(|i| i / 5).collect::<Vec<_>>();
    for (turn, mining) in COUNTS.into_iter().enumerate() {
        let loss = [Named::InBatchSoftmax, Named::CrossExampleSoftmax][turn % 2];
        let mut problem = Problem::new(loss, 5.0, SIZE).with_mining(mining);
        problem.dtype = [DType::F32, DType::F16, DType::Bf16][turn % 3];
        if turn % 2 == 0 {
            problem.weighting = Weighting::AnchorNormalized;
        } else {
            problem.reduction = Reduction::Sum;
        }
        // A set against another, and a set against itself with an index that points anywhere.
        assert_as_oracle(&mut cuda, &fill(problem.clone(), turn as u64));
        if turn % 2 == 0 {
            continue;
        }
        let index: Vec<u32> = (0..n as u32)
            .map(|i| if i % 7 == 3 { NO_POSITIVE } else { (i * 31 + 1) % 50 })
            .map(|j| if j == 0 { 60 } else { j })
            .enumerate()
            .map(|(i, j)| if j as usize == i { NO_POSITIVE } else { j })
            .collect();
        let mut shared = problem.clone().with_index(&index);
        (shared.y, shared.m) = (None, n);
        shared.scale = 2.0;
        let ids = |count: usize| (0..count as u32).map(|i| i % 90).collect::<Vec<_>>();
        assert_as_oracle(&mut cuda, &fill(shared.with_ids(&ids(n), &ids(n)), 50 + turn as u64));
        if turn == 1 {
            let labeled = problem.with_labels(&labels(n), &labels(m));
            assert_as_oracle(&mut cuda, &fill(labeled, 90));
        }
    }
}

#[test]
fn lists_that_overflow_lose_nothing() {
    let Some(mut cuda) = Cuda::open("lists_that_overflow_lose_nothing") else { return };
    let (n, m, d) = SIZE;
    for (turn, mining) in COUNTS[1..6].iter().enumerate() {
        let loss = [Named::CrossExampleSoftmax, Named::InBatchSoftmax][turn % 2];
        let mut problem = Problem::new(loss, 0.5, SIZE).with_mining(*mining);
        // Similarities of a few values, of which most are equal.
        let mut random = Random::new(turn as u64);
        problem.x = random.whole(n * d, 1);
        problem.y = Some(random.whole(m * d, 1));
        assert_as_oracle(&mut cuda, &problem);
        // All equal.
        problem.x.fill(1.0);
        problem.y = Some(vec![0.5; m * d]);
        assert_as_oracle(&mut cuda, &problem);
    }
}

/// The most similar pairs of x (n × d) and y (m × d) are those of a sorted list of all, to the bit.
fn top_k_is_exact(
    cuda: &mut Cuda,
    (x, y): (&[f32], &[f32]),
    (n, m, d): (usize, usize, usize),
    counts: &[usize],
    scope: Scope,
) {
    let mut sorted = Vec::new();
    for (at, i, j) in (0..n * m).map(|at| (at, at / m, at % m)) {
        let similarity: f32 = (0..d).map(|k| x[i * d + k] * y[j * d + k]).sum();
        // -0 is 0.
        let similarity = similarity + 0.0;
        sorted.push((similarity, at));
    }
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (x, y) = (cuda.upload(x), cuda.upload(y));
    for &k in counts {
        let of_row = |i| sorted.iter().copied().filter(move |pair| pair.1 / m == i).take(k);
        let expected: Vec<(f32, usize)> = match scope {
            Scope::Row => (0..n).flat_map(of_row).collect(),
            Scope::Matrix => sorted[..k].to_vec(),
        };
        let (x, y) = (Matrix::new(&x, n, d).unwrap(), Matrix::new(&y, m, d).unwrap());
        let top = ops::top_k(&mut cuda.0, x, y, k, scope).unwrap();
        let values = cuda.0.read(&top.values).unwrap();
        let rows = top.rows.as_ref().map(|rows| cuda.0.read_indices(rows).unwrap());
        let columns = cuda.0.read_indices(&top.columns).unwrap();
        assert_eq!((values.len(), columns.len()), (expected.len(), expected.len()));
        for (at, &(similarity, pair)) in expected.iter().enumerate() {
            let row = rows.as_ref().map_or(at / k, |rows| rows[at] as usize);
            let given = (values[at], row, columns[at] as usize);
            let expected = (similarity, pair / m, pair % m);
            assert_eq!(given, expected, "k = {k}, {scope:?}, place {at}");
        }
    }
}

#[test]
fn top_k_of_few_and_of_many() {
    let Some(mut cuda) = Cuda::open("top_k_of_few_and_of_many") else { return };
    let mut bounded = cuda.another().with_workspace_bound(400_000);
    let size @ (n, m, d) = SIZE;
    let mut random = Random::new(11);
    let (x, y) = (random.whole(n * d, 20), random.whole(m * d, 20));
    // By a guess, by way of a window, by searching.
    top_k_is_exact(&mut cuda, (&x, &y), size, &[1, 100, 4000, n * m - 1], Scope::Matrix);
    top_k_is_exact(&mut cuda, (&x, &y), size, &[1, 2, 60], Scope::Row);
    top_k_is_exact(&mut bounded, (&x, &y), size, &[1, 2], Scope::Row);
    assert!(bounded.0.workspace_bytes() <= 400_000);
}

/// Rows whose similarities lie so that a guess, the bins of a selection or what the bins begin with
/// go wrong. Whole numbers and powers of two: similarities are exact.
#[test]
fn rows_are_mined_exactly_however_they_lie() {
    let Some(cuda) = Cuda::open("rows_are_mined_exactly_however_they_lie") else { return };
    let mut large = cuda.another().with_tile(Tile::Large);
    let mut small = cuda.with_tile(Tile::Small);
    let (n, m, d) = (131, 1020, 3);
    let mut random = Random::new(21);
    let (x, y) = (random.whole(n * d, 15), random.whole(m * d, 15));
    let few_values = random.whole(m * d, 1);
    let with = |change: &dyn Fn(usize, &mut [f32])| {
        let mut y = y.clone();
        y.chunks_mut(d).enumerate().for_each(|(j, row)| change(j, row));
        y
    };
    let times = |row: &mut [f32], factor: f32| row.iter_mut().for_each(|value| *value *= factor);
    let cases = [
        ("as they come", y.clone()),
        ("few values, most of them equal", few_values),
        ("all equal", vec![2.0; m * d]),
        ("every column eight times", with(&|j, row| row.copy_from_slice(&y[j / 8 * d..][..d]))),
        (
            "one column far from the rest",
            with(&|j, row| times(row, [1.0, 65536.0][usize::from(j == 700)])),
        ),
        (
            "ten columns ever farther",
            with(&|j, row| {
                let far = if (500..510).contains(&j) { 2 * (j - 499) as i32 } else { 0 };
                times(row, 2f32.powi(far));
            }),
        ),
        (
            "all in one tile",
            with(&|j, row| times(row, [1.0, 64.0][usize::from((256..384).contains(&j))])),
        ),
        ("all in a sampled tile", with(&|j, row| times(row, [1.0, 64.0][usize::from(j < 128)]))),
        ("of all sizes", with(&|j, row| times(row, 2f32.powi((j * 37 % 40) as i32 - 20)))),
        ("nothing but zeros", vec![0.0; m * d]),
    ];
    for (name, y) in &cases {
        println!("{name}");
        let counts = [1, 2, 7, 16, 33, 64];
        top_k_is_exact(&mut large, (&x, y), (n, m, d), &counts, Scope::Row);
        let rows = 9;
        top_k_is_exact(&mut small, (&x[..rows * d], y), (rows, m, d), &[3, 20, 130], Scope::Row);
    }
}

/// Cuts above 0 are told by the bits of similarities, others are not; and -0 is 0.
#[test]
fn rows_are_mined_exactly_whatever_their_sign() {
    let Some(cuda) = Cuda::open("rows_are_mined_exactly_whatever_their_sign") else { return };
    let mut cuda = cuda.with_tile(Tile::Large);
    let size @ (n, m, d) = (129, 1031, 3);
    let mut random = Random::new(77);
    let (x, y) = (random.whole(n * d, 9), random.whole(m * d, 9));
    let of_sign = |values: &[f32], sign: f32| -> Vec<f32> {
        values.iter().map(|value| sign * (value.abs() + 1.0)).collect()
    };
    let mut at_zero = y.clone();
    let rows = at_zero.chunks_mut(d).enumerate();
    rows.filter(|(j, _)| j % 9 != 0).for_each(|(_, row)| row.fill(-0.0));
    let cases = [
        ("below 0", of_sign(&x, 1.0), of_sign(&y, -1.0)),
        ("above 0", of_sign(&x, 1.0), of_sign(&y, 1.0)),
        ("of either sign by rows", x.clone(), of_sign(&y, 1.0)),
        ("at 0 and -0", x, at_zero),
    ];
    for (name, x, y) in &cases {
        println!("{name}");
        top_k_is_exact(&mut cuda, (x, y), size, &[1, 48, 64, 127], Scope::Row);
    }
}

/// More columns than a row's bits in shared memory.
#[test]
fn rows_of_many_columns_are_mined_exactly() {
    let Some(cuda) = Cuda::open("rows_of_many_columns_are_mined_exactly") else { return };
    let mut cuda = cuda.with_tile(Tile::Small);
    let size @ (n, m, d) = (6, 8300, 3);
    let mut random = Random::new(22);
    let (x, y) = (random.whole(n * d, 40), random.whole(m * d, 40));
    top_k_is_exact(&mut cuda, (&x, &y), size, &[1, 20, 300], Scope::Row);
}

/// More rows than are put in order at a time; and of very different lengths where the matrix is mined,
/// since a few rows hold most of the hardest pairs.
#[test]
fn many_rows_are_mined_exactly() {
    let Some(mut cuda) = Cuda::open("many_rows_are_mined_exactly") else { return };
    let size @ (n, m, d) = (2100, 320, 3);
    let mut random = Random::new(23);
    let (mut x, y) = (random.whole(n * d, 40), random.whole(m * d, 40));
    top_k_is_exact(&mut cuda, (&x, &y), size, &[1, 9], Scope::Row);
    x.chunks_mut(d).step_by(7).for_each(|row| row.iter_mut().for_each(|value| *value *= 3.0));
    top_k_is_exact(&mut cuda, (&x, &y), size, &[5000], Scope::Matrix);
}

/// Of equal pairs at the cut of the matrix, more than are compared one by one; and more than there is
/// room for beside the list, so that the matrix is searched.
#[test]
fn many_equal_pairs_at_the_cut() {
    let Some(mut cuda) = Cuda::open("many_equal_pairs_at_the_cut") else { return };
    for (n, m, counts) in [(300, 320, [299, 300, 1000, 1301]), (9000, 40, [8999, 9000, 9001, 9100])]
    {
        let mut random = Random::new(24);
        // One row again and again.
        let (x, y) = ([3.0, 7.0].repeat(n), random.whole(m * 2, 40));
        top_k_is_exact(&mut cuda, (&x, &y), (n, m, 2), &counts, Scope::Matrix);
    }
}

/// What the sample knows nothing of is harder than all it knows, by powers of two.
#[test]
fn pairs_far_above_the_sample() {
    let Some(cuda) = Cuda::open("pairs_far_above_the_sample") else { return };
    let mut cuda = cuda.with_tile(Tile::Small);
    let size @ (n, m, d) = (500, 490, 3);
    let mut random = Random::new(25);
    let (x, mut y) = (random.whole(n * d, 40), random.whole(m * d, 40));
    for (place, column) in y.chunks_mut(d).skip(101).take(20).enumerate() {
        column.iter_mut().for_each(|value| *value *= (1u32 << place) as f32);
    }
    top_k_is_exact(&mut cuda, (&x, &y), size, &[1, 20, 1000, 4000, 7000], Scope::Matrix);
}

/// A tenth of the rows have many of their hardest pairs in the tiles of the sample, every fifth, and so
/// too high a guess. With every kind of keys.
#[test]
fn rows_guessed_too_high_are_guessed_for_again() {
    let Some(cuda) = Cuda::open("rows_guessed_too_high_are_guessed_for_again") else { return };
    let mut cuda = cuda.with_tile(Tile::Small);
    let size @ (n, m, d) = (330, 650, 4);
    let high = |problem: &Problem| {
        let mut high = problem.clone();
        let coordinate = |values: &mut Vec<f32>, of: &dyn Fn(usize) -> f32| {
            values.chunks_mut(d).enumerate().for_each(|(at, row)| row[d - 1] = of(at));
        };
        coordinate(&mut high.x, &|row| if row % 10 == 3 { 1.0 } else { 0.0 });
        let y = |column: usize| {
            if (column / 32).is_multiple_of(5) && column % 32 < 16 && column.is_multiple_of(4) {
                2.0
            } else {
                0.0
            }
        };
        coordinate(high.y.as_mut().unwrap(), &y);
        high
    };
    let mining = Mining::HardestPerRow(30);
    let problem = Problem::new(Named::InBatchSoftmax, 2.0, size).with_mining(mining);
    let keys =
        |count: usize, of: usize| (0..count).map(|i| (i * 7 % of) as u32).collect::<Vec<_>>();
    for (turn, problem) in [
        problem.clone(),
        problem.clone().with_labels(&keys(n, 61), &keys(m, 61)),
        problem.with_ids(&keys(n, 80), &keys(m, 80)),
    ]
    .into_iter()
    .enumerate()
    {
        let filled = (0..).map(|seed| high(&fill(problem.clone(), 30 + 10 * turn as u64 + seed)));
        let exact = filled.into_iter().find(oracle::mines_the_same_in_f32).unwrap();
        assert_as_oracle(&mut cuda, &exact);
    }
}

/// 16 × 16 tiles: a sample, a seventh, the rest (the engine's own tests say so); also where a few rows and columns have all of the
/// hardest pairs.
#[test]
fn a_matrix_in_three_parts() {
    let Some(cuda) = Cuda::open("a_matrix_in_three_parts") else { return };
    let mut cuda = cuda.with_tile(Tile::Small);
    let size @ (n, m, d) = (500, 490, 3);
    let problem = Problem::new(Named::CrossExampleSoftmax, 2.0, size);
    let problem = fill(problem.with_mining(Mining::Hardest(20)), 8);
    assert_as_oracle(&mut cuda, &problem);
    for (rows, columns) in [(0..20, 0..20), (n - 20..n, m - 20..m)] {
        let mut close = problem.clone();
        close.x[rows.start * d..rows.end * d].iter_mut().for_each(|value| *value *= 8.0);
        let y = close.y.as_mut().unwrap();
        y[columns.start * d..columns.end * d].iter_mut().for_each(|value| *value *= 8.0);
        if oracle::mines_the_same_in_f32(&close) {
            assert_as_oracle(&mut cuda, &close);
        }
    }
}

#[test]
fn large_tiles_too() {
    let Some(cuda) = Cuda::open("large_tiles_too") else { return };
    let mut cuda = cuda.with_tile(Tile::Large);
    let size @ (n, m, _) = (390, 384, 3);
    for mining in [Mining::Hardest(300), Mining::HardestPerRow(3), Mining::HardestPerRow(12)] {
        let problem = Problem::new(Named::CrossExampleSoftmax, 5.0, size).with_mining(mining);
        assert_as_oracle(&mut cuda, &fill(problem, 7));
    }
    // Masks of tiles that lie across sorted and unsorted keys.
    let mining = Mining::HardestPerRow(12);
    let problem = Problem::new(Named::InBatchSoftmax, 5.0, size).with_mining(mining);
    let keys = |count: usize, of: usize| (0..count).map(|i| (i * 7 % of) as u32).collect();
    let (ids, labels): ([Vec<u32>; 2], [Vec<u32>; 2]) =
        ([keys(n, 60), keys(m, 60)], [keys(n, 31), keys(m, 31)]);
    assert_as_oracle(&mut cuda, &fill(problem.clone().with_ids(&ids[0], &ids[1]), 8));
    let mut labeled = problem.with_labels(&labels[0], &labels[1]);
    labeled.loss = Named::CrossExampleSoftmax;
    assert_as_oracle(&mut cuda, &fill(labeled, 9));
}

/// Many pairs are as hard as the last one mined: in tiles of nothing but negatives, and with gradients that
/// are computed from the cuts.
#[test]
fn pairs_behind_the_cut_have_no_weight() {
    let Some(cuda) = Cuda::open("pairs_behind_the_cut_have_no_weight") else { return };
    let size @ (n, m, d) = (140, 400, 3);
    let mut random = Random::new(31);
    let (x, y) = (random.whole(n * d, 1), random.whole(m * d, 1));
    let counts = [
        Mining::HardestPerRow(20),
        Mining::HardestPerRow(150),
        Mining::Hardest(1000),
        Mining::Hardest(9000),
    ];
    for tile in [Tile::Large, Tile::Small] {
        let mut cuda = cuda.another().with_tile(tile);
        for (turn, mining) in counts.into_iter().enumerate() {
            let loss = [Named::InBatchSoftmax, Named::CrossExampleSoftmax][turn % 2];
            let mut problem = Problem::new(loss, 0.5, size).with_mining(mining);
            (problem.x, problem.y) = (x.clone(), Some(y.clone()));
            assert_as_oracle(&mut cuda, &problem);
        }
    }
}

#[test]
fn a_bound_that_no_list_fits_gives_the_same() {
    let Some(mut cuda) = Cuda::open("a_bound_that_no_list_fits_gives_the_same") else { return };
    let (n, m, d) = SIZE;
    let bound = cuda.0.workspace_needed(n, m, d).unwrap();
    let mut bounded = cuda.another().with_workspace_bound(bound);
    let mining = Mining::Hardest(300);
    let problem = fill(Problem::new(Named::InBatchSoftmax, 5.0, SIZE).with_mining(mining), 3);
    assert_as_oracle(&mut bounded, &problem);
    assert!(bounded.0.workspace_bytes() <= bound);
    let [few, many] = [&mut bounded, &mut cuda].map(|cuda| loss_and_gradients(cuda, &problem));
    let (few, many) = (few.unwrap(), many.unwrap());
    assert!((few.loss - many.loss).abs() <= 1e-6 * few.loss, "{} {}", few.loss, many.loss);
}

#[test]
fn top_k_says_how_much_memory_it_needs() {
    let Some(cuda) = Cuda::open("top_k_says_how_much_memory_it_needs") else { return };
    let (n, m, d) = (40, 50, 3);
    let top_k = |mut cuda: Cuda, scope| {
        let (x, y) = (cuda.upload(&vec![1.0; n * d]), cuda.upload(&vec![1.0; m * d]));
        let (x, y) = (Matrix::new(&x, n, d).unwrap(), Matrix::new(&y, m, d).unwrap());
        let top = ops::top_k(&mut cuda.0, x, y, 30, scope)?;
        Ok(cuda.0.read(&top.values).unwrap().len())
    };
    for (scope, pairs) in [(Scope::Matrix, 30), (Scope::Row, 30 * n)] {
        let result = top_k(cuda.another().with_workspace_bound(100), scope);
        let Err(Error::WorkspaceTooSmall { needed, bound: 100 }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(top_k(cuda.another().with_workspace_bound(needed), scope).unwrap(), pairs);
    }
}

/// Rows mined some at a time (the engine's own tests say that this bound makes it so).
#[test]
fn rows_in_panels() {
    let Some(cuda) = Cuda::open("rows_in_panels") else { return };
    let mut cuda = cuda.with_workspace_bound(400_000);
    let (n, m, _) = SIZE;
    let mining = Mining::HardestPerRow(2);
    let problem = Problem::new(Named::InBatchSoftmax, 5.0, SIZE).with_mining(mining);
    assert_as_oracle(&mut cuda, &fill(problem.clone(), 3));
    let labels = |count: usize| (0..count as u32).map(|i| i / 5).collect::<Vec<_>>();
    let mut labeled = problem.with_labels(&labels(n), &labels(m));
    labeled.loss = Named::CrossExampleSoftmax;
    assert_as_oracle(&mut cuda, &fill(labeled.clone(), 4));
    // All equal: every panel's list overflows.
    labeled.x.fill(1.0);
    labeled.y.as_mut().unwrap().fill(0.5);
    assert_as_oracle(&mut cuda, &labeled);
}

/// Too many for a list of each row, of columns in more tiles than a block's.
#[test]
fn hundreds_of_each_row() {
    let Some(mut cuda) = Cuda::open("hundreds_of_each_row") else { return };
    let (n, m, d) = (40, 2600, 5);
    let mut problem = Problem::new(Named::InBatchSoftmax, 5.0, (n, m, d));
    problem = problem.with_mining(Mining::HardestPerRow(600));
    assert_as_oracle(&mut cuda, &fill(problem.clone(), 11));
    // Similarities of a few values, of which most are equal.
    let mut random = Random::new(12);
    problem.x = random.whole(n * d, 1);
    problem.y = Some(random.whole(m * d, 1));
    problem.loss = Named::CrossExampleSoftmax;
    assert_as_oracle(&mut cuda, &problem);
}

#[test]
fn what_is_not_finite_makes_the_loss_nan() {
    let Some(mut cuda) = Cuda::open("what_is_not_finite_makes_the_loss_nan") else { return };
    for (turn, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let mining = [Mining::Hardest(40), Mining::HardestPerRow(2)][turn % 2];
        let problem = Problem::new(Named::CrossExampleSoftmax, 5.0, SIZE).with_mining(mining);
        let mut problem = fill(problem, 4);
        // A row without a positive, far from being mined but for this.
        problem.n += 4;
        problem.x.extend([0.0; 4 * 6]);
        *problem.x.last_mut().unwrap() = bad;
        assert!(loss_only(&mut cuda, &problem).unwrap().is_nan(), "{bad}");
    }
}

#[test]
fn runs_agree_to_the_bit() {
    let Some(mut cuda) = Cuda::open("runs_agree_to_the_bit") else { return };
    for mining in [Mining::Hardest(300), Mining::HardestPerRow(2)] {
        let problem = Problem::new(Named::CrossExampleSoftmax, 5.0, SIZE).with_mining(mining);
        let problem = fill(problem, 5);
        let first = loss_and_gradients(&mut cuda, &problem).unwrap();
        let again = loss_and_gradients(&mut cuda.another(), &problem).unwrap();
        assert_eq!(first.bits(), again.bits());
    }
}
