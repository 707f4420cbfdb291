//! The CUDA driver API, as exported by `libcuda.so.1`.
//!
//! Every function is `extern "C"`, takes what the driver API says and answers with a [`CUresult`].
//! No panic leaves it. Objects live in [`state`] under one lock; work goes through the queues of
//! [`queue`], which decide when it runs; [`capture`] keeps the rules of stream capture. What the
//! emulator lacks is in [`stubs`]: it answers NOT_SUPPORTED and says its name once.

// The exported functions have the names that the driver API gives them.
#![allow(non_snake_case)]

pub mod allocation;
pub mod capture;
pub mod context;
pub mod copy;
pub mod device;
pub mod entry;
pub mod error;
pub mod event;
pub mod faults;
pub mod ffi;
pub mod function;
pub mod graph;
pub mod launch;
pub mod leaks;
pub mod module;
pub mod queue;
pub mod state;
pub mod stream;
pub mod stubs;

pub use error::CUresult;
