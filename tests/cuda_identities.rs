//! Every identity of the family and finite differences, on the CUDA engine.

mod common;

use common::cuda::Cuda;

identity_tests!(Cuda::open);
identity_tests!(Cuda::open =>
    gradients_are_finite_differences_of_the_loss,
    anchor_normalized_is_the_gradient_of_its_functional_not_of_the_loss,
);
