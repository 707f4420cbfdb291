//! Deep-metric-learning losses over the full anchor × candidate matrix, forward and backward,
//! without ever storing the matrix: on CUDA device buffers and on the CPU.
//!
//! ```
//! use metric_kernels::{CpuEngine, CrossExampleSoftmax, Engine, Loss, Matrix};
//!
//! let (n, d) = (4, 2);
//! let anchors = [1.0f32, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0];
//! let candidates = anchors;
//!
//! let mut engine = CpuEngine::new();
//! let loss = CrossExampleSoftmax::new(20.0).normalize();
//! let x = Matrix::new(&anchors, n, d)?;
//! let y = Matrix::new(&candidates, n, d)?;
//! let forward = loss.forward(&mut engine, (x, y))?;
//! let gradients = loss.backward(&mut engine, &forward, 1.0)?;
//! assert!(engine.read(&forward.loss)?[0] < 1e-6);
//! assert_eq!(engine.read(&gradients.x)?.len(), n * d);
//! # Ok::<(), metric_kernels::Error>(())
//! ```
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod element;
mod error;
mod matrix;

pub mod engine;
pub mod loss;
pub mod metrics;
pub mod ops;

pub use element::{DType, Element};
pub use engine::cpu::CpuEngine;
pub use engine::cuda::{CudaEngine, Kernels};
pub use engine::{Engine, GradientsMut, NO_POSITIVE};
pub use error::{Error, Result};
pub use loss::{
    Batch, CrossExampleSoftmax, Family, Forward, Gradients, InBatchSoftmax, InstanceCrossEntropy,
    Loss, Mining, Reduction, Scope, Weighting,
};
pub use matrix::{Cuda, Device, Host, Matrix, MatrixMut, Scalar, Storage, StorageMut};

/// The README's code, and what must not compile, as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../tests/compile_fail.md")]
struct Documents;
