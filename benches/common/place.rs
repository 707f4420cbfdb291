//! An engine together with its device's memory and clock: what a benchmark runs on.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, sys};
use half::{bf16, f16};
use metric_kernels::engine::cuda::{Tile, TileEngine};
use metric_kernels::{CpuEngine, CudaEngine, Element, Engine, StorageMut};

/// What can be uploaded.
pub trait Data: Copy + Default + Send + Sync + DeviceRepr + 'static {}
impl Data for f32 {}
impl Data for u32 {}
impl Data for f16 {}
impl Data for bf16 {}

/// Where a benchmark runs.
pub trait Place {
    type Engine: Engine;
    /// A buffer of the caller's on the engine's device.
    type Vector<T: Data>: StorageMut<Device = Device<Self>, Element = T>;

    fn engine(&mut self) -> &mut Self::Engine;
    fn upload<T: Data>(&mut self, data: &[T]) -> Self::Vector<T>;
    fn download(&mut self, vector: &Self::Vector<f32>) -> Vec<f32>;

    /// Seconds that `work` takes on the device.
    fn seconds(&mut self, work: &mut dyn FnMut(&mut Self::Engine)) -> f64;

    /// Bytes in use now, where only the device can tell.
    fn device_bytes(&self) -> Option<usize>;

    /// Gives back what the engine keeps and does not use.
    fn release(&mut self) {}

    /// Copies of inputs of this size to go through in turn, so that none is found in a cache.
    fn copies(&self, bytes: usize) -> usize;

    /// Rows of embeddings, rounded to T.
    fn upload_rows<T: Data + Element>(&mut self, rows: &[f32]) -> Self::Vector<T> {
        let rounded: Vec<T> = rows.iter().map(|&value| T::from_f32(value)).collect();
        self.upload(&rounded)
    }
}

/// The device of a place's engine.
pub type Device<P> = <<P as Place>::Engine as Engine>::Device;

/// The CPU engine on host memory.
#[derive(Default)]
pub struct Cpu(CpuEngine);

impl Place for Cpu {
    type Engine = CpuEngine;
    type Vector<T: Data> = Vec<T>;

    fn engine(&mut self) -> &mut CpuEngine {
        &mut self.0
    }
    fn upload<T: Data>(&mut self, data: &[T]) -> Vec<T> {
        data.to_vec()
    }
    fn download(&mut self, vector: &Vec<f32>) -> Vec<f32> {
        vector.clone()
    }
    fn seconds(&mut self, work: &mut dyn FnMut(&mut CpuEngine)) -> f64 {
        let start = Instant::now();
        work(&mut self.0);
        start.elapsed().as_secs_f64()
    }
    fn device_bytes(&self) -> Option<usize> {
        None
    }
    fn copies(&self, _bytes: usize) -> usize {
        // A training step finds in the caches what the step before has left there.
        1
    }
}

/// The CUDA engine on the first device, on a stream of its own.
pub struct Cuda {
    engine: CudaEngine,
    stream: Arc<CudaStream>,
}

impl Cuda {
    /// `Err` says why there is none; with `METRIC_KERNELS_EXPECT_CUDA=1` that is a panic.
    pub fn open() -> Result<Self, String> {
        let open = || -> metric_kernels::Result<Self> {
            metric_kernels::engine::cuda::available()?;
            let context = cudarc::driver::CudaContext::new(0)?;
            let stream = context.new_stream()?;
            let kernels = metric_kernels::Kernels::load(&context)?;
            Ok(Self { engine: CudaEngine::new(&kernels, stream.clone())?, stream })
        };
        let expected = std::env::var("METRIC_KERNELS_EXPECT_CUDA").is_ok_and(|value| value == "1");
        open().map_err(|error| {
            assert!(!expected, "CUDA was expected: {error}");
            error.to_string()
        })
    }

    /// Forces a tile engine.
    pub fn with_tile_engine(self, tile_engine: TileEngine) -> Self {
        Self { engine: self.engine.with_tile_engine(tile_engine), ..self }
    }

    /// Forces a tile size.
    pub fn with_tile(self, tile: Option<Tile>) -> Self {
        Self { engine: self.engine.with_tile(tile), ..self }
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Whether kernels are interpreted: a time on that driver means nothing.
    pub fn emulated(&self) -> bool {
        self.engine.name().contains("emulator")
    }
}

impl Place for Cuda {
    type Engine = CudaEngine;
    type Vector<T: Data> = CudaSlice<T>;

    fn engine(&mut self) -> &mut CudaEngine {
        &mut self.engine
    }
    fn upload<T: Data>(&mut self, data: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(data).expect("an upload")
    }
    fn download(&mut self, vector: &CudaSlice<f32>) -> Vec<f32> {
        self.stream.clone_dtoh(vector).expect("a download")
    }
    fn seconds(&mut self, work: &mut dyn FnMut(&mut CudaEngine)) -> f64 {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(timed).expect("an event");
        work(&mut self.engine);
        let end = self.stream.record_event(timed).expect("an event");
        f64::from(start.elapsed_ms(&end).expect("the time between events")) / 1e3
    }
    fn device_bytes(&self) -> Option<usize> {
        self.stream.synchronize().expect("a wait");
        let (free, total) = cudarc::driver::result::mem_get_info().expect("the memory in use");
        Some(total - free)
    }
    fn release(&mut self) {
        self.engine.release_memory();
    }
    fn copies(&self, bytes: usize) -> usize {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        let l2 = self.stream.context().attribute(attribute).unwrap_or(0).max(1 << 20) as usize;
        (2 * l2).div_ceil(bytes.max(1)).clamp(2, 64)
    }
}
