//! The primitives on the CPU engine and gradients, in every element type.

mod common;

use common::gradient_types::gradients_in_16_bits_are_the_f32_ones_rounded;
use common::primitives::{
    log_sum_exp_of_rows_and_of_the_matrix, normalize_and_back, similarity_is_every_dot_product,
    top_k_is_the_first_after_sorting, top_k_of_any_numbers,
};
use common::run::Cpu;
use half::{bf16, f16};

#[test]
fn similarity() {
    similarity_is_every_dot_product::<Cpu, f32>(&mut Cpu::default());
    similarity_is_every_dot_product::<Cpu, f16>(&mut Cpu::default());
    similarity_is_every_dot_product::<Cpu, bf16>(&mut Cpu::default());
}

#[test]
fn log_sum_exp() {
    log_sum_exp_of_rows_and_of_the_matrix::<Cpu, f32>(&mut Cpu::default());
    log_sum_exp_of_rows_and_of_the_matrix::<Cpu, f16>(&mut Cpu::default());
    log_sum_exp_of_rows_and_of_the_matrix::<Cpu, bf16>(&mut Cpu::default());
}

#[test]
fn normalize() {
    normalize_and_back::<Cpu, f32>(&mut Cpu::default());
    normalize_and_back::<Cpu, f16>(&mut Cpu::default());
    normalize_and_back::<Cpu, bf16>(&mut Cpu::default());
}

#[test]
fn top_k() {
    top_k_is_the_first_after_sorting::<Cpu, f32>(&mut Cpu::default());
    top_k_is_the_first_after_sorting::<Cpu, f16>(&mut Cpu::default());
    top_k_is_the_first_after_sorting::<Cpu, bf16>(&mut Cpu::default());
    top_k_of_any_numbers::<Cpu, f32>(&mut Cpu::default());
    top_k_of_any_numbers::<Cpu, f16>(&mut Cpu::default());
    top_k_of_any_numbers::<Cpu, bf16>(&mut Cpu::default());
}

#[test]
fn gradients_in_16_bits() {
    gradients_in_16_bits_are_the_f32_ones_rounded(&mut Cpu::default());
}
