//! What the integration tests share: the oracle, the table of cases, the comparator, the runner.

// Every test file is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod cases;
pub mod compare;
pub mod cuda;
pub mod edge_cases;
pub mod gradient_types;
pub mod identities;
pub mod mining;
pub mod oracle;
pub mod primitives;
pub mod problem;
pub mod run;
