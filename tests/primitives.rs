//! The primitives on the CPU engine, in every element type.

mod common;

use common::primitives::{
    log_sum_exp_of_rows_and_of_the_matrix, normalize_and_back, similarity_is_every_dot_product,
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
