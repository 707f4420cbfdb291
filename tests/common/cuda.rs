//! The CUDA engine for tests: opened where there is a driver, skipped loudly where there is none.

use super::run::{Data, Harness};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, sys};
use metric_kernels::engine::cuda::{Tile, available};
use metric_kernels::{CudaEngine, Error, Kernels};
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// A CUDA engine on a stream of its own.
pub struct Cuda(pub CudaEngine);

impl Cuda {
    /// `None` where there is no driver, having said so; with `METRIC_KERNELS_EXPECT_CUDA=1` that is
    /// a failure.
    pub fn open(test: &str) -> Option<Self> {
        match kernels() {
            Ok(kernels) => Some(Self::on(kernels, &kernels.context().new_stream().unwrap())),
            Err(why) => {
                skip(test, why);
                None
            }
        }
    }

    /// On this stream.
    pub fn on(kernels: &Kernels, stream: &Arc<CudaStream>) -> Self {
        Self(CudaEngine::new(kernels, stream.clone()).unwrap())
    }

    /// Another engine on another stream of the same context.
    pub fn another(&self) -> Self {
        Self::open("").unwrap()
    }

    pub fn with_tile(self, tile: Tile) -> Self {
        Self(self.0.with_tile(Some(tile)))
    }

    pub fn with_workspace_bound(self, bytes: usize) -> Self {
        Self(self.0.with_workspace_bound(bytes))
    }

    pub fn stream(&self) -> Arc<CudaStream> {
        self.0.stream().clone()
    }
}

/// The kernels, loaded once per test file; or why there are none.
pub fn kernels() -> Result<&'static Kernels, &'static str> {
    static KERNELS: OnceLock<Result<Kernels, String>> = OnceLock::new();
    let load = || {
        available()?;
        Kernels::load(&CudaContext::new(0)?)
    };
    let kernels = KERNELS.get_or_init(|| load().map_err(|error: Error| error.to_string()));
    kernels.as_ref().map_err(String::as_str)
}

/// A second context on the kernels' device. cudarc offers one for some toolkit versions only; the
/// driver has always had this function.
pub fn another_context() -> Arc<CudaContext> {
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, sys::CUdevice) -> sys::CUresult;
    let device = kernels().unwrap().context().cu_device();
    let names = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];
    let mut context = std::ptr::null_mut();
    // SAFETY: the driver, which is loaded already; the type is that of cuda.h. The context is a new
    // one, and handed on to nobody else.
    unsafe {
        let library = names.iter().find_map(|name| libloading::Library::new(*name).ok());
        let library = library.expect("the driver");
        let create = library.get::<Create>(b"cuCtxCreate_v2\0").expect("cuCtxCreate_v2");
        assert_eq!(create(&mut context, 0, device), sys::CUresult::CUDA_SUCCESS);
        std::mem::forget(library);
        CudaContext::from_raw_context(0, device, context).unwrap()
    }
}

/// Says that a test is skipped and why, past the capture of output too.
fn skip(test: &str, why: &str) {
    let expected = std::env::var("METRIC_KERNELS_EXPECT_CUDA").is_ok_and(|value| value == "1");
    assert!(!expected, "{test} needs CUDA: {why}");
    println!("SKIPPED: {test}: {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

impl Harness for Cuda {
    type Engine = CudaEngine;
    type Vector<T: Data> = CudaSlice<T>;

    fn engine(&mut self) -> &mut CudaEngine {
        &mut self.0
    }
    fn upload<T: Data>(&mut self, data: &[T]) -> CudaSlice<T> {
        self.0.stream().clone_htod(data).unwrap()
    }
    fn download<T: Data>(&mut self, vector: &CudaSlice<T>) -> Vec<T> {
        self.0.stream().clone_dtoh(vector).unwrap()
    }
}

/// Whether the forced tiles are to go through the whole table too, which takes an interpreter of
/// kernels many minutes: `METRIC_KERNELS_FULL_TABLE=1`, for real devices.
pub fn full_table() -> bool {
    std::env::var("METRIC_KERNELS_FULL_TABLE").is_ok_and(|value| value == "1")
}
