//! Every decided edge case, on the CPU engine.

mod common;

use common::run::Cpu;

edge_case_tests!(|_| Some(Cpu::default()));
