//! A CUDA driver on the CPU.
//!
//! The crate has two faces. As a `cdylib` it is a `libcuda.so` that a program opens instead of NVIDIA's: the
//! exported functions live in `driver`. As a Rust library it is the machine behind that driver, which tests may
//! use directly:
//!
//! * [`Memory`] is the device's global memory, with a shadow that knows which bytes exist and which were written;
//! * [`Module`] is PTX text parsed and lowered to the compact form that the interpreter runs;
//! * [`launch`] runs one kernel over its grid and answers with [`Counters`] or with the [`Fault`] it found;
//! * [`Recorder`] gathers the counters of many launches and writes them as JSON.
//!
//! It is meant to be a harder judge than a GPU: what would be undefined there is an error here.
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod config;
pub mod driver;
pub mod exec;
pub mod memory;
pub mod ptx;
pub mod report;

pub use config::Config;
pub use exec::{Fault, FaultKind, Launch, launch};
pub use memory::{Memory, MemoryError};
pub use ptx::{Kernel, LoadError, Module, ParamLayout};
pub use report::{Counters, Recorder};
