//! The CUDA engine for tests: opened where there is a driver, skipped loudly where there is none.

use super::compare::Accuracy;
use super::run::{Data, Harness};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, sys};
use metric_kernels::engine::cuda::{Precision, Tile, TileEngine, available};
use metric_kernels::{CudaEngine, DType, Error, Kernels};
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// A CUDA engine on a stream of its own.
pub struct Cuda(pub CudaEngine, Choice);

/// What multiplies.
#[derive(Clone, Copy, Debug)]
struct Choice {
    engine: TileEngine,
    precision: Precision,
}

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
        let choice = Choice { engine: tile_engine(), precision: Precision::Split };
        Self(CudaEngine::new(kernels, stream.clone()).unwrap(), choice).with(choice)
    }

    /// Another engine on another stream of the same context, with the same arithmetic.
    pub fn another(&self) -> Self {
        Self::open("").unwrap().with(self.1)
    }

    fn with(self, choice: Choice) -> Self {
        let engine = self.0.with_tile_engine(choice.engine).with_precision(choice.precision);
        Self(engine, choice)
    }

    pub fn with_tile(self, tile: Tile) -> Self {
        Self(self.0.with_tile(Some(tile)), self.1)
    }

    pub fn with_tile_engine(self, engine: TileEngine) -> Self {
        let choice = Choice { engine, ..self.1 };
        self.with(choice)
    }

    pub fn with_precision(self, precision: Precision) -> Self {
        let choice = Choice { precision, ..self.1 };
        self.with(choice)
    }

    pub fn with_workspace_bound(self, bytes: usize) -> Self {
        Self(self.0.with_workspace_bound(bytes), self.1)
    }

    pub fn stream(&self) -> Arc<CudaStream> {
        self.0.stream().clone()
    }
}

/// The tile engine that the tests of a process run on: the one that users get, or with
/// `METRIC_KERNELS_TILE_ENGINE=simt` the other.
fn tile_engine() -> TileEngine {
    match std::env::var("METRIC_KERNELS_TILE_ENGINE").as_deref() {
        Err(_) | Ok("sm80") => TileEngine::Sm80,
        Ok("simt") => TileEngine::Simt,
        Ok(other) => panic!("METRIC_KERNELS_TILE_ENGINE={other}: simt or sm80"),
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

    /// Half a unit in the last place of the operands' types, 2^-11 and 2^-8. Two f16 leave 2^-22 of
    /// an element, and low * low out of a product. What the smallest f16 loses of a tile's largest
    /// weight, raised to 2^14, is 2^-25 / 2^14; another 11 bits with two of them.
    fn accuracy(&self, dtype: DType) -> Accuracy {
        let two = |exponent: i32| 2f64.powi(exponent);
        match (self.1.engine, dtype, self.1.precision) {
            (TileEngine::Simt, ..) | (_, DType::F32, Precision::Full) => Accuracy::default(),
            (_, DType::F32, Precision::Split) => {
                Accuracy { products: 3.0 * two(-22), weights: two(-21), floor: two(-49) }
            }
            (_, DType::F32, Precision::Single) => {
                Accuracy { products: 2.0 * two(-11), weights: two(-10), floor: two(-38) }
            }
            (_, DType::F16, _) => Accuracy { products: 0.0, weights: two(-11), floor: two(-38) },
            (_, DType::Bf16, _) => Accuracy { products: 0.0, weights: two(-8), floor: two(-59) },
        }
    }
}

/// Whether the forced tiles are to go through the whole table too, which takes an interpreter of
/// kernels many minutes: `METRIC_KERNELS_FULL_TABLE=1`, for real devices.
pub fn full_table() -> bool {
    std::env::var("METRIC_KERNELS_FULL_TABLE").is_ok_and(|value| value == "1")
}
