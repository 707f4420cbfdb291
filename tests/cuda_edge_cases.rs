//! Every decided edge case, on the CUDA engine.

mod common;

use common::cuda::Cuda;
use common::edge_cases::assert_names;
use common::problem::{Named, Problem, Random};
use common::run::{AnyLoss, Uploaded, forward_backward, loss_only};
use metric_kernels::Loss;

edge_case_tests!(Cuda::open);

/// An index is not read back: out of range it makes the loss NaN, writes nowhere else, and
/// `check` tells why.
#[test]
fn an_index_out_of_range_makes_the_loss_nan() {
    let Some(mut cuda) = Cuda::open("an_index_out_of_range_makes_the_loss_nan") else { return };
    for loss in Named::ALL {
        for bad in [5, 6, 1 << 31, u32::MAX - 1] {
            let mut good = Problem::new(loss, 2.0, (4, 5, 3)).with_index(&[4, 0, 1, 2]);
            Random::new(1).embeddings(&mut good);
            let before = forward_backward(&mut cuda, &good, 1.0).unwrap();
            let problem = good.clone().with_index(&[4, 0, bad, 2]);
            let value = loss_only(&mut cuda, &problem).unwrap();
            assert!(value.is_nan(), "index {bad} gives {value}");
            let uploaded = Uploaded::<Cuda, f32>::new(&mut cuda, &problem, (0, 0), false);
            let error = AnyLoss::of(&problem).check(&mut cuda.0, uploaded.batch()).unwrap_err();
            assert_names(&error, "positives");
            assert!(error.to_string().contains(&bad.to_string()), "{error}");
            let after = forward_backward(&mut cuda, &good, 1.0).unwrap();
            assert_eq!(before.bits(), after.bits());
        }
    }
}

/// Memory for a million anchors against a million candidates is planned, and is nowhere near their
/// product.
#[test]
fn memory_grows_with_the_sides_not_with_their_product() {
    let Some(cuda) = Cuda::open("memory_grows_with_the_sides_not_with_their_product") else {
        return;
    };
    let needed = |n, m, d| cuda.0.workspace_needed(n, m, d).unwrap();
    assert!(needed(65_536, 65_536, 64) < 256 << 20, "{}", needed(65_536, 65_536, 64));
    let million = needed(1_000_000, 1_000_000, 64);
    assert!(million < 4 << 30, "{million}");
    assert!(million < 40 * needed(65_536, 65_536, 64));
}
