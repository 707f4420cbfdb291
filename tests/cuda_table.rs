//! The table of cases on the CUDA engine: all of it with the tiles that the engine chooses; a part
//! with either tile whatever the shape, and in the least memory there is (all of it there too with
//! `METRIC_KERNELS_FULL_TABLE=1`, for devices: it takes an interpreter of kernels minutes).

mod common;

use common::cases::{self, Case, Part, part};
use common::cuda::{Cuda, full_table};
use common::run::{run_case, run_cases, run_cases_each};
use metric_kernels::engine::cuda::Tile;

#[test]
fn sizes() {
    let Some(mut cuda) = Cuda::open("sizes") else { return };
    run_cases(&mut cuda, &part(Part::Sizes));
}

#[test]
fn scales() {
    let Some(mut cuda) = Cuda::open("scales") else { return };
    run_cases(&mut cuda, &part(Part::Scales));
}

#[test]
fn options() {
    let Some(mut cuda) = Cuda::open("options") else { return };
    run_cases(&mut cuda, &part(Part::Options));
}

#[test]
fn strides() {
    let Some(mut cuda) = Cuda::open("strides") else { return };
    run_cases(&mut cuda, &part(Part::Strides));
}

#[test]
fn mining() {
    let Some(mut cuda) = Cuda::open("mining") else { return };
    run_cases(&mut cuda, &part(Part::Mining));
}

/// Every size, stride and some options; sizes up to `cost`.
fn some(cost: usize) -> Vec<Case> {
    let mut cases = part(Part::Sizes);
    cases.extend(part(Part::Strides));
    cases.extend(part(Part::Options).into_iter().step_by(11));
    cases.extend(part(Part::Mining).into_iter().step_by(11));
    if !full_table() {
        cases.retain(|case| case.cost() <= cost);
    }
    cases
}

#[test]
fn small_tiles_whatever_the_shape() {
    let Some(cuda) = Cuda::open("small_tiles_whatever_the_shape") else { return };
    run_cases(&mut cuda.with_tile(Tile::Small), &some(65 * 65 * 64));
}

#[test]
fn large_tiles_whatever_the_shape() {
    let Some(cuda) = Cuda::open("large_tiles_whatever_the_shape") else { return };
    run_cases(&mut cuda.with_tile(Tile::Large), &some(65 * 65 * 64));
}

/// Two classes, whose bands are long enough for sums in parts.
#[test]
fn bands_in_parts() {
    let Some(cuda) = Cuda::open("bands_in_parts") else { return };
    let case = cases::two_classes(1100, 8);
    run_cases(&mut cuda.with_tile(Tile::Large), &[case]);
}

#[test]
fn the_least_memory() {
    let Some(cuda) = Cuda::open("the_least_memory") else { return };
    // Every fourth: losses follow one another in threes.
    let cases: Vec<Case> = some(65 * 65 * 64).into_iter().step_by(4).collect();
    run_cases_each(&cases, |case| {
        let (n, m, d) = (case.problem.n, case.problem.m, case.problem.d);
        let bound = cuda.0.workspace_needed(n, m, d).unwrap();
        let mut bounded = cuda.another().with_workspace_bound(bound);
        let result = run_case(&mut bounded, case);
        assert!(bounded.0.workspace_bytes() <= bound, "{}", case.name);
        result
    });
}
