//! The whole table of cases on the CPU engine.

mod common;

use common::cases::{Part, part};
use common::run::{Cpu, run_cases};

fn run(which: Part) {
    run_cases(&mut Cpu::default(), &part(which));
}

#[test]
fn sizes() {
    run(Part::Sizes);
}

#[test]
fn scales() {
    run(Part::Scales);
}

#[test]
fn options() {
    run(Part::Options);
}

#[test]
fn strides() {
    run(Part::Strides);
}

#[test]
fn mining() {
    run(Part::Mining);
}
