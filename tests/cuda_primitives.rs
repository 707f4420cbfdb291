//! The primitives on the CUDA engine and gradients, in every element type.

mod common;

use common::cuda::Cuda;
use common::gradient_types::gradients_in_16_bits_are_the_f32_ones_rounded;
use common::primitives::{
    log_sum_exp_of_rows_and_of_the_matrix, normalize_and_back, similarity_is_every_dot_product,
    top_k_is_the_first_after_sorting, top_k_of_any_numbers,
};
use half::{bf16, f16};

#[test]
fn similarity() {
    let Some(mut cuda) = Cuda::open("similarity") else { return };
    similarity_is_every_dot_product::<_, f32>(&mut cuda);
    similarity_is_every_dot_product::<_, f16>(&mut cuda);
    similarity_is_every_dot_product::<_, bf16>(&mut cuda);
}

#[test]
fn log_sum_exp() {
    let Some(mut cuda) = Cuda::open("log_sum_exp") else { return };
    log_sum_exp_of_rows_and_of_the_matrix::<_, f32>(&mut cuda);
    log_sum_exp_of_rows_and_of_the_matrix::<_, f16>(&mut cuda);
    log_sum_exp_of_rows_and_of_the_matrix::<_, bf16>(&mut cuda);
}

#[test]
fn normalize() {
    let Some(mut cuda) = Cuda::open("normalize") else { return };
    normalize_and_back::<_, f32>(&mut cuda);
    normalize_and_back::<_, f16>(&mut cuda);
    normalize_and_back::<_, bf16>(&mut cuda);
}

#[test]
fn top_k() {
    let Some(mut cuda) = Cuda::open("top_k") else { return };
    top_k_is_the_first_after_sorting::<_, f32>(&mut cuda);
    top_k_of_any_numbers::<_, f32>(&mut cuda);
    top_k_of_any_numbers::<_, f16>(&mut cuda);
    top_k_of_any_numbers::<_, bf16>(&mut cuda);
}

#[test]
fn gradients_in_16_bits() {
    let Some(mut cuda) = Cuda::open("gradients_in_16_bits") else { return };
    gradients_in_16_bits_are_the_f32_ones_rounded(&mut cuda);
}
